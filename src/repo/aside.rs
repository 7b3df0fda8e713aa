//! `damaged/`: where damaged objects are moved to when what they were is made anew. Nothing is ever read from there by
//! a program, and nothing here is ever removed by one: what was damaged may still be of use to a person.
//!
//! ```text
//! damaged/<the object's name>-<ulid>       the object as it was found
//! ```
//!
//! Where the store can rename, the object is moved in one step. Elsewhere it is copied, and removed when the copy is
//! durable. A small object that is exchanged for a sound one is copied first and then replaced in one step, so that it
//! is missing at no time.

use bytes::Bytes;
use packvault_storage::{ErrorKind as StorageErrorKind, Key, Storage};

use super::carried::PlainPart;
use super::indexes::index_file_key;
use super::locks::Lock;
use super::packs::pack_key;
use super::{Repository, key};
use crate::format::PackId;
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// Bytes of an object that are copied at a time.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// Characters of an object's name that are kept in its new one.
const NAME_CHARACTERS_MAX: usize = 100;

/// The right to exchange damaged objects, which the exclusive lock gives as long as it is held.
#[derive(Debug)]
pub struct Mending<'a> {
    repository: &'a Repository,
    lock: &'a Lock,
}

/// Puts a sound object in the place of one that is of no use, and is kept elsewhere.
pub(super) async fn put_in_place(
    storage: &dyn Storage,
    at: &Key,
    bytes: Bytes,
) -> packvault_storage::Result<()> {
    match storage.replace(at, bytes.clone()).await {
        // Some servers cannot exchange an object in one step.
        Err(error) if error.kind() == StorageErrorKind::Unsupported => {
            storage.remove(at).await?;
            storage.create(at, bytes).await
        }
        replaced => replaced,
    }
}

impl Repository {
    /// Returns the name under which a damaged object is kept.
    pub(super) fn name_aside(&self, from: &Key) -> Key {
        // A name may be as long as a file system takes, and this one is longer.
        let name: String = from.name().chars().take(NAME_CHARACTERS_MAX).collect();
        key(format!("damaged/{name}-{}", self.ulids().next().to_string().to_lowercase()))
    }
}

impl Lock {
    /// Returns the right to exchange damaged objects; a shared lock gives none.
    pub fn mending(&self) -> Result<Mending<'_>> {
        match self.is_exclusive() {
            true => Ok(Mending { repository: self.repository(), lock: self }),
            false => {
                let message = "cannot exchange anything in the repository: others may be reading it";
                Err(Error::new(ErrorKind::Refused, message))
            }
        }
    }
}

impl Mending<'_> {
    /// Moves a pack out of the way; returns its new name. Nothing that is needed may be found in it alone.
    pub async fn pack_aside(&self, pack: &PackId) -> Result<String> {
        self.move_aside(&pack_key(pack)).await
    }

    /// Moves an index out of the way; what is needed of it must be listed by others, which must be durable.
    pub async fn index_aside(&self, name: &str) -> Result<String> {
        self.move_aside(&index_file_key(name)?).await
    }

    /// Puts a sound object in the place of a damaged one, or where there is none; returns the name under which the
    /// damaged one is kept.
    pub async fn exchange(&self, plain: &PlainPart) -> Result<Option<String>> {
        self.lock.confirm().await?;
        let (at, bytes) = (plain.part.key(&plain.snapshot), self.repository.stored_part(plain)?);
        let storage = &self.repository.storage;
        let failed = |error| storage_error(format!("cannot put {at} in place"), error);
        let kept = match storage.stat(&at).await {
            Ok(meta) => match self.copy_aside(&at, meta.size_bytes).await {
                // What a disk cannot read can still be moved.
                Err(error) if storage.guarantees().rename && !error.is_no_finding() => {
                    let kept = self.move_aside(&at).await?;
                    storage.create(&at, bytes).await.map_err(failed)?;
                    return Ok(Some(kept));
                }
                kept => Some(kept?),
            },
            Err(error) if error.kind() == StorageErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if kept.is_none() {
            storage.create(&at, bytes).await.map_err(failed)?;
            return Ok(None);
        }
        put_in_place(storage.as_ref(), &at, bytes).await.map_err(failed)?;
        tracing::info!(target: "packvault::decision", object = %at, "is exchanged for a sound one");
        Ok(kept)
    }

    async fn move_aside(&self, from: &Key) -> Result<String> {
        self.lock.confirm().await?;
        let storage = &self.repository.storage;
        let failed = |error| storage_error(format!("cannot move {from} aside"), error);
        let to = self.repository.name_aside(from);
        let kept = if storage.guarantees().rename {
            storage.rename(from, &to).await.map_err(failed)?;
            to.to_string()
        } else {
            let size_bytes = storage.stat(from).await.map_err(failed)?.size_bytes;
            let kept = self.copy_aside(from, size_bytes).await?;
            storage.remove(from).await.map_err(failed)?;
            kept
        };
        tracing::info!(target: "packvault::decision", object = %from, kept, "is moved aside");
        Ok(kept)
    }

    async fn copy_aside(&self, from: &Key, size_bytes: u64) -> Result<String> {
        let storage = &self.repository.storage;
        let failed = |error| storage_error(format!("cannot keep a copy of {from}"), error);
        let to = self.repository.name_aside(from);
        let mut staged = storage.stage(&to).await.map_err(failed)?;
        let mut at = 0;
        while at < size_bytes {
            let end = size_bytes.min(at + PIECE_BYTES);
            let piece: Bytes = storage.read_range(from, at..end).await.map_err(failed)?;
            staged.write(piece).await.map_err(failed)?;
            at = end;
        }
        staged.seal().await.map_err(failed)?;
        Ok(to.to_string())
    }
}
