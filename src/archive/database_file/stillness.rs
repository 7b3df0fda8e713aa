//! Whether a file has stayed as it was, without trust in locks.
//!
//! Its facts are taken before the first page is read and after the last. For that to prove anything, no
//! change may slip between them unseen:
//!
//! - Two changes within one tick of the file system's clock have the same time. So the facts are taken twice
//!   with a tick between them: what comes after has another time than what they show. Where times have no
//!   parts of a second (FAT, some older file systems), a tick is two seconds.
//! - A write through a mapping changes the times only when the page is next made writable. Writing the
//!   file's pages back makes all of them write-protected, so the next write through any mapping is seen.
//! - A file system in memory never does that: there the bytes themselves are summed up before and after.

#![allow(unsafe_code, reason = "rustix cannot write back a part of a file without syncing its disk")]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::facts::{Facts, Time};

/// Longer than a tick of any kernel's clock.
const TICK: Duration = Duration::from_millis(20);
/// The tick of file systems whose times have no parts of a second.
const COARSE_TICK: Duration = Duration::from_millis(2100);
/// What changed so long ago changed more than a tick ago, also if clocks differ a little.
const LONG_AGO: Duration = Duration::from_secs(10);
/// How often a file that does not come to rest is looked at before that is taken for how it is.
const LOOKS_MAX: u32 = 5;
/// Bytes summed up at a time.
const SUMMED_BYTES: usize = 1024 * 1024;
/// File systems in memory: tmpfs, ramfs, hugetlbfs.
const IN_MEMORY: [u64; 3] = [0x0102_1994, 0x8584_58f6, 0x9584_58f6];
/// File systems whose times are of another machine's clock: NFS, SMB, 9P, Ceph, FUSE, AFS, Coda.
const ELSEWHERE: [u64; 9] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x0102_1997,
    0x00c3_6400,
    0x6573_5546,
    0x5346_414f,
    0x7375_7245,
];

/// A file as it was when a reading of it began.
#[derive(Debug)]
pub struct Stillness {
    before: Facts,
    sum: Option<u64>,
}

impl Stillness {
    /// Takes the facts of the file; waits until whatever changes from now on shows.
    pub fn begin(file: &File) -> io::Result<Self> {
        let kind = kind_of(file);
        write_back(file);
        let mut before = Facts::of(file)?;
        for _ in 0..LOOKS_MAX {
            let Some(tick) = tick(&before, kind) else { break };
            std::thread::sleep(tick);
            let now = Facts::of(file)?;
            // Without a change since, the times of the first look lie a whole tick back.
            let is_still = now.difference(&before).is_none();
            before = now;
            if is_still {
                break;
            }
        }
        let sum = IN_MEMORY.contains(&kind).then(|| sum(file)).transpose()?;
        Ok(Self { before, sum })
    }

    /// Tells whether the file's header is what it was, or the one given.
    pub fn has_header(&self, file: &File, header: &[u8]) -> io::Result<bool> {
        let now = Facts::of(file)?;
        Ok(now.header() == self.before.header() || header.starts_with(now.header()))
    }

    /// Says what has changed since; `None` if nothing has.
    pub fn broken(&self, file: &File) -> io::Result<Option<String>> {
        if let Some(difference) = Facts::of(file)?.difference(&self.before) {
            return Ok(Some(difference));
        }
        match self.sum {
            Some(before) if sum(file)? != before => Ok(Some("its bytes changed".to_owned())),
            _ => Ok(None),
        }
    }
}

/// Returns how long to wait until a new change has another time; `None` if it has one already.
fn tick(facts: &Facts, kind: u64) -> Option<Duration> {
    let times = [facts.modified, facts.changed];
    if !ELSEWHERE.contains(&kind) && times.into_iter().all(is_long_ago) {
        return None;
    }
    let is_coarse = times.into_iter().all(|(_, nanoseconds)| nanoseconds == 0);
    Some(if is_coarse { COARSE_TICK } else { TICK })
}

fn is_long_ago((seconds, nanoseconds): Time) -> bool {
    let since_epoch = u64::try_from(seconds).map(|seconds| Duration::new(seconds, nanoseconds));
    let Ok(since_epoch) = since_epoch else { return true };
    let age = SystemTime::now().duration_since(UNIX_EPOCH + since_epoch);
    age.is_ok_and(|age| age > LONG_AGO)
}

fn kind_of(file: &File) -> u64 {
    // SMB's numbers have 32 bits, and some systems widen them with their sign.
    rustix::fs::fstatfs(file).map_or(0, |system| system.f_type as u64 & 0xffff_ffff)
}

/// Sums up the bytes of a file; a file that ends early has another sum.
fn sum(file: &File) -> io::Result<u64> {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
    let mut buffer = vec![0; SUMMED_BYTES];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(digest.finalize()),
            count => {
                digest.update(&buffer[..count]);
                offset += count as u64;
            }
        }
    }
}

/// Writes changed pages of the file back to its file system, without waiting for the disk's own cache. Where
/// that is not possible nobody writes, or the times tell.
#[cfg(target_os = "linux")]
pub fn write_back(file: &File) {
    use std::os::fd::AsRawFd;
    let how =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: takes a descriptor that is open and integers.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) };
}

#[cfg(not(target_os = "linux"))]
pub fn write_back(file: &File) {
    let _ = rustix::fs::fsync(file);
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn file_in(folder: &std::path::Path) -> (File, File) {
        let path = folder.join("a");
        std::fs::write(&path, vec![7; 200_000]).unwrap();
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        (File::open(&path).unwrap(), writer)
    }

    #[test]
    fn a_change_shows_however_soon_it_follows_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let (file, writer) = file_in(folder.path());
        for byte in 0..20 {
            writer.write_all_at(&[byte], 150_000).unwrap();
            let stillness = Stillness::begin(&file).unwrap();
            assert_eq!(stillness.broken(&file).unwrap(), None);
            writer.write_all_at(&[byte + 100], 150_000).unwrap();
            assert!(stillness.broken(&file).unwrap().is_some(), "{byte}");
        }
    }

    #[test]
    fn a_change_shows_although_its_time_was_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let (file, writer) = file_in(folder.path());
        let stillness = Stillness::begin(&file).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        writer.write_all_at(&[1], 150_000).unwrap();
        writer.set_modified(modified).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), modified);
        assert!(stillness.broken(&file).unwrap().unwrap().starts_with("it was changed"));
    }

    /// A mapping that can be written through, of another file handle.
    struct Mapping(*mut libc::c_void);

    impl Mapping {
        fn of(file: &File) -> Self {
            use std::os::fd::AsRawFd;
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            // SAFETY: a new mapping of an open file that is as long as it.
            let address = unsafe {
                libc::mmap(
                    std::ptr::null_mut(),
                    file.metadata().unwrap().size() as usize,
                    access,
                    kind,
                    file.as_raw_fd(),
                    0,
                )
            };
            assert_ne!(address, libc::MAP_FAILED);
            Self(address)
        }

        fn write(&self, offset: usize, byte: u8) {
            // SAFETY: inside the mapping.
            unsafe { self.0.cast::<u8>().add(offset).write_volatile(byte) };
        }
    }

    #[test]
    fn a_write_through_a_mapping_shows_also_if_the_page_was_being_written_before() {
        let memory = std::path::Path::new("/dev/shm");
        let folders = [
            tempfile::tempdir().unwrap(),
            match memory.is_dir() {
                true => tempfile::tempdir_in(memory).unwrap(),
                false => tempfile::tempdir().unwrap(),
            },
        ];
        for folder in folders {
            let (file, writer) = file_in(folder.path());
            let mapping = Mapping::of(&writer);
            mapping.write(150_000, 1);
            let stillness = Stillness::begin(&file).unwrap();
            assert_eq!(stillness.broken(&file).unwrap(), None);
            mapping.write(150_000, 2);
            assert!(stillness.broken(&file).unwrap().is_some(), "{}", folder.path().display());
        }
    }

    fn at(facts: Facts, time: Time) -> Facts {
        Facts { modified: time, changed: time, ..facts }
    }

    #[test]
    fn a_file_that_changed_long_ago_is_not_waited_for() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let folder = tempfile::tempdir().unwrap();
        let facts = Facts::of(&file_in(folder.path()).0).unwrap();
        let at = |seconds, nanoseconds| at(facts, (seconds, nanoseconds));
        assert_eq!(tick(&at(now - 100, 5), 0), None);
        assert_eq!(tick(&at(now - 100, 5), 0x6969), Some(TICK));
        assert_eq!(tick(&at(now, 5), 0), Some(TICK));
        assert_eq!(tick(&at(now + 100, 5), 0), Some(TICK));
        assert_eq!(tick(&at(now, 0), 0), Some(COARSE_TICK));
    }
}
