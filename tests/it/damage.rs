//! The danger: a byte of the repository rots, an object is cut short, lost or exchanged, and packvault calls
//! the repository sound, restores rubbish, touches the target before it knows, or blames the wrong snapshot.
//!
//! A table: every class of bytes of every object of a small repository is damaged in turn. What each snapshot
//! needs is worked out here without the engine, and `verify` must name exactly the snapshots that suffer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::engine::Selection;
use packvault::engine::restore::{RestoreOptions, restore};
use packvault::format::{BlobId, PackId};
use packvault::profiles::msgvault::Msgvault;
use packvault::repo::notes::Note;
use packvault::{ErrorKind, Result};
use packvault_storage::{Key, MemoryStorage};

use crate::support::anatomy::{Repo, Role, dissect, manifest_key, pack_key};
use crate::support::memory_repo::*;

/// No case may take longer; a case takes a fraction of a second.
const HANG_AFTER: Duration = Duration::from_secs(60);

/// A repository, and all that is known of it.
struct Scene {
    kind: Kind,
    storage: MemoryStorage,
    made: Vec<Made>,
    repo: Repo,
    objects: BTreeMap<Key, Vec<u8>>,
}

/// One kind of damage, and who suffers from it.
struct Case {
    name: String,
    storage: MemoryStorage,
    /// The snapshots that verify must name, and no others.
    suffer: BTreeSet<String>,
    /// The snapshots that cannot be restored.
    lost: BTreeSet<String>,
    /// What the problems of each sufferer must name.
    named: Vec<String>,
    /// What a problem that is no snapshot's alone must name.
    shared: Option<String>,
}

impl Scene {
    /// Four snapshots: a keyframe, two deltas on it, and a keyframe again; each with a pack and an index.
    async fn new() -> Self {
        Self::of(Kind::Plain).await
    }

    async fn of(kind: Kind) -> Self {
        let (storage, _archive, made) = repository_of_kind(kind, 4).await;
        let note = Note { warnings: vec!["a file was left out".into()], complete: false, ..Note::default() };
        opened(shared(&storage)).await.unwrap().publish_note(&made[1].id, &note).await.unwrap();
        let repo = dissect(&storage);
        let depths: Vec<i64> = repo.snapshots.iter().map(|found| found.manifest.db.map_chain_depth).collect();
        assert_eq!(depths, [0, 1, 2, 0], "the scene needs deltas and a keyframe among them");
        assert_eq!((repo.packs.len(), repo.indexes.len()), (4, 4));
        let objects = storage.objects().into_iter().map(|(key, bytes)| (key, bytes.to_vec())).collect();
        Self { kind, storage, made, repo, objects }
    }

    /// Returns a copy of the repository in which one object has other bytes, or is gone.
    fn with(&self, changes: &[(&Key, Option<Vec<u8>>)]) -> MemoryStorage {
        let copy = MemoryStorage::new();
        for (key, bytes) in &self.objects {
            match changes.iter().find(|(changed, _)| *changed == key) {
                None => copy.put_raw(key, bytes.clone(), SystemTime::now()),
                Some((_, Some(bytes))) => copy.put_raw(key, bytes.clone(), SystemTime::now()),
                Some((_, None)) => {}
            }
        }
        copy
    }

    fn case(&self, name: String, changes: &[(&Key, Option<Vec<u8>>)]) -> Case {
        let storage = self.with(changes);
        Case { name, storage, suffer: [].into(), lost: [].into(), named: vec![], shared: None }
    }

    fn flipped(&self, key: &Key, at: usize, bits: u8) -> Option<Vec<u8>> {
        let mut bytes = self.objects[key].clone();
        bytes[at] ^= bits;
        Some(bytes)
    }

    /// The whole pack is of no use any more.
    fn pack_case(&self, name: &str, pack: &PackId, bytes: Option<Vec<u8>>) -> Case {
        let (key, entries) = &self.repo.packs[pack];
        let blobs: Vec<BlobId> = entries.iter().map(|entry| entry.id).collect();
        Case {
            suffer: self.repo.sufferers(&blobs),
            lost: self.repo.readers(&blobs),
            named: vec![pack.to_string()],
            ..self.case(format!("pack {pack}: {name}"), &[(key, bytes)])
        }
    }

    /// One blob is of no use any more.
    fn blob_case(&self, name: &str, blob: &BlobId, bytes: Option<Vec<u8>>) -> Case {
        let place = &self.repo.blobs[blob];
        Case {
            suffer: self.repo.sufferers([blob]),
            lost: self.repo.readers([blob]),
            named: vec![blob.to_string(), place.pack.to_string()],
            ..self.case(format!("blob {blob}: {name}"), &[(&pack_key(&place.pack), bytes)])
        }
    }

    /// The index file is of no use any more; blobs that no other index names cannot be found.
    fn index_case(&self, name: &str, index: &Key, bytes: Option<Vec<u8>>) -> Case {
        let others = self.repo.indexes.iter().filter(|(key, _)| *key != index);
        let elsewhere: BTreeSet<&BlobId> = others.flat_map(|(_, blobs)| blobs).collect();
        let gone: Vec<&BlobId> =
            self.repo.indexes[index].iter().filter(|blob| !elsewhere.contains(blob)).collect();
        let shared = bytes.is_some().then(|| format!("index {}", index.name()));
        Case {
            suffer: self.repo.sufferers(gone.iter().copied()),
            // A restore wants every blob of the page map to be indexed, those without a page too.
            lost: self.repo.sufferers(gone.iter().copied()),
            named: vec!["no index names it".into()],
            shared,
            ..self.case(format!("{index}: {name}"), &[(index, bytes)])
        }
    }

    /// The manifest is of no use any more; chains through it are broken.
    fn manifest_case(&self, name: &str, id: &str, bytes: Option<Vec<u8>>) -> Case {
        let through = self.repo.snapshots.iter().filter(|found| found.chain.contains(id));
        let mut suffer: BTreeSet<String> = through.map(|found| found.manifest.snapshot_id.clone()).collect();
        let lost = suffer.clone();
        if bytes.is_none() {
            // A snapshot exists if and only if its manifest does.
            suffer.remove(id);
        }
        let named = vec![id.to_owned()];
        Case {
            suffer,
            lost,
            named,
            ..self.case(format!("manifest {id}: {name}"), &[(&manifest_key(id), bytes)])
        }
    }

    /// What lies beside the manifest is of no use any more, and the snapshot comes back all the same.
    fn beside_case(&self, name: &str, id: &str, object: &Key, bytes: Vec<u8>) -> Case {
        Case {
            suffer: [id.to_owned()].into(),
            named: vec![object.name().to_owned(), "the snapshot itself does not need it".into()],
            ..self.case(format!("{object}: {name}"), &[(object, Some(bytes))])
        }
    }

    /// Checks one case; only a thorough one restores what does not suffer.
    async fn judge(&self, case: &Case, thorough: bool) {
        let judged = tokio::time::timeout(HANG_AFTER, self.judge_unbounded(case, thorough));
        judged.await.unwrap_or_else(|_| panic!("{}: hangs", case.name));
    }

    async fn judge_unbounded(&self, case: &Case, thorough: bool) {
        self.judge_verify(case).await;
        for (number, made) in self.made.iter().enumerate() {
            if case.lost.contains(&made.id) {
                assert_refused(case, made, number % 2 == 1).await;
            } else if thorough {
                assert_comes_back(shared(&case.storage), made, &case.name).await;
            }
        }
    }

    async fn judge_verify(&self, case: &Case) {
        let name = &case.name;
        let report = check(shared(&case.storage), Selection::All, false).await;
        let report = report.unwrap_or_else(|error| panic!("{name}: no report: {error:?}"));
        let blamed: BTreeSet<String> =
            report.problems.iter().filter_map(|problem| problem.snapshot.clone()).collect();
        assert_eq!(blamed, case.suffer, "{name}: {:#?}", report.problems);
        for id in &case.suffer {
            let own = report.problems.iter().filter(|problem| problem.snapshot.as_ref() == Some(id));
            let told: Vec<String> = own.map(|problem| format!("{problem:?}")).collect();
            let is_named = |word: &String| told.iter().any(|line| line.contains(word));
            assert!(case.named.iter().all(is_named), "{name}: {:?} not in {told:#?}", case.named);
        }
        if let Some(word) = &case.shared {
            let mut common = report.problems.iter().filter(|problem| problem.snapshot.is_none());
            assert!(common.any(|problem| format!("{problem:?}").contains(word)), "{name}: {word} not named");
        }
        assert_eq!(report.ok, case.suffer.is_empty() && case.shared.is_none(), "{name}");
        // Quick sees less, but never what is not there, and never fails.
        let quick = check(shared(&case.storage), Selection::All, true).await;
        let quick = quick.unwrap_or_else(|error| panic!("{name}: no quick report: {error:?}"));
        let blamed = quick.problems.iter().filter_map(|problem| problem.snapshot.as_ref());
        assert!(blamed.into_iter().all(|id| case.suffer.contains(id)), "{name}: {:#?}", quick.problems);
    }
}

/// Restores what cannot be restored: into a folder that is not there, or over one that holds something.
async fn assert_refused(case: &Case, made: &Made, overwrite: bool) {
    let folder = scratch();
    let target = folder.path().join("target");
    if overwrite {
        fill_target(&target);
    }
    let before = files_below(folder.path());
    let options = RestoreOptions { target: target.clone(), overwrite, ..RestoreOptions::default() };
    let restored = bring_back_with(shared(&case.storage), &made.id, options).await;
    let Err(error) = restored else { panic!("{}: {} was restored", case.name, made.id) };
    // A byte that rots may also claim a newer version, or a key.
    let kinds = [ErrorKind::Damaged, ErrorKind::NotFound, ErrorKind::Unsupported, ErrorKind::NoKey];
    assert!(kinds.contains(&error.kind()), "{}: {error:?}", case.name);
    assert_eq!(target.exists(), overwrite, "{}: the target is as it was", case.name);
    assert_same_files(&files_below(folder.path()), &before, &case.name);
}

fn note_key(id: &str) -> Key {
    key(&format!("snapshots/{id}.packvault.json"))
}

fn attributes_key(id: &str) -> Key {
    key(&format!("snapshots/{id}.packvault-attributes"))
}

fn fill_target(target: &Path) {
    std::fs::create_dir_all(target.join("attachments/ab")).unwrap();
    for (name, text) in [("msgvault.db", "old database"), ("msgvault.db-wal", "old log"), ("own.txt", "x")] {
        std::fs::write(target.join(name), text).unwrap();
    }
    std::fs::write(target.join("attachments/ab/kept"), "kept").unwrap();
}

/// Returns one blob of the role from each pack that has one.
fn blobs_of(repo: &Repo, role: Role) -> Vec<BlobId> {
    let mut chosen = BTreeMap::new();
    for needs in repo.snapshots.iter().map(|found| &found.needs) {
        for (id, _) in needs.iter().filter(|(_, roles)| roles.contains(&role)) {
            if repo.blobs[id].entry.stored_bytes > 0 {
                chosen.entry(repo.blobs[id].pack).or_insert(*id);
            }
        }
    }
    chosen.into_values().collect()
}

#[test]
fn the_undamaged_scene_is_sound_and_comes_back() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            assert_sound(shared(&scene.storage), "undamaged").await;
            for made in &scene.made {
                assert_comes_back(shared(&scene.storage), made, "undamaged").await;
            }
        }
    });
}

#[test]
fn a_flipped_byte_in_a_frame_of_any_kind_is_found() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            for role in Role::ALL {
                let blobs = blobs_of(&scene.repo, role);
                assert!(!blobs.is_empty(), "the scene has a {role:?}");
                for blob in blobs {
                    let place = scene.repo.blobs[&blob];
                    let (start, length) = (place.entry.offset as usize, place.entry.stored_bytes as usize);
                    for at in BTreeSet::from([0, length / 2, length - 1]) {
                        let bytes = scene.flipped(&pack_key(&place.pack), start + at, 1);
                        let case = scene.blob_case(&format!("{role:?} byte {at} flipped"), &blob, bytes);
                        scene.judge(&case, at == 0).await;
                    }
                }
            }
        }
    });
}

#[test]
fn a_flipped_byte_in_the_frame_of_a_pack_is_named_for_every_snapshot_that_shares_it() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let shared_by_all = scene.repo.blobs.keys().find(|id| scene.repo.sufferers([*id]).len() == 4);
        let blob = shared_by_all.expect("four snapshots of one archive share a blob");
        let place = scene.repo.blobs[blob];
        let bytes = scene.flipped(&pack_key(&place.pack), place.entry.offset as usize, 0x80);
        scene.judge(&scene.blob_case("flipped", blob, bytes), true).await;
    });
}

#[test]
fn a_flipped_byte_in_the_header_the_footer_or_the_trailer_of_a_pack_is_found() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            for (number, (pack, (key, entries))) in scene.repo.packs.iter().enumerate() {
                let places = match scene.kind {
                    Kind::Plain => places_beside_frames(scene.objects[key].len(), entries.len()),
                    Kind::Encrypted => places_beside_sealed_frames(scene.objects[key].len(), entries.len()),
                };
                // Every place in the first pack, which all snapshots share; some of them in the others.
                for (count, (name, at)) in places.iter().enumerate() {
                    if number == 0 || count % 7 == number {
                        let case = scene.pack_case(name, pack, scene.flipped(key, *at, 1));
                        scene.judge(&case, number > 0).await;
                    }
                }
            }
        }
    });
}

/// Header, footer and trailer of a plain pack.
fn places_beside_frames(length: usize, entries: usize) -> Vec<(String, usize)> {
    let footer = length - 40 - 4 - 61 * entries;
    let mut places: Vec<(String, usize)> = (0..6).map(|at| (format!("header byte {at}"), at)).collect();
    places.extend((0..4).map(|at| (format!("count byte {at}"), footer + at)));
    for entry in BTreeSet::from([0, entries - 1]) {
        let start = footer + 4 + 61 * entry;
        let fields = [("id", 0, 32), ("offset", 32, 8), ("stored", 40, 8), ("raw", 48, 8), ("flags", 56, 1)];
        for (field, from, bytes) in fields.into_iter().chain([("crc", 57, 4)]) {
            for at in BTreeSet::from([from, from + bytes - 1]) {
                places.push((format!("entry {entry} {field} byte {at}"), start + at));
            }
        }
    }
    let parts = [("length", 0, 4), ("hash", 4, 32), ("magic", 36, 4)];
    for (part, from, bytes) in parts {
        for at in BTreeSet::from([from, from + bytes - 1]) {
            places.push((format!("trailer {part} byte {at}"), length - 40 + at));
        }
    }
    places
}

/// The same of an encrypted one.
fn places_beside_sealed_frames(length: usize, entries: usize) -> Vec<(String, usize)> {
    let (trailer, footer) = (length - 20, length - 20 - 40 - 4 - 61 * entries);
    let mut places: Vec<(String, usize)> = (0..6).map(|at| (format!("header byte {at}"), at)).collect();
    places.extend(sealed_places(trailer - footer).map(|at| (format!("footer byte {at}"), footer + at)));
    let parts = [("offset", 0), ("offset", 7), ("length", 8), ("length", 15), ("magic", 16), ("magic", 19)];
    places.extend(parts.map(|(part, at)| (format!("trailer {part} byte {at}"), trailer + at)));
    places
}

/// The ends of nonce, content and tag of a sealed item, and its middle.
fn sealed_places(length: usize) -> impl Iterator<Item = usize> {
    [0, 23, 24, length / 2, length - 17, length - 16, length - 1].into_iter()
}

#[test]
fn a_pack_that_is_cut_short_lost_exchanged_or_longer_is_found() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            let all: Vec<_> = scene.repo.packs.iter().collect();
            for (number, (pack, (key, _))) in all.iter().enumerate() {
                let bytes = &scene.objects[key];
                let cut = |length: usize| Some(bytes[..length].to_vec());
                let longer = |more: &[u8]| Some([bytes, more].concat());
                let (_, (other, _)) = all[(number + 1) % all.len()];
                let cases = [
                    ("empty", cut(0)),
                    ("cut in the header", cut(5)),
                    ("cut after the header", cut(6)),
                    ("cut below a trailer", cut(39)),
                    ("cut in the middle", cut(bytes.len() / 2)),
                    ("last byte missing", cut(bytes.len() - 1)),
                    ("removed", None),
                    ("one byte longer", longer(b"x")),
                    ("longer by a whole trailer", longer(&bytes[bytes.len() - 40..])),
                    ("holds another pack", Some(scene.objects[other].clone())),
                ];
                for (name, bytes) in cases {
                    scene.judge(&scene.pack_case(name, pack, bytes), number > 0 && name == "removed").await;
                }
            }
            let [(one, (one_key, _)), (two, (two_key, _))] = [all[0], all[1]];
            let swapped = [
                (one_key, Some(scene.objects[two_key].clone())),
                (two_key, Some(scene.objects[one_key].clone())),
            ];
            let (first, second) = (scene.pack_case("", one, None), scene.pack_case("", two, None));
            let case = Case {
                suffer: &first.suffer | &second.suffer,
                lost: &first.lost | &second.lost,
                ..scene.case("two packs swapped".into(), &swapped)
            };
            scene.judge(&case, true).await;
        }
    });
}

#[test]
fn a_damaged_index_is_named_and_only_what_it_alone_named_suffers() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            for (number, (key, blobs)) in scene.repo.indexes.iter().enumerate() {
                let bytes = &scene.objects[key];
                let (length, last) = (bytes.len(), 10 + 65 * (blobs.len() - 1));
                let mut places: Vec<usize> = (0..10).collect();
                for entry in [10, last] {
                    places.extend([0, 31, 32, 47, 48, 55, 56, 63, 64].map(|at| entry + at));
                }
                places.extend([length - 32, length - 1]);
                if scene.kind == Kind::Encrypted {
                    places = sealed_places(length).collect();
                }
                for (count, at) in places.into_iter().enumerate() {
                    if number == 0 || count % 7 == number {
                        let bytes = scene.flipped(key, at, 1);
                        let case = scene.index_case(&format!("byte {at} flipped"), key, bytes);
                        scene.judge(&case, number > 0).await;
                    }
                }
                for (name, bytes) in [
                    ("empty", Some(vec![])),
                    ("cut in the middle", Some(bytes[..length / 2].to_vec())),
                    ("last byte missing", Some(bytes[..length - 1].to_vec())),
                    ("longer", Some([bytes.as_slice(), b"x"].concat())),
                    ("removed", None),
                ] {
                    scene.judge(&scene.index_case(name, key, bytes), number > 0 && name == "removed").await;
                }
            }
        }
    });
}

#[test]
fn a_manifest_with_any_line_changed_is_named_and_breaks_only_chains_through_it() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        for (number, made) in scene.made.iter().enumerate() {
            let bytes = &scene.objects[&manifest_key(&made.id)];
            let text = std::str::from_utf8(bytes).unwrap();
            let mut start = 0;
            for (count, line) in text.split_inclusive('\n').enumerate() {
                let content = line.trim();
                let from = start + line.find(content).unwrap();
                let value = content.find(": ").map_or(content.len() / 2, |colon| colon + 2);
                // The key's first byte and the value's first and middle bytes, or those of an element.
                let places = [content.len().min(1), value, (value + content.len()) / 2]
                    .map(|at| at.min(content.len() - 1));
                for at in BTreeSet::from(places) {
                    if number == 0 || (count + at) % 11 == number {
                        let bytes = scene.flipped(&manifest_key(&made.id), from + at, 1);
                        let case =
                            scene.manifest_case(&format!("{content:?} byte {at} flipped"), &made.id, bytes);
                        scene.judge(&case, false).await;
                    }
                }
                start += line.len();
            }
        }
    });
}

#[test]
fn a_manifest_that_is_cut_short_exchanged_renamed_or_longer_is_named() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            for (number, made) in scene.made.iter().enumerate() {
                let bytes = &scene.objects[&manifest_key(&made.id)];
                let other = &scene.made[(number + 1) % scene.made.len()].id;
                let newer = String::from_utf8_lossy(bytes)
                    .replace("\"min_reader_version\": 1", "\"min_reader_version\": 9");
                for (name, bytes) in [
                    ("empty", vec![]),
                    ("cut in the middle", bytes[..bytes.len() / 2].to_vec()),
                    ("last byte missing", bytes[..bytes.len() - 1].to_vec()),
                    ("longer", [bytes.as_slice(), b"x"].concat()),
                    ("twice", [bytes.as_slice(), bytes].concat()),
                    ("with a byte order mark", [b"\xef\xbb\xbf", bytes.as_slice()].concat()),
                    ("another snapshot's", scene.objects[&manifest_key(other)].clone()),
                    ("of a newer version", newer.into_bytes()),
                ] {
                    let case = scene.manifest_case(name, &made.id, Some(bytes));
                    scene.judge(&case, name == "empty").await;
                }
            }
        }
    });
}

#[test]
fn a_sealed_manifest_with_any_part_changed_is_named_and_breaks_only_chains_through_it() {
    runtime().block_on(async {
        let scene = Scene::of(Kind::Encrypted).await;
        for made in &scene.made {
            let key = manifest_key(&made.id);
            for at in sealed_places(scene.objects[&key].len()) {
                let bytes = scene.flipped(&key, at, 1);
                scene
                    .judge(&scene.manifest_case(&format!("byte {at} flipped"), &made.id, bytes), at == 0)
                    .await;
            }
        }
    });
}

#[test]
fn a_lost_manifest_is_a_snapshot_less_and_breaks_the_chains_through_it() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            for made in &scene.made {
                scene.judge(&scene.manifest_case("removed", &made.id, None), true).await;
            }
        }
    });
}

#[test]
fn a_damaged_note_or_damaged_attributes_are_named_and_cost_no_snapshot() {
    runtime().block_on(async {
        for kind in KINDS {
            let scene = Scene::of(kind).await;
            let id = &scene.made[1].id;
            let (note, attributes) = (note_key(id), attributes_key(id));
            for (number, object) in [&note, &attributes].into_iter().enumerate() {
                let whole = &scene.objects[object];
                // Of attributes, only a few bits of the frame's header say nothing.
                let every: Vec<usize> = (0..whole.len()).collect();
                let few = || vec![0, whole.len() / 2, whole.len() - 1];
                let places = match scene.kind {
                    Kind::Encrypted => sealed_places(whole.len()).collect(),
                    Kind::Plain => {
                        if number == 0 {
                            every
                        } else {
                            few()
                        }
                    }
                };
                for at in places {
                    let bytes = scene.flipped(object, at, 1).unwrap();
                    let case = scene.beside_case(&format!("byte {at} flipped"), id, object, bytes);
                    scene.judge(&case, at == whole.len() / 2).await;
                }
                for (name, bytes) in [
                    ("empty", vec![]),
                    ("cut in the middle", whole[..whole.len() / 2].to_vec()),
                    ("last byte missing", whole[..whole.len() - 1].to_vec()),
                    ("a manifest", scene.objects[&manifest_key(id)].clone()),
                    ("of a newer version", br#"{"version":9}"#.to_vec()),
                ] {
                    scene.judge(&scene.beside_case(name, id, object, bytes), name == "empty").await;
                }
                // Without the object, and with one that belongs to no manifest, nothing is known to be wrong.
                scene.judge(&scene.case(format!("{object} removed"), &[(object, None)]), true).await;
                let others = scene.with(&[(object, None)]);
                let orphan = key(&object.as_str().replace(&id[..8], "20010101"));
                others.put_raw(&orphan, "damaged", SystemTime::now());
                assert_sound(shared(&others), "without a manifest").await;
            }
        }
    });
}

#[test]
fn what_is_lost_with_a_note_or_attributes_is_said_and_no_snapshot_is_to_be_given_up() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let id = &scene.made[1].id;
        for (object, bytes, says, kind) in [
            (note_key(id), "damaged", "what was said when it was made is lost", "damaged"),
            (note_key(id), r#"{"version":9}"#, "upgrade packvault", "newer"),
            (attributes_key(id), "damaged", "owners, modes and times of its files are lost", "damaged"),
        ] {
            let folder = scratch();
            write_repository(folder.path(), &scene.with(&[(&object, Some(bytes.into()))]));
            let verify = ["verify", "--all", "--json", "--repo", "./repo"];
            let (code, json, _) = packvault(folder.path(), &verify);
            assert_eq!(code, Some(3), "{json}");
            let report: serde_json::Value = serde_json::from_str(&json).unwrap();
            let [problem] = &report["problems"].as_array().unwrap()[..] else { panic!("{json}") };
            assert_eq!((problem["snapshot"].as_str(), problem["kind"].as_str()), (Some(&**id), Some(kind)));
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(says) && detail.contains("another copy of the repository"), "{detail}");
            assert!(!detail.contains("given up"), "{detail}");
            let restore = ["restore", id, "--repo", "./repo", "--target", "target"];
            let (code, _, error) = packvault(folder.path(), &restore);
            assert_eq!(code, Some(0), "{error}");
        }
    });
}

#[test]
fn the_newest_snapshot_comes_back_beside_damaged_manifests_that_it_does_not_build_on() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let newest = &scene.made[3];
        for made in &scene.made[..3] {
            let storage = scene.with(&[(&manifest_key(&made.id), Some(b"damaged".to_vec()))]);
            let (folder, repository) = (scratch(), opened(shared(&storage)).await.unwrap());
            let target = folder.path().join("target");
            let options = RestoreOptions { target: target.clone(), ..RestoreOptions::default() };
            let latest = Selection::Latest;
            let report = restore(&repository, Arc::new(Msgvault), latest, options, &context()).await.unwrap();
            assert_eq!(report.id, newest.id);
            assert_same_files(&files_below(&target), &newest.files, &made.id);
        }
        let storage = scene.with(&[(&manifest_key(&newest.id), Some(b"damaged".to_vec()))]);
        let (folder, repository) = (scratch(), opened(shared(&storage)).await.unwrap());
        let options = RestoreOptions { target: folder.path().join("target"), ..RestoreOptions::default() };
        let latest = Selection::Latest;
        let refused = restore(&repository, Arc::new(Msgvault), latest, options, &context()).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Damaged, "an older one is not taken instead");
    });
}

/// These bytes may change by the format: nothing that is stored depends on them.
#[test]
fn changes_that_the_format_calls_harmless_are_no_problem() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let key = manifest_key(&scene.made[1].id);
        let text = String::from_utf8(scene.objects[&key].clone()).unwrap();
        // A manifest's id covers the parsed value: white space outside of values and the order of keys may
        // change, and white space may follow.
        let (first, second) = ("  \"format_version\": 1,\n", "  \"min_reader_version\": 1,\n");
        let reordered = text.replace(&format!("{first}{second}"), &format!("{second}{first}"));
        assert_ne!(reordered, text);
        let manifests = [
            ("another indent", text.replace("\n  ", "\n\t")),
            ("carriage returns", text.replace('\n', "\r\n")),
            ("white space behind", format!("{text} \r\n\t")),
            ("keys in another order", reordered),
        ];
        let mut cases: Vec<Case> = manifests
            .into_iter()
            .map(|(name, text)| scene.case(name.into(), &[(&key, Some(text.into_bytes()))]))
            .collect();
        // The name of an index says nothing; its content is what counts.
        let [one, two] = [0, 1].map(|at| scene.repo.indexes.keys().nth(at).unwrap());
        let swapped = [(one, Some(scene.objects[two].clone())), (two, Some(scene.objects[one].clone()))];
        cases.push(scene.case("two indexes swapped".into(), &swapped));
        for case in &cases {
            scene.judge(case, true).await;
        }
    });
}

#[test]
fn a_damaged_configuration_is_refused_by_every_command_or_changes_nothing() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let key = key("config.toml");
        let text = String::from_utf8(scene.objects[&key].clone()).unwrap();
        let damaged = Some(ErrorKind::Damaged);
        let unsupported = Some(ErrorKind::Unsupported);
        let replaced = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, to, 1)
        };
        let id = text.lines().next().unwrap();
        let cases: Vec<(&str, String, Option<ErrorKind>)> = vec![
            ("empty", String::new(), damaged),
            ("cut in the middle of a value", text[..30].to_owned(), damaged),
            ("cut after the id", format!("{id}\n"), damaged),
            ("garbage behind", format!("{text}\0\u{1}"), damaged),
            ("a key twice", format!("{text}page_size = 1\n"), damaged),
            ("key repo_id changed", replaced("repo_id", "repo_ie"), damaged),
            ("repo_id no id", replaced("repo_id = \"", "repo_id = \"x"), damaged),
            ("repo_id without its quote", replaced("repo_id = \"", "repo_id = "), damaged),
            ("repo_id a number", replaced(id, "repo_id = 1"), damaged),
            ("key encryption changed", replaced("encryption", "encryptioo"), damaged),
            ("encryption other", replaced("\"none\"", "\"nonf\""), unsupported),
            ("encryption a number", replaced("\"none\"", "0"), damaged),
            ("level too high", replaced("min_reader_version = 1", "min_reader_version = 9"), unsupported),
            ("level a string", replaced("min_reader_version = 1", "min_reader_version = \"1\""), damaged),
            ("page_size a string", replaced("page_size = 4096", "page_size = \"\""), damaged),
            ("created_at a number", replaced("created_at = \"", "created_at = 1 # \""), damaged),
            ("not UTF-8", String::new(), damaged),
            // Harmless: nothing that is stored depends on these bytes, and no reader could tell.
            ("last byte missing", text[..text.len() - 1].to_owned(), None),
            ("another repo_id", replaced("repo_id = \"", "repo_id = \"").replace(&id[11..13], "00"), None),
            ("another format_version", replaced("\nformat_version = 1", "\nformat_version = 0"), None),
            ("a lower level", replaced("min_reader_version = 1", "min_reader_version = 0"), None),
            ("another time", replaced("created_at = \"2", "created_at = \"3"), None),
            ("another page_size", replaced("page_size = 4096", "page_size = 4097"), None),
            ("key page_size changed", replaced("page_size", "page_sizd"), None),
            ("more white space", replaced(" = ", "   =\t"), None),
        ];
        for (name, text, expected) in cases {
            let bytes = if name == "not UTF-8" { vec![0xff] } else { text.into_bytes() };
            judge_config(&scene, name, scene.with(&[(&key, Some(bytes))]), expected).await;
        }
        judge_config(&scene, "removed", scene.with(&[(&key, None)]), Some(ErrorKind::ConfigLost)).await;
    });
}

async fn judge_config(scene: &Scene, name: &str, storage: MemoryStorage, expected: Option<ErrorKind>) {
    let kind = |result: Result<()>| result.err().map(|error| error.kind());
    let verified = check(shared(&storage), Selection::All, false).await;
    assert!(verified.as_ref().map_or(true, |report| report.ok), "{name}: {verified:?}");
    assert_eq!(kind(verified.map(drop)), expected, "{name}");
    let folder = scratch();
    let target = folder.path().join("target");
    let restored = bring_back(shared(&storage), &scene.made[1].id, &target).await;
    assert_eq!(kind(restored.map(drop)), expected, "{name}");
    assert_eq!(target.exists(), expected.is_none(), "{name}");
}

fn packvault(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_packvault"));
    command.env_clear().env("HOME", folder).env("TMPDIR", folder).current_dir(folder);
    let output = command.args(arguments).stdin(std::process::Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn write_repository(folder: &Path, storage: &MemoryStorage) {
    for (key, bytes) in storage.objects() {
        let path = folder.join("repo").join(key.as_str());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn the_program_exits_with_three_for_damage_and_names_it() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let last = &scene.made[3].id;
        let attachment = blobs_of(&scene.repo, Role::Attachment)[0];
        let place = scene.repo.blobs[&attachment];
        let pack = pack_key(&place.pack);
        let index = scene.repo.indexes.keys().next().unwrap();
        let frame = scene.flipped(&pack, place.entry.offset as usize, 1);
        let manifest = scene.flipped(&manifest_key(last), 100, 1);
        for (key, bytes, named) in [
            (&pack, frame, vec![attachment.to_string(), place.pack.to_string()]),
            (&pack, None, vec![place.pack.to_string()]),
            (&manifest_key(last), manifest, vec![last.clone()]),
            (index, Some(vec![]), vec![index.name().to_owned()]),
        ] {
            let folder = scratch();
            write_repository(folder.path(), &scene.with(&[(key, bytes)]));
            let (code, told, _) = packvault(folder.path(), &["verify", "--all", "--repo", "./repo"]);
            assert_eq!(code, Some(3), "{key}: {told}");
            let (code, json, _) =
                packvault(folder.path(), &["verify", "--all", "--json", "--repo", "./repo"]);
            assert_eq!(code, Some(3), "{key}");
            assert!(json.starts_with("{\"ok\":false,"), "{key}: {json}");
            assert!(named.iter().all(|name| json.contains(name)), "{key}: {named:?} not in {json}");
            let (code, ..) = packvault(folder.path(), &["list", "--repo", "./repo"]);
            assert_eq!(code, Some(if key.name().ends_with("mvmanifest") { 3 } else { 0 }), "{key}");
            let restore = ["restore", last, "--repo", "./repo", "--target", "target"];
            let (code, _, error) = packvault(folder.path(), &restore);
            assert_eq!(code, Some(1), "{key}: {error}");
            assert!(error.contains("error: ") && !folder.path().join("target").exists(), "{key}: {error}");
        }
        let folder = scratch();
        write_repository(folder.path(), &scene.with(&[(&key("config.toml"), None)]));
        let (code, ..) = packvault(folder.path(), &["verify", "--all", "--repo", "./repo"]);
        assert_eq!(code, Some(10), "without its configuration a folder is no repository");
    });
}
