//! The danger: Ctrl-C at a bad moment leaves a lock that blocks the next backup, a snapshot that is not whole, or
//! half a restore.
//!
//! The real program is stopped as soon as it says that a stage has begun. Where a stage is over before the signal
//! arrives, the program may end well; then its work must be whole.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use packvault_sample::{ContentKind, SampleOptions};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::archives::{make, tiny};
use crate::support::operations::{assert_sound, create, init};
use crate::support::{Scratch, assert_no_remains, names, snapshot_files, tree};

/// An archive large enough to be interrupted in, and a repository for it.
struct Case {
    scratch: Scratch,
    home: PathBuf,
    repository: PathBuf,
}

/// What the program said last, and how it ended.
struct Ended {
    code: i32,
    told: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let scratch = Scratch::new();
        let (home, repository) = (scratch.path("home"), init(&scratch.path("repository")));
        let large = vec![(12_000_000, ContentKind::Random); 4];
        make(&home, &SampleOptions { messages: 2000, large, ..tiny() });
        Self { scratch, home, repository }
    }

    /// Runs a command and interrupts it when a line of its progress has all the words.
    fn interrupt(&self, arguments: &[&str], words: &[String]) -> Ended {
        let arguments = [arguments, &["--repo", "./repository", "--progress", "json"]].concat();
        let mut command = self.scratch.packvault(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = Vec::new();
        let mut is_sent = false;
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if !is_sent && words.iter().all(|word| line.contains(word.as_str())) {
                // A program that has ended meanwhile cannot be signalled, and need not be.
                let _ = kill_process(Pid::from_child(&child), Signal::INT);
                is_sent = true;
            }
            told.push(line);
        }
        assert!(is_sent, "{words:?} was never told: {told:#?}");
        let code = child.wait().unwrap().code().expect("the program ends by itself");
        assert!(code == 0 || code == 130, "{code}: {told:#?}");
        assert_no_remains(&self.repository);
        Ended { code, told }
    }
}

/// Returns the words of the line that tells that a stage has begun.
fn begin(stage: &str) -> [String; 2] {
    [r#""event":"begin""#.to_owned(), format!(r#""stage":"{stage}""#)]
}

#[test]
fn an_interrupted_create_leaves_no_snapshot_lock_or_staging() {
    let case = Case::new();
    let mut interrupted = 0;
    for stage in ["freeze", "scan", "pack", "attachments", "extras", "seal"] {
        let before = snapshot_files(&case.repository);
        let ended = case.interrupt(&["create", "home"], &begin(stage));
        if ended.code == 130 {
            assert_eq!(snapshot_files(&case.repository), before, "{stage}");
            assert!(ended.told.iter().any(|line| line.contains("interrupted")), "{:#?}", ended.told);
            interrupted += 1;
        } else {
            assert_eq!(snapshot_files(&case.repository).len(), before.len() + 1, "{stage}");
        }
    }
    assert!(interrupted >= 3, "only {interrupted} of six were interrupted in time");
    create(&case.repository, &case.home);
    assert_sound(&case.repository);
}

#[test]
fn an_interrupted_verify_is_no_clean_result_and_leaves_no_lock() {
    let case = Case::new();
    create(&case.repository, &case.home);
    let ended = ["structure", "blobs"]
        .map(|stage| case.interrupt(&["verify", "--all", "--jobs", "1"], &begin(stage)).code);
    assert!(ended.contains(&130), "{ended:?}");
}

#[test]
fn an_interrupted_restore_leaves_the_target_as_it_was() {
    let case = Case::new();
    create(&case.repository, &case.home);
    let occupied = case.scratch.path("occupied");
    fs::create_dir_all(occupied.join("attachments")).unwrap();
    fs::write(occupied.join("msgvault.db"), "an older one").unwrap();
    let mut interrupted = 0;
    for stage in ["database", "attachments", "extras", "proof"] {
        let fresh = ["restore", "--target", "made/for/this"];
        if case.interrupt(&fresh, &begin(stage)).code == 130 {
            assert!(!case.scratch.path("made").exists(), "{stage}");
            interrupted += 1;
        } else {
            assert!(case.scratch.path("made/for/this/msgvault.db").exists());
            fs::remove_dir_all(case.scratch.path("made")).unwrap();
        }
        let before = tree(&occupied);
        let over = ["restore", "--target", "occupied", "--overwrite"];
        if case.interrupt(&over, &begin(stage)).code == 130 {
            assert_eq!(tree(&occupied), before, "{stage}");
            interrupted += 1;
        }
    }
    assert!(interrupted >= 3, "only {interrupted} of eight were interrupted in time");
}

#[test]
fn waiting_for_the_lock_of_another_process_can_be_interrupted() {
    let case = Case::new();
    let lock = case.repository.join("locks/shared-01arz3ndektsv4rrffq69g5fav.json");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    fs::write(&lock, "of another process").unwrap();
    let arguments = ["create", "home", "--repo", "./repository", "--progress", "json"];
    let mut command = case.scratch.packvault(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = Vec::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("waiting: shared-") {
            kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        }
        told.push(line);
    }
    assert_eq!(child.wait().unwrap().code(), Some(130), "{told:#?}");
    assert_eq!(names(&case.repository.join("locks")), ["shared-01arz3ndektsv4rrffq69g5fav.json"]);
    fs::remove_file(lock).unwrap();
    assert_no_remains(&case.repository);
}

#[test]
fn a_killed_create_leaves_no_snapshot_and_the_next_one_needs_no_repair() {
    let case = Case::new();
    let arguments = ["create", "home", "--repo", "./repository", "--progress", "json"];
    let mut command = case.scratch.packvault(&arguments);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        if begin("attachments").iter().all(|word| line.as_ref().unwrap().contains(word.as_str())) {
            kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
        }
    }
    child.wait().unwrap();
    assert_eq!(snapshot_files(&case.repository), Vec::<String>::new());
    // A killed process leaves its lock; only somebody who knows may break it.
    assert_eq!(names(&case.repository.join("locks")), ["exclusive.json"]);
    let output = case.scratch.run(&["create", "home", "--repo", "./repository", "--force-unlock"]);
    assert_eq!(output.status.code(), Some(0));
    assert_no_remains(&case.repository);
    assert_eq!(assert_sound(&case.repository).snapshots, 1);
}

#[test]
fn every_signal_that_would_end_a_program_ends_a_command_cleanly_however_often_it_comes() {
    let scratch = Scratch::new();
    let repository = init(&scratch.path("repository"));
    let database = rusqlite::Connection::open(scratch.path("app.db")).unwrap();
    database.execute_batch("CREATE TABLE t (a)").unwrap();
    let lock = repository.join("locks/shared-01arz3ndektsv4rrffq69g5fav.json");
    fs::create_dir_all(lock.parent().unwrap()).unwrap();
    fs::write(&lock, "of another process").unwrap();
    let arguments =
        ["create", "--database", "app.db", "--repo", "./repository", "--progress", "json"].as_slice();
    let mut signals =
        vec![libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF, libc::SIGIO];
    signals.push(libc::SIGXCPU);
    #[cfg(target_os = "linux")]
    signals.extend([libc::SIGPWR, libc::SIGSTKFLT, libc::SIGRTMIN(), libc::SIGRTMAX()]);
    for signal in signals {
        let mut command = scratch.packvault(arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut told = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines() {
            let line = line.unwrap();
            if line.contains("waiting: shared-") && told.is_empty() {
                let script = "kill -$0 $1; kill -$0 $1; sleep 0.02; kill -$0 $1";
                let (signal, pid) = (signal.to_string(), child.id().to_string());
                // The last may come when it has ended.
                let _ = Command::new("/bin/sh").args(["-c", script, &signal, &pid]).output().unwrap();
                told.push(line);
            } else if !told.is_empty() {
                told.push(line);
            }
        }
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}: {told:#?}");
        assert_eq!(names(&repository.join("locks")), ["shared-01arz3ndektsv4rrffq69g5fav.json"], "{signal}");
    }
}
