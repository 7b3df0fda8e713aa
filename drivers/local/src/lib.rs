//! packvault storage in a folder of a local file system, or of one that is mounted.
//!
//! Every write is durable when it returns: file, folder and each newly made parent are synced. Objects
//! are published create-only in one step from `staging/`. Below the root no link is ever followed. Each
//! call runs on one blocking thread from its beginning to its end, so a cancelled call is either done or
//! not, and leaves nothing but, at worst, its staging file until that thread is through.
//!
//! The folder `staging/` is the driver's own: nothing in it is an object, and no object can be put there.

mod change;
mod client;
mod config;
mod denied;
mod durable;
mod error;
mod publish;
mod read;
mod staged;
mod staging;
mod sweep;
mod tree;
#[cfg(test)]
mod without_steps;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use packvault_storage::{
    Error, ErrorKind, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result,
    Staged, Step, Storage, SweepReport,
};

pub use config::LocalConfig;

use client::{Client, Steps};
use staged::LocalStaged;
use staging::StagingFile;
use tree::Walk;

/// A repository's folder, held open.
#[derive(Debug, Clone)]
pub struct LocalStorage {
    client: Arc<Client>,
}

impl LocalStorage {
    /// Opens the folder, which must exist; `ErrorKind::NotFound` otherwise.
    pub async fn open(config: LocalConfig) -> Result<Self> {
        Self::open_with(config, Steps::ALL).await
    }

    /// Makes the folder and the missing folders above it, 0700 and durable, and opens it.
    ///
    /// A folder that exists is taken as it is; anything else under that name is `ErrorKind::Unsafe`.
    pub async fn create_root(config: LocalConfig) -> Result<Self> {
        let object = config.root.display().to_string();
        let root = config.root.clone();
        blocking(Operation::Open, &object, move || client::make_root(&root)).await?;
        Self::open(config).await
    }

    async fn open_with(config: LocalConfig, steps: Steps) -> Result<Self> {
        let object = config.root.display().to_string();
        let client = blocking(Operation::Open, &object, move || Client::open(&config.root, steps)).await?;
        Ok(Self { client: Arc::new(client) })
    }

    /// Runs one step about one object on a blocking thread.
    async fn run<T: Send + 'static>(
        &self,
        operation: Operation,
        key: Key,
        work: impl FnOnce(&Arc<Client>, &Key) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let client = Arc::clone(&self.client);
        let object = key.as_str().to_owned();
        let explained = object.clone();
        let done = blocking(operation, &object, move || work(&client, &key)).await;
        done.map_err(|error| {
            let explain = || denied::explain(&self.client, &explained, denied::Wish::of(operation));
            error.full_in(self.client.location()).denied_by(explain)
        })
    }
}

/// Runs blocking work where it may block; a panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(
    operation: Operation,
    object: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => {
            Err(Error::new(ErrorKind::Io, operation, object, "the program is stopping").with_source(error))
        }
    }
}

#[async_trait]
impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.client.location().to_owned()
    }

    fn guarantees(&self) -> Guarantees {
        Guarantees::all()
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.run(Operation::Read, key.clone(), |client, key| read::read(client, key)).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.run(Operation::Read, key.clone(), move |client, key| read::read_range(client, key, &range)).await
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        self.run(Operation::Read, key.clone(), move |client, key| read::read_start(client, key, bytes_max))
            .await
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let ranges = ranges.to_vec();
        self.run(Operation::Read, key.clone(), move |client, key| read::read_ranges(client, key, &ranges))
            .await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.run(Operation::Stat, key.clone(), |client, key| change::stat(client, key)).await
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let subject = prefix.to_string();
        let walk = Walk::new(Arc::clone(&self.client), prefix);
        stream::try_unfold((walk, subject), |(mut walk, subject)| async move {
            let (walk, page) = blocking(Operation::List, &subject, move || {
                let page = walk.next_page()?;
                Ok((walk, page))
            })
            .await?;
            let page = (!page.is_empty()).then(|| stream::iter(page.into_iter().map(Ok)));
            Ok(page.map(|page| (page, (walk, subject))))
        })
        .try_flatten()
        .boxed()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.run(Operation::Create, key.clone(), move |client, key| publish::create(client, key, &bytes))
            .await
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        self.run(Operation::Stage, key.clone(), |client, key| {
            let staging = StagingFile::begin(client, Step::new(Operation::Stage, key.as_str()), key)?;
            let staged: Box<dyn Staged> =
                Box::new(LocalStaged::new(Arc::clone(client), key.clone(), staging));
            Ok(staged)
        })
        .await
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.run(Operation::Replace, key.clone(), move |client, key| publish::replace(client, key, &bytes))
            .await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        let expected = Bytes::copy_from_slice(expected);
        self.run(Operation::Touch, key.clone(), move |client, key| change::touch(client, key, &expected))
            .await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let to = to.clone();
        self.run(Operation::Rename, from.clone(), move |client, from| change::rename(client, from, &to)).await
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        self.run(Operation::Remove, key.clone(), |client, key| change::remove(client, key)).await
    }

    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        let (client, keys) = (Arc::clone(&self.client), keys.to_vec());
        let object = keys.first().map_or_else(String::new, ToString::to_string);
        blocking(Operation::Remove, &object, move || Ok(change::remove_all(&client, &keys))).await
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        let client = Arc::clone(&self.client);
        let swept =
            blocking(Operation::Sweep, staging::FOLDER, move || sweep::sweep(&client, older_than)).await;
        swept.map_err(|error| {
            error.denied_by(|| denied::explain(&self.client, staging::FOLDER, denied::Wish::Change))
        })
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        let Some(key) = folder.as_key().cloned() else { return Ok(()) };
        self.run(Operation::MakeFolder, key, |client, key| {
            client.make_folder(Step::new(Operation::MakeFolder, key.as_str()), key.as_str()).map(drop)
        })
        .await
    }

    async fn now(&self) -> Result<SystemTime> {
        let client = Arc::clone(&self.client);
        let now = blocking(Operation::Now, self.client.location(), move || sweep::now(&client)).await;
        now.map_err(|error| {
            let explain = || denied::explain(&self.client, staging::FOLDER, denied::Wish::Change);
            error.full_in(self.client.location()).denied_by(explain)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_blocking_work_goes_on_in_the_caller() {
        let calling = tokio::spawn(blocking::<()>(Operation::Read, "x", || panic!("a defect")));
        assert!(calling.await.unwrap_err().is_panic());
    }
}
