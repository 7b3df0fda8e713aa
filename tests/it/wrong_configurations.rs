//! The danger: a slip in the configuration keeps a user from his own backup, although the command that would
//! bring it back needs nothing of what is wrong.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use packvault::engine::init;
use packvault::location;

use crate::support::memory_repo::*;

/// Runs the program with a configuration of its own.
fn packvault(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
    command.env_clear().env("HOME", folder).env("TMPDIR", folder).current_dir(folder).stdin(Stdio::null());
    command.args(arguments).output().expect("the program can be run")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a repository `repo` of one snapshot, and a place for the configuration.
fn scene() -> tempfile::TempDir {
    let folder = scratch();
    runtime().block_on(async {
        let archive = Archive::small();
        let storage = location::folder(&folder.path().join("repo")).await.unwrap();
        init::init(storage.as_ref()).await.unwrap();
        capture(storage, &archive).await.unwrap();
    });
    std::fs::create_dir_all(folder.path().join(".config/packvault")).unwrap();
    folder
}

const SLIP: &str = "[repository.nas]\nlocation = './repo'\nuser = 'ann'\n";

#[test]
fn what_is_wrong_with_the_configuration_stops_no_command_that_needs_nothing_of_it() {
    let folder = scene();
    let config = folder.path().join(".config/packvault/config.toml");
    type Spoil = (&'static str, fn(&Path));
    let spoil: [Spoil; 4] = [
        ("a slip in the syntax", |path| std::fs::write(path, "[repository.nas\n").unwrap()),
        ("an unknown key", |path| std::fs::write(path, SLIP).unwrap()),
        ("no text", |path| std::fs::write(path, b"\xff\xfe").unwrap()),
        ("a folder", |path| std::fs::create_dir(path).unwrap()),
    ];
    for (case, spoil) in spoil {
        let _ = std::fs::remove_file(&config);
        spoil(&config);
        let commands: [&[&str]; 5] = [
            &["list", "--repo", "./repo"],
            &["verify", "--repo", "./repo", "--all"],
            &["restore", "--repo", "./repo", "--target", "out", "--overwrite"],
            &["archive", "presets"],
            &["init", "--repo", "./another"],
        ];
        for arguments in commands {
            let output = packvault(folder.path(), arguments);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "{case}: {arguments:?}: {said}");
            let warned = said.matches("warning: the configuration is wrong").count();
            assert_eq!(warned, 1, "{case}: {arguments:?}: {said}");
            assert!(said.contains("config.toml"), "{case}: {said}");
        }
        std::fs::remove_dir_all(folder.path().join("another")).unwrap();
        for arguments in [&["list", "--repo", "nas"][..], &["list"], &["create", "mail", "--repo", "./repo"]]
        {
            let output = packvault(folder.path(), arguments);
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{case}: {arguments:?}: {said}");
            assert!(said.starts_with("error: ") && said.contains("config.toml"), "{case}: {said}");
        }
    }
}

#[test]
fn a_slip_elsewhere_in_the_file_leaves_a_named_repository_usable() {
    let folder = scene();
    let repo = folder.path().join("repo");
    let text = format!(
        "default_repository = 'nas'\n[repository.nas]\nlocation = '{}'\n[archive.mail]\nhome = '/x'\nlevel = 3\n",
        repo.display()
    );
    std::fs::write(folder.path().join(".config/packvault/config.toml"), text).unwrap();
    for arguments in [&["list"][..], &["restore", "--repo", "nas", "--target", "out"]] {
        let output = packvault(folder.path(), arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        assert!(said.contains("warning: the configuration is wrong") && said.contains("`level`"), "{said}");
    }
    let output = packvault(folder.path(), &["create", "mail"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn no_bytes_per_second_is_no_limit_that_can_be_meant() {
    let folder = scene();
    for flag in ["--limit-upload", "--limit-download"] {
        let output = packvault(folder.path(), &["list", "--repo", "./repo", flag, "0"]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{flag}: {said}");
        assert!(said.contains("at least 1 byte per second"), "{said}");
    }
}
