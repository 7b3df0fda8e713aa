//! `snapshots/`: manifests. A snapshot exists if and only if its manifest does, so it is written last.
//!
//! One listing tells the names and lengths of all files; each is then read with one request.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use packvault_storage::{ErrorKind as StorageErrorKind, Key, ListedObject, ObjectMeta, Prefix};

use super::cache::Trust;
use super::notes::notes_among;
use super::{Repository, key};
use crate::error::lift::format_error;
use crate::format::sealed::Binding;
use crate::format::{FormatError, Manifest, SUPPORTED_READER_LEVEL, SnapshotId};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

const SUFFIX: &str = ".mvmanifest";

/// A manifest is a few KiB; one with a list per day for 80 years has 4 MiB.
pub(super) const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Manifests read at once.
const READS_IN_FLIGHT: usize = 16;

/// A manifest file as found: its name, and its content or what is wrong with it.
#[derive(Debug)]
pub struct FoundSnapshot {
    /// The file name without the suffix; not always an id.
    pub name: String,
    /// Length of the file in bytes.
    pub file_bytes: u64,
    /// The manifest, checked as section 6.4 says.
    pub manifest: Result<Manifest>,
}

/// The files of `snapshots/`, as one listing showed them.
#[derive(Debug, Default)]
pub struct SnapshotFiles {
    /// Each manifest's name without the suffix (not always an id), oldest first.
    manifests: Vec<(String, ObjectMeta)>,
    /// Every other file.
    pub(super) others: Vec<ListedObject>,
}

impl SnapshotFiles {
    /// Returns the names of all manifests without the suffix, oldest first.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.manifests.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the files beside manifests whose names end like this, with the names of their snapshots.
    pub(super) fn beside<'a>(
        &'a self,
        suffix: &'static str,
    ) -> impl Iterator<Item = (&'a str, &'a ListedObject)> {
        self.others.iter().filter_map(move |object| {
            let rest = object.key.as_str().strip_prefix("snapshots/")?;
            let name = rest.strip_suffix(suffix).filter(|name| !name.contains('/'))?;
            Some((name, object))
        })
    }

    /// Tells whether the manifest of that name is there.
    pub fn has(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    pub(super) fn meta(&self, name: &str) -> Option<ObjectMeta> {
        self.position(name).map(|position| self.manifests[position].1)
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.manifests.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()
    }
}

fn folder() -> Prefix {
    Prefix::folder("snapshots").expect("a plain word is a key")
}

/// Returns where the manifest of a snapshot lies.
pub(super) fn manifest_key(id: &SnapshotId) -> Key {
    key(format!("snapshots/{id}{SUFFIX}"))
}

impl Repository {
    /// Lists the files of all snapshots.
    pub async fn list_snapshots(&self) -> Result<SnapshotFiles> {
        let mut files = SnapshotFiles::default();
        let mut listing = self.storage.list(&folder());
        let failed = |error| storage_error("cannot list the snapshots", error);
        while let Some(object) = listing.try_next().await.map_err(failed)? {
            let rest = object.key.as_str().strip_prefix("snapshots/").unwrap_or_default();
            match rest.strip_suffix(SUFFIX).filter(|name| !name.contains('/')) {
                Some(name) => files.manifests.push((name.to_owned(), object.meta)),
                None => files.others.push(object),
            }
        }
        files.manifests.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(files)
    }

    /// Reads every manifest, oldest first (by name), and keeps going past damaged ones.
    pub async fn find_snapshots(&self) -> Result<Vec<FoundSnapshot>> {
        let files = self.list_snapshots().await?;
        self.read_snapshots(&files).await
    }

    /// Reads every manifest of the listing, oldest first (by name). One that was not waited for, or for which
    /// the store gave no answer, is an error at once: nothing is known to be wrong with it.
    pub async fn read_snapshots(&self, files: &SnapshotFiles) -> Result<Vec<FoundSnapshot>> {
        let found = futures::stream::iter(&files.manifests)
            .map(async |(name, meta)| {
                let manifest = match self.load_named(name, meta).await {
                    Err(error) if error.is_inconclusive() => return Err(error),
                    manifest => manifest,
                };
                Ok(FoundSnapshot { name: name.clone(), file_bytes: meta.size_bytes, manifest })
            })
            .buffered(READS_IN_FLIGHT)
            .try_collect()
            .await?;
        if self.cache.is_some() {
            let ids = files.names().filter_map(|name| SnapshotId::parse(name).ok());
            let notes = notes_among(files).map(|(_, object)| object.key.clone());
            let keys: Vec<Key> = ids.map(|id| manifest_key(&id)).chain(notes).collect();
            self.tidy_cache(&folder(), keys.iter()).await;
        }
        Ok(found)
    }

    /// Reads every manifest, oldest first; one that cannot be read is an error, as in the reference
    /// engine: the newest snapshot cannot be known while a manifest is unreadable.
    pub async fn load_snapshots(&self) -> Result<Vec<Manifest>> {
        self.find_snapshots().await?.into_iter().map(|found| found.manifest).collect()
    }

    /// Reads one manifest and checks it as section 6.4 says.
    pub async fn load_snapshot(&self, id: &SnapshotId) -> Result<Manifest> {
        match self.storage.stat(&manifest_key(id)).await {
            Ok(meta) => self.load_sized(id, &meta).await,
            Err(error) if error.kind() == StorageErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NotFound, format!("no snapshot {id} in the repository")))
            }
            Err(error) => Err(storage_error(format!("cannot read snapshot {id}"), error)),
        }
    }

    /// Reads the manifest of that name, which the listing may show.
    pub async fn load_listed_snapshot(&self, files: &SnapshotFiles, name: &str) -> Result<Manifest> {
        match files.position(name) {
            Some(position) => self.load_named(name, &files.manifests[position].1).await,
            None => {
                let id = SnapshotId::parse(name).map_err(|error| misnamed(name, error))?;
                self.load_snapshot(&id).await
            }
        }
    }

    /// Reads the manifests of so many snapshots just before the one of that name: most often the
    /// ancestors it needs. One that cannot be read is left out, unless the store gave no answer.
    pub async fn load_snapshots_before(
        &self,
        files: &SnapshotFiles,
        name: &str,
        count: usize,
    ) -> Result<Vec<Manifest>> {
        let end = files.position(name).unwrap_or_default();
        let before = &files.manifests[end.saturating_sub(count)..end];
        let reads = before.iter().map(async |(name, meta)| match self.load_named(name, meta).await {
            Err(error) if error.is_inconclusive() => Err(error),
            manifest => Ok(manifest.ok()),
        });
        futures::stream::iter(reads.collect::<Vec<_>>())
            .buffered(READS_IN_FLIGHT)
            .try_filter_map(async |manifest| Ok(manifest))
            .try_collect()
            .await
    }

    async fn load_named(&self, name: &str, meta: &ObjectMeta) -> Result<Manifest> {
        let id = SnapshotId::parse(name).map_err(|error| misnamed(name, error))?;
        self.load_sized(&id, meta).await
    }

    async fn load_sized(&self, id: &SnapshotId, meta: &ObjectMeta) -> Result<Manifest> {
        if meta.size_bytes > MANIFEST_BYTES_MAX + self.sealing.overhead_bytes() {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!(
                    "manifest of snapshot {id} has {} bytes, more than any writer makes",
                    meta.size_bytes
                ),
            ));
        }
        let decode = |bytes: &[u8]| {
            let file = self.sealing.open(&Binding::Manifest(id), bytes)?;
            Manifest::load(id, &file, SUPPORTED_READER_LEVEL)
        };
        let read = self.read_listed(&manifest_key(id), meta, Trust::Copies, decode).await;
        read.map_err(|error| storage_error(format!("cannot read the manifest of snapshot {id}"), error))?
            .map_err(|error| format_error(format!("cannot use the manifest of snapshot {id}"), error))
    }

    /// Publishes the manifest: the commit point. Everything it names must be durable before.
    pub async fn publish_snapshot(&self, manifest: &Manifest) -> Result<()> {
        let id = SnapshotId::parse(&manifest.snapshot_id)
            .map_err(|error| format_error("cannot publish a manifest without an id", error))?;
        let file = self.sealing.seal(&Binding::Manifest(&id), manifest.encode())?;
        self.storage
            .create(&manifest_key(&id), Bytes::from(file))
            .await
            .map_err(|error| storage_error(format!("cannot publish the manifest of snapshot {id}"), error))
    }
}

fn misnamed(name: &str, error: FormatError) -> Error {
    format_error(format!("manifest {name}{SUFFIX} is misnamed"), error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use packvault_storage::{Fault, FaultStorage, MemoryStorage, Operation};

    use super::*;
    use crate::repo::config;

    #[tokio::test]
    async fn a_snapshot_that_is_not_there_is_told_from_one_that_cannot_be_seen() {
        let storage = MemoryStorage::new();
        config::init(&storage, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
        let faults = FaultStorage::new(Arc::new(storage));
        let repository = Repository::open(Arc::new(faults.clone())).await.unwrap();
        let id = SnapshotId::parse("20261123T234924Z-fef4f61ad23c58456d0fb30aad64cfd5").unwrap();
        let error = repository.load_snapshot(&id).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(&format!("no snapshot {id}")), "{error}");
        faults.at_next(Operation::Stat, Fault::Before(StorageErrorKind::Denied));
        assert_eq!(repository.load_snapshot(&id).await.unwrap_err().kind(), ErrorKind::NotPermitted);
    }
}
