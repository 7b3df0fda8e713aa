//! Contents as files of their own, plain or compressed.
//!
//! ```text
//! <hash>       the bytes
//! <hash>.zst   KPLZ | u8 version = 1 | 3 zero bytes | u64 bytes of the content | one zstd frame
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::fail::{OrFail, Result};
use crate::hash::ContentHash;

/// Bytes moved at a time.
const COPY_CHUNK_BYTES: usize = 1 << 18;

/// Returns where the compressed form of a content lies.
pub(crate) fn compressed_path(path: &Path) -> PathBuf {
    path.with_extension("zst")
}

/// Returns what precedes the frame of a compressed content.
pub(crate) fn compressed_header(size: u64) -> [u8; 16] {
    let mut header = *b"KPLZ\x01\0\0\0\0\0\0\0\0\0\0\0";
    header[8..].copy_from_slice(&size.to_le_bytes());
    header
}

/// Writes a content, unless it is there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    create_parent(path)?;
    fs::write(path, bytes).or_fail_at("write", path)
}

/// Writes a compressed content, unless it is there.
pub(crate) fn write_compressed(path: &Path, size: u64, frame: &[u8]) -> Result<()> {
    write(path, &[&compressed_header(size), frame].concat())
}

/// Writes all that `content` gives and returns its name.
pub(crate) fn stream(content: &mut dyn Read, path: &Path) -> io::Result<ContentHash> {
    copy(content, &mut File::create(path)?)
}

/// Writes the compressed form of all that `content` gives, `size` bytes, and returns its name.
pub(crate) fn stream_compressed(
    content: &mut dyn Read,
    size: u64,
    level: i32,
    path: &Path,
) -> io::Result<ContentHash> {
    let mut file = File::create(path)?;
    file.write_all(&compressed_header(size))?;
    let mut encoder = zstd::stream::Encoder::new(file, level)?;
    encoder.set_pledged_src_size(Some(size))?;
    let hash = copy(content, &mut encoder)?;
    encoder.finish()?;
    Ok(hash)
}

/// Moves a finished file to its place.
pub(crate) fn publish(incoming: &Path, path: &Path) -> Result<()> {
    create_parent(path)?;
    fs::rename(incoming, path).or_fail_at("write", path)
}

fn create_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).or_fail_at("create", parent),
        None => Ok(()),
    }
}

fn copy(content: &mut dyn Read, sink: &mut dyn Write) -> io::Result<ContentHash> {
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; COPY_CHUNK_BYTES]);
    loop {
        let count = content.read(&mut buffer)?;
        if count == 0 {
            return Ok(ContentHash::finish(hasher));
        }
        hasher.update(&buffer[..count]);
        sink.write_all(&buffer[..count])?;
    }
}
