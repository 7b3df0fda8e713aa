//! Bytes on their way out: in pieces the wire paces, and how a standstill is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use opendal::Buffer;
use packvault_storage::Wire;
use tokio::time::Instant;

/// How much is handed to the network at a time.
const PIECE_BYTES: usize = 64 << 10;

/// How often a standstill is looked for, as a part of the time that may pass without progress.
const LOOKS_PER_IDLE: u32 = 8;

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

/// Whether a request still moves: it does while the server takes pieces, and while we hold them back.
#[derive(Debug)]
pub(crate) struct Progress {
    begun: Instant,
    moved_millis: AtomicU64,
    is_held: AtomicBool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), moved_millis: AtomicU64::new(0), is_held: AtomicBool::new(false) }
    }

    fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_millis.store(millis, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for that long.
    pub(crate) async fn stand_still(&self, idle: Duration) {
        loop {
            tokio::time::sleep(idle / LOOKS_PER_IDLE).await;
            let moved = Duration::from_millis(self.moved_millis.load(Ordering::Relaxed));
            if !self.is_held.load(Ordering::Relaxed) && self.begun.elapsed().saturating_sub(moved) >= idle {
                return;
            }
        }
    }
}
