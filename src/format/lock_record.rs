//! The body of a lock file: who holds the repository, and for what.
//!
//! ```text
//! {"hostname":"vm","pid":29846,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}
//! ```
//!
//! Compact, no newline. The body is for people and for its owner; whether a lock still counts is decided by
//! its age. So any body may turn up, and reading one may fail.
//!
//! After these four fields, which are all that others read or compare, packvault writes a fifth, an object of its
//! own: what tells this lock from every other, and its process from every other of this machine.

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
    /// What packvault adds; others have none.
    pub holder: Option<Holder>,
}

/// What packvault adds to a lock record. What is not known is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holder {
    /// Different in every lock.
    pub id: String,
    /// The start of the machine.
    pub boot: String,
    /// The namespace in which the number of the process counts.
    pub pid_namespace: String,
    /// The namespace by whose clock its start is told.
    pub time_namespace: String,
    /// The start of the process, in ticks since the machine's.
    pub started: u64,
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
        if let Some(holder) = &self.holder {
            json.key("packvault");
            holder.write(&mut json);
        }
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
            // What cannot be read here says nothing, and the rest counts all the same.
            holder: fields.object("packvault").ok().flatten().and_then(|fields| Holder::parse(fields).ok()),
        })
    }
}

impl Holder {
    fn write(&self, json: &mut JsonWriter) {
        json.begin_object();
        for (key, value) in [
            ("id", &self.id),
            ("boot", &self.boot),
            ("pid_namespace", &self.pid_namespace),
            ("time_namespace", &self.time_namespace),
        ] {
            json.key(key);
            json.string(value);
        }
        json.key("started");
        json.string(&self.started.to_string());
        json.end_object();
    }

    fn parse(mut fields: Fields<'_>) -> Result<Self> {
        Ok(Self {
            id: fields.lenient("id")?,
            boot: fields.lenient("boot")?,
            pid_namespace: fields.lenient("pid_namespace")?,
            time_namespace: fields.lenient("time_namespace")?,
            started: fields.lenient::<String>("started")?.parse().unwrap_or_default(),
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

    #[test]
    fn what_packvault_adds_comes_last_and_costs_nothing_when_it_is_garbage() {
        let mut record = LockRecord::decode(EXAMPLE.as_bytes()).unwrap();
        let holder = Holder { id: "01kw".to_owned(), started: 4711, ..Holder::default() };
        record.holder = Some(holder);
        let text = String::from_utf8(record.encode()).unwrap();
        let start = EXAMPLE.strip_suffix('}').unwrap();
        assert!(text.starts_with(start) && text[start.len()..].starts_with(r#","packvault":{"id":"01kw","#));
        for garbage in ["1", "[]", "null", r#"{"id":7}"#] {
            let text = format!(r#"{start},"packvault":{garbage}}}"#);
            let read = LockRecord::decode(text.as_bytes()).unwrap();
            assert_eq!((read.pid, read.holder), (29846, None), "{garbage}");
        }
    }

    proptest! {
        #[test]
        fn every_record_reads_back(
            hostname in any::<String>(),
            pid in any::<i64>(),
            operation in any::<String>(),
            acquired_at in any::<String>(),
            started in any::<u64>(),
            has_holder in any::<bool>(),
        ) {
            let holder = Holder { id: hostname.clone(), boot: operation.clone(), started, ..Holder::default() };
            let holder = has_holder.then_some(holder);
            let record = LockRecord { hostname, pid, operation, acquired_at, holder };
            prop_assert_eq!(LockRecord::decode(&record.encode()).unwrap(), record);
        }
    }
}
