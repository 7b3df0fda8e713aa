//! What packvault's commands cost over a line, beside what ordinary clients need for the same bytes.
//!
//! Run by `cargo bench --bench remote -- --megabytes 1000 --delays 0,10,50`. It makes a synthetic archive and
//! stores it on this machine, which gives the packs to carry. Then, for every server and every delay, it
//! measures in turn: the packs sent and fetched by `sftp` and `rclone`, several at once, and `create`,
//! `verify --all` and `restore` as processes, over the line and on this machine.
//!
//! How to read it: `MiB/s` are stored bytes by the wall time. `ratio` is the wall time of the best client over
//! that of the command: 1.00 is as fast as the bytes can be carried by an ordinary client. `local s` is the
//! command's wall time without any line: where that is longer than the client's, the line is not what the
//! command waits for, and `of bound` compares it with the slower of the two. Client, line and server share
//! this machine. Only packvault makes durable what it has sent.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod clients;
mod line;
mod packvault;
mod report;
mod round;
mod servers;
#[path = "../support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use round::Subject;
use servers::Kind;
use support::archive::{ArchiveArguments, make_apart, make_here};

/// Measures packvault's commands over a line against ordinary clients
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    archive: ArchiveArguments,
    /// Milliseconds added to every round trip
    #[arg(long, value_delimiter = ',', default_value = "0,10,50")]
    delays: Vec<u64>,
    /// Servers to measure with; all but moto are made for speed
    #[arg(long, value_delimiter = ',', default_value = "openssh,rgw")]
    servers: Vec<Kind>,
    /// Jobs the commands run with
    #[arg(long, default_value_t = 2)]
    jobs: u32,
    /// Rounds to take the medians of
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Folder for a working folder that takes five times the archive's size, removed at the end
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    work_dir: PathBuf,
    /// Given by `cargo bench`; without it (as in `cargo test --benches`) nothing is measured
    #[arg(long, hide = true)]
    bench: bool,
    /// Be a line to this port, with the first of the delays, and do nothing else
    #[arg(long, hide = true)]
    line_to: Option<u16>,
}

fn main() -> ExitCode {
    support::end(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Result<()> {
    let ArchiveArguments { megabytes, noise, make } = &arguments.archive;
    if let Some(dir) = make {
        return make_here(dir, *megabytes, *noise);
    }
    if let Some(port) = arguments.line_to {
        return line::serve(port, arguments.delays.first().copied().unwrap_or(0));
    }
    if !arguments.bench {
        println!("nothing measured: run by `cargo bench`");
        return Ok(());
    }
    let work = tempfile::Builder::new()
        .prefix("packvault-bench-")
        .tempdir_in(&arguments.work_dir)
        .with_context(|| format!("cannot make a working folder in {}", arguments.work_dir.display()))?;
    let archive = work.path().join("archive");
    make_apart(&archive, *megabytes, *noise)?;
    let subject = Subject::new(&archive, &work.path().join("packs"), arguments.jobs)?;
    report::print_subject(*megabytes, &subject);
    let mut summary = Vec::new();
    for &kind in &arguments.servers {
        for &delay in &arguments.delays {
            let mut rounds = Vec::new();
            for round in 1..=arguments.rounds {
                eprintln!("{}, {delay} ms, round {round} of {}", kind.name(), arguments.rounds);
                rounds.extend(subject.measure(kind, delay, &work.path().join("round"))?);
            }
            summary.extend(report::print_rounds(kind, delay, subject.stored_bytes, &rounds));
        }
    }
    report::print_summary(&summary);
    Ok(())
}
