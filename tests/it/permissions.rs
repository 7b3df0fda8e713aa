//! The danger: what a user may not read is taken for damage. He is told to move whole snapshots out of his repository,
//! because root made one of them.
//!
//! The program is run as another user where these tests are run by root; else its own files are closed to itself.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Output;

use packvault_sample::{self as sample, Change, SampleOptions};

use crate::support::{Scratch, stderr};

/// A user whom no machine has.
const USER: u32 = 40_123;

struct Ground {
    scratch: Scratch,
    is_root: bool,
}

impl Ground {
    /// A repository of two snapshots that belongs to the user who runs the program.
    fn new() -> Self {
        let ground = Self { scratch: Scratch::new(), is_root: rustix::process::geteuid().is_root() };
        let home = ground.path("home");
        let options = SampleOptions { messages: 40, attachments: 8, ..SampleOptions::default() };
        sample::make(&home, &options).unwrap();
        let repo = ground.path("repo");
        let (repo, home_text) = (repo.to_str().unwrap(), home.to_str().unwrap());
        for arguments in [vec!["init", "--repo", repo], vec!["create", home_text, "--repo", repo]] {
            assert!(ground.scratch.run(&arguments).status.success());
        }
        sample::mutate(&home, &Change::default()).unwrap();
        assert!(ground.scratch.run(&["create", home_text, "--repo", repo]).status.success());
        ground.give(&ground.path(""));
        ground
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// Gives a folder and all in it to the user.
    fn give(&self, path: &Path) {
        if !self.is_root {
            return;
        }
        chown(path, Some(USER), Some(USER)).unwrap();
        if path.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                self.give(&entry.unwrap().path());
            }
        }
    }

    /// Keeps the user from reading it.
    fn close(&self, path: &Path) {
        match self.is_root {
            true => chown(path, Some(0), Some(0)).unwrap(),
            false => std::fs::set_permissions(path, PermissionsExt::from_mode(0o0)).unwrap(),
        }
    }

    /// Lets the user read it again.
    fn open(&self, path: &Path) {
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        if self.is_root {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.scratch.packvault(arguments);
        command.args(["--repo", self.path("repo").to_str().unwrap()]);
        if self.is_root {
            command.uid(USER).gid(USER);
        }
        command.output().unwrap()
    }

    fn only_file(&self, folder: &str, newest: bool) -> PathBuf {
        self.file_of(folder, &[".mvmanifest", ".mvidx", ".mvpack"], newest)
    }

    fn file_of(&self, folder: &str, endings: &[&str], newest: bool) -> PathBuf {
        let folder = self.path("repo").join(folder);
        let mut names = crate::support::names(&folder);
        names.retain(|name| endings.iter().any(|end| name.ends_with(end)));
        folder.join(if newest { names.pop().unwrap() } else { names.remove(0) })
    }

    /// Runs every command, and expects those that need what is closed to say whose it is, and nothing worse.
    fn assert_told(&self, closed: &Path, commands: &[&str]) {
        self.close(closed);
        for name in commands.iter().copied() {
            let target = self.path("target");
            let (target, home) = (target.to_str().unwrap(), self.path("home"));
            let output = match name {
                "quick" => self.run(&["verify", "--all", "--quick"]),
                "verify" => self.run(&["verify", "--all"]),
                "restore" => self.run(&["restore", "--target", target]),
                "create" => self.run(&["create", home.to_str().unwrap()]),
                name => self.run(&[name]),
            };
            let case = format!("{name} with {} closed", closed.display());
            let said = stderr(&output) + &String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(1), "{case}: {said}");
            assert!(said.contains(&format!("{} belongs to", closed.display())), "{case}: {said}");
            assert!(said.contains("nothing is known to be damaged"), "{case}: {said}");
            for word in ["move it", "bring ", "given up", "is damaged", "problem: pack"] {
                assert!(!said.contains(word), "{case}: {said}");
            }
            assert!(!self.path("target").exists(), "{case}: the target is not touched");
        }
        self.open(closed);
    }
}

const ALL: [&str; 5] = ["list", "verify", "quick", "restore", "create"];
const ALL_BUT_LIST: [&str; 4] = ["verify", "quick", "restore", "create"];

#[test]
fn what_may_not_be_read_is_named_with_its_owner_and_never_called_damaged() {
    let ground = Ground::new();
    ground.assert_told(&ground.only_file("snapshots", true), &ALL);
    ground.assert_told(&ground.only_file("indexes", true), &ALL_BUT_LIST);
    ground.assert_told(&ground.only_file("packs", true), &ALL_BUT_LIST);
    for ending in [".packvault.json", ".packvault-attributes"] {
        ground.assert_told(&ground.file_of("snapshots", &[ending], true), &["verify"]);
    }
    for folder in ["repo/packs", "repo/indexes"] {
        ground.assert_told(&ground.path(folder), &ALL_BUT_LIST);
    }
    let pack = ground.only_file("packs", true);
    ground.assert_told(pack.parent().unwrap(), &ALL_BUT_LIST);
    ground.assert_told(&ground.path("repo/snapshots"), &ALL);
    ground.assert_told(&ground.path("repo/config.toml"), &ALL);
    ground.assert_told(&ground.path("repo"), &ALL);
    let verified = ground.run(&["verify", "--all"]);
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
}

#[test]
fn a_list_shows_the_snapshots_that_may_be_read() {
    let ground = Ground::new();
    let closed = ground.only_file("snapshots", false);
    ground.close(&closed);
    let listed = ground.run(&["list"]);
    assert_eq!(listed.status.code(), Some(1));
    let shown = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(shown.contains("not permitted") && !shown.contains("damaged"), "{shown}");
    assert!(shown.lines().count() >= 3, "{shown}");
    let json = ground.run(&["list", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(rows[0]["problem_kind"], "not_permitted");
    assert_eq!(rows[1]["problem"], serde_json::Value::Null);
    ground.open(&closed);
}

#[test]
fn a_folder_that_may_be_read_and_not_entered_is_named() {
    let ground = Ground::new();
    let folder = ground.path("repo/snapshots");
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o600)).unwrap();
    for arguments in [&["list"][..], &["verify"]] {
        let output = ground.run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{} belongs to", folder.display())), "{said}");
        assert!(said.contains("mode 0600"), "{said}");
    }
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();
}

#[test]
fn an_older_snapshot_comes_back_beside_an_index_that_may_not_be_read() {
    let ground = Ground::new();
    let closed = ground.only_file("indexes", true);
    let oldest = ground.only_file("snapshots", false);
    let id = oldest.file_stem().unwrap().to_str().unwrap().to_owned();
    ground.close(&closed);
    let target = ground.path("target");
    let restored = ground.run(&["restore", &id, "--target", target.to_str().unwrap()]);
    assert_eq!(restored.status.code(), Some(0), "{}", stderr(&restored));
    ground.open(&closed);
}
