//! A cancellation that many tasks and threads watch: set once, never taken back.
//!
//! Blocking code asks [`Cancel::check`] between two pieces of work, async code selects on
//! [`Cancel::cancelled`]. The caller decides when it is set: the command line does so on Ctrl-C.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind, Result};

/// A token that says "stop"; clones share one state and cost one reference count.
#[derive(Debug, Clone, Default)]
pub struct Cancel {
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    cancelled: AtomicBool,
    changed: Notify,
}

impl Cancel {
    /// Makes a token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels every clone of this token and wakes who waits for it; a second call changes nothing.
    pub fn cancel(&self) {
        self.state.cancelled.store(true, Ordering::Release);
        self.state.changed.notify_waiters();
    }

    /// Returns whether the token is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.state.cancelled.load(Ordering::Acquire)
    }

    /// Returns an error of kind [`ErrorKind::Interrupted`] once the token is cancelled.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::new(ErrorKind::Interrupted, "interrupted")) } else { Ok(()) }
    }

    /// Returns when the token is cancelled, at once if it already is.
    pub async fn cancelled(&self) {
        // The waiter is made before the flag is read: a cancel between the two wakes it.
        let changed = self.state.changed.notified();
        if !self.is_cancelled() {
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_new_token_lets_work_go_on() {
        let cancel = Cancel::new();
        assert!(!cancel.is_cancelled());
        assert!(cancel.check().is_ok());
    }

    #[test]
    fn every_clone_sees_the_cancellation() {
        let cancel = Cancel::new();
        let clone = cancel.clone();
        cancel.cancel();
        cancel.cancel();
        assert!(clone.is_cancelled());
        let error = clone.check().expect_err("the clone is cancelled");
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert_eq!(error.to_string(), "interrupted");
    }

    #[tokio::test]
    async fn waiting_ends_at_once_when_already_cancelled() {
        let cancel = Cancel::new();
        cancel.cancel();
        cancel.cancelled().await;
    }

    #[tokio::test]
    async fn every_waiter_is_woken() {
        let cancel = Cancel::new();
        let waiters: Vec<_> = (0..8)
            .map(|_| {
                let cancel = cancel.clone();
                tokio::spawn(async move { cancel.cancelled().await })
            })
            .collect();
        tokio::task::yield_now().await;
        cancel.cancel();
        for waiter in waiters {
            let woken = tokio::time::timeout(Duration::from_secs(5), waiter).await;
            woken.expect("the waiter is woken").expect("the waiter does not panic");
        }
    }
}
