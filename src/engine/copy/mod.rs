//! copy: brings snapshots from one repository to another, wherever either lies and however it is sealed.
//!
//! Packs are copied whole, under their ids; each frame is decoded, and sealed as the target is. So ids of blobs, packs
//! and snapshots are the same in every copy, and a pack that is there already need not travel again. What becomes
//! durable in the target, in this order:
//!
//! 1. packs, each when every frame of it was proved;
//! 2. indexes of what they hold;
//! 3. for each snapshot, those it is built on first: its note and attributes, its mark if it was forgotten, its
//!    manifest, with which it exists.
//!
//! Killed anywhere, every snapshot that the target shows is whole, and the next copy finds what is there. Damage of the
//! source does not travel: a pack with a damaged frame is not copied, what is sound in it and needed goes into packs of
//! the target's own, and a snapshot that needs what is damaged is not copied.

mod mirror;
mod packs;
mod plan;
mod publish;

use std::sync::Arc;
use std::time::{Duration, Instant};

use self::packs::Transfer;
use self::plan::Plan;
pub(super) use self::plan::Side;
use super::report::{CopyProblem, CopyReport, VerifyProblem};
use super::{Context, ReadLocking, logged};
use crate::Result;
use crate::archive::profile::Profile;
use crate::format::SnapshotId;
use crate::repo::Repository;
use crate::repo::locks::Lock;

/// How long a look at the target's lock is good for.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What is copied, and how.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// The snapshots; without any, every one that the source lists. Those that they are built on come along.
    pub snapshots: Vec<SnapshotId>,
    /// Only says what would be copied: takes no lock in the target, and writes nothing.
    pub dry_run: bool,
    /// Forgets in the target what the source has forgotten.
    pub mirror: bool,
    /// Copies although the target's snapshots are of another archive.
    pub adopt: bool,
    /// How others are kept from removing what is read in the source.
    pub locking: ReadLocking,
    /// Whether the locks of others are broken in the target.
    pub force_unlock: bool,
}

/// Copies snapshots of the source into the target.
pub async fn copy(
    source: &Repository,
    target: &Repository,
    profile: Arc<dyn Profile>,
    options: &CopyOptions,
    context: &Context,
) -> Result<CopyReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "copy");
    // What is decided is decided by what the stores hold, not by what was copied from them.
    let (source, target) = (&source.uncached(), &target.uncached());
    let begun = Instant::now();
    let work = |is_locked| locked(source, target, profile, options, context, is_locked);
    let work = options.locking.around(source, "copy", context, work);
    let (mut report, warnings) = logged::operation(span, target.storage().location(), work).await?;
    report.warnings.extend(warnings);
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

async fn locked(
    source: &Repository,
    target: &Repository,
    profile: Arc<dyn Profile>,
    options: &CopyOptions,
    context: &Context,
    is_locked: bool,
) -> Result<CopyReport> {
    let places = Places { source, target, is_locked };
    if options.dry_run {
        let plan = Box::pin(Plan::make(&places, profile, options, context)).await?;
        return Ok(plan.report());
    }
    let lock = target.lock_exclusive(&context.lock_request("copy", options.force_unlock)).await?;
    let done = Box::pin(run(&places, profile, options, &lock, context)).await;
    lock.settle(done, |report| &mut report.warnings).await
}

/// The two repositories.
struct Places<'a> {
    source: &'a Repository,
    target: &'a Repository,
    /// Whether the source is locked.
    is_locked: bool,
}

async fn run(
    places: &Places<'_>,
    profile: Arc<dyn Profile>,
    options: &CopyOptions,
    lock: &Lock,
    context: &Context,
) -> Result<CopyReport> {
    places.target.clean_staging().await?;
    let mut plan = Box::pin(Plan::make(places, profile, options, context)).await?;
    let watch = lock.watch(LOOK_EVERY);
    let written = Box::pin(Transfer::new(places, &plan, &watch, context).run(plan.missing())).await?;
    plan.count(&written);
    plan.lay_findings(context).await?;
    publish::snapshots(places, &mut plan, &watch, lock, context).await?;
    if options.mirror {
        mirror::forget(places, &mut plan, lock, context).await?;
    }
    Ok(plan.report())
}

/// Returns a problem of one of the places.
fn problem_at(place: &Repository, problem: VerifyProblem) -> CopyProblem {
    CopyProblem { place: place.storage().location(), problem }
}
