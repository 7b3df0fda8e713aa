//! msgvault's own packs of live attachments: their tables, and reading one blob (section 7.7).
//!
//! Attachments are read in another order than they lie in packs, and each must be in its pack's footer as the
//! database says. So a footer is read and parsed once; what is kept of it is a small print of each entry, by which
//! an entry is recognised later. A pack that was exchanged since is looked at anew.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rustix::fs::{FileType, Stat};

use crate::archive::beneath::{file_at, stat_at};
use crate::archive::bounds::{Bounds, bounded_error, restrain};
use crate::archive::content::SeenContent;
use crate::archive::sighting::Sighting;
use crate::archive::sqlite::{open_at_rest, open_staged};
use crate::error::lift::{database_error, io_error};
use crate::format::pack::{self, Entry, Footer, Trailer};
use crate::format::{BlobFlags, BlobId, Decompressor, FormatError, PackId};
use crate::{Error, ErrorKind, Result};

/// msgvault keeps larger attachments loose.
const PACKED_RAW_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// A footer that msgvault accepts.
const FOOTER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Packs held open at once.
const OPEN_PACKS_MAX: usize = 16;
/// The two tables that describe the live store.
const TABLES: [&str; 2] = ["attachment_pack_index", "attachment_packs"];

/// Where the database says that a packed attachment lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRow {
    pack: PackId,
    entry: Entry,
}

/// What is read of the pack index.
const COLUMNS: &str = "SELECT blob_hash, pack_id, pack_offset, stored_len, raw_len, flags, crc32c \
                       FROM attachment_pack_index";

/// Reads the pack index of a database; empty where there is no such table.
pub fn load_rows(connection: &Connection, database: &Path) -> Result<HashMap<BlobId, PackRow>> {
    let rows = read_rows(connection, database, COLUMNS, [])?;
    Ok(rows.into_iter().map(|row| (row.entry.id, row)).collect())
}

/// Looks one attachment up in the pack index, without reading the rest: while a packer is at work, that is asked
/// for one attachment after the other.
pub fn load_row(connection: &Connection, database: &Path, id: &BlobId) -> Result<Option<PackRow>> {
    let rows = read_rows(connection, database, &one_row(), [id.to_string()])?;
    Ok(rows.into_iter().find(|row| row.entry.id == *id))
}

fn one_row() -> String {
    format!("{COLUMNS} WHERE blob_hash = ?1")
}

fn read_rows(
    connection: &Connection,
    database: &Path,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<PackRow>> {
    if !has_table(connection, database, TABLES[0])? {
        return Ok(Vec::new());
    }
    let rows = connection.prepare(sql).and_then(|mut statement| {
        let read = |row: &rusqlite::Row<'_>| {
            let numbers: [i64; 5] = [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, numbers))
        };
        statement.query_map(parameters, read)?.collect::<rusqlite::Result<Vec<_>>>()
    });
    let rows = rows.map_err(|error| database_error("read the pack index of", database, error))?;
    let parse = |(hash, pack, numbers): (String, String, [i64; 5])| {
        row(&hash, &pack, numbers).ok_or_else(|| {
            let message =
                format!("the pack index of {} has an unusable row for {hash:?}", database.display());
            Error::new(ErrorKind::Source, message)
        })
    };
    rows.into_iter().map(parse).collect()
}

fn row(hash: &str, pack: &str, [offset, stored, raw, flags, crc]: [i64; 5]) -> Option<PackRow> {
    let entry = Entry {
        id: BlobId::parse(hash).ok()?,
        offset: u64::try_from(offset).ok()?,
        stored_bytes: u64::try_from(stored).ok()?,
        raw_bytes: u64::try_from(raw).ok()?,
        flags: BlobFlags::parse(u8::try_from(flags).ok()?).ok()?,
        crc32c: u32::try_from(crc).ok()?,
    };
    Some(PackRow { pack: PackId::parse(pack).ok()?, entry })
}

/// How many prints are kept where the database names few attachments.
const PRINTS_MIN: usize = 1 << 16;
/// The memory of one print.
const PRINT_BYTES: u64 = size_of::<u64>() as u64;

struct OpenedPack {
    file: File,
    footer: Arc<KnownFooter>,
}

/// What is kept of a footer.
struct KnownFooter {
    /// Which file it was read from: device, number, length, and when that was changed last.
    of: (u64, u64, u64, (i64, i64)),
    /// Prints of its entries, ascending.
    prints: Vec<u64>,
}

/// The footers of packs, oldest first, as many as there is room for.
#[derive(Default)]
struct Footers {
    known: HashMap<PackId, Arc<KnownFooter>>,
    order: VecDeque<PackId>,
    prints: usize,
}

impl Footers {
    fn keep(&mut self, id: PackId, footer: Arc<KnownFooter>, prints_max: usize) {
        self.prints += footer.prints.len();
        match self.known.insert(id, footer) {
            Some(before) => self.prints -= before.prints.len(),
            None => self.order.push_back(id),
        }
        while self.prints > prints_max && self.order.len() > 1 {
            let oldest = self.order.pop_front().and_then(|oldest| self.known.remove(&oldest));
            self.prints -= oldest.map_or(0, |oldest| oldest.prints.len());
        }
    }
}

/// The packs below the attachment folder, opened as they are needed.
pub struct LivePacks {
    content: Arc<OwnedFd>,
    shown: PathBuf,
    opened: Mutex<VecDeque<(PackId, Arc<OpenedPack>)>>,
    footers: Mutex<Footers>,
    /// Prints are of this run: nobody can make an entry that has the print of another.
    hasher: RandomState,
    prints_max: usize,
    footers_read: AtomicU64,
    seen: Mutex<HashMap<PackId, Sighting>>,
}

impl std::fmt::Debug for LivePacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LivePacks").field("folder", &self.shown).finish_non_exhaustive()
    }
}

impl LivePacks {
    /// Makes the packs of an attachment folder held open, in which the database says that so many attachments lie.
    pub fn new(content: Arc<OwnedFd>, shown: PathBuf, attachments: usize) -> Self {
        Self {
            content,
            shown,
            opened: Mutex::default(),
            footers: Mutex::default(),
            hasher: RandomState::new(),
            // Footers also name what was removed from the database since.
            prints_max: attachments.saturating_mul(2).max(PRINTS_MIN),
            footers_read: AtomicU64::new(0),
            seen: Mutex::default(),
        }
    }

    /// Returns how much memory is kept of footers, at most.
    pub fn table_bytes_max(&self) -> u64 {
        self.prints_max as u64 * PRINT_BYTES
    }

    fn print_of(&self, entry: &Entry) -> u64 {
        let Entry { id, offset, stored_bytes, raw_bytes, flags, crc32c } = entry;
        self.hasher.hash_one((id, offset, stored_bytes, raw_bytes, flags.bits(), crc32c))
    }

    /// Returns what is seen of the pack that an attachment lies in; each pack is looked at once.
    pub fn look(&self, row: &PackRow) -> Option<SeenContent> {
        let known = self.seen.lock().expect("no holder of what was seen panics").get(&row.pack).copied();
        let sighting = match known {
            Some(sighting) => sighting,
            None => {
                let stat = stat_at(self.content.as_ref(), &relative_path(&row.pack), &self.shown).ok()??;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return None;
                }
                let sighting = Sighting::of(&stat);
                self.seen.lock().expect("no holder of what was seen panics").insert(row.pack, sighting);
                sighting
            }
        };
        let Entry { offset, stored_bytes, raw_bytes, flags, crc32c, .. } = &row.entry;
        let flags = flags.bits();
        let place = format!("{} {offset} {stored_bytes} {raw_bytes} {flags} {crc32c}", row.pack);
        Some(SeenContent { place, sighting })
    }

    /// Reads one attachment; `None` when its pack is gone.
    pub fn read(&self, row: &PackRow) -> Result<Option<Vec<u8>>> {
        let path = self.path_of(&row.pack);
        let unusable = |error: FormatError| {
            let message = format!("cannot read attachment {} in {}", row.entry.id, path.display());
            Error::caused(ErrorKind::Source, message, error)
        };
        let Some(opened) = self.open(&row.pack)? else { return Ok(None) };
        if opened.footer.prints.binary_search(&self.print_of(&row.entry)).is_err() {
            let message = format!("the database and {} disagree on {}", path.display(), row.entry.id);
            return Err(Error::new(ErrorKind::Source, message));
        }
        if row.entry.raw_bytes > PACKED_RAW_BYTES_MAX || row.entry.stored_bytes > PACKED_RAW_BYTES_MAX {
            let message = format!("attachment {} is too large for {}", row.entry.id, path.display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        let mut stored = vec![0; row.entry.stored_bytes as usize];
        opened
            .file
            .read_exact_at(&mut stored, row.entry.offset)
            .map_err(|error| io_error("read", &path, error))?;
        let mut raw = Vec::new();
        let mut decompressor = Decompressor::new();
        decompressor.decode_into(&row.entry, &stored, &mut raw).map_err(unusable)?;
        Ok(Some(raw))
    }

    fn open(&self, id: &PackId) -> Result<Option<Arc<OpenedPack>>> {
        let known = {
            let opened = self.opened.lock().expect("no holder of the packs panics");
            opened.iter().find(|(known, _)| known == id).map(|(_, pack)| pack.clone())
        };
        if known.is_some() {
            return Ok(known);
        }
        let path = self.path_of(id);
        let Some((file, stat)) = file_at(self.content.as_ref(), &relative_path(id), &path)? else {
            return Ok(None);
        };
        let footer = self.footer(id, &file, &stat, &path)?;
        let pack = Arc::new(OpenedPack { file, footer });
        let mut opened = self.opened.lock().expect("no holder of the packs panics");
        opened.push_back((*id, pack.clone()));
        if opened.len() > OPEN_PACKS_MAX {
            opened.pop_front();
        }
        Ok(Some(pack))
    }

    /// Returns what is known of the footer of an open pack; reads it where nothing is.
    #[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
    fn footer(&self, id: &PackId, file: &File, stat: &Stat, path: &Path) -> Result<Arc<KnownFooter>> {
        let file_bytes = stat.st_size as u64;
        let changed = (stat.st_ctime as i64, stat.st_ctime_nsec as i64);
        let of = (stat.st_dev as u64, stat.st_ino as u64, file_bytes, changed);
        let known = self.footers.lock().expect("no holder of the footers panics").known.get(id).cloned();
        if let Some(known) = known.filter(|known| known.of == of) {
            return Ok(known);
        }
        self.footers_read.fetch_add(1, Ordering::Relaxed);
        let footer = read_footer(file, file_bytes, path)?;
        let mut prints: Vec<u64> = footer.entries().iter().map(|entry| self.print_of(entry)).collect();
        prints.sort_unstable();
        let footer = Arc::new(KnownFooter { of, prints });
        let mut footers = self.footers.lock().expect("no holder of the footers panics");
        footers.keep(*id, footer.clone(), self.prints_max);
        Ok(footer)
    }

    fn path_of(&self, id: &PackId) -> PathBuf {
        self.shown.join(relative_path(id))
    }
}

/// Returns where a pack lies below the attachment folder.
fn relative_path(id: &PackId) -> String {
    format!("packs/{}/{id}.mvpack", id.shard())
}

fn read_footer(file: &File, file_bytes: u64, path: &Path) -> Result<Footer> {
    let unusable = |error: FormatError| {
        Error::caused(ErrorKind::Source, format!("cannot use the attachment pack {}", path.display()), error)
    };
    let read = |offset: u64, length: u64| {
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, offset).map_err(|error| io_error("read", path, error))?;
        Ok::<_, Error>(bytes)
    };
    pack::check_header(&read(0, file_bytes.min(pack::HEADER_BYTES as u64))?).map_err(unusable)?;
    let trailer_bytes = file_bytes.min(pack::TRAILER_BYTES as u64);
    let trailer =
        Trailer::parse(&read(file_bytes - trailer_bytes, trailer_bytes)?, file_bytes).map_err(unusable)?;
    if trailer.region_bytes() > FOOTER_BYTES_MAX {
        let message = format!("the footer of {} is larger than msgvault makes them", path.display());
        return Err(Error::new(ErrorKind::Source, message));
    }
    let region = read(trailer.footer_offset(), trailer.region_bytes())?;
    Footer::parse(&region, &trailer, file_bytes).map_err(unusable)
}

/// Empties both tables of a staged database that nobody else has open (section 12.4); tells whether
/// there was anything to empty. A database without rows in them is not touched at all.
pub fn empty_pack_tables(staged: &Path, bounds: &Bounds) -> Result<bool> {
    let tables = bounds.within(&mut open_at_rest(staged)?, |at_rest| filled_tables(at_rest, staged))?;
    if tables.is_empty() {
        return Ok(false);
    }
    let fail = |error| bounded_error("empty the pack tables of", staged, error);
    let mut connection = open_staged(staged)?;
    // Triggers are none of ours to run, and none of msgvault's has to.
    restrain(&connection)
        .and_then(|()| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false))
        .map_err(fail)?;
    bounds.within(&mut connection, |connection| empty(connection, &tables).map_err(fail))?;
    connection.close().map_err(|(_, error)| fail(error))?;
    Ok(true)
}

fn filled_tables(at_rest: &Connection, staged: &Path) -> Result<Vec<&'static str>> {
    let mut tables = Vec::new();
    for table in TABLES {
        if has_table(at_rest, staged, table)? && has_rows(at_rest, staged, table)? {
            tables.push(table);
        }
    }
    Ok(tables)
}

fn empty(connection: &Connection, tables: &[&str]) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "DELETE")?;
    let deletes: String = tables.iter().map(|table| format!("DELETE FROM {table};")).collect();
    connection.execute_batch(&format!("BEGIN IMMEDIATE;{deletes}COMMIT"))
}

fn has_table(connection: &Connection, database: &Path, table: &str) -> Result<bool> {
    connection
        .query_row("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1", [table], |row| {
            row.get::<_, i64>(0)
        })
        .map(|count| count > 0)
        .map_err(|error| database_error("read the schema of", database, error))
}

fn has_rows(connection: &Connection, database: &Path, table: &str) -> Result<bool> {
    connection
        .query_row(&format!("SELECT EXISTS (SELECT 1 FROM {table})"), [], |row| row.get::<_, bool>(0))
        .map_err(|error| database_error("read", database, error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::archive::beneath::open_folder;

    /// Makes packs of a few contents each; returns the rows of all.
    fn packs(folder: &Path, count: u128, contents: usize) -> Vec<PackRow> {
        let mut rows = Vec::new();
        for number in 0..count {
            let pack = PackId::from_ulid(ulid::Ulid::from_parts(1, number << 40));
            let (mut bytes, mut entries) = (pack::encode_header(false).to_vec(), Vec::new());
            for index in 0..contents {
                let raw = format!("content {index} of pack {number}").into_bytes();
                let (offset, length) = (bytes.len() as u64, raw.len() as u64);
                let (id, crc32c) = (BlobId::of(&raw), crate::format::hash::crc32c(&raw));
                let flags = BlobFlags::RAW;
                entries.push(Entry { id, offset, stored_bytes: length, raw_bytes: length, flags, crc32c });
                bytes.extend(raw);
            }
            bytes.extend(pack::encode_footer(&entries));
            let place = folder.join("packs").join(pack.shard());
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join(format!("{pack}.mvpack")), bytes).unwrap();
            rows.extend(entries.into_iter().map(|entry| PackRow { pack, entry }));
        }
        rows
    }

    #[test]
    fn each_footer_is_read_once_in_whatever_order_attachments_are_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = packs(folder.path(), 3 * OPEN_PACKS_MAX as u128, 5);
        rows.sort_by_key(|row| row.entry.id);
        let held = Arc::new(open_folder(folder.path()).unwrap());
        let live = LivePacks::new(held, folder.path().to_owned(), rows.len());
        for row in &rows {
            assert!(live.read(row).unwrap().unwrap().starts_with(b"content "));
        }
        assert_eq!(live.footers_read.load(Ordering::Relaxed), 3 * OPEN_PACKS_MAX as u64);
        assert!(live.opened.lock().unwrap().len() <= OPEN_PACKS_MAX, "descriptors are bounded");
        // What the footer does not say in every part is refused.
        let wrong = PackRow { entry: Entry { crc32c: 1, ..rows[0].entry }, ..rows[0].clone() };
        assert!(live.read(&wrong).unwrap_err().to_string().contains("disagree"));
    }

    #[test]
    fn a_pack_that_was_exchanged_is_looked_at_anew_and_what_is_kept_of_footers_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let rows = packs(folder.path(), 3 * OPEN_PACKS_MAX as u128, 5);
        let held = Arc::new(open_folder(folder.path()).unwrap());
        let live = LivePacks::new(held, folder.path().to_owned(), rows.len());
        let live = LivePacks { prints_max: 20, ..live };
        assert!(rows.iter().all(|row| live.read(row).unwrap().is_some()));
        assert!(live.footers.lock().unwrap().prints <= 20 && live.footers.lock().unwrap().known.len() <= 4);
        let (last, other) = (rows.last().unwrap(), &rows[0]);
        let path = |row: &PackRow| live.path_of(&row.pack);
        std::fs::remove_file(path(last)).unwrap();
        std::fs::copy(path(other), path(last)).unwrap();
        live.opened.lock().unwrap().clear();
        assert!(live.read(last).unwrap_err().to_string().contains("disagree"));
    }

    #[test]
    fn one_attachment_is_looked_up_without_reading_the_whole_index() {
        let database = Connection::open_in_memory().unwrap();
        let tables = "CREATE TABLE attachment_pack_index (
            blob_hash TEXT PRIMARY KEY, pack_id TEXT NOT NULL, pack_offset BIGINT NOT NULL,
            stored_len BIGINT NOT NULL, raw_len BIGINT NOT NULL, flags INTEGER NOT NULL, crc32c BIGINT NOT NULL)";
        database.execute_batch(tables).unwrap();
        let ids = [BlobId::of(b"one"), BlobId::of(b"two")];
        for id in &ids {
            let insert =
                "INSERT INTO attachment_pack_index VALUES (?1, '01m8jc5f7075rgwesa1ng0cg9m', 64, 2, 3, 0, 4)";
            database.execute(insert, [id.to_string()]).unwrap();
        }
        let path = Path::new("memory");
        let found = load_row(&database, path, &ids[1]).unwrap().unwrap();
        assert_eq!(Some(&found), load_rows(&database, path).unwrap().get(&ids[1]));
        assert_eq!(load_row(&database, path, &BlobId::of(b"three")).unwrap(), None);
        let explain = format!("EXPLAIN QUERY PLAN {}", one_row());
        let plan: String = database.query_row(&explain, [ids[0].to_string()], |row| row.get(3)).unwrap();
        assert!(plan.starts_with("SEARCH"), "{plan}");
    }
}
