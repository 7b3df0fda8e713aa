//! The error of every floor above `format`: a kind for callers, a message for people, the cause kept.
//!
//! A message names the operation and the object, in lower case, without a full stop, and does not repeat
//! its cause. Hints and exit codes belong to the command line.

use std::fmt;

/// What callers may match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself cannot be meant: a flag, a path, an id.
    Usage,
    /// No repository lies at the location.
    NoRepository,
    /// Another process holds the repository's lock.
    Locked,
    /// The archive is in use, by its application or by another backup.
    InUse,
    /// The key does not open the repository.
    WrongKey,
    /// The user stopped the operation.
    Interrupted,
    /// What was asked for is not there: a snapshot, a file.
    NotFound,
    /// The destination or the source is not in a state in which going on would be safe.
    Refused,
    /// The repository, or the target of a restore, belongs to another archive.
    OtherArchive,
    /// Whoever runs this may not read or write what lies there; nothing is known to be wrong with it.
    NotPermitted,
    /// Stored bytes are not what they must be.
    Damaged,
    /// Written by a newer version, or of a kind this version does not handle.
    Unsupported,
    /// The source archive cannot be captured: a file is missing, changed, or not what the database says.
    Source,
    /// Reading or writing failed.
    Io,
}

/// An error of packvault.
pub struct Error {
    kind: ErrorKind,
    message: String,
    lacks_room: bool,
    is_unanswered: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of every fallible function above `format`.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), lacks_room: false, is_unanswered: false, source: None }
    }

    /// Makes an error that keeps its cause.
    pub fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = Some(source.into());
        Self { kind, message: message.into(), lacks_room: false, is_unanswered: false, source }
    }

    /// Returns what callers may match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Remembers that a store said so: what its own errors mean is known where they are lifted.
    pub(crate) fn lacking_room(self) -> Self {
        Self { lacks_room: true, ..self }
    }

    /// Remembers that nothing was learnt of what is stored: a store gave no answer, however often it was asked, or
    /// this machine had no place to work on it.
    pub(crate) fn unanswered(self) -> Self {
        Self { is_unanswered: true, ..self }
    }

    /// Tells whether nothing can be said about what is stored: the user stopped the operation, the store did not
    /// answer, or this machine had no memory, no descriptor or no place for the answer. Who goes on past damage ends here, and calls nothing
    /// damaged.
    pub fn is_inconclusive(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let of_ours = error.downcast_ref::<Self>();
            if of_ours.is_some_and(|error| error.is_unanswered || error.kind == ErrorKind::Interrupted)
                || is_lack_of_means(error)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Tells whether nothing is known of what is stored, whatever kept it from being read: no answer, a stop, or a
    /// permission that is missing. None of these is damage.
    pub fn is_no_finding(&self) -> bool {
        self.is_inconclusive() || self.kind == ErrorKind::NotPermitted
    }

    /// Tells whether a disk or a store has no room left, whatever else went wrong because of that.
    pub fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let of_system = error.downcast_ref::<std::io::Error>();
            let of_ours = error.downcast_ref::<Self>();
            let of_sqlite =
                error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
            if of_system.is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
                || of_ours.is_some_and(|error| error.lacks_room)
                || of_sqlite == Some(rusqlite::ErrorCode::DiskFull)
            {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Tells whether a file would have become larger than this process, or the file system, allows.
    pub fn is_too_large(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let of_system = error.downcast_ref::<std::io::Error>();
            if of_system.is_some_and(|error| error.kind() == std::io::ErrorKind::FileTooLarge) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Returns an error that says and means the same, for another who waited for the same thing.
    pub(crate) fn repeated(&self) -> Self {
        Self {
            kind: self.kind,
            message: self.chain(),
            lacks_room: self.is_full(),
            is_unanswered: self.kind != ErrorKind::Interrupted && self.is_inconclusive(),
            source: None,
        }
    }

    /// Returns the message and every cause, joined by `: `, in one line.
    pub fn chain(&self) -> String {
        let mut line = self.message.clone();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        line
    }
}

fn is_lack_of_means(error: &(dyn std::error::Error + 'static)) -> bool {
    let of_system = error.downcast_ref::<std::io::Error>();
    error.is::<std::collections::TryReserveError>()
        || of_system.is_some_and(|error| {
            let too_many_files = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE];
            error.kind() == std::io::ErrorKind::OutOfMemory
                || error
                    .raw_os_error()
                    .is_some_and(|code| too_many_files.map(|no| no.raw_os_error()).contains(&code))
        })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.chain())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
