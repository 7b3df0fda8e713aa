//! The packvault program: parse, run, exit code.

fn main() {}
