//! What packvault's commands cost, beside what their unavoidable parts cost on the same machine.
//!
//! Run by `cargo bench --bench commands -- --megabytes 1000 --jobs 2`. It makes a synthetic archive, then
//! measures in rounds, so that a machine that slows down slows everything: first the parts alone, on one
//! thread (reading, hashing, compressing, decompressing, writing), then the commands as processes. The numbers
//! printed are medians over the rounds.
//!
//! How to read it: `ratio` is the CPU seconds of a command over those of its parts; 1.00 cannot be beaten
//! without doing less, and what is above it is packvault's own. `CPU/jobs` is the wall time were all jobs busy
//! all the time; far below `wall s`, cores were idle. `peak MiB` is the command's largest resident memory; with
//! `--double` it is compared with that for an archive of twice the size, and should hardly grow.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod commands;
mod parts;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod walks;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use support::archive::{ArchiveArguments, make_apart, make_here};

/// Measures packvault's commands against their unavoidable parts
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    archive: ArchiveArguments,
    /// Jobs the commands run with
    #[arg(long, default_value_t = 2)]
    jobs: u32,
    /// Rounds to take the medians of
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// zstd level of the parts; the commands use their own default
    #[arg(long, default_value_t = 3)]
    level: i32,
    /// Folder for a working folder that takes four times the archive's size, removed at the end
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    work_dir: PathBuf,
    /// Measure twice the size as well, and compare the memory
    #[arg(long)]
    double: bool,
    /// Measure an encrypted repository as well, in turn with the plain one, and compare both; a way in that costs nothing
    /// opens it, so that what is measured is the sealing
    #[arg(long)]
    encrypted: bool,
    /// Leave the commands out
    #[arg(long, conflicts_with = "encrypted")]
    parts_only: bool,
    /// Given by `cargo bench`; without it (as in `cargo test --benches`) nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    support::end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let ArchiveArguments { megabytes, noise, make } = &arguments.archive;
    if let Some(dir) = make {
        return make_here(dir, *megabytes, *noise);
    }
    if !arguments.bench {
        println!("nothing measured: run by `cargo bench`");
        return Ok(());
    }
    let single = measure(arguments, *megabytes)?;
    if arguments.double {
        let double = measure(arguments, 2 * megabytes)?;
        report::print_growth(&single, &double);
    }
    Ok(())
}

/// Measures an archive of one size and prints the result.
fn measure(arguments: &Arguments, megabytes: u64) -> Result<Vec<commands::Round>> {
    let work = tempfile::Builder::new()
        .prefix("packvault-bench-")
        .tempdir_in(&arguments.work_dir)
        .with_context(|| format!("cannot make a working folder in {}", arguments.work_dir.display()))?;
    let archive = work.path().join("archive");
    make_apart(&archive, megabytes, arguments.archive.noise)?;
    let (mut part_rounds, mut command_rounds, mut encrypted_rounds) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=arguments.rounds {
        eprintln!("{megabytes} MB, round {round} of {}", arguments.rounds);
        part_rounds.push(walks::measure(
            &archive,
            &work.path().join(format!("parts-{round}")),
            arguments.level,
        )?);
        let run = |name: &str, encrypted: bool| {
            let work = work.path().join(format!("{name}-{round}"));
            commands::measure(&archive, &work, arguments.jobs, encrypted)
        };
        if !arguments.parts_only {
            command_rounds.push(run("plain", false)?);
        }
        if arguments.encrypted {
            encrypted_rounds.push(run("encrypted", true)?);
        }
    }
    let parts = parts::Parts::median(&part_rounds);
    report::print_parts(megabytes, &parts);
    report::print_commands(&command_rounds, &parts, arguments.jobs);
    report::print_sealing(&command_rounds, &encrypted_rounds);
    Ok(command_rounds)
}
