//! What a real server says to those it does not let in, and what becomes of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use bytes::Bytes;
use packvault_s3::{S3Config, S3Credentials, S3Storage};
use packvault_storage::{ErrorKind, Key, Storage};
use packvault_test_servers::{Rgw, missing};

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_refuses_strangers_and_each_has_its_own_sentence() {
    let server = match Rgw::shared() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let place = server.place();
    let with = |id: &str, secret: &str, bucket: &str| {
        let (access_key_id, secret_access_key) = (id.to_owned(), secret.to_owned());
        let keys = S3Credentials::Static { access_key_id, secret_access_key, session_token: None };
        let mut config = S3Config::new(bucket, "refused", keys);
        (config.endpoint, config.allow_http) = (Some(place.endpoint.clone()), true);
        config
    };
    let (id, secret, bucket) = (&place.access_key_id, &place.secret_access_key, &place.bucket);
    let mut anonymous = with(id, secret, bucket);
    anonymous.credentials = S3Credentials::Anonymous;
    for (config, kind, words) in [
        (with("nobody", secret, bucket), ErrorKind::Denied, "does not know the access key"),
        (with(id, "hush-wrong", bucket), ErrorKind::Denied, "check the secret key"),
        (with(id, secret, "no-such-bucket"), ErrorKind::Config, "no-such-bucket does not exist; make it"),
        (anonymous, ErrorKind::Denied, "may not do this"),
    ] {
        let storage = S3Storage::open(config, None, Arc::default()).unwrap();
        let written = storage.replace(&Key::parse("a").unwrap(), Bytes::from_static(b"a")).await.unwrap_err();
        let probed = storage.probe().await.unwrap_err();
        for error in [written, probed] {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
    }
}
