//! The contract on a real folder, with two clients that share nothing but the file system.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use async_trait::async_trait;
use packvault_local::{LocalConfig, LocalStorage};
use packvault_storage::Result;
use packvault_storage::conformance::{self, Factory, Subject};

struct Local;

#[async_trait]
impl Factory for Local {
    async fn fresh(&self) -> Result<Subject> {
        let folder = tempfile::tempdir().unwrap();
        let config = LocalConfig::new(folder.path().join("repository"));
        let storage = LocalStorage::create_root(config.clone()).await?;
        let other = LocalStorage::open(config).await?;
        Ok(Subject::new(Arc::new(storage)).with_other_client(Arc::new(other)).keeping(folder))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_driver_keeps_every_rule() {
    conformance::run(&Local).await.assert_all_kept();
}
