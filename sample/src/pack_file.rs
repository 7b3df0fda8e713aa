//! The bytes of one of msgvault's attachment packs, written from its description alone, so that a sample does
//! not hide an error of the codec that reads it.
//!
//! ```text
//! header   MVPK | u8 version = 1 | u8 flags = 0
//! frames   the stored bytes of each content, back to back from offset 6
//! footer   u32 entry count | count x (hash 32 | offset u64 | stored bytes u64 | raw bytes u64 | flags u8 | crc32c u32)
//! trailer  u32 footer bytes | SHA-256(footer, footer bytes) | KPVM
//! ```
//!
//! Numbers are little-endian. The only flag of a content is 1: stored as a zstd frame.

use sha2::{Digest, Sha256};

use crate::hash::ContentHash;

/// A pack is sealed once it holds this many bytes.
pub(crate) const FULL_BYTES: u64 = 32 << 20;

const HEADER: [u8; 6] = *b"MVPK\x01\0";
const TRAILER_MAGIC: &[u8; 4] = b"KPVM";
const ENTRY_BYTES: usize = 61;

/// Where a content lies in its pack.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) hash: ContentHash,
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) is_compressed: bool,
    pub(crate) crc32c: u32,
}

impl Entry {
    /// Returns the byte of flags.
    pub(crate) fn flags(&self) -> u8 {
        u8::from(self.is_compressed)
    }
}

/// A pack that is being filled.
#[derive(Debug, Default)]
pub(crate) struct PackFile {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl PackFile {
    /// Returns what the pack holds.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Appends a content, of so many bytes before it was stored this way.
    pub(crate) fn add(&mut self, hash: ContentHash, raw_bytes: u64, stored: &[u8], is_compressed: bool) {
        if self.bytes.is_empty() {
            self.bytes.extend(HEADER);
        }
        let (offset, stored_bytes) = (self.bytes.len() as u64, stored.len() as u64);
        let crc32c = crc_fast::crc32_iscsi(stored);
        self.entries.push(Entry { hash, offset, stored_bytes, raw_bytes, is_compressed, crc32c });
        self.bytes.extend_from_slice(stored);
    }

    /// Tells whether it is time to seal it.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() as u64 >= FULL_BYTES
    }

    /// Appends the footer; returns the bytes of the file and what it holds.
    pub(crate) fn seal(mut self) -> (Vec<u8>, Vec<Entry>) {
        let mut footer = Vec::with_capacity(4 + self.entries.len() * ENTRY_BYTES);
        footer.extend((self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            footer.extend(entry.hash.as_bytes());
            footer.extend([entry.offset, entry.stored_bytes, entry.raw_bytes].map(u64::to_le_bytes).concat());
            footer.push(entry.flags());
            footer.extend(entry.crc32c.to_le_bytes());
        }
        footer.extend((footer.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&footer);
        self.bytes.extend(Sha256::digest(&footer));
        self.bytes.extend(TRAILER_MAGIC);
        (self.bytes, self.entries)
    }
}
