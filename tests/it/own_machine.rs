//! The danger: this machine lacks a folder, a descriptor or the right to write a long file, and the backup is called
//! damaged for it, or is not made at all.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Scratch, mode, stderr};

/// An archive with a second database, and a repository with a snapshot of it.
fn case() -> Scratch {
    let scratch = Scratch::new();
    fs::create_dir_all(scratch.path("home")).unwrap();
    for name in ["a.db", "b.db"] {
        let connection = rusqlite::Connection::open(scratch.path("home").join(name)).unwrap();
        connection.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(300000))").unwrap();
    }
    fs::write(scratch.path("file"), "x").unwrap();
    for arguments in [vec!["init"], CREATE.to_vec()] {
        let output = scratch.packvault(&arguments).args(["--repo", "./repo"]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    scratch
}

const CREATE: [&str; 6] = ["create", "home", "--database", "home/a.db", "--files", "**"];
const VERIFY: [&str; 3] = ["verify", "--all", "--paths"];

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output))
}

/// Runs a command below a limit of the shell.
fn limited(scratch: &Scratch, limit: &str, arguments: &[&str]) -> Output {
    let program = scratch.packvault(&[]);
    let mut shell = Command::new("sh");
    shell.env_clear().current_dir(scratch.path(""));
    shell.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.args(["-c", &format!("ulimit {limit} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_packvault")]);
    shell.args(arguments).args(["--repo", "./repo"]).output().unwrap()
}

fn names_below(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_cache_folder_that_cannot_be_used_keeps_nobody_from_a_backup_a_check_or_a_restore() {
    let scratch = case();
    let file = scratch.path("file");
    for (number, cache) in [file.clone(), file.join("deeper"), "/dev/null".into()].iter().enumerate() {
        for temporary in [scratch.path(""), file.clone(), "".into()] {
            let target = format!("out{number}{}", temporary.display().to_string().len());
            for arguments in [&CREATE[..], &VERIFY, &["restore", "--target", &target]] {
                let mut command = scratch.packvault(arguments);
                command.args(["--repo", "./repo"]).env("XDG_CACHE_HOME", cache).env("TMPDIR", &temporary);
                let output = command.output().unwrap();
                assert_eq!(output.status.code(), Some(0), "{cache:?} {arguments:?}: {}", said(&output));
            }
            assert!(scratch.path(&target).join("b.db").exists());
        }
    }
    assert!(!scratch.path("page-hashes").exists(), "an empty TMPDIR is not the folder of the caller");
}

#[test]
fn a_place_that_was_asked_for_and_cannot_be_used_is_no_problem_of_the_repository() {
    let scratch = case();
    let output = scratch.packvault(&VERIFY).args(["--repo", "./repo", "--spool", "./file"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(!said(&output).contains("problem"), "{}", said(&output));
    let output = scratch.packvault(&CREATE).args(["--repo", "./repo", "--spool", "./file"]).output().unwrap();
    assert!(stderr(&output).contains("--spool names another folder"), "{}", said(&output));
}

#[test]
fn a_limit_on_open_files_or_on_their_size_is_no_problem_of_the_repository_and_leaves_nothing() {
    let scratch = case();
    let cache = scratch.path(".cache/packvault");
    let mut done = 0;
    for limit in
        ["-n 18", "-n 20", "-n 24", "-n 28", "-n 32", "-n 36", "-n 40", "-n 48", "-n 64", "-f 1", "-f 100"]
    {
        let output = limited(&scratch, limit, &VERIFY);
        let code = output.status.code();
        done += usize::from(code == Some(0));
        assert!(code == Some(0) || code == Some(1), "{limit}: {code:?} {}", said(&output));
        assert!(!said(&output).contains("run `packvault create`"), "{limit}: {}", said(&output));
        let left: Vec<_> = names_below(&cache).into_iter().filter(|name| name.contains("scratch")).collect();
        assert!(left.is_empty(), "{limit}: {left:?}");
        assert!(names_below(&scratch.path("repo/locks")).is_empty(), "{limit}");
    }
    assert!(done > 0, "one of the limits is no hindrance");
}

#[test]
fn a_umask_that_locks_its_owner_out_is_not_followed_so_far() {
    let scratch = Scratch::new();
    let script = "umask 0777; \"$0\" init --repo ./closed; umask 0027; \"$0\" init --repo ./shared";
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_packvault")]).current_dir(scratch.path(""));
    shell.env("HOME", scratch.path("")).env("PACKVAULT_CONFIG", "/dev/null");
    assert_eq!(shell.output().unwrap().status.code(), Some(0));
    let of_file = |name: &str| mode(&scratch.path(&format!("{name}/config.toml")));
    assert_eq!((mode(&scratch.path("closed")), of_file("closed")), (0o700, 0o600));
    assert_eq!(of_file("shared") & 0o007, 0, "what it says of others holds");
}

#[test]
fn a_home_that_is_no_whole_path_is_not_looked_for_below_wherever_a_command_is_run() {
    let scratch = Scratch::new();
    let output = scratch.packvault(&["init", "--repo", "./repo"]).env("HOME", "home").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(names_below(&scratch.path("")), ["repo"]);
}
