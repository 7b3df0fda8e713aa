//! Metadata on its way before it is asked for: of a list of blobs that will be read one after the other, the
//! next ones are fetched while the present one is decoded and looked at.
//!
//! What is under way is bounded in number and bytes. The order is a promise that may be broken: a blob that
//! is asked for out of turn is simply read, and one that is passed over is forgotten.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use super::pipeline::{Pipeline, Task};
use crate::format::pack::Entry;
use crate::format::{BlobId, PackId};
use crate::repo::blobs::{BlobFailure, BlobStore};

/// Blobs that may be under way or waiting to be asked for.
const BLOBS_MAX: usize = 16;
/// Their stored bytes. A larger blob is not fetched ahead.
const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// How far in the list a blob is looked for when it is asked for.
const LOOK_MAX: usize = 64;

/// A blob that was located, and its stored bytes where they were fetched.
pub type Fetched = Result<(PackId, Entry, Option<Bytes>), BlobFailure>;

/// Fetches blobs ahead, in the order in which they are expected.
pub struct ReadAhead {
    store: Arc<BlobStore>,
    pipeline: Pipeline,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Not begun, next first.
    expected: VecDeque<BlobId>,
    /// Begun and not asked for yet, next first.
    begun: VecDeque<(BlobId, u64, Task<Fetched>)>,
}

impl ReadAhead {
    /// Makes one that expects nothing.
    pub fn new(store: Arc<BlobStore>, pipeline: Pipeline) -> Self {
        Self { store, pipeline, state: Mutex::default() }
    }

    /// Replaces what is expected, and begins.
    pub fn expect(&self, ids: impl IntoIterator<Item = BlobId>) {
        let mut state = self.state.lock().expect("no holder of the expectations panics");
        *state = State { expected: ids.into_iter().collect(), begun: VecDeque::new() };
        self.begin(&mut state);
    }

    /// Returns the blob if it is under way. What was expected before it is forgotten.
    pub fn take(&self, id: &BlobId) -> Option<Task<Fetched>> {
        let mut state = self.state.lock().expect("no holder of the expectations panics");
        let mut found = None;
        if let Some(position) = state.begun.iter().position(|(begun, ..)| begun == id) {
            found = state.begun.drain(..=position).next_back().map(|(_, _, task)| task);
        } else if let Some(position) = state.expected.iter().take(LOOK_MAX).position(|next| next == id) {
            state.begun.clear();
            state.expected.drain(..=position);
        }
        self.begin(&mut state);
        found
    }

    fn begin(&self, state: &mut State) {
        let mut bytes: u64 = state.begun.iter().map(|(_, bytes, _)| bytes).sum();
        while state.begun.len() < BLOBS_MAX {
            let Some(id) = state.expected.front().copied() else { return };
            let stored_bytes = self.store.union().get(&id).map_or(0, |location| location.stored_bytes);
            let fetched_bytes = if stored_bytes > BYTES_MAX { 0 } else { stored_bytes };
            if bytes + fetched_bytes > BYTES_MAX {
                return;
            }
            bytes += fetched_bytes;
            state.expected.pop_front();
            let store = self.store.clone();
            let task = self.pipeline.fetch(async move { Ok(fetch(&store, &id).await) });
            state.begun.push_back((id, fetched_bytes, task));
        }
    }
}

/// The footer may say another length than the index; such a blob is refused when it is located.
async fn fetch(store: &BlobStore, id: &BlobId) -> Fetched {
    let (pack, entry) = store.locate(id).await?;
    if entry.stored_bytes > BYTES_MAX {
        return Ok((pack, entry, None));
    }
    match store.fetch(&pack, &entry).await {
        Ok(stored) => Ok((pack, entry, Some(stored))),
        Err(error) => Err(BlobFailure { blob: *id, pack: Some(pack), error }),
    }
}
