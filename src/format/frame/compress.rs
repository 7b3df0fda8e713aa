//! Compression: of a blob in memory, or of one that passes by in pieces.

use zstd::zstd_safe::{self, CCtx, CParameter, InBuffer, OutBuffer, ResetDirective, zstd_sys};

use super::COMPRESSED_RAW_BYTES_MIN;
use crate::format::error::{FormatError, Result};

/// The level that stands for "no level given".
const LEVEL_DEFAULT: i32 = 3;
/// Above this level windows exceed what readers accept.
const LEVEL_MAX: i32 = 19;

/// Returns the level that is used, and recorded, for the level asked for: 0 means 3, 1 to 19 themselves.
pub fn effective_level(level: i32) -> Result<i32> {
    match level {
        0 => Ok(LEVEL_DEFAULT),
        1..=LEVEL_MAX => Ok(level),
        _ => Err(FormatError::invalid(format!("zstd level {level} is not 0 to {LEVEL_MAX}"))),
    }
}

/// Returns whether a frame saves enough to be kept: 3 % of the blob, rounded up, at least one byte.
pub fn saves_enough(raw_bytes: u64, compressed_bytes: u64) -> bool {
    // Blobs are bounded to 2^32, so the product cannot wrap for any blob; saturate for the rest.
    let saved_bytes_min = (raw_bytes.saturating_mul(3).saturating_add(99) / 100).max(1);
    raw_bytes >= COMPRESSED_RAW_BYTES_MIN
        && compressed_bytes <= raw_bytes
        && raw_bytes - compressed_bytes >= saved_bytes_min
}

/// Compresses blobs that lie in memory, one after the other, without allocating for each.
pub struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    /// Makes a compressor of a level as in `effective_level`.
    pub fn new(level: i32) -> Result<Self> {
        let context = zstd::bulk::Compressor::new(effective_level(level)?);
        context.map(Self).map_err(|error| FormatError::invalid(format!("zstd: {error}")))
    }

    /// Compresses a blob into `out`, replacing what it held.
    ///
    /// Returns true if the frame saves enough to be stored; false if the blob is to be stored raw, in which
    /// case `out` holds nothing of use.
    pub fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<bool> {
        out.clear();
        if (raw.len() as u64) < COMPRESSED_RAW_BYTES_MIN {
            return Ok(false);
        }
        // Room for the worst case keeps zstd on its fast path, and the outcome free of its slack bytes.
        out.reserve(zstd_safe::compress_bound(raw.len()));
        let frame_bytes = self.0.compress_to_buffer(raw, out);
        let frame_bytes = frame_bytes.map_err(|error| FormatError::invalid(format!("zstd: {error}")))?;
        Ok(saves_enough(raw.len() as u64, frame_bytes as u64))
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

/// Compresses a blob of known length that is not held in memory.
///
/// Whether the frame is kept is for the caller to decide at the end, with `saves_enough`.
pub struct StreamCompressor {
    context: CCtx<'static>,
    buffer: Vec<u8>,
}

impl StreamCompressor {
    /// Starts a frame of a blob of the given length, with a level as in `effective_level`.
    pub fn new(level: i32, raw_bytes: u64) -> Result<Self> {
        let mut context = CCtx::try_create().ok_or_else(|| FormatError::invalid("zstd: out of memory"))?;
        let level = CParameter::CompressionLevel(effective_level(level)?);
        context
            .reset(ResetDirective::SessionAndParameters)
            .and_then(|_| context.set_parameter(level))
            .and_then(|_| context.set_pledged_src_size(Some(raw_bytes)))
            .map_err(refused)?;
        Ok(Self { context, buffer: Vec::with_capacity(CCtx::out_size()) })
    }

    /// Takes in the next piece and passes on what was compressed.
    pub fn feed(&mut self, raw: &[u8], sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut input = InBuffer::around(raw);
        while input.pos() < raw.len() {
            self.step(&mut input, zstd_sys::ZSTD_EndDirective::ZSTD_e_continue, sink)?;
        }
        Ok(())
    }

    /// Ends the frame; an error if more or fewer bytes came than were announced.
    pub fn finish(mut self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut input = InBuffer::around(&[]);
        while self.step(&mut input, zstd_sys::ZSTD_EndDirective::ZSTD_e_end, sink)? > 0 {}
        Ok(())
    }

    fn step(
        &mut self,
        input: &mut InBuffer<'_>,
        directive: zstd_sys::ZSTD_EndDirective,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<usize> {
        self.buffer.clear();
        let mut output = OutBuffer::around(&mut self.buffer);
        let left = self.context.compress_stream2(&mut output, input, directive).map_err(refused)?;
        if !self.buffer.is_empty() {
            sink(&self.buffer)?;
        }
        Ok(left)
    }
}

impl std::fmt::Debug for StreamCompressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StreamCompressor")
    }
}

fn refused(code: zstd_safe::ErrorCode) -> FormatError {
    FormatError::invalid(format!("zstd: {}", zstd_safe::get_error_name(code)))
}
