//! `packvault list`: shows the snapshots of a repository.

use packvault::engine::list::list;
use packvault::engine::report::ProblemKind;
use packvault::location::Purpose;
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;
use super::session::Session;
use super::table;

/// Show the snapshots of the repository, newest last
///
/// A snapshot whose manifest is damaged is shown as damaged; the others are shown all the same. The short id
/// in the first column is enough to name a snapshot to `verify` and `restore`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault list --repo /mnt/nas/backup
  packvault list vaultwarden                   an archive of the configuration
  packvault list --json | jq -r '.[-1].id'     the id of the newest

{}", super::exit_codes("  3  a snapshot is damaged, or of a newer version\n")))]
pub struct Arguments {
    /// The archive: a name from the configuration, which says where its snapshots are
    archive: Option<String>,
}

/// Prints the snapshots.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let named =
        arguments.archive.as_deref().map(|name| session.settings().archive_to_read(name)).transpose()?;
    let rows = list(&session.repository(named.as_ref(), Purpose::Look).await?).await?;
    session.show_always(&rows, |rows| table::snapshots(rows))?;
    let unread = rows.iter().filter(|row| row.problem_kind == Some(ProblemKind::NotPermitted)).count();
    if unread > 0 {
        let message = format!("{unread} of {} manifests may not be read by this user", rows.len());
        return Err(Error::new(ErrorKind::NotPermitted, message));
    }
    let is_damaged = rows.iter().any(|row| row.problem.is_some());
    Ok(if is_damaged { Exit::Problems } else { Exit::Done })
}
