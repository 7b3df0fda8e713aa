//! Bringing a database to rest and pinning it there (section 10.1).
//!
//! The scan handle is opened before SQLite opens the file and closed after SQLite has closed it: closing
//! any descriptor of a file drops all POSIX locks that the process holds on it, SQLite's included (T2).
//!
//! The pin is a read transaction that begins while the WAL is empty. A reader at an empty WAL keeps every
//! checkpoint from writing to the main file, so the file's bytes stay as they are while writers go on in
//! the WAL. That the WAL was empty at that moment is proved, not hoped for: a second connection holds the
//! write lock from before the check until after the pin.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::beneath::io_error;
use super::ownership::Ownership;
use super::pinned::{PinnedDatabase, Reading, wal_bytes};
use super::sqlite::{database_error, open_existing};
use crate::cancel::Cancel;
use crate::{Error, ErrorKind, Result};

/// The whole window, from the first lock to the pin; half of the application's own watchdog.
const WINDOW_MAX: Duration = Duration::from_secs(30);
/// The pause between two attempts to empty the WAL.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A database at rest, pinned. Fields drop in this order: SQLite first, then the scan handle.
#[derive(Debug)]
pub struct FrozenDatabase {
    connection: Connection,
    scan: Arc<File>,
    path: PathBuf,
    page_size: u32,
    page_count: u64,
}

impl FrozenDatabase {
    /// Brings the database to rest and pins it. `lock_files` are the application's ownership locks; they
    /// are held only until the pin stands.
    pub fn freeze(database: &Path, lock_files: &[PathBuf], cancel: &Cancel) -> Result<Self> {
        let deadline = Instant::now() + WINDOW_MAX;
        let path = resolve(database)?;
        let scan = Arc::new(open_for_scan(&path)?);
        let ownership = Ownership::take(lock_files)?;
        let connection = open_existing(&path)?;
        loop {
            cancel.check()?;
            empty_wal(&connection, &path, deadline, cancel)?;
            if pin_if_at_rest(&connection, &path)? {
                break;
            }
            wait_or_give_up(&path, deadline, "other connections keep writing to it")?;
        }
        drop(ownership);
        let (page_size, page_count) = geometry(&connection, &path)?;
        check_scan_handle(&scan, &path)?;
        check_length(&scan, &path, (page_size, page_count))?;
        Ok(Self { connection, scan, path, page_size, page_count })
    }

    /// Returns the pinned database, whose pages are read from the file.
    pub fn pinned(self) -> Result<PinnedDatabase> {
        let Self { connection, scan, path, page_size, page_count } = self;
        PinnedDatabase::new(connection, scan, path, (page_size, page_count), Reading::File)
    }
}

/// The path must still name the file that was opened for the scan.
pub(super) fn check_scan_handle(scan: &File, path: &Path) -> Result<()> {
    let held = scan.metadata().map_err(|error| io_error("stat", path, error))?;
    let named = std::fs::metadata(path).map_err(|error| io_error("stat", path, error))?;
    if (held.dev(), held.ino()) == (named.dev(), named.ino()) {
        return Ok(());
    }
    let message = format!("{} was replaced while it was being opened; try again", path.display());
    Err(Error::new(ErrorKind::Source, message))
}

/// The file must hold every page of the pinned view.
pub(super) fn check_length(scan: &File, path: &Path, (page_size, page_count): (u32, u64)) -> Result<()> {
    let held = scan.metadata().map_err(|error| io_error("stat", path, error))?;
    let database_bytes = page_count.checked_mul(u64::from(page_size));
    if database_bytes.is_none_or(|bytes| held.len() < bytes) {
        return Err(refused(path, &format!("it ends before page {page_count}")));
    }
    Ok(())
}

/// Returns the page size and the number of pages that the connection sees.
pub(super) fn geometry(connection: &Connection, path: &Path) -> Result<(u32, u64)> {
    let page_size = pragma_number(connection, path, "page_size")?;
    let page_count = pragma_number(connection, path, "page_count")?;
    let page_size = u32::try_from(page_size)
        .ok()
        .filter(|size| size.is_power_of_two() && (512..=65536).contains(size))
        .ok_or_else(|| refused(path, &format!("its page size is {page_size}")))?;
    Ok((page_size, page_count))
}

/// Resolves links in the path, for SQLite names the WAL after the file that it finds.
pub(super) fn resolve(database: &Path) -> Result<PathBuf> {
    let path = std::fs::canonicalize(database).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("no database at {}", database.display()))
        }
        _ => io_error("find the database", database, error),
    })?;
    let metadata = std::fs::metadata(&path).map_err(|error| io_error("stat", &path, error))?;
    if !metadata.is_file() {
        return Err(refused(&path, "it is not a regular file"));
    }
    Ok(path)
}

/// Opens the scan handle and looks at the header through it, so that a file that is no database is never
/// handed to SQLite, which might write to it.
pub(super) fn open_for_scan(path: &Path) -> Result<File> {
    let scan = File::open(path).map_err(|error| io_error("open the database", path, error))?;
    let mut magic = [0; 16];
    match scan.read_exact_at(&mut magic, 0) {
        Ok(()) if &magic == b"SQLite format 3\0" => Ok(scan),
        Ok(()) => Err(refused(path, "it does not begin like one; an encrypted database cannot be read")),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            Err(refused(path, "it is shorter than a database header"))
        }
        Err(error) => Err(io_error("read the database", path, error)),
    }
}

/// Checkpoints until nothing is left in the WAL; a database in another journal mode has none.
fn empty_wal(connection: &Connection, path: &Path, deadline: Instant, cancel: &Cancel) -> Result<()> {
    loop {
        cancel.check()?;
        let checkpoint =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        match checkpoint {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(database_error("checkpoint", path, error)),
        }
        wait_or_give_up(path, deadline, "its WAL cannot be checkpointed: a reader or writer holds it")?;
    }
}

/// Pins the database if its WAL is empty while nobody can write; tells whether it did.
fn pin_if_at_rest(connection: &Connection, path: &Path) -> Result<bool> {
    let guard = open_existing(path)?;
    guard
        .execute_batch("BEGIN IMMEDIATE")
        .map_err(|error| database_error("hold writers off", path, error))?;
    let at_rest = wal_is_empty(path)?;
    if at_rest {
        connection
            .execute_batch("BEGIN; SELECT count(*) FROM sqlite_master")
            .map_err(|error| database_error("pin", path, error))?;
    }
    guard.execute_batch("ROLLBACK").map_err(|error| database_error("let writers go on in", path, error))?;
    guard.close().map_err(|(_, error)| database_error("close", path, error))?;
    Ok(at_rest)
}

fn wal_is_empty(path: &Path) -> Result<bool> {
    Ok(wal_bytes(path)?.unwrap_or_default() == 0)
}

fn wait_or_give_up(path: &Path, deadline: Instant, why: &str) -> Result<()> {
    if Instant::now() >= deadline {
        return Err(Error::new(
            ErrorKind::Locked,
            format!("the database {} does not come to rest: {why}", path.display()),
        ));
    }
    std::thread::sleep(RETRY_PAUSE);
    Ok(())
}

fn pragma_number(connection: &Connection, path: &Path, name: &str) -> Result<u64> {
    let number: i64 = connection
        .pragma_query_value(None, name, |row| row.get(0))
        .map_err(|error| database_error("read the geometry of", path, error))?;
    u64::try_from(number).map_err(|_| refused(path, &format!("its {name} is {number}")))
}

pub(super) fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Source, format!("{} is not a usable SQLite database: {why}", path.display()))
}
