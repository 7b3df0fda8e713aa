//! Extra files of an archive: which there are (section 5.1).
//!
//! No link is followed anywhere, the folders named by a profile included. In the walk of a named folder,
//! fifos, sockets and devices are passed over; a file that was asked for by name or pattern must be a plain
//! file. A selection has a walk of its own, which leaves out what cannot be part of a snapshot and says so.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::beneath::{file_at, folder_at, open_folder, stat_at};
use super::collisions::separate;
use super::repositories::Recognised;
use super::selected::{SelectedFolder, Selection, find_selected};
use crate::error::lift::file_error;
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// The deepest folder that the walk of a named folder enters.
const DEPTH_MAX: usize = 64;

/// Where extra files come from.
#[derive(Debug, Clone)]
pub enum ExtrasSource {
    /// The files below the folder that a rule selects, recorded under their path from there.
    Selected {
        /// The folder, and what is known of it.
        place: SelectedFolder,
        /// The rule.
        rule: Arc<dyn Selection>,
    },
    /// Every file below the folder, recorded under the folder's name; it may be missing.
    Folder {
        /// The folder's parent.
        parent: PathBuf,
        /// The folder's name.
        name: &'static str,
    },
    /// One file, recorded under the name; it must exist.
    File {
        /// Where it lies.
        path: PathBuf,
        /// The name in the snapshot.
        recorded: &'static str,
    },
    /// Files directly in the folder whose name begins and ends so.
    Matching {
        /// The folder.
        folder: PathBuf,
        /// How a name begins.
        prefix: &'static str,
        /// How it ends.
        suffix: &'static str,
    },
}

/// What a capture finds.
#[derive(Debug, Default)]
pub struct FoundExtras {
    /// The files to take, ordered by recorded path.
    pub extras: Vec<FoundExtra>,
    /// What was found and is not taken.
    pub left_out: Vec<LeftFile>,
    /// A sentence for every pattern that was of no use.
    pub idle: Vec<String>,
    /// The repositories among what is not taken.
    pub repositories: Vec<FoundRepository>,
}

/// A repository of a backup program that lies in a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundRepository {
    /// Its path below the archive's home.
    pub path: String,
    /// What it is.
    pub is: Recognised,
}

/// Something that was found and is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftFile {
    /// Its path below the archive's home, as far as it can be shown.
    pub path: String,
    /// Why it is not taken.
    pub reason: String,
    /// Whether content that was asked for is missing because of it.
    pub asked: bool,
}

/// A folder held open, shared by all that was found below it.
#[derive(Debug)]
pub struct Root {
    /// The folder.
    pub held: OwnedFd,
    /// Its path.
    pub path: PathBuf,
}

/// One extra file, found but not read.
#[derive(Debug, Clone)]
pub struct FoundExtra {
    root: Arc<Root>,
    /// The path from there.
    relative: Box<str>,
    /// The path in the snapshot, where it is another.
    renamed: Option<&'static str>,
    /// Its length when it was found, as far as it was asked for.
    pub file_bytes: u64,
    /// Whether the capture fails if it cannot be taken.
    pub is_required: bool,
}

impl FoundExtra {
    /// Returns what the file system knows of a folder on the way to the file, if it is recorded under the path
    /// that it has.
    pub(super) fn folder_stat(&self, folder: &str) -> Option<Stat> {
        if self.renamed.is_some() {
            return None;
        }
        let stat = statat(&self.root.held, folder, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::Directory).then_some(stat)
    }

    /// Makes a file that is recorded under its path below the root.
    pub fn new(root: Arc<Root>, relative: String, file_bytes: u64, is_required: bool) -> Self {
        Self { root, relative: relative.into(), renamed: None, file_bytes, is_required }
    }

    /// Returns the path in the snapshot.
    pub fn recorded(&self) -> &str {
        self.renamed.unwrap_or(&self.relative)
    }

    /// Returns where it lies, for messages.
    pub fn path(&self) -> PathBuf {
        self.root.path.join(&*self.relative)
    }

    /// Returns the file whose name lacks so many bytes at the end.
    pub fn sibling(&self, ending_bytes: usize) -> Option<Self> {
        let end = self.relative.len().checked_sub(ending_bytes)?;
        let relative = self.relative.get(..end).filter(|relative| !relative.is_empty())?;
        Some(Self::new(self.root.clone(), relative.to_owned(), 0, false))
    }

    /// Returns what has its name with this ending.
    pub fn beside(&self, ending: &str) -> Self {
        Self::new(self.root.clone(), format!("{}{ending}", self.relative), 0, false)
    }

    /// Opens the file; `None` if it is gone.
    pub fn open(&self) -> Result<Option<(File, Stat)>> {
        file_at(&self.root.held, &self.relative, &self.path())
    }

    /// Returns what lies at its path now, without opening it; `None` if nothing does.
    pub fn look(&self) -> Result<Option<Stat>> {
        stat_at(&self.root.held, &self.relative, &self.path())
    }
}

/// Finds every extra file, ordered by recorded path. What no restore could put back is left out and named,
/// or refused; `database` are the names that belong to the database.
pub fn find(sources: &[ExtrasSource], database: &[String]) -> Result<FoundExtras> {
    let mut found = FoundExtras::default();
    for source in sources {
        match source {
            ExtrasSource::Selected { place, rule } => find_selected(place, rule.as_ref(), &mut found)?,
            ExtrasSource::Folder { parent, name } => find_below(parent, name, &mut found.extras)?,
            ExtrasSource::File { path, recorded } => found.extras.push(find_file(path, recorded)?),
            ExtrasSource::Matching { folder, prefix, suffix } => {
                find_matching(folder, prefix, suffix, &mut found.extras)?;
            }
        }
    }
    found.extras.sort_by(|one, other| one.recorded().cmp(other.recorded()));
    for extra in &found.extras {
        paths::check_extras_path(extra.recorded()).map_err(|error| {
            let message = format!("{} cannot be part of a snapshot", extra.path().display());
            Error::caused(ErrorKind::Source, message, error)
        })?;
    }
    separate(&mut found, database);
    Ok(found)
}

fn find_file(path: &Path, recorded: &'static str) -> Result<FoundExtra> {
    let missing = || Error::new(ErrorKind::NotFound, format!("{} does not exist", path.display()));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = Arc::new(Root { held: open_folder(parent)?, path: parent.to_owned() });
    let Some((_, stat)) = file_at(&root.held, name, path)? else { return Err(missing()) };
    let extra = FoundExtra::new(root, name.to_owned(), stat.st_size as u64, true);
    Ok(FoundExtra { renamed: Some(recorded), ..extra })
}

fn find_matching(folder: &Path, prefix: &str, suffix: &str, found: &mut Vec<FoundExtra>) -> Result<()> {
    let root = Arc::new(Root { held: open_folder(folder)?, path: folder.to_owned() });
    for (name, _, file_bytes) in entries(&root.held, folder)? {
        let matches = name.starts_with(prefix.as_bytes())
            && name.ends_with(suffix.as_bytes())
            && name.len() >= prefix.len() + suffix.len();
        if matches {
            let name = utf8_name(name, folder)?;
            file_at(&root.held, &name, &folder.join(&name))?;
            found.push(FoundExtra::new(root.clone(), name, file_bytes, true));
        }
    }
    Ok(())
}

fn find_below(parent: &Path, name: &str, found: &mut Vec<FoundExtra>) -> Result<()> {
    let root = Arc::new(Root { held: open_folder(parent)?, path: parent.to_owned() });
    let Some(folder) = folder_at(&root.held, name, &parent.join(name))? else { return Ok(()) };
    walk(&root, &folder, name, found)
}

/// Walks a folder; `relative` is its path from the root, and what its files are recorded under.
fn walk(root: &Arc<Root>, folder: &OwnedFd, relative: &str, found: &mut Vec<FoundExtra>) -> Result<()> {
    let here = root.path.join(relative);
    if relative.split('/').count() > DEPTH_MAX {
        let message = format!("{} lies more than {DEPTH_MAX} folders deep", here.display());
        return Err(Error::new(ErrorKind::Source, message));
    }
    for (name, kind, file_bytes) in entries(folder, &here)? {
        let shown = here.join(OsStr::from_bytes(&name));
        match kind {
            FileType::RegularFile | FileType::Directory => {}
            FileType::Symlink => {
                let message = format!("{} is a symbolic link; extra files must be plain", shown.display());
                return Err(Error::new(ErrorKind::Source, message));
            }
            _ => continue,
        }
        let name = utf8_name(name, &here)?;
        let below = format!("{relative}/{name}");
        if kind == FileType::RegularFile {
            found.push(FoundExtra::new(root.clone(), below, file_bytes, true));
        } else if let Some(next) = folder_at(folder, &name, &shown)? {
            walk(root, &next, &below, found)?;
        }
    }
    Ok(())
}

/// Tells whether an error is about this process or machine and not about the file: what it has run out of,
/// it has run out of for every file.
pub fn is_of_the_process(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let errno = error.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error);
        if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A name in a folder, what it is, and its length.
pub type Entry = (Vec<u8>, FileType, u64);

/// Returns the names in a folder with their types and lengths, in the order of their bytes.
pub fn entries(folder: &OwnedFd, path: &Path) -> Result<Vec<Entry>> {
    let listing = Dir::read_from(folder).map_err(|errno| file_error("list", path, errno))?;
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|errno| file_error("list", path, errno))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // The application goes on working: what it removed meanwhile is not there to be taken.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(file_error("list", path, errno)),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        names.push((name.to_bytes().to_owned(), kind, stat.st_size as u64));
    }
    names.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(names)
}

fn utf8_name(name: Vec<u8>, folder: &Path) -> Result<String> {
    String::from_utf8(name).map_err(|error| {
        let shown = folder.join(OsStr::from_bytes(error.as_bytes()));
        let message = format!("the name of {} is not UTF-8; a snapshot cannot hold it", shown.display());
        Error::new(ErrorKind::Source, message)
    })
}
