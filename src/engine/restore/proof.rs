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
use crate::archive::sqlite::open_at_rest;
use crate::cancel::Cancel;
use crate::engine::report::Check;
use crate::engine::{Context, aside, content_paths};
use crate::format::{Manifest, go_json};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// What of the proof is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// That what describes the live store is emptied first.
    pub settled: bool,
    /// SQLite's own check.
    pub integrity_check: bool,
    /// The recorded statistics.
    pub stats: bool,
}

/// What was proved.
#[derive(Debug)]
pub struct Proved {
    /// What was changed in the database because it described the live store, in the words of its profile.
    pub changed: Option<&'static str>,
    /// How SQLite's own check ended.
    pub integrity_check: Check,
    /// How the statistics compare.
    pub stats: Check,
    /// What could not be checked.
    pub warnings: Vec<String>,
}

impl Proved {
    /// Returns what is proved where no database is restored.
    pub fn nothing() -> Self {
        Self { changed: None, integrity_check: Check::Skipped, stats: Check::Skipped, warnings: Vec::new() }
    }
}

/// Reads from the staged database where attachments belong, and checks that they can be put there.
pub async fn content_paths(plan: &Plan, database: PathBuf, cancel: &Cancel) -> Result<Vec<ContentPath>> {
    let expected = told_paths(plan, database, cancel).await?;
    match content_paths::check(&plan.listed, &expected).into_iter().next() {
        None => Ok(expected),
        Some(problem) => {
            let message = format!("cannot restore snapshot {}: {problem}", plan.manifest.snapshot_id);
            Err(Error::new(ErrorKind::Damaged, message))
        }
    }
}

/// Reads from the staged database where attachments belong.
pub async fn told_paths(plan: &Plan, database: PathBuf, cancel: &Cancel) -> Result<Vec<ContentPath>> {
    let id = &plan.manifest.snapshot_id;
    bounds::grant_memory(content_paths::memory_for(plan.listed.len() as u64));
    let bounds = Bounds::of_scan(cancel, plan.manifest.database_bytes());
    let (profile, paths_max) = (plan.profile.clone(), content_paths::most(&plan.manifest));
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
    expected.await.map_err(refused)
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
    let changed = match wanted.settled {
        true => aside::run(&bounds, settling, move |bounds| asked.settle_restored(&staged, bounds)).await?,
        false => None,
    };
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
    Ok(Proved { changed, integrity_check, stats, warnings })
}

/// Has SQLite check the database; returns what it cannot check.
async fn check_integrity(bounds: &Bounds, database: PathBuf) -> Result<Vec<String>> {
    let work = move |bounds: &Bounds| {
        health::examine_restored(&database, "the restored database", Depth::Full, bounds)
    };
    let examined = aside::run(bounds, "check the integrity of the restored database", work).await;
    let health = examined.map_err(|error| match error.kind() {
        // What the system refuses is no reason to do without the check.
        ErrorKind::Interrupted | ErrorKind::Io => error,
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
        ErrorKind::Interrupted | ErrorKind::Io => error,
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
