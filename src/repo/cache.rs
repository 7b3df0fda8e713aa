//! Copies of immutable objects near at hand: manifests and indexes of a repository that lies far away.
//!
//! ```text
//! <the object's key>:  the object's bytes | SHA-256(place, key, length, time, bytes)
//! ```
//!
//! A copy speaks for an object only as long as a listing shows that object, with the length and the time it
//! had when it was copied; the hash binds the copy to all of that, and what it holds is decoded and checked
//! like what the store sends. A copy that fails any of it counts as absent. Nothing depends on a copy being
//! there, so every failure here is silent, and the whole folder may be deleted at any time.
//!
//! Anybody who may write to the cache can make a copy that looks right. That does no harm where what is found
//! through it is proved anyway: a manifest against its name, a blob against its id. Whether a blob is stored is
//! another matter, for a create does not store it then: see [`Trust::Shown`].

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use packvault_storage::{Key, ListedObject, ObjectMeta, Prefix, Storage};

use super::Repository;
use crate::format::{FormatError, Hasher};

/// Bytes that the copies of one folder of a repository may take; the oldest go first. There are two.
const FOLDER_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Bytes of the hash behind the object.
const HASH_BYTES: usize = 32;

/// What a killed process left unfinished in the cache is removed after this time.
const UNFINISHED_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The copies of one repository's objects.
#[derive(Debug, Clone)]
pub(super) struct ObjectCache(Arc<dyn Storage>);

/// How far copies are believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// For what they save: what is read because of them is proved by its hash, whatever they said.
    Copies,
    /// As proof of what is stored, and so not for their own word: the end of the object, where its hash over all
    /// the rest lies, is read from the store and must be that of the copy.
    Shown,
}

impl Repository {
    /// Keeps copies of immutable objects in a storage of this machine, and reads them from there.
    #[must_use]
    pub fn cached(mut self, cache: Arc<dyn Storage>) -> Self {
        self.cache = Some(ObjectCache(cache));
        self
    }

    /// Returns the repository as its storage has it, for whoever judges what is stored.
    #[must_use]
    pub fn uncached(&self) -> Self {
        Self { cache: None, ..self.clone() }
    }

    /// Reads a whole immutable object that a listing showed, and decodes it.
    pub(super) async fn read_listed<T>(
        &self,
        key: &Key,
        meta: &ObjectMeta,
        trust: Trust,
        decode: impl Fn(&[u8]) -> Result<T, FormatError>,
    ) -> packvault_storage::Result<Result<T, FormatError>> {
        if let Some(copy) = self.copy_of(key, meta).await
            && let Ok(decoded) = decode(&copy)
            && (trust == Trust::Copies || self.shows(key, &copy).await?)
        {
            return Ok(Ok(decoded));
        }
        let bytes = self.storage.read_range(key, 0..meta.size_bytes).await?;
        let decoded = decode(&bytes);
        if let (Some(cache), Ok(_)) = (&self.cache, &decoded)
            && meta.size_bytes <= FOLDER_BYTES_MAX
        {
            let hash = self.hash_of(key, meta, &bytes);
            let mut copy = BytesMut::with_capacity(bytes.len() + HASH_BYTES);
            copy.extend_from_slice(&bytes);
            copy.extend_from_slice(&hash);
            // Without the copy the object is read again next time.
            let _ = cache.0.replace(key, copy.freeze()).await;
        }
        Ok(decoded)
    }

    /// Tells whether the object in the store ends with the hash with which the copy ends.
    async fn shows(&self, key: &Key, copy: &Bytes) -> packvault_storage::Result<bool> {
        let end = copy.len() as u64;
        let hash = self.storage.read_range(key, end.saturating_sub(HASH_BYTES as u64)..end).await?;
        Ok(copy.ends_with(&hash))
    }

    async fn copy_of(&self, key: &Key, meta: &ObjectMeta) -> Option<Bytes> {
        let cache = self.cache.as_ref()?;
        let length = meta.size_bytes.checked_add(HASH_BYTES as u64)?;
        let mut copy = cache.0.read_range(key, 0..length).await.ok()?;
        let hash = copy.split_off(copy.len() - HASH_BYTES);
        (hash[..] == self.hash_of(key, meta, &copy)).then_some(copy)
    }

    fn hash_of(&self, key: &Key, meta: &ObjectMeta, bytes: &[u8]) -> [u8; HASH_BYTES] {
        // Whole seconds: a store may tell the time more finely in one answer than in another.
        let modified = meta.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut hasher = Hasher::new();
        for text in [self.storage.location().as_str(), key.as_str()] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&meta.size_bytes.to_le_bytes());
        hasher.update(&modified.to_le_bytes());
        hasher.update(bytes);
        *hasher.finish().as_bytes()
    }

    /// Removes the copies of objects that the listing of the folder no longer shows, and the oldest of
    /// the others where they take too much room.
    pub(super) async fn tidy_cache(&self, folder: &Prefix, listed: impl Iterator<Item = &Key>) {
        let Some(ObjectCache(cache)) = &self.cache else { return };
        let _ = cache.sweep(UNFINISHED_AFTER).await;
        let Ok(mut copies) = cache.list(folder).try_collect::<Vec<ListedObject>>().await else { return };
        let listed: HashSet<&Key> = listed.collect();
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.meta.modified));
        let mut kept_bytes = 0u64;
        for copy in copies {
            let with_it = kept_bytes.saturating_add(copy.meta.size_bytes);
            if listed.contains(&copy.key) && with_it <= FOLDER_BYTES_MAX {
                kept_bytes = with_it;
            } else {
                let _ = cache.remove(&copy.key).await;
            }
        }
    }
}
