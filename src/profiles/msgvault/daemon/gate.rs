//! The gate of a running daemon, and the choice between it and the lock files (section 10.2).
//!
//! The daemon has a watchdog: 60 s after the beginning it lets its writers go on by itself. A freeze that it
//! ended is one that may have been written into, so only its own word at the end makes a capture good.
//!
//! A daemon that is starting is waited for, and so are lock files where none is found: one that is started again holds
//! them before its record is there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::config::{CONFIG_BYTES_MAX, MsgvaultConfig, Secret};
use super::client::Answer;
use super::{Daemon, find, in_folder};
use crate::archive::gate::{Gate, Gatekeeper};
use crate::archive::ownership::LockFiles;
use crate::cancel::Cancel;
use crate::error::lift::io_error;
use crate::progress::Progress;
use crate::{Error, ErrorKind, Result, plain_file};

/// How long a daemon that is starting is waited for.
const STARTING_MAX: Duration = Duration::from_secs(120);
/// How long lock files are waited for, in all.
const LOCKED_MAX: Duration = Duration::from_secs(30);
/// The pause before a daemon that is busy is asked again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often a wait looks whether it was cancelled.
const CANCEL_PAUSE: Duration = Duration::from_millis(50);
/// Characters of a token.
const TOKEN_LENGTH_MAX: usize = 256;

/// Holds msgvault's writers off: by its daemon where one lives, by its lock files where none does.
#[derive(Debug)]
pub struct MsgvaultGatekeeper {
    /// Where records and lock files lie.
    pub data_dir: PathBuf,
    /// msgvault's configuration, which holds the key of its server.
    pub config_file: PathBuf,
    /// The lock files, in the order in which they are taken.
    pub lock_names: Vec<String>,
    /// How long it waits for what passes by itself.
    pub patience: Patience,
}

/// How long is waited for what passes by itself.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a daemon that is starting.
    pub starting: Duration,
    /// For lock files that somebody holds.
    pub locked: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { starting: STARTING_MAX, locked: LOCKED_MAX }
    }
}

impl Gatekeeper for MsgvaultGatekeeper {
    fn begin(&self, cancel: &Cancel, progress: &dyn Progress) -> Result<Box<dyn Gate>> {
        let (asked_at, mut said) = (Instant::now(), None);
        loop {
            let (obstacle, patience) = match self.try_to_begin(cancel, progress)? {
                Tried::Begun(gate) => return Ok(gate),
                Tried::Starting(obstacle) => (obstacle, self.patience.starting),
                Tried::Locked(obstacle) => (obstacle, self.patience.locked),
            };
            if asked_at.elapsed() >= patience {
                return Err(obstacle);
            }
            let text = format!("waiting up to {} s: {}", patience.as_secs(), obstacle.chain());
            say_once(&mut said, text, progress);
            pause(cancel)?;
        }
    }
}

/// What became of one attempt to hold msgvault's writers off.
enum Tried {
    Begun(Box<dyn Gate>),
    /// Its daemon is starting.
    Starting(Error),
    /// No daemon is found, and another process holds a lock file.
    Locked(Error),
}

impl MsgvaultGatekeeper {
    fn try_to_begin(&self, cancel: &Cancel, progress: &dyn Progress) -> Result<Tried> {
        match find(&self.data_dir) {
            Ok(Some(daemon)) => {
                let key = api_key(&self.config_file)?;
                Ok(Tried::Begun(Box::new(begin(daemon, key, cancel, progress)?)))
            }
            Err(error) if error.kind() == ErrorKind::InUse => Ok(Tried::Starting(error)),
            Err(error) => Err(error),
            // A daemon that starts from here on finds the locks taken, or has taken them before.
            Ok(None) => {
                match LockFiles(in_folder(&self.data_dir, &self.lock_names)).begin(cancel, progress) {
                    Ok(gate) => Ok(Tried::Begun(gate)),
                    Err(error) if error.kind() == ErrorKind::InUse => Ok(Tried::Locked(error)),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// A freeze that the daemon has begun and not been told to end.
#[derive(Debug)]
struct DaemonGate {
    daemon: Daemon,
    key: Option<Secret>,
    token: String,
    since: Instant,
    is_over: bool,
}

impl Gate for DaemonGate {
    fn since(&self) -> Instant {
        self.since
    }

    fn end(mut self: Box<Self>) -> Result<()> {
        self.is_over = true;
        let answer = self.daemon.client.end_freeze(self.key.as_ref(), &self.token).map_err(|error| {
            Error::caused(error.kind(), "cannot tell msgvault to go on, so the backup is not taken", error)
        })?;
        check_end(&answer)
    }
}

impl Drop for DaemonGate {
    fn drop(&mut self) {
        if !self.is_over {
            // Reached only by a panic: better told late than left to the watchdog.
            let _ = self.daemon.client.end_freeze(self.key.as_ref(), &self.token);
        }
    }
}

fn begin(
    daemon: Daemon,
    key: Option<Secret>,
    cancel: &Cancel,
    progress: &dyn Progress,
) -> Result<DaemonGate> {
    let mut said = None;
    loop {
        cancel.check()?;
        let since = Instant::now();
        let answer = daemon.client.begin_freeze(key.as_ref()).map_err(|error| {
            let message = "msgvault was asked to pause and gave no answer; if it has paused, it goes on by \
                           itself within 60 s";
            Error::caused(error.kind(), message, error)
        })?;
        if answer.status == 503 && answer.code() == "operation_in_progress" {
            say_once(&mut said, waits_for(&daemon, &answer, key.as_ref()), progress);
            pause(cancel)?;
            continue;
        }
        let token = check_begin(&answer, key.is_some())?;
        return Ok(DaemonGate { daemon, key, token, since, is_over: false });
    }
}

fn waits_for(daemon: &Daemon, answer: &Answer, key: Option<&Secret>) -> String {
    let what = answer.message(key).map(|message| format!(": {message}")).unwrap_or_default();
    format!("waiting for msgvault (process {}) to finish other work{what}", daemon.pid)
}

fn say_once(said: &mut Option<String>, text: String, progress: &dyn Progress) {
    if said.as_ref() != Some(&text) {
        progress.remark(&text);
        *said = Some(text);
    }
}

fn pause(cancel: &Cancel) -> Result<()> {
    let until = Instant::now() + RETRY_PAUSE;
    while Instant::now() < until {
        cancel.check()?;
        std::thread::sleep(CANCEL_PAUSE);
    }
    Ok(())
}

/// Returns the token of a freeze that has begun.
fn check_begin(answer: &Answer, has_key: bool) -> Result<String> {
    let (kind, message) = match (answer.status, answer.code().as_str()) {
        (200, _) => {
            let token = answer.json().and_then(|body| Some(body["token"].as_str()?.to_owned()));
            let token = token.filter(|token| (1..=TOKEN_LENGTH_MAX).contains(&token.len()));
            let message = "msgvault has paused, but named no token to let it go on by; it goes on by itself \
                           within 60 s";
            return token.ok_or_else(|| Error::new(ErrorKind::Refused, message));
        }
        (401, _) if has_key => {
            (ErrorKind::Refused, "msgvault refuses the API key of its own configuration".to_owned())
        }
        (401, _) => {
            (ErrorKind::Refused, "msgvault wants an API key, and its configuration has none".to_owned())
        }
        (404, "not_found") => (
            ErrorKind::Refused,
            "msgvault does not take packvault for a program on its own machine".to_owned(),
        ),
        (409, "backup_freeze_active") => {
            (ErrorKind::InUse, "another backup of the archive is being taken".to_owned())
        }
        (503, "server_busy") => (ErrorKind::InUse, "msgvault is shutting down".to_owned()),
        _ => (ErrorKind::Refused, format!("msgvault, asked to pause, {}", answer.describe())),
    };
    Err(Error::new(kind, message))
}

/// Checks that the freeze has lasted until it was ended.
fn check_end(answer: &Answer) -> Result<()> {
    let (kind, message) = match (answer.status, answer.code().as_str()) {
        (200, _) => return Ok(()),
        (400, "backup_freeze_not_active") => (
            ErrorKind::Source,
            "msgvault did not pause for long enough: it went on before the database was captured".to_owned(),
        ),
        (400, "invalid_request") => (
            ErrorKind::Refused,
            "msgvault does not understand how it is told to go on, so the backup is not taken; it goes on by \
             itself within 60 s"
                .to_owned(),
        ),
        _ => (
            ErrorKind::Refused,
            format!("cannot tell msgvault to go on, so the backup is not taken: it {}", answer.describe()),
        ),
    };
    Err(Error::new(kind, message))
}

/// Returns the key of msgvault's server, if it has one.
fn api_key(config_file: &Path) -> Result<Option<Secret>> {
    match plain_file::read_text(config_file, CONFIG_BYTES_MAX) {
        Ok(text) => Ok(MsgvaultConfig::parse(&text)?.server_api_key),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read msgvault's configuration", config_file, error)),
    }
}
