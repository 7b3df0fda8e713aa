//! Marks beside manifests: snapshots that were forgotten, as `snapshots/<id>.packvault-forgotten`.
//!
//! The page maps of a snapshot are found through the manifests of those it builds on, so a manifest may have to stay
//! after its snapshot was given up. The mark says that it is such a link: not shown, not restored unless it is
//! named, and gone as soon as nothing builds on it. Other programs pass the mark over and show the snapshot.
//!
//! The mark is its name. What it holds is one sentence for people, the same in all of them, so it cannot rot, is
//! not read, and tells nothing that the name does not. A mark without a manifest means nothing; it is the last
//! that is removed of a snapshot, so that who finds it knows what else was to go.

use std::collections::HashSet;

use bytes::Bytes;
use packvault_storage::{ErrorKind as StorageErrorKind, Key};

use super::snapshots::SnapshotFiles;
use super::{Repository, key};
use crate::Result;
use crate::format::SnapshotId;
use crate::repo::storage_error;

const SUFFIX: &str = ".packvault-forgotten";

/// What a person reads who opens one.
const TEXT: &str = "This snapshot was forgotten; its manifest stays while others build on it.\n";

/// Returns where the mark of a snapshot lies.
pub(super) fn mark_key(snapshot: &str) -> Key {
    key(format!("snapshots/{snapshot}{SUFFIX}"))
}

impl SnapshotFiles {
    /// Returns the snapshots that were forgotten and whose manifests are there.
    pub fn forgotten(&self) -> HashSet<&str> {
        self.marks().filter(|name| self.has(name)).collect()
    }

    /// Returns the names of all manifests that were not forgotten, without the suffix, oldest first.
    pub fn listed(&self) -> impl DoubleEndedIterator<Item = &str> {
        let forgotten = self.forgotten();
        self.names().filter(move |name| !forgotten.contains(name))
    }

    /// Returns the snapshots of which a mark is there and no manifest: what is left of them may go. A mark with a
    /// name that no snapshot can have is none of ours.
    pub fn gone(&self) -> Vec<SnapshotId> {
        let gone = self.marks().filter(|name| !self.has(name));
        gone.filter_map(|name| SnapshotId::parse(name).ok()).collect()
    }

    fn marks(&self) -> impl Iterator<Item = &str> {
        self.beside(SUFFIX).map(|(name, _)| name)
    }
}

impl Repository {
    /// Marks a snapshot as forgotten. One that is marked already stays so.
    pub async fn mark_forgotten(&self, snapshot: &str) -> Result<()> {
        match self.storage.create(&mark_key(snapshot), Bytes::from_static(TEXT.as_bytes())).await {
            Err(error) if error.kind() == StorageErrorKind::AlreadyExists => Ok(()),
            marked => {
                marked.map_err(|error| storage_error(format!("cannot mark snapshot {snapshot}"), error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use packvault_storage::{MemoryStorage, Storage};

    use super::*;
    use crate::repo::config;

    #[tokio::test]
    async fn a_mark_hides_its_snapshot_and_without_a_manifest_it_means_nothing() {
        let storage = MemoryStorage::new();
        config::init(&storage, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
        let repository = Repository::open(Arc::new(storage.clone())).await.unwrap();
        for name in ["a", "b", "c"] {
            storage.put_raw(&key(format!("snapshots/{name}.mvmanifest")), "x", SystemTime::now());
        }
        repository.mark_forgotten("b").await.unwrap();
        repository.mark_forgotten("b").await.unwrap();
        let gone = "20261123T234924Z-fef4f61ad23c58456d0fb30aad64cfd5";
        repository.mark_forgotten(gone).await.unwrap();
        storage.put_raw(&mark_key(&"d".repeat(200)), "x", SystemTime::now());
        storage.put_raw(&mark_key("deeper/c"), "x", SystemTime::now());
        let files = repository.list_snapshots().await.unwrap();
        assert_eq!(files.names().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(files.listed().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(files.forgotten(), ["b"].into());
        assert_eq!(files.gone(), [SnapshotId::parse(gone).unwrap()]);
        assert_eq!(storage.read(&mark_key("b")).await.unwrap(), TEXT.as_bytes());
    }
}
