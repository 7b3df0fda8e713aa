//! From changed pages to blobs (section 4).
//!
//! Consecutive changed pages form maximal ranges. A range of 256 pages or more closes the open group and
//! becomes blobs of its own, 1,024 pages each, the last one whatever remains; smaller ranges gather in
//! groups of at most 1,024 pages. Blobs come out in the order of their pages.

use std::mem::take;

use crate::archive::pages::ScannedPages;

/// A range from this length on gets blobs of its own.
const LARGE_RANGE_PAGES: u64 = 256;
/// The most pages of one blob.
pub const BLOB_PAGES_MAX: u64 = 1024;

/// A blob to be stored: pages, and where they belong.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PlannedBlob {
    /// The pages' bytes.
    pub raw: Vec<u8>,
    /// First page and number of pages of each range, in the order of their bytes.
    pub ranges: Vec<(u64, u32)>,
}

impl PlannedBlob {
    fn pages(&self) -> u64 {
        self.ranges.iter().map(|&(_, pages)| u64::from(pages)).sum()
    }
}

#[derive(Debug, Default)]
struct OpenRange {
    /// The first page that is not in a blob yet.
    first_page: u64,
    /// Pages seen so far, those in blobs included.
    pages: u64,
    /// The bytes of the pages that are not in a blob yet.
    pending: Vec<u8>,
}

/// Cuts a scan into blobs. Pages must come in ascending order.
#[derive(Debug)]
pub struct Planner {
    page_size: usize,
    group: PlannedBlob,
    range: Option<OpenRange>,
    planned: Vec<PlannedBlob>,
}

impl Planner {
    /// Makes a planner for pages of this size.
    pub fn new(page_size: u32) -> Self {
        Self {
            page_size: page_size as usize,
            group: PlannedBlob::default(),
            range: None,
            planned: Vec::new(),
        }
    }

    /// Takes the next pages of the scan; returns the blobs that are complete, and the buffer of the pages
    /// if it is free for use again.
    pub fn push(&mut self, scanned: ScannedPages) -> (Vec<PlannedBlob>, Vec<u8>) {
        let whole_blob = scanned.changed.len() == 1
            && scanned.changed[0].len() as u64 == BLOB_PAGES_MAX
            && self.continues_empty(scanned.first_page + scanned.changed[0].start as u64);
        if whole_blob {
            let first_page = scanned.first_page + scanned.changed[0].start as u64;
            self.adopt(first_page, scanned.bytes);
            return (take(&mut self.planned), Vec::new());
        }
        let mut rest = scanned.bytes.as_slice();
        for changed in &scanned.changed {
            let (bytes, behind) = rest.split_at(changed.len() * self.page_size);
            rest = behind;
            self.extend(scanned.first_page + changed.start as u64, bytes);
        }
        (take(&mut self.planned), scanned.bytes)
    }

    /// Returns the blobs that were still open.
    pub fn finish(mut self) -> Vec<PlannedBlob> {
        self.close_range();
        self.close_group();
        self.planned
    }

    /// Tells whether pages from here on begin a blob: nothing pending, or a new range.
    fn continues_empty(&self, page: u64) -> bool {
        match &self.range {
            Some(range) => range.end() != page || range.pending.is_empty(),
            None => true,
        }
    }

    /// Takes exactly one blob's worth of pages without copying them.
    fn adopt(&mut self, first_page: u64, bytes: Vec<u8>) {
        self.continue_range(first_page);
        self.close_group();
        let range = self.range.as_mut().expect("continue_range leaves an open range");
        range.pages += BLOB_PAGES_MAX;
        range.first_page += BLOB_PAGES_MAX;
        self.planned.push(PlannedBlob { raw: bytes, ranges: vec![(first_page, BLOB_PAGES_MAX as u32)] });
    }

    fn extend(&mut self, first_page: u64, mut bytes: &[u8]) {
        self.continue_range(first_page);
        let blob_bytes = BLOB_PAGES_MAX as usize * self.page_size;
        while !bytes.is_empty() {
            let range = self.range.as_mut().expect("continue_range leaves an open range");
            let room = blob_bytes - range.pending.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            range.pending.extend_from_slice(now);
            range.pages += (now.len() / self.page_size) as u64;
            bytes = later;
            if range.pending.len() == blob_bytes {
                self.close_group();
                self.emit_pending();
            }
        }
    }

    fn continue_range(&mut self, first_page: u64) {
        if self.range.as_ref().is_some_and(|range| range.end() == first_page) {
            return;
        }
        self.close_range();
        self.range = Some(OpenRange { first_page, ..OpenRange::default() });
    }

    fn close_range(&mut self) {
        let Some(range) = &self.range else { return };
        let pending_pages = (range.pending.len() / self.page_size) as u64;
        if range.pages >= LARGE_RANGE_PAGES {
            self.close_group();
            if pending_pages > 0 {
                self.emit_pending();
            }
        } else {
            if self.group.pages() + pending_pages > BLOB_PAGES_MAX {
                self.close_group();
            }
            let range = self.range.as_mut().expect("it was there above");
            self.group.ranges.push((range.first_page, pending_pages as u32));
            self.group.raw.append(&mut range.pending);
        }
        self.range = None;
    }

    fn emit_pending(&mut self) {
        let range = self.range.as_mut().expect("only an open range has pending pages");
        let pages = (range.pending.len() / self.page_size) as u64;
        let blob =
            PlannedBlob { raw: take(&mut range.pending), ranges: vec![(range.first_page, pages as u32)] };
        range.first_page += pages;
        self.planned.push(blob);
    }

    fn close_group(&mut self) {
        if !self.group.ranges.is_empty() {
            self.planned.push(take(&mut self.group));
        }
    }
}

impl OpenRange {
    fn end(&self) -> u64 {
        // `first_page` moves with each blob; pages not in a blob yet are those beyond it.
        self.first_page + self.pending_pages()
    }

    fn pending_pages(&self) -> u64 {
        self.pages - self.emitted_pages()
    }

    fn emitted_pages(&self) -> u64 {
        self.pages / BLOB_PAGES_MAX * BLOB_PAGES_MAX
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: usize = 4;

    /// Plans the changed pages, handed over in chunks of `chunk` pages.
    fn plan(changed: &[bool], chunk: usize) -> Vec<PlannedBlob> {
        let mut planner = Planner::new(PAGE as u32);
        let mut blobs = Vec::new();
        for (number, part) in changed.chunks(chunk).enumerate() {
            let first_page = (number * chunk) as u64;
            let mut ranges: Vec<std::ops::Range<usize>> = Vec::new();
            let mut bytes = Vec::new();
            for (index, _) in part.iter().enumerate().filter(|(_, changed)| **changed) {
                bytes.extend((first_page as u32 + index as u32).to_le_bytes());
                match ranges.last_mut() {
                    Some(range) if range.end == index => range.end += 1,
                    _ => ranges.push(index..index + 1),
                }
            }
            let scanned = ScannedPages { first_page, hashes: Vec::new(), changed: ranges, bytes };
            blobs.extend(planner.push(scanned).0);
        }
        blobs.extend(planner.finish());
        blobs
    }

    fn shape(blobs: &[PlannedBlob]) -> Vec<Vec<(u64, u32)>> {
        blobs.iter().map(|blob| blob.ranges.clone()).collect()
    }

    fn pages(ranges: &[std::ops::Range<usize>], count: usize) -> Vec<bool> {
        (0..count).map(|page| ranges.iter().any(|range| range.contains(&page))).collect()
    }

    #[test]
    fn nothing_changed_plans_nothing() {
        assert!(plan(&[false; 3000], 1024).is_empty());
    }

    #[test]
    fn a_large_range_is_cut_into_blobs_of_1024_pages_from_its_start() {
        let changed = pages(&[100..2400], 3000);
        assert_eq!(
            shape(&plan(&changed, 1024)),
            vec![vec![(100, 1024)], vec![(1124, 1024)], vec![(2148, 252)]]
        );
    }

    #[test]
    fn a_range_of_255_pages_joins_a_group_and_one_of_256_does_not() {
        let changed = pages(&[0..10, 20..275, 300..556, 600..601], 700);
        assert_eq!(
            shape(&plan(&changed, 1024)),
            vec![vec![(0, 10), (20, 255)], vec![(300, 256)], vec![(600, 1)]]
        );
    }

    #[test]
    fn a_group_never_holds_more_than_1024_pages() {
        let changed = pages(&[0..250, 300..550, 600..850, 900..1150, 1200..1225], 2000);
        assert_eq!(
            shape(&plan(&changed, 512)),
            vec![vec![(0, 250), (300, 250), (600, 250), (900, 250)], vec![(1200, 25)]]
        );
    }

    #[test]
    fn a_range_that_ends_with_a_whole_blob_leaves_no_empty_one() {
        let changed = pages(&[0..2048], 2048);
        assert_eq!(shape(&plan(&changed, 1024)), vec![vec![(0, 1024)], vec![(1024, 1024)]]);
    }

    proptest! {
        #[test]
        fn the_plan_does_not_depend_on_how_the_scan_is_cut(
            runs in prop::collection::vec((1usize..1500, any::<bool>()), 1..12),
            chunk in 1usize..1500,
        ) {
            let changed: Vec<bool> =
                runs.iter().flat_map(|&(length, changed)| vec![changed; length]).collect();
            let blobs = plan(&changed, chunk);
            prop_assert_eq!(shape(&blobs), shape(&plan(&changed, changed.len())));
            let mut seen = vec![false; changed.len()];
            for blob in &blobs {
                prop_assert!(blob.pages() <= BLOB_PAGES_MAX);
                let mut bytes = blob.raw.chunks(PAGE);
                for &(first, count) in &blob.ranges {
                    for page in first..first + u64::from(count) {
                        prop_assert_eq!(bytes.next().unwrap(), (page as u32).to_le_bytes());
                        seen[page as usize] = true;
                    }
                }
                prop_assert!(bytes.next().is_none());
            }
            prop_assert_eq!(seen, changed);
        }
    }
}
