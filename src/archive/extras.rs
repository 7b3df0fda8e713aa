//! Extra files of an archive: which there are, and reading them (section 5.1).
//!
//! No link is followed anywhere, the folders named by a profile included. In a walk, fifos, sockets and
//! devices are passed over; a file that was asked for by name or pattern must be a plain file.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};

use super::beneath::{file_at, file_error, folder_at, open_folder};
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// The deepest folder that a walk enters.
const DEPTH_MAX: usize = 64;

/// Where extra files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtrasSource {
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

/// One extra file, found but not read.
#[derive(Debug)]
pub struct FoundExtra {
    /// The path in the snapshot.
    pub recorded: String,
    /// Where it lies, for messages.
    pub path: PathBuf,
    /// The folder that the source named, held open; shared by all that was found below it.
    root: Arc<OwnedFd>,
    /// The path from there.
    relative: String,
}

impl FoundExtra {
    /// Opens the file.
    pub fn open(&self) -> Result<(File, Stat)> {
        file_at(self.root.as_ref(), &self.relative, &self.path)?.ok_or_else(|| {
            Error::new(ErrorKind::Source, format!("{} vanished while it was captured", self.path.display()))
        })
    }
}

/// Finds every extra file, ordered by recorded path, and refuses what no restore could put back.
pub fn find(sources: &[ExtrasSource]) -> Result<Vec<FoundExtra>> {
    let mut found = Vec::new();
    for source in sources {
        match source {
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
        None => Ok(found),
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
    Ok(FoundExtra { recorded: recorded.to_owned(), path: path.to_owned(), root, relative: name.to_owned() })
}

fn find_matching(folder: &Path, prefix: &str, suffix: &str, found: &mut Vec<FoundExtra>) -> Result<()> {
    let root = Arc::new(open_folder(folder)?);
    for (name, _) in entries(&root, folder)? {
        let matches = name.starts_with(prefix.as_bytes())
            && name.ends_with(suffix.as_bytes())
            && name.len() >= prefix.len() + suffix.len();
        if matches {
            let name = utf8_name(name, folder)?;
            let path = folder.join(&name);
            file_at(root.as_ref(), &name, &path)?;
            found.push(FoundExtra { recorded: name.clone(), path, root: root.clone(), relative: name });
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
    for (name, kind) in entries(folder, &here)? {
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
            found.push(FoundExtra { recorded: below.clone(), path: shown, root, relative: below });
        } else if let Some(next) = folder_at(folder, &name, &shown)? {
            walk(root, &next, parent, &below, found)?;
        }
    }
    Ok(())
}

/// Returns the names in a folder with their types, in the order of their bytes.
fn entries(folder: &OwnedFd, path: &Path) -> Result<Vec<(Vec<u8>, FileType)>> {
    let listing = Dir::read_from(folder).map_err(|errno| file_error("list", path, errno))?;
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|errno| file_error("list", path, errno))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| file_error("list", path, errno))?;
        names.push((name.to_bytes().to_owned(), FileType::from_raw_mode(stat.st_mode)));
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
