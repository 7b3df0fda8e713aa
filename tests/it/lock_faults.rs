//! The danger: a store that fails is taken for one that has answered. A lock then counts as free, gone or somebody
//! else's although nobody could look, or stays behind and nobody says so.
//!
//! Each call of taking, confirming and giving back a lock is denied once, under both protocols.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::engine::init;
use packvault::repo::Repository;
use packvault::repo::locks::{Lock, STALE_AFTER};
use packvault::{ErrorKind, Result};
use packvault_storage::{
    ErrorKind as StorageErrorKind, Fault, FaultStorage, Guarantees, MemoryStorage, Operation, Storage,
};
use tokio::time::{Instant, sleep};

use crate::support::memory_repo::*;

/// By rename, and by listing.
const PROTOCOLS: [Guarantees; 2] =
    [Guarantees::all(), Guarantees { create_only: false, rename: false, ..Guarantees::all() }];
const FOREIGN: &str =
    r#"{"hostname":"nas","pid":4711,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}"#;
/// The largest record that is read.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Locks and a claim that nobody holds any more, under the names of either protocol.
const LEFT: [&str; 4] =
    ["locks/exclusive.json", "locks/exclusive-01kw.json", "locks/shared-1.json", "locks/releasing-1.json"];

struct Scene {
    storage: MemoryStorage,
    faults: FaultStorage,
    repository: Repository,
    is_exclusive: bool,
}

impl Scene {
    async fn new(guarantees: Guarantees, is_exclusive: bool) -> Self {
        let storage = MemoryStorage::new().with_guarantees(guarantees);
        storage.set_clock(SystemTime::now());
        init::init(&storage).await.unwrap();
        let faults = FaultStorage::new(shared(&storage));
        let repository = Repository::open(Arc::new(faults.clone())).await.unwrap();
        Self { storage, faults, repository, is_exclusive }
    }

    /// The same after programs that died long ago.
    async fn littered(guarantees: Guarantees, is_exclusive: bool) -> Self {
        let scene = Self::new(guarantees, is_exclusive).await;
        let long_ago = scene.storage.now().await.unwrap() - STALE_AFTER - Duration::from_secs(1);
        LEFT.iter().for_each(|name| scene.storage.put_raw(&key(name), FOREIGN, long_ago));
        scene
    }

    async fn make(guarantees: Guarantees, is_exclusive: bool, is_littered: bool) -> Self {
        match is_littered {
            true => Self::littered(guarantees, is_exclusive).await,
            false => Self::new(guarantees, is_exclusive).await,
        }
    }

    async fn take(&self) -> Result<Lock> {
        let request = lock_request("here");
        match self.is_exclusive {
            true => self.repository.lock_exclusive(&request).await,
            false => self.repository.lock_shared(&request).await,
        }
    }

    fn names(&self) -> Vec<String> {
        let keys = self.storage.objects().into_iter().map(|(key, _)| key.to_string());
        keys.filter(|key| key.starts_with("locks/")).collect()
    }

    /// Takes, confirms and gives back a lock; returns how each ended, as far as it went, and the calls so far.
    async fn use_lock(&self) -> Vec<(Result<()>, u64)> {
        let mut steps = Vec::new();
        let mut end = |step: Result<()>| {
            let is_over = step.is_err();
            steps.push((step, self.faults.call_count()));
            is_over
        };
        match self.take().await {
            Err(error) => drop(end(Err(error))),
            Ok(lock) => {
                if !end(Ok(())) && !end(lock.confirm().await) {
                    end(lock.release().await);
                }
            }
        }
        steps
    }
}

/// Every protocol, side and start: which guarantees, whether exclusive, whether locks were left behind.
fn cases() -> impl Iterator<Item = (Guarantees, bool, bool)> {
    let sides = |guarantees| [(guarantees, true), (guarantees, false)];
    let starts =
        |(guarantees, is_exclusive)| [(guarantees, is_exclusive, true), (guarantees, is_exclusive, false)];
    PROTOCOLS.into_iter().flat_map(sides).flat_map(starts)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_denied_neither_takes_nor_confirms_nor_gives_back_a_lock() {
    let mut denied = 0;
    for (guarantees, is_exclusive, is_littered) in cases() {
        let scene = Scene::make(guarantees, is_exclusive, is_littered).await;
        let opened = scene.faults.call_count();
        let ends: Vec<u64> =
            scene.use_lock().await.into_iter().map(|(step, calls)| (step.unwrap(), calls).1).collect();
        let [_, _, last] = ends[..] else { panic!("three steps: {ends:?}") };
        for call in opened + 1..=last {
            let scene = Scene::make(guarantees, is_exclusive, is_littered).await;
            scene.faults.at_call(call, Fault::Before(StorageErrorKind::Denied));
            let mut steps = scene.use_lock().await;
            let case = format!("exclusive: {is_exclusive}, littered: {is_littered}, call {call} of {ends:?}");
            let case = format!("{case}: {:?}", scene.faults.calls());
            let expected = ends.iter().filter(|end| **end < call).count();
            match steps.pop().unwrap().0 {
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::NotPermitted, "{case}: {error:?}");
                    assert_eq!(steps.len(), expected, "{case}: {error:?}");
                }
                // Only a release may do without an answer, if nothing stays behind.
                Ok(()) => {
                    assert_eq!(expected, 2, "{case}");
                    let left = scene.names();
                    assert!(left.iter().all(|name| LEFT.contains(&name.as_str())), "{case}: {left:?}");
                }
            }
            denied += 1;
        }
    }
    assert!(denied > 60, "only {denied} calls");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_goes_while_it_is_looked_at_is_no_failure() {
    let mut gone = 0;
    for (guarantees, is_exclusive, _) in cases().filter(|(_, _, is_littered)| *is_littered) {
        let scene = Scene::littered(guarantees, is_exclusive).await;
        let opened = scene.faults.call_count();
        scene.take().await.unwrap();
        let calls = scene.faults.calls();
        for (call, (asked, object)) in calls.iter().enumerate().skip(opened as usize) {
            let is_at_a_lock = LEFT.contains(&object.as_str()) || object.contains("releasing-");
            let is_affected = matches!(asked, Operation::Stat | Operation::Rename | Operation::Remove);
            if !is_at_a_lock || !is_affected {
                continue;
            }
            let scene = Scene::littered(guarantees, is_exclusive).await;
            scene.faults.at_call(call as u64 + 1, Fault::Before(StorageErrorKind::NotFound));
            // It lies there all the same, so it may be found again.
            let taken = scene.take().await.map(drop).or_else(|error| match error.kind() {
                ErrorKind::Locked => Ok(()),
                _ => Err(error),
            });
            assert!(taken.is_ok(), "exclusive: {is_exclusive}, {asked:?} {object}: {taken:?}");
            gone += 1;
        }
    }
    assert!(gone > 10, "only {gone} calls");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_has_gone_is_given_back_without_a_word() {
    for (guarantees, is_exclusive, _) in cases().filter(|(_, _, is_littered)| !*is_littered) {
        let scene = Scene::new(guarantees, is_exclusive).await;
        let lock = scene.take().await.unwrap();
        let [name] = &scene.names()[..] else { panic!("one lock: {:?}", scene.names()) };
        scene.storage.remove(&key(name)).await.unwrap();
        lock.release().await.unwrap();
        assert!(scene.names().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_that_was_taken_an_instant_ago_is_a_lock() {
    let scene = Scene::new(PROTOCOLS[0], true).await;
    scene.faults.at_next(Operation::Create, Fault::Before(StorageErrorKind::AlreadyExists));
    let error = scene.take().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_long_is_not_read_for_a_message() {
    for (guarantees, name) in PROTOCOLS.into_iter().zip(["locks/exclusive.json", "locks/exclusive-01kw.json"])
    {
        for (bytes, holder) in
            [(RECORD_BYTES_MAX, "nas pid 4711"), (RECORD_BYTES_MAX + 1, "an unknown holder")]
        {
            let scene = Scene::new(guarantees, true).await;
            let record = FOREIGN.to_owned() + &" ".repeat(bytes - FOREIGN.len());
            scene.storage.put_raw(&key(name), record, scene.storage.now().await.unwrap());
            let error = scene.take().await.unwrap_err();
            assert!(error.to_string().contains(holder), "{bytes}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_waits_a_minute_for_a_contender_that_may_withdraw() {
    for goes in [true, false] {
        let scene = Scene::new(PROTOCOLS[1], true).await;
        let lock = scene.take().await.unwrap();
        let rival = key("locks/exclusive-zzz.json");
        scene.storage.put_raw(&rival, FOREIGN, scene.storage.now().await.unwrap());
        let begun = Instant::now();
        let withdraw = async {
            sleep(Duration::from_secs(50)).await;
            if goes {
                scene.storage.remove(&rival).await.unwrap();
            }
        };
        let (confirmed, ()) = tokio::join!(lock.confirm(), withdraw);
        match goes {
            true => confirmed.unwrap(),
            false => assert_eq!(confirmed.unwrap_err().kind(), ErrorKind::Locked),
        }
        let (waited, expected) = (begun.elapsed().as_secs(), if goes { 50..55 } else { 60..65 });
        assert!(expected.contains(&waited), "{waited} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_touch_that_finds_another_lock_loses_ours_and_one_that_breaks_does_not() {
    for (kind, by_rename, by_listing) in [
        (StorageErrorKind::Changed, false, false),
        (StorageErrorKind::NotFound, false, false),
        (StorageErrorKind::Denied, false, true),
        (StorageErrorKind::Connection, true, true),
    ] {
        for (guarantees, is_held) in PROTOCOLS.into_iter().zip([by_rename, by_listing]) {
            let scene = Scene::new(guarantees, true).await;
            let lock = scene.take().await.unwrap();
            scene.faults.at_next(Operation::Touch, Fault::Before(kind));
            sleep(Duration::from_secs(45)).await;
            let confirmed = lock.confirm().await.map_err(|error| error.kind());
            let expected = if is_held { Ok(()) } else { Err(ErrorKind::Locked) };
            assert_eq!(confirmed, expected, "{kind:?}, rename: {}", guarantees.rename);
        }
    }
}
