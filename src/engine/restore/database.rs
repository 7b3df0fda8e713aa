//! The database of a restore: staged, every page checked before it is written.

use std::sync::Arc;

use super::plan::PlannedPages;
use crate::archive::target::Target;
use crate::engine::bulk;
use crate::engine::page_writer::{PageWriter, into_file};
use crate::engine::pipeline::Pipeline;
use crate::error::lift::io_error;
use crate::progress::{Stage, Unit};
use crate::repo::blobs::BlobStore;
use crate::{Error, ErrorKind, Result};

/// Writes the database into the staging; returns the number of blobs that were read.
pub async fn write(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    pages: &PlannedPages,
    target: &Arc<Target>,
    name: String,
) -> Result<u64> {
    let context = pipeline.context();
    context.progress.begin(Stage::Database, Unit::Pages, Some(pages.map.page_count()));
    let database_bytes = pages
        .map
        .page_count()
        .checked_mul(u64::from(pages.map.page_size()))
        .ok_or_else(|| Error::new(ErrorKind::Damaged, "the database would have more than 2^64 bytes"))?;
    let (held, path) = (target.clone(), target.staged_path(&name));
    let shown = path.clone();
    let file = pipeline
        .run(move |_| {
            let file = held.stage_file(&name, 0o600)?;
            file.set_len(database_bytes).map_err(|error| io_error("size", &shown, error))?;
            Ok(file)
        })
        .await?;
    let watched = (context.progress.clone(), Stage::Database);
    let put = into_file(file, path);
    let writer = PageWriter::new(&pages.map, pages.map.runs(), pages.hashes.clone(), put, watched);
    let blobs = writer.blobs();
    let count = blobs.len() as u64;
    bulk::read(pipeline, store, blobs, &Arc::new(writer)).await?;
    context.progress.end(Stage::Database);
    Ok(count)
}
