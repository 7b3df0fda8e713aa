//! What is stored already, and can be relied on (T12).
//!
//! An index may name packs that were lost or cut short since. Before a blob counts as stored, its pack
//! must exist with the length that the index implies; otherwise the blob is stored again. So it is when
//! reading a blob of the pack on the way shows that the pack is damaged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, RwLock};

use crate::format::{BlobId, PackId};
use crate::progress::Progress;
use crate::repo::blobs::BlobFailure;
use crate::repo::indexes::IndexUnion;

/// The blobs that need not be stored again.
#[derive(Debug)]
pub struct KnownBlobs {
    union: Arc<IndexUnion>,
    unsound: RwLock<HashSet<PackId>>,
}

impl KnownBlobs {
    /// Compares the packs that lie in the repository with what the indexes imply.
    pub fn check(union: Arc<IndexUnion>, lengths: &HashMap<PackId, u64>, progress: &dyn Progress) -> Self {
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
        Self { union, unsound: RwLock::new(unsound) }
    }

    /// Tells whether the blob is stored in a pack that can be relied on.
    pub fn contains(&self, id: &BlobId) -> bool {
        let unsound = self.unsound.read().expect("no holder of the unsound packs panics");
        self.union.get(id).is_some_and(|location| !unsound.contains(&location.pack))
    }

    /// No longer relies on a pack in which this blob could not be read.
    pub fn distrust(&self, failure: &BlobFailure) {
        self.unsound.write().expect("no holder of the unsound packs panics").extend(failure.pack);
    }

    /// Returns about how many bytes of memory the places of all blobs take.
    pub fn table_bytes(&self) -> u64 {
        self.union.table_bytes()
    }

    /// Returns the stored length of a blob, as the index gives it.
    pub fn stored_bytes(&self, id: &BlobId) -> Option<u64> {
        self.union.get(id).map(|location| location.stored_bytes)
    }
}
