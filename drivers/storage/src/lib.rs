//! The storage contract: keys and bytes, nothing of backups.
//!
//! A [`Storage`] holds objects under checked [`Key`]s. Each sentence below that makes a promise is one
//! rule of `conformance`, and every driver runs the whole list. Retries and the log are wrappers around any storage
//! ([`retry`], [`trace`]), never code in a driver; so are faults and a record of what was asked for, which with the
//! rules are there for tests alone, by the feature `testing`.

mod clock;
#[cfg(feature = "testing")]
pub mod conformance;
mod error;
#[cfg(feature = "testing")]
pub mod fault;
mod guarantees;
mod key;
pub mod memory;
pub mod probe;
mod progress;
mod range;
#[cfg(feature = "testing")]
pub mod record;
mod removal;
pub mod retry;
mod scratch;
mod spool;
mod staging_names;
mod step;
pub mod trace;
mod wire;

use std::ops::Range;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use clock::StoreClock;
pub use error::{Error, ErrorKind, Operation, Result};
#[cfg(feature = "testing")]
pub use fault::{Fault, FaultStorage};
pub use guarantees::Guarantees;
pub use key::{Key, KeyError, Prefix};
pub use memory::MemoryStorage;
pub use progress::Progress;
pub use range::range_bytes;
#[cfg(feature = "testing")]
pub use record::RecordStorage;
pub use removal::NotRemoved;
pub use retry::{RetryPolicy, RetryStorage, RetryWatch};
pub use scratch::{clean_scratch, scratch_folder, sweep_scratch};
pub use spool::Spool;
pub use staging_names::{numbered, pack_staging_name};
pub use step::Step;
pub use trace::TraceStorage;
pub use wire::{Passed, Wire};

/// What a store knows of one object without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Length in bytes.
    pub size_bytes: u64,
    /// When the object was last published, replaced or touched, by the store's clock.
    pub modified: SystemTime,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Where the object lies.
    pub key: Key,
    /// Its size and time.
    pub meta: ObjectMeta,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Abandoned uploads and scratch objects that are gone now.
    pub removed: u64,
}

/// A place that keeps objects: whole, durable and named by [`Key`]s.
#[async_trait]
pub trait Storage: std::fmt::Debug + Send + Sync {
    /// Returns the place as a user writes it, without secrets.
    fn location(&self) -> String;

    /// Returns which of the promises that depend on the server are kept; it does not change while the
    /// storage is open.
    fn guarantees(&self) -> Guarantees;

    /// Tells whether streamed objects wait on local disk for their upload: then any number of seals may be
    /// under way, each takes as long as the line needs, and one that is given up leaves nothing half done.
    fn is_spooled(&self) -> bool {
        false
    }

    /// Returns exactly the bytes of the object.
    async fn read(&self, key: &Key) -> Result<Bytes>;

    /// Returns exactly the bytes of the range; an object that ends before it is `ErrorKind::Short`.
    ///
    /// An empty range inside the object or at its end is empty; a reversed one is `ErrorKind::Short`. The
    /// length is checked before anything is allocated ([`range_bytes`]).
    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes>;

    /// Returns the first bytes of the object: all of them, or `bytes_max` of a longer one.
    ///
    /// For a small object whose length is not known, from a server that may hold anything there. A driver
    /// that can do it with one request should.
    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        let size_bytes = self.stat(key).await?.size_bytes;
        self.read_range(key, 0..size_bytes.min(bytes_max)).await
    }

    /// Returns the bytes of each range, in the order asked for, with [`Storage::read_range`]'s promise.
    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>>;

    /// Returns the size and the modification time of the object.
    async fn stat(&self, key: &Key) -> Result<ObjectMeta>;

    /// Lists every object below the prefix whose publication returned before the call, in no order.
    ///
    /// Unfinished uploads are invisible. A prefix under which nothing lies is an empty list. A name that
    /// is no [`Key`] is left out.
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>>;

    /// Publishes the object whole and durable, and only if the key is absent: the store decides in one
    /// step ([`Guarantees::create_only`]). `ErrorKind::AlreadyExists` otherwise.
    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()>;

    /// Begins an object that is streamed; see [`Staged`].
    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>>;

    /// Publishes the object durably whether or not the key is taken; a reader sees the old bytes or the
    /// new ones at any instant, never a mix, never nothing.
    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()>;

    /// Moves the modification time to the store's now, if the object still holds `expected`; otherwise
    /// `ErrorKind::Changed`, and the object of the other party is untouched.
    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()>;

    /// Moves an object, with its modification time, to a name that must be absent, in one step: of
    /// several movers one wins, the others see `ErrorKind::NotFound`; a taken name is
    /// `ErrorKind::AlreadyExists`. A store that has no such step ([`Guarantees::rename`]) answers
    /// `ErrorKind::Unsupported`.
    async fn rename(&self, from: &Key, to: &Key) -> Result<()>;

    /// Removes the object durably; `ErrorKind::NotFound` when there is none.
    async fn remove(&self, key: &Key) -> Result<()>;

    /// Removes many objects durably, in no order, and returns those that are not known to be gone, each with its
    /// reason. What is not there is gone, and an object that cannot be removed keeps no other from it. An error
    /// instead of the list says that nothing is known of any.
    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        Ok(removal::remove_each(self, keys).await)
    }

    /// Removes abandoned uploads older than the given age, and what killed probes of that age left; never follows a
    /// link out of the repository.
    ///
    /// The caller must know that no upload of that age is still wanted.
    async fn sweep(&self, older_than: Duration) -> Result<SweepReport>;

    /// Makes an empty folder, durably, where the store knows folders; does nothing elsewhere. A folder is
    /// no object, and making one that exists changes nothing.
    async fn make_folder(&self, folder: &Prefix) -> Result<()>;

    /// Returns the present time by the clock that stamps [`ObjectMeta::modified`].
    async fn now(&self) -> Result<SystemTime>;
}

/// An object being streamed into a storage.
///
/// Nothing is visible under the key before [`Staged::seal`] returns. Dropped or killed before that, the
/// remains can be found by [`Storage::sweep`]; a drop removes them where it can do so without waiting.
#[async_trait]
pub trait Staged: std::fmt::Debug + Send {
    /// Appends bytes. After an error the object can only be discarded.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Publishes the object with [`Storage::create`]'s promise.
    async fn seal(self: Box<Self>) -> Result<()>;

    /// Gives the object up and removes what was written.
    async fn discard(self: Box<Self>) -> Result<()>;
}
