//! A long run of packvault as it is used: an application that goes on writing, a create every few seconds to
//! one place after the other, faults at random instants, and a restore with proof every minute.
//!
//! `cargo build --release && cargo run --release -p packvault-soak -- soak --minutes 30`. The real program
//! runs as processes; places are a folder and whatever servers are installed here. What was true is kept by
//! bookkeeping beside the database ([`ledger`]), so every snapshot that is restored can be compared with it to
//! the last row. The exit code is 0 only if nothing was lost and nothing else went wrong.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod application;
mod changes;
mod fault;
mod ledger;
mod place;
mod program;
mod proof;
mod repository;
mod schema;
mod snapshots;
mod soak;
mod tally;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::soak::{Options, Stop, soak};

/// What a program exits with that was interrupted.
const INTERRUPTED: i32 = 130;

/// Uses packvault for a long time under random faults
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Backs up a live application to one place after the other, under faults, and proves what comes back
    ///
    /// A first Ctrl-C ends the run with its checks, but for the restores; a second ends it at once.
    Soak(Options),
}

fn main() -> ExitCode {
    let Command::Soak(options) = Arguments::parse().command;
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the soak failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<bool> {
    let runtime = Runtime::new().context("cannot start a runtime")?;
    let stop = Stop::default();
    runtime.block_on(async { listen(&stop) })?;
    soak(options, &runtime, &stop)
}

/// Sets the flag at the first Ctrl-C, or SIGTERM; ends the program at the second. Servers end with it.
fn listen(stop: &Stop) -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let (mut signals, stop) = (signal(kind).context("cannot listen for signals")?, Arc::clone(stop));
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if stop.swap(true, Ordering::SeqCst) {
                    std::process::exit(INTERRUPTED);
                }
                println!("stopping after the present command; once more ends at once");
            }
        });
    }
    Ok(())
}
