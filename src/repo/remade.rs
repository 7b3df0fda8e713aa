//! `config.toml` made anew, where it is lost or damaged.
//!
//! All it says can be had again: an encrypted repository's id and key stand in each of its key files, and a plain
//! one's id binds nothing. What is made is proved before it is put in place: with it, a snapshot can be read, or an
//! index where no snapshot can be.
//!
//! The order: what lay there is durable in `damaged/` before it is replaced; both under the exclusive lock.

use std::sync::Arc;

use bytes::Bytes;
use packvault_storage::{ErrorKind as StorageErrorKind, Storage};

use super::aside::put_in_place;
use super::config::{self, CONFIG_BYTES_MAX, config_key};
use super::locks::{self, LockRequest};
use super::sealing::nonce;
use super::{Repository, Sealing};
use crate::format::{RepoConfig, RepoId, RepositoryKey};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

impl Repository {
    /// Opens a repository whose `config.toml` is lost or damaged, with one that is made anew and not written.
    ///
    /// Without a key it is one that is not encrypted. `ErrorKind::Damaged` if nothing that lies there can be read so.
    pub async fn open_remade(
        storage: Arc<dyn Storage>,
        id: RepoId,
        key: Option<RepositoryKey>,
        created_at: jiff::Timestamp,
    ) -> Result<Self> {
        let plain = RepoConfig::new(id, created_at);
        let (config, sealing) = match key {
            None => (plain, Sealing::plain()),
            Some(key) => (plain.encrypted(&key, nonce()?), Sealing::with_key(key)),
        };
        let repository = Self::of(storage, config, sealing);
        repository.expect_something_readable().await?;
        Ok(repository)
    }

    async fn expect_something_readable(&self) -> Result<()> {
        let snapshots = self.find_snapshots().await?;
        if snapshots.iter().any(|found| found.manifest.is_ok()) {
            return Ok(());
        }
        let (_, damaged) = self.find_indexes().await?;
        if self.list_indexes().await?.len() > damaged.len() {
            return Ok(());
        }
        let how = if self.sealing.is_encrypted() { "with that key" } else { "as what is not encrypted" };
        let message = format!(
            "no snapshot and no index at {} can be read {how}: config.toml cannot be made anew",
            self.storage.location()
        );
        Err(Error::new(ErrorKind::Damaged, message))
    }

    /// Writes the `config.toml` that was made anew; returns the name under which a damaged one is kept.
    pub async fn put_config_back(&self, request: &LockRequest) -> Result<Option<String>> {
        let storage = self.storage.as_ref();
        let work = async {
            match config::read(storage).await {
                Ok(_) => {
                    let message = "config.toml is there and can be read: somebody has put it back";
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                Err(error) if is_mended_here(&error) => {}
                Err(error) => return Err(error),
            }
            let kept = self.keep_damaged_config().await?;
            let failed = |error| storage_error("cannot write config.toml", error);
            let bytes = Bytes::from(self.config.encode());
            if kept.is_none() {
                storage.create(&config_key(), bytes).await.map_err(failed)?;
                return Ok(None);
            }
            put_in_place(storage, &config_key(), bytes).await.map_err(failed)?;
            Ok(kept)
        };
        locks::alone(storage, request, work).await
    }

    async fn keep_damaged_config(&self) -> Result<Option<String>> {
        let failed = |error| storage_error("cannot keep a copy of config.toml", error);
        let bytes = match self.storage.read_start(&config_key(), CONFIG_BYTES_MAX + 1).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if bytes.len() as u64 > CONFIG_BYTES_MAX {
            let message =
                "config.toml has more than 1 MiB and was made by something else: move it aside yourself";
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let kept = self.name_aside(&config_key());
        self.storage.create(&kept, bytes).await.map_err(failed)?;
        Ok(Some(kept.to_string()))
    }
}

/// Tells whether the error of reading `config.toml` is one that a new one mends.
pub fn is_mended_here(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ConfigLost | ErrorKind::Damaged)
}
