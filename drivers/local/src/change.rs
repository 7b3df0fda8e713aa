//! The small changes to a published object: touch, rename, remove, and the look that tells its size and time.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, SystemTime};

use packvault_storage::{Error, ErrorKind, Key, NotRemoved, ObjectMeta, Operation, Result, Step, numbered};
use rustix::fs::{AtFlags, Stat, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::client::{Client, Found, folder_and_name, is_same_file, look, open_object, require_object};
use crate::durable::sync_folder;
use crate::error::{SystemErrors, is_unsupported};
use crate::publish::rename_exclusively;
use crate::read::read_exactly;
use crate::staging::{FOLDER, is_scratch, refuse_scratch};

/// Returns the size and the time of the object.
pub(crate) fn stat(client: &Client, key: &Key) -> Result<ObjectMeta> {
    let step = Step::new(Operation::Stat, key.as_str());
    let (_, stat) = find(client, step, key)?;
    Ok(meta_of(&stat))
}

/// Moves the object's time to now through the descriptor its bytes were compared by, so that an object
/// which takes its place meanwhile keeps its own time.
pub(crate) fn touch(client: &Client, key: &Key, expected: &[u8]) -> Result<()> {
    let step = Step::new(Operation::Touch, key.as_str());
    if is_scratch(key) {
        return Err(step.not_found());
    }
    let file = open_object(client, step, key)?;
    let before = rustix::fs::fstat(&file).map_err(|errno| step.failed("look at its file", errno))?;
    if meta_of(&before).size_bytes != expected.len() as u64 {
        return Err(step.changed());
    }
    match read_exactly(step, &file, 0, expected.len()) {
        Ok(bytes) if bytes == expected => {}
        Ok(_) => return Err(step.changed()),
        Err(error) if error.kind() == ErrorKind::Short => return Err(step.changed()),
        Err(error) => return Err(error),
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now })
        .map_err(|errno| step.failed("set the time of its file", errno))?;
    // Only a look at the name tells whether what was touched is still the object.
    let (_, after) = find(client, step, key)?;
    match is_same_file(&before, &after) {
        true => Ok(()),
        false => Err(step.changed()),
    }
}

/// Removes the object and makes its absence durable.
pub(crate) fn remove(client: &Client, key: &Key) -> Result<()> {
    let step = Step::new(Operation::Remove, key.as_str());
    let folder = unlink_object(client, step, key)?;
    sync_folder(step, &folder)
}

/// Removes the objects, one sync for all of a folder, and returns those that are not known to be gone.
pub(crate) fn remove_all(client: &Client, keys: &[Key]) -> Vec<NotRemoved> {
    let mut by_folder: BTreeMap<&str, Vec<&Key>> = BTreeMap::new();
    for key in keys {
        by_folder.entry(folder_and_name(key).0).or_default().push(key);
    }
    by_folder.into_iter().flat_map(|(folder, keys)| remove_in(client, folder, &keys)).collect()
}

fn remove_in(client: &Client, folder: &str, keys: &[&Key]) -> Vec<NotRemoved> {
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    for key in keys.iter().copied() {
        match unlink_object(client, Step::new(Operation::Remove, key.as_str()), key) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                left.push(NotRemoved { key: key.clone(), error });
            }
            // Whoever removed it before us may have died before the sync.
            Ok(_) | Err(_) => gone.push(key),
        }
    }
    let step = Step::new(Operation::Remove, folder);
    let synced = client.open_folder(step, folder);
    if let Err(error) = synced.and_then(|folder| folder.map_or(Ok(()), |folder| sync_folder(step, &folder))) {
        left.extend(NotRemoved::all(gone, error));
    }
    left
}

/// Takes the object's name away, and returns the folder that it was in, which is not synced.
fn unlink_object(client: &Client, step: Step<'_>, key: &Key) -> Result<File> {
    let (folder, _) = find(client, step, key)?;
    match rustix::fs::unlinkat(&folder, key.name(), AtFlags::empty()) {
        Ok(()) => Ok(folder),
        Err(Errno::NOENT) => Err(step.not_found()),
        Err(errno) => Err(step.failed("remove its file", errno)),
    }
}

/// Moves the object to a name that must be absent.
pub(crate) fn rename(client: &Client, from: &Key, to: &Key) -> Result<()> {
    let step = Step::new(Operation::Rename, from.as_str());
    let to_step = Step::new(Operation::Rename, to.as_str());
    refuse_scratch(to_step, to)?;
    let (from_folder, _) = find(client, step, from)?;
    let to_folder = client.make_folder(to_step, folder_and_name(to).0)?;
    let here = Place { folder: &from_folder, name: from.name() };
    let there = Place { folder: &to_folder, name: to.name() };
    let explain = |errno| match errno {
        Errno::NOENT => step.not_found(),
        Errno::EXIST => explain_taken(to_step, &to_folder, to),
        errno if is_unsupported(errno) => step
            .error(ErrorKind::Unsupported, "its file system cannot rename to an absent name")
            .with_source(std::io::Error::from(errno)),
        errno => step.failed(format!("rename it to {to}"), errno),
    };
    match exclusive_rename(client, &here, &there) {
        Ok(()) => {}
        Err(errno) if is_unsupported(errno) && client.steps.hard_link => {
            move_by_claim(client, step, &here, &there, explain)?;
        }
        Err(errno) => return Err(explain(errno)),
    }
    sync_folder(to_step, &to_folder)?;
    sync_folder(step, &from_folder)
}

/// One name in one open folder.
struct Place<'a> {
    folder: &'a File,
    name: &'a str,
}

fn exclusive_rename(client: &Client, from: &Place<'_>, to: &Place<'_>) -> std::result::Result<(), Errno> {
    match client.steps.exclusive_rename {
        true => rename_exclusively(from.folder, from.name, to.folder, to.name),
        false => Err(Errno::NOTSUP),
    }
}

/// Moves the object by way of `staging/`, for file systems such as NFS that have no exclusive rename.
///
/// A rename to a name nobody else can know claims the object: one mover wins. A link then gives it the
/// new name only if that is absent; if it is not, the object goes back. Linking the old name to the new
/// and unlinking the old would look simpler, but could unlink an object that took the old name meanwhile.
/// A process killed between the two steps leaves the object in `staging/`, where a sweep may remove it.
fn move_by_claim(
    client: &Client,
    step: Step<'_>,
    from: &Place<'_>,
    to: &Place<'_>,
    explain: impl Fn(Errno) -> Error,
) -> Result<()> {
    if !matches!(look(step, to.folder, to.name)?, Found::Nothing) {
        return Err(explain(Errno::EXIST));
    }
    let staging = client.make_folder(step, FOLDER)?;
    let claim = Place { folder: &staging, name: &numbered(from.name) };
    // Proves that the file system links at all while the object still has its name.
    link(from, &claim).and_then(|()| unlink(&claim)).map_err(|errno| match errno {
        Errno::PERM => explain(Errno::NOTSUP),
        errno => explain(errno),
    })?;
    rustix::fs::renameat(from.folder, from.name, claim.folder, claim.name).map_err(&explain)?;
    let refusal = match link(&claim, to) {
        Ok(()) => None,
        Err(errno) => {
            link(&claim, from)
                .map_err(|errno| step.failed(format!("put it back from staging/{}", claim.name), errno))?;
            Some(explain(errno))
        }
    };
    // A claim that stays is one more name of the object, for the sweep to remove.
    let _ = unlink(&claim);
    refusal.map_or(Ok(()), Err)
}

fn link(from: &Place<'_>, to: &Place<'_>) -> std::result::Result<(), Errno> {
    rustix::fs::linkat(from.folder, from.name, to.folder, to.name, AtFlags::empty())
}

/// Removes the name; one that a sweep removed is gone as well.
fn unlink(place: &Place<'_>) -> std::result::Result<(), Errno> {
    match rustix::fs::unlinkat(place.folder, place.name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

fn explain_taken(step: Step<'_>, folder: &File, key: &Key) -> Error {
    match look(step, folder, key.name()) {
        Ok(Found::Folder) => step.refused(key.as_str(), "a folder"),
        Ok(Found::Other(what)) => step.refused(key.as_str(), what),
        _ => step.already_exists(),
    }
}

/// Opens the object's folder and looks at its file.
fn find(client: &Client, step: Step<'_>, key: &Key) -> Result<(File, Stat)> {
    let (folder, name) = folder_and_name(key);
    if is_scratch(key) {
        return Err(step.not_found());
    }
    let folder = client.open_folder(step, folder)?.ok_or_else(|| step.not_found())?;
    let stat = require_object(step, &folder, key.as_str(), name)?;
    Ok((folder, stat))
}

/// Returns the size and the time out of what the system knows of a file.
#[allow(clippy::unnecessary_cast, reason = "the types of the fields differ between systems")]
pub(crate) fn meta_of(stat: &Stat) -> ObjectMeta {
    let seconds = stat.st_mtime as i64;
    let nanoseconds = Duration::from_nanos(stat.st_mtime_nsec as u64);
    let whole = match u64::try_from(seconds) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_secs(seconds.unsigned_abs()),
    };
    ObjectMeta { size_bytes: stat.st_size as u64, modified: whole + nanoseconds }
}
