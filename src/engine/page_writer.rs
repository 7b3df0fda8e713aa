//! Putting database pages from blobs where they belong, each checked against the page-hash map first.

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::bulk::{BlobVisitor, PieceSink};
use crate::archive::sparse;
use crate::error::lift::io_error;
use crate::format::pack::Entry;
use crate::format::{BlobId, PageHash, PageHashes, PageMap, Run};
use crate::progress::{Progress, Stage};
use crate::repo::blobs::BlobFailure;
use crate::{Error, ErrorKind, Result};

/// Takes consecutive pages that were checked, from this offset of the database on.
pub type PutPages = Box<dyn Fn(u64, &[u8]) -> Result<()> + Send + Sync>;

/// Returns what writes pages to a file, which must have its length already.
pub fn into_file(file: File, path: PathBuf) -> PutPages {
    Box::new(move |offset, pages| {
        sparse::write_at(&file, pages, offset).map_err(|error| io_error("write", &path, error))
    })
}

/// Puts the pages of every blob it visits where they belong.
pub struct PageWriter {
    runs: HashMap<BlobId, Vec<Run>>,
    hashes: Arc<PageHashes>,
    put: PutPages,
    progress: Arc<dyn Progress>,
    stage: Stage,
}

impl PageWriter {
    /// Makes a writer for the given runs of a map.
    pub fn new<'a>(
        map: &PageMap,
        runs: impl IntoIterator<Item = &'a Run>,
        hashes: Arc<PageHashes>,
        put: PutPages,
        (progress, stage): (Arc<dyn Progress>, Stage),
    ) -> Self {
        let mut by_blob: HashMap<BlobId, Vec<Run>> = HashMap::new();
        for run in runs {
            by_blob.entry(map.blob_of(run)).or_default().push(*run);
        }
        Self { runs: by_blob, hashes, put, progress, stage }
    }

    /// Returns the blobs that are wanted.
    pub fn blobs(&self) -> Vec<BlobId> {
        self.runs.keys().copied().collect()
    }

    fn write_run(&self, run: &Run, blob: &BlobId, raw: &[u8]) -> Result<()> {
        let page_size = self.hashes.page_size;
        if !run.fits(page_size, raw.len() as u64) {
            let message = format!("page {} should lie in blob {blob}, which is too short", run.start_page);
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        let from = run.blob_offset as usize;
        let pages = &raw[from..from + run.pages as usize * page_size as usize];
        for (page, bytes) in (run.start_page..).zip(pages.chunks_exact(page_size as usize)) {
            if self.hashes.get(page) != Some(&PageHash::of(bytes)) {
                let message = format!("page {page} in blob {blob} is not what the page-hash map says");
                return Err(Error::new(ErrorKind::Damaged, message));
            }
        }
        (self.put)(run.start_page * u64::from(page_size), pages)?;
        self.progress.advance(self.stage, u64::from(run.pages));
        Ok(())
    }
}

impl BlobVisitor for PageWriter {
    fn takes_pieces(&self, _: &BlobId) -> bool {
        false
    }

    fn whole(&self, entry: &Entry, raw: &[u8]) -> Result<()> {
        let runs = self.runs.get(&entry.id).into_iter().flatten();
        runs.into_iter().try_for_each(|run| self.write_run(run, &entry.id, raw))
    }

    fn pieces(&self, entry: &Entry) -> Result<Box<dyn PieceSink>> {
        Err(Error::new(ErrorKind::Damaged, format!("blob {} is too large for pages", entry.id)))
    }

    fn failed(&self, failure: BlobFailure) -> Result<()> {
        Err(failure.into())
    }

    fn done(&self, _: &Entry) {}
}
