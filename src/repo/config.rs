//! `config.toml`: what makes a folder a repository (section 1.2).
//!
//! Written last by init and create-only, so that of two inits one wins; where the storage cannot decide
//! that, under the exclusive lock. Replaced in one step when a create meets another page size.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use futures::future::BoxFuture;
use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Key, Prefix, Storage};

use super::locks::{self, LockRequest};
use super::{Repository, key};
use crate::error::lift::format_error;
use crate::format::{RepoConfig, RepoId, RepositoryKey, SUPPORTED_READER_LEVEL};
use crate::progress::Silent;
use crate::repo::storage_error;
use crate::{Cancel, Error, ErrorKind, Result};

/// The largest configuration that is read; ours has 164 bytes.
pub(super) const CONFIG_BYTES_MAX: u64 = 1024 * 1024;
/// How long an init waits for another one, on a store where only a lock can tell which of them won.
const INIT_WAIT_MAX: Duration = Duration::from_secs(60);

pub(super) fn config_key() -> Key {
    key("config.toml".to_owned())
}

/// Reads and checks the configuration: what lies there, before anything is opened.
pub async fn read(storage: &dyn Storage) -> Result<RepoConfig> {
    let place = storage.location();
    let bytes = match storage.read_start(&config_key(), CONFIG_BYTES_MAX + 1).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == StorageErrorKind::NotFound => {
            return Err(match holds_objects(storage).await? {
                true => Error::new(ErrorKind::ConfigLost, lost(storage)),
                false => Error::new(ErrorKind::NoRepository, format!("no repository at {place}")),
            });
        }
        Err(error) => return Err(storage_error(format!("cannot open the repository at {place}"), error)),
    };
    if bytes.len() as u64 > CONFIG_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Damaged,
            format!("config.toml of the repository at {place} has more than {CONFIG_BYTES_MAX} bytes"),
        ));
    }
    RepoConfig::parse(&bytes, SUPPORTED_READER_LEVEL).map_err(|error| {
        let message = format!("cannot use config.toml at {place}");
        match is_cut_off(&bytes) {
            true => Error::caused(ErrorKind::Damaged, message, error),
            false => format_error(message, error),
        }
    })
}

/// A file that lacks what every version has written was cut off, whatever its reading makes of that.
fn is_cut_off(bytes: &[u8]) -> bool {
    let needed = [&b"repo_id"[..], b"encryption"];
    !needed.iter().all(|needed| bytes.windows(needed.len()).any(|found| found == *needed))
}

/// Tells whether anything lies there that only a repository has.
async fn holds_objects(storage: &dyn Storage) -> Result<bool> {
    for folder in ["snapshots", "indexes", "packs"] {
        let prefix = Prefix::folder(folder).expect("a plain word is a key");
        let first = storage.list(&prefix).try_next().await;
        if first.map_err(|error| storage_error("cannot see what lies there", error))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is said of a place that holds a repository without its `config.toml`.
fn lost(storage: &dyn Storage) -> String {
    format!(
        "no repository at {} can be opened: snapshots or packs lie there, and its config.toml is missing",
        storage.location()
    )
}

/// Refuses to make a repository where one has lost its `config.toml`: a new one would hide what there is, and its
/// snapshots would be taken for those of the old one.
pub(super) async fn expect_nothing_lost(storage: &dyn Storage) -> Result<()> {
    match holds_objects(storage).await? {
        true => {
            let message = format!("{}: put that back; `repair config` makes it anew", lost(storage));
            Err(Error::new(ErrorKind::Refused, message))
        }
        false => Ok(()),
    }
}

/// Returns the id of a new repository.
pub fn new_id() -> RepoId {
    let id = uuid::Uuid::new_v4().hyphenated().to_string();
    RepoId::parse(&id).expect("a hyphenated UUID is a repository id")
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
    init_with(storage, created_at, hostname, false, None).await
}

/// What keeps the key of a new repository. It is told the configuration, and returns once the key can be had again
/// by whoever reads that: a repository whose key is lost is lost.
pub type KeepKey<'a> = Box<dyn FnOnce(RepoConfig) -> BoxFuture<'a, Result<()>> + Send + 'a>;

/// The key of a repository that is to be encrypted.
pub struct NewKey<'a> {
    /// The key.
    pub key: &'a RepositoryKey,
    /// Called before the repository exists, and by one init at a time.
    pub keep: KeepKey<'a>,
}

impl std::fmt::Debug for NewKey<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewKey(..)")
    }
}

/// Makes a repository where none is, encrypted if there is a key for it. `config.toml` comes last: only with it there
/// is one, and what keeps the key is durable before.
///
/// `force_unlock` breaks the lock of another init, where one takes a lock.
pub async fn init_with(
    storage: &dyn Storage,
    created_at: jiff::Timestamp,
    hostname: &str,
    force_unlock: bool,
    key: Option<NewKey<'_>>,
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
    expect_nothing_lost(storage).await?;
    let plain = RepoConfig::new(new_id(), created_at);
    let (config, keep) = match key {
        None => (plain, None),
        Some(NewKey { key, keep }) => (plain.encrypted(key, super::sealing::nonce()?), Some(keep)),
    };
    for folder in FOLDERS {
        let prefix = Prefix::folder(folder).expect("a plain word is a key");
        storage.make_folder(&prefix).await.map_err(|error| cannot_make(storage, error))?;
    }
    let guarantees = storage.guarantees();
    // Without renames, servers differ so much that two clients may have been told different things of this
    // one: both must go the same way. Where a key is kept two must never do so at once, wherever it is: the one would
    // keep its key in the place of that of the other, whose repository is the one that is made.
    let is_ours = match guarantees.create_only && guarantees.rename && keep.is_none() {
        true => publish(storage, Bytes::from(config.encode())).await?,
        false => publish_alone(storage, &config, keep, hostname, force_unlock).await?,
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

/// The same under the exclusive lock, and read back: on a store that may tell several writers that they won, and where
/// a key is kept first.
async fn publish_alone(
    storage: &dyn Storage,
    config: &RepoConfig,
    keep: Option<KeepKey<'_>>,
    hostname: &str,
    force: bool,
) -> Result<bool> {
    let request = LockRequest {
        operation: "init",
        hostname: hostname.to_owned(),
        process: crate::process::Identity::of_this_process(),
        force,
        progress: Arc::new(Silent),
        cancel: Cancel::new(),
    };
    let bytes = Bytes::from(config.encode());
    let mut keep = keep;
    let begun = tokio::time::Instant::now();
    loop {
        let kept = &mut keep;
        let work = async {
            if let Some(keep) = kept.take() {
                if storage.stat(&config_key()).await.is_ok() {
                    return Ok(false);
                }
                keep(config.clone()).await?;
            }
            if !publish(storage, bytes.clone()).await? {
                return Ok(false);
            }
            let found = storage.read(&config_key()).await.map_err(|error| cannot_make(storage, error))?;
            Ok(found == bytes)
        };
        match locks::alone(storage, &request, work).await {
            // The holder of the lock is making the repository, or has died.
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

    use futures::FutureExt;
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

    /// Keeps the key as a file, like a way in, and tells whether the repository was there already.
    fn keeping<'a>(storage: &'a dyn Storage, key: &'a RepositoryKey) -> NewKey<'a> {
        let keep = move |config: RepoConfig| {
            async move {
                assert!(
                    storage.stat(&config_key()).await.is_err(),
                    "the key is kept before there is a repository"
                );
                let file = super::key("keys/way.age".to_owned());
                let text = format!("{} {}", config.repo_id, key.expose()[0]);
                // What an init left behind that did not come to its end stands in nobody's way.
                let _ = storage.remove(&file).await;
                storage.create(&file, Bytes::from(text)).await.map_err(|error| cannot_make(storage, error))
            }
            .boxed()
        };
        NewKey { key, keep: Box::new(keep) }
    }

    async fn kept(storage: &dyn Storage) -> String {
        let file = storage.read(&super::key("keys/way.age".to_owned())).await.unwrap();
        String::from_utf8(file.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_key_is_kept_before_the_repository_is_there_and_not_where_one_is() {
        let [ours, other] = [1, 2].map(|byte| RepositoryKey::from_bytes([byte; RepositoryKey::BYTES]));
        let storage = MemoryStorage::new();
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        let config = init_with(&storage, epoch, "here", false, Some(keeping(&storage, &ours))).await.unwrap();
        assert_eq!(kept(&storage).await, format!("{} 1", config.repo_id));
        assert_eq!(read(&storage).await.unwrap(), config);
        let again = init_with(&storage, epoch, "here", false, Some(keeping(&storage, &other))).await;
        assert_eq!(again.unwrap_err().kind(), ErrorKind::Refused);
        assert_eq!(kept(&storage).await, format!("{} 1", config.repo_id), "the key is not exchanged");
    }

    #[tokio::test]
    async fn a_key_that_cannot_be_kept_makes_no_repository() {
        let key = RepositoryKey::from_bytes([1; RepositoryKey::BYTES]);
        let storage = MemoryStorage::new();
        let keep = |_| async { Err(Error::new(ErrorKind::Io, "the key file cannot be written")) }.boxed();
        let failing = NewKey { key: &key, keep: Box::new(keep) };
        let epoch = jiff::Timestamp::UNIX_EPOCH;
        let error = init_with(&storage, epoch, "here", false, Some(failing)).await.unwrap_err();
        assert_eq!(error.to_string(), "the key file cannot be written");
        assert_eq!(read(&storage).await.unwrap_err().kind(), ErrorKind::NoRepository);
        init_with(&storage, epoch, "here", false, Some(keeping(&storage, &key))).await.unwrap();
    }

    #[tokio::test]
    async fn of_many_inits_at_once_one_wins_and_its_key_is_the_one_that_is_kept() {
        for rename in [true, false] {
            let guarantees = Guarantees { rename, ..Guarantees::all() };
            let storage = MemoryStorage::new().with_guarantees(guarantees);
            let inits = (1..=8u8).map(|byte| {
                let storage = storage.clone();
                async move {
                    let key = RepositoryKey::from_bytes([byte; RepositoryKey::BYTES]);
                    let epoch = jiff::Timestamp::UNIX_EPOCH;
                    let new = Some(keeping(&storage, &key));
                    init_with(&storage, epoch, "here", false, new).await.map(|config| (config, byte))
                }
            });
            let results = futures::future::join_all(inits.map(tokio::spawn)).await;
            let won: Vec<_> = results.into_iter().filter_map(|result| result.unwrap().ok()).collect();
            let [(config, byte)] = &won[..] else { panic!("{won:?}") };
            assert_eq!(kept(&storage).await, format!("{} {byte}", config.repo_id), "{rename}");
            assert_eq!(read(&storage).await.unwrap(), *config);
        }
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
