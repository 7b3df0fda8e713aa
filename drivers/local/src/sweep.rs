//! The sweep of `staging/`: what is older than an age goes, and nothing outside is ever reached.
//!
//! The folder is looked at, opened, and proved by device and inode to be what was looked at; everything
//! below is removed relative to open folders, and a link is removed as a link. An entry's age is judged by
//! the clock of the file system. A folder goes only if all in it was old enough, and it was itself.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::time::{Duration, SystemTime};

use packvault_storage::{ErrorKind, Operation, Result, Step, SweepReport};
use rustix::fs::{AtFlags, Dir, FileType, Stat};
use rustix::io::Errno;

use crate::change::meta_of;
use crate::client::{Client, is_same_file, open_folder_at};
use crate::error::SystemErrors;
use crate::staging::{FOLDER, StagingFile};

/// How deep folders in `staging/` may lie in each other.
const DEPTH_MAX: u32 = 64;

/// Returns the file system's clock: the time of a file made now.
pub(crate) fn now(client: &Client) -> Result<SystemTime> {
    let step = Step::new(Operation::Now, client.location());
    let clock = StagingFile::begin_scratch(client, step, "clock")?;
    let stat = rustix::fs::fstat(clock.file()).map_err(|errno| step.failed("look at a new file", errno))?;
    clock.remove(step)?;
    Ok(meta_of(&stat).modified)
}

/// Removes what lies in `staging/` and is at least as old as the age.
pub(crate) fn sweep(client: &Client, older_than: Duration) -> Result<SweepReport> {
    let step = Step::new(Operation::Sweep, FOLDER);
    client.make_folder(step, FOLDER)?;
    let sweep = Sweep { step, now: now(client)?, older_than };
    let staging = open_proved(client, step)?;
    let (removed, _) = sweep.empty(&staging, FOLDER, 0)?;
    Ok(SweepReport { removed })
}

/// Opens the scratch folder and proves that it is the folder that was looked at.
fn open_proved(client: &Client, step: Step<'_>) -> Result<File> {
    let root = client.open_root(step)?;
    let seen = rustix::fs::statat(&root, FOLDER, AtFlags::SYMLINK_NOFOLLOW);
    let seen = seen.map_err(|errno| step.failed("look at it", errno))?;
    let opened = open_folder_at(&root, FOLDER).map_err(|errno| step.failed("open it", errno))?;
    let found = rustix::fs::fstat(&opened).map_err(|errno| step.failed("look at it", errno))?;
    match is_same_file(&seen, &found) {
        true => Ok(opened),
        false => Err(step.refused(FOLDER, "another folder than a moment ago")),
    }
}

struct Sweep<'a> {
    step: Step<'a>,
    now: SystemTime,
    older_than: Duration,
}

impl Sweep<'_> {
    /// Removes the old entries of the folder; returns how many went and how many stay.
    fn empty(&self, folder: &File, path: &str, depth: u32) -> Result<(u64, u64)> {
        if depth > DEPTH_MAX {
            return Err(self.step.error(ErrorKind::Io, format!("the folders below {path} are too deep")));
        }
        let (mut removed, mut kept) = (0, 0);
        // The names come first: removing entries while reading a folder may skip some.
        for name in names(self.step, folder, path)? {
            match self.remove_if_old(folder, path, &name, depth)? {
                true => removed += 1,
                false => kept += 1,
            }
        }
        Ok((removed, kept))
    }

    fn remove_if_old(&self, folder: &File, path: &str, name: &CStr, depth: u32) -> Result<bool> {
        let path = format!("{path}/{}", name.to_string_lossy());
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(self.step.failed(format!("look at {path}"), errno)),
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode).is_dir();
        let mut flags = AtFlags::empty();
        if is_folder {
            flags = AtFlags::REMOVEDIR;
            if !self.empty_folder(folder, &path, name, depth)? {
                return Ok(false);
            }
        }
        if !self.is_old(&stat) {
            return Ok(false);
        }
        match rustix::fs::unlinkat(folder, name, flags) {
            Ok(()) => Ok(true),
            // Gone already, or somebody put something into the folder: it is in use.
            Err(Errno::NOENT | Errno::NOTEMPTY) => Ok(false),
            Err(errno) => Err(self.step.failed(format!("remove {path}"), errno)),
        }
    }

    fn empty_folder(&self, parent: &File, path: &str, name: &CStr, depth: u32) -> Result<bool> {
        match open_folder_at(parent, name) {
            Ok(folder) => Ok(self.empty(&folder, path, depth + 1)?.1 == 0),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(self.step.failed(format!("open the folder {path}"), errno)),
        }
    }

    /// A time in the future is young; an age of zero takes everything.
    fn is_old(&self, stat: &Stat) -> bool {
        self.now.duration_since(meta_of(stat).modified).unwrap_or_default() >= self.older_than
    }
}

fn names(step: Step<'_>, folder: &File, path: &str) -> Result<Vec<CString>> {
    let failed = |errno| step.failed(format!("read the folder {path}"), errno);
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !is_self_or_parent(entry.file_name()) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Tells whether the entry is `.` or `..`.
pub(crate) fn is_self_or_parent(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}
