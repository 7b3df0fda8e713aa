//! heal: brings back from another place what is damaged or lost in a repository.
//!
//! Everything is proved before it is put in place, and nothing is deleted: what was damaged is moved to `damaged/`. The
//! order of what becomes durable:
//!
//! 1. manifests and what lies beside them, each in the place of the damaged one, which is copied aside before;
//! 2. indexes, made anew from the packs (`repair`);
//! 3. packs: one that is lost or cannot be opened comes whole from the copy, under its id. Of one that can be opened
//!    and holds something damaged, what is needed goes into a new pack with a new index, and only when nothing needs
//!    the old one any more is it moved aside.
//!
//! So a snapshot that could be restored before a heal can be restored at any instant of it, and the next heal does what
//! is left. What has to be mended is what `verify --all` would find: it is read and judged by the same code.

mod attachments;
mod blobs;
mod snapshots;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::report::HealReport;
use super::{Context, ReadLocking, logged, repair};
use crate::Result;
use crate::archive::profile::Profile;
use crate::repo::Repository;
use crate::repo::locks::Lock;

/// How a repository is healed.
#[derive(Debug, Clone, Default)]
pub struct HealOptions {
    /// Only says what is damaged, and changes nothing.
    pub dry_run: bool,
    /// The folder of a live archive whose attachments lie there under their hashes.
    pub attachments: Option<PathBuf>,
    /// Breaks the locks of others in the repository.
    pub force_unlock: bool,
}

/// Heals the repository from a copy of it, if there is one, from itself, and from a live archive.
pub async fn heal(
    repository: &Repository,
    from: Option<&Repository>,
    profile: Arc<dyn Profile>,
    options: &HealOptions,
    context: &Context,
) -> Result<HealReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "heal");
    let (repository, from) = (&repository.uncached(), from.map(Repository::uncached));
    let begun = Instant::now();
    let work = async {
        match &from {
            None => locked(repository, None, profile, options, context).await,
            Some(from) => {
                let work = |_| locked(repository, Some(from), profile, options, context);
                let (mut report, warnings) =
                    ReadLocking::default().around(from, "heal", context, work).await?;
                report.warnings.extend(warnings);
                Ok(report)
            }
        }
    };
    let mut report = logged::operation(span, repository.storage().location(), work).await?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// What surrounds one heal.
struct Ward<'a> {
    repository: &'a Repository,
    from: Option<&'a Repository>,
    profile: Arc<dyn Profile>,
    options: &'a HealOptions,
    /// `None` in a dry run.
    lock: Option<&'a Lock>,
    context: &'a Context,
}

async fn locked(
    repository: &Repository,
    from: Option<&Repository>,
    profile: Arc<dyn Profile>,
    options: &HealOptions,
    context: &Context,
) -> Result<HealReport> {
    if options.dry_run {
        let ward = Ward { repository, from, profile, options, lock: None, context };
        return Box::pin(run(&ward)).await;
    }
    let lock = repository.lock_exclusive(&context.lock_request("heal", options.force_unlock)).await?;
    let ward = Ward { repository, from, profile, options, lock: Some(&lock), context };
    let done = Box::pin(run(&ward)).await;
    lock.settle(done, |report| &mut report.warnings).await
}

async fn run(ward: &Ward<'_>) -> Result<HealReport> {
    if ward.lock.is_some() {
        ward.repository.clean_staging().await?;
    }
    let mut report = HealReport { dry_run: ward.lock.is_none(), ..HealReport::default() };
    snapshots::heal(ward, &mut report).await?;
    let repaired = repair::indexes(ward.repository, ward.lock, ward.context).await?;
    report.take_repair(repaired);
    blobs::heal(ward, &mut report).await?;
    report.left.dedup();
    Ok(report)
}
