//! What lies at a name in a folder: all that decides whether it can be replaced.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::error::lift::file_error;

/// The bit of a mode by which a folder's files belong to their owners alone.
const STICKY: u32 = 0o1000;

/// A file as it was seen: another length or time means that somebody has written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The length.
    pub bytes: u64,
    /// When it was written to, in seconds.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
}

/// What lies at a name.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub kind: FileType,
    /// Its permission bits, with those above them.
    pub mode: u32,
    /// Its owner.
    pub user: u32,
    /// Its length and time.
    pub seen: Seen,
    /// Whether it is marked so that nobody may rename or remove it.
    pub is_immutable: bool,
    /// By which mount it is reached; where the system does not tell, the number of its file system.
    pub mount: u64,
}

impl Entry {
    /// Looks at a name, which may be a link; `None` if nothing is there.
    pub fn find(folder: &OwnedFd, name: &str, shown: &Path) -> Result<Option<Self>> {
        match look(folder, name) {
            Ok(entry) => Ok(Some(entry)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(file_error("stat", shown, errno)),
        }
    }

    /// Looks at a folder itself.
    pub fn of(folder: &OwnedFd, shown: &Path) -> Result<Self> {
        look(folder, ".").map_err(|errno| file_error("stat", shown, errno))
    }

    /// Tells whether it is a folder.
    pub fn is_folder(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Tells whether it is a plain file.
    pub fn is_file(&self) -> bool {
        self.kind == FileType::RegularFile
    }

    /// Tells whether only owners may rename and remove what is in this folder.
    pub fn is_sticky(&self) -> bool {
        self.mode & STICKY != 0
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn look(folder: &OwnedFd, name: &str) -> rustix::io::Result<Entry> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    let found = match statx(folder, name, flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID) {
        Ok(found) => found,
        Err(Errno::NOSYS) => return look_without_mounts(folder, name),
        Err(errno) => return Err(errno),
    };
    let tells_mount = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    let device = u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor);
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    Ok(Entry {
        kind: FileType::from_raw_mode(found.stx_mode.into()),
        mode: found.stx_mode.into(),
        user: found.stx_uid,
        seen: Seen {
            bytes: found.stx_size,
            seconds: found.stx_mtime.tv_sec,
            nanoseconds: found.stx_mtime.tv_nsec,
        },
        is_immutable: found.stx_attributes.intersects(fixed),
        mount: if tells_mount { found.stx_mnt_id } else { device },
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn look(folder: &OwnedFd, name: &str) -> rustix::io::Result<Entry> {
    look_without_mounts(folder, name)
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "widths differ between systems")]
fn look_without_mounts(folder: &OwnedFd, name: &str) -> rustix::io::Result<Entry> {
    let found = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(Entry {
        kind: FileType::from_raw_mode(found.st_mode),
        mode: u32::from(found.st_mode),
        user: found.st_uid,
        seen: Seen {
            bytes: found.st_size as u64,
            seconds: found.st_mtime as i64,
            nanoseconds: found.st_mtime_nsec as u32,
        },
        is_immutable: false,
        mount: found.st_dev as u64,
    })
}
