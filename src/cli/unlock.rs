//! `packvault unlock`: removes locks that nobody holds.

use packvault::Result;
use packvault::engine::report::{LockReport, UnlockReport};
use packvault::engine::unlock::unlock;

use super::report::{self, Exit};
use super::session::Session;
use super::text::escape;

/// Remove the locks of a repository that nobody holds
///
/// A command that was killed leaves its lock behind. Such a lock ends by itself: 90 seconds after its last sign of
/// life if its process ran on this machine, else after 30 minutes. This command removes the locks that have ended,
/// and those of this machine's dead processes at once. It shows the others and leaves them.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault unlock --repo /mnt/backup
  packvault unlock --force     when you know that nobody works there any more

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
    let repository = session.repository_for_locks().await?;
    let found = unlock(&repository, arguments.force, &session.context(None)).await?;
    if found.left.is_empty() {
        return match session.show(&found, text) {
            Ok(()) => Ok(Exit::Done),
            Err(error) => session.unshown("what may go of the locks is removed, and none is left", error),
        };
    }
    session.show_always(&found, text)?;
    report::say(
        "hint: --force removes them too; use it only when you know that nobody works there any more\n",
    );
    Ok(Exit::Locked)
}

fn text(found: &UnlockReport) -> String {
    let line = |what: &str, lock: &LockReport| format!("{what} {}\n", escape(&lock.detail));
    let mut text: String = found.removed.iter().map(|lock| line("removed", lock)).collect();
    text.extend(found.left.iter().map(|lock| line("left", lock)));
    if text.is_empty() { "there are no locks\n".to_owned() } else { text }
}
