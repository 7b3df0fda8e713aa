//! The attachments of a capture: read and hashed, new ones compressed and stored (section 9.2). Those that lie there as they
//! did for the parent are not read, and what is stored of them is taken.
//!
//! Small attachments travel through workers in batches, large ones alone through an unnamed spool file, so
//! memory does not grow with the size of an attachment. Results are recorded in the order of the
//! references, so the error reported is that of the first one that fails.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, stream};

use super::beliefs::Beliefs;
use super::known::{KnownBlobs, is_unusable};
use super::sink::{BlobSink, EncodedBlob, Payload, encode_hashed};
use super::spool;
use crate::archive::content::{Content, ContentRef, ContentStore};
use crate::archive::sighting::Print;
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::{Pipeline, Reservation, Worker};
use crate::format::{BlobId, ListedAttachment, Manifest, attachment_list};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// Attachments up to this size are compressed in memory; larger ones through the spool.
const MEMORY_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How many attachments are looked at in one piece of work.
const LOOKED_AT: usize = 512;
/// A batch is closed once the database's own sizes add up to this.
const BATCH_BYTES: u64 = 1024 * 1024;
/// And once it holds this many attachments.
const BATCH_ITEMS_MAX: usize = 64;
/// What an attachment of unknown size counts.
const UNKNOWN_BYTES: u64 = 64 * 1024;
/// A batch whose results take more memory than this spools the rest, whatever the database said.
const BATCH_MEMORY_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The attachments of a snapshot.
#[derive(Debug, Default)]
pub struct CapturedAttachments {
    /// Each attachment with its real size, in the order of the references.
    pub listed: Vec<ListedAttachment>,
    /// How many were not stored before.
    pub blobs_added: u64,
    /// How many were read.
    pub read: u64,
    /// Those that can be known by their times in the next capture.
    pub prints: Vec<Print>,
}

impl CapturedAttachments {
    /// Returns the sum of the sizes.
    pub fn total_bytes(&self) -> u64 {
        self.listed.iter().map(|attachment| attachment.bytes).sum()
    }
}

/// An attachment, and what is known of it before it is read.
struct Looked {
    reference: ContentRef,
    /// By what it is known in the next capture, if it can be.
    print: Option<Print>,
    /// Its length, if it need not be read.
    unread_bytes: Option<u64>,
}

impl Looked {
    fn bytes_to_read(&self) -> u64 {
        match self.unread_bytes {
            Some(_) => 0,
            None => self.reference.recorded_bytes.unwrap_or(UNKNOWN_BYTES),
        }
    }
}

/// Reads, checks and stores every attachment, but for those that lie there as they did for the parent, whose lists
/// are `inherited`.
pub async fn capture(
    pipeline: &Pipeline,
    sink: &mut BlobSink,
    store: Arc<dyn ContentStore>,
    references: Vec<ContentRef>,
    beliefs: Option<&Arc<Beliefs>>,
    inherited: Option<&Arc<InheritedLists>>,
) -> Result<CapturedAttachments> {
    let context = pipeline.context();
    context.progress.begin(Stage::Attachments, Unit::Items, Some(references.len() as u64));
    let table_bytes = beliefs.map_or(0, |beliefs| beliefs.table_bytes(references.len()));
    pipeline.set_aside(store.table_bytes_max().saturating_add(table_bytes)).await;
    let listed = Vec::with_capacity(references.len());
    let mut captured = CapturedAttachments { listed, ..CapturedAttachments::default() };
    let known = sink.known().clone();
    let looking = Looking { store: store.clone(), known: known.clone(), beliefs, inherited };
    let mut encoded = stream::iter(pieces(references))
        .map(|piece| looking.look(pipeline, piece))
        .buffered(pipeline.jobs() + 2)
        .flat_map(|looked| {
            let batches = looked.map(batches);
            stream::iter(match batches {
                Ok(batches) => batches.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            })
        })
        .map(|batch| encode_batch(pipeline, store.clone(), known.clone(), batch))
        .buffered(pipeline.jobs() + 2);
    while let Some(batch) = encoded.next().await {
        let (batch, reservation) = batch?;
        for (print, blob) in batch {
            context.cancel.check()?;
            // A batch ends with its first failure; what came before it is recorded in order.
            let (was_read, blob) = blob?;
            captured.listed.push(ListedAttachment { id: blob.id, bytes: blob.raw_bytes });
            captured.read += u64::from(was_read);
            captured.prints.extend(print);
            captured.blobs_added += u64::from(sink.take(blob).await?);
            context.progress.advance(Stage::Attachments, 1);
        }
        drop(reservation);
    }
    context.progress.end(Stage::Attachments);
    Ok(captured)
}

/// What decides whether an attachment must be read.
struct Looking<'a> {
    store: Arc<dyn ContentStore>,
    known: Arc<KnownBlobs>,
    beliefs: Option<&'a Arc<Beliefs>>,
    inherited: Option<&'a Arc<InheritedLists>>,
}

impl Looking<'_> {
    /// Looks at attachments without reading them.
    async fn look(&self, pipeline: &Pipeline, references: Vec<ContentRef>) -> Result<Vec<Looked>> {
        let Some(beliefs) = self.beliefs.cloned() else {
            let unknown = |reference| Looked { reference, print: None, unread_bytes: None };
            return Ok(references.into_iter().map(unknown).collect());
        };
        let (store, known, inherited) = (self.store.clone(), self.known.clone(), self.inherited.cloned());
        let look = move |reference: ContentRef| {
            let seen = store.look(&reference);
            let (print, is_known) =
                seen.map_or((None, false), |seen| beliefs.attachment(&reference.id, &seen));
            // Its length is the parent's word, and that it is stored is that of the indexes.
            let listed = inherited.as_ref().filter(|_| is_known);
            let bytes = listed.and_then(|listed| listed.bytes_of(&reference.id));
            let unread_bytes = bytes.filter(|_| known.contains(&reference.id));
            Looked { reference, print, unread_bytes }
        };
        pipeline.run(move |_| Ok(references.into_iter().map(look).collect())).await
    }
}

/// The lists of a snapshot's parent, and what they hold.
pub struct InheritedLists {
    lists: Vec<String>,
    /// Ascending by id.
    entries: Vec<ListedAttachment>,
}

impl InheritedLists {
    /// Returns the length of an attachment that is listed.
    fn bytes_of(&self, id: &BlobId) -> Option<u64> {
        let found = self.entries.binary_search_by(|entry| entry.id.cmp(id)).ok()?;
        Some(self.entries[found].bytes)
    }
}

/// Returns the lists of a snapshot: the parent's and one of what is new, or, if the parent lists anything
/// that is gone, one fresh list of everything (T10).
pub async fn store_lists(
    sink: &mut BlobSink,
    inherited: Option<&InheritedLists>,
    captured: &[ListedAttachment],
) -> Result<Option<Vec<String>>> {
    let inherited = inherited.and_then(|inherited| still_listed(inherited, captured));
    let (mut lists, listed) = inherited.unwrap_or_default();
    let new: Vec<ListedAttachment> =
        captured.iter().filter(|attachment| !listed.contains(&attachment.id)).cloned().collect();
    if !new.is_empty() {
        lists.push(sink.store(attachment_list::encode(&new)).await?.to_string());
    }
    // The reference writer says `null` where there is no list, and the snapshot id covers that.
    Ok(if lists.is_empty() { None } else { Some(lists) })
}

/// Reads the parent's lists, if they are undamaged. One that cannot be read just now is an error: its pack is as
/// good as before.
pub async fn read_lists(
    reader: &MetadataReader,
    known: &KnownBlobs,
    parent: Option<&Manifest>,
) -> Result<Option<InheritedLists>> {
    let Some(lists) = parent.and_then(|parent| parent.attachments.lists.clone()) else { return Ok(None) };
    let mut entries = Vec::new();
    reader.expect(lists.iter().filter_map(|list| BlobId::parse(list).ok()));
    for list in &lists {
        let Some(id) = BlobId::parse(list).ok().filter(|id| known.contains(id)) else { return Ok(None) };
        match reader.attachment_list(&id).await {
            Ok(found) => entries.extend(found),
            Err(failure) if is_unusable(failure.error.kind()) => {
                known.distrust(&failure);
                return Ok(None);
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    entries.sort_by_key(|entry| entry.id);
    Ok(Some(InheritedLists { lists, entries }))
}

/// Returns the parent's lists and what they hold, if all of it is still referenced.
fn still_listed(
    inherited: &InheritedLists,
    captured: &[ListedAttachment],
) -> Option<(Vec<String>, HashSet<BlobId>)> {
    let captured: HashSet<(BlobId, u64)> =
        captured.iter().map(|attachment| (attachment.id, attachment.bytes)).collect();
    let mut listed = HashSet::new();
    let is_whole = inherited.entries.iter().all(|attachment| {
        captured.contains(&(attachment.id, attachment.bytes)) && listed.insert(attachment.id)
    });
    is_whole.then(|| (inherited.lists.clone(), listed))
}

fn pieces(references: Vec<ContentRef>) -> impl Iterator<Item = Vec<ContentRef>> {
    let mut references = references.into_iter();
    std::iter::from_fn(move || {
        let piece: Vec<ContentRef> = references.by_ref().take(LOOKED_AT).collect();
        (!piece.is_empty()).then_some(piece)
    })
}

fn batches(looked: Vec<Looked>) -> Vec<Vec<Looked>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let (mut batch_bytes, mut to_read) = (0, 0);
    for one in looked {
        let bytes = one.bytes_to_read();
        // What is not read costs nothing.
        let is_full = to_read >= BATCH_ITEMS_MAX || batch_bytes + bytes > BATCH_BYTES;
        if to_read > 0 && one.unread_bytes.is_none() && is_full {
            batches.push(std::mem::take(&mut batch));
            (batch_bytes, to_read) = (0, 0);
        }
        batch_bytes += bytes;
        to_read += usize::from(one.unread_bytes.is_none());
        batch.push(one);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// By what an attachment is known the next time, and its blob, with whether it was read.
type Encoded = (Option<Print>, Result<(bool, EncodedBlob)>);
type EncodedBatch = (Vec<Encoded>, Reservation);

async fn encode_batch(
    pipeline: &Pipeline,
    store: Arc<dyn ContentStore>,
    known: Arc<KnownBlobs>,
    batch: Result<Vec<Looked>>,
) -> Result<EncodedBatch> {
    let batch = batch?;
    // The budget is asked for in the order of the batches, and those in front are recorded first, so a
    // batch that waits for room never waits for itself.
    let reservation = pipeline.reserve(BATCH_MEMORY_BYTES_MAX.min(batch_bytes(&batch))).await;
    let encoded = pipeline
        .run(move |worker| {
            let mut results = Vec::with_capacity(batch.len());
            let mut memory_bytes = 0;
            for Looked { reference, print, unread_bytes } in &batch {
                if let Some(raw_bytes) = *unread_bytes {
                    let blob = EncodedBlob { id: reference.id, raw_bytes, payload: Payload::Known };
                    results.push((*print, Ok((false, blob))));
                    continue;
                }
                let result = encode_one(worker, store.as_ref(), &known, reference, memory_bytes);
                if let Ok(EncodedBlob { payload: Payload::Memory(blob), .. }) = &result {
                    memory_bytes += blob.stored.len() as u64;
                }
                let failed = result.is_err();
                results.push((*print, result.map(|blob| (true, blob))));
                if failed {
                    break;
                }
            }
            Ok(results)
        })
        .await?;
    Ok((encoded, reservation))
}

fn batch_bytes(batch: &[Looked]) -> u64 {
    batch.iter().map(Looked::bytes_to_read).sum()
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
        return spool::encode(
            worker,
            (known.sealing(), reference.id),
            content,
            || store.open(reference),
            |content, found| check_hash(content, reference, found),
        );
    }
    let mut raw = vec![0; raw_bytes as usize];
    content.read(&mut raw)?;
    content.finish()?;
    check_hash(&content, reference, BlobId::of(&raw))?;
    encode_hashed(worker, known, reference.id, raw)
}

fn hash_only(content: &mut Content, reference: &ContentRef) -> Result<()> {
    let found = spool::hash(content)?;
    check_hash(content, reference, found)
}

fn check_hash(content: &Content, reference: &ContentRef, found: BlobId) -> Result<()> {
    if found == reference.id {
        return Ok(());
    }
    let path = content.path().display();
    let message = format!("the attachment {path} is not what its name says: its SHA-256 is {found}");
    Err(Error::new(ErrorKind::Source, message))
}
