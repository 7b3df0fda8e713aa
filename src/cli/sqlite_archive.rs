//! An archive of any SQLite application, from a section of the configuration or from flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use packvault::archive::profile::ArchivePaths;
use packvault::profiles::sqlite::{FileSelection, Query, Sqlite};
use packvault::{Error, ErrorKind, Result};

/// What the user has said of an archive.
#[derive(Debug, Clone, Default)]
pub struct SqliteParts {
    /// The database, as a path from here.
    pub database: PathBuf,
    /// Patterns of the files that are taken.
    pub files: Vec<String>,
    /// Patterns of those that are not.
    pub exclude: Vec<String>,
    /// Patterns of those that may hold secrets.
    pub secrets: Vec<String>,
    /// Those of the patterns that may match nothing.
    pub optional: Vec<String>,
    /// A query for each name.
    pub stats: BTreeMap<String, String>,
}

/// An archive, ready to be captured.
#[derive(Debug, Clone)]
pub struct SqliteArchive {
    /// Where its parts lie.
    pub paths: ArchivePaths,
    /// What is known of it.
    pub profile: Sqlite,
}

impl SqliteArchive {
    /// Makes the archive; `cache` is a folder of packvault's own.
    pub fn new(home: &Path, parts: SqliteParts, cache: PathBuf) -> Result<Self> {
        let selection = FileSelection::new(&parts.files, &parts.exclude, &parts.secrets)?;
        let selection = selection.with_optional(&parts.optional)?;
        let queries: Vec<Query> = parts.stats.into_iter().map(|(name, sql)| Query { name, sql }).collect();
        let name = name_below(home, &parts.database)?;
        let paths = ArchivePaths {
            home: home.to_path_buf(),
            database: parts.database,
            // These applications have neither: their files travel as extra files.
            content: home.to_path_buf(),
            config: home.to_path_buf(),
        };
        Ok(Self { paths, profile: Sqlite::new(&name, selection, queries, cache)? })
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
