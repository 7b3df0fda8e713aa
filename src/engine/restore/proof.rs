//! The proof: what the staged database must show before a restore reports success.
//!
//! The database comes from a repository that may be hostile. Everything that is asked of it is bounded, and is
//! given up when it hears nothing.

use std::path::PathBuf;
use std::sync::Arc;

use super::plan::Plan;
use super::statistics;
use crate::archive::bounds::{self, Bounds};
use crate::archive::health::{self, Depth};
use crate::archive::profile::{ContentPath, Profile};
use crate::archive::sqlite::{open_at_rest, open_to_check};
use crate::cancel::Cancel;
use crate::engine::report::Check;
use crate::engine::{Context, aside, content_paths};
use crate::format::{Manifest, go_json};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// What of the proof is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// SQLite's own check.
    pub integrity_check: bool,
    /// The recorded statistics.
    pub stats: bool,
}

/// What was proved.
#[derive(Debug)]
pub struct Proved {
    /// Whether the database was changed, because it described the live store.
    pub settled: bool,
    /// How SQLite's own check ended.
    pub integrity_check: Check,
    /// How the statistics compare.
    pub stats: Check,
    /// What could not be checked.
    pub warnings: Vec<String>,
}

/// Reads from the staged database where attachments belong, and checks that they can be put there.
pub async fn content_paths(
    profile: &Arc<dyn Profile>,
    plan: &Plan,
    database: PathBuf,
    cancel: &Cancel,
) -> Result<Vec<ContentPath>> {
    let id = &plan.manifest.snapshot_id;
    bounds::grant_memory(content_paths::memory_for(plan.listed.len() as u64));
    let bounds = Bounds::of_scan(cancel, plan.manifest.database_bytes());
    let (profile, paths_max) = (profile.clone(), content_paths::most(&plan.manifest));
    let expected = aside::run(&bounds, "read the paths of attachments", move |bounds| {
        let mut connection = open_at_rest(&database)?;
        bounds.within(&mut connection, |connection| profile.content_paths(connection, &database, paths_max))
    });
    let refused = |error: Error| match error.kind() {
        ErrorKind::Interrupted => error,
        kind => {
            let message = format!("cannot read from the database of snapshot {id} where attachments belong");
            Error::caused(kind, message, error)
        }
    };
    let expected = expected.await.map_err(refused)?;
    match content_paths::check(&plan.listed, &expected).into_iter().next() {
        None => Ok(expected),
        Some(problem) => {
            let message = format!("cannot restore snapshot {id}: {problem}");
            Err(Error::new(ErrorKind::Damaged, message))
        }
    }
}

/// Empties what describes the live store, then proves the staged database.
pub async fn settle_and_prove(
    context: &Context,
    profile: &Arc<dyn Profile>,
    manifest: &Manifest,
    database: PathBuf,
    wanted: Wanted,
) -> Result<Proved> {
    context.progress.begin(Stage::Proof, Unit::Steps, None);
    let (asked, staged) = (profile.clone(), database.clone());
    let (cancel, database_bytes) = (&context.cancel, manifest.database_bytes());
    let bounds = Bounds::of_scan(cancel, database_bytes);
    let settling = "empty the tables that describe the live store";
    let settled = aside::run(&bounds, settling, move |bounds| asked.settle_restored(&staged, bounds)).await?;
    let (mut integrity_check, mut warnings) = (Check::Skipped, Vec::new());
    if wanted.integrity_check {
        context.progress.step(Stage::Proof, "integrity check");
        warnings = check_integrity(&Bounds::of_check(cancel, database_bytes), database.clone()).await?;
        integrity_check = if warnings.is_empty() { Check::Ok } else { Check::Partial };
    }
    let mut stats = Check::Skipped;
    if wanted.stats {
        context.progress.step(Stage::Proof, "statistics");
        let bounds = Bounds::of_questions(cancel, database_bytes, profile.questions());
        compare_statistics(&bounds, profile.clone(), manifest, database).await?;
        stats = Check::Ok;
    }
    Ok(Proved { settled, integrity_check, stats, warnings })
}

/// Has SQLite check the database; returns what it cannot check.
async fn check_integrity(bounds: &Bounds, database: PathBuf) -> Result<Vec<String>> {
    let work = move |bounds: &Bounds| {
        let named = (database.as_path(), "the restored database");
        health::examine(&mut open_to_check(&database)?, named, Depth::Full, bounds)
    };
    let examined = aside::run(bounds, "check the integrity of the restored database", work).await;
    let health = examined.map_err(|error| match error.kind() {
        ErrorKind::Interrupted => error,
        kind => {
            let message = "the integrity check of the restored database was not possible; every page is as it was \
                           captured: --skip-integrity-check restores without it";
            Error::caused(kind, message, error)
        }
    })?;
    match health.problems.first() {
        None => Ok(health.unchecked),
        Some(first) => Err(Error::new(
            ErrorKind::Source,
            format!(
                "the restored database fails SQLite's integrity check: {first}; every page is as it was captured, so \
                 the source was damaged then: restore another snapshot, or this one with --skip-integrity-check to \
                 repair it"
            ),
        )),
    }
}

async fn compare_statistics(
    bounds: &Bounds,
    profile: Arc<dyn Profile>,
    manifest: &Manifest,
    database: PathBuf,
) -> Result<()> {
    let work = move |bounds: &Bounds| {
        let mut connection = open_at_rest(&database)?;
        bounds.within(&mut connection, |connection| profile.stats(connection, &database))
    };
    let found = aside::run(bounds, "compute the statistics of the restored database", work).await;
    let found = found.map_err(|error| match error.kind() {
        ErrorKind::Interrupted => error,
        kind => {
            let message = "the recorded statistics cannot be computed again; every page is as it was captured: \
                           --skip-stats restores without them";
            Error::caused(kind, message, error)
        }
    })?;
    let recorded = go_json::compact_raw(&manifest.stats);
    if found == recorded {
        return Ok(());
    }
    let differences = statistics::differences(&recorded, &found);
    let message = format!(
        "the restored database does not show the recorded statistics: {differences}; every page is as it was \
         captured: --skip-stats accepts it, as a last resort"
    );
    Err(Error::new(ErrorKind::Source, message))
}
