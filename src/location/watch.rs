//! Retries as a user sees them: one line, then their number, and an end to them at Ctrl-C.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use packvault_storage::{Error as StorageError, RetryWatch};
use tokio::time::Instant;

use super::Opening;
use crate::cancel::Cancel;
use crate::progress::Progress;

/// Between two lines while retries go on: a server that is down for an hour is tried some thousand times.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// The retries of one run of a command, whatever was opened for it.
#[derive(Debug, Default)]
pub struct Retries(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    /// When the last line was said.
    last: Option<Instant>,
    /// Retries since then.
    untold: u64,
}

impl Retries {
    /// Says how many retries no line has told of; the last word of a command.
    pub fn conclude(&self, progress: &dyn Progress) {
        let untold = std::mem::take(&mut self.told().untold);
        if untold > 0 {
            progress.remark(&more(untold));
        }
    }

    /// Counts a retry; returns what is to be said now, if it is time.
    fn count(&self, now: Instant, retry: &str) -> Option<String> {
        let mut told = self.told();
        if told.last.is_some_and(|last| now.saturating_duration_since(last) < LINE_EVERY) {
            told.untold += 1;
            return None;
        }
        told.last = Some(now);
        Some(match std::mem::take(&mut told.untold) {
            0 => retry.to_owned(),
            untold => format!("{}; now {retry}", more(untold)),
        })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn more(count: u64) -> String {
    let retries = if count == 1 { "retry" } else { "retries" };
    format!("{count} more {retries} since that was said")
}

/// Passes on what the retries tell, and tells them of the cancellation.
pub(super) struct Watch {
    cancel: Cancel,
    progress: Arc<dyn Progress>,
    retries: Arc<Retries>,
}

impl Watch {
    pub(super) fn of(opening: &Opening) -> Self {
        Self {
            cancel: opening.cancel.clone(),
            progress: Arc::clone(&opening.progress),
            retries: Arc::clone(&opening.retried),
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("cancelled", &self.cancel.is_cancelled()).finish_non_exhaustive()
    }
}

impl RetryWatch for Watch {
    fn retrying(&self, error: &StorageError, attempt: u32, pause: Duration) {
        let seconds = pause.as_secs_f64();
        let number = attempt + 1;
        let retry = format!("{error}; attempt {number} in {seconds:.1} s");
        if let Some(line) = self.retries.count(Instant::now(), &retry) {
            self.progress.remark(&line);
        }
    }

    fn is_stopped(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn stopped(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.cancel.cancelled())
    }
}

#[cfg(test)]
mod tests {
    use packvault_storage::{ErrorKind, Fault, FaultStorage, Key, MemoryStorage, Operation, RetryPolicy};
    use packvault_storage::{RetryStorage, Storage};

    use super::super::Purpose;
    use super::*;
    use crate::progress::Heard;

    #[tokio::test(start_paused = true)]
    async fn many_retries_are_one_line_a_minute_and_their_number() {
        let heard = Arc::new(Heard::default());
        let opening = Opening { progress: heard.clone(), ..Opening::new(Purpose::Work, "/tmp") };
        let faults = FaultStorage::new(Arc::new(MemoryStorage::new()));
        // Two storages of one run, as a probe and what comes after it.
        let policy = RetryPolicy { pause_max: Duration::from_secs(1), ..RetryPolicy::default() };
        let storages = [(); 2].map(|()| {
            RetryStorage::new(Arc::new(faults.clone()), policy).watched_by(Arc::new(Watch::of(&opening)))
        });
        let key = Key::parse("packs/a").unwrap();
        let fail_and_ask = async || {
            for storage in storages.iter().cycle().take(100) {
                faults.at_next(Operation::Read, Fault::Before(ErrorKind::Connection));
                let _ = storage.read(&key).await;
            }
        };
        fail_and_ask().await;
        let lines = heard.remarks();
        assert!(lines[0].contains("packs/a") && lines[0].contains("attempt 2 in"), "{lines:?}");
        assert!((1..=2).contains(&lines.len()), "{lines:?}");
        tokio::time::sleep(LINE_EVERY).await;
        fail_and_ask().await;
        opening.retried.conclude(heard.as_ref());
        opening.retried.conclude(heard.as_ref());
        let lines = heard.remarks();
        assert!((3..=5).contains(&lines.len()), "{lines:?}");
        let told: u64 =
            lines.iter().filter_map(|line| line.split(" more retries").next()?.parse::<u64>().ok()).sum();
        let plain = lines.iter().filter(|line| line.contains("attempt")).count() as u64;
        assert_eq!(told + plain, 200, "every retry is told of once: {lines:?}");
    }
}
