//! A deadline for what SQLite does in one call.
//!
//! A checkpoint writes back the whole WAL before it returns. On the way it only checks SQLite's own interrupt, which
//! another thread must set. So a thread runs beside the call: it does no work, and watches the clock and the
//! cancellation.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rusqlite::{Connection, InterruptHandle};

use crate::cancel::Cancel;
use crate::{Error, ErrorKind, Result};

/// A deadline that does not come: a century.
const UNHURRIED: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// The pause between two looks at the clock.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

/// Runs `work`, and from the deadline or the cancellation on interrupts what the connection does in it.
pub fn interrupted_at<T>(
    deadline: Instant,
    cancel: &Cancel,
    connection: &Connection,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    interrupting(deadline, cancel, connection.get_interrupt_handle(), work)
}

/// Runs `work`, and once the token is cancelled interrupts what the connection does in it.
pub fn unless_cancelled<T>(
    cancel: &Cancel,
    connection: &Connection,
    work: impl FnOnce() -> rusqlite::Result<T>,
) -> Result<rusqlite::Result<T>> {
    let never = Instant::now() + UNHURRIED;
    interrupting(never, cancel, connection.get_interrupt_handle(), || Ok(work()))
}

/// The same for the connection of a handle, which `work` may have for itself.
pub fn interrupting<T>(
    deadline: Instant,
    cancel: &Cancel,
    handle: InterruptHandle,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let (working, over) = channel::<()>();
    std::thread::scope(|scope| {
        let watch = move || {
            while over.recv_timeout(WATCH_PAUSE) == Err(RecvTimeoutError::Timeout) {
                if cancel.is_cancelled() || Instant::now() >= deadline {
                    handle.interrupt();
                }
            }
        };
        let watching = std::thread::Builder::new().name("deadline".to_owned()).spawn_scoped(scope, watch);
        watching.map_err(|error| {
            let message = "cannot start a thread: the limit on processes or on memory leaves no room for it";
            Error::caused(ErrorKind::Io, message, error)
        })?;
        let result = work();
        drop(working);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::lift::database_error;

    #[test]
    fn a_call_that_does_not_return_is_interrupted() {
        let connection = Connection::open_in_memory().unwrap();
        let endless =
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT sum(i) FROM n";
        let run = || {
            let sum = connection.query_row(endless, [], |_| Ok(()));
            sum.map_err(|error| database_error("read", "memory".as_ref(), error))
        };
        let at_once = Instant::now();
        let error = interrupted_at(at_once, &Cancel::new(), &connection, run).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        let cancel = Cancel::new();
        cancel.cancel();
        let later = at_once + Duration::from_secs(3600);
        let error = interrupted_at(later, &cancel, &connection, run).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    }
}
