//! The files of a snapshot as a tree: the database, the attachments at the paths that their hashes give, and the extra
//! files at their own.
//!
//! A snapshot does not say by what names its application knows its attachments; its database does. So an attachment
//! stands here where most applications keep it, at `attachments/<two digits>/<hash>`.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::report::{Entry, EntryKind};
use crate::archive::profile::CONTENT_NAME;
use crate::format::{ArchiveAttributes, Attributes, BlobId, ExtrasEntry, ListedAttachment, Manifest};

/// What attachments and the database are restored with where nothing else was recorded.
const MODE_OF_OWN_FILES: u32 = 0o600;
/// The digits of a hash that name the folder of an attachment.
const FOLDER_DIGITS: usize = 2;

/// A file, and what its content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The pages of the database.
    Database,
    /// A blob.
    Blob(BlobId),
}

/// The files of one snapshot.
#[derive(Debug)]
pub struct Tree {
    /// The database and the extra files, in the order of their paths.
    items: Vec<(Entry, Content)>,
    /// By their hashes; `None` where they were not asked for.
    attachments: Option<Vec<ListedAttachment>>,
    /// How many there are and their bytes, by the manifest's word.
    attachments_told: (u64, u64),
    folders: BTreeMap<String, Attributes>,
}

impl Tree {
    /// Makes the tree of paths that were checked.
    pub(super) fn new(
        manifest: &Manifest,
        database_name: &str,
        attachments: Option<Vec<ListedAttachment>>,
        extras: Vec<ExtrasEntry>,
        attributes: &ArchiveAttributes,
    ) -> Self {
        let of_database = || {
            let file = file(database_name.to_owned(), EntryKind::Database, manifest.database_bytes(), None);
            with(Entry { mode: Some(MODE_OF_OWN_FILES), ..file }, attributes.database.as_ref())
        };
        let extra = |extra: ExtrasEntry| {
            let known = attributes.files.get(&extra.path);
            let mode = Some(extra.restored_mode());
            let entry = file(extra.path, EntryKind::Extra, extra.size, Some(&extra.blob));
            (with(Entry { mode, ..entry }, known), Content::Blob(extra.blob))
        };
        let attachments = attachments.map(|mut attachments| {
            attachments.sort_unstable_by_key(|attachment| *attachment.id.as_bytes());
            attachments
        });
        let told = &manifest.attachments;
        let told = (u64::try_from(told.blobs).unwrap_or(0), u64::try_from(told.blob_bytes).unwrap_or(0));
        let database = manifest.metadata.is_none().then(|| (of_database(), Content::Database));
        // The database stands among the extra files, wherever its name puts it.
        let mut items: Vec<(Entry, Content)> =
            database.into_iter().chain(extras.into_iter().map(extra)).collect();
        items.sort_by(|one, other| one.0.path.cmp(&other.0.path));
        Self { items, attachments, attachments_told: told, folders: attributes.folders.clone() }
    }

    /// Returns every file, in the order of the paths, attachments only where they were asked for.
    pub fn files(&self) -> impl Iterator<Item = (Entry, Content)> + '_ {
        let attachments = self.attachments.iter().flatten();
        let attachments = attachments.map(|found| (attachment(found), Content::Blob(found.id)));
        let (first, rest) = self.items.split_at(self.items_before(CONTENT_NAME));
        first.iter().cloned().chain(attachments).chain(rest.iter().cloned())
    }

    /// Returns the database and the extra files, in the order of their paths.
    pub fn items(&self) -> &[(Entry, Content)] {
        &self.items
    }

    /// Returns how many of them stand before a path.
    fn items_before(&self, path: &str) -> usize {
        self.items.partition_point(|(entry, _)| entry.path.as_str() < path)
    }

    /// Returns the attachments, in the order of their hashes; none where they were not asked for.
    pub fn attachments(&self) -> &[ListedAttachment] {
        self.attachments.as_deref().unwrap_or_default()
    }

    /// Returns the file of that path, if there is one.
    pub fn file(&self, path: &str) -> Option<(Entry, Content)> {
        if let Some(item) = self.items.get(self.items_before(path)).filter(|(entry, _)| entry.path == path) {
            return Some(item.clone());
        }
        let rest = path.strip_prefix(CONTENT_NAME)?.strip_prefix('/')?;
        let (folder, name) = rest.split_once('/')?;
        let id = BlobId::parse(name).ok().filter(|id| id.to_string() == name && name.starts_with(folder))?;
        let found = self.attachment(&id).filter(|_| folder.len() == FOLDER_DIGITS)?;
        Some((attachment(found), Content::Blob(id)))
    }

    /// Returns the attachment of that hash, if the snapshot has it.
    pub fn attachment(&self, id: &BlobId) -> Option<&ListedAttachment> {
        let attachments = self.attachments.as_ref()?;
        let found = attachments.binary_search_by(|known| known.id.as_bytes().cmp(id.as_bytes())).ok()?;
        attachments.get(found)
    }

    /// Returns the place of the database or an extra file among them.
    pub(super) fn place_of_item(&self, path: &str) -> Option<usize> {
        let place = self.items_before(path);
        self.items.get(place).filter(|(entry, _)| entry.path == path).map(|_| place)
    }

    /// Returns the place of an attachment among them.
    pub(super) fn place_of_attachment(&self, entry: &Entry) -> Option<usize> {
        let id = BlobId::parse(entry.hash.as_deref()?).ok()?;
        self.attachments().binary_search_by(|known| known.id.as_bytes().cmp(id.as_bytes())).ok()
    }

    /// Returns the attachment at a place among them.
    pub(super) fn attachment_at(&self, place: usize) -> Option<(Entry, Content)> {
        self.attachments().get(place).map(|found| (attachment(found), Content::Blob(found.id)))
    }

    /// Returns the attachments whose hashes begin with a byte, with the place of the first.
    fn attachments_of(&self, byte: u8) -> (usize, &[ListedAttachment]) {
        let all = self.attachments();
        let first = all.partition_point(|found| found.id.as_bytes()[0] < byte);
        let end = all.partition_point(|found| found.id.as_bytes()[0] <= byte);
        (first, &all[first..end])
    }

    /// Returns the path of the folder of attachments whose hashes begin with a byte, or of them all.
    pub(super) fn path_of_folder_of_attachments(byte: Option<u8>) -> String {
        match byte {
            None => CONTENT_NAME.to_owned(),
            Some(byte) => format!("{CONTENT_NAME}/{byte:02x}"),
        }
    }

    /// Tells whether attachments lie below a path: all of them (`None`), or those whose hashes begin with a byte.
    #[allow(clippy::option_option, reason = "no folder of attachments, that of all, that of some")]
    pub(super) fn folder_of_attachments(&self, path: &str) -> Option<Option<u8>> {
        let rest = path.strip_prefix(CONTENT_NAME)?;
        let byte = match rest.strip_prefix('/') {
            None => None,
            Some(digits) => Some(u8::from_str_radix(digits, 16).ok()?),
        };
        let is_it = Self::path_of_folder_of_attachments(byte) == path;
        let has_any =
            byte.map_or(!self.attachments().is_empty(), |byte| !self.attachments_of(byte).1.is_empty());
        (is_it && has_any).then_some(byte)
    }

    /// Returns the place of the first of the database and the extra files that lie below a path.
    pub(super) fn first_below(&self, path: &str) -> Option<usize> {
        let prefix = format!("{path}/");
        let place = self.items_before(&prefix);
        self.items.get(place).filter(|(entry, _)| entry.path.starts_with(&prefix)).map(|_| place)
    }

    /// Returns the names of what lies directly in a folder; the empty path is the whole. Nothing is gone through but
    /// what is there.
    pub(super) fn names_in(&self, path: &str) -> Vec<String> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let mut names = Vec::new();
        let mut place = self.items_before(&prefix);
        while let Some(rest) = self.items.get(place).and_then(|(entry, _)| entry.path.strip_prefix(&prefix)) {
            match rest.split_once('/') {
                None => {
                    names.push(rest.to_owned());
                    place += 1;
                }
                Some((name, _)) => {
                    names.push(name.to_owned());
                    // Behind everything in that folder: no character lies between `/` and `0`.
                    place = self.items_before(&format!("{prefix}{name}0"));
                }
            }
        }
        if path.is_empty() && !self.attachments().is_empty() {
            names.push(CONTENT_NAME.to_owned());
        }
        match self.folder_of_attachments(path) {
            None => {}
            Some(None) => {
                let has_any = |byte: &u8| !self.attachments_of(*byte).1.is_empty();
                names.extend((0..=u8::MAX).filter(has_any).map(|byte| format!("{byte:02x}")));
            }
            Some(Some(byte)) => {
                names.extend(self.attachments_of(byte).1.iter().map(|found| found.id.to_string()))
            }
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns about how many bytes it takes in memory.
    pub(super) fn memory_bytes(&self) -> u64 {
        const ITEM_BYTES: usize = 400;
        let items = self.items.len().saturating_add(self.folders.len()).saturating_mul(ITEM_BYTES);
        items.saturating_add(std::mem::size_of_val(self.attachments())) as u64
    }

    /// Returns what lies directly in a folder, in the order of the paths; the empty path is the whole. `None` if there
    /// is no such folder.
    pub fn folder(&self, path: &str) -> Option<Vec<Entry>> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let mut found: BTreeMap<String, Entry> = BTreeMap::new();
        let of_attachments = format!("{CONTENT_NAME}/");
        let skips_attachments = self.attachments.is_none() || path.is_empty();
        for (entry, _) in self.files() {
            if skips_attachments && entry.path.starts_with(&of_attachments) {
                continue;
            }
            let Some(rest) = entry.path.strip_prefix(&prefix) else { continue };
            match rest.split_once('/') {
                None => {
                    found.insert(entry.path.clone(), entry);
                }
                Some((name, _)) => {
                    let folder = format!("{prefix}{name}");
                    let known = found.entry(folder).or_insert_with_key(|folder| self.empty_folder(folder));
                    known.bytes = known.bytes.saturating_add(entry.bytes);
                    known.files = known.files.map(|files| files.saturating_add(1));
                }
            }
        }
        let (files, bytes) = self.attachments_told;
        if path.is_empty() && files > 0 {
            let folder = self.empty_folder(CONTENT_NAME);
            found.insert(CONTENT_NAME.to_owned(), Entry { files: Some(files), bytes, ..folder });
        }
        (path.is_empty() || !found.is_empty()).then(|| found.into_values().collect())
    }

    /// Returns what is known of a folder, without what is in it.
    pub(super) fn empty_folder(&self, path: &str) -> Entry {
        let folder = Entry { files: Some(0), ..file(path.to_owned(), EntryKind::Folder, 0, None) };
        with(folder, self.folders.get(path))
    }
}

/// Returns the path at which an attachment stands.
pub fn path_of_attachment(id: &BlobId) -> String {
    let hash = id.to_string();
    format!("{CONTENT_NAME}/{}/{hash}", &hash[..FOLDER_DIGITS])
}

/// Returns where an attachment stands.
fn attachment(found: &ListedAttachment) -> Entry {
    let path = path_of_attachment(&found.id);
    Entry { mode: Some(MODE_OF_OWN_FILES), ..file(path, EntryKind::Attachment, found.bytes, Some(&found.id)) }
}

fn file(path: String, kind: EntryKind, bytes: u64, hash: Option<&BlobId>) -> Entry {
    let hash = hash.map(ToString::to_string);
    Entry { path, kind, bytes, files: None, mode: None, user: None, group: None, modified: None, hash }
}

/// Adds what was recorded beside the manifest. It proves nothing; a time that cannot be one is left out.
fn with(entry: Entry, known: Option<&Attributes>) -> Entry {
    let Some(known) = known else { return entry };
    let modified = Timestamp::from_second(known.modified.0).ok().map(|time| time.to_string());
    let (mode, user, group) = (Some(known.mode & 0o7777), Some(known.user), Some(known.group));
    Entry { mode, user, group, modified, ..entry }
}
