//! Work of which nobody knows whether it comes back: what is asked of a database that nobody trusts.
//!
//! SQLite asks between two steps whether it should go on, and may be interrupted in most of them. One call of
//! one of its functions - a pattern matched against a text, a text searched in another - hears neither. Such
//! work is given up: the operation goes on to clean up and to end, and the thread is left to itself until the
//! program ends. It owns what it works with, so nothing that is cleaned up meanwhile can be hurt by it.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::archive::bounds::{Bounds, shown};
use crate::{Error, ErrorKind, Result};

/// How long work may take to hear that it was stopped.
const HEARS_WITHIN: Duration = Duration::from_millis(500);
/// How much longer than its time work may take to end by itself, with a better message than ours.
const LATE_MAX: Duration = Duration::from_secs(5);

/// Does the work on a thread of its own, and gives it up when it is deaf to its bounds.
pub async fn run<T: Send + 'static>(
    bounds: &Bounds,
    what: &str,
    work: impl FnOnce(&Bounds) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, answer) = oneshot::channel();
    let own = bounds.clone();
    let begun = std::thread::Builder::new().name("aside".to_owned()).spawn(move || {
        // Nobody waits for the answer of work that was given up.
        let _ = sender.send(work(&own));
    });
    begun.map_err(|error| Error::caused(ErrorKind::Io, format!("cannot start a thread to {what}"), error))?;
    let stopped = async {
        bounds.cancel().cancelled().await;
        tokio::time::sleep(HEARS_WITHIN).await;
    };
    tokio::select! {
        biased;
        answer = answer => answer.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Io, format!("the thread that was to {what} ended early")))
        }),
        () = stopped => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
        () = tokio::time::sleep(bounds.time().saturating_add(LATE_MAX)) => {
            let message = format!("cannot {what}: it did not end within {}", shown(bounds.time()));
            Err(Error::new(ErrorKind::Refused, message))
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
    async fn deaf_work_is_given_up_when_its_time_is_over_and_when_the_user_says_so() {
        let (goes_on, over) = std::sync::mpsc::channel();
        let bounds = Bounds::new(&Cancel::new(), Duration::from_secs(60));
        let error = run(&bounds, "count", deaf(over)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.to_string().contains("cannot count: it did not end within 60 seconds"), "{error}");
        drop(goes_on);

        let (goes_on, over) = std::sync::mpsc::channel();
        let cancel = Cancel::new();
        cancel.cancel();
        let error = run(&Bounds::unhurried(&cancel), "count", deaf(over)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        drop(goes_on);
    }
}
