//! How the program ends: an error on standard error with its causes and a hint, and an exit code.
//!
//! Standard output belongs to results, so nothing here writes to it. Messages may quote names from a hostile
//! repository and are escaped.

use std::error::Error as _;
use std::process::ExitCode;

use packvault::{Error, ErrorKind, Obstacle};

use super::outlet::ERRORS;
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
    /// No key was given, or one that does not open the repository.
    WrongKey,
    /// The repository is not the one seen before, or its newest snapshot is gone.
    NotTheSame,
    /// `status`: the newest snapshot is too old.
    Stale,
    /// `status`: what is stored was not proved.
    Unproved,
    /// `status`: a copy lacks the newest snapshot.
    CopyMissing,
    /// The user stopped it.
    Interrupted,
}

/// The ways to end, the worst first: what nobody may overlook, then what made no snapshot, then what made one.
const WORST_FIRST: [Exit; 15] = [
    Exit::Interrupted,
    Exit::NotTheSame,
    Exit::Problems,
    Exit::WrongKey,
    Exit::NoRepository,
    Exit::Failed,
    Exit::Usage,
    Exit::Locked,
    Exit::SourceDamaged,
    Exit::Incomplete,
    Exit::Stale,
    Exit::Unproved,
    Exit::CopyMissing,
    Exit::Unsaid,
    Exit::Done,
];

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
            Self::NotTheSame => 13,
            Self::Stale => 20,
            Self::Unproved => 21,
            Self::CopyMissing => 22,
            Self::Interrupted => 130,
        }
    }

    /// Returns the worse of the two.
    #[must_use]
    pub fn worse(self, other: Self) -> Self {
        let place = |exit| WORST_FIRST.iter().position(|known| *known == exit);
        if place(other) < place(self) { other } else { self }
    }

    /// Tells whether what was asked for is done, whatever else there is to say.
    pub fn is_done(self) -> bool {
        matches!(self, Self::Done | Self::SourceDamaged | Self::Incomplete | Self::Unsaid)
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
            ErrorKind::NoRepository | ErrorKind::ConfigLost => Self::NoRepository,
            ErrorKind::Locked | ErrorKind::InUse => Self::Locked,
            ErrorKind::NoKey | ErrorKind::WrongKey => Self::WrongKey,
            ErrorKind::NotTheSame => Self::NotTheSame,
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
    let _ = ERRORS.write(text.as_bytes());
}

/// What to do where no room is left; the error says where that is.
const HINT_FULL: &str = "make room there and run the command again; what was there before is as it was";

/// What to do where a file may not grow.
const HINT_TOO_LARGE: &str = "raise the limit on the size of files (`ulimit -f`, LimitFSIZE), or use a file system \
                              that takes larger ones; what was there before is as it was";

/// What to do where no more files can be open.
const HINT_OPEN_FILES: &str = "raise the limit on open files (`ulimit -n`, LimitNOFILE)";

/// What to do where nothing can be written, whoever asks.
const HINT_READ_ONLY: &str = "what lies there is mounted read-only; nothing is known to be damaged";

/// Returns what to do about what was in the way, whatever the command is.
fn way_round(obstacle: Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NoRoom => HINT_FULL,
        Obstacle::FileSize => HINT_TOO_LARGE,
        Obstacle::OpenFiles => HINT_OPEN_FILES,
        Obstacle::ReadOnly => HINT_READ_ONLY,
    }
}

fn describe(error: &Error, command: &str) -> String {
    let left = error.left_behind().map(|left| format!("warning: {}\n", escape(left))).unwrap_or_default();
    if error.kind() == ErrorKind::Interrupted {
        // Which step was cut short is of no use to whoever cut it short.
        return format!("interrupted\n{left}");
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
    let way_round = error.obstacle().map(|obstacle| way_round(obstacle).to_owned());
    if let Some(hint) = way_round.or_else(|| hint(error.kind(), command)) {
        text.push_str(&format!("hint: {hint}\n"));
    }
    text + &left
}

fn hint(kind: ErrorKind, command: &str) -> Option<String> {
    let text = match (kind, command) {
        (ErrorKind::Usage, _) => return Some(format!("run `packvault {command} --help`")),
        (ErrorKind::NoKey, _) => {
            "name the secret with --passphrase-file, --passphrase-command or --identity, or in the environment or the \
             configuration"
        }
        (ErrorKind::NotTheSame, _) => {
            "if the change is your own, say --accept-change once; if not, somebody else can write where the repository \
             lies"
        }
        (ErrorKind::NoRepository, "init") => return None,
        (ErrorKind::NoRepository, _) => "check --repo, or run `packvault init` to make a repository there",
        (ErrorKind::ConfigLost, _) => {
            "put config.toml back from a copy of that folder, or run `packvault repair config` to make it anew"
        }
        (
            ErrorKind::Locked,
            "verify" | "restore" | "ls" | "find" | "dump" | "sql" | "mount" | "diff" | "stats" | "history",
        ) => {
            "wait until the other process is done, or add --no-lock to read at the same time; if that process has \
             ended, `packvault unlock` or --force-unlock removes its lock"
        }
        (ErrorKind::OtherArchive, "create") => {
            "use a repository of its own for each archive; if this is the same archive, moved or renamed, add --adopt"
        }
        (ErrorKind::OtherArchive, _) => {
            "restore into another folder, or add --adopt to restore there all the same"
        }
        (ErrorKind::Locked, _) => {
            "wait until the other process is done; if it has ended, `packvault unlock` or --force-unlock removes \
             its lock"
        }
        (ErrorKind::InUse, _) => "wait until the other process is done and try again",
        (ErrorKind::NotPermitted, "create" | "init") => {
            "run it as the user who owns what is named, or let this user read and write there; nothing is known to \
             be damaged"
        }
        (ErrorKind::NotPermitted, _) => {
            "run it as the user who owns what is named, or let this user read it; nothing is known to be damaged"
        }
        (ErrorKind::NotFound, "verify" | "forget" | "find" | "sql" | "diff" | "copy") => {
            "run `packvault list` to see the snapshots"
        }
        (ErrorKind::NotFound, "restore" | "ls" | "dump") => {
            "`packvault list` shows the snapshots, and `packvault ls` what is in one"
        }
        (
            ErrorKind::Damaged,
            "create" | "list" | "restore" | "forget" | "ls" | "find" | "dump" | "sql" | "diff",
        ) => "run `packvault verify --all` to see all damage",
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
            (ErrorKind::NoKey, 12),
            (ErrorKind::WrongKey, 12),
            (ErrorKind::NotTheSame, 13),
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
    fn the_worst_of_several_ends_the_program() {
        for pair in WORST_FIRST.windows(2) {
            assert_eq!(pair[0].worse(pair[1]), pair[0]);
            assert_eq!(pair[1].worse(pair[0]), pair[0]);
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
