//! moto: an S3 server in Python that keeps create-only on PUT and on completion, and checks no keys.

use std::process::Command;

use crate::s3::{S3Place, make_bucket};
use crate::{Missing, Process, find_program, free_port, wait_until_answers};

const INSTALL: &str = "pip install 'moto[s3]' flask flask-cors";

/// A running moto.
#[derive(Debug)]
pub struct Moto {
    place: S3Place,
    _process: Process,
}

impl Moto {
    /// Starts one, with a bucket.
    pub fn start() -> Result<Self, Missing> {
        let lacks = |what: &str| Missing { server: "moto", what: what.to_owned(), install: INSTALL };
        let program = find_program("moto_server").ok_or_else(|| lacks("no moto_server"))?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let process = Process::start(&command).map_err(|error| lacks(&format!("does not start: {error}")))?;
        if !wait_until_answers(port) {
            return Err(lacks("does not answer"));
        }
        let place = S3Place {
            endpoint: format!("http://127.0.0.1:{port}"),
            region: "us-east-1".to_owned(),
            bucket: "packvault".to_owned(),
            access_key_id: "moto-key".to_owned(),
            secret_access_key: "moto-secret".to_owned(),
        };
        make_bucket(&place);
        Ok(Self { place, _process: process })
    }

    /// Returns where it listens.
    pub fn place(&self) -> &S3Place {
        &self.place
    }
}
