//! Keys: checked relative paths, so that no driver ever joins an unchecked name.

use std::fmt;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 512;

/// The name of one object: parts joined by `/`, none empty, `.` or `..`, no control byte, no backslash.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// Why a text is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a storage key: {reason}")]
pub struct KeyError {
    text: String,
    reason: &'static str,
}

impl Key {
    /// Checks the text and makes it a key.
    pub fn parse(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        match refusal(&text) {
            None => Ok(Self(text)),
            Some(reason) => Err(KeyError { text, reason }),
        }
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last part.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().expect("a key has at least one part")
    }

    /// Returns the parts from the top down.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn refusal(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > KEY_BYTES_MAX {
        return Some("it is longer than 512 bytes");
    }
    if text.bytes().any(|byte| byte < 0x20 || byte == 0x7f || byte == b'\\') {
        return Some("it holds a control byte or a backslash");
    }
    if text.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Some("it has an empty, `.` or `..` part");
    }
    None
}

/// A folder of keys: the whole storage, or everything below `a/b/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Prefix(Option<Key>);

impl Prefix {
    /// Returns the prefix of every key.
    pub fn root() -> Self {
        Self(None)
    }

    /// Returns the prefix of the keys below the folder, given without a trailing slash.
    pub fn folder(text: impl Into<String>) -> Result<Self, KeyError> {
        Key::parse(text).map(|key| Self(Some(key)))
    }

    /// Returns the folder, or `None` for the root.
    pub fn as_key(&self) -> Option<&Key> {
        self.0.as_ref()
    }

    /// Tells whether the key lies below the prefix.
    pub fn contains(&self, key: &Key) -> bool {
        match &self.0 {
            None => true,
            Some(folder) => key.0.strip_prefix(&folder.0).is_some_and(|rest| rest.starts_with('/')),
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            None => f.write_str("/"),
            Some(folder) => write!(f, "{folder}/"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_checked_relative_path() {
        for good in ["config.toml", "packs/01/01kw.mvpack", "a b/ü", "..a/b.."] {
            assert_eq!(Key::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a/", "a//b", ".", "a/../b", "a/.", "a\\b", "a\0", "a\nb"] {
            assert!(Key::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Key::parse("a".repeat(KEY_BYTES_MAX + 1)).is_err());
    }

    #[test]
    fn a_prefix_holds_whole_parts_only() {
        let packs = Prefix::folder("packs").unwrap();
        assert!(packs.contains(&Key::parse("packs/01").unwrap()));
        assert!(!packs.contains(&Key::parse("packs2/01").unwrap()));
        assert!(!packs.contains(&Key::parse("packs").unwrap()));
    }
}
