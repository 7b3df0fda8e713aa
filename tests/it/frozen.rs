//! The danger: a later version no longer opens what this one has encrypted, and whoever needs his backup then cannot go
//! back to the old program.
//!
//! `tests/fixtures/encrypted` was made once and is never edited: a repository with one way in of each kind.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use crate::support::encrypted::{Home, identity};
use crate::support::{copy_tree, sha256};

/// The passphrase of the fixture, and that of its SSH key.
const PASSPHRASE: &str = "open the fixture";
/// What the one row of the one table says.
const ROW: &str = "what was stored in 2026";

fn repository() -> Home {
    let mut home = Home::bare();
    home.has_identity = false;
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encrypted");
    copy_tree(&fixture.join("repository"), &home.path("repo"));
    fs::write(home.path("passphrase"), PASSPHRASE).unwrap();
    fs::copy(fixture.join("page.txt"), home.path("page.txt")).unwrap();
    home
}

fn opens(secret: [&str; 2], way: &str) {
    let home = repository();
    let with = |arguments: &[&str]| -> String {
        let arguments: Vec<&str> =
            arguments.iter().copied().chain(["--repo", "./repo"]).chain(secret).collect();
        home.done(&arguments)
    };
    assert_eq!(with(&["key", "test"]), format!("{way} opens the repository\n"));
    with(&["verify", "--all"]);
    with(&["restore", "--target", "out"]);
    let restored = Connection::open(home.path("out/app.db")).unwrap();
    let row: String = restored.query_row("SELECT a FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(row, ROW);
}

#[test]
fn a_passphrase_of_an_earlier_version_opens() {
    opens(["--passphrase-file", "passphrase"], "passphrase (passphrase)");
}

#[test]
fn an_age_identity_of_an_earlier_version_opens() {
    opens(["--identity", &identity("age.txt")], "x25519 (x25519)");
}

#[test]
fn an_ed25519_key_of_an_earlier_version_opens() {
    opens(["--identity", &identity("ed25519")], "ssh-ed25519 (ssh-ed25519)");
}

#[test]
fn an_rsa_key_of_an_earlier_version_opens() {
    opens(["--identity", &identity("rsa")], "ssh-rsa (ssh-rsa)");
}

#[test]
fn a_page_of_an_earlier_version_opens() {
    opens(["--identity", "page.txt"], "the recovery key");
}

#[test]
fn the_fixture_is_what_it_was() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encrypted");
    let sums = fs::read_to_string(folder.join("SHA256SUMS")).unwrap();
    let mut seen = 0;
    for line in sums.lines() {
        let (sum, path) = line.split_once("  ").unwrap();
        assert_eq!(sha256(&fs::read(folder.join(path)).unwrap()), sum, "{path}");
        seen += 1;
    }
    assert!(seen > 10, "only {seen} files are named");
}
