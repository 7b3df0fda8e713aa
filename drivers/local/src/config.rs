//! Where a local repository lies.

use std::path::PathBuf;

/// What [`crate::LocalStorage::open`] needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalConfig {
    /// The folder that holds the repository. It may be a symbolic link; nothing below it may.
    pub root: PathBuf,
}

impl LocalConfig {
    /// Makes the configuration of the folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }
}
