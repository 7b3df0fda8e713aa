//! Tests of other floors believe these wrappers: a fault that does not strike, or strikes elsewhere,
//! makes them pass without having tried anything.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use packvault_storage::record::Counts;
use packvault_storage::{
    ErrorKind, Fault, FaultStorage, Key, MemoryStorage, Operation, Prefix, RecordStorage, Storage,
};

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn faulty() -> (MemoryStorage, FaultStorage) {
    let memory = MemoryStorage::new();
    memory.put_raw(&key("old"), "0123456789", SystemTime::now());
    (memory.clone(), FaultStorage::new(Arc::new(memory)))
}

/// A small operation with every kind of step.
async fn operation(storage: &dyn Storage) -> packvault_storage::Result<()> {
    storage.create(&key("new"), "new".into()).await?;
    let mut staged = storage.stage(&key("pack")).await?;
    staged.write("pieces".into()).await?;
    staged.seal().await?;
    storage.replace(&key("old"), "replaced".into()).await?;
    storage.rename(&key("new"), &key("renamed")).await?;
    storage.list(&Prefix::root()).try_collect::<Vec<_>>().await?;
    storage.read_range(&key("renamed"), 0..1).await?;
    storage.remove(&key("renamed")).await
}

#[tokio::test]
async fn a_stop_at_every_call_leaves_what_was_done_until_then() {
    let (_, whole) = faulty();
    operation(&whole).await.unwrap();
    let calls = whole.calls();
    assert_eq!(calls.len(), 9);
    assert_eq!(calls[5], (Operation::Rename, "new -> renamed".into()));
    for number in 2..=calls.len() as u64 {
        let (before, faults_before) = faulty();
        faults_before.at_call(number, Fault::StopBefore);
        let (after, faults_after) = faulty();
        faults_after.at_call(number - 1, Fault::StopAfter);
        for faults in [faults_before, faults_after] {
            operation(&faults).await.unwrap_err();
            assert!(faults.is_stopped());
            faults.read(&key("old")).await.unwrap_err();
        }
        assert_eq!(before.objects(), after.objects(), "stopped between {} and {number}", number - 1);
    }
}

#[tokio::test]
async fn a_stopped_process_leaves_its_upload_for_the_sweep() {
    for (fault, left) in [(Fault::StopBefore, 1), (Fault::Before(ErrorKind::Io), 0)] {
        let (memory, faults) = faulty();
        let mut staged = faults.stage(&key("pack")).await.unwrap();
        staged.write("pieces".into()).await.unwrap();
        faults.at_next(Operation::Seal, fault);
        staged.seal().await.unwrap_err();
        assert_eq!(memory.unfinished_uploads(), left);
        assert_eq!(memory.sweep(Duration::ZERO).await.unwrap().removed, left as u64);
    }
}

#[tokio::test]
async fn before_and_after_differ_in_what_was_done() {
    let (memory, faults) = faulty();
    faults.at_next(Operation::Create, Fault::Before(ErrorKind::Full));
    assert_eq!(faults.create(&key("a"), "a".into()).await.unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(memory.objects().len(), 1);
    faults.at_next(Operation::Create, Fault::After(ErrorKind::Timeout));
    assert_eq!(faults.create(&key("a"), "a".into()).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(memory.objects().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn reads_can_be_cut_flipped_delayed_and_held() {
    let (_, faults) = faulty();
    faults.at_next(Operation::Read, Fault::Truncate);
    assert_eq!(faults.read(&key("old")).await.unwrap(), "01234");
    faults.at_next(Operation::Read, Fault::Flip);
    assert_eq!(faults.read(&key("old")).await.unwrap(), "0123446789");
    faults.at_match(1, Fault::Before(ErrorKind::NotFound), |_, object| object == "old");
    assert_eq!(faults.read(&key("old")).await.unwrap(), "0123456789");
    assert_eq!(faults.read(&key("old")).await.unwrap_err().kind(), ErrorKind::NotFound);
    faults.at_next(Operation::Read, Fault::Delay(Duration::from_secs(9)));
    let begun = tokio::time::Instant::now();
    faults.read(&key("old")).await.unwrap();
    assert_eq!(begun.elapsed().as_secs(), 9);
    faults.at_next(Operation::Read, Fault::Hang);
    let hung = tokio::time::timeout(Duration::from_secs(60), faults.read(&key("old"))).await;
    assert!(hung.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_storage_falls_silent_at_one_call_or_from_one_on() {
    let (_, faults) = faulty();
    let silence = Fault::Silence(Duration::from_secs(60));
    faults.from_call(3, silence);
    faults.at_call(1, silence);
    let begun = tokio::time::Instant::now();
    assert_eq!(faults.read(&key("old")).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(begun.elapsed().as_secs(), 60);
    faults.read(&key("old")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(faults.read(&key("old")).await.unwrap_err().kind(), ErrorKind::Timeout);
    }
    let mut listing = faults.list(&Prefix::root());
    assert_eq!(listing.try_next().await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(begun.elapsed().as_secs(), 240);
}

#[tokio::test]
async fn a_record_tells_every_call_and_sums_the_bytes() {
    let (memory, _) = faulty();
    let record = RecordStorage::new(Arc::new(memory.clone()));
    operation(&record).await.unwrap();
    record.read(&key("no")).await.unwrap_err();
    let operations: Vec<_> = record.calls().iter().map(|call| call.operation).collect();
    use Operation::*;
    assert_eq!(operations, [Create, Stage, Write, Seal, Replace, Rename, List, Read, Remove, Read]);
    assert_eq!(record.count_of(Read), 2);
    assert_eq!(record.take_calls()[9].failure, Some(ErrorKind::NotFound));
    let counts = Counts { calls: 10, failures: 1, bytes_read: 1, bytes_written: 3 + 6 + 8 };
    assert_eq!(record.counts(), counts);
    let counting = RecordStorage::counting(Arc::new(memory));
    counting.read(&key("old")).await.unwrap();
    assert!(counting.calls().is_empty());
    assert_eq!(counting.counts().bytes_read, 8);
}

#[tokio::test]
async fn the_memory_clock_can_be_stopped_and_moved() {
    let memory = MemoryStorage::new();
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    memory.set_clock(start);
    memory.create(&key("lock"), "bytes".into()).await.unwrap();
    memory.advance_clock(Duration::from_secs(1800));
    assert_eq!(memory.now().await.unwrap(), start + Duration::from_secs(1800));
    assert_eq!(memory.stat(&key("lock")).await.unwrap().modified, start);
    memory.touch(&key("lock"), b"bytes").await.unwrap();
    assert_eq!(memory.stat(&key("lock")).await.unwrap().modified, start + Duration::from_secs(1800));
}
