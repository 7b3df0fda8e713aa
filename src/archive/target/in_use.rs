//! Whether another program has a database open: a restore over it would leave that program writing to a file
//! that is gone.
//!
//! SQLite's locks show it, and where they do not - a database with a rollback journal has none while nobody reads or
//! writes - the open files of all processes that this user may look at. While the files are moved the lock of a
//! writer is held, so that nobody begins in between.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, openat};

use crate::archive::database_file::{ExclusiveLock, Opener, ShownLock, lock_shown, log_lock_shown, openers};
use crate::{Error, ErrorKind, Result};

/// How often is looked for a program that has a database open, and the pause between two looks.
const LOOKS: u32 = 10;
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The locks of a writer on databases; dropping it lets them go.
#[derive(Debug, Default)]
pub struct Held(Vec<ExclusiveLock>);

impl Held {
    /// Locks one more database against everybody, as far as its file system has locks.
    pub fn hold(&mut self, folder: &OwnedFd, name: &str, shown: &Path) -> Result<()> {
        let Some(file) = open(folder, name, OFlags::RDWR | OFlags::NOFOLLOW) else { return Ok(()) };
        let file = Arc::new(file);
        match ExclusiveLock::take(&file) {
            Ok(Some(lock)) => self.0.push(lock),
            Ok(None) => return Err(in_use(shown, lock_shown(&file).ok().flatten().as_ref())),
            Err(_) => {}
        }
        Ok(())
    }
}

/// Refuses if another program has the database open, or holds a lock on it.
pub fn check(folder: &OwnedFd, name: &str, shown: &Path) -> Result<()> {
    // A link is followed: it is that file which the program has open.
    let Some(main) = open(folder, name, OFlags::RDONLY) else { return Ok(()) };
    let of_log = open(folder, &format!("{name}-shm"), OFlags::RDONLY);
    let of_log = of_log.and_then(|file| log_lock_shown(&file).ok().flatten());
    if let Some(lock) = lock_shown(&main).ok().flatten().or(of_log) {
        return Err(in_use(shown, Some(&lock)));
    }
    match lasting_opener(&main) {
        Some(opener) => Err(said(shown, &format!("process {}, {}", opener.pid, opener.name))),
        None => Ok(()),
    }
}

/// Returns who has the file open each time that is looked. A process that was forked a moment ago has the files of its
/// parent open, ours among them, until it runs its own program.
fn lasting_opener(file: &File) -> Option<Opener> {
    for _ in 1..LOOKS {
        openers(file).unwrap_or_default().into_iter().next()?;
        std::thread::sleep(LOOK_PAUSE);
    }
    openers(file).unwrap_or_default().into_iter().next()
}

fn open(folder: &OwnedFd, name: &str, flags: OFlags) -> Option<File> {
    let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(folder.as_fd(), name, flags, Mode::empty()).ok()?);
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
}

fn in_use(shown: &Path, lock: Option<&ShownLock>) -> Error {
    let Some(process) = lock.and_then(|lock| lock.pid) else {
        return said(shown, "which one the system does not tell");
    };
    let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
    said(shown, format!("process {process}, {}", name.trim()).trim_end_matches(", "))
}

fn said(shown: &Path, who: &str) -> Error {
    let message = format!(
        "cannot restore over {}: another program has it open ({who}), and would go on writing to the file that was \
         there; stop it first, or give --force",
        shown.display()
    );
    Error::new(ErrorKind::InUse, message)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// Starts a program that has the file open for so many seconds; the file is open already.
    fn program(file: &Path, seconds: &str) -> std::process::Child {
        let file = File::open(file).unwrap();
        Command::new("sleep").arg(seconds).stdin(Stdio::from(file)).spawn().unwrap()
    }

    #[test]
    fn who_has_a_database_open_is_in_the_way_and_who_had_it_open_for_a_moment_is_not() {
        let place = tempfile::tempdir().unwrap();
        let database = place.path().join("db");
        std::fs::write(&database, "x").unwrap();
        let folder = OwnedFd::from(File::open(place.path()).unwrap());
        let mut passing = program(&database, "0.1");
        let mut lasting = program(&database, "60");
        let error = check(&folder, "db", &database).unwrap_err();
        assert!(error.chain().contains(&format!("process {}", lasting.id())), "{}", error.chain());
        lasting.kill().unwrap();
        lasting.wait().unwrap();
        passing.wait().unwrap();
        let mut passing = program(&database, "0.1");
        check(&folder, "db", &database).unwrap();
        passing.wait().unwrap();
    }
}
