//! What a run has seen so far: counts, what went wrong, and how both are shown.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::fault::FaultKind;

/// Between two lines that say that the run lives.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What became of the faults of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct FaultCounts {
    /// Those that came in time.
    pub struck: u64,
    /// Commands that succeeded all the same.
    pub survived: u64,
}

/// What was done on one place.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlaceCounts {
    /// Creates that succeeded.
    pub creates: u64,
    /// Faults that came in time, of creates and restores.
    pub faults: u64,
    /// Restores that were proved.
    pub restores: u64,
    /// Snapshots that `verify --all` has found whole.
    pub verified: u64,
    /// The longest create, whatever fault it met.
    pub slowest: Duration,
}

/// The counts.
#[derive(Debug, Default)]
pub struct Counts {
    /// Creates that a fault ended.
    pub creates_ended: u64,
    /// Creates that found the lock of a dead one and broke it.
    pub forced: u64,
    /// Snapshots of creates that were ended after they had made it.
    pub adopted: u64,
    /// Creates by the way they read the database.
    pub read: BTreeMap<String, u64>,
    /// Restores that a fault ended.
    pub restores_ended: u64,
    /// Snapshots that were restored and compared.
    pub proved: u64,
    /// Snapshots there are.
    pub snapshots: u64,
    /// Stored bytes, as creates report them.
    pub stored_bytes: u64,
    /// The most that lay on disks.
    pub disk_bytes_max: u64,
    /// Faults by kind.
    pub faults: BTreeMap<FaultKind, FaultCounts>,
    /// What was done where.
    pub places: BTreeMap<String, PlaceCounts>,
    /// Snapshots that are gone, damaged, or other than what was true.
    pub losses: Vec<String>,
    /// Everything else that must not be.
    pub failures: Vec<String>,
    /// What is being done.
    pub now: String,
}

impl Counts {
    /// Returns what was done on a place.
    pub fn at(&mut self, place: &str) -> &mut PlaceCounts {
        self.places.entry(place.to_owned()).or_default()
    }

    /// Returns what was done on all places.
    fn everywhere(&self) -> PlaceCounts {
        self.places.values().fold(PlaceCounts::default(), |sum, place| PlaceCounts {
            creates: sum.creates + place.creates,
            faults: sum.faults + place.faults,
            restores: sum.restores + place.restores,
            verified: sum.verified + place.verified,
            slowest: sum.slowest.max(place.slowest),
        })
    }

    /// Returns how much went wrong.
    pub fn wrong(&self) -> usize {
        self.losses.len() + self.failures.len()
    }
}

/// The counts of a run, which a thread shows every ten seconds.
#[derive(Debug)]
pub struct Tally {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    begun: Instant,
    counts: Mutex<Counts>,
    is_over: AtomicBool,
    wake: Condvar,
}

impl Tally {
    /// Begins to count, and to show.
    pub fn start() -> Self {
        let shared = Arc::new(Shared {
            begun: Instant::now(),
            counts: Mutex::default(),
            is_over: AtomicBool::new(false),
            wake: Condvar::new(),
        });
        let showing = Arc::clone(&shared);
        Self { shared, thread: Some(thread::spawn(move || showing.show())) }
    }

    /// Returns the counts, for as long as they are looked at.
    pub fn counts(&self) -> MutexGuard<'_, Counts> {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a snapshot that is gone, damaged, or other than what was true.
    pub fn lose(&self, text: String) {
        println!("{} LOST: {text}", self.shared.time());
        self.counts().losses.push(text);
    }

    /// Notes something else that must not be.
    pub fn fail(&self, text: String) {
        println!("{} WRONG: {text}", self.shared.time());
        self.counts().failures.push(text);
    }

    /// Says something that a reader of the output should know.
    pub fn say(&self, text: &str) {
        println!("{} {text}", self.shared.time());
    }

    /// Prints the tables, and all that went wrong.
    pub fn print_summary(&self, transactions: u64) {
        let counts = self.counts();
        let all = counts.everywhere();
        let seconds = self.shared.begun.elapsed().as_secs();
        println!("\n{RULE}");
        row("time", format!("{} min {} s", seconds / 60, seconds % 60));
        row("transactions", transactions.to_string());
        row("creates", format!("{}, and {} ended by a fault", all.creates, counts.creates_ended));
        let read: Vec<_> = counts.read.iter().map(|(how, count)| format!("{how} {count}")).collect();
        row("  database read from", read.join(", "));
        row("  with --force-unlock", counts.forced.to_string());
        row("  ended after the manifest", counts.adopted.to_string());
        for kind in FaultKind::ALL {
            let FaultCounts { struck, survived } = counts.faults.get(&kind).copied().unwrap_or_default();
            row(&format!("fault: {}", kind.name()), format!("{struck} in time, {survived} survived"));
        }
        row("restores", format!("{}, and {} ended by a fault", all.restores, counts.restores_ended));
        row("snapshots", counts.snapshots.to_string());
        row("  whole by verify --all", all.verified.to_string());
        row("  restored and compared", counts.proved.to_string());
        row("stored", mebibytes(counts.stored_bytes));
        row("most on disks", mebibytes(counts.disk_bytes_max));
        row("losses", counts.losses.len().to_string());
        row("other failures", counts.failures.len().to_string());
        println!("{RULE}");
        print_places(&counts);
        counts.losses.iter().for_each(|text| println!("LOST: {text}"));
        counts.failures.iter().for_each(|text| println!("WRONG: {text}"));
    }
}

const RULE: &str = "------------------------------------------------------------------------";

fn row(name: &str, value: String) {
    println!("{name:<28} {value}");
}

fn print_places(counts: &Counts) {
    println!(
        "{:<14} {:>8} {:>8} {:>9} {:>9} {:>15}",
        "", "creates", "faults", "restores", "verified", "slowest create"
    );
    for (name, place) in &counts.places {
        let PlaceCounts { creates, faults, restores, verified, slowest } = place;
        let slowest = format!("{:.1} s", slowest.as_secs_f64());
        println!("{name:<14} {creates:>8} {faults:>8} {restores:>9} {verified:>9} {slowest:>15}");
    }
    println!("{RULE}");
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.shared.wake.notify_all();
        // A thread that panicked while it was showing has nothing more to show.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn show(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        while !self.is_over.load(Ordering::SeqCst) {
            let woken = self.wake.wait_timeout(counts, SIGN_OF_LIFE);
            let (held, wait) = woken.unwrap_or_else(PoisonError::into_inner);
            counts = held;
            if wait.timed_out() {
                self.print(&counts);
            }
        }
    }

    fn print(&self, counts: &Counts) {
        let PlaceCounts { creates, faults, restores, .. } = counts.everywhere();
        let Counts { snapshots, stored_bytes, now, .. } = counts;
        let stored = mebibytes(*stored_bytes);
        let time = self.time();
        println!(
            "{time} creates {creates}, faults {faults}, snapshots {snapshots}, restores {restores}, \
             stored {stored}, losses {}, failures {}; now: {now}",
            counts.losses.len(),
            counts.failures.len()
        );
    }

    fn time(&self) -> String {
        let seconds = self.begun.elapsed().as_secs();
        format!("[{:>3}:{:02}]", seconds / 60, seconds % 60)
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
