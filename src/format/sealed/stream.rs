//! Sealed items larger than memory: sealed in one pass, opened in two.
//!
//! Sealing hands out nonce and ciphertext as the pieces come, and the tag at the end. Opening reads the item
//! twice: an [`Authenticator`] takes all of it in and shows nothing; only what it returns in the end, once the
//! tag was right, can decrypt. The second pass must be given the bytes of the first, from a place that nobody
//! else can write to.
//!
//! Pieces may be cut anywhere. What comes of it is what the cipher gives in one shot (`seal`, `open`). The parts of the
//! cipher are those of the crates chacha20 and poly1305, for ring seals whole items only.

use chacha20::XChaCha20;
use chacha20::cipher::{KeyIvInit, StreamCipher, StreamCipherSeek};
use poly1305::universal_hash::{KeyInit, UniversalHash};
use poly1305::{Block, Poly1305};
use zeroize::Zeroizing;

use super::{Binding, NONCE_BYTES, Nonce, OVERHEAD_BYTES, TAG_BYTES, not_authentic, too_short};
use crate::format::error::{FormatError, Result};
use crate::format::repository_key::RepositoryKey;

/// The key stream's block, of which the first is the authenticator's key.
const CIPHER_BLOCK_BYTES: u64 = 64;
const HASH_BLOCK_BYTES: usize = 16;
/// Bytes that are encrypted before they are hashed.
const PART_BYTES: usize = 16 * 1024;

/// Seals an item piece by piece. The nonce goes first, then what [`StreamSealer::seal`] leaves, then the tag.
pub struct StreamSealer {
    cipher: XChaCha20,
    hash: ItemHash,
}

impl StreamSealer {
    /// Begins an item.
    pub fn new(key: &RepositoryKey, nonce: &Nonce, binding: &Binding<'_>) -> Self {
        let (cipher, hash) = begin(key, nonce, binding);
        Self { cipher, hash }
    }

    /// Encrypts the next piece where it lies.
    pub fn seal(&mut self, piece: &mut [u8]) {
        // Each part is hashed while it is still near at hand.
        for part in piece.chunks_mut(PART_BYTES) {
            self.cipher.apply_keystream(part);
            self.hash.update(part);
        }
    }

    /// Returns the tag.
    pub fn finish(self) -> [u8; TAG_BYTES] {
        self.hash.finish().into()
    }
}

/// The first pass over a sealed item: takes all of its bytes and shows none.
pub struct Authenticator {
    key: RepositoryKey,
    binding: Vec<u8>,
    sealed_bytes: u64,
    taken_bytes: u64,
    nonce: Nonce,
    /// Once the nonce is there.
    begun: Option<(XChaCha20, ItemHash)>,
    tag: [u8; TAG_BYTES],
}

impl Authenticator {
    /// Begins on an item of so many bytes, nonce and tag included.
    pub fn new(key: &RepositoryKey, binding: &Binding<'_>, sealed_bytes: u64) -> Result<Self> {
        if sealed_bytes < OVERHEAD_BYTES as u64 {
            return Err(too_short(sealed_bytes as usize));
        }
        Ok(Self {
            key: key.clone(),
            binding: binding.bytes(),
            sealed_bytes,
            taken_bytes: 0,
            nonce: [0; NONCE_BYTES],
            begun: None,
            tag: [0; TAG_BYTES],
        })
    }

    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Result<()> {
        let left_bytes = self.sealed_bytes - self.taken_bytes;
        if piece.len() as u64 > left_bytes {
            return Err(FormatError::corrupt("sealed item is longer than its entry says"));
        }
        let rest = fill(&mut self.nonce, 0, self.taken_bytes, piece);
        let body_end = self.sealed_bytes - TAG_BYTES as u64;
        let rest_at = self.taken_bytes + (piece.len() - rest.len()) as u64;
        if rest_at == NONCE_BYTES as u64 && self.begun.is_none() {
            self.begun = Some(begin_bound(&self.key, &self.nonce, &self.binding));
        }
        let body_bytes = body_end.saturating_sub(rest_at).min(rest.len() as u64) as usize;
        let (body, tag) = rest.split_at(body_bytes);
        if let Some((_, hash)) = &mut self.begun {
            hash.update(body);
        }
        fill(&mut self.tag, body_end, rest_at + body_bytes as u64, tag);
        self.taken_bytes += piece.len() as u64;
        Ok(())
    }

    /// Returns what opens the item, if every byte of it came and it is what was sealed.
    pub fn finish(self) -> Result<StreamOpener> {
        let Some((cipher, hash)) = self.begun.filter(|_| self.taken_bytes == self.sealed_bytes) else {
            let message =
                format!("sealed item ends after {} of {} bytes", self.taken_bytes, self.sealed_bytes);
            return Err(FormatError::truncated(message));
        };
        if !hash.is(&self.tag) {
            return Err(not_authentic());
        }
        Ok(StreamOpener { cipher, taken_bytes: 0, body_end: self.sealed_bytes - TAG_BYTES as u64 })
    }
}

/// The second pass over a sealed item that was authenticated.
pub struct StreamOpener {
    cipher: XChaCha20,
    taken_bytes: u64,
    body_end: u64,
}

impl StreamOpener {
    /// Decrypts the next piece of the item where it lies, and returns what of it is content.
    pub fn open<'a>(&mut self, piece: &'a mut [u8]) -> &'a [u8] {
        let at = self.taken_bytes;
        self.taken_bytes += piece.len() as u64;
        let within = |offset: u64| offset.saturating_sub(at).min(piece.len() as u64) as usize;
        let (start, end) = (within(NONCE_BYTES as u64), within(self.body_end));
        let body = &mut piece[start..end];
        self.cipher.apply_keystream(body);
        body
    }
}

/// Copies into `field`, which lies at `offset` of an item, what of a piece at `at` belongs there; returns the
/// bytes of the piece behind it.
fn fill<'a>(field: &mut [u8], offset: u64, at: u64, piece: &'a [u8]) -> &'a [u8] {
    let filled = at.saturating_sub(offset).min(field.len() as u64) as usize;
    let (own, rest) = piece.split_at(piece.len().min(field.len() - filled));
    field[filled..filled + own.len()].copy_from_slice(own);
    rest
}

fn begin(key: &RepositoryKey, nonce: &Nonce, binding: &Binding<'_>) -> (XChaCha20, ItemHash) {
    begin_bound(key, nonce, &binding.bytes())
}

/// Sets up cipher and hash as RFC 8439 has it: the first block of the key stream keys the hash.
fn begin_bound(key: &RepositoryKey, nonce: &Nonce, binding: &[u8]) -> (XChaCha20, ItemHash) {
    let mut cipher = XChaCha20::new(key.expose().into(), nonce.into());
    let mut hash_key = Zeroizing::new([0; poly1305::KEY_SIZE]);
    cipher.apply_keystream(&mut hash_key[..]);
    cipher.seek(CIPHER_BLOCK_BYTES);
    (cipher, ItemHash::new(&hash_key, binding))
}

/// The authenticator over binding and ciphertext: each padded to whole blocks, then both lengths.
struct ItemHash {
    hash: Poly1305,
    binding_bytes: u64,
    body_bytes: u64,
    /// Bytes that do not fill a block yet.
    pending: [u8; HASH_BLOCK_BYTES],
    pending_bytes: usize,
}

impl ItemHash {
    fn new(key: &[u8; poly1305::KEY_SIZE], binding: &[u8]) -> Self {
        let mut hash = Poly1305::new(key.into());
        hash.update_padded(binding);
        Self {
            hash,
            binding_bytes: binding.len() as u64,
            body_bytes: 0,
            pending: [0; HASH_BLOCK_BYTES],
            pending_bytes: 0,
        }
    }

    fn update(&mut self, piece: &[u8]) {
        self.body_bytes += piece.len() as u64;
        let mut rest = piece;
        if self.pending_bytes > 0 {
            let (head, tail) = rest.split_at(rest.len().min(HASH_BLOCK_BYTES - self.pending_bytes));
            self.pending[self.pending_bytes..][..head.len()].copy_from_slice(head);
            self.pending_bytes += head.len();
            rest = tail;
            if self.pending_bytes < HASH_BLOCK_BYTES {
                return;
            }
            self.hash.update(&[self.pending.into()]);
            self.pending_bytes = 0;
        }
        let (blocks, tail) = Block::slice_as_chunks(rest);
        self.hash.update(blocks);
        self.pending[..tail.len()].copy_from_slice(tail);
        self.pending_bytes = tail.len();
    }

    fn close(mut self) -> Poly1305 {
        self.hash.update_padded(&self.pending[..self.pending_bytes]);
        let mut lengths = [0; HASH_BLOCK_BYTES];
        lengths[..8].copy_from_slice(&self.binding_bytes.to_le_bytes());
        lengths[8..].copy_from_slice(&self.body_bytes.to_le_bytes());
        self.hash.update(&[lengths.into()]);
        self.hash
    }

    fn finish(self) -> poly1305::Tag {
        self.close().finalize()
    }

    /// Compares in constant time.
    fn is(self, tag: &[u8; TAG_BYTES]) -> bool {
        self.close().verify(&(*tag).into()).is_ok()
    }
}

impl std::fmt::Debug for StreamSealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamSealer")
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authenticator({} of {})", self.taken_bytes, self.sealed_bytes)
    }
}

impl std::fmt::Debug for StreamOpener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamOpener")
    }
}
