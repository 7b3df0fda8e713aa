//! The store's clock, read from the `Date` of its answers.
//!
//! A reading is carried on by our own monotonic clock for [`READING_SECONDS_MAX`]; then the store is asked
//! again. A `Date` has whole seconds, so the time told is up to a second early, never late.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::fmt::rfc2822::DateTimeParser;

/// How long a reading is carried on.
const READING_SECONDS_MAX: u64 = 30;

/// How far our two clocks may move apart before a reading is given up: the machine slept in between, which
/// the monotonic one does not count.
const SLEPT_SECONDS_MAX: u64 = 2;

static PARSER: DateTimeParser = DateTimeParser::new();

/// What the store's clock showed, and when that was.
#[derive(Debug, Default)]
pub(crate) struct StoreClock(Mutex<Option<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    shown: SystemTime,
    at: Instant,
    ours: SystemTime,
}

impl StoreClock {
    /// Takes the `Date` of an answer that has just come.
    pub(crate) fn note(&self, date: &str) {
        let Ok(shown) = PARSER.parse_timestamp(date) else { return };
        let Ok(shown) = SystemTime::try_from(shown) else { return };
        let reading = Reading { shown, at: Instant::now(), ours: SystemTime::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// Returns the store's time, if it was read of late.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        let reading = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let passed = reading.at.elapsed();
        let by_ours = SystemTime::now().duration_since(reading.ours).unwrap_or_default();
        let slept = by_ours.abs_diff(passed);
        let is_fresh = passed.as_secs() < READING_SECONDS_MAX && slept.as_secs() < SLEPT_SECONDS_MAX;
        if is_fresh { reading.shown.checked_add(passed) } else { None }
    }

    /// Returns how far the store's clock is ahead of ours, in seconds.
    pub(crate) fn offset_seconds(&self) -> Option<i64> {
        let reading = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let signed = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        Some(match reading.shown.duration_since(reading.ours) {
            Ok(ahead) => signed(ahead),
            Err(behind) => -signed(behind.duration()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_store_is_believed_whatever_our_clock_says() {
        let clock = StoreClock::default();
        assert_eq!(clock.now(), None);
        clock.note("no date");
        assert_eq!(clock.now(), None);
        clock.note("Sun, 06 Nov 1994 08:49:37 GMT");
        let now = clock.now().unwrap();
        let shown = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert!(now >= shown && now < shown + Duration::from_secs(5), "{now:?}");
        assert!(clock.offset_seconds().unwrap() < -900_000_000);
    }
}
