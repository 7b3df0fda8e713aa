//! `keys/`: the ways in to an encrypted repository, one age file each.
//!
//! Adding, changing and removing a way in touches its own file and nothing else; files are made create-only.
//! What a file wraps never changes: the one key of the repository. Which secrets open it is `secrets`'; how they
//! are tried, and at what cost, `open`'s; how a file is made, `wrap`'s; the order of durable steps, `change`'s.
//!
//! What lies in `keys/` was written by whoever can write there. Names, sizes and the cost of scrypt are bounded
//! before anything is believed, and a file that cannot be used stands in nobody's way.

mod change;
mod fingerprint;
mod open;
pub mod secrets;
mod wrap;

use std::time::SystemTime;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use packvault_storage::{ErrorKind as StorageErrorKind, Key, ListedObject, Prefix, Storage};

pub use self::change::{ChangedKeys, add, create_first};
pub use self::fingerprint::fingerprint;
pub use self::open::{Choice, Opened, open};
pub use self::secrets::{KeyIdentity, Passphrase, Secrets};
pub use self::wrap::{NewWay, Recipient, WORK_FACTOR, WORK_FACTOR_MAX, generate, new_key, wrap};
use super::key;
use crate::format::key_file::KEY_FILE_BYTES_MAX;
use crate::format::{FormatError, KeyHeader, KeyName};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// Key files of one repository that are looked at.
pub const KEY_FILES_MAX: usize = 1000;
/// Other names in `keys/` that are passed over; whoever has put more there means harm.
const OTHER_NAMES_MAX: usize = 10_000;
/// Key files read at once.
const READS_IN_FLIGHT: usize = 16;

/// A key file as it lies in the repository.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// Its name.
    pub name: KeyName,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
    /// By which kinds of key it opens, or why that cannot be told.
    pub header: std::result::Result<KeyHeader, FormatError>,
    bytes: Bytes,
}

impl KeyFile {
    /// Returns the kinds of key that open it, for people.
    pub fn kinds(&self) -> String {
        match &self.header {
            Ok(header) => header.kinds(),
            Err(_) => "unusable".to_owned(),
        }
    }
}

fn folder() -> Prefix {
    Prefix::folder("keys").expect("a plain word is a key")
}

fn file_key(name: &KeyName) -> Key {
    key(format!("keys/{}", name.file()))
}

/// Lists the key files and reads their headers, by name.
pub async fn list(storage: &dyn Storage) -> Result<Vec<KeyFile>> {
    let found = names(storage).await?;
    let reads = found.into_iter().map(|(name, object)| async move {
        let bytes = match read_bounded(storage, &object.key).await {
            // Somebody has just removed it.
            Err(error) if error.kind() == StorageErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| cannot_read(&name, error))?,
        };
        Ok(Some(file(name, object.meta.modified, bytes)))
    });
    let reads = stream::iter(reads).buffered(READS_IN_FLIGHT);
    reads.try_filter_map(|file| async move { Ok(file) }).try_collect().await
}

/// Reads the key file of this name.
pub async fn read(storage: &dyn Storage, name: &KeyName) -> Result<KeyFile> {
    let key = file_key(name);
    let missing = |error: packvault_storage::Error| match error.kind() {
        StorageErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("no key is called {name} in the repository"))
        }
        _ => cannot_read(name, error),
    };
    let modified = storage.stat(&key).await.map_err(missing)?.modified;
    let bytes = read_bounded(storage, &key).await.map_err(missing)?;
    Ok(file(name.clone(), modified, bytes))
}

/// Tells whether a passphrase may open the repository: asking for one makes sense.
pub async fn take_a_passphrase(storage: &dyn Storage, named: Option<&KeyName>) -> Result<bool> {
    let files = match named {
        Some(name) => vec![read(storage, name).await?],
        None => list(storage).await?,
    };
    Ok(files.iter().any(|file| file.header.as_ref().is_ok_and(|header| header.work_factor().is_some())))
}

async fn names(storage: &dyn Storage) -> Result<Vec<(KeyName, ListedObject)>> {
    let failed = |error| storage_error("cannot list the keys of the repository", error);
    let (mut found, mut others) = (Vec::new(), 0);
    let folder = folder();
    let mut listing = storage.list(&folder);
    while let Some(object) = listing.try_next().await.map_err(failed)? {
        let file_name = object.key.as_str().strip_prefix("keys/").unwrap_or_default();
        match KeyName::of_file(file_name) {
            Some(name) => found.push((name, object)),
            None => others += 1,
        }
        if found.len() > KEY_FILES_MAX || others > OTHER_NAMES_MAX {
            let message = format!(
                "more than {KEY_FILES_MAX} key files, or things that are none, lie in keys/: nobody has that \
                 many ways in"
            );
            return Err(Error::new(ErrorKind::Refused, message));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

async fn read_bounded(storage: &dyn Storage, key: &Key) -> packvault_storage::Result<Bytes> {
    storage.read_start(key, KEY_FILE_BYTES_MAX + 1).await
}

fn file(name: KeyName, modified: SystemTime, bytes: Bytes) -> KeyFile {
    let header = match bytes.len() as u64 > KEY_FILE_BYTES_MAX {
        true => Err(FormatError::corrupt("has more than 65,536 bytes")),
        false => KeyHeader::parse(&bytes),
    };
    KeyFile { name, modified, header, bytes }
}

fn cannot_read(name: &KeyName, error: packvault_storage::Error) -> Error {
    storage_error(format!("cannot read the key file {name}"), error)
}

#[cfg(test)]
mod tests;
