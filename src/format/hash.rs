//! The two checks of the format: SHA-256 names and proves content, CRC-32C proves stored bytes.
//!
//! CRC-32C is Castagnoli, reflected, with init and xorout all ones. It covers a frame exactly as stored
//! (after compression and sealing), so damage is found before anything is decoded; it proves nothing
//! against an adversary.

use sha2::{Digest, Sha256};

use super::ids::BlobId;

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Hashes a blob that arrives in pieces.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Starts over nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Returns the name of all that was taken in.
    pub fn finish(self) -> BlobId {
        BlobId::from_bytes(self.0.finalize().into())
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

/// Returns the CRC-32C of the bytes.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// Computes the CRC-32C of bytes that arrive in pieces.
#[derive(Clone, Debug)]
pub struct Crc32c(crc_fast::Digest);

impl Crc32c {
    /// Starts over nothing.
    pub fn new() -> Self {
        Self(crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi))
    }

    /// Takes in the next piece.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// Returns the checksum of all that was taken in.
    pub fn finish(&self) -> u32 {
        // The 32-bit algorithms leave the upper half zero.
        self.0.finalize() as u32
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_castagnoli() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(b""), 0);
        assert_eq!(crc32c(b"hello"), 0x9a71_bb4c);
    }

    #[test]
    fn pieces_hash_like_the_whole() {
        let bytes: Vec<u8> = (0..100_000u32).map(|number| (number * 7 % 251) as u8).collect();
        let (mut crc, mut hasher) = (Crc32c::new(), Hasher::new());
        for piece in bytes.chunks(977) {
            crc.update(piece);
            hasher.update(piece);
        }
        assert_eq!(crc.finish(), crc32c(&bytes));
        assert_eq!(hasher.finish(), BlobId::of(&bytes));
    }
}
