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
        let message = format!(
            "repository needs reader level {level}, this program has {supported_level}: upgrade packvault"
        );
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIXTURE: &str = "repo_id = \"5d61e8af-fa85-4c85-a408-d2e53ac0ed20\"\nformat_version = 1\n\
        min_reader_version = 1\nencryption = \"none\"\ncreated_at = \"2026-07-06T13:56:16Z\"\npage_size = 4096\n";

    fn parse(text: &str) -> Result<RepoConfig> {
        RepoConfig::parse(text.as_bytes(), 4)
    }

    fn refusal(text: &str) -> FormatErrorKind {
        parse(text).unwrap_err().kind()
    }

    #[test]
    fn the_fixture_of_the_format_reads_and_writes() {
        let mut config = parse(FIXTURE).unwrap();
        assert_eq!(config.encode(), FIXTURE.as_bytes());
        let created_at = "2026-07-06T13:56:16.5Z".parse().unwrap();
        config.page_size = 0;
        assert_eq!(RepoConfig::new(config.repo_id.clone(), created_at), config);
    }

    #[test]
    fn unknown_and_missing_keys_are_tolerated_except_name_and_encryption() {
        let text = "more = 1\nrepo_id = \"5d61e8af-fa85-4c85-a408-d2e53ac0ed20\"\nencryption = 'none'\n\
            format_version = 99\n[keys]\npage_size = \"x\"\n";
        let config = parse(text).unwrap();
        assert_eq!((config.format_version, config.page_size, config.created_at.as_str()), (99, 0, ""));
        assert_eq!(refusal("encryption = \"none\""), FormatErrorKind::Invalid);
        assert_eq!(refusal(&FIXTURE.replace("encryption", "encrypted")), FormatErrorKind::Encrypted);
    }

    #[test]
    fn the_checks_come_in_order() {
        let newer = FIXTURE.replace("min_reader_version = 1", "min_reader_version = 5");
        let sealed = newer.replace("none", "age").replace("5d61e8af-", "5D61E8AF-");
        assert_eq!(refusal(&sealed.replace("4096", "\"4096\"")), FormatErrorKind::Corrupt);
        assert_eq!(refusal(&sealed), FormatErrorKind::NeedsUpgrade { level: 5 });
        let sealed = sealed.replace("version = 5", "version = 4");
        assert_eq!(refusal(&sealed), FormatErrorKind::Encrypted);
        assert_eq!(refusal(&sealed.replace("age", "none")), FormatErrorKind::Invalid);
    }

    #[test]
    fn wrong_types_are_refused_whatever_the_key() {
        for (good, bad) in [
            ("repo_id = \"5d61e8af-fa85-4c85-a408-d2e53ac0ed20\"", "repo_id = 1"),
            ("format_version = 1", "format_version = 1.0"),
            ("min_reader_version = 1", "min_reader_version = \"1\""),
            ("encryption = \"none\"", "encryption = []"),
            ("created_at = \"2026-07-06T13:56:16Z\"", "created_at = 2026-07-06T13:56:16Z"),
            ("page_size = 4096", "page_size = true"),
            ("page_size = 4096", "page_size = 4096\npage_size = 4096"),
            ("page_size = 4096", "page_size = 99999999999999999999"),
        ] {
            assert!(FIXTURE.contains(good));
            assert_eq!(refusal(&FIXTURE.replace(good, bad)), FormatErrorKind::Corrupt, "{bad}");
        }
        assert!(RepoConfig::parse(b"\xff", 4).is_err());
        assert_eq!(refusal("garbage"), FormatErrorKind::Corrupt);
    }

    #[test]
    fn encryption_and_name_are_exact() {
        for encryption in ["None", "none ", "", "none\\n"] {
            let text = FIXTURE.replace("\"none\"", &format!("\"{encryption}\""));
            assert_eq!(refusal(&text), FormatErrorKind::Encrypted, "{encryption:?}");
        }
        assert_eq!(refusal(&FIXTURE.replace("ed20\"", "ed20\\n\"")), FormatErrorKind::Invalid);
    }

    #[test]
    fn strings_that_need_it_are_escaped() {
        let mut config = parse(FIXTURE).unwrap();
        config.created_at = "\"\\\n\r\t\u{1}\u{7f}é".to_owned();
        let text = String::from_utf8(config.encode()).unwrap();
        assert_eq!(parse(&text).unwrap(), config);
    }

    proptest! {
        #[test]
        fn every_configuration_reads_back(
            repo_id in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            (format_version, min_reader_version, page_size) in (any::<i64>(), i64::MIN..=4, any::<i64>()),
            created_at in any::<String>(),
        ) {
            let repo_id = RepoId::parse(&repo_id).unwrap();
            let encryption = ENCRYPTION_NONE.to_owned();
            let config =
                RepoConfig { repo_id, format_version, min_reader_version, encryption, created_at, page_size };
            prop_assert_eq!(RepoConfig::parse(&config.encode(), 4).unwrap(), config);
        }
    }
}
