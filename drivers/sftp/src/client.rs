//! The one client of a repository's folder: its channels, its paths, and looks that follow no link.
//!
//! The protocol opens and changes by path and follows links, so each folder on the way to an object is
//! looked at when it is first used, and each object before it is opened. A link or a device is refused.
//! What was a folder once is believed to stay one: a server on which others swap folders for links
//! between two steps can be guarded only from within.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use packvault_storage::{ErrorKind, Key, ObjectMeta, Operation, Result, Step, Wire};

use crate::channel::{Channel, Lease};
use crate::clock::Clock;
use crate::codec::{Attrs, Request};
use crate::error::ServerErrors;
use crate::features::SftpFeatures;
use crate::handles::Handles;
use crate::pool::Pool;
use crate::sync::{Syncs, sync_once};

/// Folders remembered as looked at; beyond that the memory starts afresh.
const FOLDERS_MAX: usize = 8192;

/// Objects remembered as plain files; beyond that the memory starts afresh.
const PLAIN_MAX: usize = 16_384;

/// How often a folder is made that another process removes at once.
const MAKES_MAX: u32 = 16;

const FOLDER_MODE: u32 = 0o700;
pub(crate) const FILE_MODE: u32 = 0o600;

/// Everything that the steps of one storage share.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub pool: Arc<Pool>,
    pub wire: Arc<Wire>,
    pub features: SftpFeatures,
    pub clock: Arc<Clock>,
    pub handles: Arc<Handles>,
    syncs: Arc<Syncs>,
    folders: Arc<Mutex<Folders>>,
    plain: Arc<Mutex<HashSet<Key>>>,
    root: String,
    location: String,
}

#[derive(Debug, Default)]
struct Folders {
    /// Seen to be folders.
    seen: HashSet<String>,
    /// Their parents were synced by this process at least once.
    durable: HashSet<String>,
}

/// What lies under a name, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Object(Attrs),
    Folder,
    Other(&'static str),
}

impl Client {
    pub(crate) fn new(
        pool: Pool,
        wire: Arc<Wire>,
        features: SftpFeatures,
        root: String,
        location: String,
    ) -> Self {
        Self {
            pool: Arc::new(pool),
            wire,
            features,
            clock: Arc::default(),
            handles: Arc::default(),
            syncs: Arc::default(),
            folders: Arc::default(),
            plain: Arc::default(),
            root,
            location,
        }
    }

    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    /// Names a step that is about the whole storage.
    pub(crate) fn step(&self, operation: Operation) -> Step<'_> {
        Step::new(operation, &self.location)
    }

    /// Returns the same client that believes other things of the server.
    pub(crate) fn with_features(&self, features: SftpFeatures) -> Self {
        Self { features, ..self.clone() }
    }

    pub(crate) async fn light(&self, step: Step<'_>) -> Result<Lease> {
        self.pool.light().await.map_err(|breakage| step.failed("", breakage.into()))
    }

    pub(crate) async fn heavy(&self, step: Step<'_>) -> Result<Lease> {
        self.pool.heavy().await.map_err(|breakage| step.failed("", breakage.into()))
    }

    /// Returns the server's path of something below the root, which is `""`.
    pub(crate) fn path(&self, below: &str) -> String {
        match (below, self.root.as_str()) {
            ("", root) => root.to_owned(),
            (below, "/") => format!("/{below}"),
            (below, root) => format!("{root}/{below}"),
        }
    }

    /// Requires that the root is a folder, or a link to one.
    pub(crate) async fn require_root(&self, step: Step<'_>) -> Result<()> {
        let channel = self.light(step).await?;
        match stat(&channel, &self.root).await {
            Ok(attrs) if classify(attrs) == Found::Folder => Ok(()),
            Ok(_) => Err(step.refused(&self.root, "no folder")),
            Err(failure) if failure.is_no_such_file() => Err(step.not_found()),
            Err(failure) => Err(step.failed("look at its folder", failure)),
        }
    }

    /// Makes the root and what is missing above it.
    pub(crate) async fn make_root(&self, step: Step<'_>) -> Result<()> {
        let channel = self.light(step).await?;
        let mut missing = Vec::new();
        for path in paths_up_from(&self.root) {
            match stat(&channel, path).await {
                Ok(_) => break,
                Err(failure) if failure.is_no_such_file() => missing.push(path),
                Err(failure) => return Err(step.failed(format!("look at {path}"), failure)),
            }
        }
        for path in missing.into_iter().rev() {
            let made = make(&channel, path).await;
            let Err(failure) = made else {
                self.sync_parent_of_root(&channel, step, path).await?;
                continue;
            };
            // Another process may have been faster.
            if !matches!(stat(&channel, path).await, Ok(attrs) if classify(attrs) == Found::Folder) {
                return Err(step.failed(format!("make the folder {path}"), failure));
            }
        }
        Ok(())
    }

    /// Looks at the folder and those above it; false when there is no such folder.
    pub(crate) async fn find_folder(&self, channel: &Channel, step: Step<'_>, folder: &str) -> Result<bool> {
        for path in paths_down_to(folder) {
            if self.folders().seen.contains(path) {
                continue;
            }
            match self.look(channel, step, path).await? {
                Found::Folder => self.folders().remember(path),
                Found::Nothing | Found::Object(_) => return Ok(false),
                Found::Other(what) => return Err(step.refused(path, what)),
            }
        }
        Ok(true)
    }

    /// Makes what is missing of the folder, durably where the server can.
    pub(crate) async fn make_folder(&self, channel: &Channel, step: Step<'_>, folder: &str) -> Result<()> {
        for path in paths_down_to(folder) {
            if self.folders().durable.contains(path) {
                continue;
            }
            self.make_one(channel, step, path).await?;
            // Another process may have made it an instant ago and not yet synced; an object below it would
            // vanish with it. So the first use syncs, whoever made the folder.
            self.sync_folder(channel, step, folder_of(path)).await?;
            self.folders().remember_durable(path);
        }
        Ok(())
    }

    /// Makes the folder of unfinished files if it is missing. Nothing in it must outlive the machine.
    pub(crate) async fn make_scratch_folder(&self, channel: &Channel, step: Step<'_>) -> Result<()> {
        if !self.folders().seen.contains(STAGING) {
            self.make_one(channel, step, STAGING).await?;
            self.folders().remember(STAGING);
        }
        Ok(())
    }

    async fn make_one(&self, channel: &Channel, step: Step<'_>, path: &str) -> Result<()> {
        let mut failure = None;
        for _ in 0..MAKES_MAX {
            match self.look(channel, step, path).await? {
                Found::Folder => return Ok(()),
                Found::Object(_) => return Err(step.refused(path, "an object, not a folder")),
                Found::Other(what) => return Err(step.refused(path, what)),
                Found::Nothing => {}
            }
            // Another writer may be faster, which the next look tells.
            match make(channel, &self.path(path)).await {
                Ok(()) => return Ok(()),
                Err(refusal) if refusal.is_status() => failure = Some(refusal),
                Err(broken) => return Err(step.failed(format!("make the folder {path}"), broken)),
            }
        }
        match failure {
            Some(failure) => Err(step.failed(format!("make the folder {path}"), failure)),
            None => {
                Err(step.error(ErrorKind::Io, format!("another process removes the folder {path} at once")))
            }
        }
    }

    /// Makes the names in the folder durable, where the server can.
    pub(crate) async fn sync_folder(&self, channel: &Channel, step: Step<'_>, folder: &str) -> Result<()> {
        if !self.features.sync_folder {
            return Ok(());
        }
        let synced = self.syncs.sync(channel, folder, &self.path(folder)).await;
        synced.map_err(|failure| step.failed(format!("sync the folder {folder}"), failure))
    }

    /// Makes the name of a folder above the root, or of the root, durable.
    async fn sync_parent_of_root(&self, channel: &Channel, step: Step<'_>, path: &str) -> Result<()> {
        if !self.features.sync_folder {
            return Ok(());
        }
        let parent = match path.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((parent, _)) => parent,
            None => ".",
        };
        let synced = sync_once(channel, parent).await;
        synced.map_err(|failure| step.failed(format!("sync the folder {parent}"), failure))
    }

    /// Forgets what was seen of folders: one of them vanished.
    pub(crate) fn forget_folders(&self) {
        *self.folders() = Folders::default();
        self.syncs.forget();
    }

    /// Tells what lies at the path below the root.
    pub(crate) async fn look(&self, channel: &Channel, step: Step<'_>, below: &str) -> Result<Found> {
        let path = self.path(below);
        let looking = async { channel.begin(Request::Lstat { path: &path }).await?.attrs().await };
        match looking.await {
            Ok(attrs) => Ok(classify(attrs)),
            Err(failure) if failure.is_no_such_file() => Ok(Found::Nothing),
            Err(failure) => Err(step.failed(format!("look at {below}"), failure)),
        }
    }

    /// Remembers that the object was a plain file when it was looked at.
    pub(crate) fn remember_plain(&self, key: &Key) {
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if plain.len() >= PLAIN_MAX {
            plain.clear();
        }
        plain.insert(key.clone());
    }

    /// Tells whether the object was a plain file once.
    pub(crate) fn was_plain(&self, key: &Key) -> bool {
        self.plain.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// Returns what the server knows of the object; a folder is none.
    pub(crate) async fn require_object(&self, channel: &Channel, step: Step<'_>, key: &Key) -> Result<Attrs> {
        if is_scratch(key) || !self.find_folder(channel, step, folder_of(key.as_str())).await? {
            return Err(step.not_found());
        }
        match self.look(channel, step, key.as_str()).await? {
            Found::Object(attrs) => {
                self.remember_plain(key);
                Ok(attrs)
            }
            Found::Nothing | Found::Folder => Err(step.not_found()),
            Found::Other(what) => Err(step.refused(key.as_str(), what)),
        }
    }

    /// Nothing that holds the memory panics half-way through a change.
    fn folders(&self) -> MutexGuard<'_, Folders> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Folders {
    fn remember(&mut self, path: &str) {
        if self.seen.len() >= FOLDERS_MAX {
            *self = Self::default();
        }
        self.seen.insert(path.to_owned());
    }

    fn remember_durable(&mut self, path: &str) {
        self.remember(path);
        self.durable.insert(path.to_owned());
    }
}

async fn stat(channel: &Channel, path: &str) -> std::result::Result<Attrs, crate::error::Failure> {
    channel.begin(Request::Stat { path }).await?.attrs().await
}

async fn make(channel: &Channel, path: &str) -> std::result::Result<(), crate::error::Failure> {
    channel.begin(Request::MakeFolder { path, attrs: Attrs::mode(FOLDER_MODE) }).await?.done().await
}

/// The folder in which every object is written before it is published.
pub(crate) const STAGING: &str = "staging";

/// What a link is called.
pub(crate) const LINK: &str = "a symbolic link";

/// Tells whether the key lies in the scratch folder, where no object is.
pub(crate) fn is_scratch(key: &Key) -> bool {
    key.parts().next() == Some(STAGING)
}

/// Refuses to write an object into the scratch folder.
pub(crate) fn refuse_scratch(step: Step<'_>, key: &Key) -> Result<()> {
    match is_scratch(key) {
        true => Err(step.error(ErrorKind::Unsupported, "that folder is for unfinished uploads")),
        false => Ok(()),
    }
}

/// Returns the folder a path lies in, `""` being the root.
pub(crate) fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Tells from a file's attributes what it is. A server that tells no kind has only files.
pub(crate) fn classify(attrs: Attrs) -> Found {
    match attrs.permissions.unwrap_or(0) & 0o170_000 {
        0 | 0o100_000 => Found::Object(attrs),
        0o040_000 => Found::Folder,
        0o120_000 => Found::Other(LINK),
        0o010_000 => Found::Other("a fifo"),
        0o140_000 => Found::Other("a socket"),
        0o020_000 | 0o060_000 => Found::Other("a device"),
        _ => Found::Other("no plain file"),
    }
}

/// Returns the size and the time out of what a server knows of a file.
pub(crate) fn meta_of(step: Step<'_>, attrs: Attrs) -> Result<ObjectMeta> {
    match (attrs.size, attrs.times) {
        (Some(size_bytes), Some((_, seconds))) => Ok(ObjectMeta { size_bytes, modified: time_of(seconds) }),
        _ => Err(step.error(ErrorKind::Unsupported, "the server tells no sizes or no times of files")),
    }
}

pub(crate) fn time_of(seconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into())
}

/// Returns, for `a/b/c`, `a`, `a/b`, `a/b/c`.
fn paths_down_to(folder: &str) -> impl Iterator<Item = &str> {
    let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
    ends.map(|end| &folder[..end]).filter(|path| !path.is_empty())
}

/// Returns, for `/a/b`, `/a/b`, `/a`: each that could be missing.
fn paths_up_from(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rsplit_once('/').map(|(parent, _)| parent))
        .filter(|path| !path.is_empty() && !path.ends_with('/') && *path != ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_walked_part_by_part() {
        assert_eq!(paths_down_to("a/b/c").collect::<Vec<_>>(), ["a", "a/b", "a/b/c"]);
        assert_eq!(paths_down_to("").count(), 0);
        assert_eq!(paths_up_from("/a/b").collect::<Vec<_>>(), ["/a/b", "/a"]);
        assert_eq!(paths_up_from("./a/b").collect::<Vec<_>>(), ["./a/b", "./a"]);
        assert_eq!(paths_up_from(".").count(), 0);
        assert_eq!(folder_of("a/b"), "a");
        assert_eq!(folder_of("a"), "");
    }

    #[test]
    fn only_plain_files_are_objects() {
        let mode = |mode| classify(Attrs::mode(mode));
        assert!(matches!(mode(0o100_644), Found::Object(_)));
        assert_eq!(mode(0o040_755), Found::Folder);
        for link_or_device in [0o120_777, 0o010_644, 0o140_755, 0o020_600, 0o060_600] {
            assert!(matches!(mode(link_or_device), Found::Other(_)));
        }
    }
}
