//! The pages of a snapshot's database, read where they lie: whole blobs, each checked against its id, and of them the
//! pages that are wanted, each checked against the page-hash map.
//!
//! Blobs that were decoded are kept, so many bytes of them, the most recently used. Who reads on and on in one
//! direction has what follows fetched ahead, in more and more bytes, with few requests: blobs that lie together in a
//! pack come together. Who wants all pages has them window by window, and each blob is read once for a window, however
//! its pages are scattered.
//!
//! A hostile blob may be large, and one page of it wanted: what is fetched ahead is counted in blobs too, and given up
//! where they hold much more than what was wanted of them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::kept::{Blob, KEPT_BYTES_MAX, Kept, SharedKept};
use super::output::{Output, hand_out};
use crate::engine::bulk::{self, BlobVisitor, PieceSink};
use crate::engine::page_writer::PageWriter;
use crate::engine::pipeline::{Pipeline, Task};
use crate::format::pack::Entry;
use crate::format::{BlobId, PageHash, PageHashes, PageMap, Run};
use crate::progress::{Stage, Unit};
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::{Error, ErrorKind, Result};

/// What is fetched ahead at the most; at first it is the smaller one.
const AHEAD_BYTES_MAX: u64 = 16 * 1024 * 1024;
const AHEAD_BYTES_MIN: u64 = 512 * 1024;
/// Whoever goes on from where he was, or skips no more pages than this, reads in one direction.
const SKIPPED_PAGES_MAX: u64 = 256;
/// Blobs that are fetched ahead at once.
const AHEAD_BLOBS_MAX: usize = 64;
/// Runs that are looked at to see what follows.
const LOOK_RUNS_MAX: usize = 4096;
/// Pages that are handed out together; as many that follow them are read meanwhile.
const WINDOW_BYTES: u64 = 32 * 1024 * 1024;

/// Reads pages; clones share what is kept.
#[derive(Clone)]
pub struct PageReader(Arc<Shared>);

struct Shared {
    pipeline: Pipeline,
    store: Arc<BlobStore>,
    map: PageMap,
    hashes: Arc<PageHashes>,
    kept: SharedKept,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many bytes are fetched ahead; 0 where nobody reads in one direction.
    ahead_bytes: u64,
    /// Whether nothing is fetched ahead any more, for the blobs hold much that nobody wants.
    stays: bool,
    /// The page behind the last one that was asked for.
    next_page: u64,
    /// The page behind the last one that was fetched ahead.
    ahead_page: u64,
    /// What is being fetched ahead.
    under_way: Option<(HashSet<BlobId>, Task<()>)>,
}

/// Consecutive pages that were checked.
#[derive(Debug, Clone)]
pub struct Pages {
    blob: Blob,
    from: usize,
    bytes: usize,
}

impl AsRef<[u8]> for Pages {
    fn as_ref(&self) -> &[u8] {
        &self.blob[self.from..self.from + self.bytes]
    }
}

impl PageReader {
    /// Makes a reader over maps that were found to fit each other and to map every page.
    pub(in crate::engine) fn new(
        pipeline: Pipeline,
        store: Arc<BlobStore>,
        map: PageMap,
        hashes: Arc<PageHashes>,
    ) -> Result<Self> {
        Self::sharing(SharedKept::default(), pipeline, store, (map, hashes))
    }

    /// The same with what other readers of the repository keep.
    pub(super) fn sharing(
        kept: SharedKept,
        pipeline: Pipeline,
        store: Arc<BlobStore>,
        (map, hashes): (PageMap, Arc<PageHashes>),
    ) -> Result<Self> {
        if map
            .page_count()
            .checked_mul(u64::from(map.page_size()))
            .is_none_or(|bytes| bytes > i64::MAX as u64)
        {
            return Err(Error::new(ErrorKind::Damaged, "the database would have more than 2^63 bytes"));
        }
        Ok(Self(Arc::new(Shared { pipeline, store, map, hashes, kept, state: Mutex::default() })))
    }

    /// Returns the bytes of a page.
    pub fn page_size(&self) -> u64 {
        u64::from(self.0.map.page_size())
    }

    /// Returns how many pages there are.
    pub fn page_count(&self) -> u64 {
        self.0.map.page_count()
    }

    /// Returns the length of the database.
    pub fn bytes(&self) -> u64 {
        self.page_count() * self.page_size()
    }

    /// Returns what its tables have: a page hash for each page, and some for each run.
    pub(super) fn table_bytes(&self) -> u64 {
        self.page_count().saturating_mul(16)
    }

    /// Returns where the pages lie.
    pub fn map(&self) -> &PageMap {
        &self.0.map
    }

    /// Returns what the pages hash to.
    pub fn hashes(&self) -> &PageHashes {
        &self.0.hashes
    }

    /// Fills the buffer from this offset on, which must lie within the database with all of the buffer.
    pub async fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let page_size = self.page_size();
        let mut filled = 0;
        while filled < buffer.len() {
            let at = offset.saturating_add(filled as u64);
            let (page, into) = (at / page_size, (at % page_size) as usize);
            let pages_max = ((buffer.len() - filled + into) as u64).div_ceil(page_size);
            let pages = self.pages(page, pages_max).await?;
            let from = &pages.as_ref()[into..];
            let count = from.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&from[..count]);
            filled += count;
        }
        Ok(())
    }

    /// Returns at least one page, and as many more of those that follow as lie with it, so many at most.
    pub async fn pages(&self, page: u64, pages_max: u64) -> Result<Pages> {
        let shared = &self.0;
        let Some(run) = shared.map.rest_of_run(page) else {
            let message = format!("the database has {} pages, and no page {page}", self.page_count());
            return Err(Error::new(ErrorKind::Damaged, message));
        };
        let run = Run { pages: run.pages.min(u32::try_from(pages_max.max(1)).unwrap_or(u32::MAX)), ..run };
        let id = shared.map.blob_of(&run);
        let blob = shared.blob(page, id).await?;
        shared.state().next_page = run.end_page();
        shared.checked(&run, &id, blob)
    }

    /// Hands all pages out in their order.
    pub async fn copy(&self, output: &Arc<dyn Output>) -> Result<()> {
        let context = self.0.pipeline.context();
        context.progress.begin(Stage::Database, Unit::Pages, Some(self.page_count()));
        let mut window = self.window(0).await?;
        while let Some((pages, end)) = window {
            context.cancel.check()?;
            let handed = hand_out(&self.0.pipeline, output, pages);
            let (handed, next) = tokio::join!(handed, self.window(end));
            handed?;
            window = next?;
        }
        context.progress.end(Stage::Database);
        Ok(())
    }

    /// Reads the pages of a window, and returns them with the page behind the last; `None` at the end.
    async fn window(&self, start: u64) -> Result<Option<(Vec<u8>, u64)>> {
        let shared = &self.0;
        let pages_max = (WINDOW_BYTES / self.page_size()).max(1);
        let end = start.saturating_add(pages_max).min(self.page_count());
        if start >= end {
            return Ok(None);
        }
        let filled = Arc::new(Mutex::new(vec![0; ((end - start) * self.page_size()) as usize]));
        let (into, first) = (Arc::clone(&filled), start * self.page_size());
        let put = move |offset: u64, pages: &[u8]| {
            let at = (offset - first) as usize;
            into.lock().unwrap_or_else(PoisonError::into_inner)[at..at + pages.len()].copy_from_slice(pages);
            Ok(())
        };
        let runs = shared.runs_of(start..end);
        let watched = (shared.pipeline.context().progress.clone(), Stage::Database);
        let writer = PageWriter::new(&shared.map, &runs, shared.hashes.clone(), Box::new(put), watched);
        let blobs = writer.blobs();
        bulk::read(&shared.pipeline, &shared.store, blobs, &Arc::new(writer)).await?;
        let pages = std::mem::take(&mut *filled.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Some((pages, end)))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keeping(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the runs of these pages, cut where they reach across the ends.
    fn runs_of(&self, pages: Range<u64>) -> Vec<Run> {
        let runs = self.map.runs_from(pages.start).take_while(|run| run.start_page < pages.end);
        let cut = runs.filter_map(|run| {
            let rest = self.map.rest_of_run(run.start_page.max(pages.start))?;
            let left = u32::try_from(pages.end - rest.start_page).unwrap_or(u32::MAX);
            Some(Run { pages: rest.pages.min(left), ..rest })
        });
        cut.collect()
    }

    /// Checks every page of a run.
    fn checked(&self, run: &Run, id: &BlobId, blob: Blob) -> Result<Pages> {
        let page_size = self.map.page_size() as usize;
        if !run.fits(self.map.page_size(), blob.len() as u64) {
            let message = format!("page {} should lie in blob {id}, which is too short", run.start_page);
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        let (from, bytes) = (run.blob_offset as usize, run.pages as usize * page_size);
        for (page, bytes) in (run.start_page..).zip(blob[from..from + bytes].chunks_exact(page_size)) {
            if self.hashes.get(page) != Some(&PageHash::of(bytes)) {
                let message = format!("page {page} in blob {id} is not what the page-hash map says");
                return Err(Error::new(ErrorKind::Damaged, message));
            }
        }
        Ok(Pages { blob, from, bytes })
    }

    /// Returns the blob in which a page lies.
    async fn blob(self: &Arc<Self>, page: u64, id: BlobId) -> Result<Blob> {
        self.turn(page);
        if let Some(blob) = self.kept(&id) {
            self.go_ahead(page);
            return Ok(blob);
        }
        let under_way = self.state().under_way.take_if(|(ids, _)| ids.contains(&id));
        if let Some((_, task)) = under_way {
            // What it could not fetch is fetched again, and then its failure is ours.
            let _ = task.await;
            if let Some(blob) = self.kept(&id) {
                self.go_ahead(page);
                return Ok(blob);
            }
        }
        let ahead_bytes = self.state().ahead_bytes;
        let (following, ahead_page) = self.following(page, ahead_bytes);
        let found = self.fill(Some(id), following).await?;
        self.state().ahead_page = ahead_page;
        match found {
            Some(Ok(blob)) => Ok(blob),
            Some(Err(failure)) => Err(failure.into()),
            None => Err(Error::new(ErrorKind::Io, format!("blob {id} was not read"))),
        }
    }

    fn kept(&self, id: &BlobId) -> Option<Blob> {
        self.keeping().get(id)
    }

    /// Decides whether the reader goes in one direction, by the page that is asked for.
    fn turn(&self, page: u64) {
        let mut state = self.state();
        let next = state.next_page;
        if state.stays || page < next.saturating_sub(1) || page > next.saturating_add(SKIPPED_PAGES_MAX) {
            state.ahead_bytes = 0;
        } else if page >= next && next > 0 && page >= state.ahead_page {
            state.ahead_bytes = (state.ahead_bytes * 2).clamp(AHEAD_BYTES_MIN, AHEAD_BYTES_MAX);
        }
    }

    /// Begins to fetch what follows when half of what was fetched ahead is used up.
    fn go_ahead(self: &Arc<Self>, page: u64) {
        let (ahead_bytes, ahead_page) = {
            let mut state = self.state();
            // What it fetched is kept now, or is fetched again when it is asked for.
            state.under_way.take_if(|(_, task)| task.has_ended());
            if state.under_way.is_some() {
                return;
            }
            (state.ahead_bytes, state.ahead_page)
        };
        let half = ahead_bytes / 2 / u64::from(self.map.page_size());
        if half == 0 || page > ahead_page || page.saturating_add(half) < ahead_page {
            return;
        }
        let (following, next) = self.following(ahead_page, ahead_bytes);
        if following.is_empty() {
            return;
        }
        let mut state = self.state();
        state.ahead_bytes = (ahead_bytes * 2).min(AHEAD_BYTES_MAX);
        state.ahead_page = next;
        let (own, wanted) = (Arc::clone(self), following.clone());
        let task = self.pipeline.fetch(async move { own.fill(None, wanted).await.map(drop) });
        state.under_way = Some((following, task));
    }

    /// Returns the blobs of so many bytes of pages from this one on, those that are kept left out, and the page behind
    /// the last.
    fn following(&self, page: u64, bytes_max: u64) -> (HashSet<BlobId>, u64) {
        let (mut found, mut bytes, mut end) = (HashSet::new(), 0_u64, page);
        if bytes_max == 0 {
            return (found, self.map.rest_of_run(page).map_or(page, |run| run.end_page()));
        }
        let kept = self.keeping();
        for run in self.map.runs_from(page).take(LOOK_RUNS_MAX) {
            bytes = bytes.saturating_add(u64::from(run.pages) * u64::from(self.map.page_size()));
            if found.len() >= AHEAD_BLOBS_MAX || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            end = run.end_page();
            let id = self.map.blob_of(run);
            if !kept.has(&id) {
                found.insert(id);
            }
        }
        (found, end)
    }

    /// Reads blobs to be kept; returns the one that is wanted now, or why it cannot be had.
    async fn fill(
        self: &Arc<Self>,
        wanted: Option<BlobId>,
        ahead: HashSet<BlobId>,
    ) -> Result<Option<std::result::Result<Blob, BlobFailure>>> {
        let ids: HashSet<BlobId> = ahead.into_iter().chain(wanted).collect();
        let filling = Arc::new(Filling { shared: Arc::clone(self), wanted, found: Mutex::default() });
        bulk::read(&self.pipeline, &self.store, ids, &filling).await?;
        let mut found = filling.found();
        Ok(found.answer.take().or_else(|| found.over.take().map(Err)))
    }
}

/// Blobs on their way to be kept.
struct Filling {
    shared: Arc<Shared>,
    wanted: Option<BlobId>,
    found: Mutex<Found>,
}

/// What came of the blob that is wanted, and the bytes of the others.
#[derive(Default)]
struct Found {
    answer: Option<std::result::Result<Blob, BlobFailure>>,
    /// Why the reading of a pack ended before all that is wanted of it was looked for.
    over: Option<BlobFailure>,
    others_bytes: u64,
}

impl Filling {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what was fetched ahead, unless it is more than can be kept: then it would push out what was asked for.
    fn ahead(&self, id: BlobId, raw: &[u8]) {
        let bytes = {
            let mut found = self.found();
            found.others_bytes = found.others_bytes.saturating_add(raw.len() as u64);
            found.others_bytes
        };
        if bytes > KEPT_BYTES_MAX / 2 {
            let mut state = self.shared.state();
            (state.stays, state.ahead_bytes) = (true, 0);
        } else {
            self.shared.keeping().put(id, Arc::new(raw.to_vec()));
        }
    }
}

impl BlobVisitor for Filling {
    fn takes_pieces(&self, _: &BlobId) -> bool {
        false
    }

    fn whole(&self, entry: &Entry, raw: &[u8]) -> Result<()> {
        if self.wanted != Some(entry.id) {
            self.ahead(entry.id, raw);
            return Ok(());
        }
        let blob = Arc::new(raw.to_vec());
        self.shared.keeping().put(entry.id, blob.clone());
        self.found().answer = Some(Ok(blob));
        Ok(())
    }

    fn pieces(&self, entry: &Entry) -> Result<Box<dyn PieceSink>> {
        Err(Error::new(ErrorKind::Damaged, format!("blob {} is too large for pages", entry.id)))
    }

    /// What is fetched ahead and cannot be had may never be asked for.
    fn failed(&self, failure: BlobFailure) -> Result<()> {
        if self.wanted == Some(failure.blob) {
            self.found().answer = Some(Err(failure));
        } else if failure.error.is_no_finding() {
            self.found().over = Some(failure);
        }
        Ok(())
    }

    fn done(&self, _: &Entry) {}
}
