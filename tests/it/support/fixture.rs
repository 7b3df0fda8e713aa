//! The repositories written by the other engine, and what each must restore to.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Found, Scratch, copy_tree, tree};

/// Every fixture that is a repository.
pub const REPOSITORIES: [&str; 7] =
    ["compat", "chain", "extras", "deep", "namespaced", "portable", "auxiliary"];

pub struct Fixture {
    pub name: &'static str,
    /// A copy that the test may change.
    pub repository: PathBuf,
    pub expected: Value,
}

impl Fixture {
    /// Copies the fixture into the folder.
    pub fn copied(name: &'static str, scratch: &Scratch) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        let repository = scratch.path(name);
        copy_tree(&folder.join("repo"), &repository);
        let expected = fs::read(folder.join("expected.json")).unwrap();
        Self { name, repository, expected: serde_json::from_slice(&expected).unwrap() }
    }

    /// Returns what is expected of each snapshot, oldest first.
    pub fn snapshots(&self) -> &[Value] {
        self.expected["snapshots"].as_array().unwrap()
    }

    /// Returns the newest snapshot whose database is captured as pages.
    pub fn newest_restorable(&self) -> &Value {
        self.snapshots().iter().rev().find(|snapshot| snapshot["metadata"].is_null()).unwrap()
    }
}

pub fn id(snapshot: &Value) -> &str {
    snapshot["snapshot_id"].as_str().unwrap()
}

/// Returns the files that a restore of the snapshot must make, without folders.
pub fn restored_files(snapshot: &Value) -> BTreeMap<String, Found> {
    let files = snapshot["restored"]["files"].as_object().unwrap();
    let found = |file: &Value| Found::File {
        sha256: file["sha256"].as_str().unwrap().to_owned(),
        size: file["size"].as_u64().unwrap(),
        mode: octal(file["mode"].as_str().unwrap()),
    };
    files.iter().map(|(path, file)| (path.clone(), found(file))).collect()
}

/// Returns the folders named in the expectation, with their modes.
pub fn restored_folders(snapshot: &Value) -> BTreeMap<String, u32> {
    let folders = snapshot["restored"]["dirs"].as_array().unwrap();
    let parsed = folders.iter().map(|text| {
        let (path, mode) = text.as_str().unwrap().rsplit_once(' ').unwrap();
        (path.to_owned(), octal(mode))
    });
    parsed.collect()
}

/// Checks a restored folder against the expectation, file for file and mode for mode.
pub fn assert_restored(snapshot: &Value, target: &Path) {
    let mut found = tree(target);
    let folders: BTreeMap<String, u32> = found
        .extract_if(.., |_, found| matches!(found, Found::Folder { .. }))
        .map(|(path, found)| match found {
            Found::Folder { mode } => (path, mode),
            _ => unreachable!("only folders were taken out"),
        })
        .collect();
    assert_eq!(found, restored_files(snapshot), "{}", id(snapshot));
    for (path, mode) in restored_folders(snapshot) {
        assert_eq!(folders.get(&path), Some(&mode), "{} {path}", id(snapshot));
    }
    assert!(folders.values().all(|mode| *mode == 0o700), "{folders:?}");
}

fn octal(text: &str) -> u32 {
    u32::from_str_radix(text, 8).unwrap()
}
