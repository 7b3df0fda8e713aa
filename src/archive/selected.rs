//! The files below a folder that a selection asks for: the walk, and what it says of the files that it leaves out.
//!
//! Every file that is left out is named. What was asked for and cannot be in the snapshot is named as such: a
//! folder that cannot be listed, a link that leads out of what is taken, a name that no snapshot can hold, a
//! pattern that matches nothing. A file that cannot be taken does not stop the others. Only a file that was asked
//! for by its full name ends the capture, if it is not there or is no plain file.

mod idle;
mod links;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FileType;

use super::beneath::{folder_at, open_folder};
use super::extras::{FoundExtra, FoundExtras, FoundRepository, LeftFile, Root, entries, is_of_the_process};
use super::profile::SIDECARS;
use super::repositories::recognise;
use super::target::is_staging;
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// The deepest folder that a walk enters; no snapshot holds a path that goes deeper.
const DEPTH_MAX: usize = 255;

/// Which files below a folder are taken. Paths are relative to the folder, with `/` between components.
pub trait Selection: std::fmt::Debug + Send + Sync {
    /// Tells whether a file is taken, and notes the patterns that are of use for it.
    fn takes(&self, path: &str, seen: &mut Seen) -> bool;

    /// Tells whether anything below a folder could be taken, and notes the patterns that speak of the folder.
    fn enters(&self, folder: &str, seen: &mut Seen) -> bool;

    /// Tells whether a pattern of files matches the path, and none excludes it or all that is below it.
    fn names(&self, path: &str) -> bool;

    /// Tells whether a pattern asks for nothing but the path or what is below it.
    fn asks_below(&self, path: &str) -> bool;

    /// Tells whether a file was asked for by its full name and must be there.
    fn is_required(&self, path: &str) -> bool;

    /// Tells whether a snapshot has the name for the database, or for what SQLite keeps beside it.
    fn is_database(&self, path: &str) -> bool;

    /// Notes the patterns to which the path is the answer, now that it is named as missing.
    fn explain(&self, path: &str, seen: &mut Seen);

    /// Returns every pattern; [`Seen`] counts them in this order.
    fn patterns(&self) -> Vec<AskedPattern>;
}

/// What a pattern is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternUse {
    /// Files to take.
    Files,
    /// Files not to take.
    Exclude,
    /// Files with secrets.
    Secrets,
}

/// A pattern, as far as it matters when it was of no use.
#[derive(Debug, Clone)]
pub struct AskedPattern {
    /// What it is for.
    pub kind: PatternUse,
    /// As the user wrote it.
    pub written: String,
    /// Its first components, as far as they are plain names.
    pub fixed: String,
    /// Whether it is the full name of a file or folder.
    pub is_full_name: bool,
    /// Whether it can only be the full name of a folder.
    pub is_folder: bool,
    /// Whether it begins anywhere, and does not say that there is such a file.
    pub is_anywhere: bool,
    /// Whether it may match nothing.
    pub is_optional: bool,
}

/// Which patterns were of use in a walk.
#[derive(Debug, Clone)]
pub struct Seen(Vec<Use>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Idle,
    OnlyExcluded,
    Noted,
}

impl Seen {
    /// Makes a note of so many patterns, none of which was of use yet.
    pub fn new(patterns: usize) -> Self {
        Self(vec![Use::Idle; patterns])
    }

    /// Notes that a pattern was of use.
    pub fn note(&mut self, pattern: usize) {
        self.0[pattern] = Use::Noted;
    }

    /// Notes that something a pattern asks for is excluded.
    pub fn note_excluded(&mut self, pattern: usize) {
        if self.0[pattern] == Use::Idle {
            self.0[pattern] = Use::OnlyExcluded;
        }
    }

    /// Tells whether a pattern was of use.
    pub fn is_noted(&self, pattern: usize) -> bool {
        self.0[pattern] == Use::Noted
    }

    /// Tells whether all that a pattern asks for is excluded.
    pub fn is_excluded(&self, pattern: usize) -> bool {
        self.0[pattern] == Use::OnlyExcluded
    }
}

/// Where a selection is at home.
#[derive(Debug, Clone)]
pub struct SelectedFolder {
    /// The folder.
    pub folder: PathBuf,
    /// The database of the archive, which is not taken as a file.
    pub database: PathBuf,
    /// Folders in which packvault keeps what it needs itself.
    pub own: Vec<PathBuf>,
}

/// Finds the files that the rule selects.
pub fn find_selected(place: &SelectedFolder, rule: &dyn Selection, found: &mut FoundExtras) -> Result<()> {
    let held = open_folder(&place.folder)?;
    let root = Arc::new(Root { held, path: place.folder.clone() });
    let home = std::fs::canonicalize(&place.folder).unwrap_or_else(|_| place.folder.clone());
    let database = std::fs::canonicalize(&place.database).unwrap_or_else(|_| place.database.clone());
    let database_is_below = database.starts_with(&home);
    let own = place.own.iter().filter_map(|own| identity_of(own)).collect();
    let seen = Seen::new(rule.patterns().len());
    let mut walk =
        SelectedWalk { root: root.clone(), home, database, database_is_below, own, rule, seen, found };
    let entries = entries(&root.held, &place.folder)?;
    if let Some(is) = recognise(&root.held, &entries) {
        let reason = format!(
            "{}, and which files in it are not its own cannot be told; make another folder the archive's home",
            is.what
        );
        walk.leave(".".to_owned(), &reason, true);
        return Ok(());
    }
    walk.below(&root.held, "", entries)?;
    walk.say_what_is_idle()
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// A walk that takes what a rule selects.
struct SelectedWalk<'a> {
    root: Arc<Root>,
    /// The folder without links.
    home: PathBuf,
    /// The archive's database without links.
    database: PathBuf,
    database_is_below: bool,
    own: Vec<(u64, u64)>,
    rule: &'a dyn Selection,
    seen: Seen,
    found: &'a mut FoundExtras,
}

type Entry = (Vec<u8>, FileType, u64);

impl SelectedWalk<'_> {
    /// Walks a folder; `prefix` is its path from the root with a slash behind it, or nothing.
    fn below(&mut self, here: &OwnedFd, prefix: &str, entries: Vec<Entry>) -> Result<()> {
        for (name, kind, file_bytes) in entries {
            let Ok(name) = String::from_utf8(name.clone()) else {
                let lossy = format!("{prefix}{}", String::from_utf8_lossy(&name));
                self.leave_unnamable(lossy, kind);
                continue;
            };
            let relative = format!("{prefix}{name}");
            match kind {
                // What a restore stages is no part of the archive, and goes when the restore does.
                FileType::Directory if prefix.is_empty() && is_staging(&name) => {}
                FileType::Directory => self.folder(here, &name, relative)?,
                FileType::Symlink => self.link(relative)?,
                FileType::RegularFile if self.rule.takes(&relative, &mut self.seen) => {
                    self.take(relative, file_bytes)?;
                }
                FileType::RegularFile => {}
                _ if self.rule.takes(&relative, &mut self.seen) => {
                    self.refuse(relative, special(kind), false)?
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn folder(&mut self, here: &OwnedFd, name: &str, relative: String) -> Result<()> {
        if !self.rule.enters(&relative, &mut self.seen) {
            if self.rule.names(&relative) {
                let reason = format!("it is a folder: a pattern `{relative}/**` takes what is in it");
                self.leave(relative, &reason, false);
            }
            return Ok(());
        }
        let path = self.root.path.join(&relative);
        if relative.matches('/').count() >= DEPTH_MAX {
            self.leave(relative, &format!("it lies more than {DEPTH_MAX} folders deep"), true);
            return Ok(());
        }
        let opened = folder_at(here, name, &path);
        let listed = opened.and_then(|folder| match folder {
            Some(folder) => entries(&folder, &path).map(|entries| Some((folder, entries))),
            None => Ok(None),
        });
        match listed {
            Ok(None) => Ok(()),
            Ok(Some((folder, entries))) => self.enter(&folder, relative, entries),
            Err(error) if is_of_the_process(&error) => Err(error),
            Err(error) => {
                self.leave(relative, &format!("the folder cannot be read: {}", root_cause(&error)), true);
                Ok(())
            }
        }
    }

    #[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
    fn enter(&mut self, folder: &OwnedFd, relative: String, entries: Vec<Entry>) -> Result<()> {
        if let Some(is) = recognise(folder, &entries) {
            // Whose it is decides how much is said of it; that is not known here.
            self.found.repositories.push(FoundRepository { path: relative.clone(), is: is.clone() });
            self.leave(relative, is.what, false);
            return Ok(());
        }
        let is_own = !self.own.is_empty()
            && rustix::fs::fstat(folder)
                .is_ok_and(|stat| self.own.contains(&(stat.st_dev as u64, stat.st_ino as u64)));
        if is_own {
            self.leave(relative, "packvault keeps there what it needs itself", false);
            return Ok(());
        }
        self.below(folder, &format!("{relative}/"), entries)
    }

    fn take(&mut self, relative: String, file_bytes: u64) -> Result<()> {
        if self.rule.is_database(&relative) {
            self.name_of_the_database(relative);
            return Ok(());
        }
        match paths::check_extras_path(&relative) {
            Ok(_) => {}
            // A reserved folder may be most of what there is: passing over it would be a loss, not a detail.
            Err(_) if is_reserved(&relative) => {
                let message = format!(
                    "{} cannot be part of a snapshot under this name, which the repository format keeps \
                     for itself; make the folder above it the archive's home",
                    self.root.path.join(&relative).display()
                );
                return Err(Error::new(ErrorKind::Source, message));
            }
            Err(_) => return self.refuse(relative, "no snapshot can hold its name", true),
        }
        let is_required = self.rule.is_required(&relative);
        self.found.extras.push(FoundExtra::new(self.root.clone(), relative, file_bytes, is_required));
        Ok(())
    }

    /// The database itself is in the snapshot; another file cannot have its name there.
    fn name_of_the_database(&mut self, relative: String) {
        self.rule.explain(&relative, &mut self.seen);
        if self.database_is_below {
            return;
        }
        let base = SIDECARS.iter().find_map(|sidecar| relative.strip_suffix(sidecar));
        match base.filter(|base| self.rule.is_database(base) && self.root.path.join(base).is_file()) {
            Some(base) => {
                let reason = format!("it belongs to {base}");
                self.leave(relative, &reason, false);
            }
            None => {
                let reason = format!(
                    "the snapshot has this name for the database {}; give that one another name, or make a \
                     folder above both the archive's home",
                    self.database.display()
                );
                self.leave(relative, &reason, true);
            }
        }
    }

    fn leave_unnamable(&mut self, lossy: String, kind: FileType) {
        let mut scratch = self.seen.clone();
        let wanted = match kind {
            FileType::Directory => self.rule.enters(&lossy, &mut scratch),
            _ => self.rule.takes(&lossy, &mut scratch),
        };
        if wanted {
            let holds = matches!(kind, FileType::Directory | FileType::RegularFile);
            self.leave(lossy, "its name is not UTF-8", holds);
        }
    }

    /// Leaves a file out, unless it was asked for by its full name.
    fn refuse(&mut self, relative: String, reason: &str, asked: bool) -> Result<()> {
        if self.rule.is_required(&relative) {
            let path = self.root.path.join(&relative);
            let message = format!("{} cannot be part of a snapshot: {reason}", path.display());
            return Err(Error::new(ErrorKind::Source, message));
        }
        self.leave(relative, reason, asked);
        Ok(())
    }

    /// Leaves something out; `asked` tells whether content that was asked for is missing because of it.
    fn leave(&mut self, relative: String, reason: &str, asked: bool) {
        if asked {
            self.rule.explain(&relative, &mut self.seen);
        }
        self.found.left_out.push(LeftFile { path: relative, reason: reason.to_owned(), asked });
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

/// Returns what went wrong at the bottom, for the path is said already.
pub fn root_cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
