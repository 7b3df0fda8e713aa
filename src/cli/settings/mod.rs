//! What the user has settled beforehand: packvault's configuration file and the environment, and how a
//! command finds its repository and its archive from them.
//!
//! `environment` and `file` hold what was settled, `archive` and `choice` say who wins. No other folder takes
//! settings from the environment. A key this version does not know is refused: a backup must not silently do other
//! than what its configuration says. A command that needs nothing of what is wrong goes on, and says so.

mod archive;
mod choice;
mod environment;
mod file;
pub mod given;
mod home;
mod mistake;
mod places;
mod repository;
mod schedule;
pub mod secret;
mod sections;

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use packvault::{Error, ErrorKind, Result};

pub use self::archive::{Archive, RereadChoice};
pub use self::environment::Environment;
use self::file::{ConfigFile, read_config};
use self::home::expand_home;
pub use self::repository::RepositoryChoice;
pub use self::schedule::Notify;

/// The name of the configuration file in packvault's folder.
const CONFIG_FILE: &str = "config.toml";

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

impl Settings {
    /// Reads the configuration file the environment names, or the one in its usual place if there is one.
    ///
    /// What is wrong with it is kept, and stops what needs it.
    pub fn load(environment: Environment) -> Self {
        let usual = || {
            let folder = environment.config_home.clone();
            let folder = folder.or_else(|| environment.home.as_ref().map(|home| home.join(".config")))?;
            Some(folder.join("packvault").join(CONFIG_FILE))
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

    /// Returns packvault's own cache folder, which may not be there; none where this user has no home.
    pub fn cache(&self) -> Option<PathBuf> {
        let home_cache = || self.environment.home.as_ref().map(|home| home.join(".cache"));
        let cache = self.environment.cache_home.clone().or_else(home_cache);
        cache.map(|cache| cache.join("packvault"))
    }

    /// Returns packvault's own folder for what it remembers, which may not be there; none where this user has no home.
    pub fn state(&self) -> Option<PathBuf> {
        let home_state = || self.environment.home.as_ref().map(|home| home.join(".local/state"));
        let state = self.environment.state_home.clone().or_else(home_state);
        state.map(|state| state.join("packvault"))
    }

    /// Returns for how many days the ledger keeps what it records, as far as the configuration says.
    pub fn history_days(&self) -> Option<u32> {
        self.file.history_days.map(NonZeroU32::get)
    }

    /// Returns the environment, as far as it settles anything.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the folder for bytes that do not fit in memory while a command runs: the cache, or where nothing
    /// can be made there one for temporary files.
    pub fn spool(&self) -> PathBuf {
        places::first_usable(self.cache(), places::temporary())
    }

    /// Returns what replaces a leading `~` by the user's home folder.
    fn expand(&self) -> impl Fn(&str) -> Result<PathBuf> {
        |text| expand_home(text, self.user_home())
    }

    fn configured_path(&self, text: &str, noun: &str) -> Result<PathBuf> {
        let path = self.expand()(text)?;
        if path.is_absolute() {
            return Ok(path);
        }
        let file = self.path.as_deref().unwrap_or(Path::new(CONFIG_FILE)).display();
        let message = format!("{file}: {text:?} is neither a name from it nor an absolute path of {noun}");
        Err(usage(message))
    }

    /// Tells whether the configuration is at this place, or would be.
    pub fn is_configuration(&self, place: &Path) -> bool {
        self.path.as_deref().is_some_and(|path| is_at(path, place))
    }

    /// Tells whether the database of an archive that is known is at this place, or would be.
    pub fn is_a_database(&self, place: &Path) -> bool {
        let named = self.archive_names().into_iter().filter_map(|name| self.archive_to_read(name).ok());
        named.chain(self.archive(None).ok()).any(|archive| is_at(&archive.paths().database, place))
    }

    /// Returns the home folder of the user, if it is known.
    pub fn user_home(&self) -> Option<&Path> {
        self.environment.home.as_deref()
    }
}

/// Tells whether a text may be a name from the configuration: what has a slash in it is a path or a URL.
fn may_be_a_name(text: &str) -> bool {
    !text.contains('/') && text != "." && text != ".."
}

/// Tells whether a path leads to a place, which is given without links; neither need be there.
fn is_at(path: &Path, place: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_named =
        |name: &OsStr| std::fs::canonicalize(folder).is_ok_and(|folder| folder.join(name) == place);
    path.file_name().is_some_and(is_named) || std::fs::canonicalize(path).is_ok_and(|path| path == place)
}

fn usage(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Usage, message)
}

#[cfg(test)]
mod tests;
