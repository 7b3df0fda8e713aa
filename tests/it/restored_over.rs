//! The danger: a restore over an archive that is there is killed, or fails, while it puts things in place, and
//! afterwards there is half of each: the old database without its log, or with that of another; new files beside an
//! old database. Or it succeeds where it must not: under a running application, into its own repository.
//!
//! The real program, stopped at each of the calls by which it moves things, or told that each of them failed. What
//! lies there then is looked at as the application would, and again after the next command.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;

use crate::support::memory_repo::runs_everything;
use crate::support::{Scratch, contents, stderr, tree};

/// The name by which `PACKVAULT_REQUIRE` demands the tests that stop single calls.
const NAME: &str = "strace";
/// The calls by which things are moved and made durable.
const CALLS: [&str; 8] =
    ["renameat", "renameat2", "linkat", "unlinkat", "mkdirat", "fsync", "syncfs", "copy_file_range"];
/// How each may fail.
const FAILURES: [&str; 4] = ["EIO", "ENOSPC", "EROFS", "EXDEV"];
/// No call is stopped more often.
const TURNS_MAX: u32 = 60;

/// Returns at which of a call's turns it is stopped: at all if everything is asked for, else at some, and which these
/// are depends on the call.
fn turns(call: usize) -> impl Iterator<Item = u32> {
    let apart = if runs_everything() { 1 } else { 3 };
    (1..=TURNS_MAX).skip(call % apart).step_by(apart)
}

/// A repository with a snapshot of new content, and an archive with old content whose database has a log.
struct Case {
    scratch: Scratch,
    old: BTreeMap<String, String>,
}

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        archive(&scratch.path("source"), "new", false);
        archive(&scratch.path("old"), "old", true);
        done(&scratch.run(&["init", "--repo", "./repository"]));
        let create = ["create", "--repo", "./repository", "--database", "source/data/app.db"];
        done(&scratch.run(&[&create[..], &["source", "--files", "f/**"]].concat()));
        let old = contents(&scratch.path("old"));
        Self { scratch, old }
    }

    /// Puts the old archive into the target once more.
    fn begin(&self) -> PathBuf {
        let target = self.scratch.path("target");
        let _ = fs::remove_dir_all(&target);
        crate::support::copy_tree(&self.scratch.path("old"), &target);
        let locks = self.scratch.path("repository/locks");
        fs::read_dir(locks).unwrap().flatten().for_each(|lock| fs::remove_file(lock.path()).unwrap());
        target
    }

    fn restore(&self, more: &[&str]) -> Output {
        let restore = ["restore", "--repo", "./repository", "--target", "target", "--overwrite"];
        self.scratch.run(&[&restore[..], more].concat())
    }

    /// Restores under strace with this injection; `None` where strace is not to be had.
    fn restore_with(&self, call: &str, what: &str) -> Option<Output> {
        let command = self.scratch.packvault(&[]);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "trace", "-e"]).arg(format!("trace={call}"));
        strace.arg("-e").arg(format!("inject={call}:{what}")).arg(command.get_program());
        strace.args(["restore", "--repo", "./repository", "--target", "target", "--overwrite"]);
        strace.current_dir(self.scratch.path("")).env("HOME", self.scratch.path("")).stdin(Stdio::null());
        strace.env("PACKVAULT_CONFIG", "/dev/null");
        match strace.output() {
            // It says so itself where it may not trace.
            Ok(output) if !stderr(&output).contains("strace: ") => Some(output),
            _ => {
                let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
                let text = format!("{NAME}: strace cannot be run");
                assert!(
                    !required.split(',').any(|name| name.trim() == NAME),
                    "PACKVAULT_REQUIRE demands {text}"
                );
                let _ = rustix::io::write(rustix::stdio::stderr(), format!("NOT RUN, {text}\n").as_bytes());
                None
            }
        }
    }

    /// What an application would find is old or new, and whole; tells which.
    fn look(&self, case: &str) -> &'static str {
        match &rows(&self.scratch.path("target/data/app.db"))[..] {
            [(tag, 200)] if tag == "old" => "old",
            [(tag, 200)] if tag == "new" => "new",
            other => panic!("{case}: {other:?}"),
        }
    }

    fn assert_all_old(&self, case: &str) {
        assert_eq!(contents(&self.scratch.path("target")), self.old, "{case}");
    }

    fn assert_all_new(&self, case: &str) {
        assert_eq!(self.look(case), "new");
        let found = contents(&self.scratch.path("target"));
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["data/app.db", "f/1", "f/2", "f/only new", "mine"], "{case}");
        assert_eq!(found["f/1"], crate::support::sha256(b"new"), "{case}");
    }
}

fn done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

/// Makes an archive; with a log, half of its rows lie there, as after a crash.
fn archive(folder: &Path, tag: &str, with_log: bool) {
    fs::create_dir_all(folder.join("data")).unwrap();
    fs::create_dir_all(folder.join("f")).unwrap();
    for file in ["f/1", "f/2", if with_log { "mine" } else { "f/only new" }] {
        fs::write(folder.join(file), tag).unwrap();
    }
    let path = folder.join("data/app.db");
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0").unwrap();
    let add = |connection: &Connection| {
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS t (v TEXT);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
             INSERT INTO t SELECT '{tag}' FROM n"
        ))
    };
    add(&connection).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    add(&connection).unwrap();
    if with_log {
        let log = folder.join("data/app.db-wal");
        for file in [&path, &log] {
            fs::copy(file, file.with_extension("kept")).unwrap();
            fs::rename(file.with_extension("kept"), folder.join(file.file_name().unwrap())).unwrap();
        }
        drop(connection);
        for file in [&path, &log] {
            fs::rename(folder.join(file.file_name().unwrap()), file).unwrap();
        }
        let _ = fs::remove_file(folder.join("data/app.db-shm"));
    }
}

/// Returns what a database and its log hold, from copies.
fn rows(path: &Path) -> Vec<(String, i64)> {
    let copy = tempfile::tempdir().unwrap();
    for ending in ["", "-wal", "-journal"] {
        let from = PathBuf::from(format!("{}{ending}", path.display()));
        if from.exists() {
            fs::copy(from, copy.path().join(format!("db{ending}"))).unwrap();
        }
    }
    let connection = Connection::open(copy.path().join("db")).unwrap();
    let mut statement = connection.prepare("SELECT v, count(*) FROM t GROUP BY v").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

#[test]
fn killed_at_any_call_a_restore_leaves_the_old_or_the_new_and_the_next_one_finishes_or_undoes_it() {
    let case = Case::new();
    for (number, call) in CALLS.into_iter().enumerate() {
        for turn in turns(number) {
            case.begin();
            let Some(output) = case.restore_with(call, &format!("signal=KILL:when={turn}")) else { return };
            let told = format!("killed at {call} number {turn}");
            let found = case.look(&told);
            if output.status.code() == Some(0) {
                case.assert_all_new(&told);
                break;
            }
            // A command that comes to nothing itself.
            let failed = case.restore_after("20200101T000000Z");
            assert_eq!(failed.status.code(), Some(1), "{told}: {}", stderr(&failed));
            let again = case.restore(&[]);
            assert_eq!(again.status.code(), Some(0), "{told}, {found}: {}", stderr(&again));
            case.assert_all_new(&told);
        }
    }
}

impl Case {
    /// Asks for a snapshot that is not there.
    fn restore_after(&self, id: &str) -> Output {
        self.scratch.run(&["restore", id, "--repo", "./repository", "--target", "target", "--overwrite"])
    }
}

#[test]
fn told_that_any_call_failed_a_restore_says_so_and_leaves_the_old_or_is_done() {
    let case = Case::new();
    for (number, call) in CALLS.into_iter().enumerate() {
        for turn in turns(number) {
            case.begin();
            let failure = FAILURES[(number + turn as usize) % FAILURES.len()];
            let Some(output) = case.restore_with(call, &format!("error={failure}:when={turn}")) else {
                return;
            };
            let told = format!("{failure} at {call} number {turn}: {}", stderr(&output));
            match output.status.code() {
                Some(0) => assert_eq!(case.look(&told), "new"),
                Some(1 | 2 | 11) => case.assert_all_old(&told),
                other => panic!("{told}: {other:?}"),
            }
            if !fs::read_to_string(case.scratch.path("trace")).unwrap().contains("INJECTED") {
                break;
            }
        }
    }
}

#[test]
fn a_rename_that_fails_from_then_on_leaves_everything_to_be_found_by_the_next_restore() {
    let case = Case::new();
    for turn in 2..12 {
        case.begin();
        let what = format!("error=EIO:when={turn}+");
        let Some(output) = case.restore_with("renameat,renameat2", &what) else { return };
        let told = format!("from number {turn} on: {}", stderr(&output));
        if output.status.code() == Some(0) {
            assert!(turn > 6, "{told}");
            break;
        }
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert_eq!(case.look(&told), "old");
        // A command that comes to nothing itself.
        let failed = case.restore_after("20200101T000000Z");
        assert_eq!(failed.status.code(), Some(1), "{told}: {}", stderr(&failed));
        done(&case.restore(&[]));
        case.assert_all_new(&told);
    }
}

#[test]
fn a_create_refuses_what_a_restore_left_half_way() {
    let case = Case::new();
    case.begin();
    let Some(_) = case.restore_with("renameat", "signal=KILL:when=5") else { return };
    let output = case.scratch.run(&[
        "create",
        "target",
        "--database",
        "target/data/app.db",
        "--repo",
        "./repository",
        "--force-unlock",
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("was stopped half-way"), "{}", stderr(&output));
}

#[test]
fn an_application_that_has_its_database_open_is_not_restored_over_unless_that_is_forced() {
    let case = Case::new();
    let target = case.begin();
    let before = tree(&target);
    let application = OpenOptions::new().append(true).open(target.join("data/app.db")).unwrap();
    let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(application).spawn().unwrap();
    let output = case.restore(&[]);
    assert_eq!(output.status.code(), Some(11), "{}", stderr(&output));
    assert!(stderr(&output).contains("another program has it open (process"), "{}", stderr(&output));
    assert_eq!(tree(&target), before);
    done(&case.restore(&["--force"]));
    drop(child.stdin.take());
    child.wait().unwrap();
    case.assert_all_new("forced");
}

#[test]
fn a_target_that_is_or_holds_or_lies_in_the_repository_is_refused() {
    let case = Case::new();
    symlink("repository", case.scratch.path("link")).unwrap();
    let before = contents(&case.scratch.path("repository"));
    for target in ["repository", "repository/packs", "repository/new", "link/new/deep", "."] {
        let output =
            case.scratch.run(&["restore", "--repo", "./repository", "--target", target, "--overwrite"]);
        assert_eq!(output.status.code(), Some(1), "{target}: {}", stderr(&output));
        assert!(stderr(&output).contains("repository"), "{target}: {}", stderr(&output));
        assert_eq!(contents(&case.scratch.path("repository")), before, "{target}");
    }
}

#[test]
fn a_stranger_cannot_keep_others_from_restoring_into_a_folder_that_all_share() {
    let case = Case::new();
    let shared = case.scratch.path("shared");
    for folder in ["packs", "indexes", "snapshots", "locks"] {
        fs::create_dir_all(shared.join(folder)).unwrap();
    }
    fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o1777)).unwrap();
    let restore = || case.scratch.run(&["restore", "--repo", "./repository", "--target", "shared/back"]);
    // Names as an application may have them.
    fs::write(shared.join("config.toml"), "port = 80\n").unwrap();
    done(&restore());
    fs::remove_dir_all(shared.join("back")).unwrap();
    // The user's own is a repository, wherever it lies.
    fs::copy(case.scratch.path("repository/config.toml"), shared.join("config.toml")).unwrap();
    let output = restore();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("shared is a repository"), "{}", stderr(&output));
    if !rustix::process::geteuid().is_root() {
        return eprintln!("NOT RUN: giving files away needs root");
    }
    const STRANGER: u32 = 60_001;
    for entry in fs::read_dir(&shared).unwrap().flatten() {
        std::os::unix::fs::chown(entry.path(), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    done(&restore());
}

#[test]
fn what_would_stop_a_rename_is_refused_before_anything_moves() {
    if !rustix::process::geteuid().is_root() {
        // Whoever is not root has such folders made by the test itself.
        let case = Case::new();
        let target = case.begin();
        fs::set_permissions(target.join("f"), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
        let output = case.restore(&[]);
        fs::set_permissions(target.join("f"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        case.assert_all_old("a folder that may not be written to");
        return;
    }
    let case = Case::new();
    // A mount of the same file system has the same device number.
    let target = case.begin();
    let mounted = Command::new("mount").arg("--bind").args([target.join("f"), target.join("f")]).output();
    if mounted.is_ok_and(|output| output.status.success()) {
        let output = case.restore(&[]);
        let unmounted = Command::new("umount").arg(target.join("f")).status().unwrap();
        assert!(unmounted.success());
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("target/f: it is a mount point"), "{}", stderr(&output));
        case.assert_all_old("a mount point");
    }
    // Not every file system has the mark.
    let immutable = |change: &str| Command::new("chattr").arg(change).arg(target.join("f/1")).output();
    if immutable("+i").is_ok_and(|output| output.status.success()) {
        let output = case.restore(&[]);
        immutable("-i").unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stderr(&output).contains("f/1: it is marked immutable"), "{}", stderr(&output));
        case.assert_all_old("an immutable file");
    }
}
