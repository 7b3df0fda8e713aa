//! What killed restores have left in a target: it is undone or finished before anything else is done there.
//!
//! A staging without a journal is removed: that restore has moved nothing yet. With a journal the restore is finished if its
//! database is in place, and undone if not. Earlier versions kept no journal; they set logs aside under names of
//! their own, which are found again too.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::entry::Entry;
use super::folders::{
    names, open_folder_at, remove_if_there, remove_tree, rename_to_free, split, sync_below,
};
use super::journal::Journal;
use super::moves::Grounds;
use super::undo::undo;
use super::{STAGING_PREFIX, TargetPolicy, in_use, refused};
use crate::archive::beneath::{folder_at, open_folder};
use crate::archive::profile::SIDECARS;
use crate::error::lift::file_error;
use crate::{Error, ErrorKind, Result};

/// Settles what killed restores left in the target; returns what the user should know.
pub fn settle(path: &Path, folder: &Arc<OwnedFd>, policy: &TargetPolicy) -> Result<Vec<String>> {
    let mut remarks = Vec::new();
    for name in names(folder, path)? {
        let Some(ulid) = name.strip_prefix(STAGING_PREFIX) else { continue };
        let shown = path.join(&name);
        let staging = open_folder_at(folder, &name, &shown)?;
        if let Err(error) = check_trusted(folder, &staging, &shown) {
            if Journal::is_there(&staging) {
                return Err(error);
            }
            remarks.push(error.to_string());
            continue;
        }
        tracing::info!(
            target: "packvault::restore",
            staging = %shown.display(),
            "an earlier restore has left its staging"
        );
        if let Some(journal) = Journal::read(&staging, &shown)? {
            let grounds = Grounds::open(path, folder.clone(), staging, &name, ulid)?;
            remarks.append(&mut settle_one(&grounds, &journal, policy)?);
            Journal::remove(&grounds.staging, &shown)?;
        } else {
            put_back_logs(path, folder, (&staging, ulid), policy)?;
        }
        remove_tree(folder, &name, &shown)?;
    }
    Ok(remarks)
}

/// Finishes a restore whose database is in place; undoes any other.
fn settle_one(grounds: &Grounds, journal: &Journal, policy: &TargetPolicy) -> Result<Vec<String>> {
    let is_committed = is_committed(grounds, journal)?;
    let path = grounds.path.display();
    if is_committed {
        sync_below(grounds.target.root(), &grounds.path)?;
        return Ok(vec![format!(
            "an earlier restore into {path} was stopped at its very end, and is complete now"
        )]);
    }
    if !policy.force {
        for database in &journal.databases {
            if let Ok((folder, name)) = grounds.place(database) {
                in_use::check(&folder, name, &grounds.path.join(database))?;
            }
        }
    }
    let undone = undo(grounds, journal);
    if let Some(first) = undone.problems.first() {
        let message = format!(
            "cannot undo the restore that was stopped in {path}: {first}; what it replaced lies in {}",
            grounds.staging_path.join(super::journal::OLD).display()
        );
        return Err(Error::new(ErrorKind::Io, message));
    }
    let mut remarks = vec![format!(
        "an earlier restore into {path} was stopped half-way, and has been undone: what was there before is back"
    )];
    remarks.extend(undone.remarks);
    Ok(remarks)
}

/// Tells whether the database is in place, which comes last, and nobody had begun to take it back.
fn is_committed(grounds: &Grounds, journal: &Journal) -> Result<bool> {
    let commit = &journal.steps[journal.commit];
    let is_moved = match grounds.staged(&commit.path) {
        Ok((staged, name)) => Entry::find(&staged, name, &grounds.path.join(&commit.path))?.is_none(),
        Err(_) => false,
    };
    Ok(is_moved && !Journal::is_being_undone(&grounds.staging))
}

/// Refuses a journal that somebody else may have forged: everybody who may write to the target could leave one. Only
/// one of this user, of the target's owner or of root is followed.
fn check_trusted(folder: &OwnedFd, staging: &OwnedFd, shown: &Path) -> Result<()> {
    let stat = |folder: &OwnedFd| fstat(folder).map_err(|errno| file_error("stat", shown, errno));
    let (target, staging) = (stat(folder)?, stat(staging)?);
    let is_ours = [geteuid().as_raw(), target.st_uid, 0].contains(&staging.st_uid);
    if is_ours && staging.st_mode & 0o022 == 0 {
        return Ok(());
    }
    let why = format!(
        "{} was left there by user {}, and others could have changed it: restore as that user, or remove it",
        shown.display(),
        staging.st_uid
    );
    Err(refused(shown.parent().unwrap_or(shown), &why))
}

/// Puts logs back that an earlier version had set aside when it was killed before its database was in place.
fn put_back_logs(
    path: &Path,
    folder: &Arc<OwnedFd>,
    (staging, ulid): (&OwnedFd, &str),
    policy: &TargetPolicy,
) -> Result<()> {
    let (parents, name) = split(&policy.database_name);
    let shown = path.join(parents);
    let (Some(there), Ok(Some(staged))) =
        (folder_at(folder, parents, &shown)?, folder_at(staging, parents, &shown))
    else {
        return Ok(());
    };
    if Entry::find(&staged, name, &shown)?.is_none() {
        return Ok(());
    }
    for sidecar in SIDECARS {
        let kept = format!("{name}{sidecar}.restore-{ulid}");
        match rename_to_free((&there, &kept), (&there, &format!("{name}{sidecar}"))) {
            Ok(()) | Err(Errno::NOENT | Errno::EXIST) => {}
            Err(errno) => return Err(file_error("put back", &shown.join(kept), errno)),
        }
    }
    Ok(())
}

/// Removes the temporary database files of the reference engine, and of our earlier versions, from beside a
/// database that was just replaced.
pub fn remove_temporary_databases(path: &Path, folder: &OwnedFd, database_name: &str) -> Result<()> {
    let (parents, name) = split(database_name);
    let shown = path.join(parents);
    let Some(there) = folder_at(folder, parents, &shown)? else { return Ok(()) };
    for found in names(&there, &shown)? {
        if is_temporary_database(&found, name) {
            remove_if_there(&there, &found, &shown)?;
        }
    }
    Ok(())
}

/// Tells whether a name is one that is given to a database, or to its log, while it is restored.
pub fn is_temporary_database(name: &str, database_name: &str) -> bool {
    let Some(rest) = name.strip_prefix(database_name) else { return false };
    let rest = SIDECARS.iter().find_map(|sidecar| rest.strip_prefix(sidecar)).unwrap_or(rest);
    let ulid = rest.strip_prefix(".restore-");
    ulid.is_some_and(|ulid| ulid.len() == 26 && ulid.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Returns the staging of a restore that was stopped after it had begun to move things in this folder and
/// before its database was in place: what lies there is neither the old archive nor the new one.
pub fn find_unfinished(path: &Path) -> Result<Option<PathBuf>> {
    let folder = Arc::new(open_folder(path)?);
    for name in names(&folder, path)? {
        if name.starts_with(STAGING_PREFIX)
            && let Ok(Some(staging)) = folder_at(&folder, &name, path)
            && Journal::is_there(&staging)
            && !is_complete(path, &folder, staging, &name)
        {
            return Ok(Some(path.join(name)));
        }
    }
    Ok(None)
}

/// Tells whether a restore came to its end and could only not remove its staging; in doubt it did not.
fn is_complete(path: &Path, folder: &Arc<OwnedFd>, staging: OwnedFd, name: &str) -> bool {
    let shown = path.join(name);
    let Some(ulid) = name.strip_prefix(STAGING_PREFIX) else { return false };
    let is_ours = check_trusted(folder, &staging, &shown).is_ok();
    let Ok(Some(journal)) = Journal::read(&staging, &shown) else { return false };
    let grounds = Grounds::open(path, folder.clone(), staging, name, ulid);
    is_ours && grounds.is_ok_and(|grounds| is_committed(&grounds, &journal).unwrap_or(false))
}

/// Refuses to take what lies in a folder for an archive while a restore into it is half done.
pub fn check_finished(path: &Path) -> Result<()> {
    // Whether the folder is there at all is for others to find out.
    let Ok(Some(staging)) = find_unfinished(path) else { return Ok(()) };
    let message = format!(
        "a restore into {} was stopped half-way ({}), so what lies there is neither the old archive nor the new one; \
         restore into it again with --overwrite, which first puts back what was there",
        path.display(),
        staging.display()
    );
    Err(Error::new(ErrorKind::Refused, message))
}

/// Tells whether a folder has a name by which restores stage what they write.
pub fn is_staging(name: &str) -> bool {
    name.starts_with(STAGING_PREFIX)
}
