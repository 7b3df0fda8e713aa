//! What the file system knew of an archive's files and the extras tree does not keep: owners, modes and times.
//!
//! packvault's own object beside a manifest. Other programs pass it over, and a snapshot without one is whole.
//!
//! ```text
//! one zstd frame with a checksum of
//! {"version":1,"owners":[[uid,gid],...],"home":ROW,"database":ROW,
//!  "folders":[["path",ROW],...],"files":[["path",ROW],...]}
//! ROW: [mode, place in owners, seconds since 1970, nanoseconds]; home and database may be null
//! ```
//!
//! Paths are those of the extras tree. A restore looks up rows by paths that were checked elsewhere, so a path here
//! that is malformed does no harm. Modes and owners are not secret, and prove nothing: a row is only used where it is
//! harmless, see `archive::attributes`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::error::{FormatError, FormatErrorKind, Result};

const VERSION: u64 = 1;
/// A million files with long names take about 100 MiB of text.
const TEXT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The longest object that is read.
pub const OBJECT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const ZSTD_LEVEL: i32 = 3;

/// What is known of one file or folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// The number of its user.
    pub user: u32,
    /// The number of its group.
    pub group: u32,
    /// When its content changed: seconds since 1970, and nanoseconds.
    pub modified: (i64, u32),
}

/// The attributes of all that is in one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ArchiveAttributes {
    /// The folder that everything lies in.
    pub home: Option<Attributes>,
    /// The database.
    pub database: Option<Attributes>,
    /// Folders on the way to files, by their path below the home.
    pub folders: BTreeMap<String, Attributes>,
    /// Extra files, by their path in the extras tree.
    pub files: BTreeMap<String, Attributes>,
}

type Row = (u32, usize, i64, u32);

#[derive(Serialize, Deserialize)]
struct Stored {
    version: u64,
    owners: Vec<(u32, u32)>,
    home: Option<Row>,
    database: Option<Row>,
    folders: Vec<(String, Row)>,
    files: Vec<(String, Row)>,
}

impl ArchiveAttributes {
    /// Returns the object.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut owners = Owners::default();
        let mut rows = |known: &BTreeMap<String, Attributes>| -> Vec<(String, Row)> {
            known.iter().map(|(path, attributes)| (path.clone(), owners.row(attributes))).collect()
        };
        let (folders, files) = (rows(&self.folders), rows(&self.files));
        let mut one = |known: &Option<Attributes>| known.as_ref().map(|known| owners.row(known));
        let (home, database) = (one(&self.home), one(&self.database));
        let stored = Stored { version: VERSION, owners: owners.list, home, database, folders, files };
        let text = serde_json::to_vec(&stored).map_err(unusable)?;
        let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(unusable)?;
        compressor.include_checksum(true).map_err(unusable)?;
        compressor.compress(&text).map_err(unusable)
    }

    /// Reads an object; refuses one that unfolds to more than any archive could need.
    pub fn decode(object: &[u8]) -> Result<Self> {
        let text = unfold(object, TEXT_BYTES_MAX)?;
        let stored: Stored = serde_json::from_slice(&text).map_err(unusable)?;
        if stored.version != VERSION {
            let message =
                format!("version {} of the attributes is not one this program reads", stored.version);
            return Err(FormatError::new(FormatErrorKind::UnsupportedVersion, message));
        }
        let attributes = |row: Row| attributes(&stored.owners, row);
        let rows = |rows: Vec<(String, Row)>| -> Result<BTreeMap<String, Attributes>> {
            rows.into_iter().map(|(path, row)| Ok((path, attributes(row)?))).collect()
        };
        Ok(Self {
            home: stored.home.map(attributes).transpose()?,
            database: stored.database.map(attributes).transpose()?,
            folders: rows(stored.folders)?,
            files: rows(stored.files)?,
        })
    }
}

/// Unfolds one frame, which says how long its text is, to so many bytes at most.
fn unfold(object: &[u8], bytes_max: usize) -> Result<Vec<u8>> {
    match zstd::bulk::Decompressor::upper_bound(object) {
        Some(bytes) if bytes <= bytes_max => zstd::bulk::decompress(object, bytes).map_err(unusable),
        _ => Err(FormatError::corrupt(
            "the attributes unfold to more than any archive could need, or to nothing",
        )),
    }
}

fn attributes(owners: &[(u32, u32)], (mode, owner, seconds, nanoseconds): Row) -> Result<Attributes> {
    let (user, group) = *owners
        .get(owner)
        .ok_or_else(|| FormatError::corrupt("a row of the attributes names an owner that is not there"))?;
    // The number by which system calls say "leave it as it is".
    if user == u32::MAX || group == u32::MAX {
        return Err(FormatError::corrupt("a row of the attributes names an owner that cannot be"));
    }
    if nanoseconds >= 1_000_000_000 {
        return Err(FormatError::corrupt("a row of the attributes has a second of more than a second"));
    }
    Ok(Attributes { mode, user, group, modified: (seconds, nanoseconds) })
}

/// Owners, each named once: most archives have one.
#[derive(Default)]
struct Owners {
    list: Vec<(u32, u32)>,
    places: BTreeMap<(u32, u32), usize>,
}

impl Owners {
    fn row(&mut self, attributes: &Attributes) -> Row {
        let owner = (attributes.user, attributes.group);
        let place = *self.places.entry(owner).or_insert_with(|| {
            self.list.push(owner);
            self.list.len() - 1
        });
        (attributes.mode, place, attributes.modified.0, attributes.modified.1)
    }
}

fn unusable(error: impl std::fmt::Display) -> FormatError {
    FormatError::corrupt(format!("the attributes cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(user: u32) -> Attributes {
        Attributes { mode: 0o640, user, group: 5000, modified: (-1, 999_999_999) }
    }

    fn archive() -> ArchiveAttributes {
        ArchiveAttributes {
            home: Some(attributes(0)),
            database: None,
            folders: BTreeMap::from([("media".to_owned(), attributes(4001))]),
            files: BTreeMap::from([
                ("media/a\nb".to_owned(), attributes(4001)),
                ("b".to_owned(), attributes(0)),
            ]),
        }
    }

    fn framed(text: &str) -> Vec<u8> {
        zstd::bulk::compress(text.as_bytes(), 3).unwrap()
    }

    #[test]
    fn attributes_come_back_as_they_were() {
        let object = archive().encode().unwrap();
        assert_eq!(ArchiveAttributes::decode(&object).unwrap(), archive());
    }

    #[test]
    fn every_flipped_or_missing_byte_is_found() {
        let object = archive().encode().unwrap();
        for at in 0..object.len() {
            let mut damaged = object.clone();
            damaged[at] ^= 0x10;
            let decoded = ArchiveAttributes::decode(&damaged);
            assert!(decoded.is_err() || decoded == Ok(archive()), "byte {at}");
            assert!(ArchiveAttributes::decode(&object[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn rows_that_mean_nothing_and_objects_without_end_are_refused() {
        for text in [
            r#"{"version":2,"owners":[],"home":null,"database":null,"folders":[],"files":[]}"#,
            r#"{"version":1,"owners":[],"home":[1,0,0,0],"database":null,"folders":[],"files":[]}"#,
            r#"{"version":1,"owners":[[0,0]],"home":[1,0,0,1000000000],"database":null,"folders":[],"files":[]}"#,
            r#"{"version":1,"owners":[[0,4294967295]],"home":[1,0,0,0],"database":null,"folders":[],"files":[]}"#,
            r#"{"version":1}"#,
        ] {
            assert!(ArchiveAttributes::decode(&framed(text)).is_err(), "{text}");
        }
        let long = framed(&" ".repeat(100_000));
        assert_eq!(unfold(&long, 100_000).unwrap().len(), 100_000);
        let error = unfold(&long, 99_999).unwrap_err();
        assert!(error.to_string().contains("more than any archive"), "{error}");
    }
}
