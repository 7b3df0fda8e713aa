//! What is asked of a storage, as events of a log: one for each request, when it has ended.
//!
//! An event has the target `packvault::request` and says what was asked, of which object, how many bytes passed,
//! how long it took, which attempt it was, and how it ended. A write of a streamed object is an event of the level
//! trace, for a pack has hundreds; everything else is one of the level debug. Nothing is measured, and no wrapper
//! stands in the way, where nobody listens.
//!
//! The wrapper belongs right around a driver, below the retries: each attempt is a request.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use crate::{
    Error, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result, Staged, Storage,
    SweepReport,
};

tokio::task_local! {
    /// Which attempt the requests of this task are, where they are tried again.
    static ATTEMPT: u32;
}

/// A storage whose requests are told.
#[derive(Debug)]
pub struct TraceStorage {
    inner: Arc<dyn Storage>,
}

impl TraceStorage {
    /// Tells every request to the storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner }
    }

    /// Wraps the storage if somebody listens, and returns it as it is if not.
    pub fn if_heard(inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        match tracing::enabled!(target: "packvault::request", tracing::Level::DEBUG) {
            true => Arc::new(Self::new(inner)),
            false => inner,
        }
    }
}

/// Does the step as the attempt with this number.
pub(crate) async fn numbered<T>(attempt: u32, step: impl Future<Output = T>) -> T {
    ATTEMPT.scope(attempt, step).await
}

/// One request under way.
struct Request {
    operation: Operation,
    begun: Instant,
}

impl Request {
    fn begin(operation: Operation) -> Self {
        Self { operation, begun: Instant::now() }
    }

    /// Tells how it ended, and returns that.
    fn end<T>(
        self,
        object: impl std::fmt::Display,
        result: Result<T>,
        bytes: impl FnOnce(&T) -> u64,
    ) -> Result<T> {
        self.tell(object, result.as_ref().map(bytes));
        result
    }

    fn tell(&self, object: impl std::fmt::Display, ended: std::result::Result<u64, &Error>) {
        let verb = self.operation.verb();
        let milliseconds = self.begun.elapsed().as_millis() as u64;
        let attempt = ATTEMPT.try_with(|attempt| *attempt).unwrap_or(1);
        match ended {
            Ok(bytes) if self.operation == Operation::Write => {
                tracing::trace!(
                    target: "packvault::request",
                    verb,
                    key = %object,
                    bytes,
                    milliseconds,
                    attempt,
                    outcome = "done"
                );
            }
            Ok(bytes) => {
                tracing::debug!(
                    target: "packvault::request",
                    verb,
                    key = %object,
                    bytes,
                    milliseconds,
                    attempt,
                    outcome = "done"
                );
            }
            Err(error) => {
                let outcome = format!("{:?}", error.kind());
                tracing::debug!(
                    target: "packvault::request",
                    verb,
                    key = %object,
                    milliseconds,
                    attempt,
                    outcome
                );
            }
        }
    }
}

fn nothing<T>(_: &T) -> u64 {
    0
}

fn len(bytes: &Bytes) -> u64 {
    bytes.len() as u64
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for TraceStorage {
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
        let request = Request::begin(Operation::Read);
        request.end(key, self.inner.read(key).await, len)
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let request = Request::begin(Operation::Read);
        request.end(key, self.inner.read_range(key, range).await, len)
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        let request = Request::begin(Operation::Read);
        request.end(key, self.inner.read_start(key, bytes_max).await, len)
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let request = Request::begin(Operation::Read);
        request.end(key, self.inner.read_ranges(key, ranges).await, |found| found.iter().map(len).sum())
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        let request = Request::begin(Operation::Stat);
        request.end(key, self.inner.stat(key).await, nothing)
    }

    /// Is one request, which ends with the list, with its first error, or when it is dropped.
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let listing = Listing { request: Some(Request::begin(Operation::List)), prefix: prefix.to_string() };
        stream::unfold((self.inner.list(prefix), listing), |(mut inner, mut listing)| async move {
            let object = inner.next().await?;
            if let Err(error) = &object {
                listing.end(Err(error));
            }
            Some((object, (inner, listing)))
        })
        .boxed()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let (request, sent) = (Request::begin(Operation::Create), len(&bytes));
        request.end(key, self.inner.create(key, bytes).await, |()| sent)
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let request = Request::begin(Operation::Stage);
        let inner = request.end(key, self.inner.stage(key).await, nothing)?;
        Ok(Box::new(TraceStaged { inner, key: key.clone(), written: 0 }))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let (request, sent) = (Request::begin(Operation::Replace), len(&bytes));
        request.end(key, self.inner.replace(key, bytes).await, |()| sent)
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        let request = Request::begin(Operation::Touch);
        request.end(key, self.inner.touch(key, expected).await, nothing)
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let request = Request::begin(Operation::Rename);
        let renamed = self.inner.rename(from, to).await;
        request.end(format_args!("{from} -> {to}"), renamed, nothing)
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        let request = Request::begin(Operation::Remove);
        request.end(key, self.inner.remove(key).await, nothing)
    }

    /// Is one request, whatever the store makes of it.
    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        let request = Request::begin(Operation::Remove);
        let removed = self.inner.remove_all(keys).await;
        let left = removed.as_ref().map_or(0, Vec::len);
        request.end(format_args!("{} objects, {left} not removed", keys.len()), removed, nothing)
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        let request = Request::begin(Operation::Sweep);
        request.end("", self.inner.sweep(older_than).await, nothing)
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        let request = Request::begin(Operation::MakeFolder);
        request.end(folder, self.inner.make_folder(folder).await, nothing)
    }

    async fn now(&self) -> Result<SystemTime> {
        let request = Request::begin(Operation::Now);
        request.end("", self.inner.now().await, nothing)
    }
}

struct Listing {
    /// Until it is told.
    request: Option<Request>,
    prefix: String,
}

impl Listing {
    fn end(&mut self, ended: std::result::Result<u64, &Error>) {
        if let Some(request) = self.request.take() {
            request.tell(&self.prefix, ended);
        }
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.end(Ok(0));
    }
}

#[derive(Debug)]
struct TraceStaged {
    inner: Box<dyn Staged>,
    key: Key,
    written: u64,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Staged for TraceStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let (request, sent) = (Request::begin(Operation::Write), len(&bytes));
        self.written += sent;
        request.end(&self.key, self.inner.write(bytes).await, |()| sent)
    }

    /// Tells the bytes of the whole object.
    async fn seal(self: Box<Self>) -> Result<()> {
        let Self { inner, key, written } = *self;
        let request = Request::begin(Operation::Seal);
        request.end(&key, inner.seal().await, |()| written)
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        let Self { inner, key, .. } = *self;
        let request = Request::begin(Operation::Discard);
        request.end(&key, inner.discard().await, nothing)
    }
}
