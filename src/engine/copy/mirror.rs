//! What the source has forgotten is forgotten in the target, if that was asked for.
//!
//! A repository that has forgotten a snapshot keeps no record of it, so this goes by what the source lists today. Two
//! things bound what an emptied or older source can do to a copy: nothing is forgotten that is newer than the newest
//! snapshot the source lists (a forget never drops that one), and where the source lists none, nothing is.

use std::collections::HashSet;

use super::Places;
use super::plan::Plan;
use crate::engine::Context;
use crate::engine::retention::links;
use crate::format::SnapshotId;
use crate::repo::locks::Lock;
use crate::repo::removal::Remover;
use crate::{ErrorKind, Result};

/// Forgets in the target what the source does not list any more. The order is that of `forget`.
pub(super) async fn forget(
    places: &Places<'_>,
    plan: &mut Plan<'_>,
    lock: &Lock,
    context: &Context,
) -> Result<()> {
    let target = places.target;
    let files = target.list_snapshots().await?;
    let listed_there: HashSet<&str> = plan.source.files.listed().collect();
    let Some(newest) = plan.source.files.listed().next_back() else {
        plan.warnings.push("nothing was forgotten in the target: the source lists no snapshot".to_owned());
        return Ok(());
    };
    let is_given_up = |id: &str| !listed_there.contains(id) && id < newest;
    let dropped: Vec<SnapshotId> = parsed(files.listed().filter(|id| is_given_up(id)));
    let before: Vec<SnapshotId> = parsed(files.forgotten().into_iter().filter(|id| is_given_up(id)));
    if dropped.is_empty() && before.is_empty() {
        return Ok(());
    }
    let found = target.read_snapshots(&files).await?;
    let manifests: Result<Vec<_>> = found.into_iter().map(|found| found.manifest).collect();
    let given_up: HashSet<&str> = dropped.iter().chain(&before).map(SnapshotId::as_str).collect();
    let kept = files.names().filter(|id| !given_up.contains(id));
    let needed = match &manifests {
        Ok(manifests) => {
            links::needed(manifests, kept).map(|needed| needed.into_iter().map(str::to_owned).collect())
        }
        Err(error) => Err(error.repeated()),
    };
    let needed: HashSet<String> = match needed {
        Ok(needed) => needed,
        Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(error) => {
            plan.warnings.push(format!(
                "no manifest is removed in the target, for nobody can say what is needed: {}",
                error.chain()
            ));
            files.names().map(str::to_owned).collect()
        }
    };
    let remover = Remover::new(target, lock, &context.cancel);
    remover.mark_forgotten(&dropped).await?;
    let mut removed: Vec<SnapshotId> =
        dropped.iter().chain(&before).filter(|id| !needed.contains(id.as_str())).cloned().collect();
    // The youngest first: no snapshot is ever without what it builds on.
    removed.sort_by(|one, other| other.as_str().cmp(one.as_str()));
    remover.manifests(&removed).await?;
    let shown = remover.still_shown(&removed).await?;
    removed.retain(|id| !shown.contains(id));
    remover.remains(&removed).await?;
    plan.forgotten.extend(dropped.iter().map(SnapshotId::to_string));
    Ok(())
}

fn parsed<'a>(names: impl Iterator<Item = &'a str>) -> Vec<SnapshotId> {
    // A manifest under another name was never a snapshot.
    names.filter_map(|name| SnapshotId::parse(name).ok()).collect()
}
