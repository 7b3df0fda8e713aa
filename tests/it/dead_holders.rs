//! The danger: a lock that nobody holds any more keeps its owner from his own backup; or, worse, a lock whose
//! holder lives where we cannot see it is taken for one that nobody holds.
//!
//! Both protocols are asked. Clocks are moved, not waited for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::ErrorKind;
use packvault::engine::init;
use packvault::engine::unlock::unlock;
use packvault::format::{Holder, LockRecord};
use packvault::process::Identity;
use packvault::repo::Repository;
use packvault::repo::locks::{DEAD_AFTER, LockRequest, STALE_AFTER};
use packvault_storage::{
    ErrorKind as StorageErrorKind, Fault, FaultStorage, Guarantees, MemoryStorage, Operation, Storage,
};

use crate::support::memory_repo::*;

/// By rename, and by listing.
const PROTOCOLS: [Guarantees; 2] =
    [Guarantees::all(), Guarantees { create_only: false, rename: false, ..Guarantees::all() }];
const SECOND: Duration = Duration::from_secs(1);
/// No process has this number.
const NOBODY: i64 = i32::MAX as i64;
/// A lock as msgvault writes it.
const FOREIGN: &str =
    r#"{"hostname":"nas","pid":4711,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}"#;

struct Scene {
    storage: MemoryStorage,
    faults: FaultStorage,
    repository: Repository,
    start: SystemTime,
    exclusive: &'static str,
}

impl Scene {
    async fn new(guarantees: Guarantees) -> Self {
        let storage = MemoryStorage::new().with_guarantees(guarantees);
        let start = SystemTime::now();
        storage.set_clock(start);
        init::init(&storage).await.unwrap();
        let faults = FaultStorage::new(shared(&storage));
        let repository = Repository::open(Arc::new(faults.clone())).await.unwrap();
        let exclusive = match guarantees.rename {
            true => "locks/exclusive.json",
            false => "locks/exclusive-01arz3ndektsv4rrffq69g5fav.json",
        };
        Self { storage, faults, repository, start, exclusive }
    }

    /// Puts a lock there that was last touched so long ago.
    fn plant(&self, name: &str, body: impl Into<Vec<u8>>, age: Duration) {
        self.storage.put_raw(&key(name), body.into(), self.start - age);
    }

    fn names(&self) -> Vec<String> {
        let keys = self.storage.objects().into_iter().map(|(key, _)| key.to_string());
        keys.filter(|key| key.starts_with("locks/")).collect()
    }

    /// Tells whether both locks can be taken; each is given back.
    async fn is_free(&self) -> bool {
        let request = lock_request("here");
        for shared in [true, false] {
            let lock = match shared {
                true => self.repository.lock_shared(&request).await,
                false => self.repository.lock_exclusive(&request).await,
            };
            match lock {
                Ok(lock) => lock.release().await.unwrap(),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
                    return false;
                }
            }
        }
        true
    }
}

fn here() -> Identity {
    Identity::of_this_process().expect("this system tells")
}

/// Returns a lock that the process has written.
fn lock_of(pid: i64, identity: &Identity) -> Vec<u8> {
    let holder = Holder {
        id: "1".to_owned(),
        boot: identity.boot.clone(),
        pid_namespace: identity.pid_namespace.clone(),
        time_namespace: identity.time_namespace.clone(),
        started: identity.started,
    };
    let record = LockRecord {
        hostname: identity.hostname.clone(),
        pid,
        operation: "create".to_owned(),
        acquired_at: "2026-11-23T20:37:31Z".to_owned(),
        holder: Some(holder),
    };
    record.encode()
}

/// Everybody who may have left a lock, with the time after which it ends by itself.
fn holders() -> Vec<(&'static str, Vec<u8>, Duration)> {
    let own = i64::from(std::process::id());
    vec![
        ("a process that is gone", lock_of(NOBODY, &here()), DEAD_AFTER),
        (
            "a process whose number another one has now",
            lock_of(own, &Identity { started: here().started - 1, ..here() }),
            DEAD_AFTER,
        ),
        ("a process that lives", lock_of(own, &here()), STALE_AFTER),
        (
            "a machine of another name",
            lock_of(NOBODY, &Identity { hostname: "x".into(), ..here() }),
            STALE_AFTER,
        ),
        (
            "another start of the machine",
            lock_of(NOBODY, &Identity { boot: "x".into(), ..here() }),
            STALE_AFTER,
        ),
        (
            "the same number in another container",
            lock_of(1, &Identity { pid_namespace: "pid:[1]".into(), ..here() }),
            STALE_AFTER,
        ),
        ("a system that does not tell", lock_of(NOBODY, &Identity::default()), STALE_AFTER),
        ("no number that a process has", lock_of(-1, &here()), STALE_AFTER),
        ("msgvault", FOREIGN.as_bytes().to_vec(), STALE_AFTER),
        ("garbage", b"\x00garbage".to_vec(), STALE_AFTER),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_lock_whose_holder_is_dead_on_this_machine_ends_in_ninety_seconds_and_no_other_does() {
    for guarantees in PROTOCOLS {
        for (who, body, ends_after) in holders() {
            let scene = Scene::new(guarantees).await;
            scene.plant(scene.exclusive, body.clone(), ends_after);
            assert!(!scene.is_free().await, "{who}: just before, {guarantees:?}");
            assert_eq!(scene.names(), [scene.exclusive], "{who}: whoever is refused leaves nothing behind");
            scene.storage.advance_clock(SECOND);
            assert!(scene.is_free().await, "{who}: just after, {guarantees:?}");
            assert!(scene.names().is_empty(), "{who}: {:?}", scene.names());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_lock_of_the_dead_is_not_waited_for() {
    for guarantees in PROTOCOLS {
        let scene = Scene::new(guarantees).await;
        scene.plant("locks/shared-1.json", lock_of(NOBODY, &here()), DEAD_AFTER + SECOND);
        let begun = tokio::time::Instant::now();
        assert!(scene.is_free().await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert!(scene.names().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_not_taken_for_dead() {
    for guarantees in PROTOCOLS {
        let scene = Scene::new(guarantees).await;
        scene.plant(scene.exclusive, lock_of(NOBODY, &here()), DEAD_AFTER + SECOND);
        let denied = Fault::Before(StorageErrorKind::Denied);
        scene
            .faults
            .at_match(0, denied, |asked, object| asked == Operation::Read && object.contains("exclusive"));
        let refused = scene.repository.lock_shared(&lock_request("here")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked, "{refused:?}");
        assert_eq!(scene.names(), [scene.exclusive]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_in_the_way_says_who_since_when_and_in_how_many_minutes_it_ends() {
    for guarantees in PROTOCOLS {
        let scene = Scene::new(guarantees).await;
        scene.plant(scene.exclusive, FOREIGN, Duration::from_secs(300));
        let error = scene.repository.lock_shared(&lock_request("here")).await.unwrap_err();
        let said = error.to_string();
        for words in [
            "held by nas pid 4711 (create since 2026-11-23T20:37:31Z)",
            "last touched 5 min ago",
            "ends by itself in 25 min",
        ] {
            assert!(said.contains(words), "{words:?} not in {said}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_lost_after_a_lock_was_written_locks_nobody_out() {
    for guarantees in PROTOCOLS {
        for shared in [false, true] {
            for kind in [
                StorageErrorKind::Io,
                StorageErrorKind::Timeout,
                StorageErrorKind::Connection,
                StorageErrorKind::AlreadyExists,
            ] {
                let scene = Scene::new(guarantees).await;
                scene.faults.at_next(Operation::Create, Fault::After(kind));
                let request = lock_request("here");
                let lock = match shared {
                    true => scene.repository.lock_shared(&request).await,
                    false => scene.repository.lock_exclusive(&request).await,
                };
                let case = format!("{guarantees:?}, shared: {shared}, {kind:?}");
                match lock {
                    // The name is taken by our own record, so the lock is ours.
                    Ok(lock) if kind == StorageErrorKind::AlreadyExists => lock.release().await.unwrap(),
                    Ok(_) => panic!("{case}: an answer was made up"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{case}: {error:?}"),
                }
                assert!(scene.names().is_empty(), "{case}: {:?}", scene.names());
                assert!(scene.is_free().await, "{case}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unlock_removes_what_nobody_holds_and_shows_the_rest() {
    for guarantees in PROTOCOLS {
        for (who, body, ends_after) in holders() {
            let scene = Scene::new(guarantees).await;
            scene.plant(scene.exclusive, body.clone(), SECOND);
            scene.plant("locks/shared-1.json", body.clone(), ends_after + SECOND);
            scene.plant("locks/readme", "no lock", 10 * STALE_AFTER);
            let is_dead = ends_after == DEAD_AFTER;
            let report = unlock(&scene.repository, false, &context()).await.unwrap();
            let left: Vec<&str> = report.left.iter().map(|lock| lock.name.as_str()).collect();
            let fresh = scene.exclusive.trim_start_matches("locks/");
            assert_eq!(left, if is_dead { vec![] } else { vec![fresh] }, "{who}");
            assert_eq!(report.removed.len(), if is_dead { 2 } else { 1 }, "{who}");
            assert_eq!(scene.names().len(), left.len() + 1, "{who}: {:?}", scene.names());

            let report = unlock(&scene.repository, true, &context()).await.unwrap();
            assert_eq!((report.left.len(), report.removed.len()), (0, left.len()), "{who}");
            assert_eq!(scene.names(), ["locks/readme"], "{who}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn unlock_leaves_a_holder_that_works_and_force_stops_it_before_it_publishes() {
    for guarantees in PROTOCOLS {
        let scene = Scene::new(guarantees).await;
        let held = scene.repository.lock_exclusive(&lock_request(&here().hostname)).await.unwrap();
        scene.storage.advance_clock(DEAD_AFTER + SECOND);
        let report = unlock(&scene.repository, false, &context()).await.unwrap();
        assert_eq!(report.left.len(), 1);
        assert_eq!(report.left[0].process_lives, Some(true));
        held.confirm().await.unwrap();
        unlock(&scene.repository, true, &context()).await.unwrap();
        assert_eq!(held.confirm().await.unwrap_err().kind(), ErrorKind::Locked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_comes_to_life_while_unlock_claims_it_is_put_back() {
    let scene = Scene::new(Guarantees::all()).await;
    scene.plant(scene.exclusive, FOREIGN, STALE_AFTER + SECOND);
    scene.faults.at_next(Operation::Rename, Fault::Delay(Duration::from_secs(10)));
    let context = context();
    let revive = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        scene.storage.touch(&key(scene.exclusive), FOREIGN.as_bytes()).await.unwrap();
    };
    let (report, ()) = tokio::join!(async { unlock(&scene.repository, false, &context).await }, revive);
    assert_eq!(report.unwrap().left.len(), 1);
    assert_eq!(scene.names(), [scene.exclusive]);
}

#[tokio::test(start_paused = true)]
async fn an_unlock_whose_store_gives_no_answer_says_so_and_names_no_holder() {
    // A clock of this machine that is days ahead would make a lock stale that somebody holds.
    let days_ago = SystemTime::now() - 10 * STALE_AFTER;
    for guarantees in PROTOCOLS {
        for asked in [Operation::Stat, Operation::Now, Operation::Read] {
            let scene = Scene::new(guarantees).await;
            scene.storage.set_clock(days_ago);
            scene.storage.put_raw(&key(scene.exclusive), FOREIGN, days_ago);
            scene.faults.at_match(0, Fault::Before(StorageErrorKind::Timeout), move |operation, _| {
                operation == asked
            });
            let error = unlock(&scene.repository, false, &context()).await.unwrap_err();
            assert!(error.is_inconclusive(), "{guarantees:?}, {asked:?}: {error:?}");
            assert_eq!(scene.names(), [scene.exclusive], "{guarantees:?}, {asked:?}");
        }
    }
}

/// Lets no step write, and forgets nothing of what lies there.
fn forbid_writing(scene: &Scene, kind: StorageErrorKind) {
    for _ in 0..20 {
        scene.faults.at_match(0, Fault::Before(kind), |asked, _| {
            matches!(asked, Operation::Create | Operation::Now | Operation::Rename | Operation::Remove)
        });
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_can_be_written_a_reader_goes_on_beside_backups_and_beside_nothing_else() {
    let prune = FOREIGN.replace("create", "prune");
    for guarantees in PROTOCOLS {
        for kind in [StorageErrorKind::Denied, StorageErrorKind::Full, StorageErrorKind::Io] {
            for (body, age, is_read) in [
                (None, Duration::ZERO, true),
                (Some(FOREIGN), 300 * SECOND, true),
                (Some(prune.as_str()), 300 * SECOND, false),
                (Some(prune.as_str()), STALE_AFTER + SECOND, true),
                (Some("garbage"), 300 * SECOND, false),
            ] {
                let scene = Scene::new(guarantees).await;
                if let Some(body) = body {
                    scene.plant(scene.exclusive, body, age);
                }
                forbid_writing(&scene, kind);
                let case = format!("{guarantees:?} {kind:?} {body:?} {age:?}");
                let request = LockRequest { operation: "restore", ..lock_request("here") };
                match scene.repository.lock_for_reading(&request).await {
                    Ok(lock) => {
                        assert!(is_read && !lock.is_held(), "{case}");
                        let (_, warnings) = lock.during(async { Ok(()) }).await.unwrap();
                        assert!(warnings[0].contains("without a lock"), "{case}: {warnings:?}");
                        let is_beside = body == Some(FOREIGN);
                        assert_eq!(warnings[0].contains("held by nas"), is_beside, "{case}: {warnings:?}");
                    }
                    Err(error) => {
                        assert!(!is_read, "{case}: {error:?}");
                        assert_eq!(error.kind(), ErrorKind::Locked, "{case}: {error:?}");
                    }
                }
                let asked_for = scene.repository.read_without_lock(&request).await;
                assert!(!asked_for.is_held());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_cannot_be_given_back_undoes_nothing_of_what_was_read() {
    for guarantees in PROTOCOLS {
        let scene = Scene::new(guarantees).await;
        let lock = scene.repository.lock_for_reading(&lock_request("here")).await.unwrap();
        assert!(lock.is_held());
        for operation in [Operation::Remove, Operation::Rename] {
            scene.faults.at_next(operation, Fault::Before(StorageErrorKind::Denied));
        }
        let (read, warnings) = lock.during(async { Ok(7) }).await.unwrap();
        assert_eq!(read, 7);
        assert!(warnings[0].contains("stays behind"), "{warnings:?}");
    }
}
