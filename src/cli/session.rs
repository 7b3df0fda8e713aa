//! What one run of the program has at hand: the settings, the progress, the cancellation, and standard output.

use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use packvault::engine::{self, Context};
use packvault::format::BlobId;
use packvault::location::{self, Opening, Purpose, Retries};
use packvault::repo::{Repository, Storage};
use packvault::{Cancel, Error, ErrorKind, Location, Result};
use serde::Serialize;

use super::application::PausableApplication;
use super::interrupt::{self, Paused};
use super::render::{Renderer, Style};
use super::report::Exit;
use super::settings::{Archive, Environment, Settings, given};
use super::{Globals, report};

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
    paused: Paused,
}

impl Session {
    /// Reads the settings, starts the progress, and listens for Ctrl-C.
    pub fn start(globals: Globals) -> Result<Self> {
        let settings = Settings::load(Environment::read());
        let renderer = Renderer::start(match globals.quiet {
            true => Style::None,
            false => globals.log.style(globals.progress),
        });
        let cancel = Cancel::new();
        let paused = Paused::default();
        interrupt::watch(cancel.clone(), Arc::clone(&renderer), Arc::clone(&paused))?;
        let (retried, warned) = (Arc::default(), AtomicBool::new(false));
        Ok(Self { globals, settings, renderer, cancel, retried, warned, paused })
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
        let choice = self.settings.repository(self.globals.repo.as_deref(), archive)?;
        self.warn_of_settings();
        let mut opening = self.settings.opening(&choice, purpose, self.cancel.clone(), self.progress())?;
        opening.retried = Arc::clone(&self.retried);
        let Globals { limit_upload, limit_download, spool, .. } = &self.globals;
        opening.upload_max = limit_upload.map(|size| size.0).or(opening.upload_max);
        opening.download_max = limit_download.map(|size| size.0).or(opening.download_max);
        if let Some(spool) = spool {
            given::refuse_tilde(spool, "--spool", self.settings.user_home())?;
            opening.spool = spool.clone();
        }
        Ok((choice.location, opening))
    }

    /// Returns the folder in which the repository lies, if it is one of this machine.
    pub fn local_repository(&self, archive: Option<&Archive>) -> Result<Option<PathBuf>> {
        Ok(match self.location(archive, Purpose::Work)?.0 {
            Location::Local(folder) => Some(folder),
            _ => None,
        })
    }

    /// Opens the storage on which the repository lies, or will lie, and shows what passes to and from it.
    pub async fn storage(
        &self,
        archive: Option<&Archive>,
        purpose: Purpose,
    ) -> Result<(Location, Arc<dyn Storage>)> {
        let (location, opening) = self.location(archive, purpose)?;
        let storage = self.open(&location, &opening).await?;
        Ok((location, storage))
    }

    async fn open(&self, location: &Location, opening: &Opening) -> Result<Arc<dyn Storage>> {
        let opened = location.open(opening).await?;
        if let Some(wire) = opened.wire {
            self.renderer.watch_transfers(wire);
        }
        Ok(opened.storage)
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
        let (location, opening) = self.location(archive, purpose)?;
        let storage = self.open(&location, &opening).await?;
        let repository = Repository::open(storage).await?;
        Ok(match self.cache(&location, &opening, &repository).await {
            Some(cache) => repository.cached(cache),
            None => repository,
        })
    }

    /// Returns where copies of the repository's manifests and indexes are kept, if they are: a repository
    /// on this machine needs none, and a folder that others may write to as well is not used.
    async fn cache(
        &self,
        location: &Location,
        opening: &Opening,
        repository: &Repository,
    ) -> Option<Arc<dyn Storage>> {
        let folder = self.settings.cache()?;
        if self.globals.no_cache || location.is_local() {
            return None;
        }
        // Without the cache the command asks the store for more, and that is all.
        let place = BlobId::of(location.place(opening).as_bytes()).to_string();
        let folder = folder.join(repository.config().repo_id.as_str()).join(place);
        location::folder(&folder).await.ok()
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
        let mut output = io::stdout().lock();
        match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
            // The reader has seen enough; what the command did is done all the same.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Error::caused(ErrorKind::Io, "cannot write to standard output", error)),
            Ok(()) => Ok(()),
        }
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

    /// Takes the progress off the screen.
    pub fn close(&self) {
        self.retried.conclude(self.renderer.as_ref());
        self.renderer.close();
    }
}
