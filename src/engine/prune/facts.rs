//! What is known of packs and indexes, counted in one pass over all blobs.

use std::collections::{HashMap, HashSet};

use super::plan::{IndexFacts, PackFacts};
use crate::format::{IndexId, PackId, pack};
use crate::repo::indexes::IndexUnion;

/// Counts what each pack that an index names holds, and what of it is needed. What is needed was marked before.
pub fn of_packs(union: &IndexUnion, lengths: &HashMap<PackId, u64>) -> HashMap<PackId, PackFacts> {
    let mut packs: HashMap<PackId, PackFacts> = HashMap::new();
    for pack in union.packs() {
        let facts = PackFacts {
            bytes: lengths.get(&pack).copied(),
            blobs: 0,
            needed_blobs: 0,
            needed_bytes: 0,
            is_clear: false,
            is_in_doubt: false,
            overlaps: false,
        };
        packs.insert(pack, facts);
    }
    for placed in union.places() {
        let Some(facts) = packs.get_mut(&placed.location.pack) else { continue };
        let is_sound = union.is_sound_claim(placed.claim);
        facts.blobs += u64::from(is_sound);
        if placed.is_needed {
            facts.needed_blobs += 1;
            facts.needed_bytes += placed.location.stored_bytes + pack::ENTRY_BYTES as u64;
            facts.is_in_doubt |= !is_sound;
        }
    }
    for (id, others) in union.placed_twice() {
        let chosen = union.get(id).map(|location| location.pack);
        let is_in_doubt = union.is_needed(id) && !union.is_sound(id);
        for pack in others.chain(chosen) {
            if let Some(facts) = packs.get_mut(&pack) {
                facts.overlaps = true;
                facts.is_in_doubt |= is_in_doubt;
            }
        }
    }
    for (place, claim) in union.claims().iter().enumerate() {
        if let Some(facts) = packs.get_mut(&claim.pack) {
            facts.is_clear |= union.is_sound_claim(place) && claim.entries == facts.blobs;
        }
    }
    packs
}

/// Lists the indexes with the packs that each names.
pub fn of_indexes(union: &IndexUnion) -> Vec<IndexFacts> {
    let of_file = |file: &crate::repo::indexes::IndexFile| {
        let id = file.name.strip_suffix(".mvidx").and_then(|name| IndexId::parse(name).ok());
        IndexFacts { bytes: file.bytes, packs: Vec::new(), is_named_well: id.is_some() }
    };
    let mut indexes: Vec<IndexFacts> = union.files().iter().map(of_file).collect();
    for claim in union.claims() {
        indexes[union.position_of(claim)].packs.push(claim.pack);
    }
    indexes
}

/// Returns the packs that are there and that no index names.
pub fn unnamed(union: &IndexUnion, lengths: &HashMap<PackId, u64>) -> Vec<PackId> {
    let named: HashSet<PackId> = union.packs().collect();
    let mut unnamed: Vec<PackId> = lengths.keys().filter(|pack| !named.contains(pack)).copied().collect();
    unnamed.sort_unstable();
    unnamed
}
