//! The body of a lock file: who holds the repository, and for what.
//!
//! ```text
//! {"hostname":"vm","pid":29846,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}
//! ```
//!
//! Compact, no newline. The body is for people and for its owner; whether a lock still counts is decided by
//! its age. So any body may turn up, and reading one may fail.

use serde::Deserialize;

use super::error::{FormatError, Result};
use super::go_json::JsonWriter;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct LockRecord {
    /// The machine.
    pub hostname: String,
    /// The process.
    pub pid: i64,
    /// What it is doing: `create`, `verify`, `restore`.
    pub operation: String,
    /// Since when, RFC 3339.
    pub acquired_at: String,
}

impl LockRecord {
    /// Returns the bytes of the lock file.
    pub fn encode(&self) -> Vec<u8> {
        let mut json = JsonWriter::new();
        json.begin_object();
        json.key("hostname");
        json.string(&self.hostname);
        json.key("pid");
        json.integer(self.pid);
        json.key("operation");
        json.string(&self.operation);
        json.key("acquired_at");
        json.string(&self.acquired_at);
        json.end_object();
        json.finish().into_bytes()
    }

    /// Reads a lock file; missing and unknown keys are tolerated.
    pub fn decode(file: &[u8]) -> Result<Self> {
        serde_json::from_slice(file)
            .map_err(|error| FormatError::corrupt(format!("lock record is not readable: {error}")))
    }
}
