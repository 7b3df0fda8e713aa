//! The danger: a limit on processes or memory is met in the middle of the work: a panic, a hang, a lock that
//! stays behind, or a repository that is called damaged because this machine had no room to look at it.
//!
//! The limit on processes counts those of one user and does not bind root, so the programs run as a user that
//! has no others. That takes root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;

use crate::support::{Scratch, assert_no_remains, copy_program, stderr};

/// The name by which `PACKVAULT_REQUIRE` demands the tests that need root.
const NAME: &str = "root";
/// Longer than any of these commands takes, on any machine.
const TIME_MAX: &str = "300";

/// An application and a repository with a snapshot of it.
fn ground() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("app")).unwrap();
    let database = Connection::open(scratch.path("app/a.db")).unwrap();
    let fill = "CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(9000000));";
    database.execute_batch(fill).unwrap();
    fs::write(scratch.path("app/file"), vec![7; 9_000_000]).unwrap();
    assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    assert_eq!(scratch.run(&COMMANDS[0].split(' ').collect::<Vec<_>>()).status.code(), Some(0));
    scratch
}

const COMMANDS: [&str; 4] = [
    "create --repo ./repo --database app/a.db --files file --progress none",
    "verify --repo ./repo --progress none",
    "restore --repo ./repo --target back --progress none",
    "list --repo ./repo",
];

/// Runs a command below a limit of the shell's `ulimit`, as this user if one is given.
fn limited(scratch: &Scratch, program: &Path, user: Option<u32>, limit: &str, command: &str) -> Output {
    let plain = scratch.packvault(&[]);
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let script = format!("ulimit {limit}; exec timeout {TIME_MAX} {} {command}", program.display());
    shell.env("PATH", "/usr/bin:/bin").args(["-c", &script]);
    shell.current_dir(scratch.path("")).stdin(Stdio::null());
    if let Some(user) = user {
        shell.uid(user).gid(user);
    }
    shell.output().unwrap()
}

/// Either all is well, or one sentence says what is too low; nothing is left behind.
fn expect_order(scratch: &Scratch, output: &Output, sentences: &[&str], what: &str) -> bool {
    let said = stderr(output);
    let code = output.status.code();
    assert!(!said.contains("panicked") && !said.contains("memory allocation of"), "{what}: {said}");
    assert_no_remains(&scratch.path("repo"));
    if code == Some(0) {
        let _ = fs::remove_dir_all(scratch.path("back"));
        return true;
    }
    assert_eq!(code, Some(1), "{what}: {said}");
    assert!(sentences.iter().any(|sentence| said.starts_with(sentence)), "{what}: {said}");
    assert!(!scratch.path("back/a.db").exists(), "{what}");
    false
}

#[test]
fn a_limit_on_processes_is_one_sentence_or_no_hindrance() {
    if !rustix::process::geteuid().is_root() {
        let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|name| name.trim() == NAME), "PACKVAULT_REQUIRE demands {NAME}");
        let notice = format!("NOT RUN, {NAME}: a limit on processes does not bind another user\n");
        let _ = rustix::io::write(rustix::stdio::stderr(), notice.as_bytes());
        return;
    }
    let scratch = ground();
    // A user that runs nothing else, and reaches nothing but what is its own.
    let user = 1_500_000_000 + std::process::id();
    let program = scratch.path("packvault");
    copy_program(&program);
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    own(&scratch.path(""), user);
    for command in COMMANDS {
        let mut done = 0;
        for processes in [1, 2, 4, 7, 9, 10, 12, 16, 24, 40, 80, 400] {
            let limit = format!("-u {processes}");
            let output = limited(&scratch, &program, Some(user), &limit, command);
            let sentences = ["error: cannot start enough threads: raise the limit on processes"];
            // `timeout` is a process of its own, and needs one more.
            let forked = !stderr(&output).contains("fork");
            done += u32::from(
                forked && expect_order(&scratch, &output, &sentences, &format!("{limit} {command}")),
            );
            assert_no_remains(&scratch.path("repo"));
        }
        assert!(done >= 2, "{command}");
    }
}

fn own(path: &Path, user: u32) {
    chown(path, Some(user), Some(user)).unwrap();
    if path.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| own(&entry.unwrap().path(), user));
    }
}

#[test]
fn a_limit_on_memory_is_one_sentence_or_no_hindrance() {
    let scratch = ground();
    let program = Path::new(env!("CARGO_BIN_EXE_packvault"));
    let megabyte = 1024;
    for command in COMMANDS {
        let mut done = 0;
        for megabytes in [60, 100, 140, 180, 220, 260, 300, 400, 600, 1000, 4000] {
            let limit = format!("-v {}", megabytes * megabyte);
            let output = limited(&scratch, program, None, &limit, &format!("{command} {}", jobs(command)));
            let sentences = ["error: the limit on memory (`ulimit -v`) leaves less than"];
            done += u32::from(expect_order(&scratch, &output, &sentences, &format!("{limit} {command}")));
        }
        assert!(done >= 2, "{command}");
    }
}

#[test]
fn a_small_stack_for_the_first_thread_is_no_hindrance() {
    let scratch = ground();
    let program = scratch.packvault(&[]).get_program().to_owned();
    for kibibytes in [64, 128, 512, 1024] {
        for command in COMMANDS {
            let output = limited(&scratch, Path::new(&program), None, &format!("-s {kibibytes}"), command);
            let what = format!("ulimit -s {kibibytes}: {command}");
            assert_eq!(output.status.code(), Some(0), "{what}: {}", stderr(&output));
            assert!(expect_order(&scratch, &output, &[], &what));
        }
    }
}

#[test]
fn a_limit_on_open_files_that_is_too_low_to_begin_is_said_to_be_that() {
    let scratch = ground();
    let program = Path::new(env!("CARGO_BIN_EXE_packvault"));
    for command in COMMANDS {
        // Which of these is enough is not the same everywhere: how many files a program finds open is not. In between
        // there are some with which it gets as far as its lock.
        for files in (5..=28).chain([32, 40, 64]) {
            let output = limited(&scratch, program, None, &format!("-n {files}"), command);
            let said = stderr(&output);
            let _ = fs::remove_dir_all(scratch.path("back"));
            assert_no_remains(&scratch.path("repo"));
            if files > 12 && output.status.code() == Some(0) {
                assert!(said.is_empty(), "{files} for {command}: {said}");
                continue;
            }
            assert_eq!(output.status.code(), Some(1), "{files} for {command}: {said}");
            let advised = said.contains("hint: raise the limit on open files (`ulimit -n`, LimitNOFILE)");
            assert!(advised && !said.contains("ulimit -u"), "{files} for {command}: {said}");
        }
    }
}

/// However many cores there are, the limits are for the same number of threads.
fn jobs(command: &str) -> &'static str {
    if command.starts_with("list") { "" } else { "--jobs 2" }
}

#[test]
fn a_thread_or_its_memory_that_the_system_refuses_once_is_no_panic_and_leaves_no_lock() {
    let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
    if !Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        assert!(!required.split(',').any(|name| name.trim() == "strace"), "PACKVAULT_REQUIRE demands strace");
        let notice = "NOT RUN, strace: nobody makes the system refuse a thread\n";
        let _ = rustix::io::write(rustix::stdio::stderr(), notice.as_bytes());
        return;
    }
    let scratch = ground();
    let numbers: [(&str, &str, &[u32]); 3] = [
        ("clone3", "EAGAIN", &[1, 2, 3, 5, 9, 20, 27, 28, 29, 30]),
        ("mmap", "ENOMEM", &[2, 17, 18, 19, 25, 40, 42, 43, 44, 45, 50, 60]),
        ("mprotect", "ENOMEM", &[2, 6, 7, 20, 31, 32, 33, 40]),
    ];
    for command in &COMMANDS[..3] {
        for (call, error, numbers) in numbers {
            for number in numbers {
                let plain = scratch.packvault(&[]);
                let mut strace = Command::new("strace");
                strace.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
                strace.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
                strace.args(["-e", &format!("inject={call}:error={error}:when={number}")]);
                strace.arg(env!("CARGO_BIN_EXE_packvault")).args(command.split(' '));
                let output = strace.current_dir(scratch.path("")).stdin(Stdio::null()).output().unwrap();
                let said = stderr(&output);
                let what = format!("{call} {number} of {command}: {:?}: {said}", output.status);
                assert!(!said.contains("panicked"), "{what}");
                assert_no_remains(&scratch.path("repo"));
                // The loader comes before us.
                let is_told =
                    said.contains("cannot start enough threads") || said.contains("cannot start a thread");
                assert!(said.is_empty() || is_told || said.contains("loading shared libraries"), "{what}");
                let _ = fs::remove_dir_all(scratch.path("back"));
            }
        }
    }
}
