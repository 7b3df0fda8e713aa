//! Writes indexes that name the packs that stay, in place of indexes that go.
//!
//! A new index names every blob of a pack, those that nobody needs too: readers tell from it how long the pack must be,
//! and that nothing of it is missing. An index names no blob twice, so packs that share a blob come into indexes of
//! their own, in the order of those that named them before: where two name a blob, the last one counts.

use std::collections::HashMap;

use crate::format::index::IndexEntry;
use crate::format::{IndexId, PackId};
use crate::repo::Repository;
use crate::repo::indexes::{IndexUnion, claims_of};
use crate::repo::locks::Lock;
use crate::{Error, ErrorKind, Result};

use super::plan::PackFacts;

/// Blobs of one index, unless one pack has more: 17 MB.
const INDEX_BLOBS_MAX: u64 = 1 << 18;

/// Publishes indexes that name these packs and all that is in them; returns how many.
pub async fn publish(
    repository: &Repository,
    union: &IndexUnion,
    lengths: &HashMap<PackId, u64>,
    facts: &HashMap<PackId, PackFacts>,
    carried: &[PackId],
    lock: &Lock,
) -> Result<u64> {
    let groups = groups(union, facts, carried);
    let mut published = 0;
    // One pass over all blobs fills so many groups as fit in memory together.
    let mut rest = &groups[..];
    while !rest.is_empty() {
        let mut blobs = 0;
        let fitting = rest.iter().take_while(|group| {
            blobs += blobs_of(group, facts);
            blobs <= INDEX_BLOBS_MAX
        });
        let (now, later) = rest.split_at(fitting.count().max(1));
        rest = later;
        for entries in entries_of(union, now) {
            expect_whole(repository, lengths, &entries)?;
            lock.confirm().await?;
            let id = IndexId::from_ulid(repository.ulids().next());
            repository.publish_index(&id, entries).await?;
            published += 1;
        }
    }
    Ok(published)
}

fn blobs_of(group: &[PackId], facts: &HashMap<PackId, PackFacts>) -> u64 {
    group.iter().map(|pack| facts[pack].blobs).sum()
}

/// Cuts the packs into those of each index, in the order in which the indexes are written.
fn groups(union: &IndexUnion, facts: &HashMap<PackId, PackFacts>, carried: &[PackId]) -> Vec<Vec<PackId>> {
    let (overlapping, apart): (Vec<PackId>, Vec<PackId>) =
        carried.iter().partition(|pack| facts[pack].overlaps);
    let mut groups: Vec<Vec<PackId>> = Vec::new();
    let mut blobs = 0;
    for pack in apart {
        blobs += facts[&pack].blobs;
        match groups.last_mut().filter(|_| blobs <= INDEX_BLOBS_MAX) {
            Some(group) => group.push(pack),
            None => {
                blobs = facts[&pack].blobs;
                groups.push(vec![pack]);
            }
        }
    }
    // The last sound claim is the one that counts today.
    let mut last: HashMap<PackId, usize> = HashMap::new();
    for (place, claim) in union.claims().iter().enumerate().filter(|(place, _)| union.is_sound_claim(*place))
    {
        let _ = place;
        last.insert(claim.pack, union.position_of(claim));
    }
    let mut overlapping = overlapping;
    overlapping.sort_by_key(|pack| (last.get(pack).copied(), *pack));
    groups.extend(overlapping.into_iter().map(|pack| vec![pack]));
    groups
}

fn entries_of(union: &IndexUnion, groups: &[Vec<PackId>]) -> Vec<Vec<IndexEntry>> {
    let of_group: HashMap<PackId, usize> = groups
        .iter()
        .enumerate()
        .flat_map(|(number, packs)| packs.iter().map(move |pack| (*pack, number)))
        .collect();
    let mut entries: Vec<Vec<IndexEntry>> = vec![Vec::new(); groups.len()];
    for placed in union.places().filter(|placed| union.is_sound_claim(placed.claim)) {
        let Some(group) = of_group.get(&placed.location.pack) else { continue };
        let crate::repo::indexes::Location { pack, offset, stored_bytes, flags } = placed.location;
        entries[*group].push(IndexEntry { id: placed.id, pack, offset, stored_bytes, flags });
    }
    entries
}

/// Stops before an index is written that is not true of every pack it names.
fn expect_whole(
    repository: &Repository,
    lengths: &HashMap<PackId, u64>,
    entries: &[IndexEntry],
) -> Result<()> {
    let claims = claims_of(entries, repository.sealing());
    match claims.iter().find(|claim| !claim.is_sound(lengths)) {
        None => Ok(()),
        Some(claim) => Err(Error::new(
            ErrorKind::Damaged,
            format!("nothing more was pruned: the indexes do not say all of pack {}", claim.pack),
        )),
    }
}
