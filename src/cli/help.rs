//! How the help looks: a command's own options first and the common ones in short, on a terminal of any width.
//!
//! What clap wraps by itself is left to it. The texts below the options (examples, exit codes) have columns of their
//! own, which this file folds: a description goes below what it describes, and a long command is continued on the next
//! line as a shell reads it.

use std::io;
use std::os::fd::AsFd;

use clap::{Command, CommandFactory};

use super::text;

/// Help is never wider, whatever the terminal is.
const COLUMNS_MAX: usize = 80;
/// On a narrower terminal, lines are as long as they would be on this one.
const COLUMNS_MIN: usize = 30;
/// A term as wide as this, or wider, has its description below it.
const TERM_COLUMNS_MAX: usize = 22;
/// Where a description below its term begins, and where a command goes on.
const INDENT: usize = 6;
/// The heading of the options that every command has.
pub const COMMON: &str = "Common options";

/// Returns the whole command line, with its help laid out for this terminal.
pub fn command() -> Command {
    command_for(columns())
}

fn command_for(columns: usize) -> Command {
    let mut command = super::Cli::command().term_width(columns);
    // Hands the common options to every command, where their help can be made short.
    command.build();
    let below = laid_out(&below(&command), columns);
    command.mut_subcommands(|command| in_short(command, columns)).after_long_help(below)
}

/// Takes the common options out of a command's long help, but for their names.
fn in_short(command: Command, columns: usize) -> Command {
    let names: Vec<String> = command
        .get_arguments()
        .filter(|option| option.get_help_heading() == Some(COMMON))
        .filter_map(|option| Some(format!("--{}", option.get_long()?)))
        .collect();
    let common = format!("{COMMON}, which `packvault --help` explains:\n  {}\n\n", names.join(", "));
    let below = laid_out(&format!("{common}{}", below(&command)), columns);
    let is_common = |option: &clap::Arg| option.get_help_heading() == Some(COMMON);
    let shortened = command.mut_args(|option| {
        let hides = is_common(&option);
        if hides { option.hide_long_help(true) } else { option }
    });
    shortened.mut_subcommands(|command| in_short(command, columns)).after_long_help(below)
}

fn below(command: &Command) -> String {
    command.get_after_long_help().map(ToString::to_string).unwrap_or_default()
}

/// Returns how wide the help may be.
fn columns() -> usize {
    let terminal = terminal_columns(&io::stdout()).or_else(|| terminal_columns(&io::stderr()));
    let told = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal.or_else(told).unwrap_or(COLUMNS_MAX).clamp(COLUMNS_MIN, COLUMNS_MAX)
}

fn terminal_columns(stream: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Returns the text with its long lines folded.
fn laid_out(text: &str, columns: usize) -> String {
    let folded = text.lines().map(|line| match text::width(line) <= columns {
        true => line.to_owned(),
        false => fold(line, columns),
    });
    folded.collect::<Vec<_>>().join("\n")
}

/// Folds one line: `  term   description`, a command, or words.
fn fold(line: &str, columns: usize) -> String {
    let words = line.trim_start();
    let indent = text::width(line) - text::width(words);
    match words.split_once("  ") {
        None if words.starts_with("packvault ") => fold_command(line, columns),
        None => fold_words(&" ".repeat(indent), words, indent, columns),
        Some((term, description)) => {
            let description = description.trim_start();
            let begins = text::width(line) - text::width(description);
            let term = format!("{}{term}", " ".repeat(indent));
            let widest = description.split_whitespace().map(text::width).max().unwrap_or(0);
            if begins <= TERM_COLUMNS_MAX && begins + widest <= columns {
                return fold_words(&format!("{term:begins$}"), description, begins, columns);
            }
            let described = fold_words(&" ".repeat(INDENT), description, INDENT, columns);
            format!("{}\n{described}", fold_command(&term, columns))
        }
    }
}

/// Continues a long command on the next line, before an option.
fn fold_command(line: &str, columns: usize) -> String {
    if text::width(line) <= columns {
        return line.to_owned();
    }
    let mut folded = String::new();
    let mut current = String::new();
    for (place, part) in line.split(" --").enumerate() {
        let part = if place == 0 { part.to_owned() } else { format!("--{part}") };
        if place == 0 {
            current = part;
        } else if text::width(&current) + 1 + text::width(&part) + 2 <= columns {
            current = format!("{current} {part}");
        } else {
            folded.push_str(&format!("{current} \\\n"));
            current = format!("{}{part}", " ".repeat(INDENT));
        }
    }
    folded + &current
}

/// Puts words behind `begin`, and below each other with this indent.
fn fold_words(begin: &str, words: &str, indent: usize, columns: usize) -> String {
    let mut lines = vec![begin.to_owned()];
    let mut used = text::width(begin);
    let mut is_first = true;
    for word in words.split_whitespace() {
        let space = usize::from(!is_first);
        if !is_first && used + space + text::width(word) > columns {
            lines.push(" ".repeat(indent));
            (used, is_first) = (indent, true);
        }
        let space = if is_first { "" } else { " " };
        used += space.len() + text::width(word);
        is_first = false;
        if let Some(line) = lines.last_mut() {
            line.push_str(space);
            line.push_str(word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the help of every command, by its name.
    fn helps(columns: usize) -> Vec<(String, String)> {
        fn add(command: &mut Command, helps: &mut Vec<(String, String)>) {
            helps.push((command.get_name().to_owned(), command.render_long_help().to_string()));
            command
                .get_subcommands_mut()
                .filter(|sub| sub.get_name() != "help")
                .for_each(|sub| add(sub, helps));
        }
        let mut helps = Vec::new();
        add(&mut command_for(columns), &mut helps);
        helps
    }

    #[test]
    fn no_line_of_any_help_is_wider_than_its_terminal() {
        for columns in [40, 80] {
            for (command, help) in helps(columns) {
                // Nobody can break a synopsis or a single long path but the terminal.
                let is_breakable = |line: &&str| !line.starts_with("Usage: ") && line.trim().contains(' ');
                for line in help.lines().filter(is_breakable) {
                    assert!(text::width(line) <= columns, "{command} at {columns} columns: {line}");
                }
            }
        }
    }

    #[test]
    fn the_help_of_a_command_has_its_own_options_first_and_the_common_ones_in_short() {
        for (command, help) in helps(80).into_iter().skip(1) {
            assert_eq!(help.matches("--log-format").count(), 1, "{command}: {help}");
            assert_eq!(help.matches(COMMON).count(), 1, "{command}: {help}");
            let (own, common) = (help.find("Options:"), help.find(COMMON));
            assert!(own.is_some() && own < common, "{command}: {help}");
        }
        let (_, whole) = helps(80).swap_remove(0);
        assert!(whole.contains("--log-format <"), "{whole}");
    }

    #[test]
    fn a_long_line_is_folded_as_its_kind_asks_for() {
        for (line, folded) in [
            ("  5  done, but something is not in it", "  5  done, but something is\n     not in it"),
            ("130  interrupted", "130  interrupted"),
            (
                "  packvault create mail --dry-run         what would be stored in it",
                "  packvault create mail \\\n      --dry-run\n      what would be stored in\n      it",
            ),
            (
                "  packvault restore --target /srv/restored",
                "  packvault restore \\\n      --target /srv/restored",
            ),
            ("words that are longer than the line", "words that are longer than the\nline"),
        ] {
            assert_eq!(laid_out(line, 30), folded);
        }
    }
}
