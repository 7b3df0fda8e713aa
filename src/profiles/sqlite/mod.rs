//! The `sqlite` profile: any application that keeps its data in one SQLite database and files beside it.
//!
//! The user says what there is: the database, which files, which of them hold secrets, and questions whose
//! answers a restore must reproduce. A snapshot has to be restorable where none of that is configured, so
//! its statistics carry the database's path and the questions themselves (see `stats`).

mod functions;
mod selection;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

pub use self::selection::FileSelection;
pub use self::stats::Query;
use self::stats::Recorded;
use crate::archive::bounds::Bounds;
use crate::archive::content::{Content, ContentRef, ContentStore};
use crate::archive::extras::ExtrasSource;
use crate::archive::pinned::PinnedDatabase;
use crate::archive::profile::{
    Access, ArchivePaths, CapturedFacts, ContentPath, ExtrasChoice, Profile, database_files,
};
use crate::archive::selected::SelectedFolder;
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// The profile's name.
pub const NAME: &str = "sqlite";

/// Databases below this size are checked while they are captured, where nobody says.
const CHECKED_BYTES_MAX: u64 = 1_000_000_000;

/// One application, as the user or a snapshot describes it.
#[derive(Debug, Clone, Default)]
pub struct Sqlite {
    database_name: String,
    selection: FileSelection,
    queries: Vec<Query>,
    cache: PathBuf,
}

impl Sqlite {
    /// Makes the profile of an archive.
    ///
    /// `database_name` is the database's path in a restored archive; `cache` is a folder of our own, for
    /// nothing is written into the application's.
    pub fn new(
        database_name: &str,
        selection: FileSelection,
        queries: Vec<Query>,
        cache: PathBuf,
    ) -> Result<Self> {
        let database_name = checked_name(database_name)?;
        queries.iter().try_for_each(stats::check_form)?;
        let selection = selection.without(database_files(&database_name));
        Ok(Self { database_name, selection, queries, cache })
    }

    /// Makes the profile that the statistics of a snapshot describe.
    pub fn of_stats(stats: &str) -> Result<Self> {
        let recorded = Recorded::parse(stats)?;
        let queries = recorded.queries.into_iter().map(|query| Query { name: query.name, sql: query.sql });
        Self::new(&recorded.database, FileSelection::default(), queries.collect(), PathBuf::new())
    }
}

/// The name may come from a repository: it must be one that an extra file could have.
fn checked_name(name: &str) -> Result<String> {
    paths::check_extras_path(name).map_err(|error| {
        Error::caused(ErrorKind::Refused, format!("the database cannot be restored as {name:?}"), error)
    })
}

impl Profile for Sqlite {
    fn name(&self) -> &'static str {
        NAME
    }

    fn access(&self) -> Access {
        Access::Foreign
    }

    fn checks_source(&self, database_bytes: u64) -> bool {
        database_bytes < CHECKED_BYTES_MAX
    }

    fn database_name(&self) -> String {
        self.database_name.clone()
    }

    fn content_name(&self) -> &'static str {
        "attachments"
    }

    fn excluded(&self) -> &'static [&'static str] {
        &[]
    }

    fn ownership_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn questions(&self) -> u64 {
        self.queries.len() as u64
    }

    fn capture(&self, pinned: &PinnedDatabase, bounds: &Bounds) -> Result<CapturedFacts> {
        let answered = bounds.within(&mut pinned.connection(), |connection| {
            stats::answer(connection, pinned.path(), &self.queries, stats::At::Capture)
        })?;
        Ok(CapturedFacts {
            stats: stats::text(&self.database_name, &self.queries, &answered.values),
            attachment_rows: 0,
            content: Vec::new(),
            unusual_paths: None,
            problems: answered.problems,
        })
    }

    fn stats(&self, connection: &mut Connection, database: &Path) -> Result<String> {
        let answered = stats::answer(connection, database, &self.queries, stats::At::Restore)?;
        Ok(stats::text(&self.database_name, &self.queries, &answered.values))
    }

    fn content_paths(&self, _: &Connection, _: &Path, _: u64) -> Result<Vec<ContentPath>> {
        Ok(Vec::new())
    }

    fn content_store(&self, _: &ArchivePaths, _: &PinnedDatabase) -> Result<Arc<dyn ContentStore>> {
        Ok(Arc::new(NoContent))
    }

    fn extras(&self, paths: &ArchivePaths, _: ExtrasChoice) -> Vec<ExtrasSource> {
        if self.selection.is_empty() {
            return Vec::new();
        }
        let rule = Arc::new(self.selection.clone());
        let (folder, database) = (paths.home.clone(), paths.database.clone());
        let place = SelectedFolder { folder, database, own: vec![self.cache.clone()] };
        vec![ExtrasSource::Selected { place, rule }]
    }

    fn is_secret(&self, recorded: &str) -> bool {
        self.selection.is_secret(recorded)
    }

    fn settle_restored(&self, _: &Path, _: &Bounds) -> Result<bool> {
        Ok(false)
    }

    fn check_auxiliary(&self, name: &str, _: &str, _: &[u8]) -> Result<()> {
        let message = format!("the snapshot carries the auxiliary artifact {name:?} of an unknown kind");
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn cache_folder(&self, _: &ArchivePaths) -> PathBuf {
        self.cache.clone()
    }
}

/// These applications keep files under their own names, not under hashes: they travel as extra files.
#[derive(Debug)]
struct NoContent;

impl ContentStore for NoContent {
    fn open(&self, reference: &ContentRef) -> Result<Content> {
        Err(Error::new(ErrorKind::Source, format!("the archive has no attachment {}", reference.id)))
    }
}
