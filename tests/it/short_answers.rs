//! The danger: a storage that answers with fewer bytes than it was asked for, or with a flipped bit, ends the program
//! with a panic, is believed, or makes a restore bring back something else.
//!
//! Every call of each operation is made to lie once. Fuzzing found that a short answer made verify and restore panic.

use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use packvault::engine::Selection;
use packvault::repo::locks::STALE_AFTER;
use packvault_storage::{Fault, FaultStorage, MemoryStorage};
use tokio::runtime::{Builder, Runtime};

use crate::support::memory_repo::*;

const LIES: [Fault; 2] = [Fault::Truncate, Fault::Flip];

/// The name of this test's workers, by which their panics are told from those of another test.
const WORKER: &str = "worker that is lied to";
/// Workers that have no runtime: they are named by the library.
const ASIDE: [&str; 2] = ["aside", "deadline"];

/// Panics of workers, which become errors of the operation and would pass for refusals.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |what| {
        let is_ours = |name: &str| name == WORKER || ASIDE.contains(&name);
        if thread::current().name().is_some_and(is_ours) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        before(what);
    }));
}

fn watched_runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).thread_name(WORKER).enable_all().build().unwrap()
}

/// Runs the operation once for each call it makes and each lie; returns how many calls there were.
async fn lie_everywhere(
    before: &MemoryStorage,
    operation: impl AsyncFn(MemoryStorage, FaultStorage, &str),
) -> u64 {
    let storage = copy_of(before);
    let truthful = FaultStorage::new(shared(&storage));
    operation(storage, truthful.clone(), "nothing lies").await;
    let calls = truthful.call_count();
    for number in 1..=calls {
        for lie in LIES {
            let storage = copy_of(before);
            let faulty = FaultStorage::new(shared(&storage));
            faulty.at_call(number, lie);
            let case = format!("{lie:?} at call {number} of {calls}");
            operation(storage, faulty, &case).await;
            assert_eq!(PANICS.load(Ordering::Relaxed), 0, "{case}: a worker panicked");
        }
    }
    calls
}

#[test]
fn no_answer_that_is_short_or_altered_makes_an_operation_panic_or_believe_it() {
    count_panics();
    watched_runtime().block_on(async {
        let (before, archive, made) = repository_of(2).await;
        let verified = lie_everywhere(&before, async |_, faulty, _| {
            let _ = check(Arc::new(faulty), Selection::All, false).await;
        });
        assert!(verified.await > 10, "the calls were counted");
        lie_everywhere(&before, async |_, faulty, case| {
            let folder = scratch();
            let target = folder.path().join("target");
            if bring_back(Arc::new(faulty), &made[1].id, &target).await.is_ok() {
                assert_same_files(&files_below(&target), &made[1].files, case);
            }
        })
        .await;
        archive.change();
        lie_everywhere(&before, async |storage, faulty, case| {
            let created = capture(Arc::new(faulty), &archive).await;
            // A lie about the lock itself may leave it behind; then it becomes stale.
            storage.advance_clock(STALE_AFTER + Duration::from_secs(1));
            if let Ok(report) = created {
                let new = Made { id: report.id.unwrap(), files: archive.expected() };
                assert_comes_back(shared(&storage), &new, case).await;
            }
        })
        .await;
    });
}
