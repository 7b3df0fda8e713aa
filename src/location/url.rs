//! Locations as text: a path, or `file:`, `s3:`, `sftp:` and the clouds' URLs.
//!
//! Parsed before anything is opened. No error repeats the text, for it may hold a password by mistake.

use std::fmt;
use std::path::{Path, PathBuf};

use super::cloud::{self, Cloud};
use super::{Location, foreign};
use crate::error::{Error, ErrorKind, Result};

/// A bucket and the folder in it: `s3://bucket/folder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// The folder in it, without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
    /// What the URL's query settles: `?endpoint=https://nas:9000&region=eu`.
    pub query: S3Query,
}

/// What a location may say of its server besides the bucket. Secrets have no place in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Query {
    /// The server's URL; without one, Amazon's.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// The profile of the shared credentials and configuration files.
    pub profile: Option<String>,
    /// Whether the bucket is part of the path and not of the host name.
    pub path_style: Option<bool>,
    /// Whether the server may be spoken to without TLS.
    pub allow_http: Option<bool>,
}

/// A folder on a machine that `ssh` reaches: `sftp://user@host:port/folder`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpLocation {
    /// The user; without one, whom `ssh` takes.
    pub user: Option<String>,
    /// The host, or its name in the configuration of `ssh`.
    pub host: String,
    /// The port; without one, which `ssh` takes.
    pub port: Option<u16>,
    /// The folder: absolute, or relative to the one a login begins in.
    pub path: String,
}

pub(super) fn parse(text: &str) -> Result<Location> {
    check_ends(text)?;
    let Some((scheme, rest)) = split_scheme(text) else {
        return match foreign::refusal(text) {
            Some(why) => Err(usage(why)),
            None => Ok(Location::Local(PathBuf::from(text))),
        };
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => Ok(Location::Local(file_path(rest)?)),
        "s3" => s3(rest).map(Location::S3),
        "sftp" => sftp(rest).map(Location::Sftp),
        "azblob" => cloud::url::parse(Cloud::Azure, rest).map(Location::Cloud),
        "gs" => cloud::url::parse(Cloud::Google, rest).map(Location::Cloud),
        scheme => Err(usage(foreign::refused_scheme(scheme, rest))),
    }
}

/// Refuses what a file or a variable has at its ends by mistake, and what no name should hold.
fn check_ends(text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(usage("the location of the repository is empty"));
    }
    if text.trim() != text {
        return Err(usage(
            "the location of the repository begins or ends with white space; leave it out, or name the folder \
             as file:///path%20",
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(usage("the location of the repository holds a line end or another control character"));
    }
    Ok(())
}

/// Refuses a server's URL that may hold a secret: it would be shown wherever the location is.
pub(super) fn endpoint(value: String) -> Result<String> {
    match endpoint_refusal(&value) {
        None => Ok(value),
        Some(why) => Err(usage(format!("the endpoint of a location {why}"))),
    }
}

/// Returns what is wrong with a server's URL, without any of it.
pub fn endpoint_refusal(value: &str) -> Option<&'static str> {
    // As it is, and as what it stands for: `%40` is an `@` to whoever reads it later.
    let decoded = decode(value).unwrap_or_default();
    if value.contains('@') || decoded.contains('@') {
        return Some("holds a user or a password; keys are named in the configuration file, by reference");
    }
    if [value, &decoded].iter().any(|text| text.contains(['?', '#'])) {
        return Some("has a query, which has no place there");
    }
    let rest = value.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
    let authority = rest.map(|(_, rest)| rest.split('/').next().unwrap_or_default());
    match authority.filter(|authority| !authority.is_empty()) {
        None => Some("is no URL; write it like https://host:9000"),
        // A password whose user went astray stands where a port does.
        Some(authority) if host_and_port(authority).is_none() => {
            Some("has something else than a port behind the host; write it like https://host:9000")
        }
        Some(_) => None,
    }
}

/// Splits `scheme://rest`; a text whose part before `://` is no scheme is a path.
pub(super) fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let mut characters = scheme.chars();
    let first_is_letter = characters.next().is_some_and(|first| first.is_ascii_alphabetic());
    let rest_is_legal = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    (first_is_letter && rest_is_legal).then_some((scheme, rest))
}

/// Returns the path of a `file:` URL, with its percent signs decoded; only this machine may be named.
fn file_path(rest: &str) -> Result<PathBuf> {
    let wrong = || usage("a file URL must be file:///absolute/path");
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    // A query would be taken for a part of the name, and shown with it.
    if !path.starts_with('/') || path.contains(['?', '#']) {
        return Err(wrong());
    }
    let path = decode(path).ok_or_else(wrong)?;
    // A blank is shown as `%20`; what else is white at an end, or is a control character, is a mistake.
    let inner = path.trim_end_matches(' ');
    if inner.trim() != inner || path.chars().any(char::is_control) {
        return Err(wrong());
    }
    Ok(PathBuf::from(format!("/{}", path.trim_start_matches('/'))))
}

/// Writes a folder so that it is read back: as it is, or as a URL.
pub(super) fn write_local(path: &Path, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match path.to_str().filter(|text| text.ends_with(' ')) {
        Some(text) => write!(f, "file://{}", encode(text)),
        None => write!(f, "{}", path.display()),
    }
}

fn s3(rest: &str) -> Result<S3Location> {
    let wrong = || usage("an S3 location must be s3://bucket or s3://bucket/folder");
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (bucket, prefix) = container_and_folder(place).ok_or_else(wrong)?;
    Ok(S3Location { bucket, prefix, query: s3_query(query)? })
}

/// Splits `bucket/folder` and decodes the folder; `None` for what is no place in a bucket.
pub(super) fn container_and_folder(place: &str) -> Option<(String, String)> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if bucket.is_empty() || !bucket.chars().all(is_legal) {
        return None;
    }
    let prefix = decode(prefix.trim_matches('/'))?;
    let is_plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', '?', '#']);
    let has_control = prefix.chars().any(char::is_control);
    let is_folder = prefix.is_empty() || (!has_control && prefix.split('/').all(is_plain));
    is_folder.then(|| (bucket.to_owned(), prefix))
}

fn s3_query(text: &str) -> Result<S3Query> {
    let mut query = S3Query::default();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value).filter(|value| !value.chars().any(char::is_control));
        let value = value.ok_or_else(|| usage("the query of the S3 location is not plain text"))?;
        match name {
            "endpoint" => query.endpoint = Some(endpoint(value)?),
            "region" => query.region = Some(region(value)?),
            "profile" => query.profile = Some(value),
            "path_style" => query.path_style = Some(truth(name, &value)?),
            "allow_http" => query.allow_http = Some(truth(name, &value)?),
            _ if name.contains("key") || name.contains("secret") || name.contains("token") => {
                return Err(usage(
                    "a location holds no secrets: name them in the configuration file, by reference",
                ));
            }
            _ => {
                return Err(usage(
                    "an S3 location knows ?endpoint=, region=, profile=, path_style= and allow_http=",
                ));
            }
        }
    }
    Ok(query)
}

/// Refuses what is no name of a region, for the location is shown: a key may stand there by mistake.
fn region(value: String) -> Result<String> {
    let is_name = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_name.then_some(value).ok_or_else(|| usage("the region of a location is letters, digits and dashes"))
}

pub(super) fn truth(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(usage(format!("{name} of a location is true or false"))),
    }
}

fn sftp(rest: &str) -> Result<SftpLocation> {
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
    Ok(SftpLocation { user, host: host.to_owned(), port, path })
}

/// Tells what no name of a user or host holds: what may be a password behind it is not to be shown.
fn is_for_a_shell(c: char) -> bool {
    c.is_control() || c.is_whitespace() || ";&|<>()$`\"'*?{}!#=".contains(c)
}

/// Splits `host:port`, `[v6]:port` and their kin without a port.
fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    Some((host, port))
}

/// Decodes percent signs; `None` for a wrong one, a zero byte, or what is no UTF-8.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        if byte == b'%' {
            let (digits, tail) = tail.split_at_checked(2)?;
            decoded.push(*hex::decode(digits).ok()?.first()?);
            rest = tail;
        } else {
            decoded.push(byte);
            rest = tail;
        }
    }
    // No path holds a zero byte; the system would refuse it with a message that names nothing.
    if decoded.contains(&0) { None } else { String::from_utf8(decoded).ok() }
}

/// Encodes what would not be read back as it is.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '%' | '?' | '#' | ' ' => encoded.push_str(&format!("%{:02X}", c as u32)),
            c => encoded.push(c),
        }
    }
    encoded
}

impl fmt::Display for S3Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", encode(&self.prefix))?;
        }
        let S3Query { endpoint, region, profile, path_style, allow_http } = &self.query;
        let truth = |value: &Option<bool>| value.map(|value| value.to_string());
        let settled = [
            ("endpoint", endpoint.clone()),
            ("region", region.clone()),
            ("profile", profile.clone()),
            ("path_style", truth(path_style)),
            ("allow_http", truth(allow_http)),
        ];
        let mut separator = '?';
        for (name, value) in settled {
            if let Some(value) = value {
                write!(f, "{separator}{name}={}", encode(&value).replace('&', "%26"))?;
                separator = '&';
            }
        }
        Ok(())
    }
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

pub(super) fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

/// Returns the path of a local location, for tests.
#[cfg(test)]
fn local(text: &str) -> PathBuf {
    match parse(text).unwrap() {
        Location::Local(path) => path,
        other => panic!("{other} is not local"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        error.to_string()
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        for text in [
            "/mnt/nas/backup",
            "./backup",
            "../backup",
            ".",
            "..",
            "backup/",
            "a/nas:backup",
            "./a://b",
            "./C:",
            "./nas:backup",
            "./~/x",
            "/~",
            "./$x",
            "a/%41",
            "/a b",
            "/ä/日本",
            "/a\\b",
        ] {
            assert_eq!(local(text), Path::new(text));
        }
    }

    #[test]
    fn a_file_url_is_an_absolute_path() {
        assert_eq!(local("file:///mnt/nas"), Path::new("/mnt/nas"));
        assert_eq!(local("file://localhost/mnt/nas"), Path::new("/mnt/nas"));
        assert_eq!(local("FILE:///my%20nas/%C3%A4"), Path::new("/my nas/ä"));
        assert_eq!(local("file:////mnt/nas"), Path::new("/mnt/nas"));
        assert_eq!(parse("file:///nas%20").unwrap().to_string(), "file:///nas%20");
    }

    #[test]
    fn a_broken_file_url_is_refused() {
        for text in [
            "file://",
            "file://nas/backup",
            "file:///a%2",
            "file:///a%zz",
            "file:///a%00",
            "file:///%ff",
            "file:///a%0a",
            "file:///a?b",
        ] {
            refused(text);
        }
    }

    #[test]
    fn an_s3_location_is_a_bucket_and_a_folder() {
        for (text, bucket, prefix) in [
            ("s3://mail", "mail", ""),
            ("s3://mail/", "mail", ""),
            ("S3://my.mail-1/a/b%20c/", "my.mail-1", "a/b c"),
        ] {
            let Location::S3(found) = parse(text).unwrap() else { panic!("{text}") };
            assert_eq!((found.bucket.as_str(), found.prefix.as_str()), (bucket, prefix));
        }
        for text in
            ["s3://", "s3:///a", "s3://a b/c", "s3://b/a//c", "s3://b/../c", "s3://b/a%00", "s3://u@b/a"]
        {
            refused(text);
        }
    }

    #[test]
    fn an_s3_location_may_name_its_server_and_no_secret() {
        let text = "s3://mail/a?endpoint=http://127.0.0.1:9000&region=eu&path_style=true&allow_http=true";
        let Location::S3(found) = parse(text).unwrap() else { panic!() };
        assert_eq!(found.query.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!((found.query.path_style, found.query.allow_http), (Some(true), Some(true)));
        assert_eq!(found.to_string(), text);
        for text in ["s3://b?secret_access_key=hunter2", "s3://b?access_key_id=hunter2", "s3://b?x=hunter2"] {
            assert!(!refused(text).contains("hunter2"), "{text}");
        }
        refused("s3://b?path_style=yes");
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

    #[test]
    fn no_error_repeats_a_password() {
        for text in ["sftp://ann:hunter2@nas/backup", "http://ann:hunter2@nas", "file://ann:hunter2@nas/x"] {
            assert!(!refused(text).contains("hunter2"));
        }
    }

    #[test]
    fn unknown_storage_and_nothing_are_refused() {
        assert!(refused("ftp://nas/backup").starts_with("unknown kind of storage ftp://"));
        refused("");
    }
}
