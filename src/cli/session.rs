//! What one run of the program has at hand: the settings, the progress, the cancellation, and standard output.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use packvault::archive::drill;
use packvault::engine::{self, Context};
use packvault::format::BlobId;
use packvault::format::KeyName;
use packvault::location::append_only::AppendOnly;
use packvault::location::{self, Opening, Purpose, Retries};
use packvault::repo::{Repository, Storage};
use packvault::{Cancel, Error, ErrorKind, Location, Result};
use serde::Serialize;

use super::application::PausableApplication;
use super::door::{Door, Entered, FoundKeys, Known};
use super::interrupt::{self, Paused};
use super::key_flags::KeyFlags;
use super::log::Log;
use super::outlet::OUTPUT;
use super::record::Record;
use super::render::{Renderer, Style};
use super::report::Exit;
use super::settings::{Archive, Environment, RepositoryChoice, Settings, given};
use super::{Globals, awaited, outlet, report};

/// Returns how many pieces of work are done at once: as many as there are cores, unless the user says otherwise.
pub fn jobs(asked: Option<u16>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    asked.map_or_else(cores, usize::from)
}

/// One run of the program.
pub struct Session {
    globals: Globals,
    settings: Settings,
    renderer: Arc<Renderer>,
    cancel: Cancel,
    /// What had to be asked of servers again.
    retried: Arc<Retries>,
    /// Whether what is wrong with the settings was said.
    warned: AtomicBool,
    /// What was said that is not to be said again.
    said: Arc<Mutex<BTreeSet<String>>>,
    paused: Paused,
    /// The keys that were found.
    keys: Arc<FoundKeys>,
    /// What this machine knows of the repository that was opened last.
    known: Mutex<Option<Known>>,
    /// The repository that the user meant.
    chosen: Mutex<Option<RepositoryChoice>>,
    /// What the ledger gets to know of this run.
    record: Record,
}

impl Session {
    /// Starts the progress, listens for Ctrl-C, and reads the settings.
    pub fn start(globals: Globals) -> Result<Self> {
        let renderer = Renderer::start(match globals.quiet {
            true => Style::None,
            false => globals.log.style(globals.progress),
        });
        let cancel = Cancel::new();
        outlet::start(&cancel)?;
        let paused = Paused::default();
        interrupt::watch(cancel.clone(), Arc::clone(&renderer), Arc::clone(&paused))?;
        // The configuration may be a pipe.
        let settings = awaited::unless_stopped(&cancel, || Settings::load(Environment::read()))?;
        let (retried, warned) = (Arc::default(), AtomicBool::new(false));
        let (said, known, chosen) = (Arc::default(), Mutex::default(), Mutex::default());
        let (keys, record) = Default::default();
        Ok(Self {
            globals,
            settings,
            renderer,
            cancel,
            retried,
            warned,
            said,
            paused,
            keys,
            known,
            chosen,
            record,
        })
    }

    /// Starts the log, if anything asks for it.
    pub fn log(&self) -> Result<Log> {
        self.globals.log.start(&self.settings)
    }

    /// Returns where it is marked that restored files lie somewhere for a while.
    pub fn marks(&self) -> Option<PathBuf> {
        self.settings.state().map(|state| state.join("scratch"))
    }

    /// Removes what killed restore checks have left.
    pub fn sweep(&self) {
        if let Some(marks) = self.marks() {
            drill::sweep(&marks);
        }
    }

    /// Returns what the ledger gets to know of this run.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Returns a session for one step of several: the same settings, a progress of its own, and `repository`, if it is
    /// given, as if `--repo` had named it.
    pub fn at(&self, repository: Option<&str>) -> Self {
        let mut globals = self.globals.clone();
        globals.repo = repository.map(str::to_owned).or(globals.repo);
        let style = if globals.quiet { Style::None } else { globals.log.style(globals.progress) };
        Self {
            globals,
            settings: self.settings.clone(),
            renderer: Renderer::start(style),
            cancel: self.cancel.clone(),
            retried: Arc::default(),
            // It was said, or will be, by the session of them all.
            warned: AtomicBool::new(true),
            said: Arc::clone(&self.said),
            paused: Arc::clone(&self.paused),
            keys: Arc::clone(&self.keys),
            known: Mutex::default(),
            chosen: Mutex::default(),
            record: Record::default(),
        }
    }

    /// Tells whether a flag or the environment names the repository, whatever the archive is.
    pub fn names_a_repository(&self) -> bool {
        self.globals.repo.is_some() || self.settings.environment().repository.is_some()
    }

    /// Tells whether anything near at hand may be used in place of what is read anew.
    pub fn uses_cache(&self) -> bool {
        !self.globals.no_cache
    }

    /// Returns whether results are shown only where they were asked for.
    pub fn is_quiet(&self) -> bool {
        self.globals.quiet
    }

    /// Returns what the user has settled beforehand.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Says, once, that something is wrong with the configuration, of which nothing was needed.
    pub fn warn_of_settings(&self) {
        let Some(problem) = self.settings.problem() else { return };
        if !self.warned.swap(true, Ordering::Relaxed) {
            self.warn(&format!("the configuration is wrong, and what is wrong in it is not used: {problem}"));
        }
    }

    /// Returns the archive the user means.
    pub fn archive(&self, given: Option<&Path>) -> Result<Archive> {
        self.settings.archive(given)
    }

    /// Returns where the repository lies that the user means, which may depend on the archive, and how it
    /// is opened.
    pub fn location(&self, archive: Option<&Archive>, purpose: Purpose) -> Result<(Location, Opening)> {
        self.chosen(archive, purpose).map(|(choice, opening)| (choice.location, opening))
    }

    /// Returns the flags that say how an encrypted repository is opened.
    pub fn key_flags(&self) -> &KeyFlags {
        &self.globals.key
    }

    /// Returns the keys that this session and those of its steps have found.
    pub fn found_keys(&self) -> &FoundKeys {
        &self.keys
    }

    /// Returns which repository the user means, and how it is opened.
    pub fn chosen(&self, archive: Option<&Archive>, purpose: Purpose) -> Result<(RepositoryChoice, Opening)> {
        let choice = self.settings.repository(self.globals.repo.as_deref(), archive)?;
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = Some(choice.clone());
        self.opening_of(choice, purpose)
    }

    /// Returns the repository that this flag names, and how it is opened.
    pub fn chosen_by(
        &self,
        flag: &'static str,
        text: &str,
        purpose: Purpose,
    ) -> Result<(RepositoryChoice, Opening)> {
        self.opening_of(self.settings.repository_named(flag, text)?, purpose)
    }

    fn opening_of(&self, choice: RepositoryChoice, purpose: Purpose) -> Result<(RepositoryChoice, Opening)> {
        self.warn_of_settings();
        let mut opening = self.settings.opening(&choice, purpose, self.cancel.clone(), self.progress())?;
        opening.retried = Arc::clone(&self.retried);
        let Globals { limit_upload, limit_download, spool, .. } = &self.globals;
        opening.upload_max = limit_upload.map(|size| size.0).or(opening.upload_max);
        opening.download_max = limit_download.map(|size| size.0).or(opening.download_max);
        if let Some(spool) = spool {
            given::refuse_tilde(spool, "--spool", self.settings.user_home())?;
            given::refuse_in_repository(spool, "--spool")?;
            opening.spool = spool.clone();
        }
        let location = self.settings.located(&choice, &self.cancel)?;
        Ok((RepositoryChoice { location, ..choice }, opening))
    }

    /// Fails where the configuration says that this client removes nothing of the repository.
    pub fn expect_removable(&self, archive: Option<&Archive>) -> Result<()> {
        self.expect_removable_at(&self.settings.repository(self.globals.repo.as_deref(), archive)?)
    }

    /// The same of this repository.
    pub fn expect_removable_at(&self, choice: &RepositoryChoice) -> Result<()> {
        match self.settings.is_append_only(&choice.location) {
            true => {
                let message =
                    "the configuration says append_only of this repository: nothing is removed there";
                Err(Error::new(ErrorKind::Refused, message))
            }
            false => Ok(()),
        }
    }

    /// Names the copies that could heal the repository that was chosen, as far as the configuration knows any.
    /// Returns the first of them, as a word for a shell.
    pub fn name_copies(&self) -> Option<String> {
        let choice = self.chosen.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let here = self.globals.repo.clone().unwrap_or_else(|| choice.location.to_string());
        let copies = self.settings.copies_of(&choice);
        let (first, others) = copies.split_first()?;
        let others = match others {
            [] => String::new(),
            others => format!(", or from {}", others.join(", ")),
        };
        let (here, first) = (super::text::shell_word(&here), super::text::shell_word(first));
        report::say(&format!("hint: packvault heal --repo {here} --from {first} may heal it{others}\n"));
        Some(first)
    }

    /// Refuses `--repo` where a command has other words for its repositories.
    pub fn refuse_repo_flag(&self, instead: &str) -> Result<()> {
        match &self.globals.repo {
            Some(_) => Err(Error::new(ErrorKind::Usage, format!("--repo: {instead}"))),
            None => Ok(()),
        }
    }

    /// Returns the folder in which the repository lies, if it is one of this machine.
    pub fn local_repository(&self, archive: Option<&Archive>) -> Result<Option<PathBuf>> {
        Ok(match self.location(archive, Purpose::Work)?.0 {
            Location::Local(folder) => Some(folder),
            _ => None,
        })
    }

    /// Opens the storage, and shows what passes to and from it.
    pub async fn open(&self, location: &Location, opening: &Opening) -> Result<Arc<dyn Storage>> {
        self.record.opening(self, location);
        let opened = location.open(opening).await?;
        if let Some(wire) = opened.wire {
            self.record.wire(&wire);
            self.renderer.watch_transfers(wire);
        }
        Ok(match self.settings.is_append_only(location) {
            true => Arc::new(AppendOnly::new(opened.storage)),
            false => opened.storage,
        })
    }

    /// Returns the token that Ctrl-C cancels.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// Has a program that is ended at once let this application go on first.
    pub fn owe(&self, application: &Arc<PausableApplication>) {
        *self.paused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(application));
    }

    /// Returns whom the operation tells how far it is.
    pub fn progress(&self) -> Arc<Renderer> {
        Arc::clone(&self.renderer)
    }

    /// Returns what surrounds an operation of this run.
    pub fn context(&self, jobs: Option<u16>) -> Context {
        Context {
            cancel: self.cancel.clone(),
            progress: self.progress(),
            jobs: self::jobs(jobs),
            hostname: engine::hostname(),
            spool: self.globals.spool.clone().unwrap_or_else(|| self.settings.spool()),
        }
    }

    /// Opens the repository that the user means.
    pub async fn repository(&self, archive: Option<&Archive>, purpose: Purpose) -> Result<Repository> {
        if let Some(archive) = archive {
            self.record.archive(&archive.name.clone().unwrap_or_else(|| archive.identity().home));
        }
        let (choice, opening) = self.chosen(archive, purpose)?;
        let storage = self.open(&choice.location, &opening).await?;
        let door = Door::of(self, &choice);
        let Entered { repository, known } = door.enter(storage).await?;
        *self.known() = Some(known);
        self.record.opened(&choice.location, &repository);
        Ok(match self.cache(&choice.location, &repository).await {
            Some(cache) => repository.cached(cache),
            None => repository,
        })
    }

    /// Opens the repository for work on its locks alone, which needs no key.
    pub async fn repository_for_locks(&self) -> Result<Repository> {
        let (choice, opening) = self.chosen(None, Purpose::Work)?;
        let repository = Repository::open_for_locks(self.open(&choice.location, &opening).await?).await?;
        self.record.opened(&choice.location, &repository);
        Ok(repository)
    }

    /// Returns the names of the snapshots that a repository shows, oldest first. That needs no key; that the
    /// repository is the one seen before is looked at all the same.
    pub async fn snapshot_names(&self, archive: &Archive) -> Result<Vec<String>> {
        let (choice, opening) = self.chosen(Some(archive), Purpose::Look)?;
        let repository = Repository::open_for_locks(self.open(&choice.location, &opening).await?).await?;
        Door::of(self, &choice).expect(repository.config())?;
        let files = repository.list_snapshots().await?;
        Ok(files.listed().map(str::to_owned).collect())
    }

    /// Opens an encrypted repository by another key file than this one.
    pub async fn repository_without(&self, except: &KeyName, purpose: Purpose) -> Result<Repository> {
        let (choice, opening) = self.chosen(None, purpose)?;
        let storage = self.open(&choice.location, &opening).await?;
        let door = Door::of(self, &choice);
        let Entered { repository, known } = door.except(except).enter(storage).await?;
        *self.known() = Some(known);
        self.record.opened(&choice.location, &repository);
        Ok(repository)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a snapshot that was just made.
    pub fn made(&self, snapshot: &str) {
        self.record.snapshot(snapshot);
        if let Some(known) = self.known().as_mut() {
            known.made(snapshot);
        }
    }

    /// Remembers that a snapshot has a new id.
    pub fn squashed(&self, from: &str, to: &str) {
        if let Some(known) = self.known().as_mut() {
            known.squashed(from, to);
        }
    }

    /// Tells whether a snapshot that was the newest is gone from the repository that was opened.
    pub fn misses_a_snapshot(&self) -> bool {
        self.known().as_ref().is_some_and(Known::misses_a_snapshot)
    }

    /// Returns the name of the key file that opened the repository; `None` for the recovery key.
    pub fn opened_with(&self) -> Option<String> {
        self.known().as_ref().and_then(Known::opened_with)
    }

    /// Returns where copies of the repository's manifests and indexes are kept, if they are: a repository
    /// on this machine needs none, and a folder that others may write to as well is not used.
    async fn cache(&self, location: &Location, repository: &Repository) -> Option<Arc<dyn Storage>> {
        let folder = self.settings.cache()?;
        if self.globals.no_cache || location.is_local() {
            return None;
        }
        // Without the cache the command asks the store for more, and that is all.
        let place = BlobId::of(location.place().as_bytes()).to_string();
        let of_repository = folder.join(repository.config().repo_id.as_str());
        let cache = location::folder(&of_repository.join(place)).await.ok()?;
        remove_copies_of_before(&of_repository);
        Some(cache)
    }

    /// Returns whether results are to be JSON.
    pub fn is_json(&self) -> bool {
        self.globals.json
    }

    /// Prints a result: as JSON if so asked, else as `text` says, unless it was not asked for.
    pub fn show<T: Serialize>(&self, result: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        if self.globals.quiet && !self.globals.json { Ok(()) } else { self.show_always(result, text) }
    }

    /// Prints a result that was asked for, even with `--quiet`.
    pub fn show_always<T: Serialize>(&self, result: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        if !self.globals.json {
            return self.print(&text(result));
        }
        let failed = |error| Error::caused(ErrorKind::Io, "cannot write the result as JSON", error);
        let json = serde_json::to_string(result).map_err(failed)?;
        self.print(&(json + "\n"))
    }

    /// Writes to standard output, when the progress has left the screen.
    pub fn print(&self, text: &str) -> Result<()> {
        self.close();
        OUTPUT.print(text)
    }

    /// Ends a command that has done its work and could not say so on standard output.
    pub fn unshown(&self, done: &str, error: Error) -> Result<Exit> {
        self.warn(&format!("{done}; only its summary could not be written: {}", error.chain()));
        Ok(Exit::Unsaid)
    }

    /// Prints a warning to standard error.
    pub fn warn(&self, text: &str) {
        self.close();
        report::say(&format!("warning: {}\n", super::text::escape(text)));
    }

    /// The same, unless it was said before: several steps may meet what is wrong with this machine.
    pub fn warn_once(&self, text: &str) {
        let is_new = self.said.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned());
        if is_new {
            self.warn(text);
        }
    }

    /// Prints a warning before the work begins: no progress is on the screen yet, and it comes below.
    pub fn announce(&self, text: &str) {
        report::say(&format!("warning: {}\n", super::text::escape(text)));
    }

    /// Takes the progress off the screen.
    pub fn close(&self) {
        self.retried.conclude(self.renderer.as_ref());
        self.renderer.close();
    }
}

/// Removes the copies that earlier versions kept, which did not tell one server from another. They lie beside the
/// folders of today, whose names are hashes.
fn remove_copies_of_before(of_repository: &Path) {
    for name in ["snapshots", "indexes", "staging"] {
        // Most often there is none, and another command may remove the same.
        let _ = std::fs::remove_dir_all(of_repository.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_earlier_versions_go_and_those_of_today_stay() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["snapshots/a", "indexes/b", "staging/c", "5d61e8af/snapshots/d"] {
            std::fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        remove_copies_of_before(folder.path());
        remove_copies_of_before(folder.path());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(folder.path().join("5d61e8af/snapshots/d").is_dir());
    }
}
