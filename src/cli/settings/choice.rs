//! Which repository the user means, and how it is opened: who wins where several say it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use packvault::location::{CloudOptions, Opening, Purpose};
use packvault::profiles::msgvault;
use packvault::progress::Progress;
use packvault::{Cancel, Error, Location, Result};

use super::archive::Archive;
use super::repository::{self, RepositoryChoice, RepositorySection};
use super::{Settings, given, usage};

/// The zstd level where nobody says otherwise.
const ZSTD_LEVEL_DEFAULT: i32 = 3;

/// Bytes of packs that may wait for their upload where nobody says otherwise.
const SPOOL_BYTES_MAX: u64 = 4 << 30;

impl Settings {
    /// Returns the repository the user means, by the first of: `--repo`, `PACKVAULT_REPO`, the archive's
    /// section, `default_repository`, and msgvault's own configuration.
    pub fn repository(&self, flag: Option<&str>, archive: Option<&Archive>) -> Result<RepositoryChoice> {
        let typed = match flag {
            Some(flag) => Some(("--repo", flag)),
            None => self.environment.typed_repository()?.map(|typed| ("PACKVAULT_REPO", typed)),
        };
        if let Some((place, typed)) = typed {
            let choice = self.repository_named(place, typed)?;
            return Ok(RepositoryChoice { is_from_environment: flag.is_none(), ..choice });
        }
        let section = archive.and_then(|archive| {
            let key = || match &archive.name {
                Some(name) => format!("archive.{name}.repository"),
                None => "repository".to_owned(),
            };
            Some((key(), archive.section.as_ref()?.common.repository.as_deref()?))
        });
        let default = || Some(("default_repository".to_owned(), self.file.default_repository.as_deref()?));
        if let Some((key, configured)) = section.or_else(default) {
            return match self.file.repository.get(configured) {
                Some(section) => self.configured_repository(configured, section),
                None => {
                    self.expect_sound(configured)?;
                    let location = self.configured_location(configured, &key)?;
                    Ok(RepositoryChoice { location, section: None, is_from_environment: false })
                }
            };
        }
        if let Some(problem) = &self.problem {
            return Err(usage(problem.clone()));
        }
        let location = self.own_repository(archive)?.ok_or_else(|| self.no_repository_given())?;
        Ok(RepositoryChoice { location, section: None, is_from_environment: false })
    }

    /// Returns the repository that a flag or a variable of this name says: a name from the configuration, or a
    /// location.
    pub fn repository_named(&self, place: &'static str, typed: &str) -> Result<RepositoryChoice> {
        if let Some(section) = self.file.repository.get(typed) {
            return self.configured_repository(typed, section);
        }
        self.expect_sound(typed)?;
        let location = given::location(typed, place, self.user_home(), &self.repository_names())?;
        Ok(RepositoryChoice { location, section: None, is_from_environment: false })
    }

    /// Returns the other places of the archives whose snapshots lie in this repository, as the configuration names them.
    pub fn copies_of(&self, choice: &RepositoryChoice) -> Vec<String> {
        let is_here = |name: &str| {
            let named = self.repository_named("copies", name);
            named.is_ok_and(|named| named.location.settled_place() == choice.location.settled_place())
        };
        let mut found: Vec<String> = Vec::new();
        for section in self.file.archive.values() {
            let places: Vec<&String> =
                section.common.repository.iter().chain(&section.common.copies).collect();
            if places.iter().any(|name| is_here(name)) {
                found.extend(places.into_iter().filter(|name| !is_here(name)).cloned());
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// Returns the zstd level: the flag's, the archive section's, the application's own, or 3.
    pub fn zstd_level(flag: Option<i32>, archive: &Archive) -> i32 {
        let section = archive.section.as_ref().and_then(|section| section.common.zstd_level);
        flag.or(section).or(archive.known.zstd_level()).unwrap_or(ZSTD_LEVEL_DEFAULT)
    }

    /// Tells whether a section of the configuration says that this client removes nothing at that place.
    pub fn is_append_only(&self, location: &Location) -> bool {
        let here = |(name, section): (&String, &RepositorySection)| {
            let configured = self.configured_repository(name, section).map(|choice| choice.location);
            section.append_only && configured.is_ok_and(|configured| configured.is_same_place(location))
        };
        self.file.repository.iter().any(here)
    }

    /// Returns where the repository lies, with all that settings say of its server; fetches secrets.
    pub fn located(&self, choice: &RepositoryChoice, cancel: &Cancel) -> Result<Location> {
        let mut location = choice.location.clone();
        match (&mut location, &choice.section) {
            (Location::S3(place), Some(section)) => *place.options = section.s3(&self.environment, cancel)?,
            (Location::S3(place), None) => *place.options = self.environment.s3(None, cancel)?,
            (Location::Sftp(place), section) => {
                place.options = section.clone().unwrap_or_default().sftp();
            }
            (Location::Cloud(place), _) => {
                let (variables, home) = (self.environment.clouds.clone(), self.environment.home.clone());
                place.options = CloudOptions { variables, home };
            }
            _ => {}
        }
        Ok(location)
    }

    /// Returns how the repository is opened, as far as settings say.
    pub fn opening(
        &self,
        choice: &RepositoryChoice,
        purpose: Purpose,
        cancel: Cancel,
        progress: Arc<dyn Progress>,
    ) -> Result<Opening> {
        let section = choice.section.clone().unwrap_or_default();
        let spool = match &section.spool {
            Some(spool) => {
                let spool = self.configured_path(spool, "a spool")?;
                given::refuse_in_repository(&spool, "spool")?;
                spool
            }
            None => self.spool(),
        };
        Ok(Opening {
            purpose,
            timeout: section.timeout_seconds.map(Duration::from_secs),
            upload_max: section.limit_upload.map(|size| size.0),
            download_max: section.limit_download.map(|size| size.0),
            spool,
            spool_bytes_max: section.spool_size.map_or(SPOOL_BYTES_MAX, |size| size.0),
            memory: self.cache().map(|cache| cache.join("servers")),
            cancel,
            progress,
            retried: Arc::default(),
        })
    }

    /// Tells whether the configuration says that the repository must be encrypted: for all, or for this one.
    pub fn requires_encryption(&self, choice: &RepositoryChoice) -> bool {
        let of_section = choice.section.as_ref().and_then(|section| section.encryption);
        of_section.or(self.file.encryption).is_some()
    }

    /// Returns the repository that the application itself names: that of the archive, or else msgvault's.
    fn own_repository(&self, archive: Option<&Archive>) -> Result<Option<Location>> {
        let path = match (archive, self.msgvault_home()) {
            (Some(archive), _) => archive.known.repository(&self.expand())?,
            (None, Ok(home)) => msgvault::repository_of(&home, &self.expand())?,
            (None, Err(_)) => None,
        };
        Ok(path.map(Location::Local))
    }

    fn configured_repository(&self, name: &str, section: &RepositorySection) -> Result<RepositoryChoice> {
        let location = self.configured_location(&section.location, &format!("repository.{name}.location"))?;
        Ok(RepositoryChoice { location, section: Some(section.clone()), is_from_environment: false })
    }

    /// Returns the location a configuration file names: a URL, or a path that means the same from everywhere.
    fn configured_location(&self, text: &str, key: &str) -> Result<Location> {
        let file = self.path.as_deref().unwrap_or(Path::new(super::CONFIG_FILE)).display();
        let wrong = |why: String| usage(format!("{file}: {key}: {why}"));
        if text == "~" || text.starts_with("~/") {
            return Ok(Location::Local(self.configured_path(text, "a repository")?));
        }
        let takes_names = !key.ends_with(".location");
        if takes_names && Location::is_bare_word(text) {
            return Err(wrong(given::unknown_name("repository", text, &self.repository_names())));
        }
        match Location::parse(text).map_err(|error| wrong(error.to_string()))? {
            Location::Local(path) if path.is_relative() => Err(wrong(repository::IS_RELATIVE.to_owned())),
            location => Ok(location),
        }
    }

    fn repository_names(&self) -> Vec<&str> {
        self.file.repository.keys().map(String::as_str).collect()
    }

    fn no_repository_given(&self) -> Error {
        let file = match &self.path {
            Some(path) => format!(" or as default_repository in {}", path.display()),
            None => String::new(),
        };
        usage(format!("no repository given: name it with --repo, in PACKVAULT_REPO{file}"))
    }
}
