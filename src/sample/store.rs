//! Where a sample's attachment bytes lie: loose files named by their hash, the same compressed, or packs.
//!
//! Only contents at their canonical path (`<first two digits>/<hash>`) are compressed or packed; rows name
//! that path wherever the bytes are. Contents under [`NAMESPACE`] are always plain files.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::fail::OrFail;
use super::loose;
use super::packs::{BLOB_BYTES_MAX, Packs};
use super::random::Random;
use super::{AttachmentStorage, SampleOptions};
use crate::error::Result;
use crate::format::frame::Compressor;
use crate::format::ids::BlobId;

/// Folder of contents that are not at their canonical path.
pub(super) const NAMESPACE: &str = "synctech-sms/";

/// zstd level of compressed and packed contents.
const LEVEL: i32 = 3;

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

impl Stored {
    fn new(id: BlobId, size: u64, prefix: &str) -> Self {
        let hash = id.to_string();
        let path = format!("{prefix}{}/{hash}", &hash[..2]);
        Self { hash, path, size }
    }
}

/// Puts contents into an archive and removes them.
#[derive(Debug)]
pub(super) struct Store<'a> {
    root: PathBuf,
    database: &'a Connection,
    storage: AttachmentStorage,
    compressor: Compressor,
    frame: Vec<u8>,
    packs: Packs,
}

impl<'a> Store<'a> {
    /// Opens the attachments of the archive in `dir`, for its change of that number.
    pub(super) fn open(
        dir: &Path,
        database: &'a Connection,
        options: &SampleOptions,
        generation: u32,
    ) -> Result<Self> {
        let root = dir.join("attachments");
        fs::create_dir_all(&root).or_fail_at("create", &root)?;
        let random = Random::new(options.seed, &format!("packs {generation}"));
        let packs = Packs::open(&root, database, random)?;
        let compressor = Compressor::new(LEVEL).or_fail("prepare to compress")?;
        Ok(Self { root, database, storage: options.storage, compressor, frame: Vec::new(), packs })
    }

    /// Puts a content under `prefix` (empty, or [`NAMESPACE`]); one that is there already is left alone.
    pub(super) fn put(&mut self, bytes: &[u8], prefix: &str) -> Result<Stored> {
        let (id, size) = (BlobId::of(bytes), bytes.len() as u64);
        let stored = Stored::new(id, size, prefix);
        let path = self.root.join(&stored.path);
        let storage = if prefix.is_empty() { self.storage } else { AttachmentStorage::Loose };
        match storage {
            AttachmentStorage::Packs if size <= BLOB_BYTES_MAX => self.pack(id, bytes)?,
            AttachmentStorage::CompressedLoose if self.compress(bytes)? => {
                loose::write_compressed(&loose::compressed_path(&path), size, &self.frame)?;
            }
            _ => loose::write(&path, bytes)?,
        }
        Ok(stored)
    }

    /// Puts a content of exactly `size` bytes while it is made, at its canonical path.
    pub(super) fn put_stream(
        &mut self,
        content: &mut dyn Read,
        size: u64,
        compressible: bool,
    ) -> Result<Stored> {
        if self.storage == AttachmentStorage::Packs && size <= BLOB_BYTES_MAX {
            let mut bytes = Vec::with_capacity(size as usize);
            content.read_to_end(&mut bytes).or_fail("make a content")?;
            return self.put(&bytes, "");
        }
        let compress = compressible && self.storage == AttachmentStorage::CompressedLoose;
        let incoming = self.root.join("incoming.part");
        let written = match compress {
            true => loose::stream_compressed(content, size, LEVEL, &incoming),
            false => loose::stream(content, &incoming),
        };
        let stored = Stored::new(written.or_fail_at("write", &incoming)?, size, "");
        let path = self.root.join(&stored.path);
        let path = if compress { loose::compressed_path(&path) } else { path };
        loose::publish(&incoming, &path)?;
        Ok(stored)
    }

    /// Removes the content a row pointed at, wherever it is.
    pub(super) fn remove(&mut self, storage_path: &str) -> Result<()> {
        let is_canonical = !storage_path.starts_with(NAMESPACE);
        let hash = storage_path.rsplit('/').next().unwrap_or_default();
        if is_canonical && self.packs.remove(self.database, hash)? {
            return Ok(());
        }
        let path = self.root.join(storage_path);
        for file in [loose::compressed_path(&path), path.clone()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).or_fail_at("remove", &file)?
                }
                _ => {}
            }
        }
        // Fails while other contents are in the folder, as it should.
        let _ = path.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Completes what was put: seals the open pack.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.packs.seal(self.database)
    }

    fn pack(&mut self, id: BlobId, bytes: &[u8]) -> Result<()> {
        if self.packs.contains(id) {
            return Ok(());
        }
        let compressed = self.compress(bytes)?;
        let stored = if compressed { &self.frame } else { bytes };
        self.packs.add(self.database, id, bytes.len() as u64, stored, compressed)
    }

    /// Compresses into the frame buffer; returns whether that is worth keeping.
    fn compress(&mut self, bytes: &[u8]) -> Result<bool> {
        self.compressor.encode(bytes, &mut self.frame).or_fail("compress a content")
    }
}
