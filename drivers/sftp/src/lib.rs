//! packvault storage on a server reached over SFTP, by way of the system's `ssh`.
//!
//! Objects are written to `staging/` and published create-only; what a server cannot promise is found out
//! by asking it ([`SftpStorage::probe`]), remembered by the caller as [`SftpFeatures`], told by
//! `guarantees`, and built another way or refused. Below the root no link is followed that was there when
//! it was looked at. Each call is a task of its own: one that changes something goes on to its end even if
//! its caller is gone, one that reads stops. So no call ever waits for another that nobody drives.
//!
//! The folder `staging/` is the driver's own: nothing in it is an object, and no object can be put there.
//!
//! Memory: per channel a window of 4 MiB of data under way; per read its result and one window more; per
//! upload two of the caller's pieces.

mod answers;
mod change;
mod channel;
mod claim;
mod client;
mod clock;
mod codec;
mod config;
mod error;
#[cfg(test)]
mod fake;
mod features;
mod handles;
mod line;
mod pool;
mod probe;
mod publish;
mod read;
mod reasons;
mod server_time;
mod ssh;
mod staged;
mod sweep;
mod sync;
mod tree;
mod upload;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use packvault_storage::probe::ProbeReport;
use packvault_storage::{
    Error, ErrorKind, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result,
    Staged, Step, Storage, SweepReport, Wire,
};
use tokio::task::JoinSet;

pub use config::{CONNECTIONS_MAX, SftpConfig, SftpPath, SftpTimeouts};
pub use features::SftpFeatures;

use client::Client;
use line::Patience;
use pool::Pool;
use ssh::{Dial, Ssh};
use staged::SftpStaged;
use upload::Upload;

/// A repository's folder on a server.
#[derive(Debug, Clone)]
pub struct SftpStorage {
    client: Client,
}

impl SftpStorage {
    /// Opens the folder, which must exist; `ErrorKind::NotFound` otherwise.
    ///
    /// Without features nothing is believed of the server: new objects are made by a look and a rename,
    /// and `guarantees` promises nothing. [`SftpStorage::probe`] finds the features out.
    pub async fn open(config: SftpConfig, features: Option<SftpFeatures>, wire: Arc<Wire>) -> Result<Self> {
        let storage = Self::unopened(config, features, wire)?;
        storage.require_root().await?;
        Ok(storage)
    }

    /// Makes the folder and the missing folders above it, 0700, and opens it.
    ///
    /// A folder that exists is taken as it is; anything else under that name is `ErrorKind::Unsafe`.
    pub async fn create_root(
        config: SftpConfig,
        features: Option<SftpFeatures>,
        wire: Arc<Wire>,
    ) -> Result<Self> {
        let storage = Self::unopened(config, features, wire)?;
        let client = storage.client.clone();
        let work = async move { client.make_root(client.step(Operation::Open)).await };
        to_its_end(Operation::Open, storage.client.location(), work).await?;
        storage.require_root().await?;
        Ok(storage)
    }

    fn unopened(config: SftpConfig, features: Option<SftpFeatures>, wire: Arc<Wire>) -> Result<Self> {
        config.check()?;
        let dialer = Box::new(Ssh::new(config.clone()));
        Ok(Self::over(dialer, &config, features, wire))
    }

    fn over(
        dialer: Box<dyn Dial>,
        config: &SftpConfig,
        features: Option<SftpFeatures>,
        wire: Arc<Wire>,
    ) -> Self {
        let patience = Patience { greeting: config.timeouts.login, answer: config.timeouts.answer };
        let pool = Pool::new(dialer, patience, config.connections_max);
        let root = config.path.on_server();
        Self { client: Client::new(pool, wire, features.unwrap_or_default(), root, config.to_string()) }
    }

    /// Returns the same storage, over the same connections, that believes other things of its server.
    pub fn with_features(&self, features: SftpFeatures) -> Self {
        Self { client: self.client.with_features(features) }
    }

    /// Returns what is believed of the server.
    pub fn features(&self) -> SftpFeatures {
        self.client.features
    }

    /// Asks the server what it can promise, on scratch names in `staging/` that are removed again.
    pub async fn probe(&self) -> Result<(SftpFeatures, ProbeReport)> {
        let client = self.client.clone();
        let work = async move { probe::probe(&client, client.step(Operation::Open)).await };
        to_its_end(Operation::Open, self.client.location(), work).await
    }

    async fn require_root(&self) -> Result<()> {
        let client = self.client.clone();
        let work = async move { client.require_root(client.step(Operation::Open)).await };
        while_wanted(Operation::Open, self.client.location(), work).await
    }
}

/// Runs the step to its end, whether or not the caller still waits for it.
async fn to_its_end<T: Send + 'static>(
    operation: Operation,
    object: impl fmt::Display,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    ended(operation, object, tokio::spawn(work).await)
}

/// Runs the step as long as the caller waits for it.
async fn while_wanted<T: Send + 'static>(
    operation: Operation,
    object: impl fmt::Display,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    // Aborts what is in it when it is dropped.
    let mut task = JoinSet::new();
    task.spawn(work);
    match task.join_next().await {
        Some(result) => ended(operation, object, result),
        None => Err(Error::new(ErrorKind::Io, operation, object, "the program is stopping")),
    }
}

/// A panic in a step goes on in its caller.
fn ended<T>(
    operation: Operation,
    object: impl fmt::Display,
    result: std::result::Result<Result<T>, tokio::task::JoinError>,
) -> Result<T> {
    match result {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => {
            Err(Error::new(ErrorKind::Io, operation, object, "the program is stopping").with_source(error))
        }
    }
}

#[async_trait]
impl Storage for SftpStorage {
    fn location(&self) -> String {
        self.client.location().to_owned()
    }

    fn guarantees(&self) -> Guarantees {
        self.client.features.guarantees()
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        let (client, of) = (self.client.clone(), key.clone());
        while_wanted(Operation::Read, key, async move { read::read(&client, &of).await }).await
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        let (client, of) = (self.client.clone(), key.clone());
        while_wanted(Operation::Read, key, async move { read::read_start(&client, &of, bytes_max).await })
            .await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        let mut found = self.read_ranges(key, &[range]).await?;
        found.pop().ok_or_else(|| Error::new(ErrorKind::Io, Operation::Read, key, "one range gave none"))
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (client, of, ranges) = (self.client.clone(), key.clone(), ranges.to_vec());
        while_wanted(Operation::Read, key, async move { read::read_ranges(&client, &of, &ranges).await })
            .await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        let (client, of) = (self.client.clone(), key.clone());
        while_wanted(Operation::Stat, key, async move { change::stat(&client, &of).await }).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        tree::list(self.client.clone(), prefix)
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let (client, of) = (self.client.clone(), key.clone());
        to_its_end(Operation::Create, key, async move { publish::create(&client, &of, &bytes).await }).await
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let (client, of) = (self.client.clone(), key.clone());
        to_its_end(Operation::Stage, key, async move {
            let step = Step::new(Operation::Stage, of.as_str());
            let channel = client.heavy(step).await?;
            let upload = Upload::begin(client.clone(), channel, step, &of).await?;
            let staged: Box<dyn Staged> = Box::new(SftpStaged::new(client, of, upload));
            Ok(staged)
        })
        .await
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let (client, of) = (self.client.clone(), key.clone());
        to_its_end(Operation::Replace, key, async move { publish::replace(&client, &of, &bytes).await }).await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        let (client, of, expected) = (self.client.clone(), key.clone(), Bytes::copy_from_slice(expected));
        to_its_end(Operation::Touch, key, async move { change::touch(&client, &of, &expected).await }).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let (client, of, to) = (self.client.clone(), from.clone(), to.clone());
        to_its_end(Operation::Rename, from, async move { change::rename(&client, &of, &to).await }).await
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        let (client, of) = (self.client.clone(), key.clone());
        to_its_end(Operation::Remove, key, async move { change::remove(&client, &of).await }).await
    }

    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        let Some(first) = keys.first() else { return Ok(Vec::new()) };
        let (client, all) = (self.client.clone(), keys.to_vec());
        to_its_end(Operation::Remove, first, async move { Ok(change::remove_all(&client, &all).await) }).await
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        let client = self.client.clone();
        to_its_end(Operation::Sweep, client::STAGING, async move { sweep::sweep(&client, older_than).await })
            .await
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        let Some(key) = folder.as_key().cloned() else { return Ok(()) };
        let client = self.client.clone();
        to_its_end(Operation::MakeFolder, key.clone(), async move {
            let step = Step::new(Operation::MakeFolder, key.as_str());
            let channel = client.light(step).await?;
            client.make_folder(&channel, step, key.as_str()).await
        })
        .await
    }

    async fn now(&self) -> Result<SystemTime> {
        let client = self.client.clone();
        let work = async move { server_time::now(&client, client.step(Operation::Now)).await };
        to_its_end(Operation::Now, self.client.location(), work).await
    }
}
