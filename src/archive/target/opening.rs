//! Opening the target, or making it, and owning what lives in it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, statat};
use rustix::io::Errno;

use super::{TargetPolicy, refused};
use crate::archive::beneath::open_folder;
use crate::archive::ownership::Ownership;
use crate::error::lift::{file_error, io_error};
use crate::{Error, ErrorKind, Result};

/// Strips trailing separators, behind which a link could hide, and makes the path absolute.
pub fn cleaned(path: &Path) -> Result<PathBuf> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(ErrorKind::Usage, "the target is empty"));
    }
    let absolute = std::path::absolute(path).map_err(|error| io_error("find", path, error))?;
    Ok(absolute.components().collect())
}

/// Opens the target, or makes it and every missing folder above it, readable by the user alone.
pub fn open_or_make(path: &Path) -> Result<(OwnedFd, Vec<PathBuf>)> {
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
        Ok(_) => (open_folder(parent)?, Vec::new()),
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
pub fn own(path: &Path, folder: &OwnedFd, policy: &TargetPolicy) -> Result<Ownership> {
    own_some(path, folder, policy, |_| true)
}

/// Refuses while an application that lives in this folder runs; makes no lock file.
pub fn check_not_live(path: &Path, folder: &OwnedFd, policy: &TargetPolicy) -> Result<()> {
    own_some(path, folder, policy, Path::exists).map(drop)
}

fn own_some(
    path: &Path,
    folder: &OwnedFd,
    policy: &TargetPolicy,
    wanted: impl Fn(&Path) -> bool,
) -> Result<Ownership> {
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
    let files: Vec<PathBuf> = files.into_iter().filter(|file| wanted(file)).collect();
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

/// Removes folders that were made, innermost first, while they are empty.
pub fn remove_made(made: &[PathBuf]) {
    for path in made.iter().rev() {
        let _ = std::fs::remove_dir(path);
    }
}
