//! Encrypted packs: frames and footer sealed with the repository's key.
//!
//! ```text
//! header   MVPK | 1 | flags = 1
//! frames   sealed(frame), bound to the 32 bytes of the blob id
//! footer   sealed(u32 count | count x 61), bound to "pack-footer" 00 <pack id, 26 characters>
//! trailer  footer offset u64 | sealed footer bytes u64 | KPVM
//! ```
//!
//! What sealing is, and what an item is bound to, stands in `sealed`.
//!
//! CRC and stored length of an entry are those of the sealed bytes, its raw length that of the blob. The
//! name of the pack is part of what its footer is bound to: renamed, it no longer opens. Nonces come from
//! the caller, who must never use one twice under one key.

use super::{BlobFlags, Entry, FOOTER_BYTES_MAX, Footer, HEADER_BYTES, TRAILER_MAGIC, footer, region_bytes};
use crate::format::error::{FormatError, FormatErrorKind, Result};
use crate::format::frame::StreamDecoder;
use crate::format::hash::{Crc32c, crc32c};
use crate::format::ids::{BlobId, PackId};
use crate::format::object::field_u64;
use crate::format::repository_key::RepositoryKey;
use crate::format::sealed::{self, Authenticator, Binding, Nonce, OVERHEAD_BYTES, StreamOpener};

/// Bytes after the sealed footer.
pub const TRAILER_BYTES: usize = 20;

/// The last 20 bytes of an encrypted pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    footer_offset: u64,
    region_bytes: u64,
}

impl Trailer {
    /// Reads the last 20 bytes of a pack of the given size.
    pub fn parse(last_bytes: &[u8], file_bytes: u64) -> Result<Self> {
        let trailer = last_bytes.last_chunk::<TRAILER_BYTES>();
        let Some(trailer) = trailer.filter(|_| file_bytes >= (HEADER_BYTES + TRAILER_BYTES) as u64) else {
            return Err(FormatError::truncated(format!("encrypted pack has only {file_bytes} bytes")));
        };
        if trailer[16..] != *TRAILER_MAGIC {
            return Err(FormatError::new(FormatErrorKind::BadMagic, "pack does not end with KPVM"));
        }
        let (footer_offset, region_bytes) = (field_u64(trailer, 0), field_u64(trailer, 8));
        let footer_end = file_bytes - TRAILER_BYTES as u64;
        let fits = region_bytes <= FOOTER_BYTES_MAX
            && footer_offset >= HEADER_BYTES as u64
            && footer_end.checked_sub(footer_offset) == Some(region_bytes);
        if !fits {
            let message = format!("pack of {file_bytes} bytes announces {region_bytes} at {footer_offset}");
            return Err(FormatError::truncated(message));
        }
        Ok(Self { footer_offset, region_bytes })
    }

    /// Returns where the sealed footer begins in the file.
    pub fn footer_offset(&self) -> u64 {
        self.footer_offset
    }

    /// Returns the size of the sealed footer, at most `FOOTER_BYTES_MAX`.
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes
    }
}

/// Opens the footer of an encrypted pack: the `region_bytes` bytes at `footer_offset`.
pub fn open_footer(sealed: &[u8], trailer: &Trailer, key: &RepositoryKey, pack: PackId) -> Result<Footer> {
    if sealed.len() as u64 != trailer.region_bytes {
        let message = format!("pack footer has {} of {} bytes", sealed.len(), trailer.region_bytes);
        return Err(FormatError::truncated(message));
    }
    let region = sealed::open(key, &Binding::PackFooter(pack), sealed)?;
    let footer = Footer::from_region(&region, trailer.footer_offset)?;
    match footer.entries().iter().find(|entry| !entry.flags.encrypted()) {
        Some(entry) => Err(not_encrypted(&entry.id)),
        None => Ok(footer),
    }
}

/// Opens a sealed frame into a buffer, replacing what that held, and returns an entry that describes the frame itself.
///
/// What is in the buffer then is read like a frame of a plain pack, with a `Decompressor`.
pub fn open_frame(key: &RepositoryKey, entry: &Entry, stored: &[u8], frame: &mut Vec<u8>) -> Result<Entry> {
    check_sealed_entry(entry)?;
    if stored.len() as u64 != entry.stored_bytes || crc32c(stored) != entry.crc32c {
        return Err(crc_mismatch(&entry.id));
    }
    let opened = sealed::open_into(key, &Binding::Frame(&entry.id), stored, frame);
    opened.map_err(|error| error.within(format_args!("blob {}", entry.id)))?;
    Ok(Entry { crc32c: crc32c(frame), ..inner_entry(entry) })
}

/// Returns the entry of the frame that an entry seals. Its CRC is nowhere written down.
fn inner_entry(entry: &Entry) -> Entry {
    let flags = if entry.flags.compressed() { BlobFlags::COMPRESSED } else { BlobFlags::RAW };
    let stored_bytes = entry.stored_bytes.saturating_sub(OVERHEAD_BYTES as u64);
    Entry { stored_bytes, crc32c: 0, flags, ..*entry }
}

/// Checks a frame that is larger than memory: the first pass, which shows nothing of it.
#[derive(Debug)]
pub struct FrameCheck {
    entry: Entry,
    crc: Crc32c,
    authenticator: Authenticator,
}

impl FrameCheck {
    /// Begins on the frame of an entry of an encrypted pack.
    pub fn new(key: &RepositoryKey, entry: &Entry) -> Result<Self> {
        check_sealed_entry(entry)?;
        let authenticator = Authenticator::new(key, &Binding::Frame(&entry.id), entry.stored_bytes)?;
        Ok(Self { entry: *entry, crc: Crc32c::new(), authenticator })
    }

    /// Takes in the next stored piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<()> {
        self.crc.update(piece);
        self.authenticator.feed(piece).map_err(|error| self.within(error))
    }

    /// Returns what opens the pieces, once all of them were found to be what was sealed, and what decodes them then.
    pub fn finish(self) -> Result<(StreamOpener, StreamDecoder)> {
        let id = self.entry.id;
        if self.crc.finish() != self.entry.crc32c {
            return Err(crc_mismatch(&id));
        }
        let opener = self.authenticator.finish().map_err(|error| error.within(format_args!("blob {id}")))?;
        Ok((opener, StreamDecoder::opened(&inner_entry(&self.entry))?))
    }

    fn within(&self, error: FormatError) -> FormatError {
        error.within(format_args!("blob {}", self.entry.id))
    }
}

/// Checks what can be said of an entry of an encrypted pack before its bytes are seen.
fn check_sealed_entry(entry: &Entry) -> Result<()> {
    if !entry.flags.encrypted() {
        return Err(not_encrypted(&entry.id));
    }
    if entry.stored_bytes < OVERHEAD_BYTES as u64 {
        let message = format!("blob {}: {} stored bytes seal nothing", entry.id, entry.stored_bytes);
        return Err(FormatError::truncated(message));
    }
    Ok(())
}

fn crc_mismatch(id: &BlobId) -> FormatError {
    FormatError::corrupt(format!("stored bytes of blob {id} do not match their CRC"))
}

fn not_encrypted(id: &BlobId) -> FormatError {
    FormatError::corrupt(format!("blob {id} is not encrypted in an encrypted pack"))
}

/// Seals a frame, raw or compressed, bound to the blob it stands for.
pub fn seal_frame(key: &RepositoryKey, nonce: Nonce, id: &BlobId, frame: &[u8]) -> Vec<u8> {
    sealed::seal(key, nonce, &Binding::Frame(id), frame)
}

/// Returns sealed footer and trailer, to be written after the last frame.
///
/// # Panics
///
/// If the frames are not back to back, a blob is listed twice or is not marked as encrypted.
pub fn seal_footer(key: &RepositoryKey, nonce: Nonce, pack: PackId, entries: &[Entry]) -> Vec<u8> {
    footer::assert_writable(entries);
    assert!(entries.iter().all(|entry| entry.flags.encrypted()), "every entry is encrypted");
    let footer_offset = entries.last().map_or(HEADER_BYTES as u64, |last| last.offset + last.stored_bytes);
    let mut bytes = sealed::seal(key, nonce, &Binding::PackFooter(pack), &footer::encode_region(entries));
    let sealed_bytes = bytes.len() as u64;
    bytes.extend_from_slice(&footer_offset.to_le_bytes());
    bytes.extend_from_slice(&sealed_bytes.to_le_bytes());
    bytes.extend_from_slice(TRAILER_MAGIC);
    bytes
}

/// Returns the size of an encrypted pack whose frames end at the given offset.
pub const fn expected_file_bytes(frames_end: u64, entry_count: u64) -> u64 {
    // An index may claim any offset; what no file can have must not wrap into what one has.
    frames_end.saturating_add(region_bytes(entry_count) + (OVERHEAD_BYTES + TRAILER_BYTES) as u64)
}
