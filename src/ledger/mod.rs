//! The ledger: what packvault did on this machine, and when. One SQLite file, `ledger.sqlite`, in packvault's folder for
//! state.
//!
//! It is history, not truth: it may be deleted, and nothing that is restored or judged depends on it. So it is never a
//! reason for anything to fail. [`Ledger::open`] gives none where none can be had, with a sentence if the user should
//! know; `file` says which file is used, `schema` what stands in it, `writing` how a run is recorded, `questions` what
//! can be asked, `coverage` how much of a repository was read and since when.
//!
//! The file is opened for a moment and closed again: nothing is held while a command works.

mod coverage;
mod file;
mod questions;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
mod writing;

use std::path::Path;

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};

pub use coverage::{Coverage, PackRank};
pub use questions::{Ended, RunFilter};
pub use rows::{CopyRow, DrillRow, PlaceRow, ReadingRow, RunRow, SizeRow};
pub use writing::{Copied, Drill, End, PackRead, PlaceKey, PlaceSeen, Recorded, Run, RunId, Sizes};

/// What the ledger is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// To record: what is missing is made.
    Write,
    /// To ask: nothing is made.
    Read,
}

/// What came of opening the ledger.
#[derive(Debug, Default)]
pub struct Opened {
    /// The ledger, where there is one that can be used.
    pub ledger: Option<Ledger>,
    /// What the user should know.
    pub warning: Option<String>,
}

/// The ledger of this machine.
#[derive(Debug)]
pub struct Ledger {
    connection: Connection,
}

impl Ledger {
    /// Opens the ledger in a folder, which is made if it is missing and something is to be recorded. Never fails, and
    /// waits a second at most for others.
    pub fn open(folder: &Path, access: Access) -> Opened {
        file::open(folder, access)
    }
}

/// Lifts an error of SQLite.
fn failed(what: &str, error: rusqlite::Error) -> Error {
    Error::caused(ErrorKind::Io, format!("cannot {what} the ledger"), error)
}

/// Returns the answer to a question, or says that there is none.
fn answered<T>(result: rusqlite::Result<T>) -> Result<T> {
    result.map_err(|error| failed("read", error))
}
