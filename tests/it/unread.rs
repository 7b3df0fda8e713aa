//! The danger: a file that did change is taken for one that did not, and the snapshot holds what it was before; or what is
//! remembered of files decides what is stored.
//!
//! Everything is compared with a create that remembers nothing and reads every file.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::archive::file_memory::{Binding, FileMemory};
use packvault::archive::sighting::{Print, notes_every_change};
use packvault::engine::Selection;
use packvault::engine::create::{CreateOptions, FileMemoryOptions, Reread, create};
use packvault::engine::report::{CreateReport, CreatedFiles};
use packvault::format::Manifest;
use packvault::profiles::msgvault::Msgvault;
use packvault_storage::{MemoryStorage, Storage as _};
use rusqlite::Connection;

use crate::support::archives::{add_attachment, canonical, make, tiny};
use crate::support::memory_repo::{
    Kind, assert_same_files, assert_sound, bring_back, check, context, files_below, make_repository, opened,
    runtime, shared,
};
use crate::support::operations::archive_paths;
use crate::support::{Scratch, stderr};

/// More than the clock of a file system takes from one time to the next.
const REST: Duration = Duration::from_millis(25);

/// An archive, what is remembered of it, and two repositories: one for creates that remember.
struct Scene {
    folder: tempfile::TempDir,
    remembering: MemoryStorage,
    reading: MemoryStorage,
}

impl Scene {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (remembering, reading) = (MemoryStorage::new(), MemoryStorage::new());
        for storage in [&remembering, &reading] {
            make_repository(storage, Kind::Plain).await.unwrap();
        }
        let scene = Self { folder, remembering, reading };
        make(&scene.home(), &tiny());
        fs::create_dir_all(scene.extras()).unwrap();
        for number in 0..30 {
            fs::write(scene.extras().join(format!("{number:02}.json")), format!("file {number}")).unwrap();
        }
        scene
    }

    fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    fn extras(&self) -> PathBuf {
        self.home().join("deletions")
    }

    fn memory(&self) -> PathBuf {
        self.folder.path().join("memory")
    }

    /// Tells whether extra files can be known by their times here.
    fn times_tell(&self) -> bool {
        notes_every_change(&File::open(self.home()).unwrap())
    }

    async fn create_in(
        &self,
        storage: &MemoryStorage,
        file_memory: Option<FileMemoryOptions>,
    ) -> packvault::Result<CreateReport> {
        let options =
            CreateOptions { writer_version: "test".into(), file_memory, ..CreateOptions::default() };
        let repository = opened(shared(storage)).await?;
        create(&repository, Arc::new(Msgvault), &archive_paths(&self.home()), options, &context()).await
    }

    /// Makes a snapshot that reads what it must.
    async fn create(&self, reread: Reread) -> CreateReport {
        self.try_create(reread).await.unwrap()
    }

    async fn try_create(&self, reread: Reread) -> packvault::Result<CreateReport> {
        let options = FileMemoryOptions { folder: self.memory(), reread, rest: REST };
        self.create_in(&self.remembering, Some(options)).await
    }

    /// Makes the same snapshot by reading everything, and compares.
    async fn assert_as_read(&self, report: &CreateReport, case: &str) {
        let whole = self.create_in(&self.reading, None).await.unwrap();
        let CreatedFiles { attachments_unread, extras_unread, .. } = whole.files;
        assert_eq!((attachments_unread, extras_unread), (0, 0), "{case}");
        let one = newest(&self.remembering, report).await;
        let other = newest(&self.reading, &whole).await;
        assert_eq!(one.extras_tree, other.extras_tree, "{case}: the extra files");
        assert_eq!(one.stats.to_string(), other.stats.to_string(), "{case}");
        assert_eq!(
            (one.attachments.blobs, one.attachments.blob_bytes),
            (other.attachments.blobs, other.attachments.blob_bytes),
            "{case}: the attachments"
        );
    }

    /// Restores the snapshot and compares every file with what lies there.
    async fn assert_restores(&self, report: &CreateReport, case: &str) {
        let mut files = files_below(&self.home());
        files.retain(|path, _| path.starts_with("attachments/") || path.starts_with("deletions/"));
        let target = tempfile::tempdir().unwrap();
        let target = target.path().join("target");
        bring_back(shared(&self.remembering), report.id.as_ref().unwrap(), &target).await.unwrap();
        let mut found = files_below(&target);
        found.retain(|path, _| path != "msgvault.db");
        assert_same_files(&found, &files, case);
    }

    /// Changes what is remembered, with a hash that is right.
    fn forge(&self, change: impl FnOnce(&mut FileMemory)) {
        let bytes = fs::read(only_file(&self.memory())).unwrap();
        let mut at = b"packvault files 1\n".len();
        let mut text = || {
            let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            at += 4 + length;
            String::from_utf8(bytes[at - length..at].to_vec()).unwrap()
        };
        let (whose, snapshot) = (text(), text());
        let binding = Binding { whose: &whose, snapshot: &snapshot };
        let mut memory = FileMemory::read(&self.memory(), binding).unwrap();
        change(&mut memory);
        memory.write(&self.memory(), binding).unwrap();
    }
}

fn only_file(folder: &Path) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap();
    let path = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none(), "nothing is left beside what is remembered");
    path
}

async fn newest(storage: &MemoryStorage, report: &CreateReport) -> Manifest {
    let snapshots = opened(shared(storage)).await.unwrap().load_snapshots().await.unwrap();
    let newest = snapshots.into_iter().next_back().unwrap();
    assert_eq!(Some(&newest.snapshot_id), report.id.as_ref());
    newest
}

/// Lets the times of all files get old enough.
fn rest() {
    std::thread::sleep(REST + REST);
}

/// Writes other bytes of the same length into a file, and puts its mtime back.
fn change_unseen(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0].wrapping_add(1)], 0).unwrap();
    file.set_times(FileTimes::new().set_modified(modified)).unwrap();
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// Does something to one of the extra files that changes what a name holds, or looks as if it did.
fn change_by_chance(folder: &Path, chance: &mut Chance) {
    let mut names: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let (one, other) = (&names[chance.below(names.len())], &names[chance.below(names.len())]);
    let beside = folder.join("beside");
    match chance.below(9) {
        0 => change_unseen(one),
        1 => fs::write(one, format!("anew {}", chance.0)).unwrap(),
        2 => OpenOptions::new().append(true).open(one).unwrap().write_all(b"+").unwrap(),
        // Another file of the same length and mtime takes the name.
        3 => {
            let modified = fs::metadata(one).unwrap().modified().unwrap();
            fs::write(&beside, vec![b'x'; fs::metadata(one).unwrap().len() as usize]).unwrap();
            File::options().write(true).open(&beside).unwrap().set_modified(modified).unwrap();
            fs::rename(&beside, one).unwrap();
        }
        // Two files change places.
        4 if one != other => {
            fs::rename(one, &beside).unwrap();
            fs::rename(other, one).unwrap();
            fs::rename(&beside, other).unwrap();
        }
        // One file under two names.
        5 if one != other => {
            fs::remove_file(other).unwrap();
            fs::hard_link(one, other).unwrap();
        }
        6 => {
            fs::remove_file(one).unwrap();
            fs::write(folder.join(format!("{:02}.json", chance.below(30))), "back").unwrap();
        }
        7 => fs::set_permissions(one, fs::Permissions::from_mode(0o600 + chance.below(64) as u32)).unwrap(),
        _ => File::options().write(true).open(one).unwrap().set_modified(SystemTime::now()).unwrap(),
    }
}

#[test]
fn after_any_changes_a_snapshot_is_what_reading_everything_gives() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let (mut unread, mut chance) = (CreatedFiles::default(), Chance(0x9e37_79b9_7f4a_7c15));
        for round in 0..24 {
            for _ in 0..chance.below(4) {
                change_by_chance(&scene.extras(), &mut chance);
            }
            if round % 6 == 5 {
                add_attachment(&scene.home(), format!("attachment of round {round}").as_bytes());
            }
            // In some rounds files have just been changed when they are read, and just been read when they change.
            if chance.below(2) == 0 {
                rest();
            }
            let reread = [Reread::None, Reread::None, Reread::Share][chance.below(3)];
            let report = scene.create(reread).await;
            unread.attachments_unread += report.files.attachments_unread;
            unread.extras_unread += report.files.extras_unread;
            let case = format!("round {round}");
            scene.assert_as_read(&report, &case).await;
            if round % 8 == 7 {
                scene.assert_restores(&report, &case).await;
            }
        }
        assert!(unread.attachments_unread > 50, "{unread:?}");
        assert!(unread.extras_unread > 100 || !scene.times_tell(), "{unread:?}");
        assert_sound(shared(&scene.remembering), "all").await;
    });
}

#[test]
fn what_did_not_change_is_not_read_and_every_file_has_its_turn_within_thirty_runs() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        rest();
        let first = scene.create(Reread::Share).await;
        let CreatedFiles { attachments_read: attachments, extras_read: extras, .. } = first.files;
        assert!(attachments >= 8 && extras >= 30, "{:?}", first.files);
        let second = scene.create(Reread::None).await;
        assert_eq!((second.files.attachments_read, second.files.attachments_unread), (0, attachments));
        assert_eq!((second.database.pages_changed, second.attachments.blobs_added), (0, 0));
        let tells = scene.times_tell();
        if !tells {
            eprintln!(
                "NOT RUN for extra files: the temporary folder is on no file system that notes every change"
            );
        }
        if tells {
            assert_eq!((second.files.extras_read, second.files.extras_unread), (0, extras));
        }
        let (mut attachments_read, mut extras_read) = (0, 0);
        for _ in 0..30 {
            let files = scene.create(Reread::Share).await.files;
            attachments_read += files.attachments_read;
            extras_read += files.extras_read;
        }
        assert_eq!(attachments_read, attachments, "each once");
        if tells {
            assert_eq!(extras_read, extras, "each once");
        }
        let all = scene.create(Reread::All).await.files;
        assert_eq!((all.attachments_unread, all.extras_unread), (0, 0));
        let after = scene.create(Reread::None).await.files;
        assert_eq!(after.attachments_read, 0, "what was read is known all the more");
    });
}

#[test]
fn a_file_that_was_just_changed_is_not_known_by_its_time() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let folder = scene.memory();
        // Nothing here is an hour old.
        let young =
            |reread| FileMemoryOptions { folder: folder.clone(), reread, rest: Duration::from_secs(3600) };
        for _ in 0..2 {
            let report = scene.create_in(&scene.remembering, Some(young(Reread::None))).await.unwrap();
            assert_eq!((report.files.attachments_unread, report.files.extras_unread), (0, 0));
        }
    });
}

#[test]
fn an_attachment_that_changed_in_place_is_refused_and_one_that_is_gone_is_missed() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        let bytes = b"an attachment that rots";
        let path = scene.home().join("attachments").join(add_attachment(&scene.home(), bytes));
        rest();
        scene.create(Reread::None).await;
        assert_eq!(scene.create(Reread::None).await.files.attachments_read, 0);
        change_unseen(&path);
        let error = scene.try_create(Reread::None).await.unwrap_err();
        assert!(error.to_string().contains("is not what its name says"), "{error}");
        fs::remove_file(&path).unwrap();
        let error = scene.try_create(Reread::None).await.unwrap_err();
        assert!(error.to_string().contains("is missing"), "{error}");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(scene.try_create(Reread::None).await.is_err(), "a link is no attachment");
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        assert_eq!(path, scene.home().join("attachments").join(canonical(bytes)));
        let report = scene.create(Reread::None).await;
        assert_eq!(report.files.attachments_read, 1, "creates that failed have forgotten nothing");
        scene.assert_as_read(&report, "mended").await;
    });
}

#[test]
fn what_is_remembered_does_not_decide_what_is_stored() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        rest();
        let first = scene.create(Reread::None).await;
        // Whatever is known of files, their packs are gone.
        let lost: Vec<_> = scene.remembering.objects().into_iter().map(|(key, _)| key).collect();
        for key in lost.iter().filter(|key| key.as_str().starts_with("packs/")) {
            scene.remembering.remove(key).await.unwrap();
        }
        let again = scene.create(Reread::None).await;
        assert_eq!((again.files.attachments_unread, again.files.extras_unread), (0, 0));
        assert!(again.bytes_added >= first.bytes_added / 2, "what was lost is stored again");
        let verified = check(shared(&scene.remembering), Selection::Latest, false).await.unwrap();
        assert!(verified.ok, "{:?}", verified.problems);
        scene.assert_restores(&again, "after the loss").await;
    });
}

#[test]
fn what_is_remembered_of_another_snapshot_start_or_time_is_not_believed() {
    runtime().block_on(async {
        let scene = Scene::new().await;
        rest();
        let tells = scene.times_tell();
        scene.create(Reread::None).await;
        // Somebody else makes a snapshot.
        scene.create_in(&scene.remembering, None).await.unwrap();
        let files = scene.create(Reread::None).await.files;
        assert_eq!(
            (files.attachments_unread, files.extras_unread),
            (0, 0),
            "it was made with another parent"
        );
        assert_eq!(scene.create(Reread::None).await.files.attachments_read, 0);
        scene.forge(|memory| memory.boot = "another".into());
        let files = scene.create(Reread::None).await.files;
        assert_eq!(
            files.extras_unread, 0,
            "after a crash, times and bytes of a file may not belong together"
        );
        assert_eq!(files.attachments_read, 0, "an attachment is proved by its name");
        scene.forge(|memory| memory.made_at = i64::MAX);
        let files = scene.create(Reread::None).await.files;
        assert_eq!((files.attachments_unread, files.extras_unread), (0, 0), "the clock was set back");
        // A tree that is not the parent's says nothing.
        scene.forge(|memory| memory.tree.push(b' '));
        let files = scene.create(Reread::None).await.files;
        assert_eq!((files.attachments_read, files.extras_unread), (0, 0));
        assert!(scene.create(Reread::None).await.files.extras_unread >= 30 || !tells);
        for bytes in [&b""[..], b"packvault files 1\n", &[0xFF; 4096]] {
            fs::write(only_file(&scene.memory()), bytes).unwrap();
            let report = scene.create(Reread::None).await;
            assert_eq!((report.files.attachments_unread, report.files.extras_unread), (0, 0));
            scene.assert_as_read(&report, "with a memory that is none").await;
        }
        // Prints in disorder and of anything: whoever has them all has nothing.
        scene.forge(|memory| {
            memory.attachments = (0..5000_u32).map(|number| Print::of(&number.to_le_bytes())).collect();
            memory.extras = memory.attachments.iter().rev().copied().collect();
            (memory.slot, memory.slot_at) = (u32::MAX, i64::MIN);
        });
        let report = scene.create(Reread::Share).await;
        assert_eq!((report.files.attachments_unread, report.files.extras_unread), (0, 0));
        assert_sound(shared(&scene.remembering), "forged").await;
    });
}

/// Waits until everything in the folder is old enough for the program.
fn grow_old(folder: &Path) {
    let newest = |folder: &Path| {
        let changed = |path: PathBuf| {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(path).unwrap().ctime()
        };
        fs::read_dir(folder).unwrap().map(|entry| changed(entry.unwrap().path())).max().unwrap()
    };
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
    while now() <= newest(folder) + 3 {
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_program_says_what_it_read_and_secrets_and_databases_are_always_read() {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("app/media")).unwrap();
    for number in 0..20 {
        fs::write(scratch.path(&format!("app/media/{number}")), format!("photo {number}")).unwrap();
    }
    fs::write(scratch.path("app/media/private.key"), "secret").unwrap();
    for name in ["app.db", "media/other.db"] {
        let database = Connection::open(scratch.path("app").join(name)).unwrap();
        database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    }
    let configuration = "[archive.app]\nprofile = \"sqlite\"\nhome = \"/HOME/app\"\ndatabase = \"app.db\"\n\
                         files = [\"media/**\"]\nsecrets = [\"*.key\"]\nallow_plaintext_secrets = true\n\
                         repository = \"/HOME/repo\"\n";
    let configuration = configuration.replace("/HOME", scratch.path("").to_str().unwrap());
    fs::write(scratch.path("c.toml"), &configuration).unwrap();
    let ends = |arguments: &[&str]| {
        let output =
            scratch.packvault(arguments).env("PACKVAULT_CONFIG", scratch.path("c.toml")).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let files = |arguments: &[&str]| {
        let output = ends(&[&["create", "app", "--json"], arguments].concat());
        let report: serde_json::Value = serde_json::from_str(&output).unwrap();
        let count = |name: &str| report["files"][name].as_u64().unwrap();
        (count("extras_read"), count("extras_unread"))
    };
    ends(&["init", "--repo", "./repo"]);
    grow_old(&scratch.path("app/media"));
    assert_eq!(files(&[]), (22, 0));
    if !notes_every_change(&File::open(scratch.path("app")).unwrap()) {
        return eprintln!("NOT RUN: the temporary folder's file system does not note every change");
    }
    assert_eq!(files(&["--reread", "none"]), (2, 20), "the key and the database");
    let shown = ends(&["create", "app", "--reread", "none"]);
    assert!(shown.contains("  read         2 of 22 files, 20 did not change\n"), "{shown}");
    let dry = ends(&["create", "app", "--reread", "none", "--dry-run"]);
    assert!(dry.contains("2 of 22 files"), "{dry}");
    assert_eq!(files(&["--reread", "all"]), (22, 0));
    assert!(!ends(&["create", "app", "--reread", "all"]).contains("did not change"));
    // A share of twenty may be none, and is never all.
    let (read, unread) = files(&[]);
    assert!(read >= 2 && unread > 10 && read + unread == 22, "{read} {unread}");
    change_unseen(&scratch.path("app/media/7"));
    assert_eq!(files(&["--reread", "none"]), (3, 19));
    ends(&["restore", "app", "--target", "./back", "--repo", "./repo"]);
    let restored = fs::read(scratch.path("back/media/7")).unwrap();
    assert_eq!(
        restored,
        fs::read(scratch.path("app/media/7")).unwrap(),
        "what was changed is in the snapshot"
    );
    // What is remembered is this user's own, and may go at any time.
    let cache = scratch.path(".cache/packvault/page-hashes/files");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&cache), mode(&only_file(&cache))), (0o700, 0o600));
    fs::write(scratch.path("c.toml"), format!("{configuration}reread = \"all\"\n")).unwrap();
    assert_eq!(files(&[]), (22, 0), "the configuration says so");
    // The one that was changed may still be too young to be known by its times.
    assert!(files(&["--reread", "none"]).1 >= 19, "and the command line is nearer");
    fs::remove_dir_all(&cache).unwrap();
    assert_eq!(files(&["--reread", "none"]), (22, 0));
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "in the way").unwrap();
    assert_eq!(files(&["--reread", "none"]), (22, 0), "nowhere to keep it is no failure");
}
