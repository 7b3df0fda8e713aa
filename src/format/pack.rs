//! The pack: a sealed container of blobs, with a footer that says where each one lies.
//!
//! ```text
//! header   MVPK | u8 version = 1 | u8 flags (bit 0: encrypted)
//! frames   the stored bytes of each blob, back to back from offset 6
//! footer   u32 entry count | count x 61
//! trailer  u32 footer bytes | SHA-256(footer, footer bytes) | KPVM
//! entry    blob id 32 | offset u64 | stored bytes u64 | raw bytes u64 | flags u8 | crc32c u32
//! ```
//!
//! The trailer's hash covers neither header nor frames; those are proven by CRC and blob id when they are
//! read (`frame`). Beyond what the format asks, this reader refuses a blob that is listed twice and frames
//! that overlap. Encrypted packs have another trailer: see `encrypted`.

pub mod encrypted;
mod footer;

pub use footer::Footer;

use std::ops::Range;

use super::error::{FormatError, FormatErrorKind, Result};
use super::hash::Hasher;
use super::ids::BlobId;

/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 6;
/// Bytes after the footer of a plain pack.
pub const TRAILER_BYTES: usize = 40;
/// Bytes of one footer entry.
pub const ENTRY_BYTES: usize = 61;
/// Bytes of the entry count that opens the footer.
pub const COUNT_BYTES: usize = 4;
/// A pack is sealed once it holds this many bytes, header included; advisory.
pub const TARGET_STORED_BYTES: u64 = 32 << 20;
/// The most entries a pack may have, or msgvault cannot restore it.
pub const ENTRIES_MAX: usize = 100_000;
/// A pack is sealed once it holds this many entries.
pub const WRITER_ENTRIES_MAX: usize = 50_000;
/// The largest blob.
pub const BLOB_RAW_BYTES_MAX: u64 = 1 << 32;
/// The largest frame.
pub const BLOB_STORED_BYTES_MAX: u64 = (1 << 32) + (1 << 24) + 64 + 40;
/// The largest footer that is read.
pub const FOOTER_BYTES_MAX: u64 = 1 << 30;

const HEADER_MAGIC: &[u8; 4] = b"MVPK";
const TRAILER_MAGIC: &[u8; 4] = b"KPVM";
const VERSION: u8 = 1;
const ENCRYPTED_PACK: u8 = 1;

/// How the bytes of a blob are stored.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct BlobFlags(u8);

impl BlobFlags {
    /// Stored as they are.
    pub const RAW: Self = Self(0);
    /// Stored as a zstd frame.
    pub const COMPRESSED: Self = Self(1);
    /// Sealed with the repository's key.
    pub const ENCRYPTED: Self = Self(2);

    /// Parses the flag byte; unknown bits are refused.
    pub fn parse(bits: u8) -> Result<Self> {
        if bits & !3 != 0 {
            return Err(FormatError::corrupt(format!("unknown blob flags {bits:#04x}")));
        }
        Ok(Self(bits))
    }

    /// Returns the flag byte.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Returns whether the stored bytes are (or seal) a zstd frame.
    pub const fn compressed(self) -> bool {
        self.0 & 1 != 0
    }

    /// Returns whether the stored bytes are sealed.
    pub const fn encrypted(self) -> bool {
        self.0 & 2 != 0
    }

    /// Returns both sets of flags together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::fmt::Debug for BlobFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobFlags({:#04b})", self.0)
    }
}

/// Where a blob lies in its pack, and what proves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The blob.
    pub id: BlobId,
    /// Where its stored bytes begin in the file.
    pub offset: u64,
    /// How many stored bytes it has.
    pub stored_bytes: u64,
    /// How many bytes it has once decoded.
    pub raw_bytes: u64,
    /// How the bytes are stored.
    pub flags: BlobFlags,
    /// The CRC-32C of the stored bytes.
    pub crc32c: u32,
}

impl Entry {
    /// Returns where its stored bytes lie in the file.
    pub fn stored_range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.stored_bytes)
    }
}

/// What the first bytes of a pack say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether frames and footer are sealed.
    pub encrypted: bool,
}

impl Header {
    /// Refuses an encrypted pack, for callers that hold no key.
    pub fn require_plain(self) -> Result<()> {
        if self.encrypted {
            return Err(FormatError::new(
                FormatErrorKind::Encrypted,
                "pack is encrypted: reading it takes a key, and a packvault that can be given one",
            ));
        }
        Ok(())
    }
}

/// Returns the first bytes of a pack.
pub fn encode_header(encrypted: bool) -> [u8; HEADER_BYTES] {
    let [m0, m1, m2, m3] = *HEADER_MAGIC;
    [m0, m1, m2, m3, VERSION, if encrypted { ENCRYPTED_PACK } else { 0 }]
}

/// Reads the first bytes of a pack; bytes after the header are ignored.
pub fn check_header(start: &[u8]) -> Result<Header> {
    let Some([m0, m1, m2, m3, version, flags]) = start.first_chunk::<HEADER_BYTES>() else {
        return Err(FormatError::truncated(format!("pack has only {} bytes", start.len())));
    };
    if [*m0, *m1, *m2, *m3] != *HEADER_MAGIC {
        return Err(FormatError::new(FormatErrorKind::BadMagic, "pack does not start with MVPK"));
    }
    if *version != VERSION {
        let message = format!("pack version {version} is not one that this program reads: upgrade packvault");
        return Err(FormatError::new(FormatErrorKind::UnsupportedVersion, message));
    }
    if flags & !ENCRYPTED_PACK != 0 {
        return Err(FormatError::corrupt(format!("unknown pack flags {flags:#04x}")));
    }
    Ok(Header { encrypted: flags & ENCRYPTED_PACK != 0 })
}

/// Returns footer and trailer of a plain pack, to be written after the last frame.
///
/// # Panics
///
/// If the frames are not back to back from offset 6, a blob is listed twice, or the limits are exceeded.
pub fn encode_footer(entries: &[Entry]) -> Vec<u8> {
    footer::assert_writable(entries);
    let mut bytes = footer::encode_region(entries);
    let region_bytes = u32::try_from(bytes.len()).expect("100,000 entries fit");
    bytes.extend_from_slice(&region_bytes.to_le_bytes());
    let mut hasher = Hasher::new();
    hasher.update(&bytes);
    bytes.extend_from_slice(hasher.finish().as_bytes());
    bytes.extend_from_slice(TRAILER_MAGIC);
    bytes
}

/// Returns the size of a plain pack whose frames end at the given offset.
pub const fn expected_file_bytes(frames_end: u64, entry_count: u64) -> u64 {
    // An index may claim any offset; what no file can have must not wrap into what one has.
    frames_end.saturating_add(region_bytes(entry_count) + TRAILER_BYTES as u64)
}

const fn region_bytes(entry_count: u64) -> u64 {
    COUNT_BYTES as u64 + entry_count * ENTRY_BYTES as u64
}

/// The last 40 bytes of a plain pack: where the footer lies, and its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    region_bytes: u32,
    footer_offset: u64,
    hash: [u8; 32],
}

impl Trailer {
    /// Reads the last 40 bytes of a pack of the given size.
    pub fn parse(last_bytes: &[u8], file_bytes: u64) -> Result<Self> {
        let frames_and_footer_bytes = file_bytes.checked_sub((HEADER_BYTES + TRAILER_BYTES) as u64);
        let trailer = last_bytes.last_chunk::<TRAILER_BYTES>();
        let Some(trailer) = trailer.filter(|_| file_bytes >= TRAILER_BYTES as u64) else {
            return Err(FormatError::truncated(format!("pack of {file_bytes} bytes has no trailer")));
        };
        if trailer[36..] != *TRAILER_MAGIC {
            return Err(FormatError::new(FormatErrorKind::BadMagic, "pack does not end with KPVM"));
        }
        let region_bytes = super::object::field_u32(trailer, 0);
        if u64::from(region_bytes) > FOOTER_BYTES_MAX
            || frames_and_footer_bytes.is_none_or(|bytes| u64::from(region_bytes) > bytes)
        {
            let message = format!("pack of {file_bytes} bytes announces a footer of {region_bytes}");
            return Err(FormatError::truncated(message));
        }
        let footer_offset = file_bytes - TRAILER_BYTES as u64 - u64::from(region_bytes);
        Ok(Self { region_bytes, footer_offset, hash: super::object::field(trailer, 4) })
    }

    /// Returns where the footer begins in the file.
    pub fn footer_offset(&self) -> u64 {
        self.footer_offset
    }

    /// Returns the size of the footer, at most `FOOTER_BYTES_MAX`.
    pub fn region_bytes(&self) -> u64 {
        self.region_bytes.into()
    }

    fn check_hash(&self, region: &[u8]) -> Result<()> {
        let mut hasher = Hasher::new();
        hasher.update(region);
        hasher.update(&self.region_bytes.to_le_bytes());
        if *hasher.finish().as_bytes() != self.hash {
            return Err(FormatError::new(FormatErrorKind::Checksum, "pack footer does not match its hash"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
