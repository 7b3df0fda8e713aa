//! The danger: an order of steps that nobody thought of lets two programs hold one repository, on a store
//! where locks are found by listing.
//!
//! The real protocol runs here on a storage whose every call waits for leave. A schedule says who goes next,
//! when time passes, who dies and when all sleep past the staleness. Small scenes are tried in every order,
//! by depth first search over the choices; larger ones in every order with few changes of whose turn it is,
//! and in many that are drawn by lot from a fixed seed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use packvault::ErrorKind;
use packvault::repo::Repository;
use packvault::repo::locks::STALE_AFTER;
use packvault_storage::{
    Guarantees, Key, ListedObject, MemoryStorage, ObjectMeta, Prefix, Result, Staged, Storage, SweepReport,
};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::memory_repo::{Kind, lock_request, make_repository, opened};

const LESSER: Guarantees = Guarantees { create_only: false, rename: false, ..Guarantees::all() };
/// Longer than any pause between two looks.
const TICK: Duration = Duration::from_millis(400);
/// Longer than a contender waits for another, shorter than for shared locks.
const LONG: Duration = Duration::from_secs(25);
/// What passes at once where nobody has a step to take.
const IDLE: Duration = Duration::from_secs(5);
/// No schedule of ours takes so many steps; one that does hangs.
const STEPS_MAX: usize = 5_000;

tokio::task_local! {
    static CLIENT: usize;
}

/// Where calls wait for leave, one queue for each client and the last for all heartbeats.
#[derive(Debug)]
struct Gate {
    is_open: AtomicBool,
    queues: Mutex<Vec<VecDeque<oneshot::Sender<()>>>>,
}

impl Gate {
    async fn pass(&self) {
        if self.is_open.load(Ordering::SeqCst) {
            return;
        }
        let (leave, given) = oneshot::channel();
        {
            let mut queues = self.queues.lock().unwrap();
            let heartbeats = queues.len() - 1;
            queues[CLIENT.try_with(|client| *client).unwrap_or(heartbeats)].push_back(leave);
        }
        given.await.expect("the gate lives as long as the run");
    }

    fn is_waiting(&self, client: usize) -> bool {
        let mut queues = self.queues.lock().unwrap();
        queues[client].retain(|leave| !leave.is_closed());
        !queues[client].is_empty()
    }

    fn let_pass(&self, client: usize) {
        let leave = self.queues.lock().unwrap()[client].pop_front();
        leave.expect("somebody waits").send(()).expect("who waits is there");
    }
}

/// A storage whose calls each happen in one step, when the schedule says so.
#[derive(Debug)]
struct Gated {
    inner: MemoryStorage,
    gate: Arc<Gate>,
}

#[async_trait]
impl Storage for Gated {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }
    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.gate.pass().await;
        self.inner.read(key).await
    }
    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.gate.pass().await;
        self.inner.read_range(key, range).await
    }
    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.gate.pass().await;
        self.inner.read_ranges(key, ranges).await
    }
    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.gate.pass().await;
        self.inner.stat(key).await
    }
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let prefix = prefix.clone();
        stream::once(async move {
            self.gate.pass().await;
            self.inner.list(&prefix)
        })
        .flatten()
        .boxed()
    }
    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.gate.pass().await;
        self.inner.create(key, bytes).await
    }
    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        self.inner.stage(key).await
    }
    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.gate.pass().await;
        self.inner.replace(key, bytes).await
    }
    /// Reads, and writes the same bytes again: what happens in between is lost. The worst that a store does.
    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        self.gate.pass().await;
        self.inner.touch(key, expected).await?;
        self.gate.pass().await;
        self.inner.replace(key, Bytes::copy_from_slice(expected)).await
    }
    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        self.inner.rename(from, to).await
    }
    async fn remove(&self, key: &Key) -> Result<()> {
        self.gate.pass().await;
        self.inner.remove(key).await
    }
    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        self.inner.sweep(older_than).await
    }
    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        self.inner.make_folder(folder).await
    }
    async fn now(&self) -> Result<SystemTime> {
        self.gate.pass().await;
        self.inner.now().await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Exclusive,
    Shared,
}
use Role::{Exclusive, Shared};

/// What a schedule may do besides letting clients take their steps in turn.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// How often somebody else goes on although the last one could, and how often anything else happens.
    changes: usize,
    ticks: usize,
    longs: usize,
    kills: usize,
    sleeps: usize,
}

const PLAIN: Bounds = Bounds { changes: usize::MAX, ticks: 1, longs: 0, kills: 0, sleeps: 0 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// This one takes a step.
    Step(usize),
    /// Time passes for those who wait.
    Tick,
    Long,
    /// Time passes because everybody waits for it.
    Idle,
    /// This client dies where it is.
    Kill(usize),
    /// Everybody and the store's clock sleep past the staleness.
    Sleep,
}

/// What the clients of one run have told.
#[derive(Debug, Default)]
struct Told {
    inside: Mutex<Vec<(usize, Role)>>,
    entered: Mutex<usize>,
    broken: AtomicBool,
}

impl Told {
    fn enter(&self, client: usize, role: Role) {
        let mut inside = self.inside.lock().unwrap();
        if inside.iter().any(|(_, other)| role == Exclusive || *other == Exclusive) {
            self.broken.store(true, Ordering::SeqCst);
        }
        inside.push((client, role));
        *self.entered.lock().unwrap() += 1;
    }

    fn leave(&self, client: usize) {
        self.inside.lock().unwrap().retain(|(other, _)| *other != client);
    }
}

/// Takes the lock, does one step under it, gives it up.
async fn client(number: usize, role: Role, repository: Repository, told: Arc<Told>, confirms: bool) {
    let taken = match role {
        Exclusive => repository.lock_exclusive(&lock_request("a")).await,
        Shared => repository.lock_shared(&lock_request("a")).await,
    };
    let lock = match taken {
        Ok(lock) => lock,
        Err(error) => return assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}"),
    };
    // Who may have slept holds only what it has confirmed.
    let holds = match confirms {
        true => lock.confirm().await.map_err(|error| assert_eq!(error.kind(), ErrorKind::Locked)).is_ok(),
        false => true,
    };
    if holds {
        told.enter(number, role);
        repository.storage().now().await.unwrap();
        told.leave(number);
    }
    lock.release().await.unwrap();
}

/// One run of a scene under one schedule.
struct Run {
    storage: MemoryStorage,
    gate: Arc<Gate>,
    repository: Repository,
    told: Arc<Told>,
    clients: Vec<JoinHandle<()>>,
    left: Bounds,
    last: Option<usize>,
    made: Vec<Choice>,
}

impl Run {
    async fn start(roles: &[Role], bounds: Bounds) -> Self {
        let storage = MemoryStorage::new().with_guarantees(LESSER);
        storage.set_clock(SystemTime::now());
        // Locks lie plain in both.
        let kind = if roles.len() == 2 { Kind::Plain } else { Kind::Encrypted };
        make_repository(&storage, kind).await.unwrap();
        let queues = Mutex::new((0..=roles.len()).map(|_| VecDeque::new()).collect());
        let gate = Arc::new(Gate { is_open: true.into(), queues });
        let gated = Gated { inner: storage.clone(), gate: gate.clone() };
        // One source of names, so that a schedule gives the same names again.
        let repository = opened(Arc::new(gated)).await.unwrap();
        gate.is_open.store(false, Ordering::SeqCst);
        let told = Arc::new(Told::default());
        let clients = roles.iter().enumerate().map(|(number, role)| {
            let work = client(number, *role, repository.clone(), told.clone(), bounds.sleeps > 0);
            tokio::spawn(CLIENT.scope(number, work))
        });
        let clients = clients.collect();
        Self { storage, gate, repository, told, clients, left: bounds, last: None, made: vec![] }
    }

    /// Lets everybody go on until each waits for leave, for time, or is done.
    async fn settle(&self) {
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }

    fn is_over(&self) -> bool {
        self.clients.iter().all(JoinHandle::is_finished)
    }

    /// Returns what may happen next; what costs nothing comes first.
    fn choices(&self) -> Vec<Choice> {
        let waiting: Vec<usize> =
            (0..=self.clients.len()).filter(|client| self.gate.is_waiting(*client)).collect();
        let goes_on = self.last.filter(|last| waiting.contains(last));
        let mut choices: Vec<Choice> = goes_on.into_iter().map(Choice::Step).collect();
        if goes_on.is_none() || self.left.changes > 0 {
            choices.extend(waiting.iter().filter(|one| goes_on != Some(**one)).map(|one| Choice::Step(*one)));
        }
        let alive = |client: &usize| !self.clients[*client].is_finished();
        let is_anyone_asleep = (0..self.clients.len()).any(|one| alive(&one) && !waiting.contains(&one));
        if choices.is_empty() {
            choices.push(Choice::Idle);
        } else if is_anyone_asleep && self.left.ticks > 0 && self.left.changes > 0 {
            choices.push(Choice::Tick);
        }
        if self.left.changes == 0 {
            return choices;
        }
        if is_anyone_asleep && self.left.longs > 0 {
            choices.push(Choice::Long);
        }
        if self.left.kills > 0 {
            choices.extend((0..self.clients.len()).filter(alive).map(Choice::Kill));
        }
        // Between the last look and the publication nothing can help who sleeps past the staleness.
        if self.left.sleeps > 0 && self.told.inside.lock().unwrap().is_empty() {
            choices.push(Choice::Sleep);
        }
        choices
    }

    async fn take(&mut self, choice: Choice, is_free: bool) {
        self.made.push(choice);
        if !is_free {
            self.left.changes -= 1;
        }
        match choice {
            Choice::Step(client) => {
                self.gate.let_pass(client);
                self.last = Some(client);
            }
            Choice::Tick => {
                self.left.ticks -= 1;
                self.pass_time(TICK).await;
            }
            Choice::Idle => self.pass_time(IDLE).await,
            Choice::Long => {
                self.left.longs -= 1;
                self.pass_time(LONG).await;
            }
            Choice::Kill(client) => {
                self.left.kills -= 1;
                self.clients[client].abort();
                self.told.leave(client);
            }
            Choice::Sleep => {
                self.left.sleeps -= 1;
                self.pass_time(STALE_AFTER + Duration::from_secs(60)).await;
            }
        }
        self.settle().await;
    }

    async fn pass_time(&self, time: Duration) {
        self.storage.advance_clock(time);
        tokio::time::advance(time).await;
    }

    fn locks(&self) -> Vec<String> {
        let keys = self.storage.objects().into_iter().map(|(key, _)| key.to_string());
        keys.filter(|key| key.starts_with("locks/")).collect()
    }

    /// Looks back on the run, and lets one more client in.
    async fn judge(self) {
        let made = &self.made;
        let has = |wanted: fn(&Choice) -> bool| made.iter().any(wanted);
        let was_killed = has(|choice| matches!(choice, Choice::Kill(_)));
        let was_slow = has(|choice| matches!(choice, Choice::Long | Choice::Sleep));
        let entered = *self.told.entered.lock().unwrap();
        for client in &self.clients {
            assert!(client.is_finished());
        }
        if !was_killed && !was_slow {
            assert!(entered > 0, "nobody got through: {made:?}");
        }
        if !was_killed {
            assert!(self.locks().is_empty(), "left behind {:?}: {made:?}", self.locks());
        }
        self.gate.is_open.store(true, Ordering::SeqCst);
        self.pass_time(STALE_AFTER + Duration::from_secs(60)).await;
        let later = self.repository.lock_exclusive(&lock_request("a")).await;
        later.unwrap_or_else(|error| panic!("{error:?} after {made:?}")).release().await.unwrap();
        assert!(self.locks().is_empty(), "left behind {:?}: {made:?}", self.locks());
        for client in self.clients {
            let ended = client.await;
            assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()), "after {:?}", self.made);
        }
    }
}

/// Runs the scene, asking at each step which of so many choices is taken; returns how many there were.
fn run(roles: &[Role], bounds: Bounds, mut decide: impl FnMut(usize, usize) -> usize) -> Vec<usize> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let mut run = Run::start(roles, bounds).await;
        run.settle().await;
        let mut counts = vec![];
        while !run.is_over() {
            let choices = run.choices();
            let taken = decide(counts.len(), choices.len());
            counts.push(choices.len());
            let is_free = taken == 0
                || (matches!(choices[taken], Choice::Step(_)) && {
                    run.last.is_none_or(|last| choices[0] != Choice::Step(last))
                });
            run.take(choices[taken], is_free).await;
            assert!(!run.told.broken.load(Ordering::SeqCst), "two hold at once after {:?}", run.made);
            assert!(counts.len() < STEPS_MAX, "no end after {:?}", run.made);
        }
        run.judge().await;
        counts
    })
}

/// Runs the scene under every schedule within the bounds; returns how many there are.
fn run_all(roles: &[Role], bounds: Bounds) -> usize {
    let (mut path, mut runs) = (Vec::<usize>::new(), 0);
    loop {
        let counts = run(roles, bounds, |depth, _| path.get(depth).copied().unwrap_or(0));
        runs += 1;
        path.resize(counts.len(), 0);
        while path.last().is_some_and(|taken| taken + 1 >= counts[path.len() - 1]) {
            path.pop();
        }
        match path.last_mut() {
            Some(last) => *last += 1,
            None => return runs,
        }
    }
}

/// Runs the scene under schedules drawn by lot.
fn run_some(roles: &[Role], bounds: Bounds, runs: u64) {
    for seed in 1..=runs {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        run(roles, bounds, |_, count| {
            // xorshift64
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as usize % count
        });
    }
}

#[test]
fn two_exclusive_sides_never_hold_at_once_in_any_order_of_their_steps() {
    println!("{} schedules", run_all(&[Exclusive, Exclusive], PLAIN));
}

#[test]
fn an_exclusive_and_a_shared_side_never_hold_at_once_in_any_order_of_their_steps() {
    println!("{} schedules", run_all(&[Exclusive, Shared], PLAIN));
}

#[test]
fn a_death_at_any_step_and_long_waits_let_no_two_hold_at_once() {
    for (roles, changes) in [([Exclusive, Exclusive], 4), ([Exclusive, Shared], 3)] {
        let bounds = Bounds { changes, ticks: 1, longs: 1, kills: 1, sleeps: 0 };
        println!("{} schedules", run_all(&roles, bounds));
    }
}

#[test]
fn who_sleeps_past_the_staleness_at_any_step_confirms_nothing_beside_a_successor() {
    for roles in [[Exclusive, Exclusive], [Exclusive, Shared]] {
        let bounds = Bounds { changes: 3, ticks: 1, longs: 0, kills: 0, sleeps: 2 };
        println!("{} schedules", run_all(&roles, bounds));
    }
}

#[test]
fn three_sides_never_hold_at_once_where_turns_change_seldom() {
    for roles in [[Exclusive; 3], [Exclusive, Exclusive, Shared]] {
        println!("{} schedules", run_all(&roles, Bounds { changes: 3, ticks: 1, ..PLAIN }));
    }
}

#[test]
fn three_and_four_sides_never_hold_at_once_under_schedules_drawn_by_lot() {
    let all = Bounds { changes: usize::MAX, ticks: 5, longs: 1, kills: 1, sleeps: 2 };
    for roles in
        [&[Exclusive; 3][..], &[Exclusive, Exclusive, Shared], &[Exclusive, Exclusive, Shared, Shared]]
    {
        run_some(roles, PLAIN, 1_000);
        run_some(roles, all, 2_000);
    }
}
