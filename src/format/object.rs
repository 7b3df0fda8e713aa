//! What the binary metadata objects have in common: magic, version, little-endian fields, hash at the end.
//!
//! ```text
//! magic 4 | u16 version = 1 | fields ... | SHA-256 of everything before, 32
//! ```
//!
//! The hash is checked before any field is looked at; the fields are then read with bounds that cannot wrap.

use super::error::{FormatError, FormatErrorKind, Result};
use super::hash::sha256;

const HASH_BYTES: usize = 32;
const VERSION: u16 = 1;

/// Builds an object: fields are appended, then the hash seals them.
pub(super) struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    pub(super) fn new(magic: &[u8; 4], fields_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(4 + 2 + fields_bytes + HASH_BYTES);
        bytes.extend_from_slice(magic);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        Self(bytes)
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Writes a number of items. No object that fits in memory has more than the field can hold.
    pub(super) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("an object has at most 2^32 - 1 items"));
    }

    pub(super) fn seal(mut self) -> Vec<u8> {
        let hash = sha256(&self.0);
        self.0.extend_from_slice(&hash);
        self.0
    }
}

/// Reads the fields of an object whose hash was right.
pub(super) struct ObjectReader<'a> {
    rest: &'a [u8],
}

impl<'a> ObjectReader<'a> {
    /// Checks hash, magic and version, in this order, and returns the index of the magic that was found.
    pub(super) fn open(object: &'a [u8], magics: &[&[u8; 4]]) -> Result<(Self, usize)> {
        let body = proven_body(object)?;
        let mut reader = Self { rest: body };
        let magic = reader.array::<4>()?;
        let found =
            magics.iter().position(|known| **known == magic).ok_or_else(|| bad_magic(magic, magics))?;
        let version = u16::from_le_bytes(reader.array()?);
        if version != VERSION {
            let message = format!(
                "{} version {version} is newer than this program: upgrade packvault",
                magic.escape_ascii()
            );
            return Err(FormatError::new(FormatErrorKind::UnsupportedVersion, message));
        }
        Ok((reader, found))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Takes `count` items of `N` bytes each.
    pub(super) fn table<const N: usize>(&mut self, count: u64) -> Result<&'a [[u8; N]]> {
        if count > (self.rest.len() / N) as u64 {
            let message = format!("{count} items of {N} bytes announced, {} bytes left", self.rest.len());
            return Err(FormatError::corrupt(message));
        }
        let (table, rest) = self.rest.split_at(count as usize * N);
        self.rest = rest;
        Ok(table.as_chunks().0)
    }

    /// Proves that nothing is left over.
    pub(super) fn finish(self) -> Result<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(FormatError::corrupt(format!("{} bytes left over after the last field", self.rest.len())))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let Some((array, rest)) = self.rest.split_first_chunk() else {
            return Err(FormatError::corrupt("object ends inside its fixed fields"));
        };
        self.rest = rest;
        Ok(*array)
    }
}

fn proven_body(object: &[u8]) -> Result<&[u8]> {
    let Some((body, hash)) = object.split_last_chunk::<HASH_BYTES>() else {
        return Err(FormatError::truncated(format!("object has only {} bytes", object.len())));
    };
    if sha256(body) != *hash {
        return Err(FormatError::new(FormatErrorKind::Checksum, "object does not match its own hash"));
    }
    Ok(body)
}

fn bad_magic(found: [u8; 4], magics: &[&[u8; 4]]) -> FormatError {
    let expected: Vec<_> = magics.iter().map(|magic| magic.escape_ascii().to_string()).collect();
    let message = format!("object starts with {}, not {}", found.escape_ascii(), expected.join(" or "));
    FormatError::new(FormatErrorKind::BadMagic, message)
}

/// Reads a little-endian field out of a fixed-size record.
pub(super) fn field_u32<const N: usize>(record: &[u8; N], offset: usize) -> u32 {
    u32::from_le_bytes(field(record, offset))
}

/// Reads a little-endian field out of a fixed-size record.
pub(super) fn field_u64<const N: usize>(record: &[u8; N], offset: usize) -> u64 {
    u64::from_le_bytes(field(record, offset))
}

/// Copies a byte field out of a fixed-size record; the offset is a constant of the layout.
pub(super) fn field<const N: usize, const M: usize>(record: &[u8; N], offset: usize) -> [u8; M] {
    *record[offset..].first_chunk().expect("the layout's offsets lie inside the record")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Recomputes the hash at the end of an object that a test has altered.
    pub(crate) fn reseal(mut object: Vec<u8>) -> Vec<u8> {
        let body_bytes = object.len() - HASH_BYTES;
        object.truncate(body_bytes);
        let hash = sha256(&object);
        object.extend_from_slice(&hash);
        object
    }

    fn open(object: &[u8]) -> Result<()> {
        ObjectReader::open(object, &[b"ABCD"]).and_then(|(reader, _)| reader.finish())
    }

    #[test]
    fn an_object_is_believed_only_after_hash_magic_and_version() {
        let good = ObjectWriter::new(b"ABCD", 0).seal();
        assert!(open(&good).is_ok());
        assert_eq!(open(&good[..31]).unwrap_err().kind(), FormatErrorKind::Truncated);
        let mut flipped = good.clone();
        flipped[0] ^= 1;
        assert_eq!(open(&flipped).unwrap_err().kind(), FormatErrorKind::Checksum);
        assert_eq!(open(&reseal(flipped)).unwrap_err().kind(), FormatErrorKind::BadMagic);
        let mut newer = good.clone();
        newer[4] = 2;
        assert_eq!(open(&reseal(newer)).unwrap_err().kind(), FormatErrorKind::UnsupportedVersion);
        let mut longer = good;
        longer.push(0);
        assert_eq!(open(&reseal(longer)).unwrap_err().kind(), FormatErrorKind::Corrupt);
    }

    #[test]
    fn a_table_that_announces_more_than_there_is_is_refused_before_it_is_allocated() {
        let object = ObjectWriter::new(b"ABCD", 0).seal();
        let (mut reader, _) = ObjectReader::open(&object, &[b"ABCD"]).unwrap();
        assert!(reader.table::<16>(u64::MAX / 16 + 2).is_err());
        assert!(reader.table::<16>(1).is_err());
        assert!(reader.table::<16>(0).unwrap().is_empty());
    }
}
