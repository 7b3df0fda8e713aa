//! `indexes/`: where each blob lies. Readers use the union of all files (`union`, section 3.1).

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use packvault_storage::{Key, ObjectMeta, Prefix};
use tokio::sync::Semaphore;

use super::cache::Trust;
pub use super::union::{Claim, IndexFile, IndexUnion, PlacedBlob, claims_of};
use super::{Repository, key};
use crate::error::lift::format_error;
use crate::format::index::{self, IndexEntry};
use crate::format::sealed::Binding;
use crate::format::{BlobFlags, IndexId, PackId};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

const SUFFIX: &str = ".mvidx";

/// The largest index that is read: 16 million blobs.
const INDEX_BYTES_MAX: u64 = 1 << 30;

/// Index files read at once.
const READS_IN_FLIGHT: usize = 16;

/// Bytes of index files in memory at once; a larger file is read alone.
const BYTES_IN_FLIGHT: u64 = 64 * 1024 * 1024;
/// They are counted in pieces of this size, for the counter has 32 bits.
const UNIT_BYTES: u64 = 1024;

/// Where one blob lies, as the index says; the pack's footer is the authority for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The pack that holds the blob.
    pub pack: PackId,
    /// Offset of the stored bytes in the pack.
    pub offset: u64,
    /// Length of the stored bytes.
    pub stored_bytes: u64,
    /// How the bytes are stored.
    pub flags: BlobFlags,
}

/// An index file that cannot be used: damaged, of a newer version, or not to be read by this user.
#[derive(Debug)]
pub struct DamagedIndex {
    /// The file's name.
    pub name: String,
    /// What is wrong with it.
    pub error: Error,
}

fn folder() -> Prefix {
    Prefix::folder("indexes").expect("a plain word is a key")
}

/// Returns where the index file of that name lies, which a listing showed.
pub(super) fn index_file_key(name: &str) -> Result<Key> {
    let key = Key::parse(format!("indexes/{name}"));
    key.map_err(|error| Error::caused(ErrorKind::Refused, format!("cannot name index {name}"), error))
}

pub(super) fn index_key(id: &IndexId) -> Key {
    key(format!("indexes/{id}{SUFFIX}"))
}

impl Repository {
    /// Reads the union of all index files for whoever decides what need not be stored again: a damaged file is an
    /// error, and a copy near at hand counts only where the store shows that it is one.
    pub async fn load_indexes(&self) -> Result<IndexUnion> {
        self.load_indexes_without(&HashSet::new()).await
    }

    /// The same, as if the files of these names were not there.
    pub async fn load_indexes_without(&self, names: &HashSet<String>) -> Result<IndexUnion> {
        let (union, damaged) = self.read_indexes(Trust::Shown, names).await?;
        match damaged.into_iter().next() {
            None => Ok(union),
            Some(damaged) => Err(damaged.error),
        }
    }

    /// Reads the union of all index files that can be read, and says which cannot. Where the store gives no
    /// answer, nothing is known of any.
    pub async fn find_indexes(&self) -> Result<(IndexUnion, Vec<DamagedIndex>)> {
        self.read_indexes(Trust::Copies, &HashSet::new()).await
    }

    /// Lists the index files, in the order of their names.
    pub async fn list_indexes(&self) -> Result<Vec<IndexFile>> {
        let files = self.index_files().await?;
        let file = |(key, meta): (Key, ObjectMeta)| IndexFile {
            name: key.name().to_owned(),
            bytes: meta.size_bytes,
        };
        Ok(files.into_iter().map(file).collect())
    }

    async fn index_files(&self) -> Result<Vec<(Key, ObjectMeta)>> {
        let mut files: Vec<(Key, ObjectMeta)> = self
            .storage
            .list(&folder())
            .try_filter_map(async |object| {
                let wanted = object.key.name().ends_with(SUFFIX) && object.key.parts().count() == 2;
                Ok(wanted.then_some((object.key, object.meta)))
            })
            .try_collect()
            .await
            .map_err(|error| storage_error("cannot list the indexes", error))?;
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(files)
    }

    async fn read_indexes(
        &self,
        trust: Trust,
        without: &HashSet<String>,
    ) -> Result<(IndexUnion, Vec<DamagedIndex>)> {
        let mut files = self.index_files().await?;
        files.retain(|(key, _)| !without.contains(key.name()));
        let mut union = IndexUnion::new(self.sealing.clone());
        for (key, _) in &files {
            union.can_be_outranked &= self.ulids.stay_above(key.name());
        }
        let mut damaged = Vec::new();
        let room = Semaphore::new((BYTES_IN_FLIGHT / UNIT_BYTES) as usize);
        // Room is taken in the order of the names, in which it is given back, so nobody waits for himself.
        let reads = futures::stream::iter(&files)
            .then(async |(key, meta)| {
                let units = meta.size_bytes.min(BYTES_IN_FLIGHT).div_ceil(UNIT_BYTES) as u32;
                (key, meta, room.acquire_many(units).await)
            })
            .map(async |(key, meta, room)| (self.read_index(key, meta, trust).await, key, meta, room))
            .buffered(READS_IN_FLIGHT);
        let mut reads = std::pin::pin!(reads);
        while let Some((entries, key, meta, _room)) = reads.next().await {
            let name = key.name().to_owned();
            match entries {
                Ok(entries) => union.add(IndexFile { name, bytes: meta.size_bytes }, &entries),
                Err(error) if error.is_inconclusive() => return Err(error),
                Err(error) => damaged.push(DamagedIndex { name, error }),
            }
        }
        for pack in union.packs() {
            self.ulids.stay_above(&pack.to_string());
        }
        self.tidy_cache(&folder(), files.iter().map(|(key, _)| key)).await;
        Ok((union, damaged))
    }

    async fn read_index(&self, key: &Key, meta: &ObjectMeta, trust: Trust) -> Result<Vec<IndexEntry>> {
        if meta.size_bytes > INDEX_BYTES_MAX + self.sealing.overhead_bytes() {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("index {} has {} bytes, more than any writer makes", key.name(), meta.size_bytes),
            ));
        }
        let name = key.name().strip_suffix(SUFFIX).unwrap_or(key.name());
        let decode = |bytes: &[u8]| {
            self.sealing.open(&Binding::Index(name), bytes).and_then(|file| index::decode(&file))
        };
        let read = self.read_listed(key, meta, trust, decode).await;
        read.map_err(|error| storage_error(format!("cannot read index {}", key.name()), error))?
            .map_err(|error| format_error(format!("cannot use index {}", key.name()), error))
    }

    /// Publishes the index of one run. The packs it names must be durable before.
    pub async fn publish_index(&self, id: &IndexId, mut entries: Vec<IndexEntry>) -> Result<()> {
        entries.sort_by_key(|entry| entry.id);
        let file = self.sealing.seal(&Binding::Index(&id.to_string()), index::encode(&entries))?;
        self.storage
            .create(&index_key(id), Bytes::from(file))
            .await
            .map_err(|error| storage_error(format!("cannot publish index {id}"), error))
    }
}
