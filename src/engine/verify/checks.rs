//! What the content of each blob must be, and the pass that reads every blob once to see.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::pages::{ExpectedPages, WrongPage};
use crate::engine::bulk::{BlobVisitor, NoSink, PieceSink};
use crate::engine::chain::Maps;
use crate::engine::report::ProblemKind;
use crate::format::pack::Entry;
use crate::format::{BlobId, PackId, Run};
use crate::progress::{Progress, Stage};
use crate::repo::blobs::BlobFailure;
use crate::{Error, Result};

/// A length that some object says a blob has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ExpectedBytes {
    bytes: i64,
    said_by: &'static str,
    /// The list or tree; `None` for the manifest.
    object: Option<BlobId>,
}

#[derive(Debug, Default)]
struct Expectation {
    /// Whether it was read and proved as part of the structure.
    read: bool,
    lengths: Vec<ExpectedBytes>,
    pages: Option<Box<ExpectedPages>>,
}

/// Everything that blobs must be.
#[derive(Debug, Default)]
pub struct Checks(HashMap<BlobId, Expectation>);

impl Checks {
    /// The blob must exist and be what its id says.
    pub fn expect(&mut self, id: BlobId) {
        self.0.entry(id).or_default();
    }

    /// The blob was read and proved already.
    pub fn was_read(&mut self, id: BlobId) {
        self.0.entry(id).or_default().read = true;
    }

    /// The blob must have this length.
    pub fn expect_bytes(&mut self, id: BlobId, bytes: i64, said_by: &'static str, object: Option<BlobId>) {
        let lengths = &mut self.0.entry(id).or_default().lengths;
        // Where several objects agree, the first one speaks for all.
        if !lengths.iter().any(|expected| expected.bytes == bytes) {
            lengths.push(ExpectedBytes { bytes, said_by, object });
        }
    }

    /// The pages of the run must hash to what the snapshot's page hashes say.
    pub fn expect_pages(&mut self, maps: &Maps, run: &Run) {
        let hashes = &maps.hashes.hashes[run.start_page as usize..][..run.pages as usize];
        let expectation = self.0.entry(maps.map.blob_of(run)).or_default();
        expectation.pages.get_or_insert_default().add(run, maps.map.page_size(), hashes);
    }

    /// Returns about how many bytes of memory the checks take.
    pub fn table_bytes(&self) -> u64 {
        let entry_bytes = size_of::<BlobId>() + size_of::<Expectation>() + 1;
        let table_bytes = self.0.capacity() * 8 / 7 * entry_bytes;
        let besides = self.0.values().map(|expectation| {
            let pages = expectation.pages.as_ref().map_or(0, |pages| pages.table_bytes());
            expectation.lengths.capacity() * size_of::<ExpectedBytes>() + pages
        });
        (table_bytes + besides.sum::<usize>()) as u64
    }

    /// Returns every blob.
    pub fn blobs(&self) -> impl Iterator<Item = BlobId> {
        self.0.keys().copied()
    }

    /// Tells whether a snapshot that is checked needs the blob.
    pub fn has(&self, id: &BlobId) -> bool {
        self.0.contains_key(id)
    }

    /// Returns the blobs whose content has not been read.
    pub fn unread(&self) -> Vec<BlobId> {
        let needs_reading = |expectation: &Expectation| {
            !expectation.read || expectation.pages.is_some() || !expectation.lengths.is_empty()
        };
        self.0.iter().filter(|(_, expectation)| needs_reading(expectation)).map(|(id, _)| *id).collect()
    }
}

/// Something wrong with a blob, not yet laid to the snapshots that suffer from it.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The blob.
    pub blob: BlobId,
    /// Where it lies, if it can be found at all.
    pub pack: Option<PackId>,
    /// What is wrong.
    pub fault: Fault,
}

impl Finding {
    /// Returns what kind of problem it is.
    pub fn kind(&self) -> ProblemKind {
        match &self.fault {
            Fault::Unreadable(_, kind) => *kind,
            Fault::Length(..) | Fault::Page(_) => ProblemKind::Damaged,
        }
    }
}

/// What can be wrong with a blob.
#[derive(Debug, Clone)]
pub enum Fault {
    /// It cannot be had, or is not what its id says.
    Unreadable(String, ProblemKind),
    /// It has not the length that this object says; `None` for manifests.
    Length(Option<BlobId>, String),
    /// A page in it is not what a page-hash map says.
    Page(WrongPage),
}

/// Reads blobs and collects findings.
pub struct Checker {
    checks: Checks,
    progress: Arc<dyn Progress>,
    findings: Mutex<Vec<Finding>>,
    stored_bytes: AtomicU64,
}

impl Checker {
    /// Makes a checker.
    pub fn new(checks: Checks, progress: Arc<dyn Progress>) -> Self {
        Self { checks, progress, findings: Mutex::default(), stored_bytes: AtomicU64::new(0) }
    }

    /// Returns what is checked.
    pub fn checks(&self) -> &Checks {
        &self.checks
    }

    /// Returns the stored bytes read so far.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes.load(Ordering::Relaxed)
    }

    /// Says that so many blobs are done with.
    pub fn advance(&self, blobs: u64) {
        self.progress.advance(Stage::Blobs, blobs);
    }

    /// Adds a finding.
    pub fn find(&self, finding: Finding) {
        self.findings.lock().expect("no holder of the findings panics").push(finding);
    }

    /// Returns the findings, in an order that does not depend on which worker was first.
    pub fn take_findings(&self) -> Vec<Finding> {
        let mut findings =
            std::mem::take(&mut *self.findings.lock().expect("no holder of the findings panics"));
        findings.sort_by_key(|finding| (finding.pack, finding.blob));
        findings
    }
}

impl BlobVisitor for Checker {
    fn takes_pieces(&self, id: &BlobId) -> bool {
        self.checks.0.get(id).is_none_or(|expectation| expectation.pages.is_none())
    }

    fn located(&self, entry: &Entry) -> Result<()> {
        let Some(expectation) = self.checks.0.get(&entry.id) else { return Ok(()) };
        for expected in &expectation.lengths {
            if i64::try_from(entry.raw_bytes) != Ok(expected.bytes) {
                let detail = format!(
                    "{} says it has {} bytes, it has {}",
                    expected.said_by, expected.bytes, entry.raw_bytes
                );
                let fault = Fault::Length(expected.object, detail);
                self.find(Finding { blob: entry.id, pack: None, fault });
            }
        }
        Ok(())
    }

    fn whole(&self, entry: &Entry, raw: &[u8]) -> Result<()> {
        let pages = self.checks.0.get(&entry.id).and_then(|expectation| expectation.pages.as_ref());
        for wrong in pages.map(|pages| pages.check(raw)).unwrap_or_default() {
            self.find(Finding { blob: entry.id, pack: None, fault: Fault::Page(wrong) });
        }
        Ok(())
    }

    fn pieces(&self, _: &Entry) -> Result<Box<dyn PieceSink>> {
        Ok(Box::new(NoSink))
    }

    fn failed(&self, failure: BlobFailure) -> Result<()> {
        if super::is_fatal(&failure.error) {
            return Err(Error::from(failure));
        }
        let fault = Fault::Unreadable(failure.error.chain(), ProblemKind::of(&failure.error));
        self.find(Finding { blob: failure.blob, pack: failure.pack, fault });
        Ok(())
    }

    fn done(&self, entry: &Entry) {
        self.stored_bytes.fetch_add(entry.stored_bytes, Ordering::Relaxed);
        self.advance(1);
    }
}
