//! Encrypted packs: frames and footer sealed with the repository's key.
//!
//! ```text
//! header   MVPK | 1 | flags = 1
//! frames   sealed(frame), bound to the 32 bytes of the blob id
//! footer   sealed(u32 count | count x 61), bound to "pack-footer" 00 <pack id, 26 characters>
//! trailer  footer offset u64 | sealed footer bytes u64 | KPVM
//! sealed   nonce 24 | ciphertext | tag 16        XChaCha20-Poly1305, 32-byte key
//! ```
//!
//! CRC and stored length of an entry are those of the sealed bytes, its raw length that of the blob. The
//! name of the pack is part of what its footer is bound to: renamed, it no longer opens. Nonces come from
//! the caller, who must never use one twice under one key.

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};

use super::{BlobFlags, Entry, FOOTER_BYTES_MAX, Footer, HEADER_BYTES, TRAILER_MAGIC, footer, region_bytes};
use crate::format::error::{FormatError, FormatErrorKind, Result};
use crate::format::hash::crc32c;
use crate::format::ids::{BlobId, PackId};
use crate::format::object::field_u64;

/// Bytes after the sealed footer.
pub const TRAILER_BYTES: usize = 20;
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes that sealing adds.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + 16;

/// The key of a repository. It is never shown.
#[derive(Clone)]
pub struct PackKey([u8; 32]);

impl PackKey {
    /// Wraps the bytes of a key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.0.into())
    }
}

impl std::fmt::Debug for PackKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PackKey(..)")
    }
}

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
pub fn open_footer(sealed: &[u8], trailer: &Trailer, key: &PackKey, pack: PackId) -> Result<Footer> {
    if sealed.len() as u64 != trailer.region_bytes {
        let message = format!("pack footer has {} of {} bytes", sealed.len(), trailer.region_bytes);
        return Err(FormatError::truncated(message));
    }
    let region = open(key, &footer_binding(pack), sealed)?;
    Footer::from_region(&region, trailer.footer_offset)
}

/// Opens a sealed frame and returns it with an entry that describes the frame itself.
///
/// What comes back is read like a frame of a plain pack, with a `Decompressor`.
pub fn open_frame(key: &PackKey, entry: &Entry, stored: &[u8]) -> Result<(Entry, Vec<u8>)> {
    if !entry.flags.encrypted() {
        return Err(FormatError::corrupt(format!("blob {} is not encrypted in an encrypted pack", entry.id)));
    }
    if stored.len() as u64 != entry.stored_bytes || crc32c(stored) != entry.crc32c {
        return Err(FormatError::corrupt(format!(
            "stored bytes of blob {} do not match their CRC",
            entry.id
        )));
    }
    let frame = open(key, entry.id.as_bytes(), stored)?;
    let flags = if entry.flags.compressed() { BlobFlags::COMPRESSED } else { BlobFlags::RAW };
    let inner = Entry { stored_bytes: frame.len() as u64, crc32c: crc32c(&frame), flags, ..*entry };
    Ok((inner, frame))
}

/// Seals a frame, raw or compressed, bound to the blob it stands for.
pub fn seal_frame(key: &PackKey, nonce: [u8; NONCE_BYTES], id: &BlobId, frame: &[u8]) -> Vec<u8> {
    seal(key, nonce, id.as_bytes(), frame)
}

/// Returns sealed footer and trailer, to be written after the last frame.
///
/// # Panics
///
/// If the frames are not back to back, a blob is listed twice or is not marked as encrypted.
pub fn seal_footer(key: &PackKey, nonce: [u8; NONCE_BYTES], pack: PackId, entries: &[Entry]) -> Vec<u8> {
    footer::assert_writable(entries);
    assert!(entries.iter().all(|entry| entry.flags.encrypted()), "every entry is encrypted");
    let footer_offset = entries.last().map_or(HEADER_BYTES as u64, |last| last.offset + last.stored_bytes);
    let mut bytes = seal(key, nonce, &footer_binding(pack), &footer::encode_region(entries));
    let sealed_bytes = bytes.len() as u64;
    bytes.extend_from_slice(&footer_offset.to_le_bytes());
    bytes.extend_from_slice(&sealed_bytes.to_le_bytes());
    bytes.extend_from_slice(TRAILER_MAGIC);
    bytes
}

/// Returns the size of an encrypted pack whose frames end at the given offset.
pub fn expected_file_bytes(frames_end: u64, entry_count: u64) -> u64 {
    frames_end + region_bytes(entry_count) + (OVERHEAD_BYTES + TRAILER_BYTES) as u64
}

fn footer_binding(pack: PackId) -> Vec<u8> {
    format!("pack-footer\0{pack}").into_bytes()
}

fn seal(key: &PackKey, nonce: [u8; NONCE_BYTES], binding: &[u8], plain: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: plain, aad: binding };
    let sealed = key.cipher().encrypt(&nonce.into(), payload).expect("a frame is below the cipher's 256 GiB");
    [&nonce[..], &sealed].concat()
}

fn open(key: &PackKey, binding: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
    let fail = || FormatError::new(FormatErrorKind::Decrypt, "sealed bytes do not open with this key");
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or_else(fail)?;
    let payload = Payload { msg: sealed, aad: binding };
    key.cipher().decrypt(&(*nonce).into(), payload).map_err(|_| fail())
}
