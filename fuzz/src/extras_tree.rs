//! Extras trees. Input: the blob.

use packvault::format::extras_tree::{self, ExtrasEntry};

/// Reads a tree.
pub fn run(data: &[u8]) {
    let Ok(mut entries) = extras_tree::decode(data) else { return };
    assert!(entries.iter().all(|entry| (1..=0o777).contains(&entry.restored_mode())));
    let written = extras_tree::encode(&entries);
    // Writing sorts, and drops what is no permission.
    entries.sort_by(|left, right| left.path.cmp(&right.path));
    let expected: Vec<_> =
        entries.into_iter().map(|entry| ExtrasEntry { mode: entry.mode & 0o777, ..entry }).collect();
    assert_eq!(extras_tree::decode(&written).expect("it was just written"), expected);
    assert!(extras_tree::encode(&expected) == written);
}
