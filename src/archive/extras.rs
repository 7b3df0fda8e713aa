//! Extra files of an archive: which there are, and reading them (section 5.1).
//!
//! No link is followed anywhere, the folders named by a profile included. In the walk of a named folder,
//! fifos, sockets and devices are passed over; a file that was asked for by name or pattern must be a plain
//! file. A selection leaves out what cannot be part of a snapshot and says so, unless it was asked for by
//! its full name.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use super::beneath::{file_at, file_error, folder_at, io_error, open_folder};
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// The deepest folder that a walk enters.
const DEPTH_MAX: usize = 64;

/// Where extra files come from.
#[derive(Debug, Clone)]
pub enum ExtrasSource {
    /// The files below the folder that a rule selects, recorded under their path from there.
    Selected {
        /// The folder.
        folder: PathBuf,
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

/// Which files below a folder are taken. Paths are relative to the folder, with `/` between components.
pub trait Selection: std::fmt::Debug + Send + Sync {
    /// Tells whether a file is taken.
    fn takes(&self, path: &str) -> bool;

    /// Tells whether anything below a folder could be taken.
    fn enters(&self, folder: &str) -> bool;

    /// Returns the files that were asked for by their full name and must be there.
    fn required(&self) -> Vec<String>;
}

/// What a capture finds.
#[derive(Debug, Default)]
pub struct FoundExtras {
    /// The files to take, ordered by recorded path.
    pub extras: Vec<FoundExtra>,
    /// What was found and is not taken: its path, and why.
    pub left_out: Vec<(String, String)>,
}

/// One extra file, found but not read.
#[derive(Debug)]
pub struct FoundExtra {
    /// The path in the snapshot.
    pub recorded: String,
    /// Where it lies, for messages.
    pub path: PathBuf,
    /// Its length when it was found, as far as it was asked for.
    pub file_bytes: u64,
    /// Whether it may be gone when it is read.
    may_vanish: bool,
    /// The folder that the source named, held open; shared by all that was found below it.
    root: Arc<OwnedFd>,
    /// The path from there.
    relative: String,
}

impl FoundExtra {
    /// Returns what the file system knows of the file; `None` if it is gone.
    pub(super) fn stat(&self) -> Option<Stat> {
        statat(self.root.as_ref(), &*self.relative, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// Returns what the file system knows of a folder on the way to the file, if it is recorded under the path
    /// that it has.
    pub(super) fn folder_stat(&self, folder: &str) -> Option<Stat> {
        if self.relative != self.recorded {
            return None;
        }
        let stat = statat(self.root.as_ref(), folder, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        (FileType::from_raw_mode(stat.st_mode) == FileType::Directory).then_some(stat)
    }

    /// Opens the file; `None` if it is gone and may be: the application goes on working.
    pub fn open(&self) -> Result<Option<(File, Stat)>> {
        let opened = file_at(self.root.as_ref(), &self.relative, &self.path)?;
        if opened.is_none() && !self.may_vanish {
            let message = format!("{} vanished while it was captured", self.path.display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        Ok(opened)
    }
}

/// Finds every extra file, ordered by recorded path, and refuses what no restore could put back.
pub fn find(sources: &[ExtrasSource]) -> Result<FoundExtras> {
    let mut found = Vec::new();
    let mut left_out = Vec::new();
    for source in sources {
        match source {
            ExtrasSource::Selected { folder, rule } => {
                let root = Arc::new(open_folder(folder)?);
                let held = root.try_clone().map_err(|error| io_error("open", folder, error))?;
                let mut walk = SelectedWalk { root, folder, rule: rule.as_ref(), found, left_out };
                walk.below(&held, "")?;
                walk.check_required()?;
                (found, left_out) = (walk.found, walk.left_out);
            }
            ExtrasSource::Folder { parent, name } => find_below(parent, name, &mut found)?,
            ExtrasSource::File { path, recorded } => found.push(find_file(path, recorded)?),
            ExtrasSource::Matching { folder, prefix, suffix } => {
                find_matching(folder, prefix, suffix, &mut found)?;
            }
        }
    }
    found.sort_by(|one, other| one.recorded.cmp(&other.recorded));
    for extra in &found {
        paths::check_extras_path(&extra.recorded).map_err(|error| {
            let message = format!("{} cannot be part of a snapshot", extra.path.display());
            Error::caused(ErrorKind::Source, message, error)
        })?;
    }
    match paths::find_conflicts(found.iter().map(|extra| extra.recorded.as_str())).first() {
        None => Ok(FoundExtras { extras: found, left_out }),
        Some(conflict) => {
            let message = format!("two extra files cannot be part of one snapshot: {conflict}");
            Err(Error::new(ErrorKind::Source, message))
        }
    }
}

fn find_file(path: &Path, recorded: &str) -> Result<FoundExtra> {
    let missing = || Error::new(ErrorKind::NotFound, format!("{} does not exist", path.display()));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(missing)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let root = Arc::new(open_folder(parent)?);
    if file_at(root.as_ref(), name, path)?.is_none() {
        return Err(missing());
    }
    Ok(FoundExtra {
        recorded: recorded.to_owned(),
        path: path.to_owned(),
        file_bytes: 0,
        may_vanish: false,
        root,
        relative: name.to_owned(),
    })
}

fn find_matching(folder: &Path, prefix: &str, suffix: &str, found: &mut Vec<FoundExtra>) -> Result<()> {
    let root = Arc::new(open_folder(folder)?);
    for (name, _, _) in entries(&root, folder)? {
        let matches = name.starts_with(prefix.as_bytes())
            && name.ends_with(suffix.as_bytes())
            && name.len() >= prefix.len() + suffix.len();
        if matches {
            let name = utf8_name(name, folder)?;
            let path = folder.join(&name);
            file_at(root.as_ref(), &name, &path)?;
            found.push(FoundExtra {
                recorded: name.clone(),
                path,
                file_bytes: 0,
                may_vanish: false,
                root: root.clone(),
                relative: name,
            });
        }
    }
    Ok(())
}

fn find_below(parent: &Path, name: &str, found: &mut Vec<FoundExtra>) -> Result<()> {
    let root = Arc::new(open_folder(parent)?);
    let Some(folder) = folder_at(root.as_ref(), name, &parent.join(name))? else { return Ok(()) };
    walk(&root, &folder, parent, name, found)
}

/// Walks a folder; `relative` is its path from the root, and what its files are recorded under.
fn walk(
    root: &Arc<OwnedFd>,
    folder: &OwnedFd,
    parent: &Path,
    relative: &str,
    found: &mut Vec<FoundExtra>,
) -> Result<()> {
    let here = parent.join(relative);
    if relative.split('/').count() > DEPTH_MAX {
        let message = format!("{} lies more than {DEPTH_MAX} folders deep", here.display());
        return Err(Error::new(ErrorKind::Source, message));
    }
    for (name, kind, _) in entries(folder, &here)? {
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
            let root = root.clone();
            found.push(FoundExtra {
                recorded: below.clone(),
                path: shown,
                file_bytes: 0,
                may_vanish: false,
                root,
                relative: below,
            });
        } else if let Some(next) = folder_at(folder, &name, &shown)? {
            walk(root, &next, parent, &below, found)?;
        }
    }
    Ok(())
}

/// A walk that takes what a rule selects.
struct SelectedWalk<'a> {
    root: Arc<OwnedFd>,
    folder: &'a Path,
    rule: &'a dyn Selection,
    found: Vec<FoundExtra>,
    left_out: Vec<(String, String)>,
}

impl SelectedWalk<'_> {
    /// Walks a folder; `prefix` is its path from the root with a slash behind it, or nothing.
    fn below(&mut self, here: &OwnedFd, prefix: &str) -> Result<()> {
        let shown = self.folder.join(prefix);
        if prefix.matches('/').count() > DEPTH_MAX {
            let message = format!("{} lies more than {DEPTH_MAX} folders deep", shown.display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        for (name, kind, file_bytes) in entries(here, &shown)? {
            let Ok(name) = String::from_utf8(name.clone()) else {
                let lossy = format!("{prefix}{}", String::from_utf8_lossy(&name));
                if self.rule.takes(&lossy) || self.rule.enters(&lossy) {
                    self.left_out.push((lossy, "its name is not UTF-8".to_owned()));
                }
                continue;
            };
            let relative = format!("{prefix}{name}");
            match kind {
                FileType::Directory if self.rule.enters(&relative) => {
                    let path = self.folder.join(&relative);
                    if let Some(next) = folder_at(here, &name, &path)? {
                        self.below(&next, &format!("{relative}/"))?;
                    }
                }
                FileType::Directory => {}
                FileType::Symlink if self.rule.takes(&relative) || self.rule.enters(&relative) => {
                    self.leave(relative, "it is a symbolic link")?;
                }
                FileType::RegularFile if self.rule.takes(&relative) => self.take(relative, file_bytes)?,
                FileType::RegularFile | FileType::Symlink => {}
                _ if self.rule.takes(&relative) => self.leave(relative, special(kind))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn take(&mut self, relative: String, file_bytes: u64) -> Result<()> {
        let path = self.folder.join(&relative);
        match paths::check_extras_path(&relative) {
            Ok(_) => {}
            // A reserved folder may be most of what there is: passing over it would be a loss, not a detail.
            Err(_) if is_reserved(&relative) => {
                let message = format!(
                    "{} cannot be part of a snapshot under this name, which the repository format keeps \
                     for itself; make the folder above it the archive's home",
                    path.display()
                );
                return Err(Error::new(ErrorKind::Source, message));
            }
            Err(error) => return self.leave(relative, &error.to_string()),
        }
        let (root, recorded) = (self.root.clone(), relative.clone());
        let may_vanish = !self.rule.required().contains(&relative);
        self.found.push(FoundExtra { recorded, path, file_bytes, may_vanish, root, relative });
        Ok(())
    }

    /// Leaves a file out, unless it was asked for by its full name.
    fn leave(&mut self, relative: String, reason: &str) -> Result<()> {
        if self.rule.required().contains(&relative) {
            let path = self.folder.join(&relative);
            let message = format!("{} cannot be part of a snapshot: {reason}", path.display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        self.left_out.push((relative, reason.to_owned()));
        Ok(())
    }

    fn check_required(&self) -> Result<()> {
        let is_found = |path: &String| self.found.iter().any(|found| found.recorded == *path);
        match self.rule.required().into_iter().find(|path| !is_found(path)) {
            None => Ok(()),
            Some(missing) => {
                let path = self.folder.join(missing);
                Err(Error::new(ErrorKind::NotFound, format!("{} does not exist", path.display())))
            }
        }
    }
}

fn is_reserved(relative: &str) -> bool {
    paths::is_reserved_first_component(relative.split('/').next().unwrap_or_default())
}

fn special(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "it is a fifo",
        FileType::Socket => "it is a socket",
        _ => "it is a device",
    }
}

/// Returns the names in a folder with their types and lengths, in the order of their bytes.
fn entries(folder: &OwnedFd, path: &Path) -> Result<Vec<(Vec<u8>, FileType, u64)>> {
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
