//! Where the errors of what lies below become ours: a codec's, the system's, SQLite's. A storage's do in `repo`, which alone
//! names the contract.

use std::path::Path;

use rustix::io::Errno;

use super::{Error, ErrorKind};
use crate::format::{FormatError, FormatErrorKind};

/// Lifts a codec's error: what a newer version wrote is told apart from damage.
pub(crate) fn format_error(message: impl Into<String>, error: FormatError) -> Error {
    let kind = match error.kind() {
        FormatErrorKind::NeedsUpgrade { .. }
        | FormatErrorKind::UnsupportedVersion
        | FormatErrorKind::Encrypted => ErrorKind::Unsupported,
        _ => ErrorKind::Damaged,
    };
    Error::caused(kind, message, error)
}

/// Makes the error of a failed system call on a path.
pub fn file_error(operation: &str, path: &Path, errno: Errno) -> Error {
    io_error(operation, path, std::io::Error::from(errno))
}

/// Makes the error of a failed read or write on a path.
pub fn io_error(operation: &str, path: &Path, error: std::io::Error) -> Error {
    Error::caused(ErrorKind::Io, format!("cannot {operation} {}", path.display()), error)
}

/// Makes the error of a failed step on a database.
pub fn database_error(operation: &str, path: &Path, error: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    let kind = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ErrorKind::InUse,
        Some(ErrorCode::OperationInterrupted) => ErrorKind::Interrupted,
        _ => ErrorKind::Source,
    };
    Error::caused(kind, format!("cannot {operation} the database {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_version_wrote_is_no_damage() {
        use FormatErrorKind as Kind;
        for (kind, lifted) in [
            (Kind::NeedsUpgrade { level: 9 }, ErrorKind::Unsupported),
            (Kind::UnsupportedVersion, ErrorKind::Unsupported),
            (Kind::Encrypted, ErrorKind::Unsupported),
            (Kind::Corrupt, ErrorKind::Damaged),
            (Kind::Truncated, ErrorKind::Damaged),
            (Kind::BadMagic, ErrorKind::Damaged),
        ] {
            let error = format_error("cannot use it", FormatError::new(kind, "the codec says so"));
            assert_eq!(error.kind(), lifted, "{error:?}");
        }
    }
}
