//! The line to a server, slowed down by a process of its own: its memory and its waiting are not the
//! benchmark's, of which every measured command starts with a copy.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use packvault_test_servers::Proxy;

/// A line that is up as long as this value lives.
pub struct Line {
    /// The port that stands for the server's.
    pub port: u16,
    process: Child,
}

impl Line {
    /// Starts a line to a port of loopback that adds this much to every round trip.
    pub fn start(target: u16, delay_millis: u64) -> Result<Self> {
        let this = std::env::current_exe().context("cannot find the benchmark itself")?;
        let mut process = Command::new(this)
            .args(["--line-to", &target.to_string(), "--delays", &delay_millis.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a line")?;
        let said = process.stdout.take().context("the line has no voice")?;
        let mut port = String::new();
        BufReader::new(said).read_line(&mut port).context("cannot hear the line")?;
        let port = port.trim().parse().context("the line tells no port")?;
        Ok(Self { port, process })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        // One that cannot be waited for has ended.
        let _ = self.process.wait();
    }
}

/// Is a line, until standard input ends.
pub fn serve(target: u16, delay_millis: u64) -> Result<()> {
    let proxy = Proxy::start(target, Duration::from_millis(delay_millis)).context("cannot listen")?;
    println!("{}", proxy.port());
    std::io::stdin().read_to_end(&mut Vec::new()).context("cannot wait for the end")?;
    Ok(())
}
