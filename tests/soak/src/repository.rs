//! One repository during the run: what is known of it, and each operation with all that must hold after it.
//!
//! A snapshot counts from the moment in which a create reports it, or a listing shows it after a create that
//! was ended: from then on it must be listed, whole, and restore to what was true.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::application::Application;
use crate::fault::Fault;
use crate::place::Place;
use crate::program::{Ending, Run, run};
use crate::proof::prove;
use crate::snapshots::{Snapshot, Snapshots};
use crate::tally::{Counts, Tally};

/// The exit code of a command that finds the repository locked.
const LOCKED: Ending = Ending::Code(11);

/// What all repositories of a run share.
pub struct World {
    /// The application that is backed up.
    pub application: Application,
    /// What was seen.
    pub tally: Tally,
    /// Where a repository is copied to once something is wrong with it.
    pub evidence: std::path::PathBuf,
}

/// A lock that nobody holds any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum DeadLock {
    None,
    /// A create may have left one.
    Possible,
    /// A reader may have left one, which a create would wait for before it refuses.
    Shared,
}

/// One repository.
pub struct Repository {
    place: Place,
    snapshots: Snapshots,
    usual_create: Duration,
    usual_restore: Duration,
    dead_lock: DeadLock,
    has_evidence: bool,
}

impl Repository {
    /// Makes the repository and its first snapshot.
    pub fn init(place: Place, world: &World) -> Result<Self> {
        let run = run(&place, &["init"], None)?;
        anyhow::ensure!(run.ending == Ending::Code(0), "{}: {run}", place.kind.name());
        let mut repository = Self {
            place,
            snapshots: Snapshots::default(),
            usual_create: Duration::ZERO,
            usual_restore: Duration::from_secs(1),
            dead_lock: DeadLock::None,
            has_evidence: false,
        };
        repository.create_undisturbed(world)?;
        Ok(repository)
    }

    /// Returns the name of its place.
    pub fn name(&self) -> String {
        self.place.kind.name()
    }

    /// Returns its place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Copies what lies there, if anything is wrong with it; once.
    pub fn keep_evidence(&mut self, world: &World, runtime: &Runtime, wrong_before: usize) {
        if self.has_evidence || world.tally.counts().wrong() == wrong_before {
            return;
        }
        self.has_evidence = true;
        let folder = world.evidence.join(self.name());
        match self.place.copy_to(&folder, runtime) {
            Ok(()) => world.tally.say(&format!("the repository is copied to {}", folder.display())),
            Err(error) => world.tally.say(&format!("the repository cannot be copied: {error:#}")),
        }
    }

    /// Makes a snapshot, perhaps under a fault; after one that has ended the create, another follows, which
    /// must need no repair.
    pub fn create(&mut self, world: &World, random: &mut Rng) -> Result<()> {
        let is_disturbed = self.dead_lock == DeadLock::None && random.u32(0..3) > 0;
        if !is_disturbed {
            return self.create_undisturbed(world);
        }
        let mut fault = Fault::draw(random, &self.place, self.usual_create.mul_f64(1.1));
        let run = self.attempt(world, &[], Some(&mut fault))?;
        if run.ending == Ending::Code(0) { Ok(()) } else { self.create_undisturbed(world) }
    }

    /// Makes a snapshot as a user does after whatever has happened: where the lock of a dead holder lies, with
    /// the option that breaks it.
    pub fn create_undisturbed(&mut self, world: &World) -> Result<()> {
        let may_force = self.dead_lock != DeadLock::None;
        if self.dead_lock != DeadLock::Shared {
            let run = self.attempt(world, &[], None)?;
            if run.ending != LOCKED || !may_force {
                return Ok(());
            }
        }
        self.attempt(world, &["--force-unlock"], None)?;
        world.tally.counts().forced += 1;
        Ok(())
    }

    /// Runs one create and checks everything that must hold after it.
    fn attempt(&mut self, world: &World, options: &[&str], mut fault: Option<&mut Fault>) -> Result<Run> {
        world.tally.counts().now = format!("create on {}", self.name());
        world.application.remove_files()?;
        let from = world.application.ledger().committed();
        let arguments = [&["create", "application"], options].concat();
        let run = run(&self.place, &arguments, fault.as_deref_mut())?;
        let window = from..=world.application.ledger().promised();
        count_longest(&mut world.tally.counts(), &self.name(), run.took);
        let reported = match run.ending {
            Ending::Code(0) => Some(self.note_report(world, &run)?),
            _ => None,
        };
        self.judge(world, &run, fault.as_deref(), options.is_empty());
        self.look(world, &window, reported)?;
        Ok(run)
    }

    fn note_report(&mut self, world: &World, run: &Run) -> Result<String> {
        let report = run.json()?;
        let id = report["id"].as_str().context("a create reports no id")?.to_owned();
        let newest = self.snapshots.newest();
        if report["parent"].as_str() != newest {
            let text = format!("{}: {id} builds on {}, not on {newest:?}", self.name(), report["parent"]);
            world.tally.fail(text);
        }
        if report["left_out"] != Value::Array(Vec::new()) {
            world.tally.fail(format!("{}: {id} left out {}", self.name(), report["left_out"]));
        }
        let mut counts = world.tally.counts();
        counts.at(&self.name()).creates += 1;
        counts.stored_bytes += report["bytes_added"].as_u64().unwrap_or(0);
        let how = report["database"]["read"].as_str().unwrap_or("nowhere").to_owned();
        *counts.read.entry(how).or_default() += 1;
        drop(counts);
        if !run.was_struck {
            // The longest counts most, but a machine that was busy once is not so for ever.
            self.usual_create = run.took.max(self.usual_create.mul_f64(0.8));
        }
        Ok(id)
    }

    /// Checks that the create ended as it may, and remembers whether it may have left a lock.
    fn judge(&mut self, world: &World, run: &Run, fault: Option<&Fault>, is_first: bool) {
        let name = self.name();
        // One that came too late excuses nothing.
        let fault = fault.filter(|_| run.was_struck);
        if let Some(fault) = fault {
            count_fault(&mut world.tally.counts(), &name, fault, run);
            if run.ending != Ending::Code(0) {
                world.tally.counts().creates_ended += 1;
            }
        }
        let (allowed, what) = match fault {
            Some(fault) => (fault.allows(run.ending), format!(" under {fault}")),
            None if is_first && self.dead_lock != DeadLock::None => {
                (run.ending == Ending::Code(0) || run.ending == LOCKED, String::new())
            }
            None => (run.ending == Ending::Code(0), String::new()),
        };
        let is_told_well = !matches!(run.ending, Ending::Code(1..=11)) || run.has_one_error();
        if !allowed || !is_told_well {
            world.tally.fail(format!("{name}{what}: {run}"));
        }
        self.dead_lock = match fault {
            Some(fault) if fault.may_leave_a_lock() => DeadLock::Possible,
            // Whatever it was, it is told; the run goes on as its user would.
            _ if run.ending != Ending::Code(0) && !allowed => DeadLock::Possible,
            _ if run.ending == LOCKED => self.dead_lock,
            _ => DeadLock::None,
        };
    }

    /// Lists the snapshots: each that was there before, and the one of the create that has just ended.
    fn look(&mut self, world: &World, window: &RangeInclusive<u64>, reported: Option<String>) -> Result<()> {
        let run = run(&self.place, &["list"], None)?;
        let name = self.name();
        if run.ending != Ending::Code(0) {
            world.tally.fail(format!("{name}: {run}"));
            return Ok(());
        }
        let found = self.snapshots.compare(&run.json()?, window, reported.as_deref());
        found.losses.into_iter().for_each(|text| world.tally.lose(format!("{name}: {text}")));
        found.failures.into_iter().for_each(|text| world.tally.fail(format!("{name}: {text}")));
        let mut counts = world.tally.counts();
        counts.snapshots += found.new;
        counts.adopted += if reported.is_none() { found.new } else { 0 };
        Ok(())
    }

    /// Restores a snapshot at random, perhaps under a fault, and compares it with what was true.
    pub fn restore_some(&mut self, world: &World, random: &mut Rng) -> Result<()> {
        let fault = (random.u32(0..3) == 0)
            .then(|| Fault::draw(random, &self.place, self.usual_restore.mul_f64(1.1)));
        if self.dead_lock != DeadLock::None {
            self.create_undisturbed(world)?;
        }
        match random.choice(self.snapshots.present()) {
            Some(index) => self.restore(world, index, fault),
            None => Ok(()),
        }
    }

    /// Restores a snapshot that was not restored before; tells whether there was one.
    pub fn restore_next(&mut self, world: &World) -> Result<bool> {
        let Some(index) = self.snapshots.unsettled() else { return Ok(false) };
        self.restore(world, index, None)?;
        Ok(true)
    }

    /// Returns how many snapshots were never restored.
    pub fn unproved(&self) -> usize {
        self.snapshots.unsettled_count()
    }

    fn restore(&mut self, world: &World, index: usize, mut fault: Option<Fault>) -> Result<()> {
        let (name, Snapshot { id, window, .. }) = (self.name(), self.snapshots.get(index).clone());
        world.tally.counts().now = format!("restore from {name}");
        let target = self.place.target();
        remove_folder(&target)?;
        let shown = target.to_string_lossy().into_owned();
        let mut done = run(&self.place, &["restore", &id, "--target", &shown], fault.as_mut())?;
        if let Some(fault) = fault.filter(|_| done.was_struck) {
            count_fault(&mut world.tally.counts(), &name, &fault, &done);
            if fault.may_leave_a_lock() {
                self.dead_lock = DeadLock::Shared;
            }
            if !fault.allows(done.ending) {
                world.tally.fail(format!("{name} under {fault}: {done}"));
            }
            if done.ending != Ending::Code(0) {
                world.tally.counts().restores_ended += 1;
                done = run(&self.place, &["restore", &id, "--target", &shown, "--overwrite"], None)?;
            }
        }
        let is_news = self.snapshots.settle(index);
        if done.ending != Ending::Code(0) {
            world.tally.lose(format!("{name}: {id} is not restored: {done}"));
            return Ok(());
        }
        self.usual_restore = done.took.max(self.usual_restore.mul_f64(0.8));
        match prove(&target, world.application.ledger(), &window) {
            Ok(_) => {
                let mut counts = world.tally.counts();
                counts.at(&name).restores += 1;
                counts.proved += u64::from(is_news);
            }
            Err(error) => world.tally.lose(format!("{name}: {id} comes back otherwise: {error:#}")),
        }
        remove_folder(&target)
    }

    /// Checks, after a last create, that nothing is left behind and that every snapshot is whole.
    pub fn finish(&mut self, world: &World, runtime: &Runtime) -> Result<()> {
        self.create_undisturbed(world)?;
        let name = self.name();
        self.expect_no_remains(world, runtime)?;
        world.tally.counts().now = format!("verify on {name}");
        let run = run(&self.place, &["verify", "--all"], None)?;
        let report = run.json().unwrap_or_default();
        let counted = report["snapshots"].as_u64() == Some(self.snapshots.count() as u64);
        if run.ending == Ending::Code(0) && report["ok"] == true && counted {
            world.tally.counts().at(&name).verified += self.snapshots.count() as u64;
        } else {
            let snapshots = self.snapshots.count();
            world.tally.lose(format!("{name}: {snapshots} snapshots are not all whole: {run} {report}"));
        }
        Ok(())
    }

    /// Checks that there are no locks, no uploads and no strangers.
    pub fn expect_no_remains(&self, world: &World, runtime: &Runtime) -> Result<()> {
        let remains = self.place.remains(runtime)?;
        if !remains.is_empty() {
            world.tally.fail(format!("{}: left behind: {remains:?}", self.name()));
        }
        Ok(())
    }
}

fn count_longest(counts: &mut Counts, place: &str, took: Duration) {
    let slowest = &mut counts.at(place).slowest;
    *slowest = took.max(*slowest);
}

fn count_fault(counts: &mut Counts, place: &str, fault: &Fault, run: &Run) {
    counts.at(place).faults += 1;
    let faults = counts.faults.entry(fault.kind).or_default();
    faults.struck += 1;
    faults.survived += u64::from(run.ending == Ending::Code(0));
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
