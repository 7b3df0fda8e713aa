//! Sealed items: bytes that open with the repository's key alone, and only as what they were sealed as.
//!
//! ```text
//! sealed   nonce 24 | ciphertext | tag 16       XChaCha20-Poly1305, 32-byte key
//! binding  frame of a pack    the 32 bytes of the blob id
//!          footer of a pack   "pack-footer" 00 <pack id, 26 characters>
//!          index file         "index" 00 <file name without .mvidx>
//!          manifest file      "manifest" 00 <snapshot id>
//!          packvault's own    "note" 00 <file name>
//!          proof of the key   "config" 00 <repository id>
//! ```
//!
//! The binding is the cipher's associated data: it is not stored, and an item that was renamed, swapped or put
//! to another use does not open. Nothing is handed out before all of an item was authenticated. Nonces come from
//! the caller, who must never use one twice under one key. Items too large for memory are sealed and opened
//! piece by piece: see `stream`.
//!
//! The cipher is taken apart: HChaCha20 makes a key for one item of the key and the nonce's first 16 bytes, and under
//! that key ring's ChaCha20-Poly1305, which was measured to be the fastest of what there is, seals the item once.

mod stream;

pub use stream::{Authenticator, StreamOpener, StreamSealer};

use chacha20::{R20, hchacha};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce as ItemNonce, UnboundKey};
use zeroize::Zeroizing;

use super::error::{FormatError, FormatErrorKind, Result};
use super::ids::{BlobId, PackId, RepoId, SnapshotId};
use super::repository_key::RepositoryKey;

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 24;
/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;
/// Bytes that sealing adds.
pub const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// A number that is used once under one key.
pub type Nonce = [u8; NONCE_BYTES];

/// What a sealed item is. It opens as nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// The frame of a blob, after the decision whether it is compressed.
    Frame(&'a BlobId),
    /// The footer of a pack.
    PackFooter(PackId),
    /// An index file, by its name without the suffix.
    Index(&'a str),
    /// The manifest of a snapshot.
    Manifest(&'a SnapshotId),
    /// What packvault alone keeps beside a manifest, by its file name.
    Note(&'a str),
    /// The proof in `config.toml` that a key is the repository's.
    Config(&'a RepoId),
}

impl Binding<'_> {
    /// Returns the associated data.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Frame(id) => id.as_bytes().to_vec(),
            Self::PackFooter(pack) => named("pack-footer", &pack.to_string()),
            Self::Index(name) => named("index", name),
            Self::Manifest(id) => named("manifest", id.as_str()),
            Self::Note(name) => named("note", name),
            Self::Config(id) => named("config", id.as_str()),
        }
    }
}

fn named(role: &str, name: &str) -> Vec<u8> {
    [role.as_bytes(), &[0], name.as_bytes()].concat()
}

/// Seals bytes.
pub fn seal(key: &RepositoryKey, nonce: Nonce, binding: &Binding<'_>, plain: &[u8]) -> Vec<u8> {
    let mut sealed = Vec::with_capacity(plain.len() + OVERHEAD_BYTES);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(plain);
    let (item_key, item_nonce) = of_one_item(key, &nonce);
    let (bound_to, body) = (Aad::from(binding.bytes()), &mut sealed[NONCE_BYTES..]);
    let tag = item_key.seal_in_place_separate_tag(item_nonce, bound_to, body);
    sealed.extend_from_slice(tag.expect("what fits in memory is below the cipher's 256 GiB").as_ref());
    sealed
}

/// Opens a sealed item.
pub fn open(key: &RepositoryKey, binding: &Binding<'_>, sealed: &[u8]) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    open_into(key, binding, sealed, &mut plain)?;
    Ok(plain)
}

/// Opens a sealed item into a buffer of the caller's, replacing what it held; on failure it is empty.
pub fn open_into(
    key: &RepositoryKey,
    binding: &Binding<'_>,
    sealed: &[u8],
    plain: &mut Vec<u8>,
) -> Result<()> {
    plain.clear();
    let Some((nonce, rest)) = sealed.split_first_chunk::<NONCE_BYTES>() else {
        return Err(too_short(sealed.len()));
    };
    if rest.len() < TAG_BYTES {
        return Err(too_short(sealed.len()));
    }
    plain.extend_from_slice(rest);
    let (item_key, item_nonce) = of_one_item(key, nonce);
    let opened = item_key.open_in_place(item_nonce, Aad::from(binding.bytes()), plain).map(|body| body.len());
    plain.truncate(opened.unwrap_or(0));
    opened.map(drop).map_err(|_| not_authentic())
}

/// Returns key and nonce under which the item is sealed with ChaCha20-Poly1305.
fn of_one_item(key: &RepositoryKey, nonce: &Nonce) -> (LessSafeKey, ItemNonce) {
    let (for_key, for_nonce) = nonce.split_at(16);
    let for_key: &[u8; 16] = for_key.try_into().expect("it was split there");
    let item_key: Zeroizing<[u8; 32]> =
        Zeroizing::new(hchacha::<R20>(key.expose().into(), for_key.into()).into());
    let item_key = UnboundKey::new(&CHACHA20_POLY1305, &item_key[..]).expect("its keys have 32 bytes");
    let mut item_nonce = [0; 12];
    item_nonce[4..].copy_from_slice(for_nonce);
    (LessSafeKey::new(item_key), ItemNonce::assume_unique_for_key(item_nonce))
}

fn too_short(bytes: usize) -> FormatError {
    FormatError::truncated(format!("sealed item has only {bytes} bytes"))
}

fn not_authentic() -> FormatError {
    let message = "it does not open with the repository's key: altered, cut, or sealed as something else";
    FormatError::new(FormatErrorKind::Decrypt, message)
}

#[cfg(test)]
mod tests;
