//! The run: creates in turn, a restore now and then, and the great look at everything in the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use fastrand::Rng;
use tokio::runtime::Runtime;

use crate::application::Application;
use crate::place::{Kind, Place};
use crate::program;
use crate::repository::{Repository, World};
use crate::tally::Tally;

/// After so many things that went wrong there is nothing to be learned from more.
const WRONG_MAX: usize = 20;

/// Between two restores, in a run that is long enough.
const RESTORE_EVERY: Duration = Duration::from_secs(60);

/// Between two looks at whether the run is over.
const LOOK: Duration = Duration::from_millis(20);

/// What a run may be told.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// How long the faults go on; the checks of the end take up to half as long again
    #[arg(long, default_value_t = 30.0, value_parser = minutes)]
    pub minutes: f64,
    /// Seconds from the beginning of one create to that of the next, at least
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    pub every: f64,
    /// What the application writes and which faults happen; their instants depend on the machine as well
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where repositories lie; all places whose servers are here, without it
    #[arg(long, value_delimiter = ',')]
    pub backends: Vec<Kind>,
    /// The folder to work in, which is made; a temporary one without it, removed unless something went wrong
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// The program; without it the one that is built beside this one
    #[arg(long)]
    pub program: Option<PathBuf>,
    /// Mebibytes of stored and working data at which the run ends early
    #[arg(long, default_value_t = 2000)]
    pub megabytes: u64,
}

fn minutes(text: &str) -> Result<f64, String> {
    positive(text, 7.0 * 24.0 * 60.0)
}

fn seconds(text: &str) -> Result<f64, String> {
    positive(text, 3600.0)
}

fn positive(text: &str, max: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number <= max { Ok(number) } else { Err(format!("not above 0 and up to {max}")) }
}

/// How often Ctrl-C was pressed, as far as a run cares.
pub type Stop = Arc<AtomicBool>;

/// A run under way.
struct Soak<'a> {
    options: &'a Options,
    world: World,
    repositories: Vec<Repository>,
    random: Rng,
    runtime: &'a Runtime,
    stop: &'a Stop,
    folder: PathBuf,
}

/// Runs to the end and returns whether nothing was lost and nothing else went wrong.
pub fn soak(options: &Options, runtime: &Runtime, stop: &Stop) -> Result<bool> {
    let program = options.program.clone().map_or_else(program::find, Ok)?;
    let program = program.canonicalize().with_context(|| format!("no program {}", program.display()))?;
    let mut temporary = None;
    let folder = match &options.dir {
        Some(folder) => {
            std::fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
            folder.canonicalize()?
        }
        None => {
            let made = temporary.insert(tempfile::Builder::new().prefix("packvault-soak-").tempdir()?);
            made.path().canonicalize()?
        }
    };
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}, {} min, in {}, with {}", options.minutes, folder.display(), program.display());
    let result = Soak::start(options, runtime, stop, &folder, &program, seed).and_then(Soak::run);
    if !matches!(result, Ok(true))
        && let Some(temporary) = temporary
    {
        println!("kept for a look: {}", temporary.keep().display());
    }
    result
}

impl<'a> Soak<'a> {
    fn start(
        options: &'a Options,
        runtime: &'a Runtime,
        stop: &'a Stop,
        folder: &Path,
        program: &Path,
        seed: u64,
    ) -> Result<Self> {
        let home = folder.join("application");
        let application = Application::start(&home, folder, seed)?;
        let world = World { application, tally: Tally::start(), evidence: folder.join("evidence") };
        let kinds = if options.backends.is_empty() { Kind::value_variants() } else { &options.backends };
        let mut repositories = Vec::new();
        for &kind in kinds {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            world.tally.counts().now = format!("starting {}", kind.name());
            let Some(place) = Place::start(kind, folder, program, world.application.home())? else {
                continue;
            };
            repositories.push(Repository::init(place, &world)?);
            world.tally.say(&format!("{} has its first snapshot", kind.name()));
        }
        ensure!(!repositories.is_empty(), "no place to keep a repository in");
        let random = Rng::with_seed(seed ^ 1);
        Ok(Self { options, world, repositories, random, runtime, stop, folder: folder.to_owned() })
    }

    fn run(mut self) -> Result<bool> {
        self.disturb()?;
        self.finish()?;
        let transactions = self.world.application.ledger().committed();
        let World { application, tally, .. } = self.world;
        if let Err(error) = application.stop() {
            tally.fail(format!("the application: {error:#}"));
        }
        tally.print_summary(transactions);
        let wrong = tally.counts().wrong();
        Ok(wrong == 0)
    }

    /// The long part.
    fn disturb(&mut self) -> Result<()> {
        let whole = Duration::from_secs_f64(self.options.minutes * 60.0);
        let (begun, every) = (Instant::now(), Duration::from_secs_f64(self.options.every));
        let restore_every = RESTORE_EVERY.min(whole / 3);
        let mut restore_at = begun + restore_every;
        for turn in 0.. {
            let started = Instant::now();
            if begun.elapsed() >= whole || self.must_end() {
                return Ok(());
            }
            let wrong_before = self.world.tally.counts().wrong();
            let count = self.repositories.len();
            let mut index = turn % count;
            self.repositories[index].create(&self.world, &mut self.random)?;
            if Instant::now() >= restore_at {
                self.repositories[index].keep_evidence(&self.world, self.runtime, wrong_before);
                index = self.random.usize(..count);
                self.repositories[index].restore_some(&self.world, &mut self.random)?;
                restore_at = Instant::now().max(restore_at + restore_every);
                self.measure();
            }
            self.repositories[index].keep_evidence(&self.world, self.runtime, wrong_before);
            self.world.tally.counts().now = "waiting".to_owned();
            while started.elapsed() < every && begun.elapsed() < whole && !self.stop.load(Ordering::SeqCst) {
                thread::sleep(LOOK);
            }
        }
        Ok(())
    }

    /// Tells whether the run has to end before its time, and says why.
    fn must_end(&self) -> bool {
        let tally = &self.world.tally;
        let (wrong, stored, on_disks) = {
            let counts = tally.counts();
            (counts.wrong(), counts.stored_bytes, counts.disk_bytes_max)
        };
        let bytes_max = self.options.megabytes << 20;
        let reason = if self.stop.load(Ordering::SeqCst) {
            "it was stopped"
        } else if wrong >= WRONG_MAX {
            "too much went wrong"
        } else if stored > bytes_max || on_disks > bytes_max {
            "the data have grown to the bound of --megabytes"
        } else if !self.world.application.is_at_work() {
            "the application has stopped"
        } else {
            return false;
        };
        tally.say(&format!("the run ends early: {reason}"));
        true
    }

    /// The checks of the end: everything whole, nothing left behind, and every snapshot restored, as far as
    /// there is time.
    fn finish(&mut self) -> Result<()> {
        self.world.tally.say("the faults are over; now everything is looked at");
        for index in 0..self.repositories.len() {
            let wrong_before = self.world.tally.counts().wrong();
            self.repositories[index].finish(&self.world, self.runtime)?;
            self.repositories[index].keep_evidence(&self.world, self.runtime, wrong_before);
        }
        self.measure();
        let (begun, most) = (Instant::now(), Duration::from_secs_f64(self.options.minutes * 20.0));
        let mut is_some_left = true;
        while is_some_left && begun.elapsed() < most && !self.stop.load(Ordering::SeqCst) {
            is_some_left = false;
            for repository in &mut self.repositories {
                let wrong_before = self.world.tally.counts().wrong();
                is_some_left |= repository.restore_next(&self.world)?;
                repository.keep_evidence(&self.world, self.runtime, wrong_before);
            }
        }
        let unproved: usize = self.repositories.iter().map(Repository::unproved).sum();
        if unproved > 0 {
            let text = format!("{unproved} snapshots were verified, but not restored: there was no time");
            self.world.tally.say(&text);
        }
        for repository in &self.repositories {
            repository.expect_no_remains(&self.world, self.runtime)?;
        }
        Ok(())
    }

    /// Notes how much lies on disks.
    fn measure(&self) {
        let of_servers = self.repositories.iter().filter_map(|repository| repository.place().folder());
        let elsewhere = of_servers.filter(|folder| !folder.starts_with(&self.folder));
        let bytes = bytes_below(&self.folder) + elsewhere.map(|folder| bytes_below(&folder)).sum::<u64>();
        let mut counts = self.world.tally.counts();
        counts.disk_bytes_max = counts.disk_bytes_max.max(bytes);
    }
}

/// Returns the size of all files below a folder; what is just being removed counts nothing.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A short run on a folder of this machine.
    fn run(program: PathBuf) -> bool {
        let folder = tempfile::tempdir().unwrap();
        let options = Options {
            minutes: 0.02,
            every: 0.1,
            seed: Some(1),
            backends: vec![Kind::Local],
            dir: Some(folder.path().join("work")),
            program: Some(program),
            megabytes: 500,
        };
        soak(&options, &Runtime::new().unwrap(), &Stop::default()).unwrap()
    }

    /// Returns the program, which is built with the workspace's tests, and not with this crate's alone.
    fn packvault() -> Option<PathBuf> {
        let found = program::find();
        found.inspect_err(|error| eprintln!("NOT RUN, soak: {error}")).ok()
    }

    #[test]
    fn a_run_of_seconds_on_a_folder_loses_nothing() {
        assert!(packvault().is_none_or(run));
    }

    #[test]
    fn a_program_that_loses_a_snapshot_is_found_out() {
        let Some(packvault) = packvault() else { return };
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("loses");
        let text = format!(
            "#!/bin/sh\nfirst=$(ls \"$HOME/repository/snapshots\" | head -n 1)\n\
             [ $1 = list ] && [ $(ls \"$HOME/repository/snapshots\" | wc -l) -gt 2 ] && \
             rm -f \"$HOME/repository/snapshots/$first\"\nexec {} \"$@\"\n",
            packvault.display()
        );
        std::fs::write(&program, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
        assert!(!run(program));
    }
}
