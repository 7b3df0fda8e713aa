//! The danger: one call to the system fails, once or from then on, at a place that nobody thought of, and a command
//! hangs, panics, says "done", leaves half of a restore, or a lock that keeps the owner out of his repository.
//!
//! The real program runs under `strace`, which lets the n-th call of a kind fail in every thread, and where a
//! program meets such things for good (a full disk, a bad one, no descriptors) every later one too. A run of
//! `cargo test` tries a few places of each kind; `docs/testing.md` says how to try more. What hits the runtime's own
//! wake-ups is left out.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use packvault::repo::locks::STALE_AFTER;
use packvault_test_servers::{Missing, missing};
use rusqlite::Connection;

use crate::support::traced::{self, Failing, Outcome};
use crate::support::{Found, contents, copy_tree, names, tree};

/// Calls with the errors that each may give; the first is tried at every place, the others at some.
const CALLS: [(&str, &[&str]); 36] = [
    ("openat", &["EACCES", "EMFILE", "EIO", "ENOSPC", "ENFILE", "ENOMEM", "EROFS", "EINTR", "ENOENT"]),
    ("read", &["EIO", "EINTR", "ENOMEM", "ESTALE"]),
    ("pread64", &["EIO", "EINTR", "ESTALE"]),
    ("write", &["ENOSPC", "EIO", "EDQUOT", "EINTR", traced::SHORT]),
    ("pwrite64", &["ENOSPC", "EIO", "EDQUOT", "EINTR"]),
    ("fsync", &["EIO", "ENOSPC", "EDQUOT", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC"]),
    ("syncfs", &["EIO"]),
    ("renameat", &["EIO", "EACCES", "ENOSPC", "EROFS"]),
    ("renameat2", &["EIO", "EACCES", "EINVAL", "EXDEV"]),
    ("rename", &["EIO", "EACCES"]),
    ("linkat", &["EIO", "EPERM", "EMLINK", "EDQUOT"]),
    ("unlinkat", &["EIO", "EACCES", "EROFS", "EBUSY"]),
    ("unlink", &["EIO", "EACCES"]),
    ("rmdir", &["EIO", "EBUSY"]),
    ("mkdirat", &["ENOSPC", "EACCES", "EDQUOT"]),
    ("mkdir", &["ENOSPC", "EACCES"]),
    ("ftruncate", &["ENOSPC", "EIO", "EINTR"]),
    ("fallocate", &["ENOSPC", "EINTR"]),
    ("copy_file_range", &["EIO", "ENOSPC", "EXDEV"]),
    ("ioctl", &["EIO", "ENOTTY"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("mmap", &["ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    ("mremap", &["ENOMEM"]),
    ("fcntl", &["ENOLCK", "EIO", "EAGAIN", "EACCES", "EINTR"]),
    ("flock", &["ENOLCK", "EWOULDBLOCK", "EINTR"]),
    ("statx", &["EIO", "EACCES", "ENOMEM", "ESTALE"]),
    ("newfstatat", &["EIO", "EACCES", "ENOMEM", "ESTALE"]),
    ("fstatfs", &["EIO", "EINTR"]),
    ("lseek", &["EINVAL", "EIO"]),
    ("getdents64", &["EIO"]),
    ("fchmod", &["EIO", "EPERM"]),
    ("fchown", &["EIO", "EPERM"]),
    ("utimensat", &["EIO", "EPERM"]),
    ("epoll_wait", &["EINTR"]),
];
/// What may be met for good: each later call fails too.
const FROM_THEN_ON: [(&str, &str); 12] = [
    ("openat", "EMFILE"),
    ("openat", "EIO"),
    ("write", "ENOSPC"),
    ("pwrite64", "ENOSPC"),
    ("fsync", "EIO"),
    ("renameat", "EROFS"),
    ("renameat2", "EROFS"),
    ("linkat", "EROFS"),
    ("unlinkat", "EROFS"),
    ("mkdirat", "EROFS"),
    ("clone3", "EAGAIN"),
    ("flock", "EINTR"),
];
/// Every how many places the further errors of a call are tried.
const FURTHER_STEP: usize = 3;
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
    /// What its threads were at, if it had to be ended.
    hung: Option<String>,
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

    /// Runs the program, and lets calls fail if so asked.
    fn run(&self, arguments: &[&str], failing: Option<Failing>) -> Ended {
        let program = env!("CARGO_BIN_EXE_packvault");
        let _ = fs::remove_file(self.path("trace"));
        let mut command = match failing {
            Some(failing) if failing.call == "write" => {
                let mut command = Command::new(program);
                command.envs(self.writes(Some(failing)));
                command
            }
            Some(failing) => {
                let mut command = traced::strace(failing.call, &self.path("trace"), Some(failing));
                command.arg(program);
                command
            }
            None => Command::new(program),
        };
        self.settle(&mut command);
        self.run_with(command, arguments)
    }

    /// Returns the variables by which one write to a file fails, or all of them are told.
    fn writes(&self, failing: Option<Failing>) -> Vec<(&'static str, String)> {
        traced::failing_writes(&self.path("failing_writes.so"), &self.path("trace"), failing)
    }

    /// Gives the program a home of its own.
    fn settle(&self, command: &mut Command) {
        command.env("HOME", self.folder.path()).env("PATH", "/usr/bin:/bin");
        command.env("PACKVAULT_CONFIG", "/dev/null").env("TMPDIR", self.folder.path());
        command.current_dir(self.folder.path());
    }

    fn run_with(&self, mut command: Command, arguments: &[&str]) -> Ended {
        command.args(arguments).args(["--progress", "none"]);
        let said = fs::File::create(self.path("stderr")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn().unwrap();
        let (code, hung) = match traced::wait(child, TIME_MAX) {
            Outcome::Ended(status) => (status.code(), None),
            Outcome::Hung(seen) => (None, Some(seen)),
        };
        let stderr = String::from_utf8_lossy(&fs::read(self.path("stderr")).unwrap()).into_owned();
        Ended { code, stderr, injected: traced::injected(&self.path("trace")), hung }
    }

    /// Returns how often each thread makes each call at most.
    fn places(&self, arguments: &[&str]) -> BTreeMap<String, usize> {
        let calls: Vec<&str> = CALLS.iter().map(|(call, _)| *call).collect();
        let trace = self.path("trace");
        let mut command = traced::strace(&calls.join(","), &trace, None);
        self.settle(command.arg(env!("CARGO_BIN_EXE_packvault")));
        self.run_with(command, arguments);
        let trace = fs::read(trace).unwrap();
        let mut of_thread: BTreeMap<(String, String), usize> = BTreeMap::new();
        for line in String::from_utf8_lossy(&trace).lines().filter(|line| !line.contains("resumed>")) {
            let mut words = line.split_whitespace();
            let (thread, call) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let call = call.split('(').next().unwrap_or_default();
            *of_thread.entry((thread.to_owned(), call.to_owned())).or_default() += 1;
        }
        let mut places = BTreeMap::new();
        for ((_, call), count) in of_thread {
            let most: &mut usize = places.entry(call).or_default();
            *most = count.max(*most);
        }
        places
    }

    /// Returns how often the program writes to files.
    fn writes_of(&self, arguments: &[&str]) -> usize {
        let _ = fs::remove_file(self.path("trace"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
        self.settle(command.envs(self.writes(None)));
        self.run_with(command, arguments);
        fs::read_to_string(self.path("trace")).unwrap_or_default().lines().count()
    }

    fn snapshots(&self, repository: &str) -> Vec<String> {
        crate::support::snapshot_files(&self.path(repository))
    }

    /// Whatever lock was left, the owner is told of it, and the next command has its way once the lock is stale: nobody
    /// has to remove anything. (A program that could not read who it is itself leaves a lock that takes half an hour.)
    fn expect_nobody_locked_out(&self, repository: &str, ended: &Ended, case: &str) {
        let locks = self.path(repository).join("locks");
        let left = names(&locks);
        if left.is_empty() {
            return;
        }
        let is_held = |name: &String| name == "exclusive.json" || name.starts_with("shared-");
        if left.iter().any(is_held) && ended.code.is_some() {
            // A claim keeps nobody out, and is swept without a word.
            assert!(
                ended.stderr.contains("the lock"),
                "{case}: nobody is told of {left:?}: {}",
                ended.stderr
            );
        }
        let then = SystemTime::now() - STALE_AFTER - Duration::from_secs(5);
        for name in &left {
            let lock = fs::File::options().write(true).open(locks.join(name)).unwrap();
            lock.set_modified(then).unwrap();
        }
        self.reset("later", repository);
        for name in &left {
            let lock = fs::File::options().write(true).open(self.path("later/locks").join(name)).unwrap();
            lock.set_modified(then).unwrap();
        }
        let next = self.plain(&create("./later"));
        assert_eq!(next.code, Some(0), "{case}: {left:?} keeps the next create out: {}", next.stderr);
        let _ = fs::remove_dir_all(self.path("later"));
        left.iter().for_each(|name| fs::remove_file(locks.join(name)).unwrap());
    }

    /// Every snapshot that is listed must be whole.
    fn expect_whole(&self, repository: &str, ended: &Ended, case: &str) {
        self.expect_nobody_locked_out(repository, ended, case);
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

/// Returns all failures that are to be tried of a command that makes so many calls of each kind.
fn failures(places: &BTreeMap<String, usize>) -> Vec<Failing> {
    let only = std::env::var("PACKVAULT_INJECT_CALLS").unwrap_or_default();
    let is_wanted = |call: &str| only.is_empty() || only.split(',').any(|wanted| wanted == call);
    let of = |call| 1..=places.get(call).copied().unwrap_or_default();
    let mut failures = Vec::new();
    for (call, errors) in CALLS.into_iter().filter(|(call, _)| is_wanted(call)) {
        for place in of(call) {
            let is_further = |nth: usize| nth == 0 || (place + nth).is_multiple_of(FURTHER_STEP);
            let errors = errors.iter().enumerate().filter(|(nth, _)| is_further(*nth));
            failures.extend(errors.map(|(_, error)| Failing { call, error, place, from_then_on: false }));
        }
    }
    for (call, error) in FROM_THEN_ON.into_iter().filter(|(call, _)| is_wanted(call)) {
        failures.extend(of(call).map(|place| Failing { call, error, place, from_then_on: true }));
    }
    failures
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
    prepare();
    let mut places = ground.places(arguments);
    prepare();
    places.insert("write".to_owned(), ground.writes_of(arguments));
    let cases = failures(&places);
    // The same choice every time, spread over all of them.
    let step = (cases.len() / cases_max.max(1)).max(1);
    let (mut tried, mut findings) = (0, Vec::new());
    for failing in cases.into_iter().step_by(step) {
        prepare();
        let ended = ground.run(arguments, Some(failing));
        let case = format!("{} with {failing}", arguments.join(" "));
        if ended.injected.is_empty()
            || ended.injected.iter().any(|line| line.contains("anon_inode:[eventfd]"))
        {
            note(&case, "not tried", &ended);
            continue;
        }
        tried += 1;
        let looked_at = catch_unwind(AssertUnwindSafe(|| {
            expect_an_end(failing, &ended, &case);
            check(&ended, &case);
        }));
        note(&case, if looked_at.is_ok() { "right" } else { "WRONG" }, &ended);
        findings.extend(looked_at.err().map(|_| case));
    }
    assert!(findings.is_empty(), "{} of {tried} were wrong: {findings:#?}", findings.len());
    tried
}

/// A run that tried hardly anything shows nothing.
fn expect_enough(tried: usize) {
    let is_choice = std::env::var_os("PACKVAULT_INJECT_CALLS").is_some();
    assert!(tried > CASES / 4 || is_choice, "only {tried} calls failed");
}

/// Whatever fails, the program ends by itself and says why.
fn expect_an_end(failing: Failing, ended: &Ended, case: &str) {
    let Ended { stderr, injected, .. } = ended;
    if let Some(seen) = &ended.hung {
        panic!("{case}: does not end: {stderr}\n{injected:#?}\n{seen}");
    }
    // Without memory the loader, and the standard library where it starts a thread, end the program.
    let may_abort = ["mmap", "mprotect", "mremap"].contains(&failing.call);
    assert!(!stderr.contains("panicked") || may_abort, "{case}: {stderr}\n{injected:?}");
    assert!(ended.code.is_some() || may_abort, "{case}: ended by a signal: {stderr}");
    // The system that refuses a page is no damage to it.
    assert!(!stderr.contains("fails SQLite's integrity check"), "{case}: {stderr}");
    // What verify finds is its result, on standard output.
    let is_silent = !matches!(ended.code, Some(0 | 3)) && stderr.is_empty();
    // Standard error itself may be what failed.
    let is_muted = injected.iter().any(|line| line.contains(" write(2<"));
    assert!(!is_silent || may_abort || is_muted, "{case}: ended with {:?} and not a word", ended.code);
}

/// Adds a line about the case to the file that `PACKVAULT_INJECT_NOTES` names.
fn note(case: &str, verdict: &str, ended: &Ended) {
    let Ok(path) = std::env::var("PACKVAULT_INJECT_NOTES") else { return };
    let mut notes = fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
    let end = match (&ended.hung, ended.code) {
        (Some(_), _) => "hung".to_owned(),
        (None, Some(code)) => format!("exit {code}"),
        (None, None) => "signal".to_owned(),
    };
    let said = ended.stderr.trim().replace('\n', " / ");
    let failed = ended.injected.first().map_or("", String::as_str);
    writeln!(notes, "{verdict}\t{case}\t{end}\t{said}\t{failed}").unwrap();
}

fn ground() -> Option<Ground> {
    if Command::new("strace").arg("-V").output().is_err() {
        let what = "strace is not there".to_owned();
        missing(&Missing { server: "strace", what, install: "apt-get install strace" });
        return None;
    }
    let ground = Ground::new();
    if let Err(what) = traced::build_failing_writes(&ground.path("failing_writes.so")) {
        missing(&Missing { server: "cc", what, install: "apt-get install gcc" });
        return None;
    }
    Some(ground)
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
            ground.expect_whole("./work", ended, case);
            if ended.code == Some(0) {
                assert_eq!(after.len(), before.len() + 1, "{case}: done, and no snapshot");
                let _ = fs::remove_dir_all(ground.path("back"));
                let restored = ground.plain(&["restore", "--repo", "./work", "--target", "back"]);
                assert_eq!(restored.code, Some(0), "{case}: {}", restored.stderr);
                assert_eq!(archive(&ground.path("back")), archive(&ground.path("app")), "{case}");
            }
        },
    );
    expect_enough(tried);
}

#[test]
fn a_failing_call_of_a_verify_is_said_and_changes_nothing() {
    let Some(ground) = ground() else { return };
    let arguments = ["verify", "--all", "--jobs", "2", "--repo", "./second"];
    let tried = for_each_failure(
        &ground,
        &arguments,
        || {},
        |ended, case| {
            ground.expect_nobody_locked_out("./second", ended, case);
            let mut now = tree(&ground.path("second"));
            now.retain(|path, _| !path.starts_with("locks") && !path.starts_with("staging/"));
            assert!(now == ground.repository, "{case}: the repository is not as it was");
        },
    );
    expect_enough(tried);
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
            ground.expect_nobody_locked_out("./second", ended, case);
            if ended.is_done() {
                assert_eq!(settled(&ground, ended, case), archive(&ground.path("app")), "{case}");
            } else {
                let left =
                    if ground.path("out").exists() { contents(&ground.path("out")) } else { BTreeMap::new() };
                // A folder that could not be removed has a telling name, and the next restore removes it.
                let visible = left.keys().filter(|path| !path.starts_with(".packvault-restore-"));
                // Where nothing could be undone, the next restore does it.
                if visible.count() > 0 {
                    assert!(
                        ended.stderr.contains("cannot put back all"),
                        "{case}: {}: {left:?}",
                        ended.stderr
                    );
                    let again = ["restore", "--repo", "./second", "--target", "out", "--overwrite"];
                    let again = ground.plain(&again);
                    assert_eq!(again.code, Some(0), "{case}: {}\nthen: {}", ended.stderr, again.stderr);
                    assert_eq!(archive(&ground.path("out")), archive(&ground.path("app")), "{case}");
                }
            }
        },
    );
    expect_enough(tried);
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
            ground.expect_nobody_locked_out("./second", ended, case);
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
    expect_enough(tried);
}
