//! Where a repository lies, and how what lies there is opened.
//!
//! This is the only folder that names drivers: one file or folder per kind of storage, with its location, what is
//! settled about it, and its driver; `server` for what kinds on servers have in common, `url` for the text a user
//! writes, `remembered` for what servers were found to promise, `seen` for what lay where. Around a driver for a
//! server stand the retries and the spool; a local disk is used as it is, for what fails there does not get better by
//! asking again.

pub mod append_only;
mod cloud;
mod foreign;
mod local;
mod remembered;
mod s3;
pub mod seen;
mod server;
mod sftp;
mod url;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use packvault_storage::probe::ProbeReport;
use packvault_storage::{RetryPolicy, RetryStorage, Spool, Storage, TraceStorage};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{Progress, Silent};

pub use cloud::{Cloud, CloudLocation, CloudOptions};
pub use packvault_storage::Wire;
pub use s3::{S3Location, S3Options, S3Query, S3Secrets};
use server::Server;
pub use sftp::{SftpLocation, SftpOptions};
pub use url::endpoint_refusal;
pub use watch::Retries;
use watch::Watch;

/// A step is tried again as long as so many attempts take that time out: three minutes, where a minute is usual.
const TIMEOUTS_PER_STEP: u32 = 3;

/// Where a repository lies.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Location {
    /// A folder on this machine.
    Local(PathBuf),
    /// A folder in a bucket of an S3-compatible store.
    S3(S3Location),
    /// A folder on a machine that `ssh` reaches.
    Sftp(SftpLocation),
    /// A folder in a container of Azure Blob Storage or Google Cloud Storage.
    Cloud(CloudLocation),
}

/// What the storage is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To make a repository: what is missing is made, and the server is asked what it promises.
    Init,
    /// To write, if only a lock: a server that is not remembered is asked what it promises.
    Work,
    /// To read under a lock, or without one where nothing can be written: a server that is not remembered is asked
    /// what it promises, if it lets us.
    Read,
    /// To read: nothing is asked and nothing is written.
    Look,
}

/// How a location is opened.
#[derive(Clone)]
pub struct Opening {
    /// What for.
    pub purpose: Purpose,
    /// How long a server may leave an attempt without a sign of life; without it, what suits its kind.
    pub timeout: Option<Duration>,
    /// Bytes per second that may be sent; `None` is no limit.
    pub upload_max: Option<u64>,
    /// Bytes per second that may be received; `None` is no limit.
    pub download_max: Option<u64>,
    /// Where packs wait for their upload.
    pub spool: PathBuf,
    /// How many bytes may wait there.
    pub spool_bytes_max: u64,
    /// Where it is remembered what servers promise; without one, they are asked each time.
    pub memory: Option<PathBuf>,
    /// Ends retries.
    pub cancel: Cancel,
    /// Told of retries, and of what a server does not promise.
    pub progress: Arc<dyn Progress>,
    /// The retries of this run, which are told of together.
    pub retried: Arc<Retries>,
}

impl Opening {
    /// Makes an opening with nothing else settled: no limits, nothing remembered, nobody told.
    pub fn new(purpose: Purpose, spool: impl Into<PathBuf>) -> Self {
        Self {
            purpose,
            timeout: None,
            upload_max: None,
            download_max: None,
            spool: spool.into(),
            spool_bytes_max: u64::MAX,
            memory: None,
            cancel: Cancel::new(),
            progress: Arc::new(Silent),
            retried: Arc::default(),
        }
    }

    /// Returns how often and how long a step is tried.
    fn retries(&self) -> RetryPolicy {
        let usual = RetryPolicy::default();
        let total_max = self.timeout.map_or(usual.total_max, |timeout| TIMEOUTS_PER_STEP * timeout);
        RetryPolicy { total_max, ..usual }
    }
}

/// A storage that was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The storage, with everything around it that its kind needs.
    pub storage: Arc<dyn Storage>,
    /// What passes to and from the server; `None` where there is no server.
    pub wire: Option<Arc<Wire>>,
}

/// What a server was found to promise, and when.
#[derive(Debug, Clone)]
pub struct Probed {
    /// The location, as a user writes it.
    pub location: String,
    /// The answers.
    pub report: ProbeReport,
    /// What the storage promises on the strength of them.
    pub guarantees: packvault_storage::Guarantees,
}

impl Location {
    /// Parses a plain path or a URL.
    pub fn parse(text: &str) -> Result<Self> {
        url::parse(text)
    }

    /// Returns whether the text is a URL and not a path.
    pub fn is_url(text: &str) -> bool {
        url::split_scheme(text).is_some()
    }

    /// Returns whether the text is one word and neither a path nor a URL: a name, where there are names.
    pub fn is_bare_word(text: &str) -> bool {
        url::split_scheme(text).is_none() && foreign::is_bare_word(text)
    }

    /// Returns whether the text may hold a password or another secret, so that it must not be shown.
    pub fn may_hold_secret(text: &str) -> bool {
        text.contains("://") || text.contains(['@', '?', '=', '%'])
    }

    /// Returns whether it is a folder on this machine.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Returns whether both are written alike, whatever is settled about their servers otherwise.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }

    /// Returns the place with its server: two servers with a bucket of the same name differ in it.
    pub fn place(&self) -> String {
        match self.ground() {
            Ground::Folder(_) => self.to_string(),
            Ground::Server(server) => format!("{self}\n{}", server.server()),
        }
    }

    /// Returns what lies under it. Nothing else here tells one kind of storage from another.
    fn ground(&self) -> Ground<'_> {
        match self {
            Self::Local(path) => Ground::Folder(path),
            Self::S3(place) => Ground::Server(place),
            Self::Sftp(place) => Ground::Server(place),
            Self::Cloud(place) => Ground::Server(place),
        }
    }

    /// Returns the same of a place whose name does not depend on the folder a command is run from.
    pub fn settled_place(&self) -> String {
        match self {
            Self::Local(path) => Self::Local(seen::settled(path)).place(),
            _ => self.place(),
        }
    }

    /// Opens the storage, which must exist unless a repository is to be made.
    ///
    /// `ErrorKind::NoRepository` where there is none.
    pub async fn open(&self, opening: &Opening) -> Result<Opened> {
        let (location, begun) = (self.to_string(), Instant::now());
        tracing::debug!(target: "packvault::storage", location, purpose = ?opening.purpose, "is opened");
        let opened = self.open_quietly(opening).await;
        let milliseconds = begun.elapsed().as_millis() as u64;
        match &opened {
            Ok(opened) => {
                let guarantees = opened.storage.guarantees();
                tracing::info!(target: "packvault::storage", location, milliseconds, ?guarantees, "is open");
            }
            Err(error) => {
                let why = error.chain();
                tracing::info!(target: "packvault::storage", location, milliseconds, why, "cannot be opened");
            }
        }
        opened
    }

    async fn open_quietly(&self, opening: &Opening) -> Result<Opened> {
        match self.ground() {
            Ground::Folder(path) => {
                let create = opening.purpose == Purpose::Init;
                let storage = TraceStorage::if_heard(Arc::new(local::open(path, create).await?));
                Ok(Opened { storage, wire: None })
            }
            Ground::Server(server) => open_on(server, opening).await,
        }
    }

    /// Asks the server what it promises, whatever is remembered, and remembers the answers.
    pub async fn probe(&self, opening: &Opening) -> Result<Probed> {
        let probed = self.ask(opening).await?;
        for finding in &probed.report.findings {
            let answer = finding.answer.word();
            tracing::info!(
                target: "packvault::storage",
                question = finding.question,
                answer,
                note = finding.note,
                "the server was asked"
            );
        }
        Ok(probed)
    }

    async fn ask(&self, opening: &Opening) -> Result<Probed> {
        match self.ground() {
            Ground::Folder(path) => {
                let message =
                    format!("{} is a folder on this machine: there is no server to ask", path.display());
                Err(Error::new(ErrorKind::Usage, message))
            }
            Ground::Server(server) => server.probe(opening).await,
        }
    }
}

/// What lies under a location.
enum Ground<'a> {
    Folder(&'a Path),
    Server(&'a dyn Server),
}

/// Opens the storage on a server, with the spool and the retries around it.
async fn open_on(server: &dyn Server, opening: &Opening) -> Result<Opened> {
    let wire = Arc::new(Wire::new(opening.upload_max, opening.download_max));
    let driver = server.open(opening, Arc::clone(&wire)).await?;
    let spool = Spool::new(&opening.spool, opening.spool_bytes_max, server.uploads_max());
    let storage = RetryStorage::new(TraceStorage::if_heard(driver), opening.retries())
        .watched_by(Arc::new(Watch::of(opening)))
        .through(Arc::new(spool));
    Ok(Opened { storage: Arc::new(storage), wire: Some(wire) })
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ground() {
            Ground::Folder(path) => url::write_local(path, f),
            Ground::Server(server) => server.fmt(f),
        }
    }
}

/// Opens a folder on this machine, and makes it if it is missing.
pub async fn folder(path: &Path) -> Result<Arc<dyn Storage>> {
    Ok(Arc::new(local::open(path, true).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(purpose: Purpose) -> Opening {
        Opening::new(purpose, std::env::temp_dir())
    }

    #[test]
    fn a_shorter_timeout_means_shorter_retries_and_none_changes_nothing() {
        let mut opening = opening(Purpose::Work);
        assert_eq!(opening.retries(), RetryPolicy::default());
        opening.timeout = Some(Duration::from_secs(5));
        let retries = opening.retries();
        assert_eq!(retries.total_max, Duration::from_secs(15));
        assert_eq!(retries.attempts_max, RetryPolicy::default().attempts_max);
    }

    #[test]
    fn a_place_is_told_from_the_same_bucket_on_another_server() {
        let hash = |text: &str, endpoint: Option<&str>| {
            let Location::S3(mut place) = Location::parse(text).unwrap() else { panic!("{text}") };
            place.options.endpoint = endpoint.map(str::to_owned);
            Location::S3(place).place()
        };
        let one = hash("s3://mail/a", Some("https://nas:9000"));
        assert_eq!(one, hash("s3://mail/a", Some("https://nas:9000")));
        for other in [
            hash("s3://mail/a", Some("https://nas:9001")),
            hash("s3://mail/a", None),
            hash("s3://mail/b", Some("https://nas:9000")),
            hash("s3://mail/a?endpoint=https://other", Some("https://nas:9000")),
        ] {
            assert_ne!(one, other);
        }
    }

    #[test]
    fn a_place_is_the_same_whatever_is_settled_about_its_server() {
        let plain = Location::parse("s3://mail/a").unwrap();
        let Location::S3(mut settled) = plain.clone() else { panic!() };
        settled.options.region = Some("eu".to_owned());
        let settled = Location::S3(settled);
        assert!(plain != settled && plain.is_same_place(&settled));
        assert!(!plain.is_same_place(&Location::parse("s3://mail/b").unwrap()));
    }

    #[tokio::test]
    async fn a_missing_folder_is_no_repository_unless_it_is_to_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let location = Location::Local(folder.path().join("nas/backup"));
        let error = location.open(&opening(Purpose::Work)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoRepository);
        location.open(&opening(Purpose::Init)).await.unwrap();
        location.open(&opening(Purpose::Look)).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_is_no_place_for_a_repository() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let location = Location::Local(file.path().to_path_buf());
        for purpose in [Purpose::Init, Purpose::Work, Purpose::Look] {
            assert_eq!(location.open(&opening(purpose)).await.unwrap_err().kind(), ErrorKind::Refused);
        }
    }
}
