//! packvault storage in a bucket of an S3-compatible store.
//!
//! Every request is made here, signed by `object_store`'s signer and sent once: the driver sees each status,
//! `Date`, range and reason itself. What a server keeps of its promises differs, so it is asked once
//! ([`S3Storage::probe`]) and the answer handed in whenever the storage is opened; without it the most
//! careful way is taken. Retries are a wrapper's, except for the parts of an upload.

mod batch;
mod body;
mod chain;
mod client;
mod config;
mod credentials;
mod error;
mod features;
mod list;
mod means;
mod place;
mod probe;
mod profile;
mod read;
mod staged;
mod sweep;
mod times;
mod upload;
mod write;
mod xml;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use http::Method;
use packvault_storage::probe::ProbeReport;
use packvault_storage::{
    ErrorKind, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result, Staged,
    Step, Storage, SweepReport, Wire, sweep_scratch,
};

pub use config::{Environment, ONE_PUT_BYTES_MAX, S3Config, S3Credentials, S3Timeouts};
pub use features::{Checksum, Condition, IfMatch, S3Features};
pub use probe::REQUESTS_ABOUT as PROBE_REQUESTS_ABOUT;

use client::{Client, Request};
use features::Ways;
use staged::S3Staged;

/// A storage in a bucket.
#[derive(Debug, Clone)]
pub struct S3Storage {
    client: Arc<Client>,
    ways: Ways,
    one_put_bytes_max: u64,
}

impl S3Storage {
    /// Opens the place without asking anything; the bucket must exist by the first request.
    ///
    /// Only what cannot work whatever the server says is an error here. `features` is what an earlier
    /// [`S3Storage::probe`] found.
    pub fn open(config: S3Config, features: Option<S3Features>, wire: Arc<Wire>) -> Result<Self> {
        let one_put_bytes_max = config.one_put_bytes_max;
        let client = Arc::new(Client::new(&config, wire)?);
        Ok(Self { client, ways: Ways::of(features.as_ref()), one_put_bytes_max })
    }

    /// Returns the same storage that believes these features of its server.
    pub fn with_features(&self, features: S3Features) -> Self {
        Self { ways: Ways::of(Some(&features)), ..self.clone() }
    }

    /// Asks the server what it keeps of its promises, on scratch keys that are removed afterwards.
    ///
    /// A server that cannot hold a repository at all is an error: the bucket is missing, the credentials do
    /// not do, or a listing does not show what was just written.
    pub async fn probe(&self) -> Result<(S3Features, ProbeReport)> {
        probe::probe(&self.client).await
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn location(&self) -> String {
        self.client.place.location.clone()
    }

    /// Durability is the store's own promise: an answered write is durable.
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            create_only: self.ways.create_only == Condition::Kept,
            create_only_streamed: self.ways.create_only_streamed == Condition::Kept,
            rename: false,
            sync: true,
        }
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        read::read(&self.client, key).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        read::read_range(&self.client, key, range).await
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        read::read_ranges(&self.client, key, ranges).await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        read::head(&self.client, Step::new(Operation::Stat, key.as_str()), key).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        list::list(&self.client, prefix.clone(), list::PAGE_OBJECTS)
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        if bytes.len() as u64 > self.one_put_bytes_max {
            let staged = S3Staged::new(Arc::clone(&self.client), self.ways, key.clone(), 0);
            return staged.write_whole(Operation::Create, bytes).await;
        }
        let step = Step::new(Operation::Create, key.as_str());
        write::create(&self.client, self.ways, step, key, bytes.into()).await
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let client = Arc::clone(&self.client);
        Ok(Box::new(S3Staged::new(client, self.ways, key.clone(), self.one_put_bytes_max)))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        write::replace(&self.client, self.ways, key, bytes).await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        write::touch(&self.client, self.ways, key, expected).await
    }

    async fn rename(&self, from: &Key, _to: &Key) -> Result<()> {
        let step = Step::new(Operation::Rename, from.as_str());
        Err(step.error(ErrorKind::Unsupported, "an S3 store moves no objects"))
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        write::remove(&self.client, key).await
    }

    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        Ok(batch::remove_all(&self.client, keys).await)
    }

    /// Sweeps no uploads where the server was not seen to tell truly when one began.
    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        let mut report = sweep_scratch(self, older_than).await?;
        if self.ways.sweeps {
            report.removed += sweep::sweep(&self.client, self.now().await?, older_than).await?.removed;
        }
        Ok(report)
    }

    async fn make_folder(&self, _folder: &Prefix) -> Result<()> {
        Ok(())
    }

    /// Costs a request if there was no answer within the last half minute.
    async fn now(&self) -> Result<SystemTime> {
        if let Some(now) = self.client.clock.now() {
            return Ok(now);
        }
        let step = Step::new(Operation::Now, &self.client.place.location);
        let answer = self.client.send(step, Request::new(Method::HEAD, None)).await?;
        if answer.status().is_server_error() {
            return Err(answer.refused(step).await);
        }
        // Whatever else it says, it has told the time.
        let lacks = || step.error(ErrorKind::Unsupported, "the server's answers bear no date");
        self.client.clock.now().ok_or_else(lacks)
    }
}
