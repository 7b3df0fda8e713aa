//! packvault's own objects beside manifests, read again to see whether they can be used.
//!
//! Only what has a manifest is looked at: without one, a note or attributes mean nothing.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use tokio::sync::Semaphore;

use super::Repository;
use super::attributes::attributes_among;
use super::notes::notes_among;
use super::snapshots::SnapshotFiles;
use crate::Result;

/// Objects read at once.
const READS_IN_FLIGHT: usize = 16;
/// Bytes of them in memory at once; a larger one is read alone.
const BYTES_IN_FLIGHT: u64 = 64 * 1024 * 1024;
/// They are counted in pieces of this size, for the counter has 32 bits.
const UNIT_BYTES: u64 = 1024;

/// What lies beside a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// The note.
    Note,
    /// Owners, modes and times.
    Attributes,
}

/// One object beside a manifest, read.
#[derive(Debug)]
pub struct ReadBeside {
    /// The snapshot.
    pub snapshot: String,
    /// What it is.
    pub what: Beside,
    /// Its name in `snapshots/`.
    pub name: String,
    /// Whether it can be used.
    pub usable: Result<()>,
}

impl Repository {
    /// Reads whatever lies beside the manifests of these snapshots, by the listing.
    pub fn read_beside<'a>(
        &'a self,
        files: &'a SnapshotFiles,
        snapshots: &'a HashSet<&str>,
    ) -> impl Stream<Item = ReadBeside> + 'a {
        let notes = notes_among(files).map(|(snapshot, object)| (Beside::Note, snapshot, object));
        let attributes =
            attributes_among(files).map(|(snapshot, object)| (Beside::Attributes, snapshot, object));
        let wanted = notes.chain(attributes).filter(|(_, snapshot, _)| snapshots.contains(snapshot));
        let room = Arc::new(Semaphore::new((BYTES_IN_FLIGHT / UNIT_BYTES) as usize));
        let reads = wanted.map(move |(what, snapshot, object)| {
            let room = Arc::clone(&room);
            async move {
                let units = object.meta.size_bytes.min(BYTES_IN_FLIGHT).div_ceil(UNIT_BYTES) as u32;
                let _room = room.acquire_many(units).await;
                let usable = match what {
                    Beside::Note => self.load_note(object).await.map(drop),
                    Beside::Attributes => self.load_attributes(snapshot, object).await.map(drop),
                };
                ReadBeside { snapshot: snapshot.to_owned(), what, name: object.key.name().to_owned(), usable }
            }
        });
        stream::iter(reads).buffer_unordered(READS_IN_FLIGHT)
    }
}
