//! One round on one server behind one line: up and down, by every client and by packvault.
//!
//! What was read and written is removed at the end of the round, and synced before the next: a server's
//! store and the disk hold one round, not all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::clients::{Client, Route};
use super::line::Line;
use super::packvault::{NAMES, Program};
use super::servers::{Kind, Server};
use crate::support::archive::files_below;
use crate::support::process::Usage;

/// The archive, and its packs in a repository on this machine.
pub struct Subject<'a> {
    /// The archive.
    pub archive: &'a Path,
    /// The packs.
    pub packs: Vec<PathBuf>,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Jobs of every command.
    pub jobs: u32,
}

/// What everything of one round used.
pub struct Round {
    /// Of each client.
    pub put: Vec<(&'static str, Usage)>,
    /// Of each client.
    pub get: Vec<(&'static str, Usage)>,
    /// Of packvault's commands on the server, in the order of [`NAMES`].
    pub remote: [Usage; NAMES.len()],
    /// The same on this machine.
    pub local: [Usage; NAMES.len()],
}

impl<'a> Subject<'a> {
    /// Stores the archive on this machine.
    pub fn new(archive: &'a Path, work: &Path, jobs: u32) -> Result<Self> {
        let program = Program::local(archive, work, jobs)?;
        program.init()?;
        program.create()?;
        let packs = files_below(&work.join("repository/packs"))?;
        let lengths = packs.iter().map(|pack| Ok(fs::metadata(pack)?.len()));
        let stored_bytes = lengths.sum::<std::io::Result<u64>>().context("cannot look at the packs")?;
        Ok(Self { archive, packs, stored_bytes, jobs })
    }

    /// Runs a round; `None` where there is no such server.
    pub fn measure(&self, kind: Kind, delay_millis: u64, work: &Path) -> Result<Option<Round>> {
        let Some(server) = kind.start() else { return Ok(None) };
        let line = Line::start(server.port().context("the server has no port")?, delay_millis)?;
        fs::create_dir(work).with_context(|| format!("cannot make {}", work.display()))?;
        let round = self.carry(&server, line.port, work);
        fs::remove_dir_all(work).with_context(|| format!("cannot remove {}", work.display()))?;
        drop((line, server));
        round.map(Some)
    }

    fn carry(&self, server: &Server, port: u16, work: &Path) -> Result<Round> {
        let here = Program::local(self.archive, &work.join("local"), self.jobs)?;
        let there = Program::remote(self.archive, &work.join("remote"), self.jobs, server, port)?;
        let route = Route { packs: &self.packs, server, port, work };
        let clients = Client::of(server);
        here.init()?;
        there.init()?;
        let put = each(clients, |client| client.put(&route))?;
        let (create, create_here) = (there.create()?, here.create()?);
        let get = each(clients, |client| client.get(&route))?;
        let remote = [create, there.verify()?, there.restore()?];
        let local = [create_here, here.verify()?, here.restore()?];
        Ok(Round { put, get, remote, local })
    }
}

fn each(clients: &[Client], carry: impl Fn(Client) -> Result<Usage>) -> Result<Vec<(&'static str, Usage)>> {
    clients.iter().map(|client| Ok((client.name(), carry(*client)?))).collect()
}
