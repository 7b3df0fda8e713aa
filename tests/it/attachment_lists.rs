//! The danger: the lists of a snapshot, inherited and new, do not add up to the attachments that it has. Verify
//! would call the snapshot damaged, and a restore would refuse it, on the day it is needed.
//!
//! Attachments come and go at random over some days. After each, the lists are read from the packs by hand and
//! compared with the files of the archive.

use std::collections::{BTreeMap, HashMap};

use packvault::engine::init;
use packvault::format::pack::{Footer, Trailer};
use packvault::format::{
    BlobId, Decompressor, Manifest, SUPPORTED_READER_LEVEL, SnapshotId, attachment_list,
};
use packvault_sample::{self as sample, Change, SampleOptions};
use packvault_storage::MemoryStorage;
use proptest::prelude::*;

use crate::support::memory_repo::*;

/// The attachments of a snapshot and their sizes.
type Population = BTreeMap<BlobId, u64>;

/// New rows and removed rows of one day.
fn days() -> impl Strategy<Value = Vec<(u32, u32)>> {
    let removed = prop_oneof![3 => Just(0u32), 1 => 1u32..4];
    prop::collection::vec((0u32..4, removed), 1..7)
}

fn few_attachments() -> Archive {
    Archive::make(&SampleOptions {
        messages: 5,
        attachments: 3,
        attachment_mean_bytes: 200,
        page_size: 512,
        full_text: false,
        raw: false,
        body_words: 10,
        ..SampleOptions::default()
    })
}

fn population(archive: &Archive) -> Population {
    let files = archive.expected().into_iter().filter(|(path, _)| path.starts_with("attachments/"));
    files.map(|(_, bytes)| (BlobId::of(&bytes), bytes.len() as u64)).collect()
}

/// Reads every blob of every pack.
fn blobs(storage: &MemoryStorage) -> HashMap<BlobId, Vec<u8>> {
    let mut blobs = HashMap::new();
    for (_, file) in storage.objects().into_iter().filter(|(key, _)| key.as_str().starts_with("packs/")) {
        let trailer = Trailer::parse(&file, file.len() as u64).unwrap();
        let region = &file[trailer.footer_offset() as usize..][..trailer.region_bytes() as usize];
        for entry in Footer::parse(region, &trailer, file.len() as u64).unwrap().entries() {
            let stored = &file[entry.offset as usize..][..entry.stored_bytes as usize];
            blobs.insert(entry.id, Decompressor::new().decode(entry, stored).unwrap().to_vec());
        }
    }
    blobs
}

fn manifest(storage: &MemoryStorage, id: &str) -> Manifest {
    let wanted = key(&format!("snapshots/{id}.mvmanifest"));
    let (_, file) = storage.objects().into_iter().find(|(key, _)| *key == wanted).unwrap();
    Manifest::load(&SnapshotId::parse(id).unwrap(), &file, SUPPORTED_READER_LEVEL).unwrap()
}

/// Makes a snapshot, and returns its lists; they hold what the archive holds, each attachment once.
async fn lists_after_create(storage: &MemoryStorage, archive: &Archive) -> (Vec<BlobId>, Population) {
    let id = capture(shared(storage), archive).await.unwrap().id.unwrap();
    let manifest = manifest(storage, &id);
    let lists = manifest.lists().unwrap();
    assert_eq!(manifest.attachments.lists.is_none(), lists.is_empty(), "no list is null, not empty");
    let blobs = blobs(storage);
    let listed: Vec<_> =
        lists.iter().flat_map(|list| attachment_list::decode(&blobs[list]).unwrap()).collect();
    let union: Population = listed.iter().map(|attachment| (attachment.id, attachment.bytes)).collect();
    assert_eq!(union.len(), listed.len(), "nothing is listed twice");
    assert_eq!(union, population(archive));
    assert_eq!(manifest.attachments.blobs as usize, union.len());
    assert_eq!(manifest.attachments.blob_bytes as u64, union.values().sum::<u64>());
    (lists, union)
}

async fn live(days: &[(u32, u32)]) {
    let (storage, archive) = (MemoryStorage::new(), few_attachments());
    init::init(&storage).await.unwrap();
    let (mut lists, mut union) = lists_after_create(&storage, &archive).await;
    for (added, removed) in days {
        let change = Change {
            add_attachments: Some(*added),
            remove_attachments: Some(*removed),
            insert_fraction: 0.3,
            ..Change::nothing()
        };
        sample::mutate(&archive.home(), &change).unwrap();
        let (new_lists, new_union) = lists_after_create(&storage, &archive).await;
        let is_gone = union.keys().any(|id| !new_union.contains_key(id));
        let is_new = new_union.keys().any(|id| !union.contains_key(id));
        if is_gone {
            assert!(new_lists.len() <= 1, "one fresh list of everything");
        } else {
            assert_eq!(new_lists[..lists.len()], lists, "the inherited ones first");
            assert_eq!(new_lists.len(), lists.len() + usize::from(is_new), "one more for what is new");
        }
        (lists, union) = (new_lists, new_union);
    }
    assert_sound(shared(&storage), "after all days").await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn lists_add_up_to_the_attachments_whatever_comes_and_goes(days in days()) {
        runtime().block_on(live(&days));
    }
}
