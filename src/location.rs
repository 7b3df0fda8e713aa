//! Where a repository lies, as a user writes it: a path, or a URL.
//!
//! This is the only file that names drivers. A location is parsed before anything is opened, so that a
//! kind of storage this build lacks is refused by name, and no error repeats what may hold a password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use packvault_local::{LocalConfig, LocalStorage};
use packvault_storage as storage;
use packvault_storage::Storage;

use crate::error::{Error, ErrorKind, Result};

/// Where a repository lies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A folder on this machine.
    Local(PathBuf),
}

impl Location {
    /// Parses a plain path, `file:///path`, or a URL of another kind of storage.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Usage, "the location of the repository is empty"));
        }
        match split_scheme(text) {
            None => Ok(Self::Local(PathBuf::from(text))),
            Some((scheme, rest)) => Self::from_url(&scheme.to_ascii_lowercase(), rest),
        }
    }

    /// Returns whether the text is a URL and not a path.
    pub fn is_url(text: &str) -> bool {
        split_scheme(text).is_some()
    }

    /// Opens the storage, which must exist; with `create` a missing one is made.
    ///
    /// `ErrorKind::NoRepository` where there is none.
    pub async fn open(&self, create: bool) -> Result<Arc<dyn Storage>> {
        match self {
            Self::Local(path) => Ok(Arc::new(open_local(path, create).await?)),
        }
    }

    fn from_url(scheme: &str, rest: &str) -> Result<Self> {
        match scheme {
            "file" => Ok(Self::Local(file_path(rest)?)),
            "s3" => Err(missing("S3")),
            "sftp" => Err(missing("SFTP")),
            _ => Err(Error::new(ErrorKind::Usage, format!("unknown kind of storage {scheme}://"))),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
        }
    }
}

async fn open_local(path: &Path, create: bool) -> Result<LocalStorage> {
    let config = LocalConfig::new(path);
    let opened =
        if create { LocalStorage::create_root(config).await } else { LocalStorage::open(config).await };
    opened.map_err(|error| {
        let (kind, message) = match error.kind() {
            storage::ErrorKind::NotFound => (ErrorKind::NoRepository, "no repository at"),
            storage::ErrorKind::Unsafe => (ErrorKind::Refused, "no repository can lie at"),
            _ => (ErrorKind::Io, "cannot open the repository at"),
        };
        Error::caused(kind, format!("{message} {}", path.display()), error)
    })
}

/// Splits `scheme://rest`; a text whose part before `://` is no scheme is a path.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let mut characters = scheme.chars();
    let first_is_letter = characters.next().is_some_and(|first| first.is_ascii_alphabetic());
    let rest_is_legal = characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    (first_is_letter && rest_is_legal).then_some((scheme, rest))
}

/// Returns the path of a `file:` URL, with its percent signs decoded; only this machine may be named.
fn file_path(rest: &str) -> Result<PathBuf> {
    let wrong = || Error::new(ErrorKind::Usage, "a file URL must be file:///absolute/path");
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(wrong());
    }
    let decoded = percent_decode(path.as_bytes()).ok_or_else(wrong)?;
    String::from_utf8(decoded).map(PathBuf::from).map_err(|_| wrong())
}

fn percent_decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
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
    (!decoded.contains(&0)).then_some(decoded)
}

fn missing(storage: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("this build has no {storage} storage"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn local(text: &str) -> PathBuf {
        let Location::Local(path) = Location::parse(text).unwrap();
        path
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        for text in ["/mnt/nas/backup", "backup", "./a://b", "C:", "C:/backup", "nas:backup", "~/x", "%41"] {
            assert_eq!(local(text), Path::new(text));
        }
    }

    #[test]
    fn a_file_url_is_an_absolute_path() {
        assert_eq!(local("file:///mnt/nas"), Path::new("/mnt/nas"));
        assert_eq!(local("file://localhost/mnt/nas"), Path::new("/mnt/nas"));
        assert_eq!(local("FILE:///my%20nas/%C3%A4"), Path::new("/my nas/ä"));
    }

    #[test]
    fn a_broken_file_url_is_refused() {
        for text in
            ["file://", "file://nas/backup", "file:///a%2", "file:///a%zz", "file:///a%00", "file:///%ff"]
        {
            let error = Location::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
    }

    #[test]
    fn storage_that_this_build_lacks_is_refused_by_name() {
        let error = Location::parse("s3://bucket/prefix").unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Unsupported, "this build has no S3 storage")
        );
        let error = Location::parse("sftp://nas/backup").unwrap_err();
        assert_eq!(error.to_string(), "this build has no SFTP storage");
        let error = Location::parse("ftp://nas/backup").unwrap_err();
        assert_eq!(error.to_string(), "unknown kind of storage ftp://");
    }

    #[test]
    fn no_error_repeats_a_password() {
        for text in ["sftp://ann:hunter2@nas/backup", "http://ann:hunter2@nas", "file://ann:hunter2@nas/x"] {
            assert!(!Location::parse(text).unwrap_err().chain().contains("hunter2"));
        }
    }

    #[tokio::test]
    async fn a_missing_folder_is_no_repository_unless_it_is_to_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Local(folder.path().join("nas/backup"));
        let error = location.open(false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoRepository);
        location.open(true).await.unwrap();
        location.open(false).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_is_no_place_for_a_repository() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let location = Location::Local(file.path().to_path_buf());
        for create in [false, true] {
            assert_eq!(location.open(create).await.unwrap_err().kind(), ErrorKind::Refused);
        }
    }

    #[test]
    fn an_empty_location_is_refused() {
        assert_eq!(Location::parse("").unwrap_err().kind(), ErrorKind::Usage);
    }
}
