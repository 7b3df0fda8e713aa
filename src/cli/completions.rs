//! `packvault completions`: what a shell needs to complete commands and options.

use clap::CommandFactory;
use clap_complete::Shell;
use packvault::Result;

use super::report::Exit;
use super::session::Session;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault completions bash > ~/.local/share/bash-completion/completions/packvault
  packvault completions zsh > ~/.zfunc/_packvault
  packvault completions fish > ~/.config/fish/completions/packvault.fish

{}", super::exit_codes("")))]
pub struct Arguments {
    /// The shell: bash, zsh, fish, elvish or powershell
    #[arg(value_enum, hide_possible_values = true)]
    shell: Shell,
}

/// Prints the completions.
pub fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut super::Cli::command(), "packvault", &mut script);
    session.print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
