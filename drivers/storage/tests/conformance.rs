//! A test double that breaks a promise would hide the bugs it is meant to show.

use std::sync::Arc;

use async_trait::async_trait;
use packvault_storage::conformance::{self, Factory, Subject};
use packvault_storage::{MemoryStorage, Result};

struct Memory;

#[async_trait]
impl Factory for Memory {
    async fn fresh(&self) -> Result<Subject> {
        let storage = MemoryStorage::new();
        Ok(Subject::new(Arc::new(storage.clone())).with_other_client(Arc::new(storage)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_driver_keeps_every_rule() {
    conformance::run(&Memory).await.assert_all_kept();
}
