//! What a repository consists of, taken apart without the engine: which blobs each snapshot needs, and what
//! each of them is to it.

use std::collections::{BTreeMap, BTreeSet};

use packvault::format::pack::{self, Entry, Footer, Trailer, encrypted};
use packvault::format::sealed::{self, Binding};
use packvault::format::{
    BlobId, Decompressor, Manifest, PackId, PageMap, PageMapKind, PageMapObject, RepoConfig, SnapshotId,
    attachment_list, extras_tree, index,
};
use packvault_storage::{Key, MemoryStorage};

use crate::support::memory_repo::repository_key;

/// What a blob is to a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    PageBlob,
    PageMap,
    PageHashes,
    List,
    Attachment,
    Tree,
    Extra,
}

impl Role {
    pub const ALL: [Self; 7] = [
        Self::PageBlob,
        Self::PageMap,
        Self::PageHashes,
        Self::List,
        Self::Attachment,
        Self::Tree,
        Self::Extra,
    ];
}

/// One blob and where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub pack: PackId,
    pub entry: Entry,
}

/// One snapshot, taken apart.
#[derive(Debug)]
pub struct Anatomy {
    pub manifest: Manifest,
    /// Every blob that the snapshot needs, chains of its ancestors included.
    pub needs: BTreeMap<BlobId, BTreeSet<Role>>,
    /// The blobs that a restore reads; a page map may name others that no run uses any more.
    pub reads: BTreeSet<BlobId>,
    /// The snapshots whose manifests its chain goes through, itself included.
    pub chain: BTreeSet<String>,
}

/// A whole repository, taken apart.
#[derive(Debug)]
pub struct Repo {
    pub snapshots: Vec<Anatomy>,
    pub blobs: BTreeMap<BlobId, Place>,
    pub packs: BTreeMap<PackId, (Key, Vec<Entry>)>,
    pub indexes: BTreeMap<Key, BTreeSet<BlobId>>,
}

/// Returns the key of a pack.
pub fn pack_key(id: &PackId) -> Key {
    Key::parse(format!("packs/{}/{id}.mvpack", id.shard())).unwrap()
}

/// Returns the key of a manifest.
pub fn manifest_key(id: &str) -> Key {
    Key::parse(format!("snapshots/{id}.mvmanifest")).unwrap()
}

/// Returns the entries of a pack file, which is encrypted with the key of the tests or plain.
pub fn entries_of(id: &PackId, file: &[u8]) -> Vec<Entry> {
    if pack::check_header(file).unwrap().encrypted {
        let trailer = encrypted::Trailer::parse(file, file.len() as u64).unwrap();
        let region = trailer.footer_offset() as usize..file.len() - encrypted::TRAILER_BYTES;
        let footer = encrypted::open_footer(&file[region], &trailer, &repository_key(), *id);
        return footer.unwrap().entries().to_vec();
    }
    let trailer = Trailer::parse(file, file.len() as u64).unwrap();
    let region = trailer.footer_offset() as usize..file.len() - pack::TRAILER_BYTES;
    Footer::parse(&file[region], &trailer, file.len() as u64).unwrap().entries().to_vec()
}

/// Takes a sound repository apart.
pub fn dissect(storage: &MemoryStorage) -> Repo {
    let objects: BTreeMap<Key, bytes::Bytes> = storage.objects().into_iter().collect();
    let is_encrypted = is_encrypted(&objects);
    let open = |binding: Binding<'_>, bytes: &[u8]| match is_encrypted {
        true => sealed::open(&repository_key(), &binding, bytes).unwrap(),
        false => bytes.to_vec(),
    };
    let mut repo =
        Repo { snapshots: vec![], blobs: BTreeMap::new(), packs: BTreeMap::new(), indexes: BTreeMap::new() };
    for (key, bytes) in &objects {
        if let Some(name) = key.name().strip_suffix(".mvpack") {
            let (id, entries) = PackId::parse(name).map(|id| (id, entries_of(&id, bytes))).unwrap();
            repo.blobs.extend(entries.iter().map(|entry| (entry.id, Place { pack: id, entry: *entry })));
            repo.packs.insert(id, (key.clone(), entries));
        }
        if let Some(name) = key.name().strip_suffix(".mvidx") {
            let file = open(Binding::Index(name), bytes);
            let ids = index::decode(&file).unwrap().into_iter().map(|entry| entry.id).collect();
            repo.indexes.insert(key.clone(), ids);
        }
    }
    let raw = |id: &BlobId| raw_of(&objects, &repo.blobs[id]);
    let mut manifests: BTreeMap<String, Manifest> = BTreeMap::new();
    for (key, bytes) in &objects {
        if let Some(name) = key.name().strip_suffix(".mvmanifest") {
            let id = SnapshotId::parse(name).unwrap();
            let manifest = Manifest::load(&id, &open(Binding::Manifest(&id), bytes), 4).unwrap();
            manifests.insert(name.to_owned(), manifest);
        }
    }
    let snapshots = manifests.values().map(|manifest| anatomy(manifest, &manifests, &raw)).collect();
    Repo { snapshots, ..repo }
}

/// Tells whether the objects are those of an encrypted repository.
pub fn is_encrypted(objects: &BTreeMap<Key, bytes::Bytes>) -> bool {
    let config = &objects[&Key::parse("config.toml").unwrap()];
    RepoConfig::parse(config, 4).unwrap().is_encrypted()
}

/// Returns the raw bytes of a blob.
pub fn raw_of(objects: &BTreeMap<Key, bytes::Bytes>, place: &Place) -> Vec<u8> {
    let (start, length) = (place.entry.offset as usize, place.entry.stored_bytes as usize);
    let stored = &objects[&pack_key(&place.pack)][start..start + length];
    let (mut entry, mut frame) = (place.entry, stored.to_vec());
    if entry.flags.encrypted() {
        entry = encrypted::open_frame(&repository_key(), &entry, stored, &mut frame).unwrap();
    }
    Decompressor::new().decode(&entry, &frame).unwrap().to_vec()
}

fn anatomy(
    manifest: &Manifest,
    manifests: &BTreeMap<String, Manifest>,
    raw: &dyn Fn(&BlobId) -> Vec<u8>,
) -> Anatomy {
    let mut needs: BTreeMap<BlobId, BTreeSet<Role>> = BTreeMap::new();
    let mut need = |id: BlobId, role: Role| {
        needs.entry(id).or_default().insert(role);
    };
    let (mut chain, mut deltas) = (BTreeSet::new(), Vec::new());
    let mut reads = BTreeSet::new();
    let mut current = manifest;
    let mut map = loop {
        chain.insert(current.snapshot_id.clone());
        let (map, hashes) = (current.page_map().unwrap(), current.page_hash_map().unwrap());
        need(map, Role::PageMap);
        need(hashes, Role::PageHashes);
        reads.extend([map, hashes]);
        let object = PageMapObject::decode(&raw(&map)).unwrap();
        if object.kind == PageMapKind::Keyframe {
            assert_eq!(current.db.map_chain_depth, 0);
            break PageMap::from_keyframe(&object).unwrap();
        }
        deltas.push(object);
        current = &manifests[&current.parent_id];
    };
    deltas.iter().rev().for_each(|delta| map.apply(delta).unwrap());
    map.blobs().for_each(|blob| need(*blob, Role::PageBlob));
    reads.extend(map.runs().map(|run| map.blob_of(run)));
    for list in manifest.lists().unwrap() {
        need(list, Role::List);
        reads.insert(list);
        for attachment in attachment_list::decode(&raw(&list)).unwrap() {
            need(attachment.id, Role::Attachment);
            reads.insert(attachment.id);
        }
    }
    if let Some(tree) = manifest.extras_tree().unwrap() {
        need(tree, Role::Tree);
        reads.insert(tree);
        for extra in extras_tree::decode(&raw(&tree)).unwrap() {
            need(extra.blob, Role::Extra);
            reads.insert(extra.blob);
        }
    }
    Anatomy { manifest: manifest.clone(), needs, reads, chain }
}

impl Repo {
    /// Returns the snapshots that need any of the blobs.
    pub fn sufferers<'a>(&self, blobs: impl IntoIterator<Item = &'a BlobId>) -> BTreeSet<String> {
        let blobs: BTreeSet<&BlobId> = blobs.into_iter().collect();
        let suffers = |snapshot: &&Anatomy| blobs.iter().any(|id| snapshot.needs.contains_key(id));
        self.snapshots.iter().filter(suffers).map(|found| found.manifest.snapshot_id.clone()).collect()
    }

    /// Returns the snapshots whose restore reads any of the blobs.
    pub fn readers<'a>(&self, blobs: impl IntoIterator<Item = &'a BlobId>) -> BTreeSet<String> {
        let blobs: BTreeSet<&BlobId> = blobs.into_iter().collect();
        let reads = |snapshot: &&Anatomy| blobs.iter().any(|id| snapshot.reads.contains(id));
        self.snapshots.iter().filter(reads).map(|found| found.manifest.snapshot_id.clone()).collect()
    }
}
