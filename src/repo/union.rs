//! The union of all index files: where each blob lies, and whether that can be relied on (section 3.1).
//!
//! What one file says of one pack is a claim. A claim is sound if the pack lies there with the very length that
//! the claim implies, and if its blobs lie back to back, as every writer puts them: an index that is wrong about
//! an offset is found without opening a pack. For a blob named twice the format takes the file whose name
//! sorts last; here the last *sound* claim is taken, so that a copy that is whole is found whatever a newer index
//! says of one that is lost. A blob for which the two rules differ is `outranked`: other programs look for it in
//! the wrong place, and a create stores it again.

use std::collections::{HashMap, HashSet};

use super::indexes::Location;
use crate::format::index::IndexEntry;
use crate::format::{BlobFlags, BlobId, PackId, pack};

/// What one index file says of one pack.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// The pack.
    pub pack: PackId,
    /// How many blobs of it the file names.
    pub entries: u64,
    /// The length that the pack must have for the claim to be true.
    pub implied_bytes: u64,
    /// Whether the blobs lie back to back from the header on.
    is_gapless: bool,
    /// The file, as a position among all files.
    file: u32,
}

impl Claim {
    /// Tells whether the claim holds for packs of these lengths.
    pub fn is_sound(&self, lengths: &HashMap<PackId, u64>) -> bool {
        self.is_gapless && lengths.get(&self.pack) == Some(&self.implied_bytes)
    }
}

/// An index file that is part of the union.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// Where a blob lies: a claim as a position, to keep an entry at 56 bytes, and what the file says.
type Place = (u32, u64, u64, BlobFlags);

/// The union of all index files.
#[derive(Debug)]
pub struct IndexUnion {
    /// Whether an index that is published now would sort behind all others, and decide.
    pub(super) can_be_outranked: bool,
    files: Vec<IndexFile>,
    claims: Vec<Claim>,
    sound: Vec<bool>,
    blobs: HashMap<BlobId, Place>,
    /// Other places of blobs that several files name, in the order of the files.
    others: HashMap<BlobId, Vec<Place>>,
    outranked: HashSet<BlobId>,
    /// How many blobs of each pack the file names that names most.
    entries: HashMap<PackId, u64>,
}

impl Default for IndexUnion {
    fn default() -> Self {
        Self {
            can_be_outranked: true,
            files: Vec::new(),
            claims: Vec::new(),
            sound: Vec::new(),
            blobs: HashMap::new(),
            others: HashMap::new(),
            outranked: HashSet::new(),
            entries: HashMap::new(),
        }
    }
}

impl IndexUnion {
    /// Returns where the blob lies.
    pub fn get(&self, id: &BlobId) -> Option<Location> {
        self.blobs.get(id).map(|place| self.location(place))
    }

    /// Returns where else the blob may lie, the best first.
    pub fn others(&self, id: &BlobId) -> impl Iterator<Item = Location> {
        self.others.get(id).into_iter().flatten().rev().map(|place| self.location(place))
    }

    /// Returns the claim that places the blob, as a position among all.
    pub fn claim_of(&self, id: &BlobId) -> Option<usize> {
        self.blobs.get(id).map(|(claim, ..)| *claim as usize)
    }

    /// Returns all claims, in the order of their files.
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// Returns the file that makes the claim.
    pub fn file_of(&self, claim: &Claim) -> &IndexFile {
        &self.files[claim.file as usize]
    }

    /// Returns every file.
    pub fn files(&self) -> &[IndexFile] {
        &self.files
    }

    /// Tells whether the blob lies in a pack that is whole, as far as lengths can tell.
    pub fn is_sound(&self, id: &BlobId) -> bool {
        self.claim_of(id).is_some_and(|claim| self.sound.get(claim) == Some(&true))
    }

    /// Tells whether programs that take the last file's word look for the blob in another place, and in vain.
    pub fn is_outranked(&self, id: &BlobId) -> bool {
        self.outranked.contains(id)
    }

    /// Returns the index file and the pack in which such programs look for the blob.
    pub fn outranking(&self, id: &BlobId) -> Option<(&IndexFile, PackId)> {
        let others = self.is_outranked(id).then(|| self.others.get(id)).flatten()?;
        let last =
            others.iter().map(|(claim, ..)| &self.claims[*claim as usize]).max_by_key(|claim| claim.file)?;
        Some((self.file_of(last), last.pack))
    }

    /// Returns the packs of claims that are not sound although a blob is placed by them.
    pub fn unsound_packs(&self) -> HashSet<PackId> {
        if self.sound.iter().all(|sound| *sound) {
            return HashSet::new();
        }
        let claims = self.blobs.values().map(|(claim, ..)| *claim as usize);
        claims.filter(|claim| !self.sound[*claim]).map(|claim| self.claims[claim].pack).collect()
    }

    /// Returns about how many bytes of memory the union takes.
    pub fn table_bytes(&self) -> u64 {
        // A table of hashes has room for a seventh more than it holds, at least, and up to twice as much.
        (self.blobs.capacity() * 8 / 7 * (size_of::<BlobId>() + 24)) as u64
    }

    /// Returns how many blobs the indexes place in the pack.
    pub fn pack_entries(&self, pack: &PackId) -> u64 {
        self.entries.get(pack).copied().unwrap_or(0)
    }

    /// Returns every pack that an index names.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        self.entries.keys().copied()
    }

    /// Tells whether a create can settle for the place where the blob lies: other programs find it there too, or
    /// nothing that is written now could make them.
    pub fn is_relied_on(&self, id: &BlobId) -> bool {
        self.is_sound(id) && !(self.can_be_outranked && self.is_outranked(id))
    }

    /// Adds one index file. Files must come in the order of their names.
    pub(super) fn add(&mut self, file: IndexFile, entries: &[IndexEntry]) {
        let number = self.files.len() as u32;
        self.files.push(file);
        let mut frames: HashMap<PackId, Vec<(u64, u64)>> = HashMap::new();
        for entry in entries {
            frames.entry(entry.pack).or_default().push((entry.offset, entry.stored_bytes));
        }
        let mut positions: HashMap<PackId, u32> = HashMap::new();
        for (pack, frames) in frames {
            positions.insert(pack, self.claims.len() as u32);
            let most = self.entries.entry(pack).or_default();
            *most = (*most).max(frames.len() as u64);
            self.claims.push(claim(pack, frames, number));
        }
        self.blobs.reserve(entries.len());
        for entry in entries {
            let place = (positions[&entry.pack], entry.offset, entry.stored_bytes, entry.flags);
            self.place(entry.id, place);
        }
    }

    fn place(&mut self, id: BlobId, place: Place) {
        let Some(known) = self.blobs.get_mut(&id) else {
            self.blobs.insert(id, place);
            return;
        };
        let (old, new) = (&self.claims[known.0 as usize], &self.claims[place.0 as usize]);
        if old.pack == new.pack && (known.1, known.2, known.3) == (place.1, place.2, place.3) {
            // The file that names more of the pack describes it better.
            if (new.is_gapless, new.entries) >= (old.is_gapless, old.entries) {
                *known = place;
            }
            return;
        }
        let before = std::mem::replace(known, place);
        self.others.entry(id).or_default().push(before);
    }

    /// Compares the claims with the packs that are there, and takes for each blob the last place that is sound;
    /// without one the last whose pack is there at all.
    #[must_use]
    pub fn settled(mut self, lengths: &HashMap<PackId, u64>) -> Self {
        self.sound = self.claims.iter().map(|claim| claim.is_sound(lengths)).collect();
        let rank = |place: &Place| {
            let claim = place.0 as usize;
            (self.sound[claim], lengths.contains_key(&self.claims[claim].pack))
        };
        for (id, others) in &mut self.others {
            let Some(last) = self.blobs.get_mut(id) else { continue };
            let best = (0..others.len()).rev().max_by_key(|position| (rank(&others[*position]), *position));
            if let Some(best) = best.filter(|best| rank(&others[*best]) > rank(last)) {
                let (taken, passed) =
                    (self.claims[others[best].0 as usize].pack, self.claims[last.0 as usize].pack);
                tracing::trace!(
                    target: "packvault::decision",
                    blob = %id,
                    %taken,
                    %passed,
                    "the last index places it in a pack that is gone or not as it says"
                );
                std::mem::swap(last, &mut others[best]);
                self.outranked.insert(*id);
            }
        }
        if !self.outranked.is_empty() {
            let blobs = self.outranked.len();
            tracing::info!(
                target: "packvault::decision",
                blobs,
                "blobs are read where an earlier index places them: the last one is wrong about its packs"
            );
        }
        self
    }

    fn location(&self, &(claim, offset, stored_bytes, flags): &Place) -> Location {
        Location { pack: self.claims[claim as usize].pack, offset, stored_bytes, flags }
    }
}

fn claim(pack: PackId, mut frames: Vec<(u64, u64)>, file: u32) -> Claim {
    frames.sort_unstable();
    let mut end = pack::HEADER_BYTES as u64;
    let mut is_gapless = true;
    for (offset, bytes) in &frames {
        is_gapless &= *offset == end;
        end = end.max(offset.saturating_add(*bytes));
    }
    let entries = frames.len() as u64;
    Claim { pack, entries, implied_bytes: pack::expected_file_bytes(end, entries), is_gapless, file }
}

/// Returns what one file says of each pack it names.
pub fn claims_of(entries: &[IndexEntry]) -> Vec<Claim> {
    let mut union = IndexUnion::default();
    union.add(IndexFile { name: String::new(), bytes: 0 }, entries);
    union.claims
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_BYTES: u64 = 100;

    fn pack(number: u8) -> PackId {
        PackId::from_bytes([number; 16])
    }

    fn entry(blob: u64, place: u64, pack: PackId) -> IndexEntry {
        let id = BlobId::of(&blob.to_le_bytes());
        let offset = 6 + place * FRAME_BYTES;
        IndexEntry { id, pack, offset, stored_bytes: FRAME_BYTES, flags: BlobFlags::RAW }
    }

    fn length(entries: u64) -> u64 {
        pack::expected_file_bytes(6 + entries * FRAME_BYTES, entries)
    }

    fn union(files: &[&[IndexEntry]], lengths: &[(PackId, u64)]) -> IndexUnion {
        let mut union = IndexUnion::default();
        for (number, entries) in files.iter().enumerate() {
            union.add(IndexFile { name: format!("{number}.mvidx"), bytes: 1 }, entries);
        }
        union.settled(&lengths.iter().copied().collect())
    }

    #[test]
    fn the_memory_of_a_union_is_what_its_tables_take() {
        assert_eq!(IndexUnion::default().table_bytes(), 0);
        let entries: Vec<IndexEntry> = (0..10_000).map(|number| entry(number, number, pack(1))).collect();
        let union = union(&[&entries], &[]);
        // An id, a place, and a byte of the table, for each of up to twice as many as there are.
        assert!((10_000 * 56..10_000 * 57 * 3).contains(&union.table_bytes()), "{}", union.table_bytes());
    }

    #[test]
    fn the_last_file_decides_where_both_places_are_whole_or_neither_is() {
        let (old, new) = ([entry(1, 0, pack(1))], [entry(1, 0, pack(2))]);
        let id = old[0].id;
        let whole = length(1);
        for lengths in [vec![(pack(1), whole), (pack(2), whole)], vec![(pack(1), 9), (pack(2), 9)], vec![]] {
            let union = union(&[&old, &new], &lengths);
            assert_eq!(union.get(&id).unwrap().pack, pack(2), "{lengths:?}");
            assert_eq!(union.others(&id).next().unwrap().pack, pack(1));
            assert!(!union.is_outranked(&id));
            assert_eq!(union.is_sound(&id), lengths.first().is_some_and(|(_, bytes)| *bytes == whole));
        }
    }

    #[test]
    fn a_pack_that_is_gone_cut_short_or_empty_gives_way_to_one_that_is_whole() {
        let files = [[entry(1, 0, pack(1))], [entry(1, 0, pack(2))], [entry(1, 0, pack(3))]];
        let id = files[0][0].id;
        let whole = length(1);
        for other in [None, Some(0), Some(whole - 1), Some(whole + 1)] {
            let mut lengths = vec![(pack(1), whole), (pack(2), whole)];
            lengths.extend(other.map(|bytes| (pack(3), bytes)));
            let union = union(&[&files[0], &files[1], &files[2]], &lengths);
            assert_eq!(union.get(&id).unwrap().pack, pack(2), "{other:?}");
            assert!(union.is_sound(&id) && union.is_outranked(&id));
            assert!(union.unsound_packs().is_empty(), "nothing is looked for in it");
        }
        // Nothing is whole, but something is there.
        let union = union(&[&files[0], &files[1]], &[(pack(1), 9)]);
        assert_eq!(union.get(&id).unwrap().pack, pack(1));
        assert!(!union.is_sound(&id));
        assert_eq!(union.unsound_packs(), [pack(1)].into());
    }

    #[test]
    fn an_index_that_is_wrong_about_an_offset_is_not_relied_on() {
        let right: Vec<IndexEntry> = (0..3).map(|number| entry(number, number, pack(1))).collect();
        let mut wrong = right.clone();
        wrong[1].offset += 1;
        let lengths = [(pack(1), length(3))];
        let union = union(&[&right, &wrong], &lengths);
        for entry in &right {
            assert!(union.is_sound(&entry.id));
        }
        assert_eq!(union.get(&right[1].id).unwrap().offset, right[1].offset);
        assert!(union.is_outranked(&right[1].id));
        assert!(!super::tests::union(&[&wrong], &lengths).is_sound(&wrong[0].id));
    }

    #[test]
    fn a_file_that_names_part_of_a_pack_does_not_hide_the_one_that_names_all_of_it() {
        let all: Vec<IndexEntry> = (0..3).map(|number| entry(number, number, pack(1))).collect();
        let part = [all[1]];
        for files in [[&all[..], &part[..]], [&part[..], &all[..]]] {
            let union = union(&files, &[(pack(1), length(3))]);
            assert!(all.iter().all(|entry| union.is_sound(&entry.id) && !union.is_outranked(&entry.id)));
            assert_eq!(union.pack_entries(&pack(1)), 3);
        }
        assert_eq!(union(&[&part], &[]).pack_entries(&pack(7)), 0);
    }

    #[test]
    fn blobs_without_bytes_leave_no_gap() {
        let mut entries: Vec<IndexEntry> = (0..2).map(|number| entry(number, number, pack(1))).collect();
        let empty = IndexEntry { stored_bytes: 0, ..entry(9, 1, pack(1)) };
        entries.push(empty);
        let bytes = pack::expected_file_bytes(6 + 2 * FRAME_BYTES, 3);
        assert!(union(&[&entries], &[(pack(1), bytes)]).is_sound(&empty.id));
    }
}
