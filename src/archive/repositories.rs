//! Repositories of backup programs among the files: recognised, so that no backup stores itself.
//!
//! A folder counts as one only if what must be in a repository is all there: an application may well have a
//! `config.toml` beside a folder `snapshots`, and that is data.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::FileType;

use super::beneath::file_at;
use super::extras::Entry;

/// As much of a configuration as is looked at.
const CONFIG_BYTES_MAX: usize = 16 * 1024;

/// Tells what repository a folder is, from what lies in it.
pub fn recognise(folder: &OwnedFd, entries: &[Entry]) -> Option<&'static str> {
    let has = |kind: FileType, name: &str| {
        let found = entries.binary_search_by(|entry| entry.0.as_slice().cmp(name.as_bytes()));
        found.is_ok_and(|index| entries[index].1 == kind)
    };
    let folders = |names: &[&str]| names.iter().all(|name| has(FileType::Directory, name));
    let file = |name: &str| has(FileType::RegularFile, name);
    if file("config.toml") && folders(&["snapshots"]) {
        let is_whole = folders(&["packs", "indexes"]);
        let names_itself = || beginning(folder, "config.toml").lines().any(is_repository_id);
        if is_whole || names_itself() {
            return Some("it is a repository of packvault or msgvault");
        }
    }
    if file("config") && folders(&["data", "index", "keys", "snapshots"]) {
        return Some("it is a repository of restic or rustic");
    }
    if file("config") && folders(&["data"]) && beginning(folder, "config").starts_with("[repository]") {
        return Some("it is a repository of Borg");
    }
    if file("kopia.repository.f") || file("kopia.repository") {
        return Some("it is a repository of Kopia");
    }
    None
}

fn is_repository_id(line: &str) -> bool {
    line.trim_start().strip_prefix("repo_id").is_some_and(|rest| rest.trim_start().starts_with('='))
}

/// Returns the beginning of a file; nothing if it cannot be read.
fn beginning(folder: &OwnedFd, name: &str) -> String {
    use std::io::Read;
    let Ok(Some((file, _))) = file_at(folder, name, Path::new(name)) else { return String::new() };
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
        recognise(&folder, &entries)
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
    fn an_application_with_folders_of_such_names_is_none() {
        assert_eq!(recognised(&[("config.toml", "port = 80\nrepo_ids = 1")], &["snapshots"]), None);
        assert_eq!(recognised(&[("config", "port = 80")], &["data", "keys", "snapshots"]), None);
        assert_eq!(recognised(&[], &["config.toml", "snapshots", "packs", "indexes"]), None);
        assert_eq!(recognised(&[], &[]), None);
    }
}
