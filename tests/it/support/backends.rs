//! Every kind of place a repository can lie in, each on its real server, for suites that must hold on all of
//! them.
//!
//! A server is started once, by whoever asks first, and ends with the test process. A [`Place`] is a fresh,
//! empty folder on it, reached in three ways: by the program with a configuration and keys of its own, as the
//! storage that production has, and through another port, so that a bad line can be put in between.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};

use futures::TryStreamExt;
use packvault::Location;
use packvault::location::{Opening, Purpose, S3Options, S3Secrets, SftpOptions};
use packvault_storage::{Key, MemoryStorage, Prefix, Storage};
use packvault_test_servers::openssh::OpensshOptions;
use packvault_test_servers::{
    Minio, Missing, Moto, RcloneS3, Rgw, S3Place, SftpServer, missing, openssh, openssh_container, own_s3,
    proftpd, rclone_sftp,
};

use crate::support::operations::block_on;
use crate::support::{Scratch, stderr};

/// A kind of place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Memory of this process; the program cannot reach it.
    Memory,
    /// A folder on this machine.
    Local,
    /// Ceph's object gateway.
    Rgw,
    /// MinIO, in a container.
    Minio,
    /// moto.
    Moto,
    /// `rclone serve s3`, which ignores conditions.
    RcloneS3,
    /// The S3 server that the environment names.
    OwnS3,
    /// OpenSSH.
    Openssh,
    /// OpenSSH, in a container.
    OpensshContainer,
    /// ProFTPD with its extensions.
    Proftpd,
    /// ProFTPD without any: a plain NAS.
    PlainProftpd,
    /// `rclone serve sftp`, which overwrites on rename.
    RcloneSftp,
    /// The SFTP server that the environment names.
    OwnSftp,
}

/// Where a server is reached.
enum Server {
    None,
    S3(&'static S3Place),
    Sftp(&'static SftpServer),
}

static RGW: LazyLock<Result<Arc<Rgw>, Missing>> = LazyLock::new(Rgw::shared);
static MINIO: LazyLock<Result<Minio, Missing>> = LazyLock::new(Minio::start);
static MOTO: LazyLock<Result<Moto, Missing>> = LazyLock::new(Moto::start);
static RCLONE_S3: LazyLock<Result<RcloneS3, Missing>> = LazyLock::new(RcloneS3::start);
static OWN_S3: LazyLock<Option<S3Place>> = LazyLock::new(own_s3);
static OPENSSH: LazyLock<Result<SftpServer, Missing>> =
    LazyLock::new(|| openssh::start(OpensshOptions::default()));
static OPENSSH_CONTAINER: LazyLock<Result<SftpServer, Missing>> = LazyLock::new(openssh_container::start);
static PROFTPD: LazyLock<Result<SftpServer, Missing>> = LazyLock::new(|| proftpd::start(true));
static PLAIN_PROFTPD: LazyLock<Result<SftpServer, Missing>> = LazyLock::new(|| proftpd::start(false));
static RCLONE_SFTP: LazyLock<Result<SftpServer, Missing>> = LazyLock::new(rclone_sftp::start);
static OWN_SFTP: LazyLock<Option<SftpServer>> = LazyLock::new(SftpServer::own);

/// Tells folders apart on a server that has seen other runs.
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Backend {
    /// Returns the server, started if need be; `None` where it is missing, which was then said aloud.
    fn server(self) -> Option<Server> {
        fn s3<T>(
            started: &'static Result<T, Missing>,
            place: impl Fn(&'static T) -> &'static S3Place,
        ) -> Option<Server> {
            started.as_ref().map(|server| Server::S3(place(server))).map_err(missing).ok()
        }
        let sftp = |started: &'static Result<SftpServer, Missing>| {
            started.as_ref().map(Server::Sftp).map_err(missing).ok()
        };
        match self {
            Self::Memory | Self::Local => Some(Server::None),
            Self::Rgw => s3(&RGW, |server| server.place()),
            Self::Minio => s3(&MINIO, Minio::place),
            Self::Moto => s3(&MOTO, Moto::place),
            Self::RcloneS3 => s3(&RCLONE_S3, RcloneS3::place),
            Self::OwnS3 => OWN_S3.as_ref().map(Server::S3),
            Self::Openssh => sftp(&OPENSSH),
            Self::OpensshContainer => sftp(&OPENSSH_CONTAINER),
            Self::Proftpd => sftp(&PROFTPD),
            Self::PlainProftpd => sftp(&PLAIN_PROFTPD),
            Self::RcloneSftp => sftp(&RCLONE_SFTP),
            Self::OwnSftp => OWN_SFTP.as_ref().map(Server::Sftp),
        }
    }

    /// Tells whether objects have a name that can be moved, and locks are the format's own.
    pub fn has_renames(self) -> bool {
        use Backend::{Local, Memory, Openssh, OpensshContainer, Proftpd};
        matches!(self, Memory | Local | Openssh | OpensshContainer | Proftpd)
    }

    /// Tells whether it is an S3 server.
    pub fn is_s3(self) -> bool {
        matches!(self, Self::Rgw | Self::Minio | Self::Moto | Self::RcloneS3 | Self::OwnS3)
    }
}

/// A client of a folder that was fresh when the first client came.
pub struct Place {
    pub backend: Backend,
    /// The home of the program, with its configuration and its cache.
    pub scratch: Scratch,
    server: Server,
    /// The folder, relative to what tests may use of the server.
    folder: String,
    port: Option<u16>,
    memory: MemoryStorage,
    opened: OnceLock<Arc<dyn Storage>>,
    /// Holds the repository if it is a folder on this machine.
    ground: Arc<Scratch>,
}

impl Place {
    /// Returns a fresh folder on the server; `None` where that is missing.
    pub fn fresh(backend: Backend) -> Option<Self> {
        let server = backend.server()?;
        let (process, number) = (std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let ground = Arc::new(Scratch::new());
        let folder = match backend {
            Backend::Local => ground.path("repository").display().to_string(),
            _ => format!("suite-{process:08x}-{number}"),
        };
        let (scratch, memory) = (Scratch::new(), MemoryStorage::new());
        let opened = OnceLock::new();
        let place = Self { backend, scratch, server, folder, port: None, memory, opened, ground };
        place.configure();
        place.open(&place.opening(Purpose::Init)).unwrap();
        Some(place)
    }

    /// Returns another client of the same folder, which knows nothing of the first.
    pub fn again(&self) -> Self {
        self.client(self.port)
    }

    /// Returns another client, which reaches the server through a port of loopback.
    pub fn through(&self, port: u16) -> Self {
        self.client(Some(port))
    }

    fn client(&self, port: Option<u16>) -> Self {
        let server = match &self.server {
            Server::None => Server::None,
            Server::S3(place) => Server::S3(place),
            Server::Sftp(server) => Server::Sftp(server),
        };
        let place = Self {
            backend: self.backend,
            scratch: Scratch::new(),
            server,
            folder: self.folder.clone(),
            port,
            memory: self.memory.clone(),
            opened: OnceLock::new(),
            ground: Arc::clone(&self.ground),
        };
        place.configure();
        place
    }

    /// Returns the port on which the server itself listens.
    pub fn server_port(&self) -> u16 {
        match &self.server {
            Server::None => panic!("{:?} has no server", self.backend),
            Server::S3(place) => place.endpoint.rsplit(':').next().unwrap().parse().unwrap(),
            Server::Sftp(server) => server.port.unwrap(),
        }
    }

    /// Returns the S3 server.
    pub fn s3(&self) -> Option<&'static S3Place> {
        if let Server::S3(place) = &self.server { Some(place) } else { None }
    }

    /// Returns the SFTP server.
    pub fn sftp(&self) -> Option<&'static SftpServer> {
        if let Server::Sftp(server) = &self.server { Some(server) } else { None }
    }

    /// Returns the folder of the repository on this machine, where the server has it there.
    pub fn local_folder(&self) -> Option<PathBuf> {
        match &self.server {
            Server::None => (self.backend == Backend::Local).then(|| PathBuf::from(&self.folder)),
            Server::S3(_) => None,
            Server::Sftp(server) => server.folder.as_ref().map(|folder| folder.join(&self.folder)),
        }
    }

    /// Returns the path of the repository as its server has it: in the bucket, or below its root.
    pub fn path_on_server(&self) -> String {
        match &self.server {
            Server::None => self.folder.clone(),
            Server::S3(place) => format!("{}/{}", place.bucket, self.folder),
            Server::Sftp(server) => format!("{}/{}", server.root.trim_end_matches('/'), self.folder),
        }
    }

    /// Returns the location as a user writes it who settles nothing else.
    pub fn location(&self) -> String {
        match &self.server {
            Server::None => self.folder.clone(),
            Server::S3(place) => {
                let (bucket, endpoint) = (&place.bucket, self.endpoint(place));
                format!("s3://{bucket}/{}?endpoint={endpoint}&allow_http=true", self.folder)
            }
            Server::Sftp(server) => {
                let user = server.user.as_ref().map_or(String::new(), |user| format!("{user}@"));
                let port = self.port.or(server.port).map_or(String::new(), |port| format!(":{port}"));
                format!("sftp://{user}{}{port}{}", server.host, self.path_on_server())
            }
        }
    }

    fn endpoint(&self, place: &S3Place) -> String {
        self.port.map_or_else(|| place.endpoint.clone(), |port| format!("http://127.0.0.1:{port}"))
    }

    fn ssh_options(&self, server: &SftpServer) -> Vec<String> {
        let mut options = server.ssh_options.clone();
        if let (Some(_), Some(port)) = (self.port, server.port) {
            // The server is the same behind whatever port it is reached by.
            options.extend(["-o".to_owned(), format!("HostKeyAlias=[127.0.0.1]:{port}")]);
        }
        options
    }

    /// Writes the configuration of the program, in which the repository is called `place`.
    fn configure(&self) {
        let location = self.location();
        let mut text = format!("[repository.place]\nlocation = '{location}'\n");
        if let Server::Sftp(server) = &self.server {
            text.push_str(&format!("ssh_options = {:?}\n", self.ssh_options(server)));
        }
        fs::write(self.scratch.path("packvault.toml"), text).unwrap();
    }

    /// Settles more about the repository in the configuration.
    pub fn settle(&self, line: &str) {
        let path = self.scratch.path("packvault.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{line}\n")).unwrap();
    }

    /// Returns the program with everything it needs to reach the repository.
    pub fn packvault(&self, arguments: &[&str]) -> Command {
        assert!(self.backend != Backend::Memory, "the program cannot reach this process's memory");
        let mut command = self.scratch.packvault(arguments);
        command.args(["--repo", "place"]).env("PACKVAULT_CONFIG", self.scratch.path("packvault.toml"));
        command.env("PATH", std::env::var_os("PATH").unwrap());
        if let Server::S3(place) = &self.server {
            command.env("AWS_ACCESS_KEY_ID", &place.access_key_id);
            command.env("AWS_SECRET_ACCESS_KEY", &place.secret_access_key);
            command.env("AWS_REGION", &place.region);
        }
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let output = self.packvault(arguments).output().unwrap();
        self.assert_silent_about_secrets(&output);
        output
    }

    /// Runs a command that must succeed, and returns its JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{:?} {arguments:?}: {}", self.backend, stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Checks that no secret is in what a command has printed.
    pub fn assert_silent_about_secrets(&self, output: &Output) {
        for stream in [&output.stdout, &output.stderr] {
            let text = String::from_utf8_lossy(stream);
            assert!(!self.secrets().iter().any(|secret| text.contains(secret)), "{text}");
        }
    }

    /// Returns what nobody may see.
    pub fn secrets(&self) -> Vec<String> {
        let mut secrets = vec!["PRIVATE KEY".to_owned()];
        secrets.extend(self.s3().map(|place| place.secret_access_key.clone()));
        secrets
    }

    /// Returns how the storage is opened; what was found out of the server is remembered in this client's home.
    pub fn opening(&self, purpose: Purpose) -> Opening {
        let mut opening = Opening::new(purpose, self.scratch.path(""));
        opening.memory = Some(self.scratch.path("servers"));
        opening
    }

    /// Returns where the storage lies, with all that is settled about its server.
    pub fn located(&self) -> Location {
        let mut location = Location::parse(&self.location()).unwrap();
        match (&mut location, &self.server) {
            (Location::S3(located), Server::S3(place)) => {
                *located.options = S3Options {
                    region: Some(place.region.clone()),
                    secrets: Some(S3Secrets {
                        access_key_id: place.access_key_id.clone(),
                        secret_access_key: place.secret_access_key.clone(),
                        session_token: None,
                    }),
                    ..S3Options::default()
                };
            }
            (Location::Sftp(located), Server::Sftp(server)) => {
                let ssh_options = self.ssh_options(server);
                located.options = SftpOptions { ssh_options, ..SftpOptions::default() };
            }
            _ => {}
        }
        location
    }

    /// Opens the storage as production does.
    pub fn open(&self, opening: &Opening) -> packvault::Result<Arc<dyn Storage>> {
        self.open_with(opening, |_| {})
    }

    /// Opens the storage with more settled about its server.
    pub fn open_with(
        &self,
        opening: &Opening,
        settle: impl Fn(&mut Location),
    ) -> packvault::Result<Arc<dyn Storage>> {
        if self.backend == Backend::Memory {
            return Ok(Arc::new(self.memory.clone()));
        }
        let mut location = self.located();
        settle(&mut location);
        Ok(block_on(location.open(opening))?.storage)
    }

    /// Returns the storage as commands have it.
    pub fn storage(&self) -> Arc<dyn Storage> {
        let open = || self.open(&self.opening(Purpose::Work)).unwrap();
        Arc::clone(self.opened.get_or_init(open))
    }

    /// Returns the objects, for damage and for looks.
    pub fn raw(&self) -> Raw {
        Raw(self.storage())
    }

    /// Publishes every file of a folder under its path, as an ordinary tool would.
    pub fn fill(&self, from: &Path) {
        let storage = self.storage();
        for path in crate::support::names(from) {
            let bytes = fs::read(from.join(&path)).unwrap();
            block_on(storage.create(&key(&path), bytes.into())).unwrap();
        }
    }
}

/// Objects as somebody sees them who looks past packvault.
pub struct Raw(pub Arc<dyn Storage>);

impl Raw {
    /// Returns the names of all objects below the folder, sorted.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let folder = if folder.is_empty() { Prefix::root() } else { Prefix::folder(folder).unwrap() };
        let listed: Vec<_> = block_on(async { self.0.list(&folder).try_collect().await }).unwrap();
        let mut names: Vec<_> = listed.into_iter().map(|object| object.key.to_string()).collect();
        names.sort();
        names
    }

    /// Returns the bytes of an object.
    pub fn read(&self, name: &str) -> Vec<u8> {
        block_on(self.0.read(&key(name))).unwrap().to_vec()
    }

    /// Puts other bytes, or none, where an object lies.
    pub fn put(&self, name: &str, bytes: Option<Vec<u8>>) {
        match block_on(self.0.remove(&key(name))) {
            Err(error) if error.kind() != packvault_storage::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
        if let Some(bytes) = bytes {
            block_on(self.0.create(&key(name), bytes.into())).unwrap();
        }
    }

    /// Checks that no operation is under way or was left half done.
    pub fn assert_no_remains(&self) {
        assert_eq!(self.names("locks"), Vec::<String>::new());
        self.assert_no_uploads();
    }

    /// Checks that nothing lies there but what belongs to a repository, whole.
    pub fn assert_no_uploads(&self) {
        let is_known = |name: &String| {
            let folder = name.split('/').next().unwrap();
            ["config.toml", "snapshots", "packs", "indexes", "locks", "keys"].contains(&folder)
        };
        let strangers: Vec<_> = self.names("").into_iter().filter(|name| !is_known(name)).collect();
        assert_eq!(strangers, Vec::<String>::new());
        let swept = block_on(self.0.sweep(std::time::Duration::ZERO)).unwrap();
        assert_eq!(swept.removed, 0, "uploads were left unfinished");
    }
}

/// Returns the key of a text that a test knows to be one.
pub fn key(text: &str) -> Key {
    Key::parse(text).expect("a test names keys")
}
