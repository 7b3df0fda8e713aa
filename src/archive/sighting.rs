//! What the file system says of a file without reading it, and when that may be taken for its content.
//!
//! A file that is seen as it was seen before holds what it held then, if three things are true. Every change gives it
//! another ctime, which no program can set: so it is on the file systems of [`notes_every_change`], and there a write
//! through a mapping notes the time once the page was written back before. The time that it has was over when the
//! reading began: otherwise a change behind the reading could have the same. And nobody was in the middle of a call
//! that writes, for such a call notes the time before the bytes: so a large file must have been at rest for longer.

use std::fs::File;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use crate::format::BlobId;

/// One more second of rest is asked for so many bytes: a single call may write the whole file.
const BYTES_A_SECOND: u64 = 1024 * 1024;
/// And not more than so much.
const MORE_REST_MAX: Duration = Duration::from_secs(120);

/// Which file lies somewhere, and when it was changed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sighting {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Sighting {
    /// Returns what the system says of a file.
    #[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
    pub fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            bytes: stat.st_size as u64,
            modified: (stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Returns the length of the file.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns for how much longer a file of this size must have been at rest, if what it holds is to be known.
    pub fn more_rest(&self) -> Duration {
        Duration::from_secs(self.bytes / BYTES_A_SECOND).min(MORE_REST_MAX)
    }

    /// Tells whether the file was at rest for so long before this time. A time in the future says that one of the
    /// clocks is wrong.
    pub fn is_at_rest(&self, now: SystemTime, rest: Duration) -> bool {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let Some(over) = since.checked_sub(rest) else { return false };
        let over = (over.as_secs() as i64, i64::from(over.subsec_nanos()));
        self.modified < over && self.changed < over
    }

    /// Returns a print of what was seen of a thing of this kind and name at a place.
    pub fn print(&self, kind: &str, name: &[u8], place: &[u8]) -> Print {
        let numbers = [self.device, self.inode, self.bytes];
        let times = [self.modified.0, self.modified.1, self.changed.0, self.changed.1];
        let mut text = Vec::with_capacity(96 + name.len() + place.len());
        for part in [kind.as_bytes(), name, place] {
            text.extend_from_slice(&(part.len() as u64).to_le_bytes());
            text.extend_from_slice(part);
        }
        numbers.iter().for_each(|number| text.extend_from_slice(&number.to_le_bytes()));
        times.iter().for_each(|time| text.extend_from_slice(&time.to_le_bytes()));
        Print::of(&text)
    }
}

/// The first half of a SHA-256 over everything that was seen: none has that of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Print(pub [u8; Print::BYTES]);

impl Print {
    /// The length of a print.
    pub const BYTES: usize = 16;

    /// Returns the print of a text.
    pub fn of(text: &[u8]) -> Self {
        let hash = BlobId::of(text);
        let print = hash.as_bytes().first_chunk();
        Self(*print.expect("a hash is longer than half of itself"))
    }
}

/// Tells whether every change of a file on its file system shows in its ctime, writes through a mapping included.
///
/// Left out are those that have no ctime (FAT, exFAT, NTFS), that ask another machine or program for it (NFS, SMB, Ceph,
/// FUSE, 9p), that put several file systems together (overlay), and that do not note writes through a mapping when
/// they are made (tmpfs, ZFS).
#[cfg(target_os = "linux")]
pub fn notes_every_change(file: &File) -> bool {
    const KNOWN: [u32; 5] = [
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683E, // Btrfs
        0xF2F5_2010, // F2FS
        0xCA45_1A4E, // bcachefs
    ];
    rustix::fs::fstatfs(file).is_ok_and(|system| KNOWN.contains(&(system.f_type as u32)))
}

/// Of other systems nothing is known.
#[cfg(not(target_os = "linux"))]
pub fn notes_every_change(_: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sighting() -> Sighting {
        Sighting { device: 1, inode: 2, bytes: 3, modified: (1_000, 5), changed: (1_000, 7) }
    }

    fn at(seconds: u64, nanoseconds: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanoseconds)
    }

    #[test]
    fn a_print_is_another_for_every_change_of_what_is_seen_and_of_whose_it_is() {
        let changes: [fn(&mut Sighting); 7] = [
            |sighting| sighting.device += 1,
            |sighting| sighting.inode += 1,
            |sighting| sighting.bytes += 1,
            |sighting| sighting.modified.0 += 1,
            |sighting| sighting.modified.1 += 1,
            |sighting| sighting.changed.0 += 1,
            |sighting| sighting.changed.1 += 1,
        ];
        let print = |sighting: Sighting| sighting.print("kind", b"name", b"place");
        let mut prints: Vec<Print> = vec![print(sighting())];
        for change in changes {
            let mut changed = sighting();
            change(&mut changed);
            prints.push(print(changed));
        }
        for (kind, name, place) in
            [("kin", "dname", "place"), ("kind", "namep", "lace"), ("other", "name", "place")]
        {
            prints.push(sighting().print(kind, name.as_bytes(), place.as_bytes()));
        }
        let count = prints.len();
        prints.sort();
        prints.dedup();
        assert_eq!(prints.len(), count);
        assert_eq!(print(sighting()), print(sighting()));
    }

    #[test]
    fn times_must_be_over_for_long_enough_and_longer_for_a_large_file() {
        let rest = Duration::from_secs(2);
        assert!(sighting().is_at_rest(at(1_002, 8), rest));
        assert!(!sighting().is_at_rest(at(1_002, 7), rest), "one of the times is just so old");
        assert!(!sighting().is_at_rest(at(0, 0), rest), "a file from the future");
        let mut touched = sighting();
        touched.changed.0 = 9_000;
        assert!(!touched.is_at_rest(at(9_001, 0), rest), "the mtime was put back");
        let large = Sighting { bytes: 10 * BYTES_A_SECOND, ..sighting() };
        assert_eq!(large.more_rest(), Duration::from_secs(10));
        let huge = Sighting { bytes: u64::MAX, ..sighting() };
        assert_eq!(huge.more_rest(), MORE_REST_MAX);
    }
}
