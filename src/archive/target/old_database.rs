//! The old database made one file: a copy of it that holds all that its log holds.
//!
//! SQLite itself does it, on copies in the staging; the database and its log stay as they are. Where a database
//! was closed properly there is no log, and nothing is copied.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rusqlite::ErrorCode;
use rustix::fs::{Gid, Mode, OFlags, Uid, fchmod, fchown, fstat, openat};

use crate::archive::sqlite::open_staged;
use crate::error::lift::{file_error, io_error};
use crate::{Error, ErrorKind, Result};

/// The name of the copy in its folder.
pub const MERGED_NAME: &str = "db";
/// The length of a write-ahead log that holds nothing.
const WAL_HEADER_BYTES: u64 = 32;
/// How a rollback journal begins that is to be played back.
const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// What became of the old database and its log.
#[derive(Debug)]
pub enum Merged {
    /// It has no log that matters.
    NoLog,
    /// The copy lies in its folder.
    Made,
    /// SQLite cannot read it, so there is no state in which its log would be missed.
    Unreadable(String),
}

/// Makes the copy in an empty folder of the staging; `reached` is that folder's path without links.
pub fn merge(
    folder: &OwnedFd,
    name: &str,
    shown: &Path,
    (into, reached): (&OwnedFd, &Path),
) -> Result<Merged> {
    let wal = open(folder, &format!("{name}-wal"), shown)?;
    let wal = wal.filter(|(_, bytes)| *bytes > WAL_HEADER_BYTES);
    let journal = match open(folder, &format!("{name}-journal"), shown)? {
        Some((journal, bytes)) if is_hot(&journal) => Some((journal, bytes)),
        _ => None,
    };
    if wal.is_none() && journal.is_none() {
        return Ok(Merged::NoLog);
    }
    let Some((database, _)) = open(folder, name, shown)? else { return Ok(Merged::NoLog) };
    let full = |error: Error| {
        let message = format!("cannot copy {} with its log, which a restore over it needs", shown.display());
        Error::caused(error.kind(), message, error)
    };
    let merged = copy_into(into, MERGED_NAME, &database, shown).map_err(full)?;
    for (ending, log) in [("-wal", wal), ("-journal", journal)] {
        if let Some((log, _)) = log {
            copy_into(into, &format!("{MERGED_NAME}{ending}"), &log, shown).map_err(full)?;
        }
    }
    match fold_log(&reached.join(MERGED_NAME)) {
        Ok(()) => {}
        Err(error) if is_unreadable(&error) => return Ok(Merged::Unreadable(error.to_string())),
        Err(error) => {
            let error = Error::caused(ErrorKind::Io, "SQLite cannot fold the log into the copy", error);
            return Err(full(error));
        }
    }
    for ending in ["-wal", "-journal"] {
        if open(into, &format!("{MERGED_NAME}{ending}"), shown)?.is_some_and(|(_, bytes)| bytes > 0) {
            return Err(full(Error::new(ErrorKind::Io, "SQLite left part of the log beside the copy")));
        }
    }
    make_alike(&merged, &database, shown)?;
    Ok(Merged::Made)
}

/// Copies a file into a folder, for its owner alone; a clone where the file system can.
pub fn copy_into(into: &OwnedFd, name: &str, mut from: &File, shown: &Path) -> Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let copy = openat(into, name, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| file_error("make a copy of", shown, errno))?;
    let mut copy = File::from(copy);
    std::io::copy(&mut from, &mut copy).map_err(|error| io_error("copy", shown, error))?;
    Ok(copy)
}

/// Gives a copy the mode of the file that it stands for, and its owner where that may be.
pub fn make_alike(copy: &File, from: &File, shown: &Path) -> Result<()> {
    let stat = fstat(from).map_err(|errno| file_error("stat", shown, errno))?;
    // A user who may not give files away is their owner, or the copy stays his.
    let _ = fchown(copy, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)));
    fchmod(copy, Mode::from_raw_mode(stat.st_mode & 0o777))
        .map_err(|errno| file_error("set the mode of a copy of", shown, errno))
}

/// Opens a plain file; `None` if nothing of the name is one.
pub fn open(folder: &OwnedFd, name: &str, shown: &Path) -> Result<Option<(File, u64)>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(folder, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(file_error("open", &shown.with_file_name(name), errno)),
    };
    let metadata = file.metadata().map_err(|error| io_error("stat", shown, error))?;
    Ok(metadata.is_file().then_some((file, metadata.len())))
}

/// Tells whether a rollback journal is to be played back: it is wiped at its beginning once it is not.
fn is_hot(mut journal: &File) -> bool {
    let mut beginning = [0; JOURNAL_MAGIC.len()];
    let hot = journal.read_exact(&mut beginning).is_ok() && beginning == JOURNAL_MAGIC;
    // The handle is read again from its beginning.
    hot && std::io::Seek::rewind(&mut journal).is_ok()
}

fn fold_log(path: &Path) -> std::result::Result<(), rusqlite::Error> {
    let connection = open_staged(path).map_err(|error| {
        let of_sqlite = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
        let code = of_sqlite.and_then(rusqlite::Error::sqlite_error).map_or(1, |error| error.extended_code);
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(error.chain()))
    })?;
    // The first look at a page plays a journal back; the last connection that is closed folds a write-ahead log.
    // Neither reads the schema, which may be hostile: SQLite can be kept at that for minutes.
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)
}

fn is_unreadable(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::archive::sqlite::make_crowded;

    #[test]
    fn a_log_is_folded_whatever_the_schema_is() {
        let folder = tempfile::tempdir().unwrap();
        let (live, copy) = (folder.path().join("live"), folder.path().join("copy"));
        make_crowded(&live);
        let application = rusqlite::Connection::open(&live).unwrap();
        application.execute_batch("PRAGMA journal_mode = WAL; PRAGMA user_version = 7").unwrap();
        for ending in ["", "-wal"] {
            let path = |of: &Path| format!("{}{ending}", of.display());
            std::fs::copy(path(&live), path(&copy)).unwrap();
        }
        let log = folder.path().join("copy-wal");
        assert!(std::fs::metadata(&log).unwrap().len() > WAL_HEADER_BYTES);
        let begun = Instant::now();
        fold_log(&copy).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        assert!(!log.exists(), "all of it is in the database");
        let version = 60;
        assert_eq!(std::fs::read(&copy).unwrap()[version..][..4], [0, 0, 0, 7]);
    }
}
