//! The danger: something is damaged here and whole in a copy, and it cannot be brought back; or bringing it back loses
//! what was still whole, believes what is not, or deletes what somebody may want to look at.
//!
//! The table of damage with a second place: whatever is whole in one of two is healed. `PACKVAULT_FIRE=all` brings
//! every snapshot back after every case.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use packvault::engine::copy::{CopyOptions, copy};
use packvault::engine::heal::{HealOptions, heal};
use packvault::engine::repair::{RepairOptions, repair_index};
use packvault::engine::report::HealReport;
use packvault::profiles;
use packvault::profiles::msgvault::Msgvault;
use packvault::repo::notes::Note;
use packvault_storage::{Key, MemoryStorage, Storage};

use crate::support::anatomy::{Repo, Role, dissect, pack_key};
use crate::support::memory_repo::*;

/// A repository, and a copy of it that is sealed in the other way.
struct Pair {
    here: MemoryStorage,
    there: MemoryStorage,
    made: Vec<Made>,
    archive: Archive,
    repo: Repo,
}

impl Pair {
    async fn new(kind: Kind) -> Self {
        let (here, archive, made) = repository_of_kind(kind, 4).await;
        let note = Note { warnings: vec!["a file was left out".into()], complete: false, ..Note::default() };
        opened(shared(&here)).await.unwrap().publish_note(&made[1].id, &note).await.unwrap();
        let there = MemoryStorage::new();
        make_repository(&there, kind.opposite()).await.unwrap();
        let report = copy_to(&here, &there).await;
        assert_eq!(report, 4);
        let repo = dissect(&here);
        Self { here, there, made, archive, repo }
    }

    fn bytes(&self, key: &Key) -> Vec<u8> {
        self.here.objects().into_iter().find(|(found, _)| found == key).unwrap().1.to_vec()
    }

    /// Returns the repository in which these objects have other bytes, or are gone.
    fn with(&self, changes: &[(&Key, Option<Vec<u8>>)]) -> MemoryStorage {
        changed(&self.here, changes)
    }

    async fn expect_healed(&self, here: &MemoryStorage, changes: &[(&Key, Option<Vec<u8>>)], case: &str) {
        let report = healed(here, Some(&self.there), &HealOptions::default()).await;
        assert!(report.is_whole() && !report.healed.is_empty(), "{case}: {report:#?}");
        assert_sound(shared(here), case).await;
        let everything = std::env::var("PACKVAULT_FIRE").is_ok_and(|value| value == "all");
        for made in self.made.iter().rev().take(if everything { 4 } else { 1 }) {
            assert_comes_back(shared(here), made, case).await;
        }
        let objects: BTreeSet<Vec<u8>> =
            here.objects().into_iter().map(|(_, bytes)| bytes.to_vec()).collect();
        for (key, bytes) in changes {
            let kept = bytes.as_ref().is_none_or(|bytes| objects.contains(bytes));
            assert!(kept, "{case}: what was damaged of {key} is kept");
        }
        let before = here.objects();
        let again = healed(here, Some(&self.there), &HealOptions::default()).await;
        assert!(
            again.healed.is_empty() && again.left.is_empty(),
            "{case}: the second finds nothing: {again:#?}"
        );
        assert_eq!(here.objects(), before, "{case}");
    }
}

fn changed(storage: &MemoryStorage, changes: &[(&Key, Option<Vec<u8>>)]) -> MemoryStorage {
    let copy = MemoryStorage::new();
    for (key, bytes) in storage.objects() {
        match changes.iter().find(|(changed, _)| **changed == key) {
            None => copy.put_raw(&key, bytes, SystemTime::now()),
            Some((_, Some(bytes))) => copy.put_raw(&key, bytes.clone(), SystemTime::now()),
            Some((_, None)) => {}
        }
    }
    copy
}

async fn copy_to(from: &MemoryStorage, to: &MemoryStorage) -> usize {
    let (from, to) = (opened(shared(from)).await.unwrap(), opened(shared(to)).await.unwrap());
    let options = CopyOptions::default();
    let report = copy(&from, &to, profiles::unnamed(), &options, &context()).await.unwrap();
    assert!(report.is_whole(), "{report:#?}");
    report.copied.len()
}

async fn healed(here: &MemoryStorage, there: Option<&MemoryStorage>, options: &HealOptions) -> HealReport {
    let repository = opened(shared(here)).await.unwrap();
    let from = match there {
        Some(there) => Some(opened(shared(there)).await.unwrap()),
        None => None,
    };
    heal(&repository, from.as_ref(), Arc::new(Msgvault), options, &context()).await.unwrap()
}

fn flipped(bytes: &[u8], at: usize) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    Some(bytes)
}

/// Returns the ways in which an object can be damaged.
fn ways(bytes: &[u8]) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let length = bytes.len();
    vec![
        ("flipped at the beginning", flipped(bytes, 0)),
        ("flipped in the middle", flipped(bytes, length / 2)),
        ("flipped at the end", flipped(bytes, length - 1)),
        ("cut", Some(bytes[..length / 2].to_vec())),
        ("empty", Some(Vec::new())),
        ("lost", None),
    ]
}

fn of_folder(storage: &MemoryStorage, folder: &str) -> Vec<Key> {
    let keys = storage.objects().into_iter().map(|(key, _)| key);
    keys.filter(|key| key.as_str().starts_with(folder)).collect()
}

#[test]
fn whatever_is_whole_in_one_of_two_places_is_healed() {
    runtime().block_on(async {
        for kind in KINDS {
            let pair = Pair::new(kind).await;
            let mut keys = of_folder(&pair.here, "packs/");
            keys.extend(of_folder(&pair.here, "indexes/"));
            keys.extend(of_folder(&pair.here, "snapshots/"));
            // The last snapshot is a keyframe, and the one before it no other's parent: lost, they are not missed.
            let unmissed: Vec<String> =
                pair.made[2..].iter().map(|made| format!("snapshots/{}.mvmanifest", made.id)).collect();
            for key in &keys {
                for (way, bytes) in ways(&pair.bytes(key)) {
                    if bytes.is_none() && unmissed.contains(&key.to_string()) {
                        continue;
                    }
                    let (case, changes) = (format!("{kind:?}: {key} {way}"), [(key, bytes)]);
                    let here = pair.with(&changes);
                    pair.expect_healed(&here, &changes, &case).await;
                }
            }
        }
    });
}

#[test]
fn a_damaged_blob_of_every_kind_is_healed() {
    runtime().block_on(async {
        for kind in KINDS {
            let pair = Pair::new(kind).await;
            for role in Role::ALL {
                let needs = pair.repo.snapshots.iter().flat_map(|found| &found.needs);
                let mut blobs = needs.filter(|(_, roles)| roles.contains(&role)).map(|(id, _)| *id);
                let blob = blobs.find(|id| pair.repo.blobs[id].entry.stored_bytes > 0).unwrap();
                let place = &pair.repo.blobs[&blob];
                let key = pack_key(&place.pack);
                let changes = [(&key, flipped(&pair.bytes(&key), place.entry.offset as usize))];
                let here = pair.with(&changes);
                pair.expect_healed(&here, &changes, &format!("{kind:?}: a {role:?}")).await;
            }
        }
    });
}

#[test]
fn all_of_a_kind_at_once_and_everything_at_once_is_healed() {
    runtime().block_on(async {
        for kind in KINDS {
            let pair = Pair::new(kind).await;
            for folders in [&["packs/"][..], &["indexes/"], &["packs/", "indexes/"]] {
                let keys: Vec<Key> =
                    folders.iter().flat_map(|folder| of_folder(&pair.here, folder)).collect();
                for way in [2, 3, 5] {
                    let changes: Vec<(&Key, Option<Vec<u8>>)> =
                        keys.iter().map(|key| (key, ways(&pair.bytes(key)).swap_remove(way).1)).collect();
                    let here = pair.with(&changes);
                    pair.expect_healed(&here, &changes, &format!("{kind:?}: all of {folders:?}, {way}"))
                        .await;
                }
            }
        }
    });
}

#[test]
fn of_a_pack_that_is_damaged_in_both_places_everything_comes_from_where_it_is_whole() {
    runtime().block_on(async {
        let pair = Pair::new(Kind::Plain).await;
        let (pack, (key, entries)) =
            pair.repo.packs.iter().max_by_key(|(_, (_, entries))| entries.len()).unwrap();
        let there = dissect_offsets(&pair.there, &pack.to_string()).await;
        let (one, other) = (entries[0], entries[entries.len() - 1]);
        let here = pair.with(&[(key, flipped(&pair.bytes(key), one.offset as usize))]);
        let bytes = pair.there.objects().into_iter().find(|(found, _)| found == key).unwrap().1.to_vec();
        let offset = there.iter().find(|(id, _)| *id == other.id).unwrap().1;
        let copy = changed(&pair.there, &[(key, flipped(&bytes, offset as usize + 30))]);
        let report = healed(&here, Some(&copy), &HealOptions::default()).await;
        assert!(report.is_whole(), "{report:#?}");
        assert_sound(shared(&here), "here").await;
        let report = healed(&copy, Some(&here), &HealOptions::default()).await;
        assert!(report.is_whole(), "{report:#?}");
        assert_sound(shared(&copy), "there").await;
    });
}

/// Returns where the blobs of a pack lie, sealed or not.
async fn dissect_offsets(storage: &MemoryStorage, pack: &str) -> Vec<(packvault::format::BlobId, u64)> {
    let repository = opened(shared(storage)).await.unwrap();
    let (union, lengths) =
        (repository.load_indexes().await.unwrap(), repository.pack_lengths().await.unwrap());
    let union = Arc::new(union.settled(&lengths));
    let store = packvault::repo::blobs::BlobStore::new(repository, union, lengths);
    let pack = packvault::format::PackId::parse(pack).unwrap();
    store.entries_of(&pack).await.unwrap().iter().map(|entry| (entry.id, entry.offset)).collect()
}

#[test]
fn what_no_place_has_whole_is_named_and_what_is_left_of_it_stays_where_it_is() {
    runtime().block_on(async {
        let pair = Pair::new(Kind::Plain).await;
        let (_, (key, entries)) =
            pair.repo.packs.iter().max_by_key(|(_, (_, entries))| entries.len()).unwrap();
        let lost = entries[0];
        let damage = flipped(&pair.bytes(key), lost.offset as usize);
        let here = pair.with(&[(key, damage.clone())]);
        let report = healed(&here, None, &HealOptions::default()).await;
        assert!(!report.is_whole() && report.healed.is_empty(), "{report:#?}");
        assert!(report.left.iter().any(|problem| problem.blob == Some(lost.id.to_string())), "{report:#?}");
        assert_eq!(here.objects(), pair.with(&[(key, damage)]).objects(), "nothing was moved");
        let suffer = pair.repo.sufferers([&lost.id]);
        for made in pair.made.iter().filter(|made| !suffer.contains(&made.id)) {
            assert_comes_back(shared(&here), made, "the others").await;
        }
    });
}

#[test]
fn a_dry_run_names_the_damage_and_changes_nothing() {
    runtime().block_on(async {
        let pair = Pair::new(Kind::Encrypted).await;
        for key in pair.here.objects().into_iter().map(|(key, _)| key) {
            if ["packs/", "indexes/", "snapshots/"].iter().all(|folder| !key.as_str().starts_with(folder)) {
                continue;
            }
            let here = pair.with(&[(&key, flipped(&pair.bytes(&key), 0))]);
            let before = here.objects();
            let options = HealOptions { dry_run: true, ..HealOptions::default() };
            let report = healed(&here, Some(&pair.there), &options).await;
            assert!(!report.is_whole(), "{key}: {report:#?}");
            assert_eq!(here.objects(), before, "{key}");
        }
    });
}

#[test]
fn attachments_come_back_from_the_live_archive_alone() {
    runtime().block_on(async {
        for kind in KINDS {
            let pair = Pair::new(kind).await;
            let needs = pair.repo.snapshots.iter().flat_map(|found| &found.needs);
            let attachments = needs.filter(|(_, roles)| roles.contains(&Role::Attachment)).map(|(id, _)| *id);
            let blob = attachments.clone().next().unwrap();
            let place = &pair.repo.blobs[&blob];
            let key = pack_key(&place.pack);
            let here = pair.with(&[(&key, flipped(&pair.bytes(&key), place.entry.offset as usize))]);
            let folder: PathBuf = pair.archive.paths().content;
            let file = folder.join(&blob.to_string()[..2]).join(blob.to_string());
            let whole = std::fs::read(&file).unwrap();
            std::fs::write(&file, "not what it is called").unwrap();
            let options = HealOptions { attachments: Some(folder), ..HealOptions::default() };
            assert!(!healed(&here, None, &options).await.is_whole(), "its content is not what its name says");
            std::fs::write(&file, whole).unwrap();
            let report = healed(&here, None, &options).await;
            assert!(report.is_whole() && !report.healed.is_empty(), "{report:#?}");
            assert_sound(shared(&here), "attachments").await;
        }
    });
}

#[test]
fn indexes_are_made_anew_from_the_packs_alone() {
    runtime().block_on(async {
        for kind in KINDS {
            let pair = Pair::new(kind).await;
            let keys = of_folder(&pair.here, "indexes/");
            for (number, (way, _)) in ways(&pair.bytes(&keys[0])).into_iter().enumerate() {
                let changes: Vec<(&Key, Option<Vec<u8>>)> =
                    keys.iter().map(|key| (key, ways(&pair.bytes(key)).swap_remove(number).1)).collect();
                let here = pair.with(&changes);
                let repository = opened(shared(&here)).await.unwrap();
                let dry = RepairOptions { dry_run: true, ..RepairOptions::default() };
                let before = here.objects();
                let would = repair_index(&repository, dry, &context()).await.unwrap();
                assert_eq!(here.objects(), before, "{way}");
                let report = repair_index(&repository, RepairOptions::default(), &context()).await.unwrap();
                assert_eq!((report.blobs, report.packs), (would.blobs, would.packs), "{way}");
                assert!(report.problems.is_empty() && report.indexes_written == 1, "{way}: {report:#?}");
                assert_eq!(report.moved.len(), if way == "lost" { 0 } else { keys.len() }, "{way}");
                assert_eq!(of_folder(&here, "damaged/").len(), report.moved.len(), "{way}");
                assert_sound(shared(&here), way).await;
                let newest = pair.made.last().unwrap();
                assert_comes_back(shared(&here), newest, way).await;
                let again = repair_index(&repository, RepairOptions::default(), &context()).await.unwrap();
                assert_eq!(
                    (again.indexes_written, again.moved.len()),
                    (0, 0),
                    "{way}: there is nothing left"
                );
                capture(shared(&here), &pair.archive).await.unwrap();
            }
        }
    });
}

#[test]
fn a_snapshot_that_only_the_copy_has_is_no_damage_and_comes_by_a_copy_back() {
    runtime().block_on(async {
        let pair = Pair::new(Kind::Plain).await;
        let newest = crate::support::anatomy::manifest_key(&pair.made[3].id);
        let here = pair.with(&[(&newest, None)]);
        let report = healed(&here, Some(&pair.there), &HealOptions::default()).await;
        assert!(report.is_whole() && !here.objects().iter().any(|(key, _)| *key == newest), "{report:#?}");
        assert_eq!(copy_to(&pair.there, &here).await, 1);
        assert_comes_back(shared(&here), &pair.made[3], "back").await;
        let _: Arc<dyn Storage> = shared(&here);
    });
}
