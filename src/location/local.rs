//! Opening a folder on this machine.

use std::path::Path;

use packvault_local::{LocalConfig, LocalStorage};
use packvault_storage as storage;

use crate::error::{Error, ErrorKind, Result};

/// Opens the folder, which must exist; with `create` a missing one is made.
pub(super) async fn open(path: &Path, create: bool) -> Result<LocalStorage> {
    let config = LocalConfig::new(path);
    let opened =
        if create { LocalStorage::create_root(config).await } else { LocalStorage::open(config).await };
    opened.map_err(|error| {
        let (kind, message) = match error.kind() {
            storage::ErrorKind::NotFound => (ErrorKind::NoRepository, "no repository at"),
            storage::ErrorKind::Unsafe => (ErrorKind::Refused, "no repository can lie at"),
            storage::ErrorKind::Denied => (ErrorKind::NotPermitted, "cannot open the repository at"),
            _ => (ErrorKind::Io, "cannot open the repository at"),
        };
        Error::caused(kind, format!("{message} {}", path.display()), error)
    })
}
