//! Whole blobs: stored bytes in, proven blob out, through buffers that are reused.

use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::zstd_header::{self, FrameHead};
use super::{
    PREALLOCATED_BYTES_MAX, WINDOW_BYTES_MAX, WINDOW_LOG_MAX, blob_corrupt, check_plain_entry, zstd_corrupt,
};
use crate::format::error::{FormatError, FormatErrorKind, Result};
use crate::format::hash::crc32c;
use crate::format::ids::BlobId;
use crate::format::pack::Entry;

/// Decodes blobs one after the other, without allocating for each.
pub struct Decompressor {
    context: DCtx<'static>,
    buffer: Vec<u8>,
}

impl Decompressor {
    /// Makes a decoder with an empty buffer.
    pub fn new() -> Self {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .expect("zstd knows windows of 512 MiB");
        Self { context, buffer: Vec::new() }
    }

    /// Returns the blob of an entry of a plain pack, given its stored bytes.
    ///
    /// A blob stored raw is proven where it lies and not copied. Nothing is returned before CRC, length and
    /// name have been checked.
    pub fn decode<'a>(&'a mut self, entry: &Entry, stored: &'a [u8]) -> Result<&'a [u8]> {
        check_stored(entry, stored)?;
        let raw = if entry.flags.compressed() {
            decompress(&mut self.context, entry, stored, &mut self.buffer)?;
            &self.buffer[..]
        } else {
            stored
        };
        check_name(entry, raw)?;
        Ok(raw)
    }

    /// Decodes into a buffer of the caller's, replacing what it held; on failure its content is of no use.
    pub fn decode_into(&mut self, entry: &Entry, stored: &[u8], out: &mut Vec<u8>) -> Result<()> {
        check_stored(entry, stored)?;
        if entry.flags.compressed() {
            decompress(&mut self.context, entry, stored, out)?;
        } else {
            out.clear();
            out.extend_from_slice(stored);
        }
        check_name(entry, out)
    }
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}

fn check_stored(entry: &Entry, stored: &[u8]) -> Result<()> {
    if stored.len() as u64 != entry.stored_bytes {
        let fault = format_args!("{} of {} stored bytes", stored.len(), entry.stored_bytes);
        return Err(blob_corrupt(&entry.id, fault));
    }
    if crc32c(stored) != entry.crc32c {
        return Err(blob_corrupt(&entry.id, "stored bytes do not match their CRC"));
    }
    check_plain_entry(entry)
}

fn check_name(entry: &Entry, raw: &[u8]) -> Result<()> {
    let found = BlobId::of(raw);
    if found != entry.id {
        let message = format!("blob {}: content hashes to {found}", entry.id);
        return Err(FormatError::new(FormatErrorKind::Mismatch, message));
    }
    Ok(())
}

fn decompress(context: &mut DCtx<'_>, entry: &Entry, stored: &[u8], out: &mut Vec<u8>) -> Result<()> {
    check_frames(entry, stored)?;
    out.clear();
    let raw_bytes = usize::try_from(entry.raw_bytes)
        .map_err(|_| blob_corrupt(&entry.id, "is larger than memory can hold"))?;
    if raw_bytes <= PREALLOCATED_BYTES_MAX.max(out.capacity()) {
        out.reserve(raw_bytes);
        context.decompress(out, stored).map_err(|code| zstd_corrupt(&entry.id, code))?;
    } else {
        decompress_growing(context, entry, stored, raw_bytes, out)?;
    }
    if out.len() != raw_bytes {
        let fault = format_args!("{} raw bytes announced, {} decoded", raw_bytes, out.len());
        return Err(blob_corrupt(&entry.id, fault));
    }
    Ok(())
}

/// Walks the frames before decoding: only zstd frames, all complete, none with too large a window.
fn check_frames(entry: &Entry, stored: &[u8]) -> Result<()> {
    let mut rest = stored;
    while !rest.is_empty() {
        match zstd_header::read(rest) {
            FrameHead::Data { window_bytes } if window_bytes > WINDOW_BYTES_MAX => {
                return Err(blob_corrupt(&entry.id, format_args!("frame needs a window of {window_bytes}")));
            }
            FrameHead::Data { .. } | FrameHead::Skippable { .. } => {}
            FrameHead::Incomplete => return Err(blob_corrupt(&entry.id, "frame is cut short")),
            FrameHead::Foreign => return Err(blob_corrupt(&entry.id, "bytes that are no zstd frame")),
        }
        let frame_bytes = zstd_safe::find_frame_compressed_size(rest);
        let frame_bytes = frame_bytes.map_err(|code| zstd_corrupt(&entry.id, code))?;
        rest = rest.get(frame_bytes.max(1)..).unwrap_or_default();
    }
    Ok(())
}

/// Decodes a blob whose announced length is not to be trusted with memory before its bytes arrive.
fn decompress_growing(
    context: &mut DCtx<'_>,
    entry: &Entry,
    stored: &[u8],
    raw_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<()> {
    context.reset(ResetDirective::SessionOnly).map_err(|code| zstd_corrupt(&entry.id, code))?;
    let mut input = InBuffer::around(stored);
    loop {
        if out.len() == out.capacity() {
            // Twice as much each time; one byte past the end shows a frame that holds too much.
            let wanted = (out.len() * 2).clamp(PREALLOCATED_BYTES_MAX, raw_bytes.saturating_add(1));
            out.reserve_exact(wanted.saturating_sub(out.len()).max(1));
        }
        let filled = out.len();
        let mut output = OutBuffer::around_pos(out, filled);
        let left = context.decompress_stream(&mut output, &mut input);
        let left = left.map_err(|code| zstd_corrupt(&entry.id, code))?;
        if out.len() > raw_bytes {
            return Err(blob_corrupt(&entry.id, format_args!("more than {raw_bytes} raw bytes")));
        }
        if input.pos() == stored.len() && (left == 0 || out.len() < out.capacity()) {
            return if left == 0 { Ok(()) } else { Err(blob_corrupt(&entry.id, "frame is cut short")) };
        }
    }
}
