//! A storage of which this client removes nothing, whatever a command means to do: `append_only = true`.
//!
//! What lies in `locks/` may go, for locks are given back, and stale ones reaped. `config.toml` may be replaced, for a
//! create notes the page size there. Unfinished uploads are swept: nobody ever saw them. Everything else stays as it
//! is. That an intruder on this machine cannot do it all the same is the server's affair.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use packvault_storage::{
    Error, ErrorKind, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result,
    Staged, Storage, SweepReport,
};

/// Removes and replaces nothing but locks.
#[derive(Debug)]
pub struct AppendOnly(Arc<dyn Storage>);

impl AppendOnly {
    /// Keeps everything that lies on the storage.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self(inner)
    }
}

fn is_lock(key: &Key) -> bool {
    key.as_str().starts_with("locks/")
}

fn refused(operation: Operation, key: &Key) -> Error {
    let why = "the configuration says append_only of this repository: nothing is removed or replaced there";
    Error::new(ErrorKind::Denied, operation, key, why)
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Storage for AppendOnly {
    fn location(&self) -> String {
        self.0.location()
    }
    fn guarantees(&self) -> Guarantees {
        self.0.guarantees()
    }
    fn is_spooled(&self) -> bool {
        self.0.is_spooled()
    }
    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.0.read(key).await
    }
    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.0.read_range(key, range).await
    }
    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        self.0.read_start(key, bytes_max).await
    }
    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.read_ranges(key, ranges).await
    }
    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.0.stat(key).await
    }
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        self.0.list(prefix)
    }
    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.0.create(key, bytes).await
    }
    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        self.0.stage(key).await
    }
    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let may_change = is_lock(key) || key.as_str() == "config.toml";
        // What is not there is added, and not replaced.
        match may_change || self.0.stat(key).await.is_err_and(|error| error.kind() == ErrorKind::NotFound) {
            true => self.0.replace(key, bytes).await,
            false => Err(refused(Operation::Replace, key)),
        }
    }
    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        self.0.touch(key, expected).await
    }
    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        match is_lock(from) && is_lock(to) {
            true => self.0.rename(from, to).await,
            false => Err(refused(Operation::Rename, from)),
        }
    }
    async fn remove(&self, key: &Key) -> Result<()> {
        match is_lock(key) {
            true => self.0.remove(key).await,
            false => Err(refused(Operation::Remove, key)),
        }
    }
    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        match keys.iter().find(|key| !is_lock(key)) {
            None => self.0.remove_all(keys).await,
            Some(key) => Err(refused(Operation::Remove, key)),
        }
    }
    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        self.0.sweep(older_than).await
    }
    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        self.0.make_folder(folder).await
    }
    async fn now(&self) -> Result<SystemTime> {
        self.0.now().await
    }
}

#[cfg(test)]
mod tests {
    use packvault_storage::MemoryStorage;

    use super::*;

    #[tokio::test]
    async fn locks_come_and_go_and_everything_else_stays() {
        let memory = MemoryStorage::new();
        let storage = AppendOnly::new(Arc::new(memory.clone()));
        let key = |text: &str| Key::parse(text).unwrap();
        let (lock, other, pack) = (key("locks/a.json"), key("locks/b.json"), key("packs/01/a.mvpack"));
        for name in [&lock, &pack] {
            storage.create(name, Bytes::from_static(b"x")).await.unwrap();
        }
        let before = memory.objects();
        for refused in [
            storage.remove(&pack).await,
            storage.replace(&pack, Bytes::new()).await,
            storage.rename(&pack, &lock).await,
            storage.rename(&lock, &pack).await,
            storage.remove_all(&[lock.clone(), pack.clone()]).await.map(drop),
        ] {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Denied);
            assert!(error.to_string().contains("append_only"), "{error}");
        }
        assert_eq!(memory.objects(), before);
        storage.rename(&lock, &other).await.unwrap();
        storage.replace(&other, Bytes::from_static(b"y")).await.unwrap();
        storage.remove(&other).await.unwrap();
        assert!(storage.remove_all(&[lock]).await.unwrap().is_empty());
        storage.replace(&key("config.toml"), Bytes::new()).await.unwrap();
    }
}
