//! `packvault diff`: shows what differs between two snapshots.

use packvault::engine::Selection;
use packvault::engine::inside::diff::{Change, ChangedFile, DiffOptions, DiffReport, diff};
use packvault::engine::inside::rows::RowsOptions;
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;
use super::subject::Subject;
use super::table::{self, Column};
use super::text::{count, counted, escape, size};
use super::{look, row_diff, select, summary};

/// Show what differs between two snapshots
///
/// Files and attachments that were added, removed or changed, and how many pages of which tables of the database
/// differ.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault diff latest~1 latest --repo /mnt/backup
  packvault diff mail latest~7 latest
  packvault diff a3d383f8 0b9e11d2 --no-tables --json
  packvault diff latest~1 latest --rows labels

{}", super::exit_codes("  5  done, but whose the changed pages are could not be told\n")))]
pub struct Arguments {
    /// The two snapshots; before them, the name of an archive of the configuration may stand
    #[arg(value_name = "SNAPSHOT", num_args = 2..=3, required = true)]
    words: Vec<String>,
    /// Count changed pages, and do not work out of which tables they are
    #[arg(long)]
    no_tables: bool,
    /// Show which rows of this table were added, removed or changed, and nothing else
    #[arg(long, value_name = "TABLE", conflicts_with = "no_tables")]
    rows: Option<String>,
    #[command(flatten)]
    locks: super::ReadLockFlags,
    /// How many cores to use; all by default
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) jobs: Option<u16>,
}

/// Shows what differs.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let (archive, before, after) = match arguments.words.as_slice() {
        [before, after] => (None, before, after),
        [archive, before, after] => (Some(archive), before, after),
        _ => return Err(Error::new(ErrorKind::Usage, "two snapshots are compared")),
    };
    let archive = archive.map(|name| session.settings().archive_to_read(name)).transpose()?;
    let subject = Subject { archive, snapshot: Some(before.clone()) };
    let opened = look::open(session, &subject, arguments.locks).await?;
    let other = match after.as_str() {
        "latest" => Selection::Latest,
        text => Selection::One(select::snapshot(&opened.repository, text).await?),
    };
    if let Some(table) = &arguments.rows {
        let options = RowsOptions { table: table.clone(), locking: arguments.locks.locking() };
        return row_diff::run(opened, other, options, arguments.jobs, session).await;
    }
    let options = DiffOptions { without_tables: arguments.no_tables, locking: arguments.locks.locking() };
    let context = session.context(arguments.jobs);
    let report = diff(&opened.repository, (opened.selection, other), &options, &context).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    session.show_always(&report, shown)?;
    let lacks_tables = report.database.as_ref().is_some_and(|database| database.trees.is_none());
    Ok(if lacks_tables && !arguments.no_tables { Exit::Incomplete } else { Exit::Done })
}

fn shown(report: &DiffReport) -> String {
    let mut shown = String::new();
    let word = |file: &ChangedFile| match file.change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Changed => "changed",
    };
    let files = &report.files;
    if !files.is_empty() {
        let bytes = |bytes: Option<u64>| bytes.map(size).unwrap_or_default();
        let columns = vec![
            Column::of("", false, files.iter().map(|file| word(file).to_owned()).collect()),
            Column::of("before", true, files.iter().map(|file| bytes(file.bytes_before)).collect()),
            Column::of("after", true, files.iter().map(|file| bytes(file.bytes_after)).collect()),
            Column::of("path", false, files.iter().map(|file| escape(&file.path)).collect()),
        ];
        shown.push_str(&table::lined_up(columns, files.len()));
    }
    summary::part(&mut shown, "files", &format!("{} differ", count(files.len() as u64)));
    let Some(database) = &report.database else { return shown };
    let pages = counted(database.pages_after, "page");
    let line = format!(
        "{} of {pages} changed, {} before",
        count(database.pages_changed),
        count(database.pages_before)
    );
    summary::part(&mut shown, "database", &line);
    for tree in database.trees.iter().flatten() {
        let name = match (&tree.name, &tree.table) {
            (Some(name), Some(table)) if name != table => {
                format!("{} (index of {})", escape(name), escape(table))
            }
            (Some(name), _) => escape(name),
            (None, _) => "free pages, and others of no known table".to_owned(),
        };
        summary::part(&mut shown, "", &format!("{:>8}  {name}", count(tree.pages_changed)));
    }
    shown
}
