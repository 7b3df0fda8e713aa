//! Whose the target of a restore is: no application gets the data of another.

use std::path::{Path, PathBuf};

use super::RestoreOptions;
use super::plan::Plan;
use crate::cancel::Cancel;
use crate::engine::identity::{are_of_others, is_another_application, shown, tables_of_file};
use crate::engine::pipeline::Pipeline;
use crate::repo::Repository;
use crate::repo::notes::ArchiveIdentity;
use crate::repo::snapshots::SnapshotFiles;
use crate::{Error, ErrorKind, Result};

/// Refuses a snapshot of another archive than the one that was named, and a target that is another's.
pub async fn check(
    repository: &Repository,
    (pipeline, cancel): (&Pipeline, &Cancel),
    files: &SnapshotFiles,
    plan: &Plan,
    options: &RestoreOptions,
) -> Result<()> {
    let target = options.target.clone();
    let found = pipeline.run(move |_| Ok(std::fs::canonicalize(target).ok())).await?;
    if found.is_none() && options.expected.is_none() {
        return Ok(());
    }
    let id = &plan.manifest.snapshot_id;
    let note = repository.note_of(files, id).await?;
    let snapshot = note.and_then(|note| note.archive).unwrap_or_else(|| unrecorded(plan));
    if let Some(expected) =
        options.expected.as_ref().filter(|expected| is_another_application(&snapshot, expected))
    {
        let message = format!("snapshot {id} is of {}, and not of {}", shown(&snapshot), shown(expected));
        return Err(Error::new(ErrorKind::OtherArchive, message));
    }
    let Some(target) = found else { return Ok(()) };
    let (id, name, archives) = (id.clone(), plan.profile.database_name(), options.archives.clone());
    let tables = tables_of_file(target.join(&name), cancel).await?;
    pipeline.run(move |_| check_target(&id, &snapshot, (&target, &tables), &name, &archives)).await
}

/// Returns what is known of an archive that no note tells of.
fn unrecorded(plan: &Plan) -> ArchiveIdentity {
    ArchiveIdentity {
        profile: plan.profile.name().to_owned(),
        database: plan.profile.database_name(),
        ..ArchiveIdentity::default()
    }
}

fn check_target(
    id: &str,
    snapshot: &ArchiveIdentity,
    (target, tables): (&Path, &[String]),
    database_name: &str,
    archives: &[(PathBuf, ArchiveIdentity)],
) -> Result<()> {
    let is_home = |folder: &Path| std::fs::canonicalize(folder).is_ok_and(|folder| folder == target);
    let refuse = |what: String| {
        let message =
            format!("the target {} {what}, and snapshot {id} is of {}", target.display(), shown(snapshot));
        Err(Error::new(ErrorKind::OtherArchive, message))
    };
    let homes: Vec<&ArchiveIdentity> =
        archives.iter().filter(|(folder, _)| is_home(folder)).map(|(_, archive)| archive).collect();
    let there = |archive: &ArchiveIdentity| ArchiveIdentity { tables: tables.to_vec(), ..archive.clone() };
    // Several archives may lie in one folder; that the snapshot is of one of them is enough.
    match homes.first() {
        Some(first) if homes.iter().all(|archive| is_another_application(snapshot, &there(archive))) => {
            refuse(format!("is the home of {}", shown(first)))
        }
        None if are_of_others(&snapshot.tables, tables) => {
            refuse(format!("holds a {database_name} of another application, with other tables"))
        }
        _ => Ok(()),
    }
}
