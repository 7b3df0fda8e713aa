//! A snapshot with as many packs as a test likes, made without an archive of that size: its attachments are
//! invented, and lie in packs of the test's choice.

use std::time::SystemTime;

use packvault::format::index::{self, IndexEntry};
use packvault::format::pack::{self, Entry};
use packvault::format::{BlobFlags, BlobId, ListedAttachment, Manifest, PackId, attachment_list, crc32c};
use packvault_storage::{Key, MemoryStorage};

/// Returns bytes that no compression makes shorter.
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        noise.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Publishes a snapshot after the given one that has these attachments besides, each inner list in a pack of its
/// own. Everything new is named by one index.
pub fn publish(storage: &MemoryStorage, before: &Manifest, packs: &[Vec<Vec<u8>>]) -> String {
    let mut indexed = vec![];
    let mut listed = vec![];
    for (number, blobs) in packs.iter().enumerate() {
        put_pack(storage, number as u64, blobs, &mut indexed);
        let sized = blobs.iter().map(|raw| ListedAttachment { id: BlobId::of(raw), bytes: raw.len() as u64 });
        listed.extend(sized);
    }
    let list = attachment_list::encode(&listed);
    put_pack(storage, packs.len() as u64, std::slice::from_ref(&list), &mut indexed);
    put(storage, format!("indexes/{}.mvidx", pack_id(0)), index::encode(&indexed));
    let mut manifest = Manifest {
        parent_id: before.snapshot_id.clone(),
        created_at: "2031-01-01T00:00:00Z".into(),
        stats: packvault::format::go_json::compact_raw(&before.stats),
        ..before.clone()
    };
    let count = before.attachments.blobs + listed.len() as i64;
    manifest.stats = manifest.stats.replace(
        &format!("\"attachment_blobs\":{}", before.attachments.blobs),
        &format!("\"attachment_blobs\":{count}"),
    );
    manifest.attachments.blobs = count;
    manifest.attachments.blob_bytes += listed.iter().map(|attachment| attachment.bytes as i64).sum::<i64>();
    manifest.attachments.lists.get_or_insert_default().push(BlobId::of(&list).to_string());
    let id = manifest.seal_id().unwrap().to_string();
    put(storage, format!("snapshots/{id}.mvmanifest"), manifest.encode());
    id
}

fn pack_id(number: u64) -> PackId {
    let mut bytes = [1; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    PackId::from_bytes(bytes)
}

fn put_pack(storage: &MemoryStorage, number: u64, blobs: &[Vec<u8>], indexed: &mut Vec<IndexEntry>) {
    let (pack, flags) = (pack_id(number), BlobFlags::RAW);
    let mut file = pack::encode_header(false).to_vec();
    let mut entries = vec![];
    for raw in blobs {
        let (id, offset, bytes) = (BlobId::of(raw), file.len() as u64, raw.len() as u64);
        entries.push(Entry { id, offset, stored_bytes: bytes, raw_bytes: bytes, flags, crc32c: crc32c(raw) });
        indexed.push(IndexEntry { id, pack, offset, stored_bytes: bytes, flags });
        file.extend_from_slice(raw);
    }
    file.extend(pack::encode_footer(&entries));
    put(storage, format!("packs/{}/{pack}.mvpack", pack.shard()), file);
}

fn put(storage: &MemoryStorage, key: String, bytes: Vec<u8>) {
    storage.put_raw(&Key::parse(key).unwrap(), bytes, SystemTime::now());
}
