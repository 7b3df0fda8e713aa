//! What a sample is made from, how it changes, and what it then holds.

use serde::{Deserialize, Serialize};

use crate::content::ContentKind;

/// Database bytes per message of default length, full-text index and original included.
const FULL_MESSAGE_BYTES: u64 = 10_000;

/// Mean size of the attachments of a sample of given size.
const ATTACHMENT_BYTES: u64 = 100_000;

/// How SQLite keeps changes that are not in the database file yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Journal {
    /// A write-ahead log, as msgvault does.
    Wal,
    /// A rollback journal, SQLite's own default.
    Rollback,
}

/// How attachment bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttachmentStorage {
    /// A file each.
    Loose,
    /// A compressed file each, where that is smaller; contents outside their canonical path stay as they are.
    CompressedLoose,
    /// In packs; contents outside their canonical path and those above 64 MiB are files.
    Packs,
}

/// What to make. Equal options make equal archives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleOptions {
    /// Rows of `messages`.
    pub messages: u32,
    /// Rows of `attachments`, without [`SampleOptions::large`]. About a fifth repeat an earlier content.
    pub attachments: u32,
    /// Mean size of a content; sizes are log-normal, so most are smaller.
    pub attachment_mean_bytes: u64,
    /// Where the random numbers start.
    pub seed: u64,
    /// SQLite's page size: a power of two from 512 to 65536.
    pub page_size: u32,
    /// SQLite's journal.
    pub journal: Journal,
    /// Part of the contents (0 to 1) that lie at `synctech-sms/<aa>/<hash>`; some of them at both places.
    pub namespaced_fraction: f64,
    /// Contents of exactly this many bytes each, made without holding them in memory.
    pub large: Vec<(u64, ContentKind)>,
    /// Rows of `document_chunks`; the table exists only with some.
    pub documents: u32,
    /// Whether there is a full-text index of the messages (FTS5).
    pub full_text: bool,
    /// Whether the messages' originals are kept.
    pub raw: bool,
    /// How contents are kept.
    pub storage: AttachmentStorage,
    /// Number of accounts, 1 to 4.
    pub sources: u32,
    /// Median number of words of a message.
    pub body_words: u32,
}

impl Default for SampleOptions {
    /// A small archive: about 2 MB of database and 1 MB of attachments, made in a blink.
    fn default() -> Self {
        Self {
            messages: 200,
            attachments: 40,
            attachment_mean_bytes: 30_000,
            seed: 1,
            page_size: 4096,
            journal: Journal::Wal,
            namespaced_fraction: 0.0,
            large: Vec::new(),
            documents: 0,
            full_text: true,
            raw: true,
            storage: AttachmentStorage::Loose,
            sources: 2,
            body_words: 130,
        }
    }
}

impl SampleOptions {
    /// Returns the options of an archive of about these sizes.
    pub fn of_size(database_bytes: u64, attachments_bytes: u64) -> Self {
        let count = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            messages: count(database_bytes / FULL_MESSAGE_BYTES).max(1),
            // A fifth of the rows bring no new bytes.
            attachments: count(attachments_bytes * 5 / 4 / ATTACHMENT_BYTES),
            attachment_mean_bytes: ATTACHMENT_BYTES,
            ..Self::default()
        }
    }
}

/// How an archive changes. The default is an ordinary day.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// New messages, as a part of those there are; at least one unless 0.
    pub insert_fraction: f64,
    /// Changed messages, scattered over the table.
    pub update_fraction: f64,
    /// Deleted messages.
    pub delete_fraction: f64,
    /// New attachment rows; `None`: 0.4% of those there are, at least two.
    pub add_attachments: Option<u32>,
    /// Attachment rows removed, with the contents no row points at any more; `None`: 0.1%, at least one.
    /// 0 also keeps every message that has an attachment.
    pub remove_attachments: Option<u32>,
    /// New contents of exactly this many bytes.
    pub large: Vec<(u64, ContentKind)>,
    /// New rows of `document_chunks`.
    pub documents: u32,
    /// Whether the database is rebuilt at the end, which makes it smaller and moves most pages.
    pub vacuum: bool,
    /// Whether the change stays in `msgvault.db-wal`, as when the program is killed. Needs [`Journal::Wal`].
    pub leave_wal: bool,
}

impl Default for Change {
    fn default() -> Self {
        Self {
            insert_fraction: 0.01,
            update_fraction: 0.005,
            delete_fraction: 0.002,
            add_attachments: None,
            remove_attachments: None,
            large: Vec::new(),
            documents: 0,
            vacuum: false,
            leave_wal: false,
        }
    }
}

impl Change {
    /// Returns the change that changes nothing; a start for changes of one kind.
    pub fn nothing() -> Self {
        Self {
            insert_fraction: 0.0,
            update_fraction: 0.0,
            delete_fraction: 0.0,
            add_attachments: Some(0),
            remove_attachments: Some(0),
            ..Self::default()
        }
    }
}

/// What an archive holds, and what was just done to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Number of changes since the archive was made.
    pub generation: u32,
    /// Rows of `messages`.
    pub messages: u64,
    /// Rows of `conversations`.
    pub conversations: u64,
    /// Rows of `attachments`.
    pub attachment_rows: u64,
    /// Distinct contents, thumbnails included, that rows point at.
    pub attachment_blobs: u64,
    /// Bytes of all files under `attachments/`.
    pub attachments_stored_bytes: u64,
    /// Size of `msgvault.db`.
    pub database_bytes: u64,
    /// Size of `msgvault.db-wal`; 0 without one.
    pub wal_bytes: u64,
    /// Messages this call inserted.
    pub messages_inserted: u64,
    /// Messages this call updated.
    pub messages_updated: u64,
    /// Messages this call deleted.
    pub messages_deleted: u64,
    /// Attachment rows this call inserted.
    pub attachments_added: u64,
    /// Attachment rows this call deleted.
    pub attachments_removed: u64,
}
