//! What becomes of each pack and each index: a pure function of what is known of them.
//!
//! A pack of which nothing is needed goes. One of which less than half is needed is repacked: what is needed of it is
//! copied into new packs. Small packs are merged in the same way, once there are enough of them. All others stay.
//! An index goes if it names a pack that goes; and small ones go, if there are many, in favour of few large ones. What
//! stays of what it named, a new index names.
//!
//! In doubt something stays: a pack that is not exactly as the indexes say, if anything in it may be needed; the indexes
//! that name it, for nobody can write better ones; and whatever else these name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::format::{PackId, pack};

/// Packs shorter than this are merged.
const SMALL_PACK_BYTES: u64 = pack::TARGET_STORED_BYTES / 4;
/// And with fewer blobs than this: packs are also full when they have a certain number of blobs.
const SMALL_PACK_BLOBS: u64 = pack::WRITER_ENTRIES_MAX as u64 / 4;
/// So many small packs are merged, and no fewer.
const SMALL_PACKS_MIN: usize = 8;
/// Indexes shorter than this are merged: about 16,000 blobs.
const SMALL_INDEX_BYTES: u64 = 1024 * 1024;
/// So many small indexes are merged, and no fewer.
const SMALL_INDEXES_MIN: usize = 8;

/// What is known of a pack that an index names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackFacts {
    /// Its length; `None` where it is not there.
    pub bytes: Option<u64>,
    /// Blobs in it.
    pub blobs: u64,
    /// Blobs in it that are needed, and are read from it.
    pub needed_blobs: u64,
    /// What these take in the pack: their stored bytes and their entries.
    pub needed_bytes: u64,
    /// Whether the indexes describe it exactly.
    pub is_clear: bool,
    /// Whether a needed blob that cannot be found may be in it.
    pub is_in_doubt: bool,
    /// Whether it shares a blob with another pack.
    pub overlaps: bool,
}

/// What is known of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFacts {
    /// Its length.
    pub bytes: u64,
    /// The packs that it names.
    pub packs: Vec<PackId>,
    /// Whether it can be removed: whether its name is one that packvault gives.
    pub is_named_well: bool,
}

/// How much may stay that nobody needs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unused {
    /// So many bytes.
    Bytes(u64),
    /// Such a part of what lies in packs, from 0 to 1.
    Share(f64),
    /// Whatever there is: nothing is repacked for it.
    Unlimited,
}

/// How far a prune goes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// How much may stay that nobody needs. Without a word of it, what lies in packs of which half is needed.
    pub unused_max: Option<Unused>,
    /// How many bytes are copied into new packs at most.
    pub repack_bytes_max: Option<u64>,
}

/// What becomes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// It stays.
    Keep,
    /// Nothing of it is needed, or it is not there.
    Dead,
    /// What is needed of it goes into new packs, for most of it is not needed.
    Repack,
    /// The same, for it is small.
    Merge,
}

/// What becomes of everything.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of each pack that an index names.
    pub fates: BTreeMap<PackId, Fate>,
    /// The indexes that go, by their place among all.
    pub old_indexes: Vec<usize>,
    /// The packs that stay and that only indexes name that go: new ones have to name them.
    pub carried: Vec<PackId>,
}

impl Decision {
    /// Returns the packs with one of these fates, in the order of their names.
    pub fn packs_of(&self, fates: &[Fate]) -> Vec<PackId> {
        self.fates.iter().filter(|(_, fate)| fates.contains(fate)).map(|(pack, _)| *pack).collect()
    }
}

/// Decides.
pub fn decide(packs: &HashMap<PackId, PackFacts>, indexes: &[IndexFacts], limits: &Limits) -> Decision {
    let is_settled = |pack: &PackId| {
        let facts = &packs[pack];
        !facts.is_in_doubt && (facts.is_clear || facts.needed_blobs == 0)
    };
    let is_locked = |index: &IndexFacts| !index.is_named_well || !index.packs.iter().all(is_settled);
    let locked: Vec<bool> = indexes.iter().map(is_locked).collect();
    let held = indexes.iter().zip(&locked).filter(|(_, locked)| **locked);
    let held: BTreeSet<PackId> = held.flat_map(|(index, _)| index.packs.iter().copied()).collect();

    let free: BTreeMap<PackId, &PackFacts> =
        packs.iter().filter(|(pack, _)| !held.contains(pack)).map(|(pack, facts)| (*pack, facts)).collect();
    let mut fates: BTreeMap<PackId, Fate> = held.iter().map(|pack| (*pack, Fate::Keep)).collect();
    for (pack, facts) in &free {
        let is_dead = facts.needed_blobs == 0;
        fates.insert(*pack, if is_dead { Fate::Dead } else { Fate::Keep });
    }
    repack(&free, packs, limits, &mut fates);
    let (old_indexes, carried) = replaced(packs, indexes, &locked, &held, &fates);
    Decision { fates, old_indexes, carried }
}

/// Chooses what is copied into new packs, the worst first.
fn repack(
    free: &BTreeMap<PackId, &PackFacts>,
    packs: &HashMap<PackId, PackFacts>,
    limits: &Limits,
    fates: &mut BTreeMap<PackId, Fate>,
) {
    let unneeded = |facts: &PackFacts| facts.bytes.unwrap_or_default().saturating_sub(facts.needed_bytes);
    let mut living: Vec<(PackId, &PackFacts)> = free
        .iter()
        .filter(|(_, facts)| facts.needed_blobs > 0)
        .map(|(pack, facts)| (*pack, *facts))
        .collect();
    // The least needed share first: compared without division, and by name where it is the same.
    living.sort_by(|(one, left), (other, right)| {
        let share = |facts: &PackFacts, of: &PackFacts| {
            u128::from(facts.needed_bytes) * u128::from(of.bytes.unwrap_or_default())
        };
        share(left, right).cmp(&share(right, left)).then(one.cmp(other))
    });
    let kept_bytes = || {
        let kept = packs.iter().filter(|(pack, _)| fates.get(pack) != Some(&Fate::Dead));
        kept.map(|(_, facts)| facts.bytes.unwrap_or_default()).sum::<u64>()
    };
    let mut unused: u64 = living.iter().map(|(_, facts)| unneeded(facts)).sum();
    let unused_max = match limits.unused_max {
        None => None,
        Some(Unused::Bytes(bytes)) => Some(bytes),
        Some(Unused::Share(share)) => Some((kept_bytes() as f64 * share) as u64),
        Some(Unused::Unlimited) => Some(u64::MAX),
    };
    let mut room = limits.repack_bytes_max.unwrap_or(u64::MAX);
    for (pack, facts) in &living {
        let wants = match unused_max {
            // The footer is no waste: a pack that is needed whole is never repacked.
            _ if facts.needed_blobs == facts.blobs => false,
            None => facts.needed_bytes.saturating_mul(2) < facts.bytes.unwrap_or_default(),
            Some(unused_max) => unused > unused_max,
        };
        if wants && facts.needed_bytes <= room {
            room -= facts.needed_bytes;
            unused -= unneeded(facts);
            fates.insert(*pack, Fate::Repack);
        }
    }
    let small = |(pack, facts): &&(PackId, &PackFacts)| {
        let is_small = facts.bytes.is_some_and(|bytes| bytes < SMALL_PACK_BYTES);
        is_small && facts.blobs < SMALL_PACK_BLOBS && fates.get(pack) == Some(&Fate::Keep)
    };
    let small: Vec<(PackId, u64)> =
        living.iter().filter(small).map(|(pack, facts)| (*pack, facts.needed_bytes)).collect();
    // What is repacked ends in a pack that is not full.
    let new = usize::from(fates.values().any(|fate| *fate == Fate::Repack));
    if small.len() + new < SMALL_PACKS_MIN {
        return;
    }
    for (pack, bytes) in small {
        if bytes <= room {
            room -= bytes;
            fates.insert(pack, Fate::Merge);
        }
    }
}

/// Returns the indexes that go, and the packs that new ones have to name.
fn replaced(
    packs: &HashMap<PackId, PackFacts>,
    indexes: &[IndexFacts],
    locked: &[bool],
    held: &BTreeSet<PackId>,
    fates: &BTreeMap<PackId, Fate>,
) -> (Vec<usize>, Vec<PackId>) {
    let free = || (0..indexes.len()).filter(|place| !locked[*place]);
    let mut named: HashMap<PackId, u32> = HashMap::new();
    free().flat_map(|place| &indexes[place].packs).for_each(|pack| *named.entry(*pack).or_default() += 1);
    let goes = |pack: &PackId| fates.get(pack) != Some(&Fate::Keep) || packs[pack].bytes.is_none();
    let is_said_twice = |pack: &PackId| named.get(pack).is_some_and(|times| *times > 1);
    let mut old: BTreeSet<usize> = free()
        .filter(|place| {
            let packs = &indexes[*place].packs;
            // One that names nothing is of no use to anybody.
            packs.is_empty() || packs.iter().any(|pack| goes(pack) || is_said_twice(pack))
        })
        .collect();
    // What shares blobs needs an index of its own, so merging would change nothing.
    let is_small = |index: &IndexFacts| {
        index.bytes < SMALL_INDEX_BYTES && !index.packs.iter().any(|pack| packs[pack].overlaps)
    };
    let small: Vec<usize> =
        free().filter(|place| !old.contains(place) && is_small(&indexes[*place])).collect();
    if small.len() >= SMALL_INDEXES_MIN {
        old.extend(small);
    }
    let staying = free().filter(|place| !old.contains(place)).flat_map(|place| &indexes[place].packs);
    let staying: BTreeSet<&PackId> = staying.chain(held).collect();
    let carried: BTreeSet<PackId> = old
        .iter()
        .flat_map(|place| &indexes[*place].packs)
        .filter(|pack| !goes(pack) && !staying.contains(pack))
        .copied()
        .collect();
    (old.into_iter().collect(), carried.into_iter().collect())
}

#[cfg(test)]
mod tests;
