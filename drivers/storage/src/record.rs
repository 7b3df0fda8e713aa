//! What was asked of a storage: every call for tests, sums for statistics.
//!
//! Calls are recorded in the order in which they ended. Bytes count as read or written only if the call
//! succeeded: `bytes_read` sums what reads returned, `bytes_written` what creates, replaces and writes
//! handed over; a listing's objects and a touch's expected bytes are neither.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::{
    ErrorKind, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result, Staged,
    Storage, SweepReport,
};

/// One call and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What was asked.
    pub operation: Operation,
    /// The key, the prefix of a list, or `from -> to`; empty for the whole storage.
    pub object: String,
    /// The bytes that were read or written.
    pub bytes: u64,
    /// The kind of the error, if it failed.
    pub failure: Option<ErrorKind>,
}

/// The sums over all calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls, failed ones included.
    pub calls: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Bytes that reads returned.
    pub bytes_read: u64,
    /// Bytes that were handed over to creates, replaces and writes.
    pub bytes_written: u64,
}

/// A storage that remembers what was asked of it. A clone shares the memory.
#[derive(Debug, Clone)]
pub struct RecordStorage {
    inner: Arc<dyn Storage>,
    log: Log,
}

impl RecordStorage {
    /// Records every call; the list grows with each.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, log: Log::new(true) }
    }

    /// Only sums up, in constant memory.
    pub fn counting(inner: Arc<dyn Storage>) -> Self {
        Self { inner, log: Log::new(false) }
    }

    /// Returns the sums so far.
    pub fn counts(&self) -> Counts {
        self.log.entries().counts
    }

    /// Returns the recorded calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.log.entries().calls.clone()
    }

    /// Returns the recorded calls and forgets them; the sums go on.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.log.entries().calls)
    }

    /// Returns how often the operation was asked for, as far as calls are recorded.
    pub fn count_of(&self, operation: Operation) -> usize {
        self.log.entries().calls.iter().filter(|call| call.operation == operation).count()
    }
}

#[derive(Debug, Clone)]
struct Log {
    entries: Arc<Mutex<Entries>>,
    keeps_calls: bool,
}

#[derive(Debug, Default)]
struct Entries {
    calls: Vec<Call>,
    counts: Counts,
}

/// The bytes a successful call moved, by direction.
enum Moved {
    Nothing,
    Read(u64),
    Written(u64),
}

impl Log {
    fn new(keeps_calls: bool) -> Self {
        Self { entries: Arc::default(), keeps_calls }
    }

    /// Sums are added in one step, so a panic elsewhere leaves them consistent.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record<T>(
        &self,
        operation: Operation,
        object: impl ToString,
        result: Result<T>,
        moved: impl FnOnce(&T) -> Moved,
    ) -> Result<T> {
        let failure = result.as_ref().err().map(crate::Error::kind);
        let moved = result.as_ref().map_or(Moved::Nothing, moved);
        let mut entries = self.entries();
        entries.counts.calls += 1;
        entries.counts.failures += u64::from(failure.is_some());
        let bytes = match moved {
            Moved::Nothing => 0,
            Moved::Read(bytes) => {
                entries.counts.bytes_read += bytes;
                bytes
            }
            Moved::Written(bytes) => {
                entries.counts.bytes_written += bytes;
                bytes
            }
        };
        if self.keeps_calls {
            entries.calls.push(Call { operation, object: object.to_string(), bytes, failure });
        }
        result
    }

    fn record_plain<T>(&self, operation: Operation, object: impl ToString, result: Result<T>) -> Result<T> {
        self.record(operation, object, result, |_| Moved::Nothing)
    }
}

fn read(bytes: &Bytes) -> Moved {
    Moved::Read(bytes.len() as u64)
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for RecordStorage {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn is_spooled(&self) -> bool {
        self.inner.is_spooled()
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.log.record(Operation::Read, key, self.inner.read(key).await, read)
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.log.record(Operation::Read, key, self.inner.read_range(key, range).await, read)
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        self.log.record(Operation::Read, key, self.inner.read_start(key, bytes_max).await, read)
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let found = self.inner.read_ranges(key, ranges).await;
        self.log.record(Operation::Read, key, found, |found| {
            Moved::Read(found.iter().map(|bytes| bytes.len() as u64).sum())
        })
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.log.record_plain(Operation::Stat, key, self.inner.stat(key).await)
    }

    /// Counts as one call, which ends with the list, with its first error, or when it is dropped.
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let ending = ListEnding { log: self.log.clone(), prefix: prefix.to_string(), is_recorded: false };
        stream::unfold((self.inner.list(prefix), ending), |(mut inner, mut ending)| async move {
            let object = inner.next().await?;
            let object = object.map_err(|error| ending.record(error));
            Some((object, (inner, ending)))
        })
        .boxed()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        self.log.record(Operation::Create, key, self.inner.create(key, bytes).await, |()| Moved::Written(len))
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let inner = self.log.record_plain(Operation::Stage, key, self.inner.stage(key).await)?;
        Ok(Box::new(RecordStaged { inner, key: key.clone(), log: self.log.clone() }))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        self.log
            .record(Operation::Replace, key, self.inner.replace(key, bytes).await, |()| Moved::Written(len))
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        self.log.record_plain(Operation::Touch, key, self.inner.touch(key, expected).await)
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let object = format!("{from} -> {to}");
        self.log.record_plain(Operation::Rename, object, self.inner.rename(from, to).await)
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        self.log.record_plain(Operation::Remove, key, self.inner.remove(key).await)
    }

    /// Counts as one call, whose object is all its keys.
    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        let names: Vec<&str> = keys.iter().map(Key::as_str).collect();
        self.log.record_plain(Operation::Remove, names.join(" "), self.inner.remove_all(keys).await)
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        self.log.record_plain(Operation::Sweep, "", self.inner.sweep(older_than).await)
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        self.log.record_plain(Operation::MakeFolder, folder, self.inner.make_folder(folder).await)
    }

    async fn now(&self) -> Result<SystemTime> {
        self.log.record_plain(Operation::Now, "", self.inner.now().await)
    }
}

struct ListEnding {
    log: Log,
    prefix: String,
    is_recorded: bool,
}

impl ListEnding {
    fn record(&mut self, error: crate::Error) -> crate::Error {
        if std::mem::replace(&mut self.is_recorded, true) {
            return error;
        }
        match self.log.record_plain(Operation::List, &self.prefix, Err::<(), _>(error)) {
            Err(error) => error,
            Ok(()) => unreachable!("an error is recorded as it is"),
        }
    }
}

impl Drop for ListEnding {
    fn drop(&mut self) {
        if !self.is_recorded {
            let _ = self.log.record_plain(Operation::List, &self.prefix, Ok(()));
        }
    }
}

#[derive(Debug)]
struct RecordStaged {
    inner: Box<dyn Staged>,
    key: Key,
    log: Log,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Staged for RecordStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let len = bytes.len() as u64;
        self.log.record(Operation::Write, &self.key, self.inner.write(bytes).await, |()| Moved::Written(len))
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        self.log.record_plain(Operation::Seal, &self.key, self.inner.seal().await)
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.log.record_plain(Operation::Discard, &self.key, self.inner.discard().await)
    }
}
