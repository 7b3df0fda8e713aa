//! Files without a name: a program that is killed must not leave somebody's mail behind in plain text.
//!
//! A file that this program alone uses never has a name, where the file system can do that. SQLite opens a file
//! by its name only; for SQLite one is made in a folder of its own, opened while it is still empty, and both
//! names are gone before the first byte is written.
//!
//! Programs that were killed between making such a folder and removing it, or before any of this was so, have
//! left folders behind; [`sweep`] removes them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::getuid;

use crate::error::lift::io_error;
use crate::{Error, ErrorKind, Result};

/// How the folders of this program begin, in which a file has its name for a moment.
const PREFIX: &str = ".packvault-scratch-";
/// How those of before began.
const PREFIX_BEFORE: &str = ".tmp";
/// The file in them.
const NAME: &str = "archive.db";

/// Returns an empty file without a name on the disk of a folder, which is made if it is missing. Nobody else
/// can open it, and it is gone when the last handle is.
pub fn unnamed_file(folder: &Path) -> Result<File> {
    let made = make_folder(folder).and_then(|()| {
        let file = tempfile::tempfile_in(folder)?;
        // It has no name, but through /proc another process may reach it.
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(file)
    });
    made.map_err(|error| spool_error(folder, error))
}

/// Returns such a file, and what `open` makes of the name that it has for as long as `open` runs.
pub fn unnamed_file_opened<T>(folder: &Path, open: impl FnOnce(&Path) -> Result<T>) -> Result<(File, T)> {
    let place = make_folder(folder).and_then(|()| Place::make(folder));
    let place = place.map_err(|error| spool_error(folder, error))?;
    let path = place.0.join(NAME);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(|error| spool_error(folder, error))?;
    let opened = open(&path)?;
    place.remove().map_err(|error| io_error("remove the temporary folder", &place.0, error))?;
    Ok((file, opened))
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn spool_error(folder: &Path, error: std::io::Error) -> Error {
    let message = format!("cannot make a spool file in {}; --spool names another folder", folder.display());
    Error::caused(ErrorKind::Io, message, error)
}

/// A folder for one file, both removed by their names: that takes no descriptor, and so succeeds where the lack of
/// one has just kept a database from being opened.
struct Place(PathBuf);

impl Place {
    fn make(folder: &Path) -> std::io::Result<Self> {
        // Private whatever the umask: only such a one is swept.
        let private = Permissions::from_mode(0o700);
        let made = tempfile::Builder::new().prefix(PREFIX).permissions(private).tempdir_in(folder);
        made.map(|place| Self(place.keep()))
    }

    fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.0.join(NAME)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::remove_dir(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone already, unless something failed before; that is what the user hears of.
        let _ = self.remove();
    }
}

/// Removes what killed programs have left in a folder: folders of ours that hold nothing but a database. One
/// that another program is just making loses nothing but its empty file, and that program says so.
pub fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let path = entry.path();
        let named = name.to_str().is_some_and(|name| {
            let before = name.starts_with(PREFIX_BEFORE) && path.join(NAME).exists();
            before || (name.starts_with(PREFIX) && is_old(&path))
        });
        if named && is_left(&path) {
            // Another command may sweep at the same time; what cannot be removed is tried again next time.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// A folder of this program has a name for a moment only.
fn is_old(folder: &Path) -> bool {
    const MOMENT: std::time::Duration = std::time::Duration::from_secs(60);
    let modified = std::fs::symlink_metadata(folder).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > MOMENT))
}

/// Tells whether a folder is this user's own, closed to others, and holds the one database or nothing.
fn is_left(folder: &Path) -> bool {
    let Ok(metadata) = std::fs::symlink_metadata(folder) else { return false };
    let private = metadata.is_dir() && metadata.uid() == getuid().as_raw() && metadata.mode() & 0o077 == 0;
    let Ok(mut entries) = std::fs::read_dir(folder) else { return false };
    private && entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == NAME))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn count(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn a_spool_file_has_no_name_and_nobody_else_can_open_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/cache");
        let mut file = unnamed_file(&place).unwrap();
        file.write_all(b"mail").unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o777, count(&place)), (0, 0o600, 0));
        assert_eq!(std::fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(folder.path().join("deep")).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_that_is_opened_by_its_name_has_none_afterwards_whatever_becomes_of_the_opening() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("cache");
        let open = |path: &Path| {
            assert_eq!(std::fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
            Ok(File::open(path).unwrap())
        };
        let (mut file, opened) = unnamed_file_opened(&place, open).unwrap();
        file.write_all(b"mail").unwrap();
        let seen = opened.metadata().unwrap();
        assert_eq!((seen.len(), seen.nlink(), seen.mode() & 0o777, count(&place)), (4, 0, 0o600, 0));
        let refuse = |_: &Path| Err::<(), _>(Error::new(ErrorKind::Io, "no"));
        assert_eq!(unnamed_file_opened(&place, refuse).unwrap_err().to_string(), "no");
        assert_eq!(count(&place), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named_with_the_cause_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("file");
        std::fs::write(&place, "x").unwrap();
        for error in [unnamed_file(&place).unwrap_err(), unnamed_file_opened(&place, |_| Ok(())).unwrap_err()]
        {
            let said = error.chain();
            assert!(said.contains(&format!("{}; --spool names another folder", place.display())), "{said}");
            assert!(std::error::Error::source(&error).is_some(), "{said}");
        }
    }

    #[test]
    fn what_was_left_behind_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32, file: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join(file), "mail").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        make(".tmpAbCdEf", 0o700, NAME);
        make(".tmpOther0", 0o700, "notes.txt");
        make(".tmpShared", 0o755, NAME);
        make("kept", 0o700, NAME);
        make(".packvault-scratch-young", 0o700, NAME);
        std::fs::create_dir(folder.path().join(".tmpEmpty0")).unwrap();
        sweep(folder.path());
        sweep(&folder.path().join("none"));
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".packvault-scratch-young", ".tmpEmpty0", ".tmpOther0", ".tmpShared", "kept"]);
    }
}
