//! The proof: what the staged database must show before a restore reports success.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::plan::Plan;
use crate::archive::profile::{ContentPath, Profile};
use crate::archive::sqlite::{database_error, open_at_rest};
use crate::cancel::Cancel;
use crate::engine::Context;
use crate::engine::content_paths;
use crate::engine::pipeline::Pipeline;
use crate::format::{Manifest, go_json};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// SQLite asks after so many steps of its machine whether it should go on.
const STEPS_BETWEEN_QUESTIONS: i32 = 100_000;

/// Reads from the staged database where attachments belong, and checks that they can be put there.
pub async fn content_paths(
    pipeline: &Pipeline,
    profile: &Arc<dyn Profile>,
    plan: &Plan,
    database: PathBuf,
    cancel: &Cancel,
) -> Result<Vec<ContentPath>> {
    let (profile, cancel) = (profile.clone(), cancel.clone());
    let expected = pipeline
        .run(move |_| profile.content_paths(&open_interruptible(&database, &cancel)?, &database))
        .await?;
    match content_paths::check(&plan.listed, &expected).into_iter().next() {
        None => Ok(expected),
        Some(problem) => {
            let message = format!("cannot restore snapshot {}: {problem}", plan.manifest.snapshot_id);
            Err(Error::new(ErrorKind::Damaged, message))
        }
    }
}

/// Empties what describes the live store, then proves the staged database; tells whether it was changed.
pub async fn settle_and_prove(
    context: &Context,
    pipeline: &Pipeline,
    profile: &Arc<dyn Profile>,
    manifest: &Manifest,
    database: PathBuf,
    integrity_check: bool,
) -> Result<bool> {
    context.progress.begin(Stage::Proof, Unit::Steps, None);
    let (asked, staged) = (profile.clone(), database.clone());
    let settled = pipeline.run(move |_| asked.settle_restored(&staged)).await?;
    let recorded = go_json::compact_raw(&manifest.stats);
    let (profile, progress, cancel) = (profile.clone(), context.progress.clone(), context.cancel.clone());
    let prove = pipeline.run(move |_| {
        let mut connection = open_interruptible(&database, &cancel)?;
        if integrity_check {
            progress.step(Stage::Proof, "integrity check");
            check_integrity(&connection, &database)?;
        }
        progress.step(Stage::Proof, "statistics");
        let found = profile.stats(&mut connection, &database, &cancel)?;
        if found == recorded {
            return Ok(());
        }
        let message =
            format!("the restored database does not show the recorded statistics: {found}, not {recorded}");
        Err(Error::new(ErrorKind::Damaged, message))
    });
    prove.await?;
    Ok(settled)
}

fn open_interruptible(database: &Path, cancel: &Cancel) -> Result<Connection> {
    let mut connection = open_at_rest(database)?;
    let cancel = cancel.clone();
    connection
        .progress_handler(STEPS_BETWEEN_QUESTIONS, Some(move || cancel.is_cancelled()))
        .map_err(|error| database_error("watch", database, error))?;
    Ok(connection)
}

fn check_integrity(connection: &Connection, database: &Path) -> Result<()> {
    let rows = connection
        .prepare("PRAGMA integrity_check")
        .and_then(|mut statement| {
            statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()
        })
        .map_err(|error| database_error("check the integrity of", database, error))?;
    if rows == ["ok"] {
        return Ok(());
    }
    let first = rows.first().map_or("no answer", String::as_str);
    Err(Error::new(
        ErrorKind::Damaged,
        format!(
            "the restored database fails SQLite's integrity check: {first}; every page is as it was captured, so \
             the source was damaged then: restore another snapshot, or this one with --skip-integrity-check to \
             repair it"
        ),
    ))
}
