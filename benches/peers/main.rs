//! What a backup costs with packvault, and with restic, rustic, Borg and Kopia where they are installed.
//!
//! Run by `cargo bench --bench peers -- --megabytes 947`. It makes a synthetic archive, and for every tool a repository.
//! Then the tools take turns at each step, on the same archive: a first backup, a second one the day after (1 % new
//! rows, 0.5 % changed), one of the same archive once more, reading everything back, and a restore, whose database
//! must be byte for byte that of the archive. A tool that is not here is named.
//!
//! How to read it: CPU seconds are user and system time of the whole process. Megabytes are what a step added to the
//! repository. All tools compress with zstd at level 3 or what they call their default. restic, rustic, Borg and Kopia
//! encrypt, and copy the database as a file while nobody writes to it; packvault reads it as it would read one in use.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints what it measures")]

mod report;
mod round;
#[path = "../support/mod.rs"]
mod support;
mod tools;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use support::archive::{ArchiveArguments, make_apart, make_here};
use tools::Tool;

/// Measures packvault beside other backup programs
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    archive: ArchiveArguments,
    /// Programs to measure, of those that are installed
    #[arg(long, value_delimiter = ',', default_value = "packvault,restic,rustic,borg,kopia")]
    tools: Vec<Tool>,
    /// Rounds to take the medians of
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Also write the measurements to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Folder for a working folder that takes eight times the archive's size, removed at the end
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    work_dir: PathBuf,
    /// Change the archive in this folder as a day would, and do nothing else
    #[arg(long, hide = true)]
    change: Option<PathBuf>,
    /// Given by `cargo bench`; without it (as in `cargo test --benches`) nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    support::end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let ArchiveArguments { megabytes, noise, make } = &arguments.archive;
    if let Some(folder) = make {
        return make_here(folder, *megabytes, *noise);
    }
    if let Some(folder) = &arguments.change {
        return round::change_here(folder);
    }
    if !arguments.bench {
        println!("nothing measured: run by `cargo bench`");
        return Ok(());
    }
    let (found, lacking): (Vec<Tool>, Vec<Tool>) = arguments.tools.iter().partition(|tool| tool.is_here());
    for tool in &lacking {
        eprintln!("NOT MEASURED: {} is not installed", tool.name());
    }
    let work = tempfile::Builder::new()
        .prefix("packvault-peers-")
        .tempdir_in(&arguments.work_dir)
        .with_context(|| format!("cannot make a working folder in {}", arguments.work_dir.display()))?;
    let mut rounds = Vec::new();
    for number in 1..=arguments.rounds {
        eprintln!("round {number} of {}", arguments.rounds);
        let folder = work.path().join(number.to_string());
        make_apart(&folder.join("archive"), *megabytes, *noise)?;
        rounds.push(round::measure(&folder, &found)?);
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let report = report::Report::new(*megabytes, &found, &lacking, &rounds)?;
    report.print();
    if let Some(path) = &arguments.json {
        report.write(path)?;
    }
    Ok(())
}
