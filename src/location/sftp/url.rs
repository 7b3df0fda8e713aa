//! Locations on a machine that `ssh` reaches as text.

use std::fmt;

use super::super::url::{decode, encode, host_and_port, usage};
use super::{SftpLocation, SftpOptions};
use crate::error::Result;

pub(in super::super) fn parse(rest: &str) -> Result<SftpLocation> {
    let wrong =
        || usage("an SFTP location must be sftp://user@host:port/absolute/path or sftp://host/~/path");
    let (authority, path) = rest.split_once('/').ok_or_else(wrong)?;
    if path.contains(['?', '#']) {
        return Err(usage("an SFTP location has no query; write `?` and `#` of a name as %3F and %23"));
    }
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err(usage(
            "a location holds no password: let ssh know a key (ssh-copy-id), or an agent, for this host",
        ));
    }
    let user = user.map(|user| decode(user).ok_or_else(wrong)).transpose()?;
    let (host, port) = host_and_port(host).ok_or_else(wrong)?;
    // What begins with a dash would be an option of ssh.
    let is_name = |name: &str| !name.is_empty() && !name.starts_with('-') && !name.contains(is_for_a_shell);
    let is_user = |user: &str| is_name(user) && !user.contains(['/', '@', ':']);
    let is_host = |host: &str| is_name(host) && !host.contains(['[', ']']);
    if !is_host(host) || !user.as_deref().is_none_or(is_user) {
        return Err(wrong());
    }
    let path = decode(path).ok_or_else(wrong)?;
    let path = match path.strip_prefix("~/") {
        // A slash more must not make it absolute.
        Some(relative) => relative.trim_matches('/').to_owned(),
        None if path == "~" => String::new(),
        None => format!("/{}", path.trim_end_matches('/')),
    };
    if path.split('/').any(|part| part == "..") || path.chars().any(char::is_control) {
        return Err(wrong());
    }
    Ok(SftpLocation { user, host: host.to_owned(), port, path, options: SftpOptions::default() })
}

/// Tells what no name of a user or host holds: what may be a password behind it is not to be shown.
fn is_for_a_shell(c: char) -> bool {
    c.is_control() || c.is_whitespace() || ";&|<>()$`\"'*?{}!#=".contains(c)
}

impl fmt::Display for SftpLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{}@", encode(user).replace('@', "%40"))?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?
        } else {
            f.write_str(&self.host)?
        }
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        match self.path.strip_prefix('/') {
            Some(absolute) => write!(f, "/{}", encode(absolute)),
            None => write!(f, "/~/{}", encode(&self.path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::Location;
    use super::super::super::url::tests::refused;

    fn parse(text: &str) -> crate::error::Result<Location> {
        Location::parse(text)
    }

    #[test]
    fn an_sftp_location_is_what_ssh_reaches() {
        let parsed = |text: &str| match parse(text).unwrap() {
            Location::Sftp(found) => found,
            other => panic!("{other} is not on SFTP"),
        };
        let found = parsed("sftp://ann@nas:2222/volume1/my%20backup/");
        assert_eq!(
            (found.user.as_deref(), found.host.as_str(), found.port),
            (Some("ann"), "nas", Some(2222))
        );
        assert_eq!(found.path, "/volume1/my backup");
        for text in ["sftp://nas/~/backup", "sftp://nas/~//backup/", "sftp://nas/%7E/backup"] {
            assert_eq!(parsed(text).path, "backup");
        }
        assert_eq!(parsed("sftp://nas/~//").path, "");
        assert_eq!(parsed("sftp://nas//~/backup").path, "//~/backup");
        assert_eq!(parsed("sftp://[fe80::1]:22/a").host, "fe80::1");
        for text in ["sftp://ann@nas:2222/volume1/my%20backup", "sftp://nas/~/backup", "sftp://[::1]:22/a"] {
            assert_eq!(parsed(text).to_string(), text);
        }
    }

    #[test]
    fn a_broken_sftp_location_is_refused() {
        for text in [
            "sftp://",
            "sftp://nas",
            "sftp:///a",
            "sftp://-oProxyCommand=x/a",
            "sftp://-l@nas/a",
            "sftp://nas:0/a",
            "sftp://nas:x/a",
            "sftp://nas/a/../b",
            "sftp://[::1/a",
            "sftp://]/a",
            "sftp://[[::1]/a",
            "sftp://nas/a%0ab",
        ] {
            refused(text);
        }
    }
}
