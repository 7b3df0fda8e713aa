//! How the program ends: an error on standard error with its causes and a hint, and an exit code.
//!
//! Standard output belongs to results, so nothing here writes to it. Messages may quote names from a hostile
//! repository and are escaped.

use std::error::Error as _;
use std::io::Write as _;
use std::process::ExitCode;

use packvault::{Error, ErrorKind};

use super::text::escape;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All is done.
    Done,
    /// It could not be done.
    Failed,
    /// The command itself was wrong.
    Usage,
    /// `verify` or `list` found problems.
    Problems,
    /// Done, but the source is damaged.
    SourceDamaged,
    /// Done, but something that was asked for is not in it.
    Incomplete,
    /// Done, but not all that comes after it: a summary that could not be written.
    Unsaid,
    /// No repository lies there.
    NoRepository,
    /// The repository or the archive is locked.
    Locked,
    /// The key does not open the repository.
    WrongKey,
    /// The user stopped it.
    Interrupted,
}

impl Exit {
    /// Returns the number the program exits with.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Problems => 3,
            Self::SourceDamaged => 4,
            Self::Incomplete => 5,
            Self::Unsaid => 6,
            Self::NoRepository => 10,
            Self::Locked => 11,
            Self::WrongKey => 12,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Usage => Self::Usage,
            ErrorKind::NoRepository => Self::NoRepository,
            ErrorKind::Locked | ErrorKind::InUse => Self::Locked,
            ErrorKind::WrongKey => Self::WrongKey,
            ErrorKind::Interrupted => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

/// Prints the error of the named command and returns how the program ends.
pub fn failed(error: &Error, command: &str) -> Exit {
    say(&describe(error, command));
    Exit::from(error)
}

/// Prints a line, or several, to standard error.
pub fn say(text: &str) {
    // Nobody is left to tell when standard error itself is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// What to do where no room is left; the error says where that is.
const HINT_FULL: &str = "make room there and run the command again; what was there before is as it was";

/// What to do where a file may not grow.
const HINT_TOO_LARGE: &str = "raise the limit on the size of files (`ulimit -f`, LimitFSIZE), or use a file system \
                              that takes larger ones; what was there before is as it was";

/// What to do where nothing can be written, whoever asks.
const HINT_READ_ONLY: &str = "what lies there is mounted read-only; nothing is known to be damaged";

/// Tells whether a file system that only reads is the cause.
fn is_read_only(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let system = error.downcast_ref::<std::io::Error>();
        if system.is_some_and(|error| error.kind() == std::io::ErrorKind::ReadOnlyFilesystem) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn describe(error: &Error, command: &str) -> String {
    if error.kind() == ErrorKind::Interrupted {
        // Which step was cut short is of no use to whoever cut it short.
        return "interrupted\n".to_owned();
    }
    let mut said = error.to_string();
    let mut text = format!("error: {}\n", escape(&said));
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !said.contains(&message) {
            text.push_str(&format!("  caused by: {}\n", escape(message.trim())));
        }
        said = message;
        cause = error.source();
    }
    let full = error.is_full().then(|| HINT_FULL.to_owned());
    let full = full.or_else(|| error.is_too_large().then(|| HINT_TOO_LARGE.to_owned()));
    let read_only = is_read_only(error).then(|| HINT_READ_ONLY.to_owned());
    if let Some(hint) = full.or(read_only).or_else(|| hint(error.kind(), command)) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text
}

fn hint(kind: ErrorKind, command: &str) -> Option<String> {
    let text = match (kind, command) {
        (ErrorKind::Usage, _) => return Some(format!("run `packvault {command} --help`")),
        (ErrorKind::NoRepository, "init") => return None,
        (ErrorKind::NoRepository, _) => "check --repo, or run `packvault init` to make a repository there",
        (ErrorKind::Locked, "verify" | "restore") => {
            "wait until the other process is done, or read beside it with --no-lock; if its holder is gone, \
             `packvault unlock` or --force-unlock removes its lock"
        }
        (ErrorKind::OtherArchive, "create") => {
            "give each archive a repository of its own; --adopt says that this is the same one, moved or renamed"
        }
        (ErrorKind::OtherArchive, _) => {
            "restore into another folder, or say --adopt to bring it there all the same"
        }
        (ErrorKind::Locked, _) => {
            "wait until the other process is done; if its holder is gone, `packvault unlock` or --force-unlock \
             removes its lock"
        }
        (ErrorKind::InUse, _) => "wait until the other process is done and try again",
        (ErrorKind::NotPermitted, "create" | "init") => {
            "run it as the user who owns what is named, or let this user read and write there; nothing is known to \
             be damaged"
        }
        (ErrorKind::NotPermitted, _) => {
            "run it as the user who owns what is named, or let this user read it; nothing is known to be damaged"
        }
        (ErrorKind::NotFound, "verify" | "restore") => "run `packvault list` to see the snapshots",
        (ErrorKind::Damaged, "create" | "list" | "restore") => {
            "run `packvault verify --all` to see all damage"
        }
        _ => return None,
    };
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_exit_code() {
        for (kind, code) in [
            (ErrorKind::Usage, 2),
            (ErrorKind::NoRepository, 10),
            (ErrorKind::Locked, 11),
            (ErrorKind::InUse, 11),
            (ErrorKind::WrongKey, 12),
            (ErrorKind::Interrupted, 130),
            (ErrorKind::NotFound, 1),
            (ErrorKind::Refused, 1),
            (ErrorKind::OtherArchive, 1),
            (ErrorKind::NotPermitted, 1),
            (ErrorKind::Damaged, 1),
            (ErrorKind::Unsupported, 1),
            (ErrorKind::Source, 1),
            (ErrorKind::Io, 1),
        ] {
            assert_eq!(Exit::from(&Error::new(kind, "x")).code(), code, "{kind:?}");
        }
    }

    #[test]
    fn causes_stand_below_the_error_and_are_not_repeated() {
        let system = std::io::Error::other("permission denied");
        let inner = Error::caused(ErrorKind::Io, "cannot open pack 01kw", system);
        let outer = Error::caused(ErrorKind::Io, "cannot open pack 01kw", inner);
        let error = Error::caused(ErrorKind::Damaged, "cannot restore", outer);
        let expected = "\
error: cannot restore
  caused by: cannot open pack 01kw
  caused by: permission denied
hint: run `packvault verify --all` to see all damage
";
        assert_eq!(describe(&error, "restore"), expected);
    }

    #[test]
    fn a_full_disk_is_told_as_such_however_deep_it_lies() {
        let system = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::caused(ErrorKind::Io, "cannot write /srv/target/a", system);
        let error = Error::caused(ErrorKind::Damaged, "cannot restore", error);
        let text = describe(&error, "restore");
        assert!(text.ends_with(&format!("hint: {HINT_FULL}\n")), "{text}");
    }

    #[test]
    fn nothing_hostile_reaches_the_terminal() {
        let error = Error::caused(ErrorKind::Io, "no \x1b[2J", std::io::Error::other("a\x07\nhint: rm -rf"));
        let text = describe(&error, "list");
        assert_eq!(text, "error: no \\u{1b}[2J\n  caused by: a\\u{7}\\nhint: rm -rf\n");
    }

    #[test]
    fn an_interruption_is_no_error() {
        let stopped = Error::new(ErrorKind::Interrupted, "interrupted");
        let during =
            Error::caused(ErrorKind::Interrupted, "cannot list the snapshots", std::io::Error::other("x"));
        for error in [stopped, during] {
            assert_eq!(describe(&error, "create"), "interrupted\n");
        }
    }
}
