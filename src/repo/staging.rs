//! `staging/`: where unfinished objects lie. Swept only under the exclusive lock (section 1.3).

use std::time::Duration;

use super::{Repository, storage_error};
use crate::Result;

impl Repository {
    /// Removes what earlier runs left behind. The caller holds the exclusive lock, so nothing that lies
    /// there belongs to a run that may still finish.
    pub async fn clean_staging(&self) -> Result<()> {
        self.storage
            .sweep(Duration::ZERO)
            .await
            .map(drop)
            .map_err(|error| storage_error("cannot clean the staging of the repository", error))
    }
}
