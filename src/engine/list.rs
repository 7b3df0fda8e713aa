//! list: what snapshots there are, oldest first. Takes no lock and goes on past a damaged manifest.

use futures::join;
use serde_json::value::RawValue;

use super::logged;
use super::report::{ListRow, ListedArchive, ProblemKind};
use crate::format::{Manifest, go_json};
use crate::repo::Repository;
use crate::repo::notes::ArchiveIdentity;
use crate::repo::snapshots::FoundSnapshot;
use crate::{ErrorKind, Result};

/// Lists every snapshot that was not forgotten; one whose manifest is damaged is a row with its problem, forgotten
/// or not, for others may be built on it.
pub async fn list(repository: &Repository) -> Result<Vec<ListRow>> {
    let mut rows = list_all(repository).await?;
    rows.retain(|row| !row.forgotten || row.problem.is_some());
    Ok(rows)
}

/// Lists every snapshot whose manifest is there.
pub async fn list_all(repository: &Repository) -> Result<Vec<ListRow>> {
    let span = tracing::info_span!(target: "packvault::operation", "list");
    logged::operation(span, repository.storage().location(), rows(repository)).await
}

async fn rows(repository: &Repository) -> Result<Vec<ListRow>> {
    let files = repository.list_snapshots().await?;
    let (found, notes) = join!(repository.read_snapshots(&files), repository.read_notes(&files));
    let mut found = found?;
    let is_gone = |found: &FoundSnapshot| {
        found.manifest.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    if found.iter().any(is_gone) {
        // A forget may be at work; a manifest that the store still shows is a problem all the same.
        let now = repository.list_snapshots().await?;
        found.retain(|found| !is_gone(found) || now.has(&found.name));
    }
    let mut rows: Vec<ListRow> = found.into_iter().map(row).collect();
    let (mut notes, forgotten) = (notes?, files.forgotten());
    for row in &mut rows {
        row.forgotten = forgotten.contains(row.id.as_str());
        let note = notes.remove(&row.id).unwrap_or_default();
        row.source_problems = note.source_problems;
        row.archive = note.archive.map(listed);
    }
    Ok(rows)
}

fn row(found: FoundSnapshot) -> ListRow {
    match found.manifest {
        Ok(manifest) => sound_row(manifest),
        Err(error) => ListRow {
            id: found.name,
            problem: Some(error.chain()),
            problem_kind: Some(ProblemKind::of(&error)),
            ..ListRow::default()
        },
    }
}

fn sound_row(manifest: Manifest) -> ListRow {
    let stats = RawValue::from_string(go_json::compact_raw(&manifest.stats));
    let problem = stats.as_ref().err().map(|error| format!("its statistics are unreadable: {error}"));
    ListRow {
        id: manifest.snapshot_id.to_string(),
        parent: Some(manifest.parent_id).filter(|parent| !parent.is_empty()),
        created_at: Some(manifest.created_at),
        tag: Some(manifest.options.tag),
        version: u64::try_from(manifest.format_version).ok(),
        database_bytes: manifest.db.page_count.checked_mul(u64::from(manifest.db.page_size)),
        attachments: u64::try_from(manifest.attachments.blobs).ok(),
        bytes_added: u64::try_from(manifest.bytes_added).ok(),
        stats: stats.ok(),
        problem_kind: problem.as_ref().map(|_| ProblemKind::Damaged),
        problem,
        source_problems: Vec::new(),
        archive: None,
        forgotten: false,
        artifacts: manifest.auxiliary.into_iter().map(|artifact| artifact.name).collect(),
    }
}

fn listed(archive: ArchiveIdentity) -> ListedArchive {
    let ArchiveIdentity { profile, name, home, database, tables: _ } = archive;
    ListedArchive { profile, name, home, database }
}
