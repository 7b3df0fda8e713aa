//! The start of a zstd frame: is it data or skippable, and how large a window does it ask for.
//!
//! ```text
//! skippable  50..5f 2a 4d 18 | u32 bytes to skip
//! data       28 b5 2f fd | descriptor | window? | dictionary id 0/1/2/4 | content size 0/1/2/4/8
//! ```
//!
//! The window is looked at before anything is decoded, so a frame cannot make the decoder reserve it.

const DATA_MAGIC: u32 = 0xfd2f_b528;
const SKIPPABLE_MAGIC: u32 = 0x184d_2a50;

/// The most bytes `read` needs to see of a frame.
pub(super) const HEAD_BYTES_MAX: usize = 4 + 1 + 1 + 4 + 8;

/// What a frame's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameHead {
    /// A frame without data: this many bytes, head included.
    Skippable { frame_bytes: u64 },
    /// A frame with data, and the window needed to decode it.
    Data { window_bytes: u64 },
    /// More bytes are needed to tell.
    Incomplete,
    /// Not a zstd frame.
    Foreign,
}

pub(super) fn read(start: &[u8]) -> FrameHead {
    let Some((magic, rest)) = start.split_first_chunk::<4>() else { return FrameHead::Incomplete };
    match u32::from_le_bytes(*magic) {
        DATA_MAGIC => read_data(rest),
        magic if magic & !0xf == SKIPPABLE_MAGIC => match rest.first_chunk::<4>() {
            Some(bytes) => FrameHead::Skippable { frame_bytes: 8 + u64::from(u32::from_le_bytes(*bytes)) },
            None => FrameHead::Incomplete,
        },
        _ => FrameHead::Foreign,
    }
}

fn read_data(rest: &[u8]) -> FrameHead {
    let Some((&descriptor, rest)) = rest.split_first() else { return FrameHead::Incomplete };
    let single_segment = descriptor & 0x20 != 0;
    if !single_segment {
        return match rest.first() {
            Some(&window) => FrameHead::Data { window_bytes: window_bytes(window) },
            None => FrameHead::Incomplete,
        };
    }
    // Without a window descriptor the window is the content itself.
    let dictionary_id_bytes = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size_bytes = [1, 2, 4, 8][usize::from(descriptor >> 6)];
    let Some(field) = rest.get(dictionary_id_bytes..dictionary_id_bytes + content_size_bytes) else {
        return FrameHead::Incomplete;
    };
    let mut content_size = [0; 8];
    content_size[..content_size_bytes].copy_from_slice(field);
    let offset = if content_size_bytes == 2 { 256 } else { 0 };
    FrameHead::Data { window_bytes: u64::from_le_bytes(content_size).saturating_add(offset) }
}

fn window_bytes(descriptor: u8) -> u64 {
    let base = 1u64 << (10 + (descriptor >> 3));
    base + base / 8 * u64::from(descriptor & 7)
}
