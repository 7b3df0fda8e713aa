//! Where an archive of msgvault lies: in its home, or where its own configuration says.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::config::{CONFIG_BYTES_MAX, CONFIG_FILE, Locations, MsgvaultConfig};
use super::{DATABASE_NAME, Msgvault, NAME};
use crate::archive::profile::{ArchivePaths, CONTENT_NAME, Profile};
use crate::archive::target::LiveHome;
use crate::profiles::archive::{ExpandHome, KnownArchive, Named, Place};
use crate::{Error, ErrorKind, Result, plain_file};

/// An archive of msgvault on this machine.
#[derive(Debug, Clone)]
pub struct MsgvaultArchive {
    home: PathBuf,
    locations: Locations,
    config: MsgvaultConfig,
}

/// A section has no keys for msgvault alone: all else stands in msgvault's own configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MsgvaultKeys {}

impl KnownArchive for MsgvaultArchive {
    const NAME: &'static str = NAME;

    type Keys = MsgvaultKeys;

    fn at(place: &Place<'_>, _: &MsgvaultKeys) -> Result<Self> {
        let Place { home, expand, .. } = *place;
        let config = match place.named {
            Named::ToRead => read_config(home).ok().flatten(),
            Named::Usual | Named::Given => read_config(home)?,
        };
        let config = config.unwrap_or_default();
        let locations = match place.named {
            Named::Usual => config.locations(home, expand)?,
            Named::Given | Named::ToRead => config.locations_of_given(home, expand)?,
        };
        Ok(Self { home: home.to_owned(), locations, config })
    }

    fn elsewhere(home: &Path, expand: ExpandHome<'_>) -> Vec<LiveHome> {
        let config = read_config(home).ok().flatten();
        let Some(Ok(locations)) = config.map(|config| config.locations(home, expand)) else {
            return Vec::new();
        };
        let Locations { data_dir, database, .. } = locations;
        // A database that lies apart would be replaced under the daemon of its data folder.
        let replaced = (database.file_name() == Some(OsStr::new(DATABASE_NAME))).then_some(database);
        let apart = replaced.and_then(|database| {
            Some(LiveHome { folder: database.parent()?.to_owned(), owner: data_dir.clone() })
        });
        apart.into_iter().chain([LiveHome::from(data_dir)]).collect()
    }

    fn of_stats(_: &str) -> Result<Arc<dyn Profile>> {
        Ok(Arc::new(Msgvault))
    }

    fn paths(&self) -> ArchivePaths {
        let Locations { config_file, data_dir, database } = self.locations.clone();
        ArchivePaths { content: data_dir.join(CONTENT_NAME), home: data_dir, database, config: config_file }
    }

    fn profile(&self) -> Arc<dyn Profile> {
        Arc::new(Msgvault)
    }

    fn repository(&self, expand: ExpandHome<'_>) -> Result<Option<PathBuf>> {
        self.config.repository(&self.home, expand)
    }

    fn zstd_level(&self) -> Option<i32> {
        self.config.backup_zstd_level
    }
}

/// Returns where the msgvault in this home keeps its backups, if it says so.
pub fn repository_of(home: &Path, expand: ExpandHome<'_>) -> Result<Option<PathBuf>> {
    read_config(home)?.unwrap_or_default().repository(home, expand)
}

/// Reads msgvault's own configuration in its home; `None` where there is none.
fn read_config(home: &Path) -> Result<Option<MsgvaultConfig>> {
    let path = home.join(CONFIG_FILE);
    let text = match plain_file::read_text(&path, CONFIG_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let message = format!("cannot read the configuration {}", path.display());
            return Err(Error::caused(ErrorKind::Usage, message, error));
        }
    };
    let parsed = MsgvaultConfig::parse(&text);
    parsed.map(Some).map_err(|error| {
        let message = format!("cannot use {}", path.display());
        Error::caused(error.kind(), message, error)
    })
}
