//! The contract on real servers, with two clients that share nothing but the bucket.
//!
//! Each list is run as production has it: what the server keeps is found out by the probe first, and a
//! storage that retries lies above the driver, which settles a 409. That storage also covers moto, which
//! answers a rare read with 500 while the object is overwritten. Each list is run twice: as configured by
//! default, and with so little in one request that the rules' larger objects go in parts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use packvault_s3::{
    Checksum, Condition, IfMatch, ONE_PUT_BYTES_MAX, S3Config, S3Credentials, S3Features, S3Storage,
};
use packvault_storage::conformance::{self, Factory, Subject};
use packvault_storage::{Key, Prefix, Result, RetryPolicy, RetryStorage, Storage, Wire, scratch_folder};
use packvault_test_servers::{Minio, Moto, RcloneS3, Rgw, S3Place, missing, own_s3};

/// So little goes in one request that the larger objects of the rules go in parts.
const LITTLE_BYTES: u64 = 5 << 20;

/// What rclone's server cannot promise, whatever a client does. A reader who meets a write of the same key
/// is now and then given half of it, or old bytes and new ones, with a length that fits; a writer who does
/// may get 500. On such a server, which keeps no condition either, nobody may rest on shared names. And when it has
/// much to do, a list was seen to tell another time of a new object, a part of a second later, than a look at it.
const NOT_ON_RCLONE: [&str; 6] = [
    "a_created_object_is_whole_when_it_is_first_seen",
    "a_list_tells_the_times_that_stat_tells",
    "create_has_one_winner",
    "racing_replaces_leave_one_of_them",
    "replace_shows_old_or_new_at_any_instant",
    "seal_has_one_winner",
];

struct Server {
    config: S3Config,
    features: S3Features,
    prefixes: AtomicU32,
}

impl Server {
    async fn probed(place: &S3Place) -> Self {
        let mut config = S3Config::new(
            place.bucket.clone(),
            format!("conformance-{:016x}", fastrand::u64(..)),
            S3Credentials::Static {
                access_key_id: place.access_key_id.clone(),
                secret_access_key: place.secret_access_key.clone(),
                session_token: None,
            },
        );
        config.endpoint = Some(place.endpoint.clone());
        config.region = Some(place.region.clone());
        config.allow_http = true;
        let storage = S3Storage::open(config.clone(), None, Arc::default()).unwrap();
        let (features, _) = storage.probe().await.unwrap();
        let storage = S3Storage::open(config.clone(), Some(features.clone()), Arc::default()).unwrap();
        let left: Vec<_> = storage.list(&Prefix::root()).try_collect().await.unwrap();
        assert_eq!(left, [], "the probe left objects behind");
        assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 0, "the probe left uploads behind");
        let left_by_a_killed_one = Key::parse(format!("{}/object", scratch_folder())).unwrap();
        storage.create(&left_by_a_killed_one, vec![1; 100].into()).await.unwrap();
        assert_eq!(storage.sweep(Duration::from_secs(3600)).await.unwrap().removed, 0);
        assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 1);
        Self { config, features, prefixes: AtomicU32::new(0) }
    }

    /// Runs the whole list twice; only rules that the server cannot keep may be broken.
    async fn run_both_lists(&mut self, not_here: &[&str]) {
        for one_put_bytes_max in [ONE_PUT_BYTES_MAX, LITTLE_BYTES] {
            self.config.one_put_bytes_max = one_put_bytes_max;
            let report = conformance::run(self).await;
            assert!(report.broken.iter().all(|(name, _)| not_here.contains(name)), "{report}");
            assert_eq!(report.kept.len() + report.broken.len(), conformance::rules().len());
        }
    }

    /// Removes what the rules left in somebody's bucket.
    async fn clean(&self) {
        let storage = self.client(&self.config.prefix).unwrap();
        storage.sweep(Duration::ZERO).await.unwrap();
        let left: Vec<_> = storage.list(&Prefix::root()).try_collect().await.unwrap();
        for object in left {
            storage.remove(&object.key).await.unwrap();
        }
    }

    fn client(&self, prefix: &str) -> Result<Arc<dyn Storage>> {
        let config = S3Config { prefix: prefix.to_owned(), ..self.config.clone() };
        let storage = S3Storage::open(config, Some(self.features.clone()), Arc::new(Wire::default()))?;
        // A server that says "internal error" to what it will never do is not worth a minute.
        let retries = RetryPolicy { pause_max: Duration::from_secs(1), ..RetryPolicy::default() };
        Ok(Arc::new(RetryStorage::new(Arc::new(storage), retries)))
    }
}

#[async_trait]
impl Factory for Server {
    async fn fresh(&self) -> Result<Subject> {
        let number = self.prefixes.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{}/{number}", self.config.prefix);
        Ok(Subject::new(self.client(&prefix)?).with_other_client(self.client(&prefix)?))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_kept_on_ceph() {
    let server = match Rgw::shared() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let mut probed = Server::probed(server.place()).await;
    assert_eq!(probed.features.create_only, Condition::Kept);
    assert_eq!(probed.features.checksum, Checksum::Signed);
    assert!(probed.features.uploads_listed);
    probed.run_both_lists(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_kept_on_moto() {
    let server = match Moto::start() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let mut probed = Server::probed(server.place()).await;
    assert_eq!(probed.features.create_only, Condition::Kept);
    assert_eq!(probed.features.create_only_streamed, Condition::Kept);
    // It tells the same day of 2010 for every upload.
    assert!(!probed.features.uploads_listed);
    probed.run_both_lists(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_kept_on_minio() {
    let server = match Minio::start() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let mut probed = Server::probed(server.place()).await;
    if !Minio::is_replaced() {
        assert_eq!(probed.features.create_only, Condition::Kept);
        assert_eq!(probed.features.create_only_streamed, Condition::Kept);
        assert_eq!(probed.features.overwrite_if_match, IfMatch::Quoted);
        assert_eq!(probed.features.checksum, Checksum::Signed);
        // It lists those of one name only, and that has to be given whole.
        assert!(!probed.features.uploads_listed);
    }
    probed.run_both_lists(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_but_those_of_meeting_writes_and_of_listed_times_is_kept_on_rclone() {
    let server = match RcloneS3::start() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let mut probed = Server::probed(server.place()).await;
    assert_eq!(probed.features.create_only, Condition::Ignored);
    assert_eq!(probed.features.create_only_streamed, Condition::Ignored);
    assert_eq!(probed.features.overwrite_if_match, IfMatch::Ignored);
    assert_eq!(probed.features.checksum, Checksum::Unchecked);
    probed.run_both_lists(&NOT_ON_RCLONE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_kept_on_a_server_of_ones_own() {
    let Some(place) = own_s3() else { return };
    let mut probed = Server::probed(&place).await;
    probed.run_both_lists(&[]).await;
    probed.clean().await;
}
