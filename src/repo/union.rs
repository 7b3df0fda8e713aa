//! The union of all index files: where each blob lies, and whether that can be relied on (section 3.1).
//!
//! What one file says of one pack is a claim. A claim is sound if the pack lies there with the very length that
//! the claim implies, and if its blobs lie back to back, as every writer puts them: an index that is wrong about
//! an offset is found without opening a pack. For a blob named twice the format takes the file whose name
//! sorts last; here the last *sound* claim is taken, so that a copy that is whole is found whatever a newer index
//! says of one that is lost. A blob for which the two rules differ is `outranked`: other programs look for it in
//! the wrong place, and a create stores it again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use super::Sealing;
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

/// Where a blob lies, as a file says.
#[derive(Debug)]
struct Place {
    /// The claim as a position, to keep an entry at 56 bytes.
    claim: u32,
    flags: BlobFlags,
    /// Whether somebody said that the blob is needed. Beside the flags it takes no room.
    is_needed: AtomicBool,
    offset: u64,
    stored_bytes: u64,
}

impl Place {
    fn of(claim: u32, entry: &IndexEntry) -> Self {
        let IndexEntry { offset, stored_bytes, flags, .. } = *entry;
        Self { claim, flags, is_needed: AtomicBool::new(false), offset, stored_bytes }
    }

    fn claim(&self) -> usize {
        self.claim as usize
    }

    /// Tells whether both say the same of where in a pack the blob lies.
    fn is_at(&self, other: &Self) -> bool {
        (self.offset, self.stored_bytes, self.flags) == (other.offset, other.stored_bytes, other.flags)
    }
}

/// One place of one blob, for whoever looks at all of them.
#[derive(Debug, Clone, Copy)]
pub struct PlacedBlob {
    /// The blob.
    pub id: BlobId,
    /// Where it lies.
    pub location: Location,
    /// Who says so, as a position among all claims.
    pub claim: usize,
    /// Whether it is needed and looked for here.
    pub is_needed: bool,
}

/// The union of all index files.
#[derive(Debug)]
pub struct IndexUnion {
    /// How the packs are sealed, which decides how long they are.
    sealing: Sealing,
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
        Self::new(Sealing::plain())
    }
}

impl IndexUnion {
    /// Makes a union of no files, over packs that are sealed like this.
    pub fn new(sealing: Sealing) -> Self {
        Self {
            sealing,
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

    /// Returns how the packs are sealed.
    pub fn sealing(&self) -> &Sealing {
        &self.sealing
    }

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
        self.blobs.get(id).map(Place::claim)
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
        let last = others.iter().map(|place| &self.claims[place.claim()]).max_by_key(|claim| claim.file)?;
        Some((self.file_of(last), last.pack))
    }

    /// Returns the index file and the pack by which the blob is looked for.
    pub fn naming(&self, id: &BlobId) -> Option<(&IndexFile, PackId)> {
        let claim = &self.claims[self.claim_of(id)?];
        Some((self.file_of(claim), claim.pack))
    }

    /// Returns the packs of claims that are not sound although a blob is placed by them.
    pub fn unsound_packs(&self) -> HashSet<PackId> {
        if self.sound.iter().all(|sound| *sound) {
            return HashSet::new();
        }
        let claims = self.blobs.values().map(Place::claim);
        claims.filter(|claim| !self.sound[*claim]).map(|claim| self.claims[claim].pack).collect()
    }

    /// Returns how many distinct blobs the files name.
    pub fn blob_count(&self) -> usize {
        self.blobs.len()
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

    /// Returns the length that the pack has, if what the indexes say of it is true.
    pub fn implied_bytes(&self, pack: &PackId) -> Option<u64> {
        let claims = self.claims.iter().filter(|claim| claim.pack == *pack && claim.is_gapless);
        claims.max_by_key(|claim| claim.entries).map(|claim| claim.implied_bytes)
    }

    /// Returns the blobs that are placed in these packs.
    pub fn blobs_in(&self, packs: &HashSet<PackId>) -> impl Iterator<Item = BlobId> {
        let is_in = |place: &Place| packs.contains(&self.claims[place.claim as usize].pack);
        self.blobs.iter().filter(move |(_, place)| is_in(place)).map(|(id, _)| *id)
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

    /// Returns the place of a claim's file among all files.
    pub fn position_of(&self, claim: &Claim) -> usize {
        claim.file as usize
    }

    /// Tells whether the claim at this position holds, as far as lengths can tell.
    pub fn is_sound_claim(&self, position: usize) -> bool {
        self.sound.get(position) == Some(&true)
    }

    /// Notes that the blob is needed; tells whether an index names it.
    pub fn need(&self, id: &BlobId) -> bool {
        let place = self.blobs.get(id);
        place.inspect(|place| place.is_needed.store(true, Ordering::Relaxed)).is_some()
    }

    /// Tells whether somebody noted that the blob is needed.
    pub fn is_needed(&self, id: &BlobId) -> bool {
        self.blobs.get(id).is_some_and(|place| place.is_needed.load(Ordering::Relaxed))
    }

    /// Returns every place of every blob, in no order.
    pub fn places(&self) -> impl Iterator<Item = PlacedBlob> {
        let others = self.others.iter().flat_map(|(id, places)| places.iter().map(move |place| (id, place)));
        self.blobs.iter().chain(others).map(|(id, place)| PlacedBlob {
            id: *id,
            location: self.location(place),
            claim: place.claim(),
            is_needed: place.is_needed.load(Ordering::Relaxed),
        })
    }

    /// Returns the blobs that several places are known of, each with the packs of those that are not looked at first.
    pub fn placed_twice(&self) -> impl Iterator<Item = (&BlobId, impl Iterator<Item = PackId>)> {
        let packs = |places: &'_ Vec<Place>| {
            let packs: Vec<PackId> = places.iter().map(|place| self.claims[place.claim()].pack).collect();
            packs.into_iter()
        };
        self.others.iter().map(move |(id, places)| (id, packs(places)))
    }

    /// Makes the union of one index, as it was just written.
    pub fn of_written(sealing: &Sealing, entries: &[IndexEntry]) -> Self {
        let mut union = Self::new(sealing.clone());
        union.add(IndexFile { name: String::new(), bytes: 0 }, entries);
        union
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
            self.claims.push(claim(&self.sealing, pack, frames, number));
        }
        self.blobs.reserve(entries.len());
        for entry in entries {
            self.place(entry.id, Place::of(positions[&entry.pack], entry));
        }
    }

    fn place(&mut self, id: BlobId, place: Place) {
        let Some(known) = self.blobs.get_mut(&id) else {
            self.blobs.insert(id, place);
            return;
        };
        let (old, new) = (&self.claims[known.claim()], &self.claims[place.claim()]);
        if old.pack == new.pack && known.is_at(&place) {
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
            let claim = place.claim();
            (self.sound[claim], lengths.contains_key(&self.claims[claim].pack))
        };
        for (id, others) in &mut self.others {
            let Some(last) = self.blobs.get_mut(id) else { continue };
            let best = (0..others.len()).rev().max_by_key(|position| (rank(&others[*position]), *position));
            if let Some(best) = best.filter(|best| rank(&others[*best]) > rank(last)) {
                let (taken, passed) =
                    (self.claims[others[best].claim()].pack, self.claims[last.claim()].pack);
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

    fn location(&self, place: &Place) -> Location {
        let &Place { offset, stored_bytes, flags, .. } = place;
        Location { pack: self.claims[place.claim()].pack, offset, stored_bytes, flags }
    }
}

fn claim(sealing: &Sealing, pack: PackId, mut frames: Vec<(u64, u64)>, file: u32) -> Claim {
    frames.sort_unstable();
    let mut end = pack::HEADER_BYTES as u64;
    let mut is_gapless = true;
    for (offset, bytes) in &frames {
        is_gapless &= *offset == end;
        end = end.max(offset.saturating_add(*bytes));
    }
    let entries = frames.len() as u64;
    Claim { pack, entries, implied_bytes: sealing.pack_bytes(end, entries), is_gapless, file }
}

/// Returns what one file says of each pack it names.
pub fn claims_of(entries: &[IndexEntry], sealing: &Sealing) -> Vec<Claim> {
    IndexUnion::of_written(sealing, entries).claims
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::RepositoryKey;
    use crate::format::pack::encrypted;

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
        assert_eq!(size_of::<Place>(), 24);
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

    #[test]
    fn a_pack_of_an_encrypted_repository_has_the_length_of_one() {
        let entries = [entry(1, 0, pack(1))];
        let sealing = Sealing::with_key(RepositoryKey::from_bytes([1; RepositoryKey::BYTES]));
        let bytes = encrypted::expected_file_bytes(6 + FRAME_BYTES, 1);
        assert_ne!(bytes, length(1));
        for (sealing, sound) in [(sealing, bytes), (Sealing::plain(), length(1))] {
            let claims = claims_of(&entries, &sealing);
            for lengths in [bytes, length(1)] {
                assert_eq!(claims[0].is_sound(&HashMap::from([(pack(1), lengths)])), lengths == sound);
            }
        }
    }
}
