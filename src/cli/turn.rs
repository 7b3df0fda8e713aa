//! One run of an archive at a time on this machine: a lock file that the system gives back when its holder ends, however
//! that happens.
//!
//! The repository's own lock keeps writers apart; this one keeps a second run from waiting for each of its steps in
//! turn, and from telling that all of them failed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use packvault::format::{BlobId, timestamp};
use packvault::{Cancel, Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::Instant;

/// The longest that is waited for another run.
const WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How often it is looked whether the other run has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What is read of the file of another run.
const HOLDER_BYTES_MAX: u64 = 200;

/// The right to run; given back when it is dropped.
pub struct Turn {
    _held: File,
}

impl Turn {
    /// Takes the turn of an archive for a kind of work, or waits for it; `state` is packvault's folder for what it
    /// remembers.
    pub async fn take(state: &Path, kind: &str, archive: &str, waits: bool, cancel: &Cancel) -> Result<Self> {
        let mut file = open(state, kind, archive).map_err(|error| {
            let message = format!("cannot keep runs of {archive} apart in {}", state.display());
            Error::caused(ErrorKind::Io, message, error)
        })?;
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) if waits && Instant::now() < deadline => {}
                Err(Errno::WOULDBLOCK) => return Err(in_use(kind, archive, &mut file)),
                Err(error) => {
                    let message = format!("cannot keep runs of {archive} apart in {}", state.display());
                    return Err(Error::caused(ErrorKind::Io, message, std::io::Error::from(error)));
                }
            }
            tokio::select! {
                () = cancel.cancelled() => cancel.check()?,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
        // For people only, so it may fail.
        let _ = tell(&mut file);
        Ok(Self { _held: file })
    }
}

fn open(state: &Path, kind: &str, archive: &str) -> std::io::Result<File> {
    let folder = state.join("runs");
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    // A name may hold what no file name can.
    let name = BlobId::of(archive.as_bytes()).to_string();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // The locks of runs have no more than that in their names, and always had.
    let ending = if kind == "run" { "lock".to_owned() } else { format!("{kind}.lock") };
    options.open(folder.join(format!("{}.{ending}", &name[..32])))
}

fn tell(file: &mut File) -> std::io::Result<()> {
    let since = timestamp::format(Timestamp::now());
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "process {}, since {since}", std::process::id())
}

fn in_use(kind: &str, archive: &str, file: &mut File) -> Error {
    let mut holder = String::new();
    let read = file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
    let holder = match read.is_ok() && !holder.is_empty() {
        true => format!(" ({holder})"),
        false => String::new(),
    };
    let wait = if kind == "run" { "; --wait waits for its end" } else { "" };
    let message = format!("another {kind} of {archive} is at work{holder}{wait}");
    Error::new(ErrorKind::InUse, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_run_of_an_archive_is_refused_and_one_of_another_is_not() {
        let state = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        let take = async |archive: &str| Turn::take(state.path(), "run", archive, false, &cancel).await;
        let first = take("mail/../x").await.unwrap();
        let error = take("mail/../x").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        take("chats").await.unwrap();
        let watch = Turn::take(state.path(), "watch", "mail/../x", false, &cancel).await.unwrap();
        let error = Turn::take(state.path(), "watch", "mail/../x", false, &cancel).await.err().unwrap();
        assert!(error.to_string().starts_with("another watch of mail/../x is at work"), "{error}");
        drop(watch);
        drop(first);
        take("mail/../x").await.unwrap();
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1, "nothing lies elsewhere");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_gets_the_turn_or_is_stopped() {
        let state = tempfile::tempdir().unwrap();
        let cancel = Cancel::new();
        let first = Turn::take(state.path(), "run", "mail", true, &cancel).await.unwrap();
        let waiting = Turn::take(state.path(), "run", "mail", true, &cancel);
        let letting_go = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(waiting, letting_go);
        let waiting = Turn::take(state.path(), "run", "mail", true, &cancel);
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            cancel.cancel();
        };
        let (third, ()) = tokio::join!(waiting, stopping);
        assert_eq!(third.err().unwrap().kind(), ErrorKind::Interrupted);
        drop(second);
    }
}
