//! How fast a store answers, and so how long it is heard out after the user stopped the program.
//!
//! A program that is stopped must end within a second, but a lock it could not give back keeps others out for
//! half an hour. A store that has been quick and now says nothing is given up in half a second; one that has been
//! slow all along has some seconds.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::Result;

/// How long a step that changes the store may go on after the stop.
pub(super) const GRACE: Duration = Duration::from_millis(350);

/// How long a step begun after the stop may take at least and at most.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// How many times the mean a step may take before the store counts as silent.
const PATIENCE_MEANS: u32 = 4;

/// The weight of a new answer in the mean is one of so many.
const MEAN_OVER: u64 = 8;

/// How the store has answered so far.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Whether it left a step begun after the stop unanswered.
    is_silent: AtomicBool,
    /// The running mean of what a step took; zero before the first.
    mean_micros: AtomicU64,
}

impl Pace {
    /// Waits for a step, and counts how long it took if it succeeded.
    pub(super) async fn measure<T>(&self, step: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let ended = step.await;
        if ended.is_ok() {
            self.answered_in(begun.elapsed());
        }
        ended
    }

    /// Returns how long a step begun after the stop may take, `None` if the store has fallen silent.
    pub(super) fn patience(&self) -> Option<Duration> {
        let mean = Duration::from_micros(self.mean_micros.load(Ordering::Relaxed));
        let patience = mean.saturating_mul(PATIENCE_MEANS).clamp(PATIENCE_MIN, PATIENCE_MAX);
        (!self.is_silent.load(Ordering::Acquire)).then_some(patience)
    }

    /// Keeps that the store left a step begun after the stop unanswered.
    pub(super) fn fell_silent(&self) {
        self.is_silent.store(true, Ordering::Release);
    }

    fn answered_in(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
        let mean = match self.mean_micros.load(Ordering::Relaxed) {
            0 => micros,
            mean => mean - mean / MEAN_OVER + micros / MEAN_OVER,
        };
        // Of two answers at the same moment one may be left out of the mean.
        self.mean_micros.store(mean, Ordering::Relaxed);
    }
}
