//! What the benchmarks share: archives to measure with, the costs of processes, medians.

#![allow(dead_code, reason = "no benchmark needs all of it")]

pub mod archive;
pub mod median;
pub mod process;
