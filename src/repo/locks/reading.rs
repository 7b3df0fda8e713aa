//! The lock of commands that only read, and reading without it.
//!
//! A repository on a read-only disk, of another owner, on a full disk, or behind a key that may not write, can be read
//! but not locked. A reader without a lock keeps nobody out. Beside a create it does no harm, if manifests are read
//! before indexes, and indexes before packs: a create only adds, in the opposite order. Where somebody holds a lock for
//! an operation that may remove something, or for one that we do not know, nothing is read without a lock.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures::FutureExt as _;
use packvault_storage::ErrorKind::{Denied, Full};
use packvault_storage::{Error as StorageError, Key};

use super::holder::{Age, Found, look};
use super::{Lock, LockRequest, Planted, Side, by_listing};
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// What holds others back while we read; nothing, where there may be no lock.
#[derive(Debug)]
pub struct ReadingLock {
    lock: Option<Lock>,
    warnings: Vec<String>,
}

impl Repository {
    /// Takes a shared lock, or does without where the repository cannot be written.
    pub async fn lock_for_reading(&self, request: &LockRequest) -> Result<ReadingLock> {
        let error = match self.lock_shared(request).await {
            Ok(lock) => return Ok(ReadingLock { lock: Some(lock), warnings: Vec::new() }),
            Err(error) if is_of_the_repository(&error) => error,
            Err(error) => return Err(error),
        };
        let held = self.exclusive_locks(request).await;
        let is_refused = step_of(&error).is_some_and(|step| matches!(step.kind(), Denied | Full));
        if held.is_err() && !is_refused {
            // A store that does not even let us look is broken in more than one way.
            return Err(error);
        }
        if let Ok(held) = &held
            && let Some(other) = held.iter().find(|found| !found.only_adds())
        {
            let message = format!("the repository is locked: {}", other.describe());
            return Err(Error::new(ErrorKind::Locked, message));
        }
        let warning =
            format!("the repository is read without a lock, for it cannot be written ({})", error.chain());
        Ok(ReadingLock { lock: None, warnings: vec![warning + &beside(&held)] })
    }

    /// Reads without a lock, as was asked for, and says beside whom.
    pub async fn read_without_lock(&self, request: &LockRequest) -> ReadingLock {
        let held = self.exclusive_locks(request).await;
        let warning = format!("the repository is read without a lock{}", beside(&held));
        ReadingLock { lock: None, warnings: vec![warning] }
    }

    /// Returns the exclusive locks that count; looks at everything and writes nothing.
    async fn exclusive_locks(&self, request: &LockRequest) -> Result<Vec<Found>> {
        let is_exclusive = |key: &Key| by_listing::side_of(key) == Some(Side::Exclusive);
        let mut found = Vec::new();
        for key in self.lock_files().await?.into_iter().filter(is_exclusive) {
            found.extend(look(self.storage.as_ref(), &key, request.process.as_ref()).await?);
        }
        found.retain(|found| !found.is_stale());
        Ok(found)
    }
}

/// Tells whether it says that this repository cannot be written. What this process lacks, like memory or one more open
/// file, says nothing of the repository: a reader that went on without a lock then would leave others free to remove.
fn is_of_the_repository(error: &Error) -> bool {
    !error.is_inconclusive() && step_of(error).is_some_and(StorageError::forbids_writing)
}

/// Returns the step of the storage that failed.
fn step_of(error: &Error) -> Option<&StorageError> {
    StorageError::behind(error)
}

fn beside(held: &Result<Vec<Found>>) -> String {
    const ADDS: &str = "a backup that is made meanwhile does no harm, but nothing may be removed from it";
    match held {
        Ok(held) => match held.first() {
            None => format!("; {ADDS}"),
            Some(other) => format!(", beside {}; {ADDS}", other.describe()),
        },
        Err(error) => {
            format!(", and whether somebody works in it cannot be seen ({}); {ADDS}", error.chain())
        }
    }
}

impl Found {
    /// Tells whether its holder adds to the repository and takes nothing away.
    fn only_adds(&self) -> bool {
        let operation = self.record.as_ref().map(|record| record.operation.as_str());
        matches!(operation, Some("create" | "init")) && !matches!(self.age, Some(Age::Future(_)) | None)
            || self.is_stale()
    }
}

/// Tells whether a lock is still ours, to whoever works under it for a long time.
#[derive(Debug, Clone)]
pub struct Pulse(Planted);

impl Pulse {
    /// Fails once the lock may be somebody else's; for good.
    pub fn expect(&self) -> Result<()> {
        self.0.expect_fresh()
    }
}

impl ReadingLock {
    /// Tells whether a lock is held.
    pub fn is_held(&self) -> bool {
        self.lock.is_some()
    }

    /// Returns what tells whether the lock is still ours; `None` where none is held.
    pub fn pulse(&self) -> Option<Pulse> {
        self.lock.as_ref().map(|lock| Pulse(lock.planted.clone()))
    }

    /// Waits for the work and gives the lock up, however the work ended; its own error comes first. Returns what
    /// the user should know of the lock besides.
    ///
    /// A lock that cannot be given back undoes nothing of what was read, and ends by itself.
    pub async fn during<T>(self, work: impl Future<Output = Result<T>>) -> Result<(T, Vec<String>)> {
        let Self { lock, mut warnings } = self;
        let done = match AssertUnwindSafe(work).catch_unwind().await {
            Ok(done) => done,
            Err(panic) => {
                // A defect must not leave the lock behind.
                if let Some(lock) = lock {
                    let _ = lock.release().await;
                }
                resume_unwind(panic)
            }
        };
        match (done, lock) {
            (Ok(done), Some(lock)) => {
                warnings.extend(lock.leave().await);
                Ok((done, warnings))
            }
            (Ok(done), None) => Ok((done, warnings)),
            (Err(error), Some(lock)) => lock.end(Err(error)).await,
            (Err(error), None) => Err(error),
        }
    }
}
