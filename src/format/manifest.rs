//! The manifest: one snapshot and everything it consists of.
//!
//! A JSON file, indented by two spaces, keys in the order of the structs below; `metadata` and `auxiliary`
//! are left out when empty, and a null array is not an empty one. The snapshot's id is
//! `yyyymmddThhmmssZ-` and the first 32 hex digits of the SHA-256 of the same text, compact and with an
//! empty `snapshot_id`; so an id proves the manifest's integrity, though not who wrote it.
//!
//! Strings are kept as written, because the id covers them; methods parse the names among them.

mod load;
mod write;

use jiff::Timestamp;

use super::error::{FormatError, Result};
use super::hash::sha256;
use super::ids::{BlobId, IndexId, PackId, SnapshotId};
use super::timestamp;

/// The newest version of manifests and repositories that this program reads.
///
/// Portable metadata (3) and auxiliary artifacts (4) are listed and verified, not restored.
pub const SUPPORTED_READER_LEVEL: i64 = 4;

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Manifest {
    /// Version of the features used.
    pub format_version: i64,
    /// Reader level needed to use the snapshot.
    pub min_reader_version: i64,
    /// Version of the program that wrote the snapshot; the key is `msgvault_version` for every program.
    pub app_version: String,
    /// The snapshot's own id.
    pub snapshot_id: String,
    /// The id of the snapshot before, empty for the first.
    pub parent_id: String,
    /// When the snapshot was made, RFC 3339.
    pub created_at: String,
    /// What the snapshot was asked to contain.
    pub options: Options,
    /// The database.
    pub db: Database,
    /// Portable metadata in place of database pages.
    pub metadata: Option<Metadata>,
    /// Further artifacts, ascending by name.
    pub auxiliary: Vec<Auxiliary>,
    /// The attachments.
    pub attachments: Attachments,
    /// The extras: `extras.tree`, the id of the tree blob, empty if there are none.
    pub extras_tree: String,
    /// Parts of the archive that snapshots leave out.
    pub excluded: Option<Vec<String>>,
    /// The application's statistics: raw JSON text, opaque here.
    pub stats: String,
    /// The packs that this run sealed, in order.
    pub new_packs: Option<Vec<String>>,
    /// The index that this run wrote, empty if none.
    pub new_index: String,
    /// How long the run took.
    pub duration_seconds: f64,
    /// Stored bytes of the blobs that this run added.
    pub bytes_added: i64,
}

/// What the snapshot was asked to contain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// The application's configuration file.
    pub include_config: bool,
    /// Tokens and client secrets.
    pub include_tokens: bool,
    /// The compression level used.
    pub zstd_level: i64,
    /// The user's label.
    pub tag: String,
}

/// The database of a snapshot; all zero if there is portable metadata instead.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Database {
    /// `sqlite`.
    pub engine: String,
    /// Bytes of one page.
    pub page_size: u32,
    /// Pages of the database.
    pub page_count: u64,
    /// The newest object of the page-map chain.
    pub page_map: String,
    /// The newest object of the page-hash chain.
    pub page_hash_map: String,
    /// Deltas in either chain, up to its keyframe.
    pub map_chain_depth: i64,
}

/// Portable metadata: the database in a form its application rebuilds it from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// The form.
    pub format: String,
    /// The content.
    pub blob: String,
    /// Its size.
    pub bytes: i64,
}

/// An artifact beside the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auxiliary {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub format: String,
    /// The content.
    pub blob: String,
    /// Its size.
    pub bytes: i64,
    /// The blob id again, in lower case.
    pub sha256: String,
}

/// The attachments of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attachments {
    /// Where they lie in the archive: `["loose"]`.
    pub layout: Option<Vec<String>>,
    /// Attachment rows of the database.
    pub rows: i64,
    /// Distinct contents.
    pub blobs: i64,
    /// Their total size.
    pub blob_bytes: i64,
    /// Always empty.
    pub recipes: Option<Vec<String>>,
    /// The attachment lists, inherited ones first.
    pub lists: Option<Vec<String>>,
}

impl Manifest {
    /// Returns the length that the database has, by the manifest's word.
    pub fn database_bytes(&self) -> u64 {
        self.db.page_count.saturating_mul(u64::from(self.db.page_size))
    }

    /// Returns the compact text that the id is computed from.
    pub fn compact_for_id(&self) -> String {
        write::compact(self, "")
    }

    /// Returns the bytes of the manifest file.
    pub fn encode(&self) -> Vec<u8> {
        super::go_json::indent(&write::compact(self, &self.snapshot_id)).into_bytes()
    }

    /// Returns the id that the content calls for, whatever `snapshot_id` says.
    pub fn compute_id(&self) -> Result<SnapshotId> {
        let time = timestamp::format_compact(self.created_at()?);
        let hash = hex::encode(&sha256(self.compact_for_id().as_bytes())[..16]);
        let id = SnapshotId::parse(&format!("{time}-{hash}"));
        id.map_err(|_| {
            FormatError::corrupt(format!("created_at {:?} has no four-digit year", self.created_at))
        })
    }

    /// Sets `snapshot_id` to what the content calls for, and returns it.
    pub fn seal_id(&mut self) -> Result<SnapshotId> {
        let id = self.compute_id()?;
        self.snapshot_id = id.as_str().to_owned();
        Ok(id)
    }

    /// Returns when the snapshot was made.
    pub fn created_at(&self) -> Result<Timestamp> {
        timestamp::parse(&self.created_at)
            .map_err(|error| FormatError::corrupt(format!("created_at: {error}")))
    }

    /// Returns the id of the snapshot before, if there is one.
    pub fn parent(&self) -> Result<Option<SnapshotId>> {
        optional(&self.parent_id, SnapshotId::parse)
    }

    /// Returns the newest object of the page-map chain.
    pub fn page_map(&self) -> Result<BlobId> {
        BlobId::parse(&self.db.page_map).map_err(|error| error.within("db.page_map"))
    }

    /// Returns the newest object of the page-hash chain.
    pub fn page_hash_map(&self) -> Result<BlobId> {
        BlobId::parse(&self.db.page_hash_map).map_err(|error| error.within("db.page_hash_map"))
    }

    /// Returns the attachment lists.
    pub fn lists(&self) -> Result<Vec<BlobId>> {
        all(&self.attachments.lists, BlobId::parse).map_err(|error| error.within("attachments.lists"))
    }

    /// Returns the extras tree, if the snapshot has one.
    pub fn extras_tree(&self) -> Result<Option<BlobId>> {
        optional(&self.extras_tree, BlobId::parse).map_err(|error| error.within("extras.tree"))
    }

    /// Returns the packs that this run sealed.
    pub fn new_packs(&self) -> Result<Vec<PackId>> {
        all(&self.new_packs, PackId::parse).map_err(|error| error.within("new_packs"))
    }

    /// Returns the index that this run wrote, if any.
    pub fn new_index(&self) -> Result<Option<IndexId>> {
        optional(&self.new_index, IndexId::parse).map_err(|error| error.within("new_index"))
    }
}

impl Metadata {
    /// Returns the content.
    pub fn blob(&self) -> Result<BlobId> {
        BlobId::parse(&self.blob).map_err(|error| error.within("metadata.blob"))
    }
}

impl Auxiliary {
    /// Returns the content.
    pub fn blob(&self) -> Result<BlobId> {
        BlobId::parse(&self.blob).map_err(|error| error.within("auxiliary.blob"))
    }
}

fn optional<T>(text: &str, parse: impl Fn(&str) -> Result<T>) -> Result<Option<T>> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

fn all<T>(texts: &Option<Vec<String>>, parse: impl Fn(&str) -> Result<T>) -> Result<Vec<T>> {
    texts.iter().flatten().map(|text| parse(text)).collect()
}

#[cfg(test)]
mod tests;
