//! What the tests of whole operations share: a folder of their own, the program without the user's settings,
//! the operations as one call each, and what a folder holds in a form that two can be compared in.

pub mod anatomy;
pub mod archives;
pub mod backends;
pub mod crowd;
pub mod encrypted;
pub mod fixture;
pub mod forge;
pub mod hostile;
pub mod line;
pub mod memory_repo;
pub mod operations;
pub mod scenes;
pub mod server_grounds;
pub mod small_disk;
pub mod source;
pub mod standin_daemon;
pub mod traced;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use packvault::format::BlobId;
use serde_json::Value;
use tempfile::TempDir;

/// A temporary folder that is also the home of the programs started in it.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the program, with this folder as everything it could find the user's settings in.
    pub fn packvault(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
        command
            .env_clear()
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .env("PACKVAULT_CONFIG", "/dev/null")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.packvault(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.packvault(arguments).arg("--json").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Something in a folder: what a copy must have in common with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    Folder { mode: u32 },
    File { sha256: String, size: u64, mode: u32 },
    Link { to: PathBuf },
    Special,
}

/// Returns everything below the folder by its path; the folder itself is `.`.
pub fn tree(folder: &Path) -> BTreeMap<String, Found> {
    let mut found = BTreeMap::new();
    found.insert(".".to_owned(), Found::Folder { mode: mode(folder) });
    add_below(folder, "", &mut found);
    found
}

/// Returns the files below the folder, without folders and modes: path and SHA-256.
pub fn contents(folder: &Path) -> BTreeMap<String, String> {
    let files = tree(folder).into_iter().filter_map(|(path, found)| match found {
        Found::File { sha256, .. } => Some((path, sha256)),
        _ => None,
    });
    files.collect()
}

fn add_below(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Found>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let (path, relative) = (entry.path(), format!("{prefix}{name}"));
        let kind = entry.file_type().unwrap();
        let what = if kind.is_dir() {
            add_below(&path, &format!("{relative}/"), found);
            Found::Folder { mode: mode(&path) }
        } else if kind.is_symlink() {
            Found::Link { to: fs::read_link(&path).unwrap() }
        } else if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
            Found::Special
        } else {
            let bytes = fs::read(&path).unwrap();
            Found::File { sha256: sha256(&bytes), size: bytes.len() as u64, mode: mode(&path) }
        };
        found.insert(relative, what);
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    BlobId::of(bytes).to_string()
}

pub fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Copies a folder, without the files that keep empty folders in version control.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else if entry.file_name() != ".gitkeep" {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Returns the file names below a folder of a repository, sorted; none if it is missing.
pub fn names(folder: &Path) -> Vec<String> {
    if !folder.exists() {
        return Vec::new();
    }
    tree(folder)
        .into_iter()
        .filter(|(_, found)| !matches!(found, Found::Folder { .. }))
        .map(|(n, _)| n)
        .collect()
}

/// Checks that no operation is under way or was left half done in the repository.
pub fn assert_no_remains(repository: &Path) {
    for folder in ["locks", "staging"] {
        assert_eq!(names(&repository.join(folder)), Vec::<String>::new(), "{folder} must be empty");
    }
}

/// Returns the names of the manifests; what lies beside them is no snapshot.
pub fn snapshot_files(repository: &Path) -> Vec<String> {
    let mut names = names(&repository.join("snapshots"));
    names.retain(|name| name.ends_with(".mvmanifest"));
    names
}

/// Returns the same command with every signal as it is by default, whatever whoever runs the tests ignores.
pub fn hearing_every_signal(command: &Command) -> Command {
    let mut heard = Command::new("/usr/bin/env");
    heard.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    heard.arg("--default-signal").arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        heard.current_dir(folder);
    }
    heard
}

/// Copies the program to another place.
pub fn copy_program(to: &Path) {
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_packvault")).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Writes a script that can be run.
///
/// Another process writes it, and [`copy_program`] does so too: whatever another test starts just then would
/// inherit a file that this process has open for writing, and until it lets go nobody could run it.
pub fn write_program(path: &Path, text: &str) {
    let script = "printf %s \"$1\" > \"$0\" && chmod 755 \"$0\"";
    let written = Command::new("/bin/sh").args(["-c", script]).arg(path).arg(text).status().unwrap();
    assert!(written.success());
}
