//! Blobs: from an id to stored bytes. Index first, then the footer of the pack, which must agree.
//!
//! Nothing here is decoded: the bytes that come back are as stored, and the engine's pipeline checks CRC,
//! length and hash before anything uses them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::indexes::{IndexFile, IndexUnion, Location};
use super::opened::{Known, OpenedPack, Reach, complete};
use super::packs::pack_key;
use super::reads::Reads;
use super::{Repository, Sealing};
use crate::format::pack::{self, Entry};
use crate::format::{BlobId, PackId};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// Packs whose footer is kept at hand (section 11).
const OPEN_PACKS_MAX: usize = 64;

/// Entries of all footers that are kept at hand, the last one's aside: about 20 MiB.
const OPEN_ENTRIES_MAX: usize = 200_000;

/// What is said of a blob whose index and pack tell different things: the pack is believed.
pub const DISAGREES: &str = "the index and the pack's footer disagree";

/// Why a blob cannot be had, with the names that a report needs.
#[derive(Debug)]
pub struct BlobFailure {
    /// The blob that was wanted.
    pub blob: BlobId,
    /// The pack in which it should lie, where an index says so.
    pub pack: Option<PackId>,
    /// What is wrong.
    pub error: Error,
}

impl fmt::Display for BlobFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pack {
            Some(pack) => write!(f, "cannot read blob {} in pack {pack}", self.blob),
            None => write!(f, "cannot read blob {}", self.blob),
        }
    }
}

impl From<BlobFailure> for Error {
    fn from(failure: BlobFailure) -> Self {
        Self::caused(failure.error.kind(), failure.to_string(), failure.error)
    }
}

/// A pack as it was found: opened, or why it cannot be.
type Opened = std::result::Result<Arc<OpenedPack>, Arc<Error>>;

/// A pack that is being opened, or was: of several that want it, one reads.
type Opening = Arc<OnceCell<Opened>>;

/// Finds and fetches blobs by id.
#[derive(Debug)]
pub struct BlobStore {
    repository: Repository,
    union: Arc<IndexUnion>,
    /// The length of every pack, as one listing gave it.
    lengths: HashMap<PackId, u64>,
    /// The most recently used last. That a pack is damaged is kept too, so that it is read once.
    opened: Mutex<VecDeque<(PackId, Opening)>>,
    /// Blobs that are not where the index that counts says, and were found by another.
    misplaced: Mutex<HashSet<BlobId>>,
}

impl BlobStore {
    /// Makes a store over the repository's packs, whose lengths [`Repository::pack_lengths`] returned, and with which
    /// the union was settled.
    pub fn new(repository: Repository, union: Arc<IndexUnion>, lengths: HashMap<PackId, u64>) -> Self {
        // Packs that no index names hold nothing that could be read.
        let named = lengths.iter().filter(|(pack, _)| union.pack_entries(pack) > 0);
        repository.reads().listed(named.map(|(pack, bytes)| (*pack, *bytes)).collect());
        Self { repository, union, lengths, opened: Mutex::default(), misplaced: Mutex::default() }
    }

    /// Returns the index union.
    pub fn union(&self) -> &Arc<IndexUnion> {
        &self.union
    }

    /// Returns who is told what was read of packs.
    pub fn reads(&self) -> &Arc<Reads> {
        self.repository.reads()
    }

    /// Returns how the frames are sealed.
    pub fn sealing(&self) -> &Sealing {
        self.repository.sealing()
    }

    /// Returns the pack in which the index places the blob.
    pub fn pack_of(&self, id: &BlobId) -> Option<PackId> {
        self.union.get(id).map(|location| location.pack)
    }

    /// Returns how long the pack is; nothing of one that is not there.
    pub fn pack_bytes(&self, pack: &PackId) -> u64 {
        self.lengths.get(pack).copied().unwrap_or_default()
    }

    /// Tells whether the pack lies in the repository at all.
    pub fn is_there(&self, pack: &PackId) -> bool {
        self.lengths.contains_key(pack)
    }

    /// Resolves the blob: indexed, pack opens, the footer has it where the index says (section 11). Where that
    /// fails and another index places the blob elsewhere, it is looked for there.
    pub async fn locate(&self, id: &BlobId) -> std::result::Result<(PackId, Entry), BlobFailure> {
        let Some(location) = self.union.get(id) else { return Err(unnamed(id)) };
        let opened = self.open_pack(&location.pack).await;
        self.locate_by(id, &location, &opened).await
    }

    /// The same of a blob that the index places in this pack, which was opened before.
    pub async fn locate_in(
        &self,
        id: &BlobId,
        opened: &Result<Arc<OpenedPack>>,
    ) -> std::result::Result<(PackId, Entry), BlobFailure> {
        let Some(location) = self.union.get(id) else { return Err(unnamed(id)) };
        self.locate_by(id, &location, opened).await
    }

    async fn locate_by(
        &self,
        id: &BlobId,
        location: &Location,
        opened: &Result<Arc<OpenedPack>>,
    ) -> std::result::Result<(PackId, Entry), BlobFailure> {
        match agreed(id, location, opened) {
            Ok(entry) => Ok((location.pack, entry)),
            Err(error) => {
                let failure = BlobFailure { blob: *id, pack: Some(location.pack), error };
                if failure.error.is_inconclusive() {
                    return Err(failure);
                }
                self.locate_elsewhere(id, failure).await
            }
        }
    }

    async fn locate_elsewhere(
        &self,
        id: &BlobId,
        failure: BlobFailure,
    ) -> std::result::Result<(PackId, Entry), BlobFailure> {
        for other in self.union.others(id) {
            match agreed(id, &other, &self.open_pack(&other.pack).await) {
                Ok(entry) => {
                    // What this user may not read may be there for others.
                    if !failure.error.is_no_finding() {
                        self.misplaced.lock().expect("no holder of the blobs panics").insert(*id);
                    }
                    return Ok((other.pack, entry));
                }
                Err(error) if error.is_inconclusive() => {
                    return Err(BlobFailure { blob: *id, pack: Some(other.pack), error });
                }
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Returns the index file and the pack in which programs that take the last index at its word look for the blob in
    /// vain: by the length of the pack, or by its footer where that was read.
    pub fn outranking(&self, id: &BlobId) -> Option<(&IndexFile, PackId)> {
        let is_misplaced = || self.misplaced.lock().expect("no holder of the blobs panics").contains(id);
        let misplacing = || is_misplaced().then(|| self.union.naming(id)).flatten();
        self.union.outranking(id).or_else(misplacing)
    }

    /// Says that the blob was looked for where the index places it.
    pub fn looked_in_vain(&self, id: &BlobId) {
        if let Some(location) = self.union.get(id) {
            let end = location.offset.saturating_add(location.stored_bytes);
            self.reads().damaged(location.pack, location.offset..end);
        }
    }

    /// Returns what the footer of the pack says, in the order of the offsets; a pack that cannot be opened is an error.
    pub async fn entries_of(&self, pack: &PackId) -> Result<Vec<Entry>> {
        let mut entries = self.open_pack(pack).await?.footer.entries().to_vec();
        // Frames without bytes share an offset, and stay in their order.
        entries.sort_by_key(|entry| entry.offset);
        Ok(entries)
    }

    /// Returns the length of the pack, if it lies in the repository.
    pub fn length_of(&self, pack: &PackId) -> Option<u64> {
        self.lengths.get(pack).copied()
    }

    /// Reads the stored bytes of an entry that was located.
    pub async fn fetch(&self, pack: &PackId, entry: &Entry) -> Result<Bytes> {
        self.fetch_range(pack, entry.offset..entry.offset + entry.stored_bytes).await
    }

    /// Reads a range of a pack; without a request if it was read when the pack was opened.
    pub async fn fetch_range(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes> {
        if let Some(kept) = self.kept(pack, &range) {
            return Ok(kept);
        }
        let bytes = self
            .repository
            .storage
            .read_range(&pack_key(pack), range.clone())
            .await
            .map_err(|error| storage_error(format!("cannot read pack {pack}"), error))?;
        complete(pack, &range, bytes)
    }

    fn kept(&self, pack: &PackId, range: &Range<u64>) -> Option<Bytes> {
        let opened = self.opened.lock().expect("no holder of the footers panics");
        let (_, opening) = opened.iter().rev().find(|(known, _)| known == pack)?;
        opening.get()?.as_ref().ok()?.kept(range)
    }

    /// Opens the pack for its footer alone. It is not remembered, so that it takes memory only as long as it is held.
    pub async fn open_footer(&self, id: &PackId) -> Result<Arc<OpenedPack>> {
        let known = self.at_hand(id).and_then(|opening| opening.get().cloned());
        let opened = match known {
            Some(opened) => opened,
            None => self.read_ends(id, Reach::FOOTER).await.map(Arc::new).map_err(Arc::new),
        };
        opened.map_err(|error| is_named(&error))
    }

    /// Opens the pack once, and remembers it. A caller that waits for another caller's attempt takes its outcome: if
    /// the store does not answer, not every caller must wait for it anew.
    async fn open_pack(&self, id: &PackId) -> Result<Arc<OpenedPack>> {
        let opening = self.opening(id);
        let read = async || self.read_ends(id, Reach::BLOBS).await.map(Arc::new).map_err(Arc::new);
        opening.get_or_init(read).await.clone().map_err(|error| {
            // Only what is known of the pack is remembered: what failed on the way may succeed the next time.
            if matches!(error.kind(), ErrorKind::Io | ErrorKind::Interrupted) {
                self.forget(&opening);
            }
            is_named(&error)
        })
    }

    fn at_hand(&self, id: &PackId) -> Option<Opening> {
        let opened = self.opened.lock().expect("no holder of the footers panics");
        opened.iter().find(|(known, _)| known == id).map(|(_, opening)| opening.clone())
    }

    /// Lets the next who wants the pack try anew.
    fn forget(&self, opening: &Opening) {
        let mut opened = self.opened.lock().expect("no holder of the footers panics");
        opened.retain(|(_, known)| !Arc::ptr_eq(known, opening));
    }

    fn opening(&self, id: &PackId) -> Opening {
        let mut opened = self.opened.lock().expect("no holder of the footers panics");
        let known = opened.iter().rposition(|(known, _)| known == id);
        let found =
            known.and_then(|position| opened.remove(position)).unwrap_or_else(|| (*id, Opening::default()));
        let opening = found.1.clone();
        opened.push_back(found);
        let entries = |opening: &Opening| match opening.get() {
            Some(Ok(opened)) => opened.footer.entries().len(),
            _ => 0,
        };
        let mut kept: usize = opened.iter().map(|(_, opening)| entries(opening)).sum();
        while opened.len() > 1 && (opened.len() > OPEN_PACKS_MAX || kept > OPEN_ENTRIES_MAX) {
            kept -= opened.pop_front().map_or(0, |(_, opening)| entries(&opening));
        }
        opening
    }

    /// Opens the pack, and says what was read of it.
    async fn read_ends(&self, id: &PackId, reach: Reach) -> Result<OpenedPack> {
        let file_bytes = self.lengths.get(id).copied();
        let implied_bytes = self.union.implied_bytes(id).filter(|_| file_bytes.is_none());
        let known = Known { id: *id, file_bytes, implied_bytes, entries: self.union.pack_entries(id) };
        let read = OpenedPack::open(&self.repository, &known, reach).await;
        let bytes = file_bytes.unwrap_or_default();
        match &read {
            Ok(opened) => {
                self.reads().sound(*id, 0..pack::HEADER_BYTES as u64);
                self.reads().sound(*id, opened.footer_start..bytes);
            }
            // Nothing in it can be had: all of it was looked at.
            Err(error) if !error.is_no_finding() && error.obstacle().is_none() => {
                self.reads().damaged(*id, 0..bytes.max(1));
            }
            Err(_) => {}
        }
        read
    }
}

fn unnamed(id: &BlobId) -> BlobFailure {
    BlobFailure { blob: *id, pack: None, error: Error::new(ErrorKind::Damaged, "no index names it") }
}

/// Returns what the footer says of the blob, if it says what the index says.
fn agreed(id: &BlobId, location: &Location, opened: &Result<Arc<OpenedPack>>) -> Result<Entry> {
    let opened = opened.as_ref().map_err(Error::repeated)?;
    let Some(entry) = opened.entry(id) else {
        return Err(Error::new(ErrorKind::Damaged, "the pack's footer does not hold it"));
    };
    let agrees = (entry.offset, entry.stored_bytes, entry.flags)
        == (location.offset, location.stored_bytes, location.flags);
    if agrees { Ok(*entry) } else { Err(Error::new(ErrorKind::Damaged, DISAGREES)) }
}

/// An index names the pack, so one that is not there is no pack that never was.
fn is_named(error: &Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::new(ErrorKind::Damaged, error.chain()),
        _ => error.repeated(),
    }
}

#[cfg(test)]
mod tests {
    use packvault_storage::MemoryStorage;

    use super::*;
    use crate::repo::config;

    #[tokio::test]
    async fn only_so_many_packs_are_kept_open_and_those_in_use_longest() {
        let storage = Arc::new(MemoryStorage::new());
        config::init(storage.as_ref(), jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
        let repository = Repository::open(storage).await.unwrap();
        let ids: Vec<PackId> =
            (0..OPEN_PACKS_MAX + 10).map(|_| PackId::from_ulid(repository.ulids().next())).collect();
        let store = BlobStore::new(repository, Arc::default(), HashMap::new());
        let first = store.opening(&ids[0]);
        for (count, id) in ids.iter().enumerate() {
            store.opening(id);
            assert!(Arc::ptr_eq(&store.opening(&ids[0]), &first), "it is in use, after {count} others");
            assert_eq!(store.opened.lock().unwrap().len(), (count + 1).min(OPEN_PACKS_MAX));
        }
        let kept: Vec<PackId> = store.opened.lock().unwrap().iter().map(|(id, _)| *id).collect();
        assert_eq!(kept[..OPEN_PACKS_MAX - 1], ids[ids.len() + 1 - OPEN_PACKS_MAX..]);
        assert_eq!(kept[OPEN_PACKS_MAX - 1], ids[0]);
        store.forget(&first);
        assert!(!Arc::ptr_eq(&store.opening(&ids[0]), &first));
        assert_eq!(store.opened.lock().unwrap().len(), OPEN_PACKS_MAX);
    }
}
