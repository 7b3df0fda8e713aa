//! `packvault find`: searches snapshots for files.

use std::collections::HashMap;

use packvault::engine::Selection;
use packvault::engine::inside::find::{FindOptions, find};
use packvault::engine::inside::pattern::Patterns;
use packvault::engine::inside::report::{Entry, FindReport};
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;
use super::table::{self, Column};
use super::text::{self, counted, escape};
use super::{look, ls, select};

/// Find files in one snapshot, or in all
///
/// A pattern without a slash is compared with the name of each file and folder; one with a slash with the whole path.
/// `*` and `?` stop at a slash, `**` does not. What matches a folder matches all that is in it. An attachment is found
/// by its hash: its path is `attachments/`, two digits, and the hash.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault find 'deletions/*.json' --repo /mnt/backup
  packvault find vaultwarden latest config.json
  packvault find --all '*.json'                   in every snapshot
  packvault find --all '3a7bd3e2*' --json         which snapshots have an attachment

{}", super::exit_codes("  3  some snapshots could not be searched\n")))]
pub struct Arguments {
    /// The archive, by its name in the configuration; the snapshot, `latest` without one; and what to look for
    #[arg(value_name = "ARCHIVE] [SNAPSHOT] [PATTERN", num_args = 1..=3, required = true)]
    words: Vec<String>,
    /// Search every snapshot
    #[arg(long)]
    all: bool,
    /// Do not tell capital letters from small ones
    #[arg(long, short = 'i')]
    ignore_case: bool,
    #[command(flatten)]
    locks: super::ReadLockFlags,
}

/// Shows what matches.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let (subject, pattern) = look::with_last(session, &arguments.words)?;
    if arguments.all && subject.snapshot.is_some() {
        return Err(Error::new(ErrorKind::Usage, "a snapshot and --all cannot be asked for together"));
    }
    let patterns = Patterns::parse(&[pattern], arguments.ignore_case)?;
    let opened = look::open(session, &subject, arguments.locks).await?;
    let selection = if arguments.all { Selection::All } else { opened.selection };
    let options = FindOptions { patterns, locking: arguments.locks.locking() };
    let report = find(&opened.repository, selection, &options, &session.context(None)).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    session.show_always(&report, shown)?;
    Ok(if report.problems.is_empty() { Exit::Done } else { Exit::Problems })
}

fn shown(report: &FindReport) -> String {
    let mut shown = String::new();
    if !report.found.is_empty() {
        let mut ids: Vec<&str> = report.found.iter().map(|found| found.snapshot.as_str()).collect();
        ids.dedup();
        let short: HashMap<&str, String> = ids.iter().copied().zip(select::short(&ids)).collect();
        let name = |id: &str| short.get(id).map(|name| escape(name)).unwrap_or_default();
        let cells = report.found.iter().map(|found| name(&found.snapshot)).collect();
        let entries: Vec<&Entry> = report.found.iter().map(|found| &found.entry).collect();
        let mut columns = vec![Column::of("snapshot", false, cells)];
        columns.extend(ls::columns(&entries));
        shown = table::lined_up(columns, entries.len());
    }
    for problem in &report.problems {
        shown.push_str(&format!(
            "problem: snapshot {}: {}\n",
            escape(&problem.snapshot),
            escape(&problem.problem)
        ));
    }
    let files = match report.found.len() as u64 {
        1 => "1 match".to_owned(),
        files => format!("{} matches", text::count(files)),
    };
    shown + &format!("{files} in {}\n", counted(report.snapshots, "snapshot"))
}
