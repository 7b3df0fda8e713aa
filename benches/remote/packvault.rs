//! packvault's commands as processes, on a repository of this machine or of a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use packvault_test_servers::SftpServer;

use super::servers::Server;
use crate::support::process::{self, Usage};

/// The measured commands, in the order they run.
pub const NAMES: [&str; 3] = ["create", "verify --all", "restore"];

/// One repository, and the program as its user has set it up.
pub struct Program<'a> {
    archive: &'a Path,
    work: PathBuf,
    jobs: u32,
    secrets: Vec<(&'static str, String)>,
}

impl<'a> Program<'a> {
    /// Sets the program up for a repository in a new folder on this machine.
    pub fn local(archive: &'a Path, work: &Path, jobs: u32) -> Result<Self> {
        let location = work.join("repository").display().to_string();
        Self::new(archive, work, jobs, &format!("location = {location:?}\n"), Vec::new())
    }

    /// Sets the program up for a repository on a server that is reached by the port.
    pub fn remote(archive: &'a Path, work: &Path, jobs: u32, server: &Server, port: u16) -> Result<Self> {
        let (settings, secrets) = match (server, server.s3()) {
            (Server::Sftp(server), _) => {
                let location = format!("sftp://{}:{port}{}/repository", server.host, server.root);
                let options = ssh_options(server);
                (format!("location = {location:?}\nssh_options = {options:?}\n"), Vec::new())
            }
            (_, Some(place)) => {
                let endpoint = format!("http://127.0.0.1:{port}");
                let bucket = &place.bucket;
                let location = format!("s3://{bucket}/repository?endpoint={endpoint}&allow_http=true");
                let secrets = vec![
                    ("AWS_ACCESS_KEY_ID", place.access_key_id.clone()),
                    ("AWS_SECRET_ACCESS_KEY", place.secret_access_key.clone()),
                    ("AWS_REGION", place.region.clone()),
                ];
                (format!("location = {location:?}\n"), secrets)
            }
            (_, None) => unreachable!("a server speaks SFTP or S3"),
        };
        Self::new(archive, work, jobs, &settings, secrets)
    }

    fn new(
        archive: &'a Path,
        work: &Path,
        jobs: u32,
        settings: &str,
        secrets: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        fs::create_dir(work).with_context(|| format!("cannot make {}", work.display()))?;
        let text = format!("[repository.measured]\n{settings}");
        fs::write(work.join("packvault.toml"), text).context("cannot write a configuration")?;
        Ok(Self { archive, work: work.to_owned(), jobs, secrets })
    }

    /// Makes the repository, which is not measured.
    pub fn init(&self) -> Result<()> {
        self.run(self.command("init")).map(drop)
    }

    /// Makes the first snapshot.
    pub fn create(&self) -> Result<Usage> {
        let mut command = self.command("create");
        command.arg(self.archive).args(["--jobs", &self.jobs.to_string()]);
        self.run(command)
    }

    /// Reads every stored byte.
    pub fn verify(&self) -> Result<Usage> {
        let mut command = self.command("verify");
        command.args(["--all", "--jobs", &self.jobs.to_string()]);
        self.run(command)
    }

    /// Restores the snapshot, without the database's own check, which has nothing to do with the line.
    pub fn restore(&self) -> Result<Usage> {
        let target = self.work.join("restored");
        let mut command = self.command("restore");
        command.arg("--target").arg(&target).args(["--jobs", &self.jobs.to_string()]);
        let usage = self.run(command.arg("--skip-integrity-check"))?;
        let database = target.join("msgvault.db");
        ensure!(database.is_file(), "restore succeeded and made no {}", database.display());
        Ok(usage)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
        command.args([verb, "--repo", "measured"]);
        // Nothing of the user's own settings, and no cache that another round has filled.
        command.env_remove("XDG_CACHE_HOME").env_remove("PACKVAULT_REPO");
        command.env("HOME", &self.work).env("PACKVAULT_CONFIG", self.work.join("packvault.toml"));
        command.envs(self.secrets.iter().cloned());
        command
    }

    fn run(&self, mut command: impl std::borrow::BorrowMut<Command>) -> Result<Usage> {
        // What earlier commands left to write is not this one's.
        rustix::fs::sync();
        process::run(command.borrow_mut(), &self.work.join("output.txt"))
    }
}

/// Returns the arguments with which ssh knows the server behind another port.
pub fn ssh_options(server: &SftpServer) -> Vec<String> {
    let mut options = server.ssh_options.clone();
    if let Some(port) = server.port {
        options.extend(["-o".to_owned(), format!("HostKeyAlias=[127.0.0.1]:{port}")]);
    }
    options
}
