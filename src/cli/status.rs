//! `packvault status`: whether all is as the configuration says.
//!
//! Each place is asked for its snapshots, which needs no key and is bounded in time; what a place does not answer is
//! told from what this machine remembers, and that is said. Nothing is changed.

pub mod asking;
mod lines;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use jiff::Timestamp;
use packvault::engine::schedule::due::plan;
use packvault::engine::schedule::health::{Fault, Finding, PlaceFacts, Snapshot, Tried, judge};
use packvault::engine::schedule::metrics;
use packvault::engine::schedule::status::{ArchiveStatus, PlaceStatus, StatusFinding, StatusReport};
use packvault::format::timestamp;
use packvault::{Error, ErrorKind, Result, clock};

use super::facts::Facts;
use super::named_file::NamedFile;
use super::report::Exit;
use super::session::Session;
use super::steps;

/// For how many days it is told what was read, where the configuration does not say after how many all has been.
const READ_DAYS: u64 = 30;

/// Tell whether all is as the configuration says
///
/// For each archive and each place of it: the newest snapshot and its age, what was read and restored and when, what
/// copies lack, and what is due. Exit code 0 means that all is as configured. What cannot be asked just now is told
/// from what this machine remembers.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault status                          every archive of the configuration
  packvault status mail --json
  packvault status --offline                ask no server and no disk
  packvault status --quiet --metrics /var/lib/prometheus/node-exporter/packvault.prom

{}
If several apply: 2, then 20, 21, 22.", super::exit_codes("\
 20  the newest snapshot is too old, or there is none
 21  what is stored was not proved when it should have been, or is damaged
 22  a copy lacks the newest snapshot
")))]
pub struct Arguments {
    /// The archives, by their names in the configuration; all of them by default
    #[arg(value_name = "ARCHIVE")]
    archives: Vec<String>,
    /// Also write numbers for a monitor to this file, in the text format of Prometheus
    ///
    /// The file is replaced in one step, and only if it has such numbers.
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
    /// Ask no place, and tell what this machine remembers
    #[arg(long)]
    offline: bool,
}

const NUMBERS: NamedFile =
    NamedFile { flag: "--metrics", noun: "file of numbers", is_own: metrics::are_numbers };

/// Looks, and says what is wrong.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let settings = session.settings();
    arguments.metrics.iter().try_for_each(|file| NUMBERS.check(file, settings))?;
    let names: Vec<String> = match arguments.archives.is_empty() {
        true => settings.archive_names().into_iter().map(str::to_owned).collect(),
        false => arguments.archives.clone(),
    };
    if names.is_empty() {
        let why = settings.problem().unwrap_or("the configuration has no [archive.NAME]");
        return Err(Error::new(ErrorKind::Usage, format!("there is no archive to tell of: {why}")));
    }
    let now = clock::now()?;
    let mut archives = Vec::new();
    for name in &names {
        archives.push(arguments.archive(name, now, session).await);
    }
    session.cancel().check()?;
    let is_configured = settings.problem().is_none();
    let ok = is_configured && archives.iter().all(|archive| archive.ok);
    let report = StatusReport { asked_at: timestamp::format(now), ok, archives };
    // The monitor most often is another user.
    let write = |file: &PathBuf| NUMBERS.write(file, metrics::text(&report).as_bytes(), 0o644);
    let written = arguments.metrics.iter().try_for_each(write);
    let is_coloured =
        !session.is_json() && std::io::stdout().is_terminal() && !settings.environment().no_color;
    session.show(&report, |report| lines::text(report, is_coloured))?;
    written?;
    let of_archives = report.archives.iter().flat_map(exits).fold(Exit::Done, Exit::worse);
    Ok(if is_configured { of_archives } else { Exit::Usage })
}

impl Arguments {
    async fn archive(&self, name: &str, now: Timestamp, session: &Session) -> ArchiveStatus {
        match self.looked_at(name, now, session).await {
            Ok(status) => status,
            Err(error) => ArchiveStatus {
                archive: name.to_owned(),
                error: Some(error.chain()),
                ..ArchiveStatus::default()
            },
        }
    }

    async fn looked_at(&self, name: &str, now: Timestamp, session: &Session) -> Result<ArchiveStatus> {
        let archive = session.settings().archive_to_read(name)?;
        let schedule = steps::schedule(&archive, session);
        let names = std::iter::once(None).chain(schedule.copies.iter().map(|copy| Some(copy.as_str())));
        let read_days = archive.sampling().map(|sampling| sampling.sample.checks().unwrap_or(READ_DAYS));
        let (memory, warning) = Facts::of(&archive, session);
        warning.iter().for_each(|sentence| session.warn_once(sentence));
        let mut places = Vec::new();
        for place in names {
            let place = match self.offline {
                true => asking::unasked(place, &archive, session),
                false => asking::ask(place, &archive, now, session).await,
            };
            let mut place = PlaceStatus { read_days, ..place };
            memory.add_to(&mut place, now, session);
            places.push(place);
        }
        let facts: Vec<PlaceFacts> = places.iter().map(facts).collect();
        let findings = judge(&schedule, &facts, now);
        let due = plan(&schedule, &memory.done(&schedule, session), now);
        Ok(ArchiveStatus {
            archive: name.to_owned(),
            max_age: schedule.max_age.map(|span| span.to_string()),
            ok: findings.is_empty(),
            findings: findings.into_iter().map(finding).collect(),
            places,
            last_run: memory.last_run(),
            due: due.iter().map(|step| steps::planned(step, now)).collect(),
            error: None,
        })
    }
}

fn finding(finding: Finding) -> StatusFinding {
    StatusFinding { fault: finding.fault.name(), place: finding.place, text: finding.text }
}

fn facts(place: &PlaceStatus) -> PlaceFacts {
    let time = |text: &String| text.parse().ok();
    PlaceFacts {
        place: place.place.clone(),
        newest: place.newest.as_ref().and_then(|newest| {
            Some(Snapshot { id: newest.id.clone(), created_at: time(&newest.created_at)? })
        }),
        verified: place.verified_at.as_ref().and_then(time),
        damaged_packs: place.damaged_packs.unwrap_or_default(),
        tried: place
            .restore_check
            .as_ref()
            .and_then(|tried| Some(Tried { at: time(&tried.at)?, is_proved: tried.proved })),
    }
}

fn exits(archive: &ArchiveStatus) -> Vec<Exit> {
    let of_finding = |finding: &StatusFinding| match finding.fault {
        fault if fault == Fault::Stale.name() => Exit::Stale,
        fault if fault == Fault::Unproved.name() => Exit::Unproved,
        _ => Exit::CopyMissing,
    };
    let error = archive.error.iter().map(|_| Exit::Usage);
    archive.findings.iter().map(of_finding).chain(error).collect()
}
