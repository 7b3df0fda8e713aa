//! Frames: whole and as a stream, against zstd itself.
//!
//! Input: how the bytes are cut for the stream, how far the entry lies about the length, then the stored bytes.

use std::io::Read;

use packvault::format::frame::WINDOW_BYTES_MAX;
use packvault::format::pack::Entry;
use packvault::format::{BlobFlags, BlobId, Compressor, Decompressor, Result, StreamDecoder, crc32c};

use super::input::Input;

/// The largest content that is decoded here.
const RAW_BYTES_MAX: usize = 1 << 20;

/// Decodes stored bytes in every way there is.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (piece_bytes, lie) = (1 + usize::from(input.byte()), input.byte());
    let stored = input.rest();
    check_compressed(stored, piece_bytes);
    let lying_bytes = u64::from(lie) << (lie % 40);
    let entry = Entry { raw_bytes: lying_bytes, ..entry(b"", stored, BlobFlags::COMPRESSED) };
    // No more is written than the entry announces, and an announcement reserves next to nothing.
    if lying_bytes > 0 {
        assert!(whole(&entry, stored).is_err());
        assert!(streamed(&entry, stored, piece_bytes).is_err());
    }
    check_written(stored, piece_bytes);
}

/// Compares with zstd: whatever is accepted is what zstd says, and a stream says why it is stricter.
fn check_compressed(stored: &[u8], piece_bytes: usize) {
    let Some(expected) = zstd_says(stored) else { return };
    let entry = entry(&expected, stored, BlobFlags::COMPRESSED);
    let (whole, streamed) = (whole(&entry, stored), streamed(&entry, stored, piece_bytes));
    match (&whole, &streamed) {
        (Ok(raw), Ok(provisional)) => assert!(*raw == expected && *provisional == expected),
        (Ok(raw), Err(error)) => {
            assert!(*raw == expected);
            // The last is zstd's own: as a stream it refuses a block that repeats a byte no times.
            let is_stricter = ["second data frame", "cut short", "window", "Data corruption detected"];
            let message = error.to_string();
            assert!(is_stricter.iter().any(|reason| message.contains(reason)), "{message}");
        }
        // As a stream zstd takes some blocks that break its format, such as one byte repeated more often than the
        // window is long. The bytes are proven all the same.
        (Err(_), Ok(provisional)) => assert!(*provisional == expected),
        (Err(_), Err(_)) => {}
    }
}

/// What is written comes back.
fn check_written(raw: &[u8], piece_bytes: usize) {
    let mut frame = Vec::new();
    let mut compressor = Compressor::new(1).expect("1 is a level");
    let is_kept = compressor.encode(raw, &mut frame).expect("bytes can be compressed");
    let (stored, flags) = if is_kept { (&frame[..], BlobFlags::COMPRESSED) } else { (raw, BlobFlags::RAW) };
    let entry = entry(raw, stored, flags);
    assert!(whole(&entry, stored).expect("it was just written") == raw);
    assert!(streamed(&entry, stored, piece_bytes).expect("it was just written") == raw);
}

fn whole(entry: &Entry, stored: &[u8]) -> Result<Vec<u8>> {
    let mut decompressor = Decompressor::new();
    let mut out = vec![7; 3];
    let into = decompressor.decode_into(entry, stored, &mut out);
    let decoded = decompressor.decode(entry, stored).map(<[u8]>::to_vec);
    assert_eq!(into.is_ok(), decoded.is_ok());
    if let Ok(decoded) = &decoded {
        assert!(*decoded == out);
    }
    decoded
}

fn streamed(entry: &Entry, stored: &[u8], piece_bytes: usize) -> Result<Vec<u8>> {
    let mut raw = Vec::new();
    let mut decoder = StreamDecoder::new(entry)?;
    for piece in stored.chunks(piece_bytes) {
        decoder.feed(piece, &mut |bytes| {
            raw.extend_from_slice(bytes);
            Ok(())
        })?;
        assert!(raw.len() as u64 <= entry.raw_bytes, "never hands out more than announced");
    }
    decoder.finish().map(|()| raw)
}

fn zstd_says(stored: &[u8]) -> Option<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::new(stored).ok()?;
    decoder.window_log_max(WINDOW_BYTES_MAX.ilog2()).ok()?;
    let mut raw = Vec::new();
    decoder.take(RAW_BYTES_MAX as u64 + 1).read_to_end(&mut raw).ok()?;
    (raw.len() <= RAW_BYTES_MAX).then_some(raw)
}

fn entry(raw: &[u8], stored: &[u8], flags: BlobFlags) -> Entry {
    Entry {
        id: BlobId::of(raw),
        offset: 6,
        stored_bytes: stored.len() as u64,
        raw_bytes: raw.len() as u64,
        flags,
        crc32c: crc32c(stored),
    }
}

/// Returns the input that stands for the stored bytes of a blob.
pub fn seed(stored: &[u8]) -> Vec<u8> {
    [&[16, 3], stored].concat()
}
