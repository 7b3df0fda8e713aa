//! The contract on real servers, with two clients that share nothing but the container.
//!
//! Each list is run as production has it: what the server keeps is found out by the probe first, and a
//! storage that retries lies above the driver. Each list is run twice: as configured by default, and with
//! so little in one request that the rules' larger objects go in parts.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use packvault_opendal::{ONE_PUT_BYTES_MAX, OpendalConfig, OpendalFeatures, OpendalStorage, Service};
use packvault_storage::conformance::{self, Factory, Subject};
use packvault_storage::{ErrorKind, Key, Prefix, Result, RetryPolicy, RetryStorage, Storage, scratch_folder};
use packvault_test_servers::{Azurite, FakeGcs, missing};

/// So little goes in one request that the larger objects of the rules go in parts.
const LITTLE_BYTES: u64 = 1 << 20;

fn azurite_config(server: &Azurite) -> OpendalConfig {
    let prefix = format!("conformance-{:016x}", fastrand::u64(..));
    let mut config = OpendalConfig::new(Service::Azblob, server.container.clone(), prefix);
    config.endpoint = Some(server.endpoint.clone());
    config.account = Some(server.account.clone());
    config.variables.insert("AZURE_STORAGE_KEY".to_owned(), server.key.clone());
    config.allow_http = true;
    config
}

fn google_config(server: &FakeGcs) -> OpendalConfig {
    let prefix = format!("conformance-{:016x}", fastrand::u64(..));
    let mut config = OpendalConfig::new(Service::Gcs, server.bucket.clone(), prefix);
    config.endpoint = Some(server.endpoint.clone());
    (config.allow_http, config.anonymous) = (true, true);
    config
}

struct Server {
    config: OpendalConfig,
    features: OpendalFeatures,
    prefixes: AtomicU32,
}

impl Server {
    async fn probed(config: OpendalConfig) -> Self {
        let storage = OpendalStorage::open(&config, None, Arc::default()).unwrap();
        assert!(!storage.guarantees().create_only, "nothing is promised before the server was asked");
        let (features, report) = storage.probe().await.unwrap();
        assert!(report.findings.len() >= 5, "{report:?}");
        let left: Vec<_> = storage.list(&Prefix::root()).try_collect().await.unwrap();
        assert_eq!(left, [], "the probe left objects behind");
        let left_by_a_killed_one = Key::parse(format!("{}/object", scratch_folder())).unwrap();
        storage.create(&left_by_a_killed_one, vec![1; 100].into()).await.unwrap();
        assert_eq!(storage.sweep(Duration::from_secs(3600)).await.unwrap().removed, 0);
        assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 1);
        Self { config, features, prefixes: AtomicU32::new(0) }
    }

    async fn run_both_lists(&mut self) {
        for one_put_bytes_max in [ONE_PUT_BYTES_MAX, LITTLE_BYTES] {
            self.config.one_put_bytes_max = one_put_bytes_max;
            conformance::run(self).await.assert_all_kept();
        }
    }

    fn client(&self, prefix: &str) -> Result<Arc<dyn Storage>> {
        let config = OpendalConfig { prefix: prefix.to_owned(), ..self.config.clone() };
        let storage = OpendalStorage::open(&config, Some(&self.features), Arc::default())?;
        Ok(Arc::new(RetryStorage::new(Arc::new(storage), RetryPolicy::default())))
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
async fn every_rule_is_kept_on_azurite() {
    let server = match Azurite::start() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let mut probed = Server::probed(azurite_config(&server)).await;
    assert!(probed.features.create_only_streamed);
    assert!(probed.features.overwrite_if_unchanged);
    probed.run_both_lists().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_kept_on_an_emulator_of_google() {
    let server = match FakeGcs::start() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let mut probed = Server::probed(google_config(&server)).await;
    assert!(probed.features.create_only_streamed, "{:?}", probed.features);
    assert!(probed.features.overwrite_if_unchanged, "{:?}", probed.features);
    probed.run_both_lists().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_container_or_key_is_told_by_its_kind_and_without_the_key() {
    let server = match Azurite::start() {
        Ok(server) => server,
        Err(what) => return missing(&what),
    };
    let mut config = azurite_config(&server);
    config.container = "absent".to_owned();
    let error = OpendalStorage::open(&config, None, Arc::default()).unwrap().probe().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("there is no such container"), "{error}");

    let mut config = azurite_config(&server);
    config.variables.insert("AZURE_STORAGE_KEY".to_owned(), "aHVudGVyMg==".to_owned());
    let storage = OpendalStorage::open(&config, None, Arc::default()).unwrap();
    let error = storage.read(&Key::parse("a").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(!error.to_string().contains("aHVudGVyMg"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_passing_failure() {
    let mut config = OpendalConfig::new(Service::Azblob, "mail", "");
    config.endpoint = Some("http://127.0.0.1:9/ann".to_owned());
    config.account = Some("ann".to_owned());
    config.variables.insert("AZURE_STORAGE_KEY".to_owned(), "aHVudGVyMg==".to_owned());
    config.allow_http = true;
    let storage = OpendalStorage::open(&config, None, Arc::default()).unwrap();
    let error = storage.read(&Key::parse("a").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connection, "{error}");
    assert!(error.kind().is_passing());
}
