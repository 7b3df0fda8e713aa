//! A database that is built aside to be asked, and of which nothing is ever found on the disk: whoever kills
//! the program must not leave somebody's mail behind in plain text.
//!
//! SQLite opens a file by its name only. So it opens one that is still empty; the name is removed before the
//! first byte is written, and both go on through what they hold open. A connection that has read once would not
//! look at the file again, so each question takes a new one: they are opened ahead, a number at a time, and
//! when they are used up the content moves to another nameless file.
//!
//! Programs that were killed before this was so, or between making a file and removing its name, have left
//! folders behind; [`sweep`] removes them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use rustix::process::getuid;

use super::beneath::io_error;
use super::bounds::restrain;
use super::sqlite::{database_error, uri};
use crate::Result;

/// Connections opened ahead; each takes a descriptor.
const CONNECTIONS: usize = 16;
/// How the folders of this program begin, in which a file has its name for a moment.
const PREFIX: &str = ".packvault-scratch-";
/// How those of before began.
const PREFIX_BEFORE: &str = ".tmp";
/// The file in them.
const NAME: &str = "archive.db";
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
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|error| io_error("make the folder", folder, error))?;
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
        // Whoever reads through a log needs files beside; nothing is in one here.
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

/// Makes an empty file, opens it, and removes its name.
fn nameless(folder: &Path) -> Result<(File, Vec<Connection>)> {
    let place = Place::make(folder)?;
    let path = place.0.join(NAME);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = file.map_err(|error| io_error("make", &path, error))?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let open = || Connection::open_with_flags(uri(&path, "nolock=1"), flags);
    let connections: rusqlite::Result<Vec<Connection>> = (0..CONNECTIONS).map(|_| open()).collect();
    let connections = connections.map_err(|error| database_error("open", &path, error))?;
    place.remove().map_err(|error| io_error("remove the temporary folder", &path, error))?;
    Ok((file, connections))
}

/// A folder for one file, both removed by their names: that takes no descriptor, and so succeeds where the lack of
/// one has just kept a database from being opened.
struct Place(PathBuf);

impl Place {
    fn make(folder: &Path) -> Result<Self> {
        let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder);
        made.map(|place| Self(place.keep()))
            .map_err(|error| io_error("make a temporary folder in", folder, error))
    }

    fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_file(self.0.join(NAME)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::remove_dir(&self.0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone already, unless something failed before; that is what the user hears of.
        let _ = self.remove();
    }
}

/// Removes what killed programs have left in a folder: folders of ours that hold nothing but a database. One
/// that another program is just making loses nothing but its empty file, and that program says so.
pub fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let path = entry.path();
        let named = name.to_str().is_some_and(|name| {
            let before = name.starts_with(PREFIX_BEFORE) && path.join(NAME).exists();
            before || (name.starts_with(PREFIX) && is_old(&path))
        });
        if named && is_left(&path) {
            // Another command may sweep at the same time; what cannot be removed is tried again next time.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// A folder of this program has a name for a moment only.
fn is_old(folder: &Path) -> bool {
    const MOMENT: std::time::Duration = std::time::Duration::from_secs(60);
    let modified = std::fs::symlink_metadata(folder).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|age| age > MOMENT))
}

/// Tells whether a folder is this user's own, closed to others, and holds the one database or nothing.
fn is_left(folder: &Path) -> bool {
    let Ok(metadata) = std::fs::symlink_metadata(folder) else { return false };
    let private = metadata.is_dir() && metadata.uid() == getuid().as_raw() && metadata.mode() & 0o077 == 0;
    let Ok(mut entries) = std::fs::read_dir(folder) else { return false };
    private && entries.all(|entry| entry.is_ok_and(|entry| entry.file_name() == NAME))
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

    #[test]
    fn what_was_left_behind_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, mode: u32, file: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join(file), "mail").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        };
        make(".tmpAbCdEf", 0o700, NAME);
        make(".tmpOther0", 0o700, "notes.txt");
        make(".tmpShared", 0o755, NAME);
        make("kept", 0o700, NAME);
        make(".packvault-scratch-young", 0o700, NAME);
        std::fs::create_dir(folder.path().join(".tmpEmpty0")).unwrap();
        sweep(folder.path());
        sweep(&folder.path().join("none"));
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".packvault-scratch-young", ".tmpEmpty0", ".tmpOther0", ".tmpShared", "kept"]);
    }
}
