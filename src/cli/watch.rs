//! `packvault watch`: a snapshot whenever something changed, until a signal ends it.
//!
//! Whether anything changed is asked of the file system alone, so that nothing is asked of a repository while nothing
//! happens. A create that finds the archive as it is in the newest snapshot makes none. What fails is said and tried
//! again, after pauses that grow up to a bound.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt as _;
use packvault::archive::profile::ExtrasChoice;
use packvault::engine::create::{REST, Sight, look};
use packvault::{Error, ErrorKind, Result};
use serde::Serialize;
use tokio::time::Instant;

use super::record;
use super::report::Exit;
use super::run::{span, state};
use super::session::Session;
use super::settings::{Archive, RereadChoice};
use super::steps::{self, Ended};
use super::text::{self, escape};
use super::turn::Turn;

/// The shortest time between two snapshots of an archive that can be asked for.
const EVERY_MIN: Duration = Duration::from_secs(1);
/// The longest pause after something that failed, unless a longer time between snapshots is asked for.
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// To look may take this part of the time at most.
const LOOK_PART: u32 = 20;
/// How often it is waited for an archive to come to rest before its snapshot is made all the same.
const SETTLES_MAX: u32 = 3;
/// How often a share of the files that did not change is read.
const SHARE_EVERY: Duration = Duration::from_secs(24 * 3600);

/// Make a snapshot whenever something changed, until a signal ends it
///
/// Looks at the database, its log and the files of each archive, and makes a snapshot when any of them changed, and
/// copies of it. While nothing changes, nothing is asked of the repository. What fails is said, and tried again. Beside
/// it, `run` does what else is due.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault watch mail
  packvault watch --all --every 5m

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archives, by their names in the configuration
    #[arg(value_name = "ARCHIVE", required_unless_present = "all", conflicts_with = "all")]
    archives: Vec<String>,
    /// Every archive of the configuration
    #[arg(long)]
    all: bool,
    /// Make no more than one snapshot of an archive in this time: 60s, 5m, 1h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = every)]
    every: Duration,
}

/// What became of one look that found a change, for `--json`.
#[derive(Debug, Serialize)]
struct Event {
    archive: String,
    /// What was done: `made`, `unchanged` or `failed`.
    outcome: &'static str,
    /// The snapshot that was made.
    snapshot: Option<String>,
    /// As what it counts.
    exit_code: u8,
    /// How long it took.
    seconds: f64,
    /// What was done, or what went wrong.
    text: String,
    /// In how many seconds it is looked again.
    next_seconds: f64,
}

/// Watches until it is stopped.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let mut watched = Vec::new();
    for name in arguments.names(session)? {
        watched.push(Watched::new(&name, session).await?);
    }
    while !session.cancel().is_cancelled() {
        for archive in &mut watched {
            if archive.next <= Instant::now() && !session.cancel().is_cancelled() {
                archive.turn(arguments.every, session).await;
            }
        }
        let next = watched.iter().map(|archive| archive.next).min().unwrap_or_else(Instant::now);
        tokio::select! {
            () = session.cancel().cancelled() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
    Ok(Exit::Interrupted)
}

impl Arguments {
    /// Returns the archives that are meant, each once.
    fn names(&self, session: &Session) -> Result<Vec<String>> {
        let settings = session.settings();
        let mut names: Vec<String> = match self.all {
            true => settings.archive_names().into_iter().map(str::to_owned).collect(),
            false => self.archives.clone(),
        };
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        if names.is_empty() {
            let why = settings.problem().unwrap_or("the configuration has no [archive.NAME]");
            return Err(Error::new(ErrorKind::Usage, format!("there is no archive to watch: {why}")));
        }
        if names.len() > 1 && session.names_a_repository() {
            let message = "--repo and PACKVAULT_REPO name one repository, and several archives are to be watched: \
                           each has its own, named in the configuration";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(names)
    }
}

/// An archive that is watched.
struct Watched {
    archive: Archive,
    /// What was seen when the newest snapshot was made, or was found to be as the archive is.
    seen: Option<Sight>,
    next: Instant,
    failures: u32,
    shared_at: Option<Instant>,
    /// Keeps a second watch of the archive out.
    _turn: Option<Turn>,
}

impl Watched {
    async fn new(name: &str, session: &Session) -> Result<Self> {
        let archive = session.settings().archive_to_read(name)?;
        let turn = match state(session) {
            Ok(state) => Turn::take(&state, "watch", name, false, session.cancel()).await,
            Err(error) => Err(error),
        };
        let turn = match turn {
            Ok(turn) => Some(turn),
            Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::Interrupted) => {
                return Err(error);
            }
            // The lock of the repository keeps writers apart all the same.
            Err(error) => {
                session.warn(&error.chain());
                None
            }
        };
        let next = Instant::now();
        Ok(Self { archive, seen: None, next, failures: 0, shared_at: None, _turn: turn })
    }

    /// Looks, and makes a snapshot if something changed. Whatever goes wrong, there is a next time.
    async fn turn(&mut self, every: Duration, session: &Session) {
        let own = session.at(None);
        let begun = Instant::now();
        match self.changed(&own).await {
            Ok(Some(sight)) => {
                let ended = self.snapshot(&own, session).await;
                self.ended(ended, sight, (begun, every), session);
            }
            Ok(None) => {
                tracing::info!(target: "packvault::decision", archive = self.name(), "nothing changed");
                // A look at many files may take long, and is not to fill the time.
                self.next = Instant::now() + every.max(begun.elapsed() * LOOK_PART);
            }
            // Only a signal stops a look.
            Err(_) => self.next = Instant::now() + every,
        }
        own.close();
    }

    fn name(&self) -> &str {
        self.archive.name.as_deref().unwrap_or_default()
    }

    /// Returns what is seen, if it is not what was seen the last time. Waits a little for an archive that is being
    /// written to: what is not at rest may change behind the look, and look the same.
    async fn changed(&self, own: &Session) -> Result<Option<Sight>> {
        let (profile, paths, context) = (self.archive.profile(), self.archive.paths(), own.context(None));
        let mut sight = look(&profile, &paths, ExtrasChoice::default(), REST, &context).await?;
        for _ in 0..SETTLES_MAX {
            if sight.is_settled() || self.seen.as_ref() == Some(&sight) {
                break;
            }
            tokio::select! {
                () = own.cancel().cancelled() => own.cancel().check()?,
                () = tokio::time::sleep(REST) => {}
            }
            sight = look(&profile, &paths, ExtrasChoice::default(), REST, &context).await?;
        }
        let is_same = sight.is_settled() && self.seen.as_ref() == Some(&sight);
        Ok((!is_same).then_some(sight))
    }

    /// Makes a snapshot, as a run of its own in the ledger, and copies of it.
    async fn snapshot(&mut self, own: &Session, session: &Session) -> (Exit, Result<Ended>) {
        let name = self.name().to_owned();
        let turn = match state(own) {
            // A run of the archive on this machine is waited for.
            Ok(state) => Turn::take(&state, "run", &name, true, own.cancel()).await.map(Some),
            Err(_) => Ok(None),
        };
        let turn = match turn {
            Ok(turn) => turn,
            Err(error) if error.kind() == ErrorKind::Interrupted => return (Exit::Interrupted, Err(error)),
            Err(_) => None,
        };
        let is_share_due = self.shared_at.is_none_or(|at| at.elapsed() >= SHARE_EVERY);
        // The share is one for each day, and not one for each snapshot.
        let is_share = self.archive.reread().unwrap_or_default() == RereadChoice::Share;
        let reread = (is_share && !is_share_due).then_some(RereadChoice::None);
        let work = steps::snapshot_if_changed(&name, reread, own);
        let work = record::recorded(own, "create", work, |ended| ended.exit);
        let ended = std::panic::AssertUnwindSafe(work).catch_unwind().await;
        let ended = ended.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Io, "it ended by a defect of packvault; what it said is above"))
        });
        let mut exit = match &ended {
            Ok(ended) => ended.exit,
            Err(error) => Exit::from(error),
        };
        if ended.is_ok() && is_share_due {
            self.shared_at = Some(Instant::now());
        }
        if matches!(&ended, Ok(ended) if ended.snapshot.is_some()) {
            exit = exit.worse(self.copies(session).await);
        }
        drop(turn);
        (exit, ended)
    }

    async fn copies(&self, session: &Session) -> Exit {
        let mut exit = Exit::Done;
        for place in self.archive.copies() {
            if session.cancel().is_cancelled() {
                break;
            }
            let own = session.at(None);
            let work = steps::copied(place, &self.archive, &own);
            let copied = record::recorded(&own, "copy", work, |ended| ended.exit).await;
            own.close();
            let failed = match copied {
                Ok(ended) if ended.exit.is_done() => continue,
                Ok(ended) => ended.text,
                Err(error) => error.chain(),
            };
            session.warn(&format!("{}: copy to {place} failed: {failed}", self.name()));
            exit = Exit::Unsaid;
        }
        exit
    }

    /// Says how it ended, and settles when it is looked again.
    fn ended(
        &mut self,
        (exit, ended): (Exit, Result<Ended>),
        sight: Sight,
        (begun, every): (Instant, Duration),
        session: &Session,
    ) {
        let is_made = ended.is_ok();
        let (outcome, text, snapshot) = match ended {
            Ok(Ended { text, snapshot: None, .. }) => ("unchanged", text, None),
            Ok(Ended { text, snapshot, .. }) => ("made", text, snapshot),
            Err(error) => ("failed", error.chain(), None),
        };
        self.failures = if is_made { 0 } else { self.failures.saturating_add(1) };
        self.seen = is_made.then_some(sight);
        let now = Instant::now();
        self.next = if is_made { begun + every } else { now + pause(every, self.failures) };
        let event = Event {
            archive: self.name().to_owned(),
            outcome,
            snapshot,
            exit_code: exit.code(),
            seconds: begun.elapsed().as_secs_f64(),
            text,
            next_seconds: self.next.saturating_duration_since(now).as_secs_f64(),
        };
        if session.cancel().is_cancelled() && !is_made {
            return;
        }
        let line = line(&event);
        // An output that is full or gone does not end the backups.
        if session.is_json() {
            let _ = session.show_always(&event, |_| String::new());
        } else if exit == Exit::Done && !session.is_quiet() {
            let _ = session.print(&format!("{line}\n"));
        }
        if exit != Exit::Done {
            session.warn(&line);
        }
    }
}

fn line(event: &Event) -> String {
    let duration = |seconds: f64| text::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let took = duration(event.seconds);
    let line = match event.outcome {
        "failed" => {
            let again = duration(event.next_seconds);
            format!("{}: no snapshot: {}; tried again in {again}", event.archive, event.text)
        }
        _ => format!("{}: {} ({took})", event.archive, event.text),
    };
    escape(&line)
}

/// Returns how long it is waited after so many failures in a row.
fn pause(every: Duration, failures: u32) -> Duration {
    let doubled = every.saturating_mul(1 << failures.min(16));
    doubled.min(PAUSE_MAX.max(every))
}

fn every(text: &str) -> std::result::Result<Duration, String> {
    span(text)
        .filter(|time| *time >= EVERY_MIN)
        .ok_or_else(|| format!("{text:?} is no time; write 60s, 5m or 1h, from 1s up to 24h"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let minute = Duration::from_secs(60);
        let pauses: Vec<u64> = (1..8).map(|failures| pause(minute, failures).as_secs()).collect();
        assert_eq!(pauses, [120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!(pause(minute, u32::MAX), PAUSE_MAX);
        let seldom = Duration::from_secs(24 * 3600);
        assert_eq!(pause(seldom, 3), seldom);
    }

    #[test]
    fn the_time_between_snapshots_is_bounded() {
        assert_eq!(every("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(every("5m"), Ok(Duration::from_secs(300)));
        for text in ["", "0s", "0m", "25h", "60", "-1s", "1d", "99999999999999999999s"] {
            assert!(every(text).is_err(), "{text}");
        }
    }
}
