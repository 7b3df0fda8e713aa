//! What this machine has seen of a location: which repositories lay there, and their newest snapshots.
//!
//! Whoever can write where a repository lies can lay another in its place, exchange its `config.toml` for a plain
//! one, or put back yesterday's copy. None of that shows in what lies there now; it shows beside what was seen.
//!
//! One small file per location, in the folder for state: unlike a cache it cannot be had again, so it does not lie
//! in one. Losing it costs the comparison and nothing else: a file that cannot be read, written or used is no error,
//! and counts as a first visit. A location may hold several repositories in turn, as when two disks are changed
//! over: each that was accepted once is known.

use std::fmt::Write as _;
use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::plain_file;

/// Raised when a file changes its meaning.
const VERSION: u32 = 1;
/// The longest file that is read; ours have some kilobytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Repositories remembered of one location; of more, those seen last.
const REPOSITORIES_MAX: usize = 16;
/// Snapshots remembered that are gone; of more, the newest.
const GONE_MAX: usize = 16;
/// How long another command may keep the folder. It takes a moment, unless it was stopped in the middle.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// How often it is looked whether it still does.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Whoever has it locked may change what is remembered in this folder.
const LOCK_FILE: &str = ".lock";

/// What was seen of one repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sighting {
    /// Its id.
    pub id: String,
    /// Whether it was encrypted.
    pub encrypted: bool,
    /// What tells its key from others, if it was opened; the key does not follow from it.
    pub key: Option<String>,
    /// The key file that opened it the last time.
    pub opened_with: Option<String>,
    /// The newest snapshot that was made or seen.
    pub newest: Option<String>,
    /// Snapshots that were the newest once and are gone; said until the change is accepted.
    pub gone: Vec<String>,
    /// When it was seen last.
    pub seen_at: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SeenFile {
    version: u32,
    location: String,
    /// The one seen last comes last.
    repositories: Vec<Sighting>,
}

/// The memory of one location.
#[derive(Debug, Default)]
pub struct Seen {
    path: Option<PathBuf>,
    location: String,
    repositories: Vec<Sighting>,
}

impl Seen {
    /// Reads what is remembered of a location. `place` tells it from every other, `location` names it for people.
    pub fn load(folder: Option<&Path>, place: &str, location: &str) -> Self {
        let digest = Sha256::digest(place.as_bytes());
        let path = folder.map(|folder| folder.join(format!("{}.json", hex::encode(&digest[..16]))));
        let repositories = path.as_deref().and_then(read).unwrap_or_default();
        Self { path, location: location.to_owned(), repositories }
    }

    /// Returns what was seen of this repository.
    pub fn of(&self, id: &str) -> Option<&Sighting> {
        self.repositories.iter().find(|sighting| sighting.id == id)
    }

    /// Returns what was seen last.
    pub fn last(&self) -> Option<&Sighting> {
        self.repositories.last()
    }

    /// Refuses a repository that is not one of those seen here: another id, or plain where it was encrypted.
    pub fn expect(&self, id: &str, encrypted: bool) -> Result<()> {
        let known = self.of(id);
        if known.is_some_and(|known| known.encrypted == encrypted) || self.repositories.is_empty() {
            return Ok(());
        }
        let Some(known) = known.or(self.last()) else { return Ok(()) };
        Err(self.exchanged(&format!(
            "was {}, and is {}",
            described(&known.id, known),
            described(id, &Sighting { encrypted, ..Sighting::default() })
        )))
    }

    /// Refuses a key that is not the one the repository was opened with before.
    pub fn expect_key(&self, id: &str, key: &str) -> Result<()> {
        match self.of(id).and_then(|known| known.key.as_deref()) {
            Some(known) if known != key => Err(self.exchanged(&format!(
                "{id} was sealed under another key than the one that now opens it: somebody has exchanged its key files"
            ))),
            _ => Ok(()),
        }
    }

    fn exchanged(&self, how: &str) -> Error {
        let message =
            format!("the repository at {} is not the one this machine saw there: it {how}", self.location);
        Error::new(ErrorKind::NotTheSame, message)
    }

    /// Returns the sighting as it is now, with the snapshots that are gone: those that were the newest, are not among
    /// `snapshots`, and were missed while nothing newer was there.
    pub fn compare(&self, id: &str, encrypted: bool, snapshots: &[&str]) -> Sighting {
        let known = self.of(id).cloned().unwrap_or_default();
        let newest_now = snapshots.iter().max().map(|newest| (*newest).to_owned());
        // What is gone while newer ones are there may have been forgotten, by another machine too; an older copy has
        // none that is newer.
        let is_overtaken = known.newest.as_ref() <= newest_now.as_ref();
        let missed = known.newest.iter().filter(|_| !is_overtaken);
        let mut gone: Vec<String> = known.gone.iter().chain(missed).cloned().collect();
        gone.retain(|name| !snapshots.contains(&name.as_str()));
        gone.sort();
        gone.dedup();
        let too_many = gone.len().saturating_sub(GONE_MAX);
        gone.drain(..too_many);
        Sighting { id: id.to_owned(), encrypted, newest: newest_now, gone, ..known }
    }

    /// Remembers a sighting, as the last one. That it cannot be written is no error.
    pub fn remember(&mut self, sighting: Sighting) {
        let Some(path) = self.path.clone() else { return };
        let alone = Alone::beside(&path);
        // Another command may have seen something meanwhile, of this repository or of another.
        let mut repositories = read(&path).unwrap_or_default();
        let theirs = repositories.iter().position(|known| known.id == sighting.id);
        let theirs = theirs.map(|place| repositories.remove(place));
        let sighting = match (theirs, self.of(&sighting.id)) {
            (Some(theirs), Some(before)) => sighting.and(theirs, before),
            (Some(theirs), None) => sighting.and(theirs, &Sighting::default()),
            (None, _) => sighting,
        };
        repositories.push(Sighting { seen_at: now(), ..sighting });
        let too_many = repositories.len().saturating_sub(REPOSITORIES_MAX);
        repositories.drain(..too_many);
        self.repositories.clone_from(&repositories);
        let file = SeenFile { version: VERSION, location: self.location.clone(), repositories };
        if let Err(error) = write(&path, &file) {
            tracing::warn!(target: "packvault::storage", why = %error, "what was seen cannot be remembered");
        }
        drop(alone);
    }
}

impl Sighting {
    /// Returns the sighting with what another command has remembered of the repository since both knew `before`.
    fn and(mut self, theirs: Self, before: &Self) -> Self {
        if theirs.newest != before.newest {
            self.newest = self.newest.max(theirs.newest);
        }
        // What they missed is missed; what they accepted is accepted.
        self.gone.retain(|name| theirs.gone.contains(name) || !before.gone.contains(name));
        self.gone.extend(theirs.gone.into_iter().filter(|name| !before.gone.contains(name)));
        self.gone.sort();
        self.gone.dedup();
        self.gone.drain(..self.gone.len().saturating_sub(GONE_MAX));
        self.key = self.key.or(theirs.key);
        self.opened_with = self.opened_with.or(theirs.opened_with);
        self
    }
}

/// Keeps other commands from what is remembered, for as long as it lives.
///
/// It is a lock on a file of its own, for the memory itself is exchanged with every sighting. Where it cannot be had -
/// the file system has no locks, or its holder was stopped - nobody waits for long: what may be lost then is what one of
/// two commands has seen.
struct Alone(Option<File>);

impl Alone {
    fn beside(path: &Path) -> Self {
        let until = Instant::now() + WAIT_MAX;
        let Some(folder) = path.parent().filter(|folder| make_folder(folder).is_ok()) else {
            return Self(None);
        };
        let Ok(file) = lock_file(&folder.join(LOCK_FILE)) else { return Self(None) };
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Self(Some(file)),
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) if Instant::now() < until => {
                    std::thread::sleep(LOOK_EVERY);
                }
                Err(_) => return Self(None),
            }
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // A child that is being started has a copy of the open file until it runs its program.
        let _ = self.0.as_ref().map(|file| flock(file, FlockOperation::Unlock));
    }
}

/// Opens the file, which nobody else needs: whoever may open it may keep it locked.
fn lock_file(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    let is_no_link = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = options.create(true).append(true).mode(0o600).custom_flags(is_no_link).open(path)?;
    // One that an earlier version made.
    if file.metadata()?.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(file)
}

/// Returns a sentence about the snapshots that are gone, if any are.
pub fn missing(sighting: &Sighting) -> Option<String> {
    let (newest, others) = sighting.gone.split_last()?;
    let mut text =
        format!("snapshot {newest}, the newest this machine made or saw, is no longer in the repository");
    if !others.is_empty() {
        let _ = write!(text, " (and {} before it)", others.len());
    }
    Some(text)
}

/// Returns the folder of the user in which a local repository lies, without links, so that it is known from wherever
/// a command is run.
pub(super) fn settled(path: &Path) -> PathBuf {
    let settled = std::fs::canonicalize(path).or_else(|_| std::path::absolute(path));
    settled.unwrap_or_else(|_| path.to_owned())
}

fn described(id: &str, sighting: &Sighting) -> String {
    let how = if sighting.encrypted { "encrypted" } else { "not encrypted" };
    match sighting.seen_at.is_empty() {
        true => format!("{id}, {how}"),
        false => format!("{id}, {how}, when it was seen last ({})", sighting.seen_at),
    }
}

fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn read(path: &Path) -> Option<Vec<Sighting>> {
    let file: SeenFile = serde_json::from_slice(&plain_file::read(path, FILE_BYTES_MAX).ok()?).ok()?;
    (file.version == VERSION).then_some(file.repositories)
}

fn make_folder(folder: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn write(path: &Path, file: &SeenFile) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    make_folder(folder)?;
    let mut written = tempfile::NamedTempFile::new_in(folder)?;
    written.write_all(&serde_json::to_vec(file)?)?;
    written.as_file().sync_all()?;
    written.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5d61e8af-fa85-4c85-a408-d2e53ac0ed20";
    const OTHER: &str = "00000000-fa85-4c85-a408-d2e53ac0ed20";

    fn load(folder: &Path) -> Seen {
        Seen::load(Some(folder), "/mnt/nas", "/mnt/nas")
    }

    fn seen(folder: &Path, id: &str, encrypted: bool, snapshots: &[&str]) -> Sighting {
        let mut memory = load(folder);
        let sighting = memory.compare(id, encrypted, snapshots);
        memory.remember(sighting.clone());
        sighting
    }

    #[test]
    fn a_first_visit_and_the_same_again_are_expected() {
        let folder = tempfile::tempdir().unwrap();
        load(folder.path()).expect(ID, true).unwrap();
        seen(folder.path(), ID, true, &["a"]);
        load(folder.path()).expect(ID, true).unwrap();
        Seen::load(Some(folder.path()), "/mnt/usb", "/mnt/usb").expect(OTHER, false).unwrap();
        Seen::load(None, "/mnt/nas", "/mnt/nas").expect(OTHER, false).unwrap();
    }

    #[test]
    fn another_repository_or_a_plain_one_is_refused_with_both_facts() {
        let folder = tempfile::tempdir().unwrap();
        seen(folder.path(), ID, true, &[]);
        for (id, encrypted) in [(OTHER, true), (OTHER, false), (ID, false)] {
            let error = load(folder.path()).expect(id, encrypted).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotTheSame);
            let said = error.to_string();
            let how = if encrypted { "encrypted" } else { "not encrypted" };
            assert!(said.contains(&format!("was {ID}, encrypted, when")), "{said}");
            assert!(said.ends_with(&format!("is {id}, {how}")) && said.contains("/mnt/nas"), "{said}");
        }
        // One that was accepted is known, and so is the first: disks are changed over.
        seen(folder.path(), OTHER, false, &[]);
        load(folder.path()).expect(ID, true).unwrap();
        load(folder.path()).expect(OTHER, false).unwrap();
        load(folder.path()).expect(OTHER, true).unwrap_err();
    }

    #[test]
    fn a_key_that_is_exchanged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let mut memory = load(folder.path());
        memory.expect_key(ID, "k1").unwrap();
        memory.remember(Sighting { key: Some("k1".to_owned()), ..memory.compare(ID, true, &[]) });
        load(folder.path()).expect_key(ID, "k1").unwrap();
        assert_eq!(load(folder.path()).expect_key(ID, "k2").unwrap_err().kind(), ErrorKind::NotTheSame);
        seen(folder.path(), ID, true, &["a"]);
        assert!(load(folder.path()).expect_key(ID, "k2").is_err(), "it is kept");
    }

    #[test]
    fn the_newest_that_is_gone_is_said_until_it_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(missing(&seen(folder.path(), ID, true, &["a", "c", "b"])), None);
        let text = missing(&seen(folder.path(), ID, true, &["a", "b"])).unwrap();
        assert!(text.contains("snapshot c,"), "{text}");
        // A new one hides nothing; the older of those that are gone is named too.
        assert!(missing(&seen(folder.path(), ID, true, &["a", "b", "d"])).unwrap().contains("snapshot c,"));
        assert!(missing(&seen(folder.path(), ID, true, &["a", "b"])).unwrap().contains("d, the newest"));
        assert!(missing(&seen(folder.path(), ID, true, &[])).unwrap().contains("(and 2 before it)"));
        assert_eq!(missing(&seen(folder.path(), ID, true, &["a", "b", "c", "d"])), None);
        // Those in the middle are not watched: retention takes them.
        assert_eq!(missing(&seen(folder.path(), ID, true, &["d"])), None);
        assert_eq!(
            missing(&seen(folder.path(), ID, true, &["a", "e"])),
            None,
            "somebody has made one and forgot d"
        );
    }

    #[test]
    fn a_file_that_is_damaged_foreign_or_in_the_way_counts_as_a_first_visit() {
        let folder = tempfile::tempdir().unwrap();
        seen(folder.path(), ID, true, &["a"]);
        let mut files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let path = files.find(|path| path.extension().is_some_and(|suffix| suffix == "json")).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            String::new(),
            "{".to_owned(),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"version\":1", "\"version\":2"),
            format!("{whole}{}", " ".repeat(300_000)),
        ] {
            std::fs::write(&path, damaged).unwrap();
            load(folder.path()).expect(OTHER, false).unwrap();
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        seen(folder.path(), ID, true, &["a"]);
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        seen(&file.join("deeper"), ID, true, &["a"]);
    }

    #[test]
    fn what_another_command_saw_meanwhile_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        seen(folder.path(), ID, true, &["a"]);
        // A list begins, a create makes a snapshot, and the list ends.
        let (mut lists, mut creates) = (load(folder.path()), load(folder.path()));
        let listed = lists.compare(ID, true, &["a"]);
        creates.remember(Sighting { key: Some("k".into()), ..creates.compare(ID, true, &["a", "b"]) });
        lists.remember(listed);
        let now = load(folder.path()).of(ID).cloned().unwrap();
        assert_eq!((now.newest.as_deref(), now.key.as_deref()), (Some("b"), Some("k")));
        // One misses it, while another accepts what was missed before.
        assert!(missing(&seen(folder.path(), ID, true, &[])).unwrap().contains("snapshot b"));
        let (mut lists, mut accepts) = (load(folder.path()), load(folder.path()));
        let listed = lists.compare(ID, true, &[]);
        accepts.remember(Sighting { gone: vec![], ..accepts.compare(ID, true, &[]) });
        lists.remember(listed);
        assert!(load(folder.path()).of(ID).unwrap().gone.is_empty());
        let (mut lists, mut misses) = (load(folder.path()), load(folder.path()));
        let listed = lists.compare(ID, true, &[]);
        misses.remember(Sighting { gone: vec!["c".into()], ..misses.compare(ID, true, &[]) });
        lists.remember(listed);
        assert_eq!(load(folder.path()).of(ID).unwrap().gone, ["c"]);
    }

    #[test]
    fn commands_that_remember_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        std::thread::scope(|scope| {
            for number in 0..8 {
                scope.spawn(move || (0..20).for_each(|_| drop(seen(path, &format!("{number}"), false, &[]))));
            }
        });
        assert_eq!(load(path).repositories.len(), 8);
    }

    #[test]
    fn whoever_was_stopped_while_it_remembered_is_not_waited_for_long() {
        let folder = tempfile::tempdir().unwrap();
        seen(folder.path(), ID, true, &["a"]);
        let stopped = Alone::beside(&folder.path().join("any.json"));
        assert!(stopped.0.is_some());
        seen(folder.path(), ID, true, &["a", "b"]);
        assert_eq!(load(folder.path()).of(ID).unwrap().newest.as_deref(), Some("b"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..40 {
            seen(folder.path(), &format!("{number:02}"), false, &[]);
            seen(folder.path(), ID, false, &[&format!("s{:02}", 99 - number)]);
        }
        let memory = load(folder.path());
        assert_eq!(memory.repositories.len(), REPOSITORIES_MAX);
        assert_eq!(memory.of(ID).unwrap().gone.len(), GONE_MAX);
        assert!(memory.of("00").is_none() && memory.of("39").is_some());
    }
}
