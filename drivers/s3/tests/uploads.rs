//! Uploads in parts and the probe, against a store of the tests' own: nothing is left behind, whichever
//! step fails, and a store that looks first and writes then is found out.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use packvault_s3::{Checksum, Condition, IfMatch, PROBE_REQUESTS_ABOUT, S3Storage};
use packvault_storage::{ErrorKind, Key, Storage, Wire};

use fake::store::{Store, serve};
use fake::{Fake, Reply, refuse, say};

fn key() -> Key {
    Key::parse("packs/large").unwrap()
}

/// Three parts, the last of which is not full.
fn large() -> Bytes {
    (0..(20_u32 << 20) + 5).map(|number| (number % 251) as u8).collect()
}

fn in_parts(fake: &Fake) -> S3Storage {
    let mut config = fake.config();
    config.one_put_bytes_max = 1 << 20;
    config.timeouts.idle = Duration::from_secs(5);
    S3Storage::open(config, None, Arc::default()).unwrap()
}

async fn upload(storage: &S3Storage) -> packvault_storage::Result<()> {
    let mut staged = storage.stage(&key()).await?;
    let mut rest = large();
    while !rest.is_empty() {
        staged.write(rest.split_to(rest.len().min(777_777))).await?;
    }
    staged.seal().await
}

async fn wait_until_aborted(store: &Store) {
    for _ in 0..500 {
        if store.uploads() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} uploads are left", store.uploads());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_failed_is_sent_again_and_the_completion_is_conditional() {
    let (store, failures) = (Arc::new(Store::default()), AtomicUsize::new(2));
    let fake = serve(Arc::clone(&store), move |asked, _| {
        let is_failing = asked.is("PUT", "partNumber=2")
            && failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        is_failing.then(|| Reply::Cut(Vec::new()))
    })
    .await;
    upload(&in_parts(&fake)).await.unwrap();
    assert_eq!(store.get("packs/large").unwrap(), large());
    assert_eq!(fake.count("PUT", "partNumber=2"), 3);
    let asked = fake.asked.lock().unwrap();
    let completion = asked.iter().find(|asked| asked.is("POST", "uploadId=")).unwrap();
    assert_eq!(completion.header("if-none-match"), Some("*"));
}

#[tokio::test(flavor = "multi_thread")]
async fn create_of_a_large_object_goes_in_parts_too() {
    let store = Arc::new(Store::default());
    let fake = serve(Arc::clone(&store), |_, _| None).await;
    let storage = in_parts(&fake);
    storage.create(&key(), large()).await.unwrap();
    assert_eq!(store.get("packs/large").unwrap(), large());
    assert_eq!(storage.create(&key(), large()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(store.uploads(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_for_good_is_aborted() {
    for (part, code) in [("partNumber=2", "AccessDenied"), ("uploadId=upload-0", "AccessDenied")] {
        let store = Arc::new(Store::default());
        let fake = serve(Arc::clone(&store), move |asked, _| {
            let is_failing = asked.method != "DELETE" && asked.target.contains(part);
            is_failing.then(|| refuse("403 Forbidden", code, ""))
        })
        .await;
        let error = upload(&in_parts(&fake)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        wait_until_aborted(&store).await;
        assert_eq!(store.objects(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_upload_is_aborted_in_the_background() {
    let store = Arc::new(Store::default());
    let fake = serve(Arc::clone(&store), |_, _| None).await;
    let mut staged = in_parts(&fake).stage(&key()).await.unwrap();
    staged.write(large()).await.unwrap();
    assert_eq!(store.uploads(), 1);
    drop(staged);
    wait_until_aborted(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_body_of_a_completion_is_an_error() {
    for (body, kind) in [
        (&b"<Error><Code>PreconditionFailed</Code></Error>"[..], ErrorKind::AlreadyExists),
        (b"<Error><Code>InternalError</Code></Error>", ErrorKind::Connection),
        (b"<Error><Code>SlowDown</Code></Error>", ErrorKind::Throttled),
        (b"", ErrorKind::Connection),
        (b"<html/>", ErrorKind::Connection),
    ] {
        let store = Arc::new(Store::default());
        let fake =
            serve(store, move |asked, _| asked.is("POST", "uploadId").then(|| say("200 OK", "", body))).await;
        let error = upload(&in_parts(&fake)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_sent_and_received_is_counted() {
    let store = Arc::new(Store::default());
    let fake = serve(store, |_, _| None).await;
    let wire = Arc::new(Wire::default());
    let storage = S3Storage::open(fake.config(), None, Arc::clone(&wire)).unwrap();
    storage.create(&key(), vec![7; 300_000].into()).await.unwrap();
    assert_eq!(wire.passed().sent, 300_000);
    storage.read(&key()).await.unwrap();
    assert_eq!(wire.passed().received, 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_believes_a_store_that_decides_in_one_step() {
    let store = Arc::new(Store::default());
    let fake = serve(Arc::clone(&store), |_, _| None).await;
    let (features, report) = patient(&fake).probe().await.unwrap();
    assert_eq!(features.create_only, Condition::Kept, "{report:?}");
    assert_eq!(features.create_only_streamed, Condition::Kept);
    assert_eq!(features.overwrite_if_match, IfMatch::Quoted);
    assert_eq!(features.checksum, Checksum::Unchecked);
    assert!(features.ranges && features.uploads_listed);
    assert_eq!((features.server.as_str(), store.objects(), store.uploads()), ("fake", 0, 0));
    let asked = fake.asked.lock().unwrap().len();
    let expected = PROBE_REQUESTS_ABOUT / 2..=2 * PROBE_REQUESTS_ABOUT;
    assert!(expected.contains(&asked), "{asked} requests");
    let storage = S3Storage::open(fake.config(), Some(features), Arc::default()).unwrap();
    assert!(storage.guarantees().create_only && storage.guarantees().create_only_streamed);
}

fn patient(fake: &Fake) -> S3Storage {
    let mut config = fake.config();
    config.timeouts.idle = Duration::from_secs(30);
    S3Storage::open(config, None, Arc::default()).unwrap()
}

/// The line breaks while the probe reads what it wrote, and again when it looks for what to remove.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_removes_its_objects_also_when_the_line_breaks_meanwhile() {
    let store = Arc::new(Store::default());
    let (reads, lists) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let fake = serve(Arc::clone(&store), move |asked, _| {
        let is_cut = match asked.target.contains("list-type=2") {
            true => lists.fetch_add(1, Ordering::SeqCst) == 1,
            false => asked.method == "GET" && reads.fetch_add(1, Ordering::SeqCst) == 0,
        };
        is_cut.then(|| Reply::Cut(Vec::new()))
    })
    .await;
    let error = patient(&fake).probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert_eq!(store.objects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_removes_what_a_killed_probe_left() {
    let store = Arc::new(Store::default());
    let fake = serve(Arc::clone(&store), |_, _| None).await;
    let left = format!("{}/object", packvault_storage::scratch_folder());
    for name in [left.as_str(), "packs/01/a", "packvault-probe/notes"] {
        store.put(name, b"x");
    }
    let storage = patient(&fake);
    assert_eq!(storage.sweep(Duration::from_secs(3600)).await.unwrap().removed, 0);
    assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 1);
    assert!(store.get(&left).is_none() && store.objects() == 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_finds_out_a_store_that_looks_first_and_writes_then() {
    let store = Arc::new(Store::default());
    store.looks_then_writes.store(true, Ordering::Relaxed);
    let fake = serve(Arc::clone(&store), |_, _| None).await;
    let (features, report) = patient(&fake).probe().await.unwrap();
    assert_eq!(features.create_only, Condition::Ignored, "{report:?}");
    assert_eq!(features.create_only_streamed, Condition::Ignored, "{report:?}");
    assert_eq!((store.objects(), store.uploads()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_probe_refuses_a_store_whose_listing_lags() {
    let store = Arc::new(Store::default());
    store.lists_nothing.store(true, Ordering::Relaxed);
    let fake = serve(store, |_, _| None).await;
    let error = patient(&fake).probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("read-after-write listing is refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_conditions_is_asked_without_them() {
    let store = Arc::new(Store::default());
    let fake = serve(Arc::clone(&store), |asked, _| {
        let has_condition = asked.header("if-none-match").is_some() || asked.header("if-match").is_some();
        has_condition.then(|| refuse("501 Not Implemented", "NotImplemented", ""))
    })
    .await;
    let (features, _) = patient(&fake).probe().await.unwrap();
    assert_eq!(features.create_only, Condition::Refused);
    assert_eq!(features.create_only_streamed, Condition::Refused);
    let storage = S3Storage::open(fake.config(), Some(features), Arc::default()).unwrap();
    storage.create(&key(), Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(storage.create(&key(), Bytes::new()).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    storage.touch(&key(), b"x").await.unwrap();
}
