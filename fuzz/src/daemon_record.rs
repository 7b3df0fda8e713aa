//! The records by which msgvault's daemon is found. Input: the record.

use std::sync::LazyLock;

use packvault::profiles::msgvault::config::Secret;
use packvault::profiles::msgvault::daemon::record::{Candidate, read_all};
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(super::scratch::folder);

/// Reads the record of process 7.
pub fn run(data: &[u8]) {
    std::fs::write(FOLDER.path().join("daemon.7.json"), data).expect("the scratch folder can be written");
    let candidates = read_all(FOLDER.path()).expect("a record that cannot be read is a candidate");
    assert!(candidates.len() <= 1);
    for candidate in candidates {
        assert_eq!(candidate.pid(), 7);
        let shown = format!("{candidate:?}");
        if let Candidate::Read(record) = &candidate {
            assert!(record.address.port() != 0 && !record.address.ip().is_unspecified());
            let token = record.shutdown_token.as_ref().map(Secret::expose);
            let is_elsewhere = |token: &str| record.api_version.contains(token);
            let telling = token.filter(|token| token.len() > 40 && !is_elsewhere(token));
            assert!(telling.is_none_or(|token| !shown.contains(token)));
        }
    }
}
