//! One round: every program takes its turn at each step, on the same archive.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use packvault_sample::{self as sample, Change};

use super::support::archive::files_below;
use super::support::process::{self, Usage};
use super::tools::{Place, STEPS, Step, Tool};

/// What the day between the backups brings: new rows, and changed ones.
const NEW_ROWS: f64 = 0.01;
const CHANGED_ROWS: f64 = 0.005;
/// Bytes that are compared at a time.
const PIECE_BYTES: usize = 1 << 20;

/// What a step of a program took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Measured {
    /// Its processor time, its time, its memory.
    pub usage: Usage,
    /// By how much the repository grew.
    pub added_bytes: u64,
}

/// The steps of each program, in the order of [`STEPS`].
pub type Round = Vec<[Measured; STEPS.len()]>;

/// Measures the programs; `folder` holds the archive, and takes everything else.
pub fn measure(folder: &Path, tools: &[Tool]) -> Result<Round> {
    let places: Vec<Place> = tools
        .iter()
        .map(|tool| place(folder, *tool))
        .collect::<Result<_>>()
        .context("cannot make folders")?;
    for (tool, place) in tools.iter().zip(&places) {
        run(*tool, Step::Init, place)?;
    }
    let mut round = vec![[Measured::default(); STEPS.len()]; tools.len()];
    for (number, step) in STEPS.into_iter().enumerate() {
        if step == Step::DayAfter {
            change_apart(&folder.join("archive"))?;
        }
        for (place, (tool, measured)) in places.iter().zip(tools.iter().zip(&mut round)) {
            eprintln!("  {}: {}", step.title(), tool.name());
            measured[number] = run(*tool, step, place)?;
            if step == Step::Restore {
                compare(*tool, place)?;
            }
        }
    }
    Ok(round)
}

fn place(folder: &Path, tool: Tool) -> Result<Place> {
    let own = folder.join(tool.name());
    let place = Place {
        archive: folder.join("archive"),
        repository: own.join("repository"),
        target: own.join("target"),
        home: own.join("home"),
    };
    [&place.target, &place.home].into_iter().try_for_each(fs::create_dir_all)?;
    Ok(place)
}

fn run(tool: Tool, step: Step, place: &Place) -> Result<Measured> {
    let before = bytes_below(&place.repository)?;
    // What others left to write is not this one's.
    rustix::fs::sync();
    let mut usage = Usage::default();
    for mut command in tool.commands(step, place) {
        usage = process::run(&mut command, &place.home.join("output.txt"))?;
    }
    Ok(Measured { usage, added_bytes: bytes_below(&place.repository)?.saturating_sub(before) })
}

fn bytes_below(folder: &Path) -> Result<u64> {
    if !folder.exists() {
        return Ok(0);
    }
    let lengths = files_below(folder)?.into_iter().map(|path| Ok(fs::metadata(path)?.len()));
    lengths.sum()
}

/// Lets a day go by in a process of its own, which gives all its memory back.
fn change_apart(archive: &Path) -> Result<()> {
    let this = std::env::current_exe().context("cannot find the benchmark itself")?;
    let status = Command::new(this).arg("--change").arg(archive).status();
    ensure!(
        status.context("cannot start the change of the archive")?.success(),
        "the archive could not be changed"
    );
    Ok(())
}

/// Lets a day go by in this process.
pub fn change_here(archive: &Path) -> Result<()> {
    let change = Change {
        insert_fraction: NEW_ROWS,
        update_fraction: CHANGED_ROWS,
        delete_fraction: 0.0,
        ..Change::default()
    };
    sample::mutate(archive, &change)?;
    Ok(())
}

/// Makes sure that the program brought the database back.
fn compare(tool: Tool, place: &Place) -> Result<()> {
    let expected = place.archive.join("msgvault.db");
    let found: Vec<PathBuf> =
        files_below(&place.target)?.into_iter().filter(|path| path.ends_with("msgvault.db")).collect();
    ensure!(found.len() == 1, "{} restored {} databases", tool.name(), found.len());
    ensure!(are_equal(&expected, &found[0])?, "{} restored another database than it backed up", tool.name());
    Ok(())
}

fn are_equal(one: &Path, other: &Path) -> Result<bool> {
    if fs::metadata(one)?.len() != fs::metadata(other)?.len() {
        return Ok(false);
    }
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let count = one.read(&mut left)?;
        if count == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
    }
}
