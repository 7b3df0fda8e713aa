//! The format's own lock protocol (section 8), so that packvault and msgvault can share a repository.
//!
//! Both sides plant their file before they look for the other's, so of two that meet at least one sees the
//! other. A lock is removed only by its owner, or by whoever won the rename that claims it and then found
//! it stale; a claim that proves fresh or foreign is put back under its name. Age is measured by the
//! store's clock.

use std::time::SystemTime;

use bytes::Bytes;
use futures::{TryStreamExt, join};
use packvault_storage::{ErrorKind as StorageErrorKind, Key, Prefix};

use super::holder::{holder, is_stale, locked_by};
use super::{Lock, LockRequest, POLL, Planted, Planting, Side, WAIT_MAX, key, lock_error, lower_ulid};
use crate::format::LockRecord;
use crate::repo::Repository;
use crate::repo::storage_error;
use crate::{Error, Result};

fn exclusive_key() -> Key {
    key("locks/exclusive.json".to_owned())
}

impl Repository {
    pub(super) async fn exclusive_by_rename(&self, request: &LockRequest) -> Result<Lock> {
        self.look_around(request).await?;
        let planted = self.plant(exclusive_key(), Side::Exclusive, request).await?;
        let lock = self.hold(planted, Side::Exclusive, request);
        match self.wait_for_shared(request).await {
            Ok(()) => Ok(lock),
            Err(error) => lock.withdraw(error).await,
        }
    }

    pub(super) async fn shared_by_rename(&self, request: &LockRequest) -> Result<Lock> {
        self.look_around(request).await?;
        let name = format!("locks/shared-{}.json", lower_ulid(self.ulids()));
        let planted = self.plant(key(name), Side::Shared, request).await?;
        let lock = self.hold(planted, Side::Shared, request);
        // The second look: an exclusive holder that planted after our first look has not seen our file
        // unless we see its.
        match self.storage.stat(&exclusive_key()).await {
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(lock),
            Ok(_) => lock.withdraw(self.locked_by(&exclusive_key(), request).await).await,
            Err(error) => lock.withdraw(lock_error(&exclusive_key(), error)).await,
        }
    }

    /// Gives up a lock whose heartbeat has stopped, unless it is someone else's by now.
    pub(super) async fn release_by_rename(&self, planted: &Planted, side: Side) -> Result<()> {
        match side {
            Side::Exclusive => self.release_exclusive(planted).await,
            Side::Shared => self.release_shared(planted).await,
        }
    }

    /// A name that nobody else makes needs no claim: no successor can have taken it between the look and the
    /// removal.
    async fn release_shared(&self, Planted { key, body, .. }: &Planted) -> Result<()> {
        match self.storage.read(key).await {
            Ok(found) if found == *body => self.remove_own(key).await,
            Ok(_) => Ok(()),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(()),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    async fn release_exclusive(&self, planted: &Planted) -> Result<()> {
        let Planted { key, body, .. } = planted;
        if matches!(self.storage.read(key).await, Ok(found) if is_foreign(&found, body)) {
            return Ok(());
        }
        let Some(claim) = self.claim(key).await? else { return Ok(()) };
        match self.storage.read(&claim).await {
            Ok(found) if found == *body => self.remove_own(&claim).await,
            Ok(_) => self.put_back(&claim, key).await,
            Err(error) => {
                self.put_back(&claim, key).await?;
                Err(lock_error(key, error))
            }
        }
    }

    /// Removes what is left of dead claims, and refuses where somebody holds the exclusive lock.
    async fn look_around(&self, request: &LockRequest) -> Result<()> {
        let key = exclusive_key();
        let (removed, exists) = join!(self.remove_old_claims(request), self.exists(&key));
        removed?;
        if exists? { self.break_or_refuse_exclusive(request).await } else { Ok(()) }
    }

    async fn break_or_refuse_exclusive(&self, request: &LockRequest) -> Result<()> {
        let key = exclusive_key();
        if (request.force || self.is_stale(&key, request).await?) && self.reap(&key, request).await? {
            return Ok(());
        }
        if self.exists(&key).await? { Err(self.locked_by(&key, request).await) } else { Ok(()) }
    }

    async fn plant(&self, key: Key, side: Side, request: &LockRequest) -> Result<Planted> {
        match super::plant(self.storage.as_ref(), key.clone(), request).await {
            Planting::Done(planted) => Ok(planted),
            // It may be there all the same, and would keep us and others out until it is stale.
            Planting::Unsure(planted, error) => {
                let failed = Err(lock_error(&key, error));
                super::give_back(failed, self.release_by_rename(&planted, side)).await
            }
            Planting::Failed(error) if error.kind() == StorageErrorKind::AlreadyExists => {
                Err(self.locked_by(&key, request).await)
            }
            Planting::Failed(error) => Err(lock_error(&key, error)),
        }
    }

    async fn wait_for_shared(&self, request: &LockRequest) -> Result<()> {
        let waiting_since = tokio::time::Instant::now();
        let mut told = false;
        loop {
            let mut held = Vec::new();
            for key in self.names_starting(&["shared-"]).await? {
                if (request.force || self.is_stale(&key, request).await?) && self.reap(&key, request).await? {
                    continue;
                }
                held.push(key);
            }
            let Some(first) = held.first() else { return Ok(()) };
            if waiting_since.elapsed() >= WAIT_MAX {
                return Err(self.locked_by(first, request).await);
            }
            if !told {
                let holder = holder(self.storage.as_ref(), first, request.process.as_ref()).await;
                request.progress.remark(&format!("waiting: {holder}"));
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = request.cancel.cancelled() => request.cancel.check()?,
            }
        }
    }

    /// Removes a lock that is stale, or any if forced; tells whether the name is free now.
    async fn reap(&self, key: &Key, request: &LockRequest) -> Result<bool> {
        let Some(claim) = self.claim(key).await? else { return Ok(true) };
        if request.force || self.is_stale(&claim, request).await? {
            tracing::info!(
                target: "packvault::lock",
                lock = key.name(),
                forced = request.force,
                "of somebody else is removed"
            );
            self.remove_own(&claim).await?;
            return Ok(true);
        }
        tracing::debug!(target: "packvault::lock", lock = key.name(), "proves to be fresh, and is put back");
        self.put_back(&claim, key).await?;
        Ok(false)
    }

    /// Moves the lock out of everybody's way; one claimant wins, `None` means that it was gone.
    pub(super) async fn claim(&self, key: &Key) -> Result<Option<Key>> {
        let claim = super::key(format!("locks/releasing-{}.json", lower_ulid(self.ulids())));
        match self.storage.rename(key, &claim).await {
            Ok(()) => Ok(Some(claim)),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(None),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    pub(super) async fn put_back(&self, claim: &Key, key: &Key) -> Result<()> {
        match self.storage.rename(claim, key).await {
            Ok(()) => Ok(()),
            // A successor took the name meanwhile; the claimed lock is nobody's any more.
            Err(error) if error.kind() == StorageErrorKind::AlreadyExists => self.remove_own(claim).await,
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(()),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    /// Removes what is nobody else's: a claim, or a lock under a name of its own.
    pub(super) async fn remove_own(&self, key: &Key) -> Result<()> {
        match self.storage.remove(key).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(()),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    /// Claims whose claimant died are removed once they are old, and so are the locks of inits that died.
    async fn remove_old_claims(&self, request: &LockRequest) -> Result<()> {
        for claim in self.names_starting(&["releasing-", "exclusive-"]).await? {
            if self.is_stale(&claim, request).await? {
                self.remove_own(&claim).await?;
            }
        }
        Ok(())
    }

    async fn names_starting(&self, starts: &[&str]) -> Result<Vec<Key>> {
        let folder = Prefix::folder("locks").expect("a plain word is a key");
        let mut names: Vec<Key> = self
            .storage
            .list(&folder)
            .try_filter_map(async |object| {
                let is_named = starts.iter().any(|start| object.key.name().starts_with(start));
                let wanted = is_named && object.key.parts().count() == 2;
                Ok(wanted.then_some(object.key))
            })
            .try_collect()
            .await
            .map_err(|error| storage_error("cannot list the locks of the repository", error))?;
        names.sort();
        Ok(names)
    }

    async fn exists(&self, key: &Key) -> Result<bool> {
        match self.storage.stat(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(false),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    /// A lock that is gone is not stale: there is nothing to reap. A time in the future is fresh.
    async fn is_stale(&self, key: &Key, request: &LockRequest) -> Result<bool> {
        let meta = match self.storage.stat(key).await {
            Ok(meta) => meta,
            Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(lock_error(key, error)),
        };
        let now: SystemTime = self.storage.now().await.map_err(|error| lock_error(key, error))?;
        Ok(is_stale(self.storage.as_ref(), (key, &meta), now, request.process.as_ref()).await)
    }

    async fn locked_by(&self, key: &Key, request: &LockRequest) -> Error {
        locked_by(self.storage.as_ref(), key, request.process.as_ref()).await
    }
}

fn is_foreign(found: &Bytes, ours: &Bytes) -> bool {
    found != ours && LockRecord::decode(found).is_ok()
}
