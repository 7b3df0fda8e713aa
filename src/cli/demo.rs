//! `packvault demo`: shows the whole round on an archive it invents, with the real program.
//!
//! The demo runs this very program as a user would, in a temporary folder, and believes none of it: at the
//! end it compares the restored databases with copies made at the time of their backups. The commands see
//! neither the user's configuration nor the user's archives.

mod script;
mod shell;

use std::path::Path;
use std::time::Instant;

use packvault::{Error, ErrorKind, Result};
use serde::Serialize;

use super::report::{self, Exit};
use super::session::Session;
use shell::Shell;

/// See packvault at work on an archive it invents
///
/// Makes a small archive in a temporary folder and backs it up twice, with changes in between. Then it lists and
/// verifies the snapshots, restores both, and compares them with what was backed up. It takes some seconds, changes
/// nothing else, and removes the folder.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault demo
  packvault demo --keep                        keep the folder, to look around
  packvault demo --encrypt                     the same on an encrypted repository

{}", super::exit_codes("")))]
pub struct Arguments {
    /// Keep the temporary folder, and say where it is
    #[arg(long)]
    keep: bool,
    /// Encrypt the repository, with a passphrase that is made by chance
    #[arg(long)]
    encrypt: bool,
}

/// What the demo found, for `--json`.
#[derive(Debug, Serialize)]
struct DemoReport {
    /// Whether both restored databases are what was backed up.
    ok: bool,
    /// The folder, if it was kept.
    folder: Option<String>,
    /// The commands that were run.
    commands: Vec<String>,
    /// How long it took.
    seconds: f64,
}

/// Runs the demo; any step that fails is an error.
pub fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let start = Instant::now();
    let failed = |error| Error::caused(ErrorKind::Io, "cannot make a temporary folder", error);
    let mut folder = tempfile::Builder::new().prefix("packvault-demo-").tempdir().map_err(failed)?;
    folder.disable_cleanup(arguments.keep);
    if arguments.keep {
        report::say(&format!("keeping {}\n", folder.path().display()));
    }
    let mut shell = Shell::new(folder.path(), session)?;
    script::play(&mut shell, arguments.encrypt)?;
    let seconds = start.elapsed().as_secs_f64();
    let kept = arguments.keep.then(|| folder.path().display().to_string());
    let report = DemoReport { ok: true, folder: kept, commands: shell.into_commands(), seconds };
    session.show_always(&report, |report| ending(report, folder.path()))?;
    Ok(Exit::Done)
}

fn ending(report: &DemoReport, folder: &Path) -> String {
    let place = match report.folder {
        Some(_) => format!("everything is in {}", folder.display()),
        None => "the temporary folder is gone again".to_owned(),
    };
    format!("done in {:.1} s; {place}\n", report.seconds)
}
