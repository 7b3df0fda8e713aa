//! `packvault list`: shows the snapshots of a repository.

use packvault::engine::list::{list, list_all};
use packvault::engine::report::ProblemKind;
use packvault::location::Purpose;
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;
use super::table::{self, Ids};

/// Show the snapshots of the repository, newest last
///
/// A snapshot with a damaged manifest is shown as damaged, beside the others. The short id in the first column names
/// a snapshot for `verify` and `restore`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault list --repo /mnt/backup
  packvault list vaultwarden                   an archive of the configuration
  packvault list --long                        whole ids
  packvault list --json | jq -r '.[-1].id'     the id of the newest

{}", super::exit_codes("  3  a snapshot is damaged, or of a newer version\n")))]
pub struct Arguments {
    /// The archive: a name from the configuration, which names its repository
    archive: Option<String>,
    /// Show forgotten snapshots too, whose manifests are there because later ones are built on them
    #[arg(long)]
    forgotten: bool,
    /// Print each id as a whole
    #[arg(long)]
    long: bool,
}

/// Prints the snapshots.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let named =
        arguments.archive.as_deref().map(|name| session.settings().archive_to_read(name)).transpose()?;
    let repository = session.repository(named.as_ref(), Purpose::Look).await?;
    let rows = if arguments.forgotten { list_all(&repository).await? } else { list(&repository).await? };
    let ids = if arguments.long { Ids::Whole } else { Ids::Short };
    session.show_always(&rows, |rows| table::snapshots(rows, ids))?;
    let unread = rows.iter().filter(|row| row.problem_kind == Some(ProblemKind::NotPermitted)).count();
    if unread > 0 {
        let message = format!("{unread} of {} manifests may not be read by this user", rows.len());
        return Err(Error::new(ErrorKind::NotPermitted, message));
    }
    let is_damaged = rows.iter().any(|row| row.problem.is_some());
    Ok(match (session.misses_a_snapshot(), is_damaged) {
        // What is gone is worse than what can be seen to be damaged.
        (true, _) => Exit::NotTheSame,
        (false, true) => Exit::Problems,
        (false, false) => Exit::Done,
    })
}
