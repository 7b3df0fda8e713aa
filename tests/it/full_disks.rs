//! The danger: a disk is full, and the backup that was to be made, or the one that was there, is lost with an
//! error that says neither where nor what to do.
//!
//! Real file systems of a few hundred KiB are filled to several levels, and the real program meets them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use packvault_sample::{ContentKind, SampleOptions};

use crate::support::archives::{add_attachment, make, tiny};
use crate::support::small_disk::SmallDisk;
use crate::support::{Scratch, assert_no_remains, contents, snapshot_files, stderr, tree};

const KIB: u64 = 1024;

/// An archive on a disk with room, and a repository somewhere.
struct Case {
    scratch: Scratch,
    home: PathBuf,
    repository: PathBuf,
}

impl Case {
    /// Makes the archive and a first snapshot of it.
    fn new(repository: &Path) -> Self {
        let scratch = Scratch::new();
        let home = scratch.path("home");
        make(&home, &tiny());
        let case = Self { scratch, home, repository: repository.to_owned() };
        case.expect_done(&["init"]);
        case.expect_done(&["create", "home"]);
        case
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with_cache(arguments, &self.scratch.path("cache"))
    }

    fn run_with_cache(&self, arguments: &[&str], cache: &Path) -> Output {
        let mut command = self.scratch.packvault(arguments);
        command.arg("--repo").arg(&self.repository).env("XDG_CACHE_HOME", cache).output().unwrap()
    }

    fn expect_done(&self, arguments: &[&str]) {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    }

    /// Adds an attachment that does not compress.
    fn grow(&self, bytes: usize) {
        let mut seed = bytes as u64 | 1;
        let noise = (0..bytes).map(|_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 56) as u8
        });
        add_attachment(&self.home, &noise.collect::<Vec<_>>());
    }

    /// Everything is as it was, and sound.
    fn assert_sound(&self) {
        assert_no_remains(&self.repository);
        self.expect_done(&["verify", "--all"]);
    }
}

/// Expects exit code 1, the words, and what to do.
fn assert_full(output: &Output, words: &[&str], case: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{case}: {text}");
    for word in words.iter().chain(&["error: ", "hint: make room there"]) {
        assert!(text.contains(word), "{case}: {word:?} is not in: {text}");
    }
}

#[test]
fn a_full_disk_of_the_repository_loses_nothing_and_names_the_place() {
    let Some(disk) = SmallDisk::mount("size=2m") else { return };
    let case = Case::new(&disk.path("repository"));
    case.grow(400 * KIB as usize);
    let place = disk.path("repository").display().to_string();
    let mut failed = 0;
    for left in [0, 4, 12, 40, 100, 300, 420].map(|kib| kib * KIB) {
        let snapshots = snapshot_files(&case.repository);
        disk.leave_bytes(left);
        let output = case.run(&["create", "home"]);
        if output.status.code() == Some(0) {
            assert!(left >= 400 * KIB, "{left} bytes cannot hold it");
            disk.make_room();
            case.assert_sound();
            continue;
        }
        failed += 1;
        assert_full(&output, &[&place], &format!("{left} bytes left"));
        assert_eq!(snapshot_files(&case.repository), snapshots, "{left}");
        assert_no_remains(&case.repository);
        disk.make_room();
        case.assert_sound();
    }
    assert!(failed >= 5, "only {failed} of the levels were too full");
    case.expect_done(&["create", "home"]);
    case.assert_sound();
    case.expect_done(&["restore", "--target", "back"]);
    assert_eq!(contents(&case.scratch.path("back/attachments")), contents(&case.home.join("attachments")));
}

#[test]
fn a_full_repository_is_read_without_a_lock_and_says_so_until_there_is_room() {
    let Some(disk) = SmallDisk::mount("size=1m") else { return };
    let case = Case::new(&disk.path("repository"));
    let place = disk.path("repository").display().to_string();
    let home = contents(&case.home.join("attachments"));
    disk.leave_bytes(0);
    let before = tree(&case.repository);
    // A list takes no lock, and needs no room.
    case.expect_done(&["list"]);
    for is_full in [true, false] {
        if !is_full {
            disk.make_room();
        }
        let target = if is_full { "back" } else { "back again" };
        for arguments in [&["verify", "--all"][..], &["restore", "--target", target]] {
            let output = case.run(arguments);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "full: {is_full}, {arguments:?}: {text}");
            // Which disk is full, and what may not be done meanwhile.
            let words = ["warning: the repository is read without a lock", &place, "nothing may be removed"];
            for word in words {
                assert_eq!(text.contains(word), is_full, "full: {is_full}, {arguments:?}, {word:?}: {text}");
            }
        }
        assert_eq!(tree(&case.repository), before, "full: {is_full}");
        assert_eq!(contents(&case.scratch.path(target).join("attachments")), home, "full: {is_full}");
    }
    case.assert_sound();
}

#[test]
fn a_disk_without_room_for_another_file_is_full_as_well() {
    let Some(disk) = SmallDisk::mount("size=4m,nr_inodes=40") else { return };
    let case = Case::new(&disk.path("repository"));
    case.grow(1000);
    let snapshots = snapshot_files(&case.repository);
    let spare = disk.path("spare");
    fs::create_dir(&spare).unwrap();
    for number in 0.. {
        if fs::File::create(spare.join(number.to_string())).is_err() {
            break;
        }
    }
    let place = disk.path("repository").display().to_string();
    for freed in 0..4 {
        let output = case.run(&["create", "home"]);
        if output.status.code() == Some(0) {
            assert!(freed > 0);
            break;
        }
        assert_full(&output, &[&place], &format!("{freed} files can be made"));
        assert_eq!(snapshot_files(&case.repository), snapshots);
        assert_no_remains(&case.repository);
        fs::remove_file(spare.join(freed.to_string())).unwrap();
    }
    fs::remove_dir_all(spare).unwrap();
    case.expect_done(&["create", "home"]);
    case.assert_sound();
}

#[test]
fn no_repository_is_half_made_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount("size=256k") else { return };
    let scratch = Scratch::new();
    let repository = disk.path("repository");
    disk.leave_bytes(0);
    let init = || scratch.packvault(&["init", "--repo"]).arg(&repository).output().unwrap();
    assert_full(&init(), &[&repository.display().to_string()], "init");
    disk.make_room();
    let output = init();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_full_spool_names_itself_and_how_much_it_lacks() {
    let Some(disk) = SmallDisk::mount("size=1m") else { return };
    let scratch = Scratch::new();
    let repository = scratch.path("repository");
    let case = Case { home: scratch.path("home"), repository, scratch };
    // Larger than what is compressed in memory.
    make(&case.home, &SampleOptions { large: vec![(20_000_000, ContentKind::Random)], ..tiny() });
    case.expect_done(&["init"]);
    for left in [0, 300 * KIB] {
        disk.leave_bytes(left);
        let output = case.run_with_cache(&["create", "home"], &disk.path("cache"));
        let spool = disk.path("cache/packvault").display().to_string();
        assert_full(&output, &[&spool], &format!("{left} bytes left"));
        if left > 0 {
            assert!(stderr(&output).contains("a file of 20000000 bytes"), "{}", stderr(&output));
        }
        assert!(snapshot_files(&case.repository).is_empty());
        assert_no_remains(&case.repository);
        disk.make_room();
        assert!(contents(disk.root()).is_empty(), "nothing stays in the spool");
    }
    case.expect_done(&["create", "home"]);
    case.assert_sound();
    // A verify builds the database there, to look at its paths. A full disk is no damage.
    for left in [0, 12 * KIB] {
        disk.leave_bytes(left);
        let output = case.run_with_cache(&["verify", "--all", "--paths"], &disk.path("cache"));
        assert_full(&output, &[&disk.path("cache/packvault").display().to_string()], "verify");
        assert_no_remains(&case.repository);
        disk.make_room();
        assert!(contents(disk.root()).is_empty(), "nothing stays in the spool");
    }
}

#[test]
fn a_full_cache_costs_time_and_no_backup() {
    let Some(disk) = SmallDisk::mount("size=64k") else { return };
    let scratch = Scratch::new();
    let case = Case::new(&scratch.path("repository"));
    let cache = case.home.join("backup-cache");
    fs::remove_dir_all(&cache).unwrap();
    std::os::unix::fs::symlink(disk.root(), &cache).unwrap();
    disk.leave_bytes(0);
    case.grow(1000);
    case.expect_done(&["create", "home"]);
    case.assert_sound();
    assert_eq!(contents(disk.root()).len(), 1, "only the ballast");
}

#[test]
fn a_full_target_is_left_as_it_was_and_told_what_it_needs() {
    let Some(disk) = SmallDisk::mount("size=2m") else { return };
    let scratch = Scratch::new();
    let case = Case::new(&scratch.path("repository"));
    case.grow(300 * KIB as usize);
    case.expect_done(&["create", "home"]);
    let occupied = disk.path("occupied");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("msgvault.db"), "an older one").unwrap();
    let database = fs::metadata(case.home.join("msgvault.db")).unwrap().len();
    let mut failed = 0;
    for left in [0, 8 * KIB, 40 * KIB, database / 2, database + 40 * KIB, database + 200 * KIB] {
        disk.leave_bytes(left);
        let before = tree(disk.root());
        for (name, overwrite) in [("fresh/and/deep", false), ("occupied", true)] {
            let target = disk.path(name);
            let mut arguments = vec!["restore", "--target", target.to_str().unwrap()];
            if overwrite {
                arguments.push("--overwrite");
            }
            let output = case.run(&arguments);
            let (shown, needs) = (target.display().to_string(), "the snapshot needs ");
            let words = if left == 0 { vec![shown.as_str()] } else { vec![shown.as_str(), needs] };
            assert_full(&output, &words, &format!("{left} bytes left, {name}"));
            assert_eq!(tree(disk.root()), before, "{left} bytes left");
            failed += 1;
        }
        disk.make_room();
        assert_no_remains(&case.repository);
    }
    assert_eq!(failed, 12);
    case.expect_done(&["restore", "--target", disk.path("fresh").to_str().unwrap()]);
    assert_eq!(contents(&disk.path("fresh/attachments")), contents(&case.home.join("attachments")));
}
