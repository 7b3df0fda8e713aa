//! A pinned database: one view of it that stays the same while its application goes on writing.
//!
//! Its pages come from the main file, where that is known not to change under the pin, or through SQLite
//! (`sqlite_dbpage`) inside the pinning read transaction, which sees what is still in the WAL. Both give the
//! same bytes.
//!
//! Closing any descriptor of a file drops all POSIX locks that the process holds on it, SQLite's included
//! (T2). So the owner of the connection also owns the scan handle, and drops it after the connection.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rusqlite::Connection;

use super::database_file::{Moved, Sidecar, Watch, sidecar_bytes};
use crate::error::lift::{database_error, io_error};
use crate::format::Geometry;
use crate::{Error, ErrorKind, Result};

/// How the pages of a pinned database are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// From the main file, by any number of threads.
    File,
    /// Through SQLite, by one thread at a time.
    Transaction,
}

/// Where pages come from; clones may be used on any thread.
#[derive(Debug, Clone)]
pub enum PageSource {
    /// The main file.
    File {
        /// The scan handle.
        file: Arc<File>,
        /// The path, for messages.
        path: PathBuf,
    },
    /// The read transaction. Fields drop in this order: SQLite first, then the scan handle.
    Transaction {
        /// The connection that holds the transaction.
        connection: Arc<Mutex<Connection>>,
        /// Held for the sake of SQLite's locks only.
        scan: Arc<File>,
        /// The path, for messages.
        path: PathBuf,
    },
}

/// A database of which one view is pinned. Fields drop in this order: SQLite first, then the handles.
#[derive(Debug)]
pub struct PinnedDatabase {
    connection: Arc<Mutex<Connection>>,
    /// `None` of a copy, which nobody else can change.
    watch: Option<Watch>,
    scan: Arc<File>,
    path: PathBuf,
    geometry: Geometry,
    reading: Reading,
    wal_bytes_at_pin: u64,
    since: Instant,
    problems: Vec<String>,
}

impl PinnedDatabase {
    /// Makes a pinned database of a connection whose read transaction stands, and which is watched.
    pub fn new(
        connection: Connection,
        (scan, watch): (Arc<File>, Watch),
        path: PathBuf,
        geometry: Geometry,
        reading: Reading,
    ) -> Result<Self> {
        let wal_bytes_at_pin = sidecar_bytes(&path, Sidecar::Wal)?.unwrap_or_default();
        let (connection, problems) = (Arc::new(Mutex::new(connection)), Vec::new());
        let since = Instant::now();
        Ok(Self {
            connection,
            watch: Some(watch),
            scan,
            path,
            geometry,
            reading,
            wal_bytes_at_pin,
            since,
            problems,
        })
    }

    /// Makes one of a copy of our own, of the database at the path; the connection's transaction stands.
    pub(super) fn of_copy(
        connection: Connection,
        scan: Arc<File>,
        path: PathBuf,
        geometry: Geometry,
    ) -> Self {
        Self {
            connection: Arc::new(Mutex::new(connection)),
            watch: None,
            scan,
            path,
            geometry,
            reading: Reading::File,
            wal_bytes_at_pin: 0,
            since: Instant::now(),
            problems: Vec::new(),
        }
    }

    /// Adds what was found wrong with the source while it was pinned.
    pub fn with_problems(self, problems: Vec<String>) -> Self {
        Self { problems, ..self }
    }

    /// Returns the connection whose read transaction is the pin.
    pub fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().expect("no holder of the connection panics")
    }

    /// Returns the connection for work beside the reading, and what must be dropped after it.
    pub fn share(&self) -> (Arc<Mutex<Connection>>, Arc<File>) {
        (self.connection.clone(), self.scan.clone())
    }

    /// Returns where its pages are read from.
    pub fn source(&self) -> PageSource {
        let path = self.path.clone();
        match self.reading {
            Reading::File => PageSource::File { file: self.scan.clone(), path },
            Reading::Transaction => {
                let (connection, scan) = (self.connection.clone(), self.scan.clone());
                PageSource::Transaction { connection, scan, path }
            }
        }
    }

    /// Returns how its pages are read.
    pub fn reading(&self) -> Reading {
        self.reading
    }

    /// Returns the size and the number of the pages in the pinned view.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Returns the page size in bytes.
    pub fn page_size(&self) -> u32 {
        self.geometry.page_size
    }

    /// Returns the number of pages in the pinned view.
    pub fn page_count(&self) -> u64 {
        self.geometry.page_count
    }

    /// Returns the length of the pinned view.
    pub fn bytes(&self) -> u64 {
        self.geometry.page_count * u64::from(self.geometry.page_size)
    }

    /// Returns the resolved path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns since when the pin stands.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Tells whether nobody can write to the database until the pin is released: so it is with a rollback
    /// journal, whose readers keep writers out.
    pub fn holds_writers(&self) -> Result<bool> {
        if !self.watch.as_ref().is_some_and(Watch::is_guarded) {
            return Ok(false);
        }
        let mode: String = self
            .connection()
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .map_err(|error| database_error("read the journal mode of", &self.path, error))?;
        Ok(!mode.eq_ignore_ascii_case("wal"))
    }

    /// Returns what was found wrong with the source while it was pinned.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Returns how far the WAL has grown since the pin stands: it cannot start over before the pin ends.
    pub fn wal_grew_bytes(&self) -> Result<u64> {
        if self.watch.is_none() {
            return Ok(0);
        }
        Ok(sidecar_bytes(&self.path, Sidecar::Wal)?.unwrap_or_default().saturating_sub(self.wal_bytes_at_pin))
    }

    /// Refuses if what was read so far may not be of one moment, whoever promised that; see [`Moved`].
    pub fn check_still(&self) -> Result<()> {
        self.watch.as_ref().map_or(Ok(()), Watch::check)
    }

    /// Returns what lies behind an error of a reading: that the database moved, if it did.
    pub fn explain(&self, error: Error) -> Error {
        match self.check_still() {
            Err(moved) if error.kind() == ErrorKind::Source => moved,
            _ => error,
        }
    }

    /// Ends the pin, SQLite before the handles. Refuses if what was read may not be of one moment.
    pub fn release(self) -> Result<()> {
        let still = self.check_still();
        let closed = self.close();
        still.and(closed)
    }

    fn close(self) -> Result<()> {
        let Self { connection, watch, scan, path, .. } = self;
        let closed = match Arc::try_unwrap(connection) {
            Ok(connection) => {
                let connection = connection.into_inner().expect("no holder of the connection panics");
                connection.close().map_err(|(_, error)| database_error("close", &path, error))
            }
            // A reader that was given up still has it, and the scan handle with it.
            Err(_) => Ok(()),
        };
        drop(watch);
        drop(scan);
        closed
    }
}

impl PageSource {
    /// Fills the buffer with pages from `first_page` on.
    pub fn read(&self, first_page: u64, page_size: usize, buffer: &mut [u8]) -> Result<()> {
        match self {
            Self::File { file, path } => read_file(file, path, first_page * page_size as u64, buffer),
            Self::Transaction { connection, path, .. } => {
                let connection = connection.lock().expect("no holder of the connection panics");
                read_pages(&connection, path, first_page, page_size, buffer)
            }
        }
    }
}

fn read_file(file: &File, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<()> {
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => became_shorter(path),
        _ => io_error("read the database", path, error),
    })
}

fn read_pages(
    connection: &Connection,
    path: &Path,
    first_page: u64,
    page_size: usize,
    buffer: &mut [u8],
) -> Result<()> {
    let failed = |error| database_error("read pages of", path, error);
    // SQLite counts pages from 1.
    let sql = "SELECT data FROM sqlite_dbpage WHERE pgno = ?1";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    for (page, bytes) in (first_page + 1..).zip(buffer.chunks_exact_mut(page_size)) {
        let mut rows = statement.query([page as i64]).map_err(failed)?;
        let row = rows.next().map_err(failed)?.ok_or_else(|| became_shorter(path))?;
        let data = row.get_ref(0).map_err(failed)?.as_blob().unwrap_or_default();
        if data.len() != page_size {
            let message = format!("page {page} of {} is not as long as the others", path.display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        bytes.copy_from_slice(data);
    }
    Ok(())
}

fn became_shorter(path: &Path) -> Error {
    Moved::error(path, "it became shorter", false)
}
