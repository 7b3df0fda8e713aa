//! The danger: a repository whose objects are all well formed, with true hashes, tells lies: a map points
//! past its blob, a list a wrong size, a chain nowhere, a frame swells to gigabytes. Whoever believes it
//! restores rubbish, calls rubbish sound, or runs out of memory.

use std::collections::BTreeMap;
use std::time::Duration;

use packvault::engine::Selection;
use packvault::engine::report::VerifyReport;
use packvault::format::{
    BlobFlags, BlobId, Compressor, ExtrasEntry, ListedAttachment, Manifest, PageHash, PageHashDelta,
    PageHashes, PageMapKind, PageMapObject, Run, StreamCompressor, attachment_list, extras_tree,
};
use packvault::{ErrorKind, Result};
use packvault_storage::MemoryStorage;

use crate::support::anatomy::{dissect, raw_of};
use crate::support::forge::Forge;
use crate::support::memory_repo::*;

/// A sound snapshot, in parts that can be changed and published anew.
struct Parts {
    storage: MemoryStorage,
    honest: Made,
    manifest: Manifest,
    map: PageMapObject,
    hashes: PageHashes,
    list: Vec<ListedAttachment>,
    tree: Vec<ExtrasEntry>,
}

impl Parts {
    async fn new() -> Self {
        let (storage, _archive, mut made) = repository_of(1).await;
        let repo = dissect(&storage);
        let objects: BTreeMap<_, _> = storage.objects().into_iter().collect();
        let raw = |id: &BlobId| raw_of(&objects, &repo.blobs[id]);
        let honest = repo.snapshots[0].manifest.clone();
        let manifest = Manifest {
            parent_id: honest.snapshot_id.clone(),
            created_at: "2031-01-01T00:00:00Z".into(),
            stats: packvault::format::go_json::compact_raw(&honest.stats),
            ..honest.clone()
        };
        Self {
            map: PageMapObject::decode(&raw(&honest.page_map().unwrap())).unwrap(),
            hashes: PageHashes::decode(&raw(&honest.page_hash_map().unwrap())).unwrap(),
            list: attachment_list::decode(&raw(&honest.lists().unwrap()[0])).unwrap(),
            tree: extras_tree::decode(&raw(&honest.extras_tree().unwrap().unwrap())).unwrap(),
            manifest,
            honest: made.remove(0),
            storage,
        }
    }

    fn forge(&self) -> Forge {
        Forge::new(&self.storage, 7)
    }

    /// Publishes the manifest with another page map.
    fn with_map(&self, map: PageMapObject) -> String {
        let mut forge = self.forge();
        let mut manifest = self.manifest.clone();
        manifest.db.page_map = forge.blob(&map.encode()).to_string();
        forge.seal();
        forge.publish(&manifest)
    }

    /// Publishes the manifest with other lists.
    fn with_lists(&self, lists: &[Vec<ListedAttachment>], count: usize, bytes: u64) -> String {
        let mut forge = self.forge();
        let mut manifest = self.manifest.clone();
        let ids = lists.iter().map(|list| forge.blob(&attachment_list::encode(list)).to_string());
        manifest.attachments.lists = Some(ids.collect());
        (manifest.attachments.blobs, manifest.attachments.blob_bytes) = (count as i64, bytes as i64);
        manifest.stats = manifest.stats.replace(
            &format!("\"attachment_blobs\":{}", self.list.len()),
            &format!("\"attachment_blobs\":{count}"),
        );
        forge.seal();
        forge.publish(&manifest)
    }

    fn list_bytes(&self) -> u64 {
        self.list.iter().map(|attachment| attachment.bytes).sum()
    }

    /// Publishes the manifest with another tree of extra files.
    fn with_tree(&self, paths: &[&str]) -> String {
        let mut forge = self.forge();
        let mut manifest = self.manifest.clone();
        let (size, blob) = (self.tree[0].size, self.tree[0].blob);
        let entries: Vec<ExtrasEntry> =
            paths.iter().map(|path| ExtrasEntry { path: (*path).into(), mode: 0o600, size, blob }).collect();
        manifest.extras_tree = forge.blob(&extras_tree::encode(&entries)).to_string();
        forge.seal();
        forge.publish(&manifest)
    }

    /// Expects the forged snapshot, and no other, to be named with these words.
    async fn expect(&self, id: &str, words: &[&str], seen_by_quick: bool) {
        let case = words.join(" / ");
        let verify = |quick| check(shared(&self.storage), Selection::All, quick);
        let report = bounded(verify(false)).await.unwrap();
        assert_names(&report, id, words, &case);
        let quick = bounded(verify(true)).await.unwrap();
        if seen_by_quick {
            assert_names(&quick, id, words, &format!("quick: {case}"));
        }
        self.expect_no_restore(id, &case).await;
    }

    async fn expect_no_restore(&self, id: &str, case: &str) {
        let folder = scratch();
        let target = folder.path().join("target");
        let restored = bounded(bring_back(shared(&self.storage), id, &target)).await;
        let Err(error) = restored else { panic!("{case}: was restored") };
        // Statistics that the proved pages do not show are the source's word against itself, not damage.
        let kinds = [ErrorKind::Damaged, ErrorKind::NotFound, ErrorKind::Source];
        assert!(kinds.contains(&error.kind()), "{case}: {error:?}");
        assert!(!target.exists(), "{case}: the target was touched");
        assert_comes_back(shared(&self.storage), &self.honest, case).await;
    }
}

/// Waits for an operation that must neither hang nor take long.
async fn bounded<T>(operation: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(Duration::from_secs(60), operation).await.expect("the operation ends")
}

fn assert_names(report: &VerifyReport, id: &str, words: &[&str], case: &str) {
    assert!(!report.ok, "{case}: called sound");
    let blamed = report.problems.iter().filter(|problem| problem.snapshot.as_deref() == Some(id));
    let told: Vec<String> = blamed.map(|problem| format!("{problem:?}")).collect();
    assert_eq!(told.len(), report.problems.len(), "{case}: {:#?}", report.problems);
    let is_told = |word: &&str| told.iter().any(|line| line.contains(*word));
    assert!(words.iter().all(is_told), "{case}: {told:#?}");
}

#[test]
fn a_run_beyond_the_end_of_its_blob_is_found() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let page_size = u64::from(parts.map.page_size);
        let last = parts.map.page_count - 1;
        let (mut map, blob) = (parts.map.clone(), parts.map.blobs[parts.map.runs[0].blob_index as usize]);
        let mut first = map.runs.remove(0);
        assert!(map.runs.is_empty(), "a small database is one run");
        first.pages -= 1;
        let blob_offset = last * page_size + 1;
        map.runs = vec![first, Run { start_page: last, pages: 1, blob_index: first.blob_index, blob_offset }];
        let id = parts.with_map(map);
        let page = format!("page {last} ");
        parts.expect(&id, &[&page, &blob.to_string(), "the blob ends before it"], false).await;
    });
}

#[test]
fn a_run_at_the_end_of_all_numbers_is_found() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let mut map = parts.map.clone();
        let length = u64::from(map.runs[0].pages) * u64::from(map.page_size);
        map.runs[0].blob_offset = u64::MAX - length;
        let id = parts.with_map(map);
        parts.expect(&id, &["page 0 "], false).await;
    });
}

#[test]
fn a_page_that_is_not_what_the_page_hash_map_says_is_found() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
        let mut hashes = parts.hashes.clone();
        hashes.hashes[3] = PageHash::of(b"another page");
        manifest.db.page_hash_map = forge.blob(&hashes.encode_keyframe()).to_string();
        forge.seal();
        let id = forge.publish(&manifest);
        parts.expect(&id, &["page 3 is not what the page-hash map says"], false).await;
    });
}

#[test]
fn maps_that_are_not_as_large_as_the_manifest_says_are_found() {
    runtime().block_on(async {
        for (change, words) in
            [(1i64, "the manifest says"), (-1, "the manifest says"), (1 << 60, "the manifest says")]
        {
            let parts = Parts::new().await;
            let mut manifest = parts.manifest.clone();
            manifest.db.page_count = manifest.db.page_count.wrapping_add_signed(change);
            let id = parts.forge().publish(&manifest);
            parts.expect(&id, &[words], false).await;
        }
        let parts = Parts::new().await;
        let mut manifest = parts.manifest.clone();
        manifest.db.page_size *= 2;
        let id = parts.forge().publish(&manifest);
        parts.expect(&id, &["the manifest says"], false).await;
    });
}

#[test]
fn a_map_with_a_gap_is_found() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let mut map = parts.map.clone();
        map.runs[0].pages -= 1;
        let id = parts.with_map(map);
        parts.expect(&id, &["the page map has a gap"], false).await;
    });
}

#[test]
fn a_page_size_that_no_database_has_is_refused() {
    runtime().block_on(async {
        for page_size in [0u32, 1, 3, 511, 4097, 1 << 17, u32::MAX] {
            let parts = Parts::new().await;
            let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
            let map = PageMapObject {
                page_size,
                runs: vec![Run { blob_offset: 0, ..parts.map.runs[0] }],
                ..parts.map.clone()
            };
            let hashes = PageHashes { page_size, ..parts.hashes.clone() };
            manifest.db.page_size = page_size;
            manifest.db.page_map = forge.blob(&map.encode()).to_string();
            manifest.db.page_hash_map = forge.blob(&hashes.encode_keyframe()).to_string();
            forge.seal();
            let id = forge.publish(&manifest);
            parts.expect(&id, &["page size"], false).await;
        }
    });
}

#[test]
fn a_delta_that_claims_more_pages_than_memory_holds_is_refused() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
        let page_count = 1u64 << 50;
        let run =
            |number: u64| Run { start_page: number << 32, pages: u32::MAX, blob_index: 0, blob_offset: 0 };
        let map = PageMapObject {
            kind: PageMapKind::Delta,
            page_count,
            runs: (0..1000).map(run).collect(),
            ..parts.map.clone()
        };
        let count = parts.hashes.page_count();
        let hashes = PageHashDelta { page_size: parts.hashes.page_size, page_count: count, changes: vec![] };
        manifest.db.page_map = forge.blob(&map.encode()).to_string();
        manifest.db.page_hash_map = forge.blob(&hashes.encode()).to_string();
        (manifest.db.page_count, manifest.db.map_chain_depth) = (page_count, 1);
        forge.seal();
        let id = forge.publish(&manifest);
        parts.expect(&id, &["the manifest says"], false).await;
    });
}

#[test]
fn a_map_that_scatters_pages_over_blobs_that_do_not_exist_costs_no_memory() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
        // Each of these pages lies far out in a blob of its own.
        let pages = 100_000u32;
        let blob = |page: u32| BlobId::of(&page.to_le_bytes());
        let run =
            |page: u32| Run { start_page: page.into(), pages: 1, blob_index: page, blob_offset: 255 << 20 };
        let map = PageMapObject {
            kind: PageMapKind::Keyframe,
            page_size: 512,
            page_count: pages.into(),
            blobs: (0..pages).map(blob).collect(),
            runs: (0..pages).map(run).collect(),
        };
        let hashes = PageHashes { page_size: 512, hashes: vec![PageHash::of(b""); pages as usize] };
        manifest.db.page_map = forge.blob(&map.encode()).to_string();
        manifest.db.page_hash_map = forge.blob(&hashes.encode_keyframe()).to_string();
        (manifest.db.page_size, manifest.db.page_count) = (512, pages.into());
        forge.seal();
        let id = forge.publish(&manifest);
        let report = bounded(check(shared(&parts.storage), Selection::All, false)).await.unwrap();
        let own = report.problems.iter().filter(|problem| problem.snapshot.as_ref() == Some(&id));
        assert_eq!(own.count(), pages as usize);
        parts.expect_no_restore(&id, "scattered pages").await;
    });
}

#[test]
fn a_listed_size_that_is_not_the_attachments_own_is_found() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let mut list = parts.list.clone();
        list[0].bytes += 1;
        let (blob, bytes) = (list[0].id.to_string(), parts.list_bytes() + 1);
        let id = parts.with_lists(&[list.clone()], list.len(), bytes);
        parts.expect(&id, &["an attachment list says it has", &blob], false).await;
    });
}

#[test]
fn totals_that_the_lists_do_not_add_up_to_are_found() {
    runtime().block_on(async {
        for (count, bytes) in [(1, 0), (0, 1)] {
            let parts = Parts::new().await;
            let list = parts.list.clone();
            let id =
                parts.with_lists(std::slice::from_ref(&list), list.len() + count, parts.list_bytes() + bytes);
            let report = bounded(check(shared(&parts.storage), Selection::All, false)).await.unwrap();
            assert_names(&report, &id, &["the lists have", "the manifest says"], "totals");
        }
    });
}

#[test]
fn an_attachment_that_is_listed_twice_is_found() {
    runtime().block_on(async {
        for split in [0, 1] {
            let parts = Parts::new().await;
            let twice = parts.list[0];
            let lists = match split {
                0 => vec![[parts.list.as_slice(), &[twice]].concat()],
                _ => vec![parts.list.clone(), vec![twice]],
            };
            let id = parts.with_lists(&lists, parts.list.len() + 1, parts.list_bytes() + twice.bytes);
            parts.expect(&id, &["is listed twice", &twice.id.to_string()], false).await;
        }
    });
}

#[test]
fn an_attachment_that_the_database_does_not_expect_keeps_the_snapshot_from_being_restored() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let (mut forge, mut list) = (Forge::new(&parts.storage, 8), parts.list.clone());
        let id = forge.blob(b"more");
        forge.seal();
        list.push(ListedAttachment { id, bytes: 4 });
        let id = parts.with_lists(&[list.clone()], list.len(), parts.list_bytes() + 4);
        parts.expect_no_restore(&id, "unexpected attachment").await;
        let id = parts.with_lists(&[parts.list[1..].to_vec()], list.len() - 2, 0);
        parts.expect_no_restore(&id, "attachment that no list has").await;
    });
}

#[test]
fn statistics_that_count_other_attachments_are_found() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let mut manifest = parts.manifest.clone();
        let count = format!("\"attachment_blobs\":{}", parts.list.len());
        assert!(manifest.stats.contains(&count));
        manifest.stats = manifest.stats.replace(&count, "\"attachment_blobs\":9999");
        let id = parts.forge().publish(&manifest);
        parts.expect(&id, &["the statistics count 9999 attachments"], false).await;
    });
}

#[test]
fn statistics_that_the_database_does_not_show_fail_the_proof() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let mut manifest = parts.manifest.clone();
        manifest.stats = manifest.stats.replace("\"messages\":40", "\"messages\":41");
        let id = parts.forge().publish(&manifest);
        assert_ne!(id, parts.honest.id);
        parts.expect_no_restore(&id, "other statistics").await;
    });
}

#[test]
fn extra_files_that_no_restore_could_put_back_are_found() {
    runtime().block_on(async {
        for paths in [
            &["a", "a/b"][..],
            &["a/b/c", "a/B"],
            &["a", "A"],
            &["a", "a"],
            &["caf\u{e9}", "cafe\u{301}"],
            &["../a"],
            &["a/../../b"],
            &["/a"],
            &["."],
            &[""],
            &["a. "],
            &["msgvault.db"],
            &["x/../MSGVAULT.DB-wal"],
            &["attachments/ab/cd"],
            &["attachment\u{17f}/x"],
        ] {
            let parts = Parts::new().await;
            let id = parts.with_tree(paths);
            parts.expect(&id, &["no restore could put the extra files back"], true).await;
        }
    });
}

#[test]
fn an_extra_file_of_another_size_is_found() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
        let mut entries = parts.tree.clone();
        entries[0].size += 1;
        manifest.extras_tree = forge.blob(&extras_tree::encode(&entries)).to_string();
        forge.seal();
        let id = forge.publish(&manifest);
        parts.expect(&id, &["the extras tree says it has"], false).await;
    });
}

#[test]
fn a_blob_that_is_no_object_of_its_kind_is_found() {
    runtime().block_on(async {
        for field in ["map", "hashes", "list", "tree"] {
            let parts = Parts::new().await;
            let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
            let garbage = forge.blob(b"no object").to_string();
            match field {
                "map" => manifest.db.page_map = garbage.clone(),
                "hashes" => manifest.db.page_hash_map = garbage.clone(),
                "list" => manifest.attachments.lists = Some(vec![garbage.clone()]),
                _ => manifest.extras_tree = garbage.clone(),
            }
            forge.seal();
            let id = forge.publish(&manifest);
            parts.expect(&id, &["it is no usable", &garbage], true).await;
        }
    });
}

#[test]
fn a_chain_that_leads_nowhere_is_found() {
    runtime().block_on(async {
        let missing = "20200101T000000Z-00000000000000000000000000000000";
        for (parent, depth, words) in [
            (Some(missing), 1, "which cannot be read"),
            (Some(""), 1, "names no parent"),
            (Some("../../config"), 1, "names no parent"),
            (Some(""), -1, "names no parent"),
            (None, -1, "ends without a keyframe"),
            (None, 0, "ends without a keyframe"),
        ] {
            let parts = Parts::new().await;
            let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
            let delta =
                PageMapObject { kind: PageMapKind::Delta, blobs: vec![], runs: vec![], ..parts.map.clone() };
            manifest.db.page_map = forge.blob(&delta.encode()).to_string();
            if let Some(parent) = parent {
                manifest.parent_id = parent.into();
            } else if depth != 0 {
                // The parent is a delta at depth 0 itself.
                let mut parent = manifest.clone();
                parent.created_at = "2030-01-01T00:00:00Z".into();
                parent.db.map_chain_depth = 0;
                manifest.parent_id = forge.publish(&parent);
            }
            manifest.db.map_chain_depth = depth;
            forge.seal();
            let id = forge.publish(&manifest);
            let report = bounded(check(shared(&parts.storage), Selection::All, true)).await.unwrap();
            let own = report.problems.iter().filter(|problem| problem.snapshot.as_ref() == Some(&id));
            let told: Vec<&String> = own.map(|problem| &problem.detail).collect();
            assert!(told.iter().any(|line| line.contains(words)), "{words}: {told:#?}");
            parts.expect_no_restore(&id, words).await;
        }
    });
}

#[test]
fn a_chain_of_thirty_steps_is_followed_and_one_of_thirty_one_is_given_up() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
        let map =
            PageMapObject { kind: PageMapKind::Delta, blobs: vec![], runs: vec![], ..parts.map.clone() };
        let (page_size, page_count) = (map.page_size, map.page_count);
        let hashes = PageHashDelta { page_size, page_count, changes: vec![] };
        manifest.db.page_map = forge.blob(&map.encode()).to_string();
        manifest.db.page_hash_map = forge.blob(&hashes.encode()).to_string();
        forge.seal();
        let mut ids = vec![];
        for step in 1..=31 {
            manifest.db.map_chain_depth = step;
            manifest.created_at = format!("2031-01-01T00:00:{step:02}Z");
            manifest.parent_id = forge.publish(&manifest);
            ids.push(manifest.parent_id.clone());
        }
        let report = bounded(check(shared(&parts.storage), Selection::All, false)).await.unwrap();
        assert_names(&report, &ids[30], &["more than 30 steps"], "31 steps");
        parts.expect_no_restore(&ids[30], "31 steps").await;
        let thirty = Made { id: ids[29].clone(), files: parts.honest.files.clone() };
        assert_comes_back(shared(&parts.storage), &thirty, "30 steps").await;
    });
}

#[test]
fn an_index_and_a_footer_that_disagree_are_found() {
    runtime().block_on(async {
        for change in 0..4 {
            let parts = Parts::new().await;
            let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
            // The same tree, in other words, so that it is a blob of its own.
            let mut tree = extras_tree::encode(&parts.tree);
            tree.push(b'\n');
            let id = forge.blob(&tree);
            match change {
                0 => forge.index_says(id, |entry| entry.offset += 1),
                1 => forge.index_says(id, |entry| entry.stored_bytes -= 1),
                2 => forge.index_says(id, |entry| entry.flags = BlobFlags::COMPRESSED),
                _ => {}
            }
            forge.blob(b"a frame behind it, so that the offset is still inside of the pack");
            let (tree, words) = match change {
                3 => (BlobId::of(b"never stored"), "the pack's footer does not hold it"),
                _ => (id, "the index and the pack's footer disagree"),
            };
            if change == 3 {
                forge.index_invents(tree);
            }
            manifest.extras_tree = tree.to_string();
            forge.seal();
            let (id, pack) = (forge.publish(&manifest), forge.pack().to_string());
            parts.expect(&id, &[words, &tree.to_string(), &pack], true).await;
        }
    });
}

#[test]
fn a_create_beside_an_index_that_lies_stores_again_what_it_cannot_rely_on() {
    runtime().block_on(async {
        for change in [0u64, 1, 2] {
            let (storage, archive, made) = repository_of(1).await;
            let mut forge = Forge::new(&storage, 7);
            // The page blob of the archive as it is now, said to lie where nothing can lie.
            let page_blob = BlobId::of(&made[0].files["msgvault.db"]);
            forge.frame(page_blob, b"x", 1, BlobFlags::RAW);
            forge.index_says(page_blob, |entry| match change {
                0 => entry.offset = u64::MAX,
                1 => entry.stored_bytes = u64::MAX,
                _ => (entry.offset, entry.stored_bytes) = (u64::MAX - 40, 1),
            });
            forge.seal();
            archive.change();
            let report = bounded(capture(shared(&storage), &archive)).await.unwrap();
            let new = Made { id: report.id.unwrap(), files: archive.expected() };
            assert_comes_back(shared(&storage), &new, "beside a lying index").await;
        }
    });
}

#[test]
fn a_pack_with_more_entries_than_msgvault_takes_is_named() {
    runtime().block_on(async {
        let parts = Parts::new().await;
        let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
        let mut tree = extras_tree::encode(&parts.tree);
        tree.push(b'\n');
        manifest.extras_tree = forge.blob(&tree).to_string();
        for number in 0..100_000u32 {
            let raw = number.to_le_bytes();
            forge.frame(BlobId::of(&raw), &raw, 4, BlobFlags::RAW);
        }
        forge.seal();
        forge.publish(&manifest);
        for quick in [false, true] {
            let report = bounded(check(shared(&parts.storage), Selection::All, quick)).await.unwrap();
            let [problem] = report.problems.as_slice() else { panic!("{:#?}", report.problems) };
            assert_eq!(problem.pack, Some(forge.pack().to_string()));
            assert!(problem.detail.contains("100001 entries"), "{problem:?}");
        }
    });
}

/// Returns a zstd frame of so many zero bytes.
fn bomb(raw_bytes: u64) -> (BlobId, Vec<u8>) {
    let mut frame = vec![];
    let mut compressor = StreamCompressor::new(1, raw_bytes).unwrap();
    let mut hasher = packvault::format::Hasher::new();
    let piece = vec![0; 1 << 20];
    for _ in 0..raw_bytes >> 20 {
        hasher.update(&piece);
        compressor
            .feed(&piece, &mut |stored| {
                frame.extend_from_slice(stored);
                Ok(())
            })
            .unwrap();
    }
    compressor
        .finish(&mut |stored| {
            frame.extend_from_slice(stored);
            Ok(())
        })
        .unwrap();
    (hasher.finish(), frame)
}

#[test]
fn a_frame_that_swells_to_more_than_any_writer_stores_is_refused_before_it_is_decoded() {
    runtime().block_on(async {
        let (bomb_id, frame) = bomb(300 << 20);
        for field in ["page blob", "map", "hashes", "list", "tree"] {
            let parts = Parts::new().await;
            let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
            forge.frame(bomb_id, &frame, 300 << 20, BlobFlags::COMPRESSED);
            match field {
                "page blob" => {
                    let map = PageMapObject { blobs: vec![bomb_id], ..parts.map.clone() };
                    manifest.db.page_map = forge.blob(&map.encode()).to_string();
                }
                "map" => manifest.db.page_map = bomb_id.to_string(),
                "hashes" => manifest.db.page_hash_map = bomb_id.to_string(),
                "list" => manifest.attachments.lists = Some(vec![bomb_id.to_string()]),
                _ => manifest.extras_tree = bomb_id.to_string(),
            }
            forge.seal();
            let id = forge.publish(&manifest);
            parts.expect(&id, &["314572800 bytes", &bomb_id.to_string()], false).await;
        }
    });
}

#[test]
fn a_frame_is_never_believed_about_its_length() {
    runtime().block_on(async {
        let raw = vec![7; 100_000];
        let mut honest = vec![];
        assert!(Compressor::new(3).unwrap().encode(&raw, &mut honest).unwrap());
        let id = BlobId::of(&raw);
        // Said of the frame: its raw length, and how it is stored.
        for (raw_bytes, flags) in [
            (1 << 32, BlobFlags::COMPRESSED),
            (99_999, BlobFlags::COMPRESSED),
            (100_001, BlobFlags::COMPRESSED),
            (0, BlobFlags::COMPRESSED),
            (100_000, BlobFlags::RAW),
            (honest.len() as u64, BlobFlags::RAW),
            (100_000, BlobFlags::COMPRESSED.with(BlobFlags::ENCRYPTED)),
        ] {
            for field in ["page blob", "tree", "extra"] {
                let parts = Parts::new().await;
                let (mut forge, mut manifest) = (parts.forge(), parts.manifest.clone());
                forge.frame(id, &honest, raw_bytes, flags);
                match field {
                    "page blob" => {
                        let map = PageMapObject { blobs: vec![id], ..parts.map.clone() };
                        manifest.db.page_map = forge.blob(&map.encode()).to_string();
                    }
                    "tree" => manifest.extras_tree = id.to_string(),
                    _ => {
                        let (path, mode) = ("x".to_owned(), 0o600);
                        let entry = ExtrasEntry { path, mode, size: raw_bytes, blob: id };
                        manifest.extras_tree = forge.blob(&extras_tree::encode(&[entry])).to_string();
                    }
                }
                forge.seal();
                let published = forge.publish(&manifest);
                parts.expect(&published, &[&id.to_string()], false).await;
            }
        }
    });
}
