//! A repository: one module per folder of it, on any storage.
//!
//! This floor moves bytes and keeps the order of durable steps. It hashes and compresses nothing (the
//! engine's pipeline does), and it knows nothing of live archives.

mod attributes;
pub mod beside;
pub mod blobs;
mod cache;
pub mod config;
pub mod indexes;
pub mod locks;
pub mod notes;
pub mod packs;
pub mod snapshots;
pub mod staging;
mod ulids;
mod union;

use std::sync::Arc;

use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Key};

use crate::format::RepoConfig;
use crate::{Error, ErrorKind, Result};

/// What a repository lies on, for the floors above.
pub use packvault_storage::Storage;
pub use ulids::UlidSource;

/// An opened repository.
#[derive(Debug, Clone)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    config: RepoConfig,
    ulids: Arc<UlidSource>,
    cache: Option<cache::ObjectCache>,
}

impl Repository {
    /// Opens the repository that lies on the storage; the checks of section 1.2 in their order.
    pub async fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        let config = config::read(storage.as_ref()).await?;
        Ok(Self { storage, config, ulids: Arc::default(), cache: None })
    }

    /// Returns the storage below.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns what `config.toml` said at open.
    pub fn config(&self) -> &RepoConfig {
        &self.config
    }

    /// Returns the source of the names of new objects.
    pub fn ulids(&self) -> &UlidSource {
        &self.ulids
    }
}

/// Makes the key of a name that the format has checked already.
fn key(text: String) -> Key {
    Key::parse(text).expect("ids of the format hold only characters that keys may hold")
}

/// Lifts a storage error to this floor, keeping its kind where callers act on it.
pub(crate) fn storage_error(message: impl Into<String>, error: StorageError) -> Error {
    let kind = match error.kind() {
        StorageErrorKind::NotFound => ErrorKind::NotFound,
        StorageErrorKind::Short => ErrorKind::Damaged,
        StorageErrorKind::Unsafe => ErrorKind::Refused,
        StorageErrorKind::Config => ErrorKind::Usage,
        StorageErrorKind::Interrupted => ErrorKind::Interrupted,
        StorageErrorKind::Denied => ErrorKind::NotPermitted,
        _ => ErrorKind::Io,
    };
    let (lacks_room, is_unanswered) = (error.kind() == StorageErrorKind::Full, error.kind().is_passing());
    let lifted = Error::caused(kind, message, error);
    match () {
        () if lacks_room => lifted.lacking_room(),
        () if is_unanswered => lifted.unanswered(),
        () => lifted,
    }
}

#[cfg(test)]
mod tests {
    use packvault_storage::Operation;

    use super::*;

    #[test]
    fn a_store_without_room_keeps_its_meaning_on_every_floor() {
        for (kind, is_full) in [(StorageErrorKind::Full, true), (StorageErrorKind::Io, false)] {
            let error = StorageError::new(kind, Operation::Seal, "packs/01/x", "the store says so");
            let error = storage_error("cannot write pack x", error);
            assert_eq!((error.kind(), error.is_full()), (ErrorKind::Io, is_full));
            assert_eq!(Error::caused(ErrorKind::Damaged, "cannot go on", error).is_full(), is_full);
        }
    }

    #[test]
    fn what_callers_act_on_is_kept_on_the_way_up() {
        use StorageErrorKind as Kind;
        for (kind, lifted) in [
            (Kind::NotFound, ErrorKind::NotFound),
            (Kind::Short, ErrorKind::Damaged),
            (Kind::Unsafe, ErrorKind::Refused),
            (Kind::Config, ErrorKind::Usage),
            (Kind::Interrupted, ErrorKind::Interrupted),
            (Kind::Denied, ErrorKind::NotPermitted),
            (Kind::Timeout, ErrorKind::Io),
        ] {
            let error = StorageError::new(kind, Operation::Read, "packs/01/x", "the store says so");
            assert_eq!(storage_error("cannot read pack x", error).kind(), lifted, "{kind:?}");
        }
    }

    #[test]
    fn only_a_stop_and_a_store_that_does_not_answer_say_nothing_about_what_is_stored() {
        use StorageErrorKind as Kind;
        for (kind, is_inconclusive) in [
            (Kind::Timeout, true),
            (Kind::Connection, true),
            (Kind::Throttled, true),
            (Kind::Interrupted, true),
            (Kind::NotFound, false),
            (Kind::Denied, false),
            (Kind::Short, false),
            (Kind::Io, false),
        ] {
            let error = StorageError::new(kind, Operation::Read, "packs/01/x", "the store says so");
            let error = storage_error("cannot read pack x", error);
            assert_eq!(error.is_inconclusive(), is_inconclusive, "{kind:?}");
            let above = Error::caused(ErrorKind::Damaged, "cannot go on", error);
            assert_eq!(above.is_inconclusive(), is_inconclusive, "{kind:?}");
        }
    }
}
