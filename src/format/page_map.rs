//! Which blob holds each database page: the objects of a page-map chain, and the map they add up to.
//!
//! ```text
//! MVMK (keyframe) or MVMD (delta) | u16 1 | u32 page size | u64 page count
//!   | u32 blob count | blob count x 32 | u32 run count | run count x 24 | SHA-256
//! run: start page u64 | pages u32 | blob index u32 | blob offset u64
//! ```
//!
//! Page `start + k` is the `page size` bytes at `blob offset + k * page size` of the blob. Runs ascend and
//! do not overlap. A keyframe covers every page (`PageMap::coverage`), a delta only those that changed. A
//! run's end in its blob cannot wrap; that it lies inside the blob is checked by whoever reads the blob
//! (`Run::fits`). The blob table may name a blob twice, or one that no run uses.

use std::collections::{BTreeMap, HashMap};

use super::error::{FormatError, Result};
use super::ids::BlobId;
use super::object::{ObjectReader, ObjectWriter, field_u32, field_u64};

const KEYFRAME_MAGIC: &[u8; 4] = b"MVMK";
const DELTA_MAGIC: &[u8; 4] = b"MVMD";
const BLOB_BYTES: usize = 32;
const RUN_BYTES: usize = 24;

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
    fn skip(&self, pages: u32, page_size: u32) -> Run {
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

    fn check(&self) -> Result<()> {
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

/// The map of one snapshot: a keyframe with the deltas after it applied.
///
/// The blob table is the union of the tables of all applied objects, each blob once. It keeps blobs that no
/// run uses any more, because verify and restore require those to exist as well.
#[derive(Debug, Clone)]
pub struct PageMap {
    page_size: u32,
    page_count: u64,
    blobs: Vec<BlobId>,
    blob_indexes: HashMap<BlobId, u32>,
    runs: BTreeMap<u64, Run>,
}

impl PageMap {
    /// Starts from a keyframe.
    pub fn from_keyframe(object: &PageMapObject) -> Result<Self> {
        if object.kind != PageMapKind::Keyframe {
            return Err(FormatError::corrupt("page-map chain does not start with a keyframe"));
        }
        object.check()?;
        let mut map = Self {
            page_size: object.page_size,
            page_count: object.page_count,
            blobs: Vec::with_capacity(object.blobs.len()),
            blob_indexes: HashMap::with_capacity(object.blobs.len()),
            runs: BTreeMap::new(),
        };
        let table = map.adopt_blobs(&object.blobs)?;
        map.adopt_runs(&object.runs, &table);
        Ok(map)
    }

    /// Turns the map of the parent into that of the snapshot that the delta belongs to.
    ///
    /// Costs time in proportion to the delta and what it replaces. On failure nothing has changed.
    pub fn apply(&mut self, delta: &PageMapObject) -> Result<()> {
        if delta.kind != PageMapKind::Delta {
            return Err(FormatError::corrupt("page-map chain holds a second keyframe"));
        }
        if delta.page_size != self.page_size {
            let message = format!("page-map delta of {}-byte pages on {}", delta.page_size, self.page_size);
            return Err(FormatError::corrupt(message));
        }
        delta.check()?;
        let table = self.adopt_blobs(&delta.blobs)?;
        self.cut(delta.page_count, u64::MAX);
        for run in &delta.runs {
            self.cut(run.start_page, run.end_page());
        }
        self.adopt_runs(&delta.runs, &table);
        self.page_count = delta.page_count;
        Ok(())
    }

    /// Proves that every page is mapped.
    pub fn coverage(&self) -> Result<()> {
        let mut next_page = 0;
        for run in self.runs.values() {
            if run.start_page != next_page {
                break;
            }
            next_page = run.end_page();
        }
        if next_page == self.page_count {
            return Ok(());
        }
        Err(FormatError::corrupt(format!("page {next_page} of {} is in no page-map run", self.page_count)))
    }

    /// Returns the bytes of one page.
    pub fn page_size(&self) -> u32 {
        self.page_size
    }

    /// Returns the number of pages.
    pub fn page_count(&self) -> u64 {
        self.page_count
    }

    /// Returns the blob table: every blob of every applied object, once, in first-use order.
    pub fn blobs(&self) -> &[BlobId] {
        &self.blobs
    }

    /// Returns the blob that a run refers to.
    ///
    /// # Panics
    ///
    /// If the run is not one of this map.
    pub fn blob_of(&self, run: &Run) -> BlobId {
        self.blobs[run.blob_index as usize]
    }

    /// Returns the runs, ascending by page.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }

    /// Returns the run of a single page that says where this page lies.
    pub fn page(&self, page: u64) -> Option<Run> {
        let (_, run) = self.runs.range(..=page).next_back()?;
        if page >= run.end_page() {
            return None;
        }
        let into = (page - run.start_page).saturating_mul(u64::from(self.page_size));
        Some(Run { start_page: page, pages: 1, blob_offset: run.blob_offset.saturating_add(into), ..*run })
    }

    /// Returns the number of runs.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Returns the map as the keyframe of a new chain, with the blobs that are still used, in first-use order.
    pub fn to_keyframe(&self) -> PageMapObject {
        let mut blobs = Vec::new();
        let mut renumbered: HashMap<u32, u32> = HashMap::new();
        let runs = self.runs.values().map(|run| {
            let blob_index = *renumbered.entry(run.blob_index).or_insert_with(|| {
                blobs.push(self.blob_of(run));
                // No more blobs are used than the table of this map, indexed by u32, has.
                (blobs.len() - 1) as u32
            });
            Run { blob_index, ..*run }
        });
        let runs = runs.collect();
        let kind = PageMapKind::Keyframe;
        PageMapObject { kind, page_size: self.page_size, page_count: self.page_count, blobs, runs }
    }

    /// Adds a blob table and returns, for each of its indexes, the index in the union.
    fn adopt_blobs(&mut self, blobs: &[BlobId]) -> Result<Vec<u32>> {
        if u32::try_from(self.blobs.len() + blobs.len()).is_err() {
            return Err(FormatError::corrupt("page-map chain names more blobs than a table can hold"));
        }
        let mut table = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let index = *self.blob_indexes.entry(*blob).or_insert(self.blobs.len() as u32);
            if index as usize == self.blobs.len() {
                self.blobs.push(*blob);
            }
            table.push(index);
        }
        Ok(table)
    }

    fn adopt_runs(&mut self, runs: &[Run], table: &[u32]) {
        self.runs.extend(runs.iter().map(|run| {
            let blob_index = table[run.blob_index as usize];
            (run.start_page, Run { blob_index, ..*run })
        }));
    }

    /// Unmaps `[start, end)`, splitting the runs that reach across its borders.
    fn cut(&mut self, start: u64, end: u64) {
        let reaching_in = self.runs.range(..start).next_back().map(|(_, run)| *run);
        if let Some(run) = reaching_in.filter(|run| run.end_page() > start) {
            let kept = (start - run.start_page) as u32;
            self.runs.insert(run.start_page, Run { pages: kept, ..run });
            self.keep_tail(run, end);
        }
        while let Some((_, run)) = self.runs.range(start..end).next() {
            let run = *run;
            self.runs.remove(&run.start_page);
            self.keep_tail(run, end);
        }
    }

    fn keep_tail(&mut self, run: Run, end: u64) {
        if run.end_page() > end {
            let tail = run.skip((end - run.start_page) as u32, self.page_size);
            self.runs.insert(tail.start_page, tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::FormatErrorKind;
    use crate::format::object::tests::reseal;

    const PAGE_SIZE: u32 = 512;

    fn run(start_page: u64, pages: u32, blob_index: u32, blob_offset: u64) -> Run {
        Run { start_page, pages, blob_index, blob_offset }
    }

    fn object(kind: PageMapKind, page_count: u64, blobs: &[u8], runs: Vec<Run>) -> PageMapObject {
        let blobs = blobs.iter().map(|number| BlobId::of(&[*number])).collect();
        PageMapObject { kind, page_size: PAGE_SIZE, page_count, blobs, runs }
    }

    fn keyframe(page_count: u64, blobs: &[u8], runs: Vec<Run>) -> PageMapObject {
        object(PageMapKind::Keyframe, page_count, blobs, runs)
    }

    fn delta(page_count: u64, blobs: &[u8], runs: Vec<Run>) -> PageMapObject {
        object(PageMapKind::Delta, page_count, blobs, runs)
    }

    #[test]
    fn empty_and_small_objects_have_the_sizes_of_the_format() {
        assert_eq!(delta(0, &[], vec![]).encode().len(), 58);
        assert_eq!(delta(9, &[1], vec![run(8, 1, 0, 0)]).encode().len(), 114);
    }

    #[test]
    fn runs_that_break_a_rule_are_refused() {
        let good = keyframe(10, &[1], vec![run(2, 3, 0, 0), run(5, 5, 0, 0)]);
        assert_eq!(PageMapObject::decode(&good.encode()).unwrap(), good);
        for bad in [
            run(5, 0, 0, 0),
            run(5, 6, 0, 0),
            run(5, 5, 1, 0),
            run(4, 1, 0, 0),
            run(0, 1, 0, 0),
            run(2, 3, 0, 0),
            run(5, u32::MAX, 0, 0),
            run(u64::MAX, 1, 0, 0),
            run(u64::MAX - 1, 5, 0, 0),
            run(5, 5, 0, u64::MAX - 1),
        ] {
            let mut object = good.encode();
            let record = object.len() - 32 - RUN_BYTES;
            object[record..record + 8].copy_from_slice(&bad.start_page.to_le_bytes());
            object[record + 8..record + 12].copy_from_slice(&bad.pages.to_le_bytes());
            object[record + 12..record + 16].copy_from_slice(&bad.blob_index.to_le_bytes());
            object[record + 16..record + 24].copy_from_slice(&bad.blob_offset.to_le_bytes());
            let error = PageMapObject::decode(&reseal(object)).unwrap_err();
            assert_eq!(error.kind(), FormatErrorKind::Corrupt, "{bad:?}");
        }
    }

    #[test]
    fn tables_that_do_not_fill_the_object_are_refused() {
        let good = keyframe(10, &[1, 2], vec![run(0, 10, 0, 0)]).encode();
        for (field, values) in [(18, [0, 1, 3, u32::MAX]), (18 + 4 + 64, [0, 2, 3, u32::MAX])] {
            for value in values {
                let mut object = good.clone();
                object[field..field + 4].copy_from_slice(&value.to_le_bytes());
                assert!(PageMapObject::decode(&reseal(object)).is_err(), "{field} {value}");
            }
        }
    }

    #[test]
    fn a_run_fits_its_blob_or_not_without_wrapping() {
        assert!(run(0, 2, 0, 512).fits(512, 1536));
        assert!(!run(0, 2, 0, 513).fits(512, 1536));
        assert!(!run(0, 2, 0, u64::MAX).fits(512, 1536));
        assert!(!run(0, u32::MAX, 0, 0).fits(u32::MAX, 1536));
    }

    #[test]
    fn a_delta_splits_the_run_it_lands_in() {
        let mut map = PageMap::from_keyframe(&keyframe(10, &[1], vec![run(0, 10, 0, 0)])).unwrap();
        map.apply(&delta(10, &[2], vec![run(3, 2, 0, 0)])).unwrap();
        let runs: Vec<_> = map.runs().copied().collect();
        assert_eq!(runs, [run(0, 3, 0, 0), run(3, 2, 1, 0), run(5, 5, 0, 5 * 512)]);
        map.coverage().unwrap();
    }

    #[test]
    fn shrinking_keeps_the_blobs_that_no_run_uses_but_a_keyframe_drops_them() {
        let mut map =
            PageMap::from_keyframe(&keyframe(4, &[1, 2], vec![run(0, 2, 0, 0), run(2, 2, 1, 0)])).unwrap();
        map.apply(&delta(1, &[3], vec![])).unwrap();
        assert_eq!(map.blobs(), [1, 2, 3].map(|number| BlobId::of(&[number])));
        assert_eq!(map.runs().copied().collect::<Vec<_>>(), [run(0, 1, 0, 0)]);
        assert_eq!(map.to_keyframe(), keyframe(1, &[1], vec![run(0, 1, 0, 0)]));
    }

    #[test]
    fn a_blob_named_twice_in_a_table_is_one_blob() {
        let object = keyframe(2, &[7, 7], vec![run(0, 1, 0, 0), run(1, 1, 1, 512)]);
        let map = PageMap::from_keyframe(&object).unwrap();
        assert_eq!(map.blobs().len(), 1);
        assert!(map.runs().all(|run| run.blob_index == 0));
    }

    #[test]
    fn a_gap_anywhere_is_no_coverage() {
        let covered = |page_count, runs| {
            PageMap::from_keyframe(&keyframe(page_count, &[1], runs)).unwrap().coverage().is_ok()
        };
        assert!(covered(0, vec![]));
        assert!(covered(3, vec![run(0, 1, 0, 0), run(1, 2, 0, 0)]));
        assert!(!covered(1, vec![]));
        assert!(!covered(3, vec![run(1, 2, 0, 0)]));
        assert!(!covered(3, vec![run(0, 1, 0, 0), run(2, 1, 0, 0)]));
        assert!(!covered(3, vec![run(0, 2, 0, 0)]));
    }

    #[test]
    fn a_delta_that_does_not_apply_changes_nothing() {
        let start = keyframe(10, &[1], vec![run(0, 10, 0, 0)]);
        let mut map = PageMap::from_keyframe(&start).unwrap();
        let mut other_size = delta(10, &[], vec![]);
        other_size.page_size = 4096;
        for bad in [other_size, start.clone(), delta(10, &[2], vec![run(9, 2, 0, 0)])] {
            assert!(map.apply(&bad).is_err());
            assert_eq!(map.to_keyframe(), start);
            assert_eq!(map.blobs().len(), 1);
        }
        assert!(PageMap::from_keyframe(&delta(1, &[], vec![])).is_err());
    }

    /// One change: the new page count, and for each page whether it is rewritten.
    fn change() -> impl Strategy<Value = Vec<bool>> {
        proptest::collection::vec(any::<bool>(), 0..60)
    }

    /// Returns the runs of the pages that are set, all in one blob, back to back.
    fn runs_of(pages: &[bool]) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        let mut blob_offset = 0;
        for page in (0..pages.len()).filter(|page| pages[*page]) {
            match runs.last_mut() {
                Some(last) if last.end_page() == page as u64 => last.pages += 1,
                _ => runs.push(run(page as u64, 1, 0, blob_offset)),
            }
            blob_offset += u64::from(PAGE_SIZE);
        }
        runs
    }

    proptest! {
        #[test]
        fn a_chain_adds_up_to_what_page_by_page_bookkeeping_says(changes in proptest::collection::vec(change(), 1..8)) {
            let first_count = changes[0].len();
            let start = keyframe(first_count as u64, &[0], runs_of(&vec![true; first_count]));
            let mut map = PageMap::from_keyframe(&start).unwrap();
            let mut model: Vec<Option<(BlobId, u64)>> =
                (0..first_count as u64).map(|page| Some((BlobId::of(&[0]), page * 512))).collect();
            for (number, pages) in changes.iter().enumerate().skip(1) {
                let blob = number as u8;
                let object = delta(pages.len() as u64, &[blob], runs_of(pages));
                map.apply(&PageMapObject::decode(&object.encode()).unwrap()).unwrap();
                model.resize(pages.len(), None);
                let written = (0..pages.len()).filter(|page| pages[*page]);
                for (offset, page) in written.enumerate() {
                    model[page] = Some((BlobId::of(&[blob]), offset as u64 * 512));
                }
            }
            let mut found = vec![None; model.len()];
            for run in map.runs() {
                for page in 0..u64::from(run.pages) {
                    let place = (map.blob_of(run), run.blob_offset + page * 512);
                    prop_assert!(found[(run.start_page + page) as usize].replace(place).is_none());
                }
            }
            prop_assert_eq!(&found, &model);
            prop_assert_eq!(map.coverage().is_ok(), model.iter().all(Option::is_some));
            let again = PageMap::from_keyframe(&PageMapObject::decode(&map.to_keyframe().encode()).unwrap()).unwrap();
            prop_assert_eq!(again.to_keyframe(), map.to_keyframe());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let object = reseal([&b"MVMD\x01\0"[..], &bytes, &[0; 32]].concat());
            let _ = PageMapObject::decode(&object);
        }
    }
}
