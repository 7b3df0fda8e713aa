//! Reading many blobs: grouped by pack, in the order of their offsets, decoded by workers.
//!
//! Each blob is read once. Neighbours are fetched with one request; a blob too large for memory is fetched
//! and decoded in pieces. What is in flight is bounded by the pipeline's budget.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{TryStreamExt, stream};

use super::Context;
use super::pipeline::{Pipeline, Reservation, Task, Worker};
use crate::format::pack::Entry;
use crate::format::{BlobId, PackId, StreamDecoder};
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::repo::indexes::format_error;
use crate::{Error, ErrorKind, Result};

/// Bytes fetched with one request, gaps included.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// Unwanted bytes between two blobs that are fetched along rather than asked around.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// Blobs in one batch.
const BATCH_BLOBS_MAX: usize = 4096;
/// A blob up to this size, stored and raw, is decoded whole where its visitor can also take pieces.
const WHOLE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A blob whose visitor needs it whole is refused above this size: four times the largest page blob that
/// a writer makes.
const WHOLE_BYTES_LIMIT: u64 = 256 * 1024 * 1024;
/// Bytes of a large blob fetched at a time.
const PIECE_BYTES: u64 = 1024 * 1024;
/// Batches of one pack that may be under way.
const BATCHES_IN_FLIGHT: usize = 2;

/// Takes the raw bytes of a blob that comes in pieces. They are provisional until `finish`.
pub trait PieceSink: Send {
    /// Takes the next bytes.
    fn accept(&mut self, piece: &[u8]) -> Result<()>;
    /// Is told that every piece came and the whole is what its id says.
    fn finish(self: Box<Self>) -> Result<()>;
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

/// What is fetched and decoded together.
enum Batch {
    /// Neighbours within one range of the pack.
    Small(Range<u64>, Vec<Entry>),
    /// One blob, fetched whole.
    Whole(Entry),
    /// One blob, fetched in pieces.
    Pieces(Entry),
}

/// Reads every blob once and hands it to the visitor. The order is by pack, then by offset.
pub async fn read<V: BlobVisitor>(
    context: &Context,
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    ids: impl IntoIterator<Item = BlobId>,
    visitor: &Arc<V>,
) -> Result<()> {
    let mut wanted: Vec<(Option<PackId>, u64, BlobId)> = ids
        .into_iter()
        .map(|id| {
            let location = store.union().get(&id);
            (location.map(|location| location.pack), location.map_or(0, |location| location.offset), id)
        })
        .collect();
    wanted.sort();
    wanted.dedup();
    let groups: Vec<Vec<BlobId>> = wanted
        .chunk_by(|one, other| one.0 == other.0)
        .map(|group| group.iter().map(|(_, _, id)| *id).collect())
        .collect();
    drop(wanted);
    let reading = stream::iter(groups.into_iter().map(Ok::<_, Error>))
        .try_for_each_concurrent(pipeline.jobs().max(2), |group| async move {
            read_group(context, pipeline, store, group, visitor).await
        });
    let outcome = tokio::select! {
        outcome = reading => outcome,
        () = context.cancel.cancelled() => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
    };
    // Nothing may still be writing when the caller cleans up.
    pipeline.quiesce().await;
    outcome
}

async fn read_group<V: BlobVisitor>(
    context: &Context,
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    group: Vec<BlobId>,
    visitor: &Arc<V>,
) -> Result<()> {
    let mut pack = None;
    let mut entries = Vec::with_capacity(group.len());
    for id in &group {
        match locate(store, id, visitor.as_ref()).await {
            Ok((found, entry)) => {
                pack = Some(found);
                entries.push(entry);
            }
            Err(failure) => visitor.failed(failure)?,
        }
    }
    let Some(pack) = pack else { return Ok(()) };
    stream::iter(batches(entries, visitor.as_ref()).into_iter().map(Ok::<_, Error>))
        .try_for_each_concurrent(BATCHES_IN_FLIGHT, |batch| async move {
            context.cancel.check()?;
            read_batch(pipeline, store, pack, batch, visitor).await
        })
        .await
}

async fn locate<V: BlobVisitor>(
    store: &Arc<BlobStore>,
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

/// Cuts the entries of one pack, ordered by offset, into batches.
fn batches<V: BlobVisitor>(entries: Vec<Entry>, visitor: &V) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut open: Option<(Range<u64>, Vec<Entry>)> = None;
    for entry in entries {
        let size = entry.raw_bytes.max(entry.stored_bytes);
        if size > WHOLE_BYTES_MAX {
            let pieces = visitor.takes_pieces(&entry.id);
            batches.push(if pieces { Batch::Pieces(entry) } else { Batch::Whole(entry) });
            continue;
        }
        let end = entry.offset + entry.stored_bytes;
        match &mut open {
            Some((range, together))
                if entry.offset <= range.end.saturating_add(GAP_BYTES_MAX)
                    && end - range.start <= BATCH_BYTES
                    && together.len() < BATCH_BLOBS_MAX =>
            {
                range.end = range.end.max(end);
                together.push(entry);
            }
            _ => {
                let next = (entry.offset..end, vec![entry]);
                batches.extend(open.replace(next).map(|(range, together)| Batch::Small(range, together)));
            }
        }
    }
    batches.extend(open.map(|(range, together)| Batch::Small(range, together)));
    batches
}

async fn read_batch<V: BlobVisitor>(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    pack: PackId,
    batch: Batch,
    visitor: &Arc<V>,
) -> Result<()> {
    match batch {
        Batch::Small(range, entries) => {
            let reservation = pipeline.reserve(range.end - range.start).await;
            read_together(pipeline, store, pack, range, entries, visitor, reservation).await
        }
        Batch::Whole(entry) => {
            let reservation = pipeline.reserve(entry.stored_bytes + entry.raw_bytes).await;
            let range = entry.offset..entry.offset + entry.stored_bytes;
            read_together(pipeline, store, pack, range, vec![entry], visitor, reservation).await
        }
        Batch::Pieces(entry) => read_pieces(pipeline, store, pack, entry, visitor).await,
    }
}

async fn read_together<V: BlobVisitor>(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    pack: PackId,
    range: Range<u64>,
    entries: Vec<Entry>,
    visitor: &Arc<V>,
    reservation: Reservation,
) -> Result<()> {
    let start = range.start;
    let bytes = match store.fetch_range(&pack, range).await {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = error.chain();
            for entry in &entries {
                let error = Error::new(error.kind(), message.clone());
                visitor.failed(BlobFailure { blob: entry.id, pack: Some(pack), error })?;
            }
            return Ok(());
        }
    };
    let visitor = visitor.clone();
    pipeline
        .run(move |worker| {
            let _until_decoded = reservation;
            for entry in &entries {
                let from = (entry.offset - start) as usize;
                let stored = &bytes[from..from + entry.stored_bytes as usize];
                visit(worker, visitor.as_ref(), pack, entry, stored)?;
            }
            Ok(())
        })
        .await
}

fn visit<V: BlobVisitor>(
    worker: &mut Worker,
    visitor: &V,
    pack: PackId,
    entry: &Entry,
    stored: &[u8],
) -> Result<()> {
    match worker.decompressor.decode(entry, stored) {
        Ok(raw) => visitor.whole(entry, raw)?,
        Err(error) => {
            let error = format_error("its stored bytes are damaged", error);
            visitor.failed(BlobFailure { blob: entry.id, pack: Some(pack), error })?;
        }
    }
    visitor.done(entry);
    Ok(())
}

/// A blob on its way through a worker, piece by piece.
struct Decoding {
    decoder: StreamDecoder,
    sink: Box<dyn PieceSink>,
}

/// How taking a piece can fail: the blob is damaged, or the sink cannot go on.
enum PieceFailure {
    Blob(Error),
    Sink(Error),
}

async fn read_pieces<V: BlobVisitor>(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    pack: PackId,
    entry: Entry,
    visitor: &Arc<V>,
) -> Result<()> {
    let _reservation = pipeline.reserve(2 * PIECE_BYTES).await;
    match read_pieces_until(pipeline, store, pack, &entry, visitor).await {
        Ok(()) => visitor.done(&entry),
        Err(PieceFailure::Sink(error)) => return Err(error),
        Err(PieceFailure::Blob(error)) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(PieceFailure::Blob(error)) => {
            visitor.failed(BlobFailure { blob: entry.id, pack: Some(pack), error })?;
            visitor.done(&entry);
        }
    }
    Ok(())
}

async fn read_pieces_until<V: BlobVisitor>(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    pack: PackId,
    entry: &Entry,
    visitor: &Arc<V>,
) -> std::result::Result<(), PieceFailure> {
    let damaged = |error| PieceFailure::Blob(format_error("its stored bytes are damaged", error));
    let mut decoding = Decoding {
        decoder: StreamDecoder::new(entry).map_err(damaged)?,
        sink: visitor.pieces(entry).map_err(PieceFailure::Sink)?,
    };
    let end = entry.offset + entry.stored_bytes;
    let mut fetched = store.fetch_range(&pack, entry.offset..end.min(entry.offset + PIECE_BYTES)).await;
    let mut position = end.min(entry.offset + PIECE_BYTES);
    loop {
        let piece = fetched.map_err(PieceFailure::Blob)?;
        let mut moved = decoding;
        let decoded: Task<_> = pipeline.start(move |_| Ok(take_piece(&mut moved, &piece).map(|()| moved)));
        // The next piece is fetched while this one is decoded.
        let next = position..end.min(position + PIECE_BYTES);
        position = next.end;
        let last = next.is_empty();
        fetched = if last { Ok(Bytes::new()) } else { store.fetch_range(&pack, next).await };
        decoding = decoded.await.map_err(PieceFailure::Blob)??;
        if last {
            break;
        }
    }
    let Decoding { decoder, sink } = decoding;
    let finished = pipeline.run(move |_| {
        Ok(match decoder.finish() {
            Ok(()) => sink.finish().map_err(PieceFailure::Sink),
            Err(error) => Err(PieceFailure::Blob(format_error("its stored bytes are damaged", error))),
        })
    });
    finished.await.map_err(PieceFailure::Blob)?
}

fn take_piece(decoding: &mut Decoding, piece: &[u8]) -> std::result::Result<(), PieceFailure> {
    let damaged = |error| PieceFailure::Blob(format_error("its stored bytes are damaged", error));
    let Decoding { decoder, sink } = decoding;
    let mut rest = decoder.accept(piece).map_err(damaged)?;
    while let Some(raw) = decoder.next_raw(&mut rest).map_err(damaged)? {
        sink.accept(raw).map_err(PieceFailure::Sink)?;
    }
    Ok(())
}
