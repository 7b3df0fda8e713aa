//! Where a repository lies, and how what lies there is opened.
//!
//! This is the only folder that names drivers: one file per kind of storage, `url` for the text a user
//! writes, `remembered` for what servers were found to promise. Around a driver for a server stand the
//! retries and the spool; a local disk is used as it is, for what fails there does not get better by
//! asking again.

mod cloud;
mod foreign;
mod local;
mod remembered;
mod s3;
mod sftp;
mod url;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use packvault_storage::probe::ProbeReport;
use packvault_storage::retry::persist;
use packvault_storage::{Operation, RetryPolicy, RetryStorage, Spool, Storage, TraceStorage};

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::{Progress, Silent};

pub use cloud::{Cloud, CloudLocation, CloudOptions};
pub use packvault_storage::Wire;
pub use s3::{S3Options, S3Secrets};
pub use sftp::SftpOptions;
pub use url::{S3Location, S3Query, SftpLocation, endpoint_refusal};
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
    /// What is settled about S3 stores.
    pub s3: S3Options,
    /// What is settled about machines that `ssh` reaches.
    pub sftp: SftpOptions,
    /// What is settled about Azure's and Google's stores.
    pub cloud: CloudOptions,
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
            s3: S3Options::default(),
            sftp: SftpOptions::default(),
            cloud: CloudOptions::default(),
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

    /// Returns the place with its server: two servers with a bucket of the same name differ in it.
    pub fn place(&self, opening: &Opening) -> String {
        let names_a_server = |name: &str| name.contains("ENDPOINT") || name.contains("ACCOUNT");
        let variables = opening.s3.variables.iter().chain(&opening.cloud.variables);
        let mut servers: Vec<(&String, &String)> =
            variables.filter(|(name, _)| names_a_server(name)).collect();
        servers.sort();
        let options = (&opening.s3.endpoint, &opening.s3.profile, &opening.sftp.ssh_options);
        format!("{self}\n{options:?}\n{servers:?}")
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
        let wire = Arc::new(Wire::new(opening.upload_max, opening.download_max));
        let (driver, uploads_max): (Arc<dyn Storage>, usize) = match self {
            Self::Local(path) => {
                let create = opening.purpose == Purpose::Init;
                let storage = TraceStorage::if_heard(Arc::new(local::open(path, create).await?));
                return Ok(Opened { storage, wire: None });
            }
            Self::S3(location) => {
                (Arc::new(s3::open(location, opening, Arc::clone(&wire)).await?), s3::UPLOADS_MAX)
            }
            Self::Sftp(location) => {
                (Arc::new(sftp::open(location, opening, Arc::clone(&wire)).await?), sftp::UPLOADS_MAX)
            }
            Self::Cloud(location) => {
                (Arc::new(cloud::open(location, opening, Arc::clone(&wire)).await?), cloud::UPLOADS_MAX)
            }
        };
        let spool = Spool::new(&opening.spool, opening.spool_bytes_max, uploads_max);
        let watch = Watch::of(opening);
        let storage = RetryStorage::new(TraceStorage::if_heard(driver), opening.retries())
            .watched_by(Arc::new(watch))
            .through(Arc::new(spool));
        Ok(Opened { storage: Arc::new(storage), wire: Some(wire) })
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
        match self {
            Self::Local(path) => {
                let message =
                    format!("{} is a folder on this machine: there is no server to ask", path.display());
                Err(Error::new(ErrorKind::Usage, message))
            }
            Self::S3(location) => s3::probe(location, opening).await,
            Self::Sftp(location) => sftp::probe(location, opening).await,
            Self::Cloud(location) => cloud::probe(location, opening).await,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => url::write_local(path, f),
            Self::S3(location) => location.fmt(f),
            Self::Sftp(location) => location.fmt(f),
            Self::Cloud(location) => location.fmt(f),
        }
    }
}

/// Opens a folder on this machine, and makes it if it is missing.
pub async fn folder(path: &Path) -> Result<Arc<dyn Storage>> {
    Ok(Arc::new(local::open(path, true).await?))
}

/// Speaks to the server for the first time: what may pass is tried again, and Ctrl-C ends it, as it is with
/// everything that comes later.
async fn first_words<'a, T>(
    location: &impl fmt::Display,
    opening: &Opening,
    step: impl Fn() -> BoxFuture<'a, packvault_storage::Result<T>> + Send + Sync,
) -> Result<T> {
    let (watch, place) = (Watch::of(opening), location.to_string());
    let said = persist(opening.retries(), &watch, (Operation::Open, &place), step).await;
    said.map_err(|error| cannot_open(location, error))
}

/// Tells whether a server may be used although it could not be asked what it promises: to read from it.
fn may_go_unasked(opening: &Opening, error: &Error) -> bool {
    use packvault_storage::ErrorKind::{Denied, Full, Io};
    let step = packvault_storage::Error::behind(error);
    let is_refused = step.is_some_and(|error| matches!(error.kind(), Denied | Full | Io));
    opening.purpose == Purpose::Read && is_refused
}

/// Lifts the error of opening a storage on a server.
fn cannot_open(location: &impl fmt::Display, error: packvault_storage::Error) -> Error {
    use packvault_storage::ErrorKind as Kind;
    let (kind, message) = match error.kind() {
        Kind::NotFound => (ErrorKind::NoRepository, "no repository at"),
        Kind::Unsafe => (ErrorKind::Refused, "no repository can lie at"),
        Kind::Config => (ErrorKind::Usage, "cannot open the repository at"),
        Kind::Unsupported => (ErrorKind::Unsupported, "cannot keep a repository at"),
        Kind::Denied => (ErrorKind::NotPermitted, "cannot open the repository at"),
        Kind::Interrupted => (ErrorKind::Interrupted, "interrupted while opening the repository at"),
        _ => (ErrorKind::Io, "cannot open the repository at"),
    };
    Error::caused(kind, format!("{message} {location}"), error)
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
            let mut opening = opening(Purpose::Look);
            opening.s3.endpoint = endpoint.map(str::to_owned);
            Location::parse(text).unwrap().place(&opening)
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
