//! The hash that ends every binary object. The fuzzer cannot guess it, so targets take the body and add it.

use packvault::format::BlobId;

/// Bytes of the hash.
pub const HASH_BYTES: usize = 32;

/// Returns the object of the body: what a writer with bad intentions would store.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    [body, BlobId::of(body).as_bytes()].concat()
}
