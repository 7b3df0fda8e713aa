//! From a server's status codes and a broken connection to the contract's kinds.
//!
//! Version 3 of the protocol has few codes: "no such file" means what the step makes of it, and "failure"
//! is anything from a taken name to a full disk. The steps look for themselves where it matters.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use packvault_storage::{Error, ErrorKind, Step};

use crate::codec::{Malformed, code};

/// How much of a server's own words goes into an error.
const MESSAGE_CHARS_MAX: usize = 200;

/// A status other than "ok".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub code: u32,
    pub message: String,
}

impl Status {
    pub(crate) fn new(code: u32, message: &Bytes) -> Self {
        Self { code, message: legible(&String::from_utf8_lossy(message)) }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server says \"{}\" (status {})", self.message, self.code)
    }
}

impl std::error::Error for Status {}

/// Why a connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breakage {
    pub kind: ErrorKind,
    pub text: String,
}

impl Breakage {
    pub(crate) fn new(kind: ErrorKind, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self { kind, text: text.into() })
    }

    pub(crate) fn protocol(what: &str) -> Arc<Self> {
        Self::new(ErrorKind::Io, format!("the server broke the protocol: {what}"))
    }
}

/// How one request failed.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Status(Status),
    Broken(Arc<Breakage>),
}

impl Failure {
    pub(crate) fn is_no_such_file(&self) -> bool {
        self.is_code(code::NO_SUCH_FILE)
    }

    pub(crate) fn is_code(&self, code: u32) -> bool {
        matches!(self, Self::Status(status) if status.code == code)
    }

    /// Tells whether the server answered, and with a refusal.
    pub(crate) fn is_status(&self) -> bool {
        matches!(self, Self::Status(_))
    }
}

impl From<Arc<Breakage>> for Failure {
    fn from(breakage: Arc<Breakage>) -> Self {
        Self::Broken(breakage)
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Self::Broken(Breakage::protocol(malformed.0))
    }
}

/// The errors of a server.
pub(crate) trait ServerErrors {
    /// Makes the error of a request; `doing` reads like "write its staging file".
    fn failed(&self, doing: impl Into<String>, failure: Failure) -> Error;
}

impl ServerErrors for Step<'_> {
    fn failed(&self, doing: impl Into<String>, failure: Failure) -> Error {
        match failure {
            Failure::Status(status) => self.error(kind_of(&status), doing).with_source(status),
            Failure::Broken(breakage) => self.error(breakage.kind, breakage.text.clone()),
        }
    }
}

fn kind_of(status: &Status) -> ErrorKind {
    match status.code {
        code::PERMISSION_DENIED => ErrorKind::Denied,
        code::UNSUPPORTED => ErrorKind::Unsupported,
        code::NO_CONNECTION | code::CONNECTION_LOST => ErrorKind::Connection,
        _ if says_full(&status.message) => ErrorKind::Full,
        _ => ErrorKind::Io,
    }
}

/// Version 3 has no code for a full disk; some servers hand on the system's words.
fn says_full(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["no space left", "quota", "file too large"].iter().any(|words| message.contains(words))
}

/// Returns a server's words on one line, without control characters, and not too many.
pub(crate) fn legible(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = words.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MESSAGE_CHARS_MAX) {
        line.truncate(end);
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use packvault_storage::Operation;

    use super::*;

    #[test]
    fn a_status_has_the_kind_callers_act_on() {
        let step = Step::new(Operation::Create, "config.toml");
        for (code, message, kind) in [
            (code::PERMISSION_DENIED, "Permission denied", ErrorKind::Denied),
            (code::UNSUPPORTED, "", ErrorKind::Unsupported),
            (code::CONNECTION_LOST, "", ErrorKind::Connection),
            (code::FAILURE, "Failure", ErrorKind::Io),
            (code::FAILURE, "No space left on device", ErrorKind::Full),
            (code::FAILURE, "Disk quota exceeded", ErrorKind::Full),
            (code::NO_SUCH_FILE, "No such file", ErrorKind::Io),
        ] {
            let status = Status::new(code, &Bytes::from_static(message.as_bytes()));
            let error = step.failed("write it", Failure::Status(status));
            assert_eq!(
                (error.kind(), error.to_string()),
                (kind, "cannot create config.toml: write it".into())
            );
        }
    }

    #[test]
    fn a_servers_words_are_one_short_line() {
        assert_eq!(legible("a\n b\x1b[31m\0c "), "a b [31m c");
        assert_eq!(legible(&"x".repeat(5_000)).len(), MESSAGE_CHARS_MAX + 3);
    }
}
