//! Decoded blobs that are kept, so many bytes of them: the most recently used.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use crate::format::BlobId;

/// Decoded blobs that are kept; the last one is kept however large it is.
pub const KEPT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What a blob counts for beside its bytes, for a hostile map may name very many that have next to none.
const BESIDE_BYTES: u64 = 256;

/// A blob that was checked.
pub type Blob = Arc<Vec<u8>>;

/// What several readers keep together.
pub type SharedKept = Arc<Mutex<Kept>>;

/// The blobs by their ids, and in the order in which they were used last.
#[derive(Debug, Default)]
pub struct Kept {
    blobs: HashMap<BlobId, (u64, Blob)>,
    by_use: BTreeMap<u64, BlobId>,
    uses: u64,
    bytes: u64,
}

impl Kept {
    /// Tells whether a blob is kept, without using it.
    pub fn has(&self, id: &BlobId) -> bool {
        self.blobs.contains_key(id)
    }

    /// Returns a blob if it is kept, and uses it.
    pub fn get(&mut self, id: &BlobId) -> Option<Blob> {
        let (used, blob) = self.blobs.get_mut(id)?;
        self.by_use.remove(used);
        self.uses += 1;
        *used = self.uses;
        self.by_use.insert(self.uses, *id);
        Some(blob.clone())
    }

    /// Keeps a blob, and lets go of those that were not used for the longest time.
    pub fn put(&mut self, id: BlobId, blob: Blob) {
        if self.get(&id).is_some() {
            return;
        }
        self.uses += 1;
        self.bytes += weight(&blob);
        self.by_use.insert(self.uses, id);
        self.blobs.insert(id, (self.uses, blob));
        while self.blobs.len() > 1 && self.bytes > KEPT_BYTES_MAX {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            self.bytes -= self.blobs.remove(&oldest).map_or(0, |(_, blob)| weight(&blob));
        }
    }
}

fn weight(blob: &Blob) -> u64 {
    blob.len() as u64 + BESIDE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(number: u32, bytes: usize) -> (BlobId, Blob) {
        (BlobId::of(&number.to_le_bytes()), Arc::new(vec![0; bytes]))
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_goes_first_and_the_last_stays() {
        let mut kept = Kept::default();
        let third = KEPT_BYTES_MAX as usize / 3;
        let blobs: Vec<_> = (0..4).map(|number| blob(number, third)).collect();
        for (id, blob) in &blobs[..2] {
            kept.put(*id, blob.clone());
        }
        assert!(kept.get(&blobs[0].0).is_some());
        for (id, blob) in &blobs[2..] {
            kept.put(*id, blob.clone());
        }
        let is_kept: Vec<bool> = blobs.iter().map(|(id, _)| kept.has(id)).collect();
        assert_eq!(is_kept, [false, false, true, true]);
        let (id, large) = blob(9, KEPT_BYTES_MAX as usize + 1);
        kept.put(id, large);
        assert!(kept.get(&id).is_some() && kept.blobs.len() == 1 && kept.by_use.len() == 1);
    }

    #[test]
    fn blobs_of_no_bytes_are_no_more_than_there_is_room_for() {
        let mut kept = Kept::default();
        let most = KEPT_BYTES_MAX / BESIDE_BYTES;
        for number in 0..most as u32 + 1000 {
            let (id, blob) = blob(number, 0);
            kept.put(id, blob);
        }
        assert_eq!((kept.blobs.len() as u64, kept.by_use.len() as u64), (most, most));
    }
}
