//! init: makes a repository where none is.

use super::logged;
use super::report::InitReport;
use crate::Result;
use crate::repo::config::NewKey;
use crate::repo::{self, Storage};

/// Makes a repository; refuses where one exists.
pub async fn init(storage: &dyn Storage) -> Result<InitReport> {
    init_with(storage, false, None).await
}

/// The same, encrypted if there is a key for it; `force_unlock` breaks the lock of another init, where one takes a lock.
pub async fn init_with(
    storage: &dyn Storage,
    force_unlock: bool,
    key: Option<NewKey<'_>>,
) -> Result<InitReport> {
    let work = async {
        let now = crate::clock::now()?;
        let config = repo::config::init_with(storage, now, &super::hostname(), force_unlock, key).await?;
        Ok(InitReport {
            id: config.repo_id.to_string(),
            location: storage.location(),
            encrypted: config.is_encrypted(),
            keys: Vec::new(),
            passphrase: None,
        })
    };
    let span = tracing::info_span!(target: "packvault::operation", "init");
    logged::operation(span, storage.location(), work).await
}
