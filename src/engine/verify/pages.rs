//! What the pages in a blob must hash to, over all snapshots that map them.
//!
//! Snapshots share most of their pages. A page that two snapshots map to the same place and expect to be
//! the same is checked once; it is a slot of 17 bytes here, however many snapshots there are.

use std::collections::BTreeSet;

use crate::format::{PageHash, Run};

/// A page this far behind the pages known so far is kept apart, so that slots grow no faster than pages
/// come, wherever a map claims that they lie.
const SLOTS_AHEAD_MAX: usize = 16;

/// A page that is not in a slot: unaligned, far out, or expected otherwise by another snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct OddPage {
    offset: u64,
    page_size: u32,
    hash: PageHash,
}

/// A page that is not what a snapshot expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongPage {
    /// Where it lies in the blob.
    pub offset: u64,
    /// Its size.
    pub page_size: u32,
    /// What is there; `None` if the blob ends before.
    pub found: Option<PageHash>,
}

/// The pages of one blob.
#[derive(Debug, Default)]
pub struct ExpectedPages {
    page_size: u32,
    slots: Vec<Option<PageHash>>,
    odd: BTreeSet<OddPage>,
}

impl ExpectedPages {
    /// Adds a run and what its pages must hash to.
    pub fn add(&mut self, run: &Run, page_size: u32, hashes: &[PageHash]) {
        if self.page_size == 0 {
            self.page_size = page_size;
        }
        for (hash, position) in hashes.iter().zip(0u64..) {
            let Some(offset) = run.blob_offset.checked_add(position * u64::from(page_size)) else {
                self.odd.insert(OddPage { offset: run.blob_offset, page_size, hash: *hash });
                return;
            };
            self.add_page(offset, page_size, *hash);
        }
    }

    /// Returns about how many bytes of memory they take.
    pub fn table_bytes(&self) -> usize {
        size_of::<Self>()
            + self.slots.capacity() * size_of::<Option<PageHash>>()
            + self.odd.len() * size_of::<OddPage>()
    }

    fn add_page(&mut self, offset: u64, page_size: u32, hash: PageHash) {
        let aligned = page_size == self.page_size && offset.is_multiple_of(u64::from(page_size));
        let slot = usize::try_from(offset / u64::from(page_size)).unwrap_or(usize::MAX);
        let ahead = slot.saturating_sub(self.slots.len());
        if aligned && ahead <= SLOTS_AHEAD_MAX {
            if self.slots.len() <= slot {
                self.slots.resize(slot + 1, None);
            }
            if *self.slots[slot].get_or_insert(hash) == hash {
                return;
            }
        }
        self.odd.insert(OddPage { offset, page_size, hash });
    }

    /// Checks the blob; each wrong place is named once.
    pub fn check(&self, raw: &[u8]) -> Vec<WrongPage> {
        let page_size = self.page_size as usize;
        let mut wrong = Vec::new();
        for (slot, expected) in self.slots.iter().enumerate() {
            let Some(expected) = expected else { continue };
            let found = raw.get(slot * page_size..(slot + 1) * page_size).map(PageHash::of);
            if found != Some(*expected) {
                wrong.push(WrongPage { offset: (slot * page_size) as u64, page_size: self.page_size, found });
            }
        }
        for odd in &self.odd {
            let bytes = usize::try_from(odd.offset)
                .ok()
                .and_then(|from| raw.get(from..)?.get(..odd.page_size as usize));
            let found = bytes.map(PageHash::of);
            let page = WrongPage { offset: odd.offset, page_size: odd.page_size, found };
            if found != Some(odd.hash) && !wrong.contains(&page) {
                wrong.push(page);
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(blob_offset: u64, pages: u32) -> Run {
        Run { start_page: 7, pages, blob_index: 0, blob_offset }
    }

    fn hashes(raw: &[u8]) -> Vec<PageHash> {
        raw.chunks(512).map(PageHash::of).collect()
    }

    #[test]
    fn sound_pages_are_sound_however_often_they_are_added() {
        let raw: Vec<u8> = (0..4096u32).map(|number| (number / 512) as u8).collect();
        let mut pages = ExpectedPages::default();
        pages.add(&run(0, 8), 512, &hashes(&raw));
        pages.add(&run(1024, 2), 512, &hashes(&raw[1024..2048]));
        pages.add(&run(100, 1), 512, &[PageHash::of(&raw[100..612])]);
        assert!(pages.check(&raw).is_empty());
        assert_eq!(pages.slots.len(), 8);
    }

    #[test]
    fn every_wrong_place_is_named() {
        let mut raw = vec![0; 2048];
        let mut pages = ExpectedPages::default();
        pages.add(&run(0, 4), 512, &hashes(&raw));
        pages.add(&run(512, 1), 512, &[PageHash::of(b"what another snapshot expects")]);
        raw[1600] = 1;
        let wrong: Vec<u64> = pages.check(&raw).iter().map(|page| page.offset).collect();
        assert_eq!(wrong, [1536, 512]);
        let short = pages.check(&raw[..1024]);
        assert_eq!(short.iter().filter(|page| page.found.is_none()).count(), 2);
    }

    #[test]
    fn an_offset_near_the_end_of_numbers_is_a_wrong_page_and_no_overflow() {
        let mut pages = ExpectedPages::default();
        pages.add(&run(u64::MAX - 100, 3), 512, &hashes(&[0; 1536]));
        assert_eq!(pages.check(&[0; 4096]).len(), 1);
    }
}
