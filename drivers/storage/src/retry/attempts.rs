//! How often, how long and with which pauses a step is tried.

use std::time::Duration;

use tokio::time::Instant;

use super::watch::{RetryWatch, stopped};
use crate::{Error, Operation, trace};

/// The bounds of the retries of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// How often the step is tried, the first time included.
    pub attempts_max: u32,
    /// No pause begins that would end later than this after the first attempt began.
    pub total_max: Duration,
    /// The longest first pause; each further one may be twice as long.
    pub pause_first: Duration,
    /// The longest pause.
    pub pause_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 8,
            total_max: Duration::from_secs(180),
            pause_first: Duration::from_millis(250),
            pause_max: Duration::from_secs(20),
        }
    }
}

/// The attempts of one call so far.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    policy: RetryPolicy,
    watch: &'a dyn RetryWatch,
    begun: Instant,
    failed: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(policy: RetryPolicy, watch: &'a dyn RetryWatch) -> Self {
        Self { policy, watch, begun: Instant::now(), failed: 0 }
    }

    /// Does the step as the next attempt, for whoever tells what is asked of the store.
    pub(super) async fn numbered<T>(&self, step: impl Future<Output = T>) -> T {
        trace::numbered(self.failed + 1, step).await
    }

    /// Waits before another attempt; returns the error at once when there may be none, and one that says
    /// so when the user stops the operation meanwhile.
    pub(super) async fn pause(
        &mut self,
        error: Error,
        (operation, object): (Operation, &str),
    ) -> Result<(), Error> {
        self.failed += 1;
        let pause = self.next_pause();
        let spent = self.failed >= self.policy.attempts_max
            || self.begun.elapsed() + pause > self.policy.total_max
            || self.watch.is_stopped();
        if spent || !error.kind().is_passing() {
            return Err(error);
        }
        let milliseconds = pause.as_millis() as u64;
        tracing::info!(
            target: "packvault::retry",
            verb = operation.verb(),
            key = object,
            failed = self.failed,
            milliseconds,
            why = %error,
            "trying again after a pause"
        );
        self.watch.retrying(&error, self.failed, pause);
        tokio::select! {
            () = tokio::time::sleep(pause) => Ok(()),
            () = self.watch.stopped() => Err(stopped(operation, object).with_source(error)),
        }
    }

    /// Returns between half of the full pause and all of it, so that clients which failed together do
    /// not come back together.
    fn next_pause(&self) -> Duration {
        let doublings = (self.failed - 1).min(16);
        let full = self.policy.pause_first.saturating_mul(1 << doublings).min(self.policy.pause_max);
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}
