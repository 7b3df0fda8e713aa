//! A place for a repository: a folder on this machine or on a server, with a line to it that can be made bad,
//! and the program set up for it as its user would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use futures::TryStreamExt;
use packvault::Location;
use packvault::location::{Opening, Purpose, S3Options, S3Secrets, SftpOptions};
use packvault_storage::{Key, Prefix, Storage};
use packvault_test_servers::openssh::{self, OpensshOptions};
use packvault_test_servers::{
    Missing, Moto, Proxy, RcloneS3, Rgw, S3Place, SftpServer, missing, proftpd, rclone_sftp,
};
use tokio::runtime::Runtime;

use crate::schema::{DATABASE, MEDIA};

/// The name of the repository in the program's configuration, and of its folder on a server.
const REPOSITORY: &str = "soak";

/// A kind of place
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A folder on this machine
    Local,
    /// Ceph's object gateway
    Rgw,
    /// moto, an S3 server in Python
    Moto,
    /// `rclone serve s3`, which ignores conditions
    RcloneS3,
    /// OpenSSH
    Openssh,
    /// ProFTPD with its extensions
    Proftpd,
    /// ProFTPD without any: a plain NAS
    PlainProftpd,
    /// `rclone serve sftp`, which overwrites on rename
    RcloneSftp,
}

impl Kind {
    /// Returns the name, as it is given on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Where a server is reached; it ends with this value.
enum Server {
    None,
    Rgw(Arc<Rgw>),
    Moto(Moto),
    RcloneS3(RcloneS3),
    Sftp(SftpServer),
}

/// A place with an empty folder for a repository.
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// The line to the server; none to a folder on this machine.
    pub line: Option<Proxy>,
    server: Server,
    home: PathBuf,
    program: PathBuf,
    location: String,
}

impl Place {
    /// Starts the server; `None` where it is missing, which was then said aloud. What is kept on this machine
    /// lies in the folder `work`.
    pub fn start(kind: Kind, work: &Path, program: &Path, application: &Path) -> Result<Option<Self>> {
        let Some(server) = start_server(kind) else { return Ok(None) };
        let home = work.join(kind.name());
        fs::create_dir_all(&home).with_context(|| format!("cannot make {}", home.display()))?;
        let line = match server.port() {
            Some(port) => Some(Proxy::start(port, Duration::ZERO).context("cannot start a line")?),
            None => None,
        };
        let port = line.as_ref().map_or(0, Proxy::port);
        let location = server.location(&home, port);
        let place = Self { kind, line, server, home, program: program.to_owned(), location };
        place.configure(application)?;
        Ok(Some(place))
    }

    fn configure(&self, application: &Path) -> Result<()> {
        let mut text = format!("[repository.{REPOSITORY}]\nlocation = {:?}\n", self.location);
        if let Server::Sftp(server) = &self.server {
            text.push_str(&format!("ssh_options = {:?}\n", ssh_options(server)));
        }
        text.push_str(&format!(
            "[archive.application]\nprofile = \"sqlite\"\nhome = {application:?}\n\
             database = {DATABASE:?}\nfiles = [\"{MEDIA}/**\"]\n\
             [archive.application.stats]\ntransactions = \"SELECT transactions FROM counter\"\n\
             items = \"SELECT count(*) FROM items\"\nattachments = \"SELECT count(*) FROM attachments\"\n"
        ));
        fs::write(self.home.join("packvault.toml"), text).context("cannot write a configuration")
    }

    /// Returns the program with a command on this repository.
    pub fn packvault(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(["--repo", REPOSITORY, "--progress", "none"]);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", &self.home).env("TMPDIR", &self.home).current_dir(&self.home);
        command.env("PACKVAULT_CONFIG", self.home.join("packvault.toml")).stdin(Stdio::null());
        if let Some(place) = self.server.s3() {
            command.env("AWS_ACCESS_KEY_ID", &place.access_key_id);
            command.env("AWS_SECRET_ACCESS_KEY", &place.secret_access_key);
            command.env("AWS_REGION", &place.region);
        }
        command
    }

    /// Tells whether HTTP is spoken on the line.
    pub fn is_s3(&self) -> bool {
        self.server.s3().is_some()
    }

    /// Returns a path for what a restore brings back.
    pub fn target(&self) -> PathBuf {
        self.home.join("restored")
    }

    /// Returns the files into which the program's output goes.
    pub fn outputs(&self) -> [PathBuf; 2] {
        ["output", "errors"].map(|name| self.home.join(name))
    }

    /// Returns the folder of the repository on this machine, where it is on a disk.
    pub fn folder(&self) -> Option<PathBuf> {
        match &self.server {
            Server::None => Some(PathBuf::from(&self.location)),
            Server::Sftp(server) => server.folder.as_ref().map(|folder| folder.join(REPOSITORY)),
            _ => None,
        }
    }

    /// Returns the names of what no operation may leave behind: locks, uploads, and whatever belongs to no
    /// repository.
    pub fn remains(&self, runtime: &Runtime) -> Result<Vec<String>> {
        let storage = self.storage(runtime)?;
        let has_renames = storage.guarantees().rename;
        let names = runtime.block_on(names(storage.as_ref()))?;
        let remains = names.into_iter().filter(|name| match name.split_once('/') {
            None => name != "config.toml",
            // A claim of a dead process is nobody's lock, and goes once it is old.
            Some(("locks", file)) => !file.starts_with("releasing-"),
            // On stores without renames unfinished uploads stay until they are as old as a stale lock.
            Some(("staging", _)) => has_renames,
            Some((folder, _)) => !["snapshots", "packs", "indexes", "keys"].contains(&folder),
        });
        Ok(remains.collect())
    }

    /// Copies everything that lies there into a folder, for a look at what has gone wrong.
    pub fn copy_to(&self, folder: &Path, runtime: &Runtime) -> Result<()> {
        let storage = self.storage(runtime)?;
        for name in runtime.block_on(names(storage.as_ref()))? {
            let bytes = runtime.block_on(storage.read(&Key::parse(&name)?))?;
            let path = folder.join(&name);
            fs::create_dir_all(path.parent().unwrap_or(folder))?;
            fs::write(path, bytes)?;
        }
        Ok(())
    }

    fn storage(&self, runtime: &Runtime) -> Result<Arc<dyn Storage>> {
        let mut opening = Opening::new(Purpose::Work, &self.home);
        opening.memory = Some(self.home.join("servers"));
        let mut location = Location::parse(&self.location)?;
        if let (Location::S3(located), Some(place)) = (&mut location, self.server.s3()) {
            let secrets = S3Secrets {
                access_key_id: place.access_key_id.clone(),
                secret_access_key: place.secret_access_key.clone(),
                session_token: None,
            };
            let (region, secrets) = (Some(place.region.clone()), Some(secrets));
            *located.options = S3Options { region, secrets, ..S3Options::default() };
        }
        if let (Location::Sftp(located), Server::Sftp(server)) = (&mut location, &self.server) {
            located.options = SftpOptions { ssh_options: ssh_options(server), ..SftpOptions::default() };
        }
        Ok(runtime.block_on(location.open(&opening))?.storage)
    }
}

async fn names(storage: &dyn Storage) -> Result<Vec<String>> {
    let listed: Vec<_> = storage.list(&Prefix::root()).try_collect().await.context("cannot list")?;
    let mut names: Vec<_> = listed.into_iter().map(|object| object.key.to_string()).collect();
    names.sort();
    Ok(names)
}

fn start_server(kind: Kind) -> Option<Server> {
    let started: Result<Server, Missing> = match kind {
        Kind::Local => Ok(Server::None),
        Kind::Rgw => Rgw::shared().map(Server::Rgw),
        Kind::Moto => Moto::start().map(Server::Moto),
        Kind::RcloneS3 => RcloneS3::start().map(Server::RcloneS3),
        Kind::Openssh => openssh::start(OpensshOptions::default()).map(Server::Sftp),
        Kind::Proftpd => proftpd::start(true).map(Server::Sftp),
        Kind::PlainProftpd => proftpd::start(false).map(Server::Sftp),
        Kind::RcloneSftp => rclone_sftp::start().map(Server::Sftp),
    };
    started.map_err(|lack| missing(&lack)).ok()
}

impl Server {
    fn s3(&self) -> Option<&S3Place> {
        match self {
            Self::None | Self::Sftp(_) => None,
            Self::Rgw(server) => Some(server.place()),
            Self::Moto(server) => Some(server.place()),
            Self::RcloneS3(server) => Some(server.place()),
        }
    }

    fn port(&self) -> Option<u16> {
        match self {
            Self::Sftp(server) => server.port,
            _ => self.s3()?.endpoint.rsplit(':').next()?.parse().ok(),
        }
    }

    /// Returns the location, reached through a port of loopback if there is a server.
    fn location(&self, home: &Path, port: u16) -> String {
        match (self, self.s3()) {
            (Self::Sftp(server), _) => {
                let user = server.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
                let root = server.root.trim_end_matches('/');
                format!("sftp://{user}{}:{port}{root}/{REPOSITORY}", server.host)
            }
            (_, Some(place)) => {
                let bucket = &place.bucket;
                format!("s3://{bucket}/{REPOSITORY}?endpoint=http://127.0.0.1:{port}&allow_http=true")
            }
            (_, None) => home.join("repository").display().to_string(),
        }
    }
}

/// Returns the arguments with which ssh knows the server behind another port.
fn ssh_options(server: &SftpServer) -> Vec<String> {
    let mut options = server.ssh_options.clone();
    if let Some(port) = server.port {
        options.extend(["-o".to_owned(), format!("HostKeyAlias=[127.0.0.1]:{port}")]);
    }
    options
}
