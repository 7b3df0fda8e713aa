//! Pages of SQLite's b-trees taken apart, as far as it takes to know which pages they name (the format of SQLite's files,
//! sections 1.6 and 1.7). Nothing is believed of a page: what cannot be is left out.

/// What a page of a b-tree names. Numbers of pages are SQLite's, which begin with 1.
pub struct Parsed {
    /// Whether it names no other page of its tree.
    pub is_leaf: bool,
    /// The pages below it.
    pub children: Vec<u64>,
    /// The first pages of chains that hold what did not fit.
    pub overflows: Vec<u64>,
}

/// Takes a page of a b-tree apart. What is none has no children and no overflow pages.
pub fn parsed(bytes: &[u8], number: u64, page_size: u64) -> Parsed {
    const INNER_INDEX: u8 = 2;
    const INNER_TABLE: u8 = 5;
    const LEAF_INDEX: u8 = 10;
    const LEAF_TABLE: u8 = 13;
    let header = if number == 1 { 100 } else { 0 };
    let kind = bytes.get(header).copied().unwrap_or(0);
    let mut parsed =
        Parsed { is_leaf: !matches!(kind, INNER_INDEX | INNER_TABLE), children: vec![], overflows: vec![] };
    let is_known = matches!(kind, INNER_INDEX | INNER_TABLE | LEAF_INDEX | LEAF_TABLE);
    let Some(cells) = u16_at(bytes, header + 3).filter(|_| is_known) else { return parsed };
    let pointers = header + if parsed.is_leaf { 8 } else { 12 };
    for cell in 0..cells {
        let Some(at) = u16_at(bytes, pointers + 2 * cell) else { break };
        let content = match parsed.is_leaf {
            true => at,
            false => {
                parsed.children.extend(u32_at(bytes, at).map(u64::from));
                at + 4
            }
        };
        if kind != INNER_TABLE {
            parsed.overflows.extend(overflow(bytes, content, kind == LEAF_TABLE, page_size));
        }
    }
    if !parsed.is_leaf {
        parsed.children.extend(u32_at(bytes, header + 8).map(u64::from));
    }
    parsed
}

/// A page of the b-tree of a table that is ordered by its rowids.
#[derive(Debug, PartialEq, Eq)]
pub enum TablePage {
    /// Rows.
    Leaf,
    /// The pages below it, each with the largest rowid in it; that of the last is not told.
    Inner(Vec<(u64, Option<i64>)>),
}

/// Takes a page of the b-tree of a table apart; `None` where it is none, or what it says cannot be.
pub fn table_page(bytes: &[u8], number: u64) -> Option<TablePage> {
    const INNER: u8 = 5;
    const LEAF: u8 = 13;
    let header = if number == 1 { 100 } else { 0 };
    match *bytes.get(header)? {
        LEAF => return Some(TablePage::Leaf),
        INNER => {}
        _ => return None,
    }
    let cells = u16_at(bytes, header + 3)?;
    let mut children = Vec::with_capacity(cells + 1);
    for cell in 0..cells {
        let at = u16_at(bytes, header + 12 + 2 * cell)?;
        let (rowid, _) = varint(bytes, at + 4)?;
        children.push((u64::from(u32_at(bytes, at)?), Some(rowid as i64)));
    }
    children.push((u64::from(u32_at(bytes, header + 8)?), None));
    Some(TablePage::Inner(children))
}

/// Returns the first overflow page of a cell, if it has one (the format of SQLite's files, section 1.6).
fn overflow(bytes: &[u8], at: usize, is_table: bool, page_size: u64) -> Option<u64> {
    let (payload, length) = varint(bytes, at)?;
    let mut content = at.checked_add(length)?;
    if is_table {
        content = content.checked_add(varint(bytes, content)?.1)?;
    }
    // Bytes that are reserved at the end of each page are rare; with them a chain is missed at worst.
    let usable = page_size;
    let local_max = if is_table { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
    if payload <= local_max {
        return None;
    }
    let local_min = (usable - 12) * 32 / 255 - 23;
    let fitting = local_min + (payload - local_min) % (usable - 4);
    let local = if fitting <= local_max { fitting } else { local_min };
    let pointer = content.checked_add(usize::try_from(local).ok()?)?;
    u32_at(bytes, pointer).map(u64::from)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(usize::from(u16::from_be_bytes(bytes.try_into().ok()?)))
}

/// Returns a number of four bytes, if they are there.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// Reads a number of SQLite's of up to nine bytes; returns it with its length.
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for length in 0..9 {
        let byte = *bytes.get(at.checked_add(length)?)?;
        if length == 8 {
            return Some(((value << 8) | u64::from(byte), 9));
        }
        value = (value << 7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            return Some((value, length + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_are_read() {
        for (bytes, value, length) in [
            (&[0x05][..], 5, 1),
            (&[0x81, 0x00], 128, 2),
            (&[0xff, 0x7f], 16_383, 2),
            (&[0xff; 9], u64::MAX, 9),
        ] {
            assert_eq!(varint(bytes, 0), Some((value, length)));
        }
        assert_eq!(varint(&[0x81], 0), None);
    }

    #[test]
    fn no_page_is_so_odd_that_it_cannot_be_taken_apart() {
        for seed in 0..2000_u64 {
            let mut state = seed;
            let mut page = vec![0; 512];
            for byte in &mut page {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = (state >> 33) as u8;
            }
            page[0] = [2, 5, 10, 13][seed as usize % 4];
            let parsed = parsed(&page, 2, 512);
            assert!(parsed.children.len() <= 65_536);
        }
        assert!(parsed(&[], 1, 512).is_leaf);
    }
}
