//! The index: where each blob lies, one file per run that sealed packs.
//!
//! ```text
//! MVIX | u16 1 | u32 count | count x 65 | SHA-256
//! entry: blob id 32 | pack ULID 16 | offset u64 | stored bytes u64 | flags u8
//! ```
//!
//! Entries ascend strictly by blob id. The index carries neither raw length nor CRC: the pack's footer is
//! the authority for both. Which index wins when two name one blob is decided by `repo`.

use super::error::{FormatError, Result};
use super::ids::{BlobId, PackId};
use super::object::{ObjectReader, ObjectWriter, field, field_u64};
use super::pack::BlobFlags;

const MAGIC: &[u8; 4] = b"MVIX";
const ENTRY_BYTES: usize = 65;

/// Where one blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The blob.
    pub id: BlobId,
    /// The pack that holds it.
    pub pack: PackId,
    /// Where its stored bytes begin in the pack.
    pub offset: u64,
    /// How many stored bytes it has.
    pub stored_bytes: u64,
    /// How the bytes are stored.
    pub flags: BlobFlags,
}

/// Returns the index file of the entries, in whatever order they come.
///
/// # Panics
///
/// If two entries name one blob: a run never stores a blob twice.
pub fn encode(entries: &[IndexEntry]) -> Vec<u8> {
    let mut sorted: Vec<&IndexEntry> = entries.iter().collect();
    sorted.sort_unstable_by_key(|entry| entry.id);
    assert!(sorted.windows(2).all(|pair| pair[0].id < pair[1].id), "an index names each blob once");
    let mut writer = ObjectWriter::new(MAGIC, 4 + sorted.len() * ENTRY_BYTES);
    writer.count(sorted.len());
    for entry in sorted {
        writer.bytes(entry.id.as_bytes());
        writer.bytes(&entry.pack.to_bytes());
        writer.u64(entry.offset);
        writer.u64(entry.stored_bytes);
        writer.u8(entry.flags.bits());
    }
    writer.seal()
}

/// Returns the entries of an index file, ascending by blob id.
pub fn decode(file: &[u8]) -> Result<Vec<IndexEntry>> {
    entries(file)?.collect()
}

/// Returns the entries of an index file one by one, so that a union needs no second copy.
///
/// The frame of the file is checked here, order and flags as the entries go by: an error may come after
/// entries that were good.
pub fn entries(file: &[u8]) -> Result<impl ExactSizeIterator<Item = Result<IndexEntry>>> {
    let (mut reader, _) = ObjectReader::open(file, &[MAGIC])?;
    let count = reader.u32()?;
    let table = reader.table::<ENTRY_BYTES>(count.into())?;
    reader.finish()?;
    let mut previous: Option<BlobId> = None;
    Ok(table.iter().map(move |record| {
        let entry = decode_entry(record)?;
        if previous.replace(entry.id).is_some_and(|previous| previous >= entry.id) {
            return Err(FormatError::corrupt(format!("index entry of blob {} is out of order", entry.id)));
        }
        Ok(entry)
    }))
}

fn decode_entry(record: &[u8; ENTRY_BYTES]) -> Result<IndexEntry> {
    let id = BlobId::from_bytes(field(record, 0));
    Ok(IndexEntry {
        id,
        pack: PackId::from_bytes(field(record, 32)),
        offset: field_u64(record, 48),
        stored_bytes: field_u64(record, 56),
        flags: BlobFlags::parse(record[64]).map_err(|error| error.within(format_args!("blob {id}")))?,
    })
}
