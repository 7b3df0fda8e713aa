//! Page-map chains, against bookkeeping page by page.
//!
//! Input: whether objects are whole or made from choices, then either pieces, each an object without its hash,
//! or the choices. The first keyframe starts the chain.

use std::collections::BTreeSet;

use packvault::format::{BlobId, PageMap, PageMapKind, PageMapObject, Run};

use super::input::Input;
use super::objects::sealed;

/// Databases with more pages are read, but not kept page by page here.
const MODEL_PAGES_MAX: u64 = 1 << 14;
const PAGE_SIZE: u32 = 512;

/// A map as the naive mind keeps it.
struct Chain {
    map: PageMap,
    /// Blob and offset of each page; nothing if the database is too large.
    pages: Option<Vec<Option<(BlobId, u64)>>>,
}

/// Reads the objects and adds them up.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let is_whole = input.choice();
    let mut chain: Option<Chain> = None;
    while !input.is_empty() {
        let object = if is_whole { decoded(input.piece()) } else { composed(&mut input, chain.is_some()) };
        match (object, &mut chain) {
            (Some(object), Some(chain)) if object.kind == PageMapKind::Delta => chain.apply(&object),
            (Some(object), _) => chain = Chain::start(&object).or(chain),
            (None, _) => {}
        }
    }
}

fn decoded(body: &[u8]) -> Option<PageMapObject> {
    let bytes = sealed(body);
    let object = PageMapObject::decode(&bytes).ok()?;
    assert!(object.encode() == bytes, "what was read is written the same");
    Some(object)
}

/// Makes an object that keeps the rules, from few bytes.
fn composed(input: &mut Input<'_>, is_later: bool) -> Option<PageMapObject> {
    let kind = if is_later { PageMapKind::Delta } else { PageMapKind::Keyframe };
    let blobs: Vec<BlobId> = (0..input.below(4) + 1).map(|_| BlobId::of(&[input.byte() % 8])).collect();
    let page_count = u64::from(input.byte());
    let mut runs: Vec<Run> = Vec::new();
    let mut next_page = 0;
    for _ in 0..input.below(12) {
        let start_page = next_page + input.below(8) as u64;
        let pages = 1 + input.below(32) as u32;
        if start_page + u64::from(pages) > page_count {
            break;
        }
        let (blob_index, blob_offset) = (input.below(blobs.len()) as u32, u64::from(input.u16()));
        runs.push(Run { start_page, pages, blob_index, blob_offset });
        next_page = start_page + u64::from(pages);
    }
    let object = PageMapObject { kind, page_size: PAGE_SIZE, page_count, blobs, runs };
    assert_eq!(PageMapObject::decode(&object.encode()), Ok(object.clone()));
    Some(object)
}

impl Chain {
    fn start(object: &PageMapObject) -> Option<Self> {
        let Ok(map) = PageMap::from_keyframe(object) else {
            assert_eq!(object.kind, PageMapKind::Delta, "a keyframe that was read can be used");
            return None;
        };
        let mut chain = Self { map, pages: Some(Vec::new()) };
        chain.note(object);
        chain.check(object, &BTreeSet::new());
        Some(chain)
    }

    fn apply(&mut self, delta: &PageMapObject) {
        let before = self.map.to_keyframe();
        if let Err(error) = self.map.apply(delta) {
            assert_ne!(delta.page_size, self.map.page_size(), "{error}");
            assert_eq!(self.map.to_keyframe(), before, "on failure nothing has changed");
            return;
        }
        let beyond = self.pages.iter().flat_map(|pages| pages.iter().skip(delta.page_count as usize));
        let beyond = beyond.flatten().map(|(blob, _)| *blob).collect();
        self.note(delta);
        self.check(delta, &beyond);
    }

    fn note(&mut self, object: &PageMapObject) {
        if object.page_count > MODEL_PAGES_MAX {
            self.pages = None;
        }
        let Some(pages) = &mut self.pages else { return };
        pages.resize(object.page_count as usize, None);
        for run in &object.runs {
            for page in 0..u64::from(run.pages) {
                let place = run.blob_offset + page * u64::from(object.page_size);
                let blob = object.blobs[run.blob_index as usize];
                pages[(run.start_page + page) as usize] = Some((blob, place));
            }
        }
    }

    fn check(&self, last: &PageMapObject, beyond: &BTreeSet<BlobId>) {
        let keyframe = self.map.to_keyframe();
        assert_eq!(PageMapObject::decode(&keyframe.encode()).as_ref(), Ok(&keyframe));
        let Some(pages) = &self.pages else { return };
        for (number, page) in pages.iter().enumerate() {
            let run = self.map.page(number as u64);
            assert_eq!(run.map(|run| (self.map.blob_of(&run), run.blob_offset)), *page, "page {number}");
        }
        assert_eq!(self.map.page(pages.len() as u64), None);
        assert_eq!(self.map.coverage().is_ok(), pages.iter().all(Option::is_some));
        let mapped: u64 = self.map.runs().map(|run| u64::from(run.pages)).sum();
        assert_eq!(mapped, pages.iter().flatten().count() as u64);
        let mut expected: BTreeSet<BlobId> = pages.iter().flatten().map(|(blob, _)| *blob).collect();
        expected.extend(last.blobs.iter().chain(beyond));
        let found: Vec<BlobId> = self.map.blobs().copied().collect();
        assert_eq!(found.len(), expected.len(), "each blob once");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}
