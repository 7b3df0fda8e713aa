//! What servers were found to promise, remembered on this machine.
//!
//! One small file per location, in the cache: safe to delete, since a server that is not remembered is
//! asked again. It never lies in the repository, for a copy of that may lie on another server. A memory
//! counts for [`AGE_MAX`]; servers are upgraded. One that cannot be read or written is no error.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::plain_file;

/// How long a memory counts.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The longest file that is read; ours have a few hundred bytes.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Raised when a driver's features change their meaning.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Memory<F> {
    version: u32,
    location: String,
    probed_at: String,
    features: F,
}

fn file(folder: &Path, location: &str) -> PathBuf {
    let digest = Sha256::digest(location.as_bytes());
    folder.join(format!("{}.json", hex::encode(&digest[..16])))
}

/// Returns what the server of the location was found to promise, if that is known and not too old.
pub(super) fn recall<F: DeserializeOwned>(folder: Option<&Path>, location: &impl fmt::Display) -> Option<F> {
    let location = location.to_string();
    let path = file(folder?, &location);
    let memory: Memory<F> = serde_json::from_slice(&plain_file::read(&path, FILE_BYTES_MAX).ok()?).ok()?;
    let age = Timestamp::now().duration_since(memory.probed_at.parse().ok()?);
    let is_young = !age.is_negative() && age.unsigned_abs() <= AGE_MAX;
    let is_usable = memory.version == VERSION && memory.location == location && is_young;
    tracing::debug!(
        target: "packvault::storage",
        probed_at = memory.probed_at,
        is_usable,
        "what the server promises is remembered"
    );
    is_usable.then_some(memory.features)
}

/// Remembers what was found just now.
pub(super) fn remember<F: Serialize>(folder: Option<&Path>, location: &impl fmt::Display, features: &F) {
    let Some(folder) = folder else { return };
    let location = location.to_string();
    let path = file(folder, &location);
    let memory = Memory { version: VERSION, location, probed_at: Timestamp::now().to_string(), features };
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut written = tempfile::NamedTempFile::new_in(folder)?;
        written.write_all(&serde_json::to_vec(&memory)?)?;
        written.persist(&path)?;
        Ok(())
    };
    // A cache that cannot be written costs a probe the next time, and nothing else.
    let _ = write();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_recalled_for_its_location_alone() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Some(folder.path());
        assert_eq!(recall::<Vec<bool>>(memory, &"s3://a"), None);
        remember(memory, &"s3://a", &vec![true, false]);
        assert_eq!(recall::<Vec<bool>>(memory, &"s3://a"), Some(vec![true, false]));
        assert_eq!(recall::<Vec<bool>>(memory, &"s3://b"), None);
        assert_eq!(recall::<Vec<bool>>(None, &"s3://a"), None);
    }

    #[test]
    fn a_memory_that_is_old_damaged_or_foreign_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let memory = Some(folder.path());
        let path = file(folder.path(), "s3://a");
        let written = |location: &str, at: &str, version: u32| {
            format!(r#"{{"version":{version},"location":"{location}","probed_at":"{at}","features":[true]}}"#)
        };
        let now = Timestamp::now().to_string();
        for (text, counts) in [
            (written("s3://a", &now, VERSION), true),
            (written("s3://a", "2001-01-01T00:00:00Z", VERSION), false),
            (written("s3://a", "2999-01-01T00:00:00Z", VERSION), false),
            (written("s3://b", &now, VERSION), false),
            (written("s3://a", &now, VERSION + 1), false),
            ("{".to_owned(), false),
            (" ".repeat(70_000), false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(recall::<Vec<bool>>(memory, &"s3://a").is_some(), counts);
        }
    }
}
