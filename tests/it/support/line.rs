//! A storage at the end of a line: every request takes as long as the way to and fro, and how many were under
//! way at once is known afterwards.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use packvault_storage::{
    Guarantees, Key, ListedObject, ObjectMeta, Prefix, Result, Staged, Storage, SweepReport,
};

/// The way to the store and back.
pub const ROUND_TRIP: Duration = Duration::from_millis(50);

/// A storage at the end of a line. A clone shares the counts.
#[derive(Debug, Clone)]
pub struct Line {
    inner: Arc<dyn Storage>,
    counts: Arc<Counts>,
    place: &'static str,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicUsize,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Line {
    pub fn to(inner: Arc<dyn Storage>) -> Self {
        Self { inner, counts: Arc::default(), place: "line" }
    }

    /// The same store under another name.
    pub fn named(&self, place: &'static str) -> Self {
        Self { place, ..self.clone() }
    }

    /// Returns how many requests were made.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Returns how many of them were under way at once, at most.
    pub fn most_under_way(&self) -> usize {
        self.counts.most_under_way.load(Ordering::SeqCst)
    }

    async fn over<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let counts = &self.counts;
        counts.requests.fetch_add(1, Ordering::SeqCst);
        let under_way = counts.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        tokio::time::sleep(ROUND_TRIP).await;
        let answer = request.await;
        counts.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

#[async_trait]
impl Storage for Line {
    fn location(&self) -> String {
        self.place.to_owned()
    }

    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.over(self.inner.read(key)).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.over(self.inner.read_range(key, range)).await
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        self.over(self.inner.read_start(key, bytes_max)).await
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.over(self.inner.read_ranges(key, ranges)).await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.over(self.inner.stat(key)).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let prefix = prefix.clone();
        let listed = async move {
            let whole = async { Ok(self.inner.list(&prefix).collect::<Vec<_>>().await) };
            stream::iter(self.over(whole).await.unwrap_or_default())
        };
        stream::once(listed).flatten().boxed()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.over(self.inner.create(key, bytes)).await
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        self.over(self.inner.stage(key)).await
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.over(self.inner.replace(key, bytes)).await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        self.over(self.inner.touch(key, expected)).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        self.over(self.inner.rename(from, to)).await
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        self.over(self.inner.remove(key)).await
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        self.over(self.inner.sweep(older_than)).await
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        self.over(self.inner.make_folder(folder)).await
    }

    async fn now(&self) -> Result<SystemTime> {
        self.over(self.inner.now()).await
    }
}
