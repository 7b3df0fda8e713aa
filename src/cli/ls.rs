//! `packvault ls`: shows the files of a snapshot.

use packvault::Result;
use packvault::engine::inside::ls::{LsOptions, ls};
use packvault::engine::inside::report::{Entry, EntryKind, LsReport};

use super::look;
use super::report::Exit;
use super::session::Session;
use super::table::{self, Column};
use super::text::{self, escape};

/// Show the files of a snapshot, without restoring it
///
/// Shown are the paths at which a restore puts them: the database, the attachments by their hashes, and the extra files.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault ls --repo /mnt/backup              the newest snapshot
  packvault ls a3d383f8 deletions              a folder of another one
  packvault ls vaultwarden latest --recursive  an archive of the configuration
  packvault ls latest attachments/a3 --json

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The archive, by its name in the configuration; the snapshot, `latest` without one; a folder or file in it
    ///
    /// A path needs an archive or a snapshot before it. These name a snapshot: its id, or the beginning of it that
    /// `list` shows; `latest`, and `latest~1` for the one before; a day; its tag.
    #[arg(value_name = "ARCHIVE] [SNAPSHOT] [PATH", num_args = 0..=3)]
    words: Vec<String>,
    /// Show every file below, at any depth
    #[arg(long, short = 'R')]
    recursive: bool,
    #[command(flatten)]
    locks: super::ReadLockFlags,
}

/// Shows what lies at the path.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let (subject, path) = look::with_path(session, &arguments.words)?;
    let opened = look::open(session, &subject, arguments.locks).await?;
    let options = LsOptions { path, recursive: arguments.recursive, locking: arguments.locks.locking() };
    let report = ls(&opened.repository, opened.selection, &options, &session.context(None)).await?;
    report.warnings.iter().for_each(|sentence| session.warn(sentence));
    session.show_always(&report, shown)?;
    Ok(Exit::Done)
}

fn shown(report: &LsReport) -> String {
    let entries: Vec<&Entry> = report.entries.iter().collect();
    match entries.is_empty() {
        true => "nothing is there\n".to_owned(),
        false => table::lined_up(columns(&entries), entries.len()),
    }
}

/// Returns the columns of entries; a folder ends in a slash.
pub fn columns(entries: &[&Entry]) -> Vec<Column> {
    let cells = |cell: &dyn Fn(&Entry) -> String| entries.iter().map(|entry| cell(entry)).collect();
    let path = |entry: &Entry| match entry.kind {
        EntryKind::Folder => format!("{}/", escape(&entry.path)),
        _ => escape(&entry.path),
    };
    let owner = |entry: &Entry| match (entry.user, entry.group) {
        (Some(user), Some(group)) => format!("{user}:{group}"),
        _ => String::new(),
    };
    let number = |count: Option<u64>| count.map(text::count).unwrap_or_default();
    vec![
        Column::of(
            "mode",
            false,
            cells(&|entry| entry.mode.map(|mode| format!("{mode:04o}")).unwrap_or_default()),
        ),
        Column::of("owner", false, cells(&owner)),
        Column::of("size", true, cells(&|entry| text::size(entry.bytes))),
        Column::of("files", true, cells(&|entry| number(entry.files))),
        Column::of(
            "date (UTC)",
            false,
            cells(&|entry| entry.modified.as_deref().map(text::minute).unwrap_or_default()),
        ),
        Column::of("path", false, cells(&path)),
    ]
}
