//! What lies where in a mounted folder, and the numbers by which the kernel knows it.
//!
//! A number says itself which place is meant, so nothing is kept for a place, however many the kernel remembers. It is
//! made of a kind, the place of the snapshot in the list, and a place in the order of its files. A folder is named by the
//! first file in it, and by how deep it lies.
//!
//! ```text
//! 63    60          41       32            0
//! | kind | snapshot | depth  | index       |
//! ```

use super::super::report::Entry;
use super::super::tree::{Content, Tree};

const INDEX_BITS: u32 = 32;
const DEPTH_BITS: u32 = 9;
const SNAPSHOT_BITS: u32 = 19;

/// The most snapshots that numbers can tell apart.
pub const SNAPSHOTS_MAX: usize = 1 << SNAPSHOT_BITS;
/// The number of the topmost folder, by the kernel's word.
pub const ROOT: u64 = 1;

/// A place, by what its number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The topmost folder.
    Root,
    /// The folder of all snapshots.
    Snapshots,
    /// The link to the newest snapshot.
    Latest,
    /// Something in a snapshot.
    Within(usize, Part),
}

/// Something in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The folder of the snapshot itself.
    Top,
    /// The database or an extra file, by its place among them.
    Item(usize),
    /// An attachment, by its place among them.
    Attachment(usize),
    /// A folder, by the first item in it and the number of names in its path.
    Folder(usize, usize),
    /// The folder of the attachments, or the one of those whose hashes begin with a byte.
    OfAttachments(Option<u8>),
}

impl Place {
    /// Returns the number by which the kernel knows it.
    pub fn number(self) -> u64 {
        let of = |kind: u64, snapshot: usize, depth: usize, index: usize| {
            let low = (depth as u64) << INDEX_BITS | index as u64;
            kind << (INDEX_BITS + DEPTH_BITS + SNAPSHOT_BITS)
                | (snapshot as u64) << (INDEX_BITS + DEPTH_BITS)
                | low
        };
        match self {
            Self::Root => ROOT,
            Self::Snapshots => ROOT + 1,
            Self::Latest => ROOT + 2,
            Self::Within(snapshot, part) => match part {
                Part::Top => of(1, snapshot, 0, 0),
                Part::Item(index) => of(2, snapshot, 0, index),
                Part::Attachment(index) => of(3, snapshot, 0, index),
                Part::Folder(index, depth) => of(4, snapshot, depth, index),
                Part::OfAttachments(byte) => of(5, snapshot, 0, byte.map_or(0, |byte| usize::from(byte) + 1)),
            },
        }
    }

    /// Returns the place that a number means, whether or not anything is there.
    pub fn of_number(number: u64) -> Option<Self> {
        let bits = |from: u32, count: u32| ((number >> from) & ((1 << count) - 1)) as usize;
        let kind = number >> (INDEX_BITS + DEPTH_BITS + SNAPSHOT_BITS);
        let (snapshot, depth) = (bits(INDEX_BITS + DEPTH_BITS, SNAPSHOT_BITS), bits(INDEX_BITS, DEPTH_BITS));
        let index = bits(0, INDEX_BITS);
        let part = match kind {
            0 => {
                return [Self::Root, Self::Snapshots, Self::Latest]
                    .into_iter()
                    .find(|place| place.number() == number);
            }
            1 => Part::Top,
            2 => Part::Item(index),
            3 => Part::Attachment(index),
            4 => Part::Folder(index, depth),
            5 => Part::OfAttachments(index.checked_sub(1).map(u8::try_from).transpose().ok()?),
            _ => return None,
        };
        Some(Self::Within(snapshot, part))
    }
}

/// What lies at a place of a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Lying {
    /// Which part.
    pub part: Part,
    /// What is known of it.
    pub entry: Entry,
    /// Its content; `None` for a folder.
    pub content: Option<Content>,
}

/// Returns what lies at a path; the empty one is the folder of the snapshot.
pub fn at_path(tree: &Tree, path: &str) -> Option<Lying> {
    if path.is_empty() {
        return Some(Lying { part: Part::Top, entry: tree.empty_folder(path), content: None });
    }
    let folder = |part| Some(Lying { part, entry: tree.empty_folder(path), content: None });
    if let Some((entry, content)) = tree.file(path) {
        let part = match tree.place_of_item(path) {
            Some(index) => Part::Item(index),
            None => Part::Attachment(tree.place_of_attachment(&entry)?),
        };
        return Some(Lying { part, entry, content: Some(content) });
    }
    if let Some(byte) = tree.folder_of_attachments(path) {
        return folder(Part::OfAttachments(byte));
    }
    folder(Part::Folder(tree.first_below(path)?, path.split('/').count()))
}

/// Returns what lies at a part.
pub fn at_part(tree: &Tree, part: Part) -> Option<Lying> {
    let file = |(entry, content)| Some(Lying { part, entry, content: Some(content) });
    match part {
        Part::Top => at_path(tree, ""),
        Part::Item(index) => file(tree.items().get(index)?.clone()),
        Part::Attachment(index) => file(tree.attachment_at(index)?),
        Part::Folder(index, depth) => {
            let path = &tree.items().get(index)?.0.path;
            let end = path.match_indices('/').nth(depth.checked_sub(1)?)?.0;
            at_path(tree, &path[..end]).filter(|lying| lying.part == part)
        }
        Part::OfAttachments(byte) => {
            let path = Tree::path_of_folder_of_attachments(byte);
            at_path(tree, &path).filter(|lying| lying.part == part)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_its_place_and_no_other() {
        let parts = [
            Part::Top,
            Part::Item(0),
            Part::Item(u32::MAX as usize),
            Part::Attachment(7),
            Part::Folder(3, 256),
            Part::OfAttachments(None),
            Part::OfAttachments(Some(0)),
            Part::OfAttachments(Some(255)),
        ];
        let within = parts
            .iter()
            .flat_map(|part| [0, 1, SNAPSHOTS_MAX - 1].map(|snapshot| Place::Within(snapshot, *part)));
        let places: Vec<Place> =
            [Place::Root, Place::Snapshots, Place::Latest].into_iter().chain(within).collect();
        let numbers: std::collections::BTreeSet<u64> = places.iter().map(|place| place.number()).collect();
        assert_eq!(numbers.len(), places.len());
        assert!(places.iter().all(|place| Place::of_number(place.number()) == Some(*place)));
        for number in [0, 4, 99, u64::MAX, (5 << 60) | 257] {
            assert_eq!(Place::of_number(number), None, "{number:x}");
        }
    }
}
