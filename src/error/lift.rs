//! Where the errors of what lies below become ours: a codec's, a storage's, the system's, SQLite's.

use std::path::Path;

use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind};
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

/// Lifts a storage error to this floor, keeping its kind where callers act on it.
pub(crate) fn storage_error(message: impl Into<String>, error: StorageError) -> Error {
    let kind = match error.kind() {
        StorageErrorKind::NotFound => ErrorKind::NotFound,
        StorageErrorKind::Short => ErrorKind::Damaged,
        StorageErrorKind::Unsafe => ErrorKind::Refused,
        StorageErrorKind::Config => ErrorKind::Usage,
        StorageErrorKind::Interrupted => ErrorKind::Interrupted,
        StorageErrorKind::Denied => ErrorKind::NotPermitted,
        _ => ErrorKind::Io,
    };
    let (lacks_room, is_unanswered) = (error.kind() == StorageErrorKind::Full, error.kind().is_passing());
    let lifted = Error::caused(kind, message, error);
    if lacks_room {
        lifted.lacking_room()
    } else if is_unanswered {
        lifted.unanswered()
    } else {
        lifted
    }
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
    use packvault_storage::Operation;

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

    #[test]
    fn a_store_without_room_keeps_its_meaning_on_every_floor() {
        for (kind, is_full) in [(StorageErrorKind::Full, true), (StorageErrorKind::Io, false)] {
            let error = StorageError::new(kind, Operation::Seal, "packs/01/x", "the store says so");
            let error = storage_error("cannot write pack x", error);
            assert_eq!((error.kind(), error.is_full()), (ErrorKind::Io, is_full));
            assert_eq!(Error::caused(ErrorKind::Damaged, "cannot go on", error).is_full(), is_full);
        }
    }

    #[test]
    fn what_callers_act_on_is_kept_on_the_way_up() {
        use StorageErrorKind as Kind;
        for (kind, lifted) in [
            (Kind::NotFound, ErrorKind::NotFound),
            (Kind::Short, ErrorKind::Damaged),
            (Kind::Unsafe, ErrorKind::Refused),
            (Kind::Config, ErrorKind::Usage),
            (Kind::Interrupted, ErrorKind::Interrupted),
            (Kind::Denied, ErrorKind::NotPermitted),
            (Kind::Timeout, ErrorKind::Io),
        ] {
            let error = StorageError::new(kind, Operation::Read, "packs/01/x", "the store says so");
            assert_eq!(storage_error("cannot read pack x", error).kind(), lifted, "{kind:?}");
        }
    }

    #[test]
    fn only_a_stop_and_a_store_that_does_not_answer_say_nothing_about_what_is_stored() {
        use StorageErrorKind as Kind;
        for (kind, is_inconclusive) in [
            (Kind::Timeout, true),
            (Kind::Connection, true),
            (Kind::Throttled, true),
            (Kind::Interrupted, true),
            (Kind::NotFound, false),
            (Kind::Denied, false),
            (Kind::Short, false),
            (Kind::Io, false),
        ] {
            let error = StorageError::new(kind, Operation::Read, "packs/01/x", "the store says so");
            let error = storage_error("cannot read pack x", error);
            assert_eq!(error.is_inconclusive(), is_inconclusive, "{kind:?}");
            let above = Error::caused(ErrorKind::Damaged, "cannot go on", error);
            assert_eq!(above.is_inconclusive(), is_inconclusive, "{kind:?}");
        }
    }
}
