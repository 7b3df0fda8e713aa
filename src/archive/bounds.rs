//! What SQLite may take for a piece of work on a database: time, memory and temporary disk.
//!
//! A database may come from a hostile repository, and its schema is a program: views, generated columns, constraints
//! and expressions of indexes run whenever they are read. So work on a database ends in bounded time, and when the user
//! stops it. SQLite asks on the way whether it should go on, and a thread beside it interrupts calls that do not ask.
//! One kind of call hears neither: a single function over a long text. `engine/aside.rs` gives that up.
//!
//! Memory is bounded for the whole process, because SQLite counts it so. Nothing goes to temporary files.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, ffi};

use super::deadline::interrupting;
use crate::cancel::Cancel;
use crate::error::lift::database_error;
use crate::{Error, ErrorKind, Result};

/// SQLite asks after so many steps of its machine whether it should go on.
const STEPS_BETWEEN_QUESTIONS: i32 = 1000;
/// Memory that SQLite may take for all connections of this process.
pub const MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The time for anything, whatever the size of the database.
const TIME_MIN: Duration = Duration::from_secs(120);
/// How fast a database is read from one end to the other, at the least.
const SCAN_BYTES_PER_SECOND: u64 = 2_000_000;
/// How fast a database is checked, at the least: on a slow disk every page costs several seeks.
const CHECK_BYTES_PER_SECOND: u64 = 100_000;
/// A bound that is not there: a century.
const UNHURRIED: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Bounds of one piece of work.
#[derive(Debug, Clone)]
pub struct Bounds {
    cancel: Cancel,
    time: Duration,
}

impl Bounds {
    /// Makes bounds by the user's word and by the clock.
    pub fn new(cancel: &Cancel, time: Duration) -> Self {
        Self { cancel: cancel.clone(), time }
    }

    /// Makes bounds by the user's word alone, for our own questions to the user's own database.
    pub fn unhurried(cancel: &Cancel) -> Self {
        Self::new(cancel, UNHURRIED)
    }

    /// Makes the bounds of reading a database of this length a few times from one end to the other.
    pub fn of_scan(cancel: &Cancel, database_bytes: u64) -> Self {
        Self::new(cancel, TIME_MIN + Duration::from_secs(database_bytes / SCAN_BYTES_PER_SECOND))
    }

    /// Makes the bounds of so many questions to a database of this length.
    pub fn of_questions(cancel: &Cancel, database_bytes: u64, questions: u64) -> Self {
        Self::of_scan(cancel, database_bytes.saturating_mul(questions))
    }

    /// Makes the bounds of checking a database of this length.
    pub fn of_check(cancel: &Cancel, database_bytes: u64) -> Self {
        Self::new(cancel, TIME_MIN + Duration::from_secs(database_bytes / CHECK_BYTES_PER_SECOND))
    }

    /// Returns how long the work may take.
    pub fn time(&self) -> Duration {
        self.time
    }

    /// Returns the token that ends the work.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Does the work on a connection, within these bounds.
    pub fn within<T>(
        &self,
        connection: &mut Connection,
        work: impl FnOnce(&mut Connection) -> Result<T>,
    ) -> Result<T> {
        let (cancel, until) = (self.cancel.clone(), Instant::now() + self.time);
        let over = move || cancel.is_cancelled() || Instant::now() >= until;
        let handle = connection.get_interrupt_handle();
        self.watch(connection, Some(over))?;
        let result = interrupting(until, &self.cancel, handle, || work(connection));
        self.watch(connection, None::<fn() -> bool>)?;
        result.map_err(|error| self.verdict(error, until))
    }

    fn watch<F>(&self, connection: &mut Connection, over: Option<F>) -> Result<()>
    where
        F: FnMut() -> bool + Send + 'static,
    {
        connection
            .progress_handler(STEPS_BETWEEN_QUESTIONS, over)
            .map_err(|error| Error::caused(ErrorKind::Io, "cannot watch what SQLite does", error))
    }

    /// Says who interrupted: the user, or the clock.
    fn verdict(&self, error: Error, until: Instant) -> Error {
        if let Err(stopped) = self.cancel.check() {
            return stopped;
        }
        if error.kind() == ErrorKind::Interrupted && Instant::now() >= until {
            return self.too_long(error);
        }
        error
    }

    fn too_long(&self, error: Error) -> Error {
        Error::caused(ErrorKind::Refused, format!("it did not end within {}", shown(self.time)), error)
    }
}

/// Returns a duration in words, whole minutes where it has some.
pub fn shown(time: Duration) -> String {
    match time.as_secs() {
        seconds if seconds < 120 => format!("{seconds} seconds"),
        seconds => format!("{} minutes", seconds / 60),
    }
}

/// The memory that is granted to SQLite; 0 before anything is.
static GRANTED_BYTES: Mutex<u64> = Mutex::new(0);

/// Bounds the memory of SQLite in this process, all connections together; a larger grant of before stays.
/// Work that would need more fails with an error of SQLite's.
#[allow(unsafe_code, reason = "SQL can lower the limit and never raise it again")]
pub fn grant_memory(bytes: u64) {
    let mut granted = GRANTED_BYTES.lock().expect("no holder of the grant panics");
    *granted = bytes.max(*granted);
    let limit = i64::try_from(*granted).unwrap_or(i64::MAX);
    // SAFETY: it takes a number and keeps nothing; SQLite guards it by a mutex of its own.
    unsafe {
        ffi::sqlite3_hard_heap_limit64(limit);
    }
}

/// Restrains a connection to a database that nobody trusts: what its schema says runs no function with
/// effects, attaches nothing, loads nothing, starts no thread, and leaves nothing on a disk.
pub fn restrain(connection: &Connection) -> rusqlite::Result<()> {
    use rusqlite::config::DbConfig;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FTS3_TOKENIZER, false)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_WORKER_THREADS, 0)?;
    connection.set_limit(Limit::SQLITE_LIMIT_TRIGGER_DEPTH, TRIGGER_DEPTH_MAX)?;
    connection.execute_batch(
        "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; \
         PRAGMA mmap_size = 0",
    )
}

/// How deep triggers may call each other.
const TRIGGER_DEPTH_MAX: i32 = 10;

/// Tells whether SQLite gave up because the work needs more than it may have.
pub fn is_too_much(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::OutOfMemory | ErrorCode::TooBig))
}

/// Tells whether the system gave SQLite no answer, or not the one it needs: nothing is known of what lies there.
/// A file that is too short for its pages is no such case.
pub fn is_unread(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return false };
    is_unread_code(failure.extended_code)
}

/// Tells the same of a code.
pub fn is_unread_code(code: i32) -> bool {
    let is_of_system = matches!(code & 0xff, ffi::SQLITE_IOERR | ffi::SQLITE_CANTOPEN | ffi::SQLITE_NOLFS);
    is_of_system && code != ffi::SQLITE_IOERR_SHORT_READ
}

/// Makes the error of a failed step on a database that nobody trusts.
pub fn bounded_error(operation: &str, path: &Path, error: rusqlite::Error) -> Error {
    if is_too_much(&error) {
        let mebibytes = GRANTED_BYTES.lock().map_or(0, |granted| *granted) >> 20;
        let message = format!(
            "cannot {operation} the database {}: it takes more than the {mebibytes} MiB of memory that it may \
             have",
            path.display()
        );
        return Error::caused(ErrorKind::Refused, message, error);
    }
    if is_unread(&error) {
        let message = format!("cannot {operation} the database {}", path.display());
        return Error::caused(ErrorKind::Io, message, error);
    }
    database_error(operation, path, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";

    fn run(bounds: &Bounds, sql: &str) -> Result<i64> {
        let mut connection = Connection::open_in_memory().unwrap();
        restrain(&connection).unwrap();
        bounds.within(&mut connection, |connection| {
            let answer = connection.query_row(sql, [], |row| row.get(0));
            answer.map_err(|error| bounded_error("read", "memory".as_ref(), error))
        })
    }

    #[test]
    fn work_without_end_is_ended_by_the_clock_and_by_the_user() {
        let cancel = Cancel::new();
        let late = run(&Bounds::new(&cancel, Duration::from_millis(50)), ENDLESS).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Refused, "{late:?}");
        assert!(late.to_string().contains("did not end within"), "{late}");
        cancel.cancel();
        let stopped = run(&Bounds::unhurried(&cancel), ENDLESS).unwrap_err();
        assert_eq!(stopped.kind(), ErrorKind::Interrupted);
    }

    #[test]
    fn memory_is_bounded_and_nothing_goes_to_disk_instead() {
        grant_memory(MEMORY_BYTES_MAX);
        for sql in [
            "SELECT length(hex(zeroblob(400000000)))",
            "WITH RECURSIVE n(i, b) AS (SELECT 1, zeroblob(60000000) UNION SELECT i + 1, zeroblob(60000000 + i) \
             FROM n LIMIT 60) SELECT count(*) FROM n",
        ] {
            let error = run(&Bounds::unhurried(&Cancel::new()), sql).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
            assert!(error.to_string().contains("MiB of memory"), "{error}");
        }
        assert_eq!(run(&Bounds::unhurried(&Cancel::new()), "SELECT 7").unwrap(), 7);
    }

    #[test]
    fn the_time_grows_with_the_database() {
        let cancel = Cancel::new();
        assert_eq!(Bounds::of_scan(&cancel, 0).time(), TIME_MIN);
        assert!(Bounds::of_check(&cancel, 1 << 40).time() > Bounds::of_scan(&cancel, 1 << 40).time());
        assert_eq!(shown(TIME_MIN), "2 minutes");
    }
}
