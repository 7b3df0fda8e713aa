//! A copy of a database that its file system makes without copying, so that writers wait for no reading.
//!
//! Whoever reads a database with a rollback journal keeps its writers off. Where the file system can share the
//! blocks of two files (XFS, Btrfs, bcachefs and some servers), the lock is held for the moment in which it does
//! that: what the lock keeps still is the whole database then, for no page of a writer reaches the file before all
//! readers have left. From there on everything is read from the copy.
//!
//! The copy lies in the spool, without a name and for its user alone. Nothing is ever made in the folder of a
//! foreign database, so the spool has to lie on the database's file system; where it does not, or the file
//! system cannot do it, the database is read as it lies.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

use super::freeze::geometry;
use super::pinned::{PageSource, PinnedDatabase};
use super::sqlite::open_foreign_file;
use super::unnamed::unnamed_file_opened;
use crate::Result;
use crate::error::lift::database_error;

/// Makes an empty file share all of another one.
pub fn share(from: &File, to: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return Ok(rustix::fs::ioctl_ficlone(to, from)?);
    #[cfg(not(target_os = "linux"))]
    return Err(io::ErrorKind::Unsupported.into());
}

/// Lets the writers of a database go on that its pin holds off, if a copy of it can be had at once in the folder.
/// Returns the database, or the copy in its place and for how long the writers were held off. An error says that the
/// database moved, or that its pin cannot be ended.
pub fn let_writers_go(pinned: PinnedDatabase, folder: &Path) -> Result<(PinnedDatabase, Option<Duration>)> {
    let Some((file, connection)) = copied(&pinned, folder)? else { return Ok((pinned, None)) };
    let (path, shape) = (pinned.path().to_owned(), pinned.geometry());
    let since = pinned.since();
    // Only now it is known that what was shared was of one moment.
    pinned.release()?;
    let held = since.elapsed();
    tracing::info!(
        target: "packvault::decision",
        held_milliseconds = held.as_millis() as u64,
        "the file system made a copy of the database; its writers go on"
    );
    Ok((PinnedDatabase::of_copy(connection, Arc::new(file), path, shape), Some(held)))
}

/// Returns the copy and a connection to it; nothing where the database is to be read as it lies.
fn copied(pinned: &PinnedDatabase, folder: &Path) -> Result<Option<(File, Connection)>> {
    let PageSource::File { file: scan, .. } = pinned.source() else { return Ok(None) };
    // One that cannot be read as a database was opened with more than the file can say.
    if !pinned.holds_writers()? || !pinned.problems().is_empty() {
        return Ok(None);
    }
    let open = |path: &Path| open_foreign_file(path).map_err(|error| database_error("open", path, error));
    let Ok((file, connection)) = unnamed_file_opened(folder, open) else { return Ok(None) };
    if share(&scan, &file).is_err() || begin(&connection).is_err() {
        return Ok(None);
    }
    let same = geometry(&connection, pinned.path()).ok() == Some(pinned.geometry());
    Ok(same.then_some((file, connection)))
}

/// Begins to read what SQLite saw as an empty file when it opened it; with another page size it looks again.
fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA page_size = 512; BEGIN")?;
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::foreign;
    use crate::cancel::Cancel;

    #[test]
    fn where_no_copy_can_be_had_the_database_is_the_one_that_was_pinned() {
        // Neither do file systems in memory share blocks, nor does a log's reader hold writers off.
        for (mode, folder) in [("DELETE", "/dev/shm"), ("WAL", "/tmp")] {
            let place = std::path::Path::new(folder);
            let made = if place.is_dir() { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
            let folder = made.unwrap();
            let path = folder.path().join("a.db");
            let writer = Connection::open(&path).unwrap();
            writer.execute_batch(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (a)")).unwrap();
            let pinned = foreign::pin(&path, &Cancel::new()).unwrap();
            let holds = pinned.holds_writers().unwrap();
            let spool = folder.path().join("spool");
            let (pinned, held) = let_writers_go(pinned, &spool).unwrap();
            assert_eq!((held, pinned.holds_writers().unwrap()), (None, holds), "{mode}");
            pinned.release().unwrap();
            assert!(std::fs::read_dir(&spool).map_or(0, Iterator::count) == 0);
        }
    }
}
