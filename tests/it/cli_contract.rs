//! The danger: a script around packvault takes a failure for a success, because an exit code, a stream or a
//! word of the command line is not what it was promised to be.
//!
//! Each test runs the real program, without the user's configuration.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Returns the program in a folder of its own that is also its home.
fn packvault(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
    command.env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null()).args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a temporary folder can be made");
    packvault(home.path(), arguments).output().expect("the program can be run")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program ends by itself")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

#[test]
fn help_and_version_are_data_and_succeed() {
    for arguments in [&["--help"][..], &["-h"], &["help", "create"], &["create", "--help"], &["--version"]] {
        let output = run(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_help_of_a_command_fits_the_terminal_and_has_the_common_options_in_short() {
    let home = tempfile::tempdir().expect("a temporary folder can be made");
    for arguments in [&["restore", "--help"], &["help", "restore"]] {
        for columns in ["40", "80"] {
            let output = packvault(home.path(), arguments).env("COLUMNS", columns).output();
            let help =
                String::from_utf8(output.expect("the program can be run").stdout).expect("help is UTF-8");
            let widest = help
                .lines()
                .filter(|line| !line.starts_with("Usage:"))
                .map(|line| line.chars().count())
                .max();
            assert!(widest <= columns.parse().ok(), "{arguments:?} at {columns}: {help}");
            let (own, common) = (help.find("--target"), help.find("--log-format"));
            assert!(own.is_some() && own < common && help.matches("--log-format").count() == 1, "{help}");
        }
    }
}

#[test]
fn wrong_usage_is_two_and_says_so_on_standard_error() {
    for arguments in [
        &[][..],
        &["destroy"],
        &["create", "--zstd-level", "20"],
        &["create", "--jobs", "0"],
        &["restore"],
        &["verify", "--all", "a3d383f8"],
        &["list"],
        &["list", "--repo", ""],
    ] {
        let output = run(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_failure_leaves_standard_output_empty_even_with_json() {
    for arguments in [&["list", "--json", "--repo", "s3://b"][..], &["verify", "--json", "--repo", "ftp://b"]]
    {
        let output = run(arguments);
        assert_ne!(code(&output), 0);
        assert!(output.stdout.is_empty());
        assert!(stderr(&output).starts_with("error: "), "{}", stderr(&output));
    }
}

#[test]
fn an_unknown_key_of_the_configuration_stops_every_command() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("config.toml"), "defualt_repository = 'x'\n").unwrap();
    let mut command = packvault(home.path(), &["list"]);
    let output = command.env("PACKVAULT_CONFIG", home.path().join("config.toml")).output().unwrap();
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    assert!(text.contains("config.toml, line 1: unknown field `defualt_repository`"), "{text}");
    assert!(text.contains("\nhint: run `packvault list --help`\n"), "{text}");
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    let mut command = packvault(home.path(), &["create", "--help"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!((child.wait().unwrap().code(), text.as_str()), (Some(0), ""));
}

#[test]
fn the_demo_leaves_nothing_behind_however_it_ends() {
    let home = tempfile::tempdir().unwrap();
    let temporary = home.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let output = packvault(home.path(), &["demo"]).env("TMPDIR", &temporary).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("$ packvault init --repo ./backup"));
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0);
}

#[test]
fn a_demo_that_is_kept_says_where_it_is() {
    let home = tempfile::tempdir().unwrap();
    let output = packvault(home.path(), &["demo", "--keep"]).env("TMPDIR", home.path()).output().unwrap();
    let text = stderr(&output);
    let folder = text.lines().find_map(|line| line.strip_prefix("keeping ")).unwrap();
    assert!(Path::new(folder).join("mail/msgvault.db").exists());
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        assert!(script.contains("restore") && script.contains("overwrite"), "{shell}");
    }
    let output = packvault(home.path(), &["man", "pages"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let page = std::fs::read_to_string(home.path().join("pages/packvault-restore.1")).unwrap();
    assert!(page.contains("overwrite") && home.path().join("pages/packvault.1").exists());
    std::fs::write(home.path().join("file"), "").unwrap();
    let refused = packvault(home.path(), &["man", "file"]).output().unwrap();
    assert_eq!(code(&refused), 1, "{}", stderr(&refused));
}
