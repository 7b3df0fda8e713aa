//! The danger: on a store without renames two programs work on one repository at once, or a lock that nobody
//! holds keeps everybody out. No create-only write is relied on: the storage here tells several writers of
//! one key that they won. `lock_schedules.rs` tries the orders of the steps; here is what people meet.
//!
//! Clocks are moved, not waited for: the storage's by hand, the timers' by a paused runtime.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use packvault::engine::init;
use packvault::repo::Repository;
use packvault::repo::locks::{Lock, LockRequest, STALE_AFTER};
use packvault::{Error, ErrorKind};
use packvault_storage::{
    ErrorKind as StorageErrorKind, Fault, FaultStorage, Guarantees, MemoryStorage, Operation, Storage,
};
use tokio::time::sleep;

use crate::support::memory_repo::*;

const LESSER: Guarantees =
    Guarantees { create_only: false, create_only_streamed: false, rename: false, ..Guarantees::all() };
const FOREIGN: &str =
    r#"{"hostname":"nas","pid":4711,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}"#;
const OTHER: &str = "locks/exclusive-01kw.json";
const MINUTE: Duration = Duration::from_secs(60);

/// Makes a repository whose clock stands still until it is moved.
async fn scene() -> (MemoryStorage, Repository) {
    let storage = MemoryStorage::new().with_guarantees(LESSER);
    storage.set_clock(SystemTime::now());
    init::init(&storage).await.unwrap();
    let repository = Repository::open(shared(&storage)).await.unwrap();
    (storage, repository)
}

async fn faulty(storage: &MemoryStorage) -> (Repository, FaultStorage) {
    let faulty = FaultStorage::new(shared(storage));
    (Repository::open(Arc::new(faulty.clone())).await.unwrap(), faulty)
}

async fn plant(storage: &MemoryStorage, name: &str, age: Duration) {
    storage.put_raw(&key(name), FOREIGN, storage.now().await.unwrap() - age);
}

fn names(storage: &MemoryStorage) -> Vec<String> {
    let keys = storage.objects().into_iter().map(|(key, _)| key.to_string());
    keys.filter(|key| key.starts_with("locks/")).collect()
}

fn request() -> LockRequest {
    lock_request("a")
}

fn forced() -> LockRequest {
    LockRequest { force: true, ..request() }
}

fn assert_locked(result: Result<Lock, Error>, words: &str) {
    let error = result.expect_err("the repository is locked");
    assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
    assert!(error.to_string().contains(words), "{words} not in {error}");
}

#[tokio::test(start_paused = true)]
async fn locks_have_names_of_their_own_and_exclude_each_other() {
    let (storage, repository) = scene().await;
    assert_eq!(repository.exclusion(), "locks under unique names, found by listing");
    let held = repository.lock_exclusive(&request()).await.unwrap();
    let planted = names(&storage);
    assert!(planted.len() == 1 && planted[0].starts_with("locks/exclusive-"), "{planted:?}");
    assert_locked(repository.lock_exclusive(&request()).await, "held by a pid");
    assert_locked(repository.lock_shared(&request()).await, "held by a pid");
    assert_eq!(names(&storage), planted, "who is refused leaves nothing behind");
    held.confirm().await.unwrap();
    held.release().await.unwrap();
    let (one, two) = (repository.lock_shared(&request()).await, repository.lock_shared(&request()).await);
    assert_locked(repository.lock_exclusive(&request()).await, "shared-");
    assert_eq!(names(&storage).len(), 2);
    one.unwrap().release().await.unwrap();
    let second = two.unwrap();
    let (exclusive, ()) = tokio::join!(async { repository.lock_exclusive(&request()).await }, async {
        sleep(Duration::from_secs(30)).await;
        second.release().await.unwrap();
    });
    exclusive.unwrap().release().await.unwrap();
    assert!(names(&storage).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_format_style_lock_that_came_with_a_copy_counts_until_it_is_stale() {
    for name in ["locks/exclusive.json", OTHER] {
        let (storage, repository) = scene().await;
        plant(&storage, name, STALE_AFTER).await;
        assert_locked(repository.lock_exclusive(&request()).await, "held by nas pid 4711");
        assert_locked(repository.lock_shared(&request()).await, "held by nas pid 4711");
        storage.advance_clock(Duration::from_secs(1));
        repository.lock_shared(&request()).await.unwrap().release().await.unwrap();
        assert!(names(&storage).is_empty());
        plant(&storage, "locks/shared-1.json", STALE_AFTER + MINUTE).await;
        plant(&storage, name, STALE_AFTER + MINUTE).await;
        repository.lock_exclusive(&request()).await.unwrap().release().await.unwrap();
        assert!(names(&storage).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn claims_that_came_along_from_a_store_with_renames_keep_nobody_out_and_go_when_they_are_old() {
    let (storage, repository) = scene().await;
    plant(&storage, "locks/releasing-old.json", STALE_AFTER + MINUTE).await;
    plant(&storage, "locks/releasing-new.json", MINUTE).await;
    repository.lock_shared(&request()).await.unwrap().release().await.unwrap();
    assert_eq!(names(&storage).len(), 2, "who only reads removes nothing");
    repository.lock_exclusive(&request()).await.unwrap().release().await.unwrap();
    assert_eq!(names(&storage), ["locks/releasing-new.json"]);
}

#[tokio::test(start_paused = true)]
async fn staleness_is_by_the_clock_of_the_store_however_wrong_ours_is() {
    let hour = 60 * MINUTE;
    for theirs in [SystemTime::now() - hour, SystemTime::now() + hour] {
        let (storage, repository) = scene().await;
        storage.set_clock(theirs);
        plant(&storage, OTHER, STALE_AFTER).await;
        assert_locked(repository.lock_exclusive(&request()).await, "held by nas");
        plant(&storage, OTHER, STALE_AFTER + MINUTE).await;
        let held = repository.lock_exclusive(&request()).await.unwrap();
        held.confirm().await.unwrap();
        held.release().await.unwrap();
        assert!(names(&storage).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn force_breaks_fresh_locks_and_who_was_broken_confirms_nothing() {
    let (storage, repository) = scene().await;
    let broken = repository.lock_exclusive(&request()).await.unwrap();
    plant(&storage, "locks/shared-1.json", Duration::ZERO).await;
    plant(&storage, "locks/exclusive.json", Duration::ZERO).await;
    let held = repository.lock_exclusive(&forced()).await.unwrap();
    assert_eq!(names(&storage).len(), 1);
    assert_eq!(broken.confirm().await.unwrap_err().kind(), ErrorKind::Locked);
    broken.release().await.unwrap();
    held.confirm().await.unwrap();
    held.release().await.unwrap();
    plant(&storage, "locks/shared-1.json", Duration::ZERO).await;
    plant(&storage, OTHER, Duration::ZERO).await;
    repository.lock_shared(&forced()).await.unwrap().release().await.unwrap();
    assert_eq!(names(&storage), ["locks/shared-1.json"]);
}

#[tokio::test(start_paused = true)]
async fn the_lowest_contender_waits_for_a_higher_one_and_gives_up_beside_a_holder() {
    let higher = "locks/exclusive-zzz.json";
    for goes in [true, false] {
        let (storage, _) = scene().await;
        let (repository, faulty) = faulty(&storage).await;
        // The other plants between our look and our planting.
        faulty.at_next(Operation::Create, Fault::Delay(Duration::from_secs(2)));
        let other = async {
            sleep(Duration::from_secs(1)).await;
            plant(&storage, higher, Duration::ZERO).await;
            sleep(Duration::from_secs(5)).await;
            if goes {
                storage.remove(&key(higher)).await.unwrap();
            }
        };
        let (taken, ()) = tokio::join!(async { repository.lock_exclusive(&request()).await }, other);
        if goes {
            taken.unwrap().release().await.unwrap();
            assert!(names(&storage).is_empty());
        } else {
            assert_locked(taken, "exclusive-zzz.json held by nas");
            assert_eq!(names(&storage), [higher]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_side_that_planted_looks_again_and_gives_way() {
    for (age, is_refused) in [(Duration::ZERO, true), (STALE_AFTER + MINUTE, false)] {
        let (storage, _) = scene().await;
        let (repository, faulty) = faulty(&storage).await;
        // The holder plants between our look and our planting.
        faulty.at_next(Operation::Create, Fault::Delay(Duration::from_secs(2)));
        let other = async {
            sleep(Duration::from_secs(1)).await;
            plant(&storage, OTHER, age).await;
        };
        let (taken, ()) = tokio::join!(async { repository.lock_shared(&request()).await }, other);
        match is_refused {
            true => assert_locked(taken, "exclusive-01kw.json held by nas"),
            false => taken.unwrap().release().await.unwrap(),
        }
        assert_eq!(names(&storage), [OTHER]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_higher_contender_withdraws_at_once() {
    let (storage, _) = scene().await;
    let (repository, faulty) = faulty(&storage).await;
    faulty.at_next(Operation::Create, Fault::Delay(Duration::from_secs(2)));
    let begun = tokio::time::Instant::now();
    let other = async {
        sleep(Duration::from_secs(1)).await;
        plant(&storage, "locks/exclusive-0.json", Duration::ZERO).await;
    };
    let (taken, ()) = tokio::join!(async { repository.lock_exclusive(&request()).await }, other);
    assert_locked(taken, "exclusive-0.json held by nas");
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    assert_eq!(names(&storage), ["locks/exclusive-0.json"]);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_list_what_was_just_written_is_refused() {
    for side in ["exclusive", "shared"] {
        let (storage, _) = scene().await;
        let (repository, faulty) = faulty(&storage).await;
        // While it is listed the lock is hidden; a look at its name finds it.
        let (lagging, hidden) = (storage.clone(), Mutex::new(None));
        faulty.at_match(0, Fault::Delay(Duration::ZERO), move |asked, _| {
            let mut hidden = hidden.lock().unwrap();
            if asked == Operation::List {
                *hidden = lagging.objects().into_iter().find(|(key, _)| key.as_str().starts_with("locks/"));
                hidden.iter().for_each(|(key, _)| lagging.remove(key).now_or_never().unwrap().unwrap());
            } else if let Some((key, bytes)) = hidden.take() {
                lagging.put_raw(&key, bytes, SystemTime::now());
            }
            false
        });
        let failed = match side {
            "exclusive" => repository.lock_exclusive(&request()).await,
            _ => repository.lock_shared(&request()).await,
        };
        let error = failed.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
        assert!(error.to_string().contains("does not list the lock"), "{error}");
        assert!(names(&storage).is_empty(), "what was planted is withdrawn");
    }
}

#[tokio::test(start_paused = true)]
async fn who_cannot_look_withdraws_what_it_planted() {
    for asked in [Operation::List, Operation::Now] {
        let (storage, _) = scene().await;
        let (repository, faulty) = faulty(&storage).await;
        plant(&storage, "locks/shared-1.json", Duration::ZERO).await;
        let skipped = if asked == Operation::List { 1 } else { 0 };
        faulty.at_match(skipped, Fault::Before(StorageErrorKind::Denied), move |other, _| asked == other);
        assert_eq!(repository.lock_exclusive(&request()).await.unwrap_err().kind(), ErrorKind::NotPermitted);
        assert_eq!(names(&storage), ["locks/shared-1.json"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_fails_for_a_while_loses_nothing_and_one_that_fails_for_long_everything() {
    for guarantees in [LESSER, Guarantees::all()] {
        let storage = MemoryStorage::new().with_guarantees(guarantees);
        init::init(&storage).await.unwrap();
        let (repository, faulty) = faulty(&storage).await;
        let held = repository.lock_exclusive(&request()).await.unwrap();
        let fail = |count: u32| {
            for _ in 0..count {
                faulty.at_next(Operation::Touch, Fault::Before(StorageErrorKind::Timeout));
            }
        };
        fail(40);
        sleep(20 * MINUTE).await;
        held.confirm().await.unwrap();
        sleep(MINUTE).await;
        fail(60);
        sleep(24 * MINUTE).await;
        held.confirm().await.unwrap();
        sleep(2 * MINUTE).await;
        let error = held.confirm().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
        // For good, whatever the store says later.
        sleep(10 * MINUTE).await;
        assert_eq!(held.confirm().await.unwrap_err().kind(), ErrorKind::Locked);
        held.release().await.unwrap();
        assert!(names(&storage).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_wakes_beside_its_successor_confirms_nothing_and_takes_back_what_it_made_anew() {
    let (storage, _) = scene().await;
    let (repository, faulty) = faulty(&storage).await;
    let held = repository.lock_exclusive(&request()).await.unwrap();
    let old = names(&storage).remove(0);
    let body = storage.read(&key(&old)).await.unwrap();
    // Its touch is under way while it sleeps past the staleness.
    faulty.at_next(Operation::Touch, Fault::Delay(40 * MINUTE));
    sleep(31 * MINUTE).await;
    storage.advance_clock(31 * MINUTE);
    let successor = Repository::open(shared(&storage)).await.unwrap();
    let taken = successor.lock_exclusive(&request()).await.unwrap();
    assert!(!names(&storage).contains(&old), "the stale lock is reaped");
    // A touch that reads and writes has made it anew.
    storage.put_raw(&key(&old), body, storage.now().await.unwrap());
    assert_eq!(held.confirm().await.unwrap_err().kind(), ErrorKind::Locked);
    let (confirmed, ()) = tokio::join!(taken.confirm(), sleep(20 * MINUTE));
    assert_eq!(confirmed.unwrap_err().kind(), ErrorKind::Locked, "nobody is sure of itself beside it");
    assert!(!names(&storage).contains(&old), "its owner has taken it away");
    taken.confirm().await.unwrap();
    held.release().await.unwrap();
    taken.confirm().await.unwrap();
    taken.release().await.unwrap();
    assert!(names(&storage).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_release_waits_for_a_touch_under_way() {
    let (storage, _) = scene().await;
    let (repository, faulty) = faulty(&storage).await;
    let held = repository.lock_exclusive(&request()).await.unwrap();
    faulty.at_next(Operation::Touch, Fault::Delay(Duration::from_secs(10)));
    sleep(Duration::from_secs(31)).await;
    let begun = tokio::time::Instant::now();
    held.release().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(names(&storage).is_empty());
}

/// Lets ten tasks work in the repository until each has had its turn; returns the most at once.
async fn ten_take_turns(storage: &MemoryStorage) -> usize {
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..10)
        .map(|_| {
            let (storage, inside, most) = (shared(storage), inside.clone(), most.clone());
            tokio::spawn(async move {
                let repository = Repository::open(storage).await.unwrap();
                match repository.lock_exclusive(&request()).await {
                    Ok(lock) => {
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        lock.confirm().await.unwrap();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        lock.release().await.unwrap();
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}"),
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    most.load(Ordering::SeqCst)
}

#[test]
fn of_ten_that_race_exactly_one_holds_the_lock_at_a_time() {
    runtime().block_on(async {
        let storage = MemoryStorage::new().with_guarantees(LESSER);
        init::init(&storage).await.unwrap();
        for round in 0..100 {
            assert_eq!(ten_take_turns(&storage).await, 1, "round {round}");
            assert!(names(&storage).is_empty(), "round {round}");
        }
    });
}

#[test]
fn of_ten_inits_on_a_store_that_lies_about_winners_one_makes_the_repository() {
    runtime().block_on(async {
        for round in 0..10 {
            let storage = MemoryStorage::new().with_guarantees(LESSER);
            let tasks: Vec<_> = (0..10)
                .map(|_| {
                    let storage = storage.clone();
                    tokio::spawn(async move { init::init(&storage).await })
                })
                .collect();
            let mut made = vec![];
            for task in tasks {
                match task.await.unwrap() {
                    Ok(report) => made.push(report.id),
                    Err(error) => assert!(error.to_string().contains("exists already"), "{error:?}"),
                }
            }
            let repository = Repository::open(shared(&storage)).await.unwrap();
            assert_eq!(made, [repository.config().repo_id.to_string()], "round {round}");
            assert!(names(&storage).is_empty(), "round {round}");
        }
    });
}

#[test]
fn a_create_whose_lock_a_successor_holds_publishes_nothing() {
    runtime().block_on(async {
        let archive = Archive::small();
        let storage = MemoryStorage::new().with_guarantees(LESSER);
        let made = fill(&storage, &archive, 1).await;
        archive.change();
        // Right before the manifest: reaped, as after a long sleep, and somebody else is there.
        let faulty = FaultStorage::new(shared(&storage));
        let stolen = storage.clone();
        faulty.at_match(0, Fault::Delay(Duration::ZERO), move |asked, object| {
            if asked == Operation::Create && object.starts_with("indexes/") {
                for name in names(&stolen) {
                    stolen.remove(&key(&name)).now_or_never().unwrap().unwrap();
                }
                stolen.put_raw(&key(OTHER), FOREIGN, SystemTime::now());
            }
            false
        });
        let error = capture(Arc::new(faulty), &archive).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
        assert_eq!(names(&storage), [OTHER], "the successor's lock is unharmed");
        storage.remove(&key(OTHER)).await.unwrap();
        let report = assert_sound(shared(&storage), "after a lost lock").await;
        assert_eq!(report.snapshots, 1);
        assert_comes_back(shared(&storage), &made[0], "after a lost lock").await;
        capture(shared(&storage), &archive).await.unwrap();
    });
}
