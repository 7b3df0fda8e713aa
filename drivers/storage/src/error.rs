//! The one error of every storage: what was tried on which object, what kind of failure, and the cause.

use std::fmt;

use crate::{Key, Step};

/// What callers may match on. Retries follow [`ErrorKind::is_passing`] alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// No object lies under the key.
    NotFound,
    /// A create-only write found the key taken.
    AlreadyExists,
    /// The object is no longer what the caller expected.
    Changed,
    /// The object ends before the bytes that were asked for.
    Short,
    /// The store has no such step.
    Unsupported,
    /// The store does not let us.
    Denied,
    /// No room is left.
    Full,
    /// What lies there is no plain object or folder: a link, a device.
    Unsafe,
    /// The answer did not come in time; whether the step happened is not known.
    Timeout,
    /// The connection broke; whether the step happened is not known.
    Connection,
    /// The store asks us to slow down; the step did not happen.
    Throttled,
    /// Two writers met and the store let neither or only one pass; look at what is there.
    Conflict,
    /// The user stopped the operation; whether the step happened is not known.
    Interrupted,
    /// The storage was not configured in a way that can work.
    Config,
    /// Anything else that reading or writing met.
    Io,
}

impl ErrorKind {
    /// Tells whether the same step may succeed when tried again.
    pub fn is_passing(self) -> bool {
        matches!(self, Self::Timeout | Self::Connection | Self::Throttled | Self::Conflict)
    }
}

/// The step that failed; its `Display` reads after "cannot".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the method of `Storage` or `Staged` with its name")]
pub enum Operation {
    Open,
    Read,
    Stat,
    List,
    Create,
    Stage,
    Write,
    Seal,
    Discard,
    Replace,
    Touch,
    Rename,
    Remove,
    Sweep,
    MakeFolder,
    Now,
}

impl Operation {
    /// Returns the one word for it in a log.
    pub fn verb(self) -> &'static str {
        match self {
            Self::MakeFolder => "make_folder",
            Self::Now => "now",
            Self::Open => "open",
            Self::Read => "read",
            Self::Stat => "stat",
            Self::List => "list",
            Self::Create => "create",
            Self::Stage => "stage",
            Self::Write => "write",
            Self::Seal => "seal",
            Self::Discard => "discard",
            Self::Replace => "replace",
            Self::Touch => "touch",
            Self::Rename => "rename",
            Self::Remove => "remove",
            Self::Sweep => "sweep",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MakeFolder => "make the folder",
            Self::Now => "ask the time of",
            other => other.verb(),
        })
    }
}

/// A failed storage step.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    operation: Operation,
    object: String,
    detail: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of every storage step.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Makes an error about one object, or about whatever else `object` names.
    pub fn new(
        kind: ErrorKind,
        operation: Operation,
        object: impl fmt::Display,
        detail: impl Into<String>,
    ) -> Self {
        Self { kind, operation, object: object.to_string(), detail: detail.into(), source: None }
    }

    /// Adds the cause.
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says in which place there is no room, if that is what is wrong; objects do not tell.
    pub fn full_in(mut self, place: impl fmt::Display) -> Self {
        if self.kind == ErrorKind::Full {
            self.detail.push_str(&format!(": no room in {place}"));
        }
        self
    }

    /// Says whose permission is missing, if that is what is wrong; the system's own word does not tell.
    pub fn denied_by(mut self, explain: impl FnOnce() -> Option<String>) -> Self {
        if self.kind == ErrorKind::Denied
            && let Some(why) = explain()
        {
            self.detail.push_str(&format!(": {why}"));
        }
        self
    }

    /// Makes the error of an absent object.
    pub fn not_found(operation: Operation, key: &Key) -> Self {
        Step::new(operation, key.as_str()).not_found()
    }

    /// Makes the error of a taken key.
    pub fn already_exists(operation: Operation, key: &Key) -> Self {
        Step::new(operation, key.as_str()).already_exists()
    }

    /// Finds the storage step behind an error, or behind one of its causes.
    pub fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let causes = std::iter::successors(Some(error), |error| error.source());
        causes.into_iter().find_map(|error| error.downcast_ref())
    }

    /// Returns what callers may match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Tells whether it says that we cannot write: we may not, there is no room, or what failed was a step that
    /// writes, and trying again would not help. Some servers have one word for all of these.
    pub fn forbids_writing(&self) -> bool {
        use Operation::{
            Create, Discard, MakeFolder, Now, Remove, Rename, Replace, Seal, Stage, Touch, Write,
        };
        let writes = matches!(
            self.operation,
            Create | Discard | MakeFolder | Now | Remove | Rename | Replace | Seal | Stage | Touch | Write
        );
        match self.kind {
            ErrorKind::Denied | ErrorKind::Full => true,
            ErrorKind::Io | ErrorKind::Unsupported => writes,
            _ => false,
        }
    }

    /// Returns the step that failed.
    pub fn operation(&self) -> Operation {
        self.operation
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.operation, self.object)?;
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
