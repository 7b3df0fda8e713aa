//! Errors of opendal as errors of the storage.
//!
//! Nothing of a request is repeated: an address may hold a signature. What the server gave as its reason is
//! shown shortened, on one line.

use std::fmt;
use std::time::Duration;

use opendal::ErrorKind as Theirs;
use packvault_storage::{Error, ErrorKind, Step};

/// How much of a reason is shown.
const SHOWN_BYTES_MAX: usize = 300;

/// The errors of opendal.
pub(crate) trait TheirErrors {
    /// Lifts an error of opendal, whose kind tells what may be tried again.
    fn lift(&self, error: &opendal::Error) -> Error;

    /// Lifts the error of a write under the condition that the key is absent.
    fn lift_create(&self, error: &opendal::Error) -> Error;
}

impl TheirErrors for Step<'_> {
    fn lift(&self, error: &opendal::Error) -> Error {
        if let Some(fault) = fault(error) {
            return self.error(fault.kind, fault.detail.clone());
        }
        let reason = shorten(error.message());
        let kind = match error.kind() {
            Theirs::NotFound => return self.not_found(),
            Theirs::AlreadyExists => return self.already_exists(),
            Theirs::ConditionNotMatch => return self.changed(),
            Theirs::RateLimited => ErrorKind::Throttled,
            Theirs::PermissionDenied => ErrorKind::Denied,
            Theirs::ConfigInvalid => ErrorKind::Config,
            Theirs::Unsupported => ErrorKind::Unsupported,
            Theirs::RangeNotSatisfied => ErrorKind::Short,
            Theirs::Conflict => ErrorKind::Conflict,
            _ if error.is_temporary() => ErrorKind::Connection,
            _ if reason == SIGNING => {
                return self.error(ErrorKind::Config, "the credentials cannot be used to sign a request");
            }
            _ => ErrorKind::Io,
        };
        self.error(kind, reason)
    }

    fn lift_create(&self, error: &opendal::Error) -> Error {
        match error.kind() {
            Theirs::ConditionNotMatch | Theirs::AlreadyExists => self.already_exists(),
            _ => self.lift(error),
        }
    }
}

/// What opendal says where no credentials do.
const SIGNING: &str = "signing http request";

/// What the line met, carried through opendal unchanged.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    kind: ErrorKind,
    detail: String,
}

impl Fault {
    pub(crate) fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    pub(crate) fn idle(waited: Duration) -> Self {
        Self::new(ErrorKind::Timeout, format!("nothing moved for {} s", waited.as_secs_f32()))
    }

    pub(crate) fn unanswered(error: &reqwest::Error) -> Self {
        let (kind, detail) = match refused_certificate(error) {
            Some(reason) => (ErrorKind::Config, format!("the server's certificate is not trusted: {reason}")),
            None if error.is_timeout() => (ErrorKind::Timeout, "no connection in time".to_owned()),
            None if error.is_connect() => (ErrorKind::Connection, "the server cannot be reached".to_owned()),
            None if error.is_builder() => {
                (ErrorKind::Config, "the server's address cannot be used".to_owned())
            }
            None => (ErrorKind::Connection, "the connection broke".to_owned()),
        };
        Self::new(kind, detail)
    }

    pub(crate) fn into_theirs(self) -> opendal::Error {
        let is_passing = self.kind.is_passing();
        opendal::Error::new(Theirs::Unexpected, self.detail.clone())
            .with_temporary(is_passing)
            .set_source(self)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Fault {}

fn fault(error: &opendal::Error) -> Option<&Fault> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(fault) = error.downcast_ref() {
            return Some(fault);
        }
        cause = error.source();
    }
    None
}

/// Returns why TLS refused the server's certificate, if that is what happened.
fn refused_certificate(error: &reqwest::Error) -> Option<String> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(rustls::Error::InvalidCertificate(reason)) = error.downcast_ref() {
            return Some(reason.to_string());
        }
        // An I/O error does not count what it wraps as its source.
        cause = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    let text = &text[..text.floor_char_boundary(SHOWN_BYTES_MAX)];
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use packvault_storage::Operation;

    use super::*;

    fn step() -> Step<'static> {
        Step::new(Operation::Create, "a/b")
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (theirs, is_temporary, ours) in [
            (Theirs::NotFound, false, ErrorKind::NotFound),
            (Theirs::RateLimited, true, ErrorKind::Throttled),
            (Theirs::Unexpected, true, ErrorKind::Connection),
            (Theirs::Unexpected, false, ErrorKind::Io),
            (Theirs::PermissionDenied, false, ErrorKind::Denied),
            (Theirs::ConfigInvalid, false, ErrorKind::Config),
            (Theirs::ConditionNotMatch, false, ErrorKind::Changed),
        ] {
            let error = opendal::Error::new(theirs, "why").with_temporary(is_temporary);
            assert_eq!(step().lift(&error).kind(), ours, "{theirs}");
        }
        let refused = opendal::Error::new(Theirs::ConditionNotMatch, "why");
        assert_eq!(step().lift_create(&refused).kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_fault_of_the_line_is_found_below_what_opendal_wraps_around_it() {
        let fault = Fault::idle(Duration::from_secs(60)).into_theirs();
        let wrapped = opendal::Error::new(Theirs::Unexpected, SIGNING).set_source(fault);
        let lifted = step().lift(&wrapped);
        assert_eq!(lifted.kind(), ErrorKind::Timeout);
        assert_eq!(lifted.to_string(), "cannot create a/b: nothing moved for 60 s");
    }

    #[test]
    fn nothing_of_the_address_and_its_context_is_shown() {
        let error = opendal::Error::new(Theirs::Unexpected, "a\nreason")
            .with_context("uri", "https://mail.blob.example/c?sig=hunter2");
        assert_eq!(step().lift(&error).to_string(), "cannot create a/b: a reason");
    }
}
