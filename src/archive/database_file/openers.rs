//! The processes that have a file open, as far as the system tells: `/proc`, for the processes that we may look at.
//!
//! If none is found, that proves nothing: processes of other users, of other containers and of other machines are not
//! shown. If one is found, the path by which it has opened the file is told.
//!
//! A process may hold files of a network file system whose server is gone, and to ask that file system about one of
//! them waits for ever. So the kernel's own notes are read first (`fdinfo`, `mountinfo`): they ask no file system.
//! Only a file on the same file system and with the same number is looked at itself.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many processes are looked at; more than a busy machine has.
const PROCESSES_MAX: usize = 100_000;
/// How many open files are looked at, of all processes together.
const FILES_MAX: usize = 1_000_000;
/// For how long they are looked at.
const TIME_MAX: Duration = Duration::from_secs(10);

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
/// Nothing is opened but notes of the kernel, so no lock is dropped. Bounded in number and in time.
pub fn openers(file: &File) -> io::Result<Vec<Opener>> {
    let Some(wanted) = Wanted::new(file)? else { return Ok(Vec::new()) };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Ok(Vec::new()) };
    let own = std::process::id();
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let others = pids.filter(|&pid| pid != own).take(PROCESSES_MAX);
    let mut look = Look { files: FILES_MAX, until: Instant::now() + TIME_MAX, identity_at: &mut identity_at };
    Ok(others.filter_map(|pid| look.opener(pid, &wanted)).collect())
}

/// The file that is looked for.
struct Wanted {
    /// As the file system tells it.
    identity: (u64, u64),
    /// The file system, as the kernel names it.
    place: String,
    /// The number of the file there, where the kernel notes it.
    number: Option<String>,
}

impl Wanted {
    /// Returns what is known of an open file; `None` where the kernel does not say on which mount it lies.
    fn new(file: &File) -> io::Result<Option<Self>> {
        let metadata = file.metadata()?;
        let own = Path::new("/proc/self");
        let Some(noted) = Noted::of(own, &file.as_raw_fd().to_string()) else { return Ok(None) };
        let Some(place) = device_of(own, &noted.mount) else { return Ok(None) };
        let identity = (metadata.dev(), metadata.ino());
        Ok(Some(Self { identity, place, number: noted.number }))
    }
}

/// What is left of a look.
struct Look<'a> {
    files: usize,
    until: Instant,
    /// Asks the file system.
    identity_at: &'a mut dyn FnMut(&Path) -> Option<(u64, u64)>,
}

fn identity_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

impl Look<'_> {
    fn opener(&mut self, pid: u32, wanted: &Wanted) -> Option<Opener> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        // Which mounts of the process are of the file system in question.
        let mut mounts: Option<Vec<String>> = None;
        for entry in std::fs::read_dir(process.join("fd")).ok()?.flatten() {
            self.files = self.files.checked_sub(1)?;
            if Instant::now() >= self.until {
                return None;
            }
            let name = entry.file_name();
            let Some(noted) = name.to_str().and_then(|name| Noted::of(&process, name)) else { continue };
            let is_other = wanted.number.is_some() && noted.number != wanted.number;
            if is_other
                || !mounts.get_or_insert_with(|| mounts_of(&process, &wanted.place)).contains(&noted.mount)
            {
                continue;
            }
            // Through the link, which leads to the file itself whatever its name is now.
            let link = entry.path();
            if (self.identity_at)(&link) == Some(wanted.identity) {
                return Some(Opener { pid, name: name_of(&process), path: std::fs::read_link(link).ok()? });
            }
        }
        None
    }
}

/// What the kernel notes of an open file.
struct Noted {
    /// The mount it was opened on.
    mount: String,
    /// Its number on the file system; older kernels do not say.
    number: Option<String>,
}

impl Noted {
    fn of(process: &Path, descriptor: &str) -> Option<Self> {
        let text = std::fs::read_to_string(process.join("fdinfo").join(descriptor)).ok()?;
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        Some(Self { mount: value("mnt_id")?, number: value("ino") })
    }
}

/// Returns the file system of a mount, as the kernel names it: all parts of one have one name.
fn device_of(process: &Path, mount: &str) -> Option<String> {
    mounts(process).into_iter().find(|(number, _)| number == mount).map(|(_, device)| device)
}

/// Returns the mounts of a file system that the process sees.
fn mounts_of(process: &Path, device: &str) -> Vec<String> {
    let of_it = mounts(process).into_iter().filter(|(_, of)| of == device);
    of_it.map(|(number, _)| number).collect()
}

fn mounts(process: &Path) -> Vec<(String, String)> {
    let text = std::fs::read(process.join("mountinfo")).unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split(' ');
        Some((fields.next()?.to_owned(), fields.nth(1)?.to_owned()))
    };
    String::from_utf8_lossy(&text).lines().filter_map(mount).collect()
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
        let mut asked = Vec::new();
        let mut within = |file: &File, files: usize, until: Instant| {
            let mut identity_at = |path: &Path| {
                asked.push(std::fs::read_link(path).unwrap());
                identity_at(path)
            };
            let found = Look { files, until, identity_at: &mut identity_at }
                .opener(child.id(), &Wanted::new(file).unwrap().unwrap());
            (found, std::mem::take(&mut asked))
        };
        let later = Instant::now() + TIME_MAX;
        let (found, asked) = within(&file, FILES_MAX, later);
        assert!(found.is_some());
        assert_eq!(asked, [other.canonicalize().unwrap()], "no other file of the process is asked for");
        // A file that nobody has open asks nobody's file system, be it the same or another, alive or dead.
        let unused = folder.path().join("unused");
        std::fs::write(&unused, "x").unwrap();
        for nobodys in [File::open(&unused).unwrap(), File::open("/proc/self/status").unwrap()] {
            assert_eq!(within(&nobodys, FILES_MAX, later), (None, Vec::new()));
        }
        assert_eq!(within(&file, 0, later).0, None, "bounded in number");
        assert_eq!(within(&file, FILES_MAX, Instant::now()).0, None, "bounded in time");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert_eq!(ours(&file), []);
    }
}
