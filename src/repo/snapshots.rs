//! `snapshots/`: manifests. A snapshot exists if and only if its manifest does, so it is written last.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use packvault_storage::{ErrorKind as StorageErrorKind, Key, Prefix};

use super::indexes::format_error;
use super::{Repository, key, storage_error};
use crate::format::{Manifest, SUPPORTED_READER_LEVEL, SnapshotId};
use crate::{Error, ErrorKind, Result};

const SUFFIX: &str = ".mvmanifest";

/// A manifest is a few KiB; one with a list per day for 80 years has 4 MiB.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

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

fn manifest_key(id: &SnapshotId) -> Key {
    key(format!("snapshots/{id}{SUFFIX}"))
}

impl Repository {
    /// Reads every manifest, oldest first (by name), and keeps going past damaged ones.
    pub async fn find_snapshots(&self) -> Result<Vec<FoundSnapshot>> {
        let prefix = Prefix::folder("snapshots").expect("a plain word is a key");
        let mut names: Vec<(String, u64)> = self
            .storage
            .list(&prefix)
            .try_filter_map(async |object| {
                let rest = object.key.as_str().strip_prefix("snapshots/").unwrap_or_default();
                let name = rest.strip_suffix(SUFFIX).filter(|name| !name.contains('/'));
                Ok(name.map(|name| (name.to_owned(), object.meta.size_bytes)))
            })
            .try_collect()
            .await
            .map_err(|error| storage_error("cannot list the snapshots", error))?;
        names.sort();
        let found = futures::stream::iter(names)
            .map(async |(name, file_bytes)| {
                let manifest = match SnapshotId::parse(&name) {
                    Ok(id) => self.load_sized(&id, file_bytes).await,
                    Err(error) => Err(format_error(format!("manifest {name}{SUFFIX} is misnamed"), error)),
                };
                FoundSnapshot { name, file_bytes, manifest }
            })
            .buffered(READS_IN_FLIGHT)
            .collect()
            .await;
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
            Ok(meta) => self.load_sized(id, meta.size_bytes).await,
            Err(error) if error.kind() == StorageErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NotFound, format!("no snapshot {id} in the repository")))
            }
            Err(error) => Err(storage_error(format!("cannot read snapshot {id}"), error)),
        }
    }

    async fn load_sized(&self, id: &SnapshotId, file_bytes: u64) -> Result<Manifest> {
        if file_bytes > MANIFEST_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("manifest of snapshot {id} has {file_bytes} bytes, more than any writer makes"),
            ));
        }
        let bytes =
            self.storage.read_range(&manifest_key(id), 0..file_bytes).await.map_err(|error| {
                storage_error(format!("cannot read the manifest of snapshot {id}"), error)
            })?;
        Manifest::load(id, &bytes, SUPPORTED_READER_LEVEL)
            .map_err(|error| format_error(format!("cannot use the manifest of snapshot {id}"), error))
    }

    /// Publishes the manifest: the commit point. Everything it names must be durable before.
    pub async fn publish_snapshot(&self, manifest: &Manifest) -> Result<()> {
        let id = SnapshotId::parse(&manifest.snapshot_id)
            .map_err(|error| format_error("cannot publish a manifest without an id", error))?;
        self.storage
            .create(&manifest_key(&id), Bytes::from(manifest.encode()))
            .await
            .map_err(|error| storage_error(format!("cannot publish the manifest of snapshot {id}"), error))
    }
}
