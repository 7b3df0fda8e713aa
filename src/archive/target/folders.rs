//! Steps on held folders: listing, opening and removing below them, making them durable.
//!
//! None follows a link, and none holds a descriptor for each level: a restore that ran out of descriptors must
//! still be able to remove what it wrote.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, chmodat, fchmod, fstat, fsync, mkdirat, openat,
    renameat, renameat_with, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::archive::beneath::folder_at;
use crate::error::lift::file_error;
use crate::{Error, ErrorKind, Result};

/// Of a link itself.
const NOFOLLOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW;
/// How many folders are held open at once at most.
const HELD_MAX: u64 = 300;
/// What part of the descriptors that this process may open goes to held folders.
const HELD_PART: u64 = 8;

/// Opens a folder that must be there.
pub fn open_folder_at(folder: &OwnedFd, name: &str, shown: &Path) -> Result<OwnedFd> {
    folder_at(folder.as_fd(), name, shown)?
        .ok_or_else(|| Error::new(ErrorKind::Io, format!("{} vanished", shown.display())))
}

/// Opens a folder, made if it is missing.
pub fn open_or_make_at(folder: &OwnedFd, name: &str, shown: &Path) -> Result<OwnedFd> {
    match mkdirat(folder, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_folder_at(folder, name, shown),
        Err(errno) => Err(file_error("make a folder for", shown, errno)),
    }
}

/// Returns the path of the folder that a relative path lies in, and its name there.
pub fn split(relative: &str) -> (&str, &str) {
    relative.rsplit_once('/').unwrap_or(("", relative))
}

/// Returns a path below another, either of which may be empty.
pub fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Folders below a root that were opened lately. An entry stays the folder that it was, whatever its path has
/// come to mean since.
#[derive(Debug)]
pub struct HeldFolders {
    root: Arc<OwnedFd>,
    held: Mutex<HashMap<String, Arc<OwnedFd>>>,
    held_max: usize,
}

impl HeldFolders {
    /// Holds folders below this one.
    pub fn new(root: Arc<OwnedFd>) -> Self {
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let held_max = (allowed / HELD_PART).clamp(1, HELD_MAX) as usize;
        Self { root, held: Mutex::default(), held_max }
    }

    /// Returns the root.
    pub fn root(&self) -> &Arc<OwnedFd> {
        &self.root
    }

    /// Opens a folder that must be there.
    pub fn get(&self, relative: &str, shown: &Path) -> Result<Arc<OwnedFd>> {
        self.walk(relative, shown, open_folder_at)
    }

    /// Opens a folder, made with those above it if it is missing.
    pub fn get_or_make(&self, relative: &str, shown: &Path) -> Result<Arc<OwnedFd>> {
        self.walk(relative, shown, open_or_make_at)
    }

    /// Lets all go.
    pub fn release(&self) {
        self.held.lock().expect("no holder of the folders panics").clear();
    }

    fn walk(
        &self,
        relative: &str,
        shown: &Path,
        open: impl Fn(&OwnedFd, &str, &Path) -> Result<OwnedFd>,
    ) -> Result<Arc<OwnedFd>> {
        let (mut folder, mut reached) = self.nearest(relative);
        while reached < relative.len() {
            let start = if reached == 0 { 0 } else { reached + 1 };
            reached = relative[start..].find('/').map_or(relative.len(), |length| start + length);
            folder = Arc::new(open(&folder, &relative[start..reached], shown)?);
            let mut held = self.held.lock().expect("no holder of the folders panics");
            if held.len() >= self.held_max {
                held.clear();
            }
            held.insert(relative[..reached].to_owned(), folder.clone());
        }
        Ok(folder)
    }

    /// Returns the deepest folder on the way that is held, and how much of the path leads to it.
    fn nearest(&self, relative: &str) -> (Arc<OwnedFd>, usize) {
        let held = self.held.lock().expect("no holder of the folders panics");
        let mut end = relative.len();
        while end > 0 {
            if let Some(known) = held.get(&relative[..end]) {
                return (known.clone(), end);
            }
            end = relative[..end].rfind('/').unwrap_or(0);
        }
        (self.root.clone(), 0)
    }
}

/// Returns the names in a folder, in order.
pub fn names(folder: &OwnedFd, shown: &Path) -> Result<Vec<String>> {
    Ok(typed_names(folder, shown)?.into_iter().map(|(name, _)| name).collect())
}

/// Returns the names in a folder and what each is, in order.
pub fn typed_names(folder: &OwnedFd, shown: &Path) -> Result<Vec<(String, FileType)>> {
    let listing = Dir::read_from(folder).map_err(|errno| file_error("list", shown, errno))?;
    let mut names = Vec::new();
    for entry in listing {
        let entry = entry.map_err(|errno| file_error("list", shown, errno))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name == "." || name == ".." {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = statat(folder, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| file_error("stat", &shown.join(&name), errno))?;
                FileType::from_raw_mode(stat.st_mode)
            }
            known => known,
        };
        names.push((name, kind));
    }
    names.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(names)
}

/// Tells whether two handles are of one folder.
pub fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    let identity = |folder: &OwnedFd| fstat(folder).ok().map(|stat| (stat.st_dev, stat.st_ino));
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// Removes a file if it is there.
pub fn remove_if_there(folder: &OwnedFd, name: &str, shown: &Path) -> Result<()> {
    match unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(file_error("remove", &shown.join(name), errno)),
    }
}

/// Removes a folder with everything below it; an error says what is left.
pub fn remove_tree(folder: &OwnedFd, name: &str, shown: &Path) -> Result<()> {
    let below = match folder_at(folder.as_fd(), name, shown)? {
        Some(below) => below,
        None => return Ok(()),
    };
    remove_below(&below);
    match unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(file_error("remove", shown, errno)),
    }
}

/// Removes everything below a held folder, as far as that is possible.
///
/// Folders two levels down are moved up first, so that any depth takes three descriptors and no recursion.
pub fn remove_below(folder: &OwnedFd) {
    let mut moved = 0_u64;
    loop {
        let mut removed = false;
        for name in raw_names(folder) {
            removed |= unlinkat(folder, &*name, AtFlags::empty()).is_ok()
                || remove_folder(folder, &name, &mut moved);
        }
        if !removed {
            return;
        }
    }
}

/// Removes a folder whose own folders are moved beside it; tells whether it is gone.
fn remove_folder(folder: &OwnedFd, name: &CString, moved: &mut u64) -> bool {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || openat(folder, &**name, flags, Mode::empty());
    let below = open().or_else(|errno| {
        // A folder that its owner may not read; no link is followed, for such a one would have been unlinked.
        let _ = chmodat(folder, &**name, Mode::RWXU, NOFOLLOW);
        open().map_err(|_| errno)
    });
    let Ok(below) = below else { return false };
    for inner in raw_names(&below) {
        let remove = || unlinkat(&below, &*inner, AtFlags::empty());
        let mut removed = remove();
        if removed == Err(Errno::ACCESS) && fchmod(&below, Mode::RWXU).is_ok() {
            removed = remove();
        }
        if removed.is_ok() {
            continue;
        }
        *moved += 1;
        let beside = format!(".removed-{moved}");
        let mut up = renameat(&below, &*inner, folder, &*beside);
        if up == Err(Errno::ACCESS) && chmodat(&below, &*inner, Mode::RWXU, NOFOLLOW).is_ok() {
            up = renameat(&below, &*inner, folder, &*beside);
        }
        if up.is_err() && remove_folder(&below, &inner, moved) {
            let _ = remove();
        }
    }
    drop(below);
    unlinkat(folder, &**name, AtFlags::REMOVEDIR).is_ok()
}

fn raw_names(folder: &OwnedFd) -> Vec<CString> {
    let Ok(listing) = Dir::read_from(folder) else { return Vec::new() };
    let names = listing.flatten().map(|entry| entry.file_name().to_owned());
    names.filter(|name| !matches!(name.to_bytes(), b"." | b"..")).collect()
}

/// Moves to where nothing is; `EXIST` if something has come there.
pub fn rename_to_free(
    (from, name): (&OwnedFd, &str),
    (to, new_name): (&OwnedFd, &str),
) -> rustix::io::Result<()> {
    match renameat_with(from, name, to, new_name, RenameFlags::NOREPLACE) {
        // File systems that know no flags.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        done => return done,
    }
    match statat(to, new_name, NOFOLLOW) {
        Err(Errno::NOENT) => renameat(from, name, to, new_name),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

/// One call makes every file and folder of the file system durable; thousands of single ones would take
/// longer than writing the data.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub fn sync_below(folder: &OwnedFd, shown: &Path) -> Result<()> {
    rustix::fs::syncfs(folder).map_err(|errno| file_error("sync", shown, errno))?;
    #[cfg(test)]
    super::tests::note(folder);
    Ok(())
}

/// Makes every file and folder below durable, deepest first.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub fn sync_below(folder: &OwnedFd, shown: &Path) -> Result<()> {
    for (name, kind) in typed_names(folder, shown)? {
        let path = shown.join(&name);
        match kind {
            FileType::Directory => sync_below(&open_folder_at(folder, &name, &path)?, &path)?,
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let file = openat(folder, &*name, flags, Mode::empty())
                    .map_err(|errno| file_error("open", &path, errno))?;
                fsync(&file).map_err(|errno| file_error("sync", &path, errno))?;
            }
            _ => {}
        }
    }
    sync_folder(folder, shown)
}

/// Makes the entries of one folder durable.
pub fn sync_folder(folder: &OwnedFd, shown: &Path) -> Result<()> {
    fsync(folder).map_err(|errno| file_error("sync", shown, errno))?;
    #[cfg(test)]
    super::tests::note(folder);
    Ok(())
}
