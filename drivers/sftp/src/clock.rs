//! What the server's clock last showed, carried on by ours.
//!
//! Our monotonic clock may stand still while the machine sleeps, which shows against our wall clock; then the server
//! is asked anew (`server_time`).

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// How long an answer of the server's is carried on.
const REFRESH: Duration = Duration::from_secs(600);

/// How far our two clocks may part before the server is asked anew.
const DRIFT_MAX: Duration = Duration::from_secs(2);

/// What the server's clock last showed.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Option<Reading>>);

/// What it showed, and when that was.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub server: SystemTime,
    at: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Returns the present time on the server, if it was asked not long ago.
    pub(crate) fn now(&self) -> Option<SystemTime> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.and_then(|reading| reading.carried_on())
    }

    /// Keeps what the server's clock showed just now.
    pub(crate) fn note(&self, reading: Reading) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }
}

impl Reading {
    /// Makes the reading of this moment.
    pub(crate) fn of(server: SystemTime) -> Self {
        Self { server, at: Instant::now(), wall: SystemTime::now() }
    }

    /// Returns how far the server's clock was ahead of ours, in seconds.
    pub(crate) fn ahead_seconds(&self) -> i64 {
        let seconds = |from: SystemTime, to: SystemTime| to.duration_since(from).map(|apart| apart.as_secs());
        let ahead = seconds(self.wall, self.server).map(|ahead| ahead as i64);
        let behind = || seconds(self.server, self.wall).map(|behind| -(behind as i64));
        ahead.or_else(|_| behind()).unwrap_or(0)
    }

    fn carried_on(&self) -> Option<SystemTime> {
        let elapsed = self.at.elapsed();
        let by_wall = self.wall.elapsed().ok()?;
        let drift = by_wall.abs_diff(elapsed);
        (elapsed < REFRESH && drift < DRIFT_MAX).then(|| self.server + elapsed)
    }
}
