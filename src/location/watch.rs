//! Retries as a user sees them: remarks, and an end to them at Ctrl-C.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use packvault_storage::{Error as StorageError, RetryWatch};

use super::Opening;
use crate::cancel::Cancel;
use crate::progress::Progress;

/// Passes on what the retries tell, and tells them of the cancellation.
pub(super) struct Watch {
    cancel: Cancel,
    progress: Arc<dyn Progress>,
}

impl Watch {
    pub(super) fn of(opening: &Opening) -> Self {
        Self { cancel: opening.cancel.clone(), progress: Arc::clone(&opening.progress) }
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
        self.progress.remark(&format!("{error}; attempt {number} in {seconds:.1} s"));
    }

    fn is_stopped(&self) -> bool {
        self.cancel.is_cancelled()
    }

    fn stopped(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.cancel.cancelled())
    }
}
