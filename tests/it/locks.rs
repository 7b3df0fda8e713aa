//! The danger: two programs work on one repository at the same time, or a lock that nobody holds keeps
//! everybody out. packvault and msgvault share repositories, so the protocol is the format's own (section 8):
//! both plant before they look, a claim that proves fresh goes back, nobody removes a successor's lock.
//!
//! Clocks are moved, not waited for: the storage's by hand, the timers' by a paused runtime.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::engine::create::CreateOptions;
use packvault::engine::{Selection, init};
use packvault::progress::Heard;
use packvault::repo::Repository;
use packvault::repo::locks::{Lock, LockRequest, STALE_AFTER};
use packvault::{Cancel, ErrorKind, Result, location};
use packvault_storage::{
    ErrorKind as StorageErrorKind, Fault, FaultStorage, MemoryStorage, Operation, Storage,
};
use tokio::time::sleep;

use crate::support::memory_repo::*;

const EXCLUSIVE: &str = "locks/exclusive.json";
/// A lock as msgvault writes it.
const FOREIGN: &str =
    r#"{"hostname":"nas","pid":4711,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}"#;
const MINUTE: Duration = Duration::from_secs(60);

/// A repository in memory whose clock stands still until it is moved.
struct Scene {
    storage: MemoryStorage,
    start: SystemTime,
}

impl Scene {
    async fn new() -> Self {
        let (storage, start) = (MemoryStorage::new(), SystemTime::now());
        storage.set_clock(start);
        init::init(&storage).await.unwrap();
        Self { storage, start }
    }

    async fn repository(&self) -> Repository {
        Repository::open(shared(&self.storage)).await.unwrap()
    }

    /// Returns the repository, seen through a storage that fails on command.
    async fn faulty(&self) -> (Repository, FaultStorage) {
        let faulty = FaultStorage::new(shared(&self.storage));
        (Repository::open(Arc::new(faulty.clone())).await.unwrap(), faulty)
    }

    async fn exclusive(&self) -> Result<Lock> {
        self.repository().await.lock_exclusive(&lock_request("a")).await
    }

    async fn shared(&self) -> Result<Lock> {
        self.repository().await.lock_shared(&lock_request("b")).await
    }

    /// Puts a lock there that was last touched so long ago.
    fn plant(&self, name: &str, body: &str, age: Duration) {
        self.storage.put_raw(&key(name), body.to_owned(), self.start - age);
    }

    fn body(&self, name: &str) -> Option<String> {
        let objects = self.storage.objects();
        let found = objects.into_iter().find(|(key, _)| key.as_str() == name);
        found.map(|(_, bytes)| String::from_utf8(bytes.to_vec()).unwrap())
    }

    /// Returns the names of all lock files.
    fn names(&self) -> Vec<String> {
        let keys = self.storage.objects().into_iter().map(|(key, _)| key.to_string());
        keys.filter(|key| key.starts_with("locks/")).collect()
    }

    async fn modified(&self, name: &str) -> SystemTime {
        self.storage.stat(&key(name)).await.unwrap().modified
    }
}

fn forced() -> LockRequest {
    LockRequest { force: true, ..lock_request("forcing") }
}

fn assert_locked(result: Result<Lock>, words: &[&str]) {
    let error = result.expect_err("the repository is locked");
    assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} not in {text}");
}

#[tokio::test(start_paused = true)]
async fn of_two_exclusive_locks_one_is_refused_and_names_the_holder() {
    let scene = Scene::new().await;
    let held = scene.exclusive().await.unwrap();
    let process = format!("pid {}", std::process::id());
    assert_locked(scene.exclusive().await, &["exclusive.json", "held by a", &process, "(create since 20"]);
    held.release().await.unwrap();
    assert!(scene.names().is_empty());
    scene.exclusive().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shared_lock_is_refused_while_an_exclusive_one_is_held() {
    let scene = Scene::new().await;
    let held = scene.exclusive().await.unwrap();
    assert_locked(scene.shared().await, &["exclusive.json", "held by a"]);
    assert_eq!(scene.names(), [EXCLUSIVE], "the refused side leaves nothing behind");
    held.release().await.unwrap();
    let (one, two) = (scene.shared().await.unwrap(), scene.shared().await.unwrap());
    assert_eq!(scene.names().len(), 2);
    one.release().await.unwrap();
    two.release().await.unwrap();
    assert!(scene.names().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_lock_waits_for_shared_ones_to_go() {
    let scene = Scene::new().await;
    let held = scene.shared().await.unwrap();
    let release = async {
        sleep(Duration::from_secs(30)).await;
        held.release().await.unwrap();
    };
    let (exclusive, ()) = tokio::join!(scene.exclusive(), release);
    exclusive.unwrap();
    assert_eq!(scene.names(), [EXCLUSIVE]);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_lock_waits_a_minute_at_most_and_then_names_the_holder_and_lets_go() {
    let scene = Scene::new().await;
    let _held = scene.shared().await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_locked(scene.exclusive().await, &["shared-", "held by b"]);
    let waited = begun.elapsed();
    assert!(waited >= MINUTE && waited < MINUTE + Duration::from_secs(1), "{waited:?}");
    let names = scene.names();
    assert!(names.len() == 1 && names[0].starts_with("locks/shared-"), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_says_so_once_and_can_be_interrupted() {
    let scene = Scene::new().await;
    let _held = scene.shared().await.unwrap();
    let (remarks, cancel) = (Arc::new(Heard::default()), Cancel::new());
    let request = LockRequest { progress: remarks.clone(), cancel: cancel.clone(), ..lock_request("a") };
    let stop = async {
        sleep(Duration::from_secs(5)).await;
        cancel.cancel();
    };
    let (begun, repository) = (tokio::time::Instant::now(), scene.repository().await);
    let (waiting, ()) = tokio::join!(repository.lock_exclusive(&request), stop);
    assert_eq!(waiting.err().unwrap().kind(), ErrorKind::Interrupted);
    assert_eq!(begun.elapsed(), Duration::from_secs(5), "the wait ends at once");
    let told = remarks.remarks();
    assert!(told.len() == 1 && told[0].contains("held by b"), "{told:?}");
    assert!(!scene.names().contains(&EXCLUSIVE.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_shared_side_that_planted_looks_again_and_gives_way() {
    let scene = Scene::new().await;
    let (repository, faulty) = scene.faulty().await;
    // The exclusive side plants after the first look, before the shared file is there.
    faulty.at_next(Operation::Create, Fault::Delay(Duration::from_secs(10)));
    let plant = async {
        sleep(Duration::from_secs(5)).await;
        scene.plant(EXCLUSIVE, FOREIGN, Duration::ZERO);
    };
    let (shared, ()) = tokio::join!(async { repository.lock_shared(&lock_request("b")).await }, plant);
    assert_locked(shared, &["exclusive.json", "held by nas pid 4711 (create since 2026-11-23T20:37:31Z)"]);
    assert_eq!(scene.names(), [EXCLUSIVE]);
    assert_eq!(scene.body(EXCLUSIVE).unwrap(), FOREIGN);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_stale_after_half_an_hour_and_not_before() {
    for body in [FOREIGN, "", "garbage", "{}"] {
        let scene = Scene::new().await;
        scene.plant(EXCLUSIVE, body, STALE_AFTER);
        assert_locked(scene.exclusive().await, &["exclusive.json"]);
        assert_locked(scene.shared().await, &["exclusive.json"]);
        assert_eq!(scene.body(EXCLUSIVE).unwrap(), body, "a fresh lock is left as it is");
        scene.storage.advance_clock(Duration::from_secs(1));
        let lock = scene.shared().await.unwrap();
        lock.release().await.unwrap();
        assert!(scene.names().is_empty());
        scene.plant(EXCLUSIVE, body, STALE_AFTER);
        scene.plant("locks/shared-x.json", body, STALE_AFTER);
        scene.exclusive().await.unwrap();
        assert_eq!(scene.names(), [EXCLUSIVE]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_from_the_future_is_fresh() {
    let scene = Scene::new().await;
    scene.storage.put_raw(&key(EXCLUSIVE), FOREIGN, scene.start + 100 * STALE_AFTER);
    scene.storage.advance_clock(10 * STALE_AFTER);
    assert_locked(scene.exclusive().await, &["held by nas"]);
    assert_locked(scene.shared().await, &["held by nas"]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_no_record_counts_and_its_holder_is_unknown() {
    for body in ["", "garbage", "[1]", "\u{0}"] {
        let scene = Scene::new().await;
        scene.plant(EXCLUSIVE, body, Duration::ZERO);
        assert_locked(scene.exclusive().await, &["exclusive.json held by an unknown holder"]);
        let scene = Scene::new().await;
        scene.plant("locks/shared-y", body, Duration::ZERO);
        assert_locked(scene.exclusive().await, &["shared-y held by an unknown holder"]);
    }
}

#[tokio::test(start_paused = true)]
async fn other_files_in_the_folder_of_locks_are_none() {
    let scene = Scene::new().await;
    for name in ["locks/readme", "locks/exclusive.json.bak", "locks/x/shared-1.json", "locks/.shared-1"] {
        scene.plant(name, FOREIGN, Duration::ZERO);
    }
    scene.exclusive().await.unwrap();
    assert_eq!(scene.names().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_proves_fresh_goes_back_under_its_name() {
    let scene = Scene::new().await;
    let (repository, faulty) = scene.faulty().await;
    scene.plant(EXCLUSIVE, FOREIGN, STALE_AFTER + MINUTE);
    // Between the look at its age and the claim, its holder comes back to life.
    faulty.at_next(Operation::Rename, Fault::Delay(Duration::from_secs(10)));
    let revive = async {
        sleep(Duration::from_secs(5)).await;
        scene.storage.touch(&key(EXCLUSIVE), FOREIGN.as_bytes()).await.unwrap();
    };
    let (refused, ()) = tokio::join!(async { repository.lock_exclusive(&lock_request("a")).await }, revive);
    assert_locked(refused, &["held by nas"]);
    assert_eq!(scene.names(), [EXCLUSIVE]);
    assert_eq!(scene.body(EXCLUSIVE).unwrap(), FOREIGN);
    assert_eq!(scene.modified(EXCLUSIVE).await, scene.start, "it is as fresh as its holder made it");
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_name_was_taken_meanwhile_is_dropped() {
    let scene = Scene::new().await;
    let (repository, faulty) = scene.faulty().await;
    scene.plant(EXCLUSIVE, FOREIGN, STALE_AFTER + MINUTE);
    faulty.at_next(Operation::Rename, Fault::Delay(Duration::from_secs(10)));
    // The first rename claims, the second puts back.
    faulty.at_match(0, Fault::Delay(Duration::from_secs(10)), |asked, object| {
        asked == Operation::Rename && object.ends_with("-> locks/exclusive.json")
    });
    let take = async {
        sleep(Duration::from_secs(5)).await;
        scene.storage.touch(&key(EXCLUSIVE), FOREIGN.as_bytes()).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(scene.body(EXCLUSIVE), None, "it is claimed");
        scene.plant(EXCLUSIVE, "the successor", Duration::ZERO);
    };
    let (refused, ()) = tokio::join!(async { repository.lock_exclusive(&lock_request("a")).await }, take);
    assert_locked(refused, &["exclusive.json"]);
    assert_eq!(scene.names(), [EXCLUSIVE]);
    assert_eq!(scene.body(EXCLUSIVE).unwrap(), "the successor");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_put_back_is_not_thrown_away() {
    for kind in [StorageErrorKind::Denied, StorageErrorKind::NotFound] {
        let scene = Scene::new().await;
        let (repository, faulty) = scene.faulty().await;
        scene.plant(EXCLUSIVE, FOREIGN, STALE_AFTER + MINUTE);
        faulty.at_next(Operation::Rename, Fault::Delay(Duration::from_secs(10)));
        faulty.at_match(0, Fault::Before(kind), |asked, object| {
            asked == Operation::Rename && object.ends_with("-> locks/exclusive.json")
        });
        let revive = async {
            sleep(Duration::from_secs(5)).await;
            scene.storage.touch(&key(EXCLUSIVE), FOREIGN.as_bytes()).await.unwrap();
        };
        let (taken, ()) = tokio::join!(async { repository.lock_exclusive(&lock_request("a")).await }, revive);
        let [claim] = &scene.names()[..1] else { panic!("no lock is left") };
        match kind {
            StorageErrorKind::Denied => {
                assert_eq!(taken.unwrap_err().kind(), ErrorKind::NotPermitted);
                assert_eq!(scene.body(claim).unwrap(), FOREIGN, "its holder still counts on it");
            }
            // It was gone: the name is free.
            _ => taken.unwrap().release().await.unwrap(),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_dropped_is_not_kept_fresh() {
    let scene = Scene::new().await;
    let (repository, faulty) = scene.faulty().await;
    let touches = || faulty.calls().iter().filter(|(asked, _)| *asked == Operation::Touch).count();
    let held = repository.lock_shared(&lock_request("a")).await.unwrap();
    sleep(2 * MINUTE).await;
    let before = touches();
    assert!(before > 0);
    drop(held);
    sleep(2 * MINUTE).await;
    assert_eq!(touches(), before);
}

#[tokio::test(start_paused = true)]
async fn old_claims_are_swept_and_fresh_ones_are_kept() {
    let scene = Scene::new().await;
    scene.plant("locks/releasing-old.json", FOREIGN, STALE_AFTER + MINUTE);
    scene.plant("locks/releasing-new.json", FOREIGN, MINUTE);
    scene.shared().await.unwrap().release().await.unwrap();
    assert_eq!(scene.names(), ["locks/releasing-new.json"]);
    scene.plant("locks/releasing-old.json", FOREIGN, STALE_AFTER + MINUTE);
    scene.exclusive().await.unwrap().release().await.unwrap();
    assert_eq!(scene.names(), ["locks/releasing-new.json"]);
}

#[tokio::test(start_paused = true)]
async fn a_release_leaves_a_successors_lock_alone() {
    for is_exclusive in [true, false] {
        let scene = Scene::new().await;
        let (repository, faulty) = scene.faulty().await;
        let held = match is_exclusive {
            true => repository.lock_exclusive(&lock_request("a")).await,
            false => repository.lock_shared(&lock_request("a")).await,
        };
        let held = held.unwrap();
        let [name] = &scene.names()[..] else { panic!("one lock: {:?}", scene.names()) };
        scene.plant(name, FOREIGN, MINUTE);
        let before = faulty.calls().len();
        held.release().await.unwrap();
        assert_eq!(scene.body(name).unwrap(), FOREIGN);
        assert_eq!(scene.modified(name).await, scene.start - MINUTE);
        let looks: Vec<Operation> = faulty.calls().into_iter().skip(before).map(|(asked, _)| asked).collect();
        assert_eq!(looks, [Operation::Read], "it was not even claimed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_claims_a_successors_lock_puts_it_back() {
    let scene = Scene::new().await;
    let (repository, faulty) = scene.faulty().await;
    let held = repository.lock_exclusive(&lock_request("a")).await.unwrap();
    // The successor comes between the look and the claim.
    faulty.at_next(Operation::Rename, Fault::Delay(Duration::from_secs(10)));
    let succeed = async {
        sleep(Duration::from_secs(5)).await;
        scene.plant(EXCLUSIVE, FOREIGN, MINUTE);
    };
    let (released, ()) = tokio::join!(held.release(), succeed);
    released.unwrap();
    assert_eq!(scene.names(), [EXCLUSIVE]);
    assert_eq!(scene.body(EXCLUSIVE).unwrap(), FOREIGN);
    assert_eq!(scene.modified(EXCLUSIVE).await, scene.start - MINUTE);
}

#[tokio::test(start_paused = true)]
async fn a_release_without_a_lock_is_none_the_worse_and_an_unreadable_one_stays() {
    let scene = Scene::new().await;
    let held = scene.exclusive().await.unwrap();
    scene.storage.remove(&key(EXCLUSIVE)).await.unwrap();
    held.release().await.unwrap();
    assert!(scene.names().is_empty());

    // Garbage under our name is not provably someone else's, but not ours either.
    let held = scene.exclusive().await.unwrap();
    scene.plant(EXCLUSIVE, "garbage", Duration::ZERO);
    held.release().await.unwrap();
    assert_eq!(scene.body(EXCLUSIVE).unwrap(), "garbage");
    assert_eq!(scene.names(), [EXCLUSIVE]);

    let scene = Scene::new().await;
    let (repository, faulty) = scene.faulty().await;
    let held = repository.lock_exclusive(&lock_request("a")).await.unwrap();
    for _ in 0..2 {
        faulty.at_next(Operation::Read, Fault::Before(StorageErrorKind::Denied));
    }
    assert_eq!(held.release().await.unwrap_err().kind(), ErrorKind::NotPermitted);
    assert_eq!(scene.names(), [EXCLUSIVE]);
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_keeps_a_lock_fresh_for_as_long_as_it_is_held() {
    let scene = Scene::new().await;
    let held = scene.exclusive().await.unwrap();
    let shared_key = {
        scene.plant("locks/shared-z.json", FOREIGN, Duration::ZERO);
        "locks/shared-z.json"
    };
    for _ in 0..3 {
        scene.storage.advance_clock(20 * MINUTE);
        sleep(Duration::from_secs(31)).await;
    }
    assert_locked(scene.exclusive().await, &["held by a"]);
    assert_eq!(scene.modified(EXCLUSIVE).await, scene.start + 60 * MINUTE);
    assert_eq!(scene.modified(shared_key).await, scene.start, "others' locks are not kept alive");
    held.confirm().await.unwrap();
    held.release().await.unwrap();
    scene.storage.put_raw(&key(EXCLUSIVE), FOREIGN, scene.start);
    sleep(10 * MINUTE).await;
    assert_eq!(scene.modified(EXCLUSIVE).await, scene.start, "a released lock has no heartbeat");
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_never_touches_a_foreign_lock_and_stops_for_good() {
    let scene = Scene::new().await;
    let held = scene.exclusive().await.unwrap();
    let ours = scene.body(EXCLUSIVE).unwrap();
    scene.plant(EXCLUSIVE, FOREIGN, MINUTE);
    sleep(2 * MINUTE).await;
    assert_eq!(scene.modified(EXCLUSIVE).await, scene.start - MINUTE);
    assert_eq!(held.confirm().await.unwrap_err().kind(), ErrorKind::Locked);
    // Even if its own lock should lie there again.
    scene.plant(EXCLUSIVE, &ours, MINUTE);
    sleep(2 * MINUTE).await;
    assert_eq!(scene.modified(EXCLUSIVE).await, scene.start - MINUTE);
    assert_eq!(held.confirm().await.unwrap_err().kind(), ErrorKind::Locked);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lock_is_not_confirmed() {
    let scene = Scene::new().await;
    let held = scene.exclusive().await.unwrap();
    held.confirm().await.unwrap();
    scene.storage.remove(&key(EXCLUSIVE)).await.unwrap();
    assert_eq!(held.confirm().await.unwrap_err().kind(), ErrorKind::Locked);
}

#[tokio::test(start_paused = true)]
async fn force_breaks_fresh_locks() {
    let scene = Scene::new().await;
    scene.plant(EXCLUSIVE, FOREIGN, Duration::ZERO);
    scene.plant("locks/shared-1.json", FOREIGN, Duration::ZERO);
    scene.plant("locks/shared-2.json", "garbage", Duration::ZERO);
    let held = scene.repository().await.lock_exclusive(&forced()).await.unwrap();
    assert_eq!(scene.names(), [EXCLUSIVE]);
    assert!(scene.body(EXCLUSIVE).unwrap().contains("\"hostname\":\"forcing\""));
    held.release().await.unwrap();

    scene.plant(EXCLUSIVE, FOREIGN, Duration::ZERO);
    scene.plant("locks/shared-1.json", FOREIGN, Duration::ZERO);
    scene.repository().await.lock_shared(&forced()).await.unwrap().release().await.unwrap();
    assert_eq!(scene.names(), ["locks/shared-1.json"], "the shared side breaks the exclusive lock alone");
}

/// Lets ten tasks race for the exclusive lock; returns how many hold it and can prove it.
async fn race(storage: &Arc<dyn Storage>) -> usize {
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let storage = storage.clone();
            tokio::spawn(async move {
                let repository = Repository::open(storage).await.unwrap();
                repository.lock_exclusive(&lock_request(&format!("host{number}"))).await
            })
        })
        .collect();
    let mut held = vec![];
    for task in tasks {
        match task.await.unwrap() {
            Ok(lock) => held.push(lock),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}"),
        }
    }
    let mut confirmed = 0;
    for lock in &held {
        confirmed += usize::from(lock.confirm().await.is_ok());
    }
    for lock in held {
        lock.release().await.unwrap();
    }
    confirmed
}

#[test]
fn of_ten_that_race_for_the_exclusive_lock_exactly_one_holds_it() {
    runtime().block_on(async {
        let folder = scratch();
        let local = open_local(folder.path()).await;
        let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
        for (storage, rounds) in [(memory, 100), (local, 100)] {
            init::init(storage.as_ref()).await.unwrap();
            for round in 0..rounds {
                assert_eq!(race(&storage).await, 1, "round {round} at {}", storage.location());
            }
        }
    });
}

#[test]
fn of_ten_that_race_for_a_stale_lock_at_most_one_can_prove_that_it_holds_it() {
    runtime().block_on(async {
        for round in 0..100 {
            let memory = MemoryStorage::new();
            init::init(&memory).await.unwrap();
            memory.put_raw(&key(EXCLUSIVE), FOREIGN, SystemTime::now() - 2 * STALE_AFTER);
            assert!(race(&shared(&memory)).await <= 1, "round {round}");
            let left = memory.objects().into_iter().map(|(key, _)| key.to_string());
            let left: Vec<String> = left.filter(|key| key.starts_with("locks/")).collect();
            assert!(left.is_empty(), "round {round}: {left:?}");
        }
    });
}

async fn open_local(root: &Path) -> Arc<dyn Storage> {
    location::folder(root).await.unwrap()
}

/// A repository in a folder.
async fn local_repository(root: &Path) -> Repository {
    let storage = open_local(root).await;
    init::init(storage.as_ref()).await.unwrap();
    Repository::open(storage).await.unwrap()
}

#[test]
fn a_folder_of_locks_that_is_missing_is_made() {
    runtime().block_on(async {
        let folder = scratch();
        let repository = local_repository(folder.path()).await;
        let locks = folder.path().join("locks");
        for shared in [false, true] {
            let _ = std::fs::remove_dir(&locks);
            let lock = match shared {
                true => repository.lock_shared(&lock_request("a")).await.unwrap(),
                false => repository.lock_exclusive(&lock_request("a")).await.unwrap(),
            };
            assert_eq!(files_below(&locks).len(), 1);
            lock.release().await.unwrap();
            assert!(files_below(&locks).is_empty());
        }
    });
}

#[test]
fn a_lock_file_in_a_folder_is_stale_by_its_modification_time() {
    runtime().block_on(async {
        let folder = scratch();
        let repository = local_repository(folder.path()).await;
        std::fs::create_dir_all(folder.path().join("locks")).unwrap();
        let path = folder.path().join(EXCLUSIVE);
        let plant = |modified| {
            std::fs::write(&path, FOREIGN).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        };
        let now = SystemTime::now();
        for fresh in [now, now - STALE_AFTER + MINUTE, now + 100 * STALE_AFTER] {
            plant(fresh);
            assert_locked(repository.lock_exclusive(&lock_request("a")).await, &["held by nas"]);
            assert_locked(repository.lock_shared(&lock_request("a")).await, &["held by nas"]);
        }
        plant(now - STALE_AFTER - MINUTE);
        repository.lock_exclusive(&lock_request("a")).await.unwrap().release().await.unwrap();
        assert!(files_below(&folder.path().join("locks")).is_empty());
    });
}

#[test]
fn a_lock_file_that_is_a_link_is_refused_and_never_followed() {
    runtime().block_on(async {
        for name in ["exclusive.json", "shared-1.json"] {
            let folder = scratch();
            let repository = local_repository(&folder.path().join("repo")).await;
            let secret = folder.path().join("secret");
            std::fs::write(&secret, FOREIGN).unwrap();
            let locks = folder.path().join("repo/locks");
            std::fs::create_dir_all(&locks).unwrap();
            let link = locks.join(name);
            std::os::unix::fs::symlink(&secret, &link).unwrap();
            for request in [lock_request("a"), forced()] {
                let error = repository.lock_exclusive(&request).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
                assert!(error.chain().contains(name), "{error:?}");
            }
            assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
            let names: Vec<_> = std::fs::read_dir(&locks).unwrap().map(|entry| entry.unwrap()).collect();
            assert_eq!(names.len(), 1, "nothing was planted or copied: {names:?}");
            assert_eq!(std::fs::read(&secret).unwrap(), FOREIGN.as_bytes());
        }
    });
}

fn packvault(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
    command.env_clear().env("HOME", home).env("TMPDIR", home).current_dir(home).stdin(Stdio::null());
    command.args(arguments).output().expect("the program can be run")
}

#[test]
fn every_command_that_locks_exits_with_eleven_while_msgvault_works_and_changes_nothing() {
    runtime().block_on(async {
        let archive = Archive::small();
        let folder = scratch();
        let (home, repo) = (archive.home(), folder.path().join("repo"));
        let storage = open_local(&repo).await;
        init::init(storage.as_ref()).await.unwrap();
        capture(storage.clone(), &archive).await.unwrap();
        let home = home.to_str().unwrap();
        std::fs::write(repo.join(EXCLUSIVE), FOREIGN).unwrap();
        let before = files_below(&repo);
        let create: &[&str] = &["create", home, "--repo", "./repo"];
        let commands =
            [create, &["verify", "--repo", "./repo"], &["restore", "--repo", "./repo", "--target", "target"]];
        for arguments in commands {
            let output = packvault(folder.path(), arguments);
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(11), "{arguments:?}: {text}");
            assert!(text.contains("exclusive.json held by nas pid 4711 (create since 2026-11-23T20:37:31Z)"));
            assert!(output.stdout.is_empty());
            assert_same_files(&files_below(&repo), &before, "a refused command changes nothing");
        }
        assert!(!folder.path().join("target").exists());
        let listed = packvault(folder.path(), &["list", "--repo", "./repo"]);
        assert_eq!(listed.status.code(), Some(0), "list takes no lock");
        let output = packvault(folder.path(), &[create, &["--force-unlock"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(files_below(&repo.join("locks")).is_empty());
    });
}

#[test]
fn a_create_that_lost_its_lock_publishes_nothing() {
    runtime().block_on(async {
        let (storage, archive, made) = repository_of(1).await;
        archive.change();
        // Right before the manifest: the lock is someone else's by now.
        let faulty = FaultStorage::new(shared(&storage));
        let stolen = storage.clone();
        faulty.at_match(0, Fault::Delay(Duration::ZERO), move |asked, object| {
            if asked == Operation::Create && object.starts_with("indexes/") {
                stolen.put_raw(&key(EXCLUSIVE), FOREIGN, SystemTime::now());
            }
            false
        });
        let error = capture(Arc::new(faulty), &archive).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
        assert!(error.to_string().contains("was taken over"), "{error}");
        storage.remove(&key(EXCLUSIVE)).await.unwrap();
        let report = assert_sound(shared(&storage), "after a lost lock").await;
        assert_eq!(report.snapshots, 1);
        assert_comes_back(shared(&storage), &made[0], "after a lost lock").await;
        capture_with(shared(&storage), &archive, CreateOptions::default()).await.unwrap();
        assert_eq!(check(shared(&storage), Selection::All, true).await.unwrap().snapshots, 2);
    });
}
