//! The database of a restore: staged, every page checked before it is written.

use std::sync::Arc;

use super::plan::Plan;
use crate::archive::beneath::io_error;
use crate::archive::target::Target;
use crate::engine::page_writer::PageWriter;
use crate::engine::pipeline::Pipeline;
use crate::engine::{Context, bulk};
use crate::progress::{Stage, Unit};
use crate::repo::blobs::BlobStore;
use crate::{Error, ErrorKind, Result};

/// Writes the database into the staging; returns the number of blobs that were read.
pub async fn write(
    context: &Context,
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    plan: &Plan,
    target: &Arc<Target>,
    name: String,
) -> Result<u64> {
    context.progress.begin(Stage::Database, Unit::Pages, Some(plan.map.page_count()));
    let database_bytes = plan
        .map
        .page_count()
        .checked_mul(u64::from(plan.map.page_size()))
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
    let writer = PageWriter::new(&plan.map, plan.map.runs(), plan.hashes.clone(), (file, path), watched);
    let blobs = writer.blobs();
    let count = blobs.len() as u64;
    bulk::read(context, pipeline, store, blobs, &Arc::new(writer)).await?;
    context.progress.end(Stage::Database);
    Ok(count)
}
