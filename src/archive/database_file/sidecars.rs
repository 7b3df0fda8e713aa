//! The files that SQLite keeps beside a database: its names for them, and how long they are.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::lift::io_error;

/// A file that SQLite may keep beside a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sidecar {
    /// The write-ahead log.
    Wal,
    /// The index of the write-ahead log, shared by its users.
    Shm,
    /// The rollback journal.
    Journal,
}

impl Sidecar {
    /// Returns what SQLite adds to the database's name.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Wal => "-wal",
            Self::Shm => "-shm",
            Self::Journal => "-journal",
        }
    }
}

/// Returns the path of a sidecar; `database` is resolved, for SQLite names it after the file that it finds.
pub fn sidecar(database: &Path, which: Sidecar) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push(which.ending());
    PathBuf::from(path)
}

/// Returns the length of a sidecar; `None` if there is none.
pub fn sidecar_bytes(database: &Path, which: Sidecar) -> Result<Option<u64>> {
    let path = sidecar(database, which);
    match std::fs::symlink_metadata(&path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("stat", &path, error)),
    }
}
