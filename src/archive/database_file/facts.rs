//! What a file is at one moment: everything that changes when somebody writes to it.
//!
//! The system is asked anew, also where a network file system keeps answers for a while.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The length of a database's header.
const HEADER_BYTES: usize = 100;
/// Where the header keeps the number that every transaction of a rollback-journal database changes.
const CHANGE_COUNTER: std::ops::Range<usize> = 24..28;

/// A moment of the file system's clock: seconds and nanoseconds.
pub type Time = (i64, u32);

/// What a file is at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Device and inode.
    pub identity: (u64, u64),
    /// Its length.
    pub bytes: u64,
    /// When it was last written to, so far as nobody has put that back.
    pub modified: Time,
    /// When anything of it last changed; nobody can put that back.
    pub changed: Time,
    /// How many names it has.
    pub names: u64,
    /// The user it belongs to.
    pub owner: u32,
    /// Whether it is itself the root of a mount: a single file that is bound to its place.
    pub is_mount_root: bool,
    pub(super) header: [u8; HEADER_BYTES],
}

impl Facts {
    /// Takes the facts of an open file.
    pub fn of(file: &File) -> io::Result<Self> {
        let mut facts = taken(file)?;
        let mut filled = 0;
        while filled < HEADER_BYTES {
            match file.read_at(&mut facts.header[filled..], filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        Ok(facts)
    }

    /// Says what is no longer as it was; `None` if everything is.
    pub fn difference(&self, before: &Self) -> Option<String> {
        let counter = |facts: &Self| facts.header[CHANGE_COUNTER].to_vec();
        if self.identity != before.identity {
            return Some("it is another file now".to_owned());
        }
        if self.bytes != before.bytes {
            return Some(format!("its length went from {} to {} bytes", before.bytes, self.bytes));
        }
        if counter(self) != counter(before) {
            return Some("its change counter went on".to_owned());
        }
        if self.header != before.header {
            return Some("its header changed".to_owned());
        }
        if self.modified != before.modified {
            return Some("it was written to".to_owned());
        }
        (self.changed != before.changed).then(|| "it was changed, or given another name or owner".to_owned())
    }

    /// Returns the first bytes of the file: a database's header.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Tells whether the header says that the database has a write-ahead log.
    pub fn says_wal(&self) -> bool {
        self.header[18] == 2 || self.header[19] == 2
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn taken(file: &File) -> io::Result<Facts> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    let stat = match statx(file, "", flags, StatxFlags::BASIC_STATS) {
        Ok(stat) => stat,
        Err(rustix::io::Errno::NOSYS) => return by_metadata(file),
        Err(errno) => return Err(errno.into()),
    };
    Ok(Facts {
        identity: (rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
        bytes: stat.stx_size,
        modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        names: u64::from(stat.stx_nlink),
        owner: stat.stx_uid,
        is_mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        header: [0; HEADER_BYTES],
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn taken(file: &File) -> io::Result<Facts> {
    by_metadata(file)
}

fn by_metadata(file: &File) -> io::Result<Facts> {
    use std::os::unix::fs::MetadataExt;
    let stat = file.metadata()?;
    Ok(Facts {
        identity: (stat.dev(), stat.ino()),
        bytes: stat.size(),
        modified: (stat.mtime(), stat.mtime_nsec() as u32),
        changed: (stat.ctime(), stat.ctime_nsec() as u32),
        names: stat.nlink(),
        owner: stat.uid(),
        is_mount_root: false,
        header: [0; HEADER_BYTES],
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_kind_of_change_is_seen_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, vec![7; 200]).unwrap();
        let file = File::open(&path).unwrap();
        let before = Facts::of(&file).unwrap();
        assert_eq!(Facts::of(&file).unwrap().difference(&before), None);
        assert_eq!((before.names, before.is_mount_root), (1, false));
        let named = |facts: Facts| facts.difference(&before).unwrap();
        let mut header = before.header;
        header[27] = 8;
        assert_eq!(named(Facts { header, ..before }), "its change counter went on");
        header = before.header;
        header[60] = 8;
        assert_eq!(named(Facts { header, ..before }), "its header changed");
        assert_eq!(named(Facts { modified: (1, 2), ..before }), "it was written to");
        assert!(named(Facts { changed: (1, 2), ..before }).starts_with("it was changed"));
        assert_eq!(named(Facts { identity: (1, 2), ..before }), "it is another file now");
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
        assert_eq!(named(Facts::of(&file).unwrap()), "its length went from 200 to 201 bytes");
    }
}
