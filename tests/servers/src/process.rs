//! A server process: started, waited for, ended.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to answer.
const START_MAX: Duration = Duration::from_secs(60);

/// Starts a program, and kills it and all that it has started when standard input ends: it does so too when
/// the test is killed, or when it keeps the value in a static, which nobody drops.
const GUARD: &str = r#""$@" & read -r _; kill -KILL 0"#;

/// Runs a program when standard input ends.
const AT_THE_END: &str = r#"read -r _; exec "$@""#;

/// A program that ends with this value, or with the test.
#[derive(Debug)]
pub struct Process {
    guard: Child,
}

impl Process {
    /// Starts the command with nothing on its standard streams.
    pub fn start(command: &Command) -> std::io::Result<Self> {
        Self::guarded(GUARD, command)
    }

    /// Runs the command once this value, or the test, has ended.
    pub(crate) fn start_at_the_end(command: &Command) -> std::io::Result<Self> {
        Self::guarded(AT_THE_END, command)
    }

    fn guarded(guard: &str, command: &Command) -> std::io::Result<Self> {
        let mut guarded = Command::new("/bin/sh");
        guarded.args(["-c", guard, "guard"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(name, value),
                None => guarded.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            guarded.current_dir(folder);
        }
        // A group of its own, which is what the guard kills.
        guarded.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Ok(Self { guard: guarded.spawn()? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        // A guard that cannot be waited for has ended.
        let _ = self.guard.wait();
    }
}

/// Returns a port of loopback on which nothing listens just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    listener.local_addr().expect("a bound listener has an address").port()
}

/// Waits until something listens on the port of loopback; tells whether it did in time.
pub fn wait_until_answers(port: u16) -> bool {
    let begun = Instant::now();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    while begun.elapsed() < START_MAX {
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
