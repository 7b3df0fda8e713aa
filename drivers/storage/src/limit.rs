//! At most so many operations in flight, whatever the number of callers.
//!
//! A place is held only while the inner storage works: not between two writes of an upload, nor between
//! two objects of a listing, so that a caller who reads while listing never waits for itself.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{Guarantees, Key, ListedObject, ObjectMeta, Prefix, Result, Staged, Storage, SweepReport};

/// A storage that works on a bounded number of operations at once.
#[derive(Debug)]
pub struct LimitStorage {
    inner: Arc<dyn Storage>,
    places: Arc<Semaphore>,
}

impl LimitStorage {
    /// Bounds the storage to this many operations at once; zero counts as one.
    pub fn new(inner: Arc<dyn Storage>, operations_max: usize) -> Self {
        Self { inner, places: Arc::new(Semaphore::new(operations_max.clamp(1, Semaphore::MAX_PERMITS))) }
    }
}

async fn place(places: &Semaphore) -> SemaphorePermit<'_> {
    places.acquire().await.expect("the semaphore is never closed")
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for LimitStorage {
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
        let _place = place(&self.places).await;
        self.inner.read(key).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let _place = place(&self.places).await;
        self.inner.read_range(key, range).await
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        let _place = place(&self.places).await;
        self.inner.read_start(key, bytes_max).await
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let _place = place(&self.places).await;
        self.inner.read_ranges(key, ranges).await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        let _place = place(&self.places).await;
        self.inner.stat(key).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let inner = self.inner.list(prefix);
        stream::unfold(inner, move |mut inner| async move {
            let place = place(&self.places).await;
            let next = inner.next().await;
            drop(place);
            next.map(|object| (object, inner))
        })
        .boxed()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.create(key, bytes).await
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let _place = place(&self.places).await;
        let inner = self.inner.stage(key).await?;
        Ok(Box::new(LimitStaged { inner, places: Arc::clone(&self.places) }))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.replace(key, bytes).await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.touch(key, expected).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.rename(from, to).await
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.remove(key).await
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        let _place = place(&self.places).await;
        self.inner.sweep(older_than).await
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.make_folder(folder).await
    }

    async fn now(&self) -> Result<SystemTime> {
        let _place = place(&self.places).await;
        self.inner.now().await
    }
}

#[derive(Debug)]
struct LimitStaged {
    inner: Box<dyn Staged>,
    places: Arc<Semaphore>,
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Staged for LimitStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.write(bytes).await
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.seal().await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        let _place = place(&self.places).await;
        self.inner.discard().await
    }
}
