//! stats: how large snapshots are, how a repository grew, and what storing each thing once saved.
//!
//! Manifests, indexes and the list of packs tell it; no pack is opened.

use std::collections::HashMap;

use serde::Serialize;

use crate::Result;
use crate::engine::report::ProblemKind;
use crate::engine::{Context, ReadLocking, logged};
use crate::format::Manifest;
use crate::repo::Repository;

/// The amounts of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotStats {
    /// Its id.
    pub id: String,
    /// When it was made; `null` where its manifest cannot be used.
    pub created_at: Option<String>,
    /// The size of the database.
    pub database_bytes: Option<u64>,
    /// Distinct attachments.
    pub attachments: Option<u64>,
    /// Their size.
    pub attachment_bytes: Option<u64>,
    /// What it took in the repository beyond what was there, without maps and lists of its own.
    pub bytes_added: Option<u64>,
    /// Why nothing is known of it.
    pub problem: Option<String>,
    /// What kind of problem that is.
    pub problem_kind: Option<ProblemKind>,
}

/// The amounts of a repository.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatsReport {
    /// Each snapshot that was not forgotten, oldest first.
    pub snapshots: Vec<SnapshotStats>,
    /// What all of them would take, each copied whole: databases and attachments.
    pub snapshot_bytes: u64,
    /// Packs.
    pub packs: u64,
    /// Their size.
    pub pack_bytes: u64,
    /// Indexes.
    pub indexes: u64,
    /// Their size.
    pub index_bytes: u64,
    /// Distinct blobs that the indexes name.
    pub blobs: u64,
    /// `snapshot_bytes` for each byte in packs; `null` where there is none.
    pub saved: Option<f64>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// Indexes that cannot be used, which the warnings name.
    #[serde(skip)]
    pub damaged_indexes: usize,
}

/// Adds up what a repository holds.
pub async fn stats(repository: &Repository, locking: ReadLocking, context: &Context) -> Result<StatsReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "stats");
    let work = locking.around(repository, "stats", context, |_| counted(repository));
    let (mut report, warnings) = logged::operation(span, repository.storage().location(), work).await?;
    report.warnings.extend(warnings);
    Ok(report)
}

async fn counted(repository: &Repository) -> Result<StatsReport> {
    let files = repository.list_snapshots().await?;
    let found = repository.read_snapshots(&files).await?;
    let (union, damaged) = repository.find_indexes().await?;
    let lengths = repository.pack_lengths().await?;
    let forgotten = files.forgotten();
    let snapshots: Vec<SnapshotStats> = found
        .into_iter()
        .filter(|found| !forgotten.contains(found.name.as_str()))
        .map(|found| match found.manifest {
            Ok(manifest) => of_snapshot(&manifest),
            Err(error) => SnapshotStats {
                problem: Some(error.chain()),
                problem_kind: Some(ProblemKind::of(&error)),
                ..unknown(found.name)
            },
        })
        .collect();
    let whole = |snapshot: &SnapshotStats| {
        let amounts = [snapshot.database_bytes, snapshot.attachment_bytes];
        amounts.into_iter().flatten().fold(0, u64::saturating_add)
    };
    let snapshot_bytes = snapshots.iter().map(whole).fold(0, u64::saturating_add);
    let pack_bytes = sum(&lengths);
    let index = |index: &crate::repo::indexes::DamagedIndex| {
        format!("index {} cannot be used, and its blobs are not counted: {}", index.name, index.error.chain())
    };
    Ok(StatsReport {
        snapshot_bytes,
        packs: lengths.len() as u64,
        pack_bytes,
        indexes: union.files().len() as u64,
        index_bytes: union.files().iter().map(|file| file.bytes).fold(0, u64::saturating_add),
        blobs: union.blob_count() as u64,
        saved: (pack_bytes > 0).then(|| snapshot_bytes as f64 / pack_bytes as f64),
        warnings: damaged.iter().map(index).collect(),
        damaged_indexes: damaged.len(),
        snapshots,
    })
}

fn sum<K>(lengths: &HashMap<K, u64>) -> u64 {
    lengths.values().copied().fold(0, u64::saturating_add)
}

fn unknown(id: String) -> SnapshotStats {
    SnapshotStats {
        id,
        created_at: None,
        database_bytes: None,
        attachments: None,
        attachment_bytes: None,
        bytes_added: None,
        problem: None,
        problem_kind: None,
    }
}

fn of_snapshot(manifest: &Manifest) -> SnapshotStats {
    let amount = |amount: i64| u64::try_from(amount).ok();
    SnapshotStats {
        created_at: Some(manifest.created_at.clone()),
        database_bytes: Some(manifest.database_bytes()),
        attachments: amount(manifest.attachments.blobs),
        attachment_bytes: amount(manifest.attachments.blob_bytes),
        bytes_added: amount(manifest.bytes_added),
        ..unknown(manifest.snapshot_id.clone())
    }
}
