//! The danger: copies of manifests and indexes near at hand are believed when the repository says otherwise: a
//! damaged or exchanged copy hides a snapshot or lets a create store too little, or a verify judges the copies.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use packvault::engine::create::{CreateOptions, create};
use packvault::engine::list;
use packvault::engine::restore::{RestoreOptions, restore};
use packvault::engine::verify::{VerifyOptions, verify};
use packvault::engine::{Context, Selection};
use packvault::format::{BlobId, Hasher, index};
use packvault::location;
use packvault::profiles::msgvault::Msgvault;
use packvault::repo::Repository;
use packvault_storage::{Key, MemoryStorage, Operation, RecordStorage, Storage};

use crate::support::anatomy::{Repo, dissect, manifest_key};
use crate::support::line::Line;
use crate::support::memory_repo::*;

/// A repository, and the copies of its objects.
struct Scene {
    storage: MemoryStorage,
    record: RecordStorage,
    cache: MemoryStorage,
    archive: Archive,
    made: Vec<Made>,
    repo: Repo,
}

impl Scene {
    async fn new(snapshots: usize) -> Self {
        Self::of(Kind::Plain, snapshots).await
    }

    async fn of(kind: Kind, snapshots: usize) -> Self {
        let (storage, archive, made) = repository_of_kind(kind, snapshots).await;
        let record = RecordStorage::new(shared(&storage));
        let (cache, repo) = (MemoryStorage::new(), dissect(&storage));
        Self { storage, record, cache, archive, made, repo }
    }

    async fn open(&self) -> Repository {
        let repository = opened(Arc::new(self.record.clone())).await.unwrap();
        repository.cached(shared(&self.cache))
    }

    /// Reads everything that is copied, and returns how often the store was read for it.
    async fn warm(&self) -> usize {
        let repository = self.open().await;
        self.record.take_calls();
        repository.load_snapshots().await.unwrap();
        repository.find_indexes().await.unwrap();
        self.record.count_of(Operation::Read)
    }

    fn objects(&self) -> usize {
        self.repo.snapshots.len() + self.repo.indexes.len()
    }

    /// Returns the copies with what each holds.
    fn copies(&self) -> Vec<(Key, Bytes)> {
        self.cache.objects()
    }

    fn put_copy(&self, key: &Key, bytes: impl Into<Bytes>) {
        self.cache.put_raw(key, bytes, SystemTime::now());
    }

    async fn ids(&self) -> Vec<String> {
        let rows = list::list(&self.open().await).await.unwrap();
        rows.into_iter().inspect(|row| assert_eq!(row.problem, None)).map(|row| row.id).collect()
    }

    fn made_ids(&self) -> Vec<String> {
        self.made.iter().map(|made| made.id.clone()).collect()
    }
}

#[test]
fn what_was_read_once_is_not_read_again() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind, 4).await;
            assert_eq!(scene.warm().await, scene.objects());
            assert_eq!(scene.copies().len(), scene.objects());
            assert_eq!(scene.warm().await, 0);
            assert_eq!(scene.ids().await, scene.made_ids());
            // A create reads no manifest, and of each index the end: for the store alone says what is stored.
            let options = CreateOptions { writer_version: "test".into(), ..CreateOptions::default() };
            scene.record.take_calls();
            let repository = scene.open().await;
            create(&repository, Arc::new(Msgvault), &scene.archive.paths(), options, &context())
                .await
                .unwrap();
            let calls = scene.record.take_calls();
            let read = calls.iter().filter(|call| call.operation == Operation::Read);
            let of = |folder: &str| {
                read.clone().filter(|call| call.object.starts_with(folder)).collect::<Vec<_>>()
            };
            assert!(of("snapshots/").is_empty(), "{calls:?}");
            let ends = of("indexes/");
            assert_eq!(ends.len(), scene.repo.indexes.len(), "{calls:?}");
            assert!(ends.iter().all(|call| call.bytes == 32), "{calls:?}");
            assert_sound(shared(&scene.storage), "after a create with copies").await;
            // And the next one reads the manifest and the index of that one.
            assert_eq!(scene.warm().await, 2);
        }
    });
}

#[test]
fn a_damaged_copy_is_read_anew() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind, 2).await;
            scene.warm().await;
            for (key, bytes) in scene.copies() {
                for at in [0, bytes.len() / 2, bytes.len() - 33, bytes.len() - 32, bytes.len() - 1] {
                    let mut damaged = bytes.to_vec();
                    damaged[at] ^= 1;
                    scene.put_copy(&key, damaged);
                    assert_eq!(scene.warm().await, 1, "{key}: byte {at}");
                    assert_eq!(scene.warm().await, 0, "{key}: the copy was made anew");
                }
                for length in [0, 31, 32, bytes.len() / 2, bytes.len() - 1] {
                    scene.put_copy(&key, bytes.slice(..length));
                    assert_eq!(scene.warm().await, 1, "{key}: cut to {length}");
                }
                scene.put_copy(&key, [&bytes[..], b"x"].concat());
                assert!(scene.warm().await <= 1, "{key}: longer");
            }
            assert_eq!(scene.ids().await, scene.made_ids());
        }
    });
}

#[test]
fn a_copy_speaks_for_no_other_object_and_no_other_place() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind, 2).await;
            scene.warm().await;
            let copies = scene.copies();
            for (key, _) in &copies {
                let same_folder =
                    |other: &&(Key, Bytes)| other.0 != *key && other.0.name()[30..] == key.name()[30..];
                let other =
                    copies.iter().find(same_folder).or_else(|| copies.iter().find(|(other, _)| other != key));
                scene.put_copy(key, other.unwrap().1.clone());
            }
            assert_eq!(scene.warm().await, scene.objects(), "every copy was another's");
            // The same objects under the same names, in another place.
            let line = Line::to(shared(&scene.storage)).named("elsewhere");
            let repository = opened(Arc::new(line.clone())).await.unwrap().cached(shared(&scene.cache));
            let before = line.requests();
            repository.load_snapshots().await.unwrap();
            assert_eq!(line.requests() - before, 1 + scene.repo.snapshots.len());
        }
    });
}

#[test]
fn an_object_that_changed_in_the_store_is_read_anew() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind, 2).await;
            scene.warm().await;
            let later = SystemTime::now() + Duration::from_secs(60);
            for (key, _) in scene.copies() {
                let bytes = scene.storage.read(&key).await.unwrap();
                scene.storage.put_raw(&key, bytes, later);
                assert_eq!(scene.warm().await, 1, "{key} has another time");
            }
            let key = manifest_key(&scene.made[0].id);
            scene.storage.put_raw(&key, "shorter", later);
            let rows = list::list(&scene.open().await).await.unwrap();
            assert!(rows[0].problem.is_some(), "a copy must not hide what became of the manifest");
        }
    });
}

/// Returns a copy as somebody makes it who knows how copies are made.
fn forged_copy(key: &Key, bytes: &[u8], modified: SystemTime) -> Vec<u8> {
    let seconds = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let mut hasher = Hasher::new();
    for text in ["memory", key.as_str()] {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(&seconds.to_le_bytes());
    hasher.update(bytes);
    [bytes, hasher.finish().as_bytes()].concat()
}

#[test]
fn a_forged_copy_of_an_index_makes_no_create_leave_anything_out() {
    runtime().block_on(async {
        let scene = Scene::new(2).await;
        scene.warm().await;
        let text = b"what only the newest snapshot has";
        scene.archive.write("deletions/newest.json", text);
        let missing = BlobId::of(text);
        let key = scene.repo.indexes.keys().next_back().unwrap().clone();
        let meta = scene.storage.stat(&key).await.unwrap();
        let mut entries = index::decode(&scene.storage.read(&key).await.unwrap()).unwrap();
        // A blob of the same pack gives its place to one that is not stored.
        entries[0].id = missing;
        entries.sort_by_key(|entry| entry.id);
        let forged = forged_copy(&key, &index::encode(&entries), meta.modified);
        scene.put_copy(&key, forged);
        let (believed, _) = scene.open().await.find_indexes().await.unwrap();
        assert!(believed.get(&missing).is_some(), "the copy looks right");

        let options = CreateOptions { writer_version: "test".into(), ..CreateOptions::default() };
        let repository = scene.open().await;
        create(&repository, Arc::new(Msgvault), &scene.archive.paths(), options, &context()).await.unwrap();
        assert_sound(shared(&scene.storage), "after a create beside a forged copy").await;
        let copy = scene.copies().into_iter().find(|(found, _)| *found == key).unwrap().1;
        assert_eq!(copy[..copy.len() - 32], scene.storage.read(&key).await.unwrap()[..], "it was made anew");
    });
}

#[test]
fn verify_judges_the_store_and_not_the_copies() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind, 2).await;
            for (key, bytes) in scene.storage.objects() {
                // One time for all, so that a copy looks as good as what it was copied from.
                scene.storage.put_raw(&key, bytes, SystemTime::UNIX_EPOCH);
            }
            scene.warm().await;
            let keys = [manifest_key(&scene.made[1].id), scene.repo.indexes.keys().next().unwrap().clone()];
            for key in keys {
                let sound = scene.storage.read(&key).await.unwrap();
                let mut damaged = sound.to_vec();
                damaged[40] ^= 1;
                scene.storage.put_raw(&key, damaged, SystemTime::UNIX_EPOCH);
                assert_eq!(scene.warm().await, 0, "{key}: the copy hides the damage from others");
                for quick in [true, false] {
                    let (options, selection) = (
                        VerifyOptions { depth: depth(quick), paths: false, ..VerifyOptions::default() },
                        Selection::All,
                    );
                    let repository = scene.open().await;
                    let report = verify(&repository, Arc::new(Msgvault), selection, options, &context())
                        .await
                        .unwrap();
                    assert!(!report.ok, "{key}: verify believed the copy");
                }
                scene.storage.put_raw(&key, sound, SystemTime::UNIX_EPOCH);
            }
        }
    });
}

#[test]
fn copies_of_what_is_gone_go() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind, 3).await;
            scene.warm().await;
            let gone = manifest_key(&scene.made[2].id);
            scene.storage.remove(&gone).await.unwrap();
            scene.put_copy(&key("snapshots/none.mvmanifest"), "x");
            scene.put_copy(&key("indexes/none.mvidx"), "x");
            assert_eq!(scene.warm().await, 0);
            let left: Vec<Key> = scene.copies().into_iter().map(|(key, _)| key).collect();
            assert!(!left.contains(&gone), "{left:?}");
            assert_eq!(left.len(), scene.objects() - 1, "{left:?}");
        }
    });
}

#[test]
fn the_oldest_copies_go_when_they_take_too_much_room() {
    runtime().block_on(async {
        let scene = Scene::new(3).await;
        let names: Vec<Key> = scene.repo.indexes.keys().cloned().collect();
        for (age, key) in names.iter().enumerate() {
            // Nothing that could replace the copy, and a copy that is far too large.
            scene.storage.put_raw(key, "damaged", SystemTime::now());
            let modified = SystemTime::now() - Duration::from_secs(60 * age as u64);
            scene.cache.put_raw(key, vec![0; 60 << 20], modified);
        }
        let (_, damaged) = scene.open().await.find_indexes().await.unwrap();
        assert_eq!(damaged.len(), 3);
        let left: Vec<Key> = scene.copies().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, names[..2], "the oldest is the last");
    });
}

#[test]
fn a_restore_with_copies_brings_everything_back_and_goes_on_without() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind, 3).await;
            let folder = scratch();
            let cache = folder.path().join("cache/of/it");
            for round in ["cold", "warm", "spoilt", "gone"] {
                match round {
                    "spoilt" => {
                        for (path, bytes) in files_below(&cache) {
                            std::fs::write(cache.join(path), &bytes[..bytes.len() / 2]).unwrap();
                        }
                    }
                    "gone" => std::fs::remove_dir_all(&cache).unwrap(),
                    _ => {}
                }
                let local = location::folder(&cache).await.unwrap();
                let repository = opened(shared(&scene.storage)).await.unwrap().cached(local);
                let made = &scene.made[2];
                let target = folder.path().join(round);
                let options = RestoreOptions { target: target.clone(), ..RestoreOptions::default() };
                let context: Context = context();
                restore(&repository, Arc::new(Msgvault), Selection::Latest, options, &context).await.unwrap();
                assert_same_files(&files_below(&target), &made.files, round);
                use std::os::unix::fs::PermissionsExt;
                for (path, _) in files_below(&cache) {
                    let mode = std::fs::metadata(cache.join(&path)).unwrap().permissions().mode();
                    assert_eq!(mode & 0o777, 0o600, "{path}");
                }
                assert_eq!(std::fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
            }
        }
    });
}
