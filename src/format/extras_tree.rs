//! The extras tree: the files beside database and attachments, a JSON blob.
//!
//! ```text
//! {"entries": [{"path", "mode", "size", "blob"}, ...]}     indented by two spaces, ascending by path bytes
//! ```
//!
//! Paths are checked by `paths`, at capture, verify and restore alike; this codec passes on what it finds.
//! Reading is lenient (unknown keys, `null` for the array, higher mode bits) but refuses anything after the
//! value.

use serde::Deserialize;

use super::error::{FormatError, Result};
use super::go_json::{JsonWriter, indent};
use super::ids::BlobId;

/// Permission bits; everything else is dropped.
const MODE_MASK: u32 = 0o777;
/// What a file without permission bits is restored with.
const MODE_DEFAULT: u32 = 0o600;

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtrasEntry {
    /// Where it lies below the archive's home, slash-separated.
    pub path: String,
    /// Its mode as recorded.
    pub mode: u32,
    /// Its raw bytes.
    pub size: u64,
    /// Its content.
    pub blob: BlobId,
}

impl ExtrasEntry {
    /// Returns the permission bits to restore the file with.
    pub fn restored_mode(&self) -> u32 {
        match self.mode & MODE_MASK {
            0 => MODE_DEFAULT,
            mode => mode,
        }
    }
}

/// Returns the tree blob of the entries, in whatever order they come.
pub fn encode(entries: &[ExtrasEntry]) -> Vec<u8> {
    let mut sorted: Vec<&ExtrasEntry> = entries.iter().collect();
    sorted.sort_by(|left, right| left.path.cmp(&right.path));
    let mut json = JsonWriter::new();
    json.begin_object();
    json.key("entries");
    json.begin_array();
    for entry in sorted {
        write_entry(&mut json, entry);
    }
    json.end_array();
    json.end_object();
    indent(&json.finish()).into_bytes()
}

fn write_entry(json: &mut JsonWriter, entry: &ExtrasEntry) {
    json.begin_object();
    json.key("path");
    json.string(&entry.path);
    json.key("mode");
    json.integer(entry.mode & MODE_MASK);
    json.key("size");
    json.integer(entry.size);
    json.key("blob");
    json.string(&entry.blob.to_string());
    json.end_object();
}

/// Reads a tree blob; entries keep their order.
pub fn decode(blob: &[u8]) -> Result<Vec<ExtrasEntry>> {
    let tree: RawTree = serde_json::from_slice(blob)
        .map_err(|error| FormatError::corrupt(format!("extras tree is not the JSON expected: {error}")))?;
    tree.entries.unwrap_or_default().into_iter().map(RawEntry::check).collect()
}

#[derive(Deserialize)]
struct RawTree {
    #[serde(default)]
    entries: Option<Vec<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct RawEntry {
    path: String,
    mode: u32,
    size: i64,
    blob: String,
}

impl RawEntry {
    fn check(self) -> Result<ExtrasEntry> {
        let size = u64::try_from(self.size)
            .map_err(|_| FormatError::corrupt(format!("extras file {:?} has a negative size", self.path)))?;
        let blob = BlobId::parse(&self.blob)
            .map_err(|error| error.within(format_args!("extras file {:?}", self.path)))?;
        Ok(ExtrasEntry { path: self.path, mode: self.mode, size, blob })
    }
}
