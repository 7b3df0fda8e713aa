//! A server in a container: on a Docker engine of this machine, reached on loopback alone, and removed with the
//! value that stands for it.
//!
//! The engine outlives the test, so removal is not left to destructors, which do not run for a static or when
//! the test is killed: a process that waits for the end of the test does it, with the program `docker`.
//! Whether a server is ready is found out by talking to it, never by what one image happens to log.
//! What speaks to the engine comes in with the feature `containers`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::rand::GetRandomFlags;

#[cfg(feature = "containers")]
use crate::engine;
use crate::require::say;
use crate::{Missing, Process, find_program};

const WITH_CONTAINERS: &str = "cargo test --workspace --features packvault-test-servers/containers";
const INSTALL: &str = "apt-get install docker.io, and let this user speak to it";
const PULL: &str = "docker pull; or name another image, see docs/testing.md";

/// Where an engine listens, unless `DOCKER_HOST` says otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// How long a started server may take to answer, and each single try.
const READY_MAX: Duration = Duration::from_secs(60);
const TRY_MAX: Duration = Duration::from_secs(5);

/// How much of an answer tells that a server is ready.
const ANSWER_BYTES: usize = 12;

/// What is to run.
#[cfg_attr(not(feature = "containers"), allow(dead_code, reason = "nothing starts it"))]
pub(crate) struct Image {
    /// The name `PACKVAULT_REQUIRE` knows the server by.
    pub(crate) server: &'static str,
    /// The image, with its tag.
    pub(crate) name: String,
    /// What follows the image's entry point; its own command if empty.
    pub(crate) command: Vec<String>,
    /// Its environment.
    pub(crate) environment: Vec<(String, String)>,
    /// The port on which it listens in there.
    pub(crate) port: u16,
}

/// A running container.
#[derive(Debug)]
pub(crate) struct Container {
    /// The port of loopback on which it is reached.
    pub(crate) port: u16,
    /// Removes it in the end.
    pub(crate) process: Process,
}

impl Image {
    /// Starts a container, and waits until `is_ready` says so of the port on which it is reached.
    pub(crate) fn start(&self, is_ready: impl Fn(u16) -> bool) -> Result<Container, Missing> {
        let lacks = |what: String, install| Missing { server: self.server, what, install };
        if !cfg!(feature = "containers") {
            return Err(lacks("built without containers".to_owned(), WITH_CONTAINERS));
        }
        let docker = find_program("docker").ok_or_else(|| lacks("no program docker".to_owned(), INSTALL))?;
        if !has_engine(&docker) {
            return Err(lacks("no Docker engine answers".to_owned(), INSTALL));
        }
        let name = format!("packvault-{}-{}", self.server, unique());
        let mut remove = docker_command(&docker);
        remove.args(["rm", "--force", "--volumes", &name]);
        let process = Process::start_at_the_end(&remove).expect("a shell can be started");
        let (running, port) = engine::run(self, &name)
            .map_err(|error| lacks(format!("no container of {}: {error}", self.name), PULL))?;
        say(&format!("started {} in a container: {}, on port {port}\n", self.server, self.name));
        let begun = Instant::now();
        while !is_ready(port) {
            let may_come = begun.elapsed() < READY_MAX && engine::is_running(running);
            assert!(may_come, "{} does not answer: {}", self.name, engine::last_words(running));
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Container { port, process })
    }
}

/// Stands where nothing is built in that could speak to an engine.
#[cfg(not(feature = "containers"))]
mod engine {
    #[derive(Clone, Copy)]
    pub(super) struct Running;

    pub(super) fn run(_: &super::Image, _: &str) -> Result<(Running, u16), &'static str> {
        Err("built without containers")
    }

    pub(super) fn is_running(_: Running) -> bool {
        false
    }

    pub(super) fn last_words(_: Running) -> String {
        String::new()
    }
}

fn has_engine(docker: &Path) -> bool {
    let mut command = docker_command(docker);
    command.args(["version", "--format", "{{.Server.Version}}"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Returns the program, for the engine that testcontainers finds: it knows nothing of docker's contexts.
fn docker_command(docker: &Path) -> Command {
    let mut command = Command::new(docker);
    if std::env::var_os("DOCKER_HOST").is_none() && Path::new(SOCKET).exists() {
        command.env("DOCKER_HOST", format!("unix://{SOCKET}"));
    }
    command
}

fn unique() -> String {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()).expect("Linux has random bytes");
    hex::encode(bytes)
}

/// Returns the variable's value, or what holds without one.
pub(crate) fn variable_or(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// Connects to the port, says something, and returns the first bytes of the answer. An engine may accept
/// connections for a server that does not listen yet, so a connection alone is none.
pub(crate) fn answer(port: u16, said: &str) -> Option<[u8; ANSWER_BYTES]> {
    let mut line = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    line.set_read_timeout(Some(TRY_MAX)).ok()?;
    line.write_all(said.as_bytes()).ok()?;
    let mut answer = [0; ANSWER_BYTES];
    line.read_exact(&mut answer).ok()?;
    Some(answer)
}
