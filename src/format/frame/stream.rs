//! Blobs larger than memory: stored pieces in, raw pieces out, the proof at the end.
//!
//! Stricter than decoding in one shot: a second data frame is refused. Skippable frames may lie before and
//! after.

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::zstd_header::{self, FrameHead, HEAD_BYTES_MAX};
use super::{WINDOW_BYTES_MAX, WINDOW_LOG_MAX, blob_corrupt, check_plain_entry, zstd_corrupt};
use crate::format::error::{FormatError, FormatErrorKind, Result};
use crate::format::hash::{Crc32c, Hasher};
use crate::format::pack::Entry;

/// Decodes one blob piece by piece.
pub struct StreamDecoder {
    entry: Entry,
    /// Of the stored bytes, where nothing else proves them.
    crc: Option<Crc32c>,
    hasher: Hasher,
    stored_bytes: u64,
    raw_bytes: u64,
    frames: Option<Frames>,
}

/// The zstd side of a compressed blob.
struct Frames {
    context: DCtx<'static>,
    buffer: Vec<u8>,
    state: State,
    data_seen: bool,
    /// The last call filled the buffer, so zstd may hold back more.
    more_waits: bool,
}

enum State {
    /// Between frames; holds the bytes of the next frame's head that have come so far.
    Head { seen: [u8; HEAD_BYTES_MAX], seen_bytes: usize },
    /// Inside a skippable frame with this many bytes to go.
    Skip { left_bytes: u64 },
    /// Inside the data frame.
    Data,
}

const BETWEEN_FRAMES: State = State::Head { seen: [0; HEAD_BYTES_MAX], seen_bytes: 0 };

impl StreamDecoder {
    /// Starts on the blob of an entry of a plain pack.
    pub fn new(entry: &Entry) -> Result<Self> {
        Self::begin(entry, Some(Crc32c::new()))
    }

    /// Starts on a frame that was sealed and is authentic, described by an entry of its own, in which no
    /// CRC is written down.
    pub fn opened(entry: &Entry) -> Result<Self> {
        Self::begin(entry, None)
    }

    fn begin(entry: &Entry, crc: Option<Crc32c>) -> Result<Self> {
        check_plain_entry(entry)?;
        Ok(Self {
            entry: *entry,
            crc,
            hasher: Hasher::new(),
            stored_bytes: 0,
            raw_bytes: 0,
            frames: entry.flags.compressed().then(Frames::new),
        })
    }

    /// Takes in the next stored piece and passes on the raw bytes that come of it, provisional until
    /// `finish`.
    pub fn feed(&mut self, piece: &[u8], sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut rest = self.accept(piece)?;
        while let Some(raw) = self.next_raw(&mut rest)? {
            sink(raw)?;
        }
        Ok(())
    }

    /// Takes in the next stored piece and returns what `next_raw` is then called with.
    ///
    /// This pair serves callers whose sink fails with errors of their own.
    pub fn accept<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8]> {
        if piece.len() as u64 > self.entry.stored_bytes - self.stored_bytes {
            return Err(blob_corrupt(&self.entry.id, "more stored bytes than its entry says"));
        }
        self.stored_bytes += piece.len() as u64;
        if let Some(crc) = &mut self.crc {
            crc.update(piece);
        }
        Ok(piece)
    }

    /// Returns the next raw bytes of an accepted piece, or nothing once the piece is used up.
    pub fn next_raw<'a, 'p: 'a>(&'a mut self, rest: &mut &'p [u8]) -> Result<Option<&'a [u8]>> {
        let raw = match &mut self.frames {
            None => std::mem::take(rest),
            Some(frames) => frames.next_raw(&self.entry, rest)?,
        };
        if raw.is_empty() {
            return Ok(None);
        }
        if raw.len() as u64 > self.entry.raw_bytes - self.raw_bytes {
            let fault = format_args!("more than {} raw bytes", self.entry.raw_bytes);
            return Err(blob_corrupt(&self.entry.id, fault));
        }
        self.raw_bytes += raw.len() as u64;
        self.hasher.update(raw);
        Ok(Some(raw))
    }

    /// Proves the blob: stored length and CRC, complete frame, raw length, name.
    pub fn finish(self) -> Result<()> {
        let entry = &self.entry;
        if self.stored_bytes != entry.stored_bytes {
            let fault = format_args!("{} of {} stored bytes", self.stored_bytes, entry.stored_bytes);
            return Err(blob_corrupt(&entry.id, fault));
        }
        if self.crc.is_some_and(|crc| crc.finish() != entry.crc32c) {
            return Err(blob_corrupt(&entry.id, "stored bytes do not match their CRC"));
        }
        if self.frames.is_some_and(|frames| !frames.complete()) {
            return Err(blob_corrupt(&entry.id, "frame is cut short"));
        }
        if self.raw_bytes != entry.raw_bytes {
            let fault = format_args!("{} raw bytes announced, {} decoded", entry.raw_bytes, self.raw_bytes);
            return Err(blob_corrupt(&entry.id, fault));
        }
        let found = self.hasher.finish();
        if found != entry.id {
            let message = format!("blob {}: content hashes to {found}", entry.id);
            return Err(FormatError::new(FormatErrorKind::Mismatch, message));
        }
        Ok(())
    }
}

impl std::fmt::Debug for StreamDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamDecoder({})", self.entry.id)
    }
}

impl Frames {
    fn new() -> Self {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .expect("zstd knows windows of 512 MiB");
        Self {
            context,
            buffer: Vec::with_capacity(DCtx::out_size()),
            state: BETWEEN_FRAMES,
            data_seen: false,
            more_waits: false,
        }
    }

    fn complete(&self) -> bool {
        self.data_seen && matches!(self.state, State::Head { seen_bytes: 0, .. })
    }

    /// Returns decoded bytes, or none once `rest` is used up.
    fn next_raw(&mut self, entry: &Entry, rest: &mut &[u8]) -> Result<&[u8]> {
        self.buffer.clear();
        loop {
            match &mut self.state {
                // Without input and with nothing waiting zstd would only count a call without progress.
                State::Data if rest.is_empty() && !self.more_waits => {}
                State::Data => {
                    self.decode(entry, rest)?;
                    if !self.buffer.is_empty() {
                        return Ok(&self.buffer);
                    }
                }
                State::Skip { left_bytes } => {
                    let skipped = (rest.len() as u64).min(*left_bytes);
                    *rest = &rest[skipped as usize..];
                    *left_bytes -= skipped;
                    if *left_bytes == 0 {
                        self.state = BETWEEN_FRAMES;
                    }
                }
                State::Head { .. } => self.read_head(entry, rest)?,
            }
            if rest.is_empty() {
                return Ok(&[]);
            }
        }
    }

    fn decode(&mut self, entry: &Entry, rest: &mut &[u8]) -> Result<()> {
        let mut input = InBuffer::around(rest);
        let left = self.context.decompress_stream(&mut OutBuffer::around(&mut self.buffer), &mut input);
        let left = left.map_err(|code| zstd_corrupt(&entry.id, code))?;
        let used = input.pos();
        *rest = &rest[used..];
        self.more_waits = self.buffer.len() == self.buffer.capacity();
        if left == 0 {
            self.state = BETWEEN_FRAMES;
        }
        Ok(())
    }

    /// Collects the head of the next frame byte by byte until it tells what the frame is.
    fn read_head(&mut self, entry: &Entry, rest: &mut &[u8]) -> Result<()> {
        let State::Head { seen, seen_bytes } = &mut self.state else { return Ok(()) };
        let Some((byte, tail)) = rest.split_first() else { return Ok(()) };
        seen[*seen_bytes] = *byte;
        *seen_bytes += 1;
        *rest = tail;
        let head = &seen[..*seen_bytes];
        match zstd_header::read(head) {
            FrameHead::Incomplete => Ok(()),
            FrameHead::Foreign => Err(blob_corrupt(&entry.id, "bytes that are no zstd frame")),
            FrameHead::Skippable { frame_bytes } => {
                self.state = match frame_bytes - head.len() as u64 {
                    0 => BETWEEN_FRAMES,
                    left_bytes => State::Skip { left_bytes },
                };
                Ok(())
            }
            FrameHead::Data { window_bytes } => {
                if window_bytes > WINDOW_BYTES_MAX {
                    let fault = format_args!("frame needs a window of {window_bytes}");
                    return Err(blob_corrupt(&entry.id, fault));
                }
                if std::mem::replace(&mut self.data_seen, true) {
                    return Err(blob_corrupt(&entry.id, "a second data frame"));
                }
                let (seen, seen_bytes) = (*seen, *seen_bytes);
                self.state = State::Data;
                self.decode(entry, &mut &seen[..seen_bytes])
            }
        }
    }
}
