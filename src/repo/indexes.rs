//! `indexes/`: where each blob lies. Readers use the union of all files (section 3.1).

use std::collections::HashMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use packvault_storage::{Key, ObjectMeta, Prefix};
use tokio::sync::Semaphore;

use super::{Repository, key, storage_error};
use crate::format::index::{self, IndexEntry};
use crate::format::{BlobFlags, BlobId, FormatError, FormatErrorKind, IndexId, PackId, pack};
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

/// What the index files together say of one pack.
#[derive(Debug, Clone, Copy, Default)]
struct PackExtent {
    entries: u64,
    frames_end: u64,
}

/// A damaged index file.
#[derive(Debug)]
pub struct DamagedIndex {
    /// The file's name.
    pub name: String,
    /// What is wrong with it.
    pub error: Error,
}

/// The union of all index files: for a blob named twice, the file whose name sorts last decides.
#[derive(Debug, Default)]
pub struct IndexUnion {
    packs: Vec<PackId>,
    /// Pack as a position in `packs`, to keep an entry at 56 bytes.
    blobs: HashMap<BlobId, (u32, u64, u64, BlobFlags)>,
    extents: HashMap<PackId, PackExtent>,
}

impl IndexUnion {
    /// Returns where the blob lies.
    pub fn get(&self, id: &BlobId) -> Option<Location> {
        let &(pack, offset, stored_bytes, flags) = self.blobs.get(id)?;
        Some(Location { pack: self.packs[pack as usize], offset, stored_bytes, flags })
    }

    /// Returns about how many bytes of memory the union takes.
    pub fn table_bytes(&self) -> u64 {
        // A table of hashes has room for a seventh more than it holds, at least, and up to twice as much.
        (self.blobs.capacity() * 8 / 7 * (size_of::<BlobId>() + 24)) as u64
    }

    /// Returns how many blobs the index places in the pack.
    pub fn pack_entries(&self, pack: &PackId) -> u64 {
        self.extents.get(pack).map_or(0, |extent| extent.entries)
    }

    /// Returns every pack that an index names.
    pub fn packs(&self) -> impl Iterator<Item = PackId> {
        self.extents.keys().copied()
    }

    /// Returns the length that the pack's file must have for the index to be true: its frames, a footer
    /// entry for each blob indexed in it, and the trailer (section 2.1).
    pub fn implied_pack_bytes(&self, pack: &PackId) -> Option<u64> {
        let extent = self.extents.get(pack)?;
        Some(pack::expected_file_bytes(extent.frames_end, extent.entries))
    }

    /// Adds one index file. Files must come in the order of their names.
    fn add(&mut self, entries: &[IndexEntry]) {
        let mut positions: HashMap<PackId, u32> = HashMap::new();
        let mut extents: HashMap<PackId, PackExtent> = HashMap::new();
        self.blobs.reserve(entries.len());
        for entry in entries {
            let position = *positions.entry(entry.pack).or_insert_with(|| {
                self.packs.push(entry.pack);
                (self.packs.len() - 1) as u32
            });
            let extent = extents.entry(entry.pack).or_default();
            extent.entries += 1;
            extent.frames_end = extent.frames_end.max(entry.offset.saturating_add(entry.stored_bytes));
            self.blobs.insert(entry.id, (position, entry.offset, entry.stored_bytes, entry.flags));
        }
        // A pack named by several files is described whole by the one that names most of it.
        for (pack, extent) in extents {
            let whole = self.extents.entry(pack).or_default();
            whole.entries = whole.entries.max(extent.entries);
            whole.frames_end = whole.frames_end.max(extent.frames_end);
        }
    }
}

fn index_key(id: &IndexId) -> Key {
    key(format!("indexes/{id}{SUFFIX}"))
}

impl Repository {
    /// Reads the union of all index files; a damaged one is an error.
    pub async fn load_indexes(&self) -> Result<IndexUnion> {
        let (union, damaged) = self.find_indexes().await?;
        match damaged.into_iter().next() {
            None => Ok(union),
            Some(damaged) => Err(damaged.error),
        }
    }

    /// Reads the union of all index files that can be read, and says which cannot. Where the store gives no
    /// answer, nothing is known of any.
    pub async fn find_indexes(&self) -> Result<(IndexUnion, Vec<DamagedIndex>)> {
        let folder = Prefix::folder("indexes").expect("a plain word is a key");
        let mut files: Vec<(Key, ObjectMeta)> = self
            .storage
            .list(&folder)
            .try_filter_map(async |object| {
                let wanted = object.key.name().ends_with(SUFFIX) && object.key.parts().count() == 2;
                Ok(wanted.then_some((object.key, object.meta)))
            })
            .try_collect()
            .await
            .map_err(|error| storage_error("cannot list the indexes", error))?;
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut union = IndexUnion::default();
        let mut damaged = Vec::new();
        let room = Semaphore::new((BYTES_IN_FLIGHT / UNIT_BYTES) as usize);
        // Room is taken in the order of the names, in which it is given back, so nobody waits for himself.
        let reads = futures::stream::iter(&files)
            .then(async |(key, meta)| {
                let units = meta.size_bytes.min(BYTES_IN_FLIGHT).div_ceil(UNIT_BYTES) as u32;
                (key, meta, room.acquire_many(units).await)
            })
            .map(async |(key, meta, room)| (self.read_index(key, meta).await, key, room))
            .buffered(READS_IN_FLIGHT);
        let mut reads = std::pin::pin!(reads);
        while let Some((entries, key, _room)) = reads.next().await {
            match entries {
                Ok(entries) => union.add(&entries),
                Err(error) if error.is_inconclusive() => return Err(error),
                Err(error) => damaged.push(DamagedIndex { name: key.name().to_owned(), error }),
            }
        }
        self.tidy_cache(&folder, files.iter().map(|(key, _)| key)).await;
        Ok((union, damaged))
    }

    async fn read_index(&self, key: &Key, meta: &ObjectMeta) -> Result<Vec<IndexEntry>> {
        if meta.size_bytes > INDEX_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Damaged,
                format!("index {} has {} bytes, more than any writer makes", key.name(), meta.size_bytes),
            ));
        }
        let read = self.read_listed(key, meta, index::decode).await;
        read.map_err(|error| storage_error(format!("cannot read index {}", key.name()), error))?
            .map_err(|error| format_error(format!("cannot use index {}", key.name()), error))
    }

    /// Publishes the index of one run. The packs it names must be durable before.
    pub async fn publish_index(&self, id: &IndexId, mut entries: Vec<IndexEntry>) -> Result<()> {
        entries.sort_by_key(|entry| entry.id);
        self.storage
            .create(&index_key(id), Bytes::from(index::encode(&entries)))
            .await
            .map_err(|error| storage_error(format!("cannot publish index {id}"), error))
    }
}

/// Lifts a codec's error: what a newer version wrote is told apart from damage.
pub(crate) fn format_error(message: impl Into<String>, error: FormatError) -> Error {
    let kind = match error.kind() {
        FormatErrorKind::NeedsUpgrade { .. }
        | FormatErrorKind::UnsupportedVersion
        | FormatErrorKind::Encrypted => ErrorKind::Unsupported,
        _ => ErrorKind::Damaged,
    };
    Error::caused(kind, message, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> IndexEntry {
        let id = BlobId::of(&number.to_le_bytes());
        let pack = PackId::parse("01arz3ndektsv4rrffq69g5fav").unwrap();
        IndexEntry { id, pack, offset: 6 + number * 100, stored_bytes: 100, flags: BlobFlags::RAW }
    }

    #[test]
    fn the_memory_of_a_union_is_what_its_tables_take() {
        let mut union = IndexUnion::default();
        assert_eq!(union.table_bytes(), 0);
        let entries: Vec<IndexEntry> = (0..10_000).map(entry).collect();
        union.add(&entries);
        // An id, a place, and a byte of the table, for each of up to twice as many as there are.
        assert!((10_000 * 56..10_000 * 57 * 3).contains(&union.table_bytes()), "{}", union.table_bytes());
    }

    #[test]
    fn a_pack_is_as_long_as_the_file_that_names_most_of_it_implies() {
        let mut union = IndexUnion::default();
        let pack = entry(0).pack;
        assert_eq!((union.pack_entries(&pack), union.implied_pack_bytes(&pack)), (0, None));
        union.add(&[entry(0)]);
        union.add(&[entry(2), entry(0), entry(1)]);
        union.add(&[entry(1)]);
        assert_eq!(union.pack_entries(&pack), 3);
        assert_eq!(union.implied_pack_bytes(&pack), Some(pack::expected_file_bytes(306, 3)));
        assert_eq!(union.packs().collect::<Vec<_>>(), [pack]);
    }

    #[test]
    fn what_a_newer_version_wrote_is_no_damage() {
        use FormatErrorKind as Kind;
        for (kind, lifted) in [
            (Kind::NeedsUpgrade { level: 9 }, ErrorKind::Unsupported),
            (Kind::UnsupportedVersion, ErrorKind::Unsupported),
            (Kind::Encrypted, ErrorKind::Unsupported),
            (Kind::Corrupt, ErrorKind::Damaged),
            (Kind::Truncated, ErrorKind::Damaged),
            (Kind::BadMagic, ErrorKind::Damaged),
        ] {
            let error = format_error("cannot use it", FormatError::new(kind, "the codec says so"));
            assert_eq!(error.kind(), lifted, "{error:?}");
        }
    }
}
