//! What is served of a mounted repository: places by name, folders, content. It knows nothing of the kernel.
//!
//! Nothing is read of a snapshot before something in it is asked for. The files of a few snapshots are kept, and the page
//! maps of a few databases; the content of a file is kept as long as it is open, in memory while there is room, else in
//! the spool, in a file without a name.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rustix::process::{getgid, getuid};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::super::content::{self, Checked};
use super::super::kept::SharedKept;
use super::super::pages::PageReader;
use super::super::report::Entry;
use super::super::tree::{Content, Tree};
use super::super::{Inside, Snapshot, Wanted};
use super::places::{Lying, Part, Place, at_part, at_path};
use super::shelf::Shelf;
use super::{Witness, names};
use crate::archive::unnamed::unnamed_file;
use crate::cancel::Cancel;
use crate::format::{BlobId, Manifest};
use crate::{Error, ErrorKind, Result};

/// Snapshots whose lists of files are kept, and their bytes together.
const TREES_MAX: usize = 8;
const TREES_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Databases whose tables are kept, and their bytes together.
const READERS_MAX: usize = 4;
const READERS_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The content of open files that is kept in memory; what is more lies in the spool.
const CONTENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
const CONTENT_UNIT_BYTES: u64 = 4096;
/// Files whose content is fetched at once.
const FETCHES_MAX: usize = 4;
/// Reads of databases at once.
const READS_MAX: usize = 16;
/// What a single answer may have; the kernel asks for less.
const READ_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// Problems that are told, each once: a program may read a damaged page again and again.
const TOLD_MAX: usize = 1000;
/// The longest name that programs can ask for.
const NAME_BYTES_MAX: usize = 255;
/// What folders have where nothing was recorded.
const MODE_OF_FOLDERS: u32 = 0o700;
/// The names at the top.
const SNAPSHOTS_NAME: &str = "snapshots";
const LATEST_NAME: &str = "latest";

/// What kind of thing lies at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file.
    File,
    /// A link to another name.
    Link,
}

/// What is known of a place.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Which place.
    pub place: Place,
    /// What kind of thing lies there.
    pub kind: Kind,
    /// Its length.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u32,
    /// The number of its user.
    pub user: u32,
    /// The number of its group.
    pub group: u32,
    /// When its content changed.
    pub modified: SystemTime,
}

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The name.
    pub name: String,
    /// The place that it stands for.
    pub place: Place,
    /// What kind of thing lies there.
    pub kind: Kind,
}

/// A snapshot as it is shown.
struct Shown {
    id: String,
    name: String,
    time: SystemTime,
}

/// A snapshot that is open.
struct Opened {
    snapshot: Snapshot,
    tree: Tree,
}

/// A file that is open.
pub struct OpenFile {
    name: String,
    snapshot: String,
    bytes: u64,
    content: OpenContent,
}

enum OpenContent {
    Database(PageReader),
    Blob(BlobId, OnceCell<Arc<Held>>),
}

/// Content that was checked, and the room that it takes.
struct Held {
    checked: Checked,
    _room: Option<OwnedSemaphorePermit>,
}

/// A repository that is served.
pub struct Served {
    inside: Inside,
    snapshots: Vec<Shown>,
    by_name: HashMap<String, usize>,
    trees: Shelf<Arc<Opened>>,
    readers: Shelf<PageReader>,
    kept: SharedKept,
    room: Arc<Semaphore>,
    fetches: Semaphore,
    reads: Semaphore,
    /// Ends what is being answered.
    stop: Cancel,
    told: Mutex<BTreeSet<String>>,
    witness: Arc<dyn Witness>,
}

impl Served {
    /// Makes it of the snapshots whose manifests can be read, oldest first.
    pub fn new(inside: &Inside, manifests: &[Manifest], witness: Arc<dyn Witness>) -> Self {
        let ids: Vec<(String, String)> =
            manifests.iter().map(|found| (found.snapshot_id.clone(), found.created_at.clone())).collect();
        let names = names::of_snapshots(&ids);
        let by_name = names.iter().cloned().zip(0..).collect();
        let shown =
            ids.into_iter().zip(names).map(|((id, time), name)| Shown { id, name, time: of_text(&time) });
        Self {
            inside: inside.clone(),
            snapshots: shown.collect(),
            by_name,
            trees: Shelf::new(TREES_MAX, TREES_BYTES_MAX),
            readers: Shelf::new(READERS_MAX, READERS_BYTES_MAX),
            kept: SharedKept::default(),
            room: Arc::new(Semaphore::new((CONTENT_BYTES_MAX / CONTENT_UNIT_BYTES) as usize)),
            fetches: Semaphore::new(FETCHES_MAX),
            reads: Semaphore::new(READS_MAX),
            stop: Cancel::new(),
            told: Mutex::default(),
            witness,
        }
    }

    /// Returns how many snapshots there are.
    pub fn count(&self) -> usize {
        self.snapshots.len()
    }

    /// Returns the name of the newest snapshot.
    pub fn latest(&self) -> Option<&str> {
        self.snapshots.last().map(|shown| shown.name.as_str())
    }

    /// Returns what the link to the newest snapshot says.
    pub fn target_of_latest(&self) -> Option<String> {
        self.latest().map(|name| format!("{SNAPSHOTS_NAME}/{name}"))
    }

    /// Has every answer that is waited for, and every later one, be an error: a store that is asked may never answer.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Returns what comes of a question, or an error once the mount ends.
    pub async fn answered<T>(&self, question: impl Future<Output = Result<T>>) -> Result<T> {
        self.stop.check()?;
        tokio::select! {
            answer = question => answer,
            () = self.stop.cancelled() => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
        }
    }

    /// Tells a problem, unless it was told before; none that is only the end of the mount.
    pub fn tell(&self, what: &str, error: &Error) {
        tracing::warn!(target: "packvault::mount", what, why = error.chain(), "cannot be served");
        if error.kind() == ErrorKind::Interrupted || self.stop.is_cancelled() {
            return;
        }
        let problem = format!("{what}: {}", error.chain());
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_MAX || !told.insert(problem.clone()) {
            return;
        }
        self.witness.problem(&problem);
        if told.len() == TOLD_MAX {
            self.witness.problem("there are more problems than are told");
        }
    }

    /// Returns what is known of a place; `None` if nothing is there.
    pub async fn standing(&self, place: Place) -> Result<Option<Standing>> {
        let newest = self.snapshots.last().map_or(SystemTime::UNIX_EPOCH, |shown| shown.time);
        Ok(match place {
            Place::Root | Place::Snapshots => Some(own(place, Kind::Folder, 0, newest)),
            Place::Latest => {
                self.target_of_latest().map(|target| own(place, Kind::Link, target.len() as u64, newest))
            }
            Place::Within(number, Part::Top) => {
                self.snapshots.get(number).map(|shown| own(place, Kind::Folder, 0, shown.time))
            }
            Place::Within(number, part) => {
                let Some((shown, opened)) = self.opened(number).await? else { return Ok(None) };
                at_part(&opened.tree, part).map(|lying| standing_of(number, shown, &lying))
            }
        })
    }

    /// Returns what a name in a folder stands for; `None` if there is no such name.
    pub async fn lookup(&self, parent: Place, name: &str) -> Result<Option<Standing>> {
        let place = match (parent, name) {
            (Place::Root, SNAPSHOTS_NAME) => Place::Snapshots,
            (Place::Root, LATEST_NAME) => Place::Latest,
            (Place::Snapshots, name) => match self.by_name.get(name) {
                Some(number) => Place::Within(*number, Part::Top),
                None => return Ok(None),
            },
            (Place::Within(number, part), name) => {
                let Some((shown, opened)) = self.opened(number).await? else { return Ok(None) };
                let Some(parent) = at_part(&opened.tree, part).filter(|lying| lying.content.is_none()) else {
                    return Ok(None);
                };
                let found = at_path(&opened.tree, &below(&parent.entry.path, name));
                return Ok(found.map(|lying| standing_of(number, shown, &lying)));
            }
            _ => return Ok(None),
        };
        self.standing(place).await
    }

    /// Returns what lies in a folder, after its own place and that of the folder around it; `None` if it is none.
    pub async fn list(&self, folder: Place) -> Result<Option<Vec<Named>>> {
        let mut found = Vec::new();
        let around = match folder {
            Place::Root => {
                found.push(named(SNAPSHOTS_NAME, Place::Snapshots, Kind::Folder));
                found.extend(self.latest().map(|_| named(LATEST_NAME, Place::Latest, Kind::Link)));
                Place::Root
            }
            Place::Snapshots => {
                let folders = self.snapshots.iter().enumerate();
                found.extend(folders.map(|(number, shown)| {
                    named(&shown.name, Place::Within(number, Part::Top), Kind::Folder)
                }));
                Place::Root
            }
            Place::Latest => return Ok(None),
            Place::Within(number, part) => {
                let Some((_, opened)) = self.opened(number).await? else { return Ok(None) };
                let tree = &opened.tree;
                let Some(lying) = at_part(tree, part).filter(|lying| lying.content.is_none()) else {
                    return Ok(None);
                };
                let path = &lying.entry.path;
                for name in tree.names_in(path) {
                    let whole = below(path, &name);
                    if name.len() > NAME_BYTES_MAX {
                        let why = Error::new(
                            ErrorKind::Unsupported,
                            "its name is too long for any program to ask for",
                        );
                        self.tell(&format!("{whole:?} is not shown"), &why);
                        continue;
                    }
                    found.extend(
                        at_path(tree, &whole)
                            .map(|lying| named(&name, Place::Within(number, lying.part), kind_of(&lying))),
                    );
                }
                match path.rsplit_once('/') {
                    Some((around, _)) => {
                        at_path(tree, around).map_or(folder, |lying| Place::Within(number, lying.part))
                    }
                    None if path.is_empty() => Place::Snapshots,
                    None => Place::Within(number, Part::Top),
                }
            }
        };
        let own = [named(".", folder, Kind::Folder), named("..", around, Kind::Folder)];
        found.splice(0..0, own);
        Ok(Some(found))
    }

    /// Opens a file; `None` if it is none.
    pub async fn open(&self, place: Place) -> Result<Option<OpenFile>> {
        let Place::Within(number, part) = place else { return Ok(None) };
        let Some((shown, opened)) = self.opened(number).await? else { return Ok(None) };
        let Some(Lying { entry, content: Some(content), .. }) = at_part(&opened.tree, part) else {
            return Ok(None);
        };
        let Entry { path: name, bytes, .. } = entry;
        let content = match content {
            Content::Blob(id) => OpenContent::Blob(id, OnceCell::new()),
            Content::Database => {
                let open = opened.snapshot.pages_keeping(self.kept.clone());
                OpenContent::Database(self.readers.get(number, open, PageReader::table_bytes).await?)
            }
        };
        Ok(Some(OpenFile { name, snapshot: shown.name.clone(), bytes, content }))
    }

    /// Reads so many bytes of a file, fewer where it ends.
    pub async fn read(&self, file: &OpenFile, offset: u64, bytes: u32) -> Result<Vec<u8>> {
        let count = u64::from(bytes.min(READ_BYTES_MAX)).min(file.bytes.saturating_sub(offset)) as usize;
        if count == 0 {
            return Ok(Vec::new());
        }
        match &file.content {
            OpenContent::Database(pages) => {
                let _permit = self.reads.acquire().await;
                let mut buffer = vec![0; count];
                pages.read(offset, &mut buffer).await?;
                Ok(buffer)
            }
            OpenContent::Blob(id, cell) => {
                let held = cell.get_or_try_init(|| self.fetch(*id, file.bytes)).await?;
                self.read_of(held, offset, count).await
            }
        }
    }

    async fn opened(&self, number: usize) -> Result<Option<(&Shown, Arc<Opened>)>> {
        let Some(shown) = self.snapshots.get(number) else { return Ok(None) };
        let open = async {
            let snapshot = self.inside.named(&shown.id).await?;
            let mut warnings = Vec::new();
            let wanted = Wanted { attachments: true, extras: true, attributes: true };
            let tree = snapshot.tree(wanted, &mut warnings).await?;
            for warning in warnings {
                self.tell(&format!("snapshot {}", shown.name), &Error::new(ErrorKind::Damaged, warning));
            }
            Ok(Arc::new(Opened { snapshot, tree }))
        };
        let opened = self.trees.get(number, open, |opened| opened.tree.memory_bytes()).await?;
        Ok(Some((shown, opened)))
    }

    /// Fetches the content of a file. What is small and finds no room in memory goes into the spool as well.
    async fn fetch(&self, id: BlobId, bytes: u64) -> Result<Arc<Held>> {
        let _permit = self.fetches.acquire().await;
        let Inside { pipeline, reader, .. } = &self.inside;
        let raw = match content::fetch(pipeline, reader.store(), (id, bytes)).await? {
            Checked::Memory(raw) => raw,
            spooled @ Checked::Spooled(_) => return Ok(Arc::new(Held { checked: spooled, _room: None })),
        };
        let units = (raw.len() as u64).div_ceil(CONTENT_UNIT_BYTES) as u32;
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(units) {
            return Ok(Arc::new(Held { checked: Checked::Memory(raw), _room: Some(room) }));
        }
        let spool = pipeline.context().spool.clone();
        let file = pipeline.run(move |_| {
            let mut file: File = unnamed_file(&spool)?;
            let written = file.write_all(&raw);
            written.map_err(|error| content::spool_error("write a file to", &spool, error))?;
            Ok(file)
        });
        Ok(Arc::new(Held { checked: Checked::Spooled(file.await?), _room: None }))
    }

    async fn read_of(&self, held: &Arc<Held>, offset: u64, count: usize) -> Result<Vec<u8>> {
        if let Checked::Memory(raw) = &held.checked {
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(raw.len());
            return Ok(raw[from..from.saturating_add(count).min(raw.len())].to_vec());
        }
        let (held, spool) = (Arc::clone(held), self.inside.pipeline.context().spool.clone());
        let read = self.inside.pipeline.run(move |_| {
            let Checked::Spooled(file) = &held.checked else { return Ok(Vec::new()) };
            let mut buffer = vec![0; count];
            let read = file.read_exact_at(&mut buffer, offset);
            read.map_err(|error| content::spool_error("read", &spool, error))?;
            Ok(buffer)
        });
        read.await
    }
}

impl OpenFile {
    /// Tells, for people, what reading it is.
    pub fn reading(&self) -> String {
        format!("cannot read {:?} of snapshot {}", self.name, self.snapshot)
    }
}

fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

fn named(name: &str, place: Place, kind: Kind) -> Named {
    Named { name: name.to_owned(), place, kind }
}

fn kind_of(lying: &Lying) -> Kind {
    if lying.content.is_some() { Kind::File } else { Kind::Folder }
}

/// What belongs to no snapshot belongs to whoever has mounted it.
fn own(place: Place, kind: Kind, bytes: u64, modified: SystemTime) -> Standing {
    let (user, group) = (getuid().as_raw(), getgid().as_raw());
    let mode = if kind == Kind::Link { 0o777 } else { MODE_OF_FOLDERS };
    Standing { place, kind, bytes, mode, user, group, modified }
}

/// What a restore would put there, and where nothing is known of it what it would make of it.
fn standing_of(number: usize, shown: &Shown, lying: &Lying) -> Standing {
    let (entry, kind) = (&lying.entry, kind_of(lying));
    let bytes = if kind == Kind::File { entry.bytes } else { 0 };
    let known = own(Place::Within(number, lying.part), kind, bytes, shown.time);
    Standing {
        mode: entry.mode.unwrap_or(known.mode),
        user: entry.user.unwrap_or(known.user),
        group: entry.group.unwrap_or(known.group),
        modified: entry.modified.as_deref().map_or(known.modified, of_text),
        ..known
    }
}

/// What is no time is the beginning of time.
fn of_text(time: &str) -> SystemTime {
    let seconds = time.parse::<Timestamp>().map_or(0, Timestamp::as_second);
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}
