//! The key of an encrypted repository: 32 random bytes, one for its whole life.
//!
//! Its bytes lie in one place on the heap, however often the key is handed on, and are wiped when the last holder lets go. It
//! is never shown: neither by `Debug` nor in an error. How a repository is opened with a passphrase or a key
//! file, and so comes to this key, belongs to `repo`.

use std::sync::Arc;

use zeroize::Zeroizing;

/// The key of a repository. It is never shown.
#[derive(Clone)]
pub struct RepositoryKey(Arc<Zeroizing<[u8; RepositoryKey::BYTES]>>);

impl RepositoryKey {
    /// Bytes of a key.
    pub const BYTES: usize = 32;

    /// Wraps the bytes of a key.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(Arc::new(Zeroizing::new(bytes)))
    }

    /// Returns the bytes, for a cipher or for wrapping them. They are not to be kept.
    pub fn expose(&self) -> &[u8; Self::BYTES] {
        &self.0
    }
}

impl std::fmt::Debug for RepositoryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RepositoryKey(..)")
    }
}
