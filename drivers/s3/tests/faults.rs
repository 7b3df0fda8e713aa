//! Bad answers: whatever a server or the line to it does, a step ends with the right bytes, or with the
//! right kind of error in bounded memory and time, and nothing secret shows.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use packvault_s3::S3Storage;
use packvault_storage::{Error, ErrorKind, Key, Prefix, RetryPolicy, RetryStorage, Storage};

use fake::store::{Store, serve};
use fake::{Fake, Reply, head, refuse, say};

fn key() -> Key {
    Key::parse("packs/a").unwrap()
}

fn ours() -> Bytes {
    Bytes::from_static(b"our own bytes")
}

fn retried(storage: S3Storage) -> RetryStorage {
    let pause = Duration::from_millis(5);
    let policy = RetryPolicy { pause_first: pause, pause_max: pause, ..RetryPolicy::default() };
    RetryStorage::new(Arc::new(storage), policy)
}

/// Returns an error with its causes, as a user may see it.
fn whole(error: &Error) -> String {
    let mut text = format!("{error} | {error:?}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error} | {error:?}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_503_is_outlasted() {
    let (store, left) = (Arc::new(Store::default()), AtomicUsize::new(9));
    let fake = serve(Arc::clone(&store), move |_, _| {
        let is_over =
            left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err();
        (!is_over).then(|| refuse("503 Slow Down", "SlowDown", ""))
    })
    .await;
    let error = fake.storage().stat(&key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled, "{error}");
    let storage = retried(fake.storage());
    let _ = storage.stat(&key()).await;
    storage.create(&key(), ours()).await.unwrap();
    assert_eq!(storage.read(&key()).await.unwrap(), ours());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_settled_by_what_lies_there() {
    for (there, expected) in [(ours().to_vec(), None), (b"other".to_vec(), Some(ErrorKind::AlreadyExists))] {
        let store = Arc::new(Store::default());
        let fake = serve(store, move |asked, store| {
            (asked.method == "PUT").then(|| {
                store.put("packs/a", &there);
                refuse("409 Conflict", "ConditionalRequestConflict", "")
            })
        })
        .await;
        let result = retried(fake.storage()).create(&key(), ours()).await;
        assert_eq!(result.err().map(|error| error.kind()), expected);
    }
    let fake = Fake::start(|asked| match asked.method.as_str() {
        "HEAD" => say("404 Not Found", "", b""),
        _ => refuse("409 Conflict", "ConditionalRequestConflict", ""),
    })
    .await;
    assert_eq!(fake.storage().create(&key(), ours()).await.unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_found_done() {
    let store = Arc::new(Store::default());
    let fake = serve(Arc::clone(&store), |asked, store| {
        (asked.method == "PUT").then(|| {
            store.answer(asked);
            Reply::Cut(Vec::new())
        })
    })
    .await;
    let error = fake.storage().create(&Key::parse("b").unwrap(), ours()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    retried(fake.storage()).create(&key(), ours()).await.unwrap();
    assert_eq!(store.get("packs/a").unwrap(), ours());
    assert_eq!(fake.count("PUT", "packs/a"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_what_was_announced_are_errors() {
    let with = |headers: &str, body: &[u8]| [head("206 Partial Content", headers), body.to_vec()].concat();
    let ten = "Content-Range: bytes 0-9/100\r\n";
    for (reply, kind) in [
        (Reply::Cut(with(&format!("{ten}Content-Length: 10\r\n"), b"12345")), ErrorKind::Connection),
        (Reply::Cut(with(ten, b"12345")), ErrorKind::Connection),
        (Reply::Cut(with(ten, b"1234567890-more")), ErrorKind::Io),
        (Reply::Endless(with(ten, b"")), ErrorKind::Io),
        (say("206 Partial Content", ten, b"12345"), ErrorKind::Io),
        (say("206 Partial Content", "Content-Range: bytes 5-14/100\r\n", b"1234567890"), ErrorKind::Io),
        (say("200 OK", "Content-Range: bytes 5-14/100\r\n", b"1234567890"), ErrorKind::Io),
        (say("206 Partial Content", "", b"1234567890"), ErrorKind::Io),
        (say("206 Partial Content", "Content-Range: rubbish\r\n", b"1234567890"), ErrorKind::Io),
        (say("206 Partial Content", "Content-Range: bytes 0-4/5\r\n", b"12345"), ErrorKind::Short),
        (say("200 OK", "", b"12345"), ErrorKind::Short),
        (Reply::Cut(head("200 OK", "")), ErrorKind::Io),
        (refuse("416 Range Not Satisfiable", "InvalidRange", ""), ErrorKind::Short),
    ] {
        let shown = format!("{reply:?}");
        let fake = Fake::start(move |_| reply.clone()).await;
        let error = fake.storage().read_range(&key(), 0..10).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}: {}", &shown[..shown.floor_char_boundary(300)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_right_however_it_is_answered() {
    for reply in [
        say("206 Partial Content", "Content-Range: bytes 3-6/10\r\n", b"3456"),
        say("200 OK", "Content-Range: bytes 3-6/10\r\n", b"3456"),
        say("200 OK", "", b"0123456789"),
    ] {
        let fake = Fake::start(move |_| reply.clone()).await;
        assert_eq!(fake.storage().read_range(&key(), 3..7).await.unwrap(), "3456");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_objects_and_lists_without_end_are_cut_off() {
    let fake = Fake::start(|_| Reply::Endless(head("200 OK", ""))).await;
    let storage = fake.storage();
    assert_eq!(storage.read(&key()).await.unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(storage.touch(&key(), b"short").await.unwrap_err().kind(), ErrorKind::Changed);
    let listed: Result<Vec<_>, _> = storage.list(&Prefix::root()).try_collect().await;
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Io);
    let fake = Fake::start(|_| Reply::Cut(head("200 OK", "Content-Length: 99999999999999\r\n"))).await;
    assert_eq!(fake.storage().read(&key()).await.unwrap_err().kind(), ErrorKind::Io);
    let fake = Fake::start(|_| Reply::Cut(head("200 OK", "Content-Length: 3000000000\r\n"))).await;
    assert_eq!(fake.storage().read(&key()).await.unwrap_err().kind(), ErrorKind::Connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_or_drips_is_given_up() {
    let body = head("200 OK", "Content-Length: 5000\r\n");
    for reply in [Reply::Stall(Vec::new()), Reply::Stall(body.clone()), Reply::Drip(body)] {
        let fake = Fake::start(move |_| reply.clone()).await;
        let error = fake.storage().read(&key()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    // Nobody takes what is sent.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let storage = S3Storage::open(fake::config(&endpoint), None, Arc::default()).unwrap();
    let error = storage.replace(&key(), vec![1; 20 << 20].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_asks_a_silent_server_once_and_leaves_further_attempts_to_its_caller() {
    let fake = Fake::start(|_| Reply::Stall(Vec::new())).await;
    let error = fake.storage().probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    assert_eq!(fake.asked.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_probe_wrote_without_hearing_of_it_is_removed_even_if_it_arrives_late() {
    let lists = AtomicUsize::new(0);
    let written = std::sync::Mutex::new(String::new());
    let fake = Fake::start(move |asked| match asked.method.as_str() {
        "PUT" => {
            *written.lock().unwrap() = asked.target.trim_start_matches("/bucket/").to_owned();
            Reply::Cut(Vec::new())
        }
        "GET" if asked.target.contains("list-type=2") => {
            // The first is the probe's first question, the second its look for remains.
            let shown = match lists.fetch_add(1, Ordering::SeqCst) {
                0 | 1 => String::new(),
                _ => format!(
                    "<Contents><Key>{}</Key><Size>4096</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>",
                    written.lock().unwrap()
                ),
            };
            let body = format!("<ListBucketResult><IsTruncated>false</IsTruncated>{shown}</ListBucketResult>");
            say("200 OK", "", body.as_bytes())
        }
        "DELETE" => say("204 No Content", "", b""),
        _ => say("200 OK", "", b"<ListMultipartUploadsResult></ListMultipartUploadsResult>"),
    })
    .await;
    let error = fake.storage().probe().await.unwrap_err();
    assert!(error.kind().is_passing(), "{error}");
    assert_eq!(fake.count("DELETE", "packvault-probe/"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_named_and_not_followed() {
    let other = Fake::start(|_| say("200 OK", "", b"stolen")).await;
    let location = format!("Location: {}/bucket/repo/packs/a\r\n", other.endpoint);
    let fake = Fake::start(move |_| say("307 Temporary Redirect", &location, b"")).await;
    let error = fake.storage().read(&key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("sends us on to 127.0.0.1"), "{error}");
    assert!(other.asked.lock().unwrap().is_empty(), "the other host was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn explanations_are_bounded_and_rubbish_is_refused() {
    let bomb = b"<!DOCTYPE a [<!ENTITY x \"xxxxxxxxxx\">]><ListBucketResult>&x;&x;</ListBucketResult>";
    for (reply, kind) in [
        (say("200 OK", "", bomb), ErrorKind::Io),
        (say("200 OK", "", b"no xml"), ErrorKind::Io),
        (say("200 OK", "", b"<html></html>"), ErrorKind::Io),
        (say("400 Bad Request", "", &vec![b'x'; 8 << 20]), ErrorKind::Io),
        (Reply::Endless(head("400 Bad Request", "")), ErrorKind::Io),
    ] {
        let fake = Fake::start(move |_| reply.clone()).await;
        let listed: Result<Vec<_>, _> = fake.storage().list(&Prefix::root()).try_collect().await;
        let error = listed.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().len() < 1000, "{} bytes", error.to_string().len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_goes_in_circles_is_an_error() {
    let page =
        |token: &str| format!("<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>");
    for token in ["<NextContinuationToken>again</NextContinuationToken>", ""] {
        let body = page(token);
        let fake = Fake::start(move |_| say("200 OK", "", body.as_bytes())).await;
        let listed: Result<Vec<_>, _> = fake.storage().list(&Prefix::root()).try_collect().await;
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Io);
        assert!(fake.count("GET", "") <= 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_none_of_ours_are_left_out_of_lists() {
    let store = Arc::new(Store::default());
    for name in ["a", "b//c", "d/", "e/../f", "/g"] {
        store.put(name, b"x");
    }
    let fake = serve(store, |_, _| None).await;
    let listed: Vec<_> = fake.storage().list(&Prefix::root()).try_collect().await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_own_sentence() {
    let skewed = "<ServerTime>2026-11-28T05:00:00Z</ServerTime>";
    let region = "<Region>eu-west-3</Region>";
    for (status, code, more, kind, words) in [
        ("403 Forbidden", "InvalidAccessKeyId", "", ErrorKind::Denied, "does not know the access key"),
        ("403 Forbidden", "SignatureDoesNotMatch", "", ErrorKind::Denied, "check the secret key"),
        ("403 Forbidden", "AccessDenied", "", ErrorKind::Denied, "may not do this"),
        ("400 Bad Request", "ExpiredToken", "", ErrorKind::Denied, "have expired"),
        ("404 Not Found", "NoSuchBucket", "", ErrorKind::Config, "bucket bucket does not exist; make it"),
        (
            "400 Bad Request",
            "AuthorizationHeaderMalformed",
            region,
            ErrorKind::Config,
            "region eu-west-3, not in us-east-1",
        ),
        (
            "301 Moved Permanently",
            "PermanentRedirect",
            "<Endpoint>b.s3.eu</Endpoint>",
            ErrorKind::Config,
            "reached at b.s3.eu",
        ),
        ("403 Forbidden", "RequestTimeTooSkewed", skewed, ErrorKind::Config, "UTC; set the clock"),
        ("503 Unavailable", "SlowDown", "", ErrorKind::Throttled, "slow down"),
        ("429 Too Many Requests", "", "", ErrorKind::Throttled, "slow down"),
        ("400 Bad Request", "RequestTimeout", "", ErrorKind::Throttled, "waited too long"),
        ("503 Unavailable", "", "", ErrorKind::Connection, "the store failed (503"),
        (
            "500 Oh",
            "InternalError",
            "",
            ErrorKind::Connection,
            "the store failed (500 InternalError: told so)",
        ),
        ("504 Gateway", "", "", ErrorKind::Timeout, "in time"),
        ("400 Bad Request", "XAmzContentSHA256Mismatch", "", ErrorKind::Connection, "damaged on the way"),
        ("507 Full", "", "", ErrorKind::Full, "no room"),
        ("403 Forbidden", "QuotaExceeded", "", ErrorKind::Full, "no room"),
        ("501 No", "NotImplemented", "", ErrorKind::Unsupported, "no such step"),
        ("400 Bad Request", "Odd", "", ErrorKind::Io, "refused it (400 Odd: told so)"),
    ] {
        let fake = Fake::start(move |_| refuse(status, code, more)).await;
        let error = fake.storage().replace(&key(), ours()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{code}: {error}");
        let text = error.to_string();
        assert!(text.starts_with("cannot replace packs/a: ") && text.contains(words), "{code}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows_even_if_the_server_repeats_it() {
    let fake = Fake::start(|asked| {
        let token = asked.header("x-amz-security-token").unwrap().to_owned();
        let said = format!("<Error><Code>Odd{token}</Code><Message>{token} hush-secret</Message></Error>");
        say("400 Bad Request", "", said.as_bytes())
    })
    .await;
    let storage = fake.storage();
    let error = storage.read(&key()).await.unwrap_err();
    assert!(error.to_string().contains("(left out)"), "{error}");
    assert!(!whole(&error).contains("hush"), "{}", whole(&error));
    assert!(!format!("{storage:?}").contains("hush"), "{storage:?}");
    drop(fake);
    let error = storage.read(&key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(!whole(&error).contains("hush"), "{}", whole(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_no_tls_or_is_not_there_is_an_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let nobody = S3Storage::open(fake::config(&endpoint), None, Arc::default()).unwrap();
    let error = nobody.read(&key()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection);
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    let fake = Fake::start(|_| say("200 OK", "", b"")).await;
    let mut config = fake::config(&fake.endpoint.replace("http:", "https:"));
    config.allow_http = false;
    // A system without any certificates refuses as early as here.
    if let Ok(storage) = S3Storage::open(config, None, Arc::default()) {
        let error = storage.read(&key()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    }
}
