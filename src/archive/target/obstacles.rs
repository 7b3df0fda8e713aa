//! What would stop a rename, found out before the first: rights, sticky folders, immutable files, mount points.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::entry::Entry;
use super::folders::{join, split};
use super::refused;
use crate::archive::beneath::folder_at;
use crate::error::lift::{file_error, io_error};
use crate::{Error, ErrorKind, Result};

/// Checks a folder of the target in which names are to change.
pub fn check_folder(folder: &OwnedFd, found: &Entry, shown: &Path) -> Result<()> {
    if found.is_immutable {
        return Err(refused(
            shown,
            "the folder is marked immutable or append-only: `chattr -i -a` undoes that",
        ));
    }
    match accessat(folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) | Err(Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(Errno::ACCESS | Errno::PERM) => {
            let why = format!(
                "the folder belongs to user {} and user {} may not write to it (mode {:o}): run this as a user \
                 who may",
                found.user,
                geteuid().as_raw(),
                found.mode & 0o7777
            );
            Err(Error::caused(
                ErrorKind::Refused,
                refused(shown, &why).to_string(),
                std::io::Error::from(Errno::ACCESS),
            ))
        }
        Err(Errno::ROFS) => Err(refused(shown, "the folder can only be read: its file system is read-only")),
        Err(errno) => Err(file_error("look at the rights of", shown, errno)),
    }
}

/// Checks something in the target that is to be renamed away or replaced; `folder` is where it lies.
pub fn check_entry(folder: &Entry, found: &Entry, shown: &Path) -> Result<()> {
    check_mount(folder, found, shown)?;
    if found.is_immutable {
        return Err(refused(shown, "it is marked immutable or append-only: `chattr -i -a` undoes that"));
    }
    let me = geteuid().as_raw();
    if folder.is_sticky() && me != 0 && me != folder.user && me != found.user {
        let why = format!(
            "it belongs to user {}, and in its folder each user's files are his own (sticky bit): run this as \
             that user",
            found.user
        );
        return Err(refused(shown, &why));
    }
    Ok(())
}

/// Checks that a file or folder is reached by the mount by which its folder is: no rename leads across.
pub fn check_mount(folder: &Entry, found: &Entry, shown: &Path) -> Result<()> {
    if folder.mount == found.mount {
        return Ok(());
    }
    let why = "it is a mount point, and nothing can be moved across one: restore into an empty folder and copy \
               from there, or unmount it first";
    Err(refused(shown, why))
}

/// Checks what is known of a snapshot's paths before anything is read from a repository: what can be refused
/// early should be.
pub fn check_paths<'a>(
    target: &OwnedFd,
    path: &Path,
    paths: impl IntoIterator<Item = &'a str>,
) -> Result<()> {
    let mut last: Option<(String, Option<(OwnedFd, Entry)>)> = None;
    for relative in paths {
        let (parents, name) = split(relative);
        if last.as_ref().is_none_or(|(known, _)| known != parents) {
            last = Some((parents.to_owned(), find_folder(target, path, parents)?));
        }
        let Some((_, Some((folder, folder_entry)))) = &last else { continue };
        let shown = path.join(relative);
        match Entry::find(folder, name, &shown)? {
            Some(found) if found.is_folder() => return Err(refused(&shown, FOLDER_IN_THE_WAY)),
            Some(found) => check_entry(folder_entry, &found, &shown)?,
            None => {}
        }
        check_folder(folder, folder_entry, &shown_folder(path, parents))?;
    }
    Ok(())
}

/// Why a folder is not replaced by a file.
pub const FOLDER_IN_THE_WAY: &str = "it is a folder where a file is restored";

/// Opens the folder and looks at it; where it does not exist, the one that it would be made in is checked.
fn find_folder(target: &OwnedFd, path: &Path, relative: &str) -> Result<Option<(OwnedFd, Entry)>> {
    let shown = shown_folder(path, relative);
    let mut held = target.try_clone().map_err(|error| io_error("open", path, error))?;
    let mut entry = Entry::of(&held, path)?;
    let mut reached = String::new();
    for part in relative.split('/').filter(|part| !part.is_empty()) {
        let above = shown_folder(path, &reached);
        reached = join(&reached, part);
        let here = shown_folder(path, &reached);
        match Entry::find(&held, part, &here)? {
            None => {
                check_folder(&held, &entry, &above)?;
                return Ok(None);
            }
            Some(found) => {
                check_is_folder(&found, &here)?;
                check_mount(&entry, &found, &here)?;
            }
        }
        let Some(next) = folder_at(&held, part, &shown)? else { return Ok(None) };
        (entry, held) = (Entry::of(&next, &here)?, next);
    }
    Ok(Some((held, entry)))
}

/// Refuses what is no folder although one is restored there.
pub fn check_is_folder(found: &Entry, shown: &Path) -> Result<()> {
    match found.kind {
        rustix::fs::FileType::Directory => Ok(()),
        rustix::fs::FileType::Symlink => {
            Err(refused(shown, "it is a symbolic link where a folder is restored"))
        }
        _ => Err(refused(shown, "it is no folder, and one is restored")),
    }
}

fn shown_folder(path: &Path, relative: &str) -> PathBuf {
    if relative.is_empty() { path.to_owned() } else { path.join(relative) }
}
