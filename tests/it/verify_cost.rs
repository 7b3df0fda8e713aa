//! The danger: the cost of `verify --all` grows with the number of snapshots and not with what is stored, so
//! that nobody can afford it any more after a year of daily snapshots.
//!
//! The storage is asked what was read of each pack; nothing is timed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use packvault::engine::report::VerifyReport;
use packvault::engine::verify::{VerifyOptions, verify};
use packvault::engine::{Selection, init};
use packvault::profiles::msgvault::Msgvault;
use packvault::repo::Repository;
use packvault_sample::SampleOptions;
use packvault_storage::{Key, MemoryStorage, Operation, RecordStorage};

use crate::support::anatomy::{Role, dissect, pack_key};
use crate::support::memory_repo::*;

/// What is read of the end of a pack to find its footer.
const TAIL_BYTES: u64 = 64 * 1024;

/// What was read of one object: in how many calls, and how many bytes.
type Reads = BTreeMap<String, (u64, u64)>;

async fn reads_of_verify(storage: &MemoryStorage, quick: bool) -> Reads {
    let (report, reads) = verify_counted(storage, quick).await;
    assert!(report.ok, "{:#?}", report.problems);
    reads
}

async fn verify_counted(storage: &MemoryStorage, quick: bool) -> (VerifyReport, Reads) {
    let record = RecordStorage::new(shared(storage));
    let repository = Repository::open(Arc::new(record.clone())).await.unwrap();
    // Without the paths, which take a second reading of the database pages, on request.
    let options = VerifyOptions { depth: depth(quick), paths: false, ..VerifyOptions::default() };
    let report = verify(&repository, Arc::new(Msgvault), Selection::All, options, &context()).await.unwrap();
    let mut reads = Reads::new();
    for call in record.calls() {
        if call.operation == Operation::Read {
            let sum = reads.entry(call.object).or_default();
            *sum = (sum.0 + 1, sum.1 + call.bytes);
        }
    }
    (report, reads)
}

/// An archive whose first pack is much larger than what is read to find its footer.
async fn repository(snapshots: usize) -> MemoryStorage {
    let (storage, archive) = (MemoryStorage::new(), Archive::make(&SampleOptions::default()));
    fill(&storage, &archive, snapshots).await;
    storage
}

#[test]
fn every_byte_of_a_pack_is_read_once_however_many_snapshots_share_it() {
    runtime().block_on(async {
        let mut first_packs = vec![];
        for snapshots in [2, 10] {
            let storage = repository(snapshots).await;
            let repo = dissect(&storage);
            let reads = reads_of_verify(&storage, false).await;
            for (pack, (key, entries)) in &repo.packs {
                let size =
                    storage.objects().into_iter().find(|(found, _)| found == key).unwrap().1.len() as u64;
                let metadata: u64 = entries
                    .iter()
                    .filter(|entry| repo.snapshots.iter().any(|found| is_metadata(found, &entry.id)))
                    .map(|entry| entry.stored_bytes)
                    .sum();
                let (calls, bytes) = reads[pack_key(pack).as_str()];
                // Frames once, the end once for the footer, and maps, lists and trees once more at most.
                let allowed = size + size.min(TAIL_BYTES) + 6 + metadata;
                assert!(bytes <= allowed, "{snapshots} snapshots: {bytes} of {size} bytes read of {pack}");
                assert!(calls <= 4 + 3 * entries.len() as u64, "{snapshots} snapshots: {calls} calls");
            }
            first_packs.push(reads[pack_key(repo.packs.keys().next().unwrap()).as_str()]);
        }
        assert_eq!(first_packs[0], first_packs[1], "calls and bytes for the pack that all of them share");
    });
}

fn is_metadata(found: &crate::support::anatomy::Anatomy, id: &packvault::format::BlobId) -> bool {
    let object = |role: &Role| matches!(role, Role::PageMap | Role::PageHashes | Role::List | Role::Tree);
    found.needs.get(id).is_some_and(|roles| roles.iter().any(object))
}

#[test]
fn a_quick_verify_reads_footers_and_metadata_alone() {
    runtime().block_on(async {
        let storage = repository(3).await;
        let repo = dissect(&storage);
        let reads = reads_of_verify(&storage, true).await;
        let (first, (key, _)) = repo.packs.iter().next().unwrap();
        let size = storage.objects().into_iter().find(|(found, _)| found == key).unwrap().1.len() as u64;
        let (_, bytes) = reads[pack_key(first).as_str()];
        assert!(size > 8 * TAIL_BYTES, "the pack is large enough to tell: {size}");
        assert!(bytes < size / 4, "{bytes} of {size} bytes");
    });
}

#[test]
fn every_manifest_and_index_is_read_once() {
    runtime().block_on(async {
        let storage = repository(10).await;
        let reads = reads_of_verify(&storage, false).await;
        for (object, (calls, _)) in reads {
            if object.ends_with(".mvmanifest") || object.ends_with(".mvidx") {
                assert_eq!(calls, 1, "{object}");
            }
        }
    });
}

/// More packs than are kept open, so that whatever is read again is asked for again.
const MANY: usize = 80;

/// Snapshots of an archive of which little changes, so that chains are as long as they get.
async fn many_snapshots() -> MemoryStorage {
    let (storage, archive) = (MemoryStorage::new(), Archive::small());
    init::init(&storage).await.unwrap();
    for number in 0..MANY {
        archive.write(&format!("deletions/{number}.json"), b"{}");
        if number % 20 == 7 {
            archive.change();
        }
        capture(shared(&storage), &archive).await.unwrap();
    }
    storage
}

#[test]
fn what_many_snapshots_suffer_from_is_read_as_often_as_what_they_share() {
    runtime().block_on(async {
        let storage = many_snapshots().await;
        let repo = dissect(&storage);
        let deepest = repo.snapshots.iter().max_by_key(|found| found.manifest.db.map_chain_depth).unwrap();
        assert!(deepest.manifest.db.map_chain_depth >= 12, "the chains are long enough to tell");
        let calls = |reads: &Reads| {
            let packs = reads.iter().filter(|(object, _)| object.starts_with("packs/"));
            packs.map(|(_, (calls, _))| calls).sum::<u64>()
        };
        let sound = calls(&reads_of_verify(&storage, false).await);
        let first = &repo.snapshots[0];
        let of = |found: &crate::support::anatomy::Anatomy, role: Role| {
            *found.needs.iter().find(|(_, roles)| roles.contains(&role)).unwrap().0
        };
        let in_chain = |place: usize| {
            let id = deepest.chain.iter().nth(place).unwrap();
            repo.snapshots.iter().find(|found| found.manifest.snapshot_id == *id).unwrap()
        };
        let (keyframe, middle) = (in_chain(0), in_chain(4));
        let own = |text: &str| packvault::format::BlobId::parse(text).unwrap();
        let blobs = [
            ("a page blob", of(first, Role::PageBlob), MANY),
            ("a list", of(first, Role::List), 20),
            ("an attachment", of(first, Role::Attachment), MANY),
            ("the first page map", own(&keyframe.manifest.db.page_map), 12),
            ("the first page hashes", own(&keyframe.manifest.db.page_hash_map), 12),
            ("a page map in between", own(&middle.manifest.db.page_map), 8),
            ("page hashes in between", own(&middle.manifest.db.page_hash_map), 8),
        ];
        let mut cases: Vec<(&str, Key, usize, usize)> = Vec::new();
        for (name, blob, sufferers) in blobs {
            let place = &repo.blobs[&blob];
            let at = place.entry.offset as usize + place.entry.stored_bytes as usize / 2;
            cases.push((name, pack_key(&place.pack), at, sufferers));
        }
        let manifest = crate::support::anatomy::manifest_key(&middle.manifest.snapshot_id);
        cases.push(("a manifest in between", manifest, 100, 8));
        for (name, key, at, sufferers) in cases {
            let damaged = copy_of(&storage);
            let mut bytes =
                damaged.objects().into_iter().find(|(found, _)| *found == key).unwrap().1.to_vec();
            bytes[at] ^= 1;
            damaged.put_raw(&key, bytes, SystemTime::now());
            let (report, reads) = verify_counted(&damaged, false).await;
            let named: BTreeSet<&String> =
                report.problems.iter().filter_map(|problem| problem.snapshot.as_ref()).collect();
            assert!(named.len() >= sufferers, "{name}: {} suffer", named.len());
            for (object, (calls, _)) in reads.iter().filter(|(object, _)| object.ends_with(".mvmanifest")) {
                assert!(*calls <= 2, "{name}: {object} is read {calls} times");
            }
            let found = calls(&reads);
            // To survey the other half of a damaged chain, and to lay what is wrong to snapshots: once each.
            assert!(found <= sound + 2 * MANY as u64, "{name}: {found} requests, {sound} where all is sound");
        }
    });
}
