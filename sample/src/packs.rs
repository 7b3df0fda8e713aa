//! Contents in msgvault's own packs: `attachments/packs/<pp>/<id>.mvpack`, found through two tables.
//!
//! `attachment_pack_index` says where each content lies and repeats its entry in the pack's footer;
//! `attachment_packs` holds totals. A removed content loses its row and stays in the pack as dead bytes, until
//! no content of that pack is left.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};

use crate::fail::{OrFail, Result};
use crate::hash::ContentHash;
use crate::pack_file::{Entry, PackFile};
use crate::random::Random;
use crate::schema::column;

/// The largest content msgvault packs.
pub(crate) const BLOB_BYTES_MAX: u64 = 64 << 20;

/// The moment all pack ids name, 2025-01-01, in milliseconds since 1970: a sample knows no clock.
const PACK_TIME_MILLISECONDS: u64 = 1_735_689_600_000;

/// The packs of an archive, and the one being filled.
#[derive(Debug)]
pub(crate) struct Packs {
    root: PathBuf,
    random: Random,
    known: HashSet<ContentHash>,
    open: PackFile,
}

impl Packs {
    /// Opens the packs below the attachment folder; ids of new ones come from `random`.
    pub(crate) fn open(attachments: &Path, database: &Connection, random: Random) -> Result<Self> {
        let hashes: Vec<String> = column(database, "SELECT blob_hash FROM attachment_pack_index", [])
            .or_fail("read the index of attachment packs")?;
        let known = hashes.iter().map(|hash| ContentHash::parse(hash)).collect::<Result<_, _>>();
        Ok(Self {
            root: attachments.join("packs"),
            random,
            known: known.or_fail("read the index of attachment packs")?,
            open: PackFile::default(),
        })
    }

    /// Returns whether a pack holds the content.
    pub(crate) fn contains(&self, hash: ContentHash) -> bool {
        self.known.contains(&hash)
    }

    /// Appends a content that no pack holds; a pack that is full then is sealed.
    pub(crate) fn add(
        &mut self,
        database: &Connection,
        hash: ContentHash,
        raw_bytes: u64,
        stored: &[u8],
        is_compressed: bool,
    ) -> Result<()> {
        self.open.add(hash, raw_bytes, stored, is_compressed);
        self.known.insert(hash);
        if self.open.is_full() { self.seal(database) } else { Ok(()) }
    }

    /// Writes the open pack, if it holds anything, and its rows.
    pub(crate) fn seal(&mut self, database: &Connection) -> Result<()> {
        if self.open.entries().is_empty() {
            return Ok(());
        }
        let random = u128::from(self.random.next()) << 64 | u128::from(self.random.next());
        let id = ulid::Ulid::from_parts(PACK_TIME_MILLISECONDS, random).to_string().to_lowercase();
        let (bytes, entries) = std::mem::take(&mut self.open).seal();
        let path = self.path(&id);
        let parent = self.root.join(&id[..2]);
        fs::create_dir_all(&parent).or_fail_at("create", &parent)?;
        fs::write(&path, &bytes).or_fail_at("write", &path)?;
        write_rows(database, &id, &entries).or_fail("write the index of attachment packs")
    }

    /// Removes a content; returns whether a pack held it.
    pub(crate) fn remove(&mut self, database: &Connection, hash: &str) -> Result<bool> {
        let pack_id = remove_row(database, hash).or_fail("change the index of attachment packs")?;
        let Some(pack_id) = pack_id else { return Ok(false) };
        if let Ok(hash) = ContentHash::parse(hash) {
            self.known.remove(&hash);
        }
        if drop_if_empty(database, &pack_id).or_fail("change the index of attachment packs")? {
            let path = self.path(&pack_id);
            fs::remove_file(&path).or_fail_at("remove", &path)?;
        }
        Ok(true)
    }

    fn path(&self, pack_id: &str) -> PathBuf {
        self.root.join(&pack_id[..2]).join(format!("{pack_id}.mvpack"))
    }
}

fn write_rows(database: &Connection, pack_id: &str, entries: &[Entry]) -> rusqlite::Result<()> {
    let mut insert = database.prepare("INSERT INTO attachment_pack_index VALUES(?,?,?,?,?,?,?)")?;
    for entry in entries {
        insert.execute(params![
            entry.hash.to_string(),
            pack_id,
            entry.offset as i64,
            entry.stored_bytes as i64,
            entry.raw_bytes as i64,
            entry.flags(),
            entry.crc32c,
        ])?;
    }
    let stored_bytes: u64 = entries.iter().map(|entry| entry.stored_bytes).sum();
    database
        .execute(
            "INSERT INTO attachment_packs VALUES(?,?,?,'2025-01-01T00:00:00Z')",
            params![pack_id, entries.len() as i64, stored_bytes as i64],
        )
        .map(drop)
}

fn remove_row(database: &Connection, hash: &str) -> rusqlite::Result<Option<String>> {
    let delete = "DELETE FROM attachment_pack_index WHERE blob_hash=? RETURNING pack_id";
    database.query_row(delete, [hash], |row| row.get(0)).optional()
}

fn drop_if_empty(database: &Connection, pack_id: &str) -> rusqlite::Result<bool> {
    let delete = "DELETE FROM attachment_packs WHERE pack_id=?1
        AND NOT EXISTS (SELECT 1 FROM attachment_pack_index WHERE pack_id=?1)";
    Ok(database.execute(delete, [pack_id])? > 0)
}
