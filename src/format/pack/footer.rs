//! The footer's table of entries, read whole and looked up by blob id.
//!
//! Entries stay in append order, which is the order of offsets in every pack a program writes; a second
//! table of positions, sorted by id, serves look-ups and finds duplicates.

use super::{
    BLOB_RAW_BYTES_MAX, BLOB_STORED_BYTES_MAX, BlobFlags, COUNT_BYTES, ENTRIES_MAX, ENTRY_BYTES, Entry,
    HEADER_BYTES, TRAILER_BYTES, Trailer,
};
use crate::format::error::{FormatError, Result};
use crate::format::ids::BlobId;
use crate::format::object::{field, field_u32, field_u64};

/// The entries of a pack.
#[derive(Debug, Clone)]
pub struct Footer {
    entries: Vec<Entry>,
    /// Positions in `entries`, ascending by blob id.
    by_id: Vec<u32>,
}

impl Footer {
    /// Reads the footer of a plain pack: the `region_bytes` bytes at `footer_offset`.
    pub fn parse(region: &[u8], trailer: &Trailer, file_bytes: u64) -> Result<Self> {
        let expected_bytes = file_bytes.checked_sub(TRAILER_BYTES as u64 + trailer.footer_offset());
        if region.len() as u64 != trailer.region_bytes() || expected_bytes != Some(trailer.region_bytes()) {
            let message = format!("pack footer has {} of {} bytes", region.len(), trailer.region_bytes());
            return Err(FormatError::truncated(message));
        }
        trailer.check_hash(region)?;
        Self::from_region(region, trailer.footer_offset())
    }

    /// Reads entries that were proven to be what the writer wrote, plain or unsealed.
    pub(super) fn from_region(region: &[u8], footer_offset: u64) -> Result<Self> {
        let records = split_region(region)?;
        let entries = records.iter().map(decode_entry).collect::<Result<Vec<_>>>()?;
        for entry in &entries {
            check_entry(entry, footer_offset)
                .map_err(|fault| FormatError::corrupt(format!("pack entry of blob {} {fault}", entry.id)))?;
        }
        check_overlaps(&entries)?;
        let by_id = positions_by_id(&entries);
        if let Some(pair) = find_duplicate(&entries, &by_id) {
            return Err(FormatError::corrupt(format!("pack lists blob {pair} twice")));
        }
        Ok(Self { entries, by_id })
    }

    /// Returns the entries in append order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the entry of a blob, if the pack holds it.
    pub fn get(&self, id: &BlobId) -> Option<&Entry> {
        let found = self.by_id.binary_search_by_key(id, |position| self.entries[*position as usize].id);
        Some(&self.entries[self.by_id[found.ok()?] as usize])
    }
}

fn split_region(region: &[u8]) -> Result<&[[u8; ENTRY_BYTES]]> {
    let Some((count, table)) = region.split_first_chunk::<COUNT_BYTES>() else {
        return Err(FormatError::corrupt(format!("pack footer has only {} bytes", region.len())));
    };
    let count = u32::from_le_bytes(*count);
    let (records, rest) = table.as_chunks::<ENTRY_BYTES>();
    if records.len() as u64 != u64::from(count) || !rest.is_empty() {
        let message = format!("pack footer of {} bytes announces {count} entries", region.len());
        return Err(FormatError::corrupt(message));
    }
    Ok(records)
}

fn decode_entry(record: &[u8; ENTRY_BYTES]) -> Result<Entry> {
    let id = BlobId::from_bytes(field(record, 0));
    Ok(Entry {
        id,
        offset: field_u64(record, 32),
        stored_bytes: field_u64(record, 40),
        raw_bytes: field_u64(record, 48),
        flags: BlobFlags::parse(record[56])
            .map_err(|error| error.within(format_args!("pack entry of blob {id}")))?,
        crc32c: field_u32(record, 57),
    })
}

/// Tells what is wrong with an entry that no pack may list, whatever else lies in it.
pub(super) fn check_entry(entry: &Entry, footer_offset: u64) -> std::result::Result<(), String> {
    if entry.stored_bytes > BLOB_STORED_BYTES_MAX {
        return Err(format!("announces {} stored bytes", entry.stored_bytes));
    }
    if entry.raw_bytes > BLOB_RAW_BYTES_MAX {
        return Err(format!("announces {} raw bytes", entry.raw_bytes));
    }
    let inside = entry.offset >= HEADER_BYTES as u64
        && entry.stored_bytes <= footer_offset
        && entry.offset <= footer_offset - entry.stored_bytes;
    if !inside {
        return Err(format!("lies at {} + {}, outside the frames", entry.offset, entry.stored_bytes));
    }
    Ok(())
}

fn check_overlaps(entries: &[Entry]) -> Result<()> {
    let mut frames: Vec<&Entry> = entries.iter().filter(|entry| entry.stored_bytes > 0).collect();
    if !frames.is_sorted_by_key(|entry| entry.offset) {
        frames.sort_unstable_by_key(|entry| entry.offset);
    }
    for pair in frames.windows(2) {
        // The sum was bounded by the footer's offset.
        if pair[0].offset + pair[0].stored_bytes > pair[1].offset {
            let message = format!("frames of blobs {} and {} overlap", pair[0].id, pair[1].id);
            return Err(FormatError::corrupt(message));
        }
    }
    Ok(())
}

fn positions_by_id(entries: &[Entry]) -> Vec<u32> {
    // A footer is bounded to 1 GiB, so positions fit.
    let mut positions: Vec<u32> = (0..entries.len() as u32).collect();
    positions.sort_unstable_by_key(|position| entries[*position as usize].id);
    positions
}

fn find_duplicate(entries: &[Entry], by_id: &[u32]) -> Option<BlobId> {
    let id_at = |position: u32| entries[position as usize].id;
    by_id.windows(2).find(|pair| id_at(pair[0]) == id_at(pair[1])).map(|pair| id_at(pair[0]))
}

pub(super) fn encode_region(entries: &[Entry]) -> Vec<u8> {
    let mut region = Vec::with_capacity(COUNT_BYTES + entries.len() * ENTRY_BYTES + TRAILER_BYTES);
    let count = u32::try_from(entries.len()).expect("100,000 entries fit");
    region.extend_from_slice(&count.to_le_bytes());
    for entry in entries {
        region.extend_from_slice(entry.id.as_bytes());
        region.extend_from_slice(&entry.offset.to_le_bytes());
        region.extend_from_slice(&entry.stored_bytes.to_le_bytes());
        region.extend_from_slice(&entry.raw_bytes.to_le_bytes());
        region.push(entry.flags.bits());
        region.extend_from_slice(&entry.crc32c.to_le_bytes());
    }
    region
}

/// Stops a writer before it seals a pack that a reader would refuse.
pub(super) fn assert_writable(entries: &[Entry]) {
    assert!(entries.len() <= ENTRIES_MAX, "a pack has at most {ENTRIES_MAX} entries");
    let mut frames_end = HEADER_BYTES as u64;
    for entry in entries {
        assert!(entry.offset == frames_end, "frames lie back to back");
        assert!(entry.stored_bytes <= BLOB_STORED_BYTES_MAX, "a frame is bounded");
        assert!(entry.raw_bytes <= BLOB_RAW_BYTES_MAX, "a blob is bounded");
        frames_end += entry.stored_bytes;
    }
    let by_id = positions_by_id(entries);
    assert!(find_duplicate(entries, &by_id).is_none(), "a pack holds each blob once");
}
