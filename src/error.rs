//! The error of every floor above `format`: a kind for callers, a message for people, the cause kept.
//!
//! A message names the operation and the object, in lower case, without a full stop, and does not repeat
//! its cause. Hints and exit codes belong to the command line.

pub(crate) mod lift;

use std::fmt;

use rustix::io::Errno;

/// What callers may match on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request itself cannot be meant: a flag, a path, an id.
    Usage,
    /// No repository lies at the location.
    NoRepository,
    /// A repository lies there, and its `config.toml` does not.
    ConfigLost,
    /// Another process holds the repository's lock.
    Locked,
    /// The archive is in use, by its application or by another backup.
    InUse,
    /// The repository is encrypted, and no key was given.
    NoKey,
    /// The key that was given is not the repository's; a plain repository has none.
    WrongKey,
    /// The repository is not the one it must be: another id, another key, or not encrypted.
    NotTheSame,
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
    obstacle: Option<Obstacle>,
    is_unanswered: bool,
    left: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What of this machine, or of a store, was in the way, and is nobody's damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// A disk, a quota or a store has no room left.
    NoRoom,
    /// A file would have become larger than this process, or the file system, allows.
    FileSize,
    /// This process, or the machine, has too many files open for another one.
    OpenFiles,
    /// The file system can only be read.
    ReadOnly,
}

impl Obstacle {
    /// Reads it from one error, without that error's causes.
    fn of(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
        if let Some(error) = error.downcast_ref::<rusqlite::Error>() {
            return (error.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull))
                .then_some(Self::NoRoom);
        }
        let error = error.downcast_ref::<std::io::Error>()?;
        match error.kind() {
            StorageFull | QuotaExceeded => Some(Self::NoRoom),
            FileTooLarge => Some(Self::FileSize),
            ReadOnlyFilesystem => Some(Self::ReadOnly),
            _ => is_of_open_files(error).then_some(Self::OpenFiles),
        }
    }
}

fn is_of_open_files(error: &std::io::Error) -> bool {
    let errnos = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| errnos.contains(&code))
}

/// The result of every fallible function above `format`.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), obstacle: None, is_unanswered: false, left: None, source: None }
    }

    /// Makes an error that keeps its cause.
    pub fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = Some(source.into());
        Self { kind, message: message.into(), obstacle: None, is_unanswered: false, left: None, source }
    }

    /// Returns what callers may match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Remembers that a store said so: what its own errors mean is known where they are lifted.
    pub(crate) fn lacking_room(self) -> Self {
        Self { obstacle: Some(Obstacle::NoRoom), ..self }
    }

    /// Remembers that nothing was learnt of what is stored: a store gave no answer, however often it was asked, or
    /// this machine had no place to work on it.
    pub(crate) fn unanswered(self) -> Self {
        Self { is_unanswered: true, ..self }
    }

    /// Adds a sentence about what the operation could not clear away when it failed. It is no cause of the error.
    pub(crate) fn leaving(self, what: String) -> Self {
        Self { left: Some(what), ..self }
    }

    /// Returns the sentence about what the operation could not clear away, however deep in the causes it was added.
    pub fn left_behind(&self) -> Option<&str> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(left) = error.downcast_ref::<Self>().and_then(|error| error.left.as_deref()) {
                return Some(left);
            }
            cause = error.source();
        }
        None
    }

    /// Tells whether nothing was learnt about what is stored: the user stopped the operation, the store did not
    /// answer, or this machine had no memory, no descriptor or no place for the answer.
    ///
    /// An operation that goes on after damage must stop at such an error, and must not call anything damaged.
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
        self.obstacle() == Some(Obstacle::NoRoom)
    }

    /// Returns what of this machine or of the store was in the way, however deep in the causes it is named.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let of_ours = error.downcast_ref::<Self>().and_then(|error| error.obstacle);
            if let Some(obstacle) = of_ours.or_else(|| Obstacle::of(error)) {
                return Some(obstacle);
            }
            cause = error.source();
        }
        None
    }

    /// Returns an error that says and means the same, for another who waited for the same thing.
    pub(crate) fn repeated(&self) -> Self {
        Self {
            kind: self.kind,
            message: self.chain(),
            obstacle: self.obstacle(),
            is_unanswered: self.kind != ErrorKind::Interrupted && self.is_inconclusive(),
            left: self.left_behind().map(str::to_owned),
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
        || of_system
            .is_some_and(|error| error.kind() == std::io::ErrorKind::OutOfMemory || is_of_open_files(error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_repeated_for_another_who_waited_keeps_what_was_in_the_way() {
        let errnos = [
            (Errno::NOSPC, Obstacle::NoRoom),
            (Errno::DQUOT, Obstacle::NoRoom),
            (Errno::FBIG, Obstacle::FileSize),
            (Errno::MFILE, Obstacle::OpenFiles),
            (Errno::NFILE, Obstacle::OpenFiles),
            (Errno::ROFS, Obstacle::ReadOnly),
        ];
        for (errno, obstacle) in errnos {
            let error = Error::caused(ErrorKind::Io, "cannot read pack 01kw", std::io::Error::from(errno));
            let error = Error::caused(ErrorKind::Io, "cannot read blob 00", error);
            assert_eq!(error.obstacle(), Some(obstacle), "{errno}");
            assert_eq!(error.repeated().obstacle(), Some(obstacle), "{errno}");
            assert_eq!(error.repeated().is_inconclusive(), error.is_inconclusive(), "{errno}");
        }
        let other = Error::caused(ErrorKind::Io, "cannot read", std::io::Error::from(Errno::IO));
        assert_eq!(other.repeated().obstacle(), None);
    }
}
