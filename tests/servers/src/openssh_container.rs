//! OpenSSH in a container, as on a NAS: another machine, with the limits and the penalties it has by default.

use std::process::Command;

use crate::Missing;
use crate::container::{Image, answer, variable_or};
use crate::sftp::{Keys, SftpServer, output_of, require};

/// The image that is started unless the environment names another: the one in `docker-compose.yml`. Another
/// must take the same settings, listen on the same port, and have the user's home in the same place.
const IMAGE: &str = "lscr.io/linuxserver/openssh-server:version-9.9_p2-r0";

const USER: &str = "packvault";
const PORT: u16 = 2222;
const HOME: &str = "/config";

/// Starts the server.
pub fn start() -> Result<SftpServer, Missing> {
    let install = "apt-get install openssh-client";
    let [_, _, keyscan] = require("openssh-container", install, ["ssh", "ssh-keygen", "ssh-keyscan"])?;
    let keys = Keys::of_user(&["-t", "ed25519"]);
    let key = keys.read("user.pub");
    let environment = [("USER_NAME", USER), ("PUBLIC_KEY", key.trim()), ("PUID", "1000"), ("PGID", "1000")];
    let image = Image {
        server: "openssh-container",
        name: variable_or("PACKVAULT_OPENSSH_IMAGE", IMAGE),
        command: Vec::new(),
        environment: environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        port: PORT,
    };
    let container = image.start(|port| answer(port, "").is_some_and(|answer| answer.starts_with(b"SSH-")))?;
    let port = container.port;
    let mut scan = Command::new(keyscan);
    scan.args(["-t", "ed25519", "-p", &port.to_string(), "127.0.0.1"]);
    keys.write("known_hosts", &output_of(&mut scan).expect("a server that answers shows its key"));
    Ok(SftpServer::answering(keys, container.process, port, Some(USER), HOME))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_image_is_the_one_to_try_it_with() {
        assert!(include_str!("../../../docker-compose.yml").contains(super::IMAGE));
    }
}
