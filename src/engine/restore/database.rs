//! The database of a restore: every page checked against the page-hash map before it is written.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::plan::Plan;
use crate::archive::beneath::io_error;
use crate::archive::target::Target;
use crate::engine::Context;
use crate::engine::bulk::{self, BlobVisitor, PieceSink};
use crate::engine::pipeline::Pipeline;
use crate::format::pack::Entry;
use crate::format::{BlobId, PageHash, PageHashes, Run};
use crate::progress::{Progress, Stage, Unit};
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::{Error, ErrorKind, Result};

struct PageWriter {
    runs: HashMap<BlobId, Vec<Run>>,
    hashes: Arc<PageHashes>,
    file: File,
    path: PathBuf,
    progress: Arc<dyn Progress>,
}

/// Writes the database into the staging; returns the number of blobs that were read.
pub async fn write(
    context: &Context,
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    plan: &Plan,
    target: &Arc<Target>,
    name: &'static str,
) -> Result<u64> {
    context.progress.begin(Stage::Database, Unit::Pages, Some(plan.map.page_count()));
    let mut runs: HashMap<BlobId, Vec<Run>> = HashMap::new();
    for run in plan.map.runs() {
        runs.entry(plan.map.blob_of(run)).or_default().push(*run);
    }
    let database_bytes = plan
        .map
        .page_count()
        .checked_mul(u64::from(plan.map.page_size()))
        .ok_or_else(|| Error::new(ErrorKind::Damaged, "the database would have more than 2^64 bytes"))?;
    let (held, path) = (target.clone(), target.staged_path(name));
    let shown = path.clone();
    let file = pipeline
        .run(move |_| {
            let file = held.stage_file(name, 0o600)?;
            file.set_len(database_bytes).map_err(|error| io_error("size", &shown, error))?;
            Ok(file)
        })
        .await?;
    let ids: Vec<BlobId> = runs.keys().copied().collect();
    let count = ids.len() as u64;
    let (hashes, progress) = (plan.hashes.clone(), context.progress.clone());
    let writer = Arc::new(PageWriter { runs, hashes, file, path, progress });
    bulk::read(context, pipeline, store, ids, &writer).await?;
    context.progress.end(Stage::Database);
    Ok(count)
}

impl BlobVisitor for PageWriter {
    fn takes_pieces(&self, _: &BlobId) -> bool {
        false
    }

    fn whole(&self, entry: &Entry, raw: &[u8]) -> Result<()> {
        let page_size = self.hashes.page_size;
        for run in self.runs.get(&entry.id).into_iter().flatten() {
            if !run.fits(page_size, raw.len() as u64) {
                let message =
                    format!("page {} should lie in blob {}, which is too short", run.start_page, entry.id);
                return Err(Error::new(ErrorKind::Damaged, message));
            }
            let from = run.blob_offset as usize;
            let pages = &raw[from..from + run.pages as usize * page_size as usize];
            for (page, bytes) in (run.start_page..).zip(pages.chunks_exact(page_size as usize)) {
                if self.hashes.get(page) != Some(&PageHash::of(bytes)) {
                    let message =
                        format!("page {page} in blob {} is not what the page-hash map says", entry.id);
                    return Err(Error::new(ErrorKind::Damaged, message));
                }
            }
            self.file
                .write_all_at(pages, run.start_page * u64::from(page_size))
                .map_err(|error| io_error("write", &self.path, error))?;
            self.progress.advance(Stage::Database, u64::from(run.pages));
        }
        Ok(())
    }

    fn pieces(&self, entry: &Entry) -> Result<Box<dyn PieceSink>> {
        Err(Error::new(ErrorKind::Damaged, format!("blob {} is too large for pages", entry.id)))
    }

    fn failed(&self, failure: BlobFailure) -> Result<()> {
        Err(failure.into())
    }

    fn done(&self, _: &Entry) {}
}
