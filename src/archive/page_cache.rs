//! The cache of page hashes beside an archive (section 9.3): saves a capture from reading them back.
//!
//! ```text
//! u32 length of the snapshot id | snapshot id | page-hash keyframe with its hash
//! ```
//!
//! A stale or forged cache would make a capture miss changed pages, so it is used only for the very
//! snapshot, of depth 0, whose manifest names the hash of exactly these bytes.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::format::{BlobId, Manifest, PageHashes};

/// Returns the cached hashes of the snapshot, or nothing if there is any doubt.
pub fn read(folder: &Path, repo_id: &str, snapshot: &Manifest) -> Option<PageHashes> {
    if snapshot.db.map_chain_depth != 0 {
        return None;
    }
    let expected_bytes = snapshot.db.page_count.checked_mul(16)?.checked_add(1024)?;
    let path = path(folder, repo_id);
    let metadata = std::fs::symlink_metadata(&path).ok()?;
    if !metadata.is_file() || metadata.len() > expected_bytes {
        return None;
    }
    let cached = std::fs::read(path).ok()?;
    let (length, rest) = cached.split_at_checked(4)?;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let (id, keyframe) = rest.split_at_checked(length)?;
    if id != snapshot.snapshot_id.as_bytes() || BlobId::of(keyframe) != snapshot.page_hash_map().ok()? {
        return None;
    }
    let hashes = PageHashes::decode(keyframe).ok()?;
    let fits = hashes.page_size == snapshot.db.page_size && hashes.page_count() == snapshot.db.page_count;
    fits.then_some(hashes)
}

/// Replaces the cache in one step; nothing depends on it being durable.
pub fn write(folder: &Path, repo_id: &str, snapshot_id: &str, keyframe: &[u8]) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder)?;
    let mut file =
        tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o600)).tempfile_in(folder)?;
    file.write_all(&(snapshot_id.len() as u32).to_le_bytes())?;
    file.write_all(snapshot_id.as_bytes())?;
    file.write_all(keyframe)?;
    file.persist(path(folder, repo_id))?;
    Ok(())
}

fn path(folder: &Path, repo_id: &str) -> PathBuf {
    folder.join(format!("{repo_id}.hashmap"))
}
