//! The attachment rows of a sample, and the contents they point at.
//!
//! Beside ordinary rows it makes all those a capture must cope with: rows that repeat an earlier content,
//! a content at two places, sizes that are missing or wrong, rows whose bytes are elsewhere (a URL) or
//! were never fetched (an empty path), thumbnails of their own, shared, or equal to their picture.

use std::collections::BTreeMap;

use rusqlite::{Connection, Row as SqlRow, params};

use crate::content::{Content, ContentKind, Contents};
use crate::fail::OrFail;
use crate::fail::Result;
use crate::random::Random;
use crate::store::{NAMESPACE, Store, Stored};

/// Earlier contents a new row may repeat.
const EARLIER_MAX: usize = 2000;

/// Contents kept at hand, to put one at a second place.
const RECENT_MAX: usize = 8;

/// Thumbnails that may be shared.
const THUMBNAILS_MAX: usize = 50;

/// Rows a change may repeat from before it.
const EARLIER_QUERY: &str =
    "SELECT filename,mime_type,size,content_hash,storage_path,media_type,thumbnail_hash,
    thumbnail_path FROM attachments WHERE attachment_state='stored' AND content_hash IS NOT NULL
    AND storage_path NOT LIKE 'http%' ORDER BY id DESC LIMIT 500";

const INSERT: &str = "INSERT INTO attachments(id,message_id,filename,mime_type,size,content_hash,storage_path,
    media_type,width,height,thumbnail_hash,thumbnail_path,source_attachment_id,attachment_state,
    attachment_skip_reason,attachment_role,role_source,created_at)
    VALUES(?1,?2,?3,?4,?5,?6,?7,?8,iif(?8='image',640,NULL),iif(?8='image',480,NULL),?9,?10,'part'||(?1%7),?11,
    iif(?11='skipped','too_large',NULL),'standalone','mime_disposition','2025-01-01 00:00:00')";

/// Which rows to write.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    /// Row id of the first.
    pub(crate) first_id: i64,
    /// Ordinary rows.
    pub(crate) count: u32,
    /// Rows with contents of exact size, written before the others.
    pub(crate) large: &'a [(u64, ContentKind)],
    /// Messages they may hang on; never empty.
    pub(crate) message_ids: &'a [i64],
    /// Part of the contents stored outside their canonical path.
    pub(crate) namespaced_fraction: f64,
}

/// Writes the rows of a batch and puts their contents, inside the caller's transaction.
pub(crate) fn write(
    database: &Connection,
    contents: &Contents<'_>,
    store: &mut Store<'_>,
    random: &mut Random,
    batch: &Batch<'_>,
) -> Result<()> {
    let earlier = load_earlier(database).or_fail("read earlier attachments")?;
    let mut maker = Maker { contents, store, earlier, recent: Vec::new(), thumbnails: Vec::new() };
    let mut insert = database.prepare(INSERT).or_fail("prepare to write attachments")?;
    let mut per_message: BTreeMap<i64, i64> = BTreeMap::new();
    for place in 0..batch.large.len() + batch.count as usize {
        let row = match batch.large.get(place) {
            Some(&(size, kind)) => maker.large(random, size, kind)?,
            None => maker.ordinary(random, batch.namespaced_fraction)?,
        };
        let message_id = *random.pick(batch.message_ids);
        *per_message.entry(message_id).or_default() += 1;
        row.insert(&mut insert, batch.first_id + place as i64, message_id).or_fail("write an attachment")?;
    }
    count_attachments(database, &per_message).or_fail("count attachments")
}

/// A row of `attachments`.
#[derive(Debug, Clone, Default)]
struct Row {
    name: String,
    mime: String,
    media: Option<String>,
    size: Option<i64>,
    hash: Option<String>,
    path: String,
    thumbnail_hash: Option<String>,
    thumbnail_path: Option<String>,
    state: &'static str,
}

impl Row {
    fn stored(name: String, mime: &str, media: &str, stored: Stored) -> Self {
        Self {
            name,
            mime: mime.to_owned(),
            media: Some(media.to_owned()),
            size: Some(stored.size as i64),
            hash: Some(stored.hash),
            path: stored.path,
            state: "stored",
            ..Self::default()
        }
    }

    /// Bytes kept by somebody else.
    fn remote(random: &mut Random) -> Self {
        Self {
            name: "remote.png".to_owned(),
            mime: "image/png".to_owned(),
            media: Some("image".to_owned()),
            size: Some(4096),
            hash: Some(random.hex(32)),
            path: format!("https://cdn.example/{}.png", random.hex(6)),
            state: "stored",
            ..Self::default()
        }
    }

    /// Bytes never fetched.
    fn skipped() -> Self {
        let (name, mime) = ("skipped.bin".to_owned(), "application/octet-stream".to_owned());
        Self { name, mime, state: "skipped", ..Self::default() }
    }

    fn load(row: &SqlRow<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            name: row.get(0)?,
            mime: row.get(1)?,
            size: row.get(2)?,
            hash: row.get(3)?,
            path: row.get(4)?,
            media: row.get(5)?,
            thumbnail_hash: row.get(6)?,
            thumbnail_path: row.get(7)?,
            state: "stored",
        })
    }

    fn insert(&self, insert: &mut rusqlite::Statement<'_>, id: i64, message_id: i64) -> rusqlite::Result<()> {
        insert
            .execute(params![
                id,
                message_id,
                self.name,
                self.mime,
                self.size,
                self.hash,
                self.path,
                self.media,
                self.thumbnail_hash,
                self.thumbnail_path,
                self.state,
            ])
            .map(drop)
    }
}

/// Makes rows and puts what they point at.
struct Maker<'a, 's> {
    contents: &'a Contents<'a>,
    store: &'a mut Store<'s>,
    earlier: Vec<Row>,
    recent: Vec<(Row, Vec<u8>)>,
    thumbnails: Vec<Vec<u8>>,
}

impl Maker<'_, '_> {
    fn large(&mut self, random: &mut Random, size: u64, kind: ContentKind) -> Result<Row> {
        let stored = self.store.put_stream(
            &mut self.contents.stream(random, kind, size),
            size,
            kind != ContentKind::Random,
        )?;
        Ok(Row::stored(format!("large-{size}.bin"), "application/octet-stream", "document", stored))
    }

    fn ordinary(&mut self, random: &mut Random, namespaced_fraction: f64) -> Result<Row> {
        let kind = random.fraction();
        Ok(match kind {
            _ if kind < 0.01 => Row::remote(random),
            _ if kind < 0.02 => Row::skipped(),
            _ if kind < 0.21 && !self.earlier.is_empty() => self.repeated(random)?,
            _ => self.fresh(random, namespaced_fraction)?,
        })
    }

    fn repeated(&mut self, random: &mut Random) -> Result<Row> {
        if !self.recent.is_empty() && random.chance(0.3) {
            return self.elsewhere(random);
        }
        let mut row = random.pick(&self.earlier).clone();
        if random.chance(0.05) {
            row.size = None;
        }
        Ok(row)
    }

    /// Puts a recent content at a second place.
    fn elsewhere(&mut self, random: &mut Random) -> Result<Row> {
        let (row, bytes) = random.pick(&self.recent);
        let prefix = if row.path.starts_with(NAMESPACE) { "" } else { NAMESPACE };
        let path = self.store.put(bytes, prefix)?.path;
        Ok(Row { path, ..row.clone() })
    }

    fn fresh(&mut self, random: &mut Random, namespaced_fraction: f64) -> Result<Row> {
        let content = self.contents.ordinary(random);
        let prefix = if random.chance(namespaced_fraction) { NAMESPACE } else { "" };
        let stored = self.store.put(&content.bytes, prefix)?;
        let mut row = Row::stored(content.name.clone(), content.mime, content.media, stored);
        if content.media == "image" && random.chance(0.6) {
            let thumbnail = self.thumbnail(random, &content, prefix)?;
            (row.thumbnail_hash, row.thumbnail_path) = (Some(thumbnail.hash), Some(thumbnail.path));
        }
        if random.chance(0.03) {
            row.size = if random.chance(0.6) { None } else { row.size.map(|size| size + 17) };
        }
        self.remember(row.clone());
        if namespaced_fraction > 0.0 {
            self.recent.truncate(RECENT_MAX - 1);
            self.recent.insert(0, (row.clone(), content.bytes));
        }
        Ok(row)
    }

    fn thumbnail(&mut self, random: &mut Random, content: &Content, prefix: &str) -> Result<Stored> {
        if random.chance(0.02) {
            return self.store.put(&content.bytes, prefix);
        }
        if !self.thumbnails.is_empty() && random.chance(0.05) {
            return self.store.put(random.pick::<Vec<u8>>(&self.thumbnails), prefix);
        }
        let thumbnail = self.contents.thumbnail(random);
        let stored = self.store.put(&thumbnail, prefix)?;
        if self.thumbnails.len() == THUMBNAILS_MAX {
            self.thumbnails.remove(0);
        }
        self.thumbnails.push(thumbnail);
        Ok(stored)
    }

    fn remember(&mut self, row: Row) {
        if self.earlier.len() == EARLIER_MAX {
            self.earlier.drain(..EARLIER_MAX / 4);
        }
        self.earlier.push(row);
    }
}

fn load_earlier(database: &Connection) -> rusqlite::Result<Vec<Row>> {
    database.prepare(EARLIER_QUERY)?.query_map([], Row::load)?.collect()
}

fn count_attachments(database: &Connection, per_message: &BTreeMap<i64, i64>) -> rusqlite::Result<()> {
    let mut update = database
        .prepare("UPDATE messages SET has_attachments=1, attachment_count=attachment_count+? WHERE id=?")?;
    per_message.iter().try_for_each(|(id, count)| update.execute([count, id]).map(drop))
}
