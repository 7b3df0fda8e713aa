//! Retries: the one place above the drivers that tries a step again, and that settles what an uncertain
//! answer left open.
//!
//! Only kinds that [`ErrorKind::is_passing`] names are tried again, a bounded number of times within a
//! bounded time, with growing, jittered pauses. After a timeout, a broken connection or a conflict nobody
//! knows whether a create-only write happened, so the store is asked what lies there: our bytes mean done,
//! other bytes mean `ErrorKind::AlreadyExists`. Two callers that create the *same* bytes under one key may
//! therefore both be told that they won: what must have one winner must carry something of the caller's own.

mod attempts;
mod listing;
mod look;
mod pace;
mod spooled;
mod staged;
mod watch;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{
    Error, ErrorKind, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result,
    Spool, Staged, Storage, SweepReport,
};

pub use attempts::RetryPolicy;
pub use watch::{RetryWatch, Unwatched};

use attempts::Attempts;
use look::{Fingerprint, Lies};
use pace::Pace;
use spooled::SpooledStaged;
use staged::RetryStaged;
use watch::{Effect, attempt};

/// A storage that tries again what may pass.
#[derive(Debug, Clone)]
pub struct RetryStorage {
    inner: Arc<dyn Storage>,
    policy: RetryPolicy,
    watch: Arc<dyn RetryWatch>,
    pace: Arc<Pace>,
    spool: Option<Arc<Spool>>,
}

impl RetryStorage {
    /// Wraps the storage.
    pub fn new(inner: Arc<dyn Storage>, policy: RetryPolicy) -> Self {
        Self { inner, policy, watch: Arc::new(Unwatched), pace: Arc::default(), spool: None }
    }

    /// Tells the watch of each retry, and stops when it says so.
    pub fn watched_by(self, watch: Arc<dyn RetryWatch>) -> Self {
        Self { watch, ..self }
    }

    /// Keeps streamed objects in the spool until the store has them, so that they can be sent again.
    pub fn through(self, spool: Arc<Spool>) -> Self {
        Self { spool: Some(spool), ..self }
    }

    fn attempts(&self) -> Attempts<'_> {
        Attempts::new(self.policy, self.watch.as_ref())
    }

    /// Repeats a step that may be done twice without harm.
    async fn again<'a, T>(
        &'a self,
        effect: Effect,
        what: (Operation, &str),
        step: impl Fn() -> BoxFuture<'a, Result<T>> + Send + Sync,
    ) -> Result<T> {
        again(self.policy, (self.watch.as_ref(), &self.pace), effect, what, step).await
    }

    /// Runs a step once, until it ends or the operation is stopped.
    async fn once<T>(
        &self,
        effect: Effect,
        what: (Operation, &str),
        step: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        attempt(self.watch.as_ref(), &self.pace, effect, what, step).await
    }

    /// Tells, after an uncertain answer to a create-only write, whether it is settled.
    ///
    /// `Some` is the answer to the caller; `None` means that nothing lies there.
    async fn settle(&self, operation: Operation, key: &Key, ours: &Fingerprint) -> Option<Result<()>> {
        match look::look(self, key, ours).await {
            Ok(Lies::Ours) => Some(Ok(())),
            Ok(Lies::Other) => Some(Err(Error::already_exists(operation, key))),
            Ok(Lies::Nothing) => None,
            Err(error) => {
                let detail = "whether it was published cannot be told";
                Some(Err(Error::new(error.kind(), operation, key, detail).with_source(error)))
            }
        }
    }

    /// Tells, after an uncertain rename, whether it is settled, from where the object lies now.
    async fn settle_rename(&self, from: &Key, to: &Key) -> Option<Result<()>> {
        match (self.is_there(from).await, self.is_there(to).await) {
            (Ok(false), Ok(true)) => Some(Ok(())),
            (Ok(false), Ok(false)) => Some(Err(Error::not_found(Operation::Rename, from))),
            (Ok(true), Ok(true)) => Some(Err(Error::already_exists(Operation::Rename, to))),
            (Ok(true), Ok(false)) => None,
            (Err(error), _) | (_, Err(error)) => {
                let detail = "whether it was renamed cannot be told";
                Some(Err(Error::new(error.kind(), Operation::Rename, from, detail).with_source(error)))
            }
        }
    }

    async fn is_there(&self, key: &Key) -> Result<bool> {
        match self.stat(key).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Repeats what is no call of a storage, such as opening one, by the rules of all steps: what may pass is tried
/// again, and a stop ends it.
pub async fn persist<'a, T>(
    policy: RetryPolicy,
    watch: &dyn RetryWatch,
    what: (Operation, &str),
    step: impl Fn() -> BoxFuture<'a, Result<T>> + Send + Sync,
) -> Result<T> {
    again(policy, (watch, &Pace::default()), Effect::Writes, what, step).await
}

async fn again<'a, T>(
    policy: RetryPolicy,
    (watch, pace): (&dyn RetryWatch, &Pace),
    effect: Effect,
    what: (Operation, &str),
    step: impl Fn() -> BoxFuture<'a, Result<T>> + Send + Sync,
) -> Result<T> {
    let mut attempts = Attempts::new(policy, watch);
    loop {
        match attempt(watch, pace, effect, what, attempts.numbered(step())).await {
            Err(error) if error.kind().is_passing() => attempts.pause(error, what).await?,
            result => return result,
        }
    }
}

/// Tells whether the step may have happened although it failed.
fn is_uncertain(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Connection | ErrorKind::Conflict)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for RetryStorage {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn is_spooled(&self) -> bool {
        self.spool.is_some() || self.inner.is_spooled()
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.again(Effect::Reads, (Operation::Read, key.as_str()), || self.inner.read(key)).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let what = (Operation::Read, key.as_str());
        self.again(Effect::Reads, what, || self.inner.read_range(key, range.clone())).await
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        let what = (Operation::Read, key.as_str());
        self.again(Effect::Reads, what, || self.inner.read_start(key, bytes_max)).await
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let what = (Operation::Read, key.as_str());
        self.again(Effect::Reads, what, || self.inner.read_ranges(key, ranges)).await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.again(Effect::Reads, (Operation::Stat, key.as_str()), || self.inner.stat(key)).await
    }

    /// A listing that broke begins anew and leaves out what it has shown.
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        listing::list(self, prefix)
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let what = (Operation::Create, key.as_str());
        let mut attempts = self.attempts();
        let mut ours = None;
        loop {
            let created = self.inner.create(key, bytes.clone());
            let created = self.once(Effect::Writes, what, attempts.numbered(created)).await;
            let Err(error) = created else { return Ok(()) };
            if is_uncertain(&error) {
                ours.get_or_insert_with(|| Fingerprint::of(&bytes));
            }
            // A key found taken is only in doubt if an earlier attempt may have taken it.
            let is_in_doubt = is_uncertain(&error) || error.kind() == ErrorKind::AlreadyExists;
            if let (true, Some(ours)) = (is_in_doubt, &ours)
                && let Some(settled) = self.settle(Operation::Create, key, ours).await
            {
                return settled;
            }
            attempts.pause(error, what).await?;
        }
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        if let Some(spool) = &self.spool {
            return Ok(Box::new(SpooledStaged::new(Arc::clone(spool), self.clone(), key.clone())));
        }
        let what = (Operation::Stage, key.as_str());
        let inner = self.again(Effect::Writes, what, || self.inner.stage(key)).await?;
        Ok(Box::new(RetryStaged::new(inner, self.clone(), key.clone())))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let what = (Operation::Replace, key.as_str());
        self.again(Effect::Writes, what, || self.inner.replace(key, bytes.clone())).await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        let what = (Operation::Touch, key.as_str());
        self.again(Effect::Writes, what, || self.inner.touch(key, expected)).await
    }

    /// After an uncertain answer an object that left `from` and lies at `to` counts as moved by us, so
    /// `to` should be a name nobody else moves things to.
    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let what = (Operation::Rename, from.as_str());
        let mut attempts = self.attempts();
        let mut was_uncertain = false;
        loop {
            let renamed = attempts.numbered(self.inner.rename(from, to));
            let renamed = self.once(Effect::Writes, what, renamed).await;
            let Err(error) = renamed else { return Ok(()) };
            was_uncertain |= is_uncertain(&error);
            let is_in_doubt = is_uncertain(&error)
                || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists);
            if was_uncertain
                && is_in_doubt
                && let Some(settled) = self.settle_rename(from, to).await
            {
                return settled;
            }
            attempts.pause(error, what).await?;
        }
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        let what = (Operation::Remove, key.as_str());
        let mut attempts = self.attempts();
        let mut was_uncertain = false;
        loop {
            let removed = attempts.numbered(self.inner.remove(key));
            let removed = self.once(Effect::Writes, what, removed).await;
            let Err(error) = removed else { return Ok(()) };
            if was_uncertain && error.kind() == ErrorKind::NotFound {
                return Ok(());
            }
            was_uncertain |= is_uncertain(&error);
            attempts.pause(error, what).await?;
        }
    }

    /// Asks again for those alone that are not known to be gone, and may be with another attempt.
    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        let object = keys.first().map_or("", Key::as_str);
        let what = (Operation::Remove, object);
        let mut attempts = self.attempts();
        let (mut wanted, mut left) = (keys.to_vec(), Vec::new());
        loop {
            let removing = attempts.numbered(self.inner.remove_all(&wanted));
            let not_removed = match self.once(Effect::Writes, what, removing).await {
                Ok(not_removed) => not_removed,
                Err(error) => {
                    attempts.pause(error, what).await?;
                    continue;
                }
            };
            let (mut passing, lasting): (Vec<_>, Vec<_>) =
                not_removed.into_iter().partition(|one| one.error.kind().is_passing());
            left.extend(lasting);
            let Some(NotRemoved { key, error }) = passing.pop() else { return Ok(left) };
            wanted = passing.iter().map(|one| one.key.clone()).chain([key.clone()]).collect();
            if let Err(error) = attempts.pause(error, what).await {
                left.extend(passing);
                left.push(NotRemoved { key, error });
                return Ok(left);
            }
        }
    }

    /// Reports what the last attempt removed; an earlier one may have removed more.
    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        self.again(Effect::Writes, (Operation::Sweep, ""), || self.inner.sweep(older_than)).await
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        let object = folder.to_string();
        let what = (Operation::MakeFolder, object.as_str());
        self.again(Effect::Writes, what, || self.inner.make_folder(folder)).await
    }

    async fn now(&self) -> Result<SystemTime> {
        self.again(Effect::Reads, (Operation::Now, ""), || self.inner.now()).await
    }
}
