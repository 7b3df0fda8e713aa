//! msgvault's daemon: found, proved to be itself, and asked to hold its writers off (sections 10.2, 10.3).
//!
//! A daemon that lives is asked; one that lives and cannot be asked stops the backup, for it may be writing.
//! Only where none lives do its lock files decide. A record says where a daemon listens; nothing in it is
//! believed before the process behind it has proved that it holds the record's token, or, of a daemon that is too old
//! to, before the system has shown that it is the process of the record that listens there. The API key is not sent
//! before.

mod client;
mod gate;
mod identity;
mod process;
pub mod record;
mod socket;

use std::path::{Path, PathBuf};

pub use self::gate::{MsgvaultGatekeeper, Patience};

use self::client::{Answer, Client};
use self::process::Process;
use self::record::{Candidate, Record};
use crate::error::lift::io_error;
use crate::{Error, ErrorKind, Result};

/// The version of the daemon's protocol that is spoken here.
const API_VERSION: &str = "1";
/// By how much a recorded start may differ from the process's own: clocks are read at different moments.
const START_TOLERANCE_MILLISECONDS: u64 = 2000;

/// A daemon that has proved to be the one of its record.
#[derive(Debug)]
pub struct Daemon {
    pid: u32,
    client: Client,
}

/// Finds the daemon of the data folder; `None` if none lives. An error names the one that lives and cannot
/// be asked; one that is starting is in use, and worth waiting for.
pub fn find(data_dir: &Path) -> Result<Option<Daemon>> {
    let mut unresolved = None;
    for candidate in living(data_dir)? {
        let pid = candidate.pid();
        match candidate.into_record().and_then(|record| resolve(&record)) {
            Ok(daemon) => return Ok(Some(daemon)),
            Err(why) => unresolved = unresolved.or(Some((pid, why))),
        }
    }
    match unresolved {
        None => Ok(None),
        Some((pid, why)) => {
            let message = format!("msgvault may be running as process {pid}, and cannot be asked to pause");
            Err(Error::caused(why.kind(), message, why))
        }
    }
}

/// Refuses if anything answers where a daemon of this folder that lives is said to listen, understood or not.
pub fn check_none_responds(data_dir: &Path) -> Result<()> {
    for candidate in living(data_dir)? {
        let pid = candidate.pid();
        // A record that cannot be read names nobody to ask: the lock files decide.
        let Ok(client) = candidate.into_record().and_then(|record| Client::new(&record)) else { continue };
        if client.is_answered() {
            let message = format!("msgvault is running on it as process {pid}");
            return Err(Error::new(ErrorKind::InUse, message));
        }
    }
    Ok(())
}

/// Returns the records whose process lives and may be a daemon, in the order in which they are asked.
fn living(data_dir: &Path) -> Result<Vec<Candidate>> {
    let data_dir = match std::fs::canonicalize(data_dir) {
        Ok(resolved) => resolved,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io_error("find the folder", data_dir, error)),
    };
    let mut candidates = record::read_all(&data_dir)?;
    candidates.retain(|candidate| may_be(candidate, process::look(candidate.pid())));
    Ok(candidates)
}

/// Tells whether the process can be the one that wrote the record; its number may have been used again.
fn may_be(candidate: &Candidate, process: Process) -> bool {
    let recorded = candidate.record().and_then(|record| record.create_time);
    match process {
        Process::Gone => false,
        Process::Lives { started_at: None } => true,
        Process::Lives { started_at: Some(started_at) } => {
            recorded.is_none_or(|recorded| recorded.abs_diff(started_at) <= START_TOLERANCE_MILLISECONDS)
        }
    }
}

/// Asks the daemon of a record who it is. The API key is not needed, and not sent.
fn resolve(record: &Record) -> Result<Daemon> {
    if let Some(phase) = &record.startup_phase {
        return Err(Error::new(ErrorKind::InUse, format!("it is starting ({})", client::shown(phase))));
    }
    let client = Client::new(record)?;
    identity::prove(&client, record)?;
    check_ping(&client.ping()?, record.pid)?;
    match record.api_version.as_str() {
        API_VERSION => Ok(Daemon { pid: record.pid, client }),
        other => {
            let other = client::shown(other);
            let message =
                format!("it speaks version {other:?} of its protocol, packvault version {API_VERSION}");
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

fn check_ping(answer: &Answer, pid: u32) -> Result<()> {
    let refused = |why: String| Error::new(ErrorKind::Refused, why);
    if answer.status != 200 {
        return Err(refused(format!("its ping {}", answer.describe())));
    }
    let pong = answer.json().ok_or_else(|| refused("its ping does not answer with JSON".to_owned()))?;
    if pong["ok"] != true || pong["service"] != record::SERVICE {
        return Err(refused("its ping does not answer as msgvault".to_owned()));
    }
    match pong["pid"].as_u64() {
        Some(found) if found == u64::from(pid) => Ok(()),
        Some(found) => Err(refused(format!("process {found} answers in its place"))),
        None => Err(refused("its ping does not name a process".to_owned())),
    }
}

/// Makes the path of a lock file or a record in the data folder.
fn in_folder(data_dir: &Path, names: &[String]) -> Vec<PathBuf> {
    names.iter().map(|name| data_dir.join(name)).collect()
}

#[cfg(test)]
mod tests;
