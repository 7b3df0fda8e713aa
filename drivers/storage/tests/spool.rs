//! Between a capture and a slow line lies the spool. A broken upload that cannot begin anew loses a backup; a
//! spool without a bound fills the disk; a writer that waits for the line keeps a database pinned.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use packvault_storage::{
    Error, ErrorKind, Fault, FaultStorage, Key, MemoryStorage, Operation, RetryPolicy, RetryStorage,
    RetryWatch, Spool, Storage,
};
use tokio::sync::Notify;
use tokio::time::Instant;

const MIB: usize = 1 << 20;

struct Bench {
    memory: MemoryStorage,
    faults: FaultStorage,
    storage: RetryStorage,
    folder: tempfile::TempDir,
}

fn bench(bytes_max: u64, uploads_max: usize) -> Bench {
    let memory = MemoryStorage::new();
    let faults = FaultStorage::new(Arc::new(memory.clone()));
    let folder = tempfile::tempdir().unwrap();
    let spool = Arc::new(Spool::new(folder.path().join("made/when/needed"), bytes_max, uploads_max));
    let storage = RetryStorage::new(Arc::new(faults.clone()), RetryPolicy::default()).through(spool);
    Bench { memory, faults, storage, folder }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// Bytes that differ at every place from those of another seed.
fn pattern(seed: u8, len: usize) -> Bytes {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] ^ seed).collect()
}

async fn stage(storage: &RetryStorage, name: &str, bytes: &Bytes) -> packvault_storage::Result<()> {
    let mut staged = storage.stage(&key(name)).await?;
    for piece in bytes.chunks(300_001) {
        staged.write(Bytes::copy_from_slice(piece)).await?;
    }
    staged.seal().await
}

#[tokio::test(start_paused = true)]
async fn a_broken_upload_begins_anew_and_is_whole() {
    let bytes = pattern(1, 5 * MIB + 17);
    for broken in [Operation::Stage, Operation::Write, Operation::Seal] {
        for kind in [ErrorKind::Timeout, ErrorKind::Connection, ErrorKind::Throttled, ErrorKind::Conflict] {
            let bench = bench(u64::MAX, 2);
            bench.faults.at_next(broken, Fault::Before(kind));
            stage(&bench.storage, "pack", &bytes).await.unwrap();
            assert_eq!(bench.memory.read(&key("pack")).await.unwrap(), bytes, "{broken:?} {kind:?}");
            assert_eq!(bench.memory.unfinished_uploads(), 0, "{broken:?} {kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_seal_whose_answer_was_lost_is_not_sent_again() {
    let bench = bench(u64::MAX, 2);
    bench.faults.at_next(Operation::Seal, Fault::After(ErrorKind::Connection));
    stage(&bench.storage, "pack", &pattern(1, 3 * MIB)).await.unwrap();
    let seals = bench.faults.calls().iter().filter(|(asked, _)| *asked == Operation::Seal).count();
    assert_eq!(seals, 1);
}

#[tokio::test(start_paused = true)]
async fn other_bytes_under_the_key_are_a_conflict() {
    for fault in [None, Some(Fault::Before(ErrorKind::Timeout))] {
        let bench = bench(u64::MAX, 2);
        bench.memory.create(&key("pack"), pattern(2, 3 * MIB)).await.unwrap();
        if let Some(fault) = fault {
            bench.faults.at_next(Operation::Seal, fault);
        }
        let error = stage(&bench.storage, "pack", &pattern(1, 3 * MIB)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(bench.memory.read(&key("pack")).await.unwrap(), pattern(2, 3 * MIB));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_ends_the_upload_and_leaves_nothing() {
    let bench = bench(u64::MAX, 2);
    bench.faults.at_next(Operation::Write, Fault::Before(ErrorKind::Full));
    let error = stage(&bench.storage, "pack", &pattern(1, 3 * MIB)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!((bench.memory.objects().len(), bench.memory.unfinished_uploads()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_small_object_never_meets_the_disk() {
    let bench = bench(u64::MAX, 2);
    stage(&bench.storage, "pack", &pattern(1, 1000)).await.unwrap();
    assert!(!bench.folder.path().join("made").exists());
    stage(&bench.storage, "large", &pattern(1, 2 * MIB)).await.unwrap();
    let spool = bench.folder.path().join("made/when/needed");
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 0, "files in the spool have no name");
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_while_the_spool_is_full_and_goes_on_when_an_upload_has_left() {
    let bench = bench(4 * MIB as u64, 1);
    bench.faults.at_next(Operation::Seal, Fault::Delay(Duration::from_secs(1000)));
    let first = tokio::spawn({
        let storage = bench.storage.clone();
        async move { stage(&storage, "one", &pattern(1, 3 * MIB)).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let written = Arc::new(AtomicU32::new(0));
    let second = tokio::spawn({
        let (storage, written) = (bench.storage.clone(), Arc::clone(&written));
        async move {
            let mut staged = storage.stage(&key("two")).await?;
            for _ in 0..3 {
                staged.write(pattern(2, MIB)).await?;
                written.fetch_add(1, Ordering::SeqCst);
            }
            staged.seal().await
        }
    });
    tokio::time::sleep(Duration::from_secs(900)).await;
    assert_eq!(written.load(Ordering::SeqCst), 1, "the second object waits for room");
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(bench.memory.objects().len(), 2);
}

#[tokio::test]
async fn one_object_larger_than_the_spool_is_admitted() {
    let bench = bench(MIB as u64, 1);
    stage(&bench.storage, "pack", &pattern(1, 8 * MIB)).await.unwrap();
    assert_eq!(bench.memory.read(&key("pack")).await.unwrap().len(), 8 * MIB);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let spool = Arc::new(Spool::new(file.path(), u64::MAX, 1));
    let storage = RetryStorage::new(Arc::new(MemoryStorage::new()), RetryPolicy::default()).through(spool);
    let error = stage(&storage, "pack", &pattern(1, 2 * MIB)).await.unwrap_err();
    assert!(error.to_string().contains(&file.path().display().to_string()), "{error}");
}

#[derive(Debug, Default)]
struct Stopper {
    told: AtomicU32,
    stopped: AtomicBool,
    stop: Notify,
}

impl RetryWatch for Stopper {
    fn retrying(&self, _: &Error, attempt: u32, _: Duration) {
        self.told.store(attempt, Ordering::SeqCst);
        if attempt == 3 {
            self.stopped.store(true, Ordering::SeqCst);
            self.stop.notify_waiters();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn stopped(&self) -> BoxFuture<'_, ()> {
        let notified = self.stop.notified();
        Box::pin(async move {
            if !self.is_stopped() {
                notified.await;
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_retries_and_lets_last_words_through() {
    let bench = bench(u64::MAX, 1);
    let watch = Arc::new(Stopper::default());
    let storage = bench.storage.clone().watched_by(watch.clone());
    for number in 1..=5 {
        bench.faults.at_call(number, Fault::Before(ErrorKind::Connection));
    }
    let error = storage.read(&key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(watch.told.load(Ordering::SeqCst), 3);
    assert_eq!(storage.read(&key("a")).await.unwrap_err().kind(), ErrorKind::Connection, "once, and no more");
    assert_eq!(bench.faults.call_count(), 4);
    storage.read(&key("a")).await.unwrap_err();
    storage.create(&key("a"), "last words".into()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_store_that_hangs() {
    for hanging in [Operation::Stage, Operation::Seal] {
        let bench = bench(u64::MAX, 1);
        let watch = Arc::new(Stopper::default());
        let storage = bench.storage.clone().watched_by(watch.clone());
        bench.faults.at_next(hanging, Fault::Hang);
        let sealing = tokio::spawn(async move { stage(&storage, "pack", &pattern(1, 2 * MIB)).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        watch.stopped.store(true, Ordering::SeqCst);
        watch.stop.notify_waiters();
        let stopped = tokio::time::timeout(Duration::from_secs(1), sealing).await;
        assert_eq!(stopped.unwrap().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_stop_a_store_that_says_nothing_is_asked_no_more() {
    let bench = bench(u64::MAX, 1);
    let watch = Arc::new(Stopper::default());
    let storage = bench.storage.clone().watched_by(watch.clone());
    watch.stopped.store(true, Ordering::SeqCst);
    bench.faults.at_next(Operation::Read, Fault::Hang);
    for _ in 0..3 {
        assert_eq!(storage.clone().read(&key("a")).await.unwrap_err().kind(), ErrorKind::Interrupted);
    }
    assert_eq!(bench.faults.call_count(), 1);
}

/// Stops the program over a store that answers in `pace` and then says nothing in the middle of a write;
/// returns how long the write, and a step that cleans up after it, went on.
async fn time_to_stop(pace: Duration) -> Duration {
    let bench = bench(u64::MAX, 1);
    let watch = Arc::new(Stopper::default());
    let storage = bench.storage.clone().watched_by(watch.clone());
    storage.create(&key("lock"), "held".into()).await.unwrap();
    for _ in 0..40 {
        bench.faults.at_next(Operation::Read, Fault::Delay(pace));
        storage.read(&key("lock")).await.unwrap();
    }
    bench.faults.at_next(Operation::Replace, Fault::Hang);
    bench.faults.at_next(Operation::Remove, Fault::Hang);
    let working = tokio::spawn(async move {
        let written = storage.replace(&key("a"), "bytes".into()).await;
        let cleaned = storage.remove(&key("lock")).await;
        [written, cleaned].map(|step| step.unwrap_err().kind())
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    watch.stopped.store(true, Ordering::SeqCst);
    watch.stop.notify_waiters();
    let stopped = Instant::now();
    assert_eq!(working.await.unwrap(), [ErrorKind::Interrupted; 2]);
    stopped.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_within_a_second_where_the_store_was_quick_and_hears_a_slow_one_out() {
    for pace in [0, 1, 10, 50, 120] {
        let ended = time_to_stop(Duration::from_millis(pace)).await;
        assert!(ended < Duration::from_secs(1), "{pace} ms: {ended:?}");
    }
    let ended = time_to_stop(Duration::from_millis(800)).await;
    assert!(ended > Duration::from_secs(3) && ended < Duration::from_secs(6), "{ended:?}");
    let ended = time_to_stop(Duration::from_secs(60)).await;
    assert!(ended > Duration::from_secs(5) && ended < Duration::from_secs(6), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn without_a_spool_a_stop_does_not_wait_for_a_store_that_hangs_either() {
    for hanging in [Operation::Write, Operation::Discard] {
        let bench = bench(u64::MAX, 1);
        let watch = Arc::new(Stopper::default());
        let unspooled = RetryStorage::new(Arc::new(bench.faults.clone()), RetryPolicy::default());
        let storage = unspooled.watched_by(watch.clone());
        bench.faults.at_next(hanging, Fault::Hang);
        let writing = tokio::spawn(async move {
            let mut staged = storage.stage(&key("pack")).await?;
            staged.write("bytes".into()).await?;
            staged.discard().await
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        watch.stopped.store(true, Ordering::SeqCst);
        watch.stop.notify_waiters();
        let stopped = tokio::time::timeout(Duration::from_secs(1), writing).await;
        assert_eq!(stopped.unwrap().unwrap().unwrap_err().kind(), ErrorKind::Interrupted, "{hanging:?}");
    }
}
