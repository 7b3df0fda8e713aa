//! Writing files without the blocks that hold only zeros: a sparse file comes back sparse.
//!
//! A run of zeros is left out where it covers whole blocks and is long enough to be worth a hole. The file must be
//! new, because a hole keeps what was there before. Its length must be set at the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The block of most file systems; a hole begins and ends between two of them.
const BLOCK_BYTES: usize = 4096;
/// Shorter runs of zeros are written: each hole costs the file system an extent.
const HOLE_BYTES_MIN: usize = 16 * BLOCK_BYTES;

/// Writes the bytes at the offset of a new file, but for long runs of zeros. The file may end before them.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut written = 0;
    while written < bytes.len() {
        let (from, to) = next_hole(bytes, written, offset);
        if written < from {
            file.write_all_at(&bytes[written..from], offset + written as u64)?;
        }
        written = to;
    }
    Ok(())
}

/// Returns the next run of zeros worth a hole, from and to; both are the end where there is none.
fn next_hole(bytes: &[u8], start: usize, offset: u64) -> (usize, usize) {
    // The first place at or behind `start` that lies between two blocks of the file.
    let into_block = ((offset + start as u64) % BLOCK_BYTES as u64) as usize;
    let mut at = start + (BLOCK_BYTES - into_block) % BLOCK_BYTES;
    while at + HOLE_BYTES_MIN <= bytes.len() {
        let zero_bytes = zero_blocks(&bytes[at..]);
        if zero_bytes >= HOLE_BYTES_MIN {
            return (at, at + zero_bytes);
        }
        at += zero_bytes + BLOCK_BYTES;
    }
    (bytes.len(), bytes.len())
}

/// Returns how many bytes at the beginning are whole blocks of zeros.
fn zero_blocks(bytes: &[u8]) -> usize {
    bytes.chunks_exact(BLOCK_BYTES).take_while(|block| block.iter().all(|byte| *byte == 0)).count()
        * BLOCK_BYTES
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn written(content: &[u8], piece_bytes: usize) -> (Vec<u8>, u64) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let file = File::create_new(&path).unwrap();
        let mut offset = 0;
        for piece in content.chunks(piece_bytes) {
            write_at(&file, piece, offset).unwrap();
            offset += piece.len() as u64;
        }
        file.set_len(offset).unwrap();
        file.sync_all().unwrap();
        (std::fs::read(&path).unwrap(), file.metadata().unwrap().blocks() * 512)
    }

    #[test]
    fn what_is_written_is_what_was_given_however_it_is_cut() {
        let mut content = vec![0; 700_000];
        for at in [0, 5_000, 200_000, 200_001, 471_040, 699_999] {
            content[at] = 1;
        }
        for piece_bytes in [1 << 20, 300_000, 65_536, 4_097] {
            assert!(written(&content, piece_bytes).0 == content, "{piece_bytes}");
        }
        assert!(written(&vec![0; 100_000], 1 << 20).0 == vec![0; 100_000], "zeros at the end count");
        assert!(written(&[], 1).0.is_empty());
    }

    #[test]
    fn long_runs_of_zeros_take_no_room() {
        let mut content = vec![0; 64 << 20];
        content[1_000_000] = 1;
        assert!(written(&content, 2 << 20).1 < 1 << 20);
    }
}
