//! Whether the log of a database lies beside the path that we were given.
//!
//! SQLite names the log after the path under which it opened the database. A database has several paths if it
//! has a second hard link, or if the file alone is mounted into a container. A program that opens it by
//! another path has its log elsewhere, and without that log we would read an old or a torn state. The locks show it,
//! because they belong to the file and not to its name: a program that has a lock on the database, and none on the log
//! beside our path, has another log.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Facts, Opener, ShownLock, Sidecar, lock_shown, log_lock_shown, openers, sidecar, sidecar_bytes};
use crate::error::lift::io_error;
use crate::{Error, ErrorKind, Result};

/// For how long somebody may hold the database without its log: he is just opening or closing it.
const PASSING: Duration = Duration::from_millis(1500);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(25);
/// Where the index of a log says how many frames checkpoints have written to the main file.
const CHECKPOINTED: u64 = 96;
/// And how many the last of them set out to write.
const CHECKPOINT_BEGUN: u64 = 128;
/// How many names of the folder are compared with a file that has several.
const SIBLINGS_MAX: usize = 100_000;

/// Looks for the log of one database. Keeps its handle of the log's index: it must be dropped after SQLite
/// has closed the database.
#[derive(Debug, Default)]
pub struct LogPlace {
    /// What was opened; the last is what lies there now.
    index: Mutex<Vec<File>>,
}

/// How many frames of a log have been written to the main file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoints {
    /// By checkpoints that are over.
    done: u32,
    /// By these and the one that is under way, at most.
    begun: u32,
}

impl Checkpoints {
    /// Tells whether a checkpoint may have written to the main file since.
    pub fn went_on_since(&self, before: &Self) -> bool {
        self != before || before.begun > before.done
    }
}

/// Which program holds the database, and whether the log beside our path is in use.
struct Use {
    holder: Option<ShownLock>,
    log: LogUse,
}

enum LogUse {
    /// Nobody uses a log beside our path.
    Nobody,
    /// Somebody does.
    Holder(ShownLock),
    /// There is one that we may not open.
    Hidden,
}

impl LogPlace {
    /// Refuses if the log may lie elsewhere. `main` is the scan handle, `path` is resolved.
    pub fn check(&self, main: &File, path: &Path) -> Result<()> {
        let facts = Facts::of(main).map_err(|error| io_error("look at the database", path, error))?;
        let found = self.settled(main, path, &facts)?;
        let uses_ours = match (&found.holder, &found.log) {
            (Some(holder), LogUse::Holder(user)) => is_user(*holder, *user, &self.index),
            _ => false,
        };
        let has_log = facts.says_wal() || sidecar_bytes(path, Sidecar::Wal)?.is_some();
        if let Some(holder) = found.holder.filter(|_| has_log && !uses_ours)
            && !matches!(found.log, LogUse::Hidden)
        {
            return Err(elsewhere(main, path, holder));
        }
        if uses_ours {
            return Ok(());
        }
        if facts.is_mount_root {
            return Err(bound(path));
        }
        if facts.names > 1 {
            return check_names(path, &facts);
        }
        Ok(())
    }

    /// Refuses if somebody uses another log now; for the end of a reading.
    pub fn check_again(&self, main: &File, path: &Path) -> Result<()> {
        let facts = Facts::of(main).map_err(|error| io_error("look at the database", path, error))?;
        if !facts.says_wal() {
            return Ok(());
        }
        let found = self.settled(main, path, &facts)?;
        match (found.holder, found.log) {
            (Some(holder), LogUse::Nobody) => Err(elsewhere(main, path, holder)),
            _ => Ok(()),
        }
    }

    /// Looks until what is found is more than the moment in which somebody opens or closes the database.
    fn settled(&self, main: &File, path: &Path, facts: &Facts) -> Result<Use> {
        let deadline = Instant::now() + PASSING;
        loop {
            let found = self.look(main, path)?;
            let is_odd = found.holder.is_some() && matches!(found.log, LogUse::Nobody);
            // Without a log its readers hold no log.
            if !is_odd || !facts.says_wal() || Instant::now() >= deadline {
                return Ok(found);
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn look(&self, main: &File, path: &Path) -> Result<Use> {
        // Where there are no locks nobody shows, and what the files tell must do.
        let holder = lock_shown(main).unwrap_or_default();
        // Nobody of another process: then the index, which this process may use, is left alone.
        let log = match holder {
            None => LogUse::Nobody,
            Some(_) => self.log_use(path)?,
        };
        Ok(Use { holder, log })
    }

    /// Returns how far checkpoints have come, as the log's index says; `None` if that cannot be known.
    pub fn checkpoints(&self, path: &Path) -> Option<Checkpoints> {
        self.log_use(path).ok()?;
        let held = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |offset| {
            let mut bytes = [0; 4];
            held.last()?.read_exact_at(&mut bytes, offset).ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        Some(Checkpoints { done: number(CHECKPOINTED)?, begun: number(CHECKPOINT_BEGUN)? })
    }

    fn log_use(&self, path: &Path) -> Result<LogUse> {
        let shm = sidecar(path, Sidecar::Shm);
        let mut held = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(named) = std::fs::symlink_metadata(&shm) else { return Ok(LogUse::Nobody) };
        let is_held = |file: &File| {
            file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (named.dev(), named.ino()))
        };
        if !held.last().is_some_and(is_held) {
            match File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&shm) {
                Ok(file) => held.push(file),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(LogUse::Nobody),
                Err(_) => return Ok(LogUse::Hidden),
            }
        }
        let Some(index) = held.last() else { return Ok(LogUse::Nobody) };
        let shown = log_lock_shown(index).unwrap_or_default();
        Ok(shown.map_or(LogUse::Nobody, LogUse::Holder))
    }
}

/// Tells whether the holder of the database uses the log that the user of it uses.
fn is_user(holder: ShownLock, user: ShownLock, index: &Mutex<Vec<File>>) -> bool {
    let (Some(pid), true) = (holder.pid, holder.pid != user.pid) else { return true };
    // Several processes have the database open, and the system shows one of each.
    let held = index.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(index) = held.last() else { return true };
    let may_look = std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok();
    !may_look || openers(index).is_ok_and(|found| found.iter().any(|opener| opener.pid == pid))
}

/// A file with several names is sound if all of them are known and no log lies beside another.
fn check_names(path: &Path, facts: &Facts) -> Result<()> {
    let siblings = names_in_folder(path, facts);
    for sibling in &siblings {
        for which in [Sidecar::Wal, Sidecar::Journal] {
            if sidecar_bytes(sibling, which)?.unwrap_or_default() > 0 {
                let message = format!(
                    "the database {} has a second name, {}, beside which its log lies: give packvault that name",
                    path.display(),
                    sibling.display()
                );
                return Err(Error::new(ErrorKind::Source, message));
            }
        }
    }
    if siblings.len() as u64 + 1 >= facts.names {
        return Ok(());
    }
    let message = format!(
        "the database {} has {} names (hard links), and its log may lie beside another one: remove those that \
         its application does not use (`find FOLDER -samefile {0}` lists them), or start the application so that \
         its log can be seen",
        path.display(),
        facts.names
    );
    Err(Error::new(ErrorKind::Source, message))
}

/// Returns the other names of the file in its folder.
fn names_in_folder(path: &Path, facts: &Facts) -> Vec<PathBuf> {
    let entries = path.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let paths = entries.into_iter().flatten().take(SIBLINGS_MAX).flatten().map(|entry| entry.path());
    let is_same = |other: &PathBuf| {
        other != path
            && std::fs::symlink_metadata(other)
                .is_ok_and(|found| (found.dev(), found.ino()) == facts.identity)
    };
    paths.filter(is_same).collect()
}

fn bound(path: &Path) -> Error {
    let message = format!(
        "the database {} is bound into its place as a single file, so its log is not beside it: bind the folder \
         that holds the database, and give packvault its path there",
        path.display()
    );
    Error::new(ErrorKind::Source, message)
}

fn elsewhere(main: &File, path: &Path, holder: ShownLock) -> Error {
    let found = openers(main).unwrap_or_default();
    let opener = found.iter().find(|opener| Some(opener.pid) == holder.pid).or(found.first());
    let who = opener.map_or_else(
        || "somebody in another container or on another machine has it open under another path".to_owned(),
        |opener| format!("process {} ({}) has it open as {}", opener.pid, opener.name, opener.path.display()),
    );
    let remedy = match opener.filter(|opener| is_another_name(opener, main, path)) {
        Some(opener) => format!("give packvault the path {}", opener.path.display()),
        None => "give packvault the path that its application uses, with the folder around it".to_owned(),
    };
    let message = format!("the log of the database {} is not beside it: {who}; {remedy}", path.display());
    Error::new(ErrorKind::Source, message)
}

/// Tells whether the path of the opener leads to the database from here too.
fn is_another_name(opener: &Opener, main: &File, path: &Path) -> bool {
    let (Ok(named), Ok(main)) = (std::fs::metadata(&opener.path), main.metadata()) else { return false };
    opener.path != path && (named.dev(), named.ino()) == (main.dev(), main.ino())
}
