//! What every page of the database must hash to: a keyframe holds all pages, a delta those that changed.
//!
//! ```text
//! MVHK | u16 1 | u32 page size | u64 page count | page count x 16-byte hash | SHA-256
//! MVHD | u16 1 | u32 page size | u64 new page count | u32 count | count x u64 page | count x 16 | SHA-256
//! ```
//!
//! The pages of a delta ascend strictly. Objects do not name their parent; the manifests do.

use super::error::{FormatError, Result};
use super::ids::PageHash;
use super::object::{ObjectReader, ObjectWriter};

const KEYFRAME_MAGIC: &[u8; 4] = b"MVHK";
const DELTA_MAGIC: &[u8; 4] = b"MVHD";
const HASH_BYTES: usize = 16;

/// The hash of every page of one snapshot's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHashes {
    /// Bytes of one page.
    pub page_size: u32,
    /// One hash per page, in page order.
    pub hashes: Vec<PageHash>,
}

/// The pages that changed since the parent snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHashDelta {
    /// Bytes of one page.
    pub page_size: u32,
    /// Pages of the database after the change.
    pub page_count: u64,
    /// The changed pages, ascending, and their hashes.
    pub changes: Vec<(u64, PageHash)>,
}

/// Either kind of object of a page-hash chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageHashObject {
    /// The start of a chain.
    Keyframe(PageHashes),
    /// A later link.
    Delta(PageHashDelta),
}

impl PageHashObject {
    /// Reads whichever of the two the magic announces.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let (reader, kind) = ObjectReader::open(object, &[KEYFRAME_MAGIC, DELTA_MAGIC])?;
        match kind {
            0 => decode_keyframe(reader).map(Self::Keyframe),
            _ => decode_delta(reader).map(Self::Delta),
        }
    }
}

impl PageHashes {
    /// Returns the number of pages.
    pub fn page_count(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// Returns the hash of a page, if the database has it.
    pub fn get(&self, page: u64) -> Option<&PageHash> {
        self.hashes.get(usize::try_from(page).ok()?)
    }

    /// Returns the keyframe object.
    pub fn encode_keyframe(&self) -> Vec<u8> {
        let mut writer = ObjectWriter::new(KEYFRAME_MAGIC, 12 + self.hashes.len() * HASH_BYTES);
        writer.u32(self.page_size);
        writer.u64(self.page_count());
        for hash in &self.hashes {
            writer.bytes(hash.as_bytes());
        }
        writer.seal()
    }

    /// Reads a keyframe object.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let (reader, _) = ObjectReader::open(object, &[KEYFRAME_MAGIC])?;
        decode_keyframe(reader)
    }

    /// Turns the hashes of the parent into those of the snapshot that the delta belongs to.
    ///
    /// On failure nothing has changed.
    pub fn apply(&mut self, delta: &PageHashDelta) -> Result<()> {
        self.check_applies(delta)?;
        // Every page past the old end is listed, so growth allocates no more than the delta itself holds.
        let page_count = usize::try_from(delta.page_count)
            .map_err(|_| FormatError::corrupt("page-hash delta counts more pages than memory can hold"))?;
        self.hashes.resize(page_count, PageHash::from_bytes([0; HASH_BYTES]));
        for (page, hash) in &delta.changes {
            self.hashes[*page as usize] = *hash;
        }
        Ok(())
    }

    fn check_applies(&self, delta: &PageHashDelta) -> Result<()> {
        if delta.page_size != self.page_size {
            let message = format!("page-hash delta of {}-byte pages on {}", delta.page_size, self.page_size);
            return Err(FormatError::corrupt(message));
        }
        delta.check()?;
        let old_count = self.page_count();
        let new_pages = delta.changes.len() - delta.changes.partition_point(|(page, _)| *page < old_count);
        if new_pages as u64 != delta.page_count.saturating_sub(old_count) {
            let message = format!(
                "page-hash delta grows {old_count} pages to {}, but lists {new_pages} new ones",
                delta.page_count
            );
            return Err(FormatError::corrupt(message));
        }
        Ok(())
    }
}

impl PageHashDelta {
    /// Returns the delta object.
    ///
    /// # Panics
    ///
    /// If the pages do not ascend or lie past the end.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.check().is_ok(), "the pages of a delta ascend and exist");
        let mut writer = ObjectWriter::new(DELTA_MAGIC, 16 + self.changes.len() * (8 + HASH_BYTES));
        writer.u32(self.page_size);
        writer.u64(self.page_count);
        writer.count(self.changes.len());
        for (page, _) in &self.changes {
            writer.u64(*page);
        }
        for (_, hash) in &self.changes {
            writer.bytes(hash.as_bytes());
        }
        writer.seal()
    }

    /// Reads a delta object.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let (reader, _) = ObjectReader::open(object, &[DELTA_MAGIC])?;
        decode_delta(reader)
    }

    fn check(&self) -> Result<()> {
        if !self.changes.is_sorted_by(|left, right| left.0 < right.0) {
            return Err(FormatError::corrupt("pages of the page-hash delta do not ascend"));
        }
        match self.changes.last() {
            Some((page, _)) if *page >= self.page_count => {
                let message = format!("page-hash delta lists page {page} of {} pages", self.page_count);
                Err(FormatError::corrupt(message))
            }
            _ => Ok(()),
        }
    }
}

fn decode_keyframe(mut reader: ObjectReader<'_>) -> Result<PageHashes> {
    let page_size = reader.u32()?;
    let page_count = reader.u64()?;
    let table = reader.table::<HASH_BYTES>(page_count)?;
    reader.finish()?;
    let hashes = table.iter().map(|hash| PageHash::from_bytes(*hash)).collect();
    Ok(PageHashes { page_size, hashes })
}

fn decode_delta(mut reader: ObjectReader<'_>) -> Result<PageHashDelta> {
    let page_size = reader.u32()?;
    let page_count = reader.u64()?;
    let count = reader.u32()?;
    let pages = reader.table::<8>(count.into())?;
    let hashes = reader.table::<HASH_BYTES>(count.into())?;
    reader.finish()?;
    let numbers = pages.iter().map(|page| u64::from_le_bytes(*page));
    let changes = numbers.zip(hashes.iter().map(|hash| PageHash::from_bytes(*hash))).collect();
    let delta = PageHashDelta { page_size, page_count, changes };
    delta.check()?;
    Ok(delta)
}
