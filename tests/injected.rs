//! The danger: one call to the system fails, once, at a place that nobody thought of, and a command hangs, panics,
//! says "done", or leaves half of a restore.
//!
//! The real program runs under `strace`, which lets the n-th call of a kind fail in every thread. A run of
//! `cargo test` tries a few places of each kind; `PACKVAULT_INJECT=all` tries every one, for an hour or so, and
//! `PACKVAULT_INJECT=200` so many of each command. What hits the runtime's own wake-ups is left out.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests are tests")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use packvault_test_servers::{Missing, missing};
use rusqlite::Connection;
use support::{Found, contents, copy_tree, tree};

/// Calls with the errors that each may give; the first is tried most.
const CALLS: [(&str, &[&str]); 22] = [
    ("openat", &["EACCES", "EMFILE", "EIO", "ENOSPC"]),
    ("read", &["EIO"]),
    ("pread64", &["EIO"]),
    ("write", &["ENOSPC", "EIO"]),
    ("pwrite64", &["ENOSPC", "EIO"]),
    ("fsync", &["EIO", "ENOSPC"]),
    ("fdatasync", &["EIO"]),
    ("renameat", &["EIO", "EACCES"]),
    ("renameat2", &["EIO", "EACCES"]),
    ("linkat", &["EIO", "EPERM"]),
    ("unlinkat", &["EIO", "EACCES"]),
    ("unlink", &["EIO"]),
    ("mkdirat", &["ENOSPC", "EACCES"]),
    ("ftruncate", &["ENOSPC", "EIO"]),
    ("clone3", &["EAGAIN"]),
    ("mmap", &["ENOMEM"]),
    ("fcntl", &["ENOLCK", "EIO"]),
    ("flock", &["ENOLCK"]),
    ("statx", &["EIO", "EACCES"]),
    ("newfstatat", &["EIO", "EACCES"]),
    ("getdents64", &["EIO"]),
    ("fchmod", &["EIO"]),
];
/// How many failures of each command a usual run tries.
const CASES: usize = 24;
/// No command takes a tenth of this, traced and on a busy machine.
const TIME_MAX: Duration = Duration::from_secs(90);

struct Ground {
    folder: tempfile::TempDir,
    /// What every case begins with.
    repository: BTreeMap<String, Found>,
}

struct Ended {
    code: Option<i32>,
    stderr: String,
    /// The calls that failed.
    injected: Vec<String>,
}

impl Ended {
    /// Tells whether a restore says that it is done, be it that only its summary could not be written.
    fn is_done(&self) -> bool {
        self.code == Some(0) || self.stderr.contains("is in place")
    }
}

impl Ground {
    fn new() -> Self {
        let ground = Self { folder: tempfile::tempdir().unwrap(), repository: BTreeMap::new() };
        let app = ground.path("app");
        fs::create_dir_all(app.join("media/deep")).unwrap();
        let database = Connection::open(app.join("a.db")).unwrap();
        let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300) \
                    INSERT INTO t SELECT i, randomblob(900) FROM n";
        database.execute_batch("CREATE TABLE t (a, b)").unwrap();
        database.execute_batch(rows).unwrap();
        database.close().unwrap();
        for n in 0..4 {
            fs::write(app.join(format!("media/deep/{n}")), format!("photo {n}").repeat(400)).unwrap();
        }
        assert_eq!(ground.plain(&["init", "--repo", "./first"]).code, Some(0));
        assert_eq!(ground.plain(&create("./first")).code, Some(0));
        // The archive goes on, so that a create has something to do and an old target differs from the new one.
        copy_tree(&app, &ground.path("old"));
        let database = Connection::open(app.join("a.db")).unwrap();
        database.execute_batch("UPDATE t SET b = randomblob(900) WHERE a < 40").unwrap();
        database.close().unwrap();
        fs::write(app.join("media/deep/new"), "a new photo").unwrap();
        copy_tree(&ground.path("first"), &ground.path("second"));
        assert_eq!(ground.plain(&create("./second")).code, Some(0));
        let mut repository = tree(&ground.path("second"));
        repository.retain(|path, _| !path.starts_with("locks") && !path.starts_with("staging/"));
        Self { repository, ..ground }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plain(&self, arguments: &[&str]) -> Ended {
        self.run(arguments, None)
    }

    /// Runs the program; `failing` lets the n-th call of a kind in each thread fail.
    fn run(&self, arguments: &[&str], failing: Option<(&str, &str, usize)>) -> Ended {
        let trace = self.path("trace");
        let program = env!("CARGO_BIN_EXE_packvault");
        let mut command = match failing {
            None => Command::new(program),
            Some((call, error, place)) => {
                let mut command = Command::new("strace");
                command.args(["-f", "-qq", "-y", "-o"]).arg(&trace).arg("-e").arg(format!("trace={call}"));
                if place > 0 {
                    command.arg("-e").arg(format!("inject={call}:error={error}:when={place}"));
                }
                command.arg(program);
                command
            }
        };
        command.env_clear().env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin");
        command.env("PACKVAULT_CONFIG", "/dev/null").env("TMPDIR", self.folder.path());
        command.args(arguments).args(["--progress", "none"]).current_dir(self.folder.path());
        let said = fs::File::create(self.path("stderr")).unwrap();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let deadline = Instant::now() + TIME_MAX;
        let status = loop {
            match child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > deadline => {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("{arguments:?} with {failing:?} does not end");
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let stderr = String::from_utf8_lossy(&fs::read(self.path("stderr")).unwrap()).into_owned();
        let trace =
            fs::read(&trace).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let injected = trace.lines().filter(|line| line.contains("(INJECTED)")).map(str::to_owned).collect();
        Ended { code: status.code(), stderr, injected }
    }

    /// Returns how often each thread makes the call at most.
    fn places(&self, arguments: &[&str], call: &str) -> usize {
        let _ = fs::remove_file(self.path("trace"));
        self.run(arguments, Some((call, "", 0)));
        let trace = fs::read(self.path("trace")).unwrap();
        let mut of_thread: BTreeMap<&str, usize> = BTreeMap::new();
        let trace = String::from_utf8_lossy(&trace);
        for line in trace.lines().filter(|line| !line.contains("resumed>")) {
            *of_thread.entry(line.split_whitespace().next().unwrap_or_default()).or_default() += 1;
        }
        of_thread.into_values().max().unwrap_or_default()
    }

    fn snapshots(&self, repository: &str) -> Vec<String> {
        support::snapshot_files(&self.path(repository))
    }

    /// Every snapshot that is listed must be whole, once the lock of a program that died is given up.
    fn expect_whole(&self, repository: &str, case: &str) {
        let _ = fs::remove_dir_all(self.path(repository).join("locks"));
        fs::create_dir(self.path(repository).join("locks")).unwrap();
        let verified = self.plain(&["verify", "--all", "--repo", repository]);
        assert_eq!(verified.code, Some(0), "{case}: {}", verified.stderr);
    }

    fn reset(&self, name: &str, from: &str) {
        let _ = fs::remove_dir_all(self.path(name));
        copy_tree(&self.path(from), &self.path(name));
    }
}

fn create(repository: &str) -> [&str; 8] {
    ["create", "--jobs", "2", "--repo", repository, "--database", "app/a.db", "--files=media/**"]
}

/// Returns the files of a restored or live archive; what a restore may leave for the next command is named apart.
fn archive(folder: &Path) -> BTreeMap<String, String> {
    let mut found = contents(folder);
    found.retain(|path, _| !path.contains("-journal") && !path.ends_with("-wal") && !path.ends_with("-shm"));
    found
}

/// Returns what a restore that is done left in its target. A staging that the system refused to remove is told
/// of, keeps nobody from the archive, and goes with the next restore.
fn settled(ground: &Ground, ended: &Ended, case: &str) -> BTreeMap<String, String> {
    let out = ground.path("out");
    let now = archive(&out);
    if !now.keys().any(|path| path.starts_with(".packvault-restore-")) {
        return now;
    }
    assert!(ended.stderr.contains("not removed yet"), "{case}: nobody is told of what is left: {now:?}");
    let again = ["restore", "--repo", "./second", "--target", "out", "--overwrite"];
    let again = ground.plain(&again);
    assert_eq!(again.code, Some(0), "{case}: {}\nthen: {}", ended.stderr, again.stderr);
    let after = archive(&out);
    let mut visible = now;
    visible.retain(|path, _| !path.starts_with(".packvault-restore-"));
    assert_eq!(visible, after, "{case}");
    after
}

/// Makes failures one after the other and has each looked at; returns how many were tried.
fn for_each_failure(
    ground: &Ground,
    arguments: &[&str],
    prepare: impl Fn(),
    check: impl Fn(&Ended, &str),
) -> usize {
    let wanted = std::env::var("PACKVAULT_INJECT").unwrap_or_default();
    let cases_max = if wanted == "all" { usize::MAX } else { wanted.parse().unwrap_or(CASES) };
    let mut cases = Vec::new();
    for (call, errors) in CALLS {
        prepare();
        for place in 1..=ground.places(arguments, call) {
            cases.extend(errors.iter().map(|error| (call, *error, place)));
        }
    }
    // The same choice every time, spread over all of them.
    let step = (cases.len() / cases_max.max(1)).max(1);
    let mut tried = 0;
    for (call, error, place) in cases.into_iter().step_by(step) {
        prepare();
        let ended = ground.run(arguments, Some((call, error, place)));
        let case = format!("{} with {call} {error} at {place}", arguments[0]);
        if ended.injected.is_empty() || ended.injected.iter().any(|line| line.contains("anon_inode:")) {
            continue;
        }
        tried += 1;
        // Without memory the loader, and the standard library where it starts a thread, end the program.
        let may_abort = call == "mmap";
        let panicked = ended.stderr.contains("panicked");
        assert!(!panicked || may_abort, "{case}: {}\n{:?}", ended.stderr, ended.injected);
        assert!(ended.code.is_some() || may_abort, "{case}: ended by a signal: {}", ended.stderr);
        // What verify finds is its result, on standard output.
        let is_silent = !matches!(ended.code, Some(0 | 3)) && ended.stderr.is_empty();
        assert!(!is_silent || may_abort, "{case}: ended with {:?} and not a word", ended.code);
        check(&ended, &case);
    }
    tried
}

fn ground() -> Option<Ground> {
    if Command::new("strace").arg("-V").output().is_err() {
        let what = "strace is not there".to_owned();
        missing(&Missing { server: "strace", what, install: "apt-get install strace" });
        return None;
    }
    Some(Ground::new())
}

#[test]
fn a_failing_call_of_a_create_leaves_whole_snapshots_and_no_false_success() {
    let Some(ground) = ground() else { return };
    let before = ground.snapshots("first");
    let tried = for_each_failure(
        &ground,
        &create("./work"),
        || ground.reset("work", "first"),
        |ended, case| {
            let after = ground.snapshots("work");
            assert!(before.iter().all(|name| after.contains(name)), "{case}");
            ground.expect_whole("./work", case);
            if ended.code == Some(0) {
                assert_eq!(after.len(), before.len() + 1, "{case}: done, and no snapshot");
                let _ = fs::remove_dir_all(ground.path("back"));
                let restored = ground.plain(&["restore", "--repo", "./work", "--target", "back"]);
                assert_eq!(restored.code, Some(0), "{case}: {}", restored.stderr);
                assert_eq!(archive(&ground.path("back")), archive(&ground.path("app")), "{case}");
            }
        },
    );
    assert!(tried > CASES / 4, "only {tried} calls failed");
}

#[test]
fn a_failing_call_of_a_verify_is_said_and_changes_nothing() {
    let Some(ground) = ground() else { return };
    let arguments = ["verify", "--all", "--jobs", "2", "--repo", "./second"];
    let tried = for_each_failure(
        &ground,
        &arguments,
        || {
            let _ = fs::remove_dir_all(ground.path("second/locks"));
            fs::create_dir(ground.path("second/locks")).unwrap();
        },
        |_, case| {
            let mut now = tree(&ground.path("second"));
            now.retain(|path, _| !path.starts_with("locks") && !path.starts_with("staging/"));
            assert!(now == ground.repository, "{case}: the repository is not as it was");
        },
    );
    assert!(tried > CASES / 4, "only {tried} calls failed");
}

#[test]
fn a_failing_call_of_a_restore_leaves_all_or_nothing() {
    let Some(ground) = ground() else { return };
    let tried = for_each_failure(
        &ground,
        &["restore", "--jobs", "2", "--repo", "./second", "--target", "out"],
        || {
            let _ = fs::remove_dir_all(ground.path("out"));
        },
        |ended, case| {
            if ended.is_done() {
                assert_eq!(settled(&ground, ended, case), archive(&ground.path("app")), "{case}");
            } else {
                let left =
                    if ground.path("out").exists() { contents(&ground.path("out")) } else { BTreeMap::new() };
                // A folder that could not be removed has a telling name, and the next restore removes it.
                let visible = left.keys().filter(|path| !path.starts_with(".packvault-restore-"));
                assert_eq!(visible.count(), 0, "{case}: {}: {left:?}", ended.stderr);
            }
        },
    );
    assert!(tried > CASES / 4, "only {tried} calls failed");
}

#[test]
fn a_failing_call_of_a_restore_over_an_archive_leaves_the_old_one_or_the_new_one() {
    let Some(ground) = ground() else { return };
    let (old, new) = (archive(&ground.path("old")), archive(&ground.path("app")));
    let tried = for_each_failure(
        &ground,
        &["restore", "--jobs", "2", "--repo", "./second", "--target", "out", "--overwrite"],
        || ground.reset("out", "old"),
        |ended, case| {
            let mut visible = archive(&ground.path("out"));
            visible.retain(|path, _| !path.starts_with(".packvault-restore-"));
            if ended.is_done() {
                assert_eq!(settled(&ground, ended, case), new, "{case}");
            } else if visible != old && visible != new {
                // Not undone in time: the next restore does it, whatever becomes of itself.
                let again = ["restore", "--repo", "./second", "--target", "out", "--overwrite"];
                let again = ground.plain(&again);
                assert_eq!(again.code, Some(0), "{case}: {}\nthen: {}", ended.stderr, again.stderr);
                assert_eq!(archive(&ground.path("out")), new, "{case}: {}", ended.stderr);
            }
        },
    );
    assert!(tried > CASES / 4, "only {tried} calls failed");
}
