//! An archive of one kind on this machine: how a configuration describes it, and what follows from that.
//!
//! [`KnownArchive`] stands beside [`Profile`]: the one says where an archive lies, the other what is special about
//! its application. The user's home folder and packvault's own folders are handed in, for the library knows neither.

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::Result;
use crate::archive::profile::{ArchivePaths, Profile};
use crate::archive::target::LiveHome;

/// Returns the path that a text stands for: a leading `~` is the user's home folder.
pub type ExpandHome<'a> = &'a dyn Fn(&str) -> Result<PathBuf>;

/// How somebody came to name an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// Nobody named it: it is the one that this user has.
    Usual,
    /// By its home, or by a name that the configuration has for it.
    Given,
    /// The same, and only its place is asked for: its home may be gone, and its own configuration broken.
    ToRead,
}

/// Where an archive is said to be.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// Its home folder.
    pub home: &'a Path,
    /// How it was named.
    pub named: Named,
    /// Expands paths that somebody wrote.
    pub expand: ExpandHome<'a>,
    /// A folder of packvault's own, for page hashes.
    pub cache: &'a Path,
}

/// An archive of a kind that packvault knows.
pub trait KnownArchive: Debug + Clone + Send + Sync + 'static {
    /// The name of its profile, in configuration files and in statistics.
    const NAME: &'static str;

    /// The keys that a section of the configuration has for this kind alone.
    const KEYS: &'static [&'static str] = &[];

    /// Whether the name of the database file tells one application from another.
    const IS_KNOWN_BY_ITS_FILE: bool = false;

    /// What those keys say.
    type Keys: Debug + Clone + Default + DeserializeOwned;

    /// Returns the name of a key that is missing.
    fn missing_key(_keys: &Self::Keys) -> Option<&'static str> {
        None
    }

    /// Makes the archive that lies in a place; nothing of it is opened but its own configuration.
    fn at(place: &Place<'_>, keys: &Self::Keys) -> Result<Self>;

    /// Returns where else than in a home an archive there is in use; what cannot be read says nothing.
    fn elsewhere(_home: &Path, _expand: ExpandHome<'_>) -> Vec<LiveHome> {
        Vec::new()
    }

    /// Returns what is known of the application that recorded these statistics.
    fn of_stats(stats: &str) -> Result<Arc<dyn Profile>>;

    /// Returns where the parts of the archive lie.
    fn paths(&self) -> ArchivePaths;

    /// Returns what is known of its application.
    fn profile(&self) -> Arc<dyn Profile>;

    /// Returns where the application itself says that its backups go.
    fn repository(&self, _expand: ExpandHome<'_>) -> Result<Option<PathBuf>> {
        Ok(None)
    }

    /// Returns the zstd level that the application itself says.
    fn zstd_level(&self) -> Option<i32> {
        None
    }
}
