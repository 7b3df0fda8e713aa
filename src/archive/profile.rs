//! What packvault must know of one application: the trait that a profile fills in.
//!
//! A profile knows names, queries and rules; it reads what it is handed and decides nothing about
//! repositories. Capture and restore proof go through the same queries, so that the two statistics can
//! differ only if the data does.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::bounds::Bounds;
use super::content::{ContentRef, ContentStore};
use super::extras::ExtrasSource;
use super::gate::Gatekeeper;
use super::ownership::LockFiles;
use super::pinned::PinnedDatabase;
use crate::Result;
use crate::format::BlobId;

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

/// One kind of application.
pub trait Profile: std::fmt::Debug + Send + Sync {
    /// Returns the profile's name in configuration files.
    fn name(&self) -> &'static str;

    /// Returns what a capture may do with the database.
    fn access(&self) -> Access;

    /// Tells whether a database of this length is checked while it is captured, where nobody says.
    fn checks_source(&self, database_bytes: u64) -> bool;

    /// Returns the database's path in a restored archive.
    fn database_name(&self) -> String;

    /// Returns the attachment folder's name in a restored archive.
    fn content_name(&self) -> &'static str;

    /// Returns what every snapshot of this application leaves out, for the manifest.
    fn excluded(&self) -> &'static [&'static str];

    /// Returns the names of the lock files in an archive's home that own it, in the order in which they
    /// are taken.
    fn ownership_names(&self) -> Vec<String>;

    /// Returns who holds the archive's writers off while its database is brought to rest.
    fn gatekeeper(&self, paths: &ArchivePaths) -> Box<dyn Gatekeeper> {
        Box::new(LockFiles(self.ownership_names().iter().map(|name| paths.home.join(name)).collect()))
    }

    /// Refuses if the application runs on the archive in this folder, so far as it can be asked; what it
    /// holds locks for is found out by taking them.
    fn check_not_running(&self, _home: &Path) -> Result<()> {
        Ok(())
    }

    /// Returns how many questions the statistics are made of; each may take a reading of the database.
    fn questions(&self) -> u64;

    /// Reads the facts of a capture inside the pinned transaction, within bounds.
    fn capture(&self, pinned: &PinnedDatabase, bounds: &Bounds) -> Result<CapturedFacts>;

    /// Recomputes the statistics by the queries of the capture. Whoever asks keeps the bounds.
    fn stats(&self, connection: &mut Connection, database: &Path) -> Result<String>;

    /// Returns every path at which the database expects an attachment; an error if there are more than
    /// `paths_max`. Whoever asks keeps the bounds.
    fn content_paths(
        &self,
        connection: &Connection,
        database: &Path,
        paths_max: u64,
    ) -> Result<Vec<ContentPath>>;

    /// Opens the live attachments; `pinned` is the pinned database.
    fn content_store(&self, paths: &ArchivePaths, pinned: &PinnedDatabase) -> Result<Arc<dyn ContentStore>>;

    /// Returns the extra files that a capture takes.
    fn extras(&self, paths: &ArchivePaths, choice: ExtrasChoice) -> Vec<ExtrasSource>;

    /// Tells whether an extra file may hold secrets, whatever was chosen.
    fn is_secret(&self, recorded: &str) -> bool;

    /// Empties what describes the live store and not the restored one (section 12.4), in a staged
    /// database; tells whether it had to change anything.
    fn settle_restored(&self, staged_database: &Path, bounds: &Bounds) -> Result<bool>;

    /// Checks an auxiliary artifact of a snapshot; an error names why a restore must not go on.
    fn check_auxiliary(&self, name: &str, format: &str, body: &[u8]) -> Result<()>;

    /// Returns the folder in which page hashes are cached between captures.
    fn cache_folder(&self, paths: &ArchivePaths) -> PathBuf;
}
