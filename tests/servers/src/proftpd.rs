//! ProFTPD's SFTP module, with its extensions or, as a plain NAS, without.

use std::process::Command;

use crate::sftp::{Keys, SftpServer, open_to_all, output_of, port, require};
use crate::{Missing, Process};

const INSTALL: &str = "apt-get install proftpd-core proftpd-mod-crypto openssh-client openssl";

/// Folders in which the server's modules lie, by distribution.
const MODULES: [&str; 3] = ["/usr/lib/proftpd", "/usr/libexec/proftpd", "/usr/lib64/proftpd"];

/// The account the server uses for itself and for the tests' user.
const NOBODY: u32 = 65_534;

/// Starts the server, with the extensions of OpenSSH or without any.
pub fn start(has_extensions: bool) -> Result<SftpServer, Missing> {
    let programs = ["proftpd", "ssh", "ssh-keygen", "openssl"];
    let [proftpd, _, _, _] = require("proftpd", INSTALL, programs)?;
    let missing = |what: &str| Missing { server: "proftpd", what: what.to_owned(), install: INSTALL };
    let module = |folder: &&str| std::path::Path::new(folder).join("mod_sftp.so").exists();
    let modules = MODULES.iter().find(|folder| module(folder)).ok_or_else(|| missing("no mod_sftp"))?;
    if !rustix::process::geteuid().is_root() {
        return Err(Missing {
            install: "run the tests as root, for it changes its user",
            ..missing("not root")
        });
    }
    let port = port();
    let keys = Keys::make(&["-t", "rsa", "-b", "2048", "-m", "PEM"], port);
    open_to_all(&keys.path(""), 0o711);
    let folder = keys.make_folder("data");
    std::os::unix::fs::chown(&folder, Some(NOBODY), Some(NOBODY)).expect("root may");
    let public =
        output_of(Command::new("ssh-keygen").args(["-e", "-m", "RFC4716", "-f"]).arg(keys.path("user.pub")));
    keys.write("authorized", &public.expect("ssh-keygen converts a key"));
    let password = output_of(Command::new("openssl").args(["passwd", "-6", "not used"]));
    let password = password.expect("openssl hashes a password");
    let home = folder.display();
    keys.write("passwd", &format!("tester:{}:{NOBODY}:{NOBODY}::{home}:/bin/false\n", password.trim()));
    open_to_all(&keys.path("passwd"), 0o600);
    keys.write("proftpd.conf", &config(&keys, port, modules, has_extensions));
    let mut command = Command::new(proftpd);
    command.arg("-n").arg("-c").arg(keys.path("proftpd.conf"));
    let process = Process::start(&command).expect("proftpd can be started");
    Ok(SftpServer::started(keys, process, port, Some("tester"), "/", folder))
}

fn config(keys: &Keys, port: u16, modules: &str, has_extensions: bool) -> String {
    let shown = |name| keys.path(name).display().to_string();
    let extensions = match has_extensions {
        true => "",
        false => {
            "SFTPExtensions -checkFile -copyFile -fsync -hardlink -homeDirectory -posixRename -spaceAvailable \
             -statvfs -vendorID -versionSelect -xattr"
        }
    };
    format!(
        "ModulePath {modules}\nLoadModule mod_sftp.c\nServerType standalone\nServerName test\n\
         DefaultAddress 127.0.0.1\nSocketBindTight on\nPort {port}\nUser nobody\nGroup nogroup\n\
         PidFile {pid}\nScoreboardFile {scoreboard}\nDelayTable none\nSystemLog {log}\nTransferLog none\n\
         WtmpLog off\nUseReverseDNS off\nUseIPv6 off\nAuthOrder mod_auth_file.c\nAuthUserFile {passwd}\n\
         RequireValidShell off\nDefaultRoot {data}\nMaxInstances 100\nAllowOverwrite on\nSFTPEngine on\n\
         SFTPHostKey {host}\nSFTPAuthMethods publickey\nSFTPAuthorizedUserKeys file:{authorized}\n\
         SFTPLog {sftp_log}\n{extensions}\n",
        pid = shown("pid"),
        scoreboard = shown("scoreboard"),
        log = shown("log"),
        passwd = shown("passwd"),
        data = shown("data"),
        host = shown("host"),
        authorized = shown("authorized"),
        sftp_log = shown("sftp-log"),
    )
}
