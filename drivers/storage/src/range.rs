//! The check of a byte range against an object's size, the same for every driver.
//!
//! Ranges come from indexes that may be damaged, so the length is checked before anything is allocated.

use std::ops::Range;

use crate::{Error, ErrorKind, Key, Operation, Result};

/// Returns the length of the range, if an object of `size_bytes` holds all of it.
///
/// `ErrorKind::Short` otherwise, and for a range that ends before it starts or that no memory can hold.
pub fn range_bytes(key: &Key, range: &Range<u64>, size_bytes: u64) -> Result<usize> {
    let short = |detail| Error::new(ErrorKind::Short, Operation::Read, key, detail);
    let Range { start, end } = range;
    if start > end {
        return Err(short(format!("the range {start}..{end} ends before it starts")));
    }
    if *end > size_bytes {
        return Err(short(format!("the range {start}..{end} ends after its {size_bytes} bytes")));
    }
    usize::try_from(end - start)
        .map_err(|_| short(format!("the range {start}..{end} is too large for memory")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_lies_inside_its_object_or_is_short() {
        let key = Key::parse("a").unwrap();
        assert_eq!(range_bytes(&key, &(0..5), 5).unwrap(), 5);
        assert_eq!(range_bytes(&key, &(5..5), 5).unwrap(), 0);
        for bad in [0..6, 6..6, Range { start: 3, end: 2 }, 0..u64::MAX] {
            assert_eq!(range_bytes(&key, &bad, 5).unwrap_err().kind(), ErrorKind::Short, "{bad:?}");
        }
    }
}
