//! What packvault must know of one application: the trait that a profile fills in.
//!
//! A profile knows names, queries and rules; it reads what it is handed and decides nothing about
//! repositories. Capture and restore proof go through the same queries, so that the two statistics can
//! differ only if the data does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::bounds::Bounds;
use super::content::{ContentRef, ContentStore, NoContent};
use super::extras::ExtrasSource;
use super::gate::Gatekeeper;
use super::ownership::LockFiles;
use super::pinned::PinnedDatabase;
use crate::format::BlobId;
use crate::{Error, ErrorKind, Result};

/// Where an archive lies on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivePaths {
    /// The folder that extras are relative to.
    pub home: PathBuf,
    /// The database file.
    pub database: PathBuf,
    /// The folder of content-addressed attachments.
    pub content: PathBuf,
    /// The application's configuration file; it need not exist.
    pub config: PathBuf,
}

/// What a capture learns from the pinned database beside its pages.
#[derive(Debug, Clone)]
pub struct CapturedFacts {
    /// The statistics, compact JSON, as the manifest records them.
    pub stats: String,
    /// Number of attachment rows, whatever they point at.
    pub attachment_rows: u64,
    /// One reference per distinct attachment, in the order in which they are listed.
    pub content: Vec<ContentRef>,
    /// Every path at which the database expects an attachment, if any is another than its hash gives;
    /// `None` if each has its usual path, which nothing can stand in the way of.
    pub unusual_paths: Option<Vec<ContentPath>>,
    /// What was found wrong with the database on the way.
    pub problems: Vec<String>,
    /// What the snapshot carries beside the database, in the order of the names.
    pub artifacts: Vec<Artifact>,
}

/// Something that an application puts into a snapshot beside its database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it is called.
    pub name: &'static str,
    /// What it is.
    pub format: &'static str,
    /// Its content.
    pub body: Vec<u8>,
}

impl CapturedFacts {
    /// Makes the facts of an application that keeps no attachments under their hashes.
    pub fn of_stats(stats: String) -> Self {
        let (content, problems, artifacts) = (Vec::new(), Vec::new(), Vec::new());
        Self { stats, attachment_rows: 0, content, unusual_paths: None, problems, artifacts }
    }
}

/// A path at which the application expects an attachment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContentPath {
    /// The attachment.
    pub id: BlobId,
    /// Its path below the content folder.
    pub path: String,
}

/// Which of the files that may hold secrets a capture takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtrasChoice {
    /// The application's configuration file.
    pub include_config: bool,
    /// Tokens and client secrets.
    pub include_tokens: bool,
}

/// What a capture may do with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It is brought to rest first: its WAL is emptied, as its application would.
    Owner,
    /// It is only read; nothing of it is written, not even a checkpoint.
    Foreign,
}

/// The endings of the files that SQLite may keep beside a database.
pub const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Returns the paths that belong to a database and to no extra file.
pub fn database_files(database_name: &str) -> Vec<String> {
    let sidecars = SIDECARS.iter().map(|sidecar| format!("{database_name}{sidecar}"));
    std::iter::once(database_name.to_owned()).chain(sidecars).collect()
}

/// The folder of attachments in a restored archive.
pub const CONTENT_NAME: &str = "attachments";

/// Databases below this size are checked while they are captured, where nobody says.
const CHECKED_BYTES_MAX: u64 = 1_000_000_000;

/// A number that a list shows of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// What is counted; the heading of its column.
    pub heading: &'static str,
    /// How many there are.
    pub count: u64,
}

/// One kind of application.
///
/// What stands first is asked of every application; the rest has an answer for one with a database and extra files
/// alone, which neither locks its home nor keeps attachments under their hashes.
pub trait Profile: std::fmt::Debug + Send + Sync {
    /// Returns the profile's name in configuration files.
    fn name(&self) -> &'static str;

    /// Returns what a capture may do with the database.
    fn access(&self) -> Access;

    /// Returns the database's path in a restored archive.
    fn database_name(&self) -> String;

    /// Returns the folder in which page hashes are cached between captures.
    fn cache_folder(&self, paths: &ArchivePaths) -> PathBuf;

    /// Returns how many questions the statistics are made of; each may take a reading of the database.
    fn questions(&self) -> u64;

    /// Reads the facts of a capture inside the pinned transaction, within bounds.
    fn capture(&self, pinned: &PinnedDatabase, bounds: &Bounds) -> Result<CapturedFacts>;

    /// Returns what says that the database holds the text of documents, if it does; inside the pinned transaction, within
    /// bounds.
    fn document_text(&self, _pinned: &PinnedDatabase, _bounds: &Bounds) -> Result<Option<Artifact>> {
        let message = "only msgvault's snapshots say that they hold the text of documents";
        Err(Error::new(ErrorKind::Usage, message))
    }

    /// Recomputes the statistics by the queries of the capture. The caller sets the bounds.
    fn stats(&self, connection: &mut Connection, database: &Path) -> Result<String>;

    /// Returns what is wrong with these statistics of a snapshot that has so many attachments.
    fn contradiction(&self, _stats: &str, _attachments: i64) -> Option<String> {
        None
    }

    /// Returns what a list shows of a snapshot with these statistics.
    fn figures(&self, _stats: &str) -> Vec<Figure> {
        Vec::new()
    }

    /// Returns the extra files that a capture takes.
    fn extras(&self, _paths: &ArchivePaths, _choice: ExtrasChoice) -> Vec<ExtrasSource> {
        Vec::new()
    }

    /// Returns what every snapshot of this application leaves out, for the manifest.
    fn excluded(&self) -> &'static [&'static str] {
        &[]
    }

    /// Tells whether an extra file may hold secrets, whatever was chosen.
    fn is_secret(&self, _recorded: &str) -> bool {
        false
    }

    /// Tells whether a database of this length is checked while it is captured, where nobody says.
    fn checks_source(&self, database_bytes: u64) -> bool {
        database_bytes < CHECKED_BYTES_MAX
    }

    /// Returns the names of the lock files in an archive's home that own it, in the order in which they
    /// are taken.
    fn ownership_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns who holds the archive's writers off while its database is brought to rest.
    fn gatekeeper(&self, paths: &ArchivePaths) -> Box<dyn Gatekeeper> {
        Box::new(LockFiles(self.ownership_names().iter().map(|name| paths.home.join(name)).collect()))
    }

    /// Refuses if the application runs on the archive in this folder, so far as it can be asked; what it
    /// holds locks for is found out by taking them.
    fn check_not_running(&self, _home: &Path) -> Result<()> {
        Ok(())
    }

    /// Opens the live attachments; `pinned` is the pinned database.
    fn content_store(
        &self,
        _paths: &ArchivePaths,
        _pinned: &PinnedDatabase,
    ) -> Result<Arc<dyn ContentStore>> {
        Ok(Arc::new(NoContent))
    }

    /// Returns every path at which the database expects an attachment; an error if there are more than
    /// `paths_max`. The caller sets the bounds.
    fn content_paths(
        &self,
        _connection: &Connection,
        _database: &Path,
        _paths_max: u64,
    ) -> Result<Vec<ContentPath>> {
        Ok(Vec::new())
    }

    /// Tells whether its database has names of attachments.
    fn names_attachments(&self) -> bool {
        false
    }

    /// Returns the attachments that its database knows by a name, each once, and no more than so many. The caller sets
    /// the bounds.
    fn attachments_named(
        &self,
        _connection: &Connection,
        _database: &Path,
        _name: &str,
        _most: usize,
    ) -> Result<Vec<BlobId>> {
        Ok(Vec::new())
    }

    /// Empties what describes the live store and not the restored one (section 12.4), in a staged
    /// database; returns what it had to change, in words for the user.
    fn settle_restored(&self, _staged_database: &Path, _bounds: &Bounds) -> Result<Option<&'static str>> {
        Ok(None)
    }

    /// Checks an auxiliary artifact of a snapshot; an error names why a restore must not go on.
    fn check_auxiliary(&self, name: &str, _format: &str, _body: &[u8]) -> Result<()> {
        let message = format!("the snapshot carries the auxiliary artifact {name:?} of an unknown kind");
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}
