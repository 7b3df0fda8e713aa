//! Opening SQLite databases the ways a backup may: to be pinned in place, a foreign one for reading only,
//! and a finished file at rest.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::bounds::restrain;
use super::database_file::{Sidecar, sidecar};
use crate::Result;
use crate::error::lift::database_error;

/// How long one statement waits for another connection's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens an existing database for reading and writing; never creates one.
pub fn open_existing(path: &Path) -> Result<Connection> {
    // Without SQLITE_OPEN_URI a path is a path, whatever characters it holds.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = open_beside_files(path, flags).map_err(|error| database_error("open", path, error))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| database_error("open", path, error))?;
    Ok(connection)
}

/// Opens the database of a restore so that SQLite's check sees all it can see, and that nothing is written.
///
/// A connection that can only read does not look at `CHECK` constraints. So this one could write; it is held
/// to questions, alone, and what SQLite keeps beside the file goes when it closes.
pub fn open_to_check(path: &Path) -> Result<Connection> {
    let connection = open_staged(path)?;
    restrain(&connection)
        .and_then(|()| connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA query_only = ON"))
        .map_err(|error| database_error("open", path, error))?;
    Ok(connection)
}

/// Opens the database of a restore for writing, at a path without links: one that has come there since would
/// lead to a database of somebody else.
pub fn open_staged(path: &Path) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    open_beside_files(path, flags).map_err(|error| database_error("open", path, error))
}

/// Opens another application's database so that nothing of it is ever written: no page, no checkpoint.
pub fn open_foreign(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    settled_foreign(open_beside_files(path, flags)?)
}

/// Opens another application's database whose log is empty or missing: nothing but the main file is read,
/// no lock is taken and no file is made. The caller makes sure that the file does not change.
pub fn open_foreign_file(path: &Path) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    settled_foreign(Connection::open_with_flags(immutable_uri(path), flags)?)
}

/// Opens another application's database that has a log without a usable index: SQLite makes an index of its
/// own in memory, takes no lock and makes no file. The caller makes sure that file and log do not change.
pub fn open_foreign_log(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // SQLite keeps the index in memory for whoever has the database for himself, and without locks everybody
    // seems to.
    expect_files_beside(path)?;
    let connection = settled_foreign(Connection::open_with_flags_and_vfs(path, flags, c"unix-none")?)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(connection)
}

/// Opens a database and what belongs to it.
fn open_beside_files(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    expect_files_beside(path)?;
    Connection::open_with_flags(path, flags)
}

/// Refuses a database beside which something else lies than files: SQLite would open a pipe by the name of a journal,
/// and wait until somebody writes to it.
fn expect_files_beside(path: &Path) -> rusqlite::Result<()> {
    let Some(why) = no_file_beside(path) else { return Ok(()) };
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
    Err(rusqlite::Error::SqliteFailure(code, Some(why)))
}

/// Says what lies beside a database under the name of its log or journal, if it is no file.
pub(super) fn no_file_beside(path: &Path) -> Option<String> {
    // SQLite names them after the file that it finds.
    let found = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let beside = [Sidecar::Journal, Sidecar::Wal, Sidecar::Shm].map(|which| sidecar(&found, which));
    let is_none = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file());
    beside.into_iter().find(is_none).map(|path| format!("{} lies beside it and is no file", path.display()))
}

fn settled_foreign(connection: Connection) -> rusqlite::Result<Connection> {
    // The last connection to a database would checkpoint its WAL when it closes.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // A view or trigger of the schema must not run functions of ours.
    // Nothing of what is asked goes to temporary files; a transaction that stands keeps this from being said.
    connection.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY")?;
    Ok(connection)
}

/// Opens a database file that nobody writes, without locks and without sidecar files.
pub fn open_at_rest(path: &Path) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(immutable_uri(path), flags)
        .map_err(|error| database_error("open", path, error))?;
    // The file came from a repository.
    restrain(&connection).map_err(|error| database_error("open", path, error))?;
    Ok(connection)
}

/// Returns the URI of a file that nobody changes while it is open.
pub(super) fn immutable_uri(path: &Path) -> String {
    uri(path, "immutable=1")
}

/// Returns the URI of a file with a parameter.
pub(super) fn uri(path: &Path, parameter: &str) -> String {
    format!("file:{}?{parameter}", percent_encoded(path))
}

/// Encodes a path for a SQLite URI: everything but unreserved characters and `/`.
fn percent_encoded(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut encoded = String::new();
    for &byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(byte as char);
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Makes a database with so many objects in its schema that SQLite reads it for seconds.
#[cfg(test)]
pub fn make_crowded(path: &Path) {
    let views = "PRAGMA writable_schema = ON;
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 60000)
                 INSERT INTO sqlite_schema
                 SELECT 'view', 'v' || i, 'v' || i, 0, 'CREATE VIEW v' || i || ' AS SELECT 1' FROM n";
    Connection::open(path).unwrap().execute_batch(views).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_odd_characters_opens_at_rest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("what? #1 100% ü.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (7)").unwrap();
        drop(connection);
        let at_rest = open_at_rest(&path).unwrap();
        let value: i64 = at_rest.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(value, 7);
    }

    #[test]
    fn a_pipe_beside_a_database_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink("a.db", &link).unwrap();
        for ending in ["-journal", "-wal", "-shm"] {
            let pipe = folder.path().join(format!("a.db{ending}"));
            assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            for path in [&path, &link] {
                assert!(open_existing(path).unwrap_err().chain().contains("is no file"), "{ending}");
                assert!(open_foreign(path).is_err() && open_foreign_log(path).is_err(), "{ending}");
            }
            std::fs::remove_file(pipe).unwrap();
        }
        open_existing(&link).unwrap();
    }

    #[test]
    fn a_missing_database_is_not_created() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.db");
        assert!(open_existing(&path).is_err());
        assert!(!path.exists());
    }
}
