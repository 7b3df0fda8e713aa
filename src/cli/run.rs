//! `packvault run`: everything that is due, for one archive after the other.
//!
//! Each step calls what the command of its name calls, with a session of its own. A step that fails ends neither the
//! other steps nor the other archives. Nothing is kept between two runs but what the commands themselves record: a run
//! that was killed is taken up by the next, which finds due what was not done.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use jiff::Timestamp;
use packvault::engine::schedule::due::{Step, Work, plan};
use packvault::engine::schedule::status::{ArchiveRun, PlannedStep, RunReport, StepRun};
use packvault::format::timestamp;
use packvault::{Error, ErrorKind, Result, clock};

use super::facts::Facts;
use super::notify::{self, Occasion};
use super::record;
use super::report::Exit;
use super::session::Session;
use super::settings::Archive;
use super::steps::{self, Ended};
use super::text::{self, escape};
use super::turn::Turn;

/// The longest that a run may be put off by chance.
const JITTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Do everything that is due: back up, copy, forget, check
///
/// The one command for a timer. For each archive: a snapshot, copies of it, and what else the archive's section of the
/// configuration asks for, when it is due. A step that fails does not stop the others. At the end those are told whom
/// `notify` names.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault run --all              every archive of the configuration
  packvault run --all --dry-run    show what is due, and why
  packvault run mail chats --wait
  packvault run --all --jitter 10m

{}
The worst of all steps, in this order: 130, 13, 3, 12, 10, 1, 2, 11, 4, 5, 6.",
    super::exit_codes("\
  3  a check found problems
  4  done, but a source itself is damaged
  5  done, but something that was asked for is not in a snapshot
  6  done, but a copy, a hook or a message failed
")))]
pub struct Arguments {
    /// The archives, by their names in the configuration
    #[arg(value_name = "ARCHIVE", required_unless_present = "all", conflicts_with = "all")]
    archives: Vec<String>,
    /// Every archive of the configuration
    #[arg(long)]
    all: bool,
    /// Show what is due and why, and do nothing
    #[arg(long, short = 'n')]
    dry_run: bool,
    /// Wait until another run of the same archive has ended, instead of refusing
    #[arg(long)]
    wait: bool,
    /// Begin later by a time that is chosen by chance, up to this: 90s, 10m, 1h
    ///
    /// For timers that start many machines at the same minute.
    #[arg(long, value_name = "TIME", value_parser = jitter)]
    jitter: Option<Duration>,
}

/// Runs, and sums up what was done.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let names = arguments.names(session)?;
    if let Some(jitter) = arguments.jitter.filter(|_| !arguments.dry_run) {
        put_off(jitter, session).await?;
    }
    let (began_at, began) = (clock::now()?, Instant::now());
    let notify = session.settings().notify();
    let occasion = Occasion { archive: None, notify: &notify };
    let mut warnings = Vec::new();
    let mut exit = Exit::Done;
    if let Some(problem) = session.settings().problem().filter(|_| arguments.all) {
        // An archive that is left out in silence is one that nobody backs up.
        warnings.push(format!("the configuration is wrong, and what is wrong in it is left out: {problem}"));
        exit = Exit::Usage;
    }
    if !arguments.dry_run {
        warnings.extend(occasion.begins(session).await);
    }
    let mut archives = Vec::new();
    for name in &names {
        let (archive, ended, untold) = arguments.archive(name, session).await;
        exit = exit.worse(ended);
        warnings.extend(untold);
        archives.push(archive);
    }
    if session.cancel().is_cancelled() {
        exit = Exit::Interrupted;
    }
    if !warnings.is_empty() {
        exit = exit.worse(Exit::Unsaid);
    }
    let mut report = RunReport {
        dry_run: arguments.dry_run,
        began_at: timestamp::format(began_at),
        seconds: began.elapsed().as_secs_f64(),
        exit_code: exit.code(),
        archives,
        warnings,
    };
    if !arguments.dry_run {
        let untold = occasion.ended(session, &report).await;
        if !untold.is_empty() {
            exit = exit.worse(Exit::Unsaid);
            report.exit_code = exit.code();
            report.warnings.extend(untold);
        }
    }
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    let shown = match arguments.dry_run {
        true => session.show_always(&report, planned),
        // The steps were shown as they ended.
        false => session.show(&report, last_line),
    };
    match shown {
        Ok(()) => Ok(exit),
        Err(error) => Ok(session.unshown("the run was made", error)?.worse(exit)),
    }
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
            return Err(Error::new(ErrorKind::Usage, format!("there is no archive to run: {why}")));
        }
        if names.len() > 1 && session.names_a_repository() {
            let message = "--repo and PACKVAULT_REPO name one repository, and several archives are to be run: each has \
                           its own, named in the configuration";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        Ok(names)
    }

    /// Does what is due for an archive; returns also what could not be told.
    async fn archive(&self, name: &str, session: &Session) -> (ArchiveRun, Exit, Vec<String>) {
        let mut run = ArchiveRun {
            archive: name.to_owned(),
            exit_code: 0,
            snapshot: None,
            steps: Vec::new(),
            error: None,
        };
        let own = session.at(None);
        let (exit, untold) = match self.prepared(name, &own).await {
            Ok((archive, turn)) => {
                let ended = match self.dry_run {
                    true => self.steps(&archive, &mut run, &own).await,
                    false => self.recorded(&archive, &mut run, &own, session).await,
                };
                drop(turn);
                ended
            }
            Err(error) => (failed(&mut run, &error, session), Vec::new()),
        };
        run.exit_code = exit.code();
        (run, exit, untold)
    }

    /// Finds the archive, and takes its turn.
    async fn prepared(&self, name: &str, session: &Session) -> Result<(Archive, Option<Turn>)> {
        session.cancel().check()?;
        let archive = session.settings().archive_to_read(name)?;
        if self.dry_run {
            return Ok((archive, None));
        }
        let turn = match state(session) {
            Ok(state) => Turn::take(&state, "run", name, self.wait, session.cancel()).await,
            Err(error) => Err(error),
        };
        match turn {
            Ok(turn) => Ok((archive, Some(turn))),
            Err(error) if matches!(error.kind(), ErrorKind::InUse | ErrorKind::Interrupted) => Err(error),
            // A full home must not cost the backup: the repository's own lock keeps writers apart all the same.
            Err(error) => {
                session.warn(&error.chain());
                Ok((archive, None))
            }
        }
    }

    /// Does the steps, as a run of the archive that the ledger knows.
    async fn recorded(
        &self,
        archive: &Archive,
        run: &mut ArchiveRun,
        own: &Session,
        session: &Session,
    ) -> (Exit, Vec<String>) {
        own.record().under(session.record().id());
        let name = run.archive.clone();
        let work = async {
            own.record().archive(&name);
            Ok(self.steps(archive, run, own).await)
        };
        let ended = record::recorded(own, "run", work, |(exit, _)| *exit).await;
        // The work itself never fails.
        ended.unwrap_or((Exit::Failed, Vec::new()))
    }

    async fn steps(&self, archive: &Archive, run: &mut ArchiveRun, session: &Session) -> (Exit, Vec<String>) {
        let (began, now) = (Instant::now(), Timestamp::now());
        let schedule = steps::schedule(archive, session);
        let (facts, warning) = Facts::of(archive, session);
        warning.iter().for_each(|sentence| session.warn_once(sentence));
        let steps = plan(&schedule, &facts.done(&schedule, session), now);
        drop(facts);
        let notify = archive.notify();
        let occasion = Occasion { archive: Some(&run.archive.clone()), notify: &notify };
        let mut untold = Vec::new();
        if !self.dry_run {
            untold = occasion.begins(session).await;
        }
        let mut exit = Exit::Done;
        let mut holds_back = None;
        for step in &steps {
            let planned = steps::planned(step, now);
            let outcome = match () {
                () if !step.is_due() => unbegun(planned, "not_due", None),
                () if self.dry_run => unbegun(planned, "planned", None),
                () if session.cancel().is_cancelled() => {
                    unbegun(planned, "held_back", Some("interrupted".to_owned()))
                }
                () if removes(step.work) && holds_back.is_some() => {
                    unbegun(planned, "held_back", holds_back.clone())
                }
                () => {
                    let (ended, outcome) = perform(step, planned, archive, session).await;
                    exit = exit.worse(weighed(step.work, ended));
                    run.snapshot = run.snapshot.take().or_else(|| outcome.snapshot.clone());
                    if step.work == Work::Create {
                        holds_back = holding_back(ended);
                    }
                    outcome
                }
            };
            say(&run.archive, &outcome, session);
            run.steps.push(outcome);
        }
        if !self.dry_run {
            run.exit_code = exit.code();
            let report = RunReport {
                dry_run: false,
                began_at: timestamp::format(now),
                seconds: began.elapsed().as_secs_f64(),
                exit_code: exit.code(),
                archives: vec![run.clone()],
                warnings: untold.clone(),
            };
            untold.extend(occasion.ended(session, &report).await);
        }
        (exit, untold)
    }
}

/// Does one step, and says how it ended.
async fn perform(step: &Step, planned: PlannedStep, archive: &Archive, session: &Session) -> (Exit, StepRun) {
    let began = Instant::now();
    // The copy's own, or the archive's.
    let own = session.at(step.place.as_deref().filter(|_| step.work != Work::Copy));
    // A defect in one step must not keep the other archives from their backup.
    own.record().under(session.record().id());
    let work =
        record::recorded(&own, kind(step.work), steps::perform(step, archive, &own), |ended| ended.exit);
    let performed = std::panic::AssertUnwindSafe(work).catch_unwind().await;
    own.close();
    let ended = performed.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Io, "the step ended by a defect of packvault; what it said is above"))
    });
    let (exit, text, snapshot) = match ended {
        Ok(Ended { exit, text, snapshot }) => (exit, Some(text), snapshot),
        Err(error) => (Exit::from(&error), Some(error.chain()), None),
    };
    let outcome = StepRun {
        outcome: if exit.is_done() { "done" } else { "failed" },
        step: planned,
        exit_code: Some(exit.code()),
        seconds: Some(began.elapsed().as_secs_f64()),
        text,
        snapshot,
    };
    (exit, outcome)
}

/// Returns what the ledger calls the work.
fn kind(work: Work) -> &'static str {
    if work == Work::Verify { "sample" } else { work.name() }
}

/// Returns what a step counts in the exit code of the run: a copy that failed leaves a snapshot all the same.
fn weighed(work: Work, exit: Exit) -> Exit {
    let is_its_own = matches!(exit, Exit::Done | Exit::Interrupted | Exit::NotTheSame);
    if work == Work::Copy && !is_its_own { Exit::Unsaid } else { exit }
}

/// Tells whether the work removes what was stored.
fn removes(work: Work) -> bool {
    matches!(work, Work::Forget | Work::Prune)
}

/// Returns why nothing is removed after a snapshot that ended like this.
fn holding_back(created: Exit) -> Option<String> {
    match created {
        Exit::SourceDamaged => Some("nothing is removed while the source is damaged".to_owned()),
        exit if exit.is_done() => None,
        _ => Some("nothing is removed while no new snapshot could be made".to_owned()),
    }
}

fn failed(run: &mut ArchiveRun, error: &Error, session: &Session) -> Exit {
    let exit = Exit::from(error);
    run.error = Some(error.chain());
    session.warn(&format!("{}: {}", run.archive, error.chain()));
    exit
}

fn unbegun(step: PlannedStep, outcome: &'static str, text: Option<String>) -> StepRun {
    StepRun { step, outcome, exit_code: None, seconds: None, text, snapshot: None }
}

/// Says what became of a step, while the run goes on.
fn say(archive: &str, step: &StepRun, session: &Session) {
    if step.outcome == "not_due" || step.outcome == "planned" {
        return;
    }
    let line = line(archive, step);
    match step.exit_code {
        Some(0) if session.is_json() || session.is_quiet() => {}
        Some(0) => {
            // A full standard output is told at the end.
            let _ = session.print(&line);
        }
        _ => session.warn(line.trim_end()),
    }
}

fn line(archive: &str, step: &StepRun) -> String {
    let name = notify::named(step);
    let took = step.seconds.map(|seconds| text::duration(Duration::from_secs_f64(seconds)));
    let took = took.map(|took| format!(" ({took})")).unwrap_or_default();
    let outcome = step.outcome.replace('_', " ");
    let code = step.exit_code.filter(|code| *code != 0).map(|code| format!(", exit code {code}"));
    let said = step.text.as_deref().map(|text| format!(": {text}")).unwrap_or_default();
    let line = format!("{archive}: {name} {outcome}{}{took}{said}", code.unwrap_or_default());
    escape(&line) + "\n"
}

fn last_line(report: &RunReport) -> String {
    let count = text::counted(report.archives.len() as u64, "archive");
    let took = text::duration(Duration::from_secs_f64(report.seconds));
    match report.exit_code {
        0 => format!("{count}, all done ({took})\n"),
        code => format!("{count}, and something needs a look: exit code {code} ({took})\n"),
    }
}

/// Returns the plan as lines.
fn planned(report: &RunReport) -> String {
    let mut lines = String::new();
    for archive in &report.archives {
        lines.push_str(&format!("{}\n", escape(&archive.archive)));
        for step in &archive.steps {
            let mark = if step.step.is_due { "do  " } else { "    " };
            lines.push_str(&escape(&format!("  {mark}  {}: {}", notify::named(step), step.step.reason)));
            lines.push('\n');
        }
        if let Some(error) = &archive.error {
            lines.push_str(&escape(&format!("  {error}")));
            lines.push('\n');
        }
    }
    lines
}

/// Waits for a time by chance.
async fn put_off(jitter: Duration, session: &Session) -> Result<()> {
    let chance = uuid::Uuid::new_v4().as_u128() % (jitter.as_millis() + 1);
    let time = Duration::from_millis(u64::try_from(chance).unwrap_or_default());
    tokio::select! {
        () = session.cancel().cancelled() => session.cancel().check(),
        () = tokio::time::sleep(time) => Ok(()),
    }
}

fn jitter(text: &str) -> std::result::Result<Duration, String> {
    span(text).ok_or_else(|| format!("{text:?} is no time; write 90s, 10m or 1h, up to 24h"))
}

/// Returns the time that a text says, up to a day.
pub fn span(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|sign: char| sign.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = digits.parse::<u64>().ok()?.checked_mul(unit)?;
    Some(Duration::from_secs(seconds)).filter(|time| *time <= JITTER_MAX)
}

/// Returns the folder in which runs are kept apart.
pub fn state(session: &Session) -> Result<PathBuf> {
    session.settings().state().ok_or_else(|| {
        let message =
            "runs cannot be kept apart without a folder for what is remembered: set HOME, or XDG_STATE_HOME";
        Error::new(ErrorKind::Usage, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_chance_is_bounded() {
        assert_eq!(jitter("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(jitter("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(jitter("24h"), Ok(JITTER_MAX));
        for text in [
            "",
            "10",
            "m",
            "25h",
            "-1s",
            "1.5h",
            "10 m",
            "99999999999999999999s",
            "18446744073709551615h",
            "1ü",
        ] {
            assert!(jitter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_copy_that_failed_is_no_failed_backup() {
        assert_eq!(weighed(Work::Copy, Exit::Failed), Exit::Unsaid);
        assert_eq!(weighed(Work::Copy, Exit::NotTheSame), Exit::NotTheSame);
        assert_eq!(weighed(Work::Create, Exit::Failed), Exit::Failed);
    }

    #[test]
    fn nothing_is_removed_after_a_snapshot_that_failed_or_is_damaged() {
        for (exit, is_held) in [
            (Exit::Done, false),
            (Exit::Incomplete, false),
            (Exit::Unsaid, false),
            (Exit::SourceDamaged, true),
            (Exit::Failed, true),
            (Exit::Locked, true),
        ] {
            assert_eq!(holding_back(exit).is_some(), is_held, "{exit:?}");
        }
    }
}
