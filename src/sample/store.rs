//! Where a sample's attachment bytes lie: loose files named by their hash, in `attachments/`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use sha2::{Digest, Sha256};

use super::AttachmentStorage;
use super::fail::OrFail;
use crate::error::Result;

/// Folder of contents that are not at their canonical path.
pub(super) const NAMESPACE: &str = "synctech-sms/";

/// Bytes moved at a time.
const COPY_CHUNK_BYTES: usize = 1 << 18;

/// A content that is in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Lower-case hexadecimal SHA-256.
    pub(super) hash: String,
    /// What a row calls `storage_path`.
    pub(super) path: String,
    /// Bytes of the content.
    pub(super) size: u64,
}

/// Puts contents into an archive and removes them.
#[derive(Debug)]
pub(super) struct Store {
    root: PathBuf,
    storage: AttachmentStorage,
}

impl Store {
    /// Opens the attachments of the archive in `dir`.
    pub(super) fn new(dir: &Path, storage: AttachmentStorage) -> Result<Self> {
        let root = dir.join("attachments");
        fs::create_dir_all(&root).or_fail_at("create", &root)?;
        Ok(Self { root, storage })
    }

    /// Puts a content under `prefix` (empty, or [`NAMESPACE`]); one that is there already is left alone.
    pub(super) fn put(&mut self, bytes: &[u8], prefix: &str) -> Result<Stored> {
        let stored = describe(&Sha256::digest(bytes), bytes.len() as u64, prefix);
        let path = self.root.join(&stored.path);
        if !path.exists() {
            create_parent(&path)?;
            fs::write(&path, bytes).or_fail_at("write", &path)?;
        }
        Ok(stored)
    }

    /// Puts a content while it is made.
    pub(super) fn put_stream(&mut self, content: &mut dyn Read) -> Result<Stored> {
        let incoming = self.root.join("incoming.part");
        let (hash, size) = copy_hashing(content, &incoming).or_fail_at("write", &incoming)?;
        let stored = describe(&hash, size, "");
        let path = self.root.join(&stored.path);
        create_parent(&path)?;
        fs::rename(&incoming, &path).or_fail_at("write", &path)?;
        Ok(stored)
    }

    /// Removes the content a row pointed at, and its folder where that is empty now.
    pub(super) fn remove(&mut self, _database: &Connection, storage_path: &str) -> Result<()> {
        let path = self.root.join(storage_path);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).or_fail_at("remove", &path);
            }
            _ => {}
        }
        // Fails while other contents are in the folder, as it should.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Completes what was put.
    pub(super) fn flush(&mut self, _database: &Connection) -> Result<()> {
        let _ = self.storage;
        Ok(())
    }
}

fn describe(hash: &[u8], size: u64, prefix: &str) -> Stored {
    let hash = hex::encode(hash);
    let path = format!("{prefix}{}/{hash}", &hash[..2]);
    Stored { hash, path, size }
}

fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).or_fail_at("create", parent),
        None => Ok(()),
    }
}

fn copy_hashing(content: &mut dyn Read, path: &Path) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::create(path)?;
    let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; COPY_CHUNK_BYTES]);
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            return Ok((hasher.finalize().to_vec(), size));
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count])?;
        size += count as u64;
    }
}
