//! Requests for ranges of packs: so many at once and no more, whoever asks.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::Result;
use crate::format::PackId;
use crate::repo::Sealing;
use crate::repo::blobs::BlobStore;
use crate::repo::reads::Reads;

/// Requests under way at once. The pipeline's budget bounds their bytes too, to 32 MiB less what waits to be decoded;
/// that keeps a line with 50 ms to and fro busy up to 600 MiB/s.
const REQUESTS_IN_FLIGHT: usize = 16;

/// Fetches ranges; clones share the bound.
#[derive(Clone)]
pub(super) struct Fetcher {
    store: Arc<BlobStore>,
    requests: Arc<Semaphore>,
}

impl Fetcher {
    /// Makes a fetcher with nothing under way.
    pub(super) fn new(store: Arc<BlobStore>) -> Self {
        Self { store, requests: Arc::new(Semaphore::new(REQUESTS_IN_FLIGHT)) }
    }

    /// Returns how the frames are sealed.
    pub(super) fn sealing(&self) -> &Sealing {
        self.store.sealing()
    }

    /// Returns who is told what was read of packs.
    pub(super) fn reads(&self) -> &Arc<Reads> {
        self.store.reads()
    }

    /// Reads a range of a pack, when it is its turn.
    pub(super) async fn fetch(&self, pack: &PackId, range: Range<u64>) -> Result<Bytes> {
        let _turn = self.requests.acquire().await.expect("the semaphore is never closed");
        self.store.fetch_range(pack, range).await
    }
}
