//! `config.toml` of a repository. Input: the file.

use packvault::format::{RepoConfig, SUPPORTED_READER_LEVEL};

/// Reads a repository's configuration.
pub fn run(data: &[u8]) {
    let Ok(config) = RepoConfig::parse(data, SUPPORTED_READER_LEVEL) else { return };
    let written = config.encode();
    let again = RepoConfig::parse(&written, SUPPORTED_READER_LEVEL).expect("it was just written");
    assert_eq!(again, config);
    assert!(again.encode() == written);
}
