//! The repository format as pure codecs: bytes in, value or error out.
//!
//! Nothing here reads a file, a clock or a random number, and no input makes it panic: lengths are checked
//! by subtraction before anything is allocated, hashes before fields are believed, version gates before
//! unknown fields. What the format says lies in `docs/format.md`; each file below opens with the layout it
//! reads and writes. Where objects are kept, and in which order, belongs to `repo` and `engine`.

pub mod attachment_list;
pub mod attributes;
pub mod error;
pub mod extras_tree;
pub mod frame;
pub mod geometry;
pub mod go_json;
pub mod hash;
pub mod ids;
pub mod index;
mod json_fields;
pub mod key_file;
pub mod lock_record;
pub mod manifest;
mod object;
pub mod pack;
pub mod page_hashes;
pub mod page_map;
pub mod paths;
pub mod recovery_page;
pub mod repo_config;
pub mod repository_key;
pub mod sealed;
pub mod timestamp;

pub use attachment_list::ListedAttachment;
pub use attributes::{ArchiveAttributes, Attributes};
pub use error::{FormatError, FormatErrorKind, Result};
pub use extras_tree::ExtrasEntry;
pub use frame::{Compressor, Decompressor, StreamCompressor, StreamDecoder, effective_level, saves_enough};
pub use geometry::Geometry;
pub use hash::{Crc32c, Hasher, crc32c};
pub use ids::{BlobId, IndexId, PackId, PageHash, RepoId, SnapshotId};
pub use index::IndexEntry;
pub use key_file::{KeyHeader, KeyName, WayIn};
pub use lock_record::{Holder, LockRecord};
pub use manifest::{Manifest, SUPPORTED_READER_LEVEL};
pub use pack::BlobFlags;
pub use page_hashes::{PageHashDelta, PageHashObject, PageHashes};
pub use page_map::{PageMap, PageMapKind, PageMapObject, Run};
pub use repo_config::{Encryption, RepoConfig};
pub use repository_key::RepositoryKey;
