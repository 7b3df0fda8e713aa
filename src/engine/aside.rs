//! Work of which nobody knows whether it comes back: what is asked of a database that nobody trusts.
//!
//! SQLite asks between two steps whether it should go on, and may be interrupted in most of them. One call of
//! one of its functions - a pattern matched against a text, a text searched in another - hears neither. Such
//! work is given up: the operation goes on to clean up and to end, and the thread is left to itself until the
//! program ends. It owns what it works with, so nothing that is cleaned up meanwhile can be hurt by it.
//!
//! What is measured is the time of the machine, on a thread that does nothing else: the clock of an async
//! runtime may be paused or jump ahead, and a program that was stopped as a whole has not used up its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::archive::bounds::{Bounds, shown};
use crate::{Error, ErrorKind, Result};

/// How long work may take to hear that it was stopped.
const HEARS_WITHIN: Duration = Duration::from_millis(500);
/// How much longer than its time work may take to end by itself, with a better message than ours.
const LATE_MAX: Duration = Duration::from_secs(5);
/// How long who waits looks at nothing but the answer.
const GLANCE: Duration = Duration::from_millis(20);
/// What one glance counts for at the most: whoever waited longer was stopped, and so was the work.
const GLANCE_MAX: Duration = Duration::from_secs(1);

/// Does the work on a thread of its own, and gives it up when it is deaf to its bounds.
pub async fn run<T: Send + 'static>(
    bounds: &Bounds,
    what: &str,
    work: impl FnOnce(&Bounds) -> Result<T> + Send + 'static,
) -> Result<T> {
    run_late(bounds, LATE_MAX, what, work).await
}

async fn run_late<T: Send + 'static>(
    bounds: &Bounds,
    late_max: Duration,
    what: &str,
    work: impl FnOnce(&Bounds) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, answer) = sync_channel(1);
    let own = bounds.clone();
    let begun = std::thread::Builder::new().name("aside".to_owned()).spawn(move || {
        // Nobody waits for the answer of work that was given up.
        let _ = sender.send(work(&own));
    });
    begun.map_err(|error| Error::caused(ErrorKind::Io, format!("cannot start a thread to {what}"), error))?;
    let asked = Asked::default();
    let wait = Wait { bounds: bounds.clone(), late_max, unasked: asked.0.clone() };
    // A blocking thread of the runtime, for a clock that is paused stands still while one is at work.
    let ended = tokio::task::spawn_blocking(move || wait.answer(&answer)).await;
    match ended.unwrap_or(Err(GivenUp::Lost)) {
        Ok(answer) => answer,
        Err(GivenUp::Lost) => {
            Err(Error::new(ErrorKind::Io, format!("the thread that was to {what} ended early")))
        }
        Err(GivenUp::Stopped) => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
        Err(GivenUp::Late) => {
            let message = format!("cannot {what}: it did not end within {}", shown(bounds.time()));
            Err(Error::new(ErrorKind::Refused, message))
        }
    }
}

/// Ends the wait when nobody asks for the answer any more.
#[derive(Default)]
struct Asked(Arc<AtomicBool>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Why there is no answer.
enum GivenUp {
    /// The thread ended without one.
    Lost,
    /// The user said so, and the work did not hear it.
    Stopped,
    /// The time is over, and the work goes on.
    Late,
}

/// How long an answer is waited for.
struct Wait {
    bounds: Bounds,
    late_max: Duration,
    unasked: Arc<AtomicBool>,
}

impl Wait {
    fn answer<T>(&self, answer: &Receiver<T>) -> std::result::Result<T, GivenUp> {
        let time_max = self.bounds.time().saturating_add(self.late_max);
        let (mut waited, mut since_stopped) = (Duration::ZERO, Duration::ZERO);
        loop {
            let begun = Instant::now();
            match answer.recv_timeout(GLANCE) {
                Ok(answer) => return Ok(answer),
                Err(RecvTimeoutError::Disconnected) => return Err(GivenUp::Lost),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let glance = begun.elapsed().min(GLANCE_MAX);
            waited += glance;
            if self.bounds.cancel().is_cancelled() {
                since_stopped += glance;
            }
            if since_stopped >= HEARS_WITHIN || self.unasked.load(Ordering::Acquire) {
                return Err(GivenUp::Stopped);
            }
            if waited >= time_max {
                return Err(GivenUp::Late);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cancel;

    /// Returns when the sender is dropped: as deaf as can be.
    fn deaf(over: std::sync::mpsc::Receiver<()>) -> impl FnOnce(&Bounds) -> Result<()> {
        move |_| {
            let _ = over.recv();
            Ok(())
        }
    }

    #[tokio::test]
    async fn work_that_ends_is_answered() {
        let bounds = Bounds::unhurried(&Cancel::new());
        assert_eq!(run(&bounds, "count", |_| Ok(7)).await.unwrap(), 7);
        let error = run(&bounds, "count", |_| -> Result<()> { panic!("in the work") }).await.unwrap_err();
        assert!(error.to_string().contains("that was to count ended early"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_clock_that_jumps_ahead_ends_no_work() {
        let begun = tokio::time::Instant::now();
        let bounds = Bounds::new(&Cancel::new(), Duration::from_secs(60));
        let work = |_: &Bounds| {
            std::thread::sleep(Duration::from_millis(200));
            Ok(7)
        };
        let hour = tokio::time::sleep(Duration::from_secs(3600));
        tokio::select! {
            answer = run(&bounds, "count", work) => assert_eq!(answer.unwrap(), 7),
            () = hour => panic!("the clock went on while the work was done"),
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
    }

    #[tokio::test]
    async fn deaf_work_is_given_up_when_its_time_is_over_and_when_the_user_says_so() {
        let (goes_on, over) = std::sync::mpsc::channel();
        let bounds = Bounds::new(&Cancel::new(), Duration::ZERO);
        let late_max = Duration::from_millis(100);
        let error = run_late(&bounds, late_max, "count", deaf(over)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("cannot count: it did not end within 0 seconds"), "{error}");
        drop(goes_on);

        let (goes_on, over) = std::sync::mpsc::channel();
        let cancel = Cancel::new();
        cancel.cancel();
        let error = run(&Bounds::unhurried(&cancel), "count", deaf(over)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        drop(goes_on);
    }

    #[tokio::test]
    async fn nobody_waits_for_work_that_is_not_asked_for_any_more() {
        let (goes_on, over) = std::sync::mpsc::channel();
        let bounds = Bounds::unhurried(&Cancel::new());
        let asked = run(&bounds, "count", deaf(over));
        assert!(tokio::time::timeout(Duration::from_millis(50), asked).await.is_err());
        // The end of this runtime waits for the threads that wait: it would be a century.
        drop(goes_on);
    }
}
