//! The danger: a store says that a batch is removed, and some of it is there still; or what it does not know of
//! removals in batches keeps everything from being removed.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::sync::Arc;

use packvault_storage::{ErrorKind, Key, Storage};

use fake::store::{Store, serve};
use fake::{Fake, refuse, say};

fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|number| Key::parse(format!("packs/01/{number}")).unwrap()).collect()
}

fn filled(count: usize) -> Arc<Store> {
    let store = Arc::new(Store::default());
    for key in keys(count) {
        store.put(key.as_str(), b"bytes");
    }
    store
}

/// Removes these and returns what is told of each that is left.
async fn left(fake: &Fake, keys: &[Key]) -> Vec<(String, ErrorKind)> {
    let left = fake.storage().remove_all(keys).await.unwrap();
    let mut left: Vec<_> = left.iter().map(|one| (one.key.to_string(), one.error.kind())).collect();
    left.sort_by(|one, other| one.0.cmp(&other.0));
    left
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_go_with_one_request() {
    let store = filled(2_500);
    let fake = serve(Arc::clone(&store), |_, _| None).await;
    assert_eq!(left(&fake, &keys(2_499)).await, []);
    assert_eq!((store.objects(), fake.count("POST", "delete"), fake.count("DELETE", "")), (1, 3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_refuses_or_leaves_unsaid_is_told_for_each_key() {
    let fake = Fake::start(|_| {
        let body = b"<DeleteResult><Deleted><Key>repo/packs/01/0</Key></Deleted>\
            <Error><Key>repo/packs/01/1</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
            <Error><Key>repo/packs/01/2</Key><Code>NoSuchKey</Code></Error>\
            <Error><Key>repo/packs/01/3</Key><Code>SlowDown</Code></Error>\
            <Deleted><Key>repo/packs/01/somebody-elses</Key></Deleted></DeleteResult>";
        say("200 OK", "", body)
    })
    .await;
    let expected = [(1, ErrorKind::Denied), (3, ErrorKind::Throttled), (4, ErrorKind::Connection)];
    let expected = expected.map(|(number, kind)| (format!("packs/01/{number}"), kind));
    assert_eq!(left(&fake, &keys(5)).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_batches_is_asked_one_by_one() {
    for (status, code) in [
        ("501 Not Implemented", "NotImplemented"),
        ("405 Method Not Allowed", "MethodNotAllowed"),
        ("400 Bad Request", "MissingContentMD5"),
    ] {
        let store = filled(30);
        let refusal = move |asked: &fake::Asked, _: &Store| {
            asked.is("POST", "delete").then(|| refuse(status, code, ""))
        };
        let fake = serve(Arc::clone(&store), refusal).await;
        assert_eq!(left(&fake, &keys(29)).await, [], "{code}");
        assert_eq!((store.objects(), fake.count("DELETE", "")), (1, 29), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_none_says_nothing_of_any_key() {
    for body in [&b"<DeleteResult><Deleted>"[..], b"<html/>", b"", b"<DeleteResult/>"] {
        let body = body.to_vec();
        let fake = Fake::start(move |_| say("200 OK", "", &body)).await;
        let left = left(&fake, &keys(3)).await;
        assert_eq!(left.len(), 3);
        assert!(left.iter().all(|(_, kind)| *kind == ErrorKind::Connection), "{left:?}");
    }
    let denied = Fake::start(|_| refuse("403 Forbidden", "AccessDenied", "")).await;
    assert!(left(&denied, &keys(3)).await.iter().all(|(_, kind)| *kind == ErrorKind::Denied));
    assert_eq!(denied.count("DELETE", ""), 0, "who may not remove is not asked a thousand times");
}
