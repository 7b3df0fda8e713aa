//! Encrypted repositories for tests of the program: made for an age identity, which costs no time to open.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rusqlite::Connection;

use super::{Scratch, snapshot_files, stderr};

/// A passphrase that nothing else in a test looks like.
pub const PASSPHRASE: &str = "wombat-parliament-93";

/// Returns the path of a key of the fixtures.
pub fn identity(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/encrypted/identities");
    folder.join(name).display().to_string()
}

/// A folder with a database, `app.db`, and the program that backs it up.
pub struct Home {
    pub scratch: Scratch,
    /// Whether commands find the age identity in their environment.
    pub has_identity: bool,
}

impl Home {
    /// Makes the database, and an encrypted repository in `./repo`.
    pub fn new() -> Self {
        let home = Self::bare();
        home.done(&["init", "--repo", "./repo", "--encrypt", "--recipient", &identity("age.pub")]);
        home
    }

    /// Makes the database alone.
    pub fn bare() -> Self {
        let scratch = Scratch::new();
        let database = Connection::open(scratch.path("app.db")).unwrap();
        database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES ('first')").unwrap();
        Self { scratch, has_identity: true }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.scratch.packvault(arguments);
        command.env("PATH", "/usr/bin:/bin");
        if self.has_identity {
            command.env("PACKVAULT_IDENTITY", identity("age.txt"));
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it said on standard output.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must end so, and returns what it said on standard error.
    pub fn ends(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        stderr(&output)
    }

    /// Changes the database, backs it up, and returns the name of the snapshot.
    pub fn create(&self, repository: &str) -> String {
        let database = Connection::open(self.path("app.db")).unwrap();
        database.execute_batch("INSERT INTO t VALUES (randomblob(9000))").unwrap();
        drop(database);
        let said = self.done(&["create", "--database", "app.db", "--repo", repository, "--json"]);
        let report: serde_json::Value = serde_json::from_str(&said).unwrap();
        report["id"].as_str().unwrap().to_owned()
    }

    pub fn snapshots(&self, repository: &str) -> Vec<String> {
        snapshot_files(&self.path(repository))
    }
}
