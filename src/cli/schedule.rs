//! `packvault schedule`: what starts `packvault run` by itself: units for systemd, a line for cron, an example for
//! containers.

use std::path::PathBuf;

use packvault::Result;
use rustix::process::geteuid;
use serde::Serialize;

use super::report::Exit;
use super::session::Session;
use super::text::shell_word;

/// The units of the package, so that what is shown is what is tested.
const SYSTEM_SERVICE: &str = include_str!("../../packaging/systemd/system/packvault.service");
const SYSTEM_TIMER: &str = include_str!("../../packaging/systemd/system/packvault.timer");
const USER_SERVICE: &str = include_str!("../../packaging/systemd/user/packvault.service");
const USER_TIMER: &str = include_str!("../../packaging/systemd/user/packvault.timer");
const COMPOSE: &str = include_str!("../../packaging/compose.example.yml");

/// Where the package has the program.
const INSTALLED: &str = "/usr/bin/packvault";

/// Show what starts `run` by itself
///
/// packvault has no service of its own: the timers of the system start it. What is shown goes to standard output;
/// nothing is installed.
#[derive(Debug, clap::Args)]
#[command(after_long_help = format!("\
Examples:
  packvault schedule show             units for systemd
  packvault schedule show cron        a line for crontab
  packvault schedule show compose     an application and packvault in containers

{}", super::exit_codes("")))]
pub struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print files that start `packvault run --all` every night
    #[command(after_long_help = format!("\
Examples:
  packvault schedule show
  packvault schedule show systemd --system

{}", super::exit_codes("")))]
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Show {
    /// What starts it
    #[arg(value_enum, default_value = "systemd", hide_default_value = true)]
    by: By,
    /// For the whole machine; the default for root
    #[arg(long, conflicts_with = "user")]
    system: bool,
    /// For this user; the default for everybody else
    #[arg(long)]
    user: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    /// A unit and its timer
    Systemd,
    /// A line for crontab
    Cron,
    /// A file for docker compose
    Compose,
}

/// A file, and where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Shown {
    path: String,
    text: String,
}

/// Shows the files.
pub fn run(arguments: &Arguments, session: &Session) -> Result<Exit> {
    let What::Show(show) = &arguments.what;
    let is_system = show.system || (!show.user && geteuid().is_root());
    // The path as it was started is that of an installed program; a link stays one.
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from(INSTALLED));
    let program = program.to_string_lossy().into_owned();
    let files = files(show.by, is_system, &program);
    session.show_always(&files, |files| text(files))?;
    Ok(Exit::Done)
}

fn files(by: By, is_system: bool, program: &str) -> Vec<Shown> {
    let shown = |path: &str, text: String| Shown { path: path.to_owned(), text };
    let moved = |text: &str| text.replace(INSTALLED, &unit_word(program));
    match (by, is_system) {
        (By::Systemd, true) => vec![
            shown("/etc/systemd/system/packvault.service", moved(SYSTEM_SERVICE)),
            shown("/etc/systemd/system/packvault.timer", moved(SYSTEM_TIMER)),
        ],
        (By::Systemd, false) => vec![
            shown("~/.config/systemd/user/packvault.service", moved(USER_SERVICE)),
            shown("~/.config/systemd/user/packvault.timer", moved(USER_TIMER)),
        ],
        // In a crontab a percent sign ends the line.
        (By::Cron, _) => {
            let variable = if is_system { "PACKVAULT_CONFIG=/etc/packvault/config.toml " } else { "" };
            let program = shell_word(program).replace('%', "\\%");
            vec![shown(
                "crontab -e",
                format!("17 2 * * *  {variable}{program} run --all --jitter 30m --progress none\n"),
            )]
        }
        (By::Compose, _) => vec![shown("compose.yml", COMPOSE.to_owned())],
    }
}

/// Returns the path as a unit takes it: systemd reads `%` and spaces in it.
fn unit_word(program: &str) -> String {
    let program = program.replace('%', "%%");
    if program.contains([' ', '\t', '"', '\'', '\\']) {
        format!("\"{}\"", program.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        program
    }
}

fn text(files: &[Shown]) -> String {
    let texts: Vec<String> = files.iter().map(|file| format!("# {}\n{}", file.path, file.text)).collect();
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_stands_in_the_unit_as_systemd_reads_it() {
        let service = &files(By::Systemd, true, "/opt/pack vault/100%/packvault")[0];
        assert!(
            service.text.contains("\nExecStart=\"/opt/pack vault/100%%/packvault\" run --all"),
            "{}",
            service.text
        );
        assert!(!service.text.contains("/usr/bin/packvault"));
        assert_eq!(files(By::Systemd, false, INSTALLED)[0].text, USER_SERVICE);
    }

    #[test]
    fn the_line_for_cron_is_one_that_cron_takes_whole() {
        let line = &files(By::Cron, true, "/opt/100%/packvault")[0].text;
        assert_eq!(line.lines().count(), 1);
        assert!(line.contains(" /opt/100\\%/packvault run --all"), "{line}");
    }
}
