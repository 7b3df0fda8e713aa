//! Owners, modes and times: taken from the file system at a capture, given back to what a restore has staged.
//!
//! For each file and folder, the first of these that is known decides: what the snapshot recorded; what the file has
//! that is about to be replaced; the owner of the archive's home. A recorded mode may come from a hostile repository:
//! setuid never comes back, and a folder stays usable by its owner.
//!
//! Only root can give files to another user. For everybody else, modes and times come back and the owner does not.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, futimens,
    openat, statat,
};
use rustix::io::Errno;

use super::extras::FoundExtra;
use crate::Result;
use crate::error::lift::file_error;
use crate::format::{ArchiveAttributes, Attributes};

/// Permission bits of a restored file: no setuid, no setgid.
const FILE_MODE_MASK: u32 = 0o777;
/// Permission bits of a restored folder: groups share folders by setgid, and everybody by sticky.
const FOLDER_MODE_MASK: u32 = 0o3777;
/// What the owner of a folder always keeps: without it nothing could be put in place there.
const FOLDER_MODE_MIN: u32 = 0o700;

/// Whose the restored files shall be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owners {
    /// As captured, where that can be done: root alone can.
    #[default]
    Captured,
    /// Whoever runs the restore.
    Own,
    /// This user and group.
    Given {
        /// The number of the user.
        user: u32,
        /// The number of the group.
        group: u32,
    },
}

/// What a restore gives back.
#[derive(Debug, Default)]
pub struct RestoredAttributes {
    /// What the snapshot recorded.
    pub recorded: ArchiveAttributes,
    /// Whose the files shall be.
    pub owners: Owners,
    /// The database's path below the target.
    pub database_name: String,
}

/// How it went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What could not be set: how often, and the first of it.
    pub failures: Option<(u64, String)>,
    /// The user and group that the database was given to, if that is somebody else than who runs this.
    pub given_to: Option<(u32, u32)>,
}

/// Returns what the file system knows of a file.
pub fn attributes_of(stat: &Stat) -> Attributes {
    Attributes {
        mode: stat.st_mode & 0o7777,
        user: stat.st_uid,
        group: stat.st_gid,
        modified: (stat.st_mtime, stat.st_mtime_nsec as u32),
    }
}

/// Returns the attributes of the files that were found, and of the folders on the way to those that are recorded
/// under the path they have. What is gone since is left out.
pub fn attributes_of_found(found: &[FoundExtra]) -> ArchiveAttributes {
    let mut all = ArchiveAttributes::default();
    for extra in found {
        if let Ok(Some(stat)) = extra.look() {
            all.files.insert(extra.recorded().to_owned(), attributes_of(&stat));
        }
        for (slash, _) in extra.recorded().match_indices('/').rev() {
            let folder = &extra.recorded()[..slash];
            if all.folders.contains_key(folder) {
                break;
            }
            if let Some(stat) = extra.folder_stat(folder) {
                all.folders.insert(folder.to_owned(), attributes_of(&stat));
            }
        }
    }
    all
}

/// Returns the attributes of the file or folder that a path leads to.
pub fn attributes_at(path: &Path) -> Option<Attributes> {
    rustix::fs::stat(path).ok().map(|stat| attributes_of(&stat))
}

/// Gives everything below the staging its owner, mode and time; `target` is the folder it will be merged into.
///
/// What the file system refuses is counted and does not stop the restore, but for an owner that was asked for.
pub fn apply(
    staging: &OwnedFd,
    target: &OwnedFd,
    shown: &Path,
    wanted: &RestoredAttributes,
) -> Result<Outcome> {
    let is_root = rustix::process::geteuid().is_root();
    let home = wanted.recorded.home.map(|home| (home.user, home.group));
    let home = home.or_else(|| rustix::fs::fstat(target).ok().map(|stat| (stat.st_uid, stat.st_gid)));
    let mut pass = Pass { wanted, is_root, home, shown, outcome: Outcome::default() };
    pass.below(staging, Some(target), "")?;
    Ok(pass.outcome)
}

struct Pass<'a> {
    wanted: &'a RestoredAttributes,
    is_root: bool,
    /// Whose everything is of which nothing else is known.
    home: Option<(u32, u32)>,
    shown: &'a Path,
    outcome: Outcome,
}

impl Pass<'_> {
    /// Visits a folder of the staging; `beside` is the folder of the target that it is merged into, if there is
    /// one, and `prefix` its path with a slash behind it, or nothing.
    fn below(&mut self, folder: &OwnedFd, beside: Option<&OwnedFd>, prefix: &str) -> Result<()> {
        for (name, kind) in entries(folder, self.shown)? {
            // Staged names are UTF-8, for they come from the snapshot.
            let Ok(name) = String::from_utf8(name) else { continue };
            let path = format!("{prefix}{name}");
            let replaced = beside.and_then(|beside| statat(beside, &*name, AtFlags::SYMLINK_NOFOLLOW).ok());
            if kind == FileType::Directory {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = openat(folder, &*name, flags, Mode::empty())
                    .map_err(|errno| file_error("open", &self.shown.join(&path), errno))?;
                let merged = beside.and_then(|beside| openat(beside, &*name, flags, Mode::empty()).ok());
                self.below(&inner, merged.as_ref(), &format!("{path}/"))?;
                // One that is there already is merged into and stays as it is.
                if merged.is_none() {
                    let recorded = self.wanted.recorded.folders.get(&path).copied();
                    let recorded = recorded.map(|known| Attributes {
                        mode: known.mode & FOLDER_MODE_MASK | FOLDER_MODE_MIN,
                        ..known
                    });
                    self.settle(folder, &name, &path, recorded, None, kind)?;
                }
            } else if kind == FileType::RegularFile {
                let recorded = self.recorded_file(&path);
                self.settle(folder, &name, &path, recorded, replaced, kind)?;
            }
        }
        Ok(())
    }

    fn recorded_file(&self, path: &str) -> Option<Attributes> {
        let known = match path == self.wanted.database_name {
            true => self.wanted.recorded.database,
            false => self.wanted.recorded.files.get(path).copied(),
        };
        known.map(|known| Attributes { mode: known.mode & FILE_MODE_MASK, ..known })
    }

    fn settle(
        &mut self,
        folder: &OwnedFd,
        name: &str,
        path: &str,
        recorded: Option<Attributes>,
        replaced: Option<Stat>,
        kind: FileType,
    ) -> Result<()> {
        let replaced = replaced.filter(|stat| FileType::from_raw_mode(stat.st_mode) == kind);
        // The owner first: giving a file away takes bits off its mode.
        if let Some((user, group)) = self.owner(recorded, replaced.as_ref()) {
            let given = chownat(
                folder,
                name,
                Some(Uid::from_raw(user)),
                Some(Gid::from_raw(group)),
                AtFlags::SYMLINK_NOFOLLOW,
            );
            match given {
                Ok(()) => {
                    let is_other = user != rustix::process::geteuid().as_raw();
                    if is_other && path == self.wanted.database_name {
                        self.outcome.given_to = Some((user, group));
                    }
                }
                Err(errno) if matches!(self.wanted.owners, Owners::Given { .. }) => {
                    return Err(file_error("set the owner of", &self.shown.join(path), errno));
                }
                Err(errno) => self.failed(&format!("the owner of {path}: {errno}")),
            }
        }
        let mode = recorded.map(|known| known.mode).or_else(|| self.replaced_mode(path, replaced.as_ref()));
        let modified = recorded.map(|known| known.modified);
        if mode.is_none() && modified.is_none() {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let held = openat(folder, name, flags, Mode::empty())
            .map_err(|errno| file_error("open", &self.shown.join(path), errno))?;
        if let Some(Err(errno)) = mode.map(|mode| fchmod(&held, Mode::from_raw_mode(mode))) {
            self.failed(&format!("the mode of {path}: {errno}"));
        }
        if let Some(Err(errno)) = modified.map(|modified| set_modified(&held, modified)) {
            self.failed(&format!("the time of {path}: {errno}"));
        }
        Ok(())
    }

    /// Returns the owner that a file must be given, if it must be given one.
    fn owner(&self, recorded: Option<Attributes>, replaced: Option<&Stat>) -> Option<(u32, u32)> {
        match self.wanted.owners {
            Owners::Given { user, group } => Some((user, group)),
            Owners::Own => None,
            Owners::Captured if !self.is_root => None,
            Owners::Captured => recorded
                .map(|known| (known.user, known.group))
                .or_else(|| replaced.map(|stat| (stat.st_uid, stat.st_gid)))
                .or(self.home),
        }
    }

    /// The extras tree has modes of its own; of the database's mode nothing else is known.
    fn replaced_mode(&self, path: &str, replaced: Option<&Stat>) -> Option<u32> {
        replaced.filter(|_| path == self.wanted.database_name).map(|stat| stat.st_mode & FILE_MODE_MASK)
    }

    fn failed(&mut self, what: &str) {
        let (count, _) = self.outcome.failures.get_or_insert_with(|| (0, what.to_owned()));
        *count += 1;
    }
}

/// Gives a folder that was made for the restore what is recorded of the archive's home.
pub fn apply_to_made(folder: &OwnedFd, wanted: &RestoredAttributes) -> Outcome {
    let mut outcome = Outcome::default();
    let Some(home) = wanted.recorded.home else { return outcome };
    let owner = match wanted.owners {
        Owners::Given { user, group } => Some((user, group)),
        Owners::Captured if rustix::process::geteuid().is_root() => Some((home.user, home.group)),
        _ => None,
    };
    let set = || -> rustix::io::Result<()> {
        if let Some((user, group)) = owner {
            rustix::fs::fchown(folder, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        }
        fchmod(folder, Mode::from_raw_mode(home.mode & FOLDER_MODE_MASK | FOLDER_MODE_MIN))?;
        set_modified(folder, home.modified)
    };
    if let Err(errno) = set() {
        outcome.failures = Some((1, format!("the owner, mode or time of the folder itself: {errno}")));
    }
    outcome
}

fn set_modified(file: impl AsFd, (seconds, nanoseconds): (i64, u32)) -> rustix::io::Result<()> {
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    futimens(file, &Timestamps { last_access, last_modification })
}

fn entries(folder: &OwnedFd, shown: &Path) -> Result<Vec<(Vec<u8>, FileType)>> {
    let listing = Dir::read_from(folder).map_err(|errno| file_error("list", shown, errno))?;
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|errno| file_error("list", shown, errno))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(file_error("list", shown, errno)),
            },
            kind => kind,
        };
        names.push((name.to_bytes().to_owned(), kind));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::archive::beneath::open_folder;

    const MODIFIED: (i64, u32) = (981_173_106, 123_456_789);

    fn row(mode: u32, user: u32) -> Attributes {
        Attributes { mode, user, group: 5000, modified: MODIFIED }
    }

    fn staged() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("staging/media")).unwrap();
        fs::create_dir_all(folder.path().join("target")).unwrap();
        for name in ["a.db", "media/one", "unknown"] {
            fs::write(folder.path().join("staging").join(name), "x").unwrap();
        }
        folder
    }

    fn wanted(owners: Owners) -> RestoredAttributes {
        let recorded = ArchiveAttributes {
            home: Some(row(0o750, 4001)),
            database: Some(row(0o4640, 4001)),
            folders: BTreeMap::from([("media".to_owned(), row(0o2050, 4001))]),
            files: BTreeMap::from([("media/one".to_owned(), row(0o6644, 4002))]),
        };
        RestoredAttributes { recorded, owners, database_name: "a.db".to_owned() }
    }

    fn apply_in(folder: &tempfile::TempDir, wanted: &RestoredAttributes) -> Result<Outcome> {
        let (staging, target) = (folder.path().join("staging"), folder.path().join("target"));
        apply(&open_folder(&staging).unwrap(), &open_folder(&target).unwrap(), &staging, wanted)
    }

    #[test]
    fn modes_and_times_come_back_and_no_bit_that_gives_rights_away() {
        let folder = staged();
        let outcome = apply_in(&folder, &wanted(Owners::Own)).unwrap();
        assert_eq!(outcome, Outcome::default());
        let of = |name: &str| fs::metadata(folder.path().join("staging").join(name)).unwrap();
        for (name, mode) in [("a.db", 0o640), ("media/one", 0o644), ("media", 0o2750)] {
            assert_eq!(of(name).permissions().mode() & 0o7777, mode, "{name}");
            assert_eq!(
                (of(name).mtime(), of(name).mtime_nsec()),
                (MODIFIED.0, i64::from(MODIFIED.1)),
                "{name}"
            );
        }
    }

    #[test]
    fn root_gives_each_file_its_owner_and_the_rest_to_the_owner_of_the_home() {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("NOT RUN: giving files away needs root");
        }
        let folder = staged();
        apply_in(&folder, &wanted(Owners::Captured)).unwrap();
        let owner = |name: &str| {
            let metadata = fs::metadata(folder.path().join("staging").join(name)).unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner("a.db"), (4001, 5000));
        assert_eq!(owner("media/one"), (4002, 5000));
        assert_eq!(owner("unknown"), (4001, 5000));
        apply_in(&folder, &wanted(Owners::Given { user: 7, group: 8 })).unwrap();
        assert_eq!(owner("media/one"), (7, 8));
    }

    #[test]
    fn a_database_of_which_nothing_is_recorded_is_like_the_one_it_replaces() {
        let folder = staged();
        let old = folder.path().join("target/a.db");
        fs::write(&old, "old").unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o660)).unwrap();
        let wanted = RestoredAttributes { database_name: "a.db".to_owned(), ..RestoredAttributes::default() };
        apply_in(&folder, &wanted).unwrap();
        let restored = fs::metadata(folder.path().join("staging/a.db")).unwrap();
        assert_eq!(restored.permissions().mode() & 0o777, 0o660);
    }
}
