//! The application around a backup: `before` pauses it, and `after` lets it go on, once, whatever happened.
//!
//! From the moment `before` is started, `after` must run. The first of these runs it: the engine when the archive has
//! been read (`hold = "capture"`), the command at its end, its unwinding after a panic, or the thread of a second
//! Ctrl-C. An application that stays paused is worse than a backup that failed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use packvault::engine::create::Application;
use packvault::{Cancel, Error, ErrorKind, Result};
use serde::Deserialize;

use super::hooks::{self, Hook};

/// For how long the application is held still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// Until the database, the attachments and the files have been read.
    #[default]
    Capture,
    /// Until everything is stored, or has failed.
    Upload,
}

/// The programs of one archive; an empty list is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// The archive's name, for the programs.
    pub archive: String,
    /// Program and arguments.
    pub before: Vec<String>,
    /// Program and arguments.
    pub after: Vec<String>,
    /// When `after` runs.
    pub hold: Hold,
}

/// How a backup stands when `after` is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// The archive has been read; storing it goes on.
    Captured,
    /// The snapshot with this id is there.
    Done(Option<String>),
    /// There is no snapshot.
    Failed,
    /// The user stopped it.
    Interrupted,
}

/// How far the application is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It was not touched.
    Running,
    /// `before` is at work.
    Pausing,
    /// `before` was started, and has ended in one way or another: `after` is owed.
    Paused,
    /// `after` is at work.
    Resuming,
    /// Nothing is owed, and nothing begins any more.
    Over,
}

/// One application during one backup.
#[derive(Debug)]
pub struct PausableApplication {
    hooks: Hooks,
    cancel: Cancel,
    phase: Mutex<Phase>,
    changed: Condvar,
    failure: Mutex<Option<Error>>,
}

impl PausableApplication {
    /// Makes the application of one backup; nothing is run.
    pub fn new(hooks: Hooks, cancel: Cancel) -> Arc<Self> {
        Arc::new(Self {
            hooks,
            cancel,
            phase: Mutex::new(Phase::Running),
            changed: Condvar::new(),
            failure: Mutex::default(),
        })
    }

    /// Returns the application as the engine knows it, unless there is nothing to run.
    pub fn engaged(self: &Arc<Self>) -> Option<Arc<dyn Application>> {
        let has_hooks = !self.hooks.before.is_empty() || !self.hooks.after.is_empty();
        has_hooks.then(|| Arc::clone(self) as Arc<dyn Application>)
    }

    /// Runs `after` if it is owed, or waits until it has run; returns how it ended, once.
    pub fn let_go(&self, status: &Status) -> Result<()> {
        self.resume(status, None);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// Runs `after` if it is owed, and waits for it no longer than so: it goes on by itself. Nothing begins
    /// after this.
    pub fn let_go_within(self: &Arc<Self>, time: Duration) {
        let deadline = Instant::now() + time;
        let mut phase = self.phase();
        if *phase == Phase::Running {
            *phase = Phase::Over;
        }
        drop(phase);
        let this = Arc::clone(self);
        let paying = std::thread::Builder::new().name("after".to_owned());
        match paying.spawn(move || this.resume(&Status::Interrupted, None)) {
            Ok(_) => drop(self.wait_until_over(deadline)),
            // Without a thread it is waited for to its end: better late than not at all.
            Err(_) => self.resume(&Status::Interrupted, Some(deadline)),
        }
    }

    fn resume(&self, status: &Status, deadline: Option<Instant>) {
        let mut phase = self.phase();
        loop {
            match *phase {
                Phase::Running | Phase::Over => return,
                Phase::Paused => break,
                Phase::Pausing | Phase::Resuming if deadline.is_some_and(|at| Instant::now() >= at) => return,
                Phase::Pausing | Phase::Resuming => {
                    let waited = self.changed.wait_timeout(phase, Duration::from_millis(100));
                    phase = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
        *phase = Phase::Resuming;
        drop(phase);
        let variables = self.variables(Some(status));
        let after = hook("after", &self.hooks.after, &variables);
        // Not to be stopped: it may be what lets the application go on.
        let ended = after.run(None);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = ended.err();
        self.enter(Phase::Over);
    }

    fn wait_until_over(&self, deadline: Instant) -> MutexGuard<'_, Phase> {
        let mut phase = self.phase();
        while *phase != Phase::Over {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            phase = self.changed.wait_timeout(phase, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        phase
    }

    fn variables(&self, status: Option<&Status>) -> Vec<(&'static str, String)> {
        let mut variables = vec![("PACKVAULT_ARCHIVE", self.hooks.archive.clone())];
        let Some(status) = status else { return variables };
        variables.push(("PACKVAULT_STATUS", status.word().to_owned()));
        if let Status::Done(Some(id)) = status {
            variables.push(("PACKVAULT_SNAPSHOT", id.clone()));
        }
        variables
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, phase: Phase) {
        *self.phase() = phase;
        self.changed.notify_all();
    }
}

fn hook<'a>(name: &'static str, words: &'a [String], variables: &'a [(&'static str, String)]) -> Hook<'a> {
    Hook { name, words, variables, input: None, time_max: hooks::TIME_MAX }
}

impl Application for PausableApplication {
    fn pause(&self) -> Result<()> {
        self.cancel.check()?;
        let mut phase = self.phase();
        if *phase != Phase::Running {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        *phase = Phase::Pausing;
        drop(phase);
        let variables = self.variables(None);
        let before = hook("before", &self.hooks.before, &variables);
        let paused = before.run(Some(&self.cancel));
        // Also where it failed: it may have stopped half of the application.
        self.enter(Phase::Paused);
        paused
    }

    fn captured(&self) {
        if self.hooks.hold == Hold::Capture {
            self.resume(&Status::Captured, None);
        }
    }
}

impl Status {
    /// Returns how a backup ended.
    pub fn of<T>(ended: &Result<T>, id: impl FnOnce(&T) -> Option<String>) -> Self {
        match ended {
            Ok(done) => Self::Done(id(done)),
            Err(error) if error.kind() == ErrorKind::Interrupted => Self::Interrupted,
            Err(_) => Self::Failed,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Captured => "captured",
            Self::Done(_) => "done",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Lets the application go on when it is dropped: a panic unwinds through it.
pub struct Surely(pub Arc<PausableApplication>);

impl Drop for Surely {
    fn drop(&mut self) {
        // How it ended was either asked for before, or a panic is on its way and nobody asks.
        let _ = self.0.let_go(&Status::Failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        folder: tempfile::TempDir,
        application: Arc<PausableApplication>,
        cancel: Cancel,
    }

    impl Case {
        fn new(before: &[&str], hold: Hold) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let told = folder.path().join("told").display().to_string();
            let after =
                ["sh", "-c", "echo $PACKVAULT_ARCHIVE $PACKVAULT_STATUS $PACKVAULT_SNAPSHOT >> \"$0\""];
            let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            let mut after = words(&after);
            after.push(told);
            let hooks = Hooks { archive: "mail".to_owned(), before: words(before), after, hold };
            let cancel = Cancel::new();
            Self { folder, application: PausableApplication::new(hooks, cancel.clone()), cancel }
        }

        fn told(&self) -> String {
            std::fs::read_to_string(self.folder.path().join("told")).unwrap_or_default()
        }
    }

    #[test]
    fn after_runs_once_and_as_soon_as_the_archive_is_read() {
        let case = Case::new(&["true"], Hold::Capture);
        case.application.pause().unwrap();
        case.application.captured();
        assert_eq!(case.told(), "mail captured\n");
        case.application.let_go(&Status::Done(Some("s".to_owned()))).unwrap();
        assert_eq!(case.told(), "mail captured\n");
    }

    #[test]
    fn held_until_the_upload_is_done_after_knows_the_snapshot() {
        let case = Case::new(&["true"], Hold::Upload);
        case.application.pause().unwrap();
        case.application.captured();
        assert_eq!(case.told(), "");
        case.application.let_go(&Status::Done(Some("s".to_owned()))).unwrap();
        assert_eq!(case.told(), "mail done s\n");
    }

    #[test]
    fn after_is_owed_when_before_fails_and_not_when_it_never_began() {
        let case = Case::new(&["false"], Hold::Capture);
        assert!(case.application.pause().is_err());
        case.application.let_go(&Status::Failed).unwrap();
        assert_eq!(case.told(), "mail failed\n");
        let case = Case::new(&["false"], Hold::Capture);
        case.application.let_go(&Status::Failed).unwrap();
        assert_eq!(case.told(), "");
    }

    #[test]
    fn an_interruption_ends_before_and_still_runs_after() {
        let case = Case::new(&["sleep", "600"], Hold::Capture);
        let pausing = std::thread::spawn({
            let application = Arc::clone(&case.application);
            move || application.pause()
        });
        while *case.application.phase() != Phase::Pausing {
            std::thread::yield_now();
        }
        case.cancel.cancel();
        case.application.let_go(&Status::Interrupted).unwrap();
        assert_eq!(pausing.join().unwrap().unwrap_err().kind(), ErrorKind::Interrupted);
        assert_eq!(case.told(), "mail interrupted\n");
    }

    #[test]
    fn a_panic_runs_after() {
        let case = Case::new(&["true"], Hold::Capture);
        let application = Arc::clone(&case.application);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let surely = Surely(application);
            surely.0.pause().unwrap();
            panic!("a defect");
        }));
        assert!(panicked.is_err());
        assert_eq!(case.told(), "mail failed\n");
    }

    #[test]
    fn leaving_at_once_runs_after_and_lets_nothing_begin() {
        let case = Case::new(&["true"], Hold::Capture);
        case.application.pause().unwrap();
        case.application.let_go_within(Duration::from_secs(60));
        assert_eq!(case.told(), "mail interrupted\n");
        let case = Case::new(&["true"], Hold::Capture);
        case.application.let_go_within(Duration::from_secs(60));
        assert!(case.application.pause().is_err());
    }

    #[test]
    fn leaving_at_once_does_not_wait_for_an_after_that_hangs() {
        let mut case = Case::new(&["true"], Hold::Capture);
        let hooks =
            Hooks { after: vec!["sleep".to_owned(), "5".to_owned()], ..case.application.hooks.clone() };
        case.application = PausableApplication::new(hooks, case.cancel.clone());
        case.application.pause().unwrap();
        case.application.let_go_within(Duration::from_millis(50));
        assert_eq!(*case.application.phase(), Phase::Resuming);
    }
}
