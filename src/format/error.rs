//! The one error of the codecs: a kind to match on, a message to read.
//!
//! The kinds are the classes of the format's own error table, so `verify` can say which of them it met. The
//! message says what was wrong with the bytes; which object they came from is known to the caller only, who
//! names it (`FormatError::within`) or keeps this error as a cause.

use std::fmt;

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FormatErrorKind {
    /// The bytes end before what they announce, or announce more than there is.
    Truncated,
    /// The bytes are of another kind of object.
    BadMagic,
    /// The object's own version is not one this program reads.
    UnsupportedVersion,
    /// The structure breaks a rule of the format.
    Corrupt,
    /// The object is encrypted, and no key is at hand.
    Encrypted,
    /// A recorded checksum is not that of the bytes.
    Checksum,
    /// The key does not open the sealed bytes, or they were altered.
    Decrypt,
    /// The content does not hash to the name it goes by.
    Mismatch,
    /// A manifest holds keys that its version does not have: forged, or written without raising the version.
    UnknownField,
    /// A newer reader is needed.
    NeedsUpgrade {
        /// The reader level that the object asks for.
        level: i64,
    },
    /// A name, path or parameter is not one the format allows.
    Invalid,
}

/// An error of a codec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormatError {
    kind: FormatErrorKind,
    message: String,
}

/// The result of every fallible function of `format`.
pub type Result<T> = std::result::Result<T, FormatError>;

impl FormatError {
    /// Makes an error of the given kind.
    pub fn new(kind: FormatErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Returns what callers may match on.
    pub fn kind(&self) -> FormatErrorKind {
        self.kind
    }

    /// Returns the error with the object it was met in put before its message.
    pub fn within(self, object: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: format!("{object}: {}", self.message) }
    }

    pub(crate) fn truncated(message: impl Into<String>) -> Self {
        Self::new(FormatErrorKind::Truncated, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Self {
        Self::new(FormatErrorKind::Corrupt, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(FormatErrorKind::Invalid, message)
    }
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FormatError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_object_before_the_fault_and_keeps_its_kind() {
        let error = FormatError::corrupt("entry 3 overlaps entry 2").within("pack 01kw");
        assert_eq!(error.to_string(), "pack 01kw: entry 3 overlaps entry 2");
        assert_eq!(error.kind(), FormatErrorKind::Corrupt);
    }
}
