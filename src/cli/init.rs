//! `packvault init`: makes a repository.

use packvault::Result;
use packvault::engine::init::init_with;
use packvault::location::Purpose;
use packvault::repo::locks;

use super::report::Exit;
use super::session::Session;
use super::summary;

/// Make a new, empty repository
///
/// The folder is made if it is missing; one that already holds a repository is refused. Nothing in a
/// repository is encrypted: keep it where only you can read it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault init --repo /mnt/nas/backup
  packvault init --repo nas                    a name from the configuration

{}", super::exit_codes("")))]
pub struct Arguments {
    /// Break the lock of another init even if it looks alive
    ///
    /// On servers that cannot decide whose a name is, two inits keep apart by a lock. A local disk needs none.
    #[arg(long)]
    force_unlock: bool,
}

/// Makes the repository and says what to run next.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let (location, storage) = session.storage(None, Purpose::Init).await?;
    let report = init_with(storage.as_ref(), arguments.force_unlock).await?;
    // What a server decides by itself is worth a line; on a disk it is always the same.
    let exclusion = (!location.is_local()).then(|| locks::exclusion(storage.guarantees()));
    session.show(&report, |report| summary::init(report, &location.to_string(), exclusion))?;
    Ok(Exit::Done)
}
