//! fake-gcs-server: an emulator of Google Cloud Storage, in Go.

use std::process::Command;

use crate::{Missing, Process, find_program, free_port, wait_until_answers};

const INSTALL: &str = "go install github.com/fsouza/fake-gcs-server@latest";

/// A running fake-gcs-server.
#[derive(Debug)]
pub struct FakeGcs {
    /// Its URL.
    pub endpoint: String,
    /// A bucket that exists.
    pub bucket: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl FakeGcs {
    /// Starts one, with a bucket.
    pub fn start() -> Result<Self, Missing> {
        let lacks = |what: &str| Missing { server: "fake-gcs", what: what.to_owned(), install: INSTALL };
        let program = find_program("fake-gcs-server").ok_or_else(|| lacks("no fake-gcs-server"))?;
        let folder = tempfile::tempdir().map_err(|error| lacks(&format!("no folder: {error}")))?;
        let bucket = "packvault".to_owned();
        // A bucket is a folder of what it is started with.
        std::fs::create_dir(folder.path().join(&bucket))
            .map_err(|error| lacks(&format!("no bucket: {error}")))?;
        let port = free_port();
        let endpoint = format!("http://127.0.0.1:{port}");
        let mut command = Command::new(program);
        command.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string()]);
        command.args(["-backend", "memory", "-external-url", &endpoint, "-public-host", "127.0.0.1"]);
        command.arg("-data").arg(folder.path());
        let process = Process::start(&command).map_err(|error| lacks(&format!("does not start: {error}")))?;
        if !wait_until_answers(port) {
            return Err(lacks("does not answer"));
        }
        Ok(Self { endpoint, bucket, _process: process, _folder: folder })
    }
}
