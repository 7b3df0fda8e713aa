//! `config.toml`: what a repository is, six keys in a flat table.
//!
//! ```text
//! repo_id = "5d61e8af-fa85-4c85-a408-d2e53ac0ed20"
//! format_version = 1
//! min_reader_version = 1
//! encryption = "none"
//! created_at = "2026-07-06T13:56:16Z"
//! page_size = 4096
//! ```
//!
//! Reading tolerates unknown keys and missing ones, except `repo_id` and `encryption`; writing loses unknown
//! keys. A wrong type is an error even where the value is not used.

use super::error::{FormatError, FormatErrorKind, Result};
use super::ids::RepoId;

/// The only encryption that repositories use so far.
pub const ENCRYPTION_NONE: &str = "none";

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoConfig {
    /// Its name.
    pub repo_id: RepoId,
    /// Version of the layout.
    pub format_version: i64,
    /// Reader level needed to use the repository.
    pub min_reader_version: i64,
    /// How its objects are sealed: `none`.
    pub encryption: String,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Page size of the database captured last, 0 before; informational.
    pub page_size: i64,
}

impl RepoConfig {
    /// Returns the configuration of a new repository.
    pub fn new(repo_id: RepoId, created_at: jiff::Timestamp) -> Self {
        Self {
            repo_id,
            format_version: 1,
            min_reader_version: 1,
            encryption: ENCRYPTION_NONE.to_owned(),
            created_at: super::timestamp::format(created_at),
            page_size: 0,
        }
    }

    /// Reads the file, for a reader of the given level.
    pub fn parse(file: &[u8], supported_level: i64) -> Result<Self> {
        let text = std::str::from_utf8(file).map_err(|_| FormatError::corrupt("config.toml is not UTF-8"))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            FormatError::corrupt(format!("config.toml: {}", error.message()))
        })?;
        let repo_id = string(&table, "repo_id")?;
        let format_version = integer(&table, "format_version")?;
        let min_reader_version = integer(&table, "min_reader_version")?;
        let encryption = string(&table, "encryption")?;
        let created_at = string(&table, "created_at")?;
        let page_size = integer(&table, "page_size")?;
        check_level(min_reader_version, supported_level)?;
        check_encryption(&encryption)?;
        let repo_id = RepoId::parse(&repo_id)?;
        Ok(Self { repo_id, format_version, min_reader_version, encryption, created_at, page_size })
    }

    /// Returns the bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        format!(
            "repo_id = {}\nformat_version = {}\nmin_reader_version = {}\nencryption = {}\ncreated_at = {}\n\
             page_size = {}\n",
            quote(self.repo_id.as_str()),
            self.format_version,
            self.min_reader_version,
            quote(&self.encryption),
            quote(&self.created_at),
            self.page_size
        )
        .into_bytes()
    }
}

fn check_level(level: i64, supported_level: i64) -> Result<()> {
    if level > supported_level {
        let message = format!("repository needs reader level {level}, this program has {supported_level}");
        return Err(FormatError::new(FormatErrorKind::NeedsUpgrade { level }, message));
    }
    Ok(())
}

fn check_encryption(encryption: &str) -> Result<()> {
    if encryption != ENCRYPTION_NONE {
        let message = format!("repository encryption {encryption:?} is not supported");
        return Err(FormatError::new(FormatErrorKind::Encrypted, message));
    }
    Ok(())
}

fn string(table: &toml::Table, key: &str) -> Result<String> {
    match table.get(key) {
        None => Ok(String::new()),
        Some(toml::Value::String(value)) => Ok(value.clone()),
        Some(value) => Err(wrong_type(key, "a string", value)),
    }
}

fn integer(table: &toml::Table, key: &str) -> Result<i64> {
    match table.get(key) {
        None => Ok(0),
        Some(toml::Value::Integer(value)) => Ok(*value),
        Some(value) => Err(wrong_type(key, "an integer", value)),
    }
}

fn wrong_type(key: &str, expected: &str, found: &toml::Value) -> FormatError {
    FormatError::corrupt(format!("config.toml: {key} is a {}, not {expected}", found.type_str()))
}

/// Returns a basic string.
fn quote(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\0'..'\x20' | '\x7f' => text.push_str(&format!("\\u{:04x}", character as u32)),
            _ => text.push(character),
        }
    }
    text.push('"');
    text
}
