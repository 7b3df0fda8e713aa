//! The objects of a page-map chain, and the runs they hold.

use super::PageMap;
use crate::format::error::{FormatError, Result};
use crate::format::ids::BlobId;
use crate::format::object::{ObjectReader, ObjectWriter, field_u32, field_u64};

const KEYFRAME_MAGIC: &[u8; 4] = b"MVMK";
const DELTA_MAGIC: &[u8; 4] = b"MVMD";
const BLOB_BYTES: usize = 32;
pub(super) const RUN_BYTES: usize = 24;

/// Consecutive pages that lie one after the other in one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub start_page: u64,
    /// How many pages, at least one.
    pub pages: u32,
    /// The blob, as an index into the blob table beside the runs.
    pub blob_index: u32,
    /// Where the first page begins in the blob.
    pub blob_offset: u64,
}

impl Run {
    /// Returns the page after the last one.
    pub fn end_page(&self) -> u64 {
        self.start_page + u64::from(self.pages)
    }

    /// Returns whether the run lies inside a blob of the given length.
    pub fn fits(&self, page_size: u32, blob_raw_bytes: u64) -> bool {
        let run_bytes = u64::from(self.pages) * u64::from(page_size);
        run_bytes <= blob_raw_bytes && self.blob_offset <= blob_raw_bytes - run_bytes
    }

    fn check(
        &self,
        page_size: u32,
        page_count: u64,
        blob_count: usize,
    ) -> std::result::Result<(), &'static str> {
        let pages = u64::from(self.pages);
        if pages == 0 {
            return Err("has no pages");
        }
        if self.blob_index as usize >= blob_count {
            return Err("names a blob past the table");
        }
        if pages > page_count || self.start_page > page_count - pages {
            return Err("reaches past the last page");
        }
        // Splitting a run advances its offset; past this check that cannot wrap.
        match self.blob_offset.checked_add(pages * u64::from(page_size)) {
            Some(_) => Ok(()),
            None => Err("ends past any possible blob"),
        }
    }

    /// Returns the run without its first pages.
    pub(super) fn skip(&self, pages: u32, page_size: u32) -> Run {
        Run {
            start_page: self.start_page + u64::from(pages),
            pages: self.pages - pages,
            blob_index: self.blob_index,
            blob_offset: self.blob_offset + u64::from(pages) * u64::from(page_size),
        }
    }
}

/// Which of the two objects of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageMapKind {
    /// The start of a chain; covers every page.
    Keyframe,
    /// A later link; covers the pages that changed.
    Delta,
}

/// One object of a page-map chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMapObject {
    /// Keyframe or delta.
    pub kind: PageMapKind,
    /// Bytes of one page.
    pub page_size: u32,
    /// Pages of the database.
    pub page_count: u64,
    /// The blobs that runs refer to by index.
    pub blobs: Vec<BlobId>,
    /// The runs, ascending by page.
    pub runs: Vec<Run>,
}

impl PageMapObject {
    /// Returns the one delta that does what these do one after the other, the oldest first.
    pub fn composed(deltas: &[Self]) -> Result<Self> {
        let Some((first, rest)) = deltas.split_first() else {
            return Err(FormatError::corrupt("no deltas are no delta"));
        };
        // A map of the pages that the deltas know; the others are left to whatever the delta is applied to.
        let first = Self { kind: PageMapKind::Keyframe, ..first.clone() };
        let mut map = PageMap::from_keyframe(&first)?;
        rest.iter().try_for_each(|delta| map.apply(delta))?;
        Ok(Self { kind: PageMapKind::Delta, ..map.to_keyframe() })
    }

    /// Returns the object.
    ///
    /// # Panics
    ///
    /// If a run breaks a rule that every reader checks.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.check().is_ok(), "the runs of a page map ascend, exist and name blobs of the table");
        let magic = if self.kind == PageMapKind::Keyframe { KEYFRAME_MAGIC } else { DELTA_MAGIC };
        let tables_bytes = self.blobs.len() * BLOB_BYTES + self.runs.len() * RUN_BYTES;
        let mut writer = ObjectWriter::new(magic, 20 + tables_bytes);
        writer.u32(self.page_size);
        writer.u64(self.page_count);
        writer.count(self.blobs.len());
        for blob in &self.blobs {
            writer.bytes(blob.as_bytes());
        }
        writer.count(self.runs.len());
        for run in &self.runs {
            writer.u64(run.start_page);
            writer.u32(run.pages);
            writer.u32(run.blob_index);
            writer.u64(run.blob_offset);
        }
        writer.seal()
    }

    /// Reads either kind of object.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let (mut reader, kind) = ObjectReader::open(object, &[KEYFRAME_MAGIC, DELTA_MAGIC])?;
        let kind = if kind == 0 { PageMapKind::Keyframe } else { PageMapKind::Delta };
        let page_size = reader.u32()?;
        let page_count = reader.u64()?;
        let blob_count = reader.u32()?;
        let blobs = reader.table::<BLOB_BYTES>(blob_count.into())?;
        let run_count = reader.u32()?;
        let runs = reader.table::<RUN_BYTES>(run_count.into())?;
        reader.finish()?;
        let blobs = blobs.iter().map(|blob| BlobId::from_bytes(*blob)).collect();
        let runs = runs.iter().map(decode_run).collect();
        let object = Self { kind, page_size, page_count, blobs, runs };
        object.check()?;
        Ok(object)
    }

    /// Checks the rules that every object keeps, read or about to be used.
    pub(super) fn check(&self) -> Result<()> {
        let mut next_page = 0;
        for run in &self.runs {
            run.check(self.page_size, self.page_count, self.blobs.len())
                .and(if run.start_page < next_page { Err("is out of order") } else { Ok(()) })
                .map_err(|fault| {
                    FormatError::corrupt(format!("page-map run at page {} {fault}", run.start_page))
                })?;
            next_page = run.end_page();
        }
        Ok(())
    }
}

fn decode_run(record: &[u8; RUN_BYTES]) -> Run {
    Run {
        start_page: field_u64(record, 0),
        pages: field_u32(record, 8),
        blob_index: field_u32(record, 12),
        blob_offset: field_u64(record, 16),
    }
}
