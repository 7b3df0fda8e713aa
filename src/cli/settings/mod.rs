//! What the user has settled beforehand: packvault's configuration file and the environment, and how a
//! command finds its repository and its archive from them.
//!
//! No other folder takes settings from the environment. A key this version does not know is refused: a backup
//! must not silently do other than what its configuration says. A command that needs nothing of what is wrong
//! goes on, and says so.

pub mod given;
mod mistake;
mod places;
mod repository;
mod salvage;
mod secret;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use packvault::archive::profile::{ArchivePaths, Profile};
use packvault::archive::target::LiveHome;
use packvault::location::{CloudOptions, Opening, Purpose, S3Options};
use packvault::profiles::msgvault::config::{CONFIG_FILE, Locations, MsgvaultConfig, expand_home};
use packvault::profiles::msgvault::{CONTENT_NAME, DATABASE_NAME, Msgvault};
use packvault::progress::Progress;
use packvault::repo::notes::ArchiveIdentity;
use packvault::{Cancel, Error, ErrorKind, Location, Result};
use serde::Deserialize;

use super::application::{Hold, Hooks};
pub use repository::RepositoryChoice;
use repository::RepositorySection;

use super::sqlite_archive::{SqliteArchive, SqliteParts};
use super::text::ByteSize;

/// The zstd level where nobody says otherwise.
const ZSTD_LEVEL_DEFAULT: i32 = 3;

/// Bytes of packs that may wait for their upload where nobody says otherwise.
const SPOOL_BYTES_MAX: u64 = 4 << 30;

/// The environment, as far as it settles anything; an empty variable counts as unset.
#[derive(Clone, Default)]
pub struct Environment {
    /// `HOME`: what `~` stands for.
    pub home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub cache_home: Option<PathBuf>,
    /// `PACKVAULT_CONFIG`.
    pub config_file: Option<PathBuf>,
    /// `PACKVAULT_REPO`.
    pub repository: Option<OsString>,
    /// `MSGVAULT_HOME`.
    pub msgvault_home: Option<PathBuf>,
    /// Every variable that begins with `AWS_`, as Amazon's own tools have them.
    pub aws: HashMap<String, String>,
    /// Every variable that begins with `AZURE_STORAGE_` or `GOOGLE_`, as those clouds' own tools have them.
    pub clouds: HashMap<String, String>,
}

/// Shows the names of variables that may hold secrets, and not their values.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: BTreeSet<&String> = self.aws.keys().chain(self.clouds.keys()).collect();
        let mut shown = f.debug_struct("Environment");
        shown.field("home", &self.home).field("config_file", &self.config_file);
        shown.field("secrets", &names).finish_non_exhaustive()
    }
}

/// The configuration file and the environment, read and checked.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    environment: Environment,
    /// Where the configuration is, or would be.
    path: Option<PathBuf>,
    file: ConfigFile,
    /// What is wrong with the file; the rest of it is used.
    problem: Option<String>,
}

/// An archive to back up.
#[derive(Debug, Clone)]
pub struct Archive {
    /// Its home folder.
    pub home: PathBuf,
    /// Where its parts lie.
    pub locations: Locations,
    /// The application's own configuration.
    pub config: MsgvaultConfig,
    /// Its name in the configuration, if it has one.
    pub name: Option<String>,
    section: Option<ArchiveSection>,
    sqlite: Option<SqliteArchive>,
}

/// A kind of application that packvault knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProfileKind {
    /// The e-mail and message archive.
    #[default]
    Msgvault,
    /// Any application with one SQLite database.
    Sqlite,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    default_repository: Option<String>,
    #[serde(default)]
    repository: BTreeMap<String, RepositorySection>,
    #[serde(default)]
    archive: BTreeMap<String, ArchiveSection>,
    /// The homes of archives whose sections are wrong otherwise: a restore keeps out of them all the same.
    #[serde(skip)]
    other_homes: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArchiveSection {
    #[serde(default)]
    profile: ProfileKind,
    home: String,
    repository: Option<String>,
    zstd_level: Option<i32>,
    check_source: Option<bool>,
    max_wal_growth: Option<ByteSize>,
    #[serde(default)]
    before: Vec<String>,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    hold: Hold,
    max_hold: Option<NonZeroU32>,
    #[serde(default)]
    allow_plaintext_secrets: bool,
    database: Option<String>,
    #[serde(default)]
    files: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    #[serde(default)]
    secrets: Vec<String>,
    #[serde(default)]
    optional: Vec<String>,
    #[serde(default)]
    stats: BTreeMap<String, String>,
}

impl ArchiveSection {
    /// Returns the name of a key that this kind of archive does not have, or lacks.
    fn misplaced_key(&self) -> Option<&'static str> {
        let has = [
            ("database", self.database.is_some()),
            ("files", !self.files.is_empty()),
            ("exclude", !self.exclude.is_empty()),
            ("secrets", !self.secrets.is_empty()),
            ("optional", !self.optional.is_empty()),
            ("stats", !self.stats.is_empty()),
        ];
        match self.profile {
            ProfileKind::Msgvault => has.iter().find(|(_, is_there)| *is_there).map(|(key, _)| *key),
            ProfileKind::Sqlite => self.database.is_none().then_some("database"),
        }
    }
}

impl Archive {
    /// Returns what packvault knows of its kind of application.
    pub fn implementation(&self) -> Arc<dyn Profile> {
        match &self.sqlite {
            Some(sqlite) => Arc::new(sqlite.profile.clone()),
            None => Arc::new(Msgvault),
        }
    }

    /// Returns the programs that run around a backup; `name` is what the user calls the archive.
    pub fn hooks(&self, name: String) -> Hooks {
        let section = self.section.as_ref();
        section.map_or_else(Hooks::default, |section| Hooks {
            archive: name,
            before: section.before.clone(),
            after: section.after.clone(),
            hold: section.hold,
        })
    }

    /// Returns for how many seconds writers may be held off, as far as the configuration says.
    pub fn max_hold(&self) -> Option<NonZeroU32> {
        self.section.as_ref()?.max_hold
    }

    /// Returns whether the source is checked, as far as the configuration says.
    pub fn check_source(&self) -> Option<bool> {
        self.section.as_ref()?.check_source
    }

    /// Returns by how much the WAL may grow, as far as the configuration says.
    pub fn max_wal_growth(&self) -> Option<ByteSize> {
        self.section.as_ref()?.max_wal_growth
    }

    /// Returns whether secrets may go into a repository that is not encrypted, as the configuration says.
    pub fn allows_plaintext_secrets(&self) -> bool {
        self.section.as_ref().is_some_and(|section| section.allow_plaintext_secrets)
    }

    /// Returns what tells this archive from others.
    pub fn identity(&self) -> ArchiveIdentity {
        let ArchivePaths { home, database, .. } = self.paths();
        ArchiveIdentity {
            profile: self.implementation().name().to_owned(),
            name: self.name.clone(),
            home: resolved(&home),
            database: resolved(&database),
            tables: Vec::new(),
        }
    }

    /// Returns where the parts of the archive lie.
    pub fn paths(&self) -> ArchivePaths {
        if let Some(sqlite) = &self.sqlite {
            return sqlite.paths.clone();
        }
        ArchivePaths {
            home: self.locations.data_dir.clone(),
            database: self.locations.database.clone(),
            content: self.locations.data_dir.join(CONTENT_NAME),
            config: self.locations.config_file.clone(),
        }
    }
}

impl Environment {
    /// Reads the environment of this process.
    pub fn read() -> Self {
        let path = |name| variable(name).map(PathBuf::from);
        Self {
            home: path("HOME"),
            // A relative folder there is invalid by the XDG specification, and to be ignored.
            config_home: path("XDG_CONFIG_HOME").filter(|path| path.is_absolute()),
            cache_home: path("XDG_CACHE_HOME").filter(|path| path.is_absolute()),
            config_file: path("PACKVAULT_CONFIG"),
            repository: variable("PACKVAULT_REPO"),
            msgvault_home: path("MSGVAULT_HOME"),
            aws: variables(&["AWS_"]),
            clouds: variables(if cfg!(feature = "opendal") { &["AZURE_STORAGE_", "GOOGLE_"] } else { &[] }),
        }
    }

    /// Returns what `PACKVAULT_REPO` says.
    fn typed_repository(&self) -> Result<Option<&str>> {
        match &self.repository {
            Some(value) => value.to_str().map(Some).ok_or_else(|| usage("PACKVAULT_REPO is not valid UTF-8")),
            None => Ok(None),
        }
    }
}

fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Returns every variable whose name begins in one of these ways.
fn variables(beginnings: &[&str]) -> HashMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| beginnings.iter().any(|beginning| name.starts_with(beginning)))
        .collect()
}

impl Settings {
    /// Reads the configuration file the environment names, or the one in its usual place if there is one.
    ///
    /// What is wrong with it is kept, and stops what needs it.
    pub fn load(environment: Environment) -> Self {
        let usual = || {
            let folder = environment.config_home.clone();
            let folder = folder.or_else(|| environment.home.as_ref().map(|home| home.join(".config")))?;
            Some(folder.join("packvault").join("config.toml"))
        };
        let path = environment.config_file.clone().or_else(usual);
        let (file, problem) = match &path {
            Some(path) => read_config(path, environment.config_file.is_some()),
            None => (ConfigFile::default(), None),
        };
        Self { environment, path, file, problem: problem.map(|error| error.chain()) }
    }

    /// Returns what is wrong with the configuration.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Fails if the configuration is wrong where it may have said what a name stands for.
    fn expect_sound(&self, text: &str) -> Result<()> {
        match &self.problem {
            Some(problem) if may_be_a_name(text) => Err(usage(problem.clone())),
            _ => Ok(()),
        }
    }

    /// Returns the archive the user means: a name from the configuration, a folder, or msgvault's own home.
    pub fn archive(&self, given: Option<&Path>) -> Result<Archive> {
        let named = given.and_then(|given| self.file.archive.get_key_value(given.to_str()?));
        let (name, section) = named.map(|(name, section)| (name.clone(), section.clone())).unzip();
        if let (Some(name), Some(section)) = (&name, &section)
            && section.profile == ProfileKind::Sqlite
        {
            return self.sqlite_archive(name, section);
        }
        if let (None, Some(given)) = (&section, given) {
            self.expect_sound(&given.to_string_lossy())?;
        }
        let home = match (&section, given) {
            (Some(section), _) => self.configured_path(&section.home, "the home of an archive")?,
            (None, Some(given)) => self.existing_folder(given)?,
            (None, None) => self.msgvault_home()?,
        };
        let config = read_msgvault_config(&home)?.unwrap_or_default();
        let locations = match given {
            Some(_) => config.locations_of_given(&home, self.user_home())?,
            None => config.locations(&home, self.user_home())?,
        };
        Ok(Archive { home, locations, config, name, section, sqlite: None })
    }

    fn sqlite_archive(&self, name: &str, section: &ArchiveSection) -> Result<Archive> {
        let home = self.configured_path(&section.home, "the home of an archive")?;
        let database = expand_home(section.database.as_deref().unwrap_or_default(), self.user_home())?;
        let parts = SqliteParts {
            database: home.join(database),
            files: section.files.clone(),
            exclude: section.exclude.clone(),
            secrets: section.secrets.clone(),
            optional: section.optional.clone(),
            stats: section.stats.clone(),
        };
        self.archive_of(home, parts, Some((name.to_owned(), section.clone())))
    }

    /// Returns the archive that flags describe: a database, and files below a home.
    pub fn described_archive(&self, home: Option<&Path>, parts: SqliteParts) -> Result<Archive> {
        given::refuse_tilde(&parts.database, "--database", self.user_home())?;
        let home = match home {
            Some(home) => self.existing_folder(home)?,
            None => match parts.database.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                Some(parent) => parent.to_path_buf(),
                None => PathBuf::from("."),
            },
        };
        self.archive_of(home, parts, None)
    }

    fn archive_of(
        &self,
        home: PathBuf,
        parts: SqliteParts,
        section: Option<(String, ArchiveSection)>,
    ) -> Result<Archive> {
        let (name, section) = section.unzip();
        let sqlite = SqliteArchive::new(
            &home,
            parts,
            self.cache().unwrap_or_else(|| self.spool()).join("page-hashes"),
        )?;
        let config = MsgvaultConfig::default();
        let locations = Locations {
            config_file: home.join(CONFIG_FILE),
            data_dir: home.clone(),
            database: sqlite.paths.database.clone(),
        };
        Ok(Archive { home, locations, config, name, section, sqlite: Some(sqlite) })
    }

    /// Returns the repository the user means, by the first of: `--repo`, `PACKVAULT_REPO`, the archive's
    /// section, `default_repository`, and msgvault's own configuration.
    pub fn repository(&self, flag: Option<&str>, archive: Option<&Archive>) -> Result<RepositoryChoice> {
        let typed = match flag {
            Some(flag) => Some(("--repo", flag)),
            None => self.environment.typed_repository()?.map(|typed| ("PACKVAULT_REPO", typed)),
        };
        if let Some((place, typed)) = typed {
            return match self.file.repository.get(typed) {
                Some(section) => self.configured_repository(typed, section),
                None => {
                    self.expect_sound(typed)?;
                    let location = given::location(typed, place, self.user_home(), &self.repository_names())?;
                    Ok(RepositoryChoice { location, section: None })
                }
            };
        }
        let section = archive.and_then(|archive| {
            let key = || match &archive.name {
                Some(name) => format!("archive.{name}.repository"),
                None => "repository".to_owned(),
            };
            Some((key(), archive.section.as_ref()?.repository.as_deref()?))
        });
        let default = || Some(("default_repository".to_owned(), self.file.default_repository.as_deref()?));
        if let Some((key, configured)) = section.or_else(default) {
            return match self.file.repository.get(configured) {
                Some(section) => self.configured_repository(configured, section),
                None => {
                    self.expect_sound(configured)?;
                    let location = self.configured_location(configured, &key)?;
                    Ok(RepositoryChoice { location, section: None })
                }
            };
        }
        if let Some(problem) = &self.problem {
            return Err(usage(problem.clone()));
        }
        let location = self.msgvault_repository(archive)?.ok_or_else(|| self.no_repository_given())?;
        Ok(RepositoryChoice { location, section: None })
    }

    /// Returns the zstd level: the flag's, the archive section's, msgvault's, or 3.
    pub fn zstd_level(flag: Option<i32>, archive: &Archive) -> i32 {
        let section = archive.section.as_ref().and_then(|section| section.zstd_level);
        flag.or(section).or(archive.config.backup_zstd_level).unwrap_or(ZSTD_LEVEL_DEFAULT)
    }

    /// Returns the folders of every archive this user is known to have: those of the configuration, and
    /// msgvault's own. A restore must not write into one that is in use.
    ///
    /// An archive whose own configuration cannot be read counts with its home alone: a restore is often
    /// wanted just when an archive is broken.
    pub fn known_homes(&self) -> Vec<LiveHome> {
        let configured = self.file.archive.values().map(|section| &section.home);
        let configured = configured.chain(&self.file.other_homes);
        let configured = configured.map(|home| self.configured_path(home, "the home of an archive"));
        let homes: Vec<PathBuf> = configured.chain([self.msgvault_home()]).flatten().collect();
        let elsewhere = homes.iter().filter_map(|home| {
            let config = read_msgvault_config(home).ok()??;
            config.locations(home, self.user_home()).ok()
        });
        let elsewhere = elsewhere.flat_map(|locations| {
            let Locations { data_dir, database, .. } = locations;
            // A database that lies apart would be replaced under the daemon of its data folder.
            let replaced = (database.file_name() == Some(OsStr::new(DATABASE_NAME))).then_some(database);
            let apart = replaced.and_then(|database| {
                Some(LiveHome { folder: database.parent()?.to_owned(), owner: data_dir.clone() })
            });
            apart.into_iter().chain([LiveHome::from(data_dir)])
        });
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
        self.configured_archive(name, section)
    }

    fn configured_archive(&self, name: &str, section: &ArchiveSection) -> Result<Archive> {
        if section.profile == ProfileKind::Sqlite {
            return self.sqlite_archive(name, section);
        }
        let home = self.configured_path(&section.home, "the home of an archive")?;
        let config = read_msgvault_config(&home).ok().flatten().unwrap_or_default();
        let locations = config.locations_of_given(&home, self.user_home())?;
        let (name, section) = (Some(name.to_owned()), Some(section.clone()));
        Ok(Archive { home, locations, config, name, section, sqlite: None })
    }

    /// Returns whose the folders are that the configuration names; what is wrong in it is passed over.
    pub fn known_archives(&self) -> Vec<(PathBuf, ArchiveIdentity)> {
        let known = self
            .file
            .archive
            .iter()
            .filter_map(|(name, section)| self.configured_archive(name, section).ok());
        let folders = known.flat_map(|archive| {
            let identity = archive.identity();
            [(archive.home.clone(), identity.clone()), (archive.paths().home, identity)]
        });
        folders.collect()
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
        let s3 = match (&choice.location, &choice.section) {
            (Location::S3(_), Some(section)) => section.s3(&self.environment)?,
            (Location::S3(_), None) => self.environment.s3(None)?,
            _ => S3Options::default(),
        };
        let spool = match &section.spool {
            Some(spool) => self.configured_path(spool, "a spool")?,
            None => self.spool(),
        };
        Ok(Opening {
            purpose,
            s3,
            sftp: section.sftp(),
            cloud: CloudOptions {
                variables: self.environment.clouds.clone(),
                home: self.environment.home.clone(),
            },
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

    /// Returns packvault's own cache folder, which may not be there; none where this user has no home.
    pub fn cache(&self) -> Option<PathBuf> {
        let home_cache = || self.environment.home.as_ref().map(|home| home.join(".cache"));
        let cache = self.environment.cache_home.clone().or_else(home_cache);
        cache.map(|cache| cache.join("packvault"))
    }

    /// Returns the folder for bytes that do not fit in memory while a command runs: the cache, or where nothing
    /// can be made there one for temporary files.
    pub fn spool(&self) -> PathBuf {
        places::first_usable(self.cache(), places::temporary())
    }

    fn msgvault_repository(&self, archive: Option<&Archive>) -> Result<Option<Location>> {
        let (home, config) = match archive {
            Some(archive) => (archive.home.clone(), Some(archive.config.clone())),
            None => match self.msgvault_home() {
                Ok(home) => (home.clone(), read_msgvault_config(&home)?),
                Err(_) => return Ok(None),
            },
        };
        let path = config.unwrap_or_default().repository(&home, self.user_home())?;
        Ok(path.map(Location::Local))
    }

    /// Returns msgvault's home folder, whether or not it exists.
    fn msgvault_home(&self) -> Result<PathBuf> {
        match (&self.environment.msgvault_home, &self.environment.home) {
            (Some(home), _) => match home.to_str() {
                Some(text) => expand_home(text, self.user_home()),
                None => Ok(home.clone()),
            },
            (None, Some(home)) => Ok(home.join(".msgvault")),
            (None, None) => Err(usage("no archive given, and neither MSGVAULT_HOME nor HOME is set")),
        }
    }

    fn configured_repository(&self, name: &str, section: &RepositorySection) -> Result<RepositoryChoice> {
        let location = self.configured_location(&section.location, &format!("repository.{name}.location"))?;
        Ok(RepositoryChoice { location, section: Some(section.clone()) })
    }

    /// Returns the location a configuration file names: a URL, or a path that means the same from everywhere.
    fn configured_location(&self, text: &str, key: &str) -> Result<Location> {
        let file = self.path.as_deref().unwrap_or(Path::new(CONFIG_FILE)).display();
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

    /// Returns the names of the archives of the configuration.
    pub fn archive_names(&self) -> Vec<&str> {
        self.file.archive.keys().map(String::as_str).collect()
    }

    fn configured_path(&self, text: &str, noun: &str) -> Result<PathBuf> {
        let path = expand_home(text, self.user_home())?;
        if path.is_absolute() {
            return Ok(path);
        }
        let file = self.path.as_deref().unwrap_or(Path::new(CONFIG_FILE)).display();
        let message = format!("{file}: {text:?} is neither a name from it nor an absolute path of {noun}");
        Err(usage(message))
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

    /// Returns the home folder of the user, if it is known.
    pub fn user_home(&self) -> Option<&Path> {
        self.environment.home.as_deref()
    }

    fn no_repository_given(&self) -> Error {
        let file = match &self.path {
            Some(path) => format!(" or as default_repository in {}", path.display()),
            None => String::new(),
        };
        usage(format!("no repository given: name it with --repo, in PACKVAULT_REPO{file}"))
    }
}

/// Returns what the file says as far as it can be used, and the first thing that is wrong with it.
fn read_config(path: &Path, must_exist: bool) -> (ConfigFile, Option<Error>) {
    let text = match read_text(path, must_exist) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => return (ConfigFile::default(), Some(error)),
    };
    let parsed = toml::from_str::<ConfigFile>(&text).map_err(|error| {
        let (line, why) = mistake::of(&text, &error);
        usage(format!("{}, line {line}: {why}", path.display()))
    });
    let (mut file, problem) = match parsed {
        Ok(file) => (file, None),
        Err(error) => (salvage::usable(&text), Some(error)),
    };
    let refused = file.take_out_refused();
    let refused = refused.map(|why| usage(format!("{}: {why}", path.display())));
    (file, problem.or(refused))
}

/// Tells whether a text may be a name from the configuration: what has a slash in it is a path or a URL.
fn may_be_a_name(text: &str) -> bool {
    !text.contains('/') && text != "." && text != ".."
}

fn read_msgvault_config(home: &Path) -> Result<Option<MsgvaultConfig>> {
    let path = home.join(CONFIG_FILE);
    let Some(text) = read_text(&path, false)? else { return Ok(None) };
    let parsed = MsgvaultConfig::parse(&text);
    parsed.map(Some).map_err(|error| {
        let message = format!("cannot use {}", path.display());
        Error::caused(error.kind(), message, error)
    })
}

/// Returns the text of the file, or `None` where there is none and there need not be.
fn read_text(path: &Path, must_exist: bool) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !must_exist => Ok(None),
        Err(error) => {
            let message = format!("cannot read the configuration {}", path.display());
            Err(Error::caused(ErrorKind::Usage, message, error))
        }
    }
}

/// Returns the path without links as far as it exists, for people and comparisons.
fn resolved(path: &Path) -> String {
    let resolved = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    resolved.unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home folder of its own, with what the test writes into it.
    struct Home {
        folder: tempfile::TempDir,
        environment: Environment,
    }

    impl Home {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let environment =
                Environment { home: Some(folder.path().to_path_buf()), ..Environment::default() };
            Self { folder, environment }
        }

        fn write(self, path: &str, text: &str) -> Self {
            let path = self.folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
            self
        }

        fn config(self, text: &str) -> Self {
            self.write(".config/packvault/config.toml", text)
        }

        fn load(&self) -> Settings {
            Settings::load(self.environment.clone())
        }

        fn path(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn local(&self, path: &str) -> Location {
            Location::Local(self.path(path))
        }
    }

    const CONFIG: &str = "
        default_repository = 'usb'
        [repository.nas]
        location = '/mnt/nas/backup'
        [repository.usb]
        location = '~/usb'
        [archive.mail]
        home = '~/mail'
        repository = 'nas'
        zstd_level = 7
        [archive.chats]
        profile = 'msgvault'
        home = '/srv/chats'
    ";

    fn local(path: &str) -> Location {
        Location::Local(PathBuf::from(path))
    }

    #[test]
    fn without_any_file_the_environment_decides() {
        let mut home = Home::new();
        assert!(
            home.load().repository(None, None).unwrap_err().to_string().starts_with("no repository given")
        );
        home.environment.repository = Some("~/backup".into());
        // What is typed is the shell's business: no tilde is expanded here, and none makes a folder.
        let error = home.load().repository(None, None).unwrap_err().to_string();
        let meant = format!(
            "PACKVAULT_REPO: a `~` stands for no folder here: did you mean {}?",
            home.path("backup").display()
        );
        assert_eq!(error, meant);
    }

    #[test]
    fn the_repository_is_decided_from_the_flag_downwards() {
        let mut home = Home::new().config(CONFIG).write("mail/config.toml", "[backup]\nrepo = 'own'");
        let settings = home.load();
        let mail = settings.archive(Some(Path::new("mail"))).unwrap();
        let chats = settings.archive(Some(Path::new("chats"))).unwrap();
        assert_eq!(settings.repository(Some("./usb"), Some(&mail)).unwrap().location, local("./usb"));
        assert_eq!(settings.repository(Some("usb"), Some(&mail)).unwrap().location, home.local("usb"));
        assert_eq!(settings.repository(None, Some(&mail)).unwrap().location, local("/mnt/nas/backup"));
        assert_eq!(settings.repository(None, Some(&chats)).unwrap().location, home.local("usb"));
        assert_eq!(settings.repository(None, None).unwrap().location, home.local("usb"));
        home.environment.repository = Some("/elsewhere".into());
        assert_eq!(home.load().repository(None, Some(&mail)).unwrap().location, local("/elsewhere"));
        assert_eq!(
            home.load().repository(Some("nas"), Some(&mail)).unwrap().location,
            local("/mnt/nas/backup")
        );
    }

    #[test]
    fn msgvaults_own_repository_is_the_last_resort() {
        let mut home = Home::new().write(".msgvault/config.toml", "[backup]\nrepo = '~/own'");
        assert_eq!(home.load().repository(None, None).unwrap().location, home.local("own"));
        let archive = home.load().archive(None).unwrap();
        assert_eq!(home.load().repository(None, Some(&archive)).unwrap().location, home.local("own"));
        home = home.write("other/config.toml", "[backup]\nrepo = 'beside'");
        home.environment.msgvault_home = Some("~/other".into());
        assert_eq!(home.load().repository(None, None).unwrap().location, home.local("other/beside"));
    }

    #[test]
    fn an_archive_is_a_name_or_a_folder_or_msgvaults_home() {
        let home = Home::new().config(CONFIG).write("mail/config.toml", "[data]\ndata_dir = 'data'");
        let settings = home.load();
        let named = settings.archive(Some(Path::new("mail"))).unwrap();
        assert_eq!(named.home, home.path("mail"));
        assert_eq!(named.locations.database, home.path("mail/data/msgvault.db"));
        assert_eq!(settings.archive(Some(&home.path("mail"))).unwrap().locations, named.locations);
        assert_eq!(settings.archive(None).unwrap().home, home.path(".msgvault"));
        let error = settings.archive(Some(Path::new("mial"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let copy =
            home.write("copy/config.toml", "[data]\ndata_dir = '/elsewhere'").write("copy/msgvault.db", "");
        let found = settings.archive(Some(&copy.path("copy"))).unwrap().locations;
        assert_eq!((found.data_dir, found.database), (copy.path("copy"), copy.path("copy/msgvault.db")));
        let home = copy;
        assert!(settings.known_homes().contains(&home.path("mail/data").into()));
    }

    #[test]
    fn the_zstd_level_is_decided_from_the_flag_downwards() {
        let home = Home::new()
            .config(CONFIG)
            .write("mail/config.toml", "[backup]\nzstd_level = 9")
            .write("own/config.toml", "[backup]\nzstd_level = 9")
            .write("zero/config.toml", "[backup]\nzstd_level = 0")
            .write("none/config.toml", "");
        let settings = home.load();
        let level =
            |flag, archive: &Path| Settings::zstd_level(flag, &settings.archive(Some(archive)).unwrap());
        assert_eq!(level(Some(1), Path::new("mail")), 1);
        assert_eq!(level(None, Path::new("mail")), 7);
        assert_eq!(level(None, &home.path("own")), 9);
        assert_eq!(level(None, &home.path("zero")), 3);
        assert_eq!(level(None, &home.path("none")), 3);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_file_and_line() {
        for (text, line, key) in [
            ("defualt_repository = 'x'", "line 1", "`defualt_repository`"),
            ("[repository.nas]\nlocation = '/x'\nuser = 'ann'", "line 3", "`user`"),
            ("[archive.mail]\nhome = '/x'\nzstd = 3", "line 3", "`zstd`"),
            (
                "[archive.mail]\nhome = '/x'\nprofile = 'other'",
                "line 3",
                "`profile` cannot be used here, expected `msgvault` or `sqlite`",
            ),
            ("[archive.mail]", "line 1", "`home`"),
        ] {
            let home = Home::new().config(text);
            let error = home.load().repository(Some("nas-of-ann"), None).unwrap_err();
            let message = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert_eq!(home.load().problem(), Some(message.as_str()));
            let parts = [".config/packvault/config.toml, ", line, key];
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn a_zstd_level_out_of_range_is_refused_by_name() {
        let home = Home::new().config("[archive.mail]\nhome = '/x'\nzstd_level = 20");
        let settings = home.load();
        let problem = settings.problem().unwrap();
        assert!(problem.ends_with("archive.mail.zstd_level is not a number from 1 to 19"), "{problem}");
        let error = settings.archive(Some(Path::new("mail"))).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::Usage, problem));
        assert!(
            settings.known_homes().contains(&PathBuf::from("/x").into()),
            "it is kept out of all the same"
        );
    }

    #[test]
    fn a_relative_path_in_the_file_is_refused() {
        let home = Home::new().config("default_repository = 'naz'\n[repository.nas]\nlocation = '/x'");
        let error = home.load().repository(None, None).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("config.toml: default_repository: no repository is called naz; did you mean nas?"),
            "{said}"
        );
    }

    #[test]
    fn a_configuration_file_that_was_named_must_exist() {
        let mut home = Home::new();
        home.environment.config_file = Some(home.path("missing.toml"));
        let problem = home.load().problem().unwrap().to_owned();
        assert!(problem.contains("missing.toml"), "{problem}");
        assert_eq!(home.load().repository(None, None).unwrap_err().to_string(), problem);
        let home = Home {
            environment: Environment { config_file: Some("/dev/null".into()), ..home.environment },
            ..home
        };
        assert!(home.load().repository(None, None).is_err());
        assert_eq!(home.load().problem(), None);
    }

    #[test]
    fn the_configuration_lies_in_the_xdg_folder_when_there_is_one() {
        let mut home = Home::new().write("xdg/packvault/config.toml", CONFIG);
        home.environment.config_home = Some(home.path("xdg"));
        assert_eq!(home.load().repository(None, None).unwrap().location, home.local("usb"));
    }

    #[test]
    fn what_is_in_the_environment_is_not_shown_where_it_may_be_secret() {
        let secret = |name: &str| HashMap::from([(name.to_owned(), "hunter2".to_owned())]);
        let environment = Environment {
            aws: secret("AWS_SECRET_ACCESS_KEY"),
            clouds: secret("AZURE_STORAGE_ACCOUNT_KEY"),
            repository: Some("sftp://ann:hunter2@nas/backup".into()),
            ..Environment::default()
        };
        let shown = format!("{environment:?}");
        assert!(shown.contains("AWS_SECRET_ACCESS_KEY") && !shown.contains("hunter2"), "{shown}");
    }
}
