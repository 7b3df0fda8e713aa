//! Pinning another application's database without writing anything: no page, no checkpoint.
//!
//! The pin is a read transaction of a read-only connection. How pages are read is then decided by what the
//! pin proves:
//!
//! - Rollback journal: the pin is a SHARED lock on the file, and nobody writes to the file without an
//!   EXCLUSIVE one. The file is read directly; writers wait as long as the scan takes.
//! - WAL that is empty *after* the pin stands: a reader that depends on frames keeps the WAL from being
//!   emptied, so this one depends on the main file alone (read mark 0), and a reader there keeps every
//!   checkpoint from writing to the file. The file is read directly; writers go on in the WAL. No second
//!   connection has to hold writers off, as section 10.1 does, which would need write access.
//! - WAL with content: pages are read through the transaction. A checkpoint may write to the file meanwhile.
//!
//! The scan handle is opened before SQLite and closed after it (T2), whichever way pages are read.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{StatVfsMountFlags, statvfs};

use super::freeze::{check_length, check_scan_handle, geometry, open_for_scan, resolve};
use super::pinned::{PinnedDatabase, Reading, wal_bytes};
use super::sqlite::{database_error, immutable_uri, open_foreign};
use crate::cancel::Cancel;
use crate::{Error, ErrorKind, Result};

/// How long writers may keep the pin from standing.
const WINDOW_MAX: Duration = Duration::from_secs(30);

/// Pins a foreign database.
pub fn pin(database: &Path, cancel: &Cancel) -> Result<PinnedDatabase> {
    pin_reading(database, cancel, None)
}

/// Pins a foreign database; `forced` decides how pages are read where the transaction is as good as the
/// file.
pub fn pin_reading(database: &Path, cancel: &Cancel, forced: Option<Reading>) -> Result<PinnedDatabase> {
    let path = resolve(database)?;
    let scan = Arc::new(open_for_scan(&path)?);
    let mut problems = Vec::new();
    let begun = begin(&path, cancel, &mut problems);
    cancel.check()?;
    let connection = match begun {
        Ok(connection) => connection,
        Err(error) if is_unopenable(&error) => begin_immutable(&path, error)?,
        Err(error) => return Err(unreadable(&path, error)),
    };
    let geometry = geometry(&connection, &path)?;
    check_scan_handle(&scan, &path)?;
    let reading = match forced {
        Some(Reading::Transaction) => Reading::Transaction,
        _ => reading(&connection, &path)?,
    };
    match reading {
        Reading::File => check_length(&scan, &path, geometry)?,
        Reading::Transaction => check_page_access(&connection, &path)?,
    }
    Ok(PinnedDatabase::new(connection, scan, path, geometry, reading)?.with_problems(problems))
}

/// Begins the read transaction, again and again while a writer has the database for itself.
fn begin(path: &Path, cancel: &Cancel, problems: &mut Vec<String>) -> rusqlite::Result<Connection> {
    let deadline = Instant::now() + WINDOW_MAX;
    let connection = open_foreign(path)?;
    loop {
        let begun = connection.execute_batch("BEGIN").and_then(|()| read_header(&connection));
        let code = begun.as_ref().err().and_then(rusqlite::Error::sqlite_error_code);
        match (begun, code) {
            (Ok(()), _) => return Ok(connection),
            (_, Some(ErrorCode::DatabaseBusy)) if Instant::now() < deadline && !cancel.is_cancelled() => {}
            (Err(error), Some(ErrorCode::DatabaseCorrupt)) if problems.is_empty() => {
                problems.push(format!("{} cannot be read as a database: {error}", path.display()));
                // With it SQLite opens a database although its schema or length is wrong.
                connection.execute_batch("PRAGMA writable_schema = ON")?;
            }
            (Err(error), _) => return Err(error),
        }
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
    }
}

/// Makes the transaction read: only then it is one.
fn read_header(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0)).map(drop)
}

fn reading(connection: &Connection, path: &Path) -> Result<Reading> {
    let mode: String = connection
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .map_err(|error| database_error("read the journal mode of", path, error))?;
    // In WAL mode our own connection has made the WAL if there was none; one that is gone since was
    // removed by somebody who knows nothing of SQLite.
    let file = mode != "wal" || wal_bytes(path)? == Some(0);
    Ok(if file { Reading::File } else { Reading::Transaction })
}

fn check_page_access(connection: &Connection, path: &Path) -> Result<()> {
    connection.prepare("SELECT data FROM sqlite_dbpage WHERE pgno = 1").map(drop).map_err(|error| {
        let cause = database_error("read pages of", path, error);
        let message = "the SQLite in this build cannot read single pages; build packvault in its own folder, \
                       whose `.cargo/config.toml` turns `sqlite_dbpage` on";
        Error::caused(ErrorKind::Unsupported, message, cause)
    })
}

/// Tells whether SQLite could not open the files that go with a WAL.
fn is_unopenable(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// Opens a database on a read-only file system, where nobody can change it, if all of it is in the file.
fn begin_immutable(path: &Path, error: rusqlite::Error) -> Result<Connection> {
    let is_read_only = statvfs(path).is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::RDONLY));
    if !is_read_only || wal_bytes(path)?.unwrap_or_default() > 0 || has_journal(path) {
        return Err(unreadable(path, error));
    }
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let opened = Connection::open_with_flags(immutable_uri(path), flags).and_then(|connection| {
        connection.execute_batch("PRAGMA trusted_schema = OFF; BEGIN")?;
        read_header(&connection)?;
        Ok(connection)
    });
    opened.map_err(|error| database_error("open", path, error))
}

fn has_journal(path: &Path) -> bool {
    let mut journal = path.as_os_str().to_owned();
    journal.push("-journal");
    std::fs::symlink_metadata(journal).is_ok_and(|metadata| metadata.len() > 0)
}

fn unreadable(path: &Path, error: rusqlite::Error) -> Error {
    let shown = path.display();
    let message = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let message =
                format!("the database {shown} does not come to rest: its application keeps it for itself");
            return Error::caused(ErrorKind::InUse, message, error);
        }
        Some(ErrorCode::ReadOnly) if has_journal(path) => format!(
            "the database {shown} was left in the middle of a write, which only its application may undo; \
             start the application once and try again"
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) => format!(
            "the database {shown} is in WAL mode, and its -wal and -shm files can neither be used nor made: \
             run packvault as the user of the application, or copy the database and its -wal to a folder \
             that can be written to"
        ),
        _ => return database_error("pin", path, error),
    };
    Error::caused(ErrorKind::Source, message, error)
}
