//! How making a sample fails: every cause becomes an `Io` error that says what was being done.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// Turns any error into the crate's.
pub(super) trait OrFail<T> {
    /// Says what could not be done: "cannot `what`".
    fn or_fail(self, what: &str) -> Result<T>;

    /// Says what could not be done, and to which file.
    fn or_fail_at(self, what: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, what: &str) -> Result<T> {
        self.map_err(|error| Error::caused(ErrorKind::Io, format!("cannot {what}"), error))
    }

    fn or_fail_at(self, what: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::caused(ErrorKind::Io, format!("cannot {what} {}", path.display()), error))
    }
}

/// Refuses what the caller asked for.
pub(super) fn usage<T>(message: String) -> Result<T> {
    Err(Error::new(ErrorKind::Usage, message))
}
