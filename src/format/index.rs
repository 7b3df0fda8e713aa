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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::FormatErrorKind;
    use crate::format::object::tests::reseal;

    fn entry(number: u8) -> IndexEntry {
        IndexEntry {
            id: BlobId::of(&[number]),
            pack: PackId::from_bytes([number; 16]),
            offset: 6 + u64::from(number),
            stored_bytes: u64::MAX - u64::from(number),
            flags: BlobFlags::COMPRESSED,
        }
    }

    #[test]
    fn an_index_is_written_in_order_of_ids_whatever_order_the_entries_come_in() {
        let entries: Vec<_> = (0..100).map(entry).collect();
        let file = encode(&entries);
        let decoded = decode(&file).unwrap();
        assert!(decoded.is_sorted_by_key(|entry| entry.id));
        assert!(entries.iter().all(|entry| decoded.contains(entry)));
        assert_eq!(encode(&decoded), file);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn an_index_out_of_order_or_with_a_blob_twice_is_refused() {
        let file = encode(&[entry(1), entry(2)]);
        let (first, second) = (10..10 + ENTRY_BYTES, 10 + ENTRY_BYTES..10 + 2 * ENTRY_BYTES);
        let mut twice = file.clone();
        twice.copy_within(first.clone(), second.start);
        let mut swapped = file.clone();
        swapped[first.clone()].copy_from_slice(&file[second.clone()]);
        swapped[second].copy_from_slice(&file[first]);
        for bad in [twice, swapped] {
            assert_eq!(decode(&reseal(bad)).unwrap_err().kind(), FormatErrorKind::Corrupt);
        }
    }

    #[test]
    fn an_index_whose_count_disagrees_with_its_size_is_refused() {
        for count in [0, 1, 3, u32::MAX] {
            let mut file = encode(&[entry(1), entry(2)]);
            file[6..10].copy_from_slice(&u32::to_le_bytes(count));
            assert_eq!(decode(&reseal(file)).unwrap_err().kind(), FormatErrorKind::Corrupt);
        }
    }

    #[test]
    fn an_index_with_unknown_flags_is_refused() {
        let mut file = encode(&[entry(1)]);
        file[10 + ENTRY_BYTES - 1] = 4;
        assert_eq!(decode(&reseal(file)).unwrap_err().kind(), FormatErrorKind::Corrupt);
    }

    #[test]
    fn an_index_that_was_altered_or_cut_anywhere_is_refused() {
        let file = encode(&[entry(1)]);
        for position in 0..file.len() {
            let mut altered = file.clone();
            altered[position] ^= 0x40;
            assert_eq!(decode(&altered).unwrap_err().kind(), FormatErrorKind::Checksum);
            assert!(decode(&file[..position]).is_err());
        }
    }

    /// Entries of any kind, one for each of some blobs.
    fn listed() -> impl Strategy<Value = Vec<IndexEntry>> {
        let place = (any::<[u8; 16]>(), any::<u64>(), any::<u64>(), 0u8..4);
        proptest::collection::btree_map(any::<[u8; 32]>(), place, 0..30).prop_map(|places| {
            let entry = |(id, (pack, offset, stored_bytes, bits))| IndexEntry {
                id: BlobId::from_bytes(id),
                pack: PackId::from_bytes(pack),
                offset,
                stored_bytes,
                flags: BlobFlags::parse(bits).unwrap(),
            };
            places.into_iter().map(entry).collect()
        })
    }

    proptest! {
        #[test]
        fn every_index_reads_back(entries in listed()) {
            let file = encode(&entries);
            prop_assert_eq!(file.len(), 42 + 65 * entries.len());
            prop_assert_eq!(decode(&file).unwrap(), entries);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0u32..4) {
            let object = reseal([&b"MVIX\x01\0"[..], &count.to_le_bytes(), &bytes, &[0; 32]].concat());
            if let Ok(entries) = decode(&object) {
                prop_assert_eq!(encode(&entries), object);
            }
        }
    }
}
