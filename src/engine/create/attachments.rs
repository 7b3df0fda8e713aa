//! The attachments of a capture: every one read and hashed on every run, new ones compressed and stored
//! (section 9.2).
//!
//! Small attachments travel through workers in batches, large ones alone through an unnamed spool file, so
//! memory does not grow with the size of an attachment. Results are recorded in the order of the
//! references, so the error reported is that of the first one that fails.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::known::KnownBlobs;
use super::sink::{BlobSink, EncodedBlob, Payload, encode_hashed};
use crate::archive::content::{Content, ContentRef, ContentStore};
use crate::engine::Context;
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::{Pipeline, Reservation, Worker};
use crate::format::{
    BlobFlags, BlobId, Crc32c, FormatError, Hasher, ListedAttachment, Manifest, StreamCompressor,
    attachment_list, saves_enough,
};
use crate::progress::{Stage, Unit};
use crate::repo::indexes::format_error;
use crate::{Error, ErrorKind, Result};

/// Attachments up to this size are compressed in memory; larger ones through the spool.
const MEMORY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// A batch is closed once the database's own sizes add up to this.
const BATCH_BYTES: u64 = 1024 * 1024;
/// And once it holds this many attachments.
const BATCH_ITEMS_MAX: usize = 64;
/// What an attachment of unknown size counts.
const UNKNOWN_BYTES: u64 = 64 * 1024;
/// A batch whose results take more memory than this spools the rest, whatever the database said.
const BATCH_MEMORY_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of a large attachment that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// The attachments of a snapshot.
#[derive(Debug, Default)]
pub struct CapturedAttachments {
    /// Each attachment with its real size, in the order of the references.
    pub listed: Vec<ListedAttachment>,
    /// How many were not stored before.
    pub blobs_added: u64,
}

impl CapturedAttachments {
    /// Returns the sum of the sizes.
    pub fn total_bytes(&self) -> u64 {
        self.listed.iter().map(|attachment| attachment.bytes).sum()
    }
}

/// Reads, checks and stores every attachment.
pub async fn capture(
    context: &Context,
    pipeline: &Pipeline,
    sink: &mut BlobSink,
    store: Arc<dyn ContentStore>,
    references: Vec<ContentRef>,
) -> Result<CapturedAttachments> {
    context.progress.begin(Stage::Attachments, Unit::Items, Some(references.len() as u64));
    let mut captured = CapturedAttachments { listed: Vec::with_capacity(references.len()), blobs_added: 0 };
    let known = sink.known().clone();
    let mut encoded = stream::iter(batches(references))
        .map(|batch| encode_batch(pipeline, store.clone(), known.clone(), batch))
        .buffered(pipeline.jobs() + 2);
    while let Some(batch) = encoded.next().await {
        let (batch, reservation) = batch?;
        for blob in batch {
            context.cancel.check()?;
            // A batch ends with its first failure; what came before it is recorded in order.
            let blob = blob?;
            captured.listed.push(ListedAttachment { id: blob.id, bytes: blob.raw_bytes });
            captured.blobs_added += u64::from(sink.take(blob).await?);
            context.progress.advance(Stage::Attachments, 1);
        }
        drop(reservation);
    }
    context.progress.end(Stage::Attachments);
    Ok(captured)
}

/// Returns the lists of a snapshot: the parent's and one of what is new, or, if the parent lists anything
/// that is gone, one fresh list of everything (T10).
pub async fn store_lists(
    reader: &MetadataReader,
    sink: &mut BlobSink,
    parent: Option<&Manifest>,
    captured: &[ListedAttachment],
) -> Result<Option<Vec<String>>> {
    let inherited = match parent {
        Some(parent) => inherited_lists(reader, sink.known(), parent, captured).await,
        None => None,
    };
    let (mut lists, listed) = inherited.unwrap_or_default();
    let new: Vec<ListedAttachment> =
        captured.iter().filter(|attachment| !listed.contains(&attachment.id)).cloned().collect();
    if !new.is_empty() {
        lists.push(sink.store(attachment_list::encode(&new)).await?.to_string());
    }
    // The reference writer says `null` where there is no list, and the snapshot id covers that.
    Ok(if lists.is_empty() { None } else { Some(lists) })
}

/// Returns the parent's lists and what they hold, if all of it is still referenced and readable.
async fn inherited_lists(
    reader: &MetadataReader,
    known: &KnownBlobs,
    parent: &Manifest,
    captured: &[ListedAttachment],
) -> Option<(Vec<String>, HashSet<BlobId>)> {
    let lists = parent.attachments.lists.clone()?;
    let captured: HashSet<(BlobId, u64)> =
        captured.iter().map(|attachment| (attachment.id, attachment.bytes)).collect();
    let mut listed = HashSet::new();
    for list in &lists {
        let id = BlobId::parse(list).ok().filter(|id| known.contains(id))?;
        let entries = reader.attachment_list(&id).await.map_err(|failure| known.distrust(&failure)).ok()?;
        for attachment in entries {
            if !captured.contains(&(attachment.id, attachment.bytes)) || !listed.insert(attachment.id) {
                return None;
            }
        }
    }
    Some((lists, listed))
}

fn batches(references: Vec<ContentRef>) -> Vec<Vec<ContentRef>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut batch_bytes = 0;
    for reference in references {
        let bytes = reference.recorded_bytes.unwrap_or(UNKNOWN_BYTES);
        if !batch.is_empty() && (batch.len() >= BATCH_ITEMS_MAX || batch_bytes + bytes > BATCH_BYTES) {
            batches.push(std::mem::take(&mut batch));
            batch_bytes = 0;
        }
        batch_bytes += bytes;
        batch.push(reference);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

type EncodedBatch = (Vec<Result<EncodedBlob>>, Reservation);

async fn encode_batch(
    pipeline: &Pipeline,
    store: Arc<dyn ContentStore>,
    known: Arc<KnownBlobs>,
    batch: Vec<ContentRef>,
) -> Result<EncodedBatch> {
    // The budget is asked for in the order of the batches, and those in front are recorded first, so a
    // batch that waits for room never waits for itself.
    let reservation = pipeline.reserve(BATCH_MEMORY_BYTES_MAX.min(batch_bytes(&batch))).await;
    let encoded = pipeline
        .run(move |worker| {
            let mut results = Vec::with_capacity(batch.len());
            let mut memory_bytes = 0;
            for reference in &batch {
                let result = encode_one(worker, store.as_ref(), &known, reference, memory_bytes);
                if let Ok(EncodedBlob { payload: Payload::Memory(blob), .. }) = &result {
                    memory_bytes += blob.stored.len() as u64;
                }
                let failed = result.is_err();
                results.push(result);
                if failed {
                    break;
                }
            }
            Ok(results)
        })
        .await?;
    Ok((encoded, reservation))
}

fn batch_bytes(batch: &[ContentRef]) -> u64 {
    batch.iter().map(|reference| reference.recorded_bytes.unwrap_or(UNKNOWN_BYTES)).sum()
}

fn encode_one(
    worker: &mut Worker,
    store: &dyn ContentStore,
    known: &KnownBlobs,
    reference: &ContentRef,
    memory_bytes: u64,
) -> Result<EncodedBlob> {
    let mut content = store.open(reference)?;
    let raw_bytes = content.raw_bytes();
    if known.contains(&reference.id) {
        hash_only(&mut content, reference)?;
        return Ok(EncodedBlob { id: reference.id, raw_bytes, payload: Payload::Known });
    }
    let fits = raw_bytes <= MEMORY_BYTES_MAX && memory_bytes + raw_bytes <= BATCH_MEMORY_BYTES_MAX;
    if !fits {
        return spool(worker, store, content, reference);
    }
    let mut raw = vec![0; raw_bytes as usize];
    content.read(&mut raw)?;
    content.finish()?;
    check_hash(&content, reference, BlobId::of(&raw))?;
    encode_hashed(worker, known, reference.id, raw)
}

fn hash_only(content: &mut Content, reference: &ContentRef) -> Result<()> {
    let mut hasher = Hasher::new();
    each_piece(content, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    check_hash(content, reference, hasher.finish())
}

/// Compresses an attachment into the spool while hashing it; if that saves too little, spools it raw.
fn spool(
    worker: &Worker,
    store: &dyn ContentStore,
    mut content: Content,
    reference: &ContentRef,
) -> Result<EncodedBlob> {
    let raw_bytes = content.raw_bytes();
    let mut spool = Spool::new(worker)?;
    let compress = |error: FormatError| format_error("cannot compress an attachment", error);
    let mut compressor = StreamCompressor::new(worker.zstd_level, raw_bytes).map_err(compress)?;
    let mut hasher = Hasher::new();
    each_piece(&mut content, |piece| {
        hasher.update(piece);
        compressor.feed(piece, &mut |frame| spool.accept(frame)).map_err(compress)
    })?;
    check_hash(&content, reference, hasher.finish())?;
    compressor.finish(&mut |frame| spool.accept(frame)).map_err(compress)?;
    if saves_enough(raw_bytes, spool.bytes) {
        return spool.finish(reference.id, raw_bytes, BlobFlags::COMPRESSED);
    }
    spool.restart()?;
    let mut again = store.open(reference)?;
    let mut hasher = Hasher::new();
    each_piece(&mut again, |piece| {
        hasher.update(piece);
        spool.accept(piece).map_err(compress)
    })?;
    // It may have changed between the two readings.
    check_hash(&again, reference, hasher.finish())?;
    spool.finish(reference.id, raw_bytes, BlobFlags::RAW)
}

/// Hands every byte over, then checks that nothing changed meanwhile.
fn each_piece(content: &mut Content, mut accept: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let piece_bytes = content.raw_bytes().min(PIECE_BYTES as u64).max(1) as usize;
    let mut piece = vec![0; piece_bytes];
    loop {
        let count = content.read(&mut piece)?;
        if count == 0 {
            return content.finish();
        }
        accept(&piece[..count])?;
    }
}

fn check_hash(content: &Content, reference: &ContentRef, found: BlobId) -> Result<()> {
    if found == reference.id {
        return Ok(());
    }
    let path = content.path().display();
    let message = format!("the attachment {path} is not what its name says: its SHA-256 is {found}");
    Err(Error::new(ErrorKind::Source, message))
}

/// A file without a name that takes the stored bytes of one blob.
struct Spool {
    file: File,
    bytes: u64,
    crc32c: Crc32c,
    failure: Option<std::io::Error>,
}

impl Spool {
    fn new(worker: &Worker) -> Result<Self> {
        let file = std::fs::create_dir_all(&worker.spool).and_then(|()| tempfile::tempfile_in(&worker.spool));
        let file = file.map_err(|error| {
            let message = format!("cannot make a spool file in {}", worker.spool.display());
            Error::caused(ErrorKind::Io, message, error)
        })?;
        Ok(Self { file, bytes: 0, crc32c: Crc32c::new(), failure: None })
    }

    /// Takes stored bytes. A failed write is kept until the end: the codec's sink knows no such error.
    fn accept(&mut self, stored: &[u8]) -> std::result::Result<(), FormatError> {
        self.bytes += stored.len() as u64;
        self.crc32c.update(stored);
        if self.failure.is_none() {
            self.failure = self.file.write_all(stored).err();
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.check()?;
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(spool_error)?;
        self.bytes = 0;
        self.crc32c = Crc32c::new();
        Ok(())
    }

    fn finish(mut self, id: BlobId, raw_bytes: u64, flags: BlobFlags) -> Result<EncodedBlob> {
        self.check()?;
        self.file.seek(SeekFrom::Start(0)).map_err(spool_error)?;
        let (stored_bytes, crc32c) = (self.bytes, self.crc32c.finish());
        let payload = Payload::Spooled { file: self.file, stored_bytes, flags, crc32c };
        Ok(EncodedBlob { id, raw_bytes, payload })
    }

    fn check(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), |error| Err(spool_error(error)))
    }
}

fn spool_error(error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Io, "cannot write an attachment to the spool", error)
}
