//! From the system's error numbers to the contract's kinds.
//!
//! What `ENOENT` and `EEXIST` mean depends on the step, so the steps themselves answer for them; here
//! they are plain I/O errors.

use packvault_storage::{Error, ErrorKind, Step};
use rustix::io::Errno;

/// The errors of the system.
pub(crate) trait SystemErrors {
    /// Makes the error of a system call; `doing` reads like "sync packs/01".
    fn failed(&self, doing: impl Into<String>, errno: Errno) -> Error;

    /// Makes the error of a standard library call.
    fn failed_io(&self, doing: impl Into<String>, error: std::io::Error) -> Error;
}

impl SystemErrors for Step<'_> {
    fn failed(&self, doing: impl Into<String>, errno: Errno) -> Error {
        self.error(kind_of(errno), doing).with_source(std::io::Error::from(errno))
    }

    fn failed_io(&self, doing: impl Into<String>, error: std::io::Error) -> Error {
        let kind = Errno::from_io_error(&error).map_or(ErrorKind::Io, kind_of);
        self.error(kind, doing).with_source(error)
    }
}

/// Tells whether the system or the file system has no such step.
pub(crate) fn is_unsupported(errno: Errno) -> bool {
    // Some systems have one number for the second and the third, some have two.
    [Errno::NOSYS, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::INVAL].contains(&errno)
}

fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => ErrorKind::Full,
        Errno::LOOP => ErrorKind::Unsafe,
        Errno::NAMETOOLONG => ErrorKind::Unsupported,
        // A network file system mounted with a time limit.
        Errno::TIMEDOUT => ErrorKind::Timeout,
        _ => ErrorKind::Io,
    }
}

#[cfg(test)]
mod tests {
    use packvault_storage::Operation;

    use super::*;

    #[test]
    fn errors_of_the_system_have_the_kind_callers_act_on() {
        for (errno, kind) in [
            (Errno::NOSPC, ErrorKind::Full),
            (Errno::DQUOT, ErrorKind::Full),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::PERM, ErrorKind::Denied),
            (Errno::ROFS, ErrorKind::Denied),
            (Errno::LOOP, ErrorKind::Unsafe),
            (Errno::NAMETOOLONG, ErrorKind::Unsupported),
            (Errno::TIMEDOUT, ErrorKind::Timeout),
            (Errno::IO, ErrorKind::Io),
        ] {
            let step = Step::new(Operation::Create, "config.toml");
            assert_eq!(step.failed("write it", errno).kind(), kind);
            let error = step.failed_io("write it", errno.into());
            assert_eq!(error.kind(), kind);
            assert_eq!(error.to_string(), "cannot create config.toml: write it");
        }
    }
}
