//! The danger: a restore writes where it must not - over a live archive, through a link, outside its folder - or
//! fails and leaves half of a result where a whole archive was.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use packvault::engine::restore::RestoreOptions;
use packvault::format::{BlobFlags, BlobId, ExtrasEntry, IndexId, Manifest, SnapshotId, crc32c, extras_tree};
use packvault::repo::packs::{PackWriter, StoredBlob};
use packvault::{Error, ErrorKind, Result};
use packvault_sample::{ContentKind, SampleOptions};

use crate::support::archives::{execute, make, tiny};
use crate::support::operations::{block_on, create, init, manifests, one, open, try_restore, verify};
use crate::support::{Scratch, assert_no_remains, contents, stderr, tree};

/// A repository with one snapshot.
struct Case {
    scratch: Scratch,
    home: PathBuf,
    repository: PathBuf,
    id: String,
}

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
        make(&home, &SampleOptions { large: vec![(300_000, ContentKind::Random)], ..tiny() });
        let id = create(&repository, &home).id.unwrap();
        Self { scratch, home, repository, id }
    }

    fn restore(&self, target: &Path, overwrite: bool) -> Result<()> {
        let options = RestoreOptions { target: target.to_owned(), overwrite, ..Default::default() };
        try_restore(&self.repository, one(&self.id), options).map(drop)
    }

    /// Restores, which must fail with the words and change nothing anywhere.
    fn assert_refused(&self, target: &Path, overwrite: bool, kind: ErrorKind, words: &str) -> Error {
        let everything = self.scratch.path("");
        let before = tree(&everything);
        let error = self.restore(target, overwrite).expect_err(words);
        assert_eq!(error.kind(), kind, "{}", error.chain());
        assert!(error.chain().contains(words), "{}", error.chain());
        assert_eq!(tree(&everything), before, "nothing may change");
        assert_no_remains(&self.repository);
        error
    }

    /// Makes a target that holds an older archive and a stranger's file.
    fn occupied_target(&self) -> PathBuf {
        let target = self.scratch.path("occupied");
        self.restore(&target, false).unwrap();
        execute(&target, "UPDATE messages SET sent_at = NULL");
        fs::write(target.join("attachments/notes.txt"), "mine").unwrap();
        fs::write(target.join("config.toml"), "mine too").unwrap();
        target
    }
}

#[test]
fn the_report_of_a_restore_counts_what_lies_in_the_target() {
    let case = Case::new();
    fs::create_dir_all(case.home.join("deletions")).unwrap();
    fs::write(case.home.join("deletions/one.json"), "1").unwrap();
    fs::write(case.home.join("deletions/two.json"), "2").unwrap();
    let id = create(&case.repository, &case.home).id.unwrap();
    let target = case.scratch.path("target");
    let options = RestoreOptions { target: target.clone(), ..Default::default() };
    let report = try_restore(&case.repository, one(&id), options).unwrap();
    let (attachments, others): (Vec<_>, Vec<_>) =
        contents(&target).into_keys().partition(|path| path.starts_with("attachments/"));
    let bytes = |path: &String| fs::metadata(target.join(path)).unwrap().len();
    assert_eq!(report.attachments.files, attachments.len() as u64);
    assert_eq!(report.attachments.bytes, attachments.iter().map(bytes).sum::<u64>());
    assert_eq!(report.extras, others.len() as u64 - 1, "all but the database: {others:?}");
    let database = report.database.unwrap();
    assert_eq!(database.bytes, bytes(&"msgvault.db".to_owned()));
    assert_eq!((report.proof.pages, database.identical), (database.pages, true));
    let checked = verify(&case.repository, one(&id), false);
    // Besides content there are a page map, its hashes, a list of attachments and the tree of extra files.
    let manifest = manifests(&case.repository).pop().unwrap();
    let objects = 2 * (1 + manifest.db.map_chain_depth as u64) + manifest.lists().unwrap().len() as u64 + 1;
    assert_eq!(report.proof.blobs, checked.blobs - objects);
}

#[test]
fn a_target_that_is_not_empty_is_refused_unless_told_to_overwrite() {
    let case = Case::new();
    let target = case.scratch.path("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("a letter"), "dear").unwrap();
    case.assert_refused(&target, false, ErrorKind::Refused, "it is not empty: it holds \"a letter\"");
    let output = case.scratch.run(&["restore", "--repo", "./repository", "--target", "target"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("target: it is not empty"), "{}", stderr(&output));
    case.restore(&target, true).unwrap();
    assert_eq!(fs::read_to_string(target.join("a letter")).unwrap(), "dear");
}

#[test]
fn an_empty_target_and_one_with_the_applications_lock_files_are_taken() {
    let case = Case::new();
    let target = case.scratch.path("target");
    fs::create_dir(&target).unwrap();
    case.restore(&target, false).unwrap();
    let target = case.scratch.path("another");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("daemon.lock"), "").unwrap();
    fs::write(target.join("db.write.lock"), "").unwrap();
    case.restore(&target, false).unwrap();
    assert!(target.join("msgvault.db").exists());
}

#[test]
fn a_target_that_is_a_link_or_no_folder_is_refused() {
    let case = Case::new();
    let (elsewhere, link) = (case.scratch.path("elsewhere"), case.scratch.path("link"));
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, &link).unwrap();
    symlink("nowhere", case.scratch.path("dangling")).unwrap();
    fs::write(case.scratch.path("file"), "").unwrap();
    for overwrite in [false, true] {
        for target in ["link", "link/", "link//", "link/.", "dangling", "dangling/"] {
            let target = case.scratch.path(target);
            case.assert_refused(&target, overwrite, ErrorKind::Refused, "it is a symbolic link");
        }
        case.assert_refused(&case.scratch.path("file"), overwrite, ErrorKind::Refused, "it is no folder");
        let below = case.scratch.path("file/below");
        case.assert_refused(&below, overwrite, ErrorKind::Refused, "no folder");
        let upwards = case.scratch.path("missing/../target");
        case.assert_refused(&upwards, overwrite, ErrorKind::Refused, "`..`");
    }
    // A link above the target is the user's own affair.
    case.restore(&link.join("deep/down"), false).unwrap();
    assert!(elsewhere.join("deep/down/msgvault.db").exists());
}

#[test]
fn a_link_inside_the_target_is_never_followed() {
    let case = Case::new();
    let target = case.occupied_target();
    let outside = case.scratch.path("outside");
    fs::rename(target.join("attachments"), &outside).unwrap();
    symlink(&outside, target.join("attachments")).unwrap();
    case.assert_refused(&target, true, ErrorKind::Refused, "attachments: it is a symbolic link");
    fs::remove_file(target.join("attachments")).unwrap();
    fs::write(target.join("attachments"), "a file").unwrap();
    case.assert_refused(&target, true, ErrorKind::Refused, "attachments: it is no folder");
    fs::remove_file(target.join("attachments")).unwrap();
    fs::rename(&outside, target.join("attachments")).unwrap();

    // A link in the place of a file is replaced, and what it points at stays.
    let precious = case.scratch.path("precious");
    fs::write(&precious, "precious").unwrap();
    fs::remove_file(target.join("msgvault.db")).unwrap();
    symlink(&precious, target.join("msgvault.db")).unwrap();
    case.restore(&target, true).unwrap();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert!(target.join("msgvault.db").symlink_metadata().unwrap().is_file());

    fs::remove_file(target.join("msgvault.db")).unwrap();
    fs::create_dir(target.join("msgvault.db")).unwrap();
    case.assert_refused(&target, true, ErrorKind::Refused, "it is a folder where a file is restored");
}

#[test]
fn a_live_archive_is_refused_while_its_application_runs() {
    let case = Case::new();
    for name in ["daemon.lock", "db.write.lock"] {
        let lock = File::create(case.home.join(name)).unwrap();
        lock.try_lock().unwrap();
        let error = case.assert_refused(&case.home, true, ErrorKind::InUse, name);
        assert!(error.to_string().starts_with("cannot restore into the live archive at"), "{error}");
        let arguments = ["restore", "--repo", "./repository", "--target", "home", "--overwrite"];
        assert_eq!(case.scratch.run(&arguments).status.code(), Some(11));
        // Not dropped: a process that another test has just started may hold a copy for a moment.
        lock.unlock().unwrap();
    }
    case.restore(&case.home, true).unwrap();
}

#[test]
fn a_home_of_this_machine_is_owned_while_it_is_restored_into() {
    let case = Case::new();
    for name in ["daemon.lock", "db.write.lock"] {
        let _ = fs::remove_file(case.home.join(name));
    }
    let options = RestoreOptions {
        target: case.scratch.path("repository/../home"),
        overwrite: true,
        live_homes: vec![case.scratch.path("nowhere").into(), case.home.clone().into()],
        ..Default::default()
    };
    try_restore(&case.repository, one(&case.id), options).unwrap();
    assert!(case.home.join("daemon.lock").exists(), "its locks were taken");
}

#[test]
fn two_restores_into_one_target_do_not_mix() {
    let case = Case::new();
    let target = case.scratch.path("target");
    fs::create_dir(&target).unwrap();
    let other = File::open(&target).unwrap();
    other.try_lock().unwrap();
    case.assert_refused(&target, false, ErrorKind::Refused, "another restore into it is running");
    // As above.
    other.unlock().unwrap();
    case.restore(&target, false).unwrap();
}

#[test]
fn overwriting_replaces_what_the_snapshot_has_and_keeps_the_rest() {
    let case = Case::new();
    let target = case.occupied_target();
    for sidecar in ["-wal", "-shm", "-journal"] {
        fs::write(target.join(format!("msgvault.db{sidecar}")), "stale").unwrap();
    }
    let leftover = "msgvault.db-wal.restore-01ARZ3NDEKTSV4RRFFQ69G5FAV";
    fs::write(target.join(leftover), "of a killed restore").unwrap();
    fs::create_dir_all(target.join(".packvault-restore-01arz3ndektsv4rrffq69g5fav/attachments")).unwrap();
    let attachment = contents(&case.home.join("attachments")).into_keys().next().unwrap();
    fs::write(target.join("attachments").join(&attachment), "spoilt").unwrap();

    case.restore(&target, true).unwrap();
    let found = contents(&target.join("attachments"));
    for (path, hash) in contents(&case.home.join("attachments")) {
        assert_eq!(found.get(&path), Some(&hash));
    }
    assert_eq!(fs::read_to_string(target.join("attachments/notes.txt")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(target.join("config.toml")).unwrap(), "mine too");
    let captured = fs::read(case.home.join("msgvault.db")).unwrap();
    assert!(fs::read(target.join("msgvault.db")).unwrap() == captured);
    let top: Vec<String> = tree(&target).into_keys().filter(|path| !path.contains('/')).collect();
    assert_eq!(top, [".", "attachments", "config.toml", "deletions", "msgvault.db"]);
}

#[test]
fn a_restore_that_fails_late_leaves_the_target_as_it_was() {
    let case = Case::new();
    let target = case.occupied_target();
    // An attachment is read after the whole database was written.
    let attachments = contents(&case.home.join("attachments"));
    let size = |path: &String| fs::metadata(case.home.join("attachments").join(path)).unwrap().len();
    let largest = attachments.iter().max_by_key(|(path, _)| size(path)).unwrap().1;
    let union = block_on(open(&case.repository).load_indexes()).unwrap();
    let location = union.get(&BlobId::parse(largest).unwrap()).unwrap();
    let pack = location.pack.to_string();
    let path = case.repository.join(format!("packs/{}/{pack}.mvpack", &pack[..2]));
    let mut bytes = fs::read(&path).unwrap();
    bytes[location.offset as usize + 1000] ^= 1;
    fs::write(&path, bytes).unwrap();

    case.assert_refused(&target, true, ErrorKind::Damaged, largest);
    case.assert_refused(&case.scratch.path("made/for/this"), false, ErrorKind::Damaged, &pack);
    let output = case.scratch.run(&["restore", "--repo", "./repository", "--target", "made/for/this"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!case.scratch.path("made").exists());
}

/// Stores one blob as a snapshot's writer would.
fn store(writer: &mut PackWriter, raw: Vec<u8>) -> BlobId {
    let id = BlobId::of(&raw);
    let (raw_bytes, crc32c) = (raw.len() as u64, crc32c(&raw));
    let stored = raw.into();
    block_on(writer.append(StoredBlob { id, raw_bytes, flags: BlobFlags::RAW, crc32c, stored })).unwrap();
    id
}

/// Adds a snapshot like the newest, changed by `change`: well-formed, whatever it says.
fn forge(repository: &Path, change: impl FnOnce(&mut Manifest, &mut PackWriter)) -> SnapshotId {
    let opened = open(repository);
    let mut manifest = manifests(repository).pop().unwrap();
    let mut writer = PackWriter::new(opened.clone());
    change(&mut manifest, &mut writer);
    manifest.created_at = "2031-02-03T04:05:06Z".to_owned();
    let written = block_on(writer.finish()).unwrap();
    if !written.entries.is_empty() {
        let index = IndexId::parse(&opened.ulids().next().to_string().to_lowercase()).unwrap();
        block_on(opened.publish_index(&index, written.entries)).unwrap();
    }
    let id = manifest.seal_id().unwrap();
    block_on(opened.publish_snapshot(&manifest)).unwrap();
    id
}

fn entry(path: &str, writer: &mut PackWriter) -> ExtrasEntry {
    let blob = store(writer, format!("content of {path}").into_bytes());
    ExtrasEntry { path: path.to_owned(), mode: 0o600, size: format!("content of {path}").len() as u64, blob }
}

#[test]
fn hostile_paths_of_extra_files_are_refused_before_the_target_is_made() {
    for (paths, words) in [
        (&["../outside"][..], "leaves the folder"),
        (&["deletions/../../outside"], "leaves the folder"),
        (&["/etc/cron.d/x"], "not a relative path"),
        (&["."], "names nothing"),
        (&["safe/../msgvault.db"], "belongs to the database"),
        (&["msgvault.db-wal"], "belongs to the database"),
        (&["MSGVAULT.DB-journal"], "belongs to the database"),
        (&["Attachment\u{17f}/00/x"], "belongs to the database"),
        (&["deletions/x."], "dot or a space"),
        (&["deletions/ /x"], "dot or a space"),
        (&["tokens/a.json", "tokens/A.json"], "one name"),
        (&["tokens/\u{e9}", "tokens/e\u{301}"], "one name"),
        (&["tokens/a", "tokens//a"], "one name"),
        (&["tokens/a", "tokens/a/b"], "needs it as a folder"),
    ] {
        let case = Case::new();
        let id = forge(&case.repository, |manifest, writer| {
            let entries: Vec<ExtrasEntry> = paths.iter().map(|path| entry(path, writer)).collect();
            manifest.extras_tree = store(writer, extras_tree::encode(&entries)).to_string();
        });
        let case = Case { id: id.to_string(), ..case };
        case.assert_refused(&case.scratch.path("target"), false, ErrorKind::Damaged, words);
        let report = verify(&case.repository, one(&case.id), false);
        assert!(
            report.problems.iter().any(|problem| problem.detail.contains(words)),
            "{:#?}",
            report.problems
        );
    }
}

#[test]
fn a_snapshot_that_contradicts_itself_is_refused_before_anything_visible_changes() {
    for (what, words) in [
        ("stats", "does not show the recorded statistics"),
        ("blobs", "the manifest says"),
        ("lists", "is listed twice"),
        ("size", "is listed with"),
        ("tree", "which no index names"),
        ("pages", "the manifest says"),
    ] {
        let case = Case::new();
        let id = forge(&case.repository, |manifest, writer| match what {
            "stats" => manifest.stats = manifest.stats.replace("\"messages\":", "\"messages\":1"),
            "blobs" => manifest.attachments.blobs += 1,
            "lists" => {
                let lists = manifest.attachments.lists.as_mut().unwrap();
                lists.push(lists[0].clone());
            }
            "size" => {
                let entry = ExtrasEntry { size: 1, ..entry("deletions/x", writer) };
                manifest.extras_tree = store(writer, extras_tree::encode(&[entry])).to_string();
            }
            "tree" => {
                let blob = BlobId::of(b"nowhere");
                let entry = ExtrasEntry { path: "deletions/x".to_owned(), mode: 0o600, size: 7, blob };
                manifest.extras_tree = store(writer, extras_tree::encode(&[entry])).to_string();
            }
            _ => manifest.db.page_count -= 1,
        });
        let case = Case { id: id.to_string(), ..case };
        // Every page is as it was captured: it is what was recorded of the source that is wrong.
        let kind = if what == "stats" { ErrorKind::Source } else { ErrorKind::Damaged };
        case.assert_refused(&case.scratch.path("target"), false, kind, words);
        let occupied = case.scratch.path("occupied");
        fs::create_dir(&occupied).unwrap();
        fs::write(occupied.join("msgvault.db"), "an older one").unwrap();
        case.assert_refused(&occupied, true, kind, words);
    }
}

#[test]
fn a_snapshot_that_is_not_there_and_an_empty_repository_are_said_to_be_so() {
    let case = Case::new();
    let other = Case { id: format!("20200101T000000Z-{}", "0".repeat(32)), ..case };
    other.assert_refused(&other.scratch.path("target"), false, ErrorKind::NotFound, "no snapshot");
    init(&other.scratch.path("empty"));
    let output = other.scratch.run(&["restore", "--repo", "./empty", "--target", "target"]);
    assert_eq!(output.status.code(), Some(1));
    let output = other.scratch.run(&["restore", "--repo", "./nowhere", "--target", "target"]);
    assert_eq!(output.status.code(), Some(10));
    assert!(!other.scratch.path("target").exists() && !other.scratch.path("nowhere").exists());
}
