//! Operations in the log: a span around each, with how it began and how it ended.

use std::time::Instant;

use tracing::{Instrument as _, Span};

use super::Context;
use crate::error::{ErrorKind, Result};
use crate::progress::Logged;

impl Context {
    /// Returns these surroundings with a progress that the log hears of as well.
    pub(super) fn logged(&self) -> Self {
        Self { progress: Logged::if_heard(self.progress.clone()), ..self.clone() }
    }
}

/// Does the work of an operation within its span, on the repository at that place.
pub(super) async fn operation<T>(
    span: Span,
    repository: String,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let told = async {
        let begun = Instant::now();
        tracing::info!(target: "packvault::operation", repository, "begins");
        let result = work.await;
        let milliseconds = begun.elapsed().as_millis() as u64;
        match &result {
            Ok(_) => tracing::info!(target: "packvault::operation", milliseconds, "is done"),
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                tracing::info!(target: "packvault::operation", milliseconds, "was interrupted");
            }
            Err(error) => {
                let why = error.chain();
                tracing::error!(target: "packvault::operation", milliseconds, why, "failed");
            }
        }
        result
    };
    told.instrument(span).await
}
