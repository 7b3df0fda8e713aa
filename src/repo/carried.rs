//! What of a snapshot travels between repositories besides its blobs: the manifest, the note, the attributes.
//!
//! Each travels as it lies in a plain repository, byte for byte, so that ids and hashes stay what they are; it is
//! checked as it is read, and sealed as its new repository is.

use bytes::Bytes;
use packvault_storage::{
    Error as StorageError, ErrorKind as StorageErrorKind, Key, ListedObject, ObjectMeta,
};

use super::snapshots::SnapshotFiles;
use super::{Repository, attributes, notes, snapshots};
use crate::error::lift::format_error;
use crate::format::sealed::Binding;
use crate::format::{ArchiveAttributes, FormatError, Manifest, SUPPORTED_READER_LEVEL, SnapshotId};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// One of the objects of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What packvault knows of it beyond the manifest.
    Note,
    /// Owners, modes and times.
    Attributes,
    /// The manifest, with which the snapshot exists.
    Manifest,
}

impl Part {
    /// What lies beside the manifest, in the order in which it is published.
    pub const BESIDE: [Self; 2] = [Self::Note, Self::Attributes];

    /// Returns the word for it.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Attributes => "attributes",
            Self::Manifest => "manifest",
        }
    }

    pub(super) fn key(self, id: &SnapshotId) -> Key {
        match self {
            Self::Note => notes::note_key(id.as_str()),
            Self::Attributes => attributes::attributes_key(id.as_str()),
            Self::Manifest => snapshots::manifest_key(id),
        }
    }

    fn bytes_max(self) -> u64 {
        match self {
            Self::Note => notes::NOTE_BYTES_MAX,
            Self::Attributes => crate::format::attributes::OBJECT_BYTES_MAX,
            Self::Manifest => snapshots::MANIFEST_BYTES_MAX,
        }
    }

    fn check(self, id: &SnapshotId, plain: &[u8]) -> std::result::Result<(), FormatError> {
        match self {
            Self::Note => notes::decode(plain).map(drop),
            Self::Attributes => ArchiveAttributes::decode(plain).map(drop),
            Self::Manifest => Manifest::load(id, plain, SUPPORTED_READER_LEVEL).map(drop),
        }
    }
}

/// An object of a snapshot as it lies in a plain repository, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainPart {
    /// What it is.
    pub part: Part,
    /// The snapshot that it belongs to.
    pub snapshot: SnapshotId,
    bytes: Vec<u8>,
}

/// What became of an object that was published.
#[derive(Debug)]
pub enum Published {
    /// It is there now.
    New,
    /// It was there, and says the same.
    Same,
    /// Another object has its name, or one that cannot be used.
    Other(Error),
}

impl SnapshotFiles {
    /// Tells whether the object is there, whatever it holds.
    pub fn has_part(&self, id: &SnapshotId, part: Part) -> bool {
        self.part(id, part).is_some()
    }

    fn part(&self, id: &SnapshotId, part: Part) -> Option<ObjectMeta> {
        match part {
            Part::Manifest => self.meta(id.as_str()),
            Part::Note | Part::Attributes => {
                let key = part.key(id);
                self.others.iter().find(|object| object.key == key).map(|object: &ListedObject| object.meta)
            }
        }
    }
}

impl Repository {
    /// Reads an object of a snapshot, past all copies near at hand; `None` where the listing shows none.
    pub async fn plain_part(
        &self,
        files: &SnapshotFiles,
        id: &SnapshotId,
        part: Part,
    ) -> Result<Option<PlainPart>> {
        let Some(meta) = files.part(id, part) else { return Ok(None) };
        let what = || format!("the {} of snapshot {id}", part.noun());
        if meta.size_bytes > part.bytes_max() + self.sealing.overhead_bytes() {
            let message = format!("{} has {} bytes, more than any writer makes", what(), meta.size_bytes);
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        let read = self.storage.read_range(&part.key(id), 0..meta.size_bytes).await;
        let stored = read.map_err(|error| storage_error(format!("cannot read {}", what()), error))?;
        self.opened_part(id, part, &stored).map(Some)
    }

    fn opened_part(&self, id: &SnapshotId, part: Part, stored: &[u8]) -> Result<PlainPart> {
        let key = part.key(id);
        let binding = match part {
            Part::Manifest => Binding::Manifest(id),
            Part::Note | Part::Attributes => Binding::Note(key.name()),
        };
        let opened = self.sealing.open(&binding, stored).and_then(|plain| {
            part.check(id, &plain)?;
            Ok(plain.into_owned())
        });
        let bytes = opened.map_err(|error| {
            format_error(format!("cannot use the {} of snapshot {id}", part.noun()), error)
        })?;
        Ok(PlainPart { part, snapshot: id.clone(), bytes })
    }

    /// Publishes an object of a snapshot. A manifest comes last: everything that it names must be durable before.
    pub async fn publish_part(&self, plain: &PlainPart) -> Result<Published> {
        let (id, part) = (&plain.snapshot, plain.part);
        match self.storage.create(&part.key(id), self.stored_part(plain)?).await {
            Ok(()) => Ok(Published::New),
            Err(error) if error.kind() == StorageErrorKind::AlreadyExists => self.compared(plain).await,
            Err(error) => Err(cannot_publish(plain, error)),
        }
    }

    async fn compared(&self, plain: &PlainPart) -> Result<Published> {
        let (id, part) = (&plain.snapshot, plain.part);
        let most = part.bytes_max() + self.sealing.overhead_bytes() + 1;
        let stored = self.storage.read_start(&part.key(id), most).await;
        let stored = stored.map_err(|error| cannot_publish(plain, error))?;
        Ok(match self.opened_part(id, part, &stored) {
            Ok(found) if found == *plain => Published::Same,
            Ok(_) => {
                let message = format!("another {} of snapshot {id} is there", part.noun());
                Published::Other(Error::new(ErrorKind::Refused, message))
            }
            Err(error) => Published::Other(error),
        })
    }

    pub(super) fn stored_part(&self, plain: &PlainPart) -> Result<Bytes> {
        let key = plain.part.key(&plain.snapshot);
        let binding = match plain.part {
            Part::Manifest => Binding::Manifest(&plain.snapshot),
            Part::Note | Part::Attributes => Binding::Note(key.name()),
        };
        self.sealing.seal(&binding, plain.bytes.clone()).map(Bytes::from)
    }
}

fn cannot_publish(plain: &PlainPart, error: StorageError) -> Error {
    storage_error(format!("cannot publish the {} of snapshot {}", plain.part.noun(), plain.snapshot), error)
}
