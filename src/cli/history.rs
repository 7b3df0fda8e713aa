//! `packvault history`: shows what the ledger of this machine has recorded; with `--table`, what a row was in each
//! snapshot (`row_history.rs`).

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use packvault::engine::retention::duration::Duration as Span;
use packvault::ledger::{Access, Ended, Ledger, RunFilter, RunRow};
use packvault::{Error, ErrorKind, Result};
use serde::Serialize;

use super::report::Exit;
use super::row_history::{self, RowFlags};
use super::session::Session;
use super::table::{self, Column};
use super::text::{self, escape};

/// Widest location and error shown whole.
const LOCATION_COLUMNS_MAX: usize = 32;
const ERROR_COLUMNS_MAX: usize = 60;
/// Runs shown where nobody asks for more.
const RUNS_DEFAULT: u32 = 50;

/// Show what was done on this machine; or what a row of a database was
///
/// The ledger records each run: when it began and ended, on which archive and repository, how it ended, and what it
/// read, stored and proved. It lies in ~/.local/state/packvault/ledger.sqlite and may be deleted: it is history, not
/// truth.
///
/// With --table and --row, the snapshots of a repository are asked instead: what the row of that key was in each.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault history                       the last 50 runs
  packvault history mail --failed         runs of one archive that failed
  packvault history --since 90d --json | jq '.runs[].exit_code'
  packvault history mail --table messages --row 42

{}", super::exit_codes("  3  the row could not be looked up in some snapshots\n")))]
pub struct Arguments {
    /// Only runs of this archive, by its name in the configuration or its home folder
    archive: Option<String>,
    /// Only runs that began within this time: 36h, 90d, 1y6m
    #[arg(long, value_name = "DURATION")]
    since: Option<Span>,
    /// Only runs of this kind: create, verify, sample, restore_check, restore, forget, prune, copy and so on
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only runs that failed, were killed, or found problems
    #[arg(long)]
    failed: bool,
    /// How many runs to show; the last ones
    #[arg(long, value_name = "NUMBER", default_value_t = RUNS_DEFAULT)]
    limit: u32,
    #[command(flatten)]
    pub(super) row: RowFlags,
}

impl Arguments {
    /// Tells whether it is about a row, and not about runs.
    pub fn is_of_a_row(&self) -> bool {
        self.row.table.is_some()
    }
}

/// What `history` shows.
#[derive(Debug, Serialize)]
struct History {
    /// The runs, oldest first.
    runs: Vec<Shown>,
}

/// A run, with its times as text.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    row: RunRow,
    began_at: String,
    ended_at: Option<String>,
}

/// Shows the runs, or the row.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    match arguments.is_of_a_row() {
        true => row_history::run(arguments.archive.as_deref(), &arguments.row, session).await,
        false => runs(arguments, session),
    }
}

fn runs(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let Some(ledger) = open(session)? else {
        session.show_always(&History { runs: Vec::new() }, |_| "nothing is recorded yet\n".to_owned())?;
        return Ok(Exit::Done);
    };
    let filter = RunFilter {
        kind: arguments.kind.clone(),
        archive: arguments.archive.clone(),
        since_ms: arguments.since.map(before).transpose()?,
        ended: if arguments.failed { Ended::Failed } else { Ended::Any },
        limit: Some(arguments.limit.into()),
        ..RunFilter::default()
    };
    let mut rows = ledger.runs(&filter)?;
    rows.reverse();
    let shown = rows.into_iter().map(|row| Shown {
        began_at: time(row.began_ms),
        ended_at: row.ended_ms.map(time),
        row,
    });
    session.show_always(&History { runs: shown.collect() }, |history| table(&history.runs))?;
    Ok(Exit::Done)
}

/// Opens the ledger to ask it; none where nothing was ever recorded.
pub fn open(session: &Session) -> Result<Option<Ledger>> {
    let Some(folder) = session.settings().state() else { return Ok(None) };
    let opened = Ledger::open(&folder, Access::Read);
    match (opened.ledger, opened.warning) {
        (None, Some(why)) => Err(Error::new(ErrorKind::Io, why)),
        (ledger, warning) => {
            warning.iter().for_each(|warning| session.warn(warning));
            Ok(ledger)
        }
    }
}

/// Returns a time of the ledger as text, in UTC; what no calendar has is shown as its number.
pub fn time(milliseconds: i64) -> String {
    Timestamp::from_millisecond(milliseconds)
        .map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
        .unwrap_or_else(|_| milliseconds.to_string())
}

/// Returns the time that lies so long before the present.
pub fn before(span: Span) -> Result<i64> {
    let now = packvault::clock::now()?;
    let too_long = || Error::new(ErrorKind::Usage, format!("no calendar reaches back {span}"));
    Ok(span.before(now, &TimeZone::UTC).ok_or_else(too_long)?.as_millisecond())
}

fn table(runs: &[Shown]) -> String {
    if runs.is_empty() {
        return "no such runs\n".to_owned();
    }
    let column = |heading, is_number, cell: fn(&RunRow) -> String| {
        Column::of(heading, is_number, runs.iter().map(|run| cell(&run.row)).collect())
    };
    let columns = vec![
        column("began (UTC)", false, |row| text::minute(&time(row.began_ms))),
        column("what", false, |row| escape(&row.kind)),
        column("archive", false, |row| {
            text::cut(&escape(row.archive.as_deref().unwrap_or_default()), LOCATION_COLUMNS_MAX)
        }),
        column("repository", false, |row| {
            text::cut(&escape(row.location.as_deref().unwrap_or_default()), LOCATION_COLUMNS_MAX)
        }),
        column("took", true, |row| {
            row.milliseconds.map_or_else(String::new, |took| {
                text::duration(Duration::from_millis(u64::try_from(took).unwrap_or_default()))
            })
        }),
        column("ended", false, ended),
        column("snapshot", false, |row| {
            row.snapshot.as_deref().map(|id| escape(short(id))).unwrap_or_default()
        }),
        column("read", true, |row| size(row.bytes_read)),
        column("stored", true, |row| size(row.bytes_stored)),
        column("why", false, |row| {
            text::cut(&escape(row.error.as_deref().unwrap_or_default()), ERROR_COLUMNS_MAX)
        }),
    ];
    table::lined_up(columns, runs.len())
}

fn size(bytes: Option<i64>) -> String {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).map_or_else(String::new, text::size)
}

/// Returns the part of an id that tells it from others: the beginning of its hash.
fn short(id: &str) -> &str {
    let hash = id.split_once('-').map_or(id, |(_, hash)| hash);
    hash.get(..8).unwrap_or(hash)
}

/// Returns in a word how a run ended; its number is in the JSON.
pub fn ended(row: &RunRow) -> String {
    match row.exit_code {
        None => "did not end".to_owned(),
        Some(0) => "done".to_owned(),
        Some(3) => match row.problems {
            Some(problems) if problems > 0 => text::counted(problems as u64, "problem"),
            _ => "problems".to_owned(),
        },
        Some(4) => "done, source damaged".to_owned(),
        Some(5) => "done, incomplete".to_owned(),
        Some(6) => "done, not all after it".to_owned(),
        Some(11) => "locked".to_owned(),
        Some(130) => "interrupted".to_owned(),
        Some(code) => format!("failed ({code})"),
    }
}
