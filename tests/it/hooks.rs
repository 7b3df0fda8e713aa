//! The danger: an application is stopped for a backup that never begins, or is left stopped after one.
//!
//! `before` leaves a file, `after` takes it away and notes how it found the backup, as a script that stops and
//! starts a service would.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Scratch, assert_no_remains, snapshot_files, stderr};

const SECTION: &str = r#"
[archive.app]
profile = "sqlite"
home = "HOME/app"
database = "app.db"
files = ["files/**"]
before = ["sh", "-c", "touch HOME/paused; echo paused >> HOME/told; BEFORE"]
after = ["sh", "-c", "AFTER rm HOME/paused; echo $PACKVAULT_ARCHIVE $PACKVAULT_STATUS $PACKVAULT_SNAPSHOT >> HOME/told; echo resumed"]
hold = "capture"
"#;

/// Returns a byte of what does not compress.
fn noise(state: &mut u64) -> u8 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 56) as u8
}

/// An application with its hooks, and a repository.
struct Case {
    scratch: Scratch,
    repository: PathBuf,
}

impl Case {
    /// `words` are put in the place of others in the section of the configuration.
    fn new(words: &[(&str, &str)]) -> Self {
        let scratch = Scratch::new();
        let home = scratch.path("app");
        fs::create_dir_all(home.join("files")).unwrap();
        let database = Connection::open(home.join("app.db")).unwrap();
        database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(6000000));").unwrap();
        for number in 0..4u64 {
            let mut state = 1 + number;
            let bytes: Vec<u8> = std::iter::repeat_with(|| noise(&mut state)).take(6_000_000).collect();
            fs::write(home.join(format!("files/{number}")), bytes).unwrap();
        }
        let root = scratch.path("").to_str().unwrap().trim_end_matches('/').to_owned();
        let mut section = SECTION.to_owned();
        for (from, to) in words.iter().chain(&[("BEFORE", ":"), ("AFTER", "")]) {
            section = section.replace(from, to);
        }
        fs::write(scratch.path("c.toml"), section.replace("HOME", &root)).unwrap();
        assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
        Self { repository: scratch.path("repo"), scratch }
    }

    /// Returns the program with the application's configuration; signals do what they do in a fresh terminal,
    /// whoever runs the tests.
    fn command(&self, disposition: &str, arguments: &[&str]) -> Command {
        let program = self.scratch.packvault(arguments);
        let mut command = Command::new("/usr/bin/env");
        command.env_clear().envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env("PACKVAULT_CONFIG", self.scratch.path("c.toml")).env("PATH", "/usr/bin:/bin");
        command.arg(disposition).arg(program.get_program()).args(program.get_args());
        command.current_dir(self.scratch.path("")).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command("--default-signal", arguments).output().unwrap()
    }

    fn create(&self) -> Output {
        self.run(&["create", "app", "--repo", "./repo", "--progress", "json"])
    }

    fn told(&self) -> Vec<String> {
        let text = fs::read_to_string(self.scratch.path("told")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn is_paused(&self) -> bool {
        self.scratch.path("paused").exists()
    }

    /// Waits until `after` has noted something, for it may go on when the program has ended.
    fn wait_for_after(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.told().len() < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn start(&self, disposition: &str) -> Child {
        let arguments = ["create", "app", "--repo", "./repo", "--progress", "json"];
        let mut command = self.command(disposition, &arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Sends the signal when the stage begins; returns the exit code and what was said.
    fn signalled(&self, disposition: &str, signal: Signal, stage: &str) -> (Option<i32>, Vec<String>) {
        let mut child = self.start(disposition);
        let mut said = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains(r#""event":"begin""#) && line.contains(&format!(r#""stage":"{stage}""#)) {
                let _ = kill_process(Pid::from_child(&child), signal);
            }
            said.push(line);
        }
        (child.wait().unwrap().code(), said)
    }
}

#[test]
fn no_refusal_that_can_be_known_stops_the_application() {
    let case = Case::new(&[]);
    let is_untouched = |what: &str| assert!(case.told().is_empty(), "{what}: {:?}", case.told());
    let create =
        |arguments: &[&str]| case.run(&[&["create", "app", "--progress", "none"], arguments].concat());
    let refused = |code: i32, arguments: &[&str]| {
        let output = create(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        is_untouched(&format!("{arguments:?}"));
    };
    refused(10, &["--repo", "./nowhere"]);
    refused(2, &["--repo", "./repo", "--zstd-level", "20"]);
    refused(2, &["--repo", "./repo", "--tag", "a\nb"]);
    refused(2, &["--repo", "./repo", "--max-hold", "0"]);
    refused(2, &["--repo", "./repo", "--include-config"]);
    refused(0, &["--repo", "./repo", "--dry-run"]);

    let lock = case.repository.join("locks/exclusive.json");
    let holder = r#"{"hostname":"other","pid":1,"operation":"create","acquired_at":"2026-01-01T00:00:00Z"}"#;
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    fs::write(&lock, holder).unwrap();
    refused(11, &["--repo", "./repo"]);
    fs::remove_file(lock).unwrap();

    fs::rename(case.scratch.path("app/app.db"), case.scratch.path("aside")).unwrap();
    fs::write(case.scratch.path("app/app.db"), "this is no database, whatever its name says").unwrap();
    refused(1, &["--repo", "./repo"]);
    fs::rename(case.scratch.path("aside"), case.scratch.path("app/app.db")).unwrap();

    assert_eq!(create(&["--repo", "./repo"]).status.code(), Some(0));
    fs::remove_file(case.scratch.path("told")).unwrap();
    let manifest = case.repository.join("snapshots").join(&snapshot_files(&case.repository)[0]);
    fs::set_permissions(&manifest, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(manifest, "x").unwrap();
    // The parent cannot be known.
    refused(1, &["--repo", "./repo"]);
}

#[test]
fn what_before_makes_need_not_be_there_before() {
    let case =
        Case::new(&[("BEFORE", "mv HOME/dump HOME/app/app.db"), ("AFTER", "mv HOME/app/app.db HOME/dump;")]);
    fs::rename(case.scratch.path("app/app.db"), case.scratch.path("dump")).unwrap();
    let output = case.create();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(case.scratch.path("dump").exists());
}

#[test]
fn after_runs_when_the_archive_is_read_or_when_all_is_stored() {
    for (hold, is_before_the_seal, status) in [("capture", true, "captured"), ("upload", false, "done")] {
        let case = Case::new(&[(r#"hold = "capture""#, &format!("hold = \"{hold}\""))]);
        let output = case.create();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let told = case.told();
        assert_eq!((told.len(), told[0].as_str()), (2, "paused"), "{told:?}");
        assert!(told[1].starts_with(&format!("app {status}")), "{told:?}");
        let snapshot = &snapshot_files(&case.repository)[0];
        let named = told[1].split(' ').nth(2).is_some_and(|id| id.len() > 20 && snapshot.starts_with(id));
        assert_eq!(named, status == "done", "{told:?}");
        let said = stderr(&output);
        let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words}: {said}"));
        let extras = at(r#""event":"end","stage":"extras""#);
        let seal = at(r#""event":"begin","stage":"seal""#);
        assert!(extras < at("resumed"), "files are read while the application is still: {said}");
        assert_eq!(at("resumed") < seal, is_before_the_seal, "{said}");
    }
}

#[test]
fn a_before_that_fails_stops_the_backup_and_after_runs() {
    let case = Case::new(&[("BEFORE", "exit 3")]);
    let output = case.create();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("the hook `before` (sh) failed with exit code 3"),
        "{}",
        stderr(&output)
    );
    assert_eq!(case.told(), ["paused", "app failed"]);
    assert_eq!(snapshot_files(&case.repository), Vec::<String>::new());
    assert_no_remains(&case.repository);
}

#[test]
fn an_after_that_fails_is_said_and_the_snapshot_is_there() {
    let case = Case::new(&[("AFTER", "exit 4;")]);
    let output = case.create();
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(stderr(&output).contains("the hook `after` (sh) failed with exit code 4"), "{}", stderr(&output));
    assert_eq!(snapshot_files(&case.repository).len(), 1);
}

#[test]
fn whatever_signal_comes_in_whatever_stage_the_application_goes_on() {
    let mut interrupted = 0;
    let all_stages = ["freeze", "scan", "extras"];
    let signals =
        [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT].map(|signal| (signal, &all_stages[..]));
    // The limit on CPU time, and what is meant for another program.
    let others = [Signal::XCPU, Signal::USR1].map(|signal| (signal, &all_stages[1..2]));
    for (signal, stages) in signals.into_iter().chain(others) {
        for stage in stages {
            let case = Case::new(&[]);
            let (code, said) = case.signalled("--default-signal", signal, stage);
            let what = format!("{signal:?} in {stage}: {code:?}: {said:#?}");
            assert!(code == Some(0) || code == Some(130), "{what}");
            assert!(!case.is_paused() && case.told().len() == 2, "{what}: {:?}", case.told());
            assert_no_remains(&case.repository);
            interrupted += u32::from(code == Some(130));
        }
    }
    assert!(interrupted >= 6, "only {interrupted} of fourteen were in time");
}

#[test]
fn a_signal_while_before_is_at_work_ends_it_and_runs_after() {
    let case = Case::new(&[("BEFORE", "exec sleep 600")]);
    let mut child = case.start("--default-signal");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !case.is_paused() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(case.told(), ["paused", "app interrupted"]);
    assert_no_remains(&case.repository);
}

#[test]
fn a_second_signal_does_not_leave_the_application_paused() {
    let case = Case::new(&[("AFTER", "touch HOME/resuming; sleep 2;")]);
    let mut child = case.start("--default-signal");
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    for line in lines {
        let line = line.unwrap();
        if line.contains(r#""event":"begin","stage":"scan""#) {
            kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
            let deadline = Instant::now() + Duration::from_secs(60);
            while !case.scratch.path("resuming").exists() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            // While `after` is at work.
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
        }
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    case.wait_for_after();
    assert!(!case.is_paused(), "{:?}", case.told());
    assert_eq!(case.told().len(), 2, "{:?}", case.told());
}

#[test]
fn a_program_that_was_told_to_ignore_a_closed_terminal_does() {
    let case = Case::new(&[]);
    let (code, said) = case.signalled("--ignore-signal=HUP", Signal::HUP, "scan");
    assert_eq!(code, Some(0), "{said:#?}");
    assert_eq!(snapshot_files(&case.repository).len(), 1);
    assert_eq!(case.told(), ["paused", "app captured"]);
}

#[test]
fn after_runs_where_nobody_reads_standard_error_any_more() {
    // A script that stops at its first failure, and says something first.
    let case = Case::new(&[("AFTER", "set -e; echo resuming; echo resuming >&2;")]);
    let mut child = case.start("--default-signal");
    let mut reader = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 0 && !line.contains(r#""stage":"freeze""#) {
        line.clear();
    }
    drop(reader);
    let _ = kill_process(Pid::from_child(&child), Signal::HUP);
    child.wait().unwrap();
    assert!(!case.is_paused(), "{:?}", case.told());
}

#[test]
fn an_after_that_hangs_keeps_nobody_from_the_repository_once_the_backup_was_stopped() {
    let case = Case::new(&[("AFTER", "echo $$ > HOME/hangs; exec sleep 600;")]);
    let hangs = case.scratch.path("hangs");
    let wait_until = |what: &str, is: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let mut child = case.start("--default-signal");
    let pid = || fs::read_to_string(&hangs).ok()?.trim().parse().ok().and_then(Pid::from_raw);
    wait_until("after runs", &|| pid().is_some());
    let locks = || fs::read_dir(case.repository.join("locks")).unwrap().count();
    assert_eq!(locks(), 1);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    wait_until("the lock is given back", &|| locks() == 0);
    assert_eq!(child.try_wait().unwrap(), None, "it waits for after");
    kill_process(pid().unwrap(), Signal::KILL).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
