//! SQLite's locks as others see them, and the one lock of ours.
//!
//! SQLite locks bytes of its files with POSIX locks. Of the main file:
//!
//! ```text
//! 0x40000000      PENDING    a writer waits for readers to leave
//! 0x40000001      RESERVED   a writer of a rollback-journal database prepares
//! 0x40000002..+510 SHARED    read: a reader, or anybody who has a WAL database open; write: EXCLUSIVE
//! ```
//!
//! Of the `-shm`: bytes 120 to 127 guard writing, checkpoints, recovery and the five read marks; byte 128 is
//! held shared by everybody who has the index open.
//!
//! Our own lock is a read lock on the last byte of SHARED. Nobody gets EXCLUSIVE while it is held, so the
//! last application to close a WAL database neither checkpoints it nor removes its log; readers and writers
//! of the log go on. It belongs to the open file, not to the process: closing other handles does not drop
//! it. Looks leave that byte out, so that another backup is not taken for an application.

#![allow(unsafe_code, reason = "rustix has neither locks of an open file nor every answer of F_GETLK")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

const PENDING: i64 = 0x4000_0000;
const SHARED_FIRST: i64 = PENDING + 2;
const SHARED_BYTES: i64 = 510;
/// Our own lock.
const OURS: i64 = SHARED_FIRST + SHARED_BYTES - 1;
/// The byte of a `-shm` that everybody holds who has it open.
const SHM_OPEN: i64 = 128;

/// A lock that somebody else holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShownLock {
    /// The process that holds it; `None` if it is of another machine or container, or of no one process.
    pub pid: Option<u32>,
    /// Whether the holder keeps everybody else out.
    pub exclusive: bool,
}

/// Returns a lock of SQLite that another process holds on the main file of a database.
///
/// That says that an application has it open, if it is in WAL mode; in rollback-journal mode only that it
/// is reading or writing just now, for an idle one holds nothing (see [`super::openers()`]). Locks of this
/// process are not shown.
///
/// `main` is an open handle of the database. If this process may have the database open through SQLite, the
/// handle must stay open until SQLite has closed it: closing it drops SQLite's locks.
pub fn lock_shown(main: &File) -> io::Result<Option<ShownLock>> {
    blocking(main, PENDING, OURS - PENDING)
}

/// Returns a lock that another process holds on the index of a log; `shm` is an open handle of the `-shm`,
/// to be kept as long as that of [`lock_shown`]. Everybody who has the log in use holds one.
pub fn log_lock_shown(shm: &File) -> io::Result<Option<ShownLock>> {
    blocking(shm, SHM_OPEN, 1)
}

/// Our lock on a database; the handle it was taken through lets it go when it is closed, or this is dropped.
#[derive(Debug)]
pub struct SharedLock(Arc<File>);

impl SharedLock {
    /// Takes the lock without waiting; `None` while somebody has the database for himself, or waits for it.
    pub fn take(main: &Arc<File>) -> io::Result<Option<Self>> {
        // As SQLite does: a writer that waits for readers to leave lets no new ones in.
        if blocking(main, PENDING, 1)?.is_some() {
            return Ok(None);
        }
        match set(main, (OURS, 1), libc::F_RDLCK) {
            Ok(()) => Ok(Some(Self(main.clone()))),
            Err(error) if is_held(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        // The handle itself would let it go; a failure leaves it to that.
        let _ = set(&self.0, (OURS, 1), libc::F_UNLCK);
    }
}

/// A writer's lock on a database, while its file is replaced by another: nobody opens it meanwhile, another
/// backup neither. It goes with the handle it was taken through.
#[derive(Debug)]
pub struct ExclusiveLock(#[allow(dead_code, reason = "closing it ends the lock")] Arc<File>);

impl ExclusiveLock {
    /// Takes the lock without waiting; `None` if anybody has one. The handle may write.
    pub fn take(main: &Arc<File>) -> io::Result<Option<Self>> {
        match set(main, (PENDING, SHARED_FIRST + SHARED_BYTES - PENDING), libc::F_WRLCK) {
            Ok(()) => Ok(Some(Self(main.clone()))),
            Err(error) if is_held(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_held(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

fn lock_of(kind: libc::c_int, start: i64, bytes: i64) -> libc::flock {
    // SAFETY: integers only, for which zeroes are values.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start as libc::off_t;
    lock.l_len = bytes as libc::off_t;
    lock
}

/// Returns the first lock that would keep this process from writing to the bytes.
fn blocking(file: &File, start: i64, bytes: i64) -> io::Result<Option<ShownLock>> {
    let mut lock = lock_of(libc::F_WRLCK, start, bytes);
    // SAFETY: the descriptor is open as long as `file`, and the kernel fills the structure and keeps nothing.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let exclusive = match libc::c_int::from(lock.l_type) {
        libc::F_UNLCK => return Ok(None),
        kind => kind == libc::F_WRLCK,
    };
    // 0 is a process that is not in our world, -1 a lock of an open file.
    Ok(Some(ShownLock { pid: u32::try_from(lock.l_pid).ok().filter(|&pid| pid != 0), exclusive }))
}

#[cfg(target_os = "linux")]
fn set(file: &File, (start, bytes): (i64, i64), kind: libc::c_int) -> io::Result<()> {
    let lock = lock_of(kind, start, bytes);
    // SAFETY: as in `blocking`; the structure is only read.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Elsewhere locks belong to processes, and one of ours would go with any handle that is closed.
#[cfg(not(target_os = "linux"))]
fn set(_: &File, _: (i64, i64), _: libc::c_int) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::archive::database_file::{Sidecar, sidecar};
    use rusqlite::{Connection, OpenFlags};

    const APPLICATION: &str = "PACKVAULT_TEST_DATABASE_FILE";

    /// Not a test of its own: an application in another process, which ends when its input does.
    #[test]
    #[ignore = "run by other tests in a process of its own"]
    fn an_application_has_it_open() {
        let Some(path) = std::env::var_os(APPLICATION) else { return };
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_master").unwrap();
        println!("\nopen");
        let _ = std::io::stdin().read_line(&mut String::new());
    }

    type Lines = std::io::Lines<std::io::BufReader<std::process::ChildStdout>>;

    /// What it prints is read to its end by the caller: it must be able to say that it has ended.
    fn application(path: &Path) -> (Child, Lines) {
        use std::io::BufRead;
        let name = "archive::database_file::record_locks::tests::an_application_has_it_open";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env(APPLICATION, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "open"));
        (child, lines)
    }

    fn database(folder: &tempfile::TempDir, mode: &str) -> std::path::PathBuf {
        let path = folder.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (a)")).unwrap();
        path
    }

    #[test]
    fn an_application_that_has_the_database_open_shows_and_its_log_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = database(&folder, "WAL");
        let main = File::open(&path).unwrap();
        assert_eq!(lock_shown(&main).unwrap(), None);
        let (mut child, lines) = application(&path);
        let expected = ShownLock { pid: Some(child.id()), exclusive: false };
        assert_eq!(lock_shown(&main).unwrap(), Some(expected));
        let shm = File::open(sidecar(&path, Sidecar::Shm)).unwrap();
        assert_eq!(log_lock_shown(&shm).unwrap(), Some(expected));
        drop(child.stdin.take());
        lines.for_each(drop);
        assert!(child.wait().unwrap().success());
        assert_eq!(lock_shown(&main).unwrap(), None);
    }

    #[test]
    fn our_lock_keeps_the_last_application_from_removing_the_log_and_is_not_taken_for_an_application() {
        let folder = tempfile::tempdir().unwrap();
        let path = database(&folder, "WAL");
        let main = Arc::new(File::open(&path).unwrap());
        let application = Connection::open(&path).unwrap();
        application.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        let lock = SharedLock::take(&main).unwrap().unwrap();
        assert_eq!(lock_shown(&main).unwrap(), None);
        drop(File::open(&path).unwrap());
        drop(application);
        assert!(sidecar(&path, Sidecar::Wal).exists(), "our lock outlives other handles");
        drop(lock);
        let application = Connection::open(&path).unwrap();
        application.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        drop(application);
        assert!(!sidecar(&path, Sidecar::Wal).exists());
    }

    #[test]
    fn our_lock_is_not_had_while_somebody_has_the_database_for_himself() {
        let folder = tempfile::tempdir().unwrap();
        let path = database(&folder, "DELETE");
        let main = Arc::new(File::open(&path).unwrap());
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
        let application = Connection::open_with_flags(&path, flags).unwrap();
        application.busy_timeout(std::time::Duration::ZERO).unwrap();
        application.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert!(SharedLock::take(&main).unwrap().is_none());
        application.execute_batch("COMMIT").unwrap();
        let lock = SharedLock::take(&main).unwrap().unwrap();
        application.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert!(application.execute_batch("INSERT INTO t VALUES (1); COMMIT").is_err(), "busy");
        drop(lock);
        application.execute_batch("COMMIT").unwrap();
    }
}
