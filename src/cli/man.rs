//! `packvault man`: the help of every command as manual pages.

use std::path::PathBuf;

use clap::CommandFactory;
use packvault::{Error, ErrorKind, Result};

use super::report::Exit;

/// Write the manual pages into a folder
///
/// One page for the program and one for each command, `packvault-create.1` and so on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault man ~/.local/share/man/man1

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The folder; made if it is missing
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Writes the pages.
pub fn run(arguments: &Arguments) -> Result<Exit> {
    let folder = &arguments.folder;
    let pages = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(super::Cli::command(), folder));
    let failed = |error| {
        let message = format!("cannot write the manual pages to {}", folder.display());
        Error::caused(ErrorKind::Io, message, error)
    };
    pages.map_err(failed).map(|()| Exit::Done)
}
