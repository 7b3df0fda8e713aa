//! How a request that stands still is noticed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How often a standstill is looked for, as a part of the time that may pass without progress.
const LOOKS_PER_IDLE: u32 = 8;

/// Whether a request still moves: it does while the server takes pieces, and while we hold them back.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    moved_millis: AtomicU64,
    is_held: AtomicBool,
}

impl Progress {
    /// Makes one that has moved just now.
    pub fn begin() -> Self {
        Self { begun: Instant::now(), moved_millis: AtomicU64::new(0), is_held: AtomicBool::new(false) }
    }

    /// Notes that something moved; while it is held, nothing is expected to.
    pub fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_millis.store(millis, Ordering::Relaxed);
    }

    /// Returns when nothing has moved for that long.
    pub async fn stand_still(&self, idle: Duration) {
        loop {
            tokio::time::sleep(idle / LOOKS_PER_IDLE).await;
            let moved = Duration::from_millis(self.moved_millis.load(Ordering::Relaxed));
            if !self.is_held.load(Ordering::Relaxed) && self.begun.elapsed().saturating_sub(moved) >= idle {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_we_hold_back_ourselves_is_no_standstill() {
        let progress = Progress::begin();
        progress.hold(true);
        let idle = Duration::from_secs(60);
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, progress.stand_still(idle)).await.is_err());
        progress.hold(false);
        assert!(tokio::time::timeout(2 * idle, progress.stand_still(idle)).await.is_ok());
    }
}
