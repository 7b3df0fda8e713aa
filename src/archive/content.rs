//! Reading one attachment of a live archive, whatever form it is kept in.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use rustix::fs::{Stat, fstat};

use super::beneath::unchanged;
use super::sighting::Sighting;
use crate::error::lift::{file_error, io_error};
use crate::format::BlobId;
use crate::{Error, ErrorKind, Result};

/// An attachment that the database refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentRef {
    /// The hash by which the database names it.
    pub id: BlobId,
    /// The size that the database records; a hint, sometimes wrong.
    pub recorded_bytes: Option<u64>,
    /// The path that the database records, below the content folder.
    pub path: String,
}

/// Where an attachment lies, and what is seen of it without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenContent {
    /// The place, in the words of its store.
    pub place: String,
    /// The file that it lies in.
    pub sighting: Sighting,
}

/// The attachments of a live archive.
pub trait ContentStore: std::fmt::Debug + Send + Sync {
    /// Opens the attachment where it lies now.
    fn open(&self, reference: &ContentRef) -> Result<Content>;

    /// Returns where the attachment would be read now, and what is seen there without reading it; nothing where only
    /// reading tells.
    fn look(&self, _reference: &ContentRef) -> Option<SeenContent> {
        None
    }

    /// Returns how much memory it keeps for finding attachments, at most, beside what the database told it.
    fn table_bytes_max(&self) -> u64 {
        0
    }
}

enum Source {
    File { file: File, opened: Box<Stat> },
    Memory { bytes: Vec<u8>, position: usize },
    Stream(Box<dyn Read + Send>),
}

/// An opened attachment: raw bytes in order, of a length known before.
pub struct Content {
    source: Source,
    path: PathBuf,
    raw_bytes: u64,
    bytes_read: u64,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("path", &self.path).field("raw_bytes", &self.raw_bytes).finish()
    }
}

impl Content {
    /// Makes content of an opened file, kept raw.
    pub fn from_file(file: File, opened: Stat, path: PathBuf) -> Self {
        let raw_bytes = opened.st_size as u64;
        Self { source: Source::File { file, opened: Box::new(opened) }, path, raw_bytes, bytes_read: 0 }
    }

    /// Makes content of bytes decoded already.
    pub fn from_memory(bytes: Vec<u8>, path: PathBuf) -> Self {
        let raw_bytes = bytes.len() as u64;
        Self { source: Source::Memory { bytes, position: 0 }, path, raw_bytes, bytes_read: 0 }
    }

    /// Makes content of a decoder that will give `raw_bytes` bytes.
    pub fn from_stream(stream: Box<dyn Read + Send>, raw_bytes: u64, path: PathBuf) -> Self {
        Self { source: Source::Stream(stream), path, raw_bytes, bytes_read: 0 }
    }

    /// Returns the length of the raw bytes.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Returns the path for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the buffer as far as there are bytes; less than its length only at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let count = match &mut self.source {
                Source::File { file, .. } => file.read(rest),
                Source::Stream(stream) => stream.read(rest),
                Source::Memory { bytes, position } => {
                    let count = rest.len().min(bytes.len() - *position);
                    rest[..count].copy_from_slice(&bytes[*position..*position + count]);
                    *position += count;
                    Ok(count)
                }
            };
            match count {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error("read the attachment", &self.path, error)),
            }
        }
        self.bytes_read += filled as u64;
        if self.bytes_read > self.raw_bytes {
            return Err(self.changed());
        }
        Ok(filled)
    }

    /// Checks, after the last byte, that all of it was read and that the file did not change meanwhile.
    pub fn finish(&mut self) -> Result<()> {
        let mut beyond = [0; 1];
        if self.bytes_read != self.raw_bytes || self.read(&mut beyond)? != 0 {
            return Err(self.changed());
        }
        let Source::File { file, opened } = &self.source else { return Ok(()) };
        let now = fstat(file).map_err(|errno| file_error("stat", &self.path, errno))?;
        if unchanged(opened, &now) { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> Error {
        let path = self.path.display();
        Error::new(ErrorKind::Source, format!("the attachment {path} changed while it was read"))
    }
}

/// The attachments of an application that keeps files under their own names, not under hashes: they travel as extra
/// files.
#[derive(Debug)]
pub struct NoContent;

impl ContentStore for NoContent {
    fn open(&self, reference: &ContentRef) -> Result<Content> {
        Err(Error::new(ErrorKind::Source, format!("the archive has no attachment {}", reference.id)))
    }
}
