//! Taking the steps of a restore back, in reverse, in the run in which one failed or in a later one.
//!
//! What was put in place and has been written to since is somebody's work: it stays, and what was there before
//! is put beside it. A database that took in its log (`Merge`) and was used since keeps what was written to it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, renameat, statat};
use rustix::io::Errno;

use super::entry::Entry;
use super::folders::{open_folder_at, rename_to_free, sync_below, typed_names};
use super::journal::Journal;
use super::moves::Grounds;
use super::old_database::MERGED_NAME;
use super::steps::{Action, Step};
use crate::Result;
use crate::archive::profile::SIDECARS;
use crate::error::lift::file_error;

/// What became of an undo.
#[derive(Debug, Default)]
pub struct Undone {
    /// What could not be put back, and lies in the staging still.
    pub problems: Vec<String>,
    /// What the user should know beside.
    pub remarks: Vec<String>,
}

/// Puts everything back. The journal stays until the caller removes it.
pub fn undo(grounds: &Grounds, journal: &Journal) -> Undone {
    let mut undone = Undone::default();
    tracing::info!(
        target: "packvault::restore",
        steps = journal.steps.len(),
        "what was put in place is taken back"
    );
    if let Err(error) = Journal::begin_undo(&grounds.staging, &grounds.staging_path) {
        // Only a restore that was killed right here would be finished and not undone.
        undone.remarks.push(error.chain());
    }
    let mut undoing = Undoing { grounds, journal, settled: BTreeSet::new(), remarks: Vec::new() };
    for (number, step) in journal.steps.iter().enumerate().rev() {
        let (path, action) = (&step.path, step.action);
        tracing::debug!(target: "packvault::restore", number, path, ?action, "a step is taken back");
        if let Err(error) = undoing.step(number, step) {
            undone.problems.push(error.chain());
            if let Some(database) = journal.database_of(step) {
                // Its log must not meet another database than its own.
                undoing.settled.insert(database);
            }
        }
    }
    undone.remarks.append(&mut undoing.remarks);
    if let Err(error) = sync_below(grounds.target.root(), &grounds.path) {
        undone.problems.push(error.chain());
    }
    undone
}

struct Undoing<'a> {
    grounds: &'a Grounds,
    journal: &'a Journal,
    /// Databases of which nothing more is moved.
    settled: BTreeSet<&'a str>,
    remarks: Vec<String>,
}

impl<'a> Undoing<'a> {
    fn step(&mut self, number: usize, step: &'a Step) -> Result<()> {
        let database = self.journal.database_of(step);
        if database.is_some_and(|database| self.settled.contains(database)) {
            return Ok(());
        }
        match step.action {
            Action::Place => self.place(step, database),
            Action::Replace => self.replace(number, step, database),
            Action::SetAside => self.set_aside(number, step, database),
            Action::Merge => self.merge(number, step),
        }
    }

    fn place(&mut self, step: &'a Step, database: Option<&'a str>) -> Result<()> {
        let grounds = self.grounds;
        let shown = grounds.path.join(&step.path);
        let (staged, name) = grounds.staged(&step.path)?;
        if Entry::find(&staged, name, &shown)?.is_some() {
            return Ok(());
        }
        let (folder, name) = grounds.place(&step.path)?;
        let Some(found) = Entry::find(&folder, name, &shown)? else { return Ok(()) };
        let untouched = match step.placed {
            Some(placed) => found.is_file() && found.seen == placed && !self.has_new_log(step, database)?,
            None => found.is_folder() && self.is_untouched_folder(&folder, name, &shown)?,
        };
        if !untouched {
            self.settled.extend(database);
            self.remarks.push(format!("{} was changed since it was restored, and stays", shown.display()));
            return Ok(());
        }
        rename_to_free((&folder, name), (&staged, name))
            .map_err(|errno| file_error("take back", &shown, errno))
    }

    /// Tells whether nothing below a folder was written to since the journal was.
    fn is_untouched_folder(&self, folder: &OwnedFd, name: &str, shown: &Path) -> Result<bool> {
        let grounds = self.grounds;
        let journal = Journal::stat(&grounds.staging, &grounds.staging_path)?;
        let written = (journal.st_ctime, journal.st_ctime_nsec);
        let root = open_folder_at(folder, name, shown)?;
        let mut folders = vec![String::new()];
        while let Some(relative) = folders.pop() {
            let below = open_folder_at(&root, &relative, shown)?;
            for (name, kind) in typed_names(&below, shown)? {
                let found = statat(&below, &*name, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| file_error("stat", &shown.join(&relative).join(&name), errno))?;
                if (found.st_ctime, found.st_ctime_nsec) > written {
                    return Ok(false);
                }
                if kind == FileType::Directory {
                    folders.push(super::folders::join(&relative, &name));
                }
            }
        }
        Ok(true)
    }

    fn replace(&mut self, number: usize, step: &'a Step, database: Option<&'a str>) -> Result<()> {
        let grounds = self.grounds;
        let shown = grounds.path.join(&step.path);
        let kept = number.to_string();
        if Entry::find(&grounds.old, &kept, &shown)?.is_none() {
            return Ok(());
        }
        let (staged, name) = grounds.staged(&step.path)?;
        let is_placed = Entry::find(&staged, name, &shown)?.is_none();
        let (folder, name) = grounds.place(&step.path)?;
        let found = Entry::find(&folder, name, &shown)?;
        match &found {
            None => {}
            Some(_) if !is_placed => return Ok(()),
            Some(found) if Some(found.seen) != step.placed || self.has_new_log(step, database)? => {
                return self.put_beside(&kept, step, database);
            }
            Some(_) => {}
        }
        renameat(&grounds.old, &*kept, &folder, name).map_err(|errno| file_error("put back", &shown, errno))
    }

    /// Puts what was there beside what came there and was used since.
    fn put_beside(&mut self, kept: &str, step: &'a Step, database: Option<&'a str>) -> Result<()> {
        let grounds = self.grounds;
        let shown = grounds.path.join(&step.path);
        let (folder, name) = grounds.place(&step.path)?;
        let beside = format!("{name}.before-restore-{}", grounds.ulid);
        rename_to_free((&grounds.old, kept), (&folder, &beside))
            .map_err(|errno| file_error("put back", &shown, errno))?;
        self.settled.extend(database);
        self.remarks.push(format!(
            "{} was changed since it was restored, and stays; what was there before lies beside it as {beside}",
            shown.display()
        ));
        Ok(())
    }

    fn set_aside(&mut self, number: usize, step: &'a Step, database: Option<&'a str>) -> Result<()> {
        let grounds = self.grounds;
        let shown = grounds.path.join(&step.path);
        if let Some(database) = database
            && self.was_merged_and_used(database)?
        {
            self.settled.insert(database);
            self.remarks.push(format!(
                "{} was written to since the restore was stopped, and stays; it holds all that was in it before",
                grounds.path.join(database).display()
            ));
            return Ok(());
        }
        let kept = number.to_string();
        if Entry::find(&grounds.old, &kept, &shown)?.is_none() {
            return Ok(());
        }
        let (folder, name) = grounds.place(&step.path)?;
        match rename_to_free((&grounds.old, &kept), (&folder, name)) {
            Ok(()) => Ok(()),
            // An index of a log is made anew by whoever needs it.
            Err(Errno::EXIST) if name.ends_with("-shm") => Ok(()),
            Err(Errno::EXIST) => self.put_beside(&kept, step, None),
            Err(errno) => Err(file_error("put back", &shown, errno)),
        }
    }

    fn merge(&mut self, number: usize, step: &'a Step) -> Result<()> {
        let grounds = self.grounds;
        let shown = grounds.path.join(&step.path);
        if step.placed.is_none() || self.was_merged_and_used(&step.path)? {
            return Ok(());
        }
        let copy = grounds.copy_of(number)?;
        let is_placed = match copy {
            Some(copy) => Entry::find(&copy, MERGED_NAME, &shown)?.is_none(),
            None => true,
        };
        let kept = number.to_string();
        if !is_placed || Entry::find(&grounds.old, &kept, &shown)?.is_none() {
            return Ok(());
        }
        let (folder, name) = grounds.place(&step.path)?;
        renameat(&grounds.old, &*kept, &folder, name).map_err(|errno| file_error("put back", &shown, errno))
    }

    /// Tells whether the old database took in its log, and somebody has used it since.
    fn was_merged_and_used(&self, database: &str) -> Result<bool> {
        let grounds = self.grounds;
        let shown = grounds.path.join(database);
        let mut steps = self.journal.steps.iter().enumerate();
        let merge = steps.find(|(_, step)| step.action == Action::Merge && step.path == database);
        let Some((number, Step { placed: Some(placed), .. })) = merge else { return Ok(false) };
        if let Some(copy) = grounds.copy_of(number)?
            && Entry::find(&copy, MERGED_NAME, &shown)?.is_some()
        {
            return Ok(false);
        }
        let (folder, name) = grounds.place(database)?;
        let found = Entry::find(&folder, name, &shown)?;
        if Entry::find(&grounds.old, &number.to_string(), &shown)?.is_none() {
            // Put back already.
            return Ok(false);
        }
        if found.is_none_or(|found| found.seen != *placed) {
            return Ok(true);
        }
        // A log that is another than the one that was there is the work of whoever opened it.
        for step in self.journal.steps.iter().filter(|step| step.action == Action::SetAside) {
            if self.journal.database_of(step) != Some(database) || step.path.ends_with("-shm") {
                continue;
            }
            let (folder, name) = grounds.place(&step.path)?;
            let found = Entry::find(&folder, name, &shown)?.map(|found| found.seen);
            if found.is_some_and(|found| found.bytes > 0 && Some(found) != step.was) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells whether a database that was put in place has got a log since: none was beside it then.
    fn has_new_log(&self, step: &Step, database: Option<&str>) -> Result<bool> {
        if database.is_none() {
            return Ok(false);
        }
        for sidecar in SIDECARS.iter().filter(|sidecar| **sidecar != "-shm") {
            let path = format!("{}{sidecar}", step.path);
            let shown = self.grounds.path.join(&path);
            let (folder, name) = self.grounds.place(&path)?;
            if Entry::find(&folder, name, &shown)?.is_some_and(|found| found.seen.bytes > 0) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Journal {
    /// Returns the database that a step belongs to.
    fn database_of<'a>(&'a self, step: &'a Step) -> Option<&'a str> {
        let path = step.path.as_str();
        let databases = || self.databases.iter().map(String::as_str);
        match step.action {
            Action::Merge => Some(path),
            Action::SetAside => SIDECARS.iter().find_map(|sidecar| path.strip_suffix(sidecar)),
            Action::Replace | Action::Place => databases().find(|database| *database == path),
        }
    }
}
