//! Bytes on their way out, in pieces the wire paces.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use opendal::Buffer;
use packvault_storage::{Progress, Wire};

/// How much is handed to the network at a time.
const PIECE_BYTES: usize = 64 << 10;

/// Turns the bytes into a body that the wire paces and that tells of its progress.
pub(crate) fn paced(body: Buffer, wire: Arc<Wire>, progress: Arc<Progress>) -> reqwest::Body {
    let state = (body, Bytes::new(), wire, progress);
    reqwest::Body::wrap_stream(stream::unfold(state, |(mut body, mut whole, wire, progress)| async move {
        while whole.is_empty() {
            whole = Iterator::next(&mut body)?;
        }
        let piece = whole.split_to(whole.len().min(PIECE_BYTES));
        progress.hold(true);
        wire.send(piece.len() as u64).await;
        progress.hold(false);
        Some((Ok::<_, std::io::Error>(piece), (body, whole, wire, progress)))
    }))
}
