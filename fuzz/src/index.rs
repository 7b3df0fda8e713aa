//! Index files. Input: the file without its hash.

use packvault::format::index;

use super::objects::sealed;

/// Reads an index.
pub fn run(data: &[u8]) {
    let file = sealed(data);
    let Ok(entries) = index::decode(&file) else { return };
    assert!(entries.is_sorted_by(|left, right| left.id < right.id));
    assert!(index::encode(&entries) == file, "what was read is written the same");
}
