//! Blobs: from an id to stored bytes. Index first, then the footer of the pack, which must agree.
//!
//! Nothing here is decoded: the bytes that come back are as stored, and the engine's pipeline checks CRC,
//! length and hash before anything uses them.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::indexes::{IndexUnion, format_error};
use super::packs::pack_key;
use super::{Repository, storage_error};
use crate::format::pack::{self, Entry, Footer, Trailer};
use crate::format::{BlobId, PackId};
use crate::{Error, ErrorKind, Result};

/// Packs whose footer is kept at hand (section 11).
const OPEN_PACKS_MAX: usize = 64;

/// Bytes read from the end of a pack in the hope that the footer is among them: 1,000 entries.
const TAIL_BYTES: u64 = 64 * 1024;

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

/// A pack whose footer has been read and checked.
#[derive(Debug)]
pub struct OpenedPack {
    /// The pack's id.
    pub id: PackId,
    /// Its entries.
    pub footer: Footer,
}

/// A pack as it was found: opened, or why it cannot be.
type Opened = std::result::Result<Arc<OpenedPack>, String>;

/// Finds and fetches blobs by id.
#[derive(Debug)]
pub struct BlobStore {
    repository: Repository,
    union: Arc<IndexUnion>,
    /// The most recently used last. A failed open is kept too, so that a damaged pack is read once.
    opened: Mutex<VecDeque<(PackId, Opened)>>,
}

impl BlobStore {
    /// Makes a store over the repository's packs.
    pub fn new(repository: Repository, union: Arc<IndexUnion>) -> Self {
        Self { repository, union, opened: Mutex::default() }
    }

    /// Returns the index union.
    pub fn union(&self) -> &Arc<IndexUnion> {
        &self.union
    }

    /// Returns the pack in which the index places the blob.
    pub fn pack_of(&self, id: &BlobId) -> Option<PackId> {
        self.union.get(id).map(|location| location.pack)
    }

    /// Resolves the blob: indexed, pack opens, the footer has it where the index says (section 11).
    pub async fn locate(&self, id: &BlobId) -> std::result::Result<(PackId, Entry), BlobFailure> {
        let Some(location) = self.union.get(id) else {
            let error = Error::new(ErrorKind::Damaged, "no index names it");
            return Err(BlobFailure { blob: *id, pack: None, error });
        };
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
        Ok((location.pack, *entry))
    }

    /// Reads the stored bytes of an entry that was located.
    pub async fn fetch(&self, pack: &PackId, entry: &Entry) -> Result<Bytes> {
        self.fetch_range(pack, entry.offset..entry.offset + entry.stored_bytes).await
    }

    /// Reads a range of a pack.
    pub async fn fetch_range(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes> {
        let bytes = self
            .repository
            .storage
            .read_range(&pack_key(pack), range.clone())
            .await
            .map_err(|error| storage_error(format!("cannot read pack {pack}"), error))?;
        complete(pack, &range, bytes)
    }

    /// Opens the pack, or remembers having done so.
    pub async fn open_pack(&self, id: &PackId) -> Result<Arc<OpenedPack>> {
        if let Some(known) = self.recall(id) {
            return share(known);
        }
        let read = self.read_footer(id).await;
        // Only damage is remembered: what failed on the way may succeed the next time.
        let outcome = match read {
            Ok(footer) => Ok(Arc::new(OpenedPack { id: *id, footer })),
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => Err(error.chain()),
        };
        let mut opened = self.opened.lock().expect("no holder of the footers panics");
        opened.push_back((*id, outcome.clone()));
        if opened.len() > OPEN_PACKS_MAX {
            opened.pop_front();
        }
        drop(opened);
        share(outcome)
    }

    fn recall(&self, id: &PackId) -> Option<Opened> {
        let mut opened = self.opened.lock().expect("no holder of the footers panics");
        let position = opened.iter().rposition(|(known, _)| known == id)?;
        let found = opened.remove(position).expect("the position was just found");
        let outcome = found.1.clone();
        opened.push_back(found);
        Some(outcome)
    }

    /// The open checks of section 2.5.
    async fn read_footer(&self, id: &PackId) -> Result<Footer> {
        let storage = &self.repository.storage;
        let key = pack_key(id);
        let cannot_open = |error| storage_error(format!("cannot open pack {id}"), error);
        let damaged = |error| format_error(format!("cannot use pack {id}"), error);
        let file_bytes = storage.stat(&key).await.map_err(cannot_open)?.size_bytes;
        let tail_start = file_bytes.saturating_sub(TAIL_BYTES);
        let ranges = [0..file_bytes.min(pack::HEADER_BYTES as u64), tail_start..file_bytes];
        let mut parts = storage.read_ranges(&key, &ranges).await.map_err(cannot_open)?.into_iter();
        let [head, tail] = ranges.map(|range| complete(id, &range, parts.next().unwrap_or_default()));
        let (head, tail) = (head?, tail?);
        pack::check_header(&head).and_then(pack::Header::require_plain).map_err(damaged)?;
        let trailer_start = tail.len().saturating_sub(pack::TRAILER_BYTES);
        let trailer = Trailer::parse(&tail[trailer_start..], file_bytes).map_err(damaged)?;
        let region = trailer.footer_offset()..trailer.footer_offset() + trailer.region_bytes();
        let footer = if region.start >= tail_start {
            let skip = (region.start - tail_start) as usize;
            Footer::parse(&tail[skip..skip + trailer.region_bytes() as usize], &trailer, file_bytes)
        } else {
            let bytes = self.fetch_range(id, region).await?;
            Footer::parse(&bytes, &trailer, file_bytes)
        };
        footer.map_err(damaged)
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

fn share(outcome: Opened) -> Result<Arc<OpenedPack>> {
    outcome.map_err(|message| Error::new(ErrorKind::Damaged, message))
}
