//! Pinning another application's database without writing anything: no page, no checkpoint, no file.
//!
//! Files that SQLite makes belong to the user who runs it. A log made by another user than the application's
//! locks the application out of its own database, and one left by a killed process does so for good. So we
//! first take a lock under which SQLite neither makes nor removes a log. Then what lies there decides how the database
//! is opened (`Means`). What the pin proves decides how pages are read:
//!
//! - Rollback journal: the pin is a SHARED lock on the file, and nobody writes to the file without an
//!   EXCLUSIVE one. The file is read directly; writers wait as long as the scan takes.
//! - WAL that is empty *after* the pin stands: a reader that depends on frames keeps the WAL from being
//!   emptied, so this one depends on the main file alone (read mark 0), and a reader there keeps every
//!   checkpoint from writing to the file. The file is read directly; writers go on in the WAL. No second
//!   connection has to hold writers off, as section 10.1 does, which would need write access.
//! - WAL with content: pages are read through the transaction. A checkpoint may write to the file meanwhile.
//! - No WAL, or an empty one without its index: nobody has the database open. The file is read directly, and
//!   SQLite's locks keep nobody from coming and writing to it.
//! - WAL with content whose index is missing, or which we may not write to: SQLite makes one in memory. The pages are read
//!   through the transaction, and nothing keeps the file and the log as they are either.
//!
//! Wherever files must not change while they are read, a [`Watch`] checks whether they did: locks do not work
//! everywhere.
//!
//! The scan handle is opened before SQLite and closed after it (T2), whichever way pages are read.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::database_file::{
    Before, Facts, LogPlace, Moved, Rests, SharedLock, Sidecar, Watch, lock_shown, sidecar, sidecar_bytes,
};
use super::freeze::{check_length, check_scan_handle, geometry, open_for_scan, resolve};
use super::pinned::{PinnedDatabase, Reading};
use super::sqlite::{BUSY_TIMEOUT, open_foreign, open_foreign_file, open_foreign_log};
use crate::archive::deadline::unless_cancelled;
use crate::cancel::Cancel;
use crate::error::lift::{database_error, io_error};
use crate::{Error, ErrorKind, Result};

/// How long writers may keep the pin from standing.
pub const WINDOW_MAX: Duration = Duration::from_secs(30);
/// The pause between two attempts to take our lock.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// For how long somebody may hold the database before its log is there: he is just opening it.
const OPENING_MAX: Duration = Duration::from_millis(1500);

/// How SQLite is asked to open a database, so that it makes no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    /// As it would itself: there is no log, for the database has a rollback journal.
    Journal,
    /// As it would itself: the log and its index are there.
    Log,
    /// The main file alone: there is no log, or an empty one that nobody uses.
    FileAlone,
    /// With an index of its own in memory, for the log has none that it could use.
    LogAlone,
}

/// A foreign database that is about to be pinned.
struct Source<'a> {
    path: &'a Path,
    scan: &'a Arc<File>,
    cancel: &'a Cancel,
    forced: Option<Reading>,
    window: Duration,
}

/// A view of it that stands.
struct View {
    connection: Connection,
    means: Means,
    /// The files, where the view is of files that SQLite's locks do not keep.
    before: Option<Before>,
    /// What was found wrong with the database.
    problems: Vec<String>,
}

/// Pins a foreign database.
pub fn pin(database: &Path, cancel: &Cancel) -> Result<PinnedDatabase> {
    pin_reading(database, cancel, None)
}

/// Pins a foreign database; `forced` decides how pages are read where the transaction is as good as the
/// file.
pub fn pin_reading(database: &Path, cancel: &Cancel, forced: Option<Reading>) -> Result<PinnedDatabase> {
    pin_within(database, cancel, forced, WINDOW_MAX)
}

/// Pins a foreign database as [`pin_reading`] does; `window` is how long writers may keep the pin from standing.
pub fn pin_within(
    database: &Path,
    cancel: &Cancel,
    forced: Option<Reading>,
    window: Duration,
) -> Result<PinnedDatabase> {
    let path = resolve(database)?;
    let scan = Arc::new(open_for_scan(&path)?);
    // Both are dropped after the connection on every way out.
    let place = LogPlace::default();
    let source = Source { path: &path, scan: &scan, cancel, forced, window };
    let (lock, view) = source.locked_view(&place)?;
    let View { connection, means, before, problems } = view;
    let geometry = geometry(&connection, &path)?;
    check_scan_handle(&scan, &path)?;
    let reading = source.reading(means)?;
    match reading {
        Reading::File => check_length(&scan, &path, geometry)?,
        Reading::Transaction => check_page_access(&connection, &path)?,
    }
    let before = before.map_or_else(|| Before::take(&scan, &path), Ok)?;
    let seen = header_seen(&connection, &path, reading)?;
    let watch = Watch::since(before, (scan.clone(), &path), (place, lock), rests(means, reading), seen);
    Ok(PinnedDatabase::new(connection, (scan, watch), path, geometry, reading)?.with_problems(problems))
}

/// Returns what a reading rests on, and whether SQLite's locks keep others from changing that.
fn rests(means: Means, reading: Reading) -> (Rests, bool) {
    match (means, reading) {
        (Means::Journal, _) | (Means::Log, Reading::File) => (Rests::OnFile, true),
        (Means::Log, Reading::Transaction) => (Rests::OnLocks, true),
        (Means::FileAlone, _) => (Rests::OnFile, false),
        (Means::LogAlone, _) => (Rests::OnFileAndLog, false),
    }
}

impl Source<'_> {
    /// Takes our lock and begins a view under it. If a program has the database for itself, we wait for it without
    /// the lock: it may be waiting for that lock.
    fn locked_view(&self, place: &LogPlace) -> Result<(Option<SharedLock>, View)> {
        let deadline = Instant::now() + self.window;
        loop {
            self.cancel.check()?;
            let busy = match self.shared_lock() {
                Err(()) => None,
                Ok(lock) => {
                    check_scan_handle(self.scan, self.path)?;
                    place.check(self.scan, self.path)?;
                    match self.view()? {
                        Ok(view) => return Ok((lock, view)),
                        Err(error) if is_busy(&error) => Some(error),
                        Err(error) => return Err(self.unreadable(error)),
                    }
                }
            };
            if Instant::now() >= deadline {
                let known = kept_for_itself(self.path);
                return Err(match busy {
                    Some(error) => Error::caused(known.kind(), known.to_string(), error),
                    None => known,
                });
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    /// Takes our lock, under which nobody removes a log or turns to another kind of journal. Where there are
    /// no such locks there is none: what SQLite makes of that is SQLite's to say, and the files are watched.
    fn shared_lock(&self) -> std::result::Result<Option<SharedLock>, ()> {
        match SharedLock::take(self.scan) {
            Ok(Some(lock)) => Ok(Some(lock)),
            Ok(None) => Err(()),
            Err(_) => Ok(None),
        }
    }

    /// Finds out by which means SQLite opens the database and makes no file; waits for whoever is just
    /// opening it.
    fn means(&self) -> Result<Means> {
        let deadline = Instant::now() + OPENING_MAX;
        loop {
            self.cancel.check()?;
            let means = self.means_now()?;
            let is_held =
                means == Means::FileAlone && lock_shown(self.scan).is_ok_and(|shown| shown.is_some());
            if !is_held {
                return Ok(means);
            }
            if Instant::now() >= deadline {
                return Err(log_gone(self.path));
            }
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    fn means_now(&self) -> Result<Means> {
        let failed = |error| io_error("look at the database", self.path, error);
        let facts = Facts::of(self.scan).map_err(failed)?;
        let log = sidecar_bytes(self.path, Sidecar::Wal)?;
        let has_index = sidecar_bytes(self.path, Sidecar::Shm)?.is_some();
        // What SQLite makes then belongs to the application's user.
        let may_make =
            rustix::process::geteuid().is_root() || rustix::process::geteuid().as_raw() == facts.owner;
        let insists = self.forced == Some(Reading::Transaction) && may_make;
        Ok(match log {
            None if !facts.says_wal() => Means::Journal,
            Some(_) if has_index => Means::Log,
            Some(1..) => Means::LogAlone,
            _ if insists => Means::Log,
            _ => Means::FileAlone,
        })
    }

    fn unreadable(&self, error: rusqlite::Error) -> Error {
        let path = self.path;
        let known = match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly) if has_journal(path).unwrap_or(true) => half_written(path),
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly) if self.may_have_log() => unusable_log(path),
            _ => return database_error("pin", path, error),
        };
        Error::caused(known.kind(), known.to_string(), error)
    }

    /// Tells whether the database has a log, or nobody can say.
    fn may_have_log(&self) -> bool {
        let says_wal = Facts::of(self.scan).map_or(true, |facts| facts.says_wal());
        says_wal || sidecar_bytes(self.path, Sidecar::Wal).map_or(true, |log| log.is_some())
    }

    /// Begins a view of the database, by the first means that is open to us.
    fn view(&self) -> Result<rusqlite::Result<View>> {
        let means = self.means()?;
        let error = match self.view_by(means)? {
            Ok(view) => return Ok(Ok(view)),
            Err(error) => error,
        };
        if means == Means::Log && is_unopenable(&error) && !has_journal(self.path)? {
            let is_empty = sidecar_bytes(self.path, Sidecar::Wal)?.unwrap_or_default() == 0;
            let alone = if is_empty { Means::FileAlone } else { Means::LogAlone };
            if let Ok(view) = self.view_by(alone)? {
                return Ok(Ok(view));
            }
        }
        Ok(Err(error))
    }

    fn view_by(&self, means: Means) -> Result<rusqlite::Result<View>> {
        let is_kept = matches!(means, Means::Journal | Means::Log);
        let before = if is_kept { None } else { Some(Before::take(self.scan, self.path)?) };
        if means == Means::FileAlone {
            // A log that is empty now, while the file has not changed since, has all of it in the file.
            if sidecar_bytes(self.path, Sidecar::Wal)?.unwrap_or_default() > 0 {
                return Err(Moved::error(self.path, "a log came to lie beside it", false));
            }
            if has_journal(self.path)? {
                return Err(half_written(self.path));
            }
        }
        let open = match means {
            Means::Journal | Means::Log => open_foreign,
            Means::FileAlone => open_foreign_file,
            Means::LogAlone => open_foreign_log,
        };
        let mut problems = Vec::new();
        let begun = self.begin(open, &mut problems)?;
        Ok(begun.map(|connection| View { connection, means, before, problems }))
    }

    /// Opens the database and begins the read transaction. A schema of very many objects takes SQLite minutes, in
    /// which it hears nothing but an interruption.
    fn begin(
        &self,
        open: fn(&Path) -> rusqlite::Result<Connection>,
        problems: &mut Vec<String>,
    ) -> Result<rusqlite::Result<Connection>> {
        let connection = match open(self.path) {
            Ok(connection) => connection,
            Err(error) => return Ok(Err(error)),
        };
        let begun = unless_cancelled(self.cancel, &connection, || begin(&connection, self.path, problems))?;
        self.cancel.check()?;
        Ok(begun.map(|()| connection))
    }

    /// Returns how the pages of a view are read.
    fn reading(&self, means: Means) -> Result<Reading> {
        if self.forced == Some(Reading::Transaction) {
            return Ok(Reading::Transaction);
        }
        let has_log = match means {
            Means::Journal | Means::FileAlone => false,
            Means::LogAlone => true,
            // Gone under our lock it was removed by somebody who knows nothing of SQLite.
            Means::Log => sidecar_bytes(self.path, Sidecar::Wal)? != Some(0),
        };
        Ok(if has_log { Reading::Transaction } else { Reading::File })
    }
}

/// Begins the read transaction. Waits for nobody: that is done without our lock.
fn begin(connection: &Connection, path: &Path, problems: &mut Vec<String>) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::ZERO)?;
    let begun = begin_reading(connection);
    if let Err(error) = begun {
        if error.sqlite_error_code() != Some(ErrorCode::DatabaseCorrupt) {
            return Err(error);
        }
        problems.push(format!("{} cannot be read as a database: {error}", path.display()));
        if !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK")?;
        }
        // With it SQLite opens a database although its schema or length is wrong.
        connection.execute_batch("PRAGMA writable_schema = ON")?;
        begin_reading(connection)?;
    }
    connection.busy_timeout(BUSY_TIMEOUT)
}

/// Begins a transaction and makes it read: only then it is one.
fn begin_reading(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("BEGIN")?;
    connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0)).map(drop)
}

/// Returns the first page as a transaction sees it, log included; nothing where pages are read from the file.
fn header_seen(connection: &Connection, path: &Path, reading: Reading) -> Result<Option<Vec<u8>>> {
    if reading == Reading::File {
        return Ok(None);
    }
    let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = 1";
    let page = connection.query_row(sql, [], |row| row.get(0));
    page.map(Some).map_err(|error| database_error("read pages of", path, error))
}

fn check_page_access(connection: &Connection, path: &Path) -> Result<()> {
    connection.prepare("SELECT data FROM sqlite_dbpage WHERE pgno = 1").map(drop).map_err(|error| {
        let cause = database_error("read pages of", path, error);
        let message = "the SQLite in this build cannot read single pages; build packvault in its own folder, \
                       whose `.cargo/config.toml` turns `sqlite_dbpage` on";
        Error::caused(ErrorKind::Unsupported, message, cause)
    })
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Tells whether SQLite could not open the files that go with a WAL.
fn is_unopenable(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// Tells whether a journal lies beside the database that would have to be rolled back. One that is kept for
/// later begins with zeroes.
fn has_journal(path: &Path) -> Result<bool> {
    if sidecar_bytes(path, Sidecar::Journal)?.unwrap_or_default() == 0 {
        return Ok(false);
    }
    let mut first = [0];
    let read = File::open(sidecar(path, Sidecar::Journal)).and_then(|journal| journal.read_at(&mut first, 0));
    Ok(read.is_err() || first != [0])
}

fn kept_for_itself(path: &Path) -> Error {
    let shown = path.display();
    let message = format!("the database {shown} does not come to rest: its application keeps it for itself");
    Error::new(ErrorKind::InUse, message)
}

fn half_written(path: &Path) -> Error {
    let message = format!(
        "the database {} was left in the middle of a write, which only its application may undo; start the \
         application once and try again",
        path.display()
    );
    Error::new(ErrorKind::Source, message)
}

fn log_gone(path: &Path) -> Error {
    let message = format!(
        "an application has the database {} open, and its log is not beside it: it was removed, or lies beside \
         another name of the database; stop the application so that it writes its log back, or give packvault \
         the path that the application uses",
        path.display()
    );
    Error::new(ErrorKind::Source, message)
}

fn unusable_log(path: &Path) -> Error {
    let message = format!(
        "the database {} is in WAL mode, and its -wal and -shm files cannot be used: run packvault as the user \
         of the application, and where it runs in a container bind the whole folder, so that it can be written to",
        path.display()
    );
    Error::new(ErrorKind::Source, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_takes_long_to_read_is_given_up_as_soon_as_the_user_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        crate::archive::sqlite::make_crowded(&path);
        let cancel = Cancel::new();
        let stop = cancel.clone();
        let user = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            stop.cancel();
            Instant::now()
        });
        let error = pin(&path, &cancel).err().unwrap();
        let stopped = user.join().unwrap();
        assert_eq!(error.kind(), crate::ErrorKind::Interrupted, "{}", error.chain());
        assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    }
}
