//! The extra files of a capture, and the tree that names them (section 5).

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::sink::{BlobSink, EncodedBlob, encode};
use crate::archive::content::Content;
use crate::archive::extras::{ExtrasSource, FoundExtra, find};
use crate::engine::Context;
use crate::engine::pipeline::Pipeline;
use crate::format::{ExtrasEntry, extras_tree};
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// Larger extra files are refused; they are read whole.
const EXTRA_BYTES_MAX: u64 = 1 << 28;

/// Reads and stores every extra file; returns the tree's id, if there is a file, and their number.
pub async fn capture(
    context: &Context,
    pipeline: &Pipeline,
    sink: &mut BlobSink,
    sources: Vec<ExtrasSource>,
) -> Result<(Option<String>, u64)> {
    let found = pipeline.run(move |_| find(&sources)).await?;
    context.progress.begin(Stage::Extras, Unit::Items, Some(found.len() as u64));
    let mut entries = Vec::with_capacity(found.len());
    for extra in found {
        context.cancel.check()?;
        let known = sink.known().clone();
        let extra = Arc::new(extra);
        let read = extra.clone();
        let (encoded, mode): (EncodedBlob, u32) = pipeline
            .run(move |worker| {
                let (raw, mode) = read_whole(&read)?;
                Ok((encode(worker, &known, raw)?, mode))
            })
            .await?;
        let (path, size, blob) = (extra.recorded.clone(), encoded.raw_bytes, encoded.id);
        entries.push(ExtrasEntry { path, mode, size, blob });
        sink.take(encoded).await?;
        context.progress.advance(Stage::Extras, 1);
    }
    let tree = match entries.len() {
        0 => None,
        _ => Some(sink.store(extras_tree::encode(&entries)).await?.to_string()),
    };
    context.progress.end(Stage::Extras);
    Ok((tree, entries.len() as u64))
}

fn read_whole(extra: &FoundExtra) -> Result<(Vec<u8>, u32)> {
    let (file, stat) = extra.open()?;
    let mode = stat.st_mode & 0o777;
    let length = file.metadata().map_or(0, |metadata| metadata.size());
    if length > EXTRA_BYTES_MAX {
        let message = format!("{} has {length} bytes, too many for an extra file", extra.path.display());
        return Err(Error::new(ErrorKind::Source, message));
    }
    let mut content = Content::from_file(file, stat, extra.path.clone());
    let mut raw = vec![0; content.raw_bytes() as usize];
    content.read(&mut raw)?;
    content.finish()?;
    Ok((raw, mode))
}
