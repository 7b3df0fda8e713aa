//! The program as a process: run to its end while a fault may meet it, never for longer than a bound.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use serde_json::Value;

use crate::fault::Fault;
use crate::place::Place;

/// No command takes that long, on the slowest machine and the worst line.
const COMMAND_MAX: Duration = Duration::from_secs(600);

/// Between two looks at a process.
const LOOK: Duration = Duration::from_millis(2);

/// How a process has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// By us, for it did not end.
    Hung,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Run {
    /// What was run.
    pub shown: String,
    /// How it ended.
    pub ending: Ending,
    /// What it printed on standard output.
    pub output: String,
    /// What it printed on standard error.
    pub errors: String,
    /// How long it took.
    pub took: Duration,
    /// Whether the fault came in time.
    pub was_struck: bool,
}

impl Run {
    /// Returns the JSON that a command prints which succeeds.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.output)
            .with_context(|| format!("{} printed no JSON: {:?}", self.shown, self.output))
    }

    /// Tells whether it failed with one error that says what and why.
    pub fn has_one_error(&self) -> bool {
        self.errors.matches("error: ").count() == 1 && !self.errors.contains("panicked")
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { shown, ending, took, errors, .. } = self;
        write!(f, "`{shown}` ended with {ending:?} after {took:.1?}: {}", errors.trim())
    }
}

/// Runs a command with `--json` to its end.
pub fn run(place: &Place, arguments: &[&str], mut fault: Option<&mut Fault>) -> Result<Run> {
    let line = place.line.as_ref();
    let [output, errors] = place.outputs();
    let mut command = place.packvault(arguments);
    command.arg("--json").stdout(File::create(&output)?).stderr(File::create(&errors)?);
    // A group of its own, so that Ctrl-C at the terminal is ours alone.
    let mut child = command.process_group(0).spawn().context("cannot start packvault")?;
    let begun = Instant::now();
    let waited = loop {
        if let Some(status) = child.try_wait()? {
            break Ok(ending(status));
        }
        if begun.elapsed() > COMMAND_MAX {
            break Ok(end(&mut child)?);
        }
        let struck = fault.as_mut().map(|fault| fault.tick(begun.elapsed(), &child, line));
        if let Some(Err(error)) = struck {
            end(&mut child)?;
            break Err(error);
        }
        thread::sleep(LOOK);
    };
    let (ending, took) = (waited?, begun.elapsed());
    let was_struck = fault.is_some_and(|fault| fault.has_struck(ending, line));
    // What a killed process has sent may still arrive, as it would from a machine that lost its power.
    if let Some(line) = line
        && ending != Ending::Signal(Signal::KILL.as_raw())
    {
        line.mend();
    }
    let (output, errors) = (read(&output)?, read(&errors)?);
    let shown = arguments.join(" ");
    Ok(Run { shown, ending, output, errors, took, was_struck })
}

fn read(path: &std::path::Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn end(child: &mut Child) -> Result<Ending> {
    child.kill()?;
    child.wait()?;
    Ok(Ending::Hung)
}

fn ending(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Code(code),
        (None, signal) => Ending::Signal(signal.unwrap_or(0)),
    }
}

/// Returns the program beside this one.
pub fn find() -> Result<std::path::PathBuf> {
    let this = std::env::current_exe().context("cannot find this program itself")?;
    // A test lies one folder deeper.
    let folders = this.ancestors().skip(1).take(2);
    let Some(program) = folders.map(|folder| folder.join("packvault")).find(|path| path.is_file()) else {
        bail!(
            "no packvault beside {}: build it first, with `cargo build --release`, or name one with --program",
            this.display()
        );
    };
    Ok(program)
}
