//! What is stored already, and can be relied on (T12).
//!
//! An index may name packs that were lost or cut short since. Before a blob counts as stored, its pack
//! must exist with the length that the index implies; otherwise the blob is stored again. So it is when
//! reading a blob of the pack on the way shows that the pack is damaged, and when programs that take the last
//! index at its word would look for the blob where it is not.
//!
//! What was relied on is remembered, and looked for once more before the snapshot is published.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use crate::ErrorKind;
use crate::format::{BlobId, PackId};
use crate::progress::Progress;
use crate::repo::Sealing;
use crate::repo::blobs::BlobFailure;
use crate::repo::indexes::{Claim, IndexFile, IndexUnion};

/// The blobs that need not be stored again.
#[derive(Debug)]
pub struct KnownBlobs {
    union: Arc<IndexUnion>,
    unsound: RwLock<HashSet<PackId>>,
    /// By position of the claim.
    relied_on: Vec<AtomicBool>,
}

impl KnownBlobs {
    /// Takes what the indexes say, compared with the packs that lie in the repository.
    pub fn check(union: Arc<IndexUnion>, lengths: &HashMap<PackId, u64>, progress: &dyn Progress) -> Self {
        let mut unsound: Vec<PackId> = union.unsound_packs().into_iter().collect();
        unsound.sort();
        for pack in unsound {
            let what = if lengths.contains_key(&pack) { "not as its index says" } else { "missing" };
            progress.remark(&format!(
                "pack {pack} is {what}; what it held is stored again where the archive still has it \
                 (`packvault verify --all` tells what else is lost)"
            ));
        }
        let relied_on = union.claims().iter().map(|_| AtomicBool::new(false)).collect();
        Self { union, unsound: RwLock::default(), relied_on }
    }

    /// Tells whether the blob is stored in a pack that can be relied on. Ask only for blobs that the new snapshot
    /// needs: the pack is remembered as one that must be there.
    pub fn contains(&self, id: &BlobId) -> bool {
        let (true, Some(claim)) = (self.union.is_relied_on(id), self.union.claim_of(id)) else {
            return false;
        };
        let unsound = self.unsound.read().expect("no holder of the unsound packs panics");
        let contains = !unsound.contains(&self.union.claims()[claim].pack);
        if contains {
            self.relied_on[claim].store(true, Ordering::Relaxed);
        }
        contains
    }

    /// No longer relies on a pack in which this blob could not be read.
    pub fn distrust(&self, failure: &BlobFailure) {
        if let Some(pack) = failure.pack {
            let why = "a blob in it could not be read";
            tracing::info!(target: "packvault::decision", %pack, why, "what the pack holds is stored again");
        }
        self.unsound.write().expect("no holder of the unsound packs panics").extend(failure.pack);
    }

    /// Returns what was relied on so far: each claim with the index file that makes it.
    pub fn relied_on(&self) -> impl Iterator<Item = (&Claim, &IndexFile)> {
        let claims = self.union.claims().iter().zip(&self.relied_on);
        let relied_on = claims.filter(|(_, relied_on)| relied_on.load(Ordering::Relaxed));
        relied_on.map(|(claim, _)| (claim, self.union.file_of(claim)))
    }

    /// Returns about how many bytes of memory the places of all blobs take.
    pub fn table_bytes(&self) -> u64 {
        self.union.table_bytes()
    }

    /// Returns how new blobs are sealed.
    pub fn sealing(&self) -> &Sealing {
        self.union.sealing()
    }

    /// Returns the stored length of a blob, as the index gives it.
    pub fn stored_bytes(&self, id: &BlobId) -> Option<u64> {
        self.union.get(id).map(|location| location.stored_bytes)
    }
}

/// Tells whether a stored object is of no use for a capture, so that the capture does without it: it is damaged or
/// gone, or this program cannot open it. What may be read by another user only, or the next time, is as good as before.
pub fn is_unusable(kind: ErrorKind) -> bool {
    use ErrorKind::{Damaged, NoKey, NotFound, Unsupported, WrongKey};
    matches!(kind, Damaged | NotFound | Unsupported | NoKey | WrongKey)
}
