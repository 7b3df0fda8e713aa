//! How long the writers of a database are held off, and the limit to it.
//!
//! A read transaction of a database with a rollback journal keeps everybody from writing to it; one of a
//! write-ahead log keeps nobody. A statement of SQLite that outlasts the limit is interrupted.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::archive::pinned::PinnedDatabase;
use crate::{Error, ErrorKind, Result};

/// The pause between two interruptions: one reaches only statements that run at that moment.
const INTERRUPT_PAUSE: Duration = Duration::from_millis(100);

/// The writers of one pinned database, held off or not.
#[derive(Debug)]
pub struct WriterHold {
    /// Since when they are held off; `None` if they are not.
    since: Option<Instant>,
    /// For how long they were held off before.
    before: Option<Duration>,
    max: Option<Duration>,
    database: PathBuf,
    watch: Option<JoinHandle<()>>,
}

impl WriterHold {
    /// Looks whether the pin holds writers off, and watches over the limit from now on.
    /// `before` tells for how long they were held off already, if they were.
    pub fn begin(pinned: &PinnedDatabase, before: Option<Duration>, max: Option<Duration>) -> Result<Self> {
        let since = pinned.holds_writers()?.then(|| pinned.since());
        let watch = since.zip(max).map(|(since, max)| {
            let handle = pinned.connection().get_interrupt_handle();
            tokio::spawn(async move {
                tokio::time::sleep_until((since + max).into()).await;
                loop {
                    handle.interrupt();
                    tokio::time::sleep(INTERRUPT_PAUSE).await;
                }
            })
        });
        Ok(Self { since, before, max, database: pinned.path().to_owned(), watch })
    }

    /// Tells whether writers are held off.
    pub fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Fails once the writers have been held off for longer than they may.
    pub fn check(&self) -> Result<()> {
        let (Some(since), Some(max)) = (self.since, self.max) else { return Ok(()) };
        if since.elapsed() < max {
            return Ok(());
        }
        let message = format!(
            "the capture was stopped: the writers of {} were held off for {} s, as long as they may be \
             (--max-hold)",
            self.database.display(),
            max.as_secs()
        );
        Err(Error::new(ErrorKind::InUse, message))
    }

    /// Says that it was the limit, if it was, that interrupted this work.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match is_interrupted(&error) {
            true => self.check().err().unwrap_or(error),
            false => error,
        })
    }

    /// Ends the watch, the pin having been released; returns how many seconds writers were held off, if they
    /// were.
    pub fn end(self) -> Option<f64> {
        let held = self.since.map(|since| since.elapsed()).or(self.before);
        held.map(|held| (held.as_secs_f64() * 1e3).round() / 1e3)
    }
}

/// Tells whether a call into SQLite was interrupted, whatever was made of that.
fn is_interrupted(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let of_sqlite = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
        if of_sqlite == Some(rusqlite::ErrorCode::OperationInterrupted) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Drop for WriterHold {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
