//! Reading many blobs: grouped by pack, in the order of their offsets, decoded by workers.
//!
//! Each blob is read once. Neighbours are fetched with one request; a blob too large for memory is fetched
//! and decoded in pieces. Packs are opened ahead, and batches of one pack or of several are under way at once,
//! so that the time a request takes to answer does not decide how fast reading is. What is in flight is bounded
//! by the pipeline's budget in bytes, and by number.

mod batches;
pub mod carry;
mod fetcher;
mod pieces;
mod sealed;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::batches::Batch;
use self::fetcher::Fetcher;
use super::pipeline::{Pipeline, Reservation, Worker};
use crate::error::lift::format_error;
use crate::format::pack::Entry;
use crate::format::{BlobId, PackId};
use crate::repo::Sealing;
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::repo::reads::Reads;
use crate::{Error, ErrorKind, Result};

/// A blob whose visitor needs it whole is refused above this size: four times the largest page blob that
/// a writer makes.
const WHOLE_BYTES_LIMIT: u64 = 256 * 1024 * 1024;
/// Packs that may be opened ahead of the one being read.
const PACKS_AHEAD: usize = 16;
/// Blobs of packs that are opened and not read yet; a pack with more is opened alone.
const BLOBS_AHEAD_MAX: usize = 100_000;
/// Batches, of one pack or several, that may be under way: being fetched, decoded, or waiting for either.
const BATCHES_IN_FLIGHT: usize = 24;

/// Takes the raw bytes of a blob that comes in pieces. They are provisional until `finish`.
pub trait PieceSink: Send {
    /// Takes the next bytes.
    fn accept(&mut self, piece: &[u8]) -> Result<()>;
    /// Is told that every piece came and the whole is what its id says.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// For who does not need the content: the decoder proves it.
pub struct NoSink;

impl PieceSink for NoSink {
    fn accept(&mut self, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// What is done with each blob. Called by workers, several at once.
pub trait BlobVisitor: Send + Sync + 'static {
    /// Tells whether the blob may also be taken in pieces, if it is large.
    fn takes_pieces(&self, id: &BlobId) -> bool;
    /// Looks at the footer entry before the blob is read.
    fn located(&self, _entry: &Entry) -> Result<()> {
        Ok(())
    }
    /// Takes a blob that was proved to be what its id says.
    fn whole(&self, entry: &Entry, raw: &[u8]) -> Result<()>;
    /// Begins a blob that comes in pieces.
    fn pieces(&self, entry: &Entry) -> Result<Box<dyn PieceSink>>;
    /// Is told of a blob that cannot be had; an error stops the reading.
    fn failed(&self, failure: BlobFailure) -> Result<()>;
    /// Is told of a blob that is done with, and of the stored bytes that were read for it.
    fn done(&self, entry: &Entry);
}

/// Reads every blob once and hands it to the visitor. The order is by pack, then by offset.
pub async fn read<V: BlobVisitor>(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    ids: impl IntoIterator<Item = BlobId>,
    visitor: &Arc<V>,
) -> Result<()> {
    let reading = read_groups(pipeline, store, by_pack(store, ids), visitor);
    let outcome = unless_cancelled(pipeline, reading).await;
    // Nothing may still be writing when the caller cleans up.
    pipeline.quiesce().await;
    outcome
}

/// Waits for the reading as long as nobody cancels it.
pub async fn unless_cancelled(pipeline: &Pipeline, reading: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::select! {
        outcome = reading => outcome,
        () = pipeline.context().cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
    }
}

/// Returns the blobs once each, in groups of what the index places in one pack, in the order of their offsets. Those
/// that no index names come first.
pub fn by_pack(store: &BlobStore, ids: impl IntoIterator<Item = BlobId>) -> Vec<Vec<BlobId>> {
    let mut wanted: Vec<(Option<PackId>, u64, BlobId)> = ids
        .into_iter()
        .map(|id| {
            let location = store.union().get(&id);
            (location.map(|location| location.pack), location.map_or(0, |location| location.offset), id)
        })
        .collect();
    wanted.sort();
    wanted.dedup();
    let groups = wanted.chunk_by(|one, other| one.0 == other.0);
    groups.map(|group| group.iter().map(|(_, _, id)| *id).collect()).collect()
}

/// What is wanted of one pack, and what of it cannot be had. A blob that another pack holds as well may come
/// from there.
struct Group {
    batches: Vec<(PackId, Batch)>,
    failures: Vec<BlobFailure>,
    /// Held until the last batch is done with.
    room: Arc<OwnedSemaphorePermit>,
}

async fn read_groups<V: BlobVisitor>(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    groups: Vec<Vec<BlobId>>,
    visitor: &Arc<V>,
) -> Result<()> {
    let context = pipeline.context();
    let fetcher = Fetcher::new(store.clone());
    let room = Arc::new(Semaphore::new(BLOBS_AHEAD_MAX));
    // Room is taken in the order in which it is given back, so no group waits for one behind it.
    let opened = stream::iter(groups)
        .then(|blobs| {
            let wanted = blobs.len().min(BLOBS_AHEAD_MAX) as u32;
            let room = room.clone().acquire_many_owned(wanted);
            async move { (blobs, Arc::new(room.await.expect("the semaphore is never closed"))) }
        })
        .map(|(blobs, room)| open_group(store, blobs, room, visitor.as_ref()))
        .buffered(PACKS_AHEAD);
    let batches = opened.map(|group| {
        group.failures.into_iter().try_for_each(|failure| visitor.failed(failure))?;
        let room = group.room;
        let batches = group.batches.into_iter().map(move |(pack, batch)| (pack, batch, room.clone()));
        Ok::<_, Error>(stream::iter(batches.map(Ok)))
    });
    batches
        .try_flatten()
        .try_for_each_concurrent(BATCHES_IN_FLIGHT, |(pack, batch, room)| {
            let fetcher = &fetcher;
            async move {
                context.cancel.check()?;
                read_batch(pipeline, fetcher, pack, batch, visitor).await?;
                drop(room);
                Ok(())
            }
        })
        .await
}

async fn open_group<V: BlobVisitor>(
    store: &BlobStore,
    blobs: Vec<BlobId>,
    room: Arc<OwnedSemaphorePermit>,
    visitor: &V,
) -> Group {
    let mut failures = Vec::new();
    let mut found: BTreeMap<PackId, Vec<Entry>> = BTreeMap::new();
    for id in &blobs {
        match locate(store, id, visitor).await {
            Ok((pack, entry)) => found.entry(pack).or_default().push(entry),
            Err(failure) => {
                // A store that does not answer is not waited for again at every blob.
                let is_over = failure.error.is_no_finding();
                if !is_over {
                    store.looked_in_vain(id);
                }
                failures.push(failure);
                if is_over {
                    break;
                }
            }
        }
    }
    let batches = found.into_iter().flat_map(|(pack, mut entries)| {
        entries.sort_by_key(|entry| entry.offset);
        batches::cut(entries, visitor).into_iter().map(move |batch| (pack, batch))
    });
    Group { batches: batches.collect(), failures, room }
}

async fn locate<V: BlobVisitor>(
    store: &BlobStore,
    id: &BlobId,
    visitor: &V,
) -> std::result::Result<(PackId, Entry), BlobFailure> {
    let (pack, entry) = store.locate(id).await?;
    let fail = |error| BlobFailure { blob: *id, pack: Some(pack), error };
    visitor.located(&entry).map_err(fail)?;
    if !visitor.takes_pieces(id) && entry.raw_bytes.max(entry.stored_bytes) > WHOLE_BYTES_LIMIT {
        let message = format!("it has {} bytes, more than any writer puts there", entry.raw_bytes);
        return Err(fail(Error::new(ErrorKind::Damaged, message)));
    }
    Ok((pack, entry))
}

async fn read_batch<V: BlobVisitor>(
    pipeline: &Pipeline,
    fetcher: &Fetcher,
    pack: PackId,
    batch: Batch,
    visitor: &Arc<V>,
) -> Result<()> {
    match batch {
        Batch::Small(range, entries) => {
            let reservation = pipeline.reserve(range.end - range.start).await;
            read_together(pipeline, fetcher, pack, range, entries, visitor, reservation).await
        }
        Batch::Whole(entry) => {
            let reservation = pipeline.reserve(entry.stored_bytes).await;
            let range = entry.offset..entry.offset + entry.stored_bytes;
            read_together(pipeline, fetcher, pack, range, vec![entry], visitor, reservation).await
        }
        Batch::Pieces(entry) => pieces::read(pipeline, fetcher, pack, entry, visitor).await,
    }
}

/// Returns what decoding a blob takes beside its stored bytes: the frame, if it was sealed, and the blob.
fn beside(fetcher: &Fetcher, entry: &Entry) -> u64 {
    let opened_bytes = if fetcher.sealing().is_encrypted() { entry.stored_bytes } else { 0 };
    opened_bytes + entry.raw_bytes
}

async fn read_together<V: BlobVisitor>(
    pipeline: &Pipeline,
    fetcher: &Fetcher,
    pack: PackId,
    range: Range<u64>,
    entries: Vec<Entry>,
    visitor: &Arc<V>,
    reservation: Reservation,
) -> Result<()> {
    let start = range.start;
    let bytes = match fetcher.fetch(&pack, range).await {
        Ok(bytes) => bytes,
        Err(error) => {
            for entry in &entries {
                let error = error.repeated();
                visitor.failed(BlobFailure { blob: entry.id, pack: Some(pack), error })?;
            }
            return Ok(());
        }
    };
    // Blobs are decoded one after the other: the largest says how much room that takes.
    let decoded_bytes = entries.iter().map(|entry| beside(fetcher, entry)).max().unwrap_or_default();
    let room = pipeline.room_to_decode(decoded_bytes).await;
    let visitor = visitor.clone();
    let (sealing, reads) = (fetcher.sealing().clone(), fetcher.reads().clone());
    pipeline
        .run(move |worker| {
            let _until_decoded = (reservation, room);
            for entry in &entries {
                let from = (entry.offset - start) as usize;
                let stored = &bytes[from..from + entry.stored_bytes as usize];
                visit(worker, (&sealing, &reads), visitor.as_ref(), pack, entry, stored)?;
            }
            Ok(())
        })
        .await
}

fn visit<V: BlobVisitor>(
    worker: &mut Worker,
    (sealing, reads): (&Sealing, &Reads),
    visitor: &V,
    pack: PackId,
    entry: &Entry,
    stored: &[u8],
) -> Result<()> {
    match worker.decode(sealing, entry, stored) {
        Ok(raw) => {
            reads.sound(pack, entry.stored_range());
            visitor.whole(entry, raw)?;
        }
        Err(error) => {
            reads.damaged(pack, entry.stored_range());
            let error = format_error("its stored bytes are damaged", error);
            visitor.failed(BlobFailure { blob: entry.id, pack: Some(pack), error })?;
        }
    }
    visitor.done(entry);
    Ok(())
}
