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
    database: Option<Entry>,
    /// By their hashes; `None` where they were not asked for.
    attachments: Option<Vec<ListedAttachment>>,
    /// How many there are and their bytes, by the manifest's word.
    attachments_told: (u64, u64),
    extras: BTreeMap<String, (Entry, BlobId)>,
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
            let entry = file(extra.path.clone(), EntryKind::Extra, extra.size, Some(&extra.blob));
            (extra.path, (with(Entry { mode, ..entry }, known), extra.blob))
        };
        let attachments = attachments.map(|mut attachments| {
            attachments.sort_unstable_by_key(|attachment| *attachment.id.as_bytes());
            attachments
        });
        let told = &manifest.attachments;
        let told = (u64::try_from(told.blobs).unwrap_or(0), u64::try_from(told.blob_bytes).unwrap_or(0));
        Self {
            database: manifest.metadata.is_none().then(of_database),
            attachments,
            attachments_told: told,
            extras: extras.into_iter().map(extra).collect(),
            folders: attributes.folders.clone(),
        }
    }

    /// Returns every file, in the order of the paths, attachments only where they were asked for.
    pub fn files(&self) -> impl Iterator<Item = (Entry, Content)> + '_ {
        let attachments = self.attachments.iter().flatten();
        let attachments = attachments.map(|found| (attachment(found), Content::Blob(found.id)));
        let extras = |is_before: bool| {
            let extras = self
                .extras
                .values()
                .filter(move |(entry, _)| (entry.path.as_str() < CONTENT_NAME) == is_before);
            extras.map(|(entry, blob)| (entry.clone(), Content::Blob(*blob)))
        };
        let database = self.database.iter().map(|entry| (entry.clone(), Content::Database));
        // The database stands among the extra files, wherever its name puts it.
        let rest =
            merged(extras(false), database.clone().filter(|(entry, _)| entry.path.as_str() >= CONTENT_NAME));
        let first = merged(extras(true), database.filter(|(entry, _)| entry.path.as_str() < CONTENT_NAME));
        first.chain(attachments).chain(rest)
    }

    /// Returns the attachments, in the order of their hashes; none where they were not asked for.
    pub fn attachments(&self) -> &[ListedAttachment] {
        self.attachments.as_deref().unwrap_or_default()
    }

    /// Returns the file of that path, if there is one.
    pub fn file(&self, path: &str) -> Option<(Entry, Content)> {
        if let Some(database) = self.database.as_ref().filter(|entry| entry.path == path) {
            return Some((database.clone(), Content::Database));
        }
        if let Some((entry, blob)) = self.extras.get(path) {
            return Some((entry.clone(), Content::Blob(*blob)));
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

    fn empty_folder(&self, path: &str) -> Entry {
        let folder = Entry { files: Some(0), ..file(path.to_owned(), EntryKind::Folder, 0, None) };
        with(folder, self.folders.get(path))
    }
}

/// Merges two lists that are in the order of their paths.
fn merged<T>(
    one: impl Iterator<Item = (Entry, T)>,
    other: impl Iterator<Item = (Entry, T)>,
) -> impl Iterator<Item = (Entry, T)> {
    let (mut one, mut other) = (one.peekable(), other.peekable());
    std::iter::from_fn(move || match (one.peek(), other.peek()) {
        (Some((first, _)), Some((second, _))) if first.path > second.path => other.next(),
        (Some(_), _) => one.next(),
        (None, _) => other.next(),
    })
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
