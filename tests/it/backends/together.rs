//! Several at once on each backend: two programs that create, ten clients that race for the lock.

use std::process::{Child, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use packvault::location::Purpose;
use packvault::progress::Silent;
use packvault::repo::Repository;
use packvault::repo::locks::LockRequest;
use packvault::{Cancel, ErrorKind, Location};
use tokio::sync::Barrier;

use crate::support::backends::{Backend, Place};
use crate::support::memory_repo::*;
use crate::support::operations::block_on;
use crate::support::stderr;

/// How many want the lock in each round.
const RACERS: usize = 10;

/// How many rounds there are, unless the environment says otherwise.
const ROUNDS: u32 = 10;
const ROUNDS_VARIABLE: &str = "PACKVAULT_RACE_ROUNDS";

/// How often a server is asked while somebody cleans up.
const PROBES: usize = 4;

/// How long a winner stays, to be met by others.
const STAY: Duration = Duration::from_millis(20);

pub fn two_creates_at_once_end_in_two_good_snapshots(place: &Place) {
    place.json(&["init"]);
    let clients = [place.again(), place.again()];
    let archives = [Archive::small(), Archive::small()];
    archives[1].change();
    let mut made = Vec::new();
    for order in [[0, 1], [1, 0]] {
        let started = order.map(|who| (who, start(&clients[who], &archives[who])));
        let ended = started.map(|(who, child)| (who, child.wait_with_output().unwrap()));
        let codes = ended.each_ref().map(|(_, output)| output.status.code().unwrap());
        assert!(codes.contains(&0), "one gets through: {codes:?}");
        for (who, output) in ended {
            let output = once_more_if_locked(&clients[who], &archives[who], output);
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            let id = report["id"].as_str().unwrap().to_owned();
            made.push(Made { id, files: archives[who].expected() });
        }
    }
    let report = block_on(assert_sound(place.storage(), "two at once"));
    assert_eq!(report.snapshots, 4);
    for made in &made {
        block_on(assert_comes_back(place.storage(), made, "two at once"));
    }
    place.raw().assert_no_remains();
}

fn start(client: &Place, archive: &Archive) -> Child {
    let home = archive.home();
    let mut command = client.packvault(&["create", home.to_str().unwrap(), "--adopt", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Checks that who did not get the lock says so, and lets it try again alone.
fn once_more_if_locked(client: &Place, archive: &Archive, output: Output) -> Output {
    let output = match output.status.code() {
        Some(11) => {
            let said = stderr(&output);
            assert!(said.contains("the repository is locked: exclusive"), "{said}");
            assert!(said.contains("hint: wait until the other process is done"), "{said}");
            start(client, archive).wait_with_output().unwrap()
        }
        _ => output,
    };
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    output
}

pub fn of_ten_that_race_for_the_lock_one_has_it(place: &Place) {
    block_on(packvault::engine::init::init(place.storage().as_ref())).unwrap();
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |text| text.parse().unwrap());
    let opening = place.opening(Purpose::Work);
    let over_one_connection = |location: &mut Location| {
        if let Location::Sftp(located) = location {
            located.options.connections_max = Some(1);
        }
    };
    let open = || {
        let storage = place.open_with(&opening, over_one_connection).unwrap();
        block_on(Repository::open(storage)).unwrap()
    };
    let racers: Vec<Repository> = (0..RACERS).map(|_| open()).collect();
    let (inside, won) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    for round in 0..rounds {
        let before = won.load(Ordering::SeqCst);
        let barrier = Arc::new(Barrier::new(RACERS));
        let racing = racers.iter().map(|repository| {
            let (repository, barrier) = (repository.clone(), Arc::clone(&barrier));
            let (inside, won) = (Arc::clone(&inside), Arc::clone(&won));
            async move {
                barrier.wait().await;
                race(&repository, &inside, &won).await;
            }
        });
        let tasks: Vec<_> = block_on(async { racing.map(tokio::spawn).collect() });
        for task in tasks {
            block_on(task).unwrap();
        }
        assert!(won.load(Ordering::SeqCst) > before, "nobody got through in round {round}");
    }
    println!(
        "{:?}: {RACERS} raced {rounds} times, {} held the lock",
        place.backend,
        won.load(Ordering::SeqCst)
    );
    place.raw().assert_no_remains();
}

/// Holds the lock for a while, if it can be had, and sees that nobody else does.
async fn race(repository: &Repository, inside: &AtomicU32, won: &AtomicU32) {
    let request = LockRequest {
        operation: "create",
        hostname: "racer".to_owned(),
        process: packvault::process::Identity::of_this_process(),
        force: false,
        progress: Arc::new(Silent),
        cancel: Cancel::new(),
    };
    let lock = match repository.lock_exclusive(&request).await {
        Ok(lock) => lock,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
            return;
        }
    };
    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two hold the lock");
    tokio::time::sleep(STAY).await;
    lock.confirm().await.unwrap();
    assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
    won.fetch_add(1, Ordering::SeqCst);
    lock.release().await.unwrap();
}

/// Asks a server what it promises while somebody else cleans up. Whoever heard wrong answers would keep to
/// another protocol of locks than all others.
fn ask_beside_sweeps(backend: Backend) {
    let Some(place) = Place::fresh(backend) else { return };
    let (location, opening) = (place.located(), place.opening(Purpose::Look));
    let undisturbed = block_on(location.probe(&opening)).unwrap().guarantees;
    let is_over = Arc::new(AtomicBool::new(false));
    let (storage, over) = (place.storage(), Arc::clone(&is_over));
    let sweeping = std::thread::spawn(move || {
        while !over.load(Ordering::SeqCst) {
            block_on(storage.sweep(Duration::ZERO)).unwrap();
        }
    });
    let asked: Vec<_> = (0..PROBES).map(|_| block_on(location.probe(&opening))).collect();
    is_over.store(true, Ordering::SeqCst);
    sweeping.join().unwrap();
    for probed in asked {
        assert_eq!(probed.unwrap().guarantees, undisturbed);
    }
    place.raw().assert_no_remains();
}

#[test]
fn a_sweep_beside_a_probe_changes_no_answer_of_openssh() {
    ask_beside_sweeps(Backend::Openssh);
}

#[test]
fn a_sweep_beside_a_probe_changes_no_answer_of_a_plain_nas() {
    ask_beside_sweeps(Backend::PlainProftpd);
}
