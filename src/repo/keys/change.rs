//! How key files come and go: each by itself, durable before what it replaces is gone.

use bytes::Bytes;
use packvault_storage::{ErrorKind as StorageErrorKind, Storage};

use super::{KeyFile, file_key, list, read};
use crate::format::{KeyHeader, KeyName};
use crate::repo::locks::LockRequest;
use crate::repo::storage_error;
use crate::repo::{Repository, config};
use crate::{Error, ErrorKind, Result};

/// Which keys there are after a change.
#[derive(Debug)]
pub struct ChangedKeys {
    /// All key files, by name.
    pub files: Vec<KeyFile>,
}

/// Writes the first key files of a repository that is being made, under the exclusive lock: durable when this returns.
///
/// What an init that died has left is taken away: without `config.toml` nothing is sealed under it. Where packs or
/// snapshots lie, it is `config.toml` that is lost, and those keys are all that can open them: nothing is touched.
pub async fn create_first(storage: &dyn Storage, files: Vec<(KeyName, Bytes)>) -> Result<()> {
    let left = list(storage).await?;
    config::expect_nothing_lost(storage).await?;
    for file in left {
        remove(storage, &file.name).await?;
    }
    for (name, bytes) in files {
        let failed = |error| storage_error(format!("cannot write the key file {name}"), error);
        storage.replace(&file_key(&name), bytes.clone()).await.map_err(failed)?;
        expect_written(storage, &name, &bytes).await?;
    }
    Ok(())
}

async fn remove(storage: &dyn Storage, name: &KeyName) -> Result<()> {
    let failed = |error| storage_error(format!("cannot remove the key file {name}"), error);
    storage.remove(&file_key(name)).await.map_err(failed)
}

/// Adds a key file; refuses where one of this name is there.
///
/// Where the store cannot decide that in one step, only under the lock of [`Repository::add_key`].
pub async fn add(storage: &dyn Storage, name: &KeyName, bytes: Bytes) -> Result<()> {
    match storage.create(&file_key(name), bytes.clone()).await {
        Ok(()) => expect_written(storage, name, &bytes).await,
        Err(error) if error.kind() == StorageErrorKind::AlreadyExists => {
            let message = format!("a key called {name} is there already; nothing was changed");
            Err(Error::new(ErrorKind::Refused, message))
        }
        Err(error) => Err(storage_error(format!("cannot write the key file {name}"), error)),
    }
}

/// Fails unless the store gives back what was written: a way in that is not there shows when it is needed.
async fn expect_written(storage: &dyn Storage, name: &KeyName, bytes: &Bytes) -> Result<()> {
    let found = storage.read(&file_key(name)).await;
    let found =
        found.map_err(|error| storage_error(format!("cannot read the key file {name} back"), error))?;
    match found == *bytes {
        true => Ok(()),
        false => {
            let message = format!(
                "the key file {name} is not what was written: somebody else wrote it, or the \
                                   store loses bytes"
            );
            Err(Error::new(ErrorKind::Damaged, message))
        }
    }
}

impl Repository {
    /// Adds a key file; see [`add`].
    pub async fn add_key(&self, name: &KeyName, bytes: Bytes, request: &LockRequest) -> Result<ChangedKeys> {
        let storage = self.storage().as_ref();
        let work = async {
            // Seen before it is written: some stores overwrite what they were asked to create.
            if storage.stat(&file_key(name)).await.is_ok() {
                let message = format!("a key called {name} is there already; nothing was changed");
                return Err(Error::new(ErrorKind::Refused, message));
            }
            add(storage, name, bytes).await?;
            Ok(ChangedKeys { files: list(storage).await? })
        };
        self.lock_exclusive(request).await?.during(work).await
    }

    /// Puts another file in the place of a key file, in one step: at any instant the old one opens, or the new.
    pub async fn change_key(
        &self,
        name: &KeyName,
        bytes: Bytes,
        request: &LockRequest,
    ) -> Result<ChangedKeys> {
        let storage = self.storage().as_ref();
        let work = async {
            read(storage, name).await?;
            let failed = |error| storage_error(format!("cannot replace the key file {name}"), error);
            storage.replace(&file_key(name), bytes.clone()).await.map_err(failed)?;
            expect_written(storage, name, &bytes).await?;
            Ok(ChangedKeys { files: list(storage).await? })
        };
        self.lock_exclusive(request).await?.during(work).await
    }

    /// Removes a key file; refuses if no other is left that could open the repository.
    pub async fn remove_key(&self, name: &KeyName, request: &LockRequest) -> Result<ChangedKeys> {
        let storage = self.storage().as_ref();
        let work = async {
            let files = list(storage).await?;
            let expected = files.iter().any(|file| file.name == *name);
            if !expected {
                let message = format!("no key is called {name} in the repository");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            let (removed, left): (Vec<KeyFile>, Vec<KeyFile>) =
                files.into_iter().partition(|file| file.name == *name);
            if removed.iter().any(is_usable) && !left.iter().any(is_usable) {
                let message = format!(
                    "{name} is the last way in: without it nobody could open the repository; add another first"
                );
                return Err(Error::new(ErrorKind::Refused, message));
            }
            remove(storage, name).await?;
            Ok(ChangedKeys { files: left })
        };
        self.lock_exclusive(request).await?.during(work).await
    }
}

/// Tells whether somebody may open it: a kind that is known, at a cost that is taken.
fn is_usable(file: &KeyFile) -> bool {
    use crate::format::WayIn::Other;
    let known = |header: &KeyHeader| {
        let is_costly = header.work_factor().is_some_and(|work| work > super::WORK_FACTOR_MAX);
        !is_costly && header.ways.iter().any(|way| !matches!(way, Other(_)))
    };
    file.header.as_ref().is_ok_and(known)
}
