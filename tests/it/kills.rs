//! The danger: the process is killed, by the system or by somebody, at an instant nobody chose, and a backup
//! that was there is gone, or the next one does not work.
//!
//! The real program, on a real disk, gets SIGKILL at random instants of each command. `PACKVAULT_KILLS` says how
//! often each command is killed, half of it on an encrypted repository; a failure prints the instant.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use packvault_sample::{Change, ContentKind, SampleOptions, mutate};

use crate::support::archives::{make, tiny};
use crate::support::memory_repo::{KINDS, Kind};
use crate::support::operations::{assert_sound, list};
use crate::support::{Scratch, contents, encrypted, names, snapshot_files, tree};

/// How often each command is killed, unless `PACKVAULT_KILLS` says otherwise.
const KILLS: u32 = 4;

/// An archive that takes a while, and a repository that takes many kills.
struct Case {
    scratch: Scratch,
    home: PathBuf,
    repository: PathBuf,
    kind: Kind,
    seed: u64,
}

impl Case {
    fn new(kind: Kind) -> Self {
        let scratch = Scratch::new();
        let (home, repository) = (scratch.path("home"), scratch.path("repository"));
        let large = vec![(3_000_000, ContentKind::Random); 2];
        make(&home, &SampleOptions { messages: 400, large, ..tiny() });
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
        let case = Self { scratch, home, repository, kind, seed: seed as u64 | 1 };
        let recipient = encrypted::identity("age.pub");
        let as_what = match kind {
            Kind::Plain => &["--plaintext"][..],
            Kind::Encrypted => &["--encrypt", "--recipient", &recipient],
        };
        case.expect_done(&[&["init"], as_what].concat(), "at the beginning");
        case
    }

    /// Returns the program, with the key of the repository if it has one.
    fn packvault(&self, arguments: &[&str]) -> Command {
        let arguments = [arguments, &["--repo", "./repository", "--progress", "none"]].concat();
        let mut command = self.scratch.packvault(&arguments);
        if self.kind == Kind::Encrypted {
            command.env("PACKVAULT_IDENTITY", encrypted::identity("age.txt"));
        }
        command
    }

    /// Runs a command to its end; returns how long it took.
    fn expect_done(&self, arguments: &[&str], case: &str) -> Duration {
        let begun = Instant::now();
        let output = self.packvault(arguments).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{case}: {arguments:?}: {told}");
        begun.elapsed()
    }

    /// Runs a command and kills it at a random instant of the time that it may take; tells whether it was in
    /// time, and when.
    fn kill(&mut self, arguments: &[&str], usual: Duration) -> (bool, String) {
        // A linear congruential generator: any instant will do, and the failure names it.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let instant = usual.mul_f64((self.seed >> 40) as f64 / (1u64 << 24) as f64);
        let mut command = self.packvault(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(instant);
        child.kill().unwrap();
        let killed = child.wait().unwrap().code().is_none();
        (
            killed,
            format!(
                "{:?}: {arguments:?} killed after {instant:?} of {usual:?}, in time: {killed}",
                self.kind
            ),
        )
    }

    /// Every listed snapshot is sound, and the next create needs nothing but the word that the holder is gone.
    fn expect_order(&self, case: &str) {
        let listed = list(&self.repository);
        assert!(listed.iter().all(|row| row.problem.is_none()), "{case}: {listed:#?}");
        self.expect_done(&["create", "home", "--force-unlock"], case);
        assert!(names(&self.repository.join("staging")).is_empty(), "{case}");
        // A claim of a dead process is nobody's lock; it goes once it is old.
        let mut locks = names(&self.repository.join("locks"));
        locks.retain(|name| !name.starts_with("releasing-"));
        assert!(locks.is_empty(), "{case}: {locks:?}");
        let report = assert_sound(&self.repository);
        assert_eq!(report.snapshots as usize, listed.len() + 1, "{case}");
    }
}

/// Returns how often a command is killed on each kind of repository.
fn kills() -> u32 {
    let kills = std::env::var("PACKVAULT_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(KILLS);
    kills.div_ceil(KINDS.len() as u32)
}

#[test]
fn a_create_that_is_killed_at_any_instant_leaves_whole_snapshots_and_needs_no_repair() {
    for kind in KINDS {
        let mut case = Case::new(kind);
        let usual = case.expect_done(&["create", "home"], "the first");
        for _ in 0..kills() {
            let change = Change { large: vec![(3_000_000, ContentKind::Random)], ..Change::default() };
            mutate(&case.home, &change).unwrap();
            let before = snapshot_files(&case.repository);
            let (_, told) = case.kill(&["create", "home"], usual);
            let after = snapshot_files(&case.repository);
            assert!(
                after.len() <= before.len() + 1 && before.iter().all(|name| after.contains(name)),
                "{told}"
            );
            case.expect_order(&told);
        }
        case.expect_done(&["restore", "--target", "back"], "at the end");
        let (back, home) = (case.scratch.path("back/attachments"), case.home.join("attachments"));
        assert_eq!(contents(&back), contents(&home));
    }
}

#[test]
fn a_verify_that_is_killed_at_any_instant_changes_nothing() {
    for kind in KINDS {
        let mut case = Case::new(kind);
        case.expect_done(&["create", "home"], "the first");
        let usual = case.expect_done(&["verify", "--all"], "the first");
        let unlocked = |case: &Case| {
            let mut found = tree(&case.repository);
            found.retain(|path, _| !path.starts_with("locks") && !path.starts_with("staging"));
            found
        };
        let before = unlocked(&case);
        for _ in 0..kills() {
            let (_, told) = case.kill(&["verify", "--all"], usual);
            assert_eq!(unlocked(&case), before, "{told}");
            // Shared locks of dead readers keep no other reader out.
            case.expect_done(&["verify"], &told);
        }
        case.expect_order("after all the kills");
    }
}

#[test]
fn a_restore_that_is_killed_at_any_instant_leaves_a_target_that_the_next_one_completes() {
    for kind in KINDS {
        let mut case = Case::new(kind);
        case.expect_done(&["create", "home"], "the first");
        let usual = case.expect_done(&["restore", "--target", "whole"], "the first");
        let whole = contents(&case.scratch.path("whole"));
        let occupied = case.scratch.path("occupied");
        fs::create_dir_all(occupied.join("attachments")).unwrap();
        fs::write(occupied.join("msgvault.db"), "an older one").unwrap();
        fs::write(occupied.join("attachments/letter"), "mine").unwrap();
        for _ in 0..kills() {
            let (_, told) = case.kill(&["restore", "--target", "fresh/deep"], usual);
            let target = case.scratch.path("fresh/deep");
            let visible: Vec<String> =
                names(&target).into_iter().filter(|name| !name.starts_with('.')).collect();
            // The database comes last: with it all is there.
            if visible.contains(&"msgvault.db".to_owned()) {
                let found = contents(&target);
                assert!(whole.iter().all(|(path, hash)| found.get(path) == Some(hash)), "{told}");
            }
            case.expect_done(&["restore", "--target", "fresh/deep", "--overwrite"], &told);
            assert_eq!(contents(&target), whole, "{told}");
            fs::remove_dir_all(case.scratch.path("fresh")).unwrap();

            let (_, told) = case.kill(&["restore", "--target", "occupied", "--overwrite"], usual);
            let database = contents(&occupied)["msgvault.db"].clone();
            let old = crate::support::sha256(b"an older one");
            assert!(database == old || database == whole["msgvault.db"], "{told}: neither old nor new");
            case.expect_done(&["restore", "--target", "occupied", "--overwrite"], &told);
            let mut found = contents(&occupied);
            assert_eq!(found.remove("attachments/letter"), Some(crate::support::sha256(b"mine")), "{told}");
            assert_eq!(found, whole, "{told}");
            fs::write(occupied.join("msgvault.db"), "an older one").unwrap();
        }
        case.expect_order("after all the kills");
    }
}

#[test]
fn a_forget_that_is_killed_at_any_instant_leaves_what_is_shown_whole_and_the_next_one_goes_on() {
    for kind in KINDS {
        let mut case = Case::new(kind);
        case.expect_done(&["create", "home"], "the first");
        let mut usual = Duration::from_millis(50);
        for _ in 0..kills() {
            for _ in 0..3 {
                mutate(&case.home, &Change::default()).unwrap();
                case.expect_done(&["create", "home"], "one more");
            }
            let newest = list(&case.repository).pop().unwrap().id;
            let (_, told) = case.kill(&["forget", "--keep-last", "1"], usual);
            assert_eq!(list(&case.repository).last().map(|row| &row.id), Some(&newest), "{told}");
            case.expect_done(&["verify", "--all", "--no-lock"], &told);
            usual = case.expect_done(&["forget", "--keep-last", "1", "--force-unlock"], &told);
            let listed = list(&case.repository);
            assert_eq!(listed.iter().map(|row| &row.id).collect::<Vec<_>>(), [&newest], "{told}");
        }
        case.expect_order("after all the kills");
    }
}

#[test]
fn a_prune_that_is_killed_at_any_instant_leaves_every_snapshot_whole_and_the_next_one_goes_on() {
    for kind in KINDS {
        let mut case = Case::new(kind);
        case.expect_done(&["create", "home"], "the first");
        let mut usual = Duration::from_millis(50);
        for _ in 0..kills() {
            for _ in 0..4 {
                mutate(&case.home, &Change::default()).unwrap();
                case.expect_done(&["create", "home"], "one more");
            }
            case.expect_done(&["forget", "--keep-last", "2"], "two stay");
            let listed = list(&case.repository);
            let (_, told) = case.kill(&["prune", "--max-unused", "0", "--keep-last", "2"], usual);
            case.expect_done(&["verify", "--all", "--no-lock"], &told);
            let again = ["prune", "--max-unused", "0", "--keep-last", "2", "--force-unlock"];
            usual = case.expect_done(&again, &told);
            // What was squashed has another id of the same second.
            let seconds = |rows: &[packvault::engine::report::ListRow]| -> Vec<String> {
                rows.iter().map(|row| row.id.split('-').next().unwrap().to_owned()).collect()
            };
            assert_eq!(seconds(&list(&case.repository)), seconds(&listed), "{told}");
        }
        case.expect_order("after all the kills");
    }
}

#[test]
fn a_copy_and_a_heal_that_are_killed_at_any_instant_leave_whole_snapshots_and_the_next_one_goes_on() {
    let mut case = Case::new(Kind::Plain);
    case.expect_done(&["create", "home"], "the first");
    let run = |case: &Case, arguments: &[&str], told: &str| {
        let begun = Instant::now();
        let output = case.scratch.run(&[arguments, &["--progress", "none"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{told}: {arguments:?}: {said}");
        begun.elapsed()
    };
    let copy = ["copy", "--from", "./repository", "--to", "./second"];
    let mut usual = run(&case, &[&copy[..], &["--plaintext"]].concat(), "the first");
    let kill = |case: &mut Case, arguments: &[&str], usual: Duration| {
        case.seed = case.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let instant = usual.mul_f64((case.seed >> 40) as f64 / (1u64 << 24) as f64);
        let mut command = case.scratch.packvault(&[arguments, &["--progress", "none"]].concat());
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(instant);
        child.kill().unwrap();
        child.wait().unwrap();
        format!("{arguments:?} killed after {instant:?} of {usual:?}")
    };
    for _ in 0..kills() {
        let change = Change { large: vec![(3_000_000, ContentKind::Random)], ..Change::default() };
        mutate(&case.home, &change).unwrap();
        case.expect_done(&["create", "home", "--force-unlock"], "one more");
        let told = kill(&mut case, &copy, usual);
        let second = case.scratch.path("second");
        assert!(list(&second).iter().all(|row| row.problem.is_none()), "{told}");
        run(&case, &["verify", "--all", "--no-lock", "--repo", "./second"], &told);
        usual = run(&case, &[&copy[..], &["--force-unlock"]].concat(), &told);
        assert_eq!(snapshot_files(&second), snapshot_files(&case.repository), "{told}");

        let pack = second.join("packs").join(names(&second.join("packs")).pop().unwrap());
        let bytes = fs::read(&pack).unwrap();
        fs::write(&pack, &bytes[..bytes.len() / 2]).unwrap();
        let heal = ["heal", "--repo", "./second", "--from", "./repository", "--force-unlock"];
        let told = kill(&mut case, &heal, usual);
        run(&case, &heal, &told);
        assert_sound(&second);
    }
    run(&case, &["unlock", "--force", "--repo", "./repository"], "shared locks of the dead");
    case.expect_order("after all the kills");
}

#[test]
fn an_unlock_that_is_killed_at_any_instant_leaves_the_rest_to_the_next_one() {
    for kind in KINDS {
        let mut case = Case::new(kind);
        case.expect_done(&["create", "home"], "the first");
        let usual = case.expect_done(&["unlock"], "without a lock");
        let snapshots = snapshot_files(&case.repository);
        let locks = case.repository.join("locks");
        for _ in 0..kills() {
            fs::create_dir_all(&locks).unwrap();
            let left = (0..20).map(|number| format!("shared-{number}.json"));
            for name in left.chain(["exclusive.json".to_owned(), "releasing-1.json".to_owned()]) {
                let holder = r#"{"hostname":"nas","pid":4711,"operation":"create","acquired_at":"2026-11-23T20:37:31Z"}"#;
                fs::write(locks.join(name), holder).unwrap();
            }
            let (_, told) = case.kill(&["unlock", "--force"], usual * 2);
            assert_eq!(snapshot_files(&case.repository), snapshots, "{told}");
            case.expect_done(&["unlock", "--force"], &told);
            assert!(names(&locks).is_empty(), "{told}: {:?}", names(&locks));
        }
        case.expect_order("after all the kills");
    }
}
