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

mod object;

use std::collections::{BTreeMap, BTreeSet, HashMap};

pub use object::{PageMapKind, PageMapObject, Run};

use super::error::{FormatError, Result};
use super::geometry::Geometry;
use super::ids::BlobId;

/// The map of one snapshot: a keyframe with the deltas after it applied.
///
/// The blobs of a map are those that a run uses, those that the last object names, and those that lost
/// their last run because the last delta made the database shorter: verify and restore require exactly
/// these to exist, in both engines.
#[derive(Debug, Clone)]
pub struct PageMap {
    page_size: u32,
    page_count: u64,
    /// Every blob that an applied object names, once, in first-use order.
    table: Vec<BlobId>,
    blob_indexes: HashMap<BlobId, u32>,
    /// For each blob of the table, the number of its runs.
    uses: Vec<u32>,
    /// Indexes of blobs that belong to the map although no run may use them.
    unused: BTreeSet<u32>,
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
            table: Vec::with_capacity(object.blobs.len()),
            blob_indexes: HashMap::with_capacity(object.blobs.len()),
            uses: Vec::with_capacity(object.blobs.len()),
            unused: BTreeSet::new(),
            runs: BTreeMap::new(),
        };
        let indexes = map.adopt_blobs(&object.blobs)?;
        map.unused.extend(&indexes);
        map.adopt_runs(&object.runs, &indexes);
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
        let indexes = self.adopt_blobs(&delta.blobs)?;
        for run in &delta.runs {
            self.cut(run.start_page, run.end_page());
        }
        let beyond = self.runs.range(delta.page_count..).map(|(_, run)| run.blob_index);
        self.unused = beyond.chain(indexes.iter().copied()).collect();
        self.cut(delta.page_count, u64::MAX);
        self.adopt_runs(&delta.runs, &indexes);
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

    /// Returns the size and the number of the pages.
    pub fn geometry(&self) -> Geometry {
        Geometry { page_size: self.page_size, page_count: self.page_count }
    }

    /// Returns every blob of the map, once, in first-use order.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobId> {
        let belongs = |(index, used): (u32, &u32)| *used > 0 || self.unused.contains(&index);
        let indexed = (0u32..).zip(&self.uses);
        self.table.iter().zip(indexed).filter(move |(_, indexed)| belongs(*indexed)).map(|(blob, _)| blob)
    }

    /// Returns the blob that a run refers to.
    ///
    /// # Panics
    ///
    /// If the run is not one of this map.
    pub fn blob_of(&self, run: &Run) -> BlobId {
        self.table[run.blob_index as usize]
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

    /// Returns the part of a run that begins with this page.
    pub fn rest_of_run(&self, page: u64) -> Option<Run> {
        let (_, run) = self.runs.range(..=page).next_back()?;
        if page >= run.end_page() {
            return None;
        }
        // Less than a run has pages, of which there are no more than 32 bits count.
        Some(run.skip((page - run.start_page) as u32, self.page_size))
    }

    /// Returns the runs from the one on that holds this page, ascending by page.
    pub fn runs_from(&self, page: u64) -> impl Iterator<Item = &Run> {
        let holding = self.runs.range(..=page).next_back().map(|(_, run)| run);
        let start = holding.filter(|run| run.end_page() > page).map_or(page, |run| run.start_page);
        self.runs.range(start..).map(|(_, run)| run)
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
        if u32::try_from(self.table.len() + blobs.len()).is_err() {
            return Err(FormatError::corrupt("page-map chain names more blobs than a table can hold"));
        }
        let mut indexes = Vec::with_capacity(blobs.len());
        for blob in blobs {
            let index = *self.blob_indexes.entry(*blob).or_insert(self.table.len() as u32);
            if index as usize == self.table.len() {
                self.table.push(*blob);
                self.uses.push(0);
            }
            indexes.push(index);
        }
        Ok(indexes)
    }

    fn adopt_runs(&mut self, runs: &[Run], indexes: &[u32]) {
        for run in runs {
            self.insert(Run { blob_index: indexes[run.blob_index as usize], ..*run });
        }
    }

    /// Adds a run, or puts it in the place of the one that starts at the same page.
    fn insert(&mut self, run: Run) {
        self.uses[run.blob_index as usize] += 1;
        if let Some(replaced) = self.runs.insert(run.start_page, run) {
            self.uses[replaced.blob_index as usize] -= 1;
        }
    }

    /// Unmaps `[start, end)`, splitting the runs that reach across its borders.
    fn cut(&mut self, start: u64, end: u64) {
        let reaching_in = self.runs.range(..start).next_back().map(|(_, run)| *run);
        if let Some(run) = reaching_in.filter(|run| run.end_page() > start) {
            let kept = (start - run.start_page) as u32;
            self.insert(Run { pages: kept, ..run });
            self.keep_tail(run, end);
        }
        while let Some((_, run)) = self.runs.range(start..end).next() {
            let run = *run;
            self.runs.remove(&run.start_page);
            self.uses[run.blob_index as usize] -= 1;
            self.keep_tail(run, end);
        }
    }

    fn keep_tail(&mut self, run: Run, end: u64) {
        if run.end_page() > end {
            let tail = run.skip((end - run.start_page) as u32, self.page_size);
            self.insert(tail);
        }
    }
}

#[cfg(test)]
mod tests;
