//! A target may not be the repository that is read, nor lie in it, nor hold it.
//!
//! Paths are not enough: with a link or a bind mount, one folder has two. So device and inode of each ancestor are
//! compared, and, where a mount shows a part of a file system, the path of that part there.

use std::path::{Path, PathBuf};

use rustix::fs::stat;

use super::refused;
use crate::Result;
use crate::archive::repositories;
use crate::error::lift::io_error;

/// Refuses a target that is, holds, or lies in a repository; `repository` is the one that is read, if it is a
/// folder of this machine.
pub fn check_apart(target: &Path, repository: Option<&Path>) -> Result<()> {
    match meeting(target, repository)? {
        None => Ok(()),
        Some(Meeting::Repository(around)) => {
            let why = format!("{} is a repository, and a restore into it would damage it", around.display());
            Err(refused(target, &why))
        }
        Some(Meeting::Own(why)) => Err(refused(target, &format!("{why}; name another folder"))),
    }
}

/// How a folder and a repository meet.
#[derive(Debug)]
pub enum Meeting {
    /// The folder is, or lies in, this repository, whichever it is.
    Repository(PathBuf),
    /// It meets the one that is read; as words.
    Own(String),
}

/// Tells whether a folder is, holds, or lies in a repository.
pub fn meeting(folder: &Path, repository: Option<&Path>) -> Result<Option<Meeting>> {
    let there = existing(folder)?;
    if let Some(around) = repositories::around(&there) {
        return Ok(Some(Meeting::Repository(around)));
    }
    let Some(repository) = repository else { return Ok(None) };
    let Ok(repository) = std::fs::canonicalize(repository) else { return Ok(None) };
    let why = match relation(&there, folder.exists(), &repository) {
        None => return Ok(None),
        Some(Relation::Inside) => "it lies in the repository",
        Some(Relation::Around) => "the repository lies in it",
    };
    Ok(Some(Meeting::Own(format!("{why} ({})", repository.display()))))
}

enum Relation {
    /// The target is the repository, or lies in it.
    Inside,
    /// The repository lies in the target.
    Around,
}

fn relation(target: &Path, target_exists: bool, repository: &Path) -> Option<Relation> {
    let mounts = Mounts::read();
    let is_one = |one: &Path, other: &Path| identity(one).is_some() && identity(one) == identity(other);
    let parts = std::iter::once(repository.to_owned()).chain(folders_of(repository));
    let (of_target, of_repository) = (mounts.place(target), mounts.place(repository));
    let below = |inner: &Option<(String, PathBuf)>, outer: &Option<(String, PathBuf)>| match (inner, outer) {
        (Some(inner), Some(outer)) => inner.0 == outer.0 && inner.1.starts_with(&outer.1),
        _ => false,
    };
    let mut parts = parts;
    if below(&of_target, &of_repository)
        || parts.any(|part| target.ancestors().any(|ancestor| is_one(ancestor, &part)))
    {
        return Some(Relation::Inside);
    }
    // What is yet to be made holds nothing.
    let around = target_exists
        && (below(&of_repository, &of_target)
            || repository.ancestors().any(|ancestor| is_one(ancestor, target)));
    around.then_some(Relation::Around)
}

/// Returns the folders of a repository that a mount may show alone.
fn folders_of(repository: &Path) -> Vec<PathBuf> {
    repositories::FOLDERS.iter().chain(&["staging"]).map(|name| repository.join(name)).collect()
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    #[allow(clippy::unnecessary_cast, reason = "widths differ between systems")]
    stat(path).ok().map(|stat| (stat.st_dev as u64, stat.st_ino as u64))
}

/// Returns the path without links, as far as it exists.
fn existing(path: &Path) -> Result<PathBuf> {
    for ancestor in path.ancestors() {
        match std::fs::canonicalize(ancestor) {
            Ok(found) => return Ok(found),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // The step that opens the target says what is wrong.
            Err(_) => return Ok(ancestor.to_owned()),
        }
    }
    Err(io_error("find", path, std::io::Error::from(std::io::ErrorKind::NotFound)))
}

/// What is mounted where.
struct Mounts(Vec<Mount>);

struct Mount {
    device: String,
    /// The path on its file system of what is shown.
    root: PathBuf,
    /// Where it is shown.
    at: PathBuf,
}

impl Mounts {
    /// Reads them; there are none to know on systems that do not tell.
    fn read() -> Self {
        let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
        Self(String::from_utf8_lossy(&text).lines().filter_map(Mount::parse).collect())
    }

    /// Returns the file system that a path without links lies on, and its path there.
    fn place(&self, path: &Path) -> Option<(String, PathBuf)> {
        // The last of those mounted over one another is seen.
        let mounts = self.0.iter().filter(|mount| path.starts_with(&mount.at));
        let mount = mounts.max_by_key(|mount| mount.at.components().count())?;
        let rest = path.strip_prefix(&mount.at).ok()?;
        Some((mount.device.clone(), mount.root.join(rest)))
    }
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let root = PathBuf::from(unescape(fields.next()?));
        Some(Self { device, root, at: PathBuf::from(unescape(fields.next()?)) })
    }
}

/// Spaces and such are octal numbers there.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut rest = field;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let number = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match number {
            Some(byte) => {
                text.push(byte as char);
                rest = &rest[at + 4..];
            }
            None => {
                text.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    text + rest
}
