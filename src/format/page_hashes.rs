//! What every page of the database must hash to: a keyframe holds all pages, a delta those that changed.
//!
//! ```text
//! MVHK | u16 1 | u32 page size | u64 page count | page count x 16-byte hash | SHA-256
//! MVHD | u16 1 | u32 page size | u64 new page count | u32 count | count x u64 page | count x 16 | SHA-256
//! ```
//!
//! The pages of a delta ascend strictly. Objects do not name their parent; the manifests do.

use std::collections::BTreeMap;

use super::error::{FormatError, Result};
use super::ids::PageHash;
use super::object::{ObjectReader, ObjectWriter};

const KEYFRAME_MAGIC: &[u8; 4] = b"MVHK";
const DELTA_MAGIC: &[u8; 4] = b"MVHD";
const HASH_BYTES: usize = 16;

/// The hash of every page of one snapshot's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHashes {
    /// Bytes of one page.
    pub page_size: u32,
    /// One hash per page, in page order.
    pub hashes: Vec<PageHash>,
}

/// The pages that changed since the parent snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageHashDelta {
    /// Bytes of one page.
    pub page_size: u32,
    /// Pages of the database after the change.
    pub page_count: u64,
    /// The changed pages, ascending, and their hashes.
    pub changes: Vec<(u64, PageHash)>,
}

/// Either kind of object of a page-hash chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageHashObject {
    /// The start of a chain.
    Keyframe(PageHashes),
    /// A later link.
    Delta(PageHashDelta),
}

impl PageHashObject {
    /// Reads whichever of the two the magic announces.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let (reader, kind) = ObjectReader::open(object, &[KEYFRAME_MAGIC, DELTA_MAGIC])?;
        match kind {
            0 => decode_keyframe(reader).map(Self::Keyframe),
            _ => decode_delta(reader).map(Self::Delta),
        }
    }
}

impl PageHashes {
    /// Returns the number of pages.
    pub fn page_count(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// Returns the hash of a page, if the database has it.
    pub fn get(&self, page: u64) -> Option<&PageHash> {
        self.hashes.get(usize::try_from(page).ok()?)
    }

    /// Returns the keyframe object.
    pub fn encode_keyframe(&self) -> Vec<u8> {
        let mut writer = ObjectWriter::new(KEYFRAME_MAGIC, 12 + self.hashes.len() * HASH_BYTES);
        writer.u32(self.page_size);
        writer.u64(self.page_count());
        for hash in &self.hashes {
            writer.bytes(hash.as_bytes());
        }
        writer.seal()
    }

    /// Reads a keyframe object.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let (reader, _) = ObjectReader::open(object, &[KEYFRAME_MAGIC])?;
        decode_keyframe(reader)
    }

    /// Turns the hashes of the parent into those of the snapshot that the delta belongs to.
    ///
    /// On failure nothing has changed.
    pub fn apply(&mut self, delta: &PageHashDelta) -> Result<()> {
        self.check_applies(delta)?;
        // Every page past the old end is listed, so growth allocates no more than the delta itself holds.
        let page_count = usize::try_from(delta.page_count)
            .map_err(|_| FormatError::corrupt("page-hash delta counts more pages than memory can hold"))?;
        self.hashes.resize(page_count, PageHash::from_bytes([0; HASH_BYTES]));
        for (page, hash) in &delta.changes {
            self.hashes[*page as usize] = *hash;
        }
        Ok(())
    }

    fn check_applies(&self, delta: &PageHashDelta) -> Result<()> {
        if delta.page_size != self.page_size {
            let message = format!("page-hash delta of {}-byte pages on {}", delta.page_size, self.page_size);
            return Err(FormatError::corrupt(message));
        }
        delta.check()?;
        let old_count = self.page_count();
        let new_pages = delta.changes.len() - delta.changes.partition_point(|(page, _)| *page < old_count);
        if new_pages as u64 != delta.page_count.saturating_sub(old_count) {
            let message = format!(
                "page-hash delta grows {old_count} pages to {}, but lists {new_pages} new ones",
                delta.page_count
            );
            return Err(FormatError::corrupt(message));
        }
        Ok(())
    }
}

impl PageHashDelta {
    /// Returns the one delta that does what these do one after the other, the oldest first.
    pub fn composed(deltas: &[Self]) -> Result<Self> {
        let Some(last) = deltas.last() else {
            return Err(FormatError::corrupt("no deltas are no delta"));
        };
        let mut changes: BTreeMap<u64, PageHash> = BTreeMap::new();
        for delta in deltas {
            if delta.page_size != last.page_size {
                let message =
                    format!("page-hash delta of {}-byte pages on {}", last.page_size, delta.page_size);
                return Err(FormatError::corrupt(message));
            }
            delta.check()?;
            // What was cut off is gone, also where a later delta grows the database again.
            changes.retain(|page, _| *page < delta.page_count);
            changes.extend(delta.changes.iter().copied());
        }
        let changes = changes.into_iter().collect();
        Ok(Self { page_size: last.page_size, page_count: last.page_count, changes })
    }

    /// Returns the delta object.
    ///
    /// # Panics
    ///
    /// If the pages do not ascend or lie past the end.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.check().is_ok(), "the pages of a delta ascend and exist");
        let mut writer = ObjectWriter::new(DELTA_MAGIC, 16 + self.changes.len() * (8 + HASH_BYTES));
        writer.u32(self.page_size);
        writer.u64(self.page_count);
        writer.count(self.changes.len());
        for (page, _) in &self.changes {
            writer.u64(*page);
        }
        for (_, hash) in &self.changes {
            writer.bytes(hash.as_bytes());
        }
        writer.seal()
    }

    /// Reads a delta object.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let (reader, _) = ObjectReader::open(object, &[DELTA_MAGIC])?;
        decode_delta(reader)
    }

    fn check(&self) -> Result<()> {
        if !self.changes.is_sorted_by(|left, right| left.0 < right.0) {
            return Err(FormatError::corrupt("pages of the page-hash delta do not ascend"));
        }
        match self.changes.last() {
            Some((page, _)) if *page >= self.page_count => {
                let message = format!("page-hash delta lists page {page} of {} pages", self.page_count);
                Err(FormatError::corrupt(message))
            }
            _ => Ok(()),
        }
    }
}

fn decode_keyframe(mut reader: ObjectReader<'_>) -> Result<PageHashes> {
    let page_size = reader.u32()?;
    let page_count = reader.u64()?;
    let table = reader.table::<HASH_BYTES>(page_count)?;
    reader.finish()?;
    let hashes = table.iter().map(|hash| PageHash::from_bytes(*hash)).collect();
    Ok(PageHashes { page_size, hashes })
}

fn decode_delta(mut reader: ObjectReader<'_>) -> Result<PageHashDelta> {
    let page_size = reader.u32()?;
    let page_count = reader.u64()?;
    let count = reader.u32()?;
    let pages = reader.table::<8>(count.into())?;
    let hashes = reader.table::<HASH_BYTES>(count.into())?;
    reader.finish()?;
    let numbers = pages.iter().map(|page| u64::from_le_bytes(*page));
    let changes = numbers.zip(hashes.iter().map(|hash| PageHash::from_bytes(*hash))).collect();
    let delta = PageHashDelta { page_size, page_count, changes };
    delta.check()?;
    Ok(delta)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::FormatErrorKind;
    use crate::format::object::tests::reseal;

    fn hash(number: u64) -> PageHash {
        PageHash::of(&number.to_le_bytes())
    }

    fn keyframe(page_count: u64) -> PageHashes {
        PageHashes { page_size: 512, hashes: (0..page_count).map(hash).collect() }
    }

    fn delta(page_count: u64, pages: &[u64]) -> PageHashDelta {
        let changes = pages.iter().map(|page| (*page, hash(page + 1000))).collect();
        PageHashDelta { page_size: 512, page_count, changes }
    }

    #[test]
    fn growth_must_list_exactly_the_new_pages() {
        for (pages, good) in [
            (&[2, 3][..], true),
            (&[0, 2, 3], true),
            (&[2], false),
            (&[3], false),
            (&[], false),
            (&[0, 1], false),
        ] {
            assert_eq!(keyframe(2).apply(&delta(4, pages)).is_ok(), good, "{pages:?}");
        }
        let endless = delta(u64::MAX, &[2]);
        assert!(keyframe(2).apply(&endless).is_err());
    }

    #[test]
    fn shrinking_cuts_and_lists_only_what_is_left() {
        let mut hashes = keyframe(4);
        hashes.apply(&delta(2, &[1])).unwrap();
        assert_eq!(hashes.hashes, [hash(0), hash(1001)]);
        assert!(hashes.apply(&delta(1, &[1])).is_err());
        hashes.apply(&delta(0, &[])).unwrap();
        assert_eq!(hashes.page_count(), 0);
        assert_eq!(hashes.get(0), None);
    }

    #[test]
    fn a_delta_that_does_not_apply_changes_nothing() {
        let mut hashes = keyframe(3);
        let mut other_size = delta(3, &[0]);
        other_size.page_size = 1024;
        for bad in [other_size, delta(3, &[1, 0]), delta(3, &[1, 1]), delta(3, &[3]), delta(5, &[4])] {
            assert_eq!(hashes.apply(&bad).unwrap_err().kind(), FormatErrorKind::Corrupt);
            assert_eq!(hashes, keyframe(3));
        }
    }

    #[test]
    fn pages_out_of_order_or_past_the_end_are_refused() {
        let object = delta(9, &[3, 5]).encode();
        for (first, second) in [(5u64, 3u64), (3, 3), (3, 9), (3, u64::MAX)] {
            let mut bad = object.clone();
            bad[22..30].copy_from_slice(&first.to_le_bytes());
            bad[30..38].copy_from_slice(&second.to_le_bytes());
            assert!(PageHashDelta::decode(&reseal(bad)).is_err(), "{first} {second}");
        }
    }

    #[test]
    fn counts_that_disagree_with_the_size_are_refused_without_wrapping() {
        // 2^60 hashes of 16 bytes wrap to none.
        for count in [0, 1, 3, 1 << 60, (1 << 60) + 2, u64::MAX] {
            let mut object = keyframe(2).encode_keyframe();
            object[10..18].copy_from_slice(&u64::to_le_bytes(count));
            assert!(PageHashes::decode(&reseal(object)).is_err(), "{count}");
        }
        for count in [0, 1, 3, u32::MAX] {
            let mut object = delta(9, &[3, 5]).encode();
            object[18..22].copy_from_slice(&u32::to_le_bytes(count));
            assert!(PageHashDelta::decode(&reseal(object)).is_err(), "{count}");
        }
    }

    #[test]
    fn the_magic_decides_which_object_it_is() {
        let (hashes, delta) = (keyframe(2), delta(2, &[1]));
        let decoded = PageHashObject::decode(&hashes.encode_keyframe()).unwrap();
        assert_eq!(decoded, PageHashObject::Keyframe(hashes.clone()));
        assert_eq!(PageHashObject::decode(&delta.encode()).unwrap(), PageHashObject::Delta(delta.clone()));
        let crossed = PageHashDelta::decode(&hashes.encode_keyframe()).unwrap_err();
        assert_eq!(crossed.kind(), FormatErrorKind::BadMagic);
    }

    proptest! {
        #[test]
        fn a_delta_between_two_databases_turns_one_into_the_other(
            old in proptest::collection::vec(0u64..3, 0..40),
            new in proptest::collection::vec(0u64..3, 0..40),
        ) {
            let of = |pages: &[u64]| PageHashes { page_size: 512, hashes: pages.iter().copied().map(hash).collect() };
            let (mut hashes, target) = (of(&old), of(&new));
            let changed = |page: &usize| old.get(*page) != Some(&new[*page]);
            let changes = (0..new.len()).filter(changed).map(|page| (page as u64, target.hashes[page])).collect();
            let delta = PageHashDelta { page_size: 512, page_count: new.len() as u64, changes };
            let decoded = PageHashDelta::decode(&delta.encode()).unwrap();
            prop_assert_eq!(&decoded, &delta);
            hashes.apply(&decoded).unwrap();
            prop_assert_eq!(&hashes, &target);
            prop_assert_eq!(PageHashes::decode(&hashes.encode_keyframe()).unwrap(), target);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let object = reseal([&b"MVHD\x01\0"[..], &bytes, &[0; 32]].concat());
            let _ = PageHashObject::decode(&object);
            let _ = PageHashObject::decode(&bytes);
        }
    }
}
