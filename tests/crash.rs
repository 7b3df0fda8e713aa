//! The danger: a process, a machine or a connection dies at the wrong instant, and afterwards a listed
//! snapshot does not restore, or the next run needs somebody to repair something.
//!
//! Pass one counts the storage calls of an operation. Pass two runs it once for each of them and lets the
//! process die there, before the step or after it with the answer lost, then opens the same storage again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "support/memory_repo.rs"]
mod memory_repo;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use memory_repo::*;
use packvault::engine::create::CreateOptions;
use packvault::engine::list::list;
use packvault::engine::{Selection, init};
use packvault::repo::Repository;
use packvault::repo::locks::STALE_AFTER;
use packvault::{ErrorKind, Location, Result};
use packvault_storage::{
    ErrorKind as StorageErrorKind, Fault, FaultStorage, Guarantees, MemoryStorage, Operation, RetryPolicy,
    RetryStorage, Storage,
};

const DEATHS: [Fault; 2] = [Fault::StopBefore, Fault::StopAfter];

/// What is done when the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Init,
    FirstCreate,
    LaterCreate,
    Verify,
    Restore,
}

/// The repository before the step, the archive, and the snapshots there are.
struct Scene {
    step: Step,
    before: MemoryStorage,
    archive: Archive,
    made: Vec<Made>,
}

/// What a store promises on which no promise can be relied on that a store may break.
const LESSER: Guarantees =
    Guarantees { create_only: false, create_only_streamed: false, rename: false, sync: false };

impl Scene {
    async fn new(step: Step) -> Self {
        Self::on(step, Guarantees::all()).await
    }

    async fn on(step: Step, guarantees: Guarantees) -> Self {
        let (before, archive) = (MemoryStorage::new().with_guarantees(guarantees), Archive::small());
        let made = match step {
            Step::Init => vec![],
            Step::FirstCreate => fill(&before, &archive, 0).await,
            Step::LaterCreate | Step::Verify | Step::Restore => fill(&before, &archive, 2).await,
        };
        if step == Step::LaterCreate {
            archive.change();
        }
        Self { step, before, archive, made }
    }

    async fn run(&self, storage: Arc<dyn Storage>) -> Result<()> {
        match self.step {
            Step::Init => init::init(storage.as_ref()).await.map(drop),
            Step::FirstCreate | Step::LaterCreate => capture(storage, &self.archive).await.map(drop),
            Step::Verify => {
                let report = check(storage, Selection::All, false).await?;
                // What cannot be read is reported; it must never be passed over.
                let told = format!("{:?}", report.problems);
                let failed = || packvault::Error::new(ErrorKind::Io, told);
                report.ok.then_some(()).ok_or_else(failed)
            }
            Step::Restore => {
                let folder = scratch();
                let target = folder.path().join("target");
                let restored = bring_back(storage, &self.made[1].id, &target).await;
                match &restored {
                    Ok(_) => assert_same_files(&files_below(&target), &self.made[1].files, "restored"),
                    // The lock may be all that could not be given back.
                    Err(_) if target.exists() => {
                        assert_same_files(&files_below(&target), &self.made[1].files, "restored");
                    }
                    Err(_) => assert!(files_below(folder.path()).is_empty(), "the target was touched"),
                }
                restored.map(drop)
            }
        }
    }

    /// Returns a storage with the same objects and promises.
    fn copy(&self) -> MemoryStorage {
        copy_of(&self.before).with_guarantees(self.before.guarantees())
    }

    /// Returns how many storage calls the step takes when all goes well.
    async fn count_calls(&self) -> u64 {
        let faulty = FaultStorage::new(shared(&self.copy()));
        self.run(Arc::new(faulty.clone())).await.unwrap();
        faulty.call_count()
    }

    /// Expects everything to be in order on the storage, and the next create to need no repair.
    async fn expect_order(&self, storage: Arc<dyn Storage>, force_unlock: bool, case: &str) {
        let mut known = self.made.clone();
        let repository = match Repository::open(storage.clone()).await {
            Ok(repository) => repository,
            Err(error) => {
                assert!(
                    self.step == Step::Init && error.kind() == ErrorKind::NoRepository,
                    "{case}: {error:?}"
                );
                init::init(storage.as_ref()).await.unwrap();
                Repository::open(storage.clone()).await.unwrap()
            }
        };
        let rows = list(&repository).await.unwrap();
        assert!(rows.iter().all(|row| row.problem.is_none()), "{case}: {rows:#?}");
        assert!(known.iter().all(|made| rows.iter().any(|row| row.id == made.id)), "{case}");
        assert!(rows.len() - known.len() <= 1, "{case}: the old snapshots or one more");
        if let Some(new) = rows.iter().find(|row| known.iter().all(|made| made.id != row.id)) {
            known.push(Made { id: new.id.clone(), files: self.archive.expected() });
        }
        let options = CreateOptions { force_unlock, ..CreateOptions::default() };
        if !force_unlock {
            self.expect_all(&storage, &known, case).await;
        }
        let created = capture_with(storage.clone(), &self.archive, options).await;
        let report = created.unwrap_or_else(|error| panic!("{case}: the next create: {error:?}"));
        known.push(Made { id: report.id.unwrap(), files: self.archive.expected() });
        self.expect_all(&storage, &known, case).await;
    }

    /// Every listed snapshot verifies in full and comes back.
    async fn expect_all(&self, storage: &Arc<dyn Storage>, known: &[Made], case: &str) {
        if known.is_empty() {
            return;
        }
        let report = assert_sound(storage.clone(), case).await;
        assert_eq!(report.snapshots, known.len() as u64, "{case}");
        for made in known {
            assert_comes_back(storage.clone(), made, case).await;
        }
    }
}

/// Lets the process die at every call of the step, on storage in memory.
async fn die_everywhere(step: Step) {
    die_everywhere_on(step, Guarantees::all()).await;
}

async fn die_everywhere_on(step: Step, guarantees: Guarantees) {
    let scene = Scene::on(step, guarantees).await;
    let calls = scene.count_calls().await;
    assert!(calls > 0, "{step:?}");
    for number in 1..=calls {
        for death in DEATHS {
            let storage = scene.copy();
            let faulty = FaultStorage::new(shared(&storage));
            faulty.at_call(number, death);
            let outcome = scene.run(Arc::new(faulty.clone())).await;
            let died_at = faulty.calls().get(number as usize - 1).cloned();
            let case = format!("{step:?}: {death:?} at call {number} of {calls}, {died_at:?}");
            assert_eq!(outcome.is_err(), faulty.is_stopped(), "{case}");
            storage.advance_clock(STALE_AFTER + Duration::from_secs(1));
            scene.expect_order(shared(&storage), false, &case).await;
            assert_eq!(storage.unfinished_uploads(), 0, "{case}: staging is swept");
            let left = storage.objects().into_iter().map(|(key, _)| key.to_string());
            let locks: Vec<String> = left.filter(|key| key.starts_with("locks/")).collect();
            assert!(locks.is_empty(), "{case}: {locks:?}");
        }
    }
}

#[test]
fn a_death_at_any_call_of_init_leaves_a_repository_or_none() {
    runtime().block_on(die_everywhere(Step::Init));
}

#[test]
fn a_death_at_any_call_of_the_first_create_leaves_no_snapshot_or_a_whole_one() {
    runtime().block_on(die_everywhere(Step::FirstCreate));
}

#[test]
fn a_death_at_any_call_of_a_later_create_leaves_the_old_snapshots_or_one_more() {
    runtime().block_on(die_everywhere(Step::LaterCreate));
}

#[test]
fn a_death_at_any_call_of_a_verify_changes_nothing() {
    runtime().block_on(die_everywhere(Step::Verify));
}

#[test]
fn a_death_at_any_call_of_a_restore_leaves_the_target_untouched_or_whole() {
    runtime().block_on(die_everywhere(Step::Restore));
}

#[test]
fn a_death_at_any_call_leaves_order_on_a_store_without_renames_too() {
    runtime().block_on(async {
        for step in [Step::Init, Step::FirstCreate, Step::Verify] {
            die_everywhere_on(step, LESSER).await;
        }
    });
}

async fn open_local(root: &Path) -> Arc<dyn Storage> {
    Location::Local(root.to_owned()).open(true).await.unwrap()
}

/// Writes the objects of a storage in memory into a folder, as a repository.
async fn in_folder(storage: &MemoryStorage, root: &Path) -> Arc<dyn Storage> {
    let local = open_local(root).await;
    for (key, bytes) in storage.objects() {
        local.create(&key, bytes).await.unwrap();
    }
    local
}

#[test]
fn a_death_during_a_create_into_a_folder_leaves_what_the_next_create_clears_away() {
    runtime().block_on(async {
        for step in [Step::FirstCreate, Step::LaterCreate] {
            let scene = Scene::new(step).await;
            let calls = scene.count_calls().await;
            for number in (1..=calls).step_by(4).chain([calls - 1, calls]) {
                let death = DEATHS[number as usize / 4 % 2];
                let folder = scratch();
                let local = in_folder(&scene.before, folder.path()).await;
                let faulty = FaultStorage::new(local.clone());
                faulty.at_call(number, death);
                let outcome = scene.run(Arc::new(faulty.clone())).await;
                let case = format!("{step:?} into a folder: {death:?} at call {number} of {calls}");
                assert_eq!(outcome.is_err(), faulty.is_stopped(), "{case}");
                scene.expect_order(local, true, &case).await;
                assert!(files_below(&folder.path().join("staging")).is_empty(), "{case}");
                // A claim of the dead process is nobody's lock; it is swept once it is old.
                let mut locks = files_below(&folder.path().join("locks"));
                locks.retain(|name, _| !name.starts_with("releasing-"));
                assert!(locks.is_empty(), "{case}: {locks:?}");
            }
        }
    });
}

/// Fails each call of the step once, in turn, below the wrapper that tries again.
async fn pass_everywhere(step: Step) {
    pass_everywhere_on(step, Guarantees::all()).await;
}

async fn pass_everywhere_on(step: Step, guarantees: Guarantees) {
    let scene = Scene::on(step, guarantees).await;
    let calls = scene.count_calls().await;
    let policy = RetryPolicy {
        pause_first: Duration::from_micros(10),
        pause_max: Duration::from_millis(1),
        ..RetryPolicy::default()
    };
    for number in 1..=calls {
        for fault in [Fault::Before(StorageErrorKind::Timeout), Fault::After(StorageErrorKind::Timeout)] {
            let storage = scene.copy();
            let faulty = FaultStorage::new(shared(&storage));
            faulty.at_call(number, fault);
            let retry = RetryStorage::new(Arc::new(faulty.clone()), policy);
            let outcome = scene.run(Arc::new(retry)).await;
            let failed_at = faulty.calls().get(number as usize - 1).cloned();
            let case = format!("{step:?}: {fault:?} at call {number} of {calls}, {failed_at:?}");
            match failed_at {
                // What was streamed cannot be streamed again by a wrapper; it fails as one clear error.
                Some((Operation::Write | Operation::Seal, _)) if outcome.is_err() => {}
                _ => outcome.unwrap_or_else(|error| panic!("{case}: {error:?}")),
            }
            assert_eq!(storage.unfinished_uploads(), 0, "{case}");
            let left = storage.objects().into_iter().map(|(key, _)| key.to_string());
            let locks: Vec<String> = left.filter(|key| key.starts_with("locks/")).collect();
            assert!(locks.is_empty(), "{case}: {locks:?}");
            if !matches!(step, Step::Verify | Step::Restore) {
                scene.expect_order(shared(&storage), false, &case).await;
            }
        }
    }
}

#[test]
fn a_timeout_that_passes_is_not_noticed_by_init_verify_and_restore() {
    runtime().block_on(async {
        for step in [Step::Init, Step::Verify, Step::Restore] {
            pass_everywhere(step).await;
        }
    });
}

#[test]
fn a_timeout_that_passes_is_not_noticed_by_create() {
    runtime().block_on(pass_everywhere(Step::LaterCreate));
}

#[test]
fn a_timeout_that_passes_is_not_noticed_on_a_store_without_renames() {
    runtime().block_on(async {
        for step in [Step::Init, Step::Verify] {
            pass_everywhere_on(step, LESSER).await;
        }
    });
}

/// Lets every write, or every call, fail from some point on, for good.
async fn fail_for_good(step: Step, kind: StorageErrorKind) {
    let scene = Scene::new(step).await;
    let calls = scene.count_calls().await;
    let is_write = |asked: Operation| {
        use Operation::{Create, Replace, Seal, Stage, Write};
        matches!(asked, Create | Stage | Write | Seal | Replace)
    };
    for skipped in 0..calls {
        let storage = scene.copy();
        let faulty = FaultStorage::new(shared(&storage));
        for _ in 0..200 {
            faulty.at_match(skipped, Fault::Before(kind), move |asked, _| {
                kind != StorageErrorKind::Full || is_write(asked)
            });
        }
        let outcome = scene.run(Arc::new(faulty.clone())).await;
        let case = format!("{step:?}: {kind:?} after {skipped} calls that went well");
        let Err(error) = outcome else {
            assert!(kind == StorageErrorKind::Full, "{case}: must fail");
            break;
        };
        let text = error.chain();
        assert_eq!(error.kind(), ErrorKind::Io, "{case}: {text}");
        assert!(text.contains("a test lets it fail") && !text.contains('\n'), "{case}: {text}");
        let repository = Repository::open(shared(&storage)).await.unwrap();
        let rows = list(&repository).await.unwrap();
        assert!(rows.len() - scene.made.len() <= 1, "{case}");
        assert!(rows.iter().all(|row| row.problem.is_none()), "{case}");
        if kind == StorageErrorKind::Full {
            // Without room nothing can be added, but everything that was begun can be taken away.
            assert_eq!(rows.len(), scene.made.len(), "{case}");
            assert_eq!(storage.unfinished_uploads(), 0, "{case}");
            let left = storage.objects().into_iter().map(|(key, _)| key.to_string());
            assert!(left.into_iter().all(|key| !key.starts_with("locks/")), "{case}: a lock stays behind");
        }
        if skipped % 3 == 0 {
            storage.advance_clock(STALE_AFTER + Duration::from_secs(1));
            scene.expect_order(shared(&storage), false, &case).await;
        }
    }
}

#[test]
fn a_full_storage_is_one_clear_error_and_leaves_nothing_behind() {
    runtime().block_on(async {
        fail_for_good(Step::FirstCreate, StorageErrorKind::Full).await;
        fail_for_good(Step::LaterCreate, StorageErrorKind::Full).await;
    });
}

#[test]
fn a_storage_that_denies_everything_is_one_clear_error() {
    runtime().block_on(async {
        for step in [Step::FirstCreate, Step::LaterCreate, Step::Verify, Step::Restore] {
            fail_for_good(step, StorageErrorKind::Denied).await;
        }
    });
}
