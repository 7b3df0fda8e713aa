//! Packs that no index names any more, and that are to be removed: `indexes/<ulid>.packvault-condemned`.
//!
//! ```text
//! {"version":1,"packs":["01kwvve8k3wz72j3vhy0dphk55"]}
//! ```
//!
//! A pack is not removed in the run that finds it out of use. A writer that slept past its lock may be about to publish
//! a snapshot that leans on it, and a reader without a lock may be reading it. So it is condemned first, and a later
//! run removes it, after [`GRACE`] and after another look that no index names it. How old a note is, the store's clock
//! says, as of locks. Other programs pass the notes over.
//!
//! A note lies plain: it names files that everybody sees who sees the folder. It gives nobody the right to remove
//! anything: a pack that an index names stays, whatever a note says of it. One that cannot be read, or that lies in
//! the future, counts as none, and its packs are condemned anew.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use packvault_storage::{Key, ListedObject, Prefix};
use serde::{Deserialize, Serialize};

use super::{Repository, key};
use crate::Result;
use crate::format::PackId;
use crate::repo::storage_error;

const SUFFIX: &str = ".packvault-condemned";
const VERSION: u64 = 1;

/// How long a condemned pack stays at least: twice as long as it takes until a lock is stale.
pub const GRACE: Duration = Duration::from_secs(60 * 60);

/// Packs of one note.
const NOTE_PACKS_MAX: usize = 50_000;
/// The longest note that is read; one with so many packs has 1.5 MB.
const NOTE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A note as it is stored.
#[derive(Serialize, Deserialize)]
struct StoredNote {
    version: u64,
    packs: Vec<String>,
}

/// A note of condemned packs.
#[derive(Debug)]
pub struct CondemnedNote {
    /// Where it lies.
    pub(super) key: Key,
    /// The packs that it names; none where it cannot be used.
    pub packs: HashSet<PackId>,
    /// Since when it is there, by the store's clock; `None` where that lies in the future.
    pub age: Option<Duration>,
}

impl CondemnedNote {
    /// Tells whether its packs have waited long enough.
    pub fn is_due(&self) -> bool {
        self.age.is_some_and(|age| age >= GRACE)
    }

    /// Tells whether its packs have to be condemned anew.
    pub fn is_void(&self) -> bool {
        self.packs.is_empty() || self.age.is_none()
    }
}

impl Repository {
    /// Notes that these packs are to be removed, which no index may name.
    pub async fn condemn(&self, packs: &[PackId]) -> Result<()> {
        for packs in packs.chunks(NOTE_PACKS_MAX) {
            let packs = packs.iter().map(PackId::to_string).collect();
            let note = serde_json::to_vec(&StoredNote { version: VERSION, packs });
            let note = Bytes::from(note.expect("numbers and strings are JSON"));
            let name = key(format!("indexes/{}{SUFFIX}", self.ulids.next().to_string().to_lowercase()));
            let created = self.storage.create(&name, note).await;
            created.map_err(|error| storage_error(format!("cannot condemn packs with {name}"), error))?;
        }
        Ok(())
    }

    /// Reads every note of condemned packs.
    pub async fn condemned(&self) -> Result<Vec<CondemnedNote>> {
        let folder = Prefix::folder("indexes").expect("a plain word is a key");
        let failed = |error| storage_error("cannot list the condemned packs", error);
        let is_ours = async |object: ListedObject| {
            let key = &object.key;
            Ok((key.name().ends_with(SUFFIX) && key.parts().count() == 2).then_some(object))
        };
        let listing = self.storage.list(&folder).try_filter_map(is_ours);
        let objects: Vec<ListedObject> = listing.try_collect().await.map_err(failed)?;
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.storage.now().await;
        let now = now.map_err(|error| storage_error("cannot ask the store for the time", error))?;
        let mut notes = Vec::with_capacity(objects.len());
        for object in objects {
            self.ulids.stay_above(object.key.name());
            notes.push(self.condemned_note(object, now).await?);
        }
        Ok(notes)
    }

    async fn condemned_note(&self, object: ListedObject, now: SystemTime) -> Result<CondemnedNote> {
        let ListedObject { key, meta } = object;
        let bytes = self.storage.read_range(&key, 0..meta.size_bytes.min(NOTE_BYTES_MAX)).await;
        let packs = match bytes {
            Ok(bytes) => decode(&bytes).unwrap_or_default(),
            Err(error) if error.kind().is_passing() => {
                return Err(storage_error(format!("cannot read {key}"), error));
            }
            Err(_) => HashSet::new(),
        };
        Ok(CondemnedNote { key, packs, age: now.duration_since(meta.modified).ok() })
    }
}

fn decode(text: &[u8]) -> Option<HashSet<PackId>> {
    let note: StoredNote = serde_json::from_slice(text).ok()?;
    if note.version != VERSION || note.packs.len() > NOTE_PACKS_MAX {
        return None;
    }
    note.packs.iter().map(|pack| PackId::parse(pack).ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use packvault_storage::MemoryStorage;

    use super::*;
    use crate::repo::config;

    const PACK: &str = "01kwvve8k3wz72j3vhy0dphk55";

    #[tokio::test]
    async fn a_note_is_due_after_the_grace_and_one_that_cannot_be_used_counts_as_none() {
        let storage = MemoryStorage::new();
        config::init(&storage, jiff::Timestamp::UNIX_EPOCH, "here").await.unwrap();
        let repository = Repository::open(Arc::new(storage.clone())).await.unwrap();
        assert!(repository.condemned().await.unwrap().is_empty());
        storage.set_clock(SystemTime::now());
        let pack = PackId::parse(PACK).unwrap();
        repository.condemn(&[pack]).await.unwrap();
        repository.condemn(&[]).await.unwrap();
        let only = async || repository.condemned().await.unwrap().pop().unwrap();
        let note = only().await;
        assert_eq!(note.packs, [pack].into());
        assert!(!note.is_due() && !note.is_void());
        storage.advance_clock(GRACE);
        assert!(only().await.is_due());
        storage.set_clock(SystemTime::now() - GRACE);
        assert!(only().await.is_void(), "it lies in the future");
        storage.set_clock(SystemTime::now() + GRACE * 2);
        for damaged in ["", "{", r#"{"version":2,"packs":[]}"#, r#"{"version":1,"packs":["../x"]}"#] {
            storage.put_raw(&note.key, damaged.to_owned(), SystemTime::now());
            assert!(only().await.is_void(), "{damaged}");
        }
    }
}
