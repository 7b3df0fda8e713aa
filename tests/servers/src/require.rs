//! Which servers must be there, and what is said where they are not.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// The servers a run demands, by name and separated by commas.
const REQUIRE: &str = "PACKVAULT_REQUIRE";

/// Servers that `install` leaves alone: a Docker engine, Node and Go are more than a test should bring along.
const NOT_INSTALLED: [&str; 4] = ["azurite", "fake-gcs", "minio", "openssh-container"];

/// Folders in which servers lie that are not on every user's path; the last is where `install` puts them.
const FOLDERS: [&str; 4] = [
    "/usr/sbin",
    "/usr/local/sbin",
    "/sbin",
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools/servers/bin"),
];

/// A server that cannot be started here, and how to change that.
#[derive(Debug, Clone)]
pub struct Missing {
    /// The name `PACKVAULT_REQUIRE` knows it by.
    pub server: &'static str,
    /// What is not there.
    pub what: String,
    /// The command that installs it, or what else helps.
    pub install: &'static str,
}

/// Tells whether the run demands the server.
pub fn is_required(server: &str) -> bool {
    let required = std::env::var(REQUIRE).unwrap_or_default();
    required.split(',').any(|name| name.trim() == server)
}

/// What was said to be missing, so that a suite of many tests says it once.
static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Says aloud that tests do not run, or fails the test where the server is required.
pub fn missing(missing: &Missing) {
    let Missing { server, what, install } = missing;
    let text = format!("{server}: {what}; to have it: {install}");
    assert!(!is_required(server), "{REQUIRE} demands {text}");
    let all = if NOT_INSTALLED.contains(server) {
        ""
    } else {
        " (or all servers of the suites: tests/servers/install)"
    };
    let notice = format!("NOT RUN, {text}{all}\n");
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&notice) {
        say(&notice);
        said.push(notice);
    }
}

/// Says something straight to the terminal: the test runner keeps what a passing test prints to itself.
pub(crate) fn say(line: &str) {
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}

/// Returns where a program lies.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}
