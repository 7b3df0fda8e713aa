//! How making a sample fails, and in which words.

use std::path::Path;

/// Why a sample was not made, or not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for cannot be made.
    #[error("{0}")]
    Refused(String),
    /// Something failed on the way; what is there is rubbish.
    #[error("{what}")]
    Failed {
        /// What could not be done.
        what: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What making a sample gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns any error into the crate's.
pub(crate) trait OrFail<T> {
    /// Says what could not be done: "cannot `what`".
    fn or_fail(self, what: &str) -> Result<T>;

    /// Says what could not be done, and to which file.
    fn or_fail_at(self, what: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<Box<dyn std::error::Error + Send + Sync>>> OrFail<T> for std::result::Result<T, E> {
    fn or_fail(self, what: &str) -> Result<T> {
        self.map_err(|error| Error::Failed { what: format!("cannot {what}"), source: error.into() })
    }

    fn or_fail_at(self, what: &str, path: &Path) -> Result<T> {
        self.or_fail(&format!("{what} {}", path.display()))
    }
}

/// Refuses what the caller asked for.
pub(crate) fn refuse<T>(message: String) -> Result<T> {
    Err(Error::Refused(message))
}
