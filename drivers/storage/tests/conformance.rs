//! A test double or a wrapper that breaks a promise would hide the bugs it is meant to show.

use std::sync::Arc;

use async_trait::async_trait;
use packvault_storage::conformance::{self, Factory, Subject};
use packvault_storage::{
    FaultStorage, Guarantees, MemoryStorage, RecordStorage, Result, RetryPolicy, RetryStorage, Spool, Storage,
};

/// Memory, and around it whatever the function puts.
struct Wrapped(fn(Arc<dyn Storage>) -> Arc<dyn Storage>);

#[async_trait]
impl Factory for Wrapped {
    async fn fresh(&self) -> Result<Subject> {
        let memory = MemoryStorage::new();
        let other = (self.0)(Arc::new(memory.clone()));
        Ok(Subject::new((self.0)(Arc::new(memory))).with_other_client(other))
    }
}

/// Memory without renames, whose creates look first and write then.
struct Lesser;

#[async_trait]
impl Factory for Lesser {
    async fn fresh(&self) -> Result<Subject> {
        let less = Guarantees { create_only: false, rename: false, ..Guarantees::all() };
        let memory = MemoryStorage::new().with_guarantees(less);
        Ok(Subject::new(Arc::new(memory.clone())).with_other_client(Arc::new(memory)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_driver_keeps_every_rule() {
    conformance::run(&Wrapped(|memory| memory)).await.assert_all_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_every_rule_that_a_lesser_server_can_keep() {
    conformance::run(&Lesser).await.assert_all_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_keep_every_rule() {
    let wrap = |memory| Arc::new(RetryStorage::new(memory, RetryPolicy::default())) as _;
    conformance::run(&Wrapped(wrap)).await.assert_all_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_keeps_every_rule() {
    let wrap = |memory| {
        let spool = Arc::new(Spool::new(std::env::temp_dir(), 4 << 20, 2));
        Arc::new(RetryStorage::new(memory, RetryPolicy::default()).through(spool)) as _
    };
    conformance::run(&Wrapped(wrap)).await.assert_all_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_keeps_every_rule() {
    let wrap = |memory| Arc::new(RecordStorage::new(memory)) as _;
    conformance::run(&Wrapped(wrap)).await.assert_all_kept();
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_without_a_plan_keep_every_rule() {
    let wrap = |memory| Arc::new(FaultStorage::new(memory)) as _;
    conformance::run(&Wrapped(wrap)).await.assert_all_kept();
}
