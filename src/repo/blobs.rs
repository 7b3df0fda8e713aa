//! Blobs: from an id to stored bytes. Index first, then the footer of the pack, which must agree.
//!
//! Nothing here is decoded: the bytes that come back are as stored, and the engine's pipeline checks CRC,
//! length and hash before anything uses them.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::OnceCell;

use super::indexes::{IndexUnion, Location, format_error};
use super::packs::pack_key;
use super::{Repository, storage_error};
use crate::format::pack::{self, Entry, Footer, Trailer};
use crate::format::{BlobId, FormatError, FormatErrorKind, PackId};
use crate::{Error, ErrorKind, Result};

/// Packs whose footer is kept at hand (section 11).
const OPEN_PACKS_MAX: usize = 64;

/// Entries of all footers that are kept at hand, the last one's aside: about 20 MiB.
const OPEN_ENTRIES_MAX: usize = 200_000;

/// Bytes read from the end of a pack at least: what lies before a short footer (lists, trees) comes along.
const TAIL_BYTES_MIN: u64 = 64 * 1024;

/// Bytes read from the end of a pack at most on the word of an index: the footer of the fullest pack.
const TAIL_BYTES_MAX: u64 = pack::expected_file_bytes(0, pack::ENTRIES_MAX as u64);

/// A pack up to this length is read whole when it is opened.
const SMALL_PACK_BYTES_MAX: u64 = 256 * 1024;

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

/// A pack whose header and footer have been read and checked.
#[derive(Debug)]
struct OpenedPack {
    footer: Footer,
    /// The end of the pack, which was read for the footer; all of a small one.
    tail: Bytes,
    tail_start: u64,
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
}

impl BlobStore {
    /// Makes a store over the repository's packs, whose lengths [`Repository::pack_lengths`] returned, and with which
    /// the union was settled.
    pub fn new(repository: Repository, union: Arc<IndexUnion>, lengths: HashMap<PackId, u64>) -> Self {
        Self { repository, union, lengths, opened: Mutex::default() }
    }

    /// Returns the index union.
    pub fn union(&self) -> &Arc<IndexUnion> {
        &self.union
    }

    /// Returns the pack in which the index places the blob.
    pub fn pack_of(&self, id: &BlobId) -> Option<PackId> {
        self.union.get(id).map(|location| location.pack)
    }

    /// Tells whether the pack lies in the repository at all.
    pub fn is_there(&self, pack: &PackId) -> bool {
        self.lengths.contains_key(pack)
    }

    /// Resolves the blob: indexed, pack opens, the footer has it where the index says (section 11). Where that
    /// fails and another index places the blob elsewhere, it is looked for there.
    pub async fn locate(&self, id: &BlobId) -> std::result::Result<(PackId, Entry), BlobFailure> {
        let Some(location) = self.union.get(id) else {
            let error = Error::new(ErrorKind::Damaged, "no index names it");
            return Err(BlobFailure { blob: *id, pack: None, error });
        };
        let failure = match self.locate_at(id, &location).await {
            Ok(entry) => return Ok((location.pack, entry)),
            Err(failure) if failure.error.is_inconclusive() => return Err(failure),
            Err(failure) => failure,
        };
        for other in self.union.others(id) {
            match self.locate_at(id, &other).await {
                Ok(entry) => return Ok((other.pack, entry)),
                Err(failure) if failure.error.is_inconclusive() => return Err(failure),
                Err(_) => {}
            }
        }
        Err(failure)
    }

    async fn locate_at(&self, id: &BlobId, location: &Location) -> std::result::Result<Entry, BlobFailure> {
        let fail = |error| BlobFailure { blob: *id, pack: Some(location.pack), error };
        let opened = self.open_pack(&location.pack).await.map_err(fail)?;
        let Some(entry) = opened.footer.get(id) else {
            return Err(fail(Error::new(ErrorKind::Damaged, "the pack's footer does not hold it")));
        };
        let agrees = entry.offset == location.offset
            && entry.stored_bytes == location.stored_bytes
            && entry.flags == location.flags;
        if !agrees {
            return Err(fail(Error::new(ErrorKind::Damaged, "the index and the pack's footer disagree")));
        }
        Ok(*entry)
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
        let found = opening.get()?.as_ref().ok()?;
        let start = usize::try_from(range.start.checked_sub(found.tail_start)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(found.tail_start)?).ok()?;
        (start <= end && end <= found.tail.len()).then(|| found.tail.slice(start..end))
    }

    /// Opens the pack, or remembers having done so. Whoever waits for somebody else's attempt takes its outcome:
    /// a store that does not answer must not be waited for once by each.
    async fn open_pack(&self, id: &PackId) -> Result<Arc<OpenedPack>> {
        let opening = self.opening(id);
        let read = async || self.read_ends(id).await.map(Arc::new).map_err(Arc::new);
        opening.get_or_init(read).await.clone().map_err(|error| {
            match error.kind() {
                // Only what is known of the pack is remembered: what failed on the way may succeed the next time.
                ErrorKind::Io | ErrorKind::Interrupted => self.forget(&opening),
                // An index names it, so it is no pack that never was.
                ErrorKind::NotFound => return Error::new(ErrorKind::Damaged, error.chain()),
                _ => {}
            }
            error.repeated()
        })
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

    /// The open checks of section 2.5, with one call: where the footer lies follows from the length of the
    /// pack and the number of its blobs in the index. Where the index is wrong about it, there is a second.
    async fn read_ends(&self, id: &PackId) -> Result<OpenedPack> {
        let storage = &self.repository.storage;
        let key = pack_key(id);
        let cannot_open = |error| storage_error(format!("cannot open pack {id}"), error);
        let damaged = |error: FormatError| match error.kind() {
            FormatErrorKind::Encrypted => {
                Error::caused(ErrorKind::WrongKey, format!("cannot open pack {id} without its key"), error)
            }
            _ => format_error(format!("cannot use pack {id}"), error),
        };
        let file_bytes = match self.lengths.get(id) {
            Some(length) => *length,
            // A listing may have left it out; if it is not there, the store says so in its own words.
            None => storage.stat(&key).await.map_err(cannot_open)?.size_bytes,
        };
        let tail_start = self.tail_start(id, file_bytes);
        let header_bytes = file_bytes.min(pack::HEADER_BYTES as u64);
        let (header, tail) = if tail_start == 0 {
            let whole = storage.read_range(&key, 0..file_bytes).await.map_err(cannot_open)?;
            let whole = complete(id, &(0..file_bytes), whole)?;
            (whole.slice(..header_bytes as usize), whole)
        } else {
            let ranges = [0..header_bytes, tail_start..file_bytes];
            let mut parts = storage.read_ranges(&key, &ranges).await.map_err(cannot_open)?.into_iter();
            let [header, tail] = ranges.map(|range| complete(id, &range, parts.next().unwrap_or_default()));
            (header?, tail?)
        };
        pack::check_header(&header).and_then(pack::Header::require_plain).map_err(damaged)?;
        let trailer_start = tail.len().saturating_sub(pack::TRAILER_BYTES);
        let trailer = Trailer::parse(&tail[trailer_start..], file_bytes).map_err(damaged)?;
        let region = trailer.footer_offset()..trailer.footer_offset() + trailer.region_bytes();
        let footer = if region.start >= tail_start {
            let skip = (region.start - tail_start) as usize;
            Footer::parse(&tail[skip..skip + trailer.region_bytes() as usize], &trailer, file_bytes)
        } else {
            let bytes = storage.read_range(&key, region.clone()).await.map_err(cannot_open)?;
            let bytes = complete(id, &region, bytes)?;
            Footer::parse(&bytes, &trailer, file_bytes)
        };
        // A footer of that size is not kept twice.
        let tail = if tail.len() as u64 <= SMALL_PACK_BYTES_MAX { tail } else { Bytes::new() };
        Ok(OpenedPack { footer: footer.map_err(damaged)?, tail, tail_start })
    }

    /// Returns from where on the pack is read when it is opened.
    fn tail_start(&self, id: &PackId, file_bytes: u64) -> u64 {
        if file_bytes <= SMALL_PACK_BYTES_MAX {
            return 0;
        }
        let footer = pack::expected_file_bytes(0, self.union.pack_entries(id));
        file_bytes.saturating_sub(footer.clamp(TAIL_BYTES_MIN, TAIL_BYTES_MAX))
    }
}

/// Refuses an answer that is not as long as what was asked for. A driver promises that none is; a storage that
/// breaks the promise must not be able to end the program.
fn complete(pack: &PackId, range: &Range<u64>, bytes: Bytes) -> Result<Bytes> {
    let (found, asked) = (bytes.len() as u64, range.end - range.start);
    if found == asked {
        return Ok(bytes);
    }
    let message =
        format!("cannot read pack {pack}: the storage returned {found} bytes and was asked for {asked}");
    Err(Error::new(ErrorKind::Io, message))
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
