//! A temporary database without a name on the disk: a program that is killed must not leave somebody's mail behind in
//! plain text.
//!
//! SQLite opens a file by its name only. So it opens a file that is still empty; the name is removed before the
//! first byte is written, and the open handles stay. A connection that has read once does not read the file again, so
//! each question needs a new connection. Some are opened in advance; when they are used up, the content moves to
//! another file without a name.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::bounds::restrain;
use super::sqlite::uri;
use super::unnamed::unnamed_file_opened;
use crate::Result;
use crate::error::lift::{database_error, io_error};

/// Connections opened ahead; each takes a descriptor.
const CONNECTIONS: usize = 16;
/// Where a database says how it is written and read: 1 for a rollback journal, 2 for a write-ahead log.
const VERSIONS_AT: u64 = 18;

/// A database without a name.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    file: File,
    connections: Vec<Connection>,
}

impl Scratch {
    /// Makes an empty one on the disk of a folder, which is made if it is missing.
    pub fn new(folder: &Path) -> Result<Self> {
        let (file, connections) = nameless(folder)?;
        Ok(Self { folder: folder.to_owned(), file, connections })
    }

    /// Returns what stands for the path in messages.
    pub fn shown(&self) -> PathBuf {
        self.folder.join("(no name)")
    }

    /// Returns a handle to write pages through.
    pub fn writer(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| io_error("use a temporary file in", &self.folder, error))
    }

    /// Returns a connection to what has been written, for questions only.
    pub fn connection(&mut self) -> Result<Connection> {
        if self.connections.is_empty() {
            self.renew()?;
        }
        let failed = |error| io_error("write", &self.shown(), error);
        // In WAL mode SQLite would want a log beside the file. There is none: the header says rollback journal now.
        if self.file.metadata().map_err(failed)?.len() > VERSIONS_AT + 2 {
            self.file.write_all_at(&[1, 1], VERSIONS_AT).map_err(failed)?;
        }
        let connection = self.connections.pop().expect("some were just opened");
        restrain(&connection).map_err(|error| database_error("open", &self.shown(), error))?;
        Ok(connection)
    }

    /// Moves the content to another file, for which connections are opened.
    fn renew(&mut self) -> Result<()> {
        let (mut file, connections) = nameless(&self.folder)?;
        let failed = |error| io_error("copy a temporary file in", &self.folder, error);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        std::io::copy(&mut self.file, &mut file).and_then(|_| file.flush()).map_err(failed)?;
        (self.file, self.connections) = (file, connections);
        Ok(())
    }
}

/// Makes an empty file without a name, and opens it.
fn nameless(folder: &Path) -> Result<(File, Vec<Connection>)> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    unnamed_file_opened(folder, |path| {
        let open = || Connection::open_with_flags(uri(path, "nolock=1"), flags);
        let connections: rusqlite::Result<Vec<Connection>> = (0..CONNECTIONS).map(|_| open()).collect();
        connections.map_err(|error| database_error("open", path, error))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bytes_of(page_size: u32, mode: &str, word: &str) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = {mode}; \
                 CREATE TABLE t (a); INSERT INTO t VALUES ('{word}')"
            ))
            .unwrap();
        drop(connection);
        std::fs::read(path).unwrap()
    }

    #[test]
    fn every_question_sees_what_was_written_last_and_nothing_has_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("deep/cache");
        let mut scratch = Scratch::new(&place).unwrap();
        for round in 0..CONNECTIONS * 2 + 3 {
            let page_size = [512, 4096, 65536][round % 3];
            let bytes = bytes_of(page_size, ["delete", "wal"][round % 2], &format!("word {round}"));
            let file = scratch.writer().unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            file.write_all_at(&bytes, 0).unwrap();
            assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "round {round}");
            let connection = scratch.connection().unwrap();
            let word: String = connection.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(word, format!("word {round}"));
            assert!(connection.execute_batch("DELETE FROM t").is_err());
            assert_eq!(std::fs::read_dir(&place).unwrap().count(), 0, "round {round}");
        }
        assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
