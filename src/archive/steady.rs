//! Whether the bytes that were read of a file were all in it at one moment.
//!
//! Size, mtime and ctime before and after the reading tell most changes; ctime also where somebody puts the
//! other two back. They do not show everything: two changes within one tick of the clock have the same time, and a
//! write through a mapping to a page that is dirty already changes no time. So the times of a file are believed only
//! if they have been at rest for long enough that each page has been written back since, and on a file
//! system that notes writes through a mapping. Everything else is read twice: the same bytes in two readings,
//! one after the other, were all there in the moment between them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use super::database_file::write_back;
use super::extras::FoundExtra;
use super::sighting::{Sighting, notes_every_change};
use crate::Result;

/// For how long a file must have been at rest for its times to be believed: the system writes dirty pages
/// back after thirty seconds at the latest, and the coarsest file system counts in two.
const REST_SECONDS: i64 = 120;
/// How a database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// A file about to be read.
#[derive(Debug)]
pub struct Watched {
    /// The file.
    pub file: File,
    /// What the system says of it.
    pub before: Stat,
    times_tell: bool,
}

impl Watched {
    /// Opens the file; `None` if it is gone.
    pub fn open(extra: &FoundExtra) -> Result<Option<Self>> {
        let Some((file, before)) = extra.open()? else { return Ok(None) };
        let times_tell = is_at_rest(&before, now()) && mappings_show(&file);
        Ok(Some(Self { file, before, times_tell }))
    }

    /// Tells whether it begins as a SQLite database does.
    pub fn is_database(&self) -> bool {
        let mut beginning = [0; MAGIC.len()];
        self.file.read_exact_at(&mut beginning, 0).is_ok() && &beginning == MAGIC
    }

    /// Prepares the file for being remembered by its times, before the first byte is read: returns what is seen of it,
    /// if its file system notes every change from now on.
    pub fn settled(&self) -> Option<Sighting> {
        if !notes_every_change(&self.file) {
            return None;
        }
        // A write through a mapping notes the time only if the page was written back since the one before.
        write_back(&self.file);
        Some(Sighting::of(&self.before))
    }

    /// Tells, after the last byte, whether the file, and what has its name, is still what it was before the first.
    pub fn is_unchanged(&self, extra: &FoundExtra) -> bool {
        let same = |after: &Stat| same_file(&self.before, after) && same_times(&self.before, after);
        let still = rustix::fs::fstat(&self.file).is_ok_and(|after| same(&after));
        still && matches!(extra.look(), Ok(Some(named)) if same(&named))
    }

    /// Tells, after the last byte, whether what was read is known to be of one moment. If not, a second
    /// reading decides.
    pub fn is_proved(&self, extra: &FoundExtra) -> bool {
        self.times_tell && self.is_unchanged(extra)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() as i64
}

#[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
fn is_at_rest(stat: &Stat, now: i64) -> bool {
    // A time in the future says that one of the clocks is wrong.
    [stat.st_ctime as i64, stat.st_mtime as i64].iter().all(|time| now - time > REST_SECONDS)
}

fn same_file(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino, one.st_size) == (other.st_dev, other.st_ino, other.st_size)
}

fn same_times(one: &Stat, other: &Stat) -> bool {
    let times = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec);
    times(one) == times(other)
}

/// Tells whether the file system notes the time of a write through a mapping, once the page was written back.
#[cfg(target_os = "linux")]
fn mappings_show(file: &File) -> bool {
    const KNOWN: [u32; 17] = [
        0xEF53,      // ext2, ext3, ext4
        0x5846_5342, // XFS
        0x9123_683E, // Btrfs
        0x2FC1_2FC1, // ZFS
        0xF2F5_2010, // F2FS
        0xCA45_1A4E, // bcachefs
        0x3153_464A, // JFS
        0x5265_4973, // ReiserFS
        0x6969,      // NFS, which asks the server
        0xFF53_4D42, // CIFS
        0xFE53_4D42, // SMB
        0x00C3_6400, // Ceph
        0x0116_1970, // GFS2
        0x7461_636F, // OCFS2
        0x4D44,      // FAT
        0x2011_BAB0, // exFAT
        0x7366_746E, // NTFS
    ];
    rustix::fs::fstatfs(file).is_ok_and(|system| KNOWN.contains(&(system.f_type as u32)))
}

/// What is not known is read twice.
#[cfg(not(target_os = "linux"))]
fn mappings_show(_: &File) -> bool {
    false
}

/// A reader that keeps why it failed, for whoever only learns that something did.
#[derive(Debug)]
pub struct Noted<R> {
    /// Where bytes come from.
    pub reader: R,
    /// What went wrong.
    pub trouble: Trouble,
}

/// What went wrong with a file, if anything has.
pub type Trouble = Arc<Mutex<Option<std::io::Error>>>;

impl<R: Read> Read for Noted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.reader.read(buffer).map_err(|error| {
            let told = std::io::Error::from(error.kind());
            if error.kind() != std::io::ErrorKind::Interrupted {
                *self.trouble.lock().expect("no holder of the trouble panics") = Some(error);
            }
            told
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat_of(seconds: i64) -> Stat {
        let mut stat = rustix::fs::stat("/").unwrap();
        (stat.st_ctime, stat.st_mtime) = (seconds as _, seconds as _);
        stat
    }

    #[test]
    fn times_are_believed_after_a_rest_only() {
        assert!(is_at_rest(&stat_of(1_000), 1_000 + REST_SECONDS + 1));
        assert!(!is_at_rest(&stat_of(1_000), 1_000 + REST_SECONDS));
        assert!(!is_at_rest(&stat_of(1_000), 0), "a file from the future");
        let mut touched = stat_of(1_000);
        touched.st_ctime = 9_000;
        assert!(!is_at_rest(&touched, 9_001), "the mtime was put back");
    }

    #[test]
    fn a_change_shows_in_any_of_size_and_times() {
        let before = stat_of(1_000);
        for change in [
            |stat: &mut Stat| stat.st_mtime_nsec += 1,
            |stat: &mut Stat| stat.st_ctime_nsec += 1,
            |stat: &mut Stat| stat.st_ctime += 1,
        ] {
            let mut after = before;
            change(&mut after);
            assert!(!same_times(&before, &after) && same_file(&before, &after));
        }
        let mut after = before;
        after.st_ino += 1;
        assert!(!same_file(&before, &after));
    }
}
