//! The danger: somebody else may write to the repository, and what lies there is made to exhaust whoever reads
//! it, or to have a restore write where it must not.
//!
//! Each row is one lie. The real program meets it with little memory: it must end by itself, in time, by name; so must
//! every command that looks inside, whose table is `support/hostile.rs`.
//! (`forgeries.rs` has the lies that cost nothing but the truth, `damage.rs` the accidents.)

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use packvault::format::{
    BlobFlags, BlobId, ExtrasEntry, Hasher, Manifest, PageHash, PageHashes, PageMapKind, PageMapObject, Run,
    StreamCompressor, extras_tree, go_json, index,
};
use packvault_storage::MemoryStorage;
use rusqlite::Connection;

use crate::support::anatomy::{dissect, pack_key};
use crate::support::forge::Forge;
use crate::support::hostile::{Ended, LOOKS, Look, MEMORY_KIB, Part, Stage, short, sparse};
use crate::support::memory_repo::*;
use crate::support::scenes;

const GIB: u64 = 1 << 30;
/// The snapshot of the stage, to be published anew with something changed.
fn manifest_of(stage: &Stage) -> Manifest {
    let honest = dissect(&stage.storage).snapshots[0].manifest.clone();
    Manifest {
        parent_id: honest.snapshot_id.clone(),
        created_at: "2031-01-01T00:00:00Z".into(),
        stats: go_json::compact_raw(&honest.stats),
        ..honest
    }
}

/// Publishes a forged snapshot, into memory and into the folder.
fn publish(stage: &Stage, change: impl FnOnce(&mut Forge, &mut Manifest)) -> String {
    let (mut forge, mut manifest) = (Forge::new(&stage.storage, 7), manifest_of(stage));
    change(&mut forge, &mut manifest);
    forge.seal();
    let id = forge.publish(&manifest);
    stage.write();
    id
}

/// Returns an object of the metadata kinds: its fields after the version, sealed with a true hash.
fn sealed(magic: &[u8; 4], fields: &[&[u8]]) -> Vec<u8> {
    let mut object = [&magic[..], &1u16.to_le_bytes(), &fields.concat()].concat();
    let hash = hash_of(&object);
    object.extend(hash.as_bytes());
    object
}

fn hash_of(bytes: &[u8]) -> BlobId {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

fn assert_code(ended: &Ended, code: i32, words: &[&str], case: &str) {
    assert_eq!(ended.code, Some(code), "{case}: {}", short(&ended.told));
    for word in words {
        assert!(ended.told.contains(word), "{case}: {word:?} is not in: {}", short(&ended.told));
    }
}

/// Expects the forged snapshot to be named by `verify`, refused by `restore` and by every look that needs one of the
/// parts that are lies, and the honest one to come back.
fn assert_refused_within(
    memory_kib: u64,
    stage: &Stage,
    (id, lies): (&str, &[Part]),
    words: &[&str],
    case: &str,
) {
    let verified = stage.run_within(memory_kib, &["verify", "--all", "--paths", "--jobs", "1"]);
    assert_code(&verified, 3, words, &format!("{case}, verify"));
    assert!(verified.told.contains(&id[..20]), "{case}: {id} is not blamed: {}", short(&verified.told));
    let restored = stage.run_within(memory_kib, &["restore", id, "--target", "target"]);
    assert_code(&restored, 1, &["error: "], &format!("{case}, restore"));
    let part = stage.run_within(memory_kib, &["restore", id, "--target", "part", "--only", "msgvault.db"]);
    let is_whole = lies.is_empty() && part.code == Some(0);
    assert!(is_whole || part.code == Some(1), "{case}, a part: {}", short(&part.told));
    assert!(!stage.path("target").exists(), "{case}: the target was touched");
    assert!(is_whole || !stage.path("part").exists(), "{case}: the target was touched");
    stage.assert_looks(memory_kib, id, lies, case);
    let of_no_name = stage.run_within(memory_kib, &["dump", id, "no such attachment"]);
    assert_code(&of_no_name, 1, &["error: "], &format!("{case}, an attachment by its name"));
    stage.assert_outside_is_untouched(case);
    let honest = stage.run(&["restore", &stage.honest.id, "--target", "honest"]);
    assert_code(&honest, 0, &[], &format!("{case}, the honest snapshot"));
    assert_same_files(&files_below(&stage.path("honest")), &stage.honest.files, case);
}

fn assert_refused(stage: &Stage, forged: (&str, &[Part]), words: &[&str], case: &str) {
    assert_refused_within(MEMORY_KIB, stage, forged, words, case);
}

#[test]
fn every_command_that_looks_inside_meets_the_hostile_repositories() {
    let met: BTreeSet<&str> = LOOKS.iter().map(|look| look.name()).collect();
    assert_eq!(met, BTreeSet::from(scenes::LOOKS), "tests/it/support/scenes.rs and support/hostile.rs");
}

#[test]
fn an_honest_repository_needs_less_than_what_the_hostile_ones_are_given() {
    let stage = Stage::new();
    let home = stage.home();
    for arguments in [
        &["list"][..],
        &["verify", "--all", "--paths"],
        &["create", &home],
        &["restore", "--target", "target"],
    ] {
        assert_code(&stage.run(arguments), 0, &[], arguments[0]);
    }
    stage.assert_looks(MEMORY_KIB, &stage.honest.id, &[], "honest");
}

#[test]
fn files_that_are_larger_than_any_writer_makes_are_not_read() {
    let pack = |stage: &Stage| {
        let pack = *dissect(&stage.storage).packs.keys().next().unwrap();
        pack_key(&pack).to_string()
    };
    // The only pack there is.
    let all = [Part::Maps, Part::Pages, Part::Lists, Part::Tree];
    let beside = |stage: &Stage, ending: &str| format!("snapshots/{}{ending}", stage.honest.id);
    let manifest = "snapshots/20310101T000000Z-00000000000000000000000000000000.mvmanifest";
    // Of another snapshot: whoever goes through all of them names it.
    let of_another = |look: &Look| if look.code(&[Part::Manifest]) == 3 { 3 } else { 0 };
    // The file, its size, what `list`, `verify`, `restore` and `create` end with, what they say, and what each look ends
    // with.
    type Row<'a> = (&'a dyn Fn(&Stage) -> String, u64, [i32; 4], &'a str, &'a dyn Fn(&Look) -> i32);
    let rows: [Row<'_>; 7] = [
        (&|_| "config.toml".into(), 8 * GIB, [1; 4], "config.toml", &|_| 1),
        (&|_| manifest.into(), 8 * GIB, [3, 3, 0, 1], "more than any writer makes", &of_another),
        (&|_| "indexes/01arz3ndektsv4rrffq69g5fav.mvidx".into(), 8 * GIB, [0, 3, 0, 1], "index", &|look| {
            if look.name() == "stats" { 3 } else { 0 }
        }),
        (&|stage| beside(stage, ".packvault.json"), 8 * GIB, [0, 3, 0, 0], "more than any note", &|_| 0),
        (&|stage| beside(stage, ".packvault-attributes"), 8 * GIB, [0, 3, 0, 0], "owners, modes", &|_| 0),
        (&pack, 1 << 40, [0, 3, 1, 0], "pack", &|look| look.code(&all)),
        (&|_| "locks/exclusive.json".into(), 8 * GIB, [0, 11, 11, 11], "unknown holder", &|_| 11),
    ];
    for (file, bytes, codes, words, looks) in rows {
        let stage = Stage::new();
        let (file, home) = (file(&stage), stage.home());
        sparse(&stage.path("repository").join(&file), bytes);
        let commands = [
            &["list"][..],
            &["verify", "--all"],
            &["restore", &stage.honest.id, "--target", "target"],
            &["create", &home],
        ];
        // First, for a create mends what it finds damaged.
        for look in &LOOKS {
            stage.assert_look(MEMORY_KIB, look, &stage.honest.id, looks(look), &file);
        }
        for (arguments, code) in commands.into_iter().zip(codes) {
            let ended = stage.run(arguments);
            let case = format!("{file}, {}", arguments[0]);
            let words: &[&str] = if code == 0 { &[] } else { &[words] };
            assert_code(&ended, code, words, &case);
        }
    }
}

#[test]
fn counts_that_no_object_could_hold_are_refused_by_name() {
    let huge = u32::MAX.to_le_bytes();
    let page_size = 4096u32.to_le_bytes();
    let (pages, zero) = ((1u64 << 40).to_le_bytes(), 0u32.to_le_bytes());
    let map_of_blobs = sealed(b"MVMK", &[&page_size, &pages, &huge]);
    let map_of_runs = sealed(b"MVMK", &[&page_size, &pages, &zero, &huge]);
    let hashes = sealed(b"MVHK", &[&page_size, &u64::MAX.to_le_bytes()]);
    let list = sealed(b"MVAL", &[&huge]);
    let rows: [(&str, Vec<u8>, Part); 4] = [
        ("map", map_of_blobs, Part::Maps),
        ("map", map_of_runs, Part::Maps),
        ("hashes", hashes, Part::Maps),
        ("list", list, Part::Lists),
    ];
    for (field, object, lie) in rows {
        let stage = Stage::new();
        let mut blob = String::new();
        let id = publish(&stage, |forge, manifest| {
            blob = forge.blob(&object).to_string();
            match field {
                "map" => manifest.db.page_map = blob.clone(),
                "hashes" => manifest.db.page_hash_map = blob.clone(),
                _ => manifest.attachments.lists = Some(vec![blob.clone()]),
            }
        });
        assert_refused(&stage, (&id, &[lie]), &[&blob, "it is no usable"], field);
    }
}

#[test]
fn an_index_that_claims_more_entries_than_it_has_is_named() {
    let stage = Stage::new();
    let name = "01arz3ndektsv4rrffq69g5fav.mvidx";
    let mut file = index::encode(&[]);
    file.truncate(6);
    file.extend(u32::MAX.to_le_bytes());
    let hash = hash_of(&file);
    file.extend(hash.as_bytes());
    fs::write(stage.path("repository/indexes").join(name), file).unwrap();
    assert_code(&stage.run(&["verify", "--all"]), 3, &[name], "verify");
    assert_code(&stage.run(&["create", &stage.home()]), 1, &[name], "create");
}

#[test]
fn a_pack_whose_footer_claims_all_numbers_is_named() {
    for (count, region) in [(u32::MAX, None), (1, Some(u32::MAX)), (1, Some(1 << 30)), (0, Some(0))] {
        let stage = Stage::new();
        let mut pack = String::new();
        let id = publish(&stage, |forge, manifest| {
            manifest.extras_tree = forge.blob(b"in a pack that lies").to_string();
            pack = forge.pack().to_string();
        });
        let path = stage.path("repository").join(format!("packs/{}/{pack}.mvpack", &pack[..2]));
        let mut file = fs::read(&path).unwrap();
        // count | entries | length of both | their SHA-256 | magic
        let trailer = file.len() - 40;
        let length = u32::from_le_bytes(file[trailer..trailer + 4].try_into().unwrap());
        let start = trailer - length as usize;
        file[start..start + 4].copy_from_slice(&count.to_le_bytes());
        file[trailer..trailer + 4].copy_from_slice(&region.unwrap_or(length).to_le_bytes());
        let hash = hash_of(&file[start..trailer]);
        file[trailer + 4..trailer + 36].copy_from_slice(hash.as_bytes());
        fs::write(&path, file).unwrap();
        let case = format!("count {count}, region {region:?}");
        assert_refused(&stage, (&id, &[Part::Tree]), &[&pack], &case);
    }
}

#[test]
fn numbers_of_a_manifest_that_no_archive_has_are_refused() {
    type Change = fn(&mut Manifest);
    let rows: [(&str, Part, Change); 8] = [
        ("pages", Part::Maps, |manifest| manifest.db.page_count = u64::MAX),
        ("page size", Part::Maps, |manifest| manifest.db.page_size = u32::MAX),
        ("another page size", Part::Maps, |manifest| manifest.db.page_size = 65536),
        ("no pages", Part::Maps, |manifest| manifest.db.page_count = 0),
        ("attachments", Part::Lists, |manifest| manifest.attachments.blobs = i64::MAX),
        ("negative attachments", Part::Lists, |manifest| manifest.attachments.blobs = -1),
        ("version", Part::Manifest, |manifest| manifest.min_reader_version = i64::MAX),
        ("lists", Part::Lists, |manifest| {
            let lists = manifest.attachments.lists.clone().unwrap();
            manifest.attachments.lists = Some(lists.iter().cycle().take(20_000).cloned().collect());
        }),
    ];
    for (case, lie, change) in rows {
        let stage = Stage::new();
        let id = publish(&stage, |_, manifest| change(manifest));
        assert_refused(&stage, (&id, &[lie]), &[], case);
    }
    // What the attachments weigh together is for people to read; every one is proved by itself.
    let stage = Stage::new();
    let id = publish(&stage, |_, manifest| manifest.attachments.blob_bytes = i64::MIN);
    let told = ["the lists have", &id[..20]];
    assert_code(&stage.run(&["verify", "--all"]), 3, &told, "attachment bytes");
}

#[test]
fn a_depth_that_a_manifest_invents_is_not_built_upon() {
    for depth in [i64::MAX, i64::MIN, -1, 29, 31] {
        let stage = Stage::new();
        let forged = publish(&stage, |_, manifest| manifest.db.map_chain_depth = depth);
        stage.archive.change();
        let case = format!("depth {depth}");
        stage.assert_looks(MEMORY_KIB, &forged, &[], &case);
        assert_code(&stage.run(&["create", &stage.home()]), 0, &[], &case);
        let case = format!("after a depth of {depth}");
        assert_code(&stage.run(&["restore", "--target", "target"]), 0, &[], &case);
        assert_same_files(&files_below(&stage.path("target")), &stage.archive.expected(), &case);
        let new = newest_manifest(&stage.path("repository"));
        assert!(new.contains(&forged), "{case}");
        let depth = new.split("\"map_chain_depth\": ").nth(1).unwrap();
        let depth: i64 = depth.split([',', '\n']).next().unwrap().parse().unwrap();
        assert!((0..30).contains(&depth), "{case}: {depth}");
    }
}

fn newest_manifest(repository: &Path) -> String {
    let entries = fs::read_dir(repository.join("snapshots")).unwrap();
    let manifests = entries.map(|entry| entry.unwrap().path());
    let manifests = manifests.filter(|path| path.extension().is_some_and(|ending| ending == "mvmanifest"));
    let newest = manifests.max().unwrap();
    fs::read_to_string(newest).unwrap()
}

#[test]
fn a_manifest_that_is_nothing_but_brackets_is_named_and_costs_no_stack() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(1_000_000), close.repeat(1_000_000));
    for (case, text) in [("arrays", deep("[", "]")), ("objects", deep("{\"a\":", "}"))] {
        let stage = Stage::new();
        let name = "20310101T000000Z-00000000000000000000000000000000";
        let file = stage.path("repository/snapshots").join(format!("{name}.mvmanifest"));
        fs::write(file, &text).unwrap();
        assert_code(&stage.run(&["list"]), 3, &[name], case);
        assert_code(&stage.run(&["verify", "--all"]), 3, &[name], case);
        stage.assert_looks(MEMORY_KIB, name, &[Part::Manifest], case);
        assert_code(&stage.run(&["create", &stage.home()]), 1, &[name], case);
    }
    for text in [deep("[", "]"), deep("{\"a\":", "0}")] {
        let stage = Stage::new();
        let mut manifest = manifest_of(&stage);
        manifest.stats = text;
        let id = manifest.seal_id().unwrap().to_string();
        // In one line: indented it would be larger than any disk.
        let compact = manifest.compact_for_id();
        let named = compact.replace("\"snapshot_id\":\"\"", &format!("\"snapshot_id\":\"{id}\""));
        assert_ne!(named, compact);
        write_manifest(&stage.path("repository"), &id, &named);
        let ended = stage.run(&["list", "--json"]);
        assert!(matches!(ended.code, Some(0 | 3)), "{}", short(&ended.told));
        let restored = stage.run(&["restore", &id, "--target", "target"]);
        assert_code(&restored, 1, &[], "deep statistics");
        let verified = stage.run(&["verify", "--all", "--paths"]);
        assert_code(&verified, 3, &[&id[..20]], "deep statistics");
    }
}

/// Returns the id and the zstd frame of so many zero bytes.
fn bomb(raw_bytes: u64) -> (BlobId, Vec<u8>) {
    bomb_after(&[], raw_bytes)
}

/// The same after some bytes that are no zeros.
fn bomb_after(first: &[u8], zero_bytes: u64) -> (BlobId, Vec<u8>) {
    let (mut frame, mut hasher) = (vec![], Hasher::new());
    let mut compressor = StreamCompressor::new(1, first.len() as u64 + zero_bytes).unwrap();
    let piece = vec![0; 1 << 20];
    let mut keep = |stored: &[u8]| {
        frame.extend_from_slice(stored);
        Ok(())
    };
    hasher.update(first);
    compressor.feed(first, &mut keep).unwrap();
    for _ in 0..zero_bytes >> 20 {
        hasher.update(&piece);
        compressor.feed(&piece, &mut keep).unwrap();
    }
    compressor.finish(&mut keep).unwrap();
    (hasher.finish(), frame)
}

#[test]
fn a_bomb_that_is_as_large_as_an_object_may_be_costs_no_more_than_that() {
    // The largest list is 256 MiB; it is held once, with what is around it.
    let raw_bytes = 256 << 20;
    let (bomb, frame) = bomb(raw_bytes);
    for field in ["list", "tree", "extra"] {
        let stage = Stage::new();
        let id = publish(&stage, |forge, manifest| {
            forge.frame(bomb, &frame, raw_bytes, BlobFlags::COMPRESSED);
            match field {
                "list" => manifest.attachments.lists = Some(vec![bomb.to_string()]),
                "tree" => manifest.extras_tree = bomb.to_string(),
                _ => {
                    let (path, mode) = ("deletions/x".to_owned(), 0o600);
                    let lie = ExtrasEntry { path, mode, size: 1, blob: bomb };
                    manifest.extras_tree = forge.blob(&extras_tree::encode(&[lie])).to_string();
                }
            }
        });
        let lies: &[Part] = match field {
            "list" => &[Part::Lists],
            "tree" => &[Part::Tree],
            // Its name and size are shown; what it holds is something else.
            _ => &[],
        };
        assert_refused_within(640 * 1024, &stage, (&id, lies), &[&bomb.to_string()], field);
        if lies.is_empty() {
            let dumped = stage.run(&["dump", &id, "deletions/x"]);
            assert_code(&dumped, 1, &["error: ", &bomb.to_string()], field);
        }
    }
}

#[test]
fn overlapping_and_aliasing_frames_are_proved_each_for_itself() {
    let stage = Stage::new();
    let mut blobs = vec![];
    let id = publish(&stage, |forge, manifest| {
        // Two names for one frame: one of them is a lie.
        let tree = extras_tree::encode(&[]);
        let alias = BlobId::of(b"something else");
        forge.frame(alias, &tree, tree.len() as u64, BlobFlags::RAW);
        manifest.extras_tree = alias.to_string();
        blobs.push(alias.to_string());
    });
    assert_refused(&stage, (&id, &[Part::Tree]), &[&blobs[0]], "an alias");
    for shift in [-1i64, 1] {
        let stage = Stage::new();
        let mut blob = String::new();
        let id = publish(&stage, |forge, manifest| {
            let tree = [extras_tree::encode(&[]), vec![b'\n']].concat();
            let id = forge.blob(&tree);
            forge.blob(b"what lies behind it, so that there is something to overlap");
            forge.index_says(id, |entry| entry.offset = entry.offset.wrapping_add_signed(shift));
            manifest.extras_tree = id.to_string();
            blob = id.to_string();
        });
        let case = format!("an index that is off by {shift}");
        assert_refused(&stage, (&id, &[Part::Tree]), &[&blob, "disagree"], &case);
    }
}

#[test]
fn a_map_whose_pages_overlap_in_one_blob_restores_only_what_is_proved() {
    let stage = Stage::new();
    let id = publish(&stage, |forge, manifest| {
        let database = &stage.honest.files["msgvault.db"];
        let size = manifest.db.page_size;
        // Every page is said to be the first one.
        let blob = forge.blob(database);
        let run = |page: u64| Run { start_page: page, pages: 1, blob_index: 0, blob_offset: 0 };
        let map = PageMapObject {
            kind: PageMapKind::Keyframe,
            page_size: size,
            page_count: manifest.db.page_count,
            blobs: vec![blob],
            runs: (0..manifest.db.page_count).map(run).collect(),
        };
        manifest.db.page_map = forge.blob(&map.encode()).to_string();
    });
    assert_refused(&stage, (&id, &[Part::Pages]), &["page 1 "], "pages that are all the same");
}

/// Publishes the snapshot with a database of other pages: blobs, where the pages lie in them, and what they hash to.
fn with_pages(
    stage: &Stage,
    page_size: u32,
    make: impl FnOnce(&mut Forge) -> (Vec<BlobId>, Vec<Run>, Vec<PageHash>),
) -> String {
    publish(stage, |forge, manifest| {
        let (blobs, runs, hashes) = make(forge);
        let page_count = hashes.len() as u64;
        let map = PageMapObject { kind: PageMapKind::Keyframe, page_size, page_count, blobs, runs };
        let hashes = PageHashes { page_size, hashes };
        manifest.db.page_size = page_size;
        manifest.db.page_count = page_count;
        manifest.db.page_map = forge.blob(&map.encode()).to_string();
        manifest.db.page_hash_map = forge.blob(&hashes.encode_keyframe()).to_string();
        manifest.db.map_chain_depth = 0;
    })
}

/// Returns a database file that SQLite made.
fn made_by_sqlite(stage: &Stage, before: &[u8], change: impl FnOnce(&Connection)) -> Vec<u8> {
    let file = stage.path("forged.db");
    fs::write(&file, before).unwrap();
    let connection = Connection::open(&file).unwrap();
    connection.execute_batch("PRAGMA journal_mode = DELETE").unwrap();
    change(&connection);
    drop(connection);
    let bytes = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    bytes
}

/// Publishes the snapshot with another database, every page and hash of it true.
fn with_database(stage: &Stage, change: impl FnOnce(&Connection)) -> String {
    let bytes = made_by_sqlite(stage, &stage.honest.files["msgvault.db"], change);
    let page_size = manifest_of(stage).db.page_size;
    with_pages(stage, page_size, |forge| {
        let hashes: Vec<PageHash> = bytes.chunks_exact(page_size as usize).map(PageHash::of).collect();
        let run = Run { start_page: 0, pages: hashes.len() as u32, blob_index: 0, blob_offset: 0 };
        (vec![forge.blob(&bytes)], vec![run], hashes)
    })
}

/// Lets the first attachments of the database lie at these paths.
fn attachments_at(connection: &Connection, paths: &[&str]) {
    for (number, path) in paths.iter().enumerate() {
        let change = "UPDATE attachments SET storage_path = ?1 WHERE content_hash =
             (SELECT DISTINCT content_hash FROM attachments WHERE storage_path <> '' AND content_hash <> ''
              ORDER BY content_hash LIMIT 1 OFFSET ?2)";
        assert!(connection.execute(change, rusqlite::params![path, number as i64]).unwrap() > 0);
    }
}

#[test]
fn a_database_whose_attachments_would_lie_elsewhere_is_refused() {
    let long = format!("{}/x", "d".repeat(300));
    let deep = "d/".repeat(3000) + "x";
    for (paths, words) in [
        (&["../outside/x"][..], "leaves the folder"),
        (&["a/../../../outside/x"], "leaves the folder"),
        (&["/etc/cron.d/x"], "not a relative path"),
        (&["ab/\0cd"], "not a relative path"),
        (&["ab/."], "dot or a space"),
        (&["ab/cd."], "dot or a space"),
        (&["nul /x"], "dot or a space"),
        (&["ab/x", "AB/X"], "one file name"),
        (&["\u{e9}/x", "e\u{301}/x"], "one file name"),
        (&["\u{212a}/x", "k/x"], "one file name"),
        (&["ab", "ab/cd"], "needs it as a folder"),
        (&[&long], "name too long"),
        (&[&deep], "deeper than 256 folders"),
    ] {
        let stage = Stage::new();
        let id = with_database(&stage, |connection| attachments_at(connection, paths));
        let restored = stage.run(&["restore", &id, "--target", "target"]);
        let case = short(&format!("{paths:?}"));
        assert_eq!(restored.code, Some(1), "{case}: {}", short(&restored.told));
        assert!(restored.told.to_lowercase().contains(words), "{case}: {}", short(&restored.told));
        assert!(!stage.path("target").exists(), "{case}");
        stage.assert_outside_is_untouched(&case);
    }
}

/// Names that mean something elsewhere, and are plain names here.
const STRANGE: [&str; 7] = [
    "..\\..\\outside\\x",
    "C:\\outside",
    "NUL",
    "com1.txt",
    "\u{ff0e}\u{ff0e}/outside",
    "\u{2025}/outside",
    "\u{202e}gpj.exe",
];

#[test]
fn names_that_mean_something_elsewhere_stay_plain_names_inside_the_target() {
    for name in STRANGE {
        let stage = Stage::new();
        let id = with_database(&stage, |connection| attachments_at(connection, &[name]));
        let restored = stage.run(&["restore", &id, "--target", "deep/target"]);
        assert_code(&restored, 0, &[], name);
        assert!(!restored.told.contains('\u{202e}'), "a terminal is not to be steered");
        assert!(stage.path("deep/target/attachments").join(name).is_file(), "{name}");
        let beside: Vec<_> = fs::read_dir(stage.path("deep")).unwrap().collect();
        assert_eq!(beside.len(), 1, "{name}");
        stage.assert_outside_is_untouched(name);
    }
}

#[test]
fn a_path_of_a_million_folders_is_refused_without_walking_it() {
    for (case, path) in [
        ("deep", "d/".repeat(1_000_000) + "x"),
        ("long", "n".repeat(1_000_000)),
        ("deep and back", "d/../".repeat(1_000_000) + "../x"),
    ] {
        let stage = Stage::new();
        let mut blob = None;
        let id = publish(&stage, |forge, manifest| {
            let content = forge.blob(b"content");
            let entry = ExtrasEntry { path, mode: 0o600, size: 7, blob: content };
            let tree = forge.blob(&extras_tree::encode(&[entry]));
            manifest.extras_tree = tree.to_string();
            blob = Some(tree);
        });
        let restored = stage.run(&["restore", &id, "--target", "target"]);
        assert_code(&restored, 1, &["error: "], case);
        assert!(!stage.path("target").exists(), "{case}");
        let verified = stage.run(&["verify", "--all"]);
        assert!(matches!(verified.code, Some(0 | 3)), "{case}: {}", short(&verified.told));
        stage.assert_looks(MEMORY_KIB, &id, &[Part::Tree], case);
    }
}

#[test]
fn a_schema_that_runs_by_itself_writes_nothing_and_proves_nothing() {
    for (case, change) in [
        ("a trigger", "CREATE TRIGGER t AFTER UPDATE ON messages BEGIN SELECT load_extension('/tmp/x'); END"),
        (
            "a view in place of a table",
            "ALTER TABLE attachments RENAME TO real_attachments;
             CREATE VIEW attachments AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
             SELECT i AS id, 'ab' AS content_hash, 'ab/cd' AS storage_path, 1 AS size, '' AS thumbnail_path,
             '' AS thumbnail_hash FROM n LIMIT 3",
        ),
    ] {
        let stage = Stage::new();
        let id = with_database(&stage, |connection| connection.execute_batch(change).unwrap());
        let restored = stage.run(&["restore", &id, "--target", "target"]);
        match restored.code {
            Some(0) => assert!(stage.path("target/msgvault.db").exists(), "{case}"),
            code => assert!(code == Some(1) && !stage.path("target").exists(), "{case}: {}", restored.told),
        }
        stage.assert_looks(MEMORY_KIB, &id, &[], case);
        stage.assert_outside_is_untouched(case);
    }
}

/// Returns an inner page of a table that names pages 2 to `last` over and over.
fn inner_page(page_size: usize, last: u32) -> Vec<u8> {
    let children: Vec<u8> = (2..=last).flat_map(u32::to_be_bytes).collect();
    let (pointers, content) = (12, page_size - children.len());
    let cells = (content - pointers) / 2;
    let mut page = vec![0; page_size];
    page[0] = 5;
    page[3..5].copy_from_slice(&(cells as u16).to_be_bytes());
    page[5..7].copy_from_slice(&(content as u16).to_be_bytes());
    page[8..12].copy_from_slice(&2u32.to_be_bytes());
    for cell in 0..cells {
        let at = content + cell % (children.len() / 4) * 4;
        page[pointers + 2 * cell..][..2].copy_from_slice(&(at as u16).to_be_bytes());
    }
    page[content..].copy_from_slice(&children);
    page
}

#[test]
fn inner_pages_that_name_each_other_over_and_over_are_followed_once() {
    const PAGES: u32 = 600;
    let (stage, page_size) = (Stage::new(), 65536);
    let real = made_by_sqlite(&stage, &[], |connection| {
        connection.execute_batch("PRAGMA page_size = 65536; VACUUM; CREATE TABLE t (a)").unwrap();
    });
    assert_eq!(real.len(), 2 * page_size);
    let id = with_pages(&stage, page_size as u32, |forge| {
        let (schema, inner) = (&real[..page_size], inner_page(page_size, PAGES));
        let run = |page: u32| Run {
            start_page: page.into(),
            pages: 1,
            blob_index: u32::from(page > 0),
            blob_offset: 0,
        };
        let hash = PageHash::of(&inner);
        let hashes = (0..PAGES).map(|page| if page == 0 { PageHash::of(schema) } else { hash });
        (vec![forge.blob(schema), forge.blob(&inner)], (0..PAGES).map(run).collect(), hashes.collect())
    });
    let compared = stage.run(&["diff", &stage.honest.id, &id]);
    assert_code(&compared, 0, &["600 of 600 pages changed", "599  t"], "diff");
    let asked = stage.run(&["sql", &id, "SELECT count(*) FROM t"]);
    assert_code(&asked, 1, &["error: ", "damaged"], "sql");
}

#[test]
fn blobs_that_hold_much_beside_a_page_are_not_gathered_in_memory() {
    const BLOBS: usize = 16;
    let stage = Stage::new();
    let database = &stage.honest.files["msgvault.db"];
    let page_size = manifest_of(&stage).db.page_size;
    let id = with_pages(&stage, page_size, |forge| {
        let pages: Vec<&[u8]> = database.chunks_exact(page_size as usize).collect();
        let (first, rest) = pages.split_at(BLOBS);
        let mut blobs: Vec<BlobId> = vec![];
        for page in first {
            let (blob, frame) = bomb_after(page, 24 << 20);
            forge.frame(blob, &frame, page.len() as u64 + (24 << 20), BlobFlags::COMPRESSED);
            blobs.push(blob);
        }
        blobs.push(forge.blob(&rest.concat()));
        let run =
            |page: usize| Run { start_page: page as u64, pages: 1, blob_index: page as u32, blob_offset: 0 };
        let mut runs: Vec<Run> = (0..BLOBS).map(run).collect();
        runs.push(Run { pages: rest.len() as u32, ..run(BLOBS) });
        (blobs, runs, pages.iter().map(|page| PageHash::of(page)).collect())
    });
    stage.assert_looks(MEMORY_KIB, &id, &[], "large blobs");
}

#[test]
fn a_value_that_is_long_when_it_is_written_out_is_written_in_pieces() {
    let stage = Stage::new();
    let id = with_database(&stage, |connection| {
        let sql = "CREATE TABLE long AS SELECT replace(hex(zeroblob(4000000)), '0', char(27)) AS text";
        connection.execute_batch(sql).unwrap();
    });
    let question = "SELECT text, CAST(text AS BLOB) AS bytes FROM long";
    for (style, end) in [("--table", "1b1b\n"), ("--csv", "1b1b\r\n"), ("--json", "1b1b\"}]]}\n")] {
        let asked = stage.run(&["sql", &id, question, style]);
        assert_code(&asked, 0, &[], style);
        assert!(asked.told.ends_with(end) && asked.told.len() > 24_000_000, "{style}");
    }
}

#[test]
fn a_snapshot_with_anothers_id_is_named_and_never_restored() {
    let stage = Stage::new();
    let (storage, honest): (&MemoryStorage, &str) = (&stage.storage, &stage.honest.id);
    let text = String::from_utf8(storage_text(storage, honest)).unwrap();
    let tagged = text.replace("\"tag\": \"\"", "\"tag\": \"forged\"");
    assert_ne!(text, tagged);
    let other = format!("20310101T000000Z-{}", "a".repeat(32));
    for (case, name, body) in [
        ("changed in place", honest.to_owned(), tagged.clone()),
        ("under another name", other.clone(), text.clone()),
        ("another name inside too", other.clone(), text.replace(honest, &other)),
    ] {
        let stage = Stage::new();
        let name = if name == *honest { stage.honest.id.clone() } else { name };
        let body = body.replace(honest, &stage.honest.id);
        write_manifest(&stage.path("repository"), &name, &body);
        assert_code(&stage.run(&["list"]), 3, &[&name], case);
        assert_code(&stage.run(&["verify", "--all"]), 3, &[&name], case);
        stage.assert_looks(MEMORY_KIB, &name, &[Part::Manifest], case);
        assert_code(&stage.run(&["restore", &name, "--target", "target"]), 1, &[&name], case);
        assert_code(&stage.run(&["create", &stage.home()]), 1, &[&name], case);
        assert!(!stage.path("target").exists(), "{case}");
    }
}

fn storage_text(storage: &MemoryStorage, id: &str) -> Vec<u8> {
    let name = format!("snapshots/{id}.mvmanifest");
    storage.objects().into_iter().find(|(key, _)| key.as_str() == name).unwrap().1.to_vec()
}

fn write_manifest(repository: &Path, id: &str, text: &str) {
    fs::write(repository.join(format!("snapshots/{id}.mvmanifest")), text).unwrap();
}
