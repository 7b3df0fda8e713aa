//! msgvault's own configuration file, as far as a backup needs it: where the data lies, where its backups
//! go, and the key of its server.
//!
//! The file belongs to msgvault: keys unknown here are none of our business and are passed over. It also
//! holds secrets, so no error quotes a value or a line of it.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::profiles::archive::ExpandHome;

/// The name of the configuration file in msgvault's home folder.
pub const CONFIG_FILE: &str = "config.toml";
/// The longest configuration that is read.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The name of the database in msgvault's data folder.
pub const DATABASE_FILE: &str = "msgvault.db";

/// What a zstd level of 0 stands for.
const ZSTD_LEVEL_DEFAULT: i32 = 3;

/// The highest zstd level msgvault accepts.
const ZSTD_LEVEL_MAX: i64 = 19;

/// A text that must never be shown: its `Debug` says only that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// The part of msgvault's configuration that a backup needs; an empty text counts as absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MsgvaultConfig {
    /// `[data] data_dir`, as written.
    pub data_dir: Option<String>,
    /// `[data] database_url`, as written; the URL of a database server may hold a password.
    pub database_url: Option<Secret>,
    /// `[backup] repo`, as written.
    pub backup_repo: Option<String>,
    /// `[backup] zstd_level`, 1 to 19; a written 0 is already the level it stands for.
    pub backup_zstd_level: Option<i32>,
    /// `[server] api_key`.
    pub server_api_key: Option<Secret>,
}

/// Where the parts of one msgvault archive lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locations {
    /// The configuration file, whether or not it exists.
    pub config_file: PathBuf,
    /// The folder of attachments, tokens, deletions and locks.
    pub data_dir: PathBuf,
    /// The database file.
    pub database: PathBuf,
}

impl Secret {
    /// Keeps the text from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl MsgvaultConfig {
    /// Reads the text of a configuration file.
    pub fn parse(text: &str) -> Result<Self> {
        let table: Table = text.parse().map_err(|error| not_toml(text, &error))?;
        Ok(Self {
            data_dir: text_value(&table, "data", "data_dir")?,
            database_url: text_value(&table, "data", "database_url")?.map(Secret),
            backup_repo: text_value(&table, "backup", "repo")?,
            backup_zstd_level: zstd_level(&table)?,
            server_api_key: text_value(&table, "server", "api_key")?.map(Secret),
        })
    }

    /// Returns where the archive lies whose home folder is `home`.
    ///
    /// A relative path is meant from `home`.
    pub fn locations(&self, home: &Path, expand: ExpandHome<'_>) -> Result<Locations> {
        let data_dir = match &self.data_dir {
            Some(text) => home.join(expand(text)?),
            None => home.to_path_buf(),
        };
        let database = match &self.database_url {
            Some(url) => home.join(expand(database_path(url)?)?),
            None => data_dir.join(DATABASE_FILE),
        };
        Ok(Locations { config_file: home.join(CONFIG_FILE), data_dir, database })
    }

    /// Returns where the archive lies that the user has pointed at.
    ///
    /// A folder that holds a database is that archive, whatever its configuration says: the configuration
    /// of a copied or restored archive still names the folder it came from, and that is not what was meant.
    pub fn locations_of_given(&self, given: &Path, expand: ExpandHome<'_>) -> Result<Locations> {
        let database = given.join(DATABASE_FILE);
        if !database.is_file() {
            return self.locations(given, expand);
        }
        Ok(Locations { config_file: given.join(CONFIG_FILE), data_dir: given.to_path_buf(), database })
    }

    /// Returns where msgvault keeps its backups, if it says so; a relative path is meant from `home`.
    pub fn repository(&self, home: &Path, expand: ExpandHome<'_>) -> Result<Option<PathBuf>> {
        let Some(text) = &self.backup_repo else { return Ok(None) };
        Ok(Some(home.join(expand(text)?)))
    }
}

/// Returns the path a database URL stands for, and refuses databases that are no file.
fn database_path(url: &Secret) -> Result<&str> {
    let text = url.expose();
    if text.contains("://") || text.starts_with("file:") || text.starts_with("sqlite:") {
        let message =
            "cannot back up the database of [data] database_url: it is a URL, not the path of a file";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(text)
}

fn value<'a>(table: &'a Table, section: &str, key: &str) -> Result<Option<&'a Value>> {
    match table.get(section) {
        None => Ok(None),
        Some(Value::Table(section)) => Ok(section.get(key)),
        Some(_) => Err(wrong(format!("[{section}] is not a section"))),
    }
}

fn text_value(table: &Table, section: &str, key: &str) -> Result<Option<String>> {
    match value(table, section, key)? {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(format!("[{section}] {key} is not a text"))),
    }
}

fn zstd_level(table: &Table) -> Result<Option<i32>> {
    match value(table, "backup", "zstd_level")? {
        None => Ok(None),
        Some(Value::Integer(0)) => Ok(Some(ZSTD_LEVEL_DEFAULT)),
        Some(Value::Integer(level @ 1..=ZSTD_LEVEL_MAX)) => Ok(i32::try_from(*level).ok()),
        Some(_) => Err(wrong("[backup] zstd_level is not a number from 0 to 19".to_owned())),
    }
}

/// Names the line only: the parser's own message quotes the file, which holds secrets.
fn not_toml(text: &str, error: &toml::de::Error) -> Error {
    let offset = error.span().map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
    wrong(format!("line {line} is not valid TOML"))
}

fn wrong(detail: String) -> Error {
    Error::new(ErrorKind::Source, format!("cannot read the configuration of msgvault: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "
        [data]
        data_dir = '~/mail'
        database_url = 'db/other.db'
        [server]
        api_port = 8080
        api_key = 'hunter2'
        [backup]
        repo = '/mnt/nas/mail'
        zstd_level = 0
        [[accounts]]
        email = 'a@example.com'
    ";

    fn home() -> &'static Path {
        Path::new("/srv/msgvault")
    }

    fn plain(text: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(text))
    }

    fn of_ann(text: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(text.replacen('~', "/home/ann", 1)))
    }

    #[test]
    fn every_known_key_is_read_and_the_rest_passed_over() {
        let config = MsgvaultConfig::parse(FULL).unwrap();
        assert_eq!(config.data_dir.as_deref(), Some("~/mail"));
        assert_eq!(config.database_url.as_ref().map(Secret::expose), Some("db/other.db"));
        assert_eq!(config.backup_repo.as_deref(), Some("/mnt/nas/mail"));
        assert_eq!(config.backup_zstd_level, Some(3));
        assert_eq!(config.server_api_key.as_ref().map(Secret::expose), Some("hunter2"));
    }

    #[test]
    fn an_empty_file_and_empty_texts_mean_the_defaults() {
        assert_eq!(MsgvaultConfig::parse("").unwrap(), MsgvaultConfig::default());
        let empty = "[data]\ndata_dir = ''\ndatabase_url = ''\n[backup]\nrepo = ''\n";
        assert_eq!(MsgvaultConfig::parse(empty).unwrap(), MsgvaultConfig::default());
    }

    #[test]
    fn secrets_show_up_neither_in_debug_nor_in_errors() {
        let config = MsgvaultConfig::parse(FULL).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        for text in ["[server]\napi_key = 'hunter2", "[server]\napi_key = hunter2", "server = 'hunter2'"] {
            let error = MsgvaultConfig::parse(text).unwrap_err();
            assert!(!error.chain().contains("hunter2"), "{}", error.chain());
        }
        let error = MsgvaultConfig::parse("\n[server]\napi_key = hunter2\n").unwrap_err();
        assert!(error.to_string().ends_with("line 3 is not valid TOML"), "{error}");
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused_by_name() {
        for (text, detail) in [
            ("[data]\ndata_dir = 1", "[data] data_dir is not a text"),
            ("[backup]\nzstd_level = 20", "[backup] zstd_level is not a number from 0 to 19"),
            ("[backup]\nzstd_level = -1", "[backup] zstd_level is not a number from 0 to 19"),
            ("backup = 1", "[backup] is not a section"),
        ] {
            let error = MsgvaultConfig::parse(text).unwrap_err();
            assert!(error.to_string().ends_with(detail), "{error}");
        }
    }

    #[test]
    fn the_home_folder_is_where_everything_lies_by_default() {
        let locations = MsgvaultConfig::default().locations(home(), &plain).unwrap();
        assert_eq!(locations.config_file, Path::new("/srv/msgvault/config.toml"));
        assert_eq!(locations.data_dir, home());
        assert_eq!(locations.database, Path::new("/srv/msgvault/msgvault.db"));
    }

    #[test]
    fn paths_are_meant_from_the_home_folder_or_from_the_users() {
        let config = MsgvaultConfig::parse(FULL).unwrap();
        let locations = config.locations(home(), &of_ann).unwrap();
        assert_eq!(locations.data_dir, Path::new("/home/ann/mail"));
        assert_eq!(locations.database, Path::new("/srv/msgvault/db/other.db"));
        let relative = MsgvaultConfig::parse("[data]\ndata_dir = 'data'").unwrap();
        let locations = relative.locations(home(), &plain).unwrap();
        assert_eq!(locations.database, Path::new("/srv/msgvault/data/msgvault.db"));
    }

    #[test]
    fn a_database_on_a_server_is_refused_without_its_password() {
        let config = MsgvaultConfig::parse("[data]\ndatabase_url = 'postgres://u:hunter2@host/db'").unwrap();
        let error = config.locations(home(), &plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!error.chain().contains("hunter2"));
    }

    #[test]
    fn the_backup_repository_is_found() {
        let config = MsgvaultConfig::parse("[backup]\nrepo = '~/backup'").unwrap();
        let repository = config.repository(home(), &of_ann).unwrap();
        assert_eq!(repository.as_deref(), Some(Path::new("/home/ann/backup")));
        assert_eq!(MsgvaultConfig::default().repository(home(), &plain).unwrap(), None);
    }
}
