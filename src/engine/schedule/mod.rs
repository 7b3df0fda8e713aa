//! When what is done to an archive, and whether all is as it should be.
//!
//! The configuration says a [`Schedule`], the ledger what was done. `due` makes of both what is to be done now, `health`
//! what is wrong, `metrics` numbers for a monitor. All of it is pure: the time is an argument, and a clock that
//! jumped is one of the things that are expected.

pub mod due;
pub mod health;
pub mod metrics;
pub mod status;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

pub use super::retention::duration::Duration as Span;

/// How far a time may lie ahead of this machine's clock before it counts as one of a wrong clock.
pub const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(1);

/// What the configuration asks for one archive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schedule {
    /// How old the newest snapshot may be.
    pub max_age: Option<Span>,
    /// How often a share of the stored bytes is read.
    pub verify: Option<Span>,
    /// How often a restore is tried.
    pub restore_check: Option<Span>,
    /// How often space is given back.
    pub prune: Option<Span>,
    /// Whether there are rules of what is kept, and snapshots may be removed.
    pub forgets: bool,
    /// The names of the places of copies.
    pub copies: Vec<String>,
}

/// When each kind of work was done last at one place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// A share of the stored bytes was read.
    pub verify: Option<Timestamp>,
    /// A restore was tried.
    pub restore_check: Option<Timestamp>,
    /// Space was given back.
    pub prune: Option<Timestamp>,
}

/// Returns how long a span is just now; `None` where no calendar reaches that far.
pub fn length(span: Span, now: Timestamp) -> Option<SignedDuration> {
    span.before(now, &TimeZone::UTC).map(|before| now.duration_since(before))
}
