//! `packs/`: writing sealed containers of blobs (section 2.3).
//!
//! Order that keeps a snapshot whole: the bytes of a pack, then its footer, then its seal; the index of a
//! run is published only after [`PackWriter::finish`] has seen every seal return. Sealing one pack runs
//! beside filling the next: a few at once where a seal is work for a disk, any number where packs wait in a
//! spool for a line to a server, for then the spool bounds them and nobody may wait for the line.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use futures::TryStreamExt;
use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Key, Prefix, Staged};
use tokio::task::JoinHandle;
use tracing::Instrument as _;

use super::{Repository, Sealing, key};
use crate::format::index::IndexEntry;
use crate::format::pack::{self, Entry};
use crate::format::{BlobFlags, BlobId, PackId};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// The extension of msgvault's packs.
pub const PACK_SUFFIX: &str = ".mvpack";

/// Packs whose seal may be under way while the next is filled, where a seal waits for a disk. Such a pack
/// takes no memory but for its entries.
const SEALS_IN_FLIGHT: usize = 8;

/// The same where packs wait in a spool, which has a bound of its own, in bytes.
const SPOOLED_SEALS_IN_FLIGHT: usize = 16 * 1024;

/// Returns where the pack lies.
pub(super) fn pack_key(id: &PackId) -> Key {
    key(format!("packs/{}/{id}{PACK_SUFFIX}", id.shard()))
}

impl Repository {
    /// Returns the length of every pack file that lies in the repository.
    pub async fn pack_lengths(&self) -> Result<HashMap<PackId, u64>> {
        let prefix = Prefix::folder("packs").expect("a plain word is a key");
        let lengths: HashMap<PackId, u64> = self
            .storage
            .list(&prefix)
            .try_filter_map(async |object| {
                let id = object.key.name().strip_suffix(PACK_SUFFIX).and_then(|id| PackId::parse(id).ok());
                let placed = id.filter(|id| pack_key(id) == object.key);
                Ok(placed.map(|id| (id, object.meta.size_bytes)))
            })
            .try_collect()
            .await
            .map_err(|error| storage_error("cannot list the packs", error))?;
        for pack in lengths.keys() {
            self.ulids.stay_above(&pack.to_string());
        }
        Ok(lengths)
    }
}

/// A blob as it will be stored.
#[derive(Debug, Clone)]
pub struct StoredBlob {
    /// The hash of the raw bytes.
    pub id: BlobId,
    /// Length of the raw bytes.
    pub raw_bytes: u64,
    /// How the bytes are stored.
    pub flags: BlobFlags,
    /// CRC-32C of the stored bytes.
    pub crc32c: u32,
    /// The stored bytes.
    pub stored: Bytes,
}

/// What a finished writer has made durable.
#[derive(Debug, Default)]
pub struct WrittenPacks {
    /// The packs, in the order in which they were sealed.
    pub packs: Vec<PackId>,
    /// One entry for each blob, in the order of writing.
    pub entries: Vec<IndexEntry>,
}

impl WrittenPacks {
    /// Takes out a pack that did not become durable.
    fn forget(&mut self, id: PackId) {
        self.packs.retain(|pack| *pack != id);
        self.entries.retain(|entry| entry.pack != id);
    }
}

#[derive(Debug)]
struct OpenPack {
    id: PackId,
    staged: Box<dyn Staged>,
    offset: u64,
    entries: Vec<Entry>,
}

/// Fills packs one after the other. After an error it can only be abandoned.
#[derive(Debug)]
pub struct PackWriter {
    repository: Repository,
    /// The one pack that is written, where its id is not ours to choose.
    only: Option<PackId>,
    open: Option<OpenPack>,
    sealing: VecDeque<(PackId, JoinHandle<Result<()>>)>,
    written: WrittenPacks,
}

impl PackWriter {
    /// Makes a writer that has written nothing; the first blob opens the first pack.
    pub fn new(repository: Repository) -> Self {
        Self {
            repository,
            only: None,
            open: None,
            sealing: VecDeque::new(),
            written: WrittenPacks::default(),
        }
    }

    /// Makes a writer of one pack, which has this id elsewhere and is sealed when it is finished, however large it is.
    pub fn of_one_pack(repository: Repository, id: PackId) -> Self {
        Self { only: Some(id), ..Self::new(repository) }
    }

    /// Appends one blob. The caller has seen to it that the blob is not stored yet.
    pub async fn append(&mut self, blob: StoredBlob) -> Result<()> {
        let stored_bytes = blob.stored.len() as u64;
        self.assert_sealed(blob.flags);
        self.open_pack().await?;
        self.write(blob.stored).await?;
        self.record(blob.id, stored_bytes, blob.raw_bytes, blob.flags, blob.crc32c).await
    }

    /// Appends stored bytes of a blob that comes in pieces; [`PackWriter::end_blob`] names it.
    pub async fn append_piece(&mut self, piece: Bytes) -> Result<()> {
        self.open_pack().await?;
        self.write(piece).await
    }

    /// Names the blob whose `stored_bytes` were appended piece by piece.
    pub async fn end_blob(
        &mut self,
        id: BlobId,
        stored_bytes: u64,
        raw_bytes: u64,
        flags: BlobFlags,
        crc32c: u32,
    ) -> Result<()> {
        self.open_pack().await?;
        self.record(id, stored_bytes, raw_bytes, flags, crc32c).await
    }

    /// Seals the last pack and waits until every pack is durable.
    ///
    /// On failure the writer is to be abandoned, which tells what is durable all the same.
    pub async fn finish(&mut self) -> Result<WrittenPacks> {
        self.seal_open_pack().await?;
        while !self.sealing.is_empty() {
            self.await_oldest_seal().await?;
        }
        Ok(std::mem::take(&mut self.written))
    }

    async fn await_oldest_seal(&mut self) -> Result<()> {
        let Some((id, seal)) = self.sealing.pop_front() else { return Ok(()) };
        let sealed = seal.await.unwrap_or_else(|error| {
            Err(Error::caused(ErrorKind::Io, format!("sealing pack {id} ended early"), error))
        });
        if sealed.is_err() {
            self.written.forget(id);
        }
        sealed
    }

    /// Gives up: discards the open pack, waits for the seals that are under way on a disk, and gives up those
    /// that wait for a line, so that nothing is written after this returns. Returns the packs that are durable all the same.
    pub async fn abandon(mut self) -> WrittenPacks {
        if let Some(pack) = self.open.take() {
            self.written.forget(pack.id);
            // What cannot be discarded now is swept by the next create.
            let _ = pack.staged.discard().await;
        }
        if self.repository.storage.is_spooled() {
            // Those that are through already stay so.
            self.sealing.iter().for_each(|(_, seal)| seal.abort());
        }
        while !self.sealing.is_empty() {
            // Why a seal failed is not asked any more; its pack is not among the durable ones.
            let _ = self.await_oldest_seal().await;
        }
        self.written
    }

    /// Stops before anything is written that is not sealed as the repository is.
    fn assert_sealed(&self, flags: BlobFlags) {
        let is_encrypted = self.repository.sealing.is_encrypted();
        assert!(flags.encrypted() == is_encrypted, "a blob is sealed if and only if its repository is");
    }

    async fn open_pack(&mut self) -> Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        let id = self.only.unwrap_or_else(|| PackId::from_ulid(self.repository.ulids().next()));
        let mut staged = self
            .repository
            .storage
            .stage(&pack_key(&id))
            .await
            .map_err(|error| storage_error(format!("cannot begin pack {id}"), error))?;
        let header = self.repository.sealing.pack_header();
        staged
            .write(Bytes::copy_from_slice(&header))
            .await
            .map_err(|error| storage_error(format!("cannot write pack {id}"), error))?;
        self.open = Some(OpenPack { id, staged, offset: header.len() as u64, entries: Vec::new() });
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let pack = self.open.as_mut().expect("open_pack ran before");
        let id = pack.id;
        if bytes.is_empty() {
            return Ok(());
        }
        pack.staged
            .write(bytes)
            .await
            .map_err(|error| storage_error(format!("cannot write pack {id}"), error))
    }

    async fn record(
        &mut self,
        id: BlobId,
        stored_bytes: u64,
        raw_bytes: u64,
        flags: BlobFlags,
        crc32c: u32,
    ) -> Result<()> {
        self.assert_sealed(flags);
        let pack = self.open.as_mut().expect("open_pack ran before");
        let offset = pack.offset;
        pack.entries.push(Entry { id, offset, stored_bytes, raw_bytes, flags, crc32c });
        pack.offset += stored_bytes;
        self.written.entries.push(IndexEntry { id, pack: pack.id, offset, stored_bytes, flags });
        let full = pack.offset >= pack::TARGET_STORED_BYTES || pack.entries.len() >= pack::WRITER_ENTRIES_MAX;
        if full && self.only.is_none() { self.seal_open_pack().await } else { Ok(()) }
    }

    async fn seal_open_pack(&mut self) -> Result<()> {
        let Some(pack) = self.open.take() else { return Ok(()) };
        let spooled = self.repository.storage.is_spooled();
        let seals_max = if spooled { SPOOLED_SEALS_IN_FLIGHT } else { SEALS_IN_FLIGHT };
        while self.sealing.len() >= seals_max {
            self.await_oldest_seal().await?;
        }
        self.written.packs.push(pack.id);
        let sealing = self.repository.sealing.clone();
        self.sealing.push_back((pack.id, tokio::spawn(seal(pack, sealing).in_current_span())));
        Ok(())
    }
}

async fn seal(pack: OpenPack, sealing: Sealing) -> Result<()> {
    let OpenPack { id, mut staged, entries, .. } = pack;
    let lift = |error| storage_error(format!("cannot seal pack {id}"), error);
    let footer = sealing.pack_footer(id, &entries)?;
    staged.write(Bytes::from(footer)).await.map_err(lift)?;
    staged.seal().await.map_err(lift)
}

/// Tells whether a pack could not be sealed because another object has its name.
pub fn is_taken(error: &Error) -> bool {
    StorageError::behind(error).is_some_and(|step| step.kind() == StorageErrorKind::AlreadyExists)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_that_did_not_become_durable_takes_its_entries_along() {
        let [lost, kept] = [1, 2].map(|number| PackId::from_bytes([number; 16]));
        let entry = |pack, number: u8| IndexEntry {
            id: BlobId::of(&[number]),
            pack,
            offset: 6,
            stored_bytes: 1,
            flags: BlobFlags::RAW,
        };
        let mut written = WrittenPacks {
            packs: vec![lost, kept],
            entries: vec![entry(lost, 1), entry(kept, 2), entry(lost, 3)],
        };
        written.forget(lost);
        assert_eq!(written.packs, [kept]);
        assert_eq!(written.entries, [entry(kept, 2)]);
    }
}
