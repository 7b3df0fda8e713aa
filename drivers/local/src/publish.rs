//! From a staging file to an object: create-only by hard link, replacing by rename, durable both ways.
//!
//! The order is always the same: sync the file, give it its final name in one step, sync the folder. A
//! process killed in between leaves a file in `staging/` and either no object or the whole object.
//! A failed sync after the name was given is an error, but the object stays.

use std::fs::File;

use bytes::Bytes;
use packvault_storage::{ErrorKind, Key, Operation, Result, Step};
use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use crate::client::{Client, Found, folder_and_name, is_same_file, look};
use crate::durable::sync_folder;
use crate::error::{SystemErrors, is_unsupported};
use crate::staging::StagingFile;

/// How often an object whose staging file another process swept away is written anew.
const SWEPT_MAX: u32 = 8;

/// How a publication ended, errors apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The object is there, whole and durable.
    Done,
    /// The staging file vanished before it had its final name.
    Swept,
}

/// Writes the bytes and publishes them under a key that must be absent.
pub(crate) fn create(client: &Client, key: &Key, bytes: &Bytes) -> Result<()> {
    let step = Step::new(Operation::Create, key.as_str());
    until_not_swept(step, || publish_new(client, step, key, written(client, step, key, bytes)?))
}

/// Writes the bytes and publishes them under the key, whatever object lies there.
pub(crate) fn replace(client: &Client, key: &Key, bytes: &Bytes) -> Result<()> {
    let step = Step::new(Operation::Replace, key.as_str());
    until_not_swept(step, || publish_over(client, step, key, written(client, step, key, bytes)?))
}

/// Makes the staging file the object, if the key is absent.
pub(crate) fn publish_new(
    client: &Client,
    step: Step<'_>,
    key: &Key,
    mut staging: StagingFile,
) -> Result<Published> {
    staging.sync(step)?;
    let (folder, name) = folder_and_name(key);
    let folder = client.make_folder(step, folder)?;
    match name_exclusively(client, &mut staging, &folder, name) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(Published::Swept),
        Err(Errno::EXIST) => explain_taken(step, key, &staging, &folder, name)?,
        Err(errno) if is_unsupported(errno) => {
            let detail =
                "its file system can neither link a file nor rename it to an absent name in one step";
            return Err(step.error(ErrorKind::Unsupported, detail).with_source(std::io::Error::from(errno)));
        }
        Err(Errno::XDEV) => {
            return Err(step.error(ErrorKind::Config, "staging lies on another file system than its folder"));
        }
        Err(errno) => return Err(step.failed("give its file the final name", errno)),
    }
    // The staging name goes before the folder is synced; should that fail, a sweep finds the name.
    drop(staging);
    sync_folder(step, &folder)?;
    Ok(Published::Done)
}

fn publish_over(client: &Client, step: Step<'_>, key: &Key, mut staging: StagingFile) -> Result<Published> {
    staging.sync(step)?;
    let (folder, name) = folder_and_name(key);
    let folder = client.make_folder(step, folder)?;
    // The rename would not follow a link, but it would hide that somebody had put one there.
    match look(step, &folder, name)? {
        Found::Nothing | Found::Object(_) => {}
        Found::Folder => return Err(step.refused(key.as_str(), "a folder")),
        Found::Other(what) => return Err(step.refused(key.as_str(), what)),
    }
    match rustix::fs::renameat(staging.folder(), staging.name(), &folder, name) {
        Ok(()) => staging.moved_away(),
        Err(Errno::NOENT) => return Ok(Published::Swept),
        Err(errno) => return Err(step.failed("give its file the final name", errno)),
    }
    sync_folder(step, &folder)?;
    Ok(Published::Done)
}

/// Gives the staging file its final name in one step that fails with `EEXIST` when the name is taken.
///
/// The link comes first: servers of network file systems decide it themselves, while an exclusive rename
/// may be decided by the client's view of the folder.
fn name_exclusively(
    client: &Client,
    staging: &mut StagingFile,
    folder: &File,
    name: &str,
) -> std::result::Result<(), Errno> {
    if client.steps.hard_link {
        match rustix::fs::linkat(staging.folder(), staging.name(), folder, name, AtFlags::empty()) {
            // Linux says EPERM for a file system without hard links.
            Err(errno) if is_unsupported(errno) || matches!(errno, Errno::PERM | Errno::MLINK) => {}
            done => return done,
        }
    }
    if !client.steps.exclusive_rename {
        return Err(Errno::NOTSUP);
    }
    rename_exclusively(staging.folder(), staging.name(), folder, name)?;
    staging.moved_away();
    Ok(())
}

/// Renames in one step to a name that must be absent, where the system knows how.
pub(crate) fn rename_exclusively(
    from_folder: &File,
    from: &str,
    to_folder: &File,
    to: &str,
) -> std::result::Result<(), Errno> {
    #[cfg(any(target_vendor = "apple", target_os = "linux", target_os = "android"))]
    return rustix::fs::renameat_with(from_folder, from, to_folder, to, RenameFlags::NOREPLACE);
    #[cfg(not(any(target_vendor = "apple", target_os = "linux", target_os = "android")))]
    return Err(Errno::NOTSUP);
}

/// Turns "taken" into the right answer, which is success if our own file lies there: a network file
/// system may have linked it and lost the first answer.
fn explain_taken(step: Step<'_>, key: &Key, staging: &StagingFile, folder: &File, name: &str) -> Result<()> {
    match look(step, folder, name)? {
        Found::Object(taken) => {
            let ours =
                rustix::fs::fstat(staging.file()).map_err(|errno| step.failed("look at its file", errno))?;
            match is_same_file(&ours, &taken) {
                true => Ok(()),
                false => Err(step.already_exists()),
            }
        }
        // Removed an instant after it was in our way.
        Found::Nothing => Err(step.already_exists()),
        Found::Folder => Err(step.refused(key.as_str(), "a folder")),
        Found::Other(what) => Err(step.refused(key.as_str(), what)),
    }
}

fn written(client: &Client, step: Step<'_>, key: &Key, bytes: &Bytes) -> Result<StagingFile> {
    let mut staging = StagingFile::begin(client, step, key)?;
    staging.write(step, std::slice::from_ref(bytes))?;
    Ok(staging)
}

fn until_not_swept(step: Step<'_>, publish: impl Fn() -> Result<Published>) -> Result<()> {
    for _ in 0..SWEPT_MAX {
        if publish()? == Published::Done {
            return Ok(());
        }
    }
    Err(swept(step))
}

/// Makes the error of a staging file that another process took away.
pub(crate) fn swept(step: Step<'_>) -> packvault_storage::Error {
    step.error(ErrorKind::Io, "another process removed its file from staging")
}
