//! Azurite: Microsoft's own emulator of Azure Blob Storage, in JavaScript.

use std::process::{Command, Stdio};

use crate::{Missing, Process, find_program, free_port, wait_until_answers};

const INSTALL: &str = "npm install -g azurite";

/// The account that every Azurite has, and its key, which Microsoft has published.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container by a request that is signed as Azure wants it: Azurite needs Node, so Node is there.
const MAKE_CONTAINER: &str = r#"
const [endpoint, account, key, container] = process.argv.slice(1);
const date = new Date().toUTCString(), version = '2022-11-02';
const text = `PUT${'\n'.repeat(12)}x-ms-date:${date}\nx-ms-version:${version}\n` +
    `/${account}/${account}/${container}\nrestype:container`;
const digest = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(text).digest('base64');
const headers = { 'x-ms-date': date, 'x-ms-version': version, Authorization: `SharedKey ${account}:${digest}` };
fetch(`${endpoint}/${container}?restype=container`, { method: 'PUT', headers })
    .then((answer) => process.exit(answer.status === 201 ? 0 : 1), () => process.exit(1));
"#;

/// A running Azurite.
#[derive(Debug)]
pub struct Azurite {
    /// Its URL, with the account.
    pub endpoint: String,
    /// The account.
    pub account: String,
    /// Its key.
    pub key: String,
    /// A container that exists.
    pub container: String,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Azurite {
    /// Starts one, with a container.
    pub fn start() -> Result<Self, Missing> {
        let lacks = |what: &str| Missing { server: "azurite", what: what.to_owned(), install: INSTALL };
        let program = find_program("azurite-blob").ok_or_else(|| lacks("no azurite-blob"))?;
        let node = find_program("node").ok_or_else(|| lacks("no node"))?;
        let folder = tempfile::tempdir().map_err(|error| lacks(&format!("no folder: {error}")))?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--silent"]);
        command.args(["--disableTelemetry", "--skipApiVersionCheck", "--location"]).arg(folder.path());
        let process = Process::start(&command).map_err(|error| lacks(&format!("does not start: {error}")))?;
        if !wait_until_answers(port) {
            return Err(lacks("does not answer"));
        }
        let endpoint = format!("http://127.0.0.1:{port}/{ACCOUNT}");
        let container = "packvault".to_owned();
        let mut make = Command::new(node);
        make.args(["-e", MAKE_CONTAINER, &endpoint, ACCOUNT, KEY, &container]);
        make.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !make.status().is_ok_and(|status| status.success()) {
            return Err(lacks("makes no container"));
        }
        Ok(Self {
            endpoint,
            account: ACCOUNT.to_owned(),
            key: KEY.to_owned(),
            container,
            _process: process,
            _folder: folder,
        })
    }
}
