//! The in-memory driver: every promise of the contract, kept by one lock.
//!
//! A clone is a second client of the same objects. Tests move its clock with
//! [`MemoryStorage::advance_clock`] or stop it with [`MemoryStorage::set_clock`], and damage objects
//! through [`MemoryStorage::put_raw`]. Keys are names in a flat map, so an object may lie "below" another.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};

use crate::{
    Error, ErrorKind, Guarantees, Key, ListedObject, ObjectMeta, Operation, Prefix, Result, Staged, Step,
    Storage, SweepReport, range_bytes,
};

/// A storage that lives as long as its last clone.
#[derive(Clone)]
pub struct MemoryStorage {
    state: Arc<Mutex<State>>,
    guarantees: Guarantees,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self { state: Arc::default(), guarantees: Guarantees::all() }
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    uploads: BTreeMap<u64, Upload>,
    uploads_begun: u64,
    clock: Clock,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    modified: SystemTime,
}

struct Upload {
    pieces: Vec<Bytes>,
    modified: SystemTime,
}

enum Clock {
    Running { ahead: Duration },
    Stopped(SystemTime),
}

impl Default for Clock {
    fn default() -> Self {
        Self::Running { ahead: Duration::ZERO }
    }
}

impl Clock {
    fn now(&self) -> SystemTime {
        match self {
            Self::Running { ahead } => SystemTime::now() + *ahead,
            Self::Stopped(time) => *time,
        }
    }
}

impl MemoryStorage {
    /// Makes an empty storage whose clock runs with the machine's.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a client of the same objects that keeps only some promises, as one of a lesser server would:
    /// creates that look first and write then, no renames.
    pub fn with_guarantees(&self, guarantees: Guarantees) -> Self {
        Self { state: Arc::clone(&self.state), guarantees }
    }

    /// Moves the storage's clock forward.
    pub fn advance_clock(&self, by: Duration) {
        match &mut self.state().clock {
            Clock::Running { ahead } => *ahead += by,
            Clock::Stopped(time) => *time += by,
        }
    }

    /// Stops the storage's clock at the given time; only [`MemoryStorage::advance_clock`] moves it then.
    pub fn set_clock(&self, time: SystemTime) {
        self.state().clock = Clock::Stopped(time);
    }

    /// Puts bytes under a key, whatever lay there, with a modification time of the caller's choice.
    ///
    /// For tests that need a damaged, a foreign or an old object.
    pub fn put_raw(&self, key: &Key, bytes: impl Into<Bytes>, modified: SystemTime) {
        self.state().objects.insert(key.clone(), Object { bytes: bytes.into(), modified });
    }

    /// Returns every object and its bytes, in the order of the keys.
    pub fn objects(&self) -> Vec<(Key, Bytes)> {
        self.state().objects.iter().map(|(key, object)| (key.clone(), object.bytes.clone())).collect()
    }

    /// Returns how many uploads are neither sealed nor gone.
    pub fn unfinished_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    async fn look_then_write(&self, operation: Operation, key: &Key, bytes: Bytes) -> Result<()> {
        if self.state().objects.contains_key(key) {
            return Err(Error::already_exists(operation, key));
        }
        tokio::task::yield_now().await;
        self.state().put(key, bytes);
        Ok(())
    }

    /// Holders of the lock only move values, so a panic in one leaves nothing half done.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("MemoryStorage")
            .field("objects", &state.objects.len())
            .field("uploads", &state.uploads.len())
            .finish()
    }
}

impl State {
    fn object(&self, operation: Operation, key: &Key) -> Result<&Object> {
        self.objects.get(key).ok_or_else(|| Error::not_found(operation, key))
    }

    fn create(&mut self, operation: Operation, key: &Key, bytes: Bytes) -> Result<()> {
        if self.objects.contains_key(key) {
            return Err(Error::already_exists(operation, key));
        }
        self.put(key, bytes);
        Ok(())
    }

    fn put(&mut self, key: &Key, bytes: Bytes) {
        let modified = self.clock.now();
        self.objects.insert(key.clone(), Object { bytes, modified });
    }

    fn touch(&mut self, key: &Key, expected: &[u8]) -> Result<()> {
        let now = self.clock.now();
        let object = self.objects.get_mut(key).ok_or_else(|| Error::not_found(Operation::Touch, key))?;
        if object.bytes != expected {
            return Err(Step::new(Operation::Touch, key.as_str()).changed());
        }
        object.modified = now;
        Ok(())
    }

    fn rename(&mut self, from: &Key, to: &Key) -> Result<()> {
        let object = self.object(Operation::Rename, from)?.clone();
        if self.objects.contains_key(to) {
            return Err(Error::already_exists(Operation::Rename, to));
        }
        self.objects.remove(from);
        self.objects.insert(to.clone(), object);
        Ok(())
    }

    fn sweep(&mut self, older_than: Duration) -> SweepReport {
        let now = self.clock.now();
        let uploads_before = self.uploads.len();
        self.uploads.retain(|_, upload| now.duration_since(upload.modified).unwrap_or_default() < older_than);
        SweepReport { removed: (uploads_before - self.uploads.len()) as u64 }
    }
}

impl Object {
    fn meta(&self) -> ObjectMeta {
        ObjectMeta { size_bytes: self.bytes.len() as u64, modified: self.modified }
    }

    fn slice(&self, key: &Key, range: &Range<u64>) -> Result<Bytes> {
        let len = range_bytes(key, range, self.bytes.len() as u64)?;
        let start = range.start as usize;
        Ok(self.bytes.slice(start..start + len))
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn location(&self) -> String {
        "memory".into()
    }

    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        Ok(self.state().object(Operation::Read, key)?.bytes.clone())
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.state().object(Operation::Read, key)?.slice(key, &range)
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        let whole = self.read(key).await?;
        Ok(whole.slice(..usize::try_from(bytes_max).unwrap_or(usize::MAX).min(whole.len())))
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let state = self.state();
        let object = state.object(Operation::Read, key)?;
        ranges.iter().map(|range| object.slice(key, range)).collect()
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        Ok(self.state().object(Operation::Stat, key)?.meta())
    }

    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let listed: Vec<_> = (self.state().objects.iter())
            .filter(|(key, _)| prefix.contains(key))
            .map(|(key, object)| Ok(ListedObject { key: key.clone(), meta: object.meta() }))
            .collect();
        stream::iter(listed).boxed()
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        if !self.guarantees.create_only {
            return self.look_then_write(Operation::Create, key, bytes).await;
        }
        self.state().create(Operation::Create, key, bytes)
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let mut state = self.state();
        let modified = state.clock.now();
        state.uploads_begun += 1;
        let number = state.uploads_begun;
        state.uploads.insert(number, Upload { pieces: Vec::new(), modified });
        Ok(Box::new(MemoryStaged { storage: self.clone(), key: key.clone(), number }))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.state().put(key, bytes);
        Ok(())
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        self.state().touch(key, expected)
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        if !self.guarantees.rename {
            return Err(Error::new(ErrorKind::Unsupported, Operation::Rename, from, "there are no renames"));
        }
        self.state().rename(from, to)
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        match self.state().objects.remove(key) {
            Some(_) => Ok(()),
            None => Err(Error::not_found(Operation::Remove, key)),
        }
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        Ok(self.state().sweep(older_than))
    }

    async fn make_folder(&self, _: &Prefix) -> Result<()> {
        Ok(())
    }

    async fn now(&self) -> Result<SystemTime> {
        Ok(self.state().clock.now())
    }
}

/// An upload in memory; dropped, it takes its bytes along.
#[derive(Debug)]
struct MemoryStaged {
    storage: MemoryStorage,
    key: Key,
    number: u64,
}

impl MemoryStaged {
    fn swept(&self, operation: Operation) -> Error {
        Error::new(ErrorKind::Io, operation, &self.key, "its unfinished upload was swept away")
    }
}

#[async_trait]
impl Staged for MemoryStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let mut state = self.storage.state();
        let now = state.clock.now();
        let upload = state.uploads.get_mut(&self.number).ok_or_else(|| self.swept(Operation::Write))?;
        upload.pieces.push(bytes);
        upload.modified = now;
        Ok(())
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        let upload = self.storage.state().uploads.remove(&self.number);
        let bytes = joined(upload.ok_or_else(|| self.swept(Operation::Seal))?.pieces);
        if !self.storage.guarantees.create_only {
            return self.storage.look_then_write(Operation::Seal, &self.key, bytes).await;
        }
        self.storage.state().create(Operation::Seal, &self.key, bytes)
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.storage.state().uploads.remove(&self.number);
        Ok(())
    }
}

impl Drop for MemoryStaged {
    fn drop(&mut self) {
        self.storage.state().uploads.remove(&self.number);
    }
}

fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}
