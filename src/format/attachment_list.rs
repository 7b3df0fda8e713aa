//! The attachment list: the attachments a snapshot refers to, in the order they were captured.
//!
//! ```text
//! MVAL | u16 1 | u32 count | count x (content SHA-256 32 | size u64) | SHA-256
//! ```
//!
//! A manifest may name several lists; their concatenation is the snapshot's population. That it holds no
//! attachment twice, and agrees with the manifest's totals, is checked by whoever reads them all.

use super::error::{FormatError, Result};
use super::ids::BlobId;
use super::object::{ObjectReader, ObjectWriter, field, field_u64};

const MAGIC: &[u8; 4] = b"MVAL";
const ENTRY_BYTES: usize = 40;

/// One attachment and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedAttachment {
    /// The content.
    pub id: BlobId,
    /// Its raw bytes; less than 2^63.
    pub bytes: u64,
}

/// Returns the list object, in the order given.
///
/// # Panics
///
/// If a size does not fit in 63 bits.
pub fn encode(attachments: &[ListedAttachment]) -> Vec<u8> {
    let mut writer = ObjectWriter::new(MAGIC, 4 + attachments.len() * ENTRY_BYTES);
    writer.count(attachments.len());
    for attachment in attachments {
        assert!(attachment.bytes <= i64::MAX as u64, "no file is larger than 2^63 bytes");
        writer.bytes(attachment.id.as_bytes());
        writer.u64(attachment.bytes);
    }
    writer.seal()
}

/// Reads a list object.
pub fn decode(object: &[u8]) -> Result<Vec<ListedAttachment>> {
    let (mut reader, _) = ObjectReader::open(object, &[MAGIC])?;
    let count = reader.u32()?;
    let table = reader.table::<ENTRY_BYTES>(count.into())?;
    reader.finish()?;
    table.iter().map(decode_entry).collect()
}

fn decode_entry(record: &[u8; ENTRY_BYTES]) -> Result<ListedAttachment> {
    let id = BlobId::from_bytes(field(record, 0));
    let bytes = field_u64(record, 32);
    if bytes > i64::MAX as u64 {
        return Err(FormatError::corrupt(format!("attachment {id} is listed with a negative size")));
    }
    Ok(ListedAttachment { id, bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::FormatErrorKind;
    use crate::format::object::tests::reseal;

    fn listed(number: u8) -> ListedAttachment {
        ListedAttachment { id: BlobId::of(&[number]), bytes: i64::MAX as u64 - u64::from(number) }
    }

    #[test]
    fn a_list_keeps_the_order_it_was_given() {
        let list: Vec<_> = [9, 1, 0, 5, 1].map(listed).to_vec();
        assert_eq!(decode(&encode(&list)).unwrap(), list);
        assert_eq!(decode(&encode(&[])).unwrap(), []);
    }

    #[test]
    fn a_negative_size_is_refused() {
        let mut object = encode(&[listed(1)]);
        object[49] = 0x80;
        assert_eq!(decode(&reseal(object)).unwrap_err().kind(), FormatErrorKind::Corrupt);
    }

    #[test]
    fn a_count_that_disagrees_with_the_size_is_refused() {
        for count in [0, 2, u32::MAX] {
            let mut object = encode(&[listed(1)]);
            object[6..10].copy_from_slice(&u32::to_le_bytes(count));
            assert_eq!(decode(&reseal(object)).unwrap_err().kind(), FormatErrorKind::Corrupt);
        }
    }

    #[test]
    #[should_panic(expected = "2^63")]
    fn a_negative_size_is_not_written() {
        encode(&[ListedAttachment { id: BlobId::of(b""), bytes: 1 << 63 }]);
    }

    proptest! {
        #[test]
        fn every_list_reads_back(
            items in proptest::collection::vec((any::<[u8; 32]>(), 0u64..1 << 63), 0..30)
        ) {
            let list: Vec<_> =
                items.into_iter().map(|(id, bytes)| ListedAttachment { id: BlobId::from_bytes(id), bytes }).collect();
            prop_assert_eq!(decode(&encode(&list)).unwrap(), list);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0u32..6) {
            let object = reseal([&b"MVAL\x01\0"[..], &count.to_le_bytes(), &bytes, &[0; 32]].concat());
            if let Ok(list) = decode(&object) {
                prop_assert_eq!(encode(&list), object);
            }
        }
    }
}
