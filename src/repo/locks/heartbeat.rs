//! The heartbeat: keeps a lock fresh while it is held, and knows when it may be somebody else's.
//!
//! A lock is stale when the store has not seen a touch for [`STALE_AFTER`]; anybody may take it then. So
//! its holder counts the time since the *beginning* of its last successful touch, which is not later than
//! the time that the store wrote down, and gives the lock up for good a margin earlier. A touch whose answer
//! comes after that point renews nothing: while it was under way the lock may have been reaped, and the touch
//! may have made it anew. The clock goes on while the machine sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use packvault_storage::{ErrorKind as StorageErrorKind, Storage};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::Instrument as _;

use super::{Planted, STALE_AFTER};

/// How often the holder moves the modification time of its lock.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How much earlier than others the holder counts its lock as stale. It covers clocks that run at different
/// speeds, and the publication that follows a last look with all its retries.
const MARGIN: Duration = Duration::from_secs(5 * 60);
/// How long a release waits for a touch under way. One that is cut off may make the lock anew; that one is
/// nobody's, and stale in half an hour.
const FINISH_WAIT_MAX: Duration = Duration::from_secs(60);

#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
/// Elsewhere the monotonic clock goes on during sleep itself.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// An instant, by the clock that goes on during sleep and by the runtime's, which tests can move.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    awake_or_not: Duration,
    runtime: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { awake_or_not: clock(), runtime: Instant::now() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        clock().saturating_sub(self.awake_or_not).max(self.runtime.elapsed())
    }
}

fn clock() -> Duration {
    let time = clock_gettime(CLOCK);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Since when a lock is known to be fresh, and whether it is lost.
#[derive(Debug)]
pub(super) struct Freshness {
    renewed: Mutex<Moment>,
    lost: AtomicBool,
}

impl Freshness {
    /// Makes the freshness of a lock whose planting began at the moment.
    pub(super) fn since(began: Moment) -> Self {
        Self { renewed: Mutex::new(began), lost: AtomicBool::new(false) }
    }

    /// Notes a touch that began at the moment and has succeeded; returns whether it came in time.
    fn renew(&self, began: Moment) -> bool {
        if self.is_lost() {
            return false;
        }
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = began;
        true
    }

    /// Counts the lock as somebody else's from now on.
    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::Release);
    }

    /// Tells whether the lock may be somebody else's; if so, for good.
    pub(super) fn is_lost(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if renewed.elapsed() > STALE_AFTER - MARGIN {
            self.lose();
        }
        self.lost.load(Ordering::Acquire)
    }
}

/// The task that touches a lock.
#[derive(Debug)]
pub(super) struct Heartbeat {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Heartbeat {
    pub(super) fn start(storage: Arc<dyn Storage>, planted: Planted) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self { stop: Some(stop), task: tokio::spawn(beat(storage, planted, stopped).in_current_span()) }
    }

    /// Stops at once; a touch under way is cut off.
    pub(super) fn abort(&self) {
        self.task.abort();
    }

    /// Stops, and waits for a touch under way to be answered.
    pub(super) async fn finish(&mut self) {
        drop(self.stop.take());
        if tokio::time::timeout(FINISH_WAIT_MAX, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn beat(storage: Arc<dyn Storage>, planted: Planted, mut stopped: oneshot::Receiver<()>) {
    let freshness = &planted.freshness;
    while !freshness.is_lost() {
        tokio::select! {
            () = tokio::time::sleep(HEARTBEAT) => {}
            _ = &mut stopped => return,
        }
        // A holder that slept until its lock was stale must not touch it: the lock may be a successor's by now.
        if !freshness.is_lost() {
            touch(storage.as_ref(), &planted).await;
        }
    }
    if !storage.guarantees().rename {
        // The name is ours alone. A last touch may have made it anew, and would keep others out.
        let _ = storage.remove(&planted.key).await;
    }
}

async fn touch(storage: &dyn Storage, planted: &Planted) {
    let (began, lock) = (Moment::now(), planted.key.name());
    match storage.touch(&planted.key, &planted.body).await {
        Ok(()) => {
            planted.freshness.renew(began);
            tracing::debug!(target: "packvault::lock", lock, "is renewed");
        }
        Err(error) if is_tried_again(storage, error.kind()) => {
            tracing::info!(
                target: "packvault::lock",
                lock,
                why = %error,
                "could not be renewed, and is tried again"
            );
        }
        Err(error) => {
            tracing::info!(
                target: "packvault::lock",
                lock,
                why = %error,
                "could not be renewed, and is lost"
            );
            planted.freshness.lose();
        }
    }
}

/// Tells whether a failed touch says nothing about the lock. The format stops at whatever it cannot read,
/// which was meant for disks; a connection that broke is no reason to throw hours of work away.
fn is_tried_again(storage: &dyn Storage, kind: StorageErrorKind) -> bool {
    match storage.guarantees().rename {
        true => kind.is_passing(),
        false => !matches!(kind, StorageErrorKind::Changed | StorageErrorKind::NotFound),
    }
}
