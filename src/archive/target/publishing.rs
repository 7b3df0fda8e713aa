//! What was staged is put in place, or given up.
//!
//! Putting in place is all or nothing: a step that fails has what was done put back. What could not be put back stays
//! in the staging, which the next restore into the folder settles. That holds for a part without the database too: then
//! the last step decides whether all is in place.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::{AtFlags, fstat, unlinkat};
use rustix::io::Errno;

use super::folders::{self, remove_if_there, remove_tree, split, sync_below, sync_folder};
use super::in_use::{self, Held};
use super::journal::{self, Journal};
use super::opening::remove_made;
use super::steps::{self, Plan};
use super::{Target, leftovers, refused, undo};
use crate::archive::beneath::open_folder;
use crate::archive::profile::SIDECARS;
use crate::error::lift::file_error;
use crate::{Error, ErrorKind, Result};

/// How often it is tried to remove the staging of a restore that is given up.
const REMOVALS_MAX: usize = 3;

impl Target {
    /// Checks that everything staged can be put in place: rights, mount points, folders where a file comes or the
    /// other way round, links on the way, and databases that are open elsewhere.
    pub fn check_merge(&self) -> Result<()> {
        let plan = self.plan()?;
        if self.force {
            return Ok(());
        }
        self.each_database(&plan, in_use::check)
    }

    /// Puts everything in place, the database last, and makes it durable. The staging must have been
    /// synced and checked before. On failure what was there is put back. Returns what the user should know.
    pub fn publish(&self) -> Result<Vec<String>> {
        self.remove_staged_sidecars()?;
        let mut plan = self.plan()?;
        let mut held = Held::default();
        if !self.force {
            self.each_database(&plan, |folder, name, shown| {
                in_use::check(folder, name, shown)?;
                held.hold(folder, name, shown)
            })?;
        }
        let reached = self.real_path.join(&self.staging_name);
        let mut remarks = self.grounds.prepare(&mut plan, &reached)?;
        sync_below(&self.grounds.staging, &self.path)?;
        let journal = Journal::new(plan);
        let done = journal
            .write(&self.grounds.staging, &self.grounds.staging_path)
            .and_then(|()| self.grounds.take_all(&journal))
            .and_then(|()| self.check_still_there())
            .and_then(|()| sync_below(&self.folder, &self.path))
            .and_then(|()| self.sync_ancestors());
        if let Err(error) = done {
            return Err(self.put_back(&journal, error));
        }
        tracing::info!(target: "packvault::restore", path = %self.path.display(), "all is in place");
        drop(held);
        if let Err(error) = self.clean_up() {
            remarks
                .push(format!("all is restored, but what it replaced is not removed yet: {}", error.chain()));
        }
        Ok(remarks)
    }

    /// Removes what SQLite left beside the staged database when it was proved.
    fn remove_staged_sidecars(&self) -> Result<()> {
        let Some(database) = self.staged_name() else { return Ok(()) };
        let (parents, name) = split(database);
        let staged = self.grounds.fresh.get(parents, &self.path)?;
        SIDECARS
            .iter()
            .try_for_each(|sidecar| remove_if_there(&staged, &format!("{name}{sidecar}"), &self.path))
    }

    /// Returns the path of the database if it is among what is restored.
    fn staged_name(&self) -> Option<&str> {
        (!self.without_database).then_some(self.database_name.as_str())
    }

    pub(super) fn plan(&self) -> Result<Plan> {
        self.check_still_there()?;
        steps::plan(&self.grounds.fresh, &self.grounds.target, &self.path, self.staged_name())
    }

    fn each_database(
        &self,
        plan: &Plan,
        mut visit: impl FnMut(&OwnedFd, &str, &Path) -> Result<()>,
    ) -> Result<()> {
        for database in &plan.databases {
            let (folder, name) = self.grounds.place(database)?;
            visit(&folder, name, &self.path.join(database))?;
        }
        Ok(())
    }

    /// Undoes what was done, and adds to the error what could not be.
    pub(super) fn put_back(&self, journal: &Journal, error: Error) -> Error {
        self.release();
        let undone = undo::undo(&self.grounds, journal);
        let Some(first) = undone.problems.first() else { return error };
        self.holds_the_old.store(true, Ordering::Relaxed);
        let message = format!(
            "cannot restore into {}, and cannot put back all that was there: {first}; it lies in {}, and the next \
             restore into this folder puts it back",
            self.path.display(),
            self.grounds.staging_path.join(journal::OLD).display()
        );
        Error::caused(error.kind(), message, error)
    }

    fn clean_up(&self) -> Result<()> {
        self.release();
        self.grounds.target.release();
        Journal::remove(&self.grounds.staging, &self.grounds.staging_path)?;
        remove_tree(&self.folder, &self.staging_name, &self.grounds.staging_path)?;
        match self.staged_name() {
            Some(database) => leftovers::remove_temporary_databases(&self.path, &self.folder, database),
            None => Ok(()),
        }
    }

    /// Removes the staging and the folders made for it. What lay in the target is as it was. Returns what is left
    /// behind all the same, for the user to know.
    ///
    /// The caller has seen to it that nobody stages a file any more.
    pub fn discard(&self) -> Option<String> {
        self.release();
        if self.holds_the_old.load(Ordering::Relaxed) {
            return None;
        }
        self.grounds.target.release();
        let remove = || {
            Journal::remove(&self.grounds.staging, &self.grounds.staging_path)?;
            // By its handle: the name may have come to mean another folder.
            folders::remove_below(&self.grounds.staging);
            match unlinkat(&self.folder, &*self.staging_name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(file_error("remove", &self.grounds.staging_path, errno)),
            }
        };
        // What failed once may pass; what is on a disk in plain text should not stay there.
        let removed = (1..REMOVALS_MAX).fold(remove(), |removed, _| removed.or_else(|_| remove()));
        remove_made(&self.made);
        removed.err().map(|error| {
            let staging = self.grounds.staging_path.display();
            format!(
                "part of what was restored is still in {staging}, which the next restore removes: {}",
                error.chain()
            )
        })
    }

    /// Lets go of every descriptor that is held for speed or for this moment.
    fn release(&self) {
        self.spare.lock().expect("no holder of the spare descriptors panics").clear();
        self.grounds.fresh.release();
    }

    /// The path must still name the folder that is held.
    fn check_still_there(&self) -> Result<()> {
        let held = fstat(&self.folder).map_err(|errno| file_error("stat", &self.path, errno))?;
        let why = match rustix::fs::lstat(&self.path) {
            Ok(named) if (held.st_dev, held.st_ino) == (named.st_dev, named.st_ino) => return Ok(()),
            Ok(_) => "it was replaced by another folder while it was restored into",
            Err(Errno::NOENT | Errno::NOTDIR) => {
                "it was removed, renamed or unmounted while it was restored into"
            }
            Err(errno) => return Err(file_error("stat", &self.path, errno)),
        };
        Err(refused(&self.path, why))
    }

    /// Returns what is to be said of an error that ended a restore: where the target is gone, by whose path SQLite
    /// reaches what is staged, whatever failed says nothing of the snapshot.
    pub fn blamed(&self, error: Error) -> Error {
        match self.check_still_there() {
            Err(gone) if error.kind() != ErrorKind::Interrupted => {
                Error::caused(gone.kind(), gone.to_string(), error)
            }
            _ => error,
        }
    }

    /// Makes the entries of the folders that were made durable in their parents.
    fn sync_ancestors(&self) -> Result<()> {
        for made in &self.made {
            let parent = made.parent().unwrap_or(Path::new("/"));
            sync_folder(&open_folder(parent)?, parent)?;
        }
        Ok(())
    }
}
