//! Who is told of retries, and who may put an end to them.
//!
//! When the user stops the program, a pause before another attempt ends at once, and so does a read. A step
//! that changes the store is given a moment to answer, since cutting it off leaves open whether it
//! happened. Steps begun after the stop are the last words of an operation that cleans up: each is tried
//! once, for as long as the store's pace warrants, and after one that had no answer none is tried any more.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures::future::BoxFuture;

use super::pace::{GRACE, Pace};
use crate::{Error, ErrorKind, Operation, Result};

/// Is told of each retry, and says when to stop.
pub trait RetryWatch: fmt::Debug + Send + Sync {
    /// A step failed and is tried again after the pause; `attempt` counts from 1.
    fn retrying(&self, error: &Error, attempt: u32, pause: Duration);
    /// Tells whether the operation is to stop.
    fn is_stopped(&self) -> bool;
    /// Returns when the operation is to stop, at once if it already is.
    fn stopped(&self) -> BoxFuture<'_, ()>;
}

/// Watches nothing and never stops anything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl RetryWatch for Unwatched {
    fn retrying(&self, _: &Error, _: u32, _: Duration) {}

    fn is_stopped(&self) -> bool {
        false
    }

    fn stopped(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// What a step is to the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It only looks.
    Reads,
    /// It changes something, once.
    Writes,
}

/// Runs one attempt until it ends or the operation is stopped; the pace keeps how the store answered.
pub(super) async fn attempt<T>(
    watch: &dyn RetryWatch,
    pace: &Pace,
    effect: Effect,
    (operation, object): (Operation, &str),
    step: impl Future<Output = Result<T>>,
) -> Result<T> {
    let stopped = || stopped(operation, object);
    if watch.is_stopped() {
        let Some(patience) = pace.patience() else { return Err(stopped()) };
        let ended = tokio::time::timeout(patience, step).await;
        return ended.unwrap_or_else(|_| {
            pace.fell_silent();
            Err(stopped())
        });
    }
    let step = pace.measure(step);
    tokio::pin!(step);
    tokio::select! {
        biased;
        ended = &mut step => return ended,
        () = watch.stopped() => {}
    }
    if effect == Effect::Reads {
        return Err(stopped());
    }
    tokio::time::timeout(GRACE, step).await.unwrap_or_else(|_| Err(stopped()))
}

/// Makes the error of a step that the user stopped.
pub(super) fn stopped(operation: Operation, object: &str) -> Error {
    Error::new(ErrorKind::Interrupted, operation, object, "the operation was stopped")
}
