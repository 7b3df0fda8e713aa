//! The extras tree: the files beside database and attachments, a JSON blob.
//!
//! ```text
//! {"entries": [{"path", "mode", "size", "blob"}, ...]}     indented by two spaces, ascending by path bytes
//! ```
//!
//! Paths are checked by `paths`, at capture, verify and restore alike; this codec passes on what it finds.
//! Reading is lenient (unknown keys, `null` for the array, higher mode bits) but refuses anything after the
//! value, and keys that come twice.

use super::error::{FormatError, Result};
use super::go_json::{JsonWriter, indent};
use super::ids::BlobId;
use super::json_fields::Fields;

/// Permission bits; everything else is dropped.
const MODE_MASK: u32 = 0o777;
/// The most files of a tree; as many entries as short as can be fill the largest blob that is read as a tree.
const ENTRIES_MAX: usize = 4 << 20;
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
    let mut fields = Fields::parse_bytes(blob).map_err(|error| error.within("extras tree"))?;
    let entries = fields.objects::<ENTRIES_MAX>("entries").map_err(|error| error.within("extras tree"))?;
    entries.map(|fields| decode_entry(fields.map_err(|error| error.within("extras tree"))?)).collect()
}

fn decode_entry(mut fields: Fields<'_>) -> Result<ExtrasEntry> {
    let path: String = fields.lenient("path")?;
    let name_file = |error: FormatError| error.within(format_args!("extras file {path:?}"));
    let mode = fields.lenient("mode").map_err(name_file)?;
    let size: i64 = fields.lenient("size").map_err(name_file)?;
    let size = u64::try_from(size).map_err(|_| name_file(FormatError::corrupt("has a negative size")))?;
    let blob: String = fields.lenient("blob").map_err(name_file)?;
    let blob = BlobId::parse(&blob).map_err(name_file)?;
    Ok(ExtrasEntry { path, mode, size, blob })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BLOB: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn entry(path: &str, mode: u32) -> ExtrasEntry {
        ExtrasEntry { path: path.to_owned(), mode, size: 5, blob: BlobId::of(b"hello") }
    }

    #[test]
    fn a_tree_is_written_sorted_and_without_higher_mode_bits() {
        let text = String::from_utf8(encode(&[entry("b<", 0o104755), entry("a", 0o600)])).unwrap();
        let expected = format!(
            "{{\n  \"entries\": [\n    {{\n      \"path\": \"a\",\n      \"mode\": 384,\n      \"size\": 5,\n      \
             \"blob\": \"{BLOB}\"\n    }},\n    {{\n      \"path\": \"b\\u003c\",\n      \"mode\": 493,\n      \
             \"size\": 5,\n      \"blob\": \"{BLOB}\"\n    }}\n  ]\n}}"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn reading_tolerates_what_newer_writers_might_add() {
        assert_eq!(decode(br#"{"entries":null,"more":[1]}"#).unwrap(), []);
        assert_eq!(decode(b"{}").unwrap(), []);
        let text = format!(
            r#" {{"entries":[{{"blob":"{}","size":5,"x":{{}},"mode":33261,"path":"a"}}]}} "#,
            BLOB.to_uppercase()
        );
        let decoded = decode(text.as_bytes()).unwrap();
        assert_eq!(decoded, [entry("a", 0o100755)]);
        assert_eq!(decoded[0].restored_mode(), 0o755);
        assert_eq!(entry("a", 0o100000).restored_mode(), 0o600);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        let with =
            |field: &str| format!(r#"{{"entries":[{{"path":"a","blob":"{BLOB}",{field}}}]}}"#).into_bytes();
        assert!(decode(&with(r#""mode":0"#)).is_ok());
        for bad in [
            with(r#""mode":-1"#),
            with(r#""size":-1"#),
            with(r#""size":1.0"#),
            with(r#""size":"1""#),
            with(r#""path":"b""#),
            b"{} {}".to_vec(),
            b"{}x".to_vec(),
            b"\xef\xbb\xbf{}".to_vec(),
            b"[]".to_vec(),
            b"".to_vec(),
            b"{\"entries\":[{\"path\":\"\xff\"}]}".to_vec(),
            br#"{"entries":[{"path":"a","blob":""}]}"#.to_vec(),
            b"[".repeat(100_000),
        ] {
            assert!(decode(&bad).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
    }

    proptest! {
        #[test]
        fn every_tree_reads_back(
            files in proptest::collection::btree_map(any::<String>(), (0u32..0o1000, 0u64..1 << 63), 0..10)
        ) {
            let entries: Vec<_> = files
                .into_iter()
                .map(|(path, (mode, size))| ExtrasEntry { path, mode, size, blob: BlobId::of(b"") })
                .collect();
            prop_assert_eq!(decode(&encode(&entries)).unwrap(), entries);
        }
    }
}
