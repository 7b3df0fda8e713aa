//! The subject of every error of one call.

use crate::{Error, ErrorKind, Operation};

/// What is being done to which object; makes its errors. Drivers add those of their own.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The step.
    pub operation: Operation,
    /// The object, or whatever else it is about.
    pub object: &'a str,
}

impl<'a> Step<'a> {
    /// Names the subject.
    pub fn new(operation: Operation, object: &'a str) -> Self {
        Self { operation, object }
    }

    /// Makes any error.
    pub fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error::new(kind, self.operation, self.object, detail)
    }

    /// Makes the error of an absent object.
    pub fn not_found(&self) -> Error {
        self.error(ErrorKind::NotFound, "it does not exist")
    }

    /// Makes the error of a taken key.
    pub fn already_exists(&self) -> Error {
        self.error(ErrorKind::AlreadyExists, "it exists already")
    }

    /// Makes the error of an object that somebody else has changed.
    pub fn changed(&self) -> Error {
        self.error(ErrorKind::Changed, "it holds other bytes now")
    }

    /// Makes the error of a link, a device or whatever else must not lie at the path.
    pub fn refused(&self, path: &str, what: &str) -> Error {
        self.error(ErrorKind::Unsafe, format!("{path} is {what}"))
    }
}
