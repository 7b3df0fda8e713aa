//! Removal of indexes and packs that no snapshot needs any more.
//!
//! Whoever removes holds the exclusive lock, and makes sure of it again before every batch. What is published from the
//! bottom up (packs, index, manifest) is removed from the top down: manifests (`removal`), then indexes, then packs. So nothing
//! that is there ever names what is gone, and whoever dies half-way leaves what nothing names: packs, which the same
//! removal once more takes away.

use std::collections::HashSet;

use packvault_storage::{Key, NotRemoved};

use super::Repository;
use super::condemned::CondemnedNote;
use super::indexes::index_key;
use super::locks::Lock;
use super::packs::pack_key;
use crate::format::{IndexId, PackId};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// Objects removed between two looks at the lock.
const BATCH_OBJECTS_MAX: usize = 4000;

/// The right to remove indexes and packs, which the exclusive lock gives as long as it is held.
#[derive(Debug)]
pub struct Pruning<'a> {
    repository: &'a Repository,
    lock: &'a Lock,
}

impl Lock {
    /// Returns the right to remove indexes and packs of the repository; a shared lock gives none.
    pub fn pruning(&self) -> Result<Pruning<'_>> {
        if !self.is_exclusive() {
            let message = "cannot remove anything from the repository: others may be reading it";
            return Err(Error::new(ErrorKind::Refused, message));
        }
        Ok(Pruning { repository: self.repository(), lock: self })
    }
}

impl Pruning<'_> {
    /// Removes these indexes. What is needed of the blobs that they list must be listed by other indexes, which must
    /// be durable; the packs must still be there, for a reader may have read the indexes before.
    pub async fn indexes(&self, ids: &[IndexId]) -> Result<()> {
        self.remove("indexes", ids.iter().map(index_key).collect()).await
    }

    /// Removes these packs; refuses, before anything is removed, if an index names one of them or cannot be read.
    pub async fn packs(&self, ids: &[PackId]) -> Result<()> {
        let named: HashSet<PackId> = self.repository.load_indexes().await?.packs().collect();
        if let Some(pack) = ids.iter().find(|pack| named.contains(pack)) {
            return Err(Error::new(
                ErrorKind::Refused,
                format!("cannot remove pack {pack}: an index names it"),
            ));
        }
        self.remove("packs", ids.iter().map(pack_key).collect()).await
    }

    /// Removes these notes of condemned packs.
    pub async fn notes(&self, notes: &[&CondemnedNote]) -> Result<()> {
        self.remove("notes of condemned packs", notes.iter().map(|note| note.key.clone()).collect()).await
    }

    /// Removes the objects durably; what is gone already is no error.
    async fn remove(&self, what: &str, keys: Vec<Key>) -> Result<()> {
        for batch in keys.chunks(BATCH_OBJECTS_MAX) {
            self.lock.confirm().await?;
            for key in batch {
                tracing::info!(target: "packvault::removal", %key, "is removed");
            }
            let removed = self.repository.storage().remove_all(batch).await;
            let left = removed.map_err(|error| storage_error(format!("cannot remove {what}"), error))?;
            let (count, of) = (left.len(), batch.len());
            if let Some(NotRemoved { error, .. }) = left.into_iter().next() {
                let message = format!("cannot remove {what}: {count} of {of} may be there still");
                return Err(storage_error(message, error));
            }
        }
        Ok(())
    }
}
