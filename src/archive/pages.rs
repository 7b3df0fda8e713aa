//! Reading pages of a pinned database: hashed as they come, and kept only where they changed.

use std::ops::Range;

use super::pinned::PageSource;
use crate::Result;
use crate::format::PageHash;

/// Bytes read and hashed before the next read: they stay in the core's cache between the two.
const READ_BYTES: usize = 256 * 1024;

/// Consecutive pages of one scan.
#[derive(Debug)]
pub struct ScannedPages {
    /// The first page, counted from 0.
    pub first_page: u64,
    /// The hash of each page.
    pub hashes: Vec<PageHash>,
    /// The changed pages, as ranges relative to `first_page`, ascending.
    pub changed: Vec<Range<usize>>,
    /// The bytes of the changed pages, one after the other.
    pub bytes: Vec<u8>,
}

/// Reads `page_count` pages from `first_page` on, into a buffer that may be one used before.
///
/// `known` holds the hashes of the parent's pages from `first_page` on; a page beyond it has changed.
pub fn scan(
    source: &PageSource,
    first_page: u64,
    page_count: usize,
    page_size: usize,
    known: &[PageHash],
    mut buffer: Vec<u8>,
) -> Result<ScannedPages> {
    buffer.clear();
    // Room alone costs no memory before something is read into it.
    buffer.reserve_exact(page_count * page_size);
    let mut pages = ScannedPages {
        first_page,
        hashes: Vec::with_capacity(page_count),
        changed: Vec::new(),
        bytes: Vec::new(),
    };
    // Changed pages are moved up to the end of those before them, so the buffer never holds a page that
    // nobody wants for longer than one read.
    let mut kept_bytes = 0;
    let step = (READ_BYTES / page_size).max(1);
    for begin in (0..page_count).step_by(step) {
        let count = step.min(page_count - begin);
        let read = kept_bytes..kept_bytes + count * page_size;
        if buffer.len() < read.end {
            buffer.resize(read.end, 0);
        }
        source.read(first_page + begin as u64, page_size, &mut buffer[read.clone()])?;
        let mut position = read.start;
        for index in begin..begin + count {
            let page = position..position + page_size;
            position += page_size;
            let hash = PageHash::of(&buffer[page.clone()]);
            pages.hashes.push(hash);
            if known.get(index) != Some(&hash) {
                note_changed(&mut pages.changed, index);
                if page.start != kept_bytes {
                    buffer.copy_within(page, kept_bytes);
                }
                kept_bytes += page_size;
            }
        }
    }
    buffer.truncate(kept_bytes);
    pages.bytes = buffer;
    Ok(pages)
}

fn note_changed(changed: &mut Vec<Range<usize>>, index: usize) {
    match changed.last_mut() {
        Some(last) if last.end == index => last.end += 1,
        _ => changed.push(index..index + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::ErrorKind;

    fn file_of(pages: &[u8], page_size: usize) -> (PageSource, Vec<u8>) {
        let bytes: Vec<u8> = pages.iter().flat_map(|&byte| vec![byte; page_size]).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        (PageSource::File { file: Arc::new(file), path: "test.db".into() }, bytes)
    }

    #[test]
    fn without_a_parent_every_page_has_changed() {
        let (file, bytes) = file_of(&[1, 2, 3], 512);
        let scanned = scan(&file, 0, 3, 512, &[], Vec::new()).unwrap();
        assert_eq!(scanned.changed, vec![0..3]);
        assert_eq!(scanned.bytes, bytes);
    }

    #[test]
    fn only_changed_pages_are_kept_and_in_order() {
        let page_size = 65536;
        let numbers: Vec<u8> = (0..40).collect();
        let (file, bytes) = file_of(&numbers, page_size);
        let mut known: Vec<PageHash> = bytes.chunks(page_size).map(PageHash::of).collect();
        for page in [0, 3, 4, 5, 17, 38] {
            known[page] = PageHash::of(b"another");
        }
        known.truncate(39);
        let scanned = scan(&file, 0, 40, page_size, &known, Vec::new()).unwrap();
        assert_eq!(scanned.changed, vec![0..1, 3..6, 17..18, 38..40]);
        let kept: Vec<u8> = scanned.bytes.chunks(page_size).map(|page| page[0]).collect();
        assert_eq!(kept, [0, 3, 4, 5, 17, 38, 39]);
        assert_eq!(scanned.hashes.len(), 40);
    }

    #[test]
    fn a_file_that_ends_early_is_an_error() {
        let (file, _) = file_of(&[1, 2, 3], 512);
        let error = scan(&file, 1, 3, 512, &[], Vec::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Source);
    }
}
