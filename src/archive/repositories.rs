//! Repositories of backup programs among the files: recognised, so that no backup stores itself.
//!
//! A folder counts as a repository only if everything is there that a repository must have: an application may well have
//! a `config.toml` beside a folder `snapshots`, and that is data. A restore uses the same check for the folders around
//! its target, where strangers may have put something.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::process::geteuid;

use super::beneath::file_at;
use super::extras::Entry;
use crate::format::{RepoId, SnapshotId};

/// As much of a configuration as is looked at.
const CONFIG_BYTES_MAX: usize = 16 * 1024;
/// How many names in a folder are looked at for that of a snapshot.
const NAMES_MAX: usize = 10_000;

/// The folders of a repository of our kind.
pub const FOLDERS: [&str; 4] = ["packs", "indexes", "snapshots", "locks"];

/// A folder that is a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recognised {
    /// What it is, as a sentence.
    pub what: &'static str,
    /// Which one, if it is of our kind and says so.
    pub id: Option<RepoId>,
}

/// Tells what repository a folder is, from what lies in it.
pub fn recognise(folder: &OwnedFd, entries: &[Entry]) -> Option<Recognised> {
    let of_another = |what| Some(Recognised { what, id: None });
    let has = |kind: FileType, name: &str| {
        let found = entries.binary_search_by(|entry| entry.0.as_slice().cmp(name.as_bytes()));
        found.is_ok_and(|index| entries[index].1 == kind)
    };
    let folders = |names: &[&str]| names.iter().all(|name| has(FileType::Directory, name));
    let file = |name: &str| has(FileType::RegularFile, name);
    if file("config.toml") && folders(&["snapshots"]) {
        let id = id_in(&beginning(folder, "config.toml"));
        if id.is_some() || folders(&["packs", "indexes"]) {
            return Some(Recognised { what: "it is a repository of packvault or msgvault", id });
        }
    }
    if file("config") && folders(&["data", "index", "keys", "snapshots"]) {
        return of_another("it is a repository of restic or rustic");
    }
    if file("config") && folders(&["data"]) && beginning(folder, "config").starts_with("[repository]") {
        return of_another("it is a repository of Borg");
    }
    if file("kopia.repository.f") || file("kopia.repository") {
        return of_another("it is a repository of Kopia");
    }
    None
}

/// Returns the repository of our kind that a path is, or lies in; what is missing of the path counts as it would be made.
pub fn around(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find_map(|ancestor| std::fs::canonicalize(ancestor).ok())?;
    there.ancestors().find(|ancestor| is_repository(ancestor)).map(Path::to_owned)
}

/// Tells whether a folder is a repository of our kind, for whoever would write into it.
///
/// Names alone prove little: an application may have them. And in a folder that everybody may write to, such as
/// `/tmp`, anybody can lay them out to be in somebody's way: what a stranger has put there does not count.
fn is_repository(folder: &Path) -> bool {
    let Ok(place) = std::fs::metadata(folder) else { return false };
    let is_laid = |name: &str| {
        let found = std::fs::symlink_metadata(folder.join(name));
        found.is_ok_and(|found| is_trusted(found.uid(), (place.uid(), place.mode()), geteuid().as_raw()))
    };
    let is_folder = |name: &str| is_laid(name) && folder.join(name).is_dir();
    if !is_laid("config.toml") || !FOLDERS.iter().all(|name| is_folder(name)) {
        return false;
    }
    // A torn configuration says nothing, and one that may not be read neither; its snapshots do.
    let config = beginning_at(&folder.join("config.toml"));
    config.is_some_and(|config| id_in(&config).is_some()) || has_snapshots(&folder.join("snapshots"))
}

/// Tells whether the owner of a name is the user, or one whom the user has to trust in that folder, of which
/// `place` is the owner and mode.
fn is_trusted(owner: u32, (place_owner, place_mode): (u32, u32), user: u32) -> bool {
    const EVERYBODY_OR_STICKY: u32 = 0o1002;
    place_mode & EVERYBODY_OR_STICKY == 0 || [0, user, place_owner].contains(&owner)
}

/// Tells whether a folder holds something with the name of a snapshot, or may not be looked into.
fn has_snapshots(folder: &Path) -> bool {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return error.kind() == std::io::ErrorKind::PermissionDenied,
    };
    let is_one = |name: OsString| name.to_str().and_then(snapshot_in).is_some();
    entries.flatten().take(NAMES_MAX).any(|entry| is_one(entry.file_name()))
}

fn snapshot_in(name: &str) -> Option<SnapshotId> {
    SnapshotId::parse(name.strip_suffix(".mvmanifest")?).ok()
}

/// Returns the beginning of a plain file; never waits for what is none.
fn beginning_at(path: &Path) -> Option<String> {
    let no_wait = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(no_wait).open(path).ok()?;
    file.metadata().is_ok_and(|metadata| metadata.is_file()).then(|| beginning_of(file))
}

/// Returns which repository a configuration is of. Torn or of a newer version, it says so all the same.
pub fn id_in(config: &str) -> Option<RepoId> {
    let id = |line: &str| {
        let value = line.trim().strip_prefix("repo_id")?.trim_start().strip_prefix('=')?.trim_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        RepoId::parse(value[1..].split(quote).next()?).ok()
    };
    config.lines().find_map(id)
}

/// Returns the beginning of a file; nothing if it cannot be read.
fn beginning(folder: &OwnedFd, name: &str) -> String {
    let found = file_at(folder, name, Path::new(name));
    found.ok().flatten().map(|(file, _)| beginning_of(file)).unwrap_or_default()
}

fn beginning_of(file: File) -> String {
    let mut bytes = Vec::new();
    let read = file.take(CONFIG_BYTES_MAX as u64).read_to_end(&mut bytes);
    read.map(|_| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::archive::beneath::open_folder;
    use crate::archive::extras::entries;

    const ID: &str = "5d61e8af-fa85-4c85-a408-d2e53ac0ed20";

    fn recognised(files: &[(&str, &str)], folders: &[&str]) -> Option<&'static str> {
        let scratch = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir(scratch.path().join(folder)).unwrap();
        }
        for (name, text) in files {
            fs::write(scratch.path().join(name), text).unwrap();
        }
        let folder = open_folder(scratch.path()).unwrap();
        let entries = entries(&folder, scratch.path()).unwrap();
        recognise(&folder, &entries).map(|found| found.what)
    }

    #[test]
    fn repositories_are_recognised_by_what_must_be_in_them() {
        let ours = [("config.toml", "# mine\nrepo_id = \"5d61e8af-fa85-4c85-a408-d2e53ac0ed20\"\n")];
        assert!(recognised(&ours, &["snapshots"]).unwrap().contains("packvault"));
        assert!(recognised(&[("config.toml", "torn")], &["snapshots", "packs", "indexes"]).is_some());
        let restic = ["data", "index", "keys", "locks", "snapshots"];
        assert!(recognised(&[("config", "\x01")], &restic).unwrap().contains("restic"));
        assert!(
            recognised(&[("config", "[repository]\nversion = 1\n")], &["data"]).unwrap().contains("Borg")
        );
        assert!(recognised(&[("kopia.repository.f", "")], &[]).unwrap().contains("Kopia"));
    }

    #[test]
    fn which_repository_it_is_stands_in_its_configuration() {
        let id = RepoId::parse(ID).unwrap();
        for config in [
            format!("# mine\nrepo_id = \"{ID}\"\nformat_version = 1\n"),
            format!("\r\n  repo_id='{ID}' # so\r\n"),
            format!("format_version = 9\nkey = \"\"\nrepo_id   =   \"{ID}"),
        ] {
            assert_eq!(id_in(&config), Some(id.clone()), "{config}");
        }
        for config in ["", "repo_id", "repo_id =", "repo_id = \"", "repo_id = 5d61e8af", "#repo_id = \"\""] {
            assert_eq!(id_in(config), None, "{config}");
        }
    }

    fn laid_out(config: &str) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        FOLDERS.iter().for_each(|name| fs::create_dir(scratch.path().join(name)).unwrap());
        fs::write(scratch.path().join("config.toml"), config).unwrap();
        scratch
    }

    #[test]
    fn what_would_be_written_into_is_a_repository_only_if_its_configuration_or_a_snapshot_says_so() {
        let is_one = |scratch: &tempfile::TempDir| is_repository(scratch.path());
        let ours = laid_out(&format!("repo_id = \"{ID}\"\n"));
        assert!(is_one(&ours));
        assert_eq!(around(&ours.path().join("packs/new/deep")), std::fs::canonicalize(ours.path()).ok());
        assert_eq!(around(&ours.path().parent().unwrap().join("new")), None);
        fs::remove_dir(ours.path().join("locks")).unwrap();
        assert!(!is_one(&ours), "something is missing");
        let application = laid_out("port = 80\n");
        assert!(!is_one(&application));
        fs::write(application.path().join("snapshots/daily.json"), "").unwrap();
        assert!(!is_one(&application));
        let torn = laid_out("");
        let snapshot = "snapshots/20261123T204517Z-a3d383f8178590a92e4fc25f5cbd274b.mvmanifest";
        fs::write(torn.path().join(snapshot), "").unwrap();
        assert!(is_one(&torn));
        // What nobody writes to is not waited for.
        let waiting = laid_out("");
        fs::remove_file(waiting.path().join("config.toml")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(waiting.path().join("config.toml")).status();
        assert!(made.unwrap().success() && !is_one(&waiting));
    }

    #[test]
    fn what_a_stranger_has_laid_where_everybody_may_write_does_not_count() {
        const USER: u32 = 1000;
        const STRANGER: u32 = 1001;
        for (owner, place, trusted) in [
            (USER, (0, 0o1777), true),
            (0, (0, 0o1777), true),
            (STRANGER, (0, 0o1777), false),
            (STRANGER, (0, 0o777), false),
            (STRANGER, (0, 0o1770), false),
            // The folder is his own, with all that is in it.
            (STRANGER, (STRANGER, 0o1777), true),
            // Only those write here who are let.
            (STRANGER, (0, 0o775), true),
            (STRANGER, (0, 0o2770), true),
        ] {
            assert_eq!(is_trusted(owner, place, USER), trusted, "{owner} {place:?}");
        }
    }

    #[test]
    fn an_application_with_folders_of_such_names_is_none() {
        assert_eq!(recognised(&[("config.toml", "port = 80\nrepo_ids = 1")], &["snapshots"]), None);
        assert_eq!(recognised(&[("config.toml", "repo_id = \"main\"")], &["snapshots"]), None);
        assert_eq!(recognised(&[("config", "port = 80")], &["data", "keys", "snapshots"]), None);
        assert_eq!(recognised(&[], &["config.toml", "snapshots", "packs", "indexes"]), None);
        assert_eq!(recognised(&[], &[]), None);
    }
}
