//! Notes beside manifests: what packvault alone knows of a snapshot, as `snapshots/<id>.packvault.json`.
//!
//! ```text
//! {"version":1,"source_problems":["..."],"archive":{...},"warnings":["..."],"complete":true,"sha256":"..."}
//! ```
//!
//! The hash is of all that stands before it, so that a note that rots does not say something else; those of earlier
//! versions have none.
//!
//! Other programs look at names that end in `.mvmanifest` only. A note is written before its manifest, so
//! whoever sees the snapshot sees the note; without its manifest it means nothing. A snapshot without a note
//! is whole, and a damaged note costs what it says and no more: nothing that the proof of a restore needs may
//! ever be kept here. A field that this version does not know is passed over, so fields may be added.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use packvault_storage::{Key, ListedObject};
use serde::{Deserialize, Serialize};

use super::cache::Trust;
use super::snapshots::SnapshotFiles;
use super::{Repository, key};
use crate::error::lift::format_error;
use crate::format::sealed::Binding;
use crate::format::{BlobId, FormatError, FormatErrorKind};
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

const SUFFIX: &str = ".packvault.json";
const VERSION: u64 = 1;
/// A note is a few lines; a longer one is none of ours.
pub(super) const NOTE_BYTES_MAX: u64 = 1024 * 1024;
/// Former ids that a note keeps: a prune a week for some twenty years.
const FORMER_IDS_MAX: usize = 1000;
/// Notes read at once.
const READS_IN_FLIGHT: usize = 16;
/// How many notes are looked at, from the newest back, for one that says whose the snapshots are.
const LOOKED_BACK_MAX: usize = 8;

/// What packvault knows of a snapshot beyond its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What was wrong with the source when it was captured.
    #[serde(default)]
    pub source_problems: Vec<String>,
    /// The archive that the snapshot is of; `None` where nobody recorded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveIdentity>,
    /// What the user was told when the snapshot was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether everything that was asked for is in the snapshot.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub complete: bool,
    /// The ids that the snapshot had before it was squashed, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former_ids: Vec<String>,
}

/// A note as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredNote {
    version: u64,
    #[serde(flatten)]
    note: Note,
}

/// Which archive a snapshot is of: what tells two applications apart that share a database name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveIdentity {
    /// The kind of application, as the configuration names it.
    pub profile: String,
    /// The archive's name in the configuration, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The folder that the archive lies in, as an absolute path without links.
    pub home: String,
    /// The live database, as an absolute path without links.
    pub database: String,
    /// Hashes of the names of its tables, in order; see `engine::identity`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
}

fn yes() -> bool {
    true
}

fn is_yes(answer: &bool) -> bool {
    *answer
}

impl Default for Note {
    fn default() -> Self {
        Self {
            source_problems: Vec::new(),
            archive: None,
            warnings: Vec::new(),
            complete: true,
            former_ids: Vec::new(),
        }
    }
}

impl Note {
    /// Notes that the snapshot had this id before. Of very many, the first and the last ones are kept.
    pub fn formerly(&mut self, id: &str) {
        if self.former_ids.len() >= FORMER_IDS_MAX {
            self.former_ids.remove(1);
        }
        self.former_ids.push(id.to_owned());
    }

    /// Tells whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Repository {
    /// Publishes the note of a snapshot, which must not have one.
    pub async fn publish_note(&self, snapshot: &str, note: &Note) -> Result<()> {
        let name = note_key(snapshot);
        let file = self.sealing.seal(&Binding::Note(name.name()), encode(note))?;
        self.storage
            .create(&name, Bytes::from(file))
            .await
            .map_err(|error| storage_error(format!("cannot publish the note of snapshot {snapshot}"), error))
    }

    /// Publishes the note of a snapshot that does not exist yet; one that a run left which died is replaced.
    pub async fn replace_note(&self, snapshot: &str, note: &Note) -> Result<()> {
        let name = note_key(snapshot);
        let file = self.sealing.seal(&Binding::Note(name.name()), encode(note))?;
        let replaced = self.storage.replace(&name, Bytes::from(file)).await;
        replaced
            .map_err(|error| storage_error(format!("cannot publish the note of snapshot {snapshot}"), error))
    }

    /// Returns the snapshot that had this id before it was squashed, by the notes of the listing. An id keeps its time.
    pub async fn formerly(&self, files: &SnapshotFiles, id: &str) -> Result<Option<String>> {
        let time = id.split('-').next().unwrap_or(id);
        for name in files.names().filter(|name| name.split('-').next() == Some(time)) {
            let note = self.note_of(files, name).await?.unwrap_or_default();
            if note.former_ids.iter().any(|former| former == id) {
                return Ok(Some(name.to_owned()));
            }
        }
        Ok(None)
    }

    /// Returns the note of each snapshot that has one, by the snapshot's name. One that cannot be understood
    /// says so itself, as a problem of the source.
    pub async fn read_notes(&self, files: &SnapshotFiles) -> Result<BTreeMap<String, Note>> {
        let notes = futures::stream::iter(notes_among(files))
            .map(async |(name, object)| Ok((name.to_owned(), self.read_note(object).await?)))
            .buffered(READS_IN_FLIGHT);
        notes.try_collect().await
    }

    /// Returns the note of one snapshot, if there is one.
    pub async fn note_of(&self, files: &SnapshotFiles, snapshot: &str) -> Result<Option<Note>> {
        match notes_among(files).find(|(name, _)| *name == snapshot) {
            Some((_, object)) => self.read_note(object).await.map(Some),
            None => Ok(None),
        }
    }

    /// Returns whose the snapshots are, by the newest note that says so, and the name of its snapshot. Notes
    /// without a manifest mean nothing, and those that cannot be read say nothing.
    pub async fn recorded_archive(&self, files: &SnapshotFiles) -> Result<Option<(String, ArchiveIdentity)>> {
        let notes: BTreeMap<&str, &ListedObject> = notes_among(files).collect();
        let newest = files.names().rev().filter_map(|name| Some((name, *notes.get(name)?)));
        for (name, object) in newest.take(LOOKED_BACK_MAX) {
            if let Some(archive) = self.read_note(object).await?.archive {
                return Ok(Some((name.to_owned(), archive)));
            }
        }
        Ok(None)
    }

    async fn read_note(&self, object: &ListedObject) -> Result<Note> {
        match self.load_note(object).await {
            Ok(note) => Ok(note),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Note::default()),
            // The manifest of another user tells what there is to tell; a note keeps no list from being shown.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::NotPermitted
                ) =>
            {
                let problem = format!("the note {} cannot be read", object.key.name());
                Ok(Note { source_problems: vec![problem], ..Note::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads one note; one that cannot be understood is an error.
    pub(super) async fn load_note(&self, object: &ListedObject) -> Result<Note> {
        let ListedObject { key, meta } = object;
        if meta.size_bytes > NOTE_BYTES_MAX + self.sealing.overhead_bytes() {
            let message = format!("{} has {} bytes, more than any note", key.as_str(), meta.size_bytes);
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        let decode = |bytes: &[u8]| {
            self.sealing.open(&Binding::Note(key.name()), bytes).and_then(|text| decode(&text))
        };
        let read = self.read_listed(key, meta, Trust::Copies, decode).await;
        read.map_err(|error| storage_error(format!("cannot read {}", key.as_str()), error))?
            .map_err(|error| format_error(format!("cannot use {}", key.as_str()), error))
    }
}

/// Returns what stands behind a note that says so: the hash of the text up to there.
fn ending(text: &[u8]) -> String {
    format!(",\"sha256\":\"{}\"}}", BlobId::of(text))
}

fn encode(note: &Note) -> Vec<u8> {
    let stored = StoredNote { version: VERSION, note: note.clone() };
    let mut text = serde_json::to_vec(&stored).expect("strings, numbers and booleans are JSON");
    text.pop();
    let ending = ending(&text);
    text.extend_from_slice(ending.as_bytes());
    text
}

pub(super) fn decode(text: &[u8]) -> std::result::Result<Note, FormatError> {
    #[derive(Deserialize)]
    struct Head {
        version: u64,
    }
    let unusable = |error: serde_json::Error| FormatError::invalid(format!("this is no note: {error}"));
    let head: Head = serde_json::from_slice(text).map_err(unusable)?;
    if head.version != VERSION {
        let message = format!("version {} of the note is not one this program reads", head.version);
        return Err(FormatError::new(FormatErrorKind::UnsupportedVersion, message));
    }
    check_hash(text)?;
    serde_json::from_slice::<StoredNote>(text).map(|stored| stored.note).map_err(unusable)
}

/// Checks the hash of a note that has one: no other field is last and a text.
fn check_hash(text: &[u8]) -> std::result::Result<(), FormatError> {
    let is_hashed = text.ends_with(b"\"}");
    let at = text.len().checked_sub(ending(b"").len());
    let is_whole = at.is_some_and(|at| text[at..] == *ending(&text[..at]).as_bytes());
    match !is_hashed || is_whole {
        true => Ok(()),
        false => Err(FormatError::new(FormatErrorKind::Checksum, "the note is not what its hash says")),
    }
}

/// Returns where the note of a snapshot lies.
pub(super) fn note_key(snapshot: &str) -> Key {
    key(format!("snapshots/{snapshot}{SUFFIX}"))
}

/// Returns the notes of a listing, with the names of their snapshots.
pub(super) fn notes_among(files: &SnapshotFiles) -> impl Iterator<Item = (&str, &ListedObject)> {
    files.beside(SUFFIX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use packvault_storage::{
        ErrorKind as StorageErrorKind, Fault, FaultStorage, MemoryStorage, Operation, Storage,
    };

    use super::*;
    use crate::repo::config;

    const FIT: &str = r#"{"version":1,"source_problems":["page 7"]}"#;

    #[test]
    fn a_note_that_rots_anywhere_says_nothing_else_than_it_said() {
        let archive = ArchiveIdentity { profile: "sqlite".into(), ..ArchiveIdentity::default() };
        for note in [
            Note::default(),
            Note { warnings: vec!["w".to_owned()], complete: false, ..Note::default() },
            Note { source_problems: vec!["page 7".into()], archive: Some(archive), ..Note::default() },
        ] {
            let text = encode(&note);
            assert_eq!(decode(&text).unwrap(), note);
            for at in 0..text.len() {
                for bit in 0..8 {
                    let mut rotten = text.clone();
                    rotten[at] ^= 1 << bit;
                    assert!(decode(&rotten).is_err(), "{}", String::from_utf8_lossy(&rotten));
                }
                assert!(decode(&text[..at]).is_err());
            }
            let earlier = serde_json::to_vec(&StoredNote { version: VERSION, note: note.clone() }).unwrap();
            assert_eq!(decode(&earlier).unwrap(), note, "a note without a hash");
        }
        let newer = decode(br#"{"version":2,"of":"another shape"}"#).unwrap_err();
        assert_eq!(newer.kind(), FormatErrorKind::UnsupportedVersion);
    }

    fn padded(bytes: u64) -> String {
        FIT.to_owned() + &" ".repeat(bytes as usize - FIT.len())
    }

    #[tokio::test]
    async fn a_note_is_read_as_it_was_written_and_one_that_is_none_says_so() {
        let storage = MemoryStorage::new();
        config::init(&storage, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
        let faults = FaultStorage::new(Arc::new(storage.clone()));
        let repository = Repository::open(Arc::new(faults.clone())).await.unwrap();
        let note = Note { source_problems: vec!["page 7".to_owned()], ..Note::default() };
        repository.publish_note("written", &note).await.unwrap();
        let name = |name: &str| key(format!("snapshots/{name}.packvault.json"));
        for (note, text) in [
            ("longest", padded(NOTE_BYTES_MAX)),
            ("too-long", padded(NOTE_BYTES_MAX + 1)),
            ("newer", FIT.replace('1', "2")),
            ("garbage", "{".to_owned()),
            ("deep/er", FIT.to_owned()),
        ] {
            storage.put_raw(&name(note), text, SystemTime::now());
        }
        storage.put_raw(&key("snapshots/other.json".to_owned()), FIT, SystemTime::now());
        let files = repository.list_snapshots().await.unwrap();
        let notes = repository.read_notes(&files).await.unwrap();
        let notes: BTreeMap<_, _> =
            notes.into_iter().map(|(name, note)| (name, note.source_problems)).collect();
        let unreadable = |name: &str| vec![format!("the note {name}.packvault.json cannot be read")];
        let expected = [
            ("written", vec!["page 7".to_owned()]),
            ("longest", vec!["page 7".to_owned()]),
            ("too-long", unreadable("too-long")),
            ("newer", unreadable("newer")),
            ("garbage", unreadable("garbage")),
        ];
        assert_eq!(notes, expected.map(|(name, problems)| (name.to_owned(), problems)).into());

        storage.remove(&name("written")).await.unwrap();
        assert!(repository.read_notes(&files).await.unwrap()["written"].is_empty(), "it has gone meanwhile");
        faults.at_next(Operation::Read, Fault::Before(StorageErrorKind::Denied));
        assert_eq!(repository.read_notes(&files).await.unwrap().len(), notes.len());
        faults.at_next(Operation::Read, Fault::Before(StorageErrorKind::Io));
        let error = repository.read_notes(&files).await.unwrap_err();
        assert!(error.to_string().contains(".packvault.json"), "{error}");
    }
}
