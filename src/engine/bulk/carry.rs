//! Frames that are stored elsewhere: read from one repository, proved, and appended to a pack of another.
//!
//! A frame keeps its compression; only how it is sealed may change. Nothing is sealed into a pack that was not decoded
//! and found to be what its id says. A large frame passes through the open pack while it is checked; where it turns
//! out to be damaged, that pack is abandoned by the caller, or the frame was read once before ([`Damage::PassOver`]).

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::batches::{self, Batch};
use super::fetcher::Fetcher;
use super::pieces::{Decoding, PIECE_BYTES, PieceFailure, Pieces, damaged, take_piece};
use super::{BlobVisitor, WHOLE_BYTES_LIMIT, sealed};
use crate::engine::pipeline::{Pipeline, Reservation};
use crate::error::lift::format_error;
use crate::format::pack::Entry;
use crate::format::sealed::StreamOpener;
use crate::format::{BlobFlags, Crc32c, PackId, StreamDecoder};
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::repo::packs::{PackWriter, StoredBlob};
use crate::repo::{FrameSealer, Sealing};
use crate::{Error, ErrorKind, Result};

/// Batches of one pack under way at once.
const BATCHES_IN_FLIGHT: usize = 4;

/// What becomes of the rest where one frame is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Nothing more is appended, and the pack is of no use.
    Stop,
    /// The others are appended without it.
    PassOver,
}

/// Carries frames from one store into packs that are sealed in their own way.
pub struct Carrier<'a, V> {
    pipeline: &'a Pipeline,
    fetcher: Fetcher,
    to: Sealing,
    visitor: &'a Arc<V>,
    /// Whether something else has failed, so that nothing more is to be carried.
    is_stopped: AtomicBool,
}

/// What came of one frame.
type Carried = std::result::Result<StoredBlob, Box<BlobFailure>>;

impl<'a, V: BlobVisitor> Carrier<'a, V> {
    /// Makes a carrier from this store into packs sealed like this. The visitor sees every frame that is carried.
    pub fn new(pipeline: &'a Pipeline, from: &Arc<BlobStore>, to: &Sealing, visitor: &'a Arc<V>) -> Self {
        Self {
            pipeline,
            fetcher: Fetcher::new(from.clone()),
            to: to.clone(),
            visitor,
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Has whatever is being carried end at its next piece.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Fails where nothing more is to be carried.
    pub fn check(&self) -> Result<()> {
        self.pipeline.context().cancel.check()?;
        match self.is_stopped.load(Ordering::Relaxed) {
            true => {
                Err(Error::new(ErrorKind::Interrupted, "interrupted, for another pack could not be copied"))
            }
            false => Ok(()),
        }
    }

    /// Proves these frames of one pack, which are in the order of their offsets, and appends them. Returns those that
    /// are damaged; an error says nothing about any.
    pub async fn append(
        &self,
        pack: PackId,
        entries: Vec<Entry>,
        damage: Damage,
        writer: &mut PackWriter,
    ) -> Result<Vec<BlobFailure>> {
        let mut failures = Vec::new();
        let mut small = Vec::new();
        for batch in batches::cut(entries, self.visitor.as_ref()) {
            let Batch::Pieces(entry) = batch else {
                small.push(batch);
                continue;
            };
            // Nothing behind a large frame is begun before it is through: what had been read ahead would hold the room
            // that the frame has to wait for.
            self.append_small(pack, std::mem::take(&mut small), damage, writer, &mut failures).await?;
            if damage == Damage::Stop && !failures.is_empty() {
                return findings(failures);
            }
            self.check()?;
            if let Some(error) = self.large(pack, &entry, damage, writer).await? {
                failures.push(BlobFailure { blob: entry.id, pack: Some(pack), error });
            }
            if damage == Damage::Stop && !failures.is_empty() {
                return findings(failures);
            }
        }
        self.append_small(pack, small, damage, writer, &mut failures).await?;
        findings(failures)
    }

    async fn append_small(
        &self,
        pack: PackId,
        batches: Vec<Batch>,
        damage: Damage,
        writer: &mut PackWriter,
        failures: &mut Vec<BlobFailure>,
    ) -> Result<()> {
        let fetched = stream::iter(batches).map(|batch| self.begin(pack, batch, damage));
        let mut fetched = std::pin::pin!(fetched.buffered(BATCHES_IN_FLIGHT));
        while let Some(begun) = fetched.next().await {
            self.check()?;
            let (frames, _until_written) = begun?;
            for frame in frames {
                match frame {
                    Ok(blob) => writer.append(blob).await?,
                    Err(failure) => failures.push(*failure),
                }
            }
            if damage == Damage::Stop && !failures.is_empty() {
                break;
            }
        }
        Ok(())
    }

    async fn begin(&self, pack: PackId, batch: Batch, damage: Damage) -> Result<(Vec<Carried>, Reservation)> {
        let (range, entries) = match batch {
            Batch::Small(range, entries) => (range, entries),
            Batch::Whole(entry) | Batch::Pieces(entry) => {
                (entry.offset..entry.offset + entry.stored_bytes, vec![entry])
            }
        };
        let failed = |entry: &Entry, error| Box::new(BlobFailure { blob: entry.id, pack: Some(pack), error });
        let largest = entries.iter().map(|entry| entry.stored_bytes.max(entry.raw_bytes)).max();
        let largest = largest.unwrap_or_default();
        if largest > WHOLE_BYTES_LIMIT {
            let message = format!("it has {largest} bytes, more than any writer puts there");
            let error = Error::new(ErrorKind::Damaged, message);
            let frames = entries.iter().map(|entry| Err(failed(entry, error.repeated()))).collect();
            return Ok((frames, self.pipeline.reserve(0).await));
        }
        // What is read, and what is written.
        let reservation = self.pipeline.reserve(2 * (range.end - range.start)).await;
        let start = range.start;
        let (mut frames, mut fetched) = (Vec::new(), Vec::new());
        match self.fetcher.fetch(&pack, range).await {
            Ok(bytes) => fetched.push((entries, start, bytes)),
            Err(error) if error.is_no_finding() => return Err(error),
            Err(error) if damage == Damage::Stop => {
                frames.extend(entries.iter().take(1).map(|entry| Err(failed(entry, error.repeated()))));
            }
            // One sector that cannot be read must not take its neighbours along.
            Err(_) => {
                for entry in entries {
                    let range = entry.offset..entry.offset + entry.stored_bytes;
                    match self.fetcher.fetch(&pack, range).await {
                        Ok(bytes) => fetched.push((vec![entry], entry.offset, bytes)),
                        Err(error) if error.is_no_finding() => return Err(error),
                        Err(error) => frames.push(Err(failed(&entry, error))),
                    }
                }
            }
        }
        let _until_proved = self.pipeline.room_to_decode(2 * largest).await;
        frames.extend(self.prove(pack, fetched).await?);
        Ok((frames, reservation))
    }

    /// Decodes frames, and returns each as it is to be stored.
    async fn prove(&self, pack: PackId, fetched: Vec<(Vec<Entry>, u64, Bytes)>) -> Result<Vec<Carried>> {
        let (from, to) = (self.fetcher.sealing().clone(), self.to.clone());
        let visitor = self.visitor.clone();
        let prove = self.pipeline.run(move |worker| {
            let mut frames = Vec::new();
            for (entries, start, bytes) in fetched {
                for entry in entries {
                    let at = (entry.offset - start) as usize;
                    let stored = bytes.slice(at..at + entry.stored_bytes as usize);
                    let carried = worker.carry(&from, &to, &entry, &stored)?;
                    frames.push(match carried {
                        Ok((blob, raw)) => {
                            visitor.whole(&entry, raw)?;
                            visitor.done(&entry);
                            Ok(blob)
                        }
                        Err(error) => {
                            let error = format_error("its stored bytes are damaged", error);
                            Err(Box::new(BlobFailure { blob: entry.id, pack: Some(pack), error }))
                        }
                    });
                }
            }
            Ok(frames)
        });
        prove.await
    }

    /// Carries a frame in pieces; returns what is wrong with it.
    async fn large(
        &self,
        pack: PackId,
        entry: &Entry,
        damage: Damage,
        writer: &mut PackWriter,
    ) -> Result<Option<Error>> {
        if damage == Damage::PassOver {
            // Read once to see whether it may be appended: what was appended cannot be taken back.
            match self.pass(pack, entry, None).await {
                Ok(()) => {}
                Err(PieceFailure::Sink(error)) => return Err(error),
                Err(PieceFailure::Blob(error)) => return Ok(Some(error)),
            }
        }
        match (self.pass(pack, entry, Some(writer)).await, damage) {
            (Ok(()), _) => {
                self.visitor.done(entry);
                Ok(None)
            }
            (Err(PieceFailure::Sink(error)), _) => Err(error),
            (Err(PieceFailure::Blob(error)), Damage::Stop) => Ok(Some(error)),
            (Err(PieceFailure::Blob(error)), Damage::PassOver) => {
                let message = format!("cannot read blob {} in pack {pack} a second time", entry.id);
                Err(Error::caused(ErrorKind::Io, message, error))
            }
        }
    }

    /// Reads a large frame to its end, and hands it on where there is a writer.
    async fn pass(
        &self,
        pack: PackId,
        entry: &Entry,
        mut writer: Option<&mut PackWriter>,
    ) -> std::result::Result<(), PieceFailure> {
        let _reservation = self.pipeline.reserve(Pieces::bytes_of(entry)).await;
        let mut pieces = Pieces::new(self.pipeline, &self.fetcher, pack, entry);
        let (decoder, mut opened) = match self.fetcher.sealing().frame_check(entry).map_err(damaged)? {
            None => (StreamDecoder::new(entry).map_err(damaged)?, None),
            Some(check) => {
                let (opener, decoder, file) = sealed::authenticate(self.pipeline, &mut pieces, check).await?;
                (decoder, Some(Opened { opener, file, left_bytes: entry.stored_bytes }))
            }
        };
        let sink = self.visitor.pieces(entry).map_err(PieceFailure::Sink)?;
        let outlet = Outlet::of(&self.to, self.fetcher.sealing(), entry).map_err(PieceFailure::Sink)?;
        let mut large = Large { decoding: Decoding { decoder, sink }, outlet };
        let head = large.outlet.begin();
        hand_on(&mut writer, head).await?;
        loop {
            self.check().map_err(PieceFailure::Sink)?;
            let taken = match opened.take() {
                Some(Opened { left_bytes: 0, .. }) => break,
                Some(mut spooled) => {
                    let next = self.pipeline.run(move |worker| {
                        let piece = spooled.next(&mut large, &worker.spool);
                        Ok(piece.map(|piece| (large, Some(spooled), piece)))
                    });
                    next.await
                }
                None => {
                    let Some(piece) = pieces.next().await else { break };
                    let piece = piece.map_err(PieceFailure::Blob)?;
                    let next = self.pipeline.run(move |_| {
                        let taken = large.take(&piece, piece.clone());
                        Ok(taken.map(|piece| (large, None, piece)))
                    });
                    next.await
                }
            };
            let (next, rest, piece) = taken.map_err(PieceFailure::Blob)??;
            (large, opened) = (next, rest);
            hand_on(&mut writer, piece).await?;
        }
        let finished = self.pipeline.run(move |_| Ok(large.finish())).await;
        let mut outlet = finished.map_err(PieceFailure::Blob)??;
        let end = outlet.end();
        hand_on(&mut writer, end).await?;
        if let Some(writer) = writer {
            let (stored_bytes, crc32c) = (outlet.stored_bytes, outlet.crc.finish());
            let ended = writer.end_blob(entry.id, stored_bytes, entry.raw_bytes, outlet.flags, crc32c).await;
            ended.map_err(PieceFailure::Sink)?;
        }
        Ok(())
    }
}

/// Tells damage from what says nothing about the frames.
fn findings(mut failures: Vec<BlobFailure>) -> Result<Vec<BlobFailure>> {
    match failures.iter().position(|failure| failure.error.is_no_finding()) {
        Some(at) => Err(failures.swap_remove(at).into()),
        None => Ok(failures),
    }
}

async fn hand_on(
    writer: &mut Option<&mut PackWriter>,
    piece: Bytes,
) -> std::result::Result<(), PieceFailure> {
    match writer {
        Some(writer) if !piece.is_empty() => writer.append_piece(piece).await.map_err(PieceFailure::Sink),
        _ => Ok(()),
    }
}

/// A large frame on its way: what proves it, and the form in which it is stored.
struct Large {
    decoding: Decoding,
    outlet: Outlet,
}

impl Large {
    /// Takes a piece of the frame, which was stored like this, and returns what is to be stored of it.
    fn take(&mut self, frame: &[u8], stored: Bytes) -> std::result::Result<Bytes, PieceFailure> {
        take_piece(&mut self.decoding, frame)?;
        Ok(self.outlet.next(frame, stored))
    }

    /// Sees that the frame was what its id says.
    fn finish(self) -> std::result::Result<Outlet, PieceFailure> {
        let Decoding { decoder, sink } = self.decoding;
        decoder.finish().map_err(damaged)?;
        sink.finish().map_err(PieceFailure::Sink)?;
        Ok(self.outlet)
    }
}

/// A sealed frame that was authenticated, in the spool.
struct Opened {
    opener: StreamOpener,
    file: File,
    left_bytes: u64,
}

impl Opened {
    fn next(&mut self, large: &mut Large, spool: &Path) -> std::result::Result<Bytes, PieceFailure> {
        let mut piece = vec![0; self.left_bytes.min(PIECE_BYTES) as usize];
        let read = self.file.read_exact(&mut piece);
        read.map_err(|error| sealed::spool_failure("read a large blob in", spool, error))?;
        self.left_bytes -= piece.len() as u64;
        let stored = if large.outlet.is_verbatim() { Bytes::copy_from_slice(&piece) } else { Bytes::new() };
        large.take(self.opener.open(&mut piece), stored)
    }
}

/// How a large frame is stored, and what its entry will say.
struct Outlet {
    /// `None` where it is stored as it was.
    sealer: Option<FrameSealer>,
    flags: BlobFlags,
    crc: Crc32c,
    stored_bytes: u64,
}

impl Outlet {
    fn of(to: &Sealing, from: &Sealing, entry: &Entry) -> Result<Self> {
        let is_verbatim = to.seals_like(from);
        let sealer = (!is_verbatim).then(|| to.frame_sealer(&entry.id)).transpose()?;
        let frame = if entry.flags.compressed() { BlobFlags::COMPRESSED } else { BlobFlags::RAW };
        Ok(Self { sealer, flags: to.flags(frame), crc: Crc32c::new(), stored_bytes: 0 })
    }

    fn is_verbatim(&self) -> bool {
        self.sealer.is_none()
    }

    fn begin(&mut self) -> Bytes {
        let head = self.sealer.as_ref().map_or(Bytes::new(), |sealer| Bytes::copy_from_slice(sealer.head()));
        self.count(head)
    }

    fn next(&mut self, frame: &[u8], stored: Bytes) -> Bytes {
        let piece = match &mut self.sealer {
            None => stored,
            Some(sealer) => Bytes::copy_from_slice(sealer.seal(frame)),
        };
        self.count(piece)
    }

    fn end(&mut self) -> Bytes {
        let end = self.sealer.as_mut().map_or(Bytes::new(), |sealer| Bytes::from(sealer.end()));
        self.count(end)
    }

    fn count(&mut self, piece: Bytes) -> Bytes {
        self.crc.update(&piece);
        self.stored_bytes += piece.len() as u64;
        piece
    }
}
