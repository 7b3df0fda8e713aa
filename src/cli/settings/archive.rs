//! An archive to back up, and which one the user means: a name from the configuration, a folder, or what flags
//! describe.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use packvault::archive::profile::{ArchivePaths, Profile};
use packvault::archive::target::LiveHome;
use packvault::engine::create::Reread;
use packvault::profiles;
use packvault::profiles::archive::{KnownArchive as _, Named, Place};
use packvault::profiles::msgvault::{MsgvaultArchive, MsgvaultKeys};
use packvault::profiles::sqlite::{SqliteArchive, SqliteKeys};
use packvault::repo::notes::ArchiveIdentity;
use packvault::{Error, ErrorKind, Location, Result};
use serde::Deserialize;

use super::super::application::Hooks;
use super::super::keep::Keep;
use super::super::text::ByteSize;
use super::file::ArchiveSection;
use super::{Settings, given, usage};

/// How many of the files are read that did not change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RereadChoice {
    /// Every one
    All,
    /// One thirtieth, or one for each day since the last
    #[default]
    Share,
    /// None
    None,
}

impl From<RereadChoice> for Reread {
    fn from(choice: RereadChoice) -> Self {
        match choice {
            RereadChoice::All => Self::All,
            RereadChoice::Share => Self::Share,
            RereadChoice::None => Self::None,
        }
    }
}

/// An archive to back up.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its home folder.
    pub home: PathBuf,
    /// Its name in the configuration, if it has one.
    pub name: Option<String>,
    pub(super) section: Option<ArchiveSection>,
    /// What its kind of application makes of that.
    pub(super) known: profiles::Archive,
}

impl Archive {
    /// Returns what packvault knows of its kind of application.
    pub fn profile(&self) -> Arc<dyn Profile> {
        self.known.profile()
    }

    /// Returns the programs that run around a backup; `name` is what the user calls the archive.
    pub fn hooks(&self, name: String) -> Hooks {
        let common = self.section.as_ref().map(|section| &section.common);
        common.map_or_else(Hooks::default, |common| Hooks {
            archive: name,
            before: common.before.clone(),
            after: common.after.clone(),
            hold: common.hold,
        })
    }

    /// Returns what is kept of its snapshots, as far as the configuration says.
    pub fn keep(&self) -> Keep {
        self.section.as_ref().map(|section| section.common.keep.clone()).unwrap_or_default()
    }

    /// Returns for how many seconds writers may be held off, as far as the configuration says.
    pub fn max_hold(&self) -> Option<NonZeroU32> {
        self.section.as_ref()?.common.max_hold
    }

    /// Returns whether the source is checked, as far as the configuration says.
    pub fn check_source(&self) -> Option<bool> {
        self.section.as_ref()?.common.check_source
    }

    /// Returns how many of the files that did not change are read, as far as the configuration says.
    pub fn reread(&self) -> Option<RereadChoice> {
        self.section.as_ref()?.common.reread
    }

    /// Returns by how much the WAL may grow, as far as the configuration says.
    pub fn max_wal_growth(&self) -> Option<ByteSize> {
        self.section.as_ref()?.common.max_wal_growth
    }

    /// Returns whether secrets may go into a repository that is not encrypted, as the configuration says.
    pub fn allows_plaintext_secrets(&self) -> bool {
        self.section.as_ref().is_some_and(|section| section.common.allow_plaintext_secrets)
    }

    /// Returns where its snapshots are copied to: names of repositories, or locations.
    pub fn copies(&self) -> &[String] {
        self.section.as_ref().map_or(&[], |section| &section.common.copies)
    }

    /// Returns what tells this archive from others.
    pub fn identity(&self) -> ArchiveIdentity {
        let ArchivePaths { home, database, .. } = self.paths();
        ArchiveIdentity {
            profile: self.profile().name().to_owned(),
            name: self.name.clone(),
            home: resolved(&home),
            database: resolved(&database),
            tables: Vec::new(),
        }
    }

    /// Returns where the parts of the archive lie.
    pub fn paths(&self) -> ArchivePaths {
        self.known.paths()
    }
}

impl Settings {
    /// Returns the archive the user means: a name from the configuration, a folder, or msgvault's own home.
    pub fn archive(&self, given: Option<&Path>) -> Result<Archive> {
        let Some(given) = given else {
            return self.archive_at(self.msgvault_home()?, Named::Usual, None);
        };
        if let Some((name, section)) = given.to_str().and_then(|given| self.file.archive.get_key_value(given))
        {
            return self.configured_archive(name, section, Named::Given);
        }
        self.expect_sound(&given.to_string_lossy())?;
        self.archive_at(self.existing_folder(given)?, Named::Given, None)
    }

    fn configured_archive(&self, name: &str, section: &ArchiveSection, named: Named) -> Result<Archive> {
        let home = self.configured_path(&section.common.home, "the home of an archive")?;
        self.archive_at(home, named, Some((name, section)))
    }

    fn archive_at(
        &self,
        home: PathBuf,
        named: Named,
        configured: Option<(&str, &ArchiveSection)>,
    ) -> Result<Archive> {
        let (expand, cache) = (self.expand(), self.page_hash_cache());
        let place = Place { home: &home, named, expand: &expand, cache: &cache };
        let known = match configured {
            Some((_, section)) => section.keys.archive_at(&place)?,
            None => profiles::Archive::Msgvault(MsgvaultArchive::at(&place, &MsgvaultKeys::default())?),
        };
        let (name, section) = configured.map(|(name, section)| (name.to_owned(), section.clone())).unzip();
        Ok(Archive { home, name, section, known })
    }

    /// Returns the archive that flags describe: a database, and files below a home.
    pub fn described_archive(&self, home: Option<&Path>, keys: SqliteKeys) -> Result<Archive> {
        let database = keys.database.as_deref().unwrap_or(Path::new(""));
        given::refuse_tilde(database, "--database", self.user_home())?;
        let home = match home {
            Some(home) => self.existing_folder(home)?,
            None => match database.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => parent.to_path_buf(),
                None => PathBuf::from("."),
            },
        };
        let known = SqliteArchive::new(&home, &keys, &self.page_hash_cache())?;
        Ok(Archive { home, name: None, section: None, known: profiles::Archive::Sqlite(known) })
    }

    /// Returns the folder in which page hashes of applications are kept that must not find anything of ours.
    fn page_hash_cache(&self) -> PathBuf {
        self.cache().unwrap_or_else(|| self.spool()).join("page-hashes")
    }

    /// Returns the folder in which it is kept what files were like; none where this user has no home.
    ///
    /// It lies in that of the page hashes, which no selection takes.
    pub fn file_memory(&self) -> Option<PathBuf> {
        self.cache().map(|_| self.page_hash_cache().join("files"))
    }

    /// Returns the folders of every archive this user is known to have: those of the configuration, and
    /// msgvault's own. A restore must not write into one that is in use.
    ///
    /// An archive whose own configuration cannot be read counts with its home alone: a restore is often
    /// wanted just when an archive is broken.
    pub fn known_homes(&self) -> Vec<LiveHome> {
        let configured = self.file.archive.values().map(|section| &section.common.home);
        let configured = configured.chain(&self.file.other_homes);
        let configured = configured.map(|home| self.configured_path(home, "the home of an archive"));
        let homes: Vec<PathBuf> = configured.chain([self.msgvault_home()]).flatten().collect();
        let elsewhere = homes.iter().flat_map(|home| profiles::elsewhere(home, &self.expand()));
        let elsewhere: Vec<LiveHome> = elsewhere.collect();
        homes.into_iter().map(LiveHome::from).chain(elsewhere).collect()
    }

    /// Returns the archive of that name, of which nothing but where its snapshots are is wanted: its home may
    /// be gone, and its own configuration broken.
    pub fn archive_to_read(&self, name: &str) -> Result<Archive> {
        let Some(section) = self.file.archive.get(name) else {
            self.expect_sound(name)?;
            return Err(usage(given::unknown_name("archive", name, &self.archive_names())));
        };
        self.configured_archive(name, section, Named::ToRead)
    }

    /// Returns whose the folders are that the configuration names; what is wrong in it is passed over.
    pub fn known_archives(&self) -> Vec<(PathBuf, ArchiveIdentity)> {
        let known = self
            .file
            .archive
            .iter()
            .filter_map(|(name, section)| self.configured_archive(name, section, Named::ToRead).ok());
        let folders = known.flat_map(|archive| {
            let identity = archive.identity();
            [(archive.home.clone(), identity.clone()), (archive.paths().home, identity)]
        });
        folders.collect()
    }

    /// Returns msgvault's home folder, whether or not it exists.
    pub(super) fn msgvault_home(&self) -> Result<PathBuf> {
        match (&self.environment.msgvault_home, &self.environment.home) {
            (Some(home), _) => match home.to_str() {
                Some(text) => self.expand()(text),
                None => Ok(home.clone()),
            },
            (None, Some(home)) => Ok(home.join(".msgvault")),
            (None, None) => Err(usage("no archive given, and neither MSGVAULT_HOME nor HOME is set")),
        }
    }

    /// Returns the names of the archives of the configuration.
    pub fn archive_names(&self) -> Vec<&str> {
        self.file.archive.keys().map(String::as_str).collect()
    }

    fn existing_folder(&self, path: &Path) -> Result<PathBuf> {
        if path.is_dir() {
            return Ok(path.to_path_buf());
        }
        given::refuse_tilde(path, "the archive", self.user_home())?;
        let text = path.to_string_lossy();
        let message = match text.contains('/') && !Location::may_hold_secret(&text) {
            true => {
                format!("no archive {}: neither a name from the configuration nor a folder", path.display())
            }
            false if Location::is_bare_word(&text) => {
                let unknown = given::unknown_name("archive", &text, &self.archive_names());
                format!("{unknown}; nor is there a folder of that name")
            }
            false => {
                "an archive is a name from the configuration, or a folder; a repository is named with --repo"
                    .to_owned()
            }
        };
        Err(Error::new(ErrorKind::NotFound, message))
    }
}

/// Returns the path without links as far as it exists, for people and comparisons.
fn resolved(path: &Path) -> String {
    let resolved = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    resolved.unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}
