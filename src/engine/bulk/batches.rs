//! What is fetched with one request: neighbours of one pack, or one large blob.

use std::ops::Range;

use super::BlobVisitor;
use crate::format::pack::Entry;

/// Bytes fetched with one request, gaps included. Of a pack that is wanted whole, these follow each other
/// without a gap, so several of them under way are as good as one request for all of it.
const BATCH_BYTES: u64 = 4 * 1024 * 1024;
/// Unwanted bytes between two blobs that are fetched along rather than asked around.
const GAP_BYTES_MAX: u64 = 64 * 1024;
/// Blobs in one batch.
const BATCH_BLOBS_MAX: usize = 4096;
/// A blob up to this size, stored and raw, is decoded whole where its visitor can also take pieces.
const WHOLE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What is fetched and decoded together.
pub(super) enum Batch {
    /// Neighbours within one range of the pack.
    Small(Range<u64>, Vec<Entry>),
    /// One blob, fetched whole.
    Whole(Entry),
    /// One blob, fetched in pieces.
    Pieces(Entry),
}

/// Cuts the entries of one pack, ordered by offset, into batches.
pub(super) fn cut<V: BlobVisitor>(entries: Vec<Entry>, visitor: &V) -> Vec<Batch> {
    let mut batches = Vec::new();
    let mut open: Option<(Range<u64>, Vec<Entry>)> = None;
    for entry in entries {
        let size = entry.raw_bytes.max(entry.stored_bytes);
        if size > WHOLE_BYTES_MAX {
            let pieces = visitor.takes_pieces(&entry.id);
            batches.push(if pieces { Batch::Pieces(entry) } else { Batch::Whole(entry) });
            continue;
        }
        let end = entry.offset + entry.stored_bytes;
        match &mut open {
            Some((range, together))
                if entry.offset <= range.end.saturating_add(GAP_BYTES_MAX)
                    && end - range.start <= BATCH_BYTES
                    && together.len() < BATCH_BLOBS_MAX =>
            {
                range.end = range.end.max(end);
                together.push(entry);
            }
            _ => {
                let next = (entry.offset..end, vec![entry]);
                batches.extend(open.replace(next).map(|(range, together)| Batch::Small(range, together)));
            }
        }
    }
    batches.extend(open.map(|(range, together)| Batch::Small(range, together)));
    batches
}
