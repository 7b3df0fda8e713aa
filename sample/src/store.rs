//! Where a sample's attachment bytes lie: loose files named by their hash, the same compressed, or packs.
//!
//! Only contents at their canonical path (`<first two digits>/<hash>`) are compressed or packed; rows name
//! that path wherever the bytes are. Contents under [`NAMESPACE`] are always plain files.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use zstd::bulk::Compressor;

use crate::fail::{OrFail, Result};
use crate::hash::ContentHash;
use crate::loose;
use crate::packs::{BLOB_BYTES_MAX, Packs};
use crate::random::Random;
use crate::{AttachmentStorage, SampleOptions};

/// Folder of contents that are not at their canonical path.
pub(crate) const NAMESPACE: &str = "synctech-sms/";

/// zstd level of compressed and packed contents.
const LEVEL: i32 = 3;

/// Shorter contents are not compressed.
const COMPRESSED_BYTES_MIN: usize = 1024;

/// What a frame must save to be kept, in percent of the content.
const SAVED_PERCENT_MIN: usize = 3;

/// A content that is in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Lower-case hexadecimal SHA-256.
    pub(crate) hash: String,
    /// What a row calls `storage_path`.
    pub(crate) path: String,
    /// Bytes of the content.
    pub(crate) size: u64,
}

impl Stored {
    fn new(hash: ContentHash, size: u64, prefix: &str) -> Self {
        let hash = hash.to_string();
        let path = format!("{prefix}{}/{hash}", &hash[..2]);
        Self { hash, path, size }
    }
}

/// Puts contents into an archive and removes them.
pub(crate) struct Store<'a> {
    root: PathBuf,
    database: &'a Connection,
    storage: AttachmentStorage,
    compressor: Compressor<'static>,
    frame: Vec<u8>,
    packs: Packs,
}

impl<'a> Store<'a> {
    /// Opens the attachments of the archive in `dir`, for its change of that number.
    pub(crate) fn open(
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
    pub(crate) fn put(&mut self, bytes: &[u8], prefix: &str) -> Result<Stored> {
        let (hash, size) = (ContentHash::of(bytes), bytes.len() as u64);
        let stored = Stored::new(hash, size, prefix);
        let path = self.root.join(&stored.path);
        let storage = if prefix.is_empty() { self.storage } else { AttachmentStorage::Loose };
        match storage {
            AttachmentStorage::Packs if size <= BLOB_BYTES_MAX => self.pack(hash, bytes)?,
            AttachmentStorage::CompressedLoose if self.compress(bytes)? => {
                loose::write_compressed(&loose::compressed_path(&path), size, &self.frame)?;
            }
            _ => loose::write(&path, bytes)?,
        }
        Ok(stored)
    }

    /// Puts a content of exactly `size` bytes while it is made, at its canonical path.
    pub(crate) fn put_stream(
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
    pub(crate) fn remove(&mut self, storage_path: &str) -> Result<()> {
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
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.packs.seal(self.database)
    }

    fn pack(&mut self, hash: ContentHash, bytes: &[u8]) -> Result<()> {
        if self.packs.contains(hash) {
            return Ok(());
        }
        let compressed = self.compress(bytes)?;
        let stored = if compressed { &self.frame } else { bytes };
        self.packs.add(self.database, hash, bytes.len() as u64, stored, compressed)
    }

    /// Compresses into the frame buffer; returns whether that is worth keeping.
    fn compress(&mut self, bytes: &[u8]) -> Result<bool> {
        if bytes.len() < COMPRESSED_BYTES_MIN {
            return Ok(false);
        }
        self.frame.clear();
        self.frame.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        self.compressor.compress_to_buffer(bytes, &mut self.frame).or_fail("compress a content")?;
        Ok(self.frame.len() + bytes.len() * SAVED_PERCENT_MIN / 100 < bytes.len())
    }
}
