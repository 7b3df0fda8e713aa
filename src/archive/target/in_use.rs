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

use rustix::fs::{Mode, OFlags, openat};

use crate::archive::database_file::{ExclusiveLock, ShownLock, lock_shown, log_lock_shown, openers};
use crate::{Error, ErrorKind, Result};

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
    match openers(&main).unwrap_or_default().first() {
        Some(opener) => Err(said(shown, &format!("process {}, {}", opener.pid, opener.name))),
        None => Ok(()),
    }
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
