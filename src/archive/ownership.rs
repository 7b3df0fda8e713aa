//! Ownership of an archive while it is brought to rest: an application's own lock files.
//!
//! Where no daemon runs, only the holder of these locks opens the database for writing (section 10.3). They are held for the freeze window, and for the whole of a restore into a live home.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::gate::{Gate, Gatekeeper};
use crate::cancel::Cancel;
use crate::error::lift::{file_error, io_error};
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
        while let Some(file) = self.files.pop() {
            // Closing would do, but for a child that is just being started: it has a copy until it runs its program.
            let _ = flock(&file, FlockOperation::Unlock);
        }
    }
}

fn lock(path: &Path) -> Result<File> {
    let file = match open_existing(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            make(path).or_else(|error| match error {
                error if error.kind() == std::io::ErrorKind::AlreadyExists => open_existing(path),
                error => Err(error),
            })
        }
        opened => opened,
    };
    let file = file.map_err(|error| io_error("open the lock file", path, error))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::new(
            ErrorKind::InUse,
            format!("the archive is in use: another process holds {}", path.display()),
        )),
        Err(errno) => Err(file_error("lock", path, errno)),
    }
}

fn open_existing(path: &Path) -> std::io::Result<File> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().read(true).write(true).custom_flags(no_link).open(path)
}

/// Makes a lock file that its application can use: one made by root belongs to the owner of its folder, from
/// the moment on at which it has its name.
fn make(path: &Path) -> std::io::Result<File> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let private = std::fs::Permissions::from_mode(0o600);
    let made = tempfile::Builder::new().permissions(private).tempfile_in(folder)?;
    give(made.as_file(), folder)?;
    match made.persist_noclobber(path) {
        Err(failed) if failed.error.kind() != std::io::ErrorKind::AlreadyExists => {
            // A file system that cannot give a file its name in one step.
            let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
            give(&made, folder)?;
            Ok(made)
        }
        made => Ok(made?),
    }
}

/// Gives a file that root has made to the owner of its folder.
fn give(made: &File, folder: &Path) -> std::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = std::fs::metadata(folder)?;
    std::os::unix::fs::fchown(made, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_that_root_makes_belongs_to_the_owner_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let owner =
            if rustix::process::geteuid().is_root() { 4001 } else { rustix::process::geteuid().as_raw() };
        std::os::unix::fs::chown(folder.path(), Some(owner), None).unwrap();
        let path = folder.path().join("daemon.lock");
        drop(Ownership::take(std::slice::from_ref(&path)).unwrap());
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.permissions().mode() & 0o777), (owner, 0o600));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

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
