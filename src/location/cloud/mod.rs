//! A container of Azure Blob Storage or Google Cloud Storage: the location, what is settled about it, and its driver.
//!
//! A build without the feature `opendal` knows these locations and refuses them by name.

#[cfg(not(feature = "opendal"))]
mod absent;
#[cfg(feature = "opendal")]
mod opened;
pub(super) mod url;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

pub use url::{Cloud, CloudLocation};

/// What is settled about these stores besides the location.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CloudOptions {
    /// The environment variables in which accounts and keys are sought.
    pub variables: HashMap<String, String>,
    /// The home folder, in which Google's own tools keep credentials.
    pub home: Option<PathBuf>,
}

impl fmt::Debug for CloudOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CloudOptions").field("home", &self.home).finish_non_exhaustive()
    }
}
