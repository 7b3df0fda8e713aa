//! What the benchmarks share: archives to measure with, the costs of processes, medians.

#![allow(dead_code, reason = "no benchmark needs all of it")]

pub mod archive;
pub mod median;
pub mod process;

use std::process::ExitCode;

/// Says why a benchmark failed, if it did, and returns how the program ends.
pub fn end(measured: anyhow::Result<()>) -> ExitCode {
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("benchmark failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
