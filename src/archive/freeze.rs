//! Bringing a database to rest and pinning it there (section 10.1).
//!
//! The scan handle is opened before SQLite opens the file and closed after SQLite has closed it: closing
//! any descriptor of a file drops all POSIX locks that the process holds on it, SQLite's included (T2).
//!
//! The pin is a read transaction that begins while the WAL is empty. A reader at an empty WAL keeps every
//! checkpoint from writing to the main file, so the file's bytes stay as they are while writers go on in
//! the WAL. A second connection holds the write lock from before the check until after the
//! pin: that proves that the WAL was empty at that moment.
//!
//! Meanwhile a [`Gate`](super::gate::Gate) holds the application's writers off. It is ended as soon as the
//! pin stands or has failed, also when the operation is cancelled.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::database_file::{Before, Facts, LogPlace, Rests, SharedLock, Sidecar, Watch, sidecar_bytes};
use super::deadline::interrupted_at;
use super::gate::Gatekeeper;
use super::pinned::{PinnedDatabase, Reading};
use super::sqlite::{no_file_beside, open_existing};
use crate::cancel::Cancel;
use crate::error::lift::{database_error, io_error};
use crate::format::Geometry;
use crate::progress::Progress;
use crate::{Error, ErrorKind, Result};

/// The whole window, from the beginning of the gate to the pin; half of the application's own watchdog.
const WINDOW_MAX: Duration = Duration::from_secs(30);
/// How long one statement in the window waits for another connection's lock.
const WINDOW_BUSY_TIMEOUT: Duration = Duration::from_millis(500);
/// The pause between two attempts to empty the WAL.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A database at rest, pinned. Fields drop in this order: SQLite first, then the handles.
#[derive(Debug)]
pub struct FrozenDatabase {
    connection: Connection,
    watch: Watch,
    scan: Arc<File>,
    path: PathBuf,
    geometry: Geometry,
}

impl FrozenDatabase {
    /// Brings the database to rest and pins it. The gatekeeper holds writers off only until the pin stands.
    pub fn freeze(
        database: &Path,
        gatekeeper: &dyn Gatekeeper,
        cancel: &Cancel,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let path = resolve(database)?;
        let scan = Arc::new(open_for_scan(&path)?);
        // Both are dropped after the connection on every way out.
        let place = LogPlace::default();
        let lock = keep_sidecars(&scan, &path)?;
        place.check(&scan, &path)?;
        let gate = gatekeeper.begin(cancel, progress)?;
        let pinned = pin(&path, gate.since() + WINDOW_MAX, cancel);
        let ended = gate.end();
        let connection = match (pinned, ended) {
            (Ok(connection), Ok(())) => connection,
            (Ok(_), Err(error)) => return Err(error),
            (Err(error), ended) => {
                if let Err(also) = ended {
                    progress.remark(&also.chain());
                }
                return Err(error);
            }
        };
        let geometry = geometry(&connection, &path)?;
        check_scan_handle(&scan, &path)?;
        check_length(&scan, &path, geometry)?;
        let before = Before::take(&scan, &path)?;
        let rests = (Rests::OnFile, true);
        let watch = Watch::since(before, (scan.clone(), &path), (place, lock), rests, None);
        Ok(Self { connection, watch, scan, path, geometry })
    }

    /// Returns the pinned database, whose pages are read from the file.
    pub fn pinned(self) -> Result<PinnedDatabase> {
        let Self { connection, watch, scan, path, geometry } = self;
        PinnedDatabase::new(connection, (scan, watch), path, geometry, Reading::File)
    }
}

/// Refuses what is no database, so far as that can be seen without SQLite. Nobody may hold SQLite's locks on it in
/// this process.
pub fn look(database: &Path) -> Result<()> {
    open_for_scan(&resolve(database)?).map(drop)
}

/// SQLite makes the files beside a database for whoever opens it first: another user than the database's would
/// lock its application out. Such a one may use what is there, under a lock that keeps it there.
fn keep_sidecars(scan: &Arc<File>, path: &Path) -> Result<Option<SharedLock>> {
    let failed = |error| io_error("look at the database", path, error);
    let facts = Facts::of(scan).map_err(failed)?;
    let user = rustix::process::geteuid();
    let has_log = facts.says_wal() || sidecar_bytes(path, Sidecar::Wal)?.is_some();
    if user.is_root() || user.as_raw() == facts.owner || !has_log {
        return Ok(None);
    }
    let lock = SharedLock::take(scan).map_err(failed)?;
    let exist = |which| sidecar_bytes(path, which).map(|bytes| bytes.is_some());
    if lock.is_some() && exist(Sidecar::Wal)? && exist(Sidecar::Shm)? {
        return Ok(lock);
    }
    let message = format!(
        "the database {} belongs to another user: files that SQLite makes beside it could then not be written by \
         its application; run packvault as user {}",
        path.display(),
        facts.owner
    );
    Err(Error::new(ErrorKind::Refused, message))
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
pub(super) fn check_length(scan: &File, path: &Path, geometry: Geometry) -> Result<()> {
    let held = scan.metadata().map_err(|error| io_error("stat", path, error))?;
    if geometry.bytes().is_none_or(|bytes| held.len() < bytes) {
        return Err(refused(path, &format!("it ends before page {}", geometry.page_count)));
    }
    Ok(())
}

/// Returns the geometry that the connection sees.
pub(super) fn geometry(connection: &Connection, path: &Path) -> Result<Geometry> {
    let page_size = pragma_number(connection, path, "page_size")?;
    let page_count = pragma_number(connection, path, "page_count")?;
    let page_size = u32::try_from(page_size)
        .ok()
        .filter(|size| size.is_power_of_two() && (512..=65536).contains(size))
        .ok_or_else(|| refused(path, &format!("its page size is {page_size}")))?;
    Ok(Geometry { page_size, page_count })
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
    if let Some(why) = no_file_beside(&path) {
        return Err(refused(&path, &why));
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

/// Empties the WAL and pins the database; everything in it ends by the deadline or when cancelled.
fn pin(path: &Path, deadline: Instant, cancel: &Cancel) -> Result<Connection> {
    let connection = open_existing(path)?;
    wait_briefly(&connection, path)?;
    let pinned = interrupted_at(deadline, cancel, &connection, || {
        loop {
            cancel.check()?;
            empty_wal(&connection, path, deadline, cancel)?;
            if pin_if_at_rest(&connection, path)? {
                return Ok(());
            }
            wait_or_give_up(path, deadline, "other connections keep writing to it")?;
        }
    });
    match pinned {
        Ok(()) => Ok(connection),
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            cancel.check()?;
            Err(restless(path, "writing its WAL back takes too long"))
        }
        Err(error) => Err(error),
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
    wait_briefly(&guard, path)?;
    match guard.execute_batch("BEGIN IMMEDIATE") {
        Ok(()) => {}
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
            return Ok(false);
        }
        Err(error) => return Err(database_error("hold writers off", path, error)),
    }
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

fn wait_briefly(connection: &Connection, path: &Path) -> Result<()> {
    connection.busy_timeout(WINDOW_BUSY_TIMEOUT).map_err(|error| database_error("open", path, error))
}

fn wal_is_empty(path: &Path) -> Result<bool> {
    Ok(sidecar_bytes(path, Sidecar::Wal)?.unwrap_or_default() == 0)
}

fn wait_or_give_up(path: &Path, deadline: Instant, why: &str) -> Result<()> {
    if Instant::now() >= deadline {
        return Err(restless(path, why));
    }
    std::thread::sleep(RETRY_PAUSE);
    Ok(())
}

fn restless(path: &Path, why: &str) -> Error {
    let message = format!("the database {} does not come to rest: {why}", path.display());
    Error::new(ErrorKind::InUse, message)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn database(folder: &tempfile::TempDir) -> (PathBuf, Connection) {
        let path = folder.path().join("a.db");
        let writer = Connection::open(&path).unwrap();
        let statements = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a)";
        writer.execute_batch(statements).unwrap();
        (path, writer)
    }

    fn far() -> Instant {
        Instant::now() + WINDOW_MAX
    }

    #[test]
    fn a_commit_between_the_checkpoint_and_the_pin_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, writer) = database(&folder);
        let connection = open_existing(&path).unwrap();
        empty_wal(&connection, &path, far(), &Cancel::new()).unwrap();
        writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
        assert!(!pin_if_at_rest(&connection, &path).unwrap());
        assert!(connection.is_autocommit(), "no transaction is left open");
        empty_wal(&connection, &path, far(), &Cancel::new()).unwrap();
        assert!(pin_if_at_rest(&connection, &path).unwrap());
    }

    #[test]
    fn under_the_pin_the_file_stays_as_it_is_whatever_is_written_and_checkpointed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, writer) = database(&folder);
        let connection = pin(&path, far(), &Cancel::new()).unwrap();
        // Read in another process's stead: a handle of this one would drop SQLite's locks.
        let bytes = || std::process::Command::new("cat").arg(&path).output().unwrap().stdout;
        let before = bytes();
        for _ in 0..200 {
            writer.execute_batch("INSERT INTO t VALUES (randomblob(3000))").unwrap();
        }
        writer.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        assert!(before == bytes());
        let seen: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(seen, 0);
    }

    #[test]
    fn a_writer_that_holds_its_lock_is_waited_for_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let (path, writer) = database(&folder);
        writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").unwrap();
        let error = pin(&path, Instant::now(), &Cancel::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.to_string().contains("does not come to rest"), "{error}");
        writer.execute_batch("COMMIT").unwrap();
        pin(&path, far(), &Cancel::new()).unwrap();
        let cancel = Cancel::new();
        cancel.cancel();
        assert_eq!(pin(&path, far(), &cancel).unwrap_err().kind(), ErrorKind::Interrupted);
    }
}
