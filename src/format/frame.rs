//! The frames of a pack: when a blob is compressed, and how stored bytes become a proven blob again.
//!
//! A frame is kept if it saves 3 % of a blob of at least 1024 bytes; else the blob is stored raw. Written
//! frames are single, without dictionary or checksum, with their content size and a window of at most 8 MiB.
//! Read frames may be laxer: content size absent, windows up to 512 MiB, skippable frames around them.
//! Several data frames in a row are read in one shot (`Decompressor`) but not as a stream (`StreamDecoder`).
//!
//! Before a blob is handed out whole its CRC, its length and its name are right. A stream hands out bytes
//! before that: they are provisional until `StreamDecoder::finish` has returned.

mod compress;
mod decompress;
mod stream;
mod zstd_header;

pub use compress::{Compressor, StreamCompressor, effective_level, saves_enough};
pub use decompress::Decompressor;
pub use stream::StreamDecoder;

use zstd::zstd_safe;

use super::error::FormatError;
use super::ids::BlobId;
use super::pack::Entry;

/// Blobs with fewer bytes are stored raw.
pub const COMPRESSED_RAW_BYTES_MIN: u64 = 1024;
/// The largest window a frame may ask the reader to keep.
pub const WINDOW_BYTES_MAX: u64 = 512 << 20;
/// The most memory that is reserved because an entry says so; the rest must arrive first.
pub const PREALLOCATED_BYTES_MAX: usize = 4 << 20;

const WINDOW_LOG_MAX: u32 = 29;

fn blob_corrupt(id: &BlobId, fault: impl std::fmt::Display) -> FormatError {
    FormatError::corrupt(format!("blob {id}: {fault}"))
}

fn zstd_corrupt(id: &BlobId, code: zstd_safe::ErrorCode) -> FormatError {
    blob_corrupt(id, format_args!("zstd: {}", zstd_safe::get_error_name(code)))
}

/// Checks what can be said of an entry before its bytes are seen.
fn check_plain_entry(entry: &Entry) -> super::error::Result<()> {
    if entry.flags.encrypted() {
        return Err(blob_corrupt(&entry.id, "is encrypted in a plain pack"));
    }
    if !entry.flags.compressed() && entry.stored_bytes != entry.raw_bytes {
        let fault = format_args!("{} raw bytes stored as {}", entry.raw_bytes, entry.stored_bytes);
        return Err(blob_corrupt(&entry.id, fault));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
