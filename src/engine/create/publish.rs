//! Makes a snapshot exist, once everything it needs is in packs.

use std::sync::Arc;

use futures::join;

use super::known::KnownBlobs;
use super::reach::{self, Reach};
use crate::Result;
use crate::archive::profile::Profile;
use crate::engine::Context;
use crate::error::lift::format_error;
use crate::format::{ArchiveAttributes, IndexEntry, IndexId, Manifest};
use crate::repo::Repository;
use crate::repo::indexes::claims_of;
use crate::repo::locks::Lock;
use crate::repo::notes::Note;
use crate::repo::packs::WrittenPacks;

/// What one snapshot is published with.
pub(super) struct Publication<'a> {
    pub(super) lock: &'a Lock,
    pub(super) manifest: &'a Manifest,
    /// What the new index says.
    pub(super) entries: Vec<IndexEntry>,
    pub(super) note: &'a Note,
    pub(super) attributes: &'a ArchiveAttributes,
    /// What was in the repository before.
    pub(super) known: &'a KnownBlobs,
    /// The snapshots that this one builds on.
    pub(super) chain: &'a [String],
    /// Whose snapshot is read back before it exists, if it is.
    pub(super) read_back: Option<&'a Arc<dyn Profile>>,
}

impl Publication<'_> {
    /// Makes the snapshot exist: index, page size, manifest, in this order. Packs are durable already.
    pub(super) async fn publish(self, repository: &Repository, context: &Context) -> Result<()> {
        let Self { lock, manifest, entries, note, attributes, known, chain, read_back } = self;
        // A holder that was stopped for too long may have a successor, whose configuration it must not rewrite.
        lock.confirm().await?;
        let written = claims_of(&entries, repository.sealing());
        if !entries.is_empty() {
            let id = IndexId::parse(&manifest.new_index)
                .map_err(|error| format_error("cannot name the new index", error))?;
            repository.publish_index(&id, entries).await?;
        }
        // Before the manifest: what cannot be restored is never listed.
        let reach = Reach { known, written: &written, index: &manifest.new_index, chain };
        reach.confirm(repository).await?;
        if let Some(profile) = read_back {
            reach::read_back(repository, profile, manifest, context).await?;
        }
        repository.set_page_size(manifest.db.page_size).await?;
        // The last moment to stop: what lies beside a manifest must not be left without it.
        context.cancel.check()?;
        // Before the manifest: a list that shows the snapshot shows its note, and a restore finds its attributes.
        let noted = async {
            match note.is_empty() {
                true => Ok(()),
                false => repository.publish_note(&manifest.snapshot_id, note).await,
            }
        };
        let (noted, attributed) =
            join!(noted, repository.publish_attributes(&manifest.snapshot_id, attributes));
        noted?;
        attributed?;
        lock.confirm().await?;
        let (published, took_long) = lock.timed(repository.publish_snapshot(manifest)).await;
        published?;
        if took_long && lock.confirm().await.is_err() {
            // Whoever has the lock now may have removed what this snapshot leans on before it was there to be seen.
            if let Err(gone) = reach.confirm(repository).await {
                repository.withdraw_snapshot(manifest).await?;
                return Err(gone);
            }
        }
        Ok(())
    }
}

/// Indexes the packs that an unfinished run has sealed: the next one finds their blobs and does not store
/// them again. No snapshot refers to them, so nothing is lost if that fails too.
pub(super) async fn keep_for_next_time(repository: &Repository, lock: Option<&Lock>, durable: WrittenPacks) {
    let Some(lock) = lock.filter(|_| !durable.entries.is_empty()) else { return };
    if lock.confirm().await.is_ok() {
        let packs = durable.packs.len();
        tracing::info!(
            target: "packvault::decision",
            packs,
            "what is sealed is indexed, and not stored again"
        );
        let id = IndexId::from_ulid(repository.ulids().next());
        let _ = repository.publish_index(&id, durable.entries).await;
    }
}
