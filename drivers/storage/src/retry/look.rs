//! The look at what lies under a key after an uncertain answer, in bounded memory.

use sha2::{Digest, Sha256};

use super::RetryStorage;
use crate::{ErrorKind, Key, Result, Storage};

/// How much of the object is in memory at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// What must be known of bytes to recognise them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint {
    size_bytes: u64,
    digest: [u8; 32],
}

/// A fingerprint of bytes that come one after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct Fingerprinter {
    size_bytes: u64,
    hasher: Sha256,
}

impl Fingerprint {
    pub(super) fn of(bytes: &[u8]) -> Self {
        let mut fingerprinter = Fingerprinter::default();
        fingerprinter.update(bytes);
        fingerprinter.finish()
    }
}

impl Fingerprinter {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        self.hasher.update(bytes);
    }

    pub(super) fn finish(self) -> Fingerprint {
        Fingerprint { size_bytes: self.size_bytes, digest: self.hasher.finalize().into() }
    }
}

/// What lies under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    Nothing,
    Ours,
    Other,
}

/// Tells whether the bytes with the fingerprint lie under the key.
pub(super) async fn look(storage: &RetryStorage, key: &Key, ours: &Fingerprint) -> Result<Lies> {
    match found(storage, key, ours.size_bytes).await {
        Ok(Some(found)) if found == *ours => Ok(Lies::Ours),
        Ok(_) => Ok(Lies::Other),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Lies::Nothing),
        // It became shorter while we looked, so it is not what we wrote.
        Err(error) if error.kind() == ErrorKind::Short => Ok(Lies::Other),
        Err(error) => Err(error),
    }
}

/// Returns the fingerprint of the object, or `None` if its size is another already.
async fn found(storage: &RetryStorage, key: &Key, size_bytes: u64) -> Result<Option<Fingerprint>> {
    if storage.stat(key).await?.size_bytes != size_bytes {
        return Ok(None);
    }
    let mut fingerprinter = Fingerprinter::default();
    while fingerprinter.size_bytes < size_bytes {
        let start = fingerprinter.size_bytes;
        let end = size_bytes.min(start + PIECE_BYTES);
        fingerprinter.update(&storage.read_range(key, start..end).await?);
        // Wards off a store that answers with nothing for ever.
        if fingerprinter.size_bytes != end {
            return Ok(None);
        }
    }
    Ok(Some(fingerprinter.finish()))
}
