//! Lock files. Input: the file.

use packvault::format::LockRecord;

/// Reads a lock file.
pub fn run(data: &[u8]) {
    let Ok(record) = LockRecord::decode(data) else { return };
    let written = record.encode();
    assert_eq!(LockRecord::decode(&written).expect("it was just written"), record);
}
