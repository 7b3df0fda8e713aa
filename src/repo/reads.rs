//! What was read of each pack, and found to be what it must be.
//!
//! Whoever decodes a blob says so here, whatever the operation is; the floors above ask at the end. Of each pack the
//! ranges are kept, joined where they touch: blobs lie back to back and are read in that order, so that a pack that was
//! read is one range, and no byte counts twice.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::format::PackId;

/// What was read of the packs of one repository, by all that work on it.
#[derive(Debug, Default)]
pub struct Reads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    packs: HashMap<PackId, OfPack>,
    /// Every pack, when they were listed last.
    listed: Option<HashMap<PackId, u64>>,
}

#[derive(Debug, Default)]
struct OfPack {
    sound: Ranges,
    /// Ranges that were looked at, and are not what they must be.
    damaged: Ranges,
    is_looked_at: bool,
}

/// What was read of one pack.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOfPack {
    /// Bytes that were read and found sound.
    pub sound_bytes: u64,
    /// Bytes that were looked at, sound or not.
    pub looked_bytes: u64,
    /// Places that are damaged.
    pub damaged: u64,
    /// Whether every blob that is to be read from it was looked at. Copies of blobs that are read from elsewhere may be
    /// left.
    pub is_looked_at: bool,
}

impl Reads {
    /// Says that these bytes of a pack were read and found sound.
    pub fn sound(&self, pack: PackId, range: Range<u64>) {
        self.state().packs.entry(pack).or_default().sound.add(range);
    }

    /// Says that these bytes of a pack were looked at, and are not what they must be, or are not there.
    pub fn damaged(&self, pack: PackId, range: Range<u64>) {
        self.state().packs.entry(pack).or_default().damaged.add(range);
    }

    /// Says that every blob was looked at that is to be read from this pack.
    pub fn looked_at(&self, pack: PackId) {
        self.state().packs.entry(pack).or_default().is_looked_at = true;
    }

    /// Says which packs lie there that hold anything.
    pub(super) fn listed(&self, lengths: HashMap<PackId, u64>) {
        self.state().listed = Some(lengths);
    }

    /// Returns every pack with its length, if they were listed.
    pub fn packs(&self) -> Option<HashMap<PackId, u64>> {
        self.state().listed.clone()
    }

    /// Returns what was read of each pack of which anything was.
    pub fn of_packs(&self) -> BTreeMap<PackId, ReadOfPack> {
        let state = self.state();
        let of_pack = |of: &OfPack| {
            let mut looked = of.sound.clone();
            of.damaged.0.iter().for_each(|(start, end)| looked.add(*start..*end));
            ReadOfPack {
                sound_bytes: of.sound.bytes(),
                looked_bytes: looked.bytes(),
                damaged: of.damaged.0.len() as u64,
                is_looked_at: of.is_looked_at,
            }
        };
        state.packs.iter().map(|(pack, of)| (*pack, of_pack(of))).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ranges of numbers, none of which touch: the end of each by its start.
#[derive(Debug, Clone, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    fn add(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        if let Some((before, reaches)) = self.0.range(..=start).next_back().map(|(s, e)| (*s, *e))
            && reaches >= start
        {
            (start, end) = (before, end.max(reaches));
        }
        while let Some((next, reaches)) = self.0.range(start..=end).next().map(|(s, e)| (*s, *e)) {
            end = end.max(reaches);
            self.0.remove(&next);
        }
        self.0.insert(start, end);
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_count_each_byte_once(ranges in prop::collection::vec((0u64..60, 0u64..12), 0..40)) {
            let mut joined = Ranges::default();
            let mut bytes = std::collections::BTreeSet::new();
            for (start, length) in ranges {
                joined.add(start..start + length);
                bytes.extend(start..start + length);
            }
            prop_assert_eq!(joined.bytes(), bytes.len() as u64);
            let found: Vec<(u64, u64)> = joined.0.into_iter().collect();
            prop_assert!(found.windows(2).all(|pair| pair[0].1 < pair[1].0), "none touch: {:?}", found);
        }
    }

    #[test]
    fn a_pack_that_is_read_from_end_to_end_is_one_range_and_damage_counts_as_looked_at() {
        let (reads, pack) = (Reads::default(), PackId::parse("01kwaaaaaaaaaaaaaaaaaaaaaa").unwrap());
        reads.sound(pack, 0..16);
        reads.sound(pack, 900..1000);
        for at in (16..900).step_by(4) {
            match at {
                400 => reads.damaged(pack, at..at + 4),
                _ => reads.sound(pack, at..at + 4),
            }
        }
        let expected = ReadOfPack { sound_bytes: 996, looked_bytes: 1000, damaged: 1, is_looked_at: false };
        assert_eq!(reads.of_packs()[&pack], expected);
        assert_eq!(reads.packs(), None);
    }
}
