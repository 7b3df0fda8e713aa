//! The held root folder, and the only way from it to anything below: one part at a time, no link followed.
//!
//! Every path is walked with `openat` from a descriptor, so that no other process can turn a checked
//! folder into a link between the check and the use. Folders are made 0700, and the parent of each folder
//! this process uses for writing was synced by this process at least once.

use std::collections::HashSet;
use std::fs::File;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use packvault_storage::{ErrorKind, Key, Operation, Result, Step};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};
use rustix::path::Arg;

use crate::denied;
use crate::durable::sync_folder;
use crate::error::SystemErrors;

/// Folders remembered as durable; beyond that the memory starts afresh.
const DURABLE_FOLDERS_MAX: usize = 8192;

/// How often a folder is made that another process removes at once.
const MAKES_MAX: u32 = 16;

const FOLDER_MODE: Mode = Mode::RWXU;

/// The root of one repository, and which steps its file system has.
#[derive(Debug)]
pub(crate) struct Client {
    root: File,
    location: String,
    durable_folders: Mutex<HashSet<String>>,
    pub(crate) steps: Steps,
}

/// Which create-only steps to try; tests take some away to reach the fallbacks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub hard_link: bool,
    pub exclusive_rename: bool,
}

impl Steps {
    pub(crate) const ALL: Self = Self { hard_link: true, exclusive_rename: true };
}

/// What lies under a name, links not followed.
pub(crate) enum Found {
    Nothing,
    Object(Stat),
    Folder,
    Other(&'static str),
}

impl Client {
    /// Opens the root, which may be a link, once and for all.
    pub(crate) fn open(root: &Path, steps: Steps) -> Result<Self> {
        let location = root.display().to_string();
        let step = Step::new(Operation::Open, &location);
        let absolute =
            std::path::absolute(root).map_err(|error| step.failed_io("find where it lies", error))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = retry_on_intr(|| rustix::fs::open(&absolute, flags, Mode::empty()));
        let opened = opened.map_err(|errno| match errno {
            Errno::NOENT => step.not_found(),
            Errno::NOTDIR => step.refused(&location, "no folder"),
            errno => step.failed("open the folder", errno),
        });
        let opened = opened.map_err(|error| error.denied_by(|| denied::explain_root(&absolute)))?;
        Ok(Self {
            root: File::from(opened),
            location: absolute.display().to_string(),
            durable_folders: Mutex::default(),
            steps,
        })
    }

    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    pub(crate) fn root(&self) -> &File {
        &self.root
    }

    /// Opens the folder, `""` being the root, or returns `None` when no folder lies there.
    pub(crate) fn open_folder(&self, step: Step<'_>, folder: &str) -> Result<Option<File>> {
        let mut here = self.open_root(step)?;
        for (path, name) in paths_down_to(folder) {
            match enter(step, &here, path, name)? {
                Some(below) => here = below,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// Opens the folder and makes what is missing of it, durably.
    pub(crate) fn make_folder(&self, step: Step<'_>, folder: &str) -> Result<File> {
        let mut here = self.open_root(step)?;
        for (path, name) in paths_down_to(folder) {
            let found = enter(step, &here, path, name)?;
            let made = found.is_none();
            let below = found.map_or_else(|| make(step, &here, path, name), Ok)?;
            self.make_entry_durable(step, &here, path, made)?;
            here = below;
        }
        Ok(here)
    }

    pub(crate) fn open_root(&self, step: Step<'_>) -> Result<File> {
        open_folder_at(&self.root, ".").map_err(|errno| step.failed("open the root", errno))
    }

    /// Another process may have made the folder an instant ago and not yet synced its parent; an object
    /// below it would vanish with it. So the first use syncs, whoever made the folder.
    fn make_entry_durable(&self, step: Step<'_>, parent: &File, path: &str, made: bool) -> Result<()> {
        if !made && self.durable_folders().contains(path) {
            return Ok(());
        }
        sync_folder(step, parent)?;
        let mut durable = self.durable_folders();
        if durable.len() >= DURABLE_FOLDERS_MAX {
            durable.clear();
        }
        durable.insert(path.to_owned());
        Ok(())
    }

    fn durable_folders(&self) -> MutexGuard<'_, HashSet<String>> {
        self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the root and what is missing above it, each synced into its parent.
pub(crate) fn make_root(root: &Path) -> Result<()> {
    let location = root.display().to_string();
    let step = Step::new(Operation::Open, &location);
    let absolute = std::path::absolute(root).map_err(|error| step.failed_io("find where it lies", error))?;
    let missing: Vec<_> = (absolute.ancestors())
        .take_while(
            |path| matches!(path.symlink_metadata(), Err(error) if error.kind() == IoErrorKind::NotFound),
        )
        .collect();
    for path in missing.into_iter().rev() {
        match rustix::fs::mkdir(path, FOLDER_MODE) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(step.failed(format!("make the folder {}", path.display()), errno)),
        }
        if let Some(parent) = path.parent() {
            let parent = File::open(parent)
                .map_err(|error| step.failed_io(format!("open the folder {}", parent.display()), error))?;
            sync_folder(step, &parent)?;
        }
    }
    Ok(())
}

/// Splits a key into its folder, `""` for the root, and its name.
pub(crate) fn folder_and_name(key: &Key) -> (&str, &str) {
    key.as_str().rsplit_once('/').unwrap_or(("", key.as_str()))
}

/// Tells what lies under the name in the folder.
pub(crate) fn look(step: Step<'_>, folder: &File, name: &str) -> Result<Found> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Found::Object(stat),
            FileType::Directory => Found::Folder,
            other => Found::Other(describe(other)),
        }),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(errno) => Err(step.failed(format!("look at {name}"), errno)),
    }
}

/// Opens the object for reading. A fifo or a device is refused without waiting for its other end.
pub(crate) fn open_object(client: &Client, step: Step<'_>, key: &Key) -> Result<File> {
    let (folder, name) = folder_and_name(key);
    let folder = client.open_folder(step, folder)?.ok_or_else(|| step.not_found())?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = retry_on_intr(|| rustix::fs::openat(&folder, name, flags, Mode::empty()));
    let file = match opened {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Err(step.not_found()),
        Err(errno) => {
            require_object(step, &folder, key.as_str(), name)?;
            return Err(step.failed("open its file", errno));
        }
    };
    let meta = file.metadata().map_err(|error| step.failed_io("look at its file", error))?;
    if meta.is_dir() {
        return Err(step.not_found());
    }
    if !meta.is_file() {
        return Err(step.refused(key.as_str(), "no plain file"));
    }
    Ok(file)
}

/// Returns what the system knows of the plain file under the name; a folder is no object.
pub(crate) fn require_object(step: Step<'_>, folder: &File, path: &str, name: &str) -> Result<Stat> {
    match look(step, folder, name)? {
        Found::Object(stat) => Ok(stat),
        Found::Nothing | Found::Folder => Err(step.not_found()),
        Found::Other(what) => Err(step.refused(path, what)),
    }
}

/// Tells whether both looks were at the same file or folder.
pub(crate) fn is_same_file(one: &Stat, other: &Stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

fn enter(step: Step<'_>, parent: &File, path: &str, name: &str) -> Result<Option<File>> {
    let errno = match open_folder_at(parent, name) {
        Ok(folder) => return Ok(Some(folder)),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => errno,
    };
    match look(step, parent, name)? {
        Found::Other(what) => Err(step.refused(path, what)),
        Found::Object(_) => Ok(None),
        Found::Nothing | Found::Folder => Err(step.failed(format!("open the folder {path}"), errno)),
    }
}

/// Makes the folder, again and again if another process removes it at once.
fn make(step: Step<'_>, parent: &File, path: &str, name: &str) -> Result<File> {
    for _ in 0..MAKES_MAX {
        match rustix::fs::mkdirat(parent, name, FOLDER_MODE) {
            // Another writer was faster, or a plain file lies there, which the look below tells apart.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(step.failed(format!("make the folder {path}"), errno)),
        }
        if let Some(folder) = enter(step, parent, path, name)? {
            return Ok(folder);
        }
        if matches!(look(step, parent, name)?, Found::Object(_)) {
            return Err(step.refused(path, "an object, not a folder"));
        }
    }
    Err(step.error(ErrorKind::Io, format!("another process removes the folder {path} at once")))
}

/// Opens the folder under the name; a link is no folder.
pub(crate) fn open_folder_at(parent: &File, name: impl Arg + Copy) -> std::result::Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry_on_intr(|| rustix::fs::openat(parent, name, flags, Mode::empty())).map(File::from)
}

/// Returns, for `a/b/c`, (`a`, `a`), (`a/b`, `b`), (`a/b/c`, `c`).
fn paths_down_to(folder: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut end = 0;
    folder.split('/').filter(|name| !name.is_empty()).map(move |name| {
        let start = if end == 0 { 0 } else { end + 1 };
        end = start + name.len();
        (&folder[..end], name)
    })
}

/// Names the kind of what must not lie among objects.
pub(crate) fn describe(kind: FileType) -> &'static str {
    match kind {
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a fifo",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        _ => "no plain file",
    }
}
