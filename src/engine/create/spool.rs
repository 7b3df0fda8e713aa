//! Content too large for memory on its way into a pack: hashed, compressed and sealed piece by piece into a file
//! without a name.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::sink::{EncodedBlob, Payload};
use crate::archive::content::Content;
use crate::archive::unnamed::unnamed_file;
use crate::engine::pipeline::Worker;
use crate::error::lift::format_error;
use crate::format::{BlobFlags, BlobId, Crc32c, FormatError, Hasher, StreamCompressor, saves_enough};
use crate::repo::{FrameSealer, Sealing};
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

/// Compresses content of a known hash into the spool, and seals it; if compressing saves too little, spools it raw, for
/// which it is read again. `check` is told what each reading hashed to.
pub fn encode(
    worker: &Worker,
    (sealing, id): (&Sealing, BlobId),
    mut content: Content,
    reopen: impl Fn() -> Result<Content>,
    check: impl Fn(&Content, BlobId) -> Result<()>,
) -> Result<EncodedBlob> {
    let raw_bytes = content.raw_bytes();
    let mut spool = Spool::new(worker, raw_bytes, sealing.frame_sealer(&id)?)?;
    let compress = |error: FormatError| format_error("cannot compress a file", error);
    let mut compressor = StreamCompressor::new(worker.zstd_level, raw_bytes).map_err(compress)?;
    let found = each_hashed(&mut content, |piece| {
        compressor.feed(piece, &mut |frame| spool.accept(frame)).map_err(compress)
    })?;
    check(&content, found)?;
    expect(&content, found, id)?;
    compressor.finish(&mut |frame| spool.accept(frame)).map_err(compress)?;
    if saves_enough(raw_bytes, spool.frame_bytes) {
        return spool.finish(id, sealing.flags(BlobFlags::COMPRESSED));
    }
    // By another sealer: what has sealed one frame must never seal another.
    spool.restart(sealing.frame_sealer(&id)?)?;
    let mut again = reopen()?;
    let found = each_hashed(&mut again, |piece| spool.accept(piece).map_err(compress))?;
    // It may have changed between the two readings.
    check(&again, found)?;
    expect(&again, found, id)?;
    spool.finish(id, sealing.flags(BlobFlags::RAW))
}

/// Refuses content that is not what the frame was sealed as.
fn expect(content: &Content, found: BlobId, id: BlobId) -> Result<()> {
    if found == id {
        return Ok(());
    }
    let message = format!("{} changed while it was read", content.path().display());
    Err(Error::new(ErrorKind::Source, message))
}

/// Hands every byte over, checks that nothing changed meanwhile, and returns the hash.
fn each_hashed(content: &mut Content, mut accept: impl FnMut(&[u8]) -> Result<()>) -> Result<BlobId> {
    let mut hasher = Hasher::new();
    each_piece(content, |piece| {
        hasher.update(piece);
        accept(piece)
    })?;
    Ok(hasher.finish())
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
    sealer: FrameSealer,
    /// Bytes of the frame, before it is sealed.
    frame_bytes: u64,
    stored: Stored,
}

/// What has been written. A failed write is kept until the end: the codec's sink knows no such error.
struct Stored {
    bytes: u64,
    crc32c: Crc32c,
    failure: Option<std::io::Error>,
}

impl Stored {
    fn nothing() -> Self {
        Self { bytes: 0, crc32c: Crc32c::new(), failure: None }
    }

    fn write(&mut self, mut file: &File, stored: &[u8]) {
        self.bytes += stored.len() as u64;
        self.crc32c.update(stored);
        if self.failure.is_none() {
            self.failure = file.write_all(stored).err();
        }
    }
}

impl Spool {
    fn new(worker: &Worker, raw_bytes: u64, sealer: FrameSealer) -> Result<Self> {
        let (file, folder) = (unnamed_file(&worker.spool)?, worker.spool.clone());
        let mut stored = Stored::nothing();
        stored.write(&file, sealer.head());
        Ok(Self { file, folder, raw_bytes, sealer, frame_bytes: 0, stored })
    }

    /// Takes bytes of the frame.
    fn accept(&mut self, frame: &[u8]) -> std::result::Result<(), FormatError> {
        self.frame_bytes += frame.len() as u64;
        self.stored.write(&self.file, self.sealer.seal(frame));
        Ok(())
    }

    fn restart(&mut self, sealer: FrameSealer) -> Result<()> {
        self.check()?;
        let restarted = self.file.set_len(0).and_then(|()| self.file.rewind());
        restarted.map_err(|error| self.failed(error))?;
        (self.sealer, self.frame_bytes, self.stored) = (sealer, 0, Stored::nothing());
        self.stored.write(&self.file, self.sealer.head());
        Ok(())
    }

    fn finish(mut self, id: BlobId, flags: BlobFlags) -> Result<EncodedBlob> {
        let end = self.sealer.end();
        self.stored.write(&self.file, &end);
        self.check()?;
        self.file.seek(SeekFrom::Start(0)).map_err(|error| self.failed(error))?;
        let (stored_bytes, crc32c) = (self.stored.bytes, self.stored.crc32c.finish());
        let payload = Payload::Spooled { file: self.file, stored_bytes, flags, crc32c };
        Ok(EncodedBlob { id, raw_bytes: self.raw_bytes, payload })
    }

    fn check(&mut self) -> Result<()> {
        self.stored.failure.take().map_or(Ok(()), |error| Err(self.failed(error)))
    }

    fn failed(&self, error: std::io::Error) -> Error {
        let (folder, bytes) = (self.folder.display(), self.raw_bytes);
        let message = format!("cannot spool a file of {bytes} bytes in {folder}");
        Error::caused(ErrorKind::Io, message, error)
    }
}
