//! Who has a file open, as far as the system tells: `/proc`, for the processes we may look at.
//!
//! A look that finds nobody proves nothing: other users' processes, other containers and other machines
//! are not shown. One that finds somebody names the path under which he has it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How many processes are looked at; more than a busy machine has.
const PROCESSES_MAX: usize = 100_000;

/// Another process that has a file open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opener {
    /// The process.
    pub pid: u32,
    /// Its name, as the system shows it.
    pub name: String,
    /// The path of the file, as that process sees it.
    pub path: PathBuf,
}

/// Returns the other processes that have the file open, each once, under the first of its paths.
///
/// Nothing is opened, so no lock is dropped.
pub fn openers(file: &File) -> io::Result<Vec<Opener>> {
    let wanted = file.metadata()?;
    let wanted = (wanted.dev(), wanted.ino());
    let Ok(processes) = std::fs::read_dir("/proc") else { return Ok(Vec::new()) };
    let own = std::process::id();
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|&pid| pid != own).take(PROCESSES_MAX);
    Ok(others.filter_map(|pid| opener(pid, wanted)).collect())
}

fn opener(pid: u32, wanted: (u64, u64)) -> Option<Opener> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let link =
        std::fs::read_dir(process.join("fd")).ok()?.flatten().map(|entry| entry.path()).find(|link| {
            // Through the link, which leads to the file itself whatever its name is now.
            std::fs::metadata(link).is_ok_and(|found| (found.dev(), found.ino()) == wanted)
        })?;
    let name = name_of(&process);
    Some(Opener { pid, name, path: std::fs::read_link(link).ok()? })
}

fn name_of(process: &Path) -> String {
    std::fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn another_process_that_has_the_file_open_is_named_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&path, "x").unwrap();
        std::fs::hard_link(&path, &other).unwrap();
        let file = File::open(&path).unwrap();
        let ours = |file: &File| openers(file).unwrap();
        assert_eq!(ours(&file), []);
        let mut child = Command::new("cat")
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(std::fs::OpenOptions::new().append(true).open(&other).unwrap())
            .spawn()
            .unwrap();
        let found = ours(&file);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].pid, &found[0].path), (child.id(), &other.canonicalize().unwrap()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(ours(&file), []);
    }
}
