//! The records by which a daemon is found: `daemon.<pid>.json` in the data folder.
//!
//! They belong to msgvault and are never changed or removed here. A record of another service, or one whose
//! name and content disagree about the process, is nobody's; one that cannot be read is kept as such, for the
//! process in its name may live.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;

use super::super::config::Secret;
use crate::archive::beneath::{file_at, open_folder};
use crate::error::lift::io_error;
use crate::{Error, ErrorKind, Result};

/// The service that a record of msgvault names, if it names one.
pub const SERVICE: &str = "msgvault";

/// Bytes of a record that are read.
const RECORD_BYTES_MAX: u64 = 64 * 1024;
/// Records that are looked at.
const RECORDS_MAX: usize = 10_000;

/// What a record says.
#[derive(Debug)]
pub struct Record {
    /// The process that wrote it.
    pub pid: u32,
    /// When the daemon started, by its own words; orders records.
    pub started_at: Option<Timestamp>,
    /// Where it listens.
    pub address: SocketAddr,
    /// The version of its protocol.
    pub api_version: String,
    /// What the daemon proves itself by.
    pub shutdown_token: Option<Secret>,
    /// When its process started, in milliseconds since 1970.
    pub create_time: Option<i64>,
    /// Present while the daemon is starting.
    pub startup_phase: Option<String>,
}

/// A record that may be a daemon's, read or not.
#[derive(Debug)]
pub enum Candidate {
    /// It was read.
    Read(Record),
    /// It could not be; the process is the one in its name.
    Unreadable(u32, Error),
}

impl Candidate {
    /// Returns the process.
    pub fn pid(&self) -> u32 {
        match self {
            Self::Read(record) => record.pid,
            Self::Unreadable(pid, _) => *pid,
        }
    }

    /// Returns the record if it was read.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Read(record) => Some(record),
            Self::Unreadable(..) => None,
        }
    }

    /// Returns the record, or why it could not be read.
    pub fn into_record(self) -> Result<Record> {
        match self {
            Self::Read(record) => Ok(record),
            Self::Unreadable(_, why) => Err(why),
        }
    }
}

/// Reads every record in the folder, oldest daemon first, then by process; unreadable ones come last.
pub fn read_all(data_dir: &Path) -> Result<Vec<Candidate>> {
    let entries =
        std::fs::read_dir(data_dir).map_err(|error| io_error("read the folder", data_dir, error))?;
    let mut candidates = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| io_error("read the folder", data_dir, error))?;
        let name = entry.file_name();
        let Some((name, pid)) = name.to_str().and_then(|name| Some((name, pid_in(name)?))) else { continue };
        if candidates.len() == RECORDS_MAX {
            let message = format!("{} holds too many records of daemons", data_dir.display());
            return Err(Error::new(ErrorKind::Refused, message));
        }
        match read(data_dir, name, pid) {
            Ok(record) => candidates.extend(record.map(Candidate::Read)),
            Err(error) => candidates.push(Candidate::Unreadable(pid, error)),
        }
    }
    candidates.sort_by_key(|candidate| {
        let record = candidate.record();
        (record.is_none(), record.and_then(|record| record.started_at), candidate.pid())
    });
    Ok(candidates)
}

/// Returns the process in the name of a record.
fn pid_in(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("daemon.")?.strip_suffix(".json")?;
    let pid: u32 = digits.parse().ok()?;
    // No leading zero or sign: a process has one name.
    (pid > 0 && pid.to_string() == digits).then_some(pid)
}

/// Reads one record; `None` if it is nobody's, or gone by now.
fn read(data_dir: &Path, name: &str, pid: u32) -> Result<Option<Record>> {
    let path = data_dir.join(name);
    let Some((file, _)) = file_at(open_folder(data_dir)?, name, &path)? else { return Ok(None) };
    let mut text = Vec::new();
    file.take(RECORD_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|error| io_error("read the record", &path, error))?;
    parse(&text, pid).map_err(|why| {
        Error::new(ErrorKind::Refused, format!("cannot read the record {}: {why}", path.display()))
    })
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    address: String,
    #[serde(default)]
    service: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// Parses a record. Nothing of it is quoted in an error: it holds the daemon's token.
fn parse(text: &[u8], pid: u32) -> std::result::Result<Option<Record>, Unusable> {
    if text.len() as u64 > RECORD_BYTES_MAX {
        return Err(Unusable("it is too long"));
    }
    let written: Written = serde_json::from_slice(text).map_err(|_| Unusable("it is not valid"))?;
    if written.pid != pid || written.address.is_empty() {
        return Ok(None);
    }
    if !written.service.is_empty() && written.service != SERVICE {
        return Ok(None);
    }
    let mut metadata = written.metadata.unwrap_or_default();
    let mut take = |key: &str| metadata.remove(key).filter(|value| !value.is_empty());
    let (host, port) = (take("host"), take("port"));
    Ok(Some(Record {
        pid,
        started_at: written.started_at.parse().ok(),
        address: address(host.as_deref(), port.as_deref(), &written.address)?,
        api_version: take("api_version").unwrap_or_default(),
        shutdown_token: take("shutdown_token").map(Secret::new),
        create_time: take("create_time").and_then(|text| text.parse().ok()),
        startup_phase: take("startup_phase"),
    }))
}

struct Unusable(&'static str);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Returns where the daemon listens: the host and port of the metadata, or those of the address.
///
/// Names are not looked up: a daemon of this machine has an address on it, and the key must not go wherever a
/// name server says.
fn address(
    host: Option<&str>,
    port: Option<&str>,
    written: &str,
) -> std::result::Result<SocketAddr, Unusable> {
    let (written_host, written_port) = written.rsplit_once(':').unwrap_or((written, ""));
    let host = host.unwrap_or(if port.is_some() { "" } else { written_host });
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.unwrap_or(written_port).parse().ok().filter(|port| *port != 0);
    let port: u16 = port.ok_or(Unusable("it names no port"))?;
    let ip = match host {
        "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => host.parse().map_err(|_| Unusable("its host is no address"))?,
    };
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(metadata: &str) -> std::result::Result<Option<Record>, Unusable> {
        let text = format!(
            r#"{{"pid": 7, "network": "tcp", "address": "127.0.0.1:1", "service": "msgvault",
                "started_at": "2026-01-02T03:04:05Z", "process_identity": "x", "metadata": {{{metadata}}}}}"#
        );
        parse(text.as_bytes(), 7)
    }

    #[test]
    fn a_record_says_where_its_daemon_listens() {
        for (metadata, expected) in [
            (r#""host": "", "port": "8080""#, "127.0.0.1:8080"),
            (r#""host": "0.0.0.0", "port": "8080""#, "127.0.0.1:8080"),
            (r#""host": "::", "port": "8080""#, "[::1]:8080"),
            (r#""host": "192.168.1.5", "port": "8080""#, "192.168.1.5:8080"),
            (r#""host": "localhost", "port": "8080""#, "127.0.0.1:8080"),
            ("", "127.0.0.1:1"),
        ] {
            let record = record(metadata).ok().flatten().expect(metadata);
            assert_eq!(record.address.to_string(), expected, "{metadata}");
        }
    }

    #[test]
    fn a_host_that_would_have_to_be_looked_up_is_refused() {
        for metadata in [r#""host": "example.com", "port": "8080""#, r#""port": "0""#, r#""port": "99999""#] {
            assert!(record(metadata).is_err(), "{metadata}");
        }
    }

    #[test]
    fn records_of_others_are_passed_over() {
        for text in [
            r#"{"pid": 8, "address": "127.0.0.1:1"}"#,
            r#"{"pid": 7, "address": ""}"#,
            r#"{"pid": 7, "address": "127.0.0.1:1", "service": "another"}"#,
        ] {
            assert!(matches!(parse(text.as_bytes(), 7), Ok(None)), "{text}");
        }
        let without_service = r#"{"pid": 7, "address": "127.0.0.1:1", "metadata": null}"#;
        assert!(matches!(parse(without_service.as_bytes(), 7), Ok(Some(_))));
    }

    #[test]
    fn records_come_in_the_order_of_their_start_and_what_cannot_be_read_comes_last() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let record = |pid: u32, started: &str| {
            format!(r#"{{"pid": {pid}, "address": "127.0.0.1:1", "started_at": "{started}"}}"#)
        };
        write("daemon.30.json", &record(30, "2026-01-02T03:04:05Z"));
        write("daemon.20.json", &record(20, "2026-01-02T03:04:06Z"));
        write("daemon.10.json", &record(10, "2026-01-02T05:04:05+02:00"));
        write("daemon.5.json", "{");
        write("daemon.6.json", &" ".repeat(RECORD_BYTES_MAX as usize + 1));
        write("daemon.007.json", &record(7, "2026-01-02T03:04:05Z"));
        write("daemon.lock", "");
        std::os::unix::fs::symlink("daemon.30.json", folder.path().join("daemon.4.json")).unwrap();
        let found = read_all(folder.path()).unwrap();
        let pids: Vec<u32> = found.iter().map(Candidate::pid).collect();
        assert_eq!(pids, [10, 30, 20, 4, 5, 6]);
        assert_eq!(found.iter().filter(|candidate| candidate.record().is_none()).count(), 3);
    }

    #[test]
    fn the_token_shows_up_neither_in_debug_nor_in_errors() {
        let record = record(r#""shutdown_token": "hunter2""#).ok().flatten().unwrap();
        assert!(!format!("{record:?}").contains("hunter2"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("daemon.7.json"), r#"{"metadata": {"shutdown_token": "hunter2""#)
            .unwrap();
        let shown = format!("{:?}", read_all(folder.path()).unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
