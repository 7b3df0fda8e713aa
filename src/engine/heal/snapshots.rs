//! Manifests and what lies beside them: the damaged ones, and those that are lost and needed.

use std::collections::{BTreeSet, HashSet};

use futures::StreamExt;

use super::Ward;
use crate::engine::report::{HealReport, Healed, VerifyProblem};
use crate::engine::verify::unusable;
use crate::format::SnapshotId;
use crate::repo::Repository;
use crate::repo::beside::{Beside, ReadBeside};
use crate::repo::carried::{Part, PlainPart};
use crate::repo::snapshots::SnapshotFiles;
use crate::{Error, ErrorKind, Result};

/// Heals what describes the snapshots.
pub(super) async fn heal(ward: &Ward<'_>, report: &mut HealReport) -> Result<()> {
    let there = match ward.from {
        Some(from) => Some((from, from.list_snapshots().await?)),
        None => None,
    };
    let mut tried: BTreeSet<String> = BTreeSet::new();
    // What a manifest that was brought back is built on may be lost as well.
    loop {
        let files = ward.repository.list_snapshots().await?;
        let wanted = wanted(ward, &files).await?;
        let new: Vec<(SnapshotId, Error)> =
            wanted.into_iter().filter(|(id, _)| !tried.contains(id.as_str())).collect();
        if new.is_empty() {
            break;
        }
        for (id, error) in new {
            tried.insert(id.to_string());
            let is_lost = !files.has(id.as_str());
            if is_lost {
                bring_lost(ward, there.as_ref(), &files, &id, report).await?;
            }
            mend(ward, there.as_ref(), &id, Part::Manifest, &error, report).await?;
        }
        if ward.lock.is_none() {
            break;
        }
    }
    beside(ward, there.as_ref(), report).await
}

/// Returns the manifests that are damaged, and those that are lost although others are built on them.
async fn wanted(ward: &Ward<'_>, files: &SnapshotFiles) -> Result<Vec<(SnapshotId, Error)>> {
    let mut wanted = Vec::new();
    for found in ward.repository.read_snapshots(files).await? {
        let (id, error) = match found.manifest {
            Ok(manifest) => {
                let parent = SnapshotId::parse(&manifest.parent_id);
                match parent {
                    Ok(parent) if manifest.db.map_chain_depth != 0 && !files.has(parent.as_str()) => {
                        let message = format!("snapshot {} is built on it, and it is not there", found.name);
                        (Ok(parent), Error::new(ErrorKind::Damaged, message))
                    }
                    _ => continue,
                }
            }
            Err(error) if error.is_no_finding() => return Err(error),
            Err(error) => (SnapshotId::parse(&found.name), error),
        };
        // A file whose name is no id was never a snapshot.
        if let Ok(id) = id {
            wanted.push((id, error));
        }
    }
    Ok(wanted)
}

/// Brings what lies beside a manifest that is lost; it comes before the manifest.
async fn bring_lost(
    ward: &Ward<'_>,
    there: Option<&(&Repository, SnapshotFiles)>,
    files: &SnapshotFiles,
    id: &SnapshotId,
    report: &mut HealReport,
) -> Result<()> {
    let Some((from, listing)) = there else { return Ok(()) };
    if !listing.has(id.as_str()) {
        return Ok(());
    }
    for part in Part::BESIDE.into_iter().filter(|part| !files.has_part(id, *part)) {
        if let Ok(Some(plain)) = from.plain_part(listing, id, part).await {
            put(ward, from, &plain, report).await?;
        }
    }
    let (is_marked, has_mark) = (listing.forgotten().contains(id.as_str()), files.gone().contains(id));
    if ward.lock.is_some() && is_marked && !has_mark {
        ward.repository.mark_forgotten(id.as_str()).await?;
    }
    Ok(())
}

/// Heals notes and attributes.
async fn beside(
    ward: &Ward<'_>,
    there: Option<&(&Repository, SnapshotFiles)>,
    report: &mut HealReport,
) -> Result<()> {
    let files = ward.repository.list_snapshots().await?;
    let names: HashSet<&str> = files.names().collect();
    let mut wanted: Vec<(SnapshotId, Part, Error)> = Vec::new();
    let mut reads = std::pin::pin!(ward.repository.read_beside(&files, &names));
    while let Some(ReadBeside { snapshot, what, usable, .. }) = reads.next().await {
        ward.context.cancel.check()?;
        let part = if what == Beside::Note { Part::Note } else { Part::Attributes };
        match (usable, SnapshotId::parse(&snapshot)) {
            (Err(error), _) if error.is_no_finding() => return Err(error),
            (Err(error), Ok(id)) => wanted.push((id, part, error)),
            _ => {}
        }
    }
    if let Some((_, listing)) = there {
        for id in names.iter().filter_map(|name| SnapshotId::parse(name).ok()) {
            for part in Part::BESIDE {
                if listing.has_part(&id, part) && !files.has_part(&id, part) {
                    let error = Error::new(ErrorKind::Damaged, "the copy has one, and here there is none");
                    wanted.push((id.clone(), part, error));
                }
            }
        }
    }
    wanted.sort_by(|(one, ..), (other, ..)| one.as_str().cmp(other.as_str()));
    for (id, part, error) in wanted {
        mend(ward, there, &id, part, &error, report).await?;
    }
    Ok(())
}

/// Puts a sound object in the place of one that is damaged or lost, if the copy has one.
async fn mend(
    ward: &Ward<'_>,
    there: Option<&(&Repository, SnapshotFiles)>,
    id: &SnapshotId,
    part: Part,
    error: &Error,
    report: &mut HealReport,
) -> Result<()> {
    let found = match there {
        Some((from, listing)) => match from.plain_part(listing, id, part).await {
            Err(error) if error.is_no_finding() => return Err(error),
            Ok(Some(plain)) => Some((*from, plain)),
            Ok(None) | Err(_) => None,
        },
        None => None,
    };
    match found {
        Some((from, plain)) => put(ward, from, &plain, report).await,
        None => {
            let problem: VerifyProblem = unusable(id.as_str(), part.noun(), error);
            report.left.push(problem);
            Ok(())
        }
    }
}

async fn put(ward: &Ward<'_>, from: &Repository, plain: &PlainPart, report: &mut HealReport) -> Result<()> {
    let kept = match ward.lock {
        Some(lock) => lock.mending()?.exchange(plain).await?,
        None => None,
    };
    report.healed.push(Healed {
        object: format!("{} of snapshot {}", plain.part.noun(), plain.snapshot),
        from: from.storage().location(),
        kept,
    });
    Ok(())
}
