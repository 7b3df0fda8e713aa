//! The danger: a line or a server that fails for a moment, lies once, answers late or not at all, and a backup
//! that takes this for the truth: calls a snapshot whole that is not, publishes half of one, tries again what
//! must not be tried again, or cannot be stopped.
//!
//! Each operation runs once for each of its storage calls and each fault, below the retries that stand above
//! every server, with and without the spool. Time is virtual, so that pauses and hangs cost nothing.
//! `PACKVAULT_FIRE=all` runs every case; without it every so manyth is run, each fault at many calls, and on
//! real servers, in real time, each class of call meets some of the faults.

#![allow(clippy::print_stdout, reason = "how many cases there were is told to who asks with --nocapture")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use packvault::engine::{Context, Selection};
use packvault::{Cancel, ErrorKind, Result};
use packvault_storage::ErrorKind as StorageErrorKind;
use packvault_storage::retry::Unwatched;
use packvault_storage::{
    Error as StorageError, Fault, FaultStorage, Operation, RetryPolicy, RetryStorage, RetryWatch, Storage,
};
use tokio::sync::Notify;

use crate::support::memory_repo::*;
use crate::support::scenes::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a stopped operation may take to end, in virtual time.
const STOP_MAX: Duration = Duration::from_secs(1);

/// The same in real time, on a busy machine.
const REAL_STOP_MAX: Duration = Duration::from_secs(10);

/// After how long without an answer an attempt is given up, as on an S3 server.
const SILENCE: Duration = Duration::from_secs(60);

/// How long an operation may then take to end: the step that failed, which after a lost answer is followed by
/// a look at what lies there, and giving back the lock.
const SILENT_MAX: Duration = Duration::from_secs(310);
/// The same for an unlock: a rename whose answer is lost is followed by looks at both names.
const SILENT_UNLOCK_MAX: Duration = Duration::from_secs(430);

/// How many of the faults each class of call meets on a real server.
const TROUBLES_PER_CLASS: usize = 1;

/// What happens at one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Once(Fault),
    /// The call never returns, and after a while the user presses Ctrl-C.
    HangAndStop,
    /// The store's clock is a day further, or a day back, from here on.
    ClockForward,
    ClockBack,
}

use Fault::{After, Before};
use StorageErrorKind::{Conflict, Connection, Denied, Full, Io, NotFound, Throttled, Timeout};

const TROUBLES: [Trouble; 17] = [
    Trouble::Once(Before(Timeout)),
    Trouble::Once(Before(Connection)),
    Trouble::Once(Before(Throttled)),
    Trouble::Once(Before(Conflict)),
    // A step that is done, and delivered a second time because its answer was lost.
    Trouble::Once(After(Timeout)),
    Trouble::Once(After(Connection)),
    Trouble::Once(After(Conflict)),
    Trouble::Once(Before(Denied)),
    Trouble::Once(Before(Full)),
    Trouble::Once(Before(Io)),
    Trouble::Once(Before(NotFound)),
    Trouble::Once(Fault::Truncate),
    Trouble::Once(Fault::Flip),
    Trouble::Once(Fault::Delay(Duration::from_secs(45))),
    Trouble::HangAndStop,
    Trouble::ClockForward,
    Trouble::ClockBack,
];

impl Trouble {
    /// Tells whether the operation must not notice it.
    fn must_pass(self, at: &Operation, spooled: bool) -> bool {
        match self {
            // Without a spool a stream cannot be played again; it fails as one clear error.
            Self::Once(Before(kind) | After(kind)) if kind.is_passing() => {
                spooled || !matches!(at, Operation::Write | Operation::Seal)
            }
            Self::Once(Fault::Delay(_)) | Self::ClockForward | Self::ClockBack => true,
            _ => false,
        }
    }

    /// Tells whether it can be made on a server whose clock is nobody's to set.
    fn leaves_clocks_alone(self) -> bool {
        !matches!(self, Self::ClockForward | Self::ClockBack)
    }

    /// Tells whether it is an error that no second attempt can help.
    fn is_final(self) -> bool {
        matches!(self, Self::Once(Before(kind)) if !kind.is_passing())
    }

    /// Tells whether what the call returned was not what is stored.
    fn spoils_bytes(self) -> bool {
        matches!(self, Self::Once(Fault::Truncate | Fault::Flip))
    }
}

/// Stops the retries when the operation is cancelled, as the program does.
#[derive(Debug)]
struct UntilCancelled(Cancel);

impl RetryWatch for UntilCancelled {
    fn retrying(&self, _: &StorageError, _: u32, _: Duration) {}

    fn is_stopped(&self) -> bool {
        self.0.is_cancelled()
    }

    fn stopped(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.cancelled())
    }
}

/// One run of an act, with trouble at one call.
struct Run<'a> {
    scene: &'a Scene,
    plot: Plot,
    faulty: FaultStorage,
    context: Context,
    spooled: bool,
}

impl<'a> Run<'a> {
    async fn new(scene: &'a Scene, ground: &Ground, spooled: bool) -> Self {
        let plot = ground().await;
        scene.sow(&plot.storage).await;
        let faulty = FaultStorage::new(plot.storage.clone());
        Self { scene, plot, faulty, context: context(), spooled }
    }

    /// Returns the storage as a server stands before the engine.
    fn line(&self) -> Arc<dyn Storage> {
        let watch = Arc::new(UntilCancelled(self.context.cancel.clone()));
        let policy = if self.is_virtual() { RetryPolicy::default() } else { quick_retries() };
        let faulty = Arc::new(self.faulty.clone());
        if self.spooled {
            return spooled_line(faulty, policy, watch);
        }
        Arc::new(RetryStorage::new(faulty, policy).watched_by(watch))
    }

    /// Tells whether the ground is memory, and time costs nothing.
    fn is_virtual(&self) -> bool {
        self.plot.memory.is_some()
    }

    /// Runs the act; returns how it ended.
    async fn with(&self, trouble: Trouble, number: u64) -> Result<()> {
        let reached = Arc::new(Notify::new());
        self.plan(trouble, number, reached.clone());
        let stopped_at = async {
            if trouble != Trouble::HangAndStop {
                return std::future::pending().await;
            }
            reached.notified().await;
            let (wait, stop_max) = match self.is_virtual() {
                true => (Duration::from_secs(3), STOP_MAX),
                false => (Duration::from_millis(20), REAL_STOP_MAX),
            };
            tokio::time::sleep(wait).await;
            self.context.cancel.cancel();
            tokio::time::sleep(stop_max).await;
        };
        tokio::select! {
            ended = self.scene.run_within(self.line(), &self.context) => ended,
            () = stopped_at => panic!("call {number}: {:?} goes on after Ctrl-C", self.faulty.calls().last()),
        }
    }

    fn plan(&self, trouble: Trouble, number: u64, reached: Arc<Notify>) {
        let (calls, memory) = (AtomicU64::new(0), self.plot.memory.clone());
        let is_reached = move || calls.fetch_add(1, Ordering::Relaxed) + 1 == number;
        match trouble {
            Trouble::Once(Fault::Delay(_)) if !self.is_virtual() => {
                self.faulty.at_call(number, Fault::Delay(Duration::from_millis(50)));
            }
            Trouble::Once(fault) => self.faulty.at_call(number, fault),
            Trouble::HangAndStop => self.faulty.at_match(0, Fault::Hang, move |_, _| {
                let is_reached = is_reached();
                if is_reached {
                    reached.notify_one();
                }
                is_reached
            }),
            Trouble::ClockForward | Trouble::ClockBack => {
                let memory = memory.expect("only the clock of memory can be set");
                let turn = move |_: Operation, _: &str| {
                    match is_reached() {
                        true if trouble == Trouble::ClockForward => memory.advance_clock(DAY),
                        true => memory.set_clock(SystemTime::now() - DAY),
                        false => {}
                    }
                    false
                };
                self.faulty.at_match(0, Fault::Delay(Duration::ZERO), turn);
            }
        }
    }
}

fn count_classes(calls: &[(Operation, String)]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    calls.iter().for_each(|call| *counts.entry(class(call)).or_default() += 1);
    counts
}

/// One case that is over, and what it was.
struct Case<'a> {
    run: &'a Run<'a>,
    trouble: Trouble,
    at: (Operation, String),
    clean: &'a BTreeMap<String, usize>,
    name: String,
}

impl Case<'_> {
    fn is_about_locks(&self) -> bool {
        self.at.1.starts_with("locks/")
    }

    /// Tells whether the flipped bit may lie in a blob that nothing has to be read of: a small pack is opened
    /// by reading all of it.
    fn is_passed_over(&self) -> bool {
        let flips = self.trouble == Trouble::Once(Fault::Flip);
        flips && self.run.scene.act == Act::QuickVerify && self.at.1.starts_with("packs/")
    }

    fn judge_outcome(&self, outcome: &Result<()>) {
        let Self { run, trouble, at, name, .. } = self;
        let told = outcome.as_ref().err().map(|error| (error.kind(), error.chain()));
        if trouble.must_pass(&at.0, run.spooled) {
            assert!(told.is_none(), "{name}: must pass: {told:?}");
        }
        let holds_data = ["packs/", "indexes/", "snapshots/"].iter().any(|folder| at.1.starts_with(folder));
        let looks = matches!(run.scene.act, Act::List | Act::Verify | Act::QuickVerify);
        let spoilt = trouble.spoils_bytes() && at.0 == Operation::Read && !self.is_passed_over();
        if looks && holds_data && (spoilt || *trouble == Trouble::Once(Before(NotFound))) {
            assert!(told.is_some(), "{name}: called sound");
        }
        let Some((kind, text)) = told else { return };
        let (unlocks, is_left) = (run.scene.act == Act::Unlock, text.contains(".json held by "));
        assert!(!text.contains('\n') && text.starts_with(char::is_lowercase), "{name}: {text}");
        assert!(kind != ErrorKind::Usage, "{name}: {kind:?}: {text}");
        match trouble {
            Trouble::HangAndStop => assert_eq!(kind, ErrorKind::Interrupted, "{name}: {text}"),
            // A lock that cannot be read stays, and is named instead.
            Trouble::Once(Before(Denied | Full | Io)) if unlocks && at.0 == Operation::Read && is_left => {}
            Trouble::Once(Before(Denied | Full | Io)) => {
                assert!(text.contains("a test lets it fail"), "{name}: {text}");
            }
            _ => {}
        }
    }

    /// No step is tried more often than when all goes well, if no further attempt can help.
    fn judge_attempts(&self) {
        // `verify` goes on after a problem, and may ask for the same manifest for the next snapshot's sake.
        if !self.trouble.is_final() || self.run.scene.act.operation() == "verify" {
            return;
        }
        // `heal` brings back what it could not read, and then reads everything once more.
        if self.run.scene.act == Act::Heal && self.at.0 == Operation::Read {
            return;
        }
        let class = class(&self.at);
        let attempts = count_classes(&self.run.faulty.calls())[&class];
        let usual = self.clean.get(&class).copied().unwrap_or_default();
        // What was read ahead of its turn and failed is asked for once more when it is wanted.
        let usual = usual + usize::from(self.at.0 == Operation::Read);
        // Who reads and may not lock looks once more who works there, which is a step of its own.
        let reads = matches!(self.run.scene.act, Act::Restore | Act::RestoreOver);
        let usual = usual + usize::from(reads && self.at.0 == Operation::List && self.is_about_locks());
        assert!(attempts <= usual, "{}: {class} was tried {attempts} times, not {usual}", self.name);
    }

    async fn judge_storage(&self, outcome: &Result<()>, thorough: bool) {
        let Self { run, name, .. } = self;
        let storage = &run.plot.storage;
        let locks = locks(storage).await;
        let unlocks = run.scene.act == Act::Unlock;
        assert!(locks.is_empty() || self.is_about_locks() || unlocks, "{name}: {locks:?}");
        // Of a lock that the store says is gone there is nothing to remove.
        let is_denied = self.trouble == Trouble::Once(Before(NotFound));
        assert!(locks.is_empty() || !unlocks || is_denied || outcome.is_err(), "{name}: {locks:?}");
        if let Some(memory) = &run.plot.memory {
            assert_eq!(memory.unfinished_uploads(), 0, "{name}");
            if !locks.is_empty() {
                memory.set_clock(SystemTime::now() + 2 * DAY);
            }
        }
        let known = run.scene.reopen(&run.plot, name).await;
        let added = known.iter().filter(|made| run.scene.made.iter().all(|old| old.id != made.id)).count();
        if outcome.is_ok() && run.scene.act.creates() {
            assert_eq!(added, 1, "{name}: a snapshot was promised");
        }
        let after = objects(storage).await;
        for (key, bytes) in run.scene.before.objects() {
            // An unlock may have removed the locks that it found.
            let is_of_a_lock = key.as_str().starts_with("locks/");
            let is_given_up = key.as_str().starts_with("snapshots/")
                && run.scene.staying().iter().all(|made| !key.as_str().contains(&made.id));
            let is_pruned = run.scene.act.prunes()
                && ["packs/", "indexes/"].iter().any(|folder| key.as_str().starts_with(folder));
            let is_squashed = run.scene.act.squashes() && key.as_str().starts_with("snapshots/");
            let is_given_up = (is_given_up || is_pruned || is_squashed) && !after.contains_key(&key);
            // What is mended is moved, and not removed.
            let is_moved = run.scene.act.mends() && after.values().any(|found| *found == bytes);
            let may_differ = key.as_str() == "config.toml" || is_of_a_lock || is_given_up || is_moved;
            assert!(may_differ || after.get(&key) == Some(&bytes), "{name}: {key}");
        }
        // On a server whose locks do not grow old the thorough look comes first, which breaks them.
        if added > 0 && (locks.is_empty() || run.is_virtual()) {
            assert_sound(storage.clone(), name).await;
            assert_comes_back(storage.clone(), known.last().unwrap(), name).await;
        }
        if thorough {
            if let Some(memory) = &run.plot.memory {
                memory.set_clock(SystemTime::now() + 2 * DAY);
            }
            run.scene.expect_order(&run.plot, name).await;
        }
    }
}

/// Tells how far apart the cases are that are run.
fn stride() -> usize {
    if runs_everything() { 1 } else { 7 }
}

/// Tells how far apart the cases of an act are that makes very many calls.
fn wide_stride() -> usize {
    if runs_everything() { 1 } else { 23 }
}

/// An act, where it is done, and what it asks the storage for when all goes well.
struct Table<'a> {
    scene: &'a Scene,
    ground: Ground,
    spooled: bool,
    calls: Vec<(Operation, String)>,
    clean: BTreeMap<String, usize>,
}

impl<'a> Table<'a> {
    async fn new(scene: &'a Scene, ground: Ground, spooled: bool) -> Self {
        let run = Run::new(scene, &ground, spooled).await;
        scene.run(run.line()).await.unwrap();
        let calls = run.faulty.calls();
        let clean = count_classes(&calls);
        Self { scene, ground, spooled, calls, clean }
    }

    /// Runs the act with trouble at the call, and judges what came of it.
    async fn run(&self, trouble: Trouble, number: usize, thorough: bool) {
        let run = Run::new(self.scene, &self.ground, self.spooled).await;
        let outcome = run.with(trouble, number as u64).await;
        let Some(at) = run.faulty.calls().get(number - 1).cloned() else { return };
        let (act, spooled, calls) = (self.scene.act, self.spooled, self.calls.len());
        let name = format!("{act:?}, spooled {spooled}: {trouble:?} at call {number} of {calls}, {at:?}");
        let case = Case { run: &run, trouble, at, clean: &self.clean, name };
        case.judge_outcome(&outcome);
        case.judge_attempts();
        case.judge_storage(&outcome, thorough).await;
    }
}

/// Runs the act under every trouble at every call, as far as the stride says.
async fn trouble_everywhere(play: impl Into<Play>, spooled: bool, stride: usize) {
    let scene = Scene::new(play).await;
    let table = Table::new(&scene, in_memory(), spooled).await;
    for number in 1..=table.calls.len() {
        for (index, trouble) in TROUBLES.into_iter().enumerate() {
            // The spool and the line without one take turns, so that together they see everything.
            let turn = number + index + usize::from(spooled);
            if turn % stride == 0 {
                table.run(trouble, number, (turn / stride).is_multiple_of(5)).await;
            }
        }
    }
}

/// Runs the acts on a real server, spooled as everything is there: each class of call under some troubles,
/// which change from class to class, or every call under all of them.
async fn trouble_on_a_server(ground: Ground, acts: &[Act]) {
    let troubles: Vec<Trouble> = TROUBLES.into_iter().filter(|one| one.leaves_clocks_alone()).collect();
    let apart = troubles.len() / TROUBLES_PER_CLASS;
    let (mut picked, mut cases, mut turn) = (Picked::default(), 0, 0);
    for act in acts {
        let scene = Scene::new(*act).await;
        let table = Table::new(&scene, ground.clone(), true).await;
        for number in picked.of(*act, &table.calls) {
            for (index, trouble) in troubles.iter().enumerate() {
                if runs_everything() || (turn + index).is_multiple_of(apart) {
                    table.run(*trouble, number as usize, cases % 4 == 0).await;
                    cases += 1;
                }
            }
            turn += 1;
        }
        println!("{act:?}: {} calls; {cases} cases since the beginning", table.calls.len());
    }
    assert!(cases > 0, "no call was found to trouble");
}

fn on_a_server(ground: Option<Ground>, acts: &[Act]) {
    if let Some(ground) = ground {
        runtime().block_on(trouble_on_a_server(ground, acts));
    }
}

fn under_fire(acts: &[Act]) {
    under_fire_at(acts, stride());
}

fn under_fire_at(acts: &[Act], stride: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        for act in acts {
            for spooled in [true, false] {
                trouble_everywhere(*act, spooled, stride).await;
            }
        }
    });
}

#[test]
fn operations_on_an_encrypted_repository_do_under_fire_what_they_do_on_a_plain_one() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        for (number, act) in ACTS.into_iter().enumerate() {
            // A few of the cases: the calls are the same, and only the bytes are others.
            let stride = if act.is_long() { wide_stride() * 3 } else { stride() * 4 };
            trouble_everywhere(act.encrypted(), number % 2 == 0, stride).await;
        }
    });
}

#[test]
fn init_under_fire_makes_one_repository_or_none() {
    under_fire(&[Act::Init, Act::InitAgain]);
}

#[test]
fn the_first_create_under_fire_adds_a_whole_snapshot_or_none() {
    under_fire(&[Act::FirstCreate]);
}

#[test]
fn a_later_create_under_fire_adds_a_whole_snapshot_or_none() {
    under_fire(&[Act::LaterCreate]);
}

#[test]
fn a_create_that_finds_nothing_new_adds_a_whole_snapshot_or_none_under_fire() {
    under_fire(&[Act::UnchangedCreate, Act::DryRun]);
}

#[test]
fn what_only_reads_is_never_called_sound_by_mistake() {
    under_fire(&[Act::List, Act::Verify, Act::QuickVerify]);
}

#[test]
fn a_restore_under_fire_brings_back_every_byte_or_leaves_the_target_alone() {
    under_fire(&[Act::Restore, Act::RestoreOver]);
}

#[test]
fn a_forget_under_fire_gives_up_what_it_says_and_everything_shown_restores() {
    under_fire(&[Act::Forget, Act::ForgetDryRun]);
}

#[test]
fn a_prune_under_fire_removes_nothing_that_a_snapshot_needs() {
    under_fire_at(&[Act::Prune, Act::PruneDryRun, Act::Squash], wide_stride());
}

#[test]
fn copies_under_fire_leave_both_places_whole_and_never_call_done_what_is_not() {
    under_fire_at(&[Act::Copy, Act::CopyAway], wide_stride());
}

#[test]
fn mending_under_fire_loses_nothing_and_the_next_one_goes_on() {
    under_fire_at(&[Act::Heal, Act::Repair], wide_stride());
}

#[test]
fn an_unlock_under_fire_removes_what_it_says_and_nothing_but_locks() {
    under_fire(&[Act::Unlock]);
}

/// Expects that nothing but giving the lock back has met silence, from that call on, and that a warning says so.
fn expect_told_of_the_lock(faulty: &FaultStorage, number: u64, warnings: &[String], case: &str) {
    let calls = faulty.calls();
    let (done, failed) = calls.split_at(number as usize - 1);
    let is_work = |key: &str| ["snapshots/", "packs/"].iter().any(|folder| key.starts_with(folder));
    assert!(done.iter().any(|call| is_work(&call.1)), "{case}: nothing was done yet");
    assert!(failed.iter().all(|call| call.1.starts_with("locks/")), "{case}: nobody is told: {failed:?}");
    let is_told = warnings.iter().any(|text| text.starts_with("the lock of this command stays behind; "));
    assert!(is_told, "{case}: nobody is told of the lock: {warnings:?}");
}

/// Lets the server say nothing more from this call on, and judges how the operation ends.
async fn silence_from(scene: &Scene, ground: &Ground, number: u64) {
    let run = Run::new(scene, ground, true).await;
    run.faulty.from_call(number, Fault::Silence(SILENCE));
    let begun = tokio::time::Instant::now();
    let outcome = scene.run_and_listen(run.line(), &run.context).await;
    let at = run.faulty.calls().get(number as usize - 1).cloned();
    let case = format!("{:?}: silent from call {number} on, {at:?}", scene.act);
    if at.is_none() {
        // Calls that are under way at once are not always as many.
        return assert!(outcome.is_ok(), "{case}: {outcome:?}");
    }
    let silent_max = if scene.act == Act::Unlock { SILENT_UNLOCK_MAX } else { SILENT_MAX };
    let error = match outcome {
        Ok(warnings) => {
            expect_told_of_the_lock(&run.faulty, number, &warnings, &case);
            return assert!(begun.elapsed() <= silent_max, "{case}: ends after {:?}", begun.elapsed());
        }
        Err(error) => error,
    };
    let text = error.chain();
    assert_eq!(error.kind(), ErrorKind::Io, "{case}: {text}");
    assert!(error.is_inconclusive(), "{case}: {text}");
    assert!(!text.contains('\n') && text.starts_with(char::is_lowercase), "{case}: {text}");
    assert!(begun.elapsed() <= silent_max, "{case}: ends after {:?}: {text}", begun.elapsed());
}

#[test]
fn a_server_that_falls_silent_ends_every_operation_in_time_and_is_not_called_damaged() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        for act in ACTS {
            let scene = Scene::new(act).await;
            for ground in [in_memory(), in_lesser_memory()] {
                let table = Table::new(&scene, ground.clone(), true).await;
                let apart = match (runs_everything(), act.is_long()) {
                    (true, _) => 1,
                    (false, true) => 23,
                    (false, false) => 3,
                };
                for number in (1..=table.calls.len()).step_by(apart) {
                    silence_from(&scene, &ground, number as u64).await;
                }
            }
        }
    });
}

/// Lets the server say nothing more from each call on, while the blobs of one pack are read.
async fn silence_with(blobs: Vec<Vec<u8>>, restores: bool) {
    let (storage, _, _) = repository_of(1).await;
    let before = crate::support::anatomy::dissect(&storage).snapshots[0].manifest.clone();
    let id = crate::support::crowd::publish(&storage, &before, &[blobs]);
    for number in 1.. {
        let faulty = FaultStorage::new(shared(&copy_of(&storage)));
        faulty.from_call(number, Fault::Silence(SILENCE));
        let line = spooled_line(Arc::new(faulty.clone()), RetryPolicy::default(), Arc::new(Unwatched));
        let begun = tokio::time::Instant::now();
        let outcome = match restores {
            true => {
                let restored = bring_back(line, &id, &scratch().path().join("target")).await;
                restored.map(|report| report.warnings)
            }
            false => check(line, Selection::All, false).await.map(|report| report.warnings),
        };
        if faulty.call_count() < number {
            return;
        }
        let case = format!("restores {restores}, silent from call {number} on: {outcome:?}");
        assert!(begun.elapsed() <= SILENT_MAX, "{case}: ends after {:?}", begun.elapsed());
        let error = match outcome {
            Ok(warnings) => {
                expect_told_of_the_lock(&faulty, number, &warnings, &case);
                continue;
            }
            Err(error) => error,
        };
        // An attachment that no database knows of is refused by a restore, once it is read.
        assert!(restores || error.is_inconclusive(), "{case}");
    }
}

#[test]
fn however_many_blobs_a_silent_server_keeps_back_it_is_waited_for_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        // A pack that is read whole, one that is read in batches, one that is read in pieces.
        for (count, bytes) in [(40, 2000), (3, 200_000), (1, 9 << 20)] {
            for restores in [false, true] {
                let blobs = (0..count).map(|seed| crate::support::crowd::noise(seed, bytes)).collect();
                silence_with(blobs, restores).await;
            }
        }
    });
}

#[test]
fn a_create_on_a_real_s3_server_under_fire_adds_a_whole_snapshot_or_none() {
    on_a_server(crate::support::server_grounds::on_s3(), &acts(true));
}

#[test]
fn everything_else_on_a_real_s3_server_under_fire_succeeds_or_fails_cleanly() {
    on_a_server(crate::support::server_grounds::on_s3(), &acts(false));
}

#[test]
fn a_create_on_a_real_sftp_server_under_fire_adds_a_whole_snapshot_or_none() {
    on_a_server(crate::support::server_grounds::on_sftp(), &acts(true));
}

#[test]
fn everything_else_on_a_real_sftp_server_under_fire_succeeds_or_fails_cleanly() {
    on_a_server(crate::support::server_grounds::on_sftp(), &acts(false));
}
