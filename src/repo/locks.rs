//! `locks/`: who may work on the repository, by the format's own protocol (section 8), so that packvault
//! and msgvault can share one.
//!
//! Both sides plant their file before they look for the other's, so of two that meet at least one sees the
//! other. A lock is removed only by its owner, or by whoever won the rename that claims it and then found
//! it stale; a claim that proves fresh or foreign is put back under its name. Age is measured by the
//! store's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Key, Prefix, Storage};
use tokio::task::JoinHandle;

use super::{Repository, key, storage_error};
use crate::format::LockRecord;
use crate::progress::Progress;
use crate::{Cancel, Error, ErrorKind, Result};

/// A lock not touched for this long is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(30 * 60);
/// How often the holder moves the modification time of its lock.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How often the exclusive side looks whether the shared locks are gone.
const POLL: Duration = Duration::from_millis(200);
/// How long the exclusive side waits for them.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A record is about 120 bytes; more than this is not read.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// What the lock is taken for, and how.
#[derive(Clone)]
pub struct LockRequest {
    /// `create`, `verify` or `restore`.
    pub operation: &'static str,
    /// This machine's name.
    pub hostname: String,
    /// Whether even fresh locks of others are broken.
    pub force: bool,
    /// Told whom we wait for.
    pub progress: Arc<dyn Progress>,
    /// Ends the wait for others.
    pub cancel: Cancel,
}

/// A held lock. Release it; a dropped one stays behind until it is stale.
#[derive(Debug)]
pub struct Lock {
    storage: Arc<dyn Storage>,
    key: Key,
    body: Bytes,
    repository: Repository,
    lost: Arc<AtomicBool>,
    heartbeat: JoinHandle<()>,
}

fn exclusive_key() -> Key {
    key("locks/exclusive.json".to_owned())
}

impl Repository {
    /// Takes the exclusive lock: alone in the repository.
    pub async fn lock_exclusive(&self, request: &LockRequest) -> Result<Lock> {
        self.remove_old_claims().await?;
        self.break_or_refuse_exclusive(request.force).await?;
        let lock = self.plant(exclusive_key(), request).await?;
        match self.wait_for_shared(request).await {
            Ok(()) => Ok(lock),
            Err(error) => {
                lock.release().await?;
                Err(error)
            }
        }
    }

    /// Takes a shared lock: no create runs while it is held.
    pub async fn lock_shared(&self, request: &LockRequest) -> Result<Lock> {
        self.remove_old_claims().await?;
        self.break_or_refuse_exclusive(request.force).await?;
        let name = format!("locks/shared-{}.json", self.lower_ulid());
        let lock = self.plant(key(name), request).await?;
        // The second look: an exclusive holder that planted after our first look has not seen our file
        // unless we see its.
        match self.storage.stat(&exclusive_key()).await {
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(lock),
            found => {
                lock.release().await?;
                match found {
                    Ok(_) => Err(self.locked_by(&exclusive_key()).await),
                    Err(error) => Err(lock_error(&exclusive_key(), error)),
                }
            }
        }
    }

    async fn break_or_refuse_exclusive(&self, force: bool) -> Result<()> {
        let key = exclusive_key();
        if !self.exists(&key).await? {
            return Ok(());
        }
        if (force || self.is_stale(&key).await?) && self.reap(&key, force).await? {
            return Ok(());
        }
        if self.exists(&key).await? { Err(self.locked_by(&key).await) } else { Ok(()) }
    }

    async fn plant(&self, key: Key, request: &LockRequest) -> Result<Lock> {
        let record = LockRecord {
            hostname: request.hostname.clone(),
            pid: i64::from(std::process::id()),
            operation: request.operation.to_owned(),
            acquired_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let body = Bytes::from(record.encode());
        match self.storage.create(&key, body.clone()).await {
            Ok(()) => {}
            Err(error) if error.kind() == StorageErrorKind::AlreadyExists => {
                return Err(self.locked_by(&key).await);
            }
            Err(error) => return Err(lock_error(&key, error)),
        }
        let lost = Arc::new(AtomicBool::new(false));
        let heartbeat = tokio::spawn(beat(self.storage.clone(), key.clone(), body.clone(), lost.clone()));
        Ok(Lock { storage: self.storage.clone(), key, body, repository: self.clone(), lost, heartbeat })
    }

    async fn wait_for_shared(&self, request: &LockRequest) -> Result<()> {
        let waiting_since = tokio::time::Instant::now();
        let mut told = false;
        loop {
            let mut held = Vec::new();
            for key in self.names_starting("shared-").await? {
                if (request.force || self.is_stale(&key).await?) && self.reap(&key, request.force).await? {
                    continue;
                }
                held.push(key);
            }
            let Some(first) = held.first() else { return Ok(()) };
            if waiting_since.elapsed() >= WAIT_MAX {
                return Err(self.locked_by(first).await);
            }
            if !told {
                request.progress.remark(&format!("waiting: {}", self.holder(first).await));
                told = true;
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = request.cancel.cancelled() => request.cancel.check()?,
            }
        }
    }

    /// Removes a lock that is stale, or any if forced; tells whether the name is free now.
    async fn reap(&self, key: &Key, force: bool) -> Result<bool> {
        let Some(claim) = self.claim(key).await? else { return Ok(true) };
        if force || self.is_stale(&claim).await? {
            self.remove_claim(&claim).await?;
            return Ok(true);
        }
        self.put_back(&claim, key).await?;
        Ok(false)
    }

    /// Moves the lock out of everybody's way; one claimant wins, `None` means that it was gone.
    async fn claim(&self, key: &Key) -> Result<Option<Key>> {
        let claim = super::key(format!("locks/releasing-{}.json", self.lower_ulid()));
        match self.storage.rename(key, &claim).await {
            Ok(()) => Ok(Some(claim)),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(None),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    async fn put_back(&self, claim: &Key, key: &Key) -> Result<()> {
        match self.storage.rename(claim, key).await {
            Ok(()) => Ok(()),
            // A successor took the name meanwhile; the claimed lock is nobody's any more.
            Err(error) if error.kind() == StorageErrorKind::AlreadyExists => self.remove_claim(claim).await,
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(()),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    async fn remove_claim(&self, claim: &Key) -> Result<()> {
        match self.storage.remove(claim).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(()),
            Err(error) => Err(lock_error(claim, error)),
        }
    }

    /// Claims whose claimant died are removed once they are old.
    async fn remove_old_claims(&self) -> Result<()> {
        for claim in self.names_starting("releasing-").await? {
            if self.is_stale(&claim).await? {
                self.remove_claim(&claim).await?;
            }
        }
        Ok(())
    }

    async fn names_starting(&self, start: &str) -> Result<Vec<Key>> {
        let folder = Prefix::folder("locks").expect("a plain word is a key");
        let mut names: Vec<Key> = self
            .storage
            .list(&folder)
            .try_filter_map(async |object| {
                let wanted = object.key.name().starts_with(start) && object.key.parts().count() == 2;
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
    async fn is_stale(&self, key: &Key) -> Result<bool> {
        let modified = match self.storage.stat(key).await {
            Ok(meta) => meta.modified,
            Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(lock_error(key, error)),
        };
        let now: SystemTime = self.storage.now().await.map_err(|error| lock_error(key, error))?;
        Ok(now.duration_since(modified).is_ok_and(|age| age > STALE_AFTER))
    }

    async fn locked_by(&self, key: &Key) -> Error {
        Error::new(ErrorKind::Locked, format!("the repository is locked: {}", self.holder(key).await))
    }

    /// Describes the holder for a person: lock file, host, process, operation, time.
    async fn holder(&self, key: &Key) -> String {
        let readable = match self.storage.stat(key).await {
            Ok(meta) if meta.size_bytes <= RECORD_BYTES_MAX => self.storage.read(key).await.ok(),
            _ => None,
        };
        match readable.as_deref().and_then(|bytes| LockRecord::decode(bytes).ok()) {
            Some(record) => format!(
                "{} held by {} pid {} ({} since {})",
                key.name(),
                record.hostname,
                record.pid,
                record.operation,
                record.acquired_at
            ),
            None => format!("{} held by an unknown holder", key.name()),
        }
    }

    fn lower_ulid(&self) -> String {
        self.ulids().next().to_string().to_lowercase()
    }
}

impl Lock {
    /// Makes sure that the lock is still ours: a holder that was stopped for longer than the staleness
    /// may have a successor, and must not publish over it.
    pub async fn confirm(&self) -> Result<()> {
        let ours = match self.storage.read(&self.key).await {
            Ok(found) => found == self.body,
            Err(error) if error.kind() == StorageErrorKind::NotFound => false,
            Err(error) => return Err(lock_error(&self.key, error)),
        };
        if ours && !self.lost.load(Ordering::Acquire) {
            return Ok(());
        }
        let name = self.key.name();
        Err(Error::new(ErrorKind::Locked, format!("the lock {name} was taken over by another process")))
    }

    /// Waits for the work and then gives the lock up, however the work ended; its own error comes first.
    pub async fn during<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = work.await;
        let released = self.release().await;
        let done = result?;
        released?;
        Ok(done)
    }

    /// Gives the lock up. A lock that is provably someone else's stays.
    pub async fn release(self) -> Result<()> {
        self.heartbeat.abort();
        if matches!(self.storage.read(&self.key).await, Ok(found) if self.is_foreign(&found)) {
            return Ok(());
        }
        let Some(claim) = self.repository.claim(&self.key).await? else { return Ok(()) };
        match self.storage.read(&claim).await {
            Ok(found) if found == self.body => self.repository.remove_claim(&claim).await,
            Ok(_) => self.repository.put_back(&claim, &self.key).await,
            Err(error) => {
                self.repository.put_back(&claim, &self.key).await?;
                Err(lock_error(&self.key, error))
            }
        }
    }

    fn is_foreign(&self, found: &Bytes) -> bool {
        *found != self.body && LockRecord::decode(found).is_ok()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// Keeps the lock fresh until it is no longer ours; then stops for good.
async fn beat(storage: Arc<dyn Storage>, key: Key, body: Bytes, lost: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        if storage.touch(&key, &body).await.is_err() {
            lost.store(true, Ordering::Release);
            return;
        }
    }
}

fn lock_error(key: &Key, error: StorageError) -> Error {
    storage_error(format!("cannot work with the lock {}", key.name()), error)
}
