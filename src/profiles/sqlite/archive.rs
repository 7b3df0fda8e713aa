//! An archive of any SQLite application, as a section of the configuration or flags describe it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::{FileSelection, NAME, Query, Sqlite};
use crate::archive::profile::{ArchivePaths, Profile};
use crate::profiles::archive::{KnownArchive, Place};
use crate::{Error, ErrorKind, Result};

/// What the user has said of an archive.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteKeys {
    /// The database: in a section a path from the home, in [`SqliteArchive::new`] one from here.
    pub database: Option<PathBuf>,
    /// Patterns of the files that are taken.
    #[serde(default)]
    pub files: Vec<String>,
    /// Patterns of those that are not.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Patterns of those that may hold secrets.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Those of the patterns that may match nothing.
    #[serde(default)]
    pub optional: Vec<String>,
    /// A query for each name.
    #[serde(default)]
    pub stats: BTreeMap<String, String>,
}

/// An archive, ready to be captured.
#[derive(Debug, Clone)]
pub struct SqliteArchive {
    paths: ArchivePaths,
    profile: Arc<Sqlite>,
}

impl SqliteArchive {
    /// Makes the archive; `cache` is a folder of packvault's own.
    pub fn new(home: &Path, keys: &SqliteKeys, cache: &Path) -> Result<Self> {
        let selection = FileSelection::new(&keys.files, &keys.exclude, &keys.secrets)?;
        let selection = selection.with_optional(&keys.optional)?;
        let query = |(name, sql): (&String, &String)| Query { name: name.clone(), sql: sql.clone() };
        let database = keys.database.clone().unwrap_or_default();
        let name = name_below(home, &database)?;
        let paths = ArchivePaths {
            home: home.to_path_buf(),
            database,
            // These applications have neither: their files travel as extra files.
            content: home.to_path_buf(),
            config: home.to_path_buf(),
        };
        let queries = keys.stats.iter().map(query).collect();
        let profile = Sqlite::new(&name, selection, queries, cache.to_owned())?;
        Ok(Self { paths, profile: Arc::new(profile) })
    }
}

impl KnownArchive for SqliteArchive {
    const NAME: &'static str = NAME;

    const KEYS: &'static [&'static str] = &["database", "files", "exclude", "secrets", "optional", "stats"];

    const IS_KNOWN_BY_ITS_FILE: bool = true;

    type Keys = SqliteKeys;

    fn missing_key(keys: &SqliteKeys) -> Option<&'static str> {
        keys.database.is_none().then_some("database")
    }

    fn at(place: &Place<'_>, keys: &SqliteKeys) -> Result<Self> {
        let written = keys.database.as_deref().and_then(Path::to_str).unwrap_or_default();
        let database = Some(place.home.join((place.expand)(written)?));
        Self::new(place.home, &SqliteKeys { database, ..keys.clone() }, place.cache)
    }

    fn of_stats(stats: &str) -> Result<Arc<dyn Profile>> {
        Ok(Arc::new(Sqlite::of_stats(stats)?))
    }

    fn paths(&self) -> ArchivePaths {
        self.paths.clone()
    }

    fn profile(&self) -> Arc<dyn Profile> {
        self.profile.clone()
    }
}

/// Returns the path that the database has below the home, or its name if it lies elsewhere.
fn name_below(home: &Path, database: &Path) -> Result<String> {
    let resolved = |path: &Path| std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    let below = match (resolved(home), resolved(database)) {
        (Ok(home), Ok(database)) => database.strip_prefix(home).ok().map(Path::to_path_buf),
        _ => None,
    };
    let name = below.or_else(|| database.file_name().map(PathBuf::from));
    name.and_then(|name| name.to_str().map(str::to_owned)).ok_or_else(|| {
        let message = format!("{} is no path of a database that a snapshot can hold", database.display());
        Error::new(ErrorKind::Usage, message)
    })
}
