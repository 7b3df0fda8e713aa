//! A pack that was opened: its two ends were read and checked, and its footer is known (section 2.5).
//!
//! Opening takes one call: where the footer lies follows from the length of the pack and the number of its blobs in the
//! index. Where the index is wrong about it, there is a second. How much of the pack comes along is for the caller to
//! say; nothing of it is decoded here.

use std::ops::Range;

use bytes::Bytes;

use super::Repository;
use super::packs::pack_key;
use crate::error::lift::format_error;
use crate::format::pack::{self, Entry, Footer, encrypted};
use crate::format::{BlobId, FormatError, FormatErrorKind, PackId};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// Bytes read from the end of a pack at most on the word of an index: the footer of the fullest pack.
const TAIL_BYTES_MAX: u64 = encrypted::expected_file_bytes(0, pack::ENTRIES_MAX as u64);

/// Bytes read from the end of a pack at least: what lies before a short footer (lists, trees) comes along.
const TAIL_BYTES_MIN: u64 = 64 * 1024;

/// A pack up to this length is read whole when it is opened.
const SMALL_PACK_BYTES_MAX: u64 = 256 * 1024;

/// The same where nothing but the footer is wanted: to ask for less takes as long.
const FOOTER_TAIL_BYTES_MIN: u64 = 4 * 1024;

/// The same of packs that are read whole for it.
const FOOTER_PACK_BYTES_MAX: u64 = 16 * 1024;

/// How much of a pack is read when it is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    /// A pack up to this length is read whole.
    pub(super) whole_bytes_max: u64,
    /// Bytes read from the end of a longer one at least.
    tail_bytes_min: u64,
}

impl Reach {
    /// For whoever reads blobs as well.
    pub(super) const BLOBS: Self =
        Self { whole_bytes_max: SMALL_PACK_BYTES_MAX, tail_bytes_min: TAIL_BYTES_MIN };
    /// For whoever looks at the footer alone.
    pub(super) const FOOTER: Self =
        Self { whole_bytes_max: FOOTER_PACK_BYTES_MAX, tail_bytes_min: FOOTER_TAIL_BYTES_MIN };
}

/// What is known of a pack before it is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    /// The pack.
    pub(super) id: PackId,
    /// Its length, where a listing showed it.
    pub(super) file_bytes: Option<u64>,
    /// The length that the indexes imply, where no listing showed it.
    pub(super) implied_bytes: Option<u64>,
    /// How many blobs an index places in it.
    pub(super) entries: u64,
}

/// A pack whose header and footer have been read and checked.
#[derive(Debug)]
pub struct OpenedPack {
    /// What it holds.
    pub(super) footer: Footer,
    /// Where the footer begins.
    pub(super) footer_start: u64,
    /// The end of the pack, which was read for the footer; all of a small one.
    tail: Bytes,
    tail_start: u64,
}

impl OpenedPack {
    /// Opens the pack.
    pub(super) async fn open(repository: &Repository, known: &Known, reach: Reach) -> Result<Self> {
        if let Some(length) = known.file_bytes {
            return Self::open_at(repository, known, length, reach).await;
        }
        // The length that the indexes imply spares a request. Where they are wrong, the store knows better.
        if let Some(length) = known.implied_bytes {
            match Self::open_at(repository, known, length, reach).await {
                Err(error) if !error.is_no_finding() => {}
                opened => return opened,
            }
        }
        // A listing may have left it out; if it is not there, the store says so in its own words.
        let length = stat(repository, &known.id).await?;
        Self::open_at(repository, known, length, reach).await
    }

    async fn open_at(repository: &Repository, known: &Known, file_bytes: u64, reach: Reach) -> Result<Self> {
        let id = &known.id;
        let tail_start = tail_start(repository, known, file_bytes, reach);
        let (header, tail) = ends(repository, id, tail_start, file_bytes).await?;
        let sealing = &repository.sealing;
        let damaged = |error| unusable(id, error);
        let trailer = sealing.pack_trailer(&header, &tail, file_bytes).map_err(damaged)?;
        let region = trailer.region();
        let bytes = match region.start.checked_sub(tail_start) {
            Some(start) => tail.slice(start as usize..(region.end - tail_start) as usize),
            None => read(repository, id, region.clone()).await?,
        };
        let footer = sealing.read_footer(*id, &bytes, &trailer, file_bytes).map_err(damaged)?;
        // A footer of that size is not kept twice.
        let tail = if tail.len() as u64 <= reach.whole_bytes_max { tail } else { Bytes::new() };
        Ok(Self { footer, footer_start: region.start, tail, tail_start })
    }

    /// Returns what the footer says of the blob.
    pub(super) fn entry(&self, id: &BlobId) -> Option<&Entry> {
        self.footer.get(id)
    }

    /// Returns a range of the pack, if it came along.
    pub(super) fn kept(&self, range: &Range<u64>) -> Option<Bytes> {
        let start = usize::try_from(range.start.checked_sub(self.tail_start)?).ok()?;
        let end = usize::try_from(range.end.checked_sub(self.tail_start)?).ok()?;
        (start <= end && end <= self.tail.len()).then(|| self.tail.slice(start..end))
    }
}

/// Returns from where on the pack is read when it is opened.
fn tail_start(repository: &Repository, known: &Known, file_bytes: u64, reach: Reach) -> u64 {
    if file_bytes <= reach.whole_bytes_max {
        return 0;
    }
    let footer = repository.sealing.pack_bytes(0, known.entries);
    file_bytes.saturating_sub(footer.clamp(reach.tail_bytes_min, TAIL_BYTES_MAX))
}

async fn stat(repository: &Repository, id: &PackId) -> Result<u64> {
    let stat = repository.storage.stat(&pack_key(id)).await;
    stat.map(|meta| meta.size_bytes).map_err(|error| storage_error(format!("cannot open pack {id}"), error))
}

/// Returns the header of the pack, and its end.
async fn ends(
    repository: &Repository,
    id: &PackId,
    tail_start: u64,
    file_bytes: u64,
) -> Result<(Bytes, Bytes)> {
    let header_bytes = file_bytes.min(pack::HEADER_BYTES as u64);
    if tail_start == 0 {
        let whole = read(repository, id, 0..file_bytes).await?;
        return Ok((whole.slice(..header_bytes as usize), whole));
    }
    let ranges = [0..header_bytes, tail_start..file_bytes];
    let parts = repository.storage.read_ranges(&pack_key(id), &ranges).await;
    let parts = parts.map_err(|error| storage_error(format!("cannot open pack {id}"), error))?;
    let mut parts = parts.into_iter();
    let [header, tail] = ranges.map(|range| complete(id, &range, parts.next().unwrap_or_default()));
    Ok((header?, tail?))
}

async fn read(repository: &Repository, id: &PackId, range: Range<u64>) -> Result<Bytes> {
    let bytes = repository.storage.read_range(&pack_key(id), range.clone()).await;
    complete(id, &range, bytes.map_err(|error| storage_error(format!("cannot open pack {id}"), error))?)
}

fn unusable(id: &PackId, error: FormatError) -> Error {
    match error.kind() {
        FormatErrorKind::Encrypted => {
            Error::caused(ErrorKind::NoKey, format!("cannot open pack {id} without its key"), error)
        }
        _ => format_error(format!("cannot use pack {id}"), error),
    }
}

/// Refuses an answer that is not as long as what was asked for. A driver promises that none is; a storage that
/// breaks the promise must not be able to end the program.
pub(super) fn complete(pack: &PackId, range: &Range<u64>, bytes: Bytes) -> Result<Bytes> {
    let (found, asked) = (bytes.len() as u64, range.end - range.start);
    if found == asked {
        return Ok(bytes);
    }
    let message =
        format!("cannot read pack {pack}: the storage returned {found} bytes and was asked for {asked}");
    Err(Error::new(ErrorKind::Io, message))
}
