//! The database pages of a capture: read and hashed once, the changed ones compressed and stored.
//!
//! Storing goes on while reading does, unless the pin holds writers off: then what changed waits until it has
//! been released.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use super::held::HeldPages;
use super::hold::WriterHold;
use super::plan::{BLOB_PAGES_MAX, PlannedBlob, Planner};
use super::sink::{BlobSink, EncodedBlob, encode};
use crate::archive::pages;
use crate::archive::pinned::{PageSource, PinnedDatabase};
use crate::engine::Context;
use crate::engine::pipeline::{Pipeline, Reservation, Task};
use crate::format::{BlobId, Geometry, PageHash, Run};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// Bytes that one worker reads and hashes at a time.
const CHUNK_BYTES: u64 = 4 * 1024 * 1024;

/// What the scan of a database has found and stored.
#[derive(Debug, Default)]
pub struct CapturedPages {
    /// The hash of every page.
    pub hashes: Vec<PageHash>,
    /// The blobs of the changed pages, each once, in the order of their first use.
    pub blobs: Vec<BlobId>,
    /// The changed pages, ascending.
    pub runs: Vec<Run>,
}

impl CapturedPages {
    /// Returns the numbers of the changed pages, ascending.
    pub fn changed(&self) -> impl Iterator<Item = u64> {
        self.runs.iter().flat_map(|run| run.start_page..run.end_page())
    }

    /// Returns how many pages have changed.
    pub fn changed_count(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.pages)).sum()
    }
}

/// A blob under way to the sink.
struct Underway {
    task: Task<EncodedBlob>,
    /// First page and number of pages of each of its ranges.
    ranges: Vec<(u64, u32)>,
    reservation: Reservation,
}

/// Blobs under way to the sink, in the order of the plan.
struct Encoding {
    waiting: VecDeque<Underway>,
    capacity: usize,
    page_size: u32,
    indexes: HashMap<BlobId, u32>,
    captured: CapturedPages,
}

/// The limits to what a scan may do to the application.
#[derive(Debug)]
pub struct ScanLimits<'a> {
    /// By how many bytes the WAL may grow meanwhile.
    pub wal_growth_bytes_max: Option<u64>,
    /// How long writers may be held off.
    pub hold: &'a WriterHold,
}

/// A database that has been read; what has changed in it may still have to be stored.
pub struct ReadPages {
    encoding: Encoding,
    hashes: Vec<PageHash>,
    held: Option<HeldPages>,
}

/// Scans a pinned database against the hashes of its parent; stores what has changed, or keeps it for later
/// where writers are held off meanwhile.
///
/// The new hashes take the place of the parent's, chunk by chunk: there is one table of them, not two.
pub async fn read(
    pipeline: &Pipeline,
    sink: &mut BlobSink,
    pinned: &PinnedDatabase,
    mut hashes: Vec<PageHash>,
    limits: &ScanLimits<'_>,
) -> Result<ReadPages> {
    let context = pipeline.context();
    let Geometry { page_size, page_count } = pinned.geometry();
    context.progress.begin(Stage::Scan, Unit::Pages, Some(page_count));
    context.progress.begin(Stage::Pack, Unit::Bytes, None);
    let mut encoding = Encoding {
        waiting: VecDeque::new(),
        capacity: pipeline.jobs() + 1,
        page_size,
        indexes: HashMap::new(),
        captured: CapturedPages::default(),
    };
    let mut held = limits.hold.is_on().then(|| HeldPages::new(context.spool.clone()));
    let source = pinned.source();
    hashes.truncate(page_count as usize);
    hashes.reserve_exact(page_count as usize - hashes.len());
    let mut planner = Planner::new(page_size);
    let chunk_pages = (CHUNK_BYTES / u64::from(page_size)).clamp(1, BLOB_PAGES_MAX);
    let mut chunks = (0..page_count).step_by(chunk_pages as usize);
    let mut scans = VecDeque::new();
    loop {
        for first_page in chunks.by_ref().take(pipeline.jobs() + 1 - scans.len()) {
            let count = chunk_pages.min(page_count - first_page) as usize;
            let known = hashes[(first_page as usize).min(hashes.len())..].iter().take(count);
            scans.push_back(scan_chunk(pipeline, source.clone(), page_size, known, first_page, count));
        }
        let Some(scan) = scans.pop_front() else { break };
        let scanned: pages::ScannedPages = limits.hold.explain(scan.await)?;
        context.cancel.check()?;
        limits.hold.check()?;
        check_wal_growth(pinned, limits.wal_growth_bytes_max)?;
        context.progress.advance(Stage::Scan, scanned.hashes.len() as u64);
        replace(&mut hashes, scanned.first_page as usize, &scanned.hashes);
        let (planned, free) = planner.push(scanned);
        pipeline.recycle(free);
        for blob in planned {
            encoding.put(pipeline, sink, held.as_mut(), blob).await?;
            limits.hold.check()?;
        }
    }
    context.progress.end(Stage::Scan);
    for blob in planner.finish() {
        encoding.put(pipeline, sink, held.as_mut(), blob).await?;
    }
    Ok(ReadPages { encoding, hashes, held })
}

impl ReadPages {
    /// Returns the folder that had no room for what has changed, if there was none: writers then waited until
    /// some of it was stored.
    pub fn full_folder(&self) -> Option<&Path> {
        self.held.as_ref().filter(|held| held.has_overflowed()).map(HeldPages::folder)
    }

    /// Stores what is not stored yet; the database is not needed any more.
    pub async fn store(mut self, pipeline: &Pipeline, sink: &mut BlobSink) -> Result<CapturedPages> {
        let context = pipeline.context();
        if let Some(held) = &mut self.held {
            self.encoding.push_held(pipeline, sink, held).await?;
        }
        while !self.encoding.waiting.is_empty() {
            self.encoding.pop(context, sink).await?;
        }
        context.progress.end(Stage::Pack);
        let mut captured = CapturedPages { hashes: self.hashes, ..self.encoding.captured };
        captured.runs.sort_by_key(|run| run.start_page);
        Ok(captured)
    }
}

/// A pin keeps the WAL from starting over; it must not fill the application's disk.
fn check_wal_growth(pinned: &PinnedDatabase, bytes_max: Option<u64>) -> Result<()> {
    let Some(bytes_max) = bytes_max else { return Ok(()) };
    let grew = pinned.wal_grew_bytes()?;
    if grew <= bytes_max {
        return Ok(());
    }
    let message = format!(
        "the capture was stopped: the write-ahead log of {} grew by {grew} bytes meanwhile, more than the \
         {bytes_max} that are allowed",
        pinned.path().display()
    );
    Err(Error::new(ErrorKind::Refused, message))
}

fn scan_chunk<'a>(
    pipeline: &Pipeline,
    source: PageSource,
    page_size: u32,
    known: impl Iterator<Item = &'a PageHash>,
    first_page: u64,
    page_count: usize,
) -> Task<pages::ScannedPages> {
    let (known, buffer): (Vec<PageHash>, _) = (known.copied().collect(), pipeline.buffer());
    pipeline.start(move |_| pages::scan(&source, first_page, page_count, page_size as usize, &known, buffer))
}

/// Puts hashes in their place among those of the parent, or behind them. Chunks come in their order, so
/// there is no gap.
fn replace(hashes: &mut Vec<PageHash>, first_page: usize, scanned: &[PageHash]) {
    let (within, beyond) = scanned.split_at(scanned.len().min(hashes.len() - first_page));
    hashes[first_page..][..within.len()].copy_from_slice(within);
    hashes.extend_from_slice(beyond);
}

impl Encoding {
    /// Keeps a blob for later where there is a place for that, with room in it; else begins to store it, after
    /// those before it.
    async fn put(
        &mut self,
        pipeline: &Pipeline,
        sink: &mut BlobSink,
        held: Option<&mut HeldPages>,
        blob: PlannedBlob,
    ) -> Result<()> {
        let Some(held) = held else { return self.push(pipeline, sink, blob).await };
        let Some(blob) = held.keep(pipeline, blob).await? else { return Ok(()) };
        self.push_held(pipeline, sink, held).await?;
        self.push(pipeline, sink, blob).await
    }

    /// Begins to store all that was kept, in its order.
    async fn push_held(
        &mut self,
        pipeline: &Pipeline,
        sink: &mut BlobSink,
        held: &mut HeldPages,
    ) -> Result<()> {
        loop {
            self.make_room(pipeline, sink, held.next_bytes()).await?;
            let Some((blob, reservation)) = held.next(pipeline).await? else { return Ok(()) };
            match reservation {
                Some(reservation) => self.start(pipeline, sink, blob, reservation),
                None => self.push(pipeline, sink, blob).await?,
            }
        }
    }

    async fn push(&mut self, pipeline: &Pipeline, sink: &mut BlobSink, blob: PlannedBlob) -> Result<()> {
        let raw_bytes = blob.raw.len() as u64;
        self.make_room(pipeline, sink, raw_bytes).await?;
        let reservation = pipeline.reserve(raw_bytes).await;
        self.start(pipeline, sink, blob, reservation);
        Ok(())
    }

    /// Waits until one more blob of this length may be under way.
    async fn make_room(&mut self, pipeline: &Pipeline, sink: &mut BlobSink, raw_bytes: u64) -> Result<()> {
        let context = pipeline.context();
        while self.waiting.len() >= self.capacity {
            self.pop(context, sink).await?;
        }
        // Nobody but this queue, and what was kept in front of it, holds reservations here: with both empty the
        // whole budget is free.
        while !self.waiting.is_empty() && !pipeline.has_room(raw_bytes) {
            self.pop(context, sink).await?;
        }
        Ok(())
    }

    fn start(&mut self, pipeline: &Pipeline, sink: &BlobSink, blob: PlannedBlob, reservation: Reservation) {
        let known = sink.known().clone();
        let task = pipeline.start(move |worker| encode(worker, &known, blob.raw));
        self.waiting.push_back(Underway { task, ranges: blob.ranges, reservation });
    }

    async fn pop(&mut self, context: &Context, sink: &mut BlobSink) -> Result<()> {
        let Some(Underway { task, ranges, reservation }) = self.waiting.pop_front() else { return Ok(()) };
        context.cancel.check()?;
        let encoded = task.await?;
        let (id, raw_bytes) = (encoded.id, encoded.raw_bytes);
        sink.take(encoded).await?;
        drop(reservation);
        context.progress.advance(Stage::Pack, raw_bytes);
        let next_index = self.captured.blobs.len() as u32;
        let blob_index = *self.indexes.entry(id).or_insert(next_index);
        if blob_index == next_index {
            self.captured.blobs.push(id);
        }
        let mut blob_offset = 0;
        for (start_page, pages) in ranges {
            self.captured.runs.push(Run { start_page, pages, blob_index, blob_offset });
            blob_offset += u64::from(pages) * u64::from(self.page_size);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_hashes_take_the_place_of_the_parents_and_go_on_behind_them() {
        let hash = |number: u8| PageHash::from_bytes([number; 16]);
        let mut hashes: Vec<PageHash> = (0..5).map(hash).collect();
        replace(&mut hashes, 0, &[hash(10), hash(11)]);
        assert_eq!(hashes, [10, 11, 2, 3, 4].map(hash));
        replace(&mut hashes, 2, &[hash(12), hash(13)]);
        replace(&mut hashes, 4, &[hash(14), hash(15)]);
        replace(&mut hashes, 6, &[hash(16)]);
        assert_eq!(hashes, [10, 11, 12, 13, 14, 15, 16].map(hash));
    }
}
