//! The danger: the page of the format says something else than what lies in an encrypted repository, and nobody but
//! this program could ever read it.
//!
//! `tests/format/reader.py` was written from `docs/format.md`. It must read what was frozen and what is made today.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use packvault_test_servers::{Missing, missing};
use serde_json::Value;

use crate::support::encrypted::{Home, identity};
use crate::support::{copy_tree, names, sha256};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn identity_text() -> String {
    fs::read_to_string(identity("age.txt")).unwrap().lines().last().unwrap().to_owned()
}

/// Tells whether there is what the reader needs.
fn is_possible() -> bool {
    for (program, arguments, install) in [
        ("python3", &["-c", "import tomllib"][..], "apt-get install python3 (3.11 or later)"),
        ("zstd", &["--version"], "apt-get install zstd"),
    ] {
        let found = Command::new(program).args(arguments).output();
        if !found.is_ok_and(|output| output.status.success()) {
            missing(&Missing { server: program, what: format!("{program} cannot be run"), install });
            return false;
        }
    }
    true
}

fn run(repository: &Path, secret: [&str; 2]) -> Output {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/format/reader.py");
    Command::new("python3").arg(reader).arg(repository).args(secret).output().unwrap()
}

fn read(repository: &Path, secret: [&str; 2]) -> Value {
    let output = run(repository, secret);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_was_frozen_reads_by_the_page_of_the_format_alone() {
    if !is_possible() {
        return;
    }
    let expected = fs::read(fixture("sealed/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let found = read(&fixture("sealed/repository"), ["--key", expected["key_hex"].as_str().unwrap()]);
    let snapshots = expected["snapshots"].as_array().unwrap();
    assert_eq!(found["snapshots"].as_object().unwrap().len(), snapshots.len());
    for snapshot in snapshots {
        assert_eq!(found["snapshots"][snapshot["snapshot_id"].as_str().unwrap()], snapshot["files"]);
    }
    assert_eq!((&found["notes"], &found["attributes"]), (&1.into(), &3.into()));
    let by_identity = read(&fixture("encrypted/repository"), ["--identity", &identity_text()]);
    let by_passphrase = read(&fixture("encrypted/repository"), ["--passphrase", "open the fixture"]);
    assert_eq!(by_identity, by_passphrase);
}

#[test]
fn what_is_made_today_reads_by_the_page_of_the_format_alone() {
    if !is_possible() {
        return;
    }
    let home = Home::new();
    fs::create_dir_all(home.path("media/deep")).unwrap();
    fs::write(home.path("media/deep/empty"), "").unwrap();
    fs::write(home.path("media/photo"), "a photo, ".repeat(5000)).unwrap();
    let mut expected = BTreeMap::new();
    for sql in
        ["INSERT INTO t VALUES (randomblob(90000))", "UPDATE t SET a = 'second'", "DELETE FROM t; VACUUM"]
    {
        rusqlite::Connection::open(home.path("app.db")).unwrap().execute_batch(sql).unwrap();
        let create = ["create", "--database", "app.db", "--files=media/**", "--repo", "./repo", "--json"];
        let report: Value = serde_json::from_str(&home.done(&create)).unwrap();
        let files = ["app.db", "media/deep/empty", "media/photo"];
        let hashes = files.map(|path| (path.to_owned(), sha256(&fs::read(home.path(path)).unwrap())));
        expected.insert(report["id"].as_str().unwrap().to_owned(), BTreeMap::from(hashes));
    }
    let found = read(&home.path("repo"), ["--identity", &identity_text()]);
    assert_eq!(found["snapshots"], serde_json::to_value(&expected).unwrap());
    // It looks at what it reads: a byte that is flipped in any object but a lock ends it.
    for object in names(&home.path("repo")) {
        copy_tree(&home.path("repo"), &home.path("altered"));
        let path = home.path("altered").join(&object);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
        let output = run(&home.path("altered"), ["--identity", &identity_text()]);
        assert!(!output.status.success(), "{object} was altered, and is read");
        fs::remove_dir_all(home.path("altered")).unwrap();
    }
}
