//! What the SFTP servers have in common: where one is reached, and the keys with which.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{Missing, Process, find_program, free_port, wait_until_answers};

/// A server of the user's own: `sftp://user@host:port/absolute/path`, with `PACKVAULT_TEST_SFTP_OPTIONS` as
/// blank-separated arguments for ssh.
const OWN: &str = "PACKVAULT_TEST_SFTP";
const OWN_OPTIONS: &str = "PACKVAULT_TEST_SFTP_OPTIONS";

/// A running SFTP server, or one of the user's own; started ones end with this value.
#[derive(Debug)]
pub struct SftpServer {
    /// The host, for ssh.
    pub host: String,
    /// The port.
    pub port: Option<u16>,
    /// The user to log in as.
    pub user: Option<String>,
    /// An absolute path on the server below which tests may make folders.
    pub root: String,
    /// The same folder on this machine, if the server is ours.
    pub folder: Option<PathBuf>,
    /// The arguments that make ssh reach the server.
    pub ssh_options: Vec<String>,
    process: Option<Process>,
    _keys: Option<Keys>,
}

impl SftpServer {
    /// Returns the user's own server, if the environment names one.
    pub fn own() -> Option<Self> {
        let location = std::env::var(OWN).ok()?;
        let options = std::env::var(OWN_OPTIONS).unwrap_or_default();
        let rest = location.strip_prefix("sftp://").expect("PACKVAULT_TEST_SFTP begins with sftp://");
        let (place, path) = rest.split_once('/').expect("PACKVAULT_TEST_SFTP has a path");
        let (user, place) = match place.rsplit_once('@') {
            Some((user, place)) => (Some(user.to_owned()), place),
            None => (None, place),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().expect("the port is a number"))),
            None => (place, None),
        };
        Some(Self {
            host: host.to_owned(),
            port,
            user,
            root: format!("/{}", path.trim_end_matches('/')),
            folder: None,
            ssh_options: options.split_whitespace().map(str::to_owned).collect(),
            process: None,
            _keys: None,
        })
    }

    /// Waits until a server that was started answers.
    pub(crate) fn started(
        keys: Keys,
        process: Process,
        port: u16,
        user: Option<&str>,
        root: &str,
        folder: PathBuf,
    ) -> Self {
        assert!(wait_until_answers(port), "the SFTP server on port {port} does not answer");
        Self { folder: Some(folder), ..Self::answering(keys, process, port, user, root) }
    }

    /// Returns a server that answers, whose files are not seen from here.
    pub(crate) fn answering(keys: Keys, process: Process, port: u16, user: Option<&str>, root: &str) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: Some(port),
            user: user.map(str::to_owned),
            root: root.to_owned(),
            folder: None,
            ssh_options: keys.ssh_options(),
            process: Some(process),
            _keys: Some(keys),
        }
    }

    /// Ends the server, as a crash would.
    pub fn stop(&mut self) {
        self.process = None;
    }
}

/// A folder with a host key, a user's key, and the hosts ssh is to know.
#[derive(Debug)]
pub(crate) struct Keys {
    folder: TempDir,
}

impl Keys {
    /// Makes keys of the kind, in their format, for a server on the port.
    pub(crate) fn make(kind: &[&str], port: u16) -> Self {
        let keys = Self::of_user(kind);
        keys.make_key("host", kind);
        let public = keys.read("host.pub");
        let key: Vec<_> = public.split_whitespace().take(2).collect();
        keys.write("known_hosts", &format!("[127.0.0.1]:{port} {}\n", key.join(" ")));
        keys
    }

    /// Makes a user's key alone, for a server that makes its own and is not known yet.
    pub(crate) fn of_user(kind: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("pv-sftp-").tempdir().expect("a folder can be made");
        let keys = Self { folder };
        keys.make_key("user", kind);
        keys.write("config", "");
        keys
    }

    fn make_key(&self, name: &str, kind: &[&str]) {
        let status = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", "test", "-f"])
            .arg(self.path(name))
            .args(kind)
            .stdin(Stdio::null())
            .status();
        assert!(status.is_ok_and(|status| status.success()), "ssh-keygen makes a key");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file that was just made")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("the folder can be written to");
    }

    /// Makes a folder for the server's data.
    pub(crate) fn make_folder(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir(&path).expect("the folder can be written to");
        path
    }

    /// Nothing of the user's own setup takes part.
    fn ssh_options(&self) -> Vec<String> {
        let shown = |name| self.path(name).display().to_string();
        let options = [
            "-F".to_owned(),
            shown("config"),
            "-i".to_owned(),
            shown("user"),
            "-o".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
            "-o".to_owned(),
            "IdentityAgent=none".to_owned(),
            "-o".to_owned(),
            format!("UserKnownHostsFile={}", shown("known_hosts")),
            "-o".to_owned(),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "-o".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
        ];
        options.to_vec()
    }
}

/// Returns where the programs lie, or which is missing.
pub(crate) fn require<const N: usize>(
    server: &'static str,
    install: &'static str,
    programs: [&str; N],
) -> Result<[PathBuf; N], Missing> {
    let mut found = Vec::new();
    for program in programs {
        let what = || format!("the program {program} is not there");
        found.push(find_program(program).ok_or_else(|| Missing { server, what: what(), install })?);
    }
    Ok(found.try_into().expect("as many as were asked for"))
}

/// Runs the command and tells whether it succeeded.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(crate) fn open_to_all(folder: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).expect("the folder is ours");
}

pub(crate) fn port() -> u16 {
    free_port()
}
