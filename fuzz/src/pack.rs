//! Plain packs: header, trailer, footer, and the frames that the footer names.
//!
//! Input: `u16` bytes of the footer, whether the trailer is made right, then the pack up to its trailer.

use packvault::format::pack::{self, Entry, Footer, TRAILER_BYTES, Trailer};
use packvault::format::{Decompressor, Hasher};

use super::input::Input;

/// What a frame may announce and still be decoded here.
const RAW_BYTES_MAX: u64 = 1 << 20;

/// Reads a pack.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let (region_bytes, is_forged) = (input.u16(), input.choice());
    let body = input.rest();
    let file = if is_forged { with_trailer(body, region_bytes.into()) } else { body.to_vec() };
    let _ = pack::check_header(&file);
    let Some((footer, region)) = open(&file) else { return };
    let entries = footer.entries();
    for entry in entries {
        let stored = &file[entry.offset as usize..(entry.offset + entry.stored_bytes) as usize];
        assert_eq!(footer.get(&entry.id), Some(entry));
        if entry.raw_bytes <= RAW_BYTES_MAX {
            let _ = Decompressor::new().decode(entry, stored);
        }
    }
    if is_writable(entries) {
        assert!(pack::encode_footer(entries) == file[region..], "what was read is written the same");
    }
}

/// Returns the footer and where it begins.
fn open(file: &[u8]) -> Option<(Footer, usize)> {
    let file_bytes = file.len() as u64;
    let trailer = Trailer::parse(file, file_bytes).ok()?;
    let region = trailer.footer_offset() as usize;
    let region_end = region + trailer.region_bytes() as usize;
    assert!(region_end + TRAILER_BYTES == file.len(), "the footer lies before the trailer");
    Some((Footer::parse(&file[region..region_end], &trailer, file_bytes).ok()?, region))
}

fn is_writable(entries: &[Entry]) -> bool {
    let mut frames_end = pack::HEADER_BYTES as u64;
    entries.len() <= pack::ENTRIES_MAX
        && entries.iter().all(|entry| {
            let follows = entry.offset == frames_end;
            frames_end += entry.stored_bytes;
            follows
        })
}

/// Ends the bytes with a trailer that calls the last of them the footer.
fn with_trailer(body: &[u8], region_bytes: usize) -> Vec<u8> {
    let region = &body[body.len() - region_bytes.min(body.len())..];
    let announced = (region.len() as u32).to_le_bytes();
    let mut hasher = Hasher::new();
    hasher.update(region);
    hasher.update(&announced);
    [body, &announced, hasher.finish().as_bytes(), b"KPVM"].concat()
}

/// Returns the input that stands for a pack file.
pub fn seed(file: &[u8]) -> Option<Vec<u8>> {
    let trailer = Trailer::parse(file, file.len() as u64).ok()?;
    let region_bytes = u16::try_from(trailer.region_bytes()).ok()?;
    Some([&region_bytes.to_le_bytes()[..], &[0], &file[..file.len() - TRAILER_BYTES]].concat())
}
