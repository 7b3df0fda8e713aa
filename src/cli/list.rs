//! `packvault list`: shows the snapshots of a repository.

use packvault::Result;
use packvault::engine::list::list;
use packvault::location::Purpose;

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
  packvault list --json | jq -r '.[-1].id'     the id of the newest

{}", super::exit_codes("  3  a snapshot is damaged\n")))]
pub struct Arguments {}

/// Prints the snapshots.
pub async fn run(_: &Arguments, session: &Session) -> Result<Exit> {
    let rows = list(&session.repository(None, Purpose::Look).await?).await?;
    session.show_always(&rows, |rows| table::snapshots(rows))?;
    let is_damaged = rows.iter().any(|row| row.problem.is_some());
    Ok(if is_damaged { Exit::Problems } else { Exit::Done })
}
