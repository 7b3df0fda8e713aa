//! The archives that are measured with.
//!
//! One is made in a process of its own, which gives all its memory back: the memory of the benchmark is the
//! least a command can be seen to use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use packvault_sample::{self as sample, ContentKind, SampleOptions};

/// Part of the archive's bytes that lies in its database.
const DATABASE_PART: f64 = 0.62;

/// Bytes of each content of an archive that does not compress.
const NOISE_BYTES: u64 = 4_000_000;

/// What archive to make
#[derive(Debug, Clone, Args)]
pub struct ArchiveArguments {
    /// Size of the archive, database and attachments together
    #[arg(long, default_value_t = 1000)]
    pub megabytes: u64,
    /// Nearly all of it is attachments that do not compress
    #[arg(long)]
    pub noise: bool,
    /// Make the archive in this folder and do nothing else
    #[arg(long, hide = true)]
    pub make: Option<PathBuf>,
}

/// Makes an archive of so many megabytes in a process of its own.
pub fn make_apart(archive: &Path, megabytes: u64, noise: bool) -> Result<()> {
    eprintln!("making an archive of {megabytes} MB");
    let this = std::env::current_exe().context("cannot find the benchmark itself")?;
    let mut command = Command::new(this);
    command.args(["--megabytes", &megabytes.to_string(), "--make"]).arg(archive);
    if noise {
        command.arg("--noise");
    }
    let status = command.status().context("cannot start the making of the archive")?;
    ensure!(status.success(), "the archive could not be made");
    Ok(())
}

/// Makes the archive in this process.
pub fn make_here(dir: &Path, megabytes: u64, noise: bool) -> Result<()> {
    let bytes = megabytes * 1_000_000;
    let options = match noise {
        true => {
            let large = vec![(NOISE_BYTES, ContentKind::Random); (bytes / NOISE_BYTES) as usize];
            SampleOptions { large, ..SampleOptions::default() }
        }
        false => {
            let database_bytes = (bytes as f64 * DATABASE_PART) as u64;
            SampleOptions::of_size(database_bytes, bytes - database_bytes)
        }
    };
    sample::make(dir, &options)?;
    Ok(())
}

/// Returns all files below a folder, in order of their paths.
pub fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
