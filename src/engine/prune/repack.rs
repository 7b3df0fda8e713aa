//! Copies what is needed of packs into new ones, in rounds.
//!
//! Frames are copied as they are stored: an id is bound to what is in them, not to where they lie, in encrypted
//! repositories too. When the packs of a round are sealed they are read back, every blob against its id; only then an
//! index names them. So a round that is over stays done whatever happens next: the next prune finds the blobs in the
//! new packs, and the old ones out of use. Nothing is removed here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::engine::bulk::{self, BlobVisitor, NoSink, PieceSink};
use crate::engine::pipeline::{Pipeline, Reservation};
use crate::format::pack::Entry;
use crate::format::{BlobId, IndexId, PackId};
use crate::progress::{Progress, Stage};
use crate::repo::Repository;
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::repo::indexes::{IndexUnion, Location};
use crate::repo::locks::Lock;
use crate::repo::packs::{PackWriter, StoredBlob, WrittenPacks};
use crate::{Error, ErrorKind, Result};

/// Blobs that are copied between two indexes.
const ROUND_BLOBS_MAX: u64 = 1 << 18;
/// Their bytes: what is done again at most after a prune was killed.
const ROUND_BYTES_MAX: u64 = 1 << 30;
/// Bytes fetched with one request.
pub const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// Unwanted bytes between two blobs that are fetched along.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// A larger blob goes from pack to pack in pieces.
const WHOLE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Bytes of such a piece.
const PIECE_BYTES: u64 = 2 * 1024 * 1024;
/// Requests under way at once.
const REQUESTS_IN_FLIGHT: usize = 8;

/// A blob that is copied.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The blob.
    pub id: BlobId,
    /// Where it lies.
    pub location: Location,
}

/// What was copied.
#[derive(Debug, Default)]
pub struct Repacked {
    /// New packs.
    pub packs: u64,
    /// Blobs in them.
    pub blobs: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// The indexes that name them.
    pub indexes: u64,
}

/// Cuts packs into rounds, by how many blobs and bytes are wanted of each.
pub fn rounds(packs: impl IntoIterator<Item = (PackId, u64, u64)>) -> Vec<HashSet<PackId>> {
    let mut rounds: Vec<HashSet<PackId>> = Vec::new();
    let mut open = (0u64, 0u64);
    for (pack, blobs, bytes) in packs {
        let is_full = open.0 + blobs > ROUND_BLOBS_MAX || open.1 + bytes > ROUND_BYTES_MAX;
        if rounds.is_empty() || is_full {
            rounds.push(HashSet::new());
            open = (0, 0);
        }
        open = (open.0 + blobs, open.1 + bytes);
        rounds.last_mut().expect("one was pushed").insert(pack);
    }
    rounds
}

/// Copies the needed blobs of the packs of one round.
pub async fn round(
    repository: &Repository,
    store: &Arc<BlobStore>,
    packs: &HashSet<PackId>,
    pipeline: &Pipeline,
    lock: &Lock,
    repacked: &mut Repacked,
) -> Result<()> {
    let wanted = wanted(store.union(), packs);
    let mut writer = PackWriter::new(repository.clone());
    let copied = match copy(store, &wanted, pipeline, &mut writer).await {
        Ok(()) => writer.finish().await,
        Err(error) => Err(error),
    };
    let written = match copied {
        Ok(written) => written,
        Err(error) => {
            // What is durable all the same is named by nobody, and the next prune removes it.
            writer.abandon().await;
            return Err(error);
        }
    };
    expect_complete(&wanted, &written)?;
    drop(wanted);
    read_back(repository, &written, pipeline).await?;
    lock.confirm().await?;
    repacked.packs += written.packs.len() as u64;
    repacked.blobs += written.entries.len() as u64;
    repacked.bytes += written.entries.iter().map(|entry| entry.stored_bytes).sum::<u64>();
    if !written.entries.is_empty() {
        let id = IndexId::from_ulid(repository.ulids().next());
        repository.publish_index(&id, written.entries).await?;
        repacked.indexes += 1;
    }
    Ok(())
}

/// Returns what is needed of these packs, pack by pack, in the order in which it lies there.
fn wanted(union: &IndexUnion, packs: &HashSet<PackId>) -> Vec<Wanted> {
    let needed = union.places().filter(|placed| placed.is_needed && packs.contains(&placed.location.pack));
    let mut wanted: Vec<Wanted> =
        needed.map(|placed| Wanted { id: placed.id, location: placed.location }).collect();
    wanted.sort_unstable_by_key(|wanted| (wanted.location.pack, wanted.location.offset, wanted.id));
    wanted
}

/// What is fetched together.
enum Batch {
    Small(PackId, Vec<Entry>),
    Large(PackId, Entry),
}

/// A batch on its way to the writer.
enum Fetched {
    Small(Vec<StoredBlob>, #[allow(dead_code, reason = "held until it is written")] Reservation),
    Large(PackId, Entry),
}

async fn copy(
    store: &Arc<BlobStore>,
    wanted: &[Wanted],
    pipeline: &Pipeline,
    writer: &mut PackWriter,
) -> Result<()> {
    let context = pipeline.context();
    let by_pack = wanted.chunk_by(|one, other| one.location.pack == other.location.pack);
    let batches = stream::iter(by_pack)
        .map(|blobs| batches(store, blobs))
        .buffered(REQUESTS_IN_FLIGHT)
        .map_ok(|batches| stream::iter(batches.into_iter().map(Ok::<_, Error>)))
        .try_flatten();
    let fetched = batches.map_ok(|batch| fetch(store, batch, pipeline)).try_buffered(REQUESTS_IN_FLIGHT);
    let mut fetched = std::pin::pin!(fetched);
    while let Some(batch) = fetched.try_next().await? {
        context.cancel.check()?;
        match batch {
            Fetched::Small(blobs, _reservation) => {
                for blob in blobs {
                    let bytes = blob.stored.len() as u64;
                    writer.append(blob).await?;
                    context.progress.advance(Stage::Repack, bytes);
                }
            }
            Fetched::Large(pack, entry) => {
                copy_large(store, pack, &entry, pipeline, writer).await?;
            }
        }
    }
    Ok(())
}

/// Finds the blobs of one pack by its footer, and cuts them into what is fetched together.
async fn batches(store: &Arc<BlobStore>, blobs: &[Wanted]) -> Result<Vec<Batch>> {
    let mut batches: Vec<Batch> = Vec::new();
    for wanted in blobs {
        let (pack, entry) = store.locate(&wanted.id).await.map_err(unreadable)?;
        if entry.stored_bytes > WHOLE_BYTES_MAX {
            batches.push(Batch::Large(pack, entry));
            continue;
        }
        let end = entry.offset + entry.stored_bytes;
        match batches.last_mut() {
            Some(Batch::Small(open, entries))
                if *open == pack
                    && entries.last().is_some_and(|last| {
                        let gap = entry.offset.saturating_sub(last.offset + last.stored_bytes);
                        gap <= GAP_BYTES_MAX
                    })
                    && entries.first().is_some_and(|first| {
                        entry.offset >= first.offset && end - first.offset <= BATCH_BYTES
                    }) =>
            {
                entries.push(entry);
            }
            _ => batches.push(Batch::Small(pack, vec![entry])),
        }
    }
    Ok(batches)
}

async fn fetch(store: &Arc<BlobStore>, batch: Batch, pipeline: &Pipeline) -> Result<Fetched> {
    let (pack, entries) = match batch {
        Batch::Large(pack, entry) => return Ok(Fetched::Large(pack, entry)),
        Batch::Small(pack, entries) => (pack, entries),
    };
    let start = entries.first().map_or(0, |entry| entry.offset);
    let end = entries.iter().map(|entry| entry.offset + entry.stored_bytes).max().unwrap_or(start);
    let reservation = pipeline.reserve(end - start).await;
    let bytes = store.fetch_range(&pack, start..end).await?;
    let blob = |entry: &Entry| {
        let from = (entry.offset - start) as usize;
        let stored = bytes.slice(from..from + entry.stored_bytes as usize);
        let Entry { id, raw_bytes, flags, crc32c, .. } = *entry;
        StoredBlob { id, raw_bytes, flags, crc32c, stored }
    };
    Ok(Fetched::Small(entries.iter().map(blob).collect(), reservation))
}

async fn copy_large(
    store: &Arc<BlobStore>,
    pack: PackId,
    entry: &Entry,
    pipeline: &Pipeline,
    writer: &mut PackWriter,
) -> Result<()> {
    let end = entry.offset + entry.stored_bytes;
    let mut from = entry.offset;
    while from < end {
        pipeline.context().cancel.check()?;
        let until = end.min(from + PIECE_BYTES);
        let piece: Bytes = store.fetch_range(&pack, from..until).await?;
        writer.append_piece(piece).await?;
        pipeline.context().progress.advance(Stage::Repack, until - from);
        from = until;
    }
    let Entry { id, stored_bytes, raw_bytes, flags, crc32c, .. } = *entry;
    writer.end_blob(id, stored_bytes, raw_bytes, flags, crc32c).await
}

fn unreadable(failure: BlobFailure) -> Error {
    if failure.error.is_no_finding() {
        return failure.into();
    }
    let message = format!(
        "nothing more was pruned: {failure}, and it is needed; run `packvault verify --all` to see what else is lost"
    );
    Error::caused(failure.error.kind(), message, failure.error)
}

/// Proves that all that was wanted was written, and nothing twice.
fn expect_complete(wanted: &[Wanted], written: &WrittenPacks) -> Result<()> {
    let mut before: Vec<BlobId> = wanted.iter().map(|wanted| wanted.id).collect();
    let mut after: Vec<BlobId> = written.entries.iter().map(|entry| entry.id).collect();
    before.sort_unstable();
    after.sort_unstable();
    match before == after {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Io,
            "nothing more was pruned: the new packs do not hold what was to be copied into them",
        )),
    }
}

/// Reads the new packs from the store: every blob must be what its id says.
pub async fn read_back(repository: &Repository, written: &WrittenPacks, pipeline: &Pipeline) -> Result<()> {
    let lengths = repository.pack_lengths().await?;
    let union = IndexUnion::of_written(repository.sealing(), &written.entries).settled(&lengths);
    let unsound = union.unsound_packs();
    if let Some(pack) = unsound.iter().min() {
        let message =
            format!("nothing more was pruned: the store does not have pack {pack} as it was written");
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    let ids: Vec<BlobId> = written.entries.iter().map(|entry| entry.id).collect();
    let store = Arc::new(BlobStore::new(repository.clone(), Arc::new(union), lengths));
    let prover = Arc::new(Prover { progress: pipeline.context().progress.clone() });
    bulk::read(pipeline, &store, ids, &prover).await
}

/// Takes blobs that were proved to be what their ids say, and does nothing with them.
struct Prover {
    progress: Arc<dyn Progress>,
}

impl BlobVisitor for Prover {
    fn takes_pieces(&self, _: &BlobId) -> bool {
        true
    }

    fn whole(&self, _: &Entry, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn pieces(&self, _: &Entry) -> Result<Box<dyn PieceSink>> {
        Ok(Box::new(NoSink))
    }

    fn failed(&self, failure: BlobFailure) -> Result<()> {
        Err(unreadable(failure))
    }

    fn done(&self, entry: &Entry) {
        self.progress.advance(Stage::Repack, entry.stored_bytes);
    }
}

/// Returns how many bytes are wanted of each pack, for whoever shows how far the copying is.
pub fn wanted_bytes(facts: &HashMap<PackId, super::plan::PackFacts>, packs: &[PackId]) -> u64 {
    packs.iter().map(|pack| facts[pack].needed_bytes).sum()
}
