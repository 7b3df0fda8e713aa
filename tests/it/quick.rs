//! The danger: an index says of a blob what its pack does not, a quick verify looks at lengths alone, and calls sound
//! what msgvault cannot restore; //! or a prune follows the wrong word, and removes what is right.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use packvault::ErrorKind;
use packvault::engine::Selection;
use packvault::engine::prune::{PruneOptions, prune};
use packvault::engine::repair::{RepairOptions, repair_index};
use packvault::engine::report::{ProblemKind, VerifyReport};
use packvault::engine::verify::{Depth, VerifyOptions, verify};
use packvault::format::index::IndexEntry;
use packvault::format::pack::TRAILER_BYTES;
use packvault::format::{BlobFlags, IndexId};
use packvault::profiles::msgvault::Msgvault;
use packvault_storage::{MemoryStorage, Storage};

use crate::support::anatomy::{Role, dissect, pack_key};
use crate::support::memory_repo::*;
use crate::support::{Scratch, stderr};

/// What an index can say wrongly although lengths cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Blobs change places; the frames still fill the pack.
    Offsets,
    /// One blob has what another one lacks.
    Lengths,
    Flags,
}

const WRONGS: [Wrong; 3] = [Wrong::Offsets, Wrong::Lengths, Wrong::Flags];

impl Wrong {
    fn spoil(self, entries: &mut [IndexEntry]) {
        entries.sort_by_key(|entry| (entry.pack, entry.offset));
        let pack = entries[0].pack;
        let count = entries.iter().filter(|entry| entry.pack == pack).count();
        let entries = &mut entries[..count];
        match self {
            Self::Flags => {
                let attachment = entries.iter_mut().find(|entry| !entry.flags.compressed()).unwrap();
                attachment.flags = attachment.flags.with(BlobFlags::COMPRESSED);
            }
            Self::Lengths => {
                let place = entries.windows(2).position(|pair| pair[0].stored_bytes > 1).unwrap();
                entries[place].stored_bytes -= 1;
                entries[place + 1].offset -= 1;
                entries[place + 1].stored_bytes += 1;
            }
            Self::Offsets => {
                let mut offset = entries[0].offset;
                for entry in entries.iter_mut().rev() {
                    entry.offset = offset;
                    offset += entry.stored_bytes;
                }
            }
        }
    }
}

/// Publishes what the indexes say with one mistake, behind them or in their place.
async fn with_wrong_index(storage: &MemoryStorage, wrong: Wrong, is_alone: bool) {
    with_index(storage, |entries| wrong.spoil(entries), is_alone).await;
}

async fn with_index(storage: &MemoryStorage, spoil: impl FnOnce(&mut [IndexEntry]), is_alone: bool) {
    let repository = opened(shared(storage)).await.unwrap();
    let (union, _) = repository.find_indexes().await.unwrap();
    let entry = |placed: packvault::repo::indexes::PlacedBlob| {
        let packvault::repo::indexes::Location { pack, offset, stored_bytes, flags } = placed.location;
        IndexEntry { id: placed.id, pack, offset, stored_bytes, flags }
    };
    let mut entries: Vec<IndexEntry> = union.places().map(entry).collect();
    spoil(&mut entries);
    if is_alone {
        for file in union.files() {
            storage.remove(&key(&format!("indexes/{}", file.name))).await.unwrap();
        }
    }
    repository.publish_index(&IndexId::from_ulid(repository.ulids().next()), entries).await.unwrap();
}

async fn look(storage: Arc<dyn Storage>, depth: Depth) -> packvault::Result<VerifyReport> {
    let repository = opened(storage).await?;
    let options = VerifyOptions { depth, ..VerifyOptions::default() };
    verify(&repository, Arc::new(Msgvault), Selection::All, options, &context()).await
}

/// What is said of a problem, to compare two reports.
fn told(report: &VerifyReport) -> BTreeSet<String> {
    report.problems.iter().map(|problem| format!("{problem:?}")).collect()
}

#[test]
fn an_index_that_is_wrong_about_a_place_is_found_without_reading_content_and_made_anew() {
    runtime().block_on(async {
        for (kind, wrong) in KINDS.into_iter().flat_map(|kind| WRONGS.map(|wrong| (kind, wrong))) {
            let case = format!("{kind:?} {wrong:?}");
            let (storage, _archive, made) = repository_of_kind(kind, 2).await;
            with_wrong_index(&storage, wrong, true).await;
            let (quick, full) = both(&storage).await;
            assert!(!quick.ok && quick.bytes == 0, "{case}");
            assert_eq!(told(&quick), told(&full), "{case}");
            let advised = |problem: &packvault::engine::report::VerifyProblem| {
                problem.kind == ProblemKind::Damaged && problem.detail.contains("packvault repair index")
            };
            assert!(quick.problems.iter().any(advised), "{case}: {:#?}", quick.problems);
            repaired(&storage).await;
            assert_eq!(both(&storage).await.0.problems, [], "{case}");
            assert_sound(shared(&storage), &case).await;
            assert_comes_back(shared(&storage), &made[0], &case).await;
        }
    });
}

async fn both(storage: &MemoryStorage) -> (VerifyReport, VerifyReport) {
    let quick = look(shared(storage), Depth::Footers).await.unwrap();
    (quick, look(shared(storage), Depth::Content).await.unwrap())
}

async fn repaired(storage: &MemoryStorage) {
    let repository = opened(shared(storage)).await.unwrap();
    repair_index(&repository, RepairOptions::default(), &context()).await.unwrap();
}

#[test]
fn a_wrong_index_that_hides_a_right_one_is_named_for_other_programs_and_nothing_is_pruned_by_it() {
    runtime().block_on(async {
        for (kind, wrong) in KINDS.into_iter().flat_map(|kind| WRONGS.map(|wrong| (kind, wrong))) {
            let case = format!("{kind:?} {wrong:?}");
            let (storage, archive, made) = repository_of_kind(kind, 2).await;
            with_wrong_index(&storage, wrong, false).await;
            let (quick, full) = both(&storage).await;
            assert_eq!(told(&quick), told(&full), "{case}");
            let kinds: Vec<ProblemKind> = quick.problems.iter().map(|problem| problem.kind).collect();
            assert_eq!(kinds, [ProblemKind::Outranked], "{case}: {:#?}", quick.problems);
            let before = storage.objects();
            let repository = opened(shared(&storage)).await.unwrap();
            let error = prune(&repository, &PruneOptions::default(), &context()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{case}: {error:?}");
            assert!(error.to_string().contains("packvault repair index"), "{case}: {error}");
            assert_eq!(storage.objects(), before, "{case}");
            repaired(&storage).await;
            assert_sound(shared(&storage), &case).await;
            prune(&repository, &PruneOptions { now: true, ..PruneOptions::default() }, &context())
                .await
                .unwrap();
            assert_comes_back(shared(&storage), &made[0], &case).await;
            capture(shared(&storage), &archive).await.unwrap();
            assert_sound(shared(&storage), &case).await;
        }
    });
}

#[test]
fn presence_takes_the_word_of_lengths() {
    runtime().block_on(async {
        let (storage, ..) = repository_of(2).await;
        let repo = dissect(&storage);
        let mut needs = repo.snapshots[0].needs.iter();
        let (attachment, _) = needs.find(|(_, roles)| roles.contains(&Role::Attachment)).unwrap();
        let spoil = |entries: &mut [IndexEntry]| {
            let entry = entries.iter_mut().find(|entry| entry.id == *attachment).unwrap();
            entry.flags = BlobFlags::RAW.with(BlobFlags::ENCRYPTED);
        };
        with_index(&storage, spoil, true).await;
        let report = look(shared(&storage), Depth::Presence).await.unwrap();
        assert!(report.ok, "{:#?}", report.problems);
        assert!(!look(shared(&storage), Depth::Footers).await.unwrap().ok);
        let pack = pack_key(repo.packs.keys().next().unwrap());
        storage.remove(&pack).await.unwrap();
        assert!(!look(shared(&storage), Depth::Presence).await.unwrap().ok);
    });
}

#[test]
fn a_damaged_footer_is_the_same_problem_to_a_quick_look_as_to_a_full_one() {
    runtime().block_on(async {
        for kind in KINDS {
            let (storage, ..) = repository_of_kind(kind, 3).await;
            let repo = dissect(&storage);
            for (pack, (key, _)) in &repo.packs {
                let whole = storage.read(key).await.unwrap();
                for (way, bytes) in ends_spoilt(&whole) {
                    storage.put_raw(key, bytes, SystemTime::now());
                    let (quick, full) = both(&storage).await;
                    assert!(!quick.ok, "{kind:?} {pack}: {way}");
                    assert_eq!(told(&quick), told(&full), "{kind:?} {pack}: {way}");
                }
                storage.put_raw(key, whole, SystemTime::now());
            }
            assert!(both(&storage).await.0.ok, "{kind:?}");
        }
    });
}

fn ends_spoilt(whole: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let flipped = |at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    let cut = whole[..whole.len() - 1].to_vec();
    vec![
        ("the magic", flipped(0)),
        ("the footer", flipped(whole.len() - TRAILER_BYTES - 20)),
        ("the trailer", flipped(whole.len() - 1)),
        ("cut short", cut),
        ("empty", Vec::new()),
    ]
}

#[test]
fn the_command_tells_a_wrong_index_by_its_exit_code_and_lets_itself_be_asked_for_one_thing() {
    let scratch = Scratch::new();
    let database = rusqlite::Connection::open(scratch.path("app.db")).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES ('first')").unwrap();
    drop(database);
    let run = |arguments: &[&str]| scratch.packvault(arguments).output().unwrap();
    let ends = |code: i32, arguments: &[&str]| {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    ends(0, &["init", "--repo", "./repo"]);
    ends(0, &["create", "--database", "app.db", "--repo", "./repo"]);
    ends(0, &["verify", "--quick", "--repo", "./repo"]);
    let folder = scratch.path("repo/indexes");
    let file = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut entries = packvault::format::index::decode(&std::fs::read(&file).unwrap()).unwrap();
    Wrong::Offsets.spoil(&mut entries);
    entries.sort_by_key(|entry| entry.id);
    std::fs::write(&file, packvault::format::index::encode(&entries)).unwrap();
    let said = ends(3, &["verify", "--quick", "--repo", "./repo"]);
    assert!(said.contains("disagree; run `packvault repair index`"), "{said}");
    ends(0, &["repair", "index", "--repo", "./repo"]);
    ends(0, &["verify", "--quick", "--repo", "./repo"]);
    ends(0, &["verify", "--presence", "--repo", "./repo"]);
    for other in ["--quick", "--paths", "--sample=5%", "--restore-check"] {
        ends(2, &["verify", "--presence", other, "--repo", "./repo"]);
    }
}
