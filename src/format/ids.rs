//! The names of things: blobs, pages, packs, indexes, snapshots, repositories.
//!
//! Each name is its own type and is parsed once, at the border; a value of one of these types is always
//! well-formed, so it may be joined into a path.
//!
//! ```text
//! blob       SHA-256 of the raw bytes; text: 64 hex digits, written in lower case, read in either
//! page hash  first 16 bytes of the SHA-256 of one page
//! pack       ULID, 16 bytes big-endian; text: 26 characters of lower-case Crockford base32
//! index      ULID, likewise
//! snapshot   yyyymmddThhmmssZ-<32 lower-case hex digits>
//! repository lower-case UUID, 8-4-4-4-12
//! ```

use std::fmt;

use super::error::{FormatError, Result};
use super::hash::sha256;

/// The name of a blob: the SHA-256 of its raw bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId([u8; 32]);

impl BlobId {
    /// Returns the name of the given bytes.
    pub fn of(raw: &[u8]) -> Self {
        Self(sha256(raw))
    }

    /// Wraps a hash that was computed or read elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the hash.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Parses 64 hex digits of either case.
    pub fn parse(text: &str) -> Result<Self> {
        let mut bytes = [0; 32];
        match hex::decode_to_slice(text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(FormatError::invalid(format!("blob id {text:?} is not 64 hex digits"))),
        }
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobId({self})")
    }
}

/// What a database page must hash to: the first half of its SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageHash([u8; 16]);

impl PageHash {
    /// Returns the hash of one page.
    pub fn of(page: &[u8]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&sha256(page)[..16]);
        Self(half)
    }

    /// Wraps a hash that was computed or read elsewhere.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the hash.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for PageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageHash({self})")
    }
}

const ULID_CHARS: usize = 26;
const ULID_ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn encode_ulid(bytes: [u8; 16]) -> [u8; ULID_CHARS] {
    let mut value = u128::from_be_bytes(bytes);
    let mut text = [0; ULID_CHARS];
    for slot in text.iter_mut().rev() {
        *slot = ULID_ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    text
}

fn decode_ulid(text: &str) -> Option<[u8; 16]> {
    let text = text.as_bytes();
    // 26 characters hold 130 bits: the first may only carry three of its five.
    if text.len() != ULID_CHARS || text[0] > b'7' {
        return None;
    }
    let mut value = 0u128;
    for character in text {
        let digit = ULID_ALPHABET.iter().position(|known| known == character)?;
        value = value << 5 | digit as u128;
    }
    Some(value.to_be_bytes())
}

macro_rules! ulid_name {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps the 16 bytes of a ULID.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Wraps a generated ULID.
            pub const fn from_ulid(ulid: ulid::Ulid) -> Self {
                Self(ulid.to_bytes())
            }

            /// Returns the 16 bytes of the ULID.
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0
            }

            /// Parses 26 lower-case characters; nothing else is accepted.
            pub fn parse(text: &str) -> Result<Self> {
                decode_ulid(text).map(Self).ok_or_else(|| {
                    FormatError::invalid(format!(concat!($noun, " id {:?} is not a lower-case ULID"), text))
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = encode_ulid(self.0);
                f.pad(std::str::from_utf8(&text).expect("the alphabet is ASCII"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

ulid_name!(
    /// The name of a pack.
    PackId,
    "pack"
);
ulid_name!(
    /// The name of an index.
    IndexId,
    "index"
);

impl PackId {
    /// Returns the folder of the pack: the first two characters of its name.
    pub fn shard(&self) -> String {
        self.to_string()[..2].to_owned()
    }
}

/// The name of a snapshot; names sort in the order of creation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(String);

impl SnapshotId {
    /// Parses `yyyymmddThhmmssZ-` and 32 lower-case hex digits, the whole string and nothing but it.
    pub fn parse(text: &str) -> Result<Self> {
        if matches_pattern(text, SNAPSHOT_PATTERN) {
            return Ok(Self(text.to_owned()));
        }
        Err(FormatError::invalid(format!("{text:?} is not a snapshot id")))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SnapshotId {
    /// Returns its time, with which it begins.
    pub fn time(&self) -> Result<jiff::Timestamp> {
        let (date, clock) = (&self.0[..8], &self.0[9..15]);
        let date = format!("{}-{}-{}", &date[..4], &date[4..6], &date[6..]);
        super::timestamp::parse(&format!("{date}T{}:{}:{}Z", &clock[..2], &clock[2..4], &clock[4..]))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The name of a repository, given to it when it was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId(String);

impl RepoId {
    /// Parses a lower-case UUID; version and variant bits are not looked at.
    pub fn parse(text: &str) -> Result<Self> {
        if matches_pattern(text, REPO_PATTERN) {
            return Ok(Self(text.to_owned()));
        }
        Err(FormatError::invalid(format!("repository id {text:?} is not a lower-case UUID")))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// `d` stands for a decimal digit, `x` for a lower-case hex digit, anything else for itself.
const SNAPSHOT_PATTERN: &[u8] = b"ddddddddTddddddZ-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
const REPO_PATTERN: &[u8] = b"xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

fn matches_pattern(text: &str, pattern: &[u8]) -> bool {
    text.len() == pattern.len()
        && text.bytes().zip(pattern).all(|(byte, &rule)| match rule {
            b'd' => byte.is_ascii_digit(),
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            literal => byte == literal,
        })
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let mut text = [0; 64];
    let text = &mut text[..bytes.len() * 2];
    hex::encode_to_slice(bytes, text).map_err(|_| fmt::Error)?;
    f.pad(std::str::from_utf8(text).map_err(|_| fmt::Error)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACK: &str = "01kwvve8k3wz72j3vhy0dphk55";
    const PACK_BYTES: &str = "019f37b72263e7ce290f71f01b68cca5";

    #[test]
    fn a_ulid_reads_and_writes_the_bytes_the_index_stores() {
        let pack = PackId::parse(PACK).unwrap();
        assert_eq!(hex::encode(pack.to_bytes()), PACK_BYTES);
        assert_eq!(pack.to_string(), PACK);
        assert_eq!(pack.shard(), "01");
        assert_eq!(PackId::from_ulid(ulid::Ulid::from_bytes(pack.to_bytes())), pack);
    }

    #[test]
    fn a_ulid_is_refused_unless_lower_case_complete_and_in_range() {
        for bad in [
            "",
            "01kwvve8k3wz72j3vhy0dphk5",
            "01kwvve8k3wz72j3vhy0dphk555",
            "01KWVVE8K3WZ72J3VHY0DPHK55",
            "01kwvve8k3wz72j3vhy0dphk5i",
            "01kwvve8k3wz72j3vhy0dphk5l",
            "01kwvve8k3wz72j3vhy0dphk5o",
            "01kwvve8k3wz72j3vhy0dphk5u",
            "81kwvve8k3wz72j3vhy0dphk55",
            "01kwvve8k3wz72j3vhy0dphk5é",
            "01kwvve8k3wz72j3vhy0dphk5\n",
        ] {
            assert!(PackId::parse(bad).is_err(), "{bad}");
        }
        let greatest = "7zzzzzzzzzzzzzzzzzzzzzzzzz";
        assert_eq!(IndexId::parse(greatest).unwrap().to_bytes(), [0xff; 16]);
    }

    #[test]
    fn a_blob_id_reads_either_case_and_writes_lower_case() {
        let id = BlobId::of(b"hello");
        let text = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        assert_eq!(id.to_string(), text);
        assert_eq!(BlobId::parse(&text.to_uppercase()).unwrap(), id);
        assert!(BlobId::parse(&text[1..]).is_err());
        assert!(BlobId::parse(&format!("{text}0")).is_err());
        assert!(BlobId::parse(&text.replace('2', "g")).is_err());
    }

    #[test]
    fn a_page_hash_is_the_first_half_of_the_sha256() {
        assert_eq!(PageHash::of(&[0; 4096]).to_string(), "ad7facb2586fc6e966c004d7d1d16b02");
    }

    #[test]
    fn a_snapshot_id_matches_as_a_whole_or_not_at_all() {
        let good = "20260706T135616Z-0f5afbf4852769c6ad683bdab6082649";
        assert_eq!(SnapshotId::parse(good).unwrap().as_str(), good);
        for bad in [
            "",
            "../20260706T135616Z-0f5afbf4852769c6ad683bdab6082649",
            "20260706T135616Z-0f5afbf4852769c6ad683bdab6082649\n",
            "20260706T135616Z-0F5AFBF4852769C6AD683BDAB6082649",
            "20260706t135616Z-0f5afbf4852769c6ad683bdab6082649",
            "20260706T135616Z_0f5afbf4852769c6ad683bdab6082649",
            "20260706T135616Z-0f5afbf4852769c6ad683bdab608264",
        ] {
            assert!(SnapshotId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_repository_id_is_a_lower_case_uuid_and_nothing_else() {
        let good = "5d61e8af-fa85-4c85-a408-d2e53ac0ed20";
        assert_eq!(RepoId::parse(good).unwrap().as_str(), good);
        for bad in
            ["", &good.to_uppercase(), &format!("{good}\n"), &good.replace('-', ""), "../../etc/passwd"]
        {
            assert!(RepoId::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_id_reads_back(hash in any::<[u8; 32]>(), ulid in any::<[u8; 16]>()) {
            let blob = BlobId::from_bytes(hash);
            prop_assert_eq!(BlobId::parse(&blob.to_string()).unwrap(), blob);
            let (pack, index) = (PackId::from_bytes(ulid), IndexId::from_bytes(ulid));
            prop_assert_eq!(PackId::parse(&pack.to_string()).unwrap(), pack);
            prop_assert_eq!(IndexId::parse(&index.to_string()).unwrap(), index);
            prop_assert_eq!(pack.to_string(), ulid::Ulid::from_bytes(ulid).to_string().to_lowercase());
        }

        #[test]
        fn ids_sort_as_their_texts_do(left in any::<[u8; 16]>(), right in any::<[u8; 16]>()) {
            let (left, right) = (PackId::from_bytes(left), PackId::from_bytes(right));
            prop_assert_eq!(left.cmp(&right), left.to_string().cmp(&right.to_string()));
        }
    }
}
