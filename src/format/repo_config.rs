//! `config.toml`: what a repository is, a few keys in a flat table.
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
//! In an encrypted repository `encryption` is `xchacha20poly1305`, `min_reader_version` is 5, so that programs which
//! cannot read it ask to be upgraded, and `key_check` holds 80 hex digits: nothing, sealed with the repository's key
//! as what that repository's configuration is. With it a wrong key is told from damage before anything else is read.
//!
//! Reading tolerates unknown keys and missing ones, except `repo_id` and `encryption`; writing loses unknown
//! keys. A wrong type is an error even where the value is not used.

use super::error::{FormatError, FormatErrorKind, Result};
use super::ids::RepoId;
use super::repository_key::RepositoryKey;
use super::sealed::{self, Binding, Nonce, OVERHEAD_BYTES};

/// The reader level that an encrypted repository asks for.
pub const ENCRYPTED_READER_LEVEL: i64 = 5;

/// How the objects of a repository are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// Not at all.
    None,
    /// Each with the repository's key.
    XChaCha20Poly1305,
}

impl Encryption {
    /// Returns the word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::XChaCha20Poly1305 => "xchacha20poly1305",
        }
    }

    fn parse(name: &str) -> Result<Self> {
        let known = [Self::None, Self::XChaCha20Poly1305];
        known.into_iter().find(|known| known.name() == name).ok_or_else(|| {
            let message = format!("repository encryption {name:?} is not one that this program knows");
            FormatError::new(FormatErrorKind::Encrypted, message)
        })
    }

    const fn reader_level(self, plain: i64) -> i64 {
        match self {
            Self::XChaCha20Poly1305 if plain < ENCRYPTED_READER_LEVEL => ENCRYPTED_READER_LEVEL,
            _ => plain,
        }
    }
}

/// A proof that a key is the one of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyCheck([u8; OVERHEAD_BYTES]);

/// What a repository is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoConfig {
    /// Its name.
    pub repo_id: RepoId,
    /// Version of the layout.
    pub format_version: i64,
    /// Reader level needed to use the repository.
    pub min_reader_version: i64,
    /// How its objects are sealed.
    pub encryption: Encryption,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// Page size of the database captured last, 0 before; informational.
    pub page_size: i64,
    /// What proves the key of an encrypted repository; other programs may leave it out.
    pub key_check: Option<KeyCheck>,
}

impl RepoConfig {
    /// Returns the configuration of a new repository that is not encrypted.
    pub fn new(repo_id: RepoId, created_at: jiff::Timestamp) -> Self {
        Self {
            repo_id,
            format_version: 1,
            min_reader_version: 1,
            encryption: Encryption::None,
            created_at: super::timestamp::format(created_at),
            page_size: 0,
            key_check: None,
        }
    }

    /// Returns the configuration of the same repository, encrypted with the key.
    #[must_use]
    pub fn encrypted(self, key: &RepositoryKey, nonce: Nonce) -> Self {
        let sealed = sealed::seal(key, nonce, &Binding::Config(&self.repo_id), &[]);
        Self {
            min_reader_version: ENCRYPTED_READER_LEVEL,
            encryption: Encryption::XChaCha20Poly1305,
            key_check: Some(KeyCheck(*sealed.first_chunk().expect("nothing seals to nonce and tag"))),
            ..self
        }
    }

    /// Tells whether the repository is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.encryption != Encryption::None
    }

    /// Refuses a key that is not the repository's. Where there is no proof, any key may be.
    pub fn check_key(&self, key: &RepositoryKey) -> Result<()> {
        let Some(KeyCheck(sealed)) = &self.key_check else { return Ok(()) };
        sealed::open(key, &Binding::Config(&self.repo_id), sealed).map(drop)
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
        let encryption = Encryption::parse(&string(&table, "encryption")?);
        let created_at = string(&table, "created_at")?;
        let page_size = integer(&table, "page_size")?;
        let level = encryption.as_ref().map_or(supported_level, |known| known.reader_level(supported_level));
        check_level(min_reader_version, level)?;
        let encryption = encryption?;
        let key_check = match encryption {
            Encryption::None => None,
            Encryption::XChaCha20Poly1305 => key_check(&string(&table, "key_check")?)?,
        };
        let repo_id = RepoId::parse(&repo_id)?;
        Ok(Self { repo_id, format_version, min_reader_version, encryption, created_at, page_size, key_check })
    }

    /// Returns the bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "repo_id = {}\nformat_version = {}\nmin_reader_version = {}\nencryption = {}\ncreated_at = {}\n\
             page_size = {}\n",
            quote(self.repo_id.as_str()),
            self.format_version,
            self.min_reader_version,
            quote(self.encryption.name()),
            quote(&self.created_at),
            self.page_size
        );
        if let Some(KeyCheck(sealed)) = &self.key_check {
            text.push_str(&format!("key_check = {}\n", quote(&hex::encode(sealed))));
        }
        text.into_bytes()
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

fn key_check(text: &str) -> Result<Option<KeyCheck>> {
    if text.is_empty() {
        return Ok(None);
    }
    let mut sealed = [0; OVERHEAD_BYTES];
    let decoded = hex::decode_to_slice(text, &mut sealed);
    decoded.map_err(|error| FormatError::corrupt(format!("config.toml: key_check: {error}")))?;
    Ok(Some(KeyCheck(sealed)))
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
        let encrypted = newer.replace("none", "xchacha20poly1305");
        assert!(parse(&encrypted).unwrap().is_encrypted());
        let above = encrypted.replace("version = 5", "version = 6");
        assert_eq!(refusal(&above), FormatErrorKind::NeedsUpgrade { level: 6 });
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
        for encryption in ["None", "none ", "", "none\\n", "xchacha20poly1305 ", "XChaCha20Poly1305"] {
            let text = FIXTURE.replace("\"none\"", &format!("\"{encryption}\""));
            assert_eq!(refusal(&text), FormatErrorKind::Encrypted, "{encryption:?}");
        }
        assert_eq!(refusal(&FIXTURE.replace("ed20\"", "ed20\\n\"")), FormatErrorKind::Invalid);
    }

    #[test]
    fn an_encrypted_repository_proves_its_key() {
        let [key, other] = [1, 2].map(|byte| RepositoryKey::from_bytes([byte; RepositoryKey::BYTES]));
        let plain = parse(FIXTURE).unwrap();
        let config = plain.clone().encrypted(&key, [3; 24]);
        let text = String::from_utf8(config.encode()).unwrap();
        let proof = hex::encode(sealed::seal(&key, [3; 24], &Binding::Config(&plain.repo_id), b""));
        let expected = FIXTURE
            .replace("version = 1\nencryption", "version = 5\nencryption")
            .replace("\"none\"", "\"xchacha20poly1305\"");
        assert_eq!(text, format!("{expected}key_check = \"{proof}\"\n"));
        let read = parse(&text).unwrap();
        assert_eq!(read, config);
        read.check_key(&key).unwrap();
        assert_eq!(read.check_key(&other).unwrap_err().kind(), FormatErrorKind::Decrypt);
        let renamed = parse(&text.replace("5d61e8af", "5d61e8ae")).unwrap();
        assert_eq!(renamed.check_key(&key).unwrap_err().kind(), FormatErrorKind::Decrypt);
        let without = parse(&expected).unwrap();
        without.check_key(&other).unwrap();
        for bad in [&proof[2..], "x", &proof.replace(&proof[..1], "g"), &format!("{proof}00")] {
            assert_eq!(refusal(&text.replace(&proof, bad)), FormatErrorKind::Corrupt, "{bad}");
        }
        assert_eq!(refusal(&text.replace(&format!("\"{proof}\""), "7")), FormatErrorKind::Corrupt);
        let unused = parse(&format!("{FIXTURE}key_check = 7\n")).unwrap();
        assert_eq!(unused, plain, "a plain repository has none");
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
            (created_at, sealed) in (any::<String>(), any::<Option<[u8; OVERHEAD_BYTES]>>()),
        ) {
            let repo_id = RepoId::parse(&repo_id).unwrap();
            let key_check = sealed.map(KeyCheck);
            let encryption =
                if sealed.is_some() { Encryption::XChaCha20Poly1305 } else { Encryption::None };
            let config = RepoConfig {
                repo_id,
                format_version,
                min_reader_version,
                encryption,
                created_at,
                page_size,
                key_check,
            };
            prop_assert_eq!(RepoConfig::parse(&config.encode(), 4).unwrap(), config);
        }
    }
}
