//! Where a repository lies on a server, and how the server is reached.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use packvault_storage::{Error, ErrorKind, Operation, Result};

/// How many channels are used at most, unless told otherwise.
pub const CONNECTIONS_MAX: usize = 4;

/// Characters that have a meaning to a shell, which `ProxyCommand` and `Match exec` hand a host or user to.
const SHELL_CHARACTERS: &str = "'`\"$\\;&<>|(){},";

/// What [`crate::SftpStorage::open`] needs to know. It holds no secret: those are ssh's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpConfig {
    /// The user on the server; without one ssh decides, by its own configuration.
    pub user: Option<String>,
    /// The server, or a `Host` of ssh's configuration.
    pub host: String,
    /// The port; without one ssh decides.
    pub port: Option<u16>,
    /// The folder that holds the repository. It may be a symbolic link; nothing below it may.
    pub path: SftpPath,
    /// The program that connects: OpenSSH's `ssh`.
    pub ssh_program: OsString,
    /// More arguments for it. They come before the driver's own, and of two that disagree ssh takes the
    /// first.
    pub ssh_options: Vec<String>,
    /// How many channels are used at once, at most.
    pub connections_max: usize,
    /// Where the folder of the shared connection's socket is made; `/tmp` where there is none, or where its
    /// path is too long for a socket.
    pub temporary: Option<PathBuf>,
    /// How long what is waited for.
    pub timeouts: SftpTimeouts,
}

/// A path on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SftpPath {
    /// A path that begins with a slash.
    Absolute(String),
    /// A path below the folder into which the user logs in; empty, that folder itself.
    Relative(String),
}

/// How long the driver waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SftpTimeouts {
    /// For the server to accept a connection.
    pub connect: Duration,
    /// For a session to begin, which includes a person's typing of a passphrase.
    pub login: Duration,
    /// For a dead line to be noticed, by ssh's own questions to the server.
    pub line: Duration,
    /// For any answer at all while something is waited for. A server that syncs a large file answers late.
    pub answer: Duration,
}

impl SftpTimeouts {
    /// Returns the same time for everything; a person who is asked for a passphrase has no longer either.
    pub fn all(time: Duration) -> Self {
        Self { connect: time, login: time, line: time, answer: time }
    }
}

impl Default for SftpTimeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(30), login: seconds(180), line: seconds(60), answer: seconds(180) }
    }
}

impl SftpConfig {
    /// Makes the configuration of a folder on a host, with everything else as people have set ssh up.
    pub fn new(host: impl Into<String>, path: SftpPath) -> Self {
        Self {
            user: None,
            host: host.into(),
            port: None,
            path,
            ssh_program: OsString::from("ssh"),
            ssh_options: Vec::new(),
            connections_max: CONNECTIONS_MAX,
            temporary: None,
            timeouts: SftpTimeouts::default(),
        }
    }

    /// Refuses what ssh, or a shell that ssh starts, could take for something else than a host or a user.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |what: &str, reason: &str| {
            let detail = format!("the {what} {reason}");
            Err(Error::new(ErrorKind::Config, Operation::Open, self, detail))
        };
        for (what, text) in [("host", Some(&self.host)), ("user", self.user.as_ref())] {
            let Some(text) = text else { continue };
            if text.is_empty() {
                return refuse(what, "is empty");
            }
            if text.starts_with('-') {
                return refuse(what, "begins with a dash, which ssh would take for an option");
            }
            if text.chars().any(|c| c.is_control() || c.is_whitespace() || SHELL_CHARACTERS.contains(c)) {
                return refuse(what, "holds a blank, a control character or one that a shell acts on");
            }
        }
        if self.path.as_str().contains('\0') {
            return refuse("path", "holds a zero byte");
        }
        if matches!(&self.path, SftpPath::Absolute(path) if !path.starts_with('/')) {
            return refuse("path", "is to be absolute and does not begin with a slash");
        }
        if matches!(&self.path, SftpPath::Relative(path) if path.starts_with('/')) {
            return refuse("path", "is to be relative and begins with a slash");
        }
        if self.connections_max == 0 {
            return refuse("number of connections", "is zero");
        }
        Ok(())
    }
}

impl SftpPath {
    fn as_str(&self) -> &str {
        let (Self::Absolute(path) | Self::Relative(path)) = self;
        path
    }

    /// Returns the path as the server is told it.
    pub(crate) fn on_server(&self) -> String {
        match self {
            Self::Absolute(path) if path.trim_end_matches('/').is_empty() => "/".to_owned(),
            Self::Relative(path) if path.trim_matches('/').is_empty() => ".".to_owned(),
            // A first part of `~` or a leading dash means nothing to a server, but `./` costs nothing.
            Self::Relative(path) => format!("./{}", path.trim_end_matches('/')),
            Self::Absolute(path) => path.trim_end_matches('/').to_owned(),
        }
    }
}

impl fmt::Display for SftpConfig {
    /// The location as a user writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match &self.path {
            SftpPath::Absolute(path) => f.write_str(path),
            SftpPath::Relative(path) => write!(f, "/~/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str) -> SftpConfig {
        SftpConfig::new(host, SftpPath::Absolute("/srv/vault".into()))
    }

    #[test]
    fn what_ssh_could_take_for_an_option_or_a_command_is_refused() {
        for bad in ["", "-oProxyCommand=evil", "a b", "a;b", "$(a)", "a\nb", "`a`", "a'b"] {
            assert_eq!(config(bad).check().unwrap_err().kind(), ErrorKind::Config, "{bad:?}");
            let user = SftpConfig { user: Some(bad.into()), ..config("nas") };
            assert_eq!(user.check().unwrap_err().kind(), ErrorKind::Config, "{bad:?}");
        }
        for good in ["nas", "nas.example.org", "192.0.2.7", "2001:db8::7", "my-nas_2"] {
            config(good).check().unwrap();
        }
    }

    #[test]
    fn a_location_is_shown_as_it_is_written() {
        let absolute = SftpConfig { user: Some("me".into()), port: Some(2222), ..config("nas") };
        assert_eq!(absolute.to_string(), "sftp://me@nas:2222/srv/vault");
        let relative = SftpConfig::new("2001:db8::7", SftpPath::Relative("vault".into()));
        assert_eq!(relative.to_string(), "sftp://[2001:db8::7]/~/vault");
    }

    #[test]
    fn a_path_reaches_the_server_without_trailing_slashes() {
        for (path, told) in [
            (SftpPath::Absolute("/".into()), "/"),
            (SftpPath::Absolute("/a/b//".into()), "/a/b"),
            (SftpPath::Relative("".into()), "."),
            (SftpPath::Relative("a/b/".into()), "./a/b"),
        ] {
            assert_eq!(path.on_server(), told);
        }
    }
}
