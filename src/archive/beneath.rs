//! Opening files below an open folder, one component at a time, without following a link.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

use crate::error::lift::{file_error, io_error};
use crate::{Error, ErrorKind, Result};

/// Opens the folder itself; a link at the path is followed, for it is the user's own.
pub fn open_folder(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| file_error("open the folder", path, errno))
}

/// Opens a folder below a held one; no component may be a link. `None` when it does not exist.
pub fn folder_at(folder: impl AsFd, relative: &str, shown: &Path) -> Result<Option<OwnedFd>> {
    let mut held = folder.as_fd().try_clone_to_owned().map_err(|error| io_error("open", shown, error))?;
    for part in relative.split('/').filter(|part| !part.is_empty()) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        held = match openat(&held, part, flags, Mode::empty()) {
            Ok(next) => next,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(not_plain(shown, "a link or no folder on the way"));
            }
            Err(errno) => return Err(file_error("open", shown, errno)),
        };
    }
    Ok(Some(held))
}

/// Opens a regular file below an open folder; no component may be a link. `None` when it does not exist.
///
/// A fifo or device is opened without waiting and refused by its type before anything is read from it.
pub fn file_at(folder: impl AsFd, relative: &str, shown: &Path) -> Result<Option<(File, Stat)>> {
    let (parent, name) = match relative.rsplit_once('/') {
        Some((parent, name)) => match folder_at(&folder, parent, shown)? {
            Some(parent) => (parent, name),
            None => return Ok(None),
        },
        None => {
            let held = folder.as_fd().try_clone_to_owned();
            (held.map_err(|error| io_error("open", shown, error))?, relative)
        }
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(&parent, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => return Err(not_plain(shown, "a symbolic link")),
        Err(Errno::NOTDIR) => return Err(not_plain(shown, "below something that is no folder")),
        Err(Errno::NXIO) => return Err(not_plain(shown, "a socket or device")),
        Err(errno) => return Err(file_error("open", shown, errno)),
    };
    let stat = fstat(&file).map_err(|errno| file_error("stat", shown, errno))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Some((File::from(file), stat))),
        FileType::Directory => Err(not_plain(shown, "a folder")),
        FileType::Fifo => Err(not_plain(shown, "a fifo")),
        FileType::Socket => Err(not_plain(shown, "a socket")),
        _ => Err(not_plain(shown, "a device")),
    }
}

/// Returns what lies at a path below an open folder, without opening it; no folder on the way may be a link. `None` when
/// nothing does.
pub fn stat_at(folder: impl AsFd, relative: &str, shown: &Path) -> Result<Option<Stat>> {
    let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
    let Some(parent) = folder_at(folder, parent, shown)? else { return Ok(None) };
    match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(file_error("stat", shown, errno)),
    }
}

/// Tells whether two stats are of the same unchanged file.
pub fn unchanged(before: &Stat, after: &Stat) -> bool {
    before.st_dev == after.st_dev
        && before.st_ino == after.st_ino
        && before.st_size == after.st_size
        && before.st_mtime == after.st_mtime
        && before.st_mtime_nsec == after.st_mtime_nsec
}

fn not_plain(shown: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Source, format!("{} is not a plain file: it is {what}", shown.display()))
}
