//! Guards against a byte that differs: repositories are shared with another program, which refuses what it
//! would not have written, and whose repositories must open here for ever.
//!
//! The vectors are those of the format document; the fixtures are repositories written by the other program.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use packvault::format::frame::{Decompressor, StreamDecoder};
use packvault::format::manifest::{Manifest, SUPPORTED_READER_LEVEL};
use packvault::format::pack::{BlobFlags, Entry, Footer, Trailer, encrypted};
use packvault::format::page_hashes::{PageHashDelta, PageHashObject, PageHashes};
use packvault::format::page_map::{PageMap, PageMapKind, PageMapObject, Run};
use packvault::format::repo_config::RepoConfig;
use packvault::format::{
    BlobId, FormatErrorKind, Hasher, IndexId, PackId, PageHash, RepositoryKey, SnapshotId, attachment_list,
    extras_tree, index, pack, paths,
};
use serde_json::Value;

const FIXTURES: [&str; 7] = ["compat", "chain", "extras", "deep", "namespaced", "portable", "auxiliary"];

const PACK_VECTOR: &str = "\
4d56504b010068656c6c6f28b52ffd6000034d00001061610100fb2b8005030000002cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e\
73043362938b9824060000000000000005000000000000000500000000000000004cbb719ae3b0c44298fc1c149afbf4c8996fb92427ae41e464\
9b934ca495991b7852b8550b000000000000000000000000000000000000000000000000000000002edc986847e209b4016e141a6dc8716d3207\
350f416969382d431539bf292e4a0b000000000000001300000000000000000400000000000001e86bdb06bb00000019dbba862ad44308eb40ec\
94ef48379018eda8703bc44bc0159fb9ff139586324b50564d";
const PACK_VECTOR_ID: &str = "01kwvve8k3wz72j3vhy0dphk55";
const INDEX_VECTOR: &str = "\
4d5649580100010000002cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824019f37b72263e7ce290f71f01b68cca5\
06000000000000000500000000000000000a31e3009637508de75c9447ed0f8cfd22a5c38ba41b9d43c21e6fa466148036";
const PAGE_HASHES_VECTOR: &str = "\
4d56484b0100001000000200000000000000ad7facb2586fc6e966c004d7d1d16b02ad7facb2586fc6e966c004d7d1d16b02c12e2ff594279739\
02603d480ca6b05a450f5103f30a18061aac904a37285c6a";
const PAGE_HASH_DELTA_VECTOR: &str = "\
4d5648440100001000000300000000000000010000000200000000000000ad7facb2586fc6e966c004d7d1d16b02437145ee683b50fcd557488d\
da63c8e7a7e169cb1f03f7ac3190e8a494e8e651";
const PAGE_MAP_VECTOR: &str = "\
4d564d4b0100001000000200000000000000010000009f1dcbc35c350d6027f98be0f5c8b43b42ca52b7604459c0c42be3aa88913d4701000000\
0000000000000000020000000000000000000000000000005a491357b5fcd870ab6f9bfc2c71ae8def3299f3f78155e045adace6bf2429fa";
const ATTACHMENT_LIST_VECTOR: &str = "\
4d56414c0100010000002cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b98240500000000000000d94eb34e6b6bc13e\
62e496ab5efd225a95c6d6fe6cccc8e2f1670d36582e8037";

fn vector(hex_text: &str) -> Vec<u8> {
    hex::decode(hex_text).unwrap()
}

#[test]
fn the_pack_vector_reads_and_writes() {
    let file = vector(PACK_VECTOR);
    assert_eq!(file.len(), 257);
    assert_eq!(
        BlobId::of(&file).to_string(),
        "f60659b26eb78ac0aa0ee85b7a8a5faaed254e4ee6a9584c9a7b61448e04e7fa"
    );
    let footer = read_footer(&file);
    let entry = |id: &[u8], offset, stored_bytes, flags, crc32c| Entry {
        id: BlobId::of(id),
        offset,
        stored_bytes,
        raw_bytes: id.len() as u64,
        flags,
        crc32c,
    };
    let expected = [
        entry(b"hello", 6, 5, BlobFlags::RAW, 0x9a71_bb4c),
        entry(b"", 11, 0, BlobFlags::RAW, 0),
        entry(&[b'a'; 1024], 11, 19, BlobFlags::COMPRESSED, 0x06db_6be8),
    ];
    assert_eq!(footer.entries(), expected);
    assert_eq!(read_blob(&file, &expected[2]), [b'a'; 1024]);
    assert_eq!(write_pack(&file, &footer), file);
    assert_eq!(pack::expected_file_bytes(30, 3), 257);
}

#[test]
fn the_index_vector_reads_and_writes() {
    let file = vector(INDEX_VECTOR);
    let entries = index::decode(&file).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].id, BlobId::of(b"hello"));
    assert_eq!(entries[0].pack.to_string(), PACK_VECTOR_ID);
    assert_eq!((entries[0].offset, entries[0].stored_bytes, entries[0].flags.bits()), (6, 5, 0));
    assert_eq!(index::encode(&entries), file);
}

#[test]
fn the_page_hash_vectors_read_write_and_apply() {
    let zero = PageHash::of(&[0; 4096]);
    let mut hashes = PageHashes { page_size: 4096, hashes: vec![zero; 2] };
    let delta = PageHashDelta { page_size: 4096, page_count: 3, changes: vec![(2, zero)] };
    assert_eq!(hashes.encode_keyframe(), vector(PAGE_HASHES_VECTOR));
    assert_eq!(delta.encode(), vector(PAGE_HASH_DELTA_VECTOR));
    assert_eq!(PageHashes::decode(&vector(PAGE_HASHES_VECTOR)).unwrap(), hashes);
    assert_eq!(PageHashDelta::decode(&vector(PAGE_HASH_DELTA_VECTOR)).unwrap(), delta);
    hashes.apply(&delta).unwrap();
    assert_eq!(hashes.hashes, [zero; 3]);
}

#[test]
fn the_page_map_vector_reads_and_writes() {
    let object = PageMapObject {
        kind: PageMapKind::Keyframe,
        page_size: 4096,
        page_count: 2,
        blobs: vec![BlobId::of(&[0; 8192])],
        runs: vec![Run { start_page: 0, pages: 2, blob_index: 0, blob_offset: 0 }],
    };
    assert_eq!(object.encode(), vector(PAGE_MAP_VECTOR));
    assert_eq!(PageMapObject::decode(&vector(PAGE_MAP_VECTOR)).unwrap(), object);
    PageMap::from_keyframe(&object).unwrap().coverage().unwrap();
}

#[test]
fn the_attachment_list_vector_reads_and_writes() {
    let list = attachment_list::decode(&vector(ATTACHMENT_LIST_VECTOR)).unwrap();
    assert_eq!(list, [attachment_list::ListedAttachment { id: BlobId::of(b"hello"), bytes: 5 }]);
    assert_eq!(attachment_list::encode(&list), vector(ATTACHMENT_LIST_VECTOR));
}

#[test]
fn the_worked_example_of_a_snapshot_id_comes_out() {
    let repository = Repository::open("compat");
    let [first, second] = &repository.manifests()[..] else { panic!("compat has two snapshots") };
    let compact = first.compact_for_id();
    assert_eq!(compact.len(), 1031);
    assert!(compact.starts_with(r#"{"format_version":1,"min_reader_version":1,"msgvault_version":"compat-fixture","snapshot_id":"","parent_id":"","#));
    assert_eq!(
        BlobId::of(compact.as_bytes()).to_string(),
        "0f5afbf4852769c6ad683bdab60826493ad7c77330f045e11d58320fa9fd339e"
    );
    let compact = second.compact_for_id();
    assert_eq!(compact.len(), 1082);
    assert_eq!(
        BlobId::of(compact.as_bytes()).to_string(),
        "70996f725e26d0bbff1fb47d5e45407438cbdc3efea3e45aa0d748f968ae0625"
    );
    assert_eq!(second.parent().unwrap().unwrap().as_str(), first.snapshot_id);
}

#[test]
fn every_fixture_manifest_loads_and_is_written_the_same() {
    for name in FIXTURES {
        let mut checked = 0;
        for (id, file) in files_in(&fixture(name).join("repo/snapshots"), "mvmanifest") {
            let id = SnapshotId::parse(&id).unwrap();
            let mut manifest = Manifest::load(&id, &file, SUPPORTED_READER_LEVEL).unwrap();
            assert_eq!(manifest.encode(), file, "{name} {id}");
            manifest.snapshot_id.clear();
            assert_eq!(manifest.seal_id().unwrap(), id);
            assert_eq!(manifest.encode(), file, "{name} {id}");
            checked += 1;
        }
        assert!(checked > 0, "{name}");
    }
}

#[test]
fn every_fixture_configuration_reads_and_is_written_the_same() {
    for name in FIXTURES {
        let file = fs::read(fixture(name).join("repo/config.toml")).unwrap();
        assert_eq!(RepoConfig::parse(&file, SUPPORTED_READER_LEVEL).unwrap().encode(), file, "{name}");
    }
}

#[test]
fn every_fixture_index_agrees_with_the_packs_and_is_written_the_same() {
    for name in FIXTURES {
        let repository = Repository::open(name);
        for (id, file) in files_in(&fixture(name).join("repo/indexes"), "mvidx") {
            IndexId::parse(&id).unwrap();
            let entries = index::decode(&file).unwrap();
            assert_eq!(index::encode(&entries), file, "{name} {id}");
            for entry in entries {
                let (_, footer) = &repository.packs[&entry.pack];
                let listed = footer.get(&entry.id).unwrap();
                assert_eq!(
                    (entry.offset, entry.stored_bytes, entry.flags),
                    (listed.offset, listed.stored_bytes, listed.flags)
                );
            }
        }
    }
}

#[test]
fn every_fixture_pack_reads_blob_by_blob_and_is_written_the_same() {
    for name in FIXTURES {
        let repository = Repository::open(name);
        assert!(!repository.packs.is_empty(), "{name}");
        for (id, (file, footer)) in &repository.packs {
            assert_eq!(&write_pack(file, footer), file, "{name} {id}");
            for entry in footer.entries() {
                let raw = read_blob(file, entry);
                assert_eq!(raw.len() as u64, entry.raw_bytes);
                assert_eq!(stream_blob(file, entry, 17), raw);
            }
        }
    }
}

#[test]
fn every_fixture_chain_adds_up_to_the_database_that_was_captured() {
    for name in FIXTURES {
        let repository = Repository::open(name);
        let expected = expected_json(name);
        for snapshot in expected["snapshots"].as_array().unwrap() {
            let id = snapshot["snapshot_id"].as_str().unwrap();
            let manifest = &repository.manifest(id);
            if manifest.metadata.is_some() {
                continue;
            }
            let sha256 = snapshot["restored"]["files"]["msgvault.db"]["sha256"].as_str().unwrap();
            assert_eq!(repository.database_hash(manifest).to_string(), sha256, "{name} {id}");
        }
    }
}

#[test]
fn every_fixture_list_and_tree_reads_and_is_written_the_same() {
    for name in FIXTURES {
        let repository = Repository::open(name);
        for snapshot in expected_json(name)["snapshots"].as_array().unwrap() {
            let manifest = repository.manifest(snapshot["snapshot_id"].as_str().unwrap());
            check_lists(&repository, &manifest);
            if let Some(tree) = manifest.extras_tree().unwrap() {
                check_tree(&repository.blob(&tree), &snapshot["extras_entries"]);
            }
        }
    }
}

fn check_lists(repository: &Repository, manifest: &Manifest) {
    let mut sizes = HashMap::new();
    for list in manifest.lists().unwrap() {
        let object = repository.blob(&list);
        let entries = attachment_list::decode(&object).unwrap();
        assert_eq!(attachment_list::encode(&entries), object);
        sizes.extend(entries.iter().map(|entry| (entry.id, entry.bytes)));
    }
    assert_eq!(sizes.len() as i64, manifest.attachments.blobs);
    assert_eq!(sizes.values().sum::<u64>() as i64, manifest.attachments.blob_bytes);
    for (id, bytes) in sizes {
        assert_eq!(repository.blob(&id).len() as u64, bytes);
    }
}

fn check_tree(object: &[u8], expected: &Value) {
    let entries = extras_tree::decode(object).unwrap();
    assert_eq!(extras_tree::encode(&entries), object);
    let expected = expected.as_array().unwrap();
    assert_eq!(entries.len(), expected.len());
    for (entry, expected) in entries.iter().zip(expected) {
        assert_eq!(entry.path, expected["path"].as_str().unwrap());
        assert_eq!(u64::from(entry.mode), expected["mode"].as_u64().unwrap());
        assert_eq!(entry.size, expected["size"].as_u64().unwrap());
        assert_eq!(entry.blob.to_string(), expected["blob"].as_str().unwrap());
        assert_eq!(paths::check_extras_path(&entry.path).unwrap(), entry.path);
    }
    assert_eq!(paths::find_conflicts(entries.iter().map(|entry| entry.path.as_str())), []);
}

#[test]
fn the_encrypted_fixture_opens_with_its_key_and_its_name_only() {
    let expected = expected_json("crypt");
    let key_bytes = vector(expected["key_hex"].as_str().unwrap());
    let key = RepositoryKey::from_bytes(key_bytes.try_into().unwrap());
    for listed in expected["packs"].as_array().unwrap() {
        let file = fs::read(fixture("crypt").join(listed["file"].as_str().unwrap())).unwrap();
        let id = PackId::parse(listed["pack_id"].as_str().unwrap()).unwrap();
        let is_encrypted = listed["encrypted"].as_bool().unwrap();
        assert_eq!(pack::check_header(&file).unwrap().encrypted, is_encrypted);
        let footer = if is_encrypted { open_footer(&file, &key, id).unwrap() } else { read_footer(&file) };
        check_listed(listed, &footer);
        for (name, blob) in listed["blobs"].as_object().unwrap() {
            let entry = footer.get(&BlobId::parse(blob.as_str().unwrap()).unwrap()).unwrap();
            let input = fs::read(fixture("crypt").join("input").join(name)).unwrap();
            let mut frame = stored(&file, entry).to_vec();
            let entry = match is_encrypted {
                true => encrypted::open_frame(&key, entry, stored(&file, entry), &mut frame).unwrap(),
                false => *entry,
            };
            assert_eq!(Decompressor::new().decode(&entry, &frame).unwrap(), input, "{name}");
        }
        if is_encrypted {
            check_header_needs_key(&file);
            let other_id = PackId::from_bytes([1; 16]);
            let other_key = RepositoryKey::from_bytes([1; 32]);
            let renamed = open_footer(&file, &key, other_id).unwrap_err();
            let wrong_key = open_footer(&file, &other_key, id).unwrap_err();
            assert_eq!(renamed.kind(), FormatErrorKind::Decrypt);
            assert_eq!(wrong_key.kind(), FormatErrorKind::Decrypt);
        }
    }
}

fn check_header_needs_key(file: &[u8]) {
    let refused = pack::check_header(file).unwrap().require_plain().unwrap_err();
    assert_eq!(refused.kind(), FormatErrorKind::Encrypted);
}

fn check_listed(listed: &Value, footer: &Footer) {
    let expected = listed["entries"].as_array().unwrap();
    assert_eq!(footer.entries().len(), expected.len());
    for (entry, expected) in footer.entries().iter().zip(expected) {
        assert_eq!(entry.id.to_string(), expected["blob"].as_str().unwrap());
        assert_eq!(entry.offset, expected["offset"].as_u64().unwrap());
        assert_eq!(entry.stored_bytes, expected["stored_len"].as_u64().unwrap());
        assert_eq!(entry.raw_bytes, expected["raw_len"].as_u64().unwrap());
        assert_eq!(u64::from(entry.flags.bits()), expected["flags"].as_u64().unwrap());
        assert_eq!(u64::from(entry.crc32c), expected["crc32c"].as_u64().unwrap());
    }
}

fn open_footer(file: &[u8], key: &RepositoryKey, id: PackId) -> packvault::format::Result<Footer> {
    let trailer = encrypted::Trailer::parse(file, file.len() as u64)?;
    let start = trailer.footer_offset() as usize;
    encrypted::open_footer(&file[start..start + trailer.region_bytes() as usize], &trailer, key, id)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn expected_json(name: &str) -> Value {
    serde_json::from_slice(&fs::read(fixture(name).join("expected.json")).unwrap()).unwrap()
}

/// Returns the files with the given extension by name without it, sorted.
fn files_in(folder: &Path, extension: &str) -> BTreeMap<String, Vec<u8>> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let matching = paths.filter(|path| path.extension().is_some_and(|found| found == extension));
    let stem = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    matching.map(|path| (stem(&path), fs::read(path).unwrap())).collect()
}

fn read_footer(file: &[u8]) -> Footer {
    pack::check_header(file).unwrap();
    let file_bytes = file.len() as u64;
    let trailer = Trailer::parse(&file[file.len() - pack::TRAILER_BYTES..], file_bytes).unwrap();
    let start = trailer.footer_offset() as usize;
    let region = &file[start..start + trailer.region_bytes() as usize];
    Footer::parse(region, &trailer, file_bytes).unwrap()
}

fn write_pack(file: &[u8], footer: &Footer) -> Vec<u8> {
    let frames_end = footer.entries().last().map(|last| last.offset + last.stored_bytes).unwrap();
    let frames = &file[pack::HEADER_BYTES..frames_end as usize];
    [&pack::encode_header(false)[..], frames, &pack::encode_footer(footer.entries())].concat()
}

fn stored<'a>(file: &'a [u8], entry: &Entry) -> &'a [u8] {
    &file[entry.offset as usize..][..entry.stored_bytes as usize]
}

fn read_blob(file: &[u8], entry: &Entry) -> Vec<u8> {
    Decompressor::new().decode(entry, stored(file, entry)).unwrap().to_vec()
}

fn stream_blob(file: &[u8], entry: &Entry, piece_bytes: usize) -> Vec<u8> {
    let mut raw = Vec::new();
    let mut decoder = StreamDecoder::new(entry).unwrap();
    for piece in stored(file, entry).chunks(piece_bytes) {
        decoder
            .feed(piece, &mut |bytes| {
                raw.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
    }
    decoder.finish().unwrap();
    raw
}

/// A fixture repository in memory.
struct Repository {
    name: String,
    packs: BTreeMap<PackId, (Vec<u8>, Footer)>,
}

impl Repository {
    fn open(name: &str) -> Self {
        let mut packs = BTreeMap::new();
        for (id, file) in files_in(&fixture(name).join("repo/packs/01"), "mvpack") {
            let id = PackId::parse(&id).unwrap();
            assert_eq!(id.shard(), "01");
            let footer = read_footer(&file);
            packs.insert(id, (file, footer));
        }
        Self { name: name.to_owned(), packs }
    }

    fn blob(&self, id: &BlobId) -> Vec<u8> {
        let found = self.packs.values().find_map(|(file, footer)| Some((file, footer.get(id)?)));
        let (file, entry) = found.unwrap_or_else(|| panic!("{} lacks blob {id}", self.name));
        read_blob(file, entry)
    }

    fn manifest(&self, id: &str) -> Manifest {
        let file = fixture(&self.name).join(format!("repo/snapshots/{id}.mvmanifest"));
        let id = SnapshotId::parse(id).unwrap();
        Manifest::load(&id, &fs::read(file).unwrap(), SUPPORTED_READER_LEVEL).unwrap()
    }

    fn manifests(&self) -> Vec<Manifest> {
        let files = files_in(&fixture(&self.name).join("repo/snapshots"), "mvmanifest");
        files.keys().map(|id| self.manifest(id)).collect()
    }

    /// Returns the manifests of a chain, keyframe first.
    fn chain(&self, manifest: &Manifest) -> Vec<Manifest> {
        let mut chain = vec![manifest.clone()];
        while chain.last().unwrap().db.map_chain_depth > 0 {
            let parent = chain.last().unwrap().parent().unwrap().unwrap();
            chain.push(self.manifest(parent.as_str()));
        }
        chain.reverse();
        chain
    }

    fn database_hash(&self, manifest: &Manifest) -> BlobId {
        let map = self.page_map(manifest);
        let hashes = self.page_hashes(manifest);
        map.coverage().unwrap();
        assert_eq!((map.page_size(), map.page_count()), (manifest.db.page_size, manifest.db.page_count));
        assert_eq!((hashes.page_size, hashes.page_count()), (map.page_size(), map.page_count()));
        let blobs: HashMap<BlobId, Vec<u8>> = map.blobs().map(|id| (*id, self.blob(id))).collect();
        let mut hasher = Hasher::new();
        for run in map.runs() {
            let blob = &blobs[&map.blob_of(run)];
            assert!(run.fits(map.page_size(), blob.len() as u64));
            let pages = blob[run.blob_offset as usize..].chunks(map.page_size() as usize);
            for (number, page) in (run.start_page..run.end_page()).zip(pages) {
                assert_eq!(Some(&PageHash::of(page)), hashes.get(number));
                hasher.update(page);
            }
        }
        hasher.finish()
    }

    fn page_map(&self, manifest: &Manifest) -> PageMap {
        let objects = self.chain(manifest).into_iter().map(|link| {
            let blob = self.blob(&link.page_map().unwrap());
            let object = PageMapObject::decode(&blob).unwrap();
            assert_eq!(object.encode(), blob);
            object
        });
        let objects: Vec<_> = objects.collect();
        let mut map = PageMap::from_keyframe(&objects[0]).unwrap();
        for delta in &objects[1..] {
            map.apply(delta).unwrap();
        }
        map
    }

    fn page_hashes(&self, manifest: &Manifest) -> PageHashes {
        let mut chain =
            self.chain(manifest).into_iter().map(|link| self.blob(&link.page_hash_map().unwrap()));
        let keyframe = chain.next().unwrap();
        let mut hashes = PageHashes::decode(&keyframe).unwrap();
        assert_eq!(hashes.encode_keyframe(), keyframe);
        for object in chain {
            let Ok(PageHashObject::Delta(delta)) = PageHashObject::decode(&object) else { panic!("a delta") };
            assert_eq!(delta.encode(), object);
            hashes.apply(&delta).unwrap();
        }
        hashes
    }
}
