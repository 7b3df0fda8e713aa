//! `packvault unlock`: removes locks that nobody holds.

use packvault::Result;
use packvault::engine::report::{LockReport, UnlockReport};
use packvault::engine::unlock::unlock;
use packvault::location::Purpose;

use super::report::{self, Exit};
use super::session::Session;
use super::text::escape;

/// Remove the locks of a repository that nobody holds
///
/// A command that was killed leaves its lock behind. It ends by itself: after 90 seconds where its process is seen
/// to be gone, because it ran on this machine, and else when it was not touched for 30 minutes. This command removes
/// what has ended, and at once what a process of this machine has left; it shows the others and leaves them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault unlock --repo /mnt/nas/backup
  packvault unlock --force     when you know that no holder works any more

{}", super::exit_codes("")))]
pub struct Arguments {
    /// Remove the other locks too
    ///
    /// A backup whose lock is removed while it works fails before it publishes anything.
    #[arg(long)]
    force: bool,
}

/// Removes what may go, and shows what is left.
pub async fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let repository = session.repository(None, Purpose::Work).await?;
    let found = unlock(&repository, arguments.force, &session.context(None)).await?;
    if found.left.is_empty() {
        session.show(&found, text)?;
        return Ok(Exit::Done);
    }
    session.show_always(&found, text)?;
    report::say("hint: --force removes them too; use it when you know that no holder works any more\n");
    Ok(Exit::Locked)
}

fn text(found: &UnlockReport) -> String {
    let line = |what: &str, lock: &LockReport| format!("{what} {}\n", escape(&lock.detail));
    let mut text: String = found.removed.iter().map(|lock| line("removed", lock)).collect();
    text.extend(found.left.iter().map(|lock| line("left", lock)));
    if text.is_empty() { "there are no locks\n".to_owned() } else { text }
}
