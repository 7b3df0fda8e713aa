//! The journal of a restore: which steps were planned, written and durable before the first of them.
//!
//! How far the restore came is not written down: the files show it. A file that is still in `new/` was not put in place
//! yet. A file in `old/` under the number of a step is what that step replaced. So no step needs a second write. A
//! journal gets its name by a rename, so a journal that is there is whole.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, statat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::folders::{remove_if_there, sync_folder};
use super::steps::Step;
use crate::archive::beneath::file_at;
use crate::error::lift::{file_error, io_error};
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// What is staged, below the staging folder.
pub const NEW: &str = "new";
/// What was in the place of it, by the numbers of the steps.
pub const OLD: &str = "old";
/// Old databases with what their logs hold, by the numbers of the steps.
pub const MERGED: &str = "merged";
/// The journal's name in the staging folder.
const JOURNAL: &str = "journal";
/// Its name until it is whole.
const UNFINISHED: &str = "journal.unfinished";
/// The name of an empty file: the steps are being undone, whichever was the last.
const UNDO: &str = "undo";
/// The version that this program writes.
const VERSION: u32 = 1;
/// No journal is longer: ten million files have fewer bytes.
const BYTES_MAX: u64 = 4 << 30;

/// What a killed restore leaves for the next command.
#[derive(Debug, Serialize, Deserialize)]
pub struct Journal {
    /// The version of the journal.
    pub version: u32,
    /// All steps, in their order.
    pub steps: Vec<Step>,
    /// The step after which all is in place.
    pub commit: usize,
    /// The databases that are replaced.
    pub databases: Vec<String>,
}

impl Journal {
    /// Makes the journal of planned steps.
    pub fn new(plan: super::steps::Plan) -> Self {
        Self { version: VERSION, steps: plan.steps, commit: plan.commit, databases: plan.databases }
    }

    /// Writes it and makes it durable.
    pub fn write(&self, staging: &OwnedFd, shown: &Path) -> Result<()> {
        let path = shown.join(JOURNAL);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(staging, UNFINISHED, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| file_error("make", &path, errno))?;
        let mut file = std::io::BufWriter::new(File::from(file));
        let failed = |error: std::io::Error| io_error("write", &path, error);
        serde_json::to_writer(&mut file, self).map_err(|error| failed(error.into()))?;
        file.flush().map_err(failed)?;
        file.get_ref().sync_all().map_err(|error| io_error("sync", &path, error))?;
        renameat(staging, UNFINISHED, staging, JOURNAL)
            .map_err(|errno| file_error("put in place", &path, errno))?;
        rustix::fs::fsync(staging).map_err(|errno| file_error("sync", shown, errno))?;
        let steps = self.steps.len();
        tracing::info!(target: "packvault::restore", steps, commit = self.commit, "the journal is written");
        Ok(())
    }

    /// Reads the journal in a staging folder; `None` if no step was taken.
    pub fn read(staging: &OwnedFd, shown: &Path) -> Result<Option<Self>> {
        let path = shown.join(JOURNAL);
        let Some((file, _)) = file_at(staging, JOURNAL, &path)? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(BYTES_MAX).read_to_end(&mut text).map_err(|error| io_error("read", &path, error))?;
        let unreadable = |why: String| {
            let message = format!(
                "cannot undo the restore that was stopped in {}: {why}; what it replaced lies in {}",
                shown.display(),
                shown.join(OLD).display()
            );
            Error::new(ErrorKind::Refused, message)
        };
        let journal: Self =
            serde_json::from_slice(&text).map_err(|error| unreadable(format!("its journal: {error}")))?;
        if journal.version != VERSION {
            return Err(unreadable("another version of packvault wrote its journal".to_owned()));
        }
        let is_safe = |path: &String| paths::clean(path).is_ok_and(|clean| clean == *path);
        let paths = journal.steps.iter().map(|step| &step.path).chain(&journal.databases);
        if journal.commit >= journal.steps.len() || !paths.into_iter().all(is_safe) {
            return Err(unreadable("its journal contradicts itself".to_owned()));
        }
        Ok(Some(journal))
    }

    /// Looks at the journal's file: what is younger than it came after the first step.
    pub fn stat(staging: &OwnedFd, shown: &Path) -> Result<rustix::fs::Stat> {
        statat(staging, JOURNAL, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| file_error("stat", &shown.join(JOURNAL), errno))
    }

    /// Tells whether there is one.
    pub fn is_there(staging: &OwnedFd) -> bool {
        !matches!(statat(staging, JOURNAL, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
    }

    /// Removes it: from here on what lies beside it is of no use to anybody.
    pub fn remove(staging: &OwnedFd, shown: &Path) -> Result<()> {
        if Self::is_there(staging) { remove_if_there(staging, JOURNAL, shown) } else { Ok(()) }
    }

    /// Notes that the steps are being undone, so that a restore that is killed meanwhile is not finished.
    pub fn begin_undo(staging: &OwnedFd, shown: &Path) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(staging, UNDO, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| file_error("make", &shown.join(UNDO), errno))?;
        sync_folder(staging, shown)
    }

    /// Tells whether the steps were being undone.
    pub fn is_being_undone(staging: &OwnedFd) -> bool {
        !matches!(statat(staging, UNDO, AtFlags::SYMLINK_NOFOLLOW), Err(Errno::NOENT))
    }
}
