//! OpenSSH's own server, as the user who runs the tests, on its own keys.

use std::process::Command;

use crate::sftp::{Keys, SftpServer, port, require};
use crate::{Missing, Process};

const INSTALL: &str = "apt-get install openssh-server openssh-client";

/// What may be switched on or off.
#[derive(Debug, Clone, Copy)]
pub struct OpensshOptions {
    /// Whether there is SFTP at all.
    pub has_sftp: bool,
    /// How many sessions one connection may carry.
    pub sessions_max: u32,
}

impl Default for OpensshOptions {
    fn default() -> Self {
        Self { has_sftp: true, sessions_max: 100 }
    }
}

/// Starts the server.
pub fn start(options: OpensshOptions) -> Result<SftpServer, Missing> {
    let [sshd, _, _] = require("openssh", INSTALL, ["sshd", "ssh", "ssh-keygen"])?;
    let port = port();
    let keys = Keys::make(&["-t", "ed25519"], port);
    keys.write("authorized_keys", &keys.read("user.pub"));
    let folder = keys.make_folder("data");
    let subsystem = if options.has_sftp { "Subsystem sftp internal-sftp" } else { "" };
    let config = format!(
        "ListenAddress 127.0.0.1\nPort {port}\nHostKey {host}\nPidFile none\n\
         AuthorizedKeysFile {authorized}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n\
         MaxStartups 100\nMaxSessions {sessions}\n{subsystem}\n",
        host = keys.path("host").display(),
        authorized = keys.path("authorized_keys").display(),
        sessions = options.sessions_max,
    );
    keys.write("sshd_config", &config);
    // Debian's server wants this folder, which its service makes.
    if rustix::process::geteuid().is_root() {
        let _ = std::fs::create_dir_all("/run/sshd");
    }
    let mut command = Command::new(sshd);
    command.arg("-D").arg("-f").arg(keys.path("sshd_config")).arg("-E").arg(keys.path("log"));
    let process = Process::start(&command).expect("sshd can be started");
    let root = folder.display().to_string();
    Ok(SftpServer::started(keys, process, port, None, &root, folder))
}
