//! A stand-in for msgvault's daemon: not msgvault, but a process of its own that speaks its protocol as the
//! format describes it (sections 10.2 and 10.3), with a real SQLite writer behind a real gate.
//!
//! It is this test program, started once more (see `run_if_asked`). Switches make it fail where a test wants
//! it to. It ends with the test that started it, because its standard input does.

mod gate;
mod server;
mod writer;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the test that is the stand-in's process.
const PROCESS: &str = "daemon::standin_daemon_process";
const OPTIONS: &str = "STANDIN_DAEMON_OPTIONS";

/// The key of the server, as in the archive's configuration.
pub const KEY: &str = "k3y-that-must-never-be-shown";
/// Rows that money is moved between, and what they hold together.
pub const ACCOUNTS: i64 = 200;
pub const SUM: i64 = ACCOUNTS * 1000;

/// How the stand-in behaves; the default is as msgvault does, but for a shorter wait for other work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Options {
    pub home: PathBuf,
    /// Where it fails; empty for nowhere.
    pub fail: String,
    /// Where it redirects to, if `fail` says so.
    pub port: u16,
    pub watchdog_milliseconds: u64,
}

/// A running stand-in.
pub struct Standin {
    child: Child,
    home: PathBuf,
    port: u16,
}

/// Makes an archive with money in it, and a key in its configuration.
pub fn make_home(home: &Path) {
    packvault_sample::make(home, &super::archives::tiny()).unwrap();
    fs::write(home.join("config.toml"), format!("[server]\napi_key = '{KEY}'\n")).unwrap();
    let database = Connection::open(home.join("msgvault.db")).unwrap();
    let statements = "PRAGMA journal_mode = WAL;
        CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL, padding BLOB NOT NULL);
        WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)
        INSERT INTO accounts SELECT i, 1000, randomblob(400) FROM n;";
    database.execute_batch(statements).unwrap();
}

impl Standin {
    pub fn start(home: &Path) -> Self {
        Self::failing(home, "")
    }

    pub fn failing(home: &Path, fail: &str) -> Self {
        Self::with(Options {
            home: home.to_owned(),
            fail: fail.to_owned(),
            port: 0,
            watchdog_milliseconds: 60_000,
        })
    }

    pub fn with(options: Options) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", PROCESS, "--nocapture"]);
        command.env(OPTIONS, serde_json::to_string(&options).unwrap());
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let record = server::record_path(&options.home, child.id());
        while !record.exists() {
            assert_eq!(child.try_wait().unwrap(), None, "the stand-in ended before it listened");
            std::thread::sleep(Duration::from_millis(5));
        }
        let record: Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let port = record["metadata"]["port"].as_str().unwrap().parse().unwrap();
        Self { child, home: options.home, port }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn record(&self) -> PathBuf {
        server::record_path(&self.home, self.pid())
    }

    /// Returns what the stand-in counted so far.
    pub fn state(&self) -> Value {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"GET /standin/state HTTP/1.1\r\nHost: standin\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    pub fn count(&self, name: &str) -> u64 {
        self.state()[name].as_u64().unwrap()
    }

    /// Waits until the state is as the test wants it; the test ends with the patience of its runner.
    pub fn wait_until(&self, wanted: impl Fn(&Value) -> bool) {
        while !wanted(&self.state()) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sees the writer at work: that it has gone on is what a gate that was let go shows.
    pub fn assert_writes(&self) {
        let before = self.count("transfers");
        self.wait_until(|state| state["transfers"].as_u64().unwrap() > before);
    }

    /// Ends the process at once; its record stays, as after a crash.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Becomes the stand-in if this process was started as one; otherwise there is nothing to do.
pub fn run_if_asked() {
    let Ok(text) = std::env::var(OPTIONS) else { return };
    let options: Options = serde_json::from_str(&text).unwrap();
    std::thread::spawn(|| {
        // The test that started this process holds the other end.
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    server::run(options);
}
