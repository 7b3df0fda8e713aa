//! packvault storage in Azure Blob Storage and Google Cloud Storage, through opendal.
//!
//! opendal knows how these stores are spoken to; what is promised is asked of the store itself
//! ([`OpendalStorage::probe`]), and one that lets two writers of one name both win is refused. Requests go
//! over a line of our own (`transport`): paced, bounded, timed, sent once. Retries are a wrapper's.

mod body;
mod config;
mod error;
mod features;
mod probe;
mod staged;
mod store;
mod transport;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream, TryStreamExt};
use packvault_storage::probe::ProbeReport;
use packvault_storage::{
    ErrorKind, Guarantees, Key, ListedObject, ObjectMeta, Operation, Prefix, Result, Staged, Step, Storage,
    SweepReport, Wire, sweep_scratch,
};

pub use config::{ONE_PUT_BYTES_MAX, OpendalConfig, Service, Timeouts};
pub use features::OpendalFeatures;

use error::TheirErrors;
use features::Ways;
use staged::OpendalStaged;
use store::{Store, When};

/// How many ranges of one object are asked for at a time.
const RANGES_AT_ONCE: usize = 4;

/// A name that is asked for when only the store's time is wanted.
const CLOCK_KEY: &str = "packvault-clock";

/// A storage in a container.
#[derive(Debug, Clone)]
pub struct OpendalStorage {
    store: Arc<Store>,
    ways: Ways,
    one_put_bytes_max: u64,
}

impl OpendalStorage {
    /// Opens the place without asking anything; the container must exist by the first request.
    ///
    /// Only what cannot work whatever the server says is an error here. `features` is what an earlier
    /// [`OpendalStorage::probe`] found.
    pub fn open(config: &OpendalConfig, features: Option<&OpendalFeatures>, wire: Arc<Wire>) -> Result<Self> {
        let store = Arc::new(Store::new(config, wire)?);
        Ok(Self { store, ways: Ways::of(features), one_put_bytes_max: config.one_put_bytes_max })
    }

    /// Returns the same storage that believes these features of its server.
    pub fn with_features(&self, features: &OpendalFeatures) -> Self {
        Self { ways: Ways::of(Some(features)), ..self.clone() }
    }

    /// Asks the server what it keeps of its promises, on scratch keys that are removed afterwards.
    ///
    /// A server that cannot hold a repository at all is an error: the container is missing, the credentials
    /// do not do, or several writers of one name are all told that they won.
    pub async fn probe(&self) -> Result<(OpendalFeatures, ProbeReport)> {
        probe::probe(&self.store).await
    }

    async fn publish(&self, operation: Operation, key: &Key, bytes: Bytes) -> Result<()> {
        let store = Arc::clone(&self.store);
        let mut staged = OpendalStaged::new(store, self.ways, key.clone(), self.one_put_bytes_max);
        staged.write_all(operation, bytes).await?;
        staged.publish(operation).await
    }
}

#[async_trait]
impl Storage for OpendalStorage {
    fn location(&self) -> String {
        self.store.location.clone()
    }

    /// Durability is the store's own promise: an answered write is durable.
    fn guarantees(&self) -> Guarantees {
        Guarantees {
            create_only: self.ways.create_only,
            create_only_streamed: self.ways.create_only_streamed,
            rename: false,
            sync: true,
        }
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.store.read(Step::new(Operation::Read, key.as_str()), key).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.store.read_range(key, range).await
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let reads = stream::iter(ranges.to_vec()).map(|range| self.store.read_range(key, range));
        reads.buffered(RANGES_AT_ONCE).try_collect().await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        let step = Step::new(Operation::Stat, key.as_str());
        store::meta(step, &self.store.stat(step, key).await?)
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let place = prefix.to_string();
        let begun = self.store.lister(Step::new(Operation::List, &place), prefix);
        let state = begun.map(|lister| (lister, place));
        stream::once(async move { state })
            .map_ok(move |begun| {
                stream::try_unfold(begun, move |(mut lister, place)| async move {
                    let step = Step::new(Operation::List, &place);
                    let next = self.store.next(step, &mut lister).await?;
                    Ok(next.map(|(key, meta)| (ListedObject { key, meta }, (lister, place))))
                })
            })
            .try_flatten()
            .boxed()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.publish(Operation::Create, key, bytes).await
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let store = Arc::clone(&self.store);
        Ok(Box::new(OpendalStaged::new(store, self.ways, key.clone(), self.one_put_bytes_max)))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let step = Step::new(Operation::Replace, key.as_str());
        self.store.write(key, bytes.into(), When::Always).await.map_err(|error| step.lift(&error))
    }

    /// Writes the same bytes again, if they are still there; on the condition that nobody wrote since,
    /// where the server keeps that, else right after the look.
    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        let step = Step::new(Operation::Touch, key.as_str());
        let metadata = self.store.stat(step, key).await?;
        if metadata.content_length() != expected.len() as u64 {
            return Err(step.changed());
        }
        let found = match self.store.read_range(key, 0..expected.len() as u64).await {
            Err(error) if error.kind() == ErrorKind::Short => return Err(step.changed()),
            found => found?,
        };
        if found != expected {
            return Err(step.changed());
        }
        let when = if self.ways.overwrite_if_unchanged { When::Unchanged(metadata) } else { When::Always };
        self.store.write(key, found.into(), when).await.map_err(|error| step.lift(&error))
    }

    async fn rename(&self, from: &Key, _to: &Key) -> Result<()> {
        let step = Step::new(Operation::Rename, from.as_str());
        Err(step.error(ErrorKind::Unsupported, "this store moves no objects"))
    }

    /// Looks whether there is an object and removes it then: two requests, not one step. Of two that remove
    /// the same object at once both may be told that it was they; everyone removes only names of their own.
    async fn remove(&self, key: &Key) -> Result<()> {
        let step = Step::new(Operation::Remove, key.as_str());
        self.store.stat(step, key).await?;
        self.store.delete(step, key).await
    }

    /// Finds no uploads: the stores list none through opendal, and remove unfinished ones after a week.
    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        sweep_scratch(self, older_than).await
    }

    async fn make_folder(&self, _folder: &Prefix) -> Result<()> {
        Ok(())
    }

    /// Costs a request if there was no answer within the last half minute.
    async fn now(&self) -> Result<SystemTime> {
        if let Some(now) = self.store.clock.now() {
            return Ok(now);
        }
        let step = Step::new(Operation::Now, &self.store.location);
        let unusable = |error| step.error(ErrorKind::Io, "no name to ask for").with_source(error);
        let key = Key::parse(CLOCK_KEY).map_err(unusable)?;
        match self.store.stat(step, &key).await {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            // Whatever else it says, it has told the time.
            _ => {}
        }
        let lacks = || step.error(ErrorKind::Unsupported, "the server's answers bear no date");
        self.store.clock.now().ok_or_else(lacks)
    }
}
