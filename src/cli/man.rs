//! `packvault man`: the help of every command as manual pages.

use std::path::PathBuf;
use std::{fs, io};

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use packvault::{Error, ErrorKind, Result};

use super::named_file::NamedFile;
use super::report::Exit;
use super::settings::Settings;

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

const PAGE: NamedFile = NamedFile { flag: "FOLDER", noun: "manual page", is_own: is_page };

/// Writes the pages.
pub fn run(arguments: &Arguments, settings: &Settings) -> Result<Exit> {
    let folder = &arguments.folder;
    let mut command = super::Cli::command();
    command.build();
    let failed = |error: io::Error| {
        let message = format!("cannot write the manual pages to {}", folder.display());
        Error::caused(ErrorKind::Io, message, error)
    };
    let mut pages = Vec::new();
    add(&command, &mut pages).map_err(failed)?;
    let pages: Vec<_> = pages.into_iter().map(|(name, text)| (folder.join(name), text)).collect();
    fs::create_dir_all(folder).map_err(failed)?;
    pages.iter().try_for_each(|(path, _)| PAGE.check(path, settings))?;
    pages.iter().try_for_each(|(path, text)| PAGE.write(path, text.as_bytes(), 0o644))?;
    Ok(Exit::Done)
}

/// Adds the page of the command, and of each below it: the name of its file and its text.
fn add(command: &Command, pages: &mut Vec<(String, String)>) -> io::Result<()> {
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        add(below, pages)?;
    }
    let page = Man::new(command.clone());
    let mut text = Vec::new();
    page.render(&mut text)?;
    pages.push((page.get_filename(), with_lines_kept(&String::from_utf8_lossy(&text))));
    Ok(())
}

/// Tells by its beginning whether a file is a page of packvault's.
fn is_page(beginning: &str) -> bool {
    beginning.lines().any(|line| line.starts_with(".TH packvault"))
}

/// Keeps the lines of examples and exit codes as they are: a reader of manual pages would fill them.
fn with_lines_kept(page: &str) -> String {
    let Some((before, after)) = page.split_once("\n.SH EXTRA\n") else { return page.to_owned() };
    let (examples, rest) = match after.split_once("\n.SH ") {
        Some((examples, rest)) => (examples, format!(".SH {rest}")),
        None => (after.trim_end(), String::new()),
    };
    format!("{before}\n.SH \"EXAMPLES AND EXIT CODES\"\n.nf\n{examples}\n.fi\n{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_and_exit_codes_keep_their_lines_in_a_page() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = Arguments { folder: folder.path().to_owned() };
        // A second time over those of the first.
        (0..2).for_each(|_| _ = run(&arguments, &Settings::default()).unwrap());
        for name in ["packvault.1", "packvault-verify.1", "packvault-archive-presets.1"] {
            let page = fs::read_to_string(folder.path().join(name)).unwrap();
            let kept = page.split("\n.nf\n").nth(1).unwrap().split("\n.fi\n").next().unwrap();
            assert!(kept.contains("\n130  interrupted"), "{name}: {kept}");
        }
        assert!(!folder.path().join("packvault-help.1").exists());
    }
}
