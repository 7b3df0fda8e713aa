//! The one place where objects of a repository are removed: manifests, and what lies beside them.
//!
//! Whoever removes holds the exclusive lock, and looks again and again whether it is still his: a process that was
//! stopped for half an hour must not carry out what it decided before another one worked here. An object that is
//! gone already counts as removed, for an answer may have been lost.
//!
//! ```text
//! manifests, each gone before the next, the youngest first     no snapshot is ever without what it builds on
//! a look whether one is gone that the store did not find       it may say so and be wrong; then no other follows
//! a look whether they are gone                                 a store may say so and be wrong
//! notes and attributes                                         they mean nothing without a manifest
//! marks                                                        last: they say what else was to go
//! ```

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use packvault_storage::{ErrorKind as StorageErrorKind, Key};

use super::locks::{Lock, Watch};
use super::{Repository, attributes, forgotten, notes, snapshots};
use crate::error::lift::format_error;
use crate::format::{Manifest, SnapshotId};
use crate::repo::storage_error;
use crate::{Cancel, Result};

/// How long a look at the lock is good for: far less than the margin by which a holder gives its lock up early.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Removals under way at once.
const REMOVALS_IN_FLIGHT: usize = 8;

/// Removes objects for as long as the lock is held.
pub struct Remover<'a> {
    repository: &'a Repository,
    lock: Watch<'a>,
    cancel: &'a Cancel,
}

impl Repository {
    /// Takes back a manifest that was just published, and that nobody can have built on: what it needs is gone.
    pub async fn withdraw_snapshot(&self, manifest: &Manifest) -> Result<()> {
        let id = SnapshotId::parse(&manifest.snapshot_id)
            .map_err(|error| format_error("cannot take back a manifest without an id", error))?;
        match self.storage.remove(&snapshots::manifest_key(&id)).await {
            Err(error) if error.kind() != StorageErrorKind::NotFound => {
                Err(storage_error(format!("cannot take back the manifest of snapshot {id}"), error))
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Remover<'a> {
    /// Begins to remove under the lock.
    pub fn new(repository: &'a Repository, lock: &'a Lock, cancel: &'a Cancel) -> Self {
        Self { repository, lock: lock.watch(LOOK_EVERY), cancel }
    }

    /// Marks snapshots as forgotten.
    pub async fn mark_forgotten(&self, snapshots: &[SnapshotId]) -> Result<()> {
        let marks = stream::iter(snapshots).map(async |id| {
            self.check().await?;
            self.repository.mark_forgotten(id.as_str()).await
        });
        marks.buffer_unordered(REMOVALS_IN_FLIGHT).try_collect().await
    }

    /// Removes the manifests of these snapshots, one after the other, and stops before the next where one is still
    /// shown: it would be left without what it is built on.
    pub async fn manifests(&self, snapshots: &[SnapshotId]) -> Result<()> {
        if !snapshots.is_empty() {
            self.lock.confirm_now().await?;
        }
        for id in snapshots {
            let was_there = self.remove(&snapshots::manifest_key(id)).await?;
            if !was_there && !self.still_shown(std::slice::from_ref(id)).await?.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Returns those of the snapshots whose manifests the store shows all the same.
    pub async fn still_shown(&self, snapshots: &[SnapshotId]) -> Result<Vec<SnapshotId>> {
        if snapshots.is_empty() {
            return Ok(Vec::new());
        }
        let files = self.repository.list_snapshots().await?;
        Ok(snapshots.iter().filter(|id| files.has(id.as_str())).cloned().collect())
    }

    /// Removes what lies beside the manifests of these snapshots, which must be gone, and their marks in the end.
    pub async fn remains(&self, snapshots: &[SnapshotId]) -> Result<()> {
        let remains = stream::iter(snapshots).map(async |id| {
            self.remove(&notes::note_key(id.as_str())).await?;
            self.remove(&attributes::attributes_key(id.as_str())).await?;
            self.remove(&forgotten::mark_key(id.as_str())).await.map(drop)
        });
        remains.buffer_unordered(REMOVALS_IN_FLIGHT).try_collect().await
    }

    /// Removes an object; returns whether the store found it.
    async fn remove(&self, key: &Key) -> Result<bool> {
        self.check().await?;
        match self.repository.storage.remove(key).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(false),
            Err(error) => Err(storage_error(format!("cannot remove {}", key.as_str()), error)),
        }
    }

    /// The last moment to stop before the next object.
    async fn check(&self) -> Result<()> {
        self.cancel.check()?;
        self.lock.confirm().await
    }
}
