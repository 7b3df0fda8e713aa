//! The table, as README.md and docs/speed.md have it, and the same as JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use super::round::{Measured, Round};
use super::support::median::median;
use super::tools::{STEPS, Step, Tool};

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    archive_megabytes: u64,
    rounds: usize,
    tools: Vec<ToolReport>,
    not_measured: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct ToolReport {
    name: &'static str,
    version: String,
    steps: Vec<StepReport>,
}

#[derive(Debug, Serialize)]
struct StepReport {
    step: &'static str,
    cpu_seconds: f64,
    wall_seconds: f64,
    peak_bytes: u64,
    added_bytes: u64,
    #[serde(skip)]
    adds: bool,
}

impl Report {
    /// Takes the medians of the rounds.
    pub fn new(megabytes: u64, found: &[Tool], lacking: &[Tool], rounds: &[Round]) -> Result<Self> {
        let tools = found.iter().enumerate().map(|(place, tool)| {
            let steps = STEPS.iter().enumerate();
            let steps = steps
                .map(|(number, step)| StepReport::of(*step, rounds.iter().map(|round| round[place][number])));
            Ok(ToolReport { name: tool.name(), version: tool.version()?, steps: steps.collect() })
        });
        Ok(Self {
            archive_megabytes: megabytes,
            rounds: rounds.len(),
            tools: tools.collect::<Result<_>>()?,
            not_measured: lacking.iter().map(|tool| tool.name()).collect(),
        })
    }

    /// Prints the table, and with which versions it was measured.
    pub fn print(&self) {
        let names: Vec<&str> = self.tools.iter().map(|tool| tool.name).collect();
        println!("\n{} MB, CPU seconds, megabytes added\n", self.archive_megabytes);
        println!("| | {} |\n|{}", names.join(" | "), " --- |".repeat(names.len() + 1));
        for (number, step) in STEPS.iter().enumerate() {
            let cells: Vec<String> = self.tools.iter().map(|tool| tool.steps[number].cell()).collect();
            println!("| {} | {} |", step.title(), cells.join(" | "));
        }
        println!();
        self.tools.iter().for_each(|tool| println!("{}", tool.version));
        self.not_measured.iter().for_each(|name| println!("{name}: not installed, not measured"));
    }

    /// Writes it as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).context("cannot make JSON of the measurements")?;
        fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

impl StepReport {
    fn of(step: Step, measured: impl Iterator<Item = Measured> + Clone) -> Self {
        let of = |number: fn(&Measured) -> f64| median(measured.clone().map(|measured| number(&measured)));
        Self {
            step: step.title(),
            cpu_seconds: of(|measured| measured.usage.cost.cpu_seconds),
            wall_seconds: of(|measured| measured.usage.cost.wall_seconds),
            peak_bytes: of(|measured| measured.usage.peak_bytes as f64) as u64,
            added_bytes: of(|measured| measured.added_bytes as f64) as u64,
            adds: matches!(step, Step::First | Step::DayAfter | Step::Unchanged),
        }
    }

    fn cell(&self) -> String {
        let added =
            if self.adds { format!(", {:.0} MB", self.added_bytes as f64 / 1e6) } else { String::new() };
        format!("{:.1} s{added}", self.cpu_seconds)
    }
}
