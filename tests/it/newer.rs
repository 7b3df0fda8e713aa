//! The danger: what a newer version wrote, what takes a key or what a server does not let us read is called damaged,
//! and its owner is told to throw it away.

use std::sync::Arc;
use std::time::SystemTime;

use packvault::ErrorKind;
use packvault::engine::report::{ProblemKind, VerifyReport};
use packvault::engine::{Selection, list};
use packvault::format::{BlobId, Manifest, SnapshotId};
use packvault::repo::Repository;
use packvault_storage::{ErrorKind as StorageErrorKind, Fault, FaultStorage, Key, MemoryStorage, Storage};

use crate::support::memory_repo::*;

fn keys_of(storage: &MemoryStorage, folder: &str) -> Vec<Key> {
    let keys = storage.objects().into_iter().map(|(key, _)| key);
    keys.filter(|key| key.as_str().starts_with(folder)).collect()
}

async fn change(storage: &MemoryStorage, key: &Key, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = storage.read(key).await.unwrap().to_vec();
    change(&mut bytes);
    storage.put_raw(key, bytes, SystemTime::now());
}

/// Every problem is of this kind or of one that follows from it, says the word, and advises nothing drastic.
fn assert_told(report: &VerifyReport, kind: ProblemKind, word: &str) {
    assert!(report.problems.iter().any(|problem| problem.kind == kind), "{:#?}", report.problems);
    for problem in &report.problems {
        assert!(!problem.detail.contains("aside") && !problem.detail.contains("given up"), "{problem:?}");
        if problem.kind == kind {
            assert!(problem.detail.contains(word), "{problem:?}");
        }
    }
}

#[test]
fn what_a_newer_version_wrote_asks_for_an_upgrade() {
    runtime().block_on(async {
        // A pack: its version is in no hash.
        let (storage, archive, made) = repository_of(2).await;
        let pack = keys_of(&storage, "packs/").remove(1);
        change(&storage, &pack, |bytes| bytes[4] = 2).await;
        for quick in [true, false] {
            let report = check(shared(&storage), Selection::All, quick).await.unwrap();
            assert_told(&report, ProblemKind::Newer, "upgrade packvault");
        }
        let target = scratch();
        let error = bring_back(shared(&storage), &made[1].id, &target.path().join("t")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.chain().contains("upgrade packvault"), "{}", error.chain());
        // A backup is made all the same, of what it can be made of.
        let report = capture(shared(&storage), &archive).await.unwrap();
        let made = Made { id: report.id.unwrap(), files: archive.expected() };
        assert_comes_back(shared(&storage), &made, "beside a newer pack").await;

        // An index, sealed anew.
        let (storage, archive, made) = repository_of(2).await;
        let index = keys_of(&storage, "indexes/").remove(1);
        change(&storage, &index, |bytes| {
            bytes[4] = 2;
            let end = bytes.len() - 32;
            let hash = BlobId::of(&bytes[..end]);
            bytes[end..].copy_from_slice(hash.as_bytes());
        })
        .await;
        let report = check(shared(&storage), Selection::All, true).await.unwrap();
        assert_told(&report, ProblemKind::Newer, "upgrade packvault");
        let error = capture(shared(&storage), &archive).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.chain().contains("upgrade"), "{error:?}");
        let error = bring_back(shared(&storage), &made[1].id, &target.path().join("u")).await.unwrap_err();
        assert!(error.kind() == ErrorKind::Unsupported && error.chain().contains("upgrade"), "{error:?}");
        assert_comes_back(shared(&storage), &made[0], "without the newer index").await;

        // A manifest.
        let (storage, archive, made) = repository_of(2).await;
        let old = key(&format!("snapshots/{}.mvmanifest", made[1].id));
        let id = SnapshotId::parse(&made[1].id).unwrap();
        let mut manifest = Manifest::load(&id, &storage.read(&old).await.unwrap(), 4).unwrap();
        (manifest.format_version, manifest.min_reader_version) = (9, 9);
        let id = manifest.seal_id().unwrap();
        storage.remove(&old).await.unwrap();
        let newer = key(&format!("snapshots/{id}.mvmanifest"));
        storage.put_raw(&newer, manifest.encode(), SystemTime::now());
        let report = check(shared(&storage), Selection::All, true).await.unwrap();
        assert_told(&report, ProblemKind::Newer, "upgrade packvault");
        let rows = list::list(&Repository::open(shared(&storage)).await.unwrap()).await.unwrap();
        assert_eq!(rows[1].problem_kind, Some(ProblemKind::Newer));
        let error = capture(shared(&storage), &archive).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn an_encrypted_pack_asks_for_its_key() {
    runtime().block_on(async {
        let (storage, archive, made) = repository_of(2).await;
        let pack = keys_of(&storage, "packs/").remove(1);
        change(&storage, &pack, |bytes| bytes[5] = 1).await;
        for quick in [true, false] {
            let report = check(shared(&storage), Selection::All, quick).await.unwrap();
            assert_told(&report, ProblemKind::Encrypted, "key");
        }
        let target = scratch();
        let error = bring_back(shared(&storage), &made[1].id, &target.path().join("t")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoKey);
        let report = capture(shared(&storage), &archive).await.unwrap();
        let made = Made { id: report.id.unwrap(), files: archive.expected() };
        assert_comes_back(shared(&storage), &made, "beside an encrypted pack").await;
    });
}

#[test]
fn a_server_that_lets_us_read_some_things_only_is_no_damage() {
    runtime().block_on(async {
        let (storage, archive, made) = repository_of(2).await;
        for (folder, ..) in [("packs/",), ("indexes/",), ("snapshots/",)] {
            let closed =
                keys_of(&storage, folder).into_iter().rfind(|key| !key.name().contains(".packvault"));
            let closed = closed.unwrap().to_string();
            let faults = FaultStorage::new(shared(&storage));
            for _ in 0..500 {
                let (closed, denied) = (closed.clone(), Fault::Before(StorageErrorKind::Denied));
                faults.at_match(0, denied, move |_, object| object == closed);
            }
            let faulty = || Arc::new(faults.clone()) as Arc<dyn Storage>;
            for quick in [true, false] {
                let error = check(faulty(), Selection::All, quick).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NotPermitted, "{closed}");
            }
            let target = scratch();
            let error = bring_back(faulty(), &made[1].id, &target.path().join("t")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotPermitted, "{closed}: {error:?}");
            let error = capture(faulty(), &archive).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotPermitted, "{closed}: {error:?}");
        }
    });
}
