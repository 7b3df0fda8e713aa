//! A repository: one module per folder of it, on any storage.
//!
//! This floor moves bytes and keeps the order of durable steps. It hashes and compresses nothing (the
//! engine's pipeline does), and it knows nothing of live archives.

pub mod aside;
mod attributes;
pub mod beside;
pub mod blobs;
mod cache;
pub mod carried;
pub mod condemned;
pub mod config;
mod forgotten;
pub mod indexes;
pub mod keys;
pub mod locks;
pub mod notes;
mod opened;
pub mod packs;
pub mod pruning;
pub mod reads;
pub mod remade;
pub mod removal;
mod sealing;
pub mod snapshots;
pub mod staging;
mod ulids;
mod union;

use std::sync::Arc;

use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Key};

use crate::format::{RepoConfig, RepositoryKey};
use crate::{Error, ErrorKind, Result};

/// What a repository lies on, for the floors above.
pub use packvault_storage::Storage;
pub use sealing::{FrameSealer, Sealing};
pub use ulids::UlidSource;

/// An opened repository.
#[derive(Debug, Clone)]
pub struct Repository {
    storage: Arc<dyn Storage>,
    config: RepoConfig,
    sealing: Sealing,
    ulids: Arc<UlidSource>,
    cache: Option<cache::ObjectCache>,
    reads: Arc<reads::Reads>,
}

impl Repository {
    /// Opens the repository that lies on the storage, which must not be encrypted; the checks of section 1.2 in their
    /// order.
    pub async fn open(storage: Arc<dyn Storage>) -> Result<Self> {
        Self::open_with(storage, async |_| Ok(None)).await
    }

    /// The same with a key, for which `find_key` is asked once it is known what lies there. A plain repository has
    /// none, and an encrypted one takes no other than its own.
    pub async fn open_with(
        storage: Arc<dyn Storage>,
        find_key: impl AsyncFnOnce(&RepoConfig) -> Result<Option<RepositoryKey>>,
    ) -> Result<Self> {
        let config = config::read(storage.as_ref()).await?;
        let place = || format!("the repository at {}", storage.location());
        let sealing = match (config.is_encrypted(), find_key(&config).await?) {
            (false, None) => Sealing::plain(),
            (true, Some(key)) => {
                let checked = config.check_key(&key);
                checked.map_err(|error| {
                    let message = format!("cannot open {}: the key is not its own", place());
                    Error::caused(ErrorKind::WrongKey, message, error)
                })?;
                Sealing::with_key(key)
            }
            (true, None) => {
                let message = format!("{} is encrypted, and no key was given", place());
                return Err(Error::new(ErrorKind::NoKey, message));
            }
            (false, Some(_)) => {
                let message = format!("a key was given, and {} is not encrypted", place());
                return Err(Error::new(ErrorKind::WrongKey, message));
            }
        };
        Ok(Self::of(storage, config, sealing))
    }

    fn of(storage: Arc<dyn Storage>, config: RepoConfig, sealing: Sealing) -> Self {
        Self { storage, config, sealing, ulids: Arc::default(), cache: None, reads: Arc::default() }
    }

    /// Opens the repository for work on its locks, which lie plain in every repository and need no key. Nothing else
    /// of an encrypted one can be read then.
    pub async fn open_for_locks(storage: Arc<dyn Storage>) -> Result<Self> {
        let config = config::read(storage.as_ref()).await?;
        Ok(Self::of(storage, config, Sealing::plain()))
    }

    /// Returns the storage below.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Returns what `config.toml` said at open.
    pub fn config(&self) -> &RepoConfig {
        &self.config
    }

    /// Returns how the repository's objects are sealed.
    pub fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// Returns what was read of its packs and found sound, through this handle and its clones.
    pub fn reads(&self) -> &Arc<reads::Reads> {
        &self.reads
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
    if lacks_room {
        lifted.lacking_room()
    } else if is_unanswered {
        lifted.unanswered()
    } else {
        lifted
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use packvault_storage::{MemoryStorage, Operation};

    use super::*;
    use crate::repo::config::NewKey;

    fn key(byte: u8) -> RepositoryKey {
        RepositoryKey::from_bytes([byte; RepositoryKey::BYTES])
    }

    async fn made(own: Option<&RepositoryKey>) -> MemoryStorage {
        let storage = MemoryStorage::new();
        let own = own.map(|key| NewKey { key, keep: Box::new(|_| async { Ok(()) }.boxed()) });
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        config::init_with(&storage, epoch, "here", false, own).await.unwrap();
        storage
    }

    #[tokio::test]
    async fn a_repository_opens_with_its_own_key_and_a_plain_one_with_none() {
        for (own, given, refused) in [
            (None, None, None),
            (Some(1), Some(1), None),
            (Some(1), None, Some((ErrorKind::NoKey, "is encrypted, and no key was given"))),
            (Some(1), Some(2), Some((ErrorKind::WrongKey, "the key is not its own"))),
            (None, Some(1), Some((ErrorKind::WrongKey, "is not encrypted"))),
        ] {
            let storage = made(own.map(key).as_ref()).await;
            let mut was_told = None;
            let opened = Repository::open_with(Arc::new(storage), async |config| {
                was_told = Some(config.is_encrypted());
                Ok(given.map(key))
            });
            match (opened.await, refused) {
                (Ok(repository), None) => assert_eq!(repository.sealing().is_encrypted(), own.is_some()),
                (Err(error), Some((kind, says))) => {
                    assert_eq!(error.kind(), kind);
                    assert!(error.to_string().contains(says), "{error}");
                }
                (opened, _) => panic!("{own:?} with {given:?}: {opened:?}"),
            }
            assert_eq!(was_told, Some(own.is_some()));
        }
    }

    #[tokio::test]
    async fn whoever_finds_no_key_says_why() {
        let storage = made(Some(&key(1))).await;
        let failing = async |_: &RepoConfig| Err(Error::new(ErrorKind::WrongKey, "wrong passphrase"));
        let error = Repository::open_with(Arc::new(storage), failing).await.unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::WrongKey, "wrong passphrase"));
    }

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
