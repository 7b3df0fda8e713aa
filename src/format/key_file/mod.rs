//! `keys/<name>.age`: one way in to an encrypted repository.
//!
//! The file is an [age](https://age-encryption.org/v1) file, made and opened by the crate of that name; what it
//! wraps is the [`payload`]. Here is what can be told without a key: whether the name is one, and by which
//! kinds of key the file opens ([`header`]).
//!
//! ```text
//! keys/<name>.age   name: 1 to 64 of a-z, 0-9 and -; at most 64 KiB
//! ```

pub mod header;
pub mod payload;

use std::fmt;

pub use header::{KeyHeader, WayIn};

use super::error::{FormatError, Result};

/// The largest key file that is read; one with a single recipient has some hundred bytes.
pub const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;

const NAME_BYTES_MAX: usize = 64;
const SUFFIX: &str = ".age";

/// The name of a way in, by which its owner knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// Parses a name.
    pub fn parse(text: &str) -> Result<Self> {
        let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(is_legal) {
            true => Ok(Self(text.to_owned())),
            // It may be a passphrase, put where a name belongs.
            false => Err(FormatError::invalid("the name of a key is 1 to 64 characters of a-z, 0-9 and -")),
        }
    }

    /// Returns the name of the way in whose file is called this, if it is one.
    pub fn of_file(name: &str) -> Option<Self> {
        Self::parse(name.strip_suffix(SUFFIX)?).ok()
    }

    /// Returns the name of its file in `keys/`.
    pub fn file(&self) -> String {
        format!("{}{SUFFIX}", self.0)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_plain_and_no_path() {
        for good in ["a", "laptop", "safe-2026", "0", &"x".repeat(64)] {
            let name = KeyName::parse(good).unwrap();
            assert_eq!(KeyName::of_file(&name.file()), Some(name));
        }
        for bad in ["", "A", "a b", "a.b", "../a", "a/b", "é", "a\n", &"x".repeat(65)] {
            let error = KeyName::parse(bad).unwrap_err().to_string();
            assert!(bad.len() < 3 || !error.contains(bad), "{error}");
        }
        for no_file in ["laptop", ".age", "Laptop.age", "laptop.age.age", "laptop.age~"] {
            assert_eq!(KeyName::of_file(no_file), None, "{no_file}");
        }
    }
}
