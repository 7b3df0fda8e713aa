//! Forged objects: well formed, with true hashes, and yet lies. Whoever may write to a repository can make
//! them.

use std::time::SystemTime;

use packvault::format::index::{self, IndexEntry};
use packvault::format::pack::{self, Entry};
use packvault::format::{BlobFlags, BlobId, Hasher, Manifest, PackId, crc32c};
use packvault_storage::{Key, MemoryStorage};

/// Fills one pack, with an index to it, and publishes manifests.
pub struct Forge {
    storage: MemoryStorage,
    frames: Vec<u8>,
    entries: Vec<Entry>,
    /// What the index says, where that is not what the footer says.
    indexed: Vec<IndexEntry>,
    pack: PackId,
}

impl Forge {
    /// Begins a forgery; `number` tells it from others in the same repository.
    pub fn new(storage: &MemoryStorage, number: u8) -> Self {
        let pack = PackId::from_bytes([1, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number]);
        let (frames, entries) = (pack::encode_header(false).to_vec(), vec![]);
        Self { storage: storage.clone(), frames, entries, indexed: vec![], pack }
    }

    /// Returns the pack that is being filled.
    pub fn pack(&self) -> PackId {
        self.pack
    }

    /// Adds an honest blob.
    pub fn blob(&mut self, raw: &[u8]) -> BlobId {
        let id = BlobId::of(raw);
        if !self.entries.iter().any(|entry| entry.id == id) {
            self.frame(id, raw, raw.len() as u64, BlobFlags::RAW);
        }
        id
    }

    /// Adds a frame of which anything may be said.
    pub fn frame(&mut self, id: BlobId, stored: &[u8], raw_bytes: u64, flags: BlobFlags) {
        let (offset, stored_bytes) = (self.frames.len() as u64, stored.len() as u64);
        self.frames.extend_from_slice(stored);
        self.entries.push(Entry { id, offset, stored_bytes, raw_bytes, flags, crc32c: crc32c(stored) });
    }

    /// Lets the index say something else than the footer.
    pub fn index_says(&mut self, id: BlobId, change: impl FnOnce(&mut IndexEntry)) {
        let entry = *self.entries.iter().find(|entry| entry.id == id).unwrap();
        let mut indexed = indexed(&entry, self.pack);
        change(&mut indexed);
        self.indexed.push(indexed);
    }

    /// Lets the index name a blob that the pack does not hold.
    pub fn index_invents(&mut self, id: BlobId) {
        let flags = BlobFlags::RAW;
        self.indexed.push(IndexEntry { id, pack: self.pack, offset: 6, stored_bytes: 1, flags });
    }

    /// Writes pack and index.
    pub fn seal(&mut self) {
        let mut file = self.frames.clone();
        let region_start = file.len();
        file.extend((self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            file.extend(entry.id.as_bytes());
            file.extend(entry.offset.to_le_bytes());
            file.extend(entry.stored_bytes.to_le_bytes());
            file.extend(entry.raw_bytes.to_le_bytes());
            file.push(entry.flags.bits());
            file.extend(entry.crc32c.to_le_bytes());
        }
        let region_bytes = (file.len() - region_start) as u32;
        file.extend(region_bytes.to_le_bytes());
        let mut hasher = Hasher::new();
        hasher.update(&file[region_start..]);
        file.extend(hasher.finish().as_bytes());
        file.extend(b"KPVM");
        let mut entries: Vec<IndexEntry> =
            self.entries.iter().map(|entry| indexed(entry, self.pack)).collect();
        let lies = &self.indexed;
        entries.retain(|entry| !lies.iter().any(|lie| lie.id == entry.id));
        entries.extend(lies);
        self.put(format!("packs/{}/{}.mvpack", self.pack.shard(), self.pack), file);
        self.put(format!("indexes/{}.mvidx", self.pack), index::encode(&entries));
    }

    /// Publishes a manifest under the id that its content calls for; returns the id.
    pub fn publish(&self, manifest: &Manifest) -> String {
        let mut manifest = manifest.clone();
        let id = manifest.seal_id().unwrap().to_string();
        self.put(format!("snapshots/{id}.mvmanifest"), manifest.encode());
        id
    }

    fn put(&self, key: String, bytes: Vec<u8>) {
        self.storage.put_raw(&Key::parse(key).unwrap(), bytes, SystemTime::now());
    }
}

fn indexed(entry: &Entry, pack: PackId) -> IndexEntry {
    let Entry { id, offset, stored_bytes, flags, .. } = *entry;
    IndexEntry { id, pack, offset, stored_bytes, flags }
}
