//! `staging/`: where unfinished objects lie. Swept only under the exclusive lock (section 1.3).

use std::time::Duration;

use super::Repository;
use super::locks::STALE_AFTER;
use crate::Result;
use crate::repo::storage_error;

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use packvault_storage::{
        ErrorKind as StorageErrorKind, Fault, FaultStorage, Guarantees, MemoryStorage, Operation, Storage,
    };

    use super::super::{config, key};
    use super::*;
    use crate::ErrorKind;

    #[tokio::test]
    async fn what_earlier_runs_left_goes_at_once_where_locks_exclude_and_when_it_is_stale_elsewhere() {
        for rename in [true, false] {
            let storage = MemoryStorage::new().with_guarantees(Guarantees { rename, ..Guarantees::all() });
            storage.set_clock(SystemTime::now());
            config::init(&storage, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
            let faults = FaultStorage::new(Arc::new(storage.clone()));
            let repository = Repository::open(Arc::new(faults.clone())).await.unwrap();
            std::mem::forget(storage.stage(&key("packs/01/left".to_owned())).await.unwrap());
            repository.clean_staging().await.unwrap();
            assert_eq!(storage.unfinished_uploads(), if rename { 0 } else { 1 });
            storage.advance_clock(STALE_AFTER + Duration::from_secs(1));
            repository.clean_staging().await.unwrap();
            assert_eq!(storage.unfinished_uploads(), 0);
            faults.at_next(Operation::Sweep, Fault::Before(StorageErrorKind::Denied));
            assert_eq!(repository.clean_staging().await.unwrap_err().kind(), ErrorKind::NotPermitted);
        }
    }
}
