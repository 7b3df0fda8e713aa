//! Databases among the files: each is captured as an image of one moment, by a read transaction of its own.
//!
//! A database copied file by file while its application writes is torn. So a file that begins like a SQLite
//! database is never copied as it lies: it is pinned as the archive's own is, its pages are copied to a file
//! without a name, and the pin ends before anything is done with them.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::bounds::Bounds;
use super::cloned::share;
use super::extras::FoundExtra;
use super::foreign;
use super::health::{self, Depth, Health};
use super::pinned::{PageSource, PinnedDatabase, Reading};
use super::sqlite::immutable_uri;
use super::unnamed::{unnamed_file, unnamed_file_opened};
use crate::cancel::Cancel;
use crate::error::lift::database_error;
use crate::{Error, ErrorKind, Result};

/// Bytes that are copied at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// How an image is made.
#[derive(Debug, Clone, Copy)]
pub struct ImageOptions {
    /// The longest image.
    pub bytes_max: u64,
    /// How pages are read, where both ways are open.
    pub forced: Option<Reading>,
    /// How long writers may keep the pin from standing.
    pub window: Duration,
}

/// The image of a database.
#[derive(Debug)]
pub struct CapturedImage {
    /// The permission bits of the database.
    pub mode: u32,
    /// The length of the image.
    pub bytes: u64,
    /// The number of its pages.
    pub pages: u64,
    /// How its pages were read.
    pub reading: Reading,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// Copies the image of a database to `image`, in place of what is in there; `None` if the database is gone.
/// An error may be [`Moved`](super::database_file::Moved): then a new attempt may succeed.
///
/// No file of the database may be open in this process: closing it would drop the locks of the pin.
pub fn capture_image(
    extra: &FoundExtra,
    image: &mut File,
    how: &ImageOptions,
    cancel: &Cancel,
) -> Result<Option<CapturedImage>> {
    let Some(found) = extra.look()? else { return Ok(None) };
    let path = extra.path();
    image.set_len(0).and_then(|()| image.rewind()).map_err(|error| spool_error(extra, error))?;
    let pinned = foreign::pin_within(&path, cancel, how.forced, how.window)?;
    let copied =
        copy_pinned(&pinned, extra, image, how.bytes_max, cancel).map_err(|error| pinned.explain(error));
    let (bytes, pages) = (pinned.bytes(), pinned.page_count());
    let (reading, problems) = (pinned.reading(), pinned.problems().to_vec());
    let released = pinned.release();
    copied?;
    released?;
    Ok(Some(CapturedImage { mode: found.st_mode & 0o777, bytes, pages, reading, problems }))
}

fn copy_pinned(
    pinned: &PinnedDatabase,
    extra: &FoundExtra,
    image: &mut File,
    bytes_max: u64,
    cancel: &Cancel,
) -> Result<()> {
    check_identity(pinned, extra)?;
    if pinned.bytes() > bytes_max {
        let message = format!("{} is too large for a file of a snapshot", extra.path().display());
        return Err(Error::new(ErrorKind::Source, message));
    }
    let page_size = pinned.page_size() as usize;
    let pages_per_piece = (PIECE_BYTES / page_size).max(1) as u64;
    let source = pinned.source();
    if let PageSource::File { file, .. } = &source {
        // At once, where the file system can do that: its writers wait no longer than that takes.
        if share(file, image).is_ok() {
            return image.set_len(pinned.bytes()).map_err(|error| spool_error(extra, error));
        }
    }
    let mut piece = vec![0; pages_per_piece as usize * page_size];
    for first_page in (0..pinned.page_count()).step_by(pages_per_piece as usize) {
        cancel.check()?;
        let pages = pages_per_piece.min(pinned.page_count() - first_page) as usize;
        let piece = &mut piece[..pages * page_size];
        source.read(first_page, page_size, piece)?;
        image.write_all(piece).map_err(|error| spool_error(extra, error))?;
    }
    Ok(())
}

fn spool_error(extra: &FoundExtra, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Io, format!("cannot spool the image of {}", extra.path().display()), error)
}

/// No link on the way may have led to another database than the one that was found.
#[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
fn check_identity(pinned: &PinnedDatabase, extra: &FoundExtra) -> Result<()> {
    let named = extra.look()?.map(|stat| (stat.st_dev as u64, stat.st_ino as u64));
    let held = std::fs::symlink_metadata(pinned.path()).ok().map(|held| (held.dev(), held.ino()));
    if named.is_some() && named == held {
        return Ok(());
    }
    let message = format!("{} was replaced while it was being opened", extra.path().display());
    Err(Error::new(ErrorKind::Source, message))
}

/// A file without a name that takes the image of a database, and can be looked at as one.
#[derive(Debug)]
pub struct ImageFile {
    /// The file.
    pub file: File,
    connection: Option<Connection>,
}

impl ImageFile {
    /// Makes one in a folder of packvault's own; `checked` tells whether SQLite will look at it.
    pub fn new(folder: &Path, checked: bool) -> Result<Self> {
        if !checked {
            return Ok(Self { file: unnamed_file(folder)?, connection: None });
        }
        // SQLite opens it and reads nothing yet.
        let (file, connection) = unnamed_file_opened(folder, open_image)?;
        Ok(Self { file, connection: Some(connection) })
    }

    /// Returns what SQLite finds wrong with the image, which has so many pages, and what it cannot check;
    /// `shown` is the path of its database.
    pub fn health(&mut self, pages: u64, shown: &Path, cancel: &Cancel) -> Result<Health> {
        let wrong = |problem: String| {
            Ok(Health { problems: vec![format!("{}: {problem}", shown.display())], unchecked: Vec::new() })
        };
        let Some(connection) = &mut self.connection else { return Ok(Health::default()) };
        // SQLite took the length of the file when it opened it, empty, and takes it again with another page
        // size; the true one it finds in the header.
        let settings = "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA temp_store = MEMORY; \
                        PRAGMA page_size = 512";
        let count = |connection: &Connection| {
            connection.execute_batch(settings)?;
            connection.pragma_query_value(None, "page_count", |row| row.get::<_, i64>(0))
        };
        let seen = match count(connection) {
            Ok(seen) => seen,
            Err(error) if health::is_damage(&error) => return wrong(error.to_string()),
            Err(error) => return Err(database_error("check", shown, error)),
        };
        let page_size = connection.pragma_query_value(None, "page_size", |row| row.get::<_, u32>(0));
        let page_size = page_size.map_err(|error| database_error("check", shown, error))?;
        let bytes = pages.saturating_mul(u64::from(page_size));
        if u64::try_from(seen) != Ok(pages) {
            return wrong(format!("{pages} pages, of which SQLite sees {seen}"));
        }
        let (depth, bounds) = (Depth::of_size(bytes), Bounds::of_check(cancel, bytes));
        health::examine_source(connection, shown, depth, &bounds)
    }
}

fn open_image(path: &Path) -> Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    Connection::open_with_flags(immutable_uri(path), flags)
        .map_err(|error| database_error("open", path, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::sync::Arc;

    use super::*;
    use crate::archive::beneath::open_folder;
    use crate::archive::extras::Root;

    fn extra(folder: &Path, name: &str) -> FoundExtra {
        let root = Arc::new(Root { held: open_folder(folder).unwrap(), path: folder.to_owned() });
        FoundExtra::new(root, name.to_owned(), 0, false)
    }

    fn options(bytes_max: u64) -> ImageOptions {
        ImageOptions { bytes_max, forced: None, window: Duration::ZERO }
    }

    fn capture(folder: &Path, name: &str) -> Result<(ImageFile, CapturedImage)> {
        let spool = tempfile::tempdir().unwrap();
        let mut image = ImageFile::new(spool.path(), true)?;
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0, "it has no name");
        let captured =
            capture_image(&extra(folder, name), &mut image.file, &options(1 << 32), &Cancel::new())?;
        Ok((image, captured.unwrap()))
    }

    #[test]
    fn what_is_still_in_the_log_is_in_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Connection::open(folder.path().join("a.db")).unwrap();
        writer
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (a);
                 INSERT INTO t VALUES (randomblob(100000)), ('last')",
            )
            .unwrap();
        let (mut image, captured) = capture(folder.path(), "a.db").unwrap();
        assert_eq!(captured.reading, Reading::Transaction);
        assert_eq!(image.file.metadata().unwrap().len(), captured.bytes);
        assert_eq!(
            image.health(captured.pages, Path::new("a.db"), &Cancel::new()).unwrap(),
            Health::default()
        );
        let copy = folder.path().join("copy.db");
        let mut bytes = vec![0; captured.bytes as usize];
        image.file.read_exact_at(&mut bytes, 0).unwrap();
        std::fs::write(&copy, bytes).unwrap();
        let last: String = Connection::open(copy)
            .unwrap()
            .query_row("SELECT a FROM t ORDER BY rowid DESC LIMIT 1", [], |row| row.get(0))
            .unwrap();
        assert_eq!(last, "last");
    }

    #[test]
    fn damage_is_found_in_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let writer = Connection::open(&path).unwrap();
        writer.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(20000))").unwrap();
        drop(writer);
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xff; 64], 4096).unwrap();
        drop(file);
        let (mut image, captured) = capture(folder.path(), "a.db").unwrap();
        let problems = image.health(captured.pages, Path::new("x/a.db"), &Cancel::new()).unwrap().problems;
        assert!(problems.iter().all(|problem| problem.starts_with("x/a.db")) && !problems.is_empty());
    }

    #[test]
    fn what_only_begins_like_a_database_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut garbage = b"SQLite format 3\0".to_vec();
        garbage.extend([0xa5; 8000]);
        std::fs::write(folder.path().join("a.db"), garbage).unwrap();
        assert_eq!(capture(folder.path(), "a.db").unwrap_err().kind(), ErrorKind::Source);
        std::fs::write(folder.path().join("b.db"), b"SQLite format 3\0").unwrap();
        assert_eq!(capture(folder.path(), "b.db").unwrap_err().kind(), ErrorKind::Source);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing was made beside it");
    }

    #[test]
    fn one_that_its_application_keeps_for_itself_is_refused_and_not_waited_for_longer_than_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        let holder = Connection::open(&path).unwrap();
        holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let error = capture(folder.path(), "a.db").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
        holder.execute_batch("ROLLBACK").unwrap();
        capture(folder.path(), "a.db").unwrap();
    }

    #[test]
    fn an_image_larger_than_may_be_is_refused_before_it_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Connection::open(folder.path().join("a.db")).unwrap();
        writer.execute_batch("CREATE TABLE t (a)").unwrap();
        let mut image = tempfile::tempfile().unwrap();
        let error = capture_image(&extra(folder.path(), "a.db"), &mut image, &options(4096), &Cancel::new());
        assert!(error.unwrap_err().to_string().contains("too large"));
        assert_eq!(image.metadata().unwrap().len(), 0);
        writer.execute_batch("INSERT INTO t VALUES (1)").unwrap();
    }
}
