//! Snapshots come to be in the target: what lies beside the manifest first, the manifest last, parents before children.

use super::plan::{Plan, copied};
use super::{Places, problem_at};
use crate::engine::Context;
use crate::engine::report::VerifyProblem;
use crate::engine::verify::unusable;
use crate::error::lift::format_error;
use crate::format::{Manifest, SnapshotId};
use crate::repo::Repository;
use crate::repo::carried::{Part, Published};
use crate::repo::locks::{Lock, Watch};
use crate::repo::removal::Remover;
use crate::{Error, ErrorKind, Result};

/// Publishes every snapshot whose blobs are all in the target, and whose chain is.
pub(super) async fn snapshots(
    places: &Places<'_>,
    plan: &mut Plan<'_>,
    watch: &Watch<'_>,
    lock: &Lock,
    context: &Context,
) -> Result<()> {
    let mut usable = plan.usable_in_target();
    let mut waiting: Vec<Manifest> =
        plan.snapshots.iter().filter(|manifest| !plan.suffers(&manifest.snapshot_id)).cloned().collect();
    // Ids sort by age, so one round is enough but for what no program wrote.
    loop {
        let before = waiting.len();
        let mut left = Vec::new();
        for manifest in waiting {
            context.cancel.check()?;
            if manifest.db.map_chain_depth != 0 && !usable.contains(&manifest.parent_id) {
                left.push(manifest);
                continue;
            }
            watch.confirm_now().await?;
            if publish(places, plan, &manifest, lock, context).await? {
                usable.insert(manifest.snapshot_id.clone());
            }
        }
        waiting = left;
        if waiting.is_empty() || waiting.len() == before {
            break;
        }
    }
    for manifest in waiting {
        let detail =
            format!("snapshot {}, which it is built on, is not whole in the target", manifest.parent_id);
        // Its own manifest may be there, and only not have been read.
        let unread = plan.target.unusable.iter().find(|(name, _)| *name == manifest.parent_id);
        let error = match unread {
            Some((_, cause)) => Error::caused(cause.kind(), detail, cause.repeated()),
            None => Error::new(ErrorKind::Damaged, detail),
        };
        plan.problems.push(problem_at(places.target, unusable(&manifest.snapshot_id, "manifest", &error)));
    }
    Ok(())
}

/// Publishes one snapshot; tells whether it is in the target now.
async fn publish(
    places: &Places<'_>,
    plan: &mut Plan<'_>,
    manifest: &Manifest,
    lock: &Lock,
    context: &Context,
) -> Result<bool> {
    let id = SnapshotId::parse(&manifest.snapshot_id)
        .map_err(|error| format_error("cannot name a snapshot", error))?;
    let is_forgotten = plan.source.files.forgotten().contains(id.as_str());
    if !is_forgotten && plan.target.files.gone().contains(&id) {
        // A forget that was cut short left its mark; with it the snapshot would come back hidden.
        Remover::new(places.target, lock, &context.cancel).remains(std::slice::from_ref(&id)).await?;
    }
    for part in Part::BESIDE {
        if let Some(problem) = carry(places, plan, &id, part).await? {
            plan.problems.push(problem_at(problem.0, problem.1));
        }
    }
    if is_forgotten {
        places.target.mark_forgotten(id.as_str()).await?;
    }
    match carry(places, plan, &id, Part::Manifest).await? {
        Some(problem) => {
            plan.problems.push(problem_at(problem.0, problem.1));
            Ok(false)
        }
        None => {
            let forgotten = plan.source.files.forgotten();
            let row = copied(manifest, &forgotten);
            tracing::info!(target: "packvault::decision", snapshot = id.as_str(), "is copied");
            plan.copied.push(row);
            Ok(true)
        }
    }
}

/// Carries one object; returns what is wrong with it, and where.
async fn carry<'a>(
    places: &Places<'a>,
    plan: &Plan<'_>,
    id: &SnapshotId,
    part: Part,
) -> Result<Option<(&'a Repository, VerifyProblem)>> {
    let wrong = |place, error: &Error| Some((place, unusable(id.as_str(), part.noun(), error)));
    let plain = match places.source.plain_part(&plan.source.files, id, part).await {
        Ok(Some(plain)) => plain,
        Ok(None) => return Ok(None),
        Err(error) if error.is_no_finding() => return Err(error),
        Err(error) => return Ok(wrong(places.source, &error)),
    };
    Ok(match places.target.publish_part(&plain).await? {
        Published::New | Published::Same => None,
        Published::Other(error) if error.is_no_finding() => return Err(error),
        Published::Other(error) => wrong(places.target, &error),
    })
}
