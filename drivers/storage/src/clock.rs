//! The clock of a store that tells its time with every answer.
//!
//! A reading is carried on by our own monotonic clock for half a minute; then the store is asked again. A
//! `Date` has whole seconds, so the time told is up to a second early, never late.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long a reading is carried on.
const READING_SECONDS_MAX: u64 = 30;

/// How far our two clocks may move apart before a reading is given up: the machine slept in between, which
/// the monotonic one does not count.
const SLEPT_SECONDS_MAX: u64 = 2;

/// What the store's clock showed, and when that was.
#[derive(Debug, Default)]
pub struct StoreClock(Mutex<Option<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    shown: SystemTime,
    at: Instant,
    ours: SystemTime,
}

impl StoreClock {
    /// Takes the time that an answer which has just come shows.
    pub fn note(&self, shown: SystemTime) {
        let reading = Reading { shown, at: Instant::now(), ours: SystemTime::now() };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// Returns the store's time, if it was read of late.
    pub fn now(&self) -> Option<SystemTime> {
        let reading = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let passed = reading.at.elapsed();
        let by_ours = SystemTime::now().duration_since(reading.ours).unwrap_or_default();
        let slept = by_ours.abs_diff(passed);
        let is_fresh = passed.as_secs() < READING_SECONDS_MAX && slept.as_secs() < SLEPT_SECONDS_MAX;
        if is_fresh { reading.shown.checked_add(passed) } else { None }
    }

    /// Returns how far the store's clock is ahead of ours, in seconds.
    pub fn offset_seconds(&self) -> Option<i64> {
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
    use super::*;

    #[test]
    fn the_store_is_believed_whatever_our_clock_says() {
        let clock = StoreClock::default();
        assert_eq!(clock.now(), None);
        let shown = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        clock.note(shown);
        let now = clock.now().unwrap();
        assert!(now >= shown && now < shown + Duration::from_secs(5), "{now:?}");
        assert!(clock.offset_seconds().unwrap() < -900_000_000);
    }
}
