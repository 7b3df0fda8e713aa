//! Removing locks that nobody holds, or all of them.
//!
//! It follows the rules of the protocols: where the storage can rename, a lock is claimed first, looked at once
//! more, and put back if it proves to be somebody's. A lock whose process is seen to be gone goes at once, without
//! the wait of the others: who asks for this has looked, too.

use futures::TryStreamExt;
use packvault_storage::{Key, Prefix};

use super::LockRequest;
use super::by_listing::ByListing;
use super::holder::{Found, look};
use crate::Result;
use crate::process::Fate;
use crate::repo::Repository;
use crate::repo::storage_error;

/// What became of the locks of a repository.
#[derive(Debug, Clone, Default)]
pub struct Unlocked {
    /// Those that were removed.
    pub removed: Vec<Found>,
    /// Those that somebody may hold.
    pub left: Vec<Found>,
}

impl Repository {
    /// Removes every lock that nobody holds, or every one if forced, and returns all there were.
    pub async fn unlock(&self, request: &LockRequest) -> Result<Unlocked> {
        let mut unlocked = Unlocked::default();
        for key in self.lock_files().await? {
            request.cancel.check()?;
            let Some(found) = self.look_at_lock(&key, request).await? else { continue };
            tracing::info!(
                target: "packvault::lock",
                lock = found.describe(),
                forced = request.force,
                "is looked at"
            );
            match may_go(&found, request) && self.remove_lock(&key, request).await? {
                true => unlocked.removed.push(found),
                false => unlocked.left.push(found),
            }
        }
        Ok(unlocked)
    }

    /// Removes one lock, unless it proves to be somebody's at the last look.
    async fn remove_lock(&self, key: &Key, request: &LockRequest) -> Result<bool> {
        if !self.storage.guarantees().rename {
            // Nobody else makes this name, and who was found gone will not renew it.
            return ByListing::new(self.storage.as_ref(), None).remove(key).await.map(|()| true);
        }
        let Some(claim) = self.claim(key).await? else { return Ok(true) };
        if self.look_at_lock(&claim, request).await?.is_none_or(|found| may_go(&found, request)) {
            return self.remove_own(&claim).await.map(|()| true);
        }
        self.put_back(&claim, key).await.map(|()| false)
    }

    async fn look_at_lock(&self, key: &Key, request: &LockRequest) -> Result<Option<Found>> {
        look(self.storage.as_ref(), key, request.process.as_ref()).await
    }

    /// Returns the files of all locks, under whatever protocol, in the order of their names.
    pub(super) async fn lock_files(&self) -> Result<Vec<Key>> {
        let folder = Prefix::folder("locks").expect("a plain word is a key");
        let objects = self.storage.list(&folder);
        let keys = objects.try_filter_map(async |object| Ok(is_lock(&object.key).then_some(object.key)));
        let mut keys: Vec<Key> = keys
            .try_collect()
            .await
            .map_err(|error| storage_error("cannot list the locks of the repository", error))?;
        keys.sort();
        Ok(keys)
    }
}

fn may_go(found: &Found, request: &LockRequest) -> bool {
    request.force || found.is_stale() || found.fate == Fate::Gone
}

fn is_lock(key: &Key) -> bool {
    let name = key.name();
    let begins = ["exclusive-", "shared-", "releasing-"].iter().any(|start| name.starts_with(start));
    key.parts().count() == 2 && (name == "exclusive.json" || begins)
}
