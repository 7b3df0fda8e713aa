//! Putting in place: each step of the plan, prepared before the journal and taken after it.
//!
//! # What an application may find
//!
//! At every instant, a program that opens the database finds the old one with its log, or the new one without a log.
//! The old database, its log and the new database are three files, and no system renames three files in one step. So
//! the old database and its log are made one file first:
//!
//! 1. Its copy with all that its log holds takes its place (`Merge`). The log beside it now holds nothing but
//!    pages that the copy has already: played back or not, the content is the same.
//! 2. The log is moved away (`SetAside`). The copy is whole without it.
//! 3. The new database takes the place of the copy. This one rename is the commit: what had been killed before
//!    it is undone by the next command, what is killed after it is finished.
//!
//! A database without a log needs no copy. One that SQLite cannot read has no state that could be kept; its
//! files are kept all the same until the commit.
//!
//! # What is kept
//!
//! Each file that is replaced has a second name in the staging before the first step: a hard link, or where
//! there are none a copy if it is a database, and else a rename. Names are changed in held folders, so a folder
//! that becomes a link meanwhile leads nowhere; that it did is seen before the commit and again after it.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, linkat, mkdirat, renameat};
use rustix::io::Errno;

use super::entry::Entry;
use super::folders::{HeldFolders, is_same, open_folder_at, rename_to_free, split, sync_below, sync_folder};
use super::journal::{Journal, MERGED, NEW, OLD};
use super::old_database::{MERGED_NAME, Merged, copy_into, make_alike, merge, open};
use super::refused;
use super::steps::{Action, Plan, Step};
use crate::archive::beneath::folder_at;
use crate::error::lift::file_error;
use crate::{Error, ErrorKind, Result};

/// The folders between which a restore moves things.
#[derive(Debug)]
pub struct Grounds {
    /// The target's path, for messages.
    pub path: PathBuf,
    /// The target's folders.
    pub target: HeldFolders,
    /// The staging folder, and its path.
    pub staging: Arc<OwnedFd>,
    /// Its path, for messages.
    pub staging_path: PathBuf,
    /// The folders of what is staged.
    pub fresh: HeldFolders,
    /// Where what is replaced is kept.
    pub old: OwnedFd,
    /// The copies of old databases with their logs.
    pub merged: OwnedFd,
    /// What makes names of this restore its own.
    pub ulid: String,
}

impl Grounds {
    /// Makes the folders of a restore in its empty staging folder.
    pub fn make(path: &Path, target: Arc<OwnedFd>, staging: OwnedFd, name: &str, ulid: &str) -> Result<Self> {
        let staging_path = path.join(name);
        for folder in [NEW, OLD, MERGED] {
            mkdirat(&staging, folder, Mode::RWXU)
                .map_err(|errno| file_error("make", &staging_path.join(folder), errno))?;
        }
        Self::open(path, target, staging, name, ulid)
    }

    /// Opens the folders of a restore.
    pub fn open(path: &Path, target: Arc<OwnedFd>, staging: OwnedFd, name: &str, ulid: &str) -> Result<Self> {
        let staging_path = path.join(name);
        let open = |name: &str| open_folder_at(&staging, name, &staging_path.join(name));
        let (fresh, old, merged) = (open(NEW)?, open(OLD)?, open(MERGED)?);
        Ok(Self {
            path: path.to_owned(),
            target: HeldFolders::new(target),
            staging: Arc::new(staging),
            staging_path,
            fresh: HeldFolders::new(Arc::new(fresh)),
            old,
            merged,
            ulid: ulid.to_owned(),
        })
    }

    /// Opens the folder of the target that a path lies in; returns the name there as well.
    pub fn place<'a>(&self, path: &'a str) -> Result<(Arc<OwnedFd>, &'a str)> {
        let (parents, name) = split(path);
        Ok((self.target.get(parents, &self.path.join(path))?, name))
    }

    /// Opens the folder of the staging that a path lies in; returns the name there as well.
    pub fn staged<'a>(&self, path: &'a str) -> Result<(Arc<OwnedFd>, &'a str)> {
        let (parents, name) = split(path);
        Ok((self.fresh.get(parents, &self.path.join(path))?, name))
    }

    /// Opens the folder of the copy that a step puts in place, if it was made.
    pub fn copy_of(&self, step: usize) -> Result<Option<OwnedFd>> {
        folder_at(&self.merged, &step.to_string(), &self.staging_path)
    }

    /// Gives everything that will be replaced a second name, and makes copies of databases with their logs.
    /// Changes nothing that anybody would see. `reached` is the path of the staging without links.
    pub fn prepare(&self, plan: &mut Plan, reached: &Path) -> Result<Vec<String>> {
        let mut remarks = Vec::new();
        let mut copied = None;
        for number in 0..plan.steps.len() {
            let step = plan.steps[number].clone();
            let shown = self.path.join(&step.path);
            let (folder, name) = self.place(&step.path)?;
            match step.action {
                Action::Merge => {
                    let made = self.merge(number, &step, reached)?;
                    copied = None;
                    match made {
                        Merged::NoLog => {}
                        Merged::Unreadable(why) => remarks.push(format!(
                            "the database that was at {} had a log, and SQLite cannot read it: {why}",
                            shown.display()
                        )),
                        Merged::Made => {
                            let copy = self.copy_of(number)?;
                            let copy = copy.ok_or_else(|| vanished(&shown))?;
                            let entry = Entry::find(&copy, MERGED_NAME, &shown)?;
                            let seen = entry.map(|entry| entry.seen);
                            plan.steps[number].placed = seen;
                            self.keep(number, (&folder, name), &shown, true)?;
                            copied = Some((step.path.clone(), copy, seen));
                        }
                    }
                }
                Action::Replace => match &copied {
                    Some((of, copy, seen)) if *of == step.path => {
                        // By then the copy has taken the place of the old one.
                        plan.steps[number].was = *seen;
                        self.keep(number, (copy, MERGED_NAME), &shown, true)?;
                    }
                    _ => self.keep(number, (&folder, name), &shown, plan.databases.contains(&step.path))?,
                },
                Action::Place | Action::SetAside => {}
            }
        }
        Ok(remarks)
    }

    fn merge(&self, number: usize, step: &Step, reached: &Path) -> Result<Merged> {
        let shown = self.path.join(&step.path);
        let (folder, name) = self.place(&step.path)?;
        let own = number.to_string();
        mkdirat(&self.merged, &*own, Mode::RWXU).map_err(|errno| file_error("make", &shown, errno))?;
        let into = open_folder_at(&self.merged, &own, &shown)?;
        merge(&folder, name, &shown, (&into, &reached.join(MERGED).join(&own)))
    }

    /// Gives a file a second name, by which it is found again.
    fn keep(&self, number: usize, (folder, name): (&OwnedFd, &str), shown: &Path, copy: bool) -> Result<()> {
        let kept = number.to_string();
        match linkat(folder, name, &self.old, &*kept, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(errno) if is_no_link(errno) => {
                if !copy {
                    // It is moved there when its turn comes.
                    return Ok(());
                }
                let Some((file, _)) = open(folder, name, shown)? else { return Ok(()) };
                let copied = copy_into(&self.old, &kept, &file, shown)?;
                make_alike(&copied, &file, shown)
            }
            Err(errno) => Err(file_error("keep", shown, errno)),
        }
    }

    /// Takes every step. What has been done when one fails is for the caller to undo.
    pub fn take_all(&self, journal: &Journal) -> Result<()> {
        let first_of_databases = journal.first_of_databases();
        for (number, step) in journal.steps.iter().enumerate() {
            if number == first_of_databases {
                // If the new database is there after a power cut, its files must be there too.
                self.check_folders(&journal.steps)?;
                sync_below(self.target.root(), &self.path)?;
            }
            if number == journal.commit {
                self.check_folder(split(&step.path).0)?;
            }
            let moved = self.take(number, step)?;
            let (path, action) = (&step.path, step.action);
            tracing::debug!(target: "packvault::restore", number, path, ?action, moved, "a step is taken");
            if moved && number >= first_of_databases {
                let (folder, _) = self.place(&step.path)?;
                sync_folder(&folder, &self.path.join(&step.path))?;
            }
        }
        self.check_folder(split(&journal.steps[journal.commit].path).0)
    }

    /// Takes one step; tells whether anything was moved.
    pub fn take(&self, number: usize, step: &Step) -> Result<bool> {
        let shown = self.path.join(&step.path);
        let (folder, name) = self.place(&step.path)?;
        let failed = |errno| file_error("put in place", &shown, errno);
        let kept = number.to_string();
        match step.action {
            Action::Place => {
                let (staged, _) = self.staged(&step.path)?;
                rename_to_free((&staged, name), (&folder, name)).map_err(failed)?;
            }
            Action::Replace => {
                let (staged, _) = self.staged(&step.path)?;
                if Entry::find(&self.old, &kept, &shown)?.is_none() {
                    renameat(&folder, name, &self.old, &*kept)
                        .map_err(|errno| file_error("set aside", &shown, errno))?;
                } else {
                    self.check_unchanged(step, (&folder, name), &shown)?;
                }
                renameat(&staged, name, &folder, name).map_err(failed)?;
            }
            Action::Merge if step.placed.is_none() => return Ok(false),
            Action::Merge => {
                self.check_unchanged(step, (&folder, name), &shown)?;
                let copy = self.copy_of(number)?.ok_or_else(|| vanished(&shown))?;
                renameat(&copy, MERGED_NAME, &folder, name).map_err(failed)?;
            }
            // Whether one was there or not when it was planned: none may meet the new database.
            Action::SetAside => match renameat(&folder, name, &self.old, &*kept) {
                Ok(()) => {}
                Err(Errno::NOENT) => return Ok(false),
                Err(errno) => return Err(file_error("set aside", &shown, errno)),
            },
        }
        Ok(true)
    }

    /// What is about to be replaced must still be what was kept.
    fn check_unchanged(&self, step: &Step, (folder, name): (&OwnedFd, &str), shown: &Path) -> Result<()> {
        if Entry::find(folder, name, shown)?.map(|found| found.seen) == step.was {
            return Ok(());
        }
        Err(refused(shown, "it changed while it was restored over: stop what writes to it"))
    }

    /// The folders that were changed must still be what their paths lead to.
    fn check_folders(&self, steps: &[Step]) -> Result<()> {
        let folders: BTreeSet<&str> = steps.iter().map(|step| split(&step.path).0).collect();
        folders.into_iter().try_for_each(|folder| self.check_folder(folder))
    }

    fn check_folder(&self, relative: &str) -> Result<()> {
        let shown = self.path.join(relative);
        let held = self.target.get(relative, &shown)?;
        let why = "it was replaced by another folder while it was restored into";
        let named = folder_at(self.target.root().as_ref(), relative, &shown).map_err(|error| match error
            .kind()
        {
            ErrorKind::Source => Error::caused(ErrorKind::Refused, refused(&shown, why).to_string(), error),
            _ => error,
        })?;
        if named.is_some_and(|named| is_same(&named, &held)) { Ok(()) } else { Err(refused(&shown, why)) }
    }
}

impl Journal {
    /// Returns the first step that belongs to a database.
    fn first_of_databases(&self) -> usize {
        let of_database = |step: &Step| matches!(step.action, Action::Merge | Action::SetAside);
        self.steps.iter().position(of_database).unwrap_or(self.commit)
    }
}

/// Tells whether a file system, or the rights on a file, allow no second name.
fn is_no_link(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM
            | Errno::ACCESS
            | Errno::NOTSUP
            | Errno::NOSYS
            | Errno::MLINK
            | Errno::INVAL
            | Errno::XDEV
    )
}

fn vanished(shown: &Path) -> Error {
    Error::new(ErrorKind::Io, format!("what was staged for {} vanished", shown.display()))
}
