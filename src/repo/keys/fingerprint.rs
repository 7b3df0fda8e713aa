//! What tells the key of a repository from any other, and may be written down: the key does not follow from it.
//!
//! Whoever can write in `keys/` can make a key file for somebody's public key that wraps a key of his own. Where the
//! right one was seen before, its fingerprint shows that.

use sha2::{Digest as _, Sha256};

use crate::format::{RepoId, RepositoryKey};

/// Keeps the hash from being one of anything else.
const CONTEXT: &[u8] = b"packvault key fingerprint 1\n";
/// Bytes of the hash that are kept.
const BYTES: usize = 16;

/// Returns the fingerprint of a repository's key.
pub fn fingerprint(repository: &RepoId, key: &RepositoryKey) -> String {
    let mut hasher = Sha256::new();
    hasher.update(CONTEXT);
    hasher.update(repository.as_str());
    hasher.update(b"\n");
    hasher.update(key.expose());
    hex::encode(&hasher.finalize()[..BYTES])
}
