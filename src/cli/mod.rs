//! The command line: what the user typed becomes what the library is asked, and what it answers becomes
//! output.
//!
//! One file per command holds its arguments, whose comments are the help, and its function. Results go to standard
//! output, messages to standard error. The library below neither prints nor reads the environment.

mod application;
mod archive;
mod awaited;
mod chart;
mod completions;
mod copies;
mod copy;
mod create;
mod demo;
mod diff;
mod door;
mod dump;
mod evidence;
mod export;
mod facts;
mod file_size;
mod find;
mod forget;
mod guard;
mod heal;
mod help;
mod history;
mod hooks;
mod init;
mod interrupt;
mod keep;
mod key;
mod key_flags;
mod list;
mod log;
mod look;
mod ls;
mod man;
mod memory;
mod mount;
mod named_file;
mod new_way;
mod notify;
mod outlet;
mod owner;
mod ping;
mod probe;
mod prune;
mod record;
mod render;
mod repair;
mod report;
mod restore;
mod restore_check;
mod row_diff;
mod row_history;
mod run;
mod sample;
mod sampled;
mod schedule;
mod second_stacks;
mod secrets;
mod select;
mod session;
mod settings;
mod sql;
mod stats;
mod status;
mod steps;
mod stream;
mod subject;
mod summary;
mod table;
mod terminal;
mod text;
mod threads;
mod turn;
mod two_places;
mod umask;
mod unlock;
mod values;
mod verify;
mod version;
mod watch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use packvault::engine::ReadLocking;
use packvault::location::Purpose;
use packvault::{ErrorKind, Location, Result};

use render::Style;
use report::Exit;
use session::Session;
use text::ByteSize;

/// Commands that do with a copy what they would have done with a damaged repository.
const LOOKS: [&str; 7] = ["restore", "ls", "find", "dump", "sql", "diff", "stats"];

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
 12  no key, or the wrong one
 13  the repository is not the one seen before
130  interrupted"
    )
}

/// Back up SQLite applications, and prove what is restored
///
/// packvault takes snapshots of an application that keeps its data in a SQLite database, with files beside it. A
/// repository on a disk or a server holds the snapshots. A restore checks every byte. The repository format is
/// msgvault's own: each of the two programs can read what the other wrote.
///
/// Results go to standard output, messages to standard error.
#[derive(Debug, Parser)]
#[command(version = version::TEXT, max_term_width = 80, arg_required_else_help = true)]
#[command(after_long_help = "\
First steps:
  packvault demo                        see it work on an invented archive
  packvault init --repo /mnt/backup     make a repository
  packvault create --repo /mnt/backup   back up ~/.msgvault
  packvault list --repo /mnt/backup     see the snapshots
  packvault restore --repo /mnt/backup --target /srv/restored

Any other SQLite application:
  packvault archive presets             ready sections for the configuration
  packvault create --help               --database and --files

Configuration, in
~/.config/packvault/config.toml
(PACKVAULT_CONFIG names another file):
  default_repository = \"disk\"
  [repository.disk]
  location = \"/mnt/backup\"
  [archive.mail]
  home = \"/srv/msgvault\"
  repository = \"disk\"

Environment:
  PACKVAULT_CONFIG  the configuration file
  PACKVAULT_REPO    the repository where --repo is not given
  MSGVAULT_HOME     the archive where none is given
  PACKVAULT_PASSPHRASE, PACKVAULT_PASSPHRASE_FILE, PACKVAULT_PASSPHRASE_COMMAND,
  PACKVAULT_IDENTITY  what opens an encrypted repository
  PACKVAULT_LOG     what is logged, such as debug or packvault::lock=debug

Exit codes:
  0  done
  1  failed
  2  wrong usage
  3  verify, list, find, stats, history, copy, heal or repair found problems
  4  done, but the source itself is damaged
  5  done, but something that was asked for is not in it
  6  done, but a copy, a hook or the summary failed
 10  no repository there
 11  the repository or the archive is locked
 12  no key, or the wrong one
 13  the repository is not the one seen before
 20  status: the newest snapshot is too old
 21  status: what is stored was not proved
 22  status: a copy lacks the newest snapshot
130  interrupted")]
struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// How a command that only reads keeps out of the way of others.
#[derive(Debug, Clone, Copy, Default, Args)]
struct ReadLockFlags {
    /// Remove the lock of another command first, even a fresh one
    ///
    /// Only when you know that the other command has ended: one that still works would go on writing.
    #[arg(long)]
    force_unlock: bool,
    /// Take no lock, and ignore the locks of others
    ///
    /// A backup that runs at the same time does no harm. Where the repository cannot be written to, no lock is
    /// taken in any case.
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

/// The options that every command has. A command's help names them; the program's help explains them.
#[derive(Debug, Clone, Args)]
struct Globals {
    /// The repository: a path, a URL, or a name from the configuration
    ///
    /// Without it, the first of these that is there: PACKVAULT_REPO; `repository` in the archive's section of the
    /// configuration; `default_repository` there; `[backup] repo` in msgvault's configuration.
    #[arg(long, global = true, value_name = "LOCATION", help_heading = help::COMMON)]
    repo: Option<String>,
    /// Print the result as JSON on standard output
    #[arg(long, global = true, help_heading = help::COMMON)]
    json: bool,
    /// Send at most this many bytes per second to a server
    #[arg(long, global = true, value_name = "SIZE", value_parser = text::rate, help_heading = help::COMMON)]
    limit_upload: Option<ByteSize>,
    /// Receive at most this many bytes per second from a server
    #[arg(long, global = true, value_name = "SIZE", value_parser = text::rate, help_heading = help::COMMON)]
    limit_download: Option<ByteSize>,
    /// Folder for what does not fit in memory; packvault's cache folder by default
    #[arg(long, global = true, value_name = "FOLDER", help_heading = help::COMMON)]
    spool: Option<PathBuf>,
    /// How progress is shown, on standard error: auto, bars, plain, json or none
    ///
    /// bars: one bar for each stage, redrawn in place. plain: a line now and then. json: one object per line, with
    /// `event` (begin, advance, step, end, remark), `stage`, `unit`, `total`, `done`, `step` and `seconds`.
    /// none: nothing. auto: bars on a terminal, else plain.
    #[arg(long, global = true, value_enum, default_value = "auto", hide_possible_values = true)]
    #[arg(value_name = "STYLE", help_heading = help::COMMON)]
    progress: Style,
    /// Keep no copies of a server's manifests and indexes on this machine, and use none
    #[arg(long, global = true, help_heading = help::COMMON)]
    no_cache: bool,
    /// Print only errors, problems, and what the command is asked to show; no progress of any style
    #[arg(long, short, global = true, help_heading = help::COMMON)]
    quiet: bool,
    #[command(flatten)]
    log: log::LogFlags,
    #[command(flatten)]
    key: key_flags::KeyFlags,
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
    Report(evidence::Arguments),
    Restore(restore::Arguments),
    Ls(ls::Arguments),
    Find(find::Arguments),
    Dump(dump::Arguments),
    Sql(sql::Arguments),
    Mount(mount::Arguments),
    Diff(diff::Arguments),
    Stats(stats::Arguments),
    Forget(forget::Arguments),
    History(history::Arguments),
    Run(run::Arguments),
    Watch(watch::Arguments),
    Status(status::Arguments),
    Schedule(schedule::Arguments),
    Prune(prune::Arguments),
    Copy(copy::Arguments),
    Heal(heal::Arguments),
    Repair(repair::Arguments),
    Unlock(unlock::Arguments),
    Key(key::Arguments),
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
            Self::Report(_) => "report",
            Self::Restore(_) => "restore",
            Self::Ls(_) => "ls",
            Self::Find(_) => "find",
            Self::Dump(_) => "dump",
            Self::Sql(_) => "sql",
            Self::Mount(_) => "mount",
            Self::Diff(_) => "diff",
            Self::Stats(_) => "stats",
            Self::Forget(_) => "forget",
            Self::History(_) => "history",
            Self::Run(_) => "run",
            Self::Watch(_) => "watch",
            Self::Status(_) => "status",
            Self::Schedule(_) => "schedule",
            Self::Prune(_) => "prune",
            Self::Copy(_) => "copy",
            Self::Heal(_) => "heal",
            Self::Repair(_) => "repair",
            Self::Unlock(_) => "unlock",
            Self::Key(_) => "key",
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
            Self::Dump(arguments) => arguments.jobs,
            Self::Prune(arguments) => arguments.jobs,
            Self::Sql(arguments) => arguments.jobs,
            Self::Mount(arguments) => arguments.jobs,
            Self::Diff(arguments) => arguments.jobs,
            Self::History(arguments) => arguments.row.jobs,
            Self::Copy(arguments) => arguments.jobs,
            Self::Heal(arguments) => arguments.jobs,
            _ => None,
        };
        session::jobs(asked)
    }

    /// Tells whether the ledger hears of it: everything that works on an archive or a repository.
    fn is_recorded(&self) -> bool {
        match self {
            Self::History(arguments) => arguments.is_of_a_row(),
            Self::Archive(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Demo(_)
            | Self::Report(_)
            | Self::Status(_)
            // Each of its snapshots is recorded as one.
            | Self::Watch(_)
            | Self::Schedule(_) => false,
            _ => true,
        }
    }

    async fn run(&self, session: &Session) -> Result<Exit> {
        session.sweep();
        match self.is_recorded() {
            true => record::recorded(session, self.name(), self.work(session), |exit| *exit).await,
            false => self.work(session).await,
        }
    }

    async fn work(&self, session: &Session) -> Result<Exit> {
        match self {
            Self::Init(arguments) => init::run(arguments, session).await,
            Self::Create(arguments) => create::run(arguments, session).await,
            Self::List(arguments) => list::run(arguments, session).await,
            Self::Probe(arguments) => probe::run(arguments, session).await,
            Self::Verify(arguments) => verify::run(arguments, session).await,
            Self::Report(arguments) => evidence::run(arguments, session),
            Self::Restore(arguments) => restore::run(arguments, session).await,
            Self::Ls(arguments) => ls::run(arguments, session).await,
            Self::Find(arguments) => find::run(arguments, session).await,
            Self::Dump(arguments) => dump::run(arguments, session).await,
            Self::Sql(arguments) => sql::run(arguments, session).await,
            Self::Mount(arguments) => mount::run(arguments, session).await,
            Self::Diff(arguments) => diff::run(arguments, session).await,
            Self::Stats(arguments) => stats::run(arguments, session).await,
            Self::Forget(arguments) => forget::run(arguments, session).await,
            Self::History(arguments) => history::run(arguments, session).await,
            Self::Run(arguments) => run::run(arguments, session).await,
            Self::Watch(arguments) => watch::run(arguments, session).await,
            Self::Status(arguments) => status::run(arguments, session).await,
            Self::Schedule(arguments) => schedule::run(arguments, session),
            Self::Prune(arguments) => prune::run(arguments, session).await,
            Self::Copy(arguments) => copy::run(arguments, session).await,
            Self::Heal(arguments) => heal::run(arguments, session).await,
            Self::Repair(arguments) => repair::run(arguments, session).await,
            Self::Unlock(arguments) => unlock::run(arguments, session).await,
            Self::Key(arguments) => key::run(arguments, session).await,
            Self::Archive(arguments) => archive::run(arguments, session),
            Self::Completions(arguments) => completions::run(arguments, session),
            Self::Man(arguments) => man::run(arguments, session.settings()),
            Self::Demo(arguments) => demo::run(arguments, session),
        }
    }
}

/// Parses the command line, runs the command, and returns how the program ends.
pub fn main() -> ExitCode {
    second_stacks::settle();
    umask::settle();
    guard::take_passphrase();
    match threads::with_room_on_the_stack(main_with_room) {
        Ok(code) => code,
        Err(error) => report::failed(&error, "").into(),
    }
}

fn main_with_room() -> ExitCode {
    match parse() {
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

fn parse() -> std::result::Result<Cli, clap::Error> {
    Cli::from_arg_matches(&help::command().try_get_matches()?)
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
    let session = Session::start(cli.globals)?;
    let log = session.log()?;
    let name = cli.command.name();
    let result = runtime.block_on(cli.command.run(&session));
    if result.is_ok() {
        session.warn_of_settings();
    }
    session.close();
    let result = naming_copies(log.closed(result), name, &session);
    // The command is over and has cleaned up; work it gave up must not hold the program.
    runtime.shutdown_background();
    result
}

/// Reports damage, and then what the session knows of copies: one may be whole.
fn naming_copies(result: Result<Exit>, command: &str, session: &Session) -> Result<Exit> {
    match result {
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let exit = report::failed(&error, command);
            if let Some(copy) = session.name_copies().filter(|_| LOOKS.contains(&command)) {
                report::say(&format!("hint: packvault {command} --repo {copy} looks there instead\n"));
            }
            Ok(exit)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        help::command().debug_assert();
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
}
