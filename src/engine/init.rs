//! init: makes a repository where none is.

use super::logged;
use super::report::InitReport;
use crate::Result;
use crate::repo::{self, Storage};

/// Makes a repository; refuses where one exists.
pub async fn init(storage: &dyn Storage) -> Result<InitReport> {
    init_with(storage, false).await
}

/// The same; `force_unlock` breaks the lock of another init, where one takes a lock.
pub async fn init_with(storage: &dyn Storage, force_unlock: bool) -> Result<InitReport> {
    let work = async {
        let now = crate::clock::now()?;
        let config = repo::config::init_with(storage, now, &super::hostname(), force_unlock).await?;
        Ok(InitReport { id: config.repo_id.to_string(), location: storage.location() })
    };
    let span = tracing::info_span!(target: "packvault::operation", "init");
    logged::operation(span, storage.location(), work).await
}
