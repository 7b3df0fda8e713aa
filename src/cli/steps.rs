//! The steps of a run: each asks the command of its name, with the words a user would type.

use clap::{Args, Command, FromArgMatches, ValueEnum as _};
use jiff::Timestamp;
use packvault::engine::schedule::Schedule;
use packvault::engine::schedule::due::{Said, Step, Work};
use packvault::engine::schedule::status::PlannedStep;
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;
use super::settings::{Archive, RereadChoice};
use super::{copies, create, forget, prune, restore_check, text, verify};

/// How a step ended.
pub struct Ended {
    /// As what it counts.
    pub exit: Exit,
    /// What it did, in one line.
    pub text: String,
    /// The snapshot it made.
    pub snapshot: Option<String>,
}

/// Returns the schedule of an archive: what its section says, less what may not be done there.
pub fn schedule(archive: &Archive, session: &Session) -> Schedule {
    archive.schedule(session.expect_removable(Some(archive)).is_ok())
}

/// Returns a step as it is told.
pub fn planned(step: &Step, now: Timestamp) -> PlannedStep {
    PlannedStep {
        work: step.work.name(),
        place: step.place.clone(),
        is_due: step.is_due(),
        reason: Said(step.reason, now).to_string(),
    }
}

/// Does a step. Nothing is written to standard output.
pub async fn perform(step: &Step, archive: &Archive, session: &Session) -> Result<Ended> {
    // Only archives of the configuration are run.
    let name = archive.name.as_deref().unwrap_or_default();
    match step.work {
        Work::Create => snapshot(name, session).await,
        Work::Copy => copied(step.place.as_deref().unwrap_or_default(), archive, session).await,
        Work::Forget => {
            let report = forget::give_up(&words::<forget::Arguments>(&["--", name])?, session).await?;
            Ok(Ended::done(forget::sentence(&report)))
        }
        Work::Prune => {
            let report = prune::prune_step(&prune::Arguments::of_archive(name), session).await?;
            Ok(Ended::done(prune::sentence(&report)))
        }
        Work::Verify => read(name, archive, session).await,
        Work::RestoreCheck => restored(name, session).await,
    }
}

async fn snapshot(name: &str, session: &Session) -> Result<Ended> {
    made(create::make(&words::<create::Arguments>(&["--", name])?, session).await?)
}

fn made(made: create::Made) -> Result<Ended> {
    let report = &made.report;
    if report.unchanged {
        return Ok(Ended { exit: made.exit(), text: "nothing changed".to_owned(), snapshot: None });
    }
    let added = text::size(report.bytes_added);
    let snapshot = report.id.clone().unwrap_or_default();
    let problem = report.source_problems.iter().chain(&report.warnings).next();
    let more = problem.map(|problem| format!("; {problem}")).unwrap_or_default();
    let text = format!("snapshot {snapshot}, {added} added{more}");
    Ok(Ended { exit: made.exit(), text, snapshot: report.id.clone() })
}

/// Makes a snapshot of an archive, if it is not as it is in the newest one.
pub async fn snapshot_if_changed(
    name: &str,
    reread: Option<RereadChoice>,
    session: &Session,
) -> Result<Ended> {
    let reread = reread.and_then(|choice| choice.to_possible_value());
    let mut typed = vec!["--if-changed"];
    if let Some(reread) = &reread {
        typed.extend(["--reread", reread.get_name()]);
    }
    typed.extend(["--", name]);
    made(create::make(&words::<create::Arguments>(&typed)?, session).await?)
}

/// Copies what a place lacks.
pub async fn copied(place: &str, archive: &Archive, session: &Session) -> Result<Ended> {
    let report = copies::copy_to(archive, place, session, None).await?;
    let copied = text::counted(report.copied.len() as u64, "snapshot");
    let text = format!("{copied} copied, {} written", text::size(report.bytes_written));
    let problem = report.problems.first().map(|found| found.problem.detail.as_str());
    Ok(match report.is_whole() {
        true => Ended::done(text),
        false => {
            let problem = problem.unwrap_or("some snapshots were not copied");
            Ended { exit: Exit::Problems, text: format!("{text}; {problem}"), snapshot: None }
        }
    })
}

/// Reads a share of what is stored.
async fn read(name: &str, archive: &Archive, session: &Session) -> Result<Ended> {
    let sampling = archive.sampling().ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("archive.{name} does not say how much is read: `verify`"))
    })?;
    let report = verify::check(&verify::Arguments::sample_of(name, sampling.sample), session).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    let read = text::size(report.bytes);
    Ok(match report.problems.first() {
        None => Ended::done(format!("{read} read, no problems")),
        Some(first) => {
            let problems = text::counted(report.problems.len() as u64, "problem");
            let text = format!("{read} read, {problems}: {}", first.detail);
            Ended { exit: Exit::Problems, text, snapshot: None }
        }
    })
}

/// Tries a restore of the newest snapshot.
async fn restored(name: &str, session: &Session) -> Result<Ended> {
    let report = restore_check::check(&verify::Arguments::restore_check_of(name), session).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    let problem = report.snapshots.iter().find_map(|snapshot| snapshot.problem.as_ref());
    let took = text::duration(std::time::Duration::try_from_secs_f64(report.seconds).unwrap_or_default());
    Ok(match problem {
        None => Ended::done(format!("{} restored and proved in {took}", text::size(report.bytes))),
        Some(problem) => Ended { exit: Exit::Problems, text: problem.clone(), snapshot: None },
    })
}

impl Ended {
    fn done(text: String) -> Self {
        Self { exit: Exit::Done, text, snapshot: None }
    }
}

/// Returns the arguments of a command as if they had been typed. The name of an archive comes after `--`, for it may
/// look like an option.
fn words<T: Args + FromArgMatches>(words: &[&str]) -> Result<T> {
    let command = T::augment_args(Command::new("packvault")).no_binary_name(true);
    let matches = command.try_get_matches_from(words);
    matches
        .and_then(|matches| T::from_arg_matches(&matches))
        .map_err(|error| Error::caused(ErrorKind::Usage, "a step of the run is not understood", error))
}
