//! `staging/`: where unfinished objects lie. Swept only under the exclusive lock (section 1.3).

use std::time::Duration;

use super::locks::STALE_AFTER;
use super::{Repository, storage_error};
use crate::Result;

impl Repository {
    /// Removes what earlier runs left behind. The caller holds the exclusive lock, so nothing that lies
    /// there belongs to a run that may still finish.
    ///
    /// On stores without renames the uploads of a bucket may be others' as well, and those of a holder that
    /// was stopped and is lost without knowing it yet; there only what is as old as a stale lock goes.
    pub async fn clean_staging(&self) -> Result<()> {
        let older_than = if self.storage.guarantees().rename { Duration::ZERO } else { STALE_AFTER };
        self.storage
            .sweep(older_than)
            .await
            .map(drop)
            .map_err(|error| storage_error("cannot clean the staging of the repository", error))
    }
}
