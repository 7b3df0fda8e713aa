//! `config.toml`: what makes a folder a repository (section 1.2).
//!
//! Written last by init and create-only, so that of two inits one wins; where the storage cannot decide
//! that, under the exclusive lock. Replaced in one step when a create meets another page size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Key, Prefix, Storage};

use super::locks::{self, LockRequest};
use super::{Repository, key, storage_error};
use crate::format::{RepoConfig, RepoId, SUPPORTED_READER_LEVEL};
use crate::progress::Silent;
use crate::{Cancel, Error, ErrorKind, Result};

/// The largest configuration that is read; ours has 164 bytes.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// How long an init waits for another one, on a store where only a lock can tell which of them won.
const INIT_WAIT_MAX: Duration = Duration::from_secs(60);

fn config_key() -> Key {
    key("config.toml".to_owned())
}

/// Reads and checks the configuration.
pub(super) async fn read(storage: &dyn Storage) -> Result<RepoConfig> {
    let place = storage.location();
    let bytes = match storage.read_start(&config_key(), CONFIG_BYTES_MAX + 1).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == StorageErrorKind::NotFound => {
            return Err(Error::new(ErrorKind::NoRepository, format!("no repository at {place}")));
        }
        Err(error) => return Err(storage_error(format!("cannot open the repository at {place}"), error)),
    };
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Damaged,
            format!("config.toml of the repository at {place} has more than {CONFIG_BYTES_MAX} bytes"),
        ));
    }
    RepoConfig::parse(&bytes, SUPPORTED_READER_LEVEL)
        .map_err(|error| super::indexes::format_error(format!("cannot use config.toml at {place}"), error))
}

/// The folders of a repository. They are made because other programs expect to find them; ours makes
/// each again where a copy has lost it.
const FOLDERS: [&str; 6] = ["snapshots", "packs", "indexes", "locks", "staging", "keys"];

#[cfg(test)]
pub(super) async fn init(
    storage: &dyn Storage,
    created_at: jiff::Timestamp,
    hostname: &str,
) -> Result<RepoConfig> {
    init_with(storage, created_at, hostname, false).await
}

/// Makes a repository where none is. `config.toml` comes last: only with it there is one.
///
/// `force_unlock` breaks the lock of another init, where one takes a lock.
pub async fn init_with(
    storage: &dyn Storage,
    created_at: jiff::Timestamp,
    hostname: &str,
    force_unlock: bool,
) -> Result<RepoConfig> {
    let place = storage.location();
    let taken = || {
        let message = format!("a repository exists already at {place}; nothing was changed");
        Error::new(ErrorKind::Refused, message)
    };
    match storage.stat(&config_key()).await {
        Ok(_) => return Err(taken()),
        Err(error) if error.kind().is_passing() => return Err(cannot_make(storage, error)),
        // Whatever else keeps it from being seen: publishing it decides.
        Err(_) => {}
    }
    let id = uuid::Uuid::new_v4().hyphenated().to_string();
    let id = RepoId::parse(&id).expect("a hyphenated UUID is a repository id");
    let config = RepoConfig::new(id, created_at);
    for folder in FOLDERS {
        let prefix = Prefix::folder(folder).expect("a plain word is a key");
        storage.make_folder(&prefix).await.map_err(|error| cannot_make(storage, error))?;
    }
    let bytes = Bytes::from(config.encode());
    let guarantees = storage.guarantees();
    // Without renames, servers differ so much that two clients may have been told different things of this
    // one: both must go the same way.
    let is_ours = match guarantees.create_only && guarantees.rename {
        true => publish(storage, bytes).await?,
        false => publish_alone(storage, bytes, hostname, force_unlock).await?,
    };
    if is_ours { Ok(config) } else { Err(taken()) }
}

/// Writes the configuration, and returns whether it is ours.
async fn publish(storage: &dyn Storage, bytes: Bytes) -> Result<bool> {
    match storage.create(&config_key(), bytes).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == StorageErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(cannot_make(storage, error)),
    }
}

/// The same on a store that may tell several writers that they won: under the exclusive lock, and read back.
async fn publish_alone(storage: &dyn Storage, bytes: Bytes, hostname: &str, force: bool) -> Result<bool> {
    let request = LockRequest {
        operation: "init",
        hostname: hostname.to_owned(),
        process: crate::process::Identity::of_this_process(),
        force,
        progress: Arc::new(Silent),
        cancel: Cancel::new(),
    };
    let begun = tokio::time::Instant::now();
    loop {
        let work = async {
            if !publish(storage, bytes.clone()).await? {
                return Ok(false);
            }
            let found = storage.read(&config_key()).await.map_err(|error| cannot_make(storage, error))?;
            Ok(found == bytes)
        };
        match locks::alone(storage, &request, work).await {
            // Whoever holds the lock makes the repository, or has died.
            Err(error) if error.kind() == ErrorKind::Locked && begun.elapsed() < INIT_WAIT_MAX => {
                locks::pause().await;
            }
            result => return result,
        }
        if storage.stat(&config_key()).await.is_ok() {
            return Ok(false);
        }
    }
}

fn cannot_make(storage: &dyn Storage, error: StorageError) -> Error {
    storage_error(format!("cannot make a repository at {}", storage.location()), error)
}

impl Repository {
    /// Records the page size of the latest capture; informational (section 1.2), so a server that cannot
    /// replace a file in one step keeps the old one: a repository without `config.toml`, if only for an
    /// instant, would be none.
    ///
    /// Unknown keys of a later version are lost by the rewrite, as in the reference engine.
    pub async fn set_page_size(&self, page_size: u32) -> Result<()> {
        if self.config.page_size == i64::from(page_size) {
            return Ok(());
        }
        let config = RepoConfig { page_size: i64::from(page_size), ..self.config.clone() };
        match self.storage.replace(&config_key(), Bytes::from(config.encode())).await {
            Ok(()) => Ok(()),
            // Some servers cannot exchange an object in one step. Nothing reads this number to decide
            // anything, and a repository without its configuration would be none.
            Err(error) if error.kind() == StorageErrorKind::Unsupported => Ok(()),
            Err(error) => Err(storage_error("cannot record the page size in config.toml", error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use packvault_storage::{Fault, FaultStorage, Guarantees, MemoryStorage, Operation};

    use super::*;

    async fn made() -> (MemoryStorage, FaultStorage, Repository) {
        let storage = MemoryStorage::new();
        init(&storage, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
        let faults = FaultStorage::new(Arc::new(storage.clone()));
        let repository = Repository::open(Arc::new(faults.clone())).await.unwrap();
        (storage, faults, repository)
    }

    #[tokio::test]
    async fn a_place_without_a_repository_is_told_from_one_that_cannot_be_seen() {
        let nothing = read(&MemoryStorage::new()).await.unwrap_err();
        assert_eq!(nothing.kind(), ErrorKind::NoRepository);
        let (_, faults, _) = made().await;
        faults.at_next(Operation::Read, Fault::Before(StorageErrorKind::Denied));
        assert_eq!(read(&faults).await.unwrap_err().kind(), ErrorKind::NotPermitted);
    }

    #[tokio::test]
    async fn a_configuration_has_a_bound() {
        let (storage, _, repository) = made().await;
        let text = String::from_utf8(repository.config().encode()).unwrap();
        for (bytes, is_read) in [(CONFIG_BYTES_MAX, true), (CONFIG_BYTES_MAX + 1, false)] {
            let padded = text.clone() + &"\n".repeat(bytes as usize - text.len());
            storage.put_raw(&config_key(), padded, SystemTime::now());
            let read = read(&storage).await;
            assert_eq!(read.as_ref().ok(), is_read.then(|| repository.config()), "{bytes}");
            assert!(is_read || read.unwrap_err().to_string().contains("has more than 1048576 bytes"));
        }
    }

    #[tokio::test]
    async fn the_page_size_is_recorded_once_and_where_nothing_can_be_replaced_not_at_all() {
        let (storage, faults, repository) = made().await;
        for _ in 0..2 {
            let calls = faults.call_count();
            repository.set_page_size(4096).await.unwrap();
            assert_eq!(faults.call_count(), calls + 1, "as long as what was read says otherwise");
        }
        let repository = Repository::open(Arc::new(faults.clone())).await.unwrap();
        assert_eq!(repository.config().page_size, 4096);
        let calls = faults.call_count();
        repository.set_page_size(4096).await.unwrap();
        assert_eq!(faults.call_count(), calls);
        faults.at_next(Operation::Replace, Fault::Before(StorageErrorKind::Unsupported));
        repository.set_page_size(8192).await.unwrap();
        faults.at_next(Operation::Replace, Fault::Before(StorageErrorKind::Denied));
        let error = repository.set_page_size(8192).await.unwrap_err();
        assert!(error.to_string().contains("the page size"), "{error}");
        assert_eq!(read(&storage).await.unwrap().page_size, 4096);
    }

    #[tokio::test]
    async fn without_renames_an_init_takes_the_lock_whatever_is_said_of_create_only_writes() {
        for (create_only, rename, is_locked) in
            [(true, true, false), (true, false, true), (false, true, true), (false, false, true)]
        {
            let guarantees = Guarantees { create_only, rename, ..Guarantees::all() };
            let faults = FaultStorage::new(Arc::new(MemoryStorage::new().with_guarantees(guarantees)));
            init(&faults, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
            let creates = faults.calls().into_iter().filter(|(asked, _)| *asked == Operation::Create);
            let mut objects = creates.map(|(_, object)| object);
            assert_eq!(objects.any(|object| object.starts_with("locks/")), is_locked, "{guarantees:?}");
        }
    }

    #[tokio::test]
    async fn an_init_that_cannot_look_goes_on_only_if_looking_again_would_not_help() {
        for (kind, is_made) in [
            (StorageErrorKind::Timeout, false),
            (StorageErrorKind::Connection, false),
            (StorageErrorKind::Denied, true),
        ] {
            let storage = MemoryStorage::new();
            let faults = FaultStorage::new(Arc::new(storage.clone()));
            faults.at_next(Operation::Stat, Fault::Before(kind));
            let made = init(&faults, jiff::Timestamp::UNIX_EPOCH, "here").await;
            assert_eq!((made.is_ok(), read(&storage).await.is_ok()), (is_made, is_made), "{kind:?}");
        }
        let (storage, faults, repository) = made().await;
        faults.at_next(Operation::Stat, Fault::Before(StorageErrorKind::Denied));
        let error = init(&faults, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_eq!(read(&storage).await.unwrap(), *repository.config());
    }
}
