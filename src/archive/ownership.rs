//! Ownership of an archive while it is brought to rest: an application's own lock files.
//!
//! Where no daemon runs, whoever holds these locks is the only one to open the database for writing
//! (section 10.3). They are held for the freeze window, and for the whole of a restore into a live home.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::beneath::{file_error, io_error};
use super::gate::{Gate, Gatekeeper};
use crate::cancel::Cancel;
use crate::progress::Progress;
use crate::{Error, ErrorKind, Result};

/// Holds writers off by the lock files of an application that is stopped, in the order given.
#[derive(Debug, Clone, Default)]
pub struct LockFiles(pub Vec<PathBuf>);

impl Gatekeeper for LockFiles {
    fn begin(&self, _: &Cancel, _: &dyn Progress) -> Result<Box<dyn Gate>> {
        let since = Instant::now();
        Ok(Box::new(OwnedGate { since, _ownership: Ownership::take(&self.0)? }))
    }
}

#[derive(Debug)]
struct OwnedGate {
    since: Instant,
    _ownership: Ownership,
}

impl Gate for OwnedGate {
    fn since(&self) -> Instant {
        self.since
    }

    fn end(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Held locks; dropping them releases them in the reverse order.
#[derive(Debug, Default)]
pub struct Ownership {
    files: Vec<File>,
}

impl Ownership {
    /// Takes the lock files in the order given, without waiting; refuses if any is held.
    ///
    /// The files stay: removing a lock file that another process may have open would let two hold it.
    pub fn take(lock_files: &[PathBuf]) -> Result<Self> {
        let mut held = Self::default();
        for path in lock_files {
            held.files.push(lock(path)?);
        }
        Ok(held)
    }
}

impl Drop for Ownership {
    fn drop(&mut self) {
        while self.files.pop().is_some() {}
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32)
        .open(path)
        .map_err(|error| io_error("open the lock file", path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::new(
            ErrorKind::InUse,
            format!("the archive is in use: another process holds {}", path.display()),
        )),
        Err(errno) => Err(file_error("lock", path, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_refuses_a_second_owner_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let files = [folder.path().join("daemon.lock"), folder.path().join("db.write.lock")];
        let first = Ownership::take(&files).unwrap();
        let refused = Ownership::take(&files).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InUse);
        assert!(refused.to_string().contains("daemon.lock"), "{refused}");
        drop(first);
        Ownership::take(&files).unwrap();
    }
}
