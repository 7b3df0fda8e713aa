//! The steps by which what is staged comes into place, planned and checked before the first is taken.
//!
//! A folder that the target lacks moves whole, everything else file by file; the database comes last. Of a part without
//! it, any file may. Any database, that of the application and those among its files, moves in the order that is argued for in
//! `publish.rs`.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Seen};
use super::folders::{HeldFolders, join, typed_names};
use super::obstacles::{self, FOLDER_IN_THE_WAY};
use super::refused;
use crate::archive::profile::SIDECARS;
use crate::error::lift::file_error;
use crate::{Error, ErrorKind, Result};

/// How every SQLite database begins.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// The length of every SQLite database is a multiple of this.
const PAGE_BYTES_MIN: u64 = 512;

/// One rename, or two.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Where in the target.
    pub path: String,
    /// What is done there.
    pub action: Action,
    /// How what is put there looked when it was put there; nothing for a folder, or if nothing is put there.
    pub placed: Option<Seen>,
    /// How what was there looked.
    pub was: Option<Seen>,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// A file, or a folder with all in it, is moved to where nothing is.
    Place,
    /// A file takes the place of another, which was given a second name before.
    Replace,
    /// The old database with all that its log holds takes the place of the old database.
    Merge,
    /// What lies beside the old database is moved away.
    SetAside,
}

/// All steps, in their order.
#[derive(Debug, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// The one that puts the database in place; the last, where there is none.
    pub commit: usize,
    /// The paths at which databases come.
    pub databases: Vec<String>,
}

/// Plans every step, and refuses what could not be done or could not be undone.
pub fn plan(fresh: &HeldFolders, target: &HeldFolders, shown: &Path, database: Option<&str>) -> Result<Plan> {
    let (files, others, last, databases) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut planner = Planner { fresh, target, shown, database, files, others, last, databases };
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        planner.folder(&folder, &mut folders)?;
    }
    let Planner { files, others, last, databases, .. } = planner;
    if let Some(database) = database.filter(|_| last.is_empty()) {
        let message = format!("the staged database {} vanished", shown.join(database).display());
        return Err(Error::new(ErrorKind::Io, message));
    }
    let steps: Vec<Step> = files.into_iter().chain(others).chain(last).collect();
    let commit = steps.len().checked_sub(1);
    let commit = commit.ok_or_else(|| {
        Error::new(ErrorKind::Io, format!("what was staged for {} vanished", shown.display()))
    })?;
    Ok(Plan { commit, steps, databases })
}

struct Planner<'a> {
    fresh: &'a HeldFolders,
    target: &'a HeldFolders,
    shown: &'a Path,
    /// The application's database, if it is among what is staged.
    database: Option<&'a str>,
    files: Vec<Step>,
    /// Databases among the files.
    others: Vec<Step>,
    /// The application's database, or the outermost missing folder that it lies in.
    last: Vec<Step>,
    databases: Vec<String>,
}

impl Planner<'_> {
    fn folder(&mut self, relative: &str, folders: &mut Vec<String>) -> Result<()> {
        let shown = if relative.is_empty() { self.shown.to_owned() } else { self.shown.join(relative) };
        let (staged, there) = (self.fresh.get(relative, &shown)?, self.target.get(relative, &shown)?);
        let of_folder = Entry::of(&there, &shown)?;
        let mut writes = false;
        for (name, kind) in typed_names(&staged, &shown)? {
            let path = join(relative, &name);
            let shown = self.shown.join(&path);
            let found = Entry::find(&there, &name, &shown)?;
            if kind == FileType::Directory {
                match found {
                    Some(found) => {
                        obstacles::check_is_folder(&found, &shown)?;
                        obstacles::check_mount(&of_folder, &found, &shown)?;
                        folders.push(path);
                    }
                    None => {
                        writes = true;
                        let below = self.database.and_then(|database| database.strip_prefix(path.as_str()));
                        let leads_to_database = below.is_some_and(|rest| rest.starts_with('/'));
                        let step = Step { path, action: Action::Place, placed: None, was: None };
                        if leads_to_database { self.last.push(step) } else { self.files.push(step) }
                    }
                }
                continue;
            }
            let Some(new) = Entry::find(&staged, &name, &shown)?.filter(Entry::is_file) else {
                return Err(refused(&shown, "what was staged for it is no longer a plain file"));
            };
            if let Some(found) = &found {
                if found.is_folder() {
                    return Err(refused(&shown, FOLDER_IN_THE_WAY));
                }
                obstacles::check_entry(&of_folder, found, &shown)?;
            }
            writes = true;
            let main = self.database == Some(path.as_str());
            let is_sidecar = self.databases.iter().any(|base| is_sidecar_of(&path, base));
            let is_database = main || is_database(&staged, &name, &new, &shown)?;
            // What lies beside an old database is out of the way when that of the new one comes.
            let action = if found.is_some() && !is_sidecar { Action::Replace } else { Action::Place };
            let was = found.as_ref().map(|found| found.seen);
            let step = Step { path: path.clone(), action, placed: Some(new.seen), was };
            let steps = match (main, is_database || is_sidecar) {
                (true, _) => &mut self.last,
                (false, true) => &mut self.others,
                (false, false) => &mut self.files,
            };
            if is_database {
                plan_log(&there, &of_folder, self.shown, &path, found.as_ref(), steps)?;
                self.databases.push(path);
            }
            steps.push(step);
        }
        if writes { obstacles::check_folder(&there, &of_folder, &shown) } else { Ok(()) }
    }
}

/// Plans what becomes of an old database's log, before the new database comes.
fn plan_log(
    folder: &OwnedFd,
    of_folder: &Entry,
    shown: &Path,
    database: &str,
    found: Option<&Entry>,
    steps: &mut Vec<Step>,
) -> Result<()> {
    if let Some(found) = found {
        let was = Some(found.seen);
        steps.push(Step { path: database.to_owned(), action: Action::Merge, placed: None, was });
    }
    for sidecar in SIDECARS {
        let path = format!("{database}{sidecar}");
        let shown = shown.join(&path);
        let name = path.rsplit('/').next().unwrap_or(&path);
        let found = Entry::find(folder, name, &shown)?;
        if let Some(found) = &found {
            if found.is_folder() {
                return Err(refused(&shown, "it is a folder where the database is restored"));
            }
            obstacles::check_entry(of_folder, found, &shown)?;
        }
        let was = found.map(|found| found.seen);
        steps.push(Step { path, action: Action::SetAside, placed: None, was });
    }
    Ok(())
}

fn is_sidecar_of(path: &str, database: &str) -> bool {
    path.strip_prefix(database).is_some_and(|rest| SIDECARS.contains(&rest))
}

/// Tells whether a staged file is a SQLite database; few files have its length.
fn is_database(folder: &OwnedFd, name: &str, new: &Entry, shown: &Path) -> Result<bool> {
    if new.seen.bytes == 0 || !new.seen.bytes.is_multiple_of(PAGE_BYTES_MIN) {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file =
        openat(folder, name, flags, Mode::empty()).map_err(|errno| file_error("open", shown, errno))?;
    let mut beginning = [0; MAGIC.len()];
    Ok(File::from(file).read_exact(&mut beginning).is_ok() && beginning == *MAGIC)
}
