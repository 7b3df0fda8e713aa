//! What may never come: a pipe that nobody writes to, a file on a server that is gone, a program that hangs.
//!
//! It is waited for on a thread of its own, which is left to itself once the user stops the command: until the program
//! ends, soon after, it works on nothing that anybody else has.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use packvault::process::Family;
use packvault::{Cancel, Error, ErrorKind, Result};
use rustix::process::Signal;
use zeroize::Zeroizing;

/// How often it is looked whether the user has stopped the command.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a program that is to end may take to do so by itself.
const ENDS_WITHIN: Duration = Duration::from_millis(300);

/// Returns what the work comes to, unless the user stops the command before that. Where the system has no thread for it,
/// it is done on this one, and waited for.
pub fn unless_stopped<T: Send + 'static>(
    cancel: &Cancel,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let (tell, told) = sync_channel(1);
    let work = Arc::new(Mutex::new(Some(work)));
    let taken = Arc::clone(&work);
    let take = move || taken.lock().unwrap_or_else(PoisonError::into_inner).take();
    let aside = {
        let take = take.clone();
        // Nobody waits for what was given up.
        move || _ = take().map(|work| tell.send(work()))
    };
    let Ok(thread) = Builder::new().name("awaited".to_owned()).spawn(aside) else {
        let lost = || Error::new(ErrorKind::Io, "a thread that was not started took its work along");
        return take().map(|work| work()).ok_or_else(lost);
    };
    loop {
        match told.recv_timeout(GLANCE) {
            Ok(done) => return Ok(done),
            Err(RecvTimeoutError::Timeout) => cancel.check()?,
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    match thread.join() {
        Err(panic) => std::panic::resume_unwind(panic),
        Ok(()) => Err(Error::new(ErrorKind::Io, "a thread ended without a word")),
    }
}

/// Reads a file, which may be a pipe or a terminal; of a longer one a byte more than `bytes_max`.
pub fn read(
    path: &Path,
    bytes_max: u64,
    cancel: &Cancel,
    failed: impl FnOnce(io::Error) -> Error,
) -> Result<Zeroizing<Vec<u8>>> {
    let path = path.to_owned();
    let read = move || File::open(path).and_then(|file| read_bounded(file, bytes_max));
    unless_stopped(cancel, read)?.map_err(failed)
}

/// Reads all there is; of more, a byte more than `bytes_max`.
pub fn read_bounded(source: impl Read, bytes_max: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(bytes_max as usize + 2));
    source.take(bytes_max + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Waits for a program to end.
pub fn status(child: &mut Child, cancel: &Cancel) -> Result<io::Result<ExitStatus>> {
    loop {
        match child.try_wait() {
            Ok(None) => cancel.check()?,
            Ok(Some(status)) => return Ok(Ok(status)),
            Err(error) => return Ok(Err(error)),
        }
        std::thread::sleep(GLANCE);
    }
}

/// Ends a program with what it has started: asks first, for it may have hidden what is typed on a terminal.
pub fn end(child: &mut Child) {
    let family = Family::of(child.id());
    family.send(Signal::TERM);
    let deadline = Instant::now() + ENDS_WITHIN;
    while family.lives() && Instant::now() < deadline {
        // One that nobody has asked about does not go.
        let _ = child.try_wait();
        std::thread::sleep(GLANCE);
    }
    family.send(Signal::KILL);
    // Where the system does not tell of a family, at least the program itself ends.
    let _ = child.kill();
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A token that is cancelled in a moment.
    fn cancelled_soon() -> Cancel {
        let cancel = Cancel::new();
        let own = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            own.cancel();
        });
        cancel
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_waited_for_until_the_user_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let failed = |error| Error::caused(ErrorKind::Io, "cannot read", error);
        let error = read(&pipe, 10, &cancelled_soon(), failed).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn a_pipe_that_somebody_writes_to_late_is_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let mut writer = Command::new("sh");
        writer.args(["-c", "sleep 0.1; { printf hu; sleep 0.1; printf sh; } > \"$0\""]).arg(&pipe);
        let mut writer = writer.spawn().unwrap();
        let failed = |error| Error::caused(ErrorKind::Io, "cannot read", error);
        assert_eq!(read(&pipe, 10, &Cancel::new(), failed).unwrap().as_slice(), b"hush");
        assert_eq!(read(Path::new("/dev/zero"), 10, &Cancel::new(), failed).unwrap().len(), 11);
        writer.wait().unwrap();
    }

    #[test]
    fn a_program_that_hangs_ends_with_all_that_it_has_started() {
        let mut child =
            Command::new("sh").args(["-c", "trap '' TERM; sleep 600 & sleep 600"]).spawn().unwrap();
        while Family::of(child.id()).len() < 3 {
            std::thread::yield_now();
        }
        let family = Family::of(child.id());
        assert_eq!(status(&mut child, &cancelled_soon()).unwrap_err().kind(), ErrorKind::Interrupted);
        end(&mut child);
        let deadline = Instant::now() + Duration::from_secs(5);
        while family.lives() {
            assert!(Instant::now() < deadline, "something still runs");
            std::thread::sleep(GLANCE);
        }
    }

    #[test]
    fn a_panic_of_the_work_is_one_of_the_command() {
        let work = || -> u8 { panic!("as a test") };
        assert!(std::panic::catch_unwind(|| unless_stopped(&Cancel::new(), work)).is_err());
    }
}
