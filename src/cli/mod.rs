//! The command line: what the user typed becomes what the library is asked, and what it answers becomes
//! output.
//!
//! One file per command holds its arguments, whose comments are the help, and its function. Standard output
//! is data, standard error is talk. The library below neither prints nor reads the environment.

mod application;
mod archive;
mod completions;
mod create;
mod demo;
mod file_size;
mod hooks;
mod init;
mod interrupt;
mod list;
mod log;
mod man;
mod memory;
mod owner;
mod probe;
mod render;
mod report;
mod restore;
mod second_stacks;
mod select;
mod session;
mod settings;
mod sqlite_archive;
mod subject;
mod summary;
mod table;
mod text;
mod threads;
mod unlock;
mod verify;
mod version;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use packvault::engine::ReadLocking;
use packvault::location::Purpose;
use packvault::{Location, Result};

use render::Style;
use report::Exit;
use session::Session;
use text::ByteSize;

/// Returns the part of a command's help that lists its exit codes; `own` are lines for those between the
/// common ones.
fn exit_codes(own: &str) -> String {
    format!(
        "\
Exit codes:
  0  done
  1  failed
  2  wrong usage
{own} 10  no repository there
 11  the repository or the archive is locked
 12  wrong key
130  interrupted"
    )
}

/// Back up SQLite-backed archives, and prove what is restored
///
/// packvault stores an application's archive - one SQLite database, a folder of attachments and a few extra
/// files - as snapshots in a repository, and checks every byte on the way back. The repository format is
/// msgvault's own: either program can read what the other wrote.
#[derive(Debug, Parser)]
#[command(version = version::TEXT, max_term_width = 80, arg_required_else_help = true)]
#[command(after_long_help = "\
First steps:
  packvault demo                           see it work on an invented archive
  packvault init --repo /mnt/nas/backup    make a repository
  packvault create --repo /mnt/nas/backup  back up ~/.msgvault
  packvault list --repo /mnt/nas/backup    see the snapshots
  packvault restore --repo /mnt/nas/backup --target /srv/restored

Configuration, in ~/.config/packvault/config.toml (or see PACKVAULT_CONFIG):
  default_repository = \"nas\"
  [repository.nas]
  location = \"/mnt/nas/backup\"
  [archive.mail]
  home = \"/srv/msgvault\"
  repository = \"nas\"

Environment:
  PACKVAULT_CONFIG  the configuration file
  PACKVAULT_REPO    the repository where --repo is not given
  MSGVAULT_HOME     the archive where none is given
  PACKVAULT_LOG     what is logged, such as debug or packvault::lock=debug

Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  verify or list found problems
  4  done, but the source itself is damaged
  5  done, but something that was asked for is not in it
 10  no repository there
 11  the repository or the archive is locked
 12  wrong key
130  interrupted")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// How a command that only reads keeps out of the way of others.
#[derive(Debug, Clone, Copy, Args)]
struct ReadLockFlags {
    /// Break the repository's lock even if it looks alive
    ///
    /// For a holder that is gone for good. One that still works would go on writing.
    #[arg(long)]
    force_unlock: bool,
    /// Read without taking a lock, and beside whoever has one
    ///
    /// A backup that is made meanwhile does no harm. Where the repository cannot be written, no lock is taken
    /// anyway.
    #[arg(long, conflicts_with = "force_unlock")]
    no_lock: bool,
}

impl ReadLockFlags {
    fn locking(self) -> ReadLocking {
        ReadLocking { force_unlock: self.force_unlock, without_lock: self.no_lock }
    }

    /// Returns what the storage is opened for.
    fn purpose(self) -> Purpose {
        if self.no_lock { Purpose::Look } else { Purpose::Read }
    }
}

/// The flags that every command knows.
#[derive(Debug, Clone, Args)]
struct Globals {
    /// Where the repository lies: a path, a URL, or a name from the configuration
    ///
    /// Without it: PACKVAULT_REPO, then the archive's `repository` or `default_repository` in the
    /// configuration, then `[backup] repo` of the msgvault archive.
    #[arg(long, global = true, value_name = "LOCATION", help_heading = "Common options")]
    repo: Option<String>,
    /// Print the result as JSON, and nothing else on standard output
    #[arg(long, global = true, help_heading = "Common options")]
    json: bool,
    /// Send at most this many bytes per second to a server
    #[arg(long, global = true, value_name = "SIZE", value_parser = text::rate, help_heading = "Common options")]
    limit_upload: Option<ByteSize>,
    /// Receive at most this many bytes per second from a server
    #[arg(long, global = true, value_name = "SIZE", value_parser = text::rate, help_heading = "Common options")]
    limit_download: Option<ByteSize>,
    /// Where bytes wait that do not fit in memory; packvault's cache folder by default
    #[arg(long, global = true, value_name = "FOLDER", help_heading = "Common options")]
    spool: Option<PathBuf>,
    /// How progress looks, on standard error
    ///
    /// bars: one bar per stage, redrawn in place. plain: a line now and then. json: one object per line, with
    /// `event` (begin, advance, step, end, remark), `stage`, `unit`, `total`, `done`, `step` and `seconds`.
    /// none: nothing. auto: bars on a terminal, else plain.
    #[arg(long, global = true, value_enum, default_value = "auto", hide_possible_values = true)]
    #[arg(value_name = "auto|bars|plain|json|none", help_heading = "Common options")]
    progress: Style,
    /// Keep no copies of a far repository's manifests and indexes on this machine, and use none
    #[arg(long, global = true, help_heading = "Common options")]
    no_cache: bool,
    /// Print only errors, problems, and what was asked for
    #[arg(long, short, global = true, conflicts_with = "progress", help_heading = "Common options")]
    quiet: bool,
    #[command(flatten)]
    log: log::LogFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Arguments),
    #[command(visible_alias = "backup")]
    Create(create::Arguments),
    #[command(visible_alias = "snapshots")]
    List(list::Arguments),
    Probe(probe::Arguments),
    #[command(visible_alias = "check")]
    Verify(verify::Arguments),
    Restore(restore::Arguments),
    Unlock(unlock::Arguments),
    Archive(archive::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
    Demo(demo::Arguments),
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Init(_) => "init",
            Self::Create(_) => "create",
            Self::List(_) => "list",
            Self::Probe(_) => "probe",
            Self::Verify(_) => "verify",
            Self::Restore(_) => "restore",
            Self::Unlock(_) => "unlock",
            Self::Archive(_) => "archive",
            Self::Completions(_) => "completions",
            Self::Man(_) => "man",
            Self::Demo(_) => "demo",
        }
    }

    /// Returns how many pieces of work the command may do at once.
    fn jobs(&self) -> usize {
        let asked = match self {
            Self::Create(arguments) => arguments.jobs,
            Self::Verify(arguments) => arguments.jobs,
            Self::Restore(arguments) => arguments.jobs,
            _ => None,
        };
        session::jobs(asked)
    }

    async fn run(&self, session: &Session) -> Result<Exit> {
        match self {
            Self::Init(arguments) => init::run(arguments, session).await,
            Self::Create(arguments) => create::run(arguments, session).await,
            Self::List(arguments) => list::run(arguments, session).await,
            Self::Probe(arguments) => probe::run(arguments, session).await,
            Self::Verify(arguments) => verify::run(arguments, session).await,
            Self::Restore(arguments) => restore::run(arguments, session).await,
            Self::Unlock(arguments) => unlock::run(arguments, session).await,
            Self::Archive(arguments) => archive::run(arguments, session),
            Self::Completions(arguments) => completions::run(arguments, session),
            Self::Man(arguments) => man::run(arguments),
            Self::Demo(arguments) => demo::run(arguments, session),
        }
    }
}

/// Parses the command line, runs the command, and returns how the program ends.
pub fn main() -> ExitCode {
    second_stacks::settle();
    match Cli::try_parse() {
        Ok(cli) => start(cli).into(),
        Err(error) => {
            let said = error.to_string();
            let shown = without_secrets(&said, std::env::args_os().skip(1));
            if shown == said {
                // Help and version are printed here too; a reader that has gone is no error.
                let _ = error.print();
            } else {
                report::say(&shown);
            }
            if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
        }
    }
}

/// Takes every word of the command line out of the message that may hold a password: a location may stand
/// where none belongs, and is quoted then.
fn without_secrets(message: &str, words: impl Iterator<Item = OsString>) -> String {
    let words = words.filter_map(|word| word.into_string().ok());
    let secret = words.flat_map(|word| {
        // What an option is given with `=` is quoted without the option.
        let value = word.split_once('=').map(|(_, value)| value.to_owned());
        [Some(word), value]
            .into_iter()
            .flatten()
            .filter(|word| Location::may_hold_secret(word) && word.len() > 3)
    });
    secret.fold(message.to_owned(), |message, word| message.replace(&word, "…"))
}

fn start(cli: Cli) -> Exit {
    let command = cli.command.name();
    run(cli).unwrap_or_else(|error| report::failed(&error, command))
}

fn run(cli: Cli) -> Result<Exit> {
    memory::settle();
    let runtime = threads::start(cli.command.jobs())?;
    file_size::survive_the_limit(&runtime)?;
    packvault::clock::now()?;
    let log = cli.globals.log.start()?;
    let session = Session::start(cli.globals)?;
    let result = runtime.block_on(cli.command.run(&session));
    if result.is_ok() {
        session.warn_of_settings();
    }
    session.close();
    let result = log.closed(result);
    // The command is over and has cleaned up; work it gave up must not hold the program.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself_with_examples_and_exit_codes() {
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            for part in ["Examples:", "Exit codes"] {
                assert!(help.contains(part), "{} lacks {part}", command.get_name());
            }
        }
    }

    #[test]
    fn no_line_of_the_help_is_wider_than_eighty_columns() {
        let mut all = Cli::command();
        let mut helps = vec![all.render_long_help().to_string()];
        helps.extend(all.get_subcommands_mut().map(|command| command.render_long_help().to_string()));
        for line in helps.iter().flat_map(|help| help.lines()) {
            assert!(text::width(line) <= 80, "{line}");
        }
    }
}
