//! Packs on their way: whole and under their ids where every frame is sound, and what is needed of the others.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt, stream};

use super::Places;
use super::plan::{Missing, Plan};
use crate::Result;
use crate::engine::Context;
use crate::engine::bulk::BlobVisitor as _;
use crate::engine::bulk::carry::{Carrier, Damage};
use crate::engine::verify::checks::Checker;
use crate::format::pack::{self, Entry};
use crate::format::{BlobId, IndexEntry, IndexId, PackId};
use crate::progress::{Stage, Unit};
use crate::repo::blobs::BlobFailure;
use crate::repo::locks::Watch;
use crate::repo::packs::{PackWriter, WrittenPacks, is_taken};

/// Packs under way at once. Bytes are bounded by the pipeline, and an open pack takes little more.
const PACKS_IN_FLIGHT: usize = 8;

/// Entries of one index: it is published when it has so many, which bounds what is kept in memory.
const INDEX_ENTRIES_MAX: usize = 500_000;

/// What was written into the target.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    pub(super) packs: u64,
    pub(super) blobs: u64,
    /// Stored bytes of the blobs.
    pub(super) bytes: u64,
    /// What the user should know.
    pub(super) remarks: Vec<String>,
}

/// What came of one pack.
enum Outcome {
    /// It is in the target now.
    Written(Vec<IndexEntry>),
    /// It was there, and no index named it.
    Found(Vec<IndexEntry>),
    /// It cannot be copied as it is; these blobs of it are wanted.
    InPieces(Vec<BlobId>, Why),
}

/// Why a pack is not copied as it is.
enum Why {
    /// It is damaged in the source.
    Damaged(PackId),
    /// The target has something else under its id.
    Taken(PackId),
    /// No program writes such a pack any more.
    Crowded,
}

/// Carries packs from the source into the target.
pub(super) struct Transfer<'a> {
    places: &'a Places<'a>,
    plan: &'a Plan<'a>,
    watch: &'a Watch<'a>,
    context: &'a Context,
    carrier: Carrier<'a, Checker>,
}

impl<'a> Transfer<'a> {
    /// Makes a transfer under the target's lock.
    pub(super) fn new(
        places: &'a Places<'a>,
        plan: &'a Plan<'a>,
        watch: &'a Watch<'a>,
        context: &'a Context,
    ) -> Self {
        let carrier =
            Carrier::new(&plan.pipeline, &plan.source.store, places.target.sealing(), &plan.checker);
        Self { places, plan, watch, context, carrier }
    }

    /// Copies what is missing, and publishes the indexes of it.
    pub(super) async fn run(&self, missing: Missing) -> Result<Written> {
        let blobs = missing.by_pack.values().map(Vec::len).sum::<usize>() + missing.unnamed.len();
        self.context.progress.begin(Stage::Blobs, Unit::Items, Some(blobs as u64));
        let outcome = self.copy_all(missing).await;
        // Nothing may still be under way when the lock is given back.
        self.plan.pipeline.quiesce().await;
        self.context.progress.end(Stage::Blobs);
        outcome
    }

    async fn copy_all(&self, missing: Missing) -> Result<Written> {
        for blob in missing.unnamed {
            self.plan.checker.failed(Missing::failure(blob))?;
        }
        let (mut written, mut entries, mut in_pieces) = (Written::default(), Vec::new(), Vec::new());
        let packs = stream::iter(missing.by_pack).map(|(id, wanted)| self.pack(id, wanted));
        let mut packs = std::pin::pin!(packs.buffer_unordered(PACKS_IN_FLIGHT));
        // A pack that is under way is not dropped: it may be becoming durable, and the lock must outlive that.
        let mut failed = None;
        while let Some(outcome) = packs.next().await {
            let taken = match outcome {
                Ok(Outcome::Written(new)) => {
                    written.take(&new, &mut entries);
                    Ok(())
                }
                Ok(Outcome::Found(found)) => {
                    entries.extend(found);
                    Ok(())
                }
                Ok(Outcome::InPieces(blobs, why)) => {
                    written.remarks.extend(why.told());
                    in_pieces.extend(blobs);
                    Ok(())
                }
                Err(error) => Err(error),
            };
            let taken = match entries.len() >= INDEX_ENTRIES_MAX && taken.is_ok() && failed.is_none() {
                true => self.publish(std::mem::take(&mut entries)).await,
                false => taken,
            };
            if let Err(error) = taken {
                self.carrier.stop();
                // The first one says why.
                failed.get_or_insert(error);
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let mut writer = PackWriter::new(self.places.target.clone());
        match self.pieces(in_pieces, &mut writer).await {
            Ok(new) => written.take(&new.entries, &mut entries),
            Err(error) => {
                writer.abandon().await;
                return Err(error);
            }
        }
        self.publish(entries).await?;
        Ok(written)
    }

    async fn publish(&self, entries: Vec<IndexEntry>) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        self.watch.confirm_now().await?;
        let id = IndexId::from_ulid(self.places.target.ulids().next());
        self.places.target.publish_index(&id, entries).await
    }

    /// Copies one pack as it is, if that can be.
    async fn pack(&self, id: PackId, wanted: Vec<BlobId>) -> Result<Outcome> {
        self.carrier.check()?;
        let entries = match self.plan.source.store.entries_of(&id).await {
            Ok(entries) => entries,
            Err(error) if error.is_no_finding() => return Err(error),
            Err(_) => return Ok(Outcome::InPieces(wanted, Why::Damaged(id))),
        };
        let held: HashSet<BlobId> = entries.iter().map(|entry| entry.id).collect();
        if entries.len() > pack::ENTRIES_MAX || !wanted.iter().all(|blob| held.contains(blob)) {
            return Ok(Outcome::InPieces(wanted, Why::Crowded));
        }
        if self.plan.target.store.is_there(&id) {
            return self.found(id, &entries, wanted).await;
        }
        let is_wanted: HashSet<&BlobId> = wanted.iter().collect();
        entries
            .iter()
            .filter(|entry| is_wanted.contains(&entry.id))
            .try_for_each(|entry| self.plan.checker.located(entry))?;
        self.watch.confirm().await?;
        let mut writer = PackWriter::of_one_pack(self.places.target.clone(), id);
        let carried = match self.carrier.append(id, entries, Damage::Stop, &mut writer).await {
            Ok(failures) if failures.is_empty() => writer.finish().await.map(Some),
            Ok(_) => Ok(None),
            Err(error) => Err(error),
        };
        match carried {
            Ok(Some(WrittenPacks { entries, .. })) => Ok(Outcome::Written(entries)),
            Ok(None) => {
                writer.abandon().await;
                Ok(Outcome::InPieces(wanted, Why::Damaged(id)))
            }
            Err(error) if is_taken(&error) => {
                writer.abandon().await;
                Ok(Outcome::InPieces(wanted, Why::Taken(id)))
            }
            Err(error) => {
                writer.abandon().await;
                Err(error)
            }
        }
    }

    /// Takes a pack that the target has already: one that an earlier copy left without an index.
    async fn found(&self, id: PackId, entries: &[Entry], wanted: Vec<BlobId>) -> Result<Outcome> {
        let there = match self.plan.target.store.entries_of(&id).await {
            Err(error) if error.is_no_finding() => return Err(error),
            there => there.unwrap_or_default(),
        };
        let held = |entry: &Entry| (entry.id, entry.raw_bytes, entry.flags.compressed());
        if !there.iter().map(held).eq(entries.iter().map(held)) {
            return Ok(Outcome::InPieces(wanted, Why::Taken(id)));
        }
        let index = |entry: &Entry| IndexEntry {
            id: entry.id,
            pack: id,
            offset: entry.offset,
            stored_bytes: entry.stored_bytes,
            flags: entry.flags,
        };
        Ok(Outcome::Found(there.iter().map(index).collect()))
    }

    /// Copies these blobs into packs of the target's own, and tells the checker of those that are damaged.
    async fn pieces(&self, blobs: Vec<BlobId>, writer: &mut PackWriter) -> Result<WrittenPacks> {
        let mut by_pack: BTreeMap<PackId, Vec<Entry>> = BTreeMap::new();
        for blob in blobs {
            match self.plan.source.store.locate(&blob).await {
                Ok((pack, entry)) => {
                    self.plan.checker.located(&entry)?;
                    by_pack.entry(pack).or_default().push(entry);
                }
                Err(failure) => self.plan.checker.failed(failure)?,
            }
        }
        for (pack, mut entries) in by_pack {
            entries.sort_by_key(|entry| entry.offset);
            self.watch.confirm().await?;
            let failures = self.carrier.append(pack, entries, Damage::PassOver, writer).await?;
            failures.into_iter().try_for_each(|failure: BlobFailure| self.plan.checker.failed(failure))?;
        }
        writer.finish().await
    }
}

impl Written {
    fn take(&mut self, new: &[IndexEntry], entries: &mut Vec<IndexEntry>) {
        self.packs += new.iter().map(|entry| entry.pack).collect::<HashSet<_>>().len() as u64;
        self.blobs += new.len() as u64;
        self.bytes += new.iter().map(|entry| entry.stored_bytes).sum::<u64>();
        entries.extend_from_slice(new);
    }
}

impl Why {
    fn told(&self) -> Option<String> {
        match self {
            Self::Damaged(pack) => Some(format!(
                "pack {pack} of the source is damaged: what is needed and sound in it was stored in other packs"
            )),
            Self::Taken(pack) => Some(format!(
                "pack {pack} of the target is not what it is in the source, and was left as it is; what is needed of \
                 it was stored in other packs"
            )),
            Self::Crowded => None,
        }
    }
}
