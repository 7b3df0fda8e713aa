//! unlock: removes the locks that nobody holds any more, or all of them.

use super::report::{LockReport, UnlockReport};
use super::{Context, logged};
use crate::Result;
use crate::process::Fate;
use crate::repo::Repository;
use crate::repo::locks::Found;

/// Removes the locks that nobody holds; with `force` those too that somebody may hold. The rest is reported.
pub async fn unlock(repository: &Repository, force: bool, context: &Context) -> Result<UnlockReport> {
    let (context, span) = (context.logged(), tracing::info_span!(target: "packvault::operation", "unlock"));
    let request = context.lock_request("unlock", force);
    let work = repository.unlock(&request);
    let unlocked = logged::operation(span, repository.storage().location(), work).await?;
    Ok(UnlockReport {
        removed: unlocked.removed.iter().map(report).collect(),
        left: unlocked.left.iter().map(report).collect(),
    })
}

fn report(found: &Found) -> LockReport {
    let record = found.record.as_ref();
    LockReport {
        name: found.key.name().to_owned(),
        hostname: record.map(|record| record.hostname.clone()),
        pid: record.map(|record| record.pid),
        operation: record.map(|record| record.operation.clone()),
        since: record.map(|record| record.acquired_at.clone()),
        process_lives: match found.fate {
            Fate::Lives => Some(true),
            Fate::Gone => Some(false),
            Fate::Unknown => None,
        },
        ends_in_minutes: found.ends_in_minutes(),
        detail: found.describe(),
    }
}
