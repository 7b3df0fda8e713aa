//! The fallbacks: file systems without hard links, without exclusive renames, or without either.
//!
//! Such file systems are not at hand in a test, so the client is told not to use the step. The danger is
//! a fallback that checks first and acts then; the whole list of rules runs on each.

use std::sync::Arc;

use async_trait::async_trait;
use packvault_storage::conformance::{self, Factory, Subject};
use packvault_storage::{ErrorKind, Key, Prefix, Result, Storage};

use crate::client::Steps;
use crate::{LocalConfig, LocalStorage};

struct Without(Steps);

#[async_trait]
impl Factory for Without {
    async fn fresh(&self) -> Result<Subject> {
        let folder = tempfile::tempdir().unwrap();
        let config = LocalConfig::new(folder.path());
        let storage = LocalStorage::open_with(config.clone(), self.0).await?;
        let other = LocalStorage::open_with(config, self.0).await?;
        Ok(Subject::new(Arc::new(storage)).with_other_client(Arc::new(other)).keeping(folder))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_kept_without_hard_links() {
    let steps = Steps { hard_link: false, ..Steps::ALL };
    conformance::run(&Without(steps)).await.assert_all_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_is_kept_without_exclusive_renames() {
    let steps = Steps { exclusive_rename: false, ..Steps::ALL };
    conformance::run(&Without(steps)).await.assert_all_kept();
}

#[tokio::test]
async fn without_either_create_only_writes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let steps = Steps { hard_link: false, exclusive_rename: false };
    let storage = LocalStorage::open_with(LocalConfig::new(folder.path()), steps).await.unwrap();
    let (from, to) = (Key::parse("from").unwrap(), Key::parse("to").unwrap());
    let unsupported = |result: Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Unsupported);
    unsupported(storage.create(&from, "bytes".into()).await);
    unsupported(storage.stage(&from).await.unwrap().seal().await);
    assert_eq!(std::fs::read_dir(folder.path().join("staging")).unwrap().count(), 0);
    storage.replace(&from, "bytes".into()).await.unwrap();
    unsupported(storage.rename(&from, &to).await);
    let listed: Vec<_> = futures::TryStreamExt::try_collect(storage.list(&Prefix::root())).await.unwrap();
    assert_eq!(listed.len(), 1);
}
