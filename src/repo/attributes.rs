//! Attributes beside manifests: owners, modes and times of a snapshot's files, as
//! `snapshots/<id>.packvault-attributes`.
//!
//! An object of its own and not a part of the note: a list reads every note, and this grows with the number of
//! files. It is published before its manifest, like the note, and means nothing without it.

use bytes::Bytes;
use packvault_storage::{Key, ListedObject};

use super::snapshots::SnapshotFiles;
use super::{Repository, key};
use crate::error::lift::format_error;
use crate::format::ArchiveAttributes;
use crate::format::attributes::OBJECT_BYTES_MAX;
use crate::format::sealed::Binding;
use crate::repo::storage_error;
use crate::{ErrorKind, Result};

const SUFFIX: &str = ".packvault-attributes";

impl Repository {
    /// Publishes the attributes of a snapshot, which must not have any.
    pub async fn publish_attributes(&self, snapshot: &str, attributes: &ArchiveAttributes) -> Result<()> {
        let failed = || format!("cannot publish the attributes of snapshot {snapshot}");
        let object = attributes.encode().map_err(|error| format_error(failed(), error))?;
        let name = attributes_key(snapshot);
        let file = self.sealing.seal(&Binding::Note(name.name()), object)?;
        self.storage.create(&name, Bytes::from(file)).await.map_err(|error| storage_error(failed(), error))
    }

    /// The same of a snapshot that does not exist yet; what a run left which died is replaced.
    pub async fn replace_attributes(&self, snapshot: &str, attributes: &ArchiveAttributes) -> Result<()> {
        let failed = || format!("cannot publish the attributes of snapshot {snapshot}");
        let object = attributes.encode().map_err(|error| format_error(failed(), error))?;
        let name = attributes_key(snapshot);
        let file = self.sealing.seal(&Binding::Note(name.name()), object)?;
        self.storage.replace(&name, Bytes::from(file)).await.map_err(|error| storage_error(failed(), error))
    }

    /// Returns the attributes of a snapshot; `None` where the listing shows none.
    pub async fn read_attributes(
        &self,
        files: &SnapshotFiles,
        snapshot: &str,
    ) -> Result<Option<ArchiveAttributes>> {
        let Some((_, object)) = attributes_among(files).find(|(name, _)| *name == snapshot) else {
            return Ok(None);
        };
        match self.load_attributes(snapshot, object).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            attributes => attributes.map(Some),
        }
    }

    /// Reads one object of attributes.
    pub(super) async fn load_attributes(
        &self,
        snapshot: &str,
        object: &ListedObject,
    ) -> Result<ArchiveAttributes> {
        let failed = || format!("cannot read the attributes of snapshot {snapshot}");
        // One that is longer than any of ours ends early and is found to be damaged.
        let bytes = object.meta.size_bytes.min(OBJECT_BYTES_MAX + self.sealing.overhead_bytes());
        let read = self.storage.read_range(&object.key, 0..bytes).await;
        let file = read.map_err(|error| storage_error(failed(), error))?;
        let opened = self.sealing.open(&Binding::Note(object.key.name()), &file);
        let decoded = opened.and_then(|object| ArchiveAttributes::decode(&object));
        decoded.map_err(|error| format_error(failed(), error))
    }
}

/// Returns where the attributes of a snapshot lie.
pub(super) fn attributes_key(snapshot: &str) -> Key {
    key(format!("snapshots/{snapshot}{SUFFIX}"))
}

/// Returns the attributes of a listing, with the names of their snapshots.
pub(super) fn attributes_among(files: &SnapshotFiles) -> impl Iterator<Item = (&str, &ListedObject)> {
    files.beside(SUFFIX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use packvault_storage::MemoryStorage;

    use super::*;
    use crate::format::Attributes;
    use crate::repo::config;

    #[tokio::test]
    async fn attributes_are_read_as_they_were_published_and_damaged_ones_are_an_error() {
        let storage = MemoryStorage::new();
        config::init(&storage, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
        let repository = Repository::open(Arc::new(storage.clone())).await.unwrap();
        let row = Attributes { mode: 0o640, user: 1, group: 2, modified: (3, 4) };
        let attributes = ArchiveAttributes { database: Some(row), ..ArchiveAttributes::default() };
        repository.publish_attributes("one", &attributes).await.unwrap();
        let damaged = key("snapshots/two.packvault-attributes".to_owned());
        storage.put_raw(&damaged, "not a frame", SystemTime::now());
        let files = repository.list_snapshots().await.unwrap();
        assert_eq!(repository.read_attributes(&files, "one").await.unwrap(), Some(attributes));
        assert_eq!(repository.read_attributes(&files, "none").await.unwrap(), None);
        let error = repository.read_attributes(&files, "two").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert_eq!(files.names().count(), 0, "it is no snapshot");
    }
}
