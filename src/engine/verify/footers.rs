//! The quick look: every needed pack is opened, and its footer must say of every needed blob what the index says.
//!
//! Of a pack only its ends are read, and its footer is given up as soon as it was compared, so that what is held at once
//! is bounded by the pipeline's budget and by number. What a footer says is judged by the same checker as what a full
//! verify reads: a blob that is not where the index says, or not as long as a list says, is the same finding.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};

use super::checks::Checker;
use crate::Result;
use crate::engine::bulk::{self, BlobVisitor};
use crate::engine::pipeline::Pipeline;
use crate::format::pack::{self, Entry};
use crate::format::{BlobId, PackId};
use crate::repo::blobs::BlobStore;

/// Packs that may be open at once.
const PACKS_IN_FLIGHT: usize = 16;

/// What a blob takes of memory while its pack is open: as the footer has it, opened where it is sealed, and decoded.
const ENTRY_BYTES: u64 = (2 * pack::ENTRY_BYTES + size_of::<Entry>() + size_of::<u32>()) as u64;

/// What an open pack takes beside its entries: what is read with a short footer.
const PACK_BYTES: u64 = 16 * 1024;

/// Compares what the index says of each blob with the footer of the pack in which it places it.
pub async fn compare(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    blobs: Vec<BlobId>,
    checker: &Checker,
) -> Result<()> {
    let groups = stream::iter(bulk::by_pack(store, blobs)).map(Ok);
    let comparing = groups.try_for_each_concurrent(PACKS_IN_FLIGHT, |blobs| async move {
        pipeline.context().cancel.check()?;
        match store.pack_of(&blobs[0]) {
            Some(pack) => of_pack(pipeline, store, pack, &blobs, checker).await,
            None => of_none(store, &blobs, checker).await,
        }
    });
    bulk::unless_cancelled(pipeline, comparing).await
}

async fn of_pack(
    pipeline: &Pipeline,
    store: &BlobStore,
    pack: PackId,
    blobs: &[BlobId],
    checker: &Checker,
) -> Result<()> {
    let entries = store.union().pack_entries(&pack);
    let _room = pipeline.reserve(PACK_BYTES + entries * ENTRY_BYTES).await;
    let opened = store.open_footer(&pack).await;
    for id in blobs {
        match store.locate_in(id, &opened).await {
            Ok((_, entry)) => checker.located(&entry)?,
            Err(failure) => {
                checker.failed(failure)?;
                store.looked_in_vain(id);
            }
        }
        checker.advance(1);
    }
    Ok(())
}

/// Says of blobs that no index names that none does.
async fn of_none(store: &BlobStore, blobs: &[BlobId], checker: &Checker) -> Result<()> {
    for id in blobs {
        if let Err(failure) = store.locate(id).await {
            checker.failed(failure)?;
        }
        checker.advance(1);
    }
    Ok(())
}
