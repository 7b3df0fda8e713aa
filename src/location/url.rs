//! Locations as text: a path, or `file:`, `s3:`, `sftp:` and the clouds' URLs.
//!
//! Parsed before anything is opened. No error repeats the text, for it may hold a password by mistake.

use std::fmt;
use std::path::{Path, PathBuf};

use super::cloud::{self, Cloud};
use super::{Location, foreign, s3, sftp};
use crate::error::{Error, ErrorKind, Result};

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
        "s3" => s3::url::parse(rest).map(Location::S3),
        "sftp" => sftp::url::parse(rest).map(Location::Sftp),
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

pub(super) fn truth(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(usage(format!("{name} of a location is true or false"))),
    }
}

/// Splits `host:port`, `[v6]:port` and their kin without a port.
pub(super) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
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

/// Returns the value of an entry of a query, decoded; `None` for what is not plain text.
pub(super) fn query_value(value: &str) -> Option<String> {
    decode(value).filter(|value| !value.chars().any(char::is_control))
}

/// Splits a query into its names and values.
pub(super) fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Writes a query of what is settled, so that it is read back.
pub(super) fn write_query(f: &mut fmt::Formatter<'_>, settled: &[(&str, Option<String>)]) -> fmt::Result {
    let mut separator = '?';
    for (name, value) in settled {
        if let Some(value) = value {
            write!(f, "{separator}{name}={}", encode(value).replace('&', "%26"))?;
            separator = '&';
        }
    }
    Ok(())
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
pub(super) mod tests {
    use super::*;

    /// Expects that the text is refused as a location, and returns what is said.
    pub fn refused(text: &str) -> String {
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
