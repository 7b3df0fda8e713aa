//! A blob too large for memory: fetched in pieces, several at once, and decoded in their order.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::fetcher::Fetcher;
use super::{BlobVisitor, PieceSink, sealed};
use crate::engine::pipeline::{Pipeline, Task};
use crate::error::lift::format_error;
use crate::format::pack::Entry;
use crate::format::{FormatError, PackId, StreamDecoder};
use crate::repo::blobs::BlobFailure;
use crate::{Error, ErrorKind, Result};

/// Bytes of a large blob fetched with one request.
pub(super) const PIECE_BYTES: u64 = 2 * 1024 * 1024;
/// Pieces of one blob in memory: one being decoded, the others under way or waiting.
const PIECES_MAX: u64 = 8;

/// A blob on its way through a worker, piece by piece.
pub(super) struct Decoding {
    pub(super) decoder: StreamDecoder,
    pub(super) sink: Box<dyn PieceSink>,
}

/// How taking a piece can fail: the blob is damaged, or the sink cannot go on.
pub(super) enum PieceFailure {
    Blob(Error),
    Sink(Error),
}

/// Reads one blob and hands it to the visitor in pieces.
pub(super) async fn read<V: BlobVisitor>(
    pipeline: &Pipeline,
    fetcher: &Fetcher,
    pack: PackId,
    entry: Entry,
    visitor: &Arc<V>,
) -> Result<()> {
    let _reservation = pipeline.reserve(Pieces::bytes_of(&entry)).await;
    match decode_all(pipeline, fetcher, pack, &entry, visitor).await {
        Ok(()) => {
            fetcher.reads().sound(pack, entry.stored_range());
            visitor.done(&entry);
        }
        Err(PieceFailure::Sink(error)) => return Err(error),
        Err(PieceFailure::Blob(error)) if error.kind() == ErrorKind::Interrupted => return Err(error),
        Err(PieceFailure::Blob(error)) => {
            if !error.is_no_finding() {
                fetcher.reads().damaged(pack, entry.stored_range());
            }
            visitor.failed(BlobFailure { blob: entry.id, pack: Some(pack), error })?;
            visitor.done(&entry);
        }
    }
    Ok(())
}

/// Pieces of one blob, fetched ahead.
pub(super) struct Pieces<'a> {
    pipeline: &'a Pipeline,
    fetcher: &'a Fetcher,
    pack: PackId,
    /// What is not asked for yet.
    rest: Range<u64>,
    begun: VecDeque<Task<Bytes>>,
}

impl<'a> Pieces<'a> {
    /// Begins at the first piece of the frame.
    pub(super) fn new(pipeline: &'a Pipeline, fetcher: &'a Fetcher, pack: PackId, entry: &Entry) -> Self {
        let rest = entry.offset..entry.offset + entry.stored_bytes;
        Self { pipeline, fetcher, pack, rest, begun: VecDeque::new() }
    }

    /// Returns how many bytes of the frame are in memory at once.
    pub(super) fn bytes_of(entry: &Entry) -> u64 {
        entry.stored_bytes.min(PIECES_MAX * PIECE_BYTES)
    }

    /// Returns the next piece, `None` after the last; meanwhile others are fetched.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes>> {
        // The piece handed out before is still in memory, and counts.
        while (self.begun.len() as u64) < PIECES_MAX - 1 && !self.rest.is_empty() {
            let end = self.rest.end.min(self.rest.start.saturating_add(PIECE_BYTES));
            let (fetcher, pack, range) = (self.fetcher.clone(), self.pack, self.rest.start..end);
            self.rest.start = end;
            self.begun.push_back(self.pipeline.fetch(async move { fetcher.fetch(&pack, range).await }));
        }
        Some(self.begun.pop_front()?.await)
    }
}

async fn decode_all<V: BlobVisitor>(
    pipeline: &Pipeline,
    fetcher: &Fetcher,
    pack: PackId,
    entry: &Entry,
    visitor: &Arc<V>,
) -> std::result::Result<(), PieceFailure> {
    let pieces = Pieces::new(pipeline, fetcher, pack, entry);
    let decoding = match fetcher.sealing().frame_check(entry).map_err(damaged)? {
        None => decode_plain(pipeline, pieces, entry, visitor).await?,
        Some(check) => sealed::decode(pipeline, pieces, check, entry, visitor).await?,
    };
    let Decoding { decoder, sink } = decoding;
    let finished = pipeline.run(move |_| {
        Ok(match decoder.finish() {
            Ok(()) => sink.finish().map_err(PieceFailure::Sink),
            Err(error) => Err(damaged(error)),
        })
    });
    finished.await.map_err(PieceFailure::Blob)?
}

/// Returns the blob's decoder at its end, and its sink, which has had all of it.
async fn decode_plain<V: BlobVisitor>(
    pipeline: &Pipeline,
    mut pieces: Pieces<'_>,
    entry: &Entry,
    visitor: &Arc<V>,
) -> std::result::Result<Decoding, PieceFailure> {
    let mut decoding = Decoding {
        decoder: StreamDecoder::new(entry).map_err(damaged)?,
        sink: visitor.pieces(entry).map_err(PieceFailure::Sink)?,
    };
    while let Some(piece) = pieces.next().await {
        let (piece, mut moved) = (piece.map_err(PieceFailure::Blob)?, decoding);
        let decoded = pipeline.run(move |_| Ok(take_piece(&mut moved, &piece).map(|()| moved)));
        decoding = decoded.await.map_err(PieceFailure::Blob)??;
    }
    Ok(decoding)
}

pub(super) fn damaged(error: FormatError) -> PieceFailure {
    PieceFailure::Blob(format_error("its stored bytes are damaged", error))
}

/// Decodes a piece of the frame, and hands what comes of it to the sink.
pub(super) fn take_piece(decoding: &mut Decoding, piece: &[u8]) -> std::result::Result<(), PieceFailure> {
    let Decoding { decoder, sink } = decoding;
    let mut rest = decoder.accept(piece).map_err(damaged)?;
    while let Some(raw) = decoder.next_raw(&mut rest).map_err(damaged)? {
        sink.accept(raw).map_err(PieceFailure::Sink)?;
    }
    Ok(())
}
