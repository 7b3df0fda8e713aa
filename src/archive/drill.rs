//! A private folder for a restore that nobody keeps: made, filled, and removed whatever happens.
//!
//! A program that is killed removes nothing. So the folder is remembered before it is made, in a mark: a small file in
//! packvault's folder for state that holds the folder's path, and is locked from before it has its name until the program
//! ends. A mark that can be locked is of a program that is gone, and the next command removes what it names. Nothing is
//! removed on the word of a mark alone: the folder must have our name, this user as its owner, and be closed to others.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Permissions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::error::lift::io_error;
use crate::{Error, ErrorKind, Result};

/// How the folders are called.
const PREFIX: &str = ".packvault-restore-check-";
/// The longest mark that is read.
const MARK_BYTES_MAX: u64 = 16 * 1024;
/// Marks that are looked at.
const MARKS_MAX: usize = 1_000;

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub struct DrillFolder {
    path: PathBuf,
    mark: PathBuf,
    /// Locked as long as this program works in the folder.
    _held: File,
    is_removed: bool,
}

impl DrillFolder {
    /// Makes a folder below `scratch`, which is made if it is missing, and its mark in `marks`; where none can lie there,
    /// in `scratch`.
    pub fn make(scratch: &Path, marks: Option<&Path>) -> Result<Self> {
        let failed = |error| {
            let message =
                format!("cannot restore into {}; --scratch names another folder", scratch.display());
            Error::caused(ErrorKind::Io, message, error)
        };
        let make_folder = |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path);
        make_folder(scratch).map_err(failed)?;
        let scratch = std::fs::canonicalize(scratch).map_err(failed)?;
        // Where nothing is remembered of this machine, marks lie here.
        sweep(&scratch);
        let place = |marks: &Path| {
            make_folder(marks)?;
            tempfile::Builder::new().prefix(PREFIX).suffix(".new").tempfile_in(marks)
        };
        let marked = marks.ok_or(std::io::ErrorKind::NotFound.into()).and_then(place);
        let file = marked.or_else(|_| place(&scratch)).map_err(failed)?;
        let name = file.path().file_stem().unwrap_or_default().to_owned();
        let path = scratch.join(&name);
        let mark = file.path().with_file_name(with_ending(&name));
        let kept = (|| {
            file.as_file().lock()?;
            file.as_file().write_all(path.as_os_str().as_bytes())?;
            file.persist_noclobber(&mark).map_err(|error| error.error)
        })();
        let held = kept.map_err(failed)?;
        let folder = Self { path, mark, _held: held, is_removed: false };
        // Private whatever the umask: only such a one is swept.
        let made = DirBuilder::new().mode(0o700).create(&folder.path);
        made.and_then(|()| std::fs::set_permissions(&folder.path, Permissions::from_mode(0o700)))
            .map_err(failed)?;
        Ok(folder)
    }

    /// Returns the folder to restore into, which is not there.
    pub fn target(&self) -> PathBuf {
        self.path.join("restored")
    }

    /// Removes the folder with all that is in it.
    pub fn remove(mut self) -> Result<()> {
        self.is_removed = true;
        remove(&self.path).map_err(|error| io_error("remove", &self.path, error))?;
        // A mark without a folder is removed by the next command.
        let _ = std::fs::remove_file(&self.mark);
        Ok(())
    }
}

impl Drop for DrillFolder {
    fn drop(&mut self) {
        if !self.is_removed && remove(&self.path).is_ok() {
            let _ = std::fs::remove_file(&self.mark);
        }
    }
}

fn with_ending(name: &OsStr) -> std::ffi::OsString {
    let mut named = name.to_owned();
    named.push(".mark");
    named
}

/// Removes what programs that were killed have left, as the marks in a folder say.
pub fn sweep(marks: &Path) {
    let Ok(entries) = std::fs::read_dir(marks) else { return };
    for entry in entries.flatten().take(MARKS_MAX) {
        let mark = entry.path();
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with(PREFIX) || !entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            continue;
        }
        let no_wait = libc::O_NONBLOCK | libc::O_NOFOLLOW;
        let opened = File::options().read(true).custom_flags(no_wait).open(&mark);
        let Ok(mut file) = opened else { continue };
        // In a folder that everybody may write to, somebody may lay out a mark for what is at work.
        if !file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.uid() == geteuid().as_raw()) {
            continue;
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => continue,
        }
        let mut bytes = Vec::new();
        if (&mut file).take(MARK_BYTES_MAX).read_to_end(&mut bytes).is_err() {
            continue;
        }
        let folder = Path::new(OsStr::from_bytes(&bytes));
        let is_named = folder.file_name().is_some_and(|own| with_ending(own) == name);
        let is_over = match is_named && folder.is_absolute() {
            // One that was never finished names nothing.
            false => name.to_string_lossy().ends_with(".new") && is_old(&file),
            true => is_gone(folder) || (is_own(folder) && remove(folder).is_ok()),
        };
        if is_over {
            let _ = std::fs::remove_file(&mark);
        }
    }
}

/// Whoever makes a mark gives it its name in a moment.
fn is_old(file: &File) -> bool {
    const MOMENT: std::time::Duration = std::time::Duration::from_secs(60);
    let modified = file.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > MOMENT))
}

/// A folder whose disk is not mounted is not gone.
fn is_gone(folder: &Path) -> bool {
    let is_missing =
        std::fs::symlink_metadata(folder).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
    is_missing && folder.parent().is_some_and(Path::is_dir)
}

fn is_own(folder: &Path) -> bool {
    let named = folder.file_name().is_some_and(|name| name.as_bytes().starts_with(PREFIX.as_bytes()));
    let own = std::fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0
    });
    named && own
}

/// Removes a folder, also where folders in it were restored with a mode that forbids it.
fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(folder)?;
            std::fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

fn open_up(folder: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_folder_is_private_and_gone_with_its_mark_however_it_ends() {
        let place = tempfile::tempdir().unwrap();
        let (scratch, marks) = (place.path().join("deep/scratch"), place.path().join("state/scratch"));
        for is_told in [true, false] {
            let folder = DrillFolder::make(&scratch, Some(&marks)).unwrap();
            assert_eq!(std::fs::metadata(&folder.path).unwrap().mode() & 0o777, 0o700);
            std::fs::create_dir_all(folder.target().join("closed")).unwrap();
            std::fs::write(folder.target().join("closed/mail"), "mail").unwrap();
            std::fs::set_permissions(folder.target().join("closed"), Permissions::from_mode(0o500)).unwrap();
            sweep(&marks);
            assert!(folder.target().exists(), "whoever works there is left alone");
            match is_told {
                true => folder.remove().unwrap(),
                false => drop(folder),
            }
            assert_eq!((count(&scratch), count(&marks)), (0, 0));
        }
    }

    #[test]
    fn what_a_killed_program_left_goes_and_nothing_else_is_removed_on_the_word_of_a_mark() {
        let place = tempfile::tempdir().unwrap();
        let (scratch, marks) = (place.path().join("scratch"), place.path().join("marks"));
        let folder = DrillFolder::make(&scratch, Some(&marks)).unwrap();
        std::fs::create_dir(folder.target()).unwrap();
        let left = folder.path.clone();
        // As a killed program leaves it: the lock is gone, all else is there.
        let mark = folder.mark.clone();
        let text = std::fs::read(&mark).unwrap();
        std::mem::forget(folder);
        let other = marks.join(".packvault-restore-check-other.mark");
        std::fs::write(&other, place.path().join("kept").as_os_str().as_bytes()).unwrap();
        std::fs::create_dir(place.path().join("kept")).unwrap();
        let shared = scratch.join(".packvault-restore-check-shared");
        std::fs::create_dir(&shared).unwrap();
        std::fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
        let of_shared = marks.join(".packvault-restore-check-shared.mark");
        std::fs::write(&of_shared, shared.as_os_str().as_bytes()).unwrap();
        // The forgotten handle still holds the lock; a new file of the same content does not.
        std::fs::remove_file(&mark).unwrap();
        std::fs::write(&mark, text).unwrap();
        sweep(&marks);
        assert!(!left.exists() && !mark.exists());
        assert!(place.path().join("kept").exists() && shared.exists() && other.exists());
    }

    #[test]
    fn where_no_mark_can_lie_it_lies_beside_the_folder() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let scratch = place.path().join("scratch");
        let folder = DrillFolder::make(&scratch, Some(&file.join("marks"))).unwrap();
        assert_eq!(count(&scratch), 2);
        folder.remove().unwrap();
        assert_eq!(count(&scratch), 0);
        assert!(
            DrillFolder::make(&file.join("scratch"), None).unwrap_err().to_string().contains("--scratch")
        );
    }
}
