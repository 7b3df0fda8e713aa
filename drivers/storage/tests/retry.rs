//! A lost answer is the danger: the step may have happened. Trying again blindly loses a lock or reports
//! a finished upload as a conflict; believing what lies there blindly takes another writer's bytes for ours.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use packvault_storage::{
    ErrorKind, Fault, FaultStorage, Key, MemoryStorage, Operation, Prefix, RetryPolicy, RetryStorage, Storage,
};
use tokio::time::Instant;

const UNCERTAIN: [ErrorKind; 3] = [ErrorKind::Timeout, ErrorKind::Connection, ErrorKind::Conflict];

struct Bench {
    memory: MemoryStorage,
    faults: FaultStorage,
    storage: RetryStorage,
}

fn bench() -> Bench {
    let memory = MemoryStorage::new();
    let faults = FaultStorage::new(Arc::new(memory.clone()));
    let storage = RetryStorage::new(Arc::new(faults.clone()), RetryPolicy::default());
    Bench { memory, faults, storage }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn kind<T: std::fmt::Debug>(result: packvault_storage::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn what_may_pass_is_tried_again_and_nothing_else() {
    let bench = bench();
    bench.storage.create(&key("a"), "bytes".into()).await.unwrap();
    for passing in [ErrorKind::Timeout, ErrorKind::Connection, ErrorKind::Throttled, ErrorKind::Conflict] {
        bench.faults.at_next(Operation::Read, Fault::Before(passing));
        assert_eq!(bench.storage.read(&key("a")).await.unwrap(), "bytes");
    }
    for lasting in [ErrorKind::NotFound, ErrorKind::Denied, ErrorKind::Short, ErrorKind::Io, ErrorKind::Full]
    {
        let calls_before = bench.faults.call_count();
        bench.faults.at_next(Operation::Read, Fault::Before(lasting));
        assert_eq!(kind(bench.storage.read(&key("a")).await), lasting);
        assert_eq!(bench.faults.call_count() - calls_before, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn attempts_are_bounded_in_number_and_in_time() {
    let policy = RetryPolicy::default();
    for (pause_first, calls) in [(Duration::from_millis(1), 8), (Duration::from_secs(3600), 1)] {
        let bench = bench();
        let policy = RetryPolicy { pause_first, pause_max: pause_first, ..policy };
        let storage = RetryStorage::new(Arc::new(bench.faults.clone()), policy);
        for number in 1..100 {
            bench.faults.at_call(number, Fault::Before(ErrorKind::Throttled));
        }
        let begun = Instant::now();
        assert_eq!(kind(storage.read(&key("a")).await), ErrorKind::Throttled);
        assert_eq!(bench.faults.call_count(), calls);
        assert!(begun.elapsed() <= policy.total_max);
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_finds_its_own_bytes() {
    for uncertain in UNCERTAIN {
        let bench = bench();
        bench.faults.at_next(Operation::Create, Fault::After(uncertain));
        bench.storage.create(&key("a"), "ours".into()).await.unwrap();
        let creates = bench.faults.calls().iter().filter(|(asked, _)| *asked == Operation::Create).count();
        assert_eq!(creates, 1, "what is there need not be created again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_that_never_happened_is_tried_again() {
    for passing in UNCERTAIN.into_iter().chain([ErrorKind::Throttled]) {
        let bench = bench();
        bench.faults.at_next(Operation::Create, Fault::Before(passing));
        bench.storage.create(&key("a"), "ours".into()).await.unwrap();
        assert_eq!(bench.memory.read(&key("a")).await.unwrap(), "ours");
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_uncertain_create_other_bytes_mean_taken() {
    for theirs in ["them", "longer than ours"] {
        let bench = bench();
        bench.memory.put_raw(&key("a"), theirs, SystemTime::now());
        bench.faults.at_next(Operation::Create, Fault::Before(ErrorKind::Timeout));
        let result = bench.storage.create(&key("a"), "ours".into()).await;
        assert_eq!(kind(result), ErrorKind::AlreadyExists);
        assert_eq!(bench.memory.read(&key("a")).await.unwrap(), theirs);
    }
}

/// Two holders of one lock would be the price of looking where nothing is in doubt.
#[tokio::test(start_paused = true)]
async fn a_certain_refusal_stands_even_over_the_same_bytes() {
    let bench = bench();
    bench.memory.put_raw(&key("a"), "same", SystemTime::now());
    assert_eq!(kind(bench.storage.create(&key("a"), "same".into()).await), ErrorKind::AlreadyExists);
    bench.faults.at_next(Operation::Create, Fault::Before(ErrorKind::Throttled));
    assert_eq!(kind(bench.storage.create(&key("a"), "same".into()).await), ErrorKind::AlreadyExists);
}

/// The first attempt arrives late: after the look, before the second attempt.
#[tokio::test(start_paused = true)]
async fn a_retried_create_that_finds_the_key_taken_by_itself_is_done() {
    let bench = bench();
    bench.faults.at_next(Operation::Create, Fault::After(ErrorKind::Timeout));
    bench.faults.at_next(Operation::Stat, Fault::Before(ErrorKind::NotFound));
    bench.storage.create(&key("a"), "ours".into()).await.unwrap();
    let creates = bench.faults.calls().iter().filter(|(asked, _)| *asked == Operation::Create).count();
    assert_eq!(creates, 2);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_fails_says_that_nothing_is_known() {
    let bench = bench();
    bench.faults.at_next(Operation::Create, Fault::After(ErrorKind::Timeout));
    bench.faults.at_next(Operation::Stat, Fault::Before(ErrorKind::Denied));
    let error = bench.storage.create(&key("a"), "ours".into()).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Denied, Operation::Create));
    assert!(error.to_string().contains("cannot be told"), "{error}");
}

async fn stage(storage: &RetryStorage, bytes: &Bytes) -> packvault_storage::Result<()> {
    let mut staged = storage.stage(&key("pack")).await?;
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        staged.write(rest.split_to(rest.len().min(1 << 20))).await?;
    }
    staged.seal().await
}

#[tokio::test(start_paused = true)]
async fn a_seal_whose_answer_was_lost_finds_its_own_bytes() {
    let bytes: Bytes = (0..9_000_000u32).map(|number| number as u8).collect::<Vec<_>>().into();
    for uncertain in UNCERTAIN {
        let bench = bench();
        bench.faults.at_next(Operation::Seal, Fault::After(uncertain));
        stage(&bench.storage, &bytes).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_seal_is_looked_for_until_it_arrives() {
    let bench = bench();
    bench.faults.at_next(Operation::Seal, Fault::After(ErrorKind::Timeout));
    for _ in 0..3 {
        bench.faults.at_next(Operation::Stat, Fault::Before(ErrorKind::NotFound));
    }
    stage(&bench.storage, &"ours".into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_an_uncertain_seal_other_bytes_mean_taken_and_nothing_means_failed() {
    let bytes: Bytes = vec![7; 5 << 20].into();
    let mut theirs = bytes.to_vec();
    theirs[4_999_999] ^= 1;
    let bench_taken = bench();
    bench_taken.memory.put_raw(&key("pack"), theirs, SystemTime::now());
    bench_taken.faults.at_next(Operation::Seal, Fault::Before(ErrorKind::Conflict));
    assert_eq!(kind(stage(&bench_taken.storage, &bytes).await), ErrorKind::AlreadyExists);

    let bench_lost = bench();
    bench_lost.faults.at_next(Operation::Seal, Fault::Before(ErrorKind::Connection));
    assert_eq!(kind(stage(&bench_lost.storage, &bytes).await), ErrorKind::Connection);
}

#[tokio::test(start_paused = true)]
async fn a_certain_refusal_of_a_seal_stands_even_over_the_same_bytes() {
    let bench = bench();
    bench.memory.put_raw(&key("pack"), "same", SystemTime::now());
    assert_eq!(kind(stage(&bench.storage, &"same".into()).await), ErrorKind::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn a_remove_whose_answer_was_lost_is_done() {
    let bench = bench();
    bench.memory.put_raw(&key("a"), "bytes", SystemTime::now());
    bench.faults.at_next(Operation::Remove, Fault::After(ErrorKind::Timeout));
    bench.storage.remove(&key("a")).await.unwrap();
    assert_eq!(kind(bench.storage.remove(&key("a")).await), ErrorKind::NotFound);
    bench.faults.at_next(Operation::Remove, Fault::Before(ErrorKind::Throttled));
    assert_eq!(kind(bench.storage.remove(&key("a")).await), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_rename_with_an_uncertain_answer_is_settled_by_a_look() {
    let (from, to) = (key("from"), key("to"));
    for fault in [Fault::After(ErrorKind::Timeout), Fault::Before(ErrorKind::Connection)] {
        let bench = bench();
        bench.memory.put_raw(&from, "bytes", SystemTime::now());
        bench.faults.at_next(Operation::Rename, fault);
        bench.storage.rename(&from, &to).await.unwrap();
        assert_eq!(bench.memory.objects(), [(to.clone(), Bytes::from("bytes"))]);
    }
    let bench = bench();
    bench.faults.at_next(Operation::Rename, Fault::Before(ErrorKind::Timeout));
    assert_eq!(kind(bench.storage.rename(&from, &to).await), ErrorKind::NotFound);
    bench.memory.put_raw(&from, "bytes", SystemTime::now());
    bench.memory.put_raw(&to, "theirs", SystemTime::now());
    bench.faults.at_next(Operation::Rename, Fault::Before(ErrorKind::Timeout));
    assert_eq!(kind(bench.storage.rename(&from, &to).await), ErrorKind::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_broke_shows_every_object_once() {
    let bench = bench();
    for number in 0..50 {
        bench.memory.put_raw(&key(&format!("many/{number}")), "bytes", SystemTime::now());
    }
    bench.faults.at_next(Operation::List, Fault::After(ErrorKind::Connection));
    bench.faults.at_next(Operation::List, Fault::Before(ErrorKind::Throttled));
    let objects: Vec<_> = bench.storage.list(&Prefix::root()).try_collect().await.unwrap();
    assert_eq!(objects.len(), 50);
    bench.faults.at_next(Operation::List, Fault::After(ErrorKind::Denied));
    let error = bench.storage.list(&Prefix::root()).try_collect::<Vec<_>>().await;
    assert_eq!(kind(error), ErrorKind::Denied);
}

#[tokio::test(start_paused = true)]
async fn of_a_batch_those_that_may_pass_are_tried_again_and_the_rest_is_told() {
    let bench = bench();
    let keys: Vec<Key> = ["a", "b", "c", "d"].map(key).to_vec();
    for key in &keys {
        bench.memory.create(key, "bytes".into()).await.unwrap();
    }
    bench.faults.at_call(1, Fault::Before(ErrorKind::Throttled));
    bench.faults.at_call(2, Fault::Before(ErrorKind::Denied));
    bench.faults.at_call(3, Fault::After(ErrorKind::Timeout));
    let left = bench.storage.remove_all(&keys).await.unwrap();
    let left: Vec<_> = left.iter().map(|one| (one.key.as_str(), one.error.kind())).collect();
    assert_eq!(left, [("b", ErrorKind::Denied)]);
    // Four, and then the two that nobody knew of.
    assert_eq!(bench.faults.call_count(), 6);
    assert_eq!(bench.memory.objects().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_never_passes_ends_and_tells_every_object() {
    let bench = bench();
    let keys: Vec<Key> = ["a", "b", "c"].map(key).to_vec();
    for key in &keys {
        bench.memory.create(key, "bytes".into()).await.unwrap();
    }
    for number in 1..100 {
        bench.faults.at_call(number, Fault::Before(ErrorKind::Connection));
    }
    let left = bench.storage.remove_all(&keys).await.unwrap();
    let mut names: Vec<_> = left.iter().map(|one| one.key.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(left.iter().all(|one| one.error.kind() == ErrorKind::Connection));
    assert_eq!(bench.faults.call_count(), 3 * u64::from(RetryPolicy::default().attempts_max));
}
