//! Bytes on their way: what is sent, in pieces the wire paces.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use packvault_storage::{Progress, Wire};
use sha2::{Digest, Sha256};

/// How much is handed to the network at a time.
pub(crate) const PIECE_BYTES: usize = 64 << 10;

/// From what size on a digest is computed on a blocking thread.
const BLOCKING_BYTES_MIN: usize = 1 << 20;

/// The bytes of a request, in pieces; cheap to clone, so that a request can be sent again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Payload {
    pieces: Arc<[Bytes]>,
    pub size_bytes: u64,
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        vec![bytes].into()
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(pieces: Vec<Bytes>) -> Self {
        let size_bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces: pieces.into(), size_bytes }
    }
}

impl Payload {
    /// Returns the SHA-256 of the bytes.
    pub(crate) async fn digest(&self) -> [u8; 32] {
        if self.size_bytes < BLOCKING_BYTES_MIN as u64 {
            return digest(&self.pieces);
        }
        let pieces = Arc::clone(&self.pieces);
        match tokio::task::spawn_blocking(move || digest(&pieces)).await {
            Ok(digest) => digest,
            // The runtime is going down.
            Err(_) => digest(&self.pieces),
        }
    }

    /// Turns the bytes into a body that the wire paces and that tells of its progress.
    pub(crate) fn into_body(self, wire: Arc<Wire>, progress: Arc<Progress>) -> reqwest::Body {
        let state = (self.pieces, 0, 0, wire, progress);
        reqwest::Body::wrap_stream(stream::unfold(
            state,
            |(pieces, number, offset, wire, progress)| async move {
                let (mut number, mut offset) = (number, offset);
                while pieces.get(number).is_some_and(|piece: &Bytes| offset >= piece.len()) {
                    (number, offset) = (number + 1, 0);
                }
                let whole = pieces.get(number)?;
                let piece = whole.slice(offset..whole.len().min(offset + PIECE_BYTES));
                progress.hold(true);
                wire.send(piece.len() as u64).await;
                progress.hold(false);
                let next = (Arc::clone(&pieces), number, offset + piece.len(), wire, progress);
                Some((Ok::<_, std::io::Error>(piece), next))
            },
        ))
    }
}

fn digest(pieces: &[Bytes]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_digest_is_that_of_the_pieces_in_a_row() {
        let whole: Bytes = vec![7_u8; 3 << 20].into();
        let pieces: Payload = vec![whole.slice(..5), whole.slice(5..1 << 20), whole.slice(1 << 20..)].into();
        assert_eq!(pieces.digest().await, Payload::from(whole.clone()).digest().await);
        assert_eq!(pieces.size_bytes, whole.len() as u64);
    }
}
