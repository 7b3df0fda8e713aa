//! The danger: an encrypted repository tells what is in it, believes what somebody without the key has put there, or
//! loses what a plain one would have kept.
//!
//! The tables of crashes, faults, damage and copies run over encrypted repositories as well (`crash.rs`, `faults.rs`,
//! `damage.rs`, `cache.rs`). Here is what only these can get wrong.

#![allow(clippy::print_stdout, reason = "a process tells the one that started it")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::SystemTime;

use packvault::engine::create::CreateOptions;
use packvault::engine::restore::RestoreOptions;
use packvault::engine::{Selection, list};
use packvault::format::sealed::{self, Binding};
use packvault::format::{BlobId, Encryption, Hasher, RepoConfig, RepositoryKey};
use packvault::repo::Repository;
use packvault::repo::notes::Note;
use packvault::{ErrorKind, Result};
use packvault_storage::{Key, MemoryStorage, Storage};

use crate::support::anatomy::{Role, dissect, manifest_key, pack_key};
use crate::support::memory_repo::*;
use crate::support::sha256;

/// Large enough to be sealed through the spool, and opened through it; no larger, for without optimization the cipher
/// takes a second for ten megabytes.
const LARGE_BYTES: usize = 9 * 1024 * 1024;

/// Returns bytes that hardly compress, or do.
fn large(seed: u64, compresses: bool) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    match compresses {
        true => (0..LARGE_BYTES).map(|at| if at % 3 == 0 { next() & 3 } else { b'x' }).collect(),
        false => (0..LARGE_BYTES).map(|_| next()).collect(),
    }
}

#[test]
fn large_and_small_content_comes_back_and_is_stored_once() {
    runtime().block_on(async {
        let (storage, archive) = (MemoryStorage::new(), Archive::small());
        archive.write("deletions/raw.bin", &large(1, false));
        archive.write("deletions/packed.bin", &large(2, true));
        archive.write("deletions/empty.json", b"");
        let mut made = fill_kind(Kind::Encrypted, &storage, &archive, 2).await;
        let stored = |storage: &MemoryStorage| -> usize {
            storage.objects().iter().map(|(_, bytes)| bytes.len()).sum()
        };
        let before = stored(&storage);
        let dry = CreateOptions { dry_run: true, ..CreateOptions::default() };
        let planned = capture_with(shared(&storage), &archive, dry).await.unwrap();
        assert_eq!((planned.blobs_added, stored(&storage)), (0, before), "nothing is new");
        archive.change();
        let report = capture(shared(&storage), &archive).await.unwrap();
        assert!(
            report.bytes_added < LARGE_BYTES as u64 / 4,
            "what is stored is not stored again: {report:?}"
        );
        made.push(Made { id: report.id.unwrap(), files: archive.expected() });
        assert_sound(shared(&storage), "encrypted").await;
        for made in &made {
            assert_comes_back(shared(&storage), made, "encrypted").await;
        }
        let rows = list::list(&opened(shared(&storage)).await.unwrap()).await.unwrap();
        assert!(rows.iter().map(|row| &row.id).eq(made.iter().map(|made| &made.id)));
        let repo = dissect(&storage);
        assert!(repo.blobs.values().all(|place| place.entry.flags.encrypted()));
        let large_frames = repo.blobs.values().filter(|place| place.entry.raw_bytes == LARGE_BYTES as u64);
        let flags: BTreeSet<u8> = large_frames.map(|place| place.entry.flags.bits()).collect();
        assert_eq!(flags, BTreeSet::from([2, 3]), "one is compressed, one is not, both are sealed");
    });
}

#[test]
fn an_encrypted_repository_says_nothing_of_what_is_in_it() {
    runtime().block_on(async {
        let (storage, archive) = (MemoryStorage::new(), Archive::small());
        archive.write("deletions/a-telling-name.json", &b"a telling line, ".repeat(300));
        let made = fill_kind(Kind::Encrypted, &storage, &archive, 2).await;
        let note = Note { warnings: vec!["a telling warning".into()], ..Note::default() };
        opened(shared(&storage)).await.unwrap().publish_note(&made[1].id, &note).await.unwrap();
        let words = [
            "telling",
            "SQLite",
            "messages",
            "msgvault",
            "deletions",
            "attachments",
            "MVIX",
            "MVPM",
            "parent_id",
            "snapshot_id",
            "packvault-",
            "version",
        ];
        let (mut kinds, mut seen) = (BTreeSet::new(), 0);
        for (key, bytes) in storage.objects() {
            if key.as_str().starts_with("keys/") || key.as_str() == "config.toml" {
                continue;
            }
            kinds.insert(key.as_str().split('/').next().unwrap().to_owned());
            let says = |word: &&str| bytes.windows(word.len()).any(|part| part == word.as_bytes());
            assert_eq!(words.iter().find(|word| says(word)), None, "{key}");
            // zstd frames, and ids of blobs, which would tell who knows a file that it is there.
            assert!(!bytes.windows(4).any(|part| part == b"\x28\xb5\x2f\xfd"), "{key} shows a frame");
            seen += 1;
        }
        for id in dissect(&storage).blobs.keys() {
            let shows = |bytes: &[u8]| bytes.windows(16).any(|part| part == &id.as_bytes()[..16]);
            assert!(!storage.objects().iter().any(|(_, bytes)| shows(bytes)), "{id} is shown");
        }
        let expected = ["indexes", "packs", "snapshots"].map(str::to_owned);
        assert_eq!(
            (kinds, seen),
            (expected.into(), 2 + 2 + 2 + 2 + 1),
            "packs, indexes, manifests, attributes, a note"
        );
    });
}

/// A repository, and somebody without the key who may write to it.
struct Stage {
    storage: MemoryStorage,
    made: Vec<Made>,
}

impl Stage {
    async fn new() -> Self {
        let (storage, _, made) = repository_of_kind(Kind::Encrypted, 3).await;
        let repository = opened(shared(&storage)).await.unwrap();
        for made in &made[..2] {
            let note = Note { warnings: vec![format!("of {}", made.id)], complete: false, ..Note::default() };
            repository.publish_note(&made.id, &note).await.unwrap();
        }
        Self { storage, made }
    }

    async fn bytes(&self, key: &Key) -> bytes::Bytes {
        self.storage.read(key).await.unwrap()
    }

    /// Puts the bytes of one object in the place of another, and expects that to be named, and that no snapshot comes
    /// back that would be made of it.
    async fn expect_named(&self, key: &Key, bytes: bytes::Bytes, word: &str, lost: &[usize]) {
        let copy = copy_of(&self.storage);
        copy.put_raw(key, bytes, SystemTime::now());
        let report = check(shared(&copy), Selection::All, false).await.unwrap();
        let told: Vec<String> = report.problems.iter().map(|problem| format!("{problem:?}")).collect();
        assert!(!report.ok && told.iter().any(|line| line.contains(word)), "{key}: {word} in {told:#?}");
        for (number, made) in self.made.iter().enumerate() {
            let folder = scratch();
            let target = folder.path().join("target");
            let restored = bring_back(shared(&copy), &made.id, &target).await;
            if lost.contains(&number) {
                let error = restored.expect_err("it is made of what does not belong there");
                assert_eq!(error.kind(), ErrorKind::Damaged, "{key}: {error:?}");
                assert!(!target.exists(), "{key}: the target was touched");
            } else {
                restored.unwrap_or_else(|error| panic!("{key}: {} must come back: {error:?}", made.id));
                assert_same_files(&files_below(&target), &made.files, key.as_str());
            }
        }
    }
}

#[test]
fn what_was_moved_renamed_swapped_or_put_back_is_named_and_never_used() {
    runtime().block_on(async {
        let stage = Stage::new().await;
        let repo = dissect(&stage.storage);
        let [one, two] = [0, 1].map(|number| &stage.made[number].id);
        // A manifest under the name of another. The chain of the third goes through the second.
        let manifest = stage.bytes(&manifest_key(one)).await;
        stage.expect_named(&manifest_key(two), manifest, two, &[1, 2]).await;
        // What lies beside one manifest, beside another; and as something else.
        let name = |id: &str, what: &str| key(&format!("snapshots/{id}.{what}"));
        let (note, attributes) = ("packvault.json", "packvault-attributes");
        for (from, to) in [
            (name(one, note), name(two, note)),
            (name(one, attributes), name(two, attributes)),
            (name(two, note), name(two, attributes)),
            (name(two, attributes), name(two, note)),
        ] {
            stage.expect_named(&to, stage.bytes(&from).await, to.name(), &[]).await;
        }
        // An index under the name of another: what that alone names is not found.
        let indexes: Vec<&Key> = repo.indexes.keys().collect();
        let last = *indexes.last().unwrap();
        stage.expect_named(last, stage.bytes(indexes[0]).await, last.name(), &[2]).await;
        // A pack under the name of another.
        let packs: Vec<_> = repo.packs.values().map(|(key, _)| key.clone()).collect();
        let last = packs.last().unwrap();
        let word = last.name().strip_suffix(".mvpack").unwrap();
        stage.expect_named(last, stage.bytes(&packs[0]).await, word, &[2]).await;
    });
}

#[test]
fn frames_that_change_places_are_named_even_where_their_checksums_are_made_right() {
    runtime().block_on(async {
        let stage = Stage::new().await;
        let repo = dissect(&stage.storage);
        let newest = &repo.snapshots[2];
        // Two attachments of one pack, of one length.
        let needs = newest.needs.iter().filter(|(_, roles)| roles.contains(&Role::Attachment));
        let mut places: Vec<_> = needs.map(|(id, _)| repo.blobs[id]).collect();
        places.sort_by_key(|place| (place.pack, place.entry.stored_bytes));
        let (one, other) = (places[0], places[1]);
        assert_eq!(one.pack, other.pack);
        let key = pack_key(&one.pack);
        let mut bytes = stage.bytes(&key).await.to_vec();
        let length = one.entry.stored_bytes.min(other.entry.stored_bytes) as usize;
        let frame = bytes[one.entry.offset as usize..][..length].to_vec();
        bytes.copy_within(
            other.entry.offset as usize..other.entry.offset as usize + length,
            one.entry.offset as usize,
        );
        bytes[other.entry.offset as usize..][..length].copy_from_slice(&frame);
        // Without the key the footer's checksums cannot be made right; with it only the binding is left.
        stage.expect_named(&key, bytes.clone().into(), &one.entry.id.to_string(), &[0, 1, 2]).await;
        let sealed = &bytes[one.entry.offset as usize..][..one.entry.stored_bytes as usize];
        assert!(sealed::open(&repository_key(), &Binding::Frame(&one.entry.id), sealed).is_err());
    });
}

#[test]
fn plain_objects_in_an_encrypted_repository_are_named_and_never_used() {
    runtime().block_on(async {
        let stage = Stage::new().await;
        let (plain, _, made) = repository_of(1).await;
        let foreign = dissect(&plain);
        let repo = dissect(&stage.storage);
        // A plain snapshot with all that it needs; every id in it is true.
        let copy = copy_of(&stage.storage);
        for (key, bytes) in plain.objects() {
            if key.as_str() != "config.toml" {
                copy.put_raw(&key, bytes, SystemTime::now());
            }
        }
        let report = check(shared(&copy), Selection::All, false).await.unwrap();
        let named = |word: &str| report.problems.iter().any(|problem| format!("{problem:?}").contains(word));
        assert!(named(&made[0].id) && named(foreign.indexes.keys().next().unwrap().name()), "{report:#?}");
        let folder = scratch();
        let error = bring_back(shared(&copy), &made[0].id, &folder.path().join("target")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        // A plain pack in the place of one of ours.
        let (key, _) = repo.packs.values().next().unwrap();
        let (_, bytes) =
            plain.objects().into_iter().find(|(key, _)| key.name().ends_with(".mvpack")).unwrap();
        stage.expect_named(key, bytes, "pack is not encrypted, and the repository is", &[0, 1, 2]).await;
    });
}

#[test]
fn an_encrypted_pack_in_a_plain_repository_asks_for_a_key_and_is_not_read() {
    runtime().block_on(async {
        let (sealed, _, _) = repository_of_kind(Kind::Encrypted, 1).await;
        let (plain, _, made) = repository_of(1).await;
        let (key, _) = dissect(&plain).packs.into_values().next().unwrap();
        let (_, bytes) =
            sealed.objects().into_iter().find(|(key, _)| key.name().ends_with(".mvpack")).unwrap();
        plain.put_raw(&key, bytes, SystemTime::now());
        let folder = scratch();
        let error = bring_back(shared(&plain), &made[0].id, &folder.path().join("target")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoKey, "{error:?}");
    });
}

async fn open_with(storage: &MemoryStorage, key: Option<RepositoryKey>) -> Result<Repository> {
    Repository::open_with(shared(storage), async |_| Ok(key)).await
}

#[test]
fn a_wrong_key_is_told_from_damage_before_anything_is_read() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of_kind(Kind::Encrypted, 1).await;
        for (key, kind) in [(None, ErrorKind::NoKey), (Some(foreign_key()), ErrorKind::WrongKey)] {
            assert_eq!(open_with(&storage, key).await.unwrap_err().kind(), kind);
        }
        // With the right one, a manifest that does not open is damaged, and nothing else is.
        let manifest = manifest_key(&made[0].id);
        let mut bytes = storage.read(&manifest).await.unwrap().to_vec();
        bytes[50] ^= 1;
        storage.put_raw(&manifest, bytes, SystemTime::now());
        let repository = open_with(&storage, Some(repository_key())).await.unwrap();
        let rows = list::list(&repository).await.unwrap();
        assert!(
            rows[0].problem.as_ref().is_some_and(|problem| problem.contains("does not open")),
            "{rows:?}"
        );
        let error = bring_back(shared(&storage), &made[0].id, &scratch().path().join("t")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    });
}

#[test]
fn a_configuration_that_denies_the_encryption_makes_nothing_readable_and_takes_no_plain_snapshot_unseen() {
    runtime().block_on(async {
        let (storage, archive, _) = repository_of_kind(Kind::Encrypted, 2).await;
        let config = RepoConfig::parse(&storage.read(&key("config.toml")).await.unwrap(), 4).unwrap();
        let denied =
            RepoConfig { encryption: Encryption::None, min_reader_version: 1, key_check: None, ..config };
        storage.put_raw(&key("config.toml"), denied.encode(), SystemTime::now());
        let rows = list::list(&open_with(&storage, None).await.unwrap()).await.unwrap();
        assert!(rows.len() == 2 && rows.iter().all(|row| row.problem.is_some()), "{rows:?}");
        let before = storage.objects().len();
        let error = capture(shared(&storage), &archive).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
        assert_eq!(storage.objects().len(), before, "nothing was stored in plain text");
        // Whoever has a key is told at once.
        let refused = open_with(&storage, Some(repository_key())).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WrongKey);
    });
}

#[test]
fn secrets_are_stored_without_leave_where_they_are_sealed() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, archive) = (MemoryStorage::new(), Archive::small());
            archive.write("config.toml", b"secret = 1");
            make_repository(&storage, kind).await.unwrap();
            let mut options = CreateOptions::default();
            options.extras.include_config = true;
            let created = capture_with(shared(&storage), &archive, options).await;
            match kind {
                Kind::Encrypted => assert!(created.unwrap().extras > 0),
                Kind::Plain => assert_eq!(created.unwrap_err().kind(), ErrorKind::Refused),
            }
        }
    });
}

#[test]
fn a_large_blob_needs_room_in_the_spool_and_says_so() {
    runtime().block_on(async {
        let (storage, archive) = (MemoryStorage::new(), Archive::small());
        archive.write("deletions/raw.bin", &large(1, false));
        let made = fill_kind(Kind::Encrypted, &storage, &archive, 1).await;
        let folder = scratch();
        let (spool, target) = (folder.path().join("no-folder"), folder.path().join("target"));
        std::fs::write(&spool, "a file").unwrap();
        let context = packvault::engine::Context { spool, ..context() };
        let options = RestoreOptions { target: target.clone(), ..RestoreOptions::default() };
        let repository = opened(shared(&storage)).await.unwrap();
        let profile = Arc::new(packvault::profiles::msgvault::Msgvault);
        let selection = Selection::One(packvault::format::SnapshotId::parse(&made[0].id).unwrap());
        let restored =
            packvault::engine::restore::restore(&repository, profile, selection, options, &context).await;
        let error = restored.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
        assert!(error.chain().contains("--spool names another folder"), "{}", error.chain());
        assert!(!target.exists());
    });
}

/// Returns an encrypted repository as an earlier version wrote it, with what is known of it.
fn frozen() -> (MemoryStorage, serde_json::Value) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sealed");
    let storage = MemoryStorage::new();
    for (path, bytes) in files_below(&folder.join("repository")) {
        storage.put_raw(&key(&path), bytes, SystemTime::now());
    }
    let expected = std::fs::read(folder.join("expected.json")).unwrap();
    (storage, serde_json::from_slice(&expected).unwrap())
}

#[test]
fn an_encrypted_repository_of_an_earlier_version_opens_for_ever() {
    runtime().block_on(async {
        let (storage, expected) = frozen();
        assert_eq!(hex::encode(repository_key().expose()), expected["key_hex"].as_str().unwrap());
        assert_sound(shared(&storage), "frozen").await;
        let repository = opened(shared(&storage)).await.unwrap();
        let notes = repository.read_notes(&repository.list_snapshots().await.unwrap()).await.unwrap();
        let warnings = &notes[expected["note_of"].as_str().unwrap()].warnings;
        assert_eq!(serde_json::to_value(warnings).unwrap(), expected["warnings"]);
        for snapshot in expected["snapshots"].as_array().unwrap() {
            let (id, folder) = (snapshot["snapshot_id"].as_str().unwrap(), scratch());
            let target = folder.path().join("target");
            bring_back(shared(&storage), id, &target).await.unwrap();
            let hashes = files_below(&target).into_iter().map(|(path, bytes)| (path, sha256(&bytes).into()));
            assert_eq!(serde_json::Value::Object(hashes.collect()), snapshot["files"], "{id}");
        }
    });
}

/// A blob, and all the memory that the process may take for it and everything else: the largest there is, where all is
/// to be run, and otherwise one that is done in a short time.
const HUGE: [(u64, u64); 2] =
    [(96 * 1024 * 1024, 96 * 1024 * 1024), (4 * 1024 * 1024 * 1024, 256 * 1024 * 1024)];
/// Names, for the process that does the work, the folder it works in.
const HUGE_FOLDER: &str = "PACKVAULT_TEST_HUGE_FOLDER";

#[test]
fn a_blob_larger_than_the_memory_it_takes_is_sealed_and_opened() {
    if let Some(folder) = std::env::var_os(HUGE_FOLDER) {
        return seal_and_open_a_huge_blob(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let mut alone = Command::new(std::env::current_exe().unwrap());
    alone.args(["--exact", "encrypted::a_blob_larger_than_the_memory_it_takes_is_sealed_and_opened"]);
    let output = alone.arg("--nocapture").env(HUGE_FOLDER, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let told = String::from_utf8_lossy(&output.stdout);
    let peak = told.lines().find_map(|line| line.strip_prefix("peak KiB ")?.parse::<u64>().ok());
    let peak = peak.expect("the process tells its peak") * 1024;
    let (bytes, memory_bytes_max) = HUGE[usize::from(runs_everything())];
    assert!(peak < memory_bytes_max, "{peak} bytes of memory for a blob of {bytes}");
}

/// Stores a snapshot with a huge file in a folder, brings it back, and tells how much memory that took.
fn seal_and_open_a_huge_blob(folder: &Path) {
    let (bytes, _) = HUGE[usize::from(runs_everything())];
    let archive = Archive::small();
    let written = write_noise(&archive.home().join("deletions/huge.bin"), bytes);
    runtime().block_on(async {
        let repository = folder.join("repository");
        std::fs::create_dir(&repository).unwrap();
        let storage = packvault::location::folder(&repository).await.unwrap();
        make_repository(storage.as_ref(), Kind::Encrypted).await.unwrap();
        let report = capture(storage.clone(), &archive).await.unwrap();
        assert!(report.bytes_added > bytes, "it does not compress");
        let target = folder.join("target");
        bring_back(storage, &report.id.unwrap(), &target).await.unwrap();
        assert_eq!(hash_of(&target.join("deletions/huge.bin")), written);
    });
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("\npeak KiB {}", peak.trim().trim_end_matches(" kB"));
}

/// Writes a file that does not compress, and returns its hash.
fn write_noise(path: &Path, bytes: u64) -> BlobId {
    let (mut file, mut hasher, mut state) = (std::fs::File::create(path).unwrap(), Hasher::new(), 1u64);
    let mut piece = vec![0u8; 1 << 20];
    for _ in 0..bytes / piece.len() as u64 {
        for word in piece.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        hasher.update(&piece);
        file.write_all(&piece).unwrap();
    }
    hasher.finish()
}

fn hash_of(path: &Path) -> BlobId {
    let (mut file, mut hasher) = (std::fs::File::open(path).unwrap(), Hasher::new());
    let mut piece = vec![0u8; 1 << 20];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hasher.finish(),
            count => hasher.update(&piece[..count]),
        }
    }
}
