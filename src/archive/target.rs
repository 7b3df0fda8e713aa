//! The destination of a restore: staged beside what is there, put in place only once it is proved.
//!
//! Everything is written below `.packvault-restore-<ulid>/` in the target folder, on the same file system,
//! and moved into place by renames: files and folders first, the database last. Until then nothing that a
//! user or an application looks at has changed, and giving up is removing one folder. All steps go through
//! a held handle of the target, one component at a time, and follow no link.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{
    AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, fsync, mkdirat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{self, Outcome, RestoredAttributes};
use super::beneath::{file_error, folder_at, io_error};
use super::ownership::Ownership;
use super::profile::{Profile, SIDECARS};
use crate::{Error, ErrorKind, Result};

/// How the staging folder's name begins.
const STAGING_PREFIX: &str = ".packvault-restore-";
/// What may be held open at once, well below what a process may usually open.
const FOLDERS_HELD_MAX: usize = 300;

/// What may be there already.
#[derive(Debug, Clone, Default)]
pub struct TargetPolicy {
    /// Whether a folder that holds something is merged into.
    pub overwrite: bool,
    /// The database's path.
    pub database_name: String,
    /// Names of lock files by which a running application owns a folder; held while restoring into one
    /// that has them, or that is one of `live_homes`.
    pub ownership_names: Vec<String>,
    /// The homes of this machine's own archives.
    pub live_homes: Vec<LiveHome>,
    /// The kind of application, which knows whether it runs on the target.
    pub application: Option<Arc<dyn Profile>>,
}

/// A folder that an archive of this machine lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveHome {
    /// The folder that a restore would change.
    pub folder: PathBuf,
    /// The folder in which its application keeps its lock files, mostly the same.
    pub owner: PathBuf,
}

impl From<PathBuf> for LiveHome {
    fn from(folder: PathBuf) -> Self {
        Self { owner: folder.clone(), folder }
    }
}

/// A target that is being restored into.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    /// The path without links, by which SQLite reaches the staging.
    real_path: PathBuf,
    folder: OwnedFd,
    /// Folders that were made for this restore, outermost first.
    made: Vec<PathBuf>,
    staging_name: String,
    staging: Arc<OwnedFd>,
    /// Folders of the staging that files were made in lately: attachments come by the thousand.
    folders: Mutex<HashMap<String, Arc<OwnedFd>>>,
    database_name: String,
    /// Held until the restore is over; another restore into the same folder is refused.
    _ownership: Ownership,
}

impl Target {
    /// Opens or makes the target folder and a staging folder in it. Changes nothing else.
    pub fn open(path: &Path, policy: &TargetPolicy, ulid: &str) -> Result<Self> {
        let path = cleaned(path)?;
        let (folder, made) = open_or_make(&path)?;
        let undo = |error| {
            remove_made(&made);
            error
        };
        Self::prepare(path, folder, policy, ulid)
            .map(|target| Self { made: made.clone(), ..target })
            .map_err(undo)
    }

    fn prepare(path: PathBuf, folder: OwnedFd, policy: &TargetPolicy, ulid: &str) -> Result<Self> {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            // Network file systems may not lock folders; there nothing tells two restores apart.
            Ok(()) | Err(Errno::BADF | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(refused(&path, "another restore into it is running"));
            }
            Err(errno) => return Err(file_error("lock", &path, errno)),
        }
        // First, for taking the locks of an application may make their files.
        check_content(&path, &folder, policy)?;
        let ownership = own(&path, &folder, policy)?;
        remove_leftovers(&path, &folder, policy)?;
        let staging_name = format!("{STAGING_PREFIX}{ulid}");
        let staging_path = path.join(&staging_name);
        mkdirat(&folder, &*staging_name, Mode::RWXU)
            .map_err(|errno| file_error("make", &staging_path, errno))?;
        let staging = Arc::new(open_folder_at(&folder, &staging_name, &staging_path)?);
        let real_path = std::fs::canonicalize(&path).map_err(|error| io_error("find", &path, error))?;
        Ok(Self {
            path,
            real_path,
            folder,
            made: Vec::new(),
            staging_name,
            staging,
            folders: Mutex::default(),
            database_name: policy.database_name.clone(),
            _ownership: ownership,
        })
    }

    /// Returns the target's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns where a file lies while it is staged.
    pub fn staged_path(&self, relative: &str) -> PathBuf {
        self.path.join(&self.staging_name).join(relative)
    }

    /// Returns where the staged database lies, for SQLite, which knows no held folders: a path without links,
    /// so that whoever opens it may refuse any.
    pub fn staged_database(&self) -> PathBuf {
        self.real_path.join(&self.staging_name).join(&self.database_name)
    }

    /// Makes a new file at a checked relative path in the staging, with folders on the way.
    pub fn stage_file(&self, relative: &str, mode: u32) -> Result<File> {
        let shown = self.staged_path(relative);
        let (parents, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        let folder = self.staged_folder(parents, &shown)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(folder.as_ref(), name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| file_error("make", &shown, errno))?;
        if mode != 0o600 {
            // Set through the handle: the process's mask must not take bits away.
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
                .map_err(|errno| file_error("set the mode of", &shown, errno))?;
        }
        Ok(File::from(file))
    }

    /// Returns a folder of the staging, made with those above it if it is missing.
    fn staged_folder(&self, relative: &str, shown: &Path) -> Result<Arc<OwnedFd>> {
        let (mut folder, mut made) = self.nearest_folder(relative);
        while made < relative.len() {
            let start = if made == 0 { 0 } else { made + 1 };
            made = relative[start..].find('/').map_or(relative.len(), |length| start + length);
            folder = Arc::new(open_or_make_at(&folder, &relative[start..made], shown)?);
            let mut folders = self.folders.lock().expect("no holder of the folders panics");
            if folders.len() >= FOLDERS_HELD_MAX {
                folders.clear();
            }
            folders.insert(relative[..made].to_owned(), folder.clone());
        }
        Ok(folder)
    }

    /// Returns the deepest folder on the way that is held, and how much of the path leads to it.
    fn nearest_folder(&self, relative: &str) -> (Arc<OwnedFd>, usize) {
        let folders = self.folders.lock().expect("no holder of the folders panics");
        let mut end = relative.len();
        while end > 0 {
            if let Some(known) = folders.get(&relative[..end]) {
                return (known.clone(), end);
            }
            end = relative[..end].rfind('/').unwrap_or(0);
        }
        (self.staging.clone(), 0)
    }

    /// Gives all that was staged its owner, mode and time.
    pub fn settle_staged(&self, wanted: &RestoredAttributes) -> Result<Outcome> {
        attributes::apply(&self.staging, &self.folder, &self.path, wanted)
    }

    /// Gives the target folder what is recorded of the archive's home, if this restore made the folder.
    pub fn settle_made(&self, wanted: &RestoredAttributes) -> Option<Outcome> {
        let is_made = self.made.last() == Some(&self.path);
        is_made.then(|| attributes::apply_to_made(&self.folder, wanted))
    }

    /// Makes all that was staged durable.
    pub fn sync_staged(&self) -> Result<()> {
        sync_below(&self.staging, &self.path)
    }

    /// Checks that everything staged can be put in place: no folder where a file comes or the other way
    /// round, no link on the way, no other file system.
    pub fn check_merge(&self) -> Result<()> {
        let device = fstat(&self.staging).map_err(|errno| file_error("stat", &self.path, errno))?.st_dev;
        self.check_still_there()?;
        for sidecar in SIDECARS {
            let name = format!("{}{sidecar}", self.database_name);
            let there = statat(&self.folder, &*name, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|there| FileType::from_raw_mode(there.st_mode) == FileType::Directory) {
                return Err(refused(&self.path.join(name), "it is a folder where the database is restored"));
            }
        }
        check_merge(&self.staging, &self.folder, &self.path, device)
    }

    /// Puts everything in place, the database last, and makes it durable. The staging must have been
    /// synced and checked before.
    pub fn publish(&self) -> Result<()> {
        for sidecar in SIDECARS {
            remove_if_there(&self.staging, &format!("{}{sidecar}", self.database_name), &self.path)?;
        }
        self.check_still_there()?;
        merge(&self.staging, &self.folder, &self.path, Some(&self.database_name))?;
        self.publish_database()?;
        if let Some((parents, _)) = self.database_name.rsplit_once('/') {
            remove_emptied(&self.staging, parents, &self.path)?;
        }
        unlinkat(&self.folder, &*self.staging_name, AtFlags::REMOVEDIR)
            .map_err(|errno| file_error("remove", &self.staged_path(""), errno))?;
        sync_below(&self.folder, &self.path)?;
        self.sync_ancestors()
    }

    /// Removes the staging and the folders made for it. What lay in the target is as it was.
    ///
    /// The caller has seen to it that nobody stages a file any more.
    pub fn discard(&self) {
        remove_below(&self.staging);
        // What cannot be removed now is a folder with a telling name, which the next restore removes.
        let _ = unlinkat(&self.folder, &*self.staging_name, AtFlags::REMOVEDIR);
        remove_made(&self.made);
    }

    /// A sidecar of the old database would be replayed into the new one: it is set aside before, and put
    /// back if the database cannot be put in place.
    fn publish_database(&self) -> Result<()> {
        let suffix = self.staging_name.trim_start_matches(STAGING_PREFIX);
        let mut aside = Vec::new();
        let mut renamed = Ok(());
        for sidecar in SIDECARS {
            let name = format!("{}{sidecar}", self.database_name);
            let kept = format!("{name}.restore-{suffix}");
            match renameat(&self.folder, &*name, &self.folder, &*kept) {
                Ok(()) => aside.push((name, kept)),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    renamed = Err(file_error("set aside", &self.path.join(&name), errno));
                    break;
                }
            }
        }
        let name = self.database_name.as_str();
        let renamed = renamed.and_then(|()| {
            renameat(&self.staging, name, &self.folder, name)
                .map_err(|errno| file_error("put in place", &self.path.join(name), errno))
        });
        for (name, kept) in &aside {
            let settled = match renamed {
                Ok(()) => unlinkat(&self.folder, &**kept, AtFlags::empty()),
                Err(_) => renameat(&self.folder, &**kept, &self.folder, &**name),
            };
            settled.map_err(|errno| file_error("settle", &self.path.join(kept), errno))?;
        }
        renamed
    }

    /// The path must still name the folder that is held.
    fn check_still_there(&self) -> Result<()> {
        let held = fstat(&self.folder).map_err(|errno| file_error("stat", &self.path, errno))?;
        let named = rustix::fs::lstat(&self.path).map_err(|errno| file_error("stat", &self.path, errno))?;
        if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino) {
            return Ok(());
        }
        Err(refused(&self.path, "it was replaced by another folder while it was restored into"))
    }

    /// Makes the entries of the folders that were made durable in their parents.
    fn sync_ancestors(&self) -> Result<()> {
        for made in &self.made {
            let parent = made.parent().unwrap_or(Path::new("/"));
            sync_folder(&super::beneath::open_folder(parent)?, parent)?;
        }
        Ok(())
    }
}

/// Strips trailing separators, behind which a link could hide, and makes the path absolute.
fn cleaned(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::Usage, "the target is empty"));
    }
    let absolute = std::path::absolute(path).map_err(|error| io_error("find", path, error))?;
    Ok(absolute.components().collect())
}

/// Opens the target, or makes it and every missing folder above it, readable by the user alone.
fn open_or_make(path: &Path) -> Result<(OwnedFd, Vec<PathBuf>)> {
    match rustix::fs::lstat(path) {
        Ok(stat) => return open_existing(path, &stat).map(|folder| (folder, Vec::new())),
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR) => return Err(refused(path, "something on the way to it is no folder")),
        Err(errno) => return Err(file_error("find", path, errno)),
    }
    let Some(parent) = path.parent() else { return Err(refused(path, "it has no parent")) };
    let Some(Component::Normal(name)) = path.components().next_back() else {
        return Err(refused(path, "a path with `..` below a missing folder means nothing"));
    };
    let (held, mut made) = match std::fs::metadata(parent) {
        Ok(_) => (super::beneath::open_folder(parent)?, Vec::new()),
        Err(_) => open_or_make(parent)?,
    };
    let folder =
        mkdirat(&held, name, Mode::RWXU).map_err(|errno| file_error("make", path, errno)).and_then(|()| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            made.push(path.to_owned());
            openat(&held, name, flags, Mode::empty()).map_err(|errno| file_error("open", path, errno))
        });
    match folder {
        Ok(folder) => Ok((folder, made)),
        Err(error) => {
            remove_made(&made);
            Err(error)
        }
    }
}

fn open_existing(path: &Path, named: &Stat) -> Result<OwnedFd> {
    match FileType::from_raw_mode(named.st_mode) {
        FileType::Directory => {}
        FileType::Symlink => return Err(refused(path, "it is a symbolic link")),
        _ => return Err(refused(path, "it is no folder")),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| file_error("open the target", path, errno))?;
    let held = fstat(&folder).map_err(|errno| file_error("stat", path, errno))?;
    if (held.st_dev, held.st_ino) != (named.st_dev, named.st_ino) {
        return Err(refused(path, "it was replaced while it was opened"));
    }
    Ok(folder)
}

/// Takes the locks of every application that lives in this folder; refuses while one runs.
fn own(path: &Path, folder: &OwnedFd, policy: &TargetPolicy) -> Result<Ownership> {
    let live = |error: Error| {
        let message = format!("cannot restore into the live archive at {}", path.display());
        Error::caused(error.kind(), message, error)
    };
    let owners = owners(path, folder, policy)?;
    if let Some(application) = &policy.application {
        let asked = owners.iter().map(PathBuf::as_path).chain([path]);
        asked.into_iter().try_for_each(|owner| application.check_not_running(owner)).map_err(live)?;
    }
    let names = &policy.ownership_names;
    let files: Vec<PathBuf> =
        owners.iter().flat_map(|owner| names.iter().map(|name| owner.join(name))).collect();
    Ownership::take(&files).map_err(live)
}

/// Returns the folders whose locks own the target, each once: a second lock on the same file would be
/// refused by the first.
fn owners(path: &Path, folder: &OwnedFd, policy: &TargetPolicy) -> Result<Vec<PathBuf>> {
    let held = fstat(folder).map_err(|errno| file_error("stat", path, errno))?;
    let target = (held.st_dev, held.st_ino);
    let identity = |path: &Path| rustix::fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino));
    let mut owners = BTreeMap::new();
    let present = |name: &String| statat(folder, &**name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if policy.ownership_names.iter().any(present) {
        owners.insert(target, path.to_owned());
    }
    for home in policy.live_homes.iter().filter(|home| identity(&home.folder) == Some(target)) {
        // An application whose own folder is not there does not run.
        let Some(owner) = identity(&home.owner) else { continue };
        let shown = if owner == target { path } else { &home.owner };
        owners.entry(owner).or_insert_with(|| shown.to_owned());
    }
    Ok(owners.into_values().collect())
}

fn check_content(path: &Path, folder: &OwnedFd, policy: &TargetPolicy) -> Result<()> {
    if policy.overwrite {
        return Ok(());
    }
    for name in names(folder, path)? {
        if !name.starts_with(STAGING_PREFIX) && !policy.ownership_names.contains(&name) {
            return Err(refused(path, &format!("it is not empty: it holds {name:?}")));
        }
    }
    Ok(())
}

/// Removes what killed restores left behind: our own staging folders, and the temporary database files
/// of the reference engine where we may write over things anyway.
fn remove_leftovers(path: &Path, folder: &OwnedFd, policy: &TargetPolicy) -> Result<()> {
    for name in names(folder, path)? {
        if name.starts_with(STAGING_PREFIX) {
            let shown = path.join(&name);
            let leftover = open_folder_at(folder, &name, &shown)?;
            remove_below(&leftover);
            unlinkat(folder, &*name, AtFlags::REMOVEDIR)
                .map_err(|errno| file_error("remove", &shown, errno))?;
        } else if policy.overwrite && is_temporary_database(&name, &policy.database_name) {
            remove_if_there(folder, &name, path)?;
        }
    }
    Ok(())
}

fn is_temporary_database(name: &str, database_name: &str) -> bool {
    let Some(rest) = name.strip_prefix(database_name) else { return false };
    let rest = SIDECARS.iter().find_map(|sidecar| rest.strip_prefix(sidecar)).unwrap_or(rest);
    let ulid = rest.strip_prefix(".restore-");
    ulid.is_some_and(|ulid| ulid.len() == 26 && ulid.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

fn check_merge(staged: &OwnedFd, target: &OwnedFd, shown: &Path, device: u64) -> Result<()> {
    for (name, kind) in typed_names(staged, shown)? {
        let shown = shown.join(&name);
        let there = match statat(target, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) => there,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(file_error("stat", &shown, errno)),
        };
        match (kind, FileType::from_raw_mode(there.st_mode)) {
            (FileType::Directory, FileType::Directory) if there.st_dev != device => {
                return Err(refused(&shown, "it lies on another file system than the target"));
            }
            (FileType::Directory, FileType::Directory) => {
                let below = open_folder_at(staged, &name, &shown)?;
                check_merge(&below, &open_folder_at(target, &name, &shown)?, &shown, device)?;
            }
            (FileType::Directory, FileType::Symlink) => {
                return Err(refused(&shown, "it is a symbolic link where a folder is restored"));
            }
            (FileType::Directory, _) => return Err(refused(&shown, "it is no folder, and one is restored")),
            (_, FileType::Directory) => {
                return Err(refused(&shown, "it is a folder where a file is restored"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Moves what is staged into the target: whole folders where there is none, file by file where there is.
/// The file at the path `leave` stays where it is, and its folders are made in the target.
fn merge(staged: &OwnedFd, target: &OwnedFd, shown: &Path, leave: Option<&str>) -> Result<()> {
    for (name, kind) in typed_names(staged, shown)? {
        if leave == Some(name.as_str()) {
            continue;
        }
        let leave_below = leave.and_then(|leave| leave.strip_prefix(&name)?.strip_prefix('/'));
        let shown = shown.join(&name);
        if leave_below.is_some() {
            let below = open_folder_at(staged, &name, &shown)?;
            merge(&below, &open_or_make_at(target, &name, &shown)?, &shown, leave_below)?;
            continue;
        }
        let exists = kind == FileType::Directory && statat(target, &*name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if exists {
            let below = open_folder_at(staged, &name, &shown)?;
            merge(&below, &open_folder_at(target, &name, &shown)?, &shown, None)?;
            unlinkat(staged, &*name, AtFlags::REMOVEDIR)
                .map_err(|errno| file_error("remove the staging of", &shown, errno))?;
        } else {
            renameat(staged, &*name, target, &*name)
                .map_err(|errno| file_error("put in place", &shown, errno))?;
        }
    }
    Ok(())
}

/// Removes the folders of the staging that held nothing but the database.
fn remove_emptied(staging: &OwnedFd, parents: &str, shown: &Path) -> Result<()> {
    let mut parents = Some(parents);
    while let Some(folder) = parents {
        unlinkat(staging, folder, AtFlags::REMOVEDIR)
            .map_err(|errno| file_error("remove the staging of", &shown.join(folder), errno))?;
        parents = folder.rsplit_once('/').map(|(parents, _)| parents);
    }
    Ok(())
}

fn open_or_make_at(folder: &OwnedFd, name: &str, shown: &Path) -> Result<OwnedFd> {
    match mkdirat(folder, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_folder_at(folder, name, shown),
        Err(errno) => Err(file_error("make a folder for", shown, errno)),
    }
}

fn open_folder_at(folder: &OwnedFd, name: &str, shown: &Path) -> Result<OwnedFd> {
    folder_at(folder.as_fd(), name, shown)?
        .ok_or_else(|| Error::new(ErrorKind::Io, format!("{} vanished", shown.display())))
}

fn names(folder: &OwnedFd, shown: &Path) -> Result<Vec<String>> {
    Ok(typed_names(folder, shown)?.into_iter().map(|(name, _)| name).collect())
}

fn typed_names(folder: &OwnedFd, shown: &Path) -> Result<Vec<(String, FileType)>> {
    let listing = Dir::read_from(folder).map_err(|errno| file_error("list", shown, errno))?;
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|errno| file_error("list", shown, errno))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| file_error("stat", &shown.join(&name), errno))?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        names.push((name, kind));
    }
    names.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(names)
}

fn remove_if_there(folder: &OwnedFd, name: &str, shown: &Path) -> Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(file_error("remove", &shown.join(name), errno)),
    }
}

/// Removes everything below a held folder, as far as that is possible; follows no link.
fn remove_below(folder: &OwnedFd) {
    let Ok(listing) = Dir::read_from(folder) else { return };
    for entry in listing.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if unlinkat(folder, name, AtFlags::empty()).is_ok() {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(below) = openat(folder, name, flags, Mode::empty()) {
            remove_below(&below);
            let _ = unlinkat(folder, name, AtFlags::REMOVEDIR);
        }
    }
}

/// Removes folders that were made, innermost first, while they are empty.
fn remove_made(made: &[PathBuf]) {
    for path in made.iter().rev() {
        let _ = std::fs::remove_dir(path);
    }
}

/// One call makes every file and folder of the file system durable; thousands of single ones would take
/// longer than writing the data.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn sync_below(folder: &OwnedFd, shown: &Path) -> Result<()> {
    rustix::fs::syncfs(folder).map_err(|errno| file_error("sync", shown, errno))?;
    #[cfg(test)]
    tests::note(folder);
    Ok(())
}

/// Makes every file and folder below durable, deepest first.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn sync_below(folder: &OwnedFd, shown: &Path) -> Result<()> {
    for (name, kind) in typed_names(folder, shown)? {
        let path = shown.join(&name);
        match kind {
            FileType::Directory => sync_below(&open_folder_at(folder, &name, &path)?, &path)?,
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(folder, &*name, flags, Mode::empty())
                    .map_err(|errno| file_error("open", &path, errno))?;
                fsync(&file).map_err(|errno| file_error("sync", &path, errno))?;
            }
            _ => {}
        }
    }
    sync_folder(folder, shown)
}

fn sync_folder(folder: &OwnedFd, shown: &Path) -> Result<()> {
    fsync(folder).map_err(|errno| file_error("sync", shown, errno))?;
    #[cfg(test)]
    tests::note(folder);
    Ok(())
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("cannot restore into {}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    const ULID: &str = "01arz3ndektsv4rrffq69g5fav";

    thread_local! {
        /// The folders that were synced, each with what it held then.
        static SYNCED: RefCell<Vec<(u64, Vec<String>)>> = const { RefCell::new(Vec::new()) };
    }

    /// Notes that a folder, or everything below it, was made durable.
    pub(super) fn note(folder: &OwnedFd) {
        let held = (fstat(folder).unwrap().st_ino, names(folder, Path::new("synced")).unwrap());
        SYNCED.with_borrow_mut(|synced| synced.push(held));
    }

    fn policy(overwrite: bool) -> TargetPolicy {
        let ownership_names = vec!["daemon.lock".to_owned()];
        TargetPolicy {
            overwrite,
            database_name: "a.db".to_owned(),
            ownership_names,
            live_homes: vec![],
            application: None,
        }
    }

    fn names_in(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_refused_home_gets_no_lock_files() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("a.db"), "live").unwrap();
        let policy = TargetPolicy { live_homes: vec![home.path().to_owned().into()], ..policy(false) };
        let error = Target::open(home.path(), &policy, ULID).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert_eq!(names_in(home.path()), ["a.db"]);
    }

    #[test]
    fn a_folder_in_the_place_of_a_sidecar_is_refused_before_anything_moves() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.db"), "old").unwrap();
        std::fs::create_dir(folder.path().join("a.db-wal")).unwrap();
        let target = Target::open(folder.path(), &policy(true), ULID).unwrap();
        target.stage_file("a.db", 0o600).unwrap().write_all(b"new").unwrap();
        let error = target.check_merge().unwrap_err();
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("a.db-wal"), "{error}");
        target.discard();
        assert_eq!(names_in(folder.path()), ["a.db", "a.db-wal"]);
        assert_eq!(std::fs::read(folder.path().join("a.db")).unwrap(), b"old");
    }

    #[test]
    fn folders_that_were_made_go_with_a_restore_that_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one/two/three/");
        let target = Target::open(&path, &policy(false), ULID).unwrap();
        target.stage_file("attachments/ab/cd", 0o600).unwrap();
        target.discard();
        assert!(names_in(folder.path()).is_empty());
        target.stage_file("attachments/ab/ef", 0o600).expect_err("a late worker makes nothing");
        drop(target);
        assert!(names_in(folder.path()).is_empty());
        let target = Target::open(&path, &policy(false), ULID).unwrap();
        target.stage_file("a.db", 0o600).unwrap().write_all(b"new").unwrap();
        target.stage_file("deletions/x", 0o400).unwrap();
        target.check_merge().unwrap();
        target.publish().unwrap();
        assert_eq!(names_in(&path), ["a.db", "deletions"]);
    }

    #[test]
    fn what_a_killed_restore_left_behind_is_removed_by_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(".packvault-restore-01arz3ndektsv4rrffq69g5faw/attachments");
        std::fs::create_dir_all(&left).unwrap();
        std::fs::write(left.join("half"), "x").unwrap();
        std::os::unix::fs::symlink("/", left.join("link")).unwrap();
        let target = Target::open(folder.path(), &policy(false), ULID).unwrap();
        target.discard();
        assert!(names_in(folder.path()).is_empty());
    }

    #[test]
    fn what_is_put_in_place_is_durable_with_the_folders_that_were_made_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("one/two");
        let synced = |folder: &Path| (std::fs::metadata(folder).unwrap().ino(), names_in(folder));
        let target = Target::open(&path, &policy(false), ULID).unwrap();
        target.stage_file("a.db", 0o600).unwrap().write_all(b"new").unwrap();
        target.stage_file("deletions/x", 0o400).unwrap();
        let staging = synced(&target.staged_path(""));
        assert_eq!(staging.1, ["a.db", "deletions"]);
        target.sync_staged().unwrap();
        assert_eq!(SYNCED.take(), [staging]);
        target.check_merge().unwrap();
        target.publish().unwrap();
        assert_eq!(
            SYNCED.take(),
            [synced(&path), synced(folder.path()), synced(&folder.path().join("one"))],
            "everything, once it is in place, and then the folders that were made, in their parents"
        );
    }

    #[test]
    fn a_target_that_another_folder_has_replaced_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("target"), folder.path().join("moved"));
        let target = Target::open(&path, &policy(false), ULID).unwrap();
        target.stage_file("a.db", 0o600).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        std::fs::create_dir(&path).unwrap();
        for refused in [target.check_merge(), target.publish()] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
        }
        assert!(names_in(&path).is_empty());
        assert!(!moved.join("a.db").exists());
    }

    #[test]
    fn a_folder_of_another_file_system_is_not_merged_into() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("attachments")).unwrap();
        let target = Target::open(folder.path(), &policy(true), ULID).unwrap();
        target.stage_file("attachments/ab", 0o600).unwrap();
        let device = fstat(&target.folder).unwrap().st_dev;
        check_merge(&target.staging, &target.folder, &target.path, device).unwrap();
        let error = check_merge(&target.staging, &target.folder, &target.path, device + 1).unwrap_err();
        assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("attachments"), "{error}");
        target.discard();
    }

    #[test]
    fn only_what_the_other_engine_names_its_temporary_databases_is_removed_as_one() {
        let left = format!("a.db.restore-{ULID}");
        assert!(is_temporary_database(&left, "a.db"));
        assert!(is_temporary_database(&format!("a.db-wal.restore-{ULID}"), "a.db"));
        for kept in [
            "a.db",
            "a.db-wal",
            "a.db.restore-yesterday",
            "a.db.restore-01arz3ndektsv4rrffq69g5fa",
            "a.db.restore-01arz3ndektsv4rrffq69g5favv",
            "a.db.restore-01arz3ndektsv4rrffq69g5f.v",
            "b.db.restore-01arz3ndektsv4rrffq69g5fav",
        ] {
            assert!(!is_temporary_database(kept, "a.db"), "{kept}");
        }
    }
}
