//! The log: what the library does, step by step, for whoever has to find out why it did.
//!
//! Nothing listens unless a flag or `PACKVAULT_LOG` asks for it. Only packvault's own events are let through: what
//! other crates write down about a request may hold what is sent with it. Names from a repository are escaped. A
//! log that cannot be written does not stop a backup, and is told at the end.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use clap::{ArgAction, Args, ValueEnum};
use packvault::{Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, open};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, fmt};

use super::named_file::{self, NamedFile};
use super::render::Style;
use super::report::{self, Exit};
use super::settings::Settings;
use super::text::escape;

/// What is logged: the filter language of `tracing-subscriber`.
const VARIABLE: &str = "PACKVAULT_LOG";
/// A line of text that is longer is cut: nobody reads on.
const LINE_CHARACTERS_MAX: usize = 16 * 1024;

/// The flags of the log.
#[derive(Debug, Clone, Args)]
pub struct LogFlags {
    /// Log what is done and decided, on standard error; -vv: every request to the storage, too
    ///
    /// Progress is shown as plain lines then. PACKVAULT_LOG says more precisely what is logged.
    #[arg(long, short, global = true, action = ArgAction::Count, help_heading = super::help::COMMON)]
    verbose: u8,
    /// Add the log to the end of this file, and not to standard error
    ///
    /// Without -v and PACKVAULT_LOG, as much is logged as with -vv. Only its owner can read a new file. What is no log
    /// of packvault's is refused, and so is a symbolic link.
    #[arg(long, global = true, value_name = "FILE", help_heading = super::help::COMMON)]
    log_file: Option<PathBuf>,
    /// Format of the log: lines for people, or one JSON object per line
    #[arg(long, global = true, value_enum, default_value = "text", hide_possible_values = true)]
    #[arg(value_name = "text|json", help_heading = super::help::COMMON)]
    log_format: LogFormat,
}

/// How the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object per line
    Json,
}

/// The log of this run.
#[derive(Debug, Default)]
pub struct Log(Option<Output>);

/// Where the log goes.
#[derive(Debug, Clone)]
struct Output {
    place: Arc<Place>,
    format: LogFormat,
    failure: Arc<OnceLock<io::Error>>,
}

#[derive(Debug)]
enum Place {
    Stderr,
    File(PathBuf, Mutex<File>),
}

impl LogFlags {
    /// Starts to listen, if anything asks for it.
    pub fn start(&self, settings: &Settings) -> Result<Log> {
        let asked = std::env::var_os(VARIABLE).filter(|value| !value.is_empty());
        let wanted = match (&asked, self.verbose, &self.log_file) {
            (Some(asked), ..) => {
                asked.to_str().ok_or_else(|| usage(format!("{VARIABLE} is not valid UTF-8")))?
            }
            (None, 0, None) => return Ok(Log::default()),
            (None, 1, _) => "info",
            (None, 0 | 2, _) => "debug",
            (None, ..) => "trace",
        };
        let filter = EnvFilter::builder().parse(wanted).map_err(|error| {
            Error::caused(ErrorKind::Usage, format!("{VARIABLE} is no filter: {wanted:?}"), error)
        })?;
        let place = match &self.log_file {
            Some(path) => Place::File(path.clone(), Mutex::new(open_file(path, settings)?)),
            None => Place::Stderr,
        };
        let output = Output { place: Arc::new(place), format: self.log_format, failure: Arc::default() };
        tracing::subscriber::set_global_default(subscriber(filter, output.clone()))
            .map_err(|error| Error::caused(ErrorKind::Refused, "cannot start the log", error))?;
        Ok(Log(Some(output)))
    }

    /// Returns how progress is to look: bars that are redrawn do not go together with lines in between.
    pub fn style(&self, asked: Style) -> Style {
        let is_asked = self.verbose > 0 || std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
        match asked {
            Style::Auto | Style::Bars if is_asked && self.log_file.is_none() => Style::Plain,
            other => other,
        }
    }
}

impl Log {
    /// Says so if not all could be written; a command that has done its work is not all done then.
    pub fn closed(&self, result: Result<Exit>) -> Result<Exit> {
        let Some((path, failure)) = self.0.as_ref().and_then(Output::failure) else { return result };
        let path = path.display().to_string();
        report::say(&format!("warning: the log in {} is not complete: {failure}\n", escape(&path)));
        result.map(|exit| if exit == Exit::Done { Exit::Unsaid } else { exit })
    }
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target() == "packvault" || metadata.target().starts_with("packvault::")
}

fn subscriber(filter: EnvFilter, output: Output) -> Box<dyn Subscriber + Send + Sync> {
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_ours));
    let format = output.format;
    let layer = fmt::layer().with_ansi(false).log_internal_errors(false).with_writer(output);
    match format {
        LogFormat::Text => Box::new(registry.with(layer)),
        LogFormat::Json => Box::new(registry.with(layer.json())),
    }
}

const FILE: NamedFile = NamedFile { flag: "--log-file", noun: "log", is_own: is_log };

/// Opens the file to write to its end; a new one is its owner's alone.
fn open_file(path: &Path, settings: &Settings) -> Result<File> {
    if !named_file::is_sink(path) {
        FILE.check(path, settings)?;
    }
    // It may have been exchanged since it was looked at: what is no file would be waited for.
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = open(path, flags | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::RUSR | Mode::WUSR);
    let failed = |errno| {
        let message = format!("--log-file: cannot open {}", path.display());
        Error::caused(ErrorKind::Usage, message, io::Error::from(errno))
    };
    file.map(File::from).map_err(failed)
}

/// Tells by its beginning whether a file is a log of packvault's. What else was sent to the same file may stand before
/// the first line.
fn is_log(beginning: &str) -> bool {
    beginning.lines().any(|line| is_text_line(line) || is_json_line(line))
}

fn is_text_line(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let is_time = |word: &str| word.ends_with('Z') && word.get(10..11) == Some("T");
    let is_level = |word: &str| ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"].contains(&word);
    words.next().is_some_and(is_time)
        && words.next().is_some_and(is_level)
        && words.any(|word| word.starts_with("packvault::") && word.ends_with(':'))
}

fn is_json_line(line: &str) -> bool {
    line.starts_with("{\"timestamp\":\"") && line.contains("\"target\":\"packvault::")
}

impl Output {
    fn failure(&self) -> Option<(&Path, &io::Error)> {
        match self.place.as_ref() {
            Place::File(path, _) => Some((path, self.failure.get()?)),
            // Nobody is left to tell when standard error itself is gone.
            Place::Stderr => None,
        }
    }

    /// Returns the event as it is written: one line, with nothing in it that a terminal obeys.
    fn line(&self, event: &str) -> String {
        let event = event.trim_end_matches('\n');
        match self.format {
            // What JSON does not escape would not hurt a program, but a person may look at it.
            LogFormat::Json => format!("{}\n", escape_json(event)),
            LogFormat::Text => {
                let mut line: String = escape(event);
                if let Some((end, _)) = line.char_indices().nth(LINE_CHARACTERS_MAX) {
                    line.truncate(end);
                    line.push('…');
                }
                line + "\n"
            }
        }
    }
}

/// Escapes, within a JSON text, what a terminal obeys; outside of strings there is none of it.
fn escape_json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if *escape(character.encode_utf8(&mut [0; 4])) == *character.encode_utf8(&mut [0; 4]) {
            escaped.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            escaped.push_str(&format!("\\u{unit:04x}"));
        }
    }
    escaped
}

impl Write for Output {
    /// Takes a whole event. Whatever becomes of it, the work goes on.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = self.line(&String::from_utf8_lossy(event));
        let written = match self.place.as_ref() {
            Place::Stderr => {
                report::say(&line);
                Ok(())
            }
            Place::File(_, file) => {
                file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
            }
        };
        if let Err(error) = written {
            // The first is the reason of all that follow.
            let _ = self.failure.set(error);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_known_by_its_lines_and_nothing_else_is_one() {
        let time = "2026-11-30T08:26:37.123456Z";
        for log in [
            format!("{time}  INFO create: packvault::operation: begins\n"),
            format!("mail: create done\n{time} DEBUG packvault::request: verb=\"get\"\n"),
            format!(
                "{{\"timestamp\":\"{time}\",\"level\":\"INFO\",\"fields\":{{}},\"target\":\"packvault::lock\"}}\n"
            ),
        ] {
            assert!(is_log(&log), "{log}");
        }
        for other in [
            "repo_id = \"5d61e8af-fa85-4c85-a408-d2e53ac0ed20\"\n",
            "SQLite format 3\0",
            "{\"timestamp\":\"2026-11-30T08:26:37Z\",\"target\":\"other\"}",
            "2026-11-30T08:26:37.123456Z  INFO hyper: connected\n",
            "see packvault::operation: begins\n",
            "",
        ] {
            assert!(!is_log(other), "{other}");
        }
    }
}
