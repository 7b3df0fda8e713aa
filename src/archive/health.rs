//! The health of a database that is being captured: SQLite's own quick check, on the pinned view.

use std::path::Path;

use rusqlite::{Connection, ErrorCode};

use super::sqlite::database_error;
use crate::Result;
use crate::cancel::Cancel;

/// How many faults are named; one is enough to know.
const PROBLEMS_MAX: usize = 5;
/// SQLite asks after so many steps of its machine whether it should go on.
const STEPS_BETWEEN_QUESTIONS: i32 = 100_000;

/// Returns what is wrong with the database, one sentence each; nothing if it is sound.
pub fn problems(connection: &mut Connection, path: &Path, cancel: &Cancel) -> Result<Vec<String>> {
    let asked = cancel.clone();
    connection
        .progress_handler(STEPS_BETWEEN_QUESTIONS, Some(move || asked.is_cancelled()))
        .map_err(|error| database_error("watch", path, error))?;
    let found = quick_check(connection);
    connection
        .progress_handler(0, None::<fn() -> bool>)
        .map_err(|error| database_error("watch", path, error))?;
    let named = |detail: &str| format!("{}: {detail}", path.display());
    match found {
        Ok(rows) if rows == ["ok"] => Ok(Vec::new()),
        Ok(rows) => Ok(rows.iter().flat_map(|row| row.lines()).take(PROBLEMS_MAX).map(named).collect()),
        Err(error) if is_damage(&error) => Ok(vec![named(&error.to_string())]),
        Err(error) => Err(database_error("check", path, error)),
    }
}

fn quick_check(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({PROBLEMS_MAX})"))?;
    statement.query_map([], |row| row.get::<_, String>(0))?.collect()
}

/// Tells whether the error is about the content of the database.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
