//! What is stored already, and can be relied on (T12).
//!
//! An index may name packs that were lost or cut short since. Before a blob counts as stored, its pack
//! must exist with the length that the index implies; otherwise the blob is stored again.

use std::collections::HashSet;
use std::sync::Arc;

use crate::Result;
use crate::format::{BlobId, PackId};
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::indexes::IndexUnion;

/// The blobs that need not be stored again.
#[derive(Debug)]
pub struct KnownBlobs {
    union: Arc<IndexUnion>,
    unsound: HashSet<PackId>,
}

impl KnownBlobs {
    /// Compares the packs that lie in the repository with what the indexes imply.
    pub async fn check(
        repository: &Repository,
        union: Arc<IndexUnion>,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let lengths = repository.pack_lengths().await?;
        let unsound: HashSet<PackId> = union
            .packs()
            .filter(|pack| union.implied_pack_bytes(pack) != lengths.get(pack).copied())
            .collect();
        for pack in &unsound {
            progress.remark(&format!(
                "pack {pack} is missing or not as long as its index says; what it held is stored again \
                 where the archive still has it (`packvault verify --all` tells what else is lost)"
            ));
        }
        Ok(Self { union, unsound })
    }

    /// Tells whether the blob is stored in a pack that can be relied on.
    pub fn contains(&self, id: &BlobId) -> bool {
        self.union.get(id).is_some_and(|location| !self.unsound.contains(&location.pack))
    }

    /// Returns the stored length of a blob, as the index gives it.
    pub fn stored_bytes(&self, id: &BlobId) -> Option<u64> {
        self.union.get(id).map(|location| location.stored_bytes)
    }
}
