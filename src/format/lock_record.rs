//! The body of a lock file: who holds the repository, and for what.
//!
//! ```text
//! {"hostname":"vm","pid":29846,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}
//! ```
//!
//! Compact, no newline. The body is for people and for its owner; whether a lock still counts is decided by
//! its age. So any body may turn up, and reading one may fail.

use super::error::Result;
use super::go_json::JsonWriter;
use super::json_fields::Fields;

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
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
        Self::parse(file).map_err(|error| error.within("lock record"))
    }

    fn parse(file: &[u8]) -> Result<Self> {
        let mut fields = Fields::parse_bytes(file)?;
        Ok(Self {
            hostname: fields.lenient("hostname")?,
            pid: fields.lenient("pid")?,
            operation: fields.lenient("operation")?,
            acquired_at: fields.lenient("acquired_at")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EXAMPLE: &str =
        r#"{"hostname":"vm","pid":29846,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}"#;

    #[test]
    fn the_example_of_the_format_reads_and_writes() {
        let record = LockRecord::decode(EXAMPLE.as_bytes()).unwrap();
        assert_eq!(
            (record.hostname.as_str(), record.pid, record.operation.as_str()),
            ("vm", 29846, "create")
        );
        assert_eq!(record.encode(), EXAMPLE.as_bytes());
    }

    #[test]
    fn a_body_may_be_incomplete_but_not_garbage() {
        assert_eq!(LockRecord::decode(br#"{"more":1,"pid":-7}"#).unwrap().pid, -7);
        for bad in ["", "garbage", "{", "[]", r#"{"pid":"1"}"#, "{} {}"] {
            assert!(LockRecord::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_record_reads_back(
            hostname in any::<String>(),
            pid in any::<i64>(),
            operation in any::<String>(),
            acquired_at in any::<String>(),
        ) {
            let record = LockRecord { hostname, pid, operation, acquired_at };
            prop_assert_eq!(LockRecord::decode(&record.encode()).unwrap(), record);
        }
    }
}
