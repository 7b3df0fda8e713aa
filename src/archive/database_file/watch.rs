//! What a reading of a database rests on, looked at before its first page and after its last.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::log_place::Checkpoints;
use super::{LogPlace, SharedLock, Sidecar, Stillness, sidecar};
use crate::error::lift::io_error;
use crate::{Error, ErrorKind, Result};

/// The length of a log's header, which every new beginning of the log changes.
const LOG_HEADER_BYTES: u64 = 32;

/// What must not change while a database is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rests {
    /// The main file.
    OnFile,
    /// The main file, and the log so far as it was written when the reading began.
    OnFileAndLog,
    /// Nothing: SQLite's locks keep what is read, and a checkpoint may write what is seen to the main file.
    OnLocks,
}

/// A database that is being read. To be dropped after SQLite has closed it.
#[derive(Debug)]
pub struct Watch {
    scan: Arc<File>,
    path: PathBuf,
    place: LogPlace,
    rests: Rests,
    is_guarded: bool,
    before: Before,
    header_seen: Option<Vec<u8>>,
    checkpoints: Option<Checkpoints>,
    _lock: Option<SharedLock>,
}

/// A database's files before they are read.
#[derive(Debug)]
pub struct Before {
    stillness: Stillness,
    log: Option<LogFacts>,
}

impl Before {
    /// Takes the facts of the files; waits until whatever changes from now on shows.
    pub fn take(scan: &File, path: &Path) -> Result<Self> {
        let stillness = Stillness::begin(scan);
        let stillness = stillness.map_err(|error| io_error("look at the database", path, error))?;
        Ok(Self { stillness, log: LogFacts::of(path)? })
    }
}

/// Why what was read is not of one moment: the source of such an error.
#[derive(Debug)]
pub struct Moved {
    what: String,
    is_guarded: bool,
}

impl std::fmt::Display for Moved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Moved {}

impl Moved {
    /// Returns what moved, if that is what the error is about: then a new attempt may succeed.
    pub fn of(error: &Error) -> Option<&Self> {
        std::error::Error::source(error).and_then(|source| source.downcast_ref())
    }

    /// Tells whether SQLite's locks stood in the way of the change, so that whoever made it does without.
    pub fn is_without_locks(&self) -> bool {
        self.is_guarded
    }

    /// Makes the error of a database that moved while it was read.
    pub fn error(path: &Path, what: impl Into<String>, is_guarded: bool) -> Error {
        let message = format!("the database {} changed while it was read", path.display());
        Error::caused(ErrorKind::Source, message, Self { what: what.into(), is_guarded })
    }
}

impl Watch {
    /// Watches a database whose files are as they were before; `is_guarded` says that SQLite's locks forbid
    /// others to change what the reading rests on. `header_seen` is the database's header as the reading sees
    /// it, log included: the main file's may become this one, and no other.
    pub fn since(
        before: Before,
        (scan, path): (Arc<File>, &Path),
        (place, lock): (LogPlace, Option<SharedLock>),
        (rests, is_guarded): (Rests, bool),
        header_seen: Option<Vec<u8>>,
    ) -> Self {
        let path = path.to_owned();
        let checkpoints = match rests {
            Rests::OnLocks => place.checkpoints(&path),
            Rests::OnFile | Rests::OnFileAndLog => None,
        };
        Self { scan, path, place, rests, is_guarded, before, header_seen, checkpoints, _lock: lock }
    }

    /// Tells whether SQLite's locks forbid others to change what the reading rests on.
    pub fn is_guarded(&self) -> bool {
        self.is_guarded
    }

    /// Refuses if what the reading rests on is not as it was.
    pub fn check(&self) -> Result<()> {
        let moved = |what: &str| Err(Moved::error(&self.path, what, self.is_guarded));
        if !names(&self.path, &self.scan) {
            return moved("another file has taken its place");
        }
        let broken = self.before.stillness.broken(&self.scan);
        let broken = broken.map_err(|error| io_error("look at the database", &self.path, error))?;
        let by_checkpoint = self.rests == Rests::OnLocks && self.may_be_by_checkpoint()?;
        if let Some(what) = broken.filter(|_| !by_checkpoint) {
            return moved(&what);
        }
        if let Some(what) = self.log_moved()? {
            return moved(what);
        }
        let again = self.place.check_again(&self.scan, &self.path);
        again.map_err(|error| Error::caused(error.kind(), error.to_string(), self.elsewhere()))
    }

    /// Tells whether a checkpoint may have changed the main file: one has gone on, and the file's header is what
    /// it was, or what the reading sees.
    fn may_be_by_checkpoint(&self) -> Result<bool> {
        let now = self.place.checkpoints(&self.path);
        let went_on = match (&self.checkpoints, now) {
            (Some(before), Some(now)) => now.went_on_since(before) || self.log_began_anew()?,
            // Without a look at the index nothing speaks against it.
            _ => true,
        };
        let header = self.header_seen.as_deref().unwrap_or_default();
        let known = self.before.stillness.has_header(&self.scan, header);
        Ok(went_on && known.map_err(|error| io_error("look at the database", &self.path, error))?)
    }

    fn log_began_anew(&self) -> Result<bool> {
        let header = |facts: Option<&LogFacts>| facts.map(|facts| facts.header.clone());
        Ok(header(LogFacts::of(&self.path)?.as_ref()) != header(self.before.log.as_ref()))
    }

    fn elsewhere(&self) -> Moved {
        Moved { what: "that was found when it had been read".to_owned(), is_guarded: false }
    }

    fn log_moved(&self) -> Result<Option<&'static str>> {
        let Some(before) = &self.before.log else { return Ok(None) };
        if self.rests == Rests::OnFile && !self.is_guarded {
            // A program that opens the database while nobody holds the log makes a new log: that is no harm.
            return Ok(None);
        }
        let Some(now) = LogFacts::of(&self.path)? else { return Ok(Some("its log was removed")) };
        if now.identity != before.identity {
            return Ok(Some("another log has taken the place of its log"));
        }
        let has_restarted = now.header != before.header || now.bytes < before.bytes;
        Ok((self.rests == Rests::OnFileAndLog && has_restarted).then_some("its log began anew"))
    }
}

/// Tells whether the path still leads to the open file.
fn names(path: &Path, scan: &File) -> bool {
    let (Ok(named), Ok(held)) = (std::fs::metadata(path), scan.metadata()) else { return false };
    (named.dev(), named.ino()) == (held.dev(), held.ino())
}

/// What the log of a database is at one moment.
#[derive(Debug, PartialEq, Eq)]
struct LogFacts {
    identity: (u64, u64),
    bytes: u64,
    header: Vec<u8>,
}

impl LogFacts {
    /// SQLite holds no locks on the log itself, so it may be opened and closed.
    fn of(database: &Path) -> Result<Option<Self>> {
        let path = sidecar(database, Sidecar::Wal);
        let named = match std::fs::metadata(&path) {
            Ok(named) => named,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("stat", &path, error)),
        };
        let mut header = Vec::new();
        // A log that cannot be read is not read by SQLite either.
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        if let Ok(log) = opened {
            let read = log.take(LOG_HEADER_BYTES).read_to_end(&mut header);
            read.map_err(|error| io_error("read", &path, error))?;
        }
        Ok(Some(Self { identity: (named.dev(), named.ino()), bytes: named.len(), header }))
    }
}
