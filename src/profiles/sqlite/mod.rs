//! The `sqlite` profile: any application that keeps its data in one SQLite database and files beside it.
//!
//! The user says what there is: the database, which files, which of them hold secrets, and questions whose
//! answers a restore must reproduce. A snapshot has to be restorable where none of that is configured, so
//! its statistics carry the database's path and the questions themselves (see `stats`).

mod archive;
mod functions;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

pub use self::archive::{SqliteArchive, SqliteKeys};
pub use self::stats::Query;
use self::stats::Recorded;
use crate::archive::bounds::Bounds;
use crate::archive::extras::ExtrasSource;
use crate::archive::pinned::PinnedDatabase;
use crate::archive::profile::{Access, ArchivePaths, CapturedFacts, ExtrasChoice, Profile, database_files};
use crate::archive::selected::SelectedFolder;
use crate::format::paths;
use crate::profiles::contradiction;
pub use crate::profiles::selection::FileSelection;
use crate::{Error, ErrorKind, Result};

/// The profile's name.
pub const NAME: &str = "sqlite";

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

    fn database_name(&self) -> String {
        self.database_name.clone()
    }

    fn questions(&self) -> u64 {
        self.queries.len() as u64
    }

    fn capture(&self, pinned: &PinnedDatabase, bounds: &Bounds) -> Result<CapturedFacts> {
        let answered = bounds.within(&mut pinned.connection(), |connection| {
            stats::answer(connection, pinned.path(), &self.queries, stats::At::Capture)
        })?;
        let stats = stats::text(&self.database_name, &self.queries, &answered.values);
        Ok(CapturedFacts { problems: answered.problems, ..CapturedFacts::of_stats(stats) })
    }

    fn stats(&self, connection: &mut Connection, database: &Path) -> Result<String> {
        let answered = stats::answer(connection, database, &self.queries, stats::At::Restore)?;
        Ok(stats::text(&self.database_name, &self.queries, &answered.values))
    }

    fn contradiction(&self, stats: &str, attachments: i64) -> Option<String> {
        contradiction(stats, attachments)
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

    fn cache_folder(&self, _: &ArchivePaths) -> PathBuf {
        self.cache.clone()
    }
}
