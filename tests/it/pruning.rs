//! The danger: a pack is removed that an index names; or whoever removes dies half-way, and what is left is taken for
//! damage; or a holder that has lost its lock goes on removing.
//!
//! No command removes indexes and packs yet. These are the steps that one will be made of.

use std::sync::Arc;
use std::time::Duration;

use packvault::format::{IndexId, PackId};
use packvault::repo::Repository;
use packvault::repo::locks::{Lock, STALE_AFTER};
use packvault::{ErrorKind, Result};
use packvault_storage::{Fault, FaultStorage, Guarantees, MemoryStorage, Operation, RecordStorage, Storage};

use crate::support::memory_repo::*;

const DEATHS: [Fault; 2] = [Fault::StopBefore, Fault::StopAfter];

/// A repository whose second snapshot was given up: its index and its packs are of no use to the first.
async fn with_rubbish(kind: Kind) -> (MemoryStorage, Made, Rubbish) {
    let (storage, archive) = (MemoryStorage::new(), Archive::small());
    let made = fill_kind(kind, &storage, &archive, 1).await;
    let repository = opened(shared(&storage)).await.unwrap();
    let before = Rubbish::all(&repository).await;
    archive.change();
    let second = capture(shared(&storage), &archive).await.unwrap().id.unwrap();
    let of_it = storage.objects().into_iter().map(|(key, _)| key);
    for key in of_it.filter(|key| key.as_str().starts_with(&format!("snapshots/{second}"))) {
        storage.remove(&key).await.unwrap();
    }
    let mut rubbish = Rubbish::all(&repository).await;
    rubbish.indexes.retain(|id| !before.indexes.contains(id));
    rubbish.packs.retain(|id| !before.packs.contains(id));
    assert!(!rubbish.indexes.is_empty() && !rubbish.packs.is_empty());
    (storage, made.into_iter().next().unwrap(), rubbish)
}

struct Rubbish {
    indexes: Vec<IndexId>,
    packs: Vec<PackId>,
}

impl Rubbish {
    async fn all(repository: &Repository) -> Self {
        let files = repository.list_indexes().await.unwrap();
        let id = |name: &str| IndexId::parse(name.strip_suffix(".mvidx").unwrap()).unwrap();
        let indexes = files.iter().map(|file| id(&file.name)).collect();
        Self { indexes, packs: repository.pack_lengths().await.unwrap().into_keys().collect() }
    }

    async fn prune(&self, storage: Arc<dyn Storage>) -> Result<()> {
        let lock = locked(storage).await?;
        let pruning = lock.pruning()?;
        pruning.indexes(&self.indexes).await?;
        pruning.packs(&self.packs).await?;
        lock.release().await
    }
}

async fn locked(storage: Arc<dyn Storage>) -> Result<Lock> {
    opened(storage).await?.lock_exclusive(&lock_request("remover")).await
}

/// Everything that lies there, locks apart.
fn names(storage: &MemoryStorage) -> Vec<String> {
    let names = storage.objects().into_iter().map(|(key, _)| key.to_string());
    names.filter(|name| !name.starts_with("locks/")).collect()
}

#[test]
fn a_death_at_any_call_leaves_whole_snapshots_and_no_index_without_its_pack() {
    runtime().block_on(async {
        for kind in KINDS {
            let (before, made, rubbish) = with_rubbish(kind).await;
            let storage = copy_of(&before);
            let truthful = FaultStorage::new(shared(&storage));
            rubbish.prune(Arc::new(truthful.clone())).await.unwrap();
            let end = names(&storage);
            assert_eq!(end.len(), names(&before).len() - rubbish.indexes.len() - rubbish.packs.len());
            assert_comes_back(shared(&storage), &made, "pruned").await;
            for number in 1..=truthful.call_count() {
                for death in DEATHS {
                    let case = format!("{kind:?}, {death:?} at call {number}");
                    let storage = copy_of(&before);
                    let faulty = FaultStorage::new(shared(&storage));
                    faulty.at_call(number, death);
                    let _ = rubbish.prune(Arc::new(faulty)).await;
                    storage.advance_clock(STALE_AFTER + Duration::from_secs(60));
                    assert_sound(shared(&storage), &case).await;
                    let indexes = opened(shared(&storage)).await.unwrap().load_indexes().await.unwrap();
                    let packs = opened(shared(&storage)).await.unwrap().pack_lengths().await.unwrap();
                    assert!(indexes.packs().all(|pack| packs.contains_key(&pack)), "{case}");
                    rubbish.prune(shared(&storage)).await.unwrap_or_else(|error| panic!("{case}: {error:?}"));
                    assert_eq!(names(&storage), end, "{case}");
                }
            }
        }
    });
}

#[test]
fn indexes_go_with_one_request_and_packs_with_the_next() {
    runtime().block_on(async {
        let (storage, _, rubbish) = with_rubbish(Kind::Plain).await;
        let record = RecordStorage::new(shared(&storage));
        rubbish.prune(Arc::new(record.clone())).await.unwrap();
        let removals = record.calls().into_iter().filter(|call| call.operation == Operation::Remove);
        let removals: Vec<String> = removals.map(|call| call.object).collect();
        let removals: Vec<&str> = removals.iter().filter_map(|object| object.split('/').next()).collect();
        assert_eq!(removals[..2], ["indexes", "packs"]);
        assert!(removals[2..].iter().all(|folder| *folder == "locks"), "{removals:?}");
    });
}

#[test]
fn a_pack_that_an_index_names_is_not_removed() {
    runtime().block_on(async {
        let (storage, _, rubbish) = with_rubbish(Kind::Plain).await;
        let before = names(&storage);
        let lock = locked(shared(&storage)).await.unwrap();
        let error = lock.pruning().unwrap().packs(&rubbish.packs).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("an index names it"), "{error}");
        assert_eq!(names(&storage), before);
    });
}

#[test]
fn whoever_has_lost_the_lock_or_only_reads_removes_nothing() {
    runtime().block_on(async {
        for rename in [true, false] {
            let (whole, _, rubbish) = with_rubbish(Kind::Plain).await;
            let storage = whole.with_guarantees(Guarantees { rename, ..Guarantees::all() });
            let before = names(&storage);
            let lock = locked(shared(&storage)).await.unwrap();
            for (key, _) in storage.objects() {
                if key.as_str().starts_with("locks/") {
                    storage.remove(&key).await.unwrap();
                }
            }
            assert!(lock.pruning().unwrap().indexes(&rubbish.indexes).await.is_err());
            assert_eq!(names(&storage), before);
            let reader = opened(shared(&storage)).await.unwrap();
            let reader = reader.lock_shared(&lock_request("reader")).await.unwrap();
            assert_eq!(reader.pruning().unwrap_err().kind(), ErrorKind::Refused);
        }
    });
}

#[test]
fn what_cannot_be_removed_is_told() {
    runtime().block_on(async {
        let (storage, made, rubbish) = with_rubbish(Kind::Plain).await;
        let faults = FaultStorage::new(shared(&storage));
        let lock = locked(Arc::new(faults.clone())).await.unwrap();
        faults.at_next(Operation::Remove, Fault::Before(packvault_storage::ErrorKind::Denied));
        let error = lock.pruning().unwrap().indexes(&rubbish.indexes).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotPermitted);
        assert!(error.to_string().contains("1 of 1 may be there still"), "{error}");
        lock.release().await.unwrap();
        assert_comes_back(shared(&storage), &made, "nothing is gone").await;
    });
}
