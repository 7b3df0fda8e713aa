//! Content too large for memory on its way into a pack: hashed and compressed piece by piece into a file
//! without a name.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::sink::{EncodedBlob, Payload};
use crate::archive::content::Content;
use crate::engine::pipeline::Worker;
use crate::format::{BlobFlags, BlobId, Crc32c, FormatError, Hasher, StreamCompressor, saves_enough};
use crate::repo::indexes::format_error;
use crate::{Error, ErrorKind, Result};

/// Bytes that are read at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Returns the hash of the content, read to its end.
pub fn hash(content: &mut Content) -> Result<BlobId> {
    let mut hasher = Hasher::new();
    each_piece(content, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hasher.finish())
}

/// Compresses content into the spool while hashing it; if that saves too little, spools it raw, for which
/// it is read again. `check` is told what each reading hashed to.
pub fn encode(
    worker: &Worker,
    mut content: Content,
    reopen: impl Fn() -> Result<Content>,
    check: impl Fn(&Content, BlobId) -> Result<()>,
) -> Result<EncodedBlob> {
    let raw_bytes = content.raw_bytes();
    let mut spool = Spool::new(worker, raw_bytes)?;
    let compress = |error: FormatError| format_error("cannot compress a file", error);
    let mut compressor = StreamCompressor::new(worker.zstd_level, raw_bytes).map_err(compress)?;
    let mut hasher = Hasher::new();
    each_piece(&mut content, |piece| {
        hasher.update(piece);
        compressor.feed(piece, &mut |frame| spool.accept(frame)).map_err(compress)
    })?;
    let id = hasher.finish();
    check(&content, id)?;
    compressor.finish(&mut |frame| spool.accept(frame)).map_err(compress)?;
    if saves_enough(raw_bytes, spool.bytes) {
        return spool.finish(id, raw_bytes, BlobFlags::COMPRESSED);
    }
    spool.restart()?;
    let mut again = reopen()?;
    let mut hasher = Hasher::new();
    each_piece(&mut again, |piece| {
        hasher.update(piece);
        spool.accept(piece).map_err(compress)
    })?;
    // It may have changed between the two readings.
    check(&again, hasher.finish())?;
    spool.finish(id, raw_bytes, BlobFlags::RAW)
}

/// Hands every byte over, then checks that nothing changed meanwhile.
fn each_piece(content: &mut Content, mut accept: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let piece_bytes = content.raw_bytes().min(PIECE_BYTES as u64).max(1) as usize;
    let mut piece = vec![0; piece_bytes];
    loop {
        let count = content.read(&mut piece)?;
        if count == 0 {
            return content.finish();
        }
        accept(&piece[..count])?;
    }
}

/// A file without a name that takes the stored bytes of one blob.
struct Spool {
    file: File,
    folder: PathBuf,
    raw_bytes: u64,
    bytes: u64,
    crc32c: Crc32c,
    failure: Option<std::io::Error>,
}

impl Spool {
    fn new(worker: &Worker, raw_bytes: u64) -> Result<Self> {
        let file = std::fs::create_dir_all(&worker.spool).and_then(|()| tempfile::tempfile_in(&worker.spool));
        let file = file.map_err(|error| {
            let message = format!(
                "cannot make a spool file in {}; --spool names another folder",
                worker.spool.display()
            );
            Error::caused(ErrorKind::Io, message, error)
        })?;
        let folder = worker.spool.clone();
        Ok(Self { file, folder, raw_bytes, bytes: 0, crc32c: Crc32c::new(), failure: None })
    }

    /// Takes stored bytes. A failed write is kept until the end: the codec's sink knows no such error.
    fn accept(&mut self, stored: &[u8]) -> std::result::Result<(), FormatError> {
        self.bytes += stored.len() as u64;
        self.crc32c.update(stored);
        if self.failure.is_none() {
            self.failure = self.file.write_all(stored).err();
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        self.check()?;
        let restarted = self.file.set_len(0).and_then(|()| self.file.rewind());
        restarted.map_err(|error| self.failed(error))?;
        self.bytes = 0;
        self.crc32c = Crc32c::new();
        Ok(())
    }

    fn finish(mut self, id: BlobId, raw_bytes: u64, flags: BlobFlags) -> Result<EncodedBlob> {
        self.check()?;
        self.file.seek(SeekFrom::Start(0)).map_err(|error| self.failed(error))?;
        let (stored_bytes, crc32c) = (self.bytes, self.crc32c.finish());
        let payload = Payload::Spooled { file: self.file, stored_bytes, flags, crc32c };
        Ok(EncodedBlob { id, raw_bytes, payload })
    }

    fn check(&mut self) -> Result<()> {
        self.failure.take().map_or(Ok(()), |error| Err(self.failed(error)))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let (folder, bytes) = (self.folder.display(), self.raw_bytes);
        let message = format!("cannot spool a file of {bytes} bytes in {folder}");
        Error::caused(ErrorKind::Io, message, error)
    }
}
