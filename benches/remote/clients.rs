//! Ordinary clients that carry the same packs as they are: what packvault is compared with.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use packvault_test_servers::{S3Place, SftpServer};

use super::packvault::ssh_options;
use super::servers::Server;
use crate::support::process::{self, Usage};

/// Files that each client carries at once.
const AT_ONCE: usize = 4;

/// A client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Several `sftp`, with a batch each.
    Sftp,
    /// `rclone copy`, a stream for each file.
    Rclone,
    /// `rclone copy`, several streams for each file.
    RcloneParts,
}

/// The packs to carry, and the two ends.
pub struct Route<'a> {
    /// The packs of a local repository.
    pub packs: &'a [PathBuf],
    /// Where they go.
    pub server: &'a Server,
    /// The port by which the server is reached.
    pub port: u16,
    /// A folder of the round.
    pub work: &'a Path,
}

impl Client {
    /// Returns the clients for a server.
    pub fn of(server: &Server) -> &'static [Self] {
        match server {
            Server::Sftp(_) => &[Self::Sftp, Self::Rclone],
            _ => &[Self::Rclone, Self::RcloneParts],
        }
    }

    /// Returns the name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sftp => "4 x sftp",
            Self::Rclone => "rclone, 4 files",
            Self::RcloneParts => "rclone, 4 x 4 parts",
        }
    }

    /// Sends the packs to a folder of the client's own.
    pub fn put(self, route: &Route) -> Result<Usage> {
        let (from, to) = (route.work.join("packs"), self.folder(route));
        if !from.exists() {
            link_packs(route.packs, &from)?;
        }
        let copy = match (self, route.server) {
            (Self::Sftp, Server::Sftp(server)) => {
                fs::create_dir(&to).context("cannot make a folder on the server")?;
                self.sftp(route, server, |name| format!("put {}/{name} {to}/{name}", from.display()))?
            }
            _ => vec![self.rclone(route, &from.display().to_string(), &remote(route, &to))],
        };
        run(copy, route)
    }

    /// Fetches the packs that were sent.
    pub fn get(self, route: &Route) -> Result<Usage> {
        let (from, to) = (self.folder(route), route.work.join(format!("fetched-{self:?}")));
        fs::create_dir(&to).with_context(|| format!("cannot make {}", to.display()))?;
        let copy = match (self, route.server) {
            (Self::Sftp, Server::Sftp(server)) => {
                self.sftp(route, server, |name| format!("get {from}/{name} {}/{name}", to.display()))?
            }
            _ => vec![self.rclone(route, &remote(route, &from), &to.display().to_string())],
        };
        let usage = run(copy, route)?;
        let count = fs::read_dir(&to).context("cannot look at what was fetched")?.count();
        anyhow::ensure!(count == route.packs.len(), "{} fetched {count} packs", self.name());
        Ok(usage)
    }

    /// Returns where on the server the client's packs lie.
    fn folder(self, route: &Route) -> String {
        match route.server {
            Server::Sftp(server) => format!("{}/{self:?}", server.root),
            server => format!("{}/{self:?}", server.s3().map_or("", |place| &place.bucket)),
        }
    }

    fn sftp(
        self,
        route: &Route,
        server: &SftpServer,
        order: impl Fn(&str) -> String,
    ) -> Result<Vec<Command>> {
        let mut batches = vec![String::new(); AT_ONCE.min(route.packs.len())];
        let count = batches.len();
        for (place, pack) in route.packs.iter().enumerate() {
            batches[place % count].push_str(&(order(&name(pack)) + "\n"));
        }
        let command = |(number, batch): (usize, &String)| {
            let file = route.work.join(format!("batch-{number}"));
            fs::write(&file, batch).context("cannot write a batch")?;
            let mut command = Command::new("sftp");
            command.arg("-q").args(ssh_options(server)).args(["-P", &route.port.to_string()]);
            command.arg("-b").arg(file).arg(&server.host);
            Ok(command)
        };
        batches.iter().enumerate().map(command).collect()
    }

    fn rclone(self, route: &Route, from: &str, to: &str) -> Command {
        let mut command = Command::new("rclone");
        command.args(["copy", from, to, "--transfers", &AT_ONCE.to_string()]);
        let streams: &[&str] = match self {
            Self::RcloneParts => &["--multi-thread-cutoff=8M", "--multi-thread-streams=4"],
            _ => &["--multi-thread-streams=0"],
        };
        command.args(streams).env("RCLONE_CONFIG", "/dev/null");
        match (route.server, route.server.s3()) {
            (Server::Sftp(server), _) => {
                // Without it, it asks the server's shell for digests, which costs time.
                command.args(["--sftp-disable-hashcheck", "--sftp-shell-type=none"]);
                command.env("RCLONE_SFTP_HOST", &server.host);
                command.env("RCLONE_SFTP_PORT", route.port.to_string());
                command.env("RCLONE_SFTP_KEY_FILE", key_file(server));
            }
            (_, Some(place)) => reach_s3(&mut command, place, route.port),
            (_, None) => {}
        }
        command
    }
}

fn reach_s3(command: &mut Command, place: &S3Place, port: u16) {
    command.arg("--s3-no-check-bucket");
    command.env("RCLONE_S3_PROVIDER", "Other");
    command.env("RCLONE_S3_ENDPOINT", format!("http://127.0.0.1:{port}"));
    command.env("RCLONE_S3_REGION", &place.region);
    command.env("RCLONE_S3_ACCESS_KEY_ID", &place.access_key_id);
    command.env("RCLONE_S3_SECRET_ACCESS_KEY", &place.secret_access_key);
}

/// Returns the folder as rclone names it.
fn remote(route: &Route, folder: &str) -> String {
    let backend = if matches!(route.server, Server::Sftp(_)) { "sftp" } else { "s3" };
    format!(":{backend}:{folder}")
}

/// Returns the user's key out of ssh's arguments.
fn key_file(server: &SftpServer) -> &str {
    let options = &server.ssh_options;
    let place = options.iter().position(|option| option == "-i");
    place.and_then(|place| options.get(place + 1)).map_or("", String::as_str)
}

fn run(mut commands: Vec<Command>, route: &Route) -> Result<Usage> {
    rustix::fs::sync();
    process::run_together(&mut commands, &route.work.join("client.txt"))
}

/// Puts the packs, which lie in many folders, into one.
fn link_packs(packs: &[PathBuf], folder: &Path) -> Result<()> {
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for pack in packs {
        fs::hard_link(pack, folder.join(name(pack))).context("cannot link a pack")?;
    }
    Ok(())
}

fn name(pack: &Path) -> String {
    pack.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
