//! The holder of a lock: what is written into our own lock, and what another's lock tells.
//!
//! A lock counts until its file was not touched for [`STALE_AFTER`], whatever it says. If packvault wrote it on this
//! machine, we can see whether its process is alive. If it is not, nobody touches the lock any more, and three
//! heartbeats without a touch, [`DEAD_AFTER`], are enough. We wait for these because a running machine may have been
//! copied, with everything that tells machines apart.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Key, ObjectMeta, Storage};

use super::{LockRequest, STALE_AFTER, lock_error};
use crate::format::{Holder, LockRecord};
use crate::process::{Fate, Identity};
use crate::{Error, ErrorKind, Result};

/// A lock whose process has ended, on this machine, is stale when it was not touched for this long.
pub const DEAD_AFTER: Duration = Duration::from_secs(90);
/// A record has some hundred bytes; more than this is not read.
const RECORD_BYTES_MAX: u64 = 64 * 1024;

/// How old a lock is by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// It was last touched so long ago.
    Past(Duration),
    /// Its time is so far ahead.
    Future(Duration),
}

/// Another's lock, looked at.
#[derive(Debug, Clone)]
pub struct Found {
    /// Its file.
    pub key: Key,
    /// What it says; `None` where that is no record.
    pub record: Option<LockRecord>,
    /// Its age, where it can be told.
    pub age: Option<Age>,
    /// What became of its process.
    pub fate: Fate,
}

impl Age {
    pub(super) fn of(modified: SystemTime, now: SystemTime) -> Self {
        match now.duration_since(modified) {
            Ok(age) => Self::Past(age),
            Err(ahead) => Self::Future(ahead.duration()),
        }
    }
}

/// Returns the body of a lock, which says who holds it. No two are the same: a program that finds its own knows
/// that it has it.
pub(super) fn record(request: &LockRequest) -> Bytes {
    let process = request.process.clone().unwrap_or_default();
    let record = LockRecord {
        hostname: request.hostname.clone(),
        pid: i64::from(std::process::id()),
        operation: request.operation.to_owned(),
        acquired_at: acquired_at(),
        holder: Some(Holder {
            id: uuid::Uuid::new_v4().simple().to_string(),
            boot: process.boot,
            pid_namespace: process.pid_namespace,
            time_namespace: process.time_namespace,
            started: process.started,
        }),
    };
    Bytes::from(record.encode())
}

fn acquired_at() -> String {
    // A clock that cannot be right says nothing to anybody; the age of a lock is told by its file.
    let now = crate::clock::now();
    now.map(|now| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}

/// Tells whether a lock of this age counts no more. A time in the future is fresh.
pub(super) async fn is_stale(
    storage: &dyn Storage,
    (key, meta): (&Key, &ObjectMeta),
    now: SystemTime,
    here: Option<&Identity>,
) -> bool {
    match Age::of(meta.modified, now) {
        Age::Future(_) => false,
        Age::Past(age) if age > STALE_AFTER => true,
        Age::Past(age) if age <= DEAD_AFTER => false,
        // One that cannot be read counts, for nobody knows whose it is.
        Age::Past(_) => match read(storage, key, meta).await {
            Some(record) => fate(&record, here) == Fate::Gone,
            None => false,
        },
    }
}

/// Looks at a lock, for a person; `None` if it is gone.
///
/// A store that gives no answer says nothing of a lock, neither how old it is nor whose.
pub(super) async fn look(storage: &dyn Storage, key: &Key, here: Option<&Identity>) -> Result<Option<Found>> {
    let meta = match storage.stat(key).await {
        Ok(meta) => meta,
        Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(lock_error(key, error)),
    };
    let now = match storage.now().await {
        Ok(now) => now,
        Err(error) if is_no_answer(&error) => return Err(lock_error(key, error)),
        // Where nothing can be written, the store's clock cannot be asked, and this machine's must do.
        Err(_) => SystemTime::now(),
    };
    let record = match try_read(storage, key, &meta).await {
        Err(error) if is_no_answer(&error) => return Err(lock_error(key, error)),
        record => record.ok().flatten(),
    };
    Ok(Some(Found::new(key, &meta, now, record, here)))
}

fn is_no_answer(error: &StorageError) -> bool {
    error.kind().is_passing() || error.kind() == StorageErrorKind::Interrupted
}

/// The same of a lock that is listed.
pub(super) async fn look_at(
    storage: &dyn Storage,
    (key, meta): (&Key, &ObjectMeta),
    now: SystemTime,
    here: Option<&Identity>,
) -> Found {
    Found::new(key, meta, now, read(storage, key, meta).await, here)
}

/// Makes the error of a lock in the way.
pub(super) async fn locked_by(storage: &dyn Storage, key: &Key, here: Option<&Identity>) -> Error {
    locked(&holder(storage, key, here).await)
}

/// Makes the error of a lock in the way that is described.
pub(super) fn locked(holder: &str) -> Error {
    Error::new(ErrorKind::Locked, format!("the repository is locked: {holder}"))
}

/// Describes a lock for a person, as far as it can be looked at.
pub(super) async fn holder(storage: &dyn Storage, key: &Key, here: Option<&Identity>) -> String {
    match look(storage, key, here).await {
        Ok(Some(found)) => found.describe(),
        Ok(None) | Err(_) => {
            Found { key: key.clone(), record: None, age: None, fate: Fate::Unknown }.describe()
        }
    }
}

impl Found {
    fn new(
        key: &Key,
        meta: &ObjectMeta,
        now: SystemTime,
        record: Option<LockRecord>,
        here: Option<&Identity>,
    ) -> Self {
        let fate = record.as_ref().map_or(Fate::Unknown, |record| fate(record, here));
        Self { key: key.clone(), record, age: Some(Age::of(meta.modified, now)), fate }
    }

    /// Tells whether it counts no more.
    pub fn is_stale(&self) -> bool {
        match self.age {
            Some(Age::Past(age)) => age > self.ends_after(),
            Some(Age::Future(_)) | None => false,
        }
    }

    /// Returns after how long without a touch it ends by itself.
    fn ends_after(&self) -> Duration {
        if self.fate == Fate::Gone { DEAD_AFTER } else { STALE_AFTER }
    }

    /// Returns in how many minutes it ends by itself unless it is touched, if that can be told.
    pub fn ends_in_minutes(&self) -> Option<u64> {
        let left = match self.age? {
            Age::Past(age) => self.ends_after().saturating_sub(age),
            Age::Future(ahead) => self.ends_after().saturating_add(ahead),
        };
        Some(left.as_secs().div_ceil(60).max(1))
    }

    /// Says which lock it is, who holds it for what and since when, and when it ends by itself.
    pub fn describe(&self) -> String {
        let name = self.key.name();
        let held = match &self.record {
            Some(LockRecord { hostname, pid, operation, acquired_at, .. }) => {
                format!("{name} held by {hostname} pid {pid} ({operation} since {acquired_at})")
            }
            None => format!("{name} held by an unknown holder"),
        };
        let touched = match self.age {
            None => return held,
            Some(Age::Past(age)) => format!("last touched {} ago", rough(age)),
            Some(Age::Future(ahead)) => format!("its time is {} ahead of the store's clock", rough(ahead)),
        };
        let fate = match self.fate {
            Fate::Lives => ", its process runs on this machine",
            Fate::Gone => ", its process is gone",
            Fate::Unknown => "",
        };
        let minutes = self.ends_in_minutes().unwrap_or_default();
        let unless = if self.fate == Fate::Gone { "" } else { " unless its holder touches it again" };
        format!("{held}, {touched}{fate}; it ends by itself in {minutes} min{unless}")
    }
}

/// Returns what a lock says; `None` where it cannot be read, or is no record.
async fn read(storage: &dyn Storage, key: &Key, meta: &ObjectMeta) -> Option<LockRecord> {
    try_read(storage, key, meta).await.ok().flatten()
}

/// The same, where it matters why it cannot be read.
async fn try_read(
    storage: &dyn Storage,
    key: &Key,
    meta: &ObjectMeta,
) -> packvault_storage::Result<Option<LockRecord>> {
    if meta.size_bytes > RECORD_BYTES_MAX {
        return Ok(None);
    }
    storage.read(key).await.map(|bytes| LockRecord::decode(&bytes).ok())
}

fn fate(record: &LockRecord, here: Option<&Identity>) -> Fate {
    let (Some(here), Some(holder)) = (here, &record.holder) else { return Fate::Unknown };
    let process = Identity {
        hostname: record.hostname.clone(),
        boot: holder.boot.clone(),
        pid_namespace: holder.pid_namespace.clone(),
        time_namespace: holder.time_namespace.clone(),
        started: holder.started,
    };
    here.fate_of(record.pid, &process)
}

/// Says how long, in the largest unit that fits.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(age: Age, fate: Fate) -> Found {
        let record = LockRecord {
            hostname: "nas".to_owned(),
            pid: 4711,
            operation: "create".to_owned(),
            acquired_at: "2026-11-23T20:37:31Z".to_owned(),
            holder: None,
        };
        let key = Key::parse("locks/exclusive.json").unwrap();
        Found { key, record: Some(record), age: Some(age), fate }
    }

    #[test]
    fn a_lock_says_who_since_when_and_when_it_ends_by_itself() {
        let seconds = |seconds| Age::Past(Duration::from_secs(seconds));
        let held = "exclusive.json held by nas pid 4711 (create since 2026-11-23T20:37:31Z), ";
        for (found, said) in [
            (
                found(seconds(300), Fate::Unknown),
                "last touched 5 min ago; it ends by itself in 25 min unless its holder touches it again",
            ),
            (
                found(seconds(10), Fate::Lives),
                "last touched 10 s ago, its process runs on this machine; it ends by itself in 30 min unless \
                 its holder touches it again",
            ),
            (
                found(seconds(20), Fate::Gone),
                "last touched 20 s ago, its process is gone; it ends by itself in 2 min",
            ),
            (
                found(Age::Future(Duration::from_secs(7200)), Fate::Unknown),
                "its time is 2 h ahead of the store's clock; it ends by itself in 150 min unless its holder \
                 touches it again",
            ),
        ] {
            assert_eq!(found.describe(), format!("{held}{said}"));
        }
        let unknown = Found { record: None, age: None, ..found(seconds(0), Fate::Unknown) };
        assert_eq!(unknown.describe(), "exclusive.json held by an unknown holder");
    }

    #[test]
    fn a_lock_is_stale_by_its_age_and_sooner_if_its_process_is_gone() {
        let second = Duration::from_secs(1);
        for (fate, limit) in
            [(Fate::Gone, DEAD_AFTER), (Fate::Lives, STALE_AFTER), (Fate::Unknown, STALE_AFTER)]
        {
            assert!(!found(Age::Past(limit), fate).is_stale(), "{fate:?}");
            assert!(found(Age::Past(limit + second), fate).is_stale(), "{fate:?}");
            assert!(!found(Age::Future(limit + second), fate).is_stale(), "{fate:?}");
        }
    }

    #[test]
    fn no_two_records_are_the_same() {
        let request = LockRequest {
            operation: "create",
            hostname: "here".to_owned(),
            process: Identity::of_this_process(),
            force: false,
            progress: std::sync::Arc::new(crate::progress::Silent),
            cancel: crate::Cancel::new(),
        };
        assert_ne!(record(&request), record(&request));
    }
}
