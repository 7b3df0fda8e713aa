//! The rules of the objects, and chains against bookkeeping page by page.

use proptest::prelude::*;

use super::object::RUN_BYTES;
use super::*;
use crate::format::object::tests::reseal;
use crate::format::{FormatErrorKind, PageHash, PageHashDelta, PageHashes};

const PAGE_SIZE: u32 = 512;

fn run(start_page: u64, pages: u32, blob_index: u32, blob_offset: u64) -> Run {
    Run { start_page, pages, blob_index, blob_offset }
}

fn object(kind: PageMapKind, page_count: u64, blobs: &[u8], runs: Vec<Run>) -> PageMapObject {
    let blobs = blobs.iter().map(|number| BlobId::of(&[*number])).collect();
    PageMapObject { kind, page_size: PAGE_SIZE, page_count, blobs, runs }
}

fn keyframe(page_count: u64, blobs: &[u8], runs: Vec<Run>) -> PageMapObject {
    object(PageMapKind::Keyframe, page_count, blobs, runs)
}

fn delta(page_count: u64, blobs: &[u8], runs: Vec<Run>) -> PageMapObject {
    object(PageMapKind::Delta, page_count, blobs, runs)
}

#[test]
fn empty_and_small_objects_have_the_sizes_of_the_format() {
    assert_eq!(delta(0, &[], vec![]).encode().len(), 58);
    assert_eq!(delta(9, &[1], vec![run(8, 1, 0, 0)]).encode().len(), 114);
}

#[test]
fn runs_that_break_a_rule_are_refused() {
    let good = keyframe(10, &[1], vec![run(2, 3, 0, 0), run(5, 5, 0, 0)]);
    assert_eq!(PageMapObject::decode(&good.encode()).unwrap(), good);
    let last = run(5, 5, 0, u64::MAX - 5 * u64::from(PAGE_SIZE));
    PageMapObject::decode(&keyframe(10, &[1], vec![last]).encode()).unwrap();
    for bad in [
        run(5, 0, 0, 0),
        run(5, 6, 0, 0),
        run(5, 5, 1, 0),
        run(4, 1, 0, 0),
        run(0, 1, 0, 0),
        run(2, 3, 0, 0),
        run(5, u32::MAX, 0, 0),
        run(u64::MAX, 1, 0, 0),
        run(u64::MAX - 1, 5, 0, 0),
        run(5, 5, 0, u64::MAX - 1),
        run(5, 5, 0, u64::MAX - 5 * u64::from(PAGE_SIZE) + 1),
    ] {
        let mut object = good.encode();
        let record = object.len() - 32 - RUN_BYTES;
        object[record..record + 8].copy_from_slice(&bad.start_page.to_le_bytes());
        object[record + 8..record + 12].copy_from_slice(&bad.pages.to_le_bytes());
        object[record + 12..record + 16].copy_from_slice(&bad.blob_index.to_le_bytes());
        object[record + 16..record + 24].copy_from_slice(&bad.blob_offset.to_le_bytes());
        let error = PageMapObject::decode(&reseal(object)).unwrap_err();
        assert_eq!(error.kind(), FormatErrorKind::Corrupt, "{bad:?}");
    }
}

#[test]
fn tables_that_do_not_fill_the_object_are_refused() {
    let good = keyframe(10, &[1, 2], vec![run(0, 10, 0, 0)]).encode();
    for (field, values) in [(18, [0, 1, 3, u32::MAX]), (18 + 4 + 64, [0, 2, 3, u32::MAX])] {
        for value in values {
            let mut object = good.clone();
            object[field..field + 4].copy_from_slice(&value.to_le_bytes());
            assert!(PageMapObject::decode(&reseal(object)).is_err(), "{field} {value}");
        }
    }
}

#[test]
fn a_run_fits_its_blob_or_not_without_wrapping() {
    assert!(run(0, 2, 0, 512).fits(512, 1536));
    assert!(!run(0, 2, 0, 513).fits(512, 1536));
    assert!(!run(0, 2, 0, u64::MAX).fits(512, 1536));
    assert!(!run(0, u32::MAX, 0, 0).fits(u32::MAX, 1536));
}

#[test]
fn a_delta_splits_the_run_it_lands_in() {
    let mut map = PageMap::from_keyframe(&keyframe(10, &[1], vec![run(0, 10, 0, 0)])).unwrap();
    map.apply(&delta(10, &[2], vec![run(3, 2, 0, 0)])).unwrap();
    let runs: Vec<_> = map.runs().copied().collect();
    assert_eq!(runs, [run(0, 3, 0, 0), run(3, 2, 1, 0), run(5, 5, 0, 5 * 512)]);
    map.coverage().unwrap();
}

/// Returns the numbers of the blobs of the map.
fn blobs(map: &PageMap) -> Vec<u8> {
    let number = |id: &BlobId| (0..=u8::MAX).find(|number| BlobId::of(&[*number]) == *id).unwrap();
    map.blobs().map(number).collect()
}

#[test]
fn shrinking_keeps_the_blobs_that_no_run_uses_until_the_next_object() {
    let mut map =
        PageMap::from_keyframe(&keyframe(4, &[1, 2], vec![run(0, 2, 0, 0), run(2, 2, 1, 0)])).unwrap();
    map.apply(&delta(1, &[3], vec![])).unwrap();
    assert_eq!(blobs(&map), [1, 2, 3]);
    assert_eq!(map.runs().copied().collect::<Vec<_>>(), [run(0, 1, 0, 0)]);
    assert_eq!(map.to_keyframe(), keyframe(1, &[1], vec![run(0, 1, 0, 0)]));
    map.apply(&delta(1, &[], vec![])).unwrap();
    assert_eq!(blobs(&map), [1]);
}

#[test]
fn a_blob_whose_pages_were_all_rewritten_is_none_of_the_map() {
    let two = vec![run(0, 2, 0, 0), run(2, 2, 1, 0)];
    let mut map = PageMap::from_keyframe(&keyframe(4, &[1, 2], two)).unwrap();
    map.apply(&delta(4, &[3], vec![run(2, 1, 0, 0)])).unwrap();
    assert_eq!(blobs(&map), [1, 2, 3]);
    map.apply(&delta(4, &[4], vec![run(2, 2, 0, 0)])).unwrap();
    assert_eq!(blobs(&map), [1, 4]);
    map.apply(&delta(4, &[2], vec![run(1, 3, 0, 0)])).unwrap();
    assert_eq!(blobs(&map), [1, 2]);
}

#[test]
fn a_blob_named_twice_in_a_table_is_one_blob() {
    let object = keyframe(2, &[7, 7], vec![run(0, 1, 0, 0), run(1, 1, 1, 512)]);
    let map = PageMap::from_keyframe(&object).unwrap();
    assert_eq!(map.blobs().count(), 1);
    assert!(map.runs().all(|run| run.blob_index == 0));
}

#[test]
fn each_page_lies_where_its_run_says() {
    let map =
        PageMap::from_keyframe(&keyframe(5, &[1, 2], vec![run(0, 3, 1, 512), run(3, 2, 0, 0)])).unwrap();
    let pages: Vec<Option<Run>> = (0..6).map(|page| map.page(page)).collect();
    let expected =
        [run(0, 1, 1, 512), run(1, 1, 1, 1024), run(2, 1, 1, 1536), run(3, 1, 0, 0), run(4, 1, 0, 512)];
    assert_eq!(pages, expected.map(Some).into_iter().chain([None]).collect::<Vec<_>>());
}

#[test]
fn a_gap_anywhere_is_no_coverage() {
    let covered = |page_count, runs| {
        PageMap::from_keyframe(&keyframe(page_count, &[1], runs)).unwrap().coverage().is_ok()
    };
    assert!(covered(0, vec![]));
    assert!(covered(3, vec![run(0, 1, 0, 0), run(1, 2, 0, 0)]));
    assert!(!covered(1, vec![]));
    assert!(!covered(3, vec![run(1, 2, 0, 0)]));
    assert!(!covered(3, vec![run(0, 1, 0, 0), run(2, 1, 0, 0)]));
    assert!(!covered(3, vec![run(0, 2, 0, 0)]));
}

#[test]
fn a_delta_that_does_not_apply_changes_nothing() {
    let start = keyframe(10, &[1], vec![run(0, 10, 0, 0)]);
    let mut map = PageMap::from_keyframe(&start).unwrap();
    let mut other_size = delta(10, &[], vec![]);
    other_size.page_size = 4096;
    for bad in [other_size, start.clone(), delta(10, &[2], vec![run(9, 2, 0, 0)])] {
        assert!(map.apply(&bad).is_err());
        assert_eq!(map.to_keyframe(), start);
        assert_eq!(map.blobs().count(), 1);
    }
    assert!(PageMap::from_keyframe(&delta(1, &[], vec![])).is_err());
}

/// One change: the new page count, and for each page whether it is rewritten.
fn change() -> impl Strategy<Value = Vec<bool>> {
    proptest::collection::vec(any::<bool>(), 0..60)
}

/// Returns the runs of the pages that are set, all in one blob, back to back.
fn runs_of(pages: &[bool]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut blob_offset = 0;
    for page in (0..pages.len()).filter(|page| pages[*page]) {
        match runs.last_mut() {
            Some(last) if last.end_page() == page as u64 => last.pages += 1,
            _ => runs.push(run(page as u64, 1, 0, blob_offset)),
        }
        blob_offset += u64::from(PAGE_SIZE);
    }
    runs
}

proptest! {
    #[test]
    fn a_chain_adds_up_to_what_page_by_page_bookkeeping_says(changes in proptest::collection::vec(change(), 1..8)) {
        let first_count = changes[0].len();
        let start = keyframe(first_count as u64, &[0], runs_of(&vec![true; first_count]));
        let mut map = PageMap::from_keyframe(&start).unwrap();
        let mut model: Vec<Option<(BlobId, u64)>> =
            (0..first_count as u64).map(|page| Some((BlobId::of(&[0]), page * 512))).collect();
        for (number, pages) in changes.iter().enumerate().skip(1) {
            let blob = number as u8;
            let object = delta(pages.len() as u64, &[blob], runs_of(pages));
            map.apply(&PageMapObject::decode(&object.encode()).unwrap()).unwrap();
            model.resize(pages.len(), None);
            let written = (0..pages.len()).filter(|page| pages[*page]);
            for (offset, page) in written.enumerate() {
                model[page] = Some((BlobId::of(&[blob]), offset as u64 * 512));
            }
        }
        let mut found = vec![None; model.len()];
        for run in map.runs() {
            for page in 0..u64::from(run.pages) {
                let place = (map.blob_of(run), run.blob_offset + page * 512);
                prop_assert!(found[(run.start_page + page) as usize].replace(place).is_none());
            }
        }
        prop_assert_eq!(&found, &model);
        prop_assert_eq!(map.coverage().is_ok(), model.iter().all(Option::is_some));
        let again = PageMap::from_keyframe(&PageMapObject::decode(&map.to_keyframe().encode()).unwrap()).unwrap();
        prop_assert_eq!(again.to_keyframe(), map.to_keyframe());
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let object = reseal([&b"MVMD\x01\0"[..], &bytes, &[0; 32]].concat());
        let _ = PageMapObject::decode(&object);
    }
}

/// A database as a naive model has it: for each page, which version of it is stored.
type Versions = Vec<u32>;

const MODEL_PAGE_BYTES: u32 = 512;

/// Returns the place of a version of a page: one blob for each version, with all pages that can be.
fn place_of(page: u64, version: u32) -> (BlobId, u64) {
    (BlobId::of(&version.to_le_bytes()), page * u64::from(MODEL_PAGE_BYTES))
}

fn hash_of(page: u64, version: u32) -> PageHash {
    PageHash::of(&[page.to_le_bytes(), u64::from(version).to_le_bytes()].concat())
}

/// Returns both objects of what changed from one database to the next, or of all of it.
fn objects_of(before: Option<&Versions>, after: &Versions) -> (PageMapObject, Vec<(u64, PageHash)>) {
    let mut blobs: Vec<BlobId> = Vec::new();
    let (mut runs, mut changes) = (Vec::new(), Vec::new());
    for (page, version) in (0u64..).zip(after) {
        if before.is_some_and(|before| before.get(page as usize) == Some(version)) {
            continue;
        }
        let (blob, blob_offset) = place_of(page, *version);
        let known = blobs.iter().position(|known| *known == blob);
        let blob_index = known.unwrap_or_else(|| {
            blobs.push(blob);
            blobs.len() - 1
        }) as u32;
        runs.push(Run { start_page: page, pages: 1, blob_index, blob_offset });
        changes.push((page, hash_of(page, *version)));
    }
    let kind = if before.is_some() { PageMapKind::Delta } else { PageMapKind::Keyframe };
    let (page_size, page_count) = (MODEL_PAGE_BYTES, after.len() as u64);
    (PageMapObject { kind, page_size, page_count, blobs, runs }, changes)
}

/// The next database: so many pages, and those that are written again.
fn next(before: &Versions, pages: usize, written: &[usize], version: u32) -> Versions {
    let mut after = before.clone();
    after.resize(pages, version);
    written.iter().filter(|page| **page < pages).for_each(|page| after[*page] = version);
    after
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn composed_deltas_do_what_a_model_page_by_page_does(
        first in 0usize..24,
        steps in proptest::collection::vec((0usize..24, proptest::collection::vec(0usize..24, 0..5)), 1..8),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut histories: Vec<Versions> = vec![next(&Vec::new(), first, &[], 0)];
        for (version, (pages, written)) in (1u32..).zip(&steps) {
            let after = next(histories.last().unwrap(), *pages, written, version);
            histories.push(after);
        }
        // The chain up to some snapshot is kept as it is; what follows becomes one delta.
        let base = cut.index(histories.len() - 1);
        let (keyframe, hashes) = objects_of(None, &histories[base]);
        let mut map = PageMap::from_keyframe(&keyframe).unwrap();
        let page_size = MODEL_PAGE_BYTES;
        let mut hashes = PageHashes { page_size, hashes: hashes.into_iter().map(|(_, hash)| hash).collect() };
        let (mut maps, mut changes) = (Vec::new(), Vec::new());
        for pair in histories[base..].windows(2) {
            let (delta, changed) = objects_of(Some(&pair[0]), &pair[1]);
            maps.push(delta);
            changes.push(PageHashDelta { page_size, page_count: pair[1].len() as u64, changes: changed });
        }
        let composed = PageMapObject::composed(&maps).unwrap();
        prop_assert_eq!(composed.kind, PageMapKind::Delta);
        let composed = PageMapObject::decode(&composed.encode()).unwrap();
        map.apply(&composed).unwrap();
        map.coverage().unwrap();
        let composed = PageHashDelta::composed(&changes).unwrap();
        hashes.apply(&PageHashDelta::decode(&composed.encode()).unwrap()).unwrap();
        let last = histories.last().unwrap();
        prop_assert_eq!(map.page_count(), last.len() as u64);
        prop_assert_eq!(hashes.page_count(), last.len() as u64);
        for (page, version) in (0u64..).zip(last) {
            let run = map.page(page).unwrap();
            prop_assert_eq!((map.blob_of(&run), run.blob_offset), place_of(page, *version));
            prop_assert_eq!(hashes.get(page), Some(&hash_of(page, *version)));
        }
    }
}

#[test]
fn no_deltas_and_those_of_other_page_sizes_are_not_composed() {
    assert!(PageMapObject::composed(&[]).is_err() && PageHashDelta::composed(&[]).is_err());
    let (mut one, _) = objects_of(Some(&vec![0]), &vec![1]);
    let other = one.clone();
    one.page_size = 1024;
    assert!(PageMapObject::composed(&[one, other]).is_err());
    let of = |page_size| PageHashDelta { page_size, page_count: 0, changes: Vec::new() };
    assert!(PageHashDelta::composed(&[of(512), of(1024)]).is_err());
}
