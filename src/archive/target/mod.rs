//! The destination of a restore: staged beside what is there, put in place only once it is proved.
//!
//! Opening and staging are here, merging and giving up in `publishing.rs`. Everything is written below
//! `.packvault-restore-<ulid>/new/` in the target folder, on the same file system. Putting it in place is a journal
//! (`journal.rs`) of renames (`moves.rs`), the database last; a step that fails has all others undone (`undo.rs`), and
//! what a killed restore left is undone or finished by the next command (`leftovers.rs`). Until the first step nothing
//! that a user or an application looks at has changed, and giving up is removing one folder. All steps go through held
//! handles of the target and of its folders, one component at a time, and follow no link.

pub mod apart;
mod entry;
mod folders;
mod in_use;
mod journal;
mod leftovers;
mod moves;
mod obstacles;
mod old_database;
mod opening;
mod publishing;
mod steps;
mod undo;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, mkdirat, openat};
use rustix::io::Errno;

use self::folders::{names, open_folder_at, remove_tree, split, sync_below};
use self::journal::NEW;
pub use self::leftovers::{check_finished, is_staging};
use self::moves::Grounds;
use self::opening::{check_not_live, cleaned, open_or_make, own, remove_made};
use super::attributes::{self, Outcome, RestoredAttributes};
use super::ownership::Ownership;
use super::profile::Profile;
use crate::error::lift::{file_error, io_error};
use crate::{Error, ErrorKind, Result};

/// How the staging folder's name begins.
const STAGING_PREFIX: &str = ".packvault-restore-";
/// Descriptors that are kept so that giving up does not lack them.
const SPARE_DESCRIPTORS: usize = 8;

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
    /// The paths of other files that are known to come.
    pub files: Vec<String>,
    /// The repository, if it is a folder of this machine.
    pub repository: Option<PathBuf>,
    /// Whether a database that another program has open is restored over.
    pub force: bool,
    /// The kind of application, which knows whether it runs on the target.
    pub application: Option<Arc<dyn Profile>>,
    /// Whether the database is not among what is restored: the one that is there stays.
    pub without_database: bool,
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
    folder: Arc<OwnedFd>,
    /// Folders that were made for this restore, outermost first.
    made: Vec<PathBuf>,
    staging_name: String,
    grounds: Grounds,
    database_name: String,
    without_database: bool,
    force: bool,
    remarks: Vec<String>,
    /// Closed when the restore is given up, which takes descriptors.
    spare: Mutex<Vec<OwnedFd>>,
    /// Whether the staging holds what could not be put back.
    holds_the_old: AtomicBool,
    /// Held until the restore is over; another restore into the same folder is refused.
    _ownership: Ownership,
}

impl Target {
    /// Opens or makes the target folder and a staging folder in it. Changes nothing else, but that it settles what
    /// killed restores left there.
    pub fn open(path: &Path, policy: &TargetPolicy, ulid: &str) -> Result<Self> {
        let path = cleaned(path)?;
        apart::check_apart(&path, policy.repository.as_deref())?;
        let (folder, made) = open_or_make(&path)?;
        let undo = |error| {
            remove_made(&made);
            error
        };
        Self::prepare(path, Arc::new(folder), policy, ulid)
            .map(|target| Self { made: made.clone(), ..target })
            .map_err(undo)
    }

    fn prepare(path: PathBuf, folder: Arc<OwnedFd>, policy: &TargetPolicy, ulid: &str) -> Result<Self> {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            // Network file systems may not lock folders; there nothing tells two restores apart.
            Ok(()) | Err(Errno::BADF | Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOLCK) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(refused(&path, "another restore into it is running"));
            }
            Err(errno) => return Err(file_error("lock", &path, errno)),
        }
        // Before anything is undone, too: what a running application lives on is not moved.
        if policy.overwrite || leftovers::find_unfinished(&path)?.is_some() {
            check_not_live(&path, &folder, policy)?;
        }
        let mut remarks = leftovers::settle(&path, &folder, policy)?;
        // First, for taking the locks of an application may make their files.
        check_content(&path, &folder, policy)?;
        if !policy.force {
            check_not_open(&path, &folder, &policy.database_name)?;
        }
        let known = std::iter::once(policy.database_name.as_str());
        obstacles::check_paths(&folder, &path, known.chain(policy.files.iter().map(String::as_str)))?;
        let ownership = own(&path, &folder, policy)?;
        let staging_name = format!("{STAGING_PREFIX}{ulid}");
        let real_path = std::fs::canonicalize(&path).map_err(|error| io_error("find", &path, error))?;
        let grounds = match make_staging(&path, &folder, &staging_name, ulid) {
            Ok(grounds) => grounds,
            Err(error) => {
                let _ = remove_tree(&folder, &staging_name, &path.join(&staging_name));
                return Err(error);
            }
        };
        let spare = (0..SPARE_DESCRIPTORS).map_while(|_| folder.try_clone().ok()).collect();
        remarks.dedup();
        Ok(Self {
            path,
            real_path,
            folder,
            made: Vec::new(),
            staging_name,
            grounds,
            database_name: policy.database_name.clone(),
            without_database: policy.without_database,
            force: policy.force,
            remarks,
            spare: Mutex::new(spare),
            holds_the_old: AtomicBool::new(false),
            _ownership: ownership,
        })
    }

    /// Returns the target's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the user should know of what was found in the target.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Returns where a file lies while it is staged.
    pub fn staged_path(&self, relative: &str) -> PathBuf {
        self.path.join(&self.staging_name).join(NEW).join(relative)
    }

    /// Returns where the staged database lies, for SQLite, which knows no held folders: a path without links,
    /// so that whoever opens it may refuse any.
    pub fn staged_database(&self) -> PathBuf {
        self.real_path.join(&self.staging_name).join(NEW).join(&self.database_name)
    }

    /// Makes a new file at a checked relative path in the staging, with folders on the way.
    pub fn stage_file(&self, relative: &str, mode: u32) -> Result<File> {
        let shown = self.staged_path(relative);
        let (parents, name) = split(relative);
        let folder = self.grounds.fresh.get_or_make(parents, &shown)?;
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

    /// Gives all that was staged its owner, mode and time.
    pub fn settle_staged(&self, wanted: &RestoredAttributes) -> Result<Outcome> {
        attributes::apply(self.grounds.fresh.root(), &self.folder, &self.path, wanted)
    }

    /// Gives the target folder what is recorded of the archive's home, if this restore made the folder.
    pub fn settle_made(&self, wanted: &RestoredAttributes) -> Option<Outcome> {
        let is_made = self.made.last() == Some(&self.path);
        is_made.then(|| attributes::apply_to_made(&self.folder, wanted))
    }

    /// Makes all that was staged durable.
    pub fn sync_staged(&self) -> Result<()> {
        sync_below(&self.grounds.staging, &self.path)
    }
}

fn make_staging(path: &Path, folder: &Arc<OwnedFd>, name: &str, ulid: &str) -> Result<Grounds> {
    let shown = path.join(name);
    mkdirat(folder, name, Mode::RWXU).map_err(|errno| file_error("make", &shown, errno))?;
    let staging = open_folder_at(folder, name, &shown)?;
    Grounds::make(path, folder.clone(), staging, name, ulid)
}

/// Refuses if another program has the database at its path in the target open.
fn check_not_open(path: &Path, folder: &OwnedFd, database: &str) -> Result<()> {
    let (parents, name) = split(database);
    match super::beneath::folder_at(folder, parents, &path.join(database)) {
        Ok(Some(folder)) => in_use::check(&folder, name, &path.join(database)),
        // What stands in the way there is told by those who look at the whole way.
        Ok(None) | Err(_) => Ok(()),
    }
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

fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("cannot restore into {}: {why}", path.display()))
}

#[cfg(test)]
mod tests;
