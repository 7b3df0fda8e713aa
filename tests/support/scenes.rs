//! Every operation, as something that can be interrupted anywhere, and every place a repository can lie.
//!
//! [`ACTS`] is the one table of operations: crashes, faults and kills all run it. A test compares it with the
//! engine's modules and with the program's commands, so an operation that is not in it fails the build. A
//! place is a [`Ground`]: one function that opens a fresh storage.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use packvault::engine::create::CreateOptions;
use packvault::engine::list::list;
use packvault::engine::report::ListRow;
use packvault::engine::restore::RestoreOptions;
use packvault::engine::unlock::unlock;
use packvault::engine::verify::{VerifyOptions, verify};
use packvault::engine::{Context, Selection, init};
use packvault::format::{Holder, LockRecord};
use packvault::process::Identity;
use packvault::profiles::msgvault::Msgvault;
use packvault::repo::Repository;
use packvault::repo::locks::STALE_AFTER;
use packvault::{Error, ErrorKind, Result, location};
use packvault_storage::{
    FaultStorage, Guarantees, Key, MemoryStorage, Operation, Prefix, RetryPolicy, RetryStorage, RetryWatch,
    Spool, Storage,
};

use crate::memory_repo::*;

/// Something that is done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Makes the repository.
    Init,
    /// The same where there is one already, which is refused.
    InitAgain,
    /// The first snapshot.
    FirstCreate,
    /// A snapshot of an archive that has changed.
    LaterCreate,
    /// A snapshot of an archive that has not.
    UnchangedCreate,
    /// Counts what a snapshot would add.
    DryRun,
    /// Shows the snapshots.
    List,
    /// Reads everything.
    Verify,
    /// Reads what is needed to see that all is there.
    QuickVerify,
    /// Brings a snapshot back into a new folder.
    Restore,
    /// Brings a snapshot back over an older archive.
    RestoreOver,
    /// Removes the locks that a dead process of this machine has left.
    Unlock,
}

/// Everything that is done with a repository.
pub const ACTS: [Act; 12] = [
    Act::Init,
    Act::InitAgain,
    Act::FirstCreate,
    Act::LaterCreate,
    Act::UnchangedCreate,
    Act::DryRun,
    Act::List,
    Act::Verify,
    Act::QuickVerify,
    Act::Restore,
    Act::RestoreOver,
    Act::Unlock,
];

/// Returns the acts that are a `create`, or all others.
pub fn acts(are_creates: bool) -> Vec<Act> {
    ACTS.into_iter().filter(|act| (act.operation() == "create") == are_creates).collect()
}

/// Public modules of the engine that are no operations: who an archive is, how work is spread, what is reported.
pub const NO_OPERATIONS: [&str; 3] = ["identity", "pipeline", "report"];

/// Commands that do nothing with a user's repository: three print text, one runs the operations above in a
/// folder of its own, one asks a server on scratch objects.
pub const NO_REPOSITORY: [&str; 5] = ["archive", "completions", "demo", "man", "probe"];

/// The locks that an unlock finds: of a backup, and of a reader.
const LEFT: [&str; 2] = ["locks/exclusive.json", "locks/shared-01arz3ndektsv4rrffq69g5fav.json"];

/// No process has this number.
const NOBODY: i64 = i32::MAX as i64;

impl Act {
    /// Returns the operation's name: its module in the engine, and its command.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Init | Self::InitAgain => "init",
            Self::FirstCreate | Self::LaterCreate | Self::UnchangedCreate | Self::DryRun => "create",
            Self::List => "list",
            Self::Verify | Self::QuickVerify => "verify",
            Self::Restore | Self::RestoreOver => "restore",
            Self::Unlock => "unlock",
        }
    }

    /// Tells whether the act may add a snapshot.
    pub fn creates(self) -> bool {
        matches!(self, Self::FirstCreate | Self::LaterCreate | Self::UnchangedCreate)
    }
}

/// Opens a fresh, empty storage; each call another place.
pub type Ground = Arc<dyn Fn() -> BoxFuture<'static, Plot> + Send + Sync>;

/// A fresh storage, for one case.
pub struct Plot {
    /// Where the repository comes to lie.
    pub storage: Arc<dyn Storage>,
    /// Lets the locks that lie there grow old. Where that cannot be done, they are broken by force.
    pub age_locks: Option<Box<dyn Fn() + Send + Sync>>,
    /// The same storage, where it is memory: its clock can be set, and its unfinished uploads are known.
    pub memory: Option<MemoryStorage>,
    /// What must live as long as the storage: a folder, a server.
    pub kept: Box<dyn Any + Send + Sync>,
}

/// Returns how much older locks become: a little more than they may be.
pub fn stale() -> Duration {
    STALE_AFTER + Duration::from_secs(1)
}

impl Plot {
    /// Makes a plot of memory.
    pub fn of(storage: &MemoryStorage) -> Self {
        let clock = storage.clone();
        let age_locks: Box<dyn Fn() + Send + Sync> = Box::new(move || clock.advance_clock(stale()));
        let memory = Some(storage.clone());
        Self { storage: shared(storage), age_locks: Some(age_locks), memory, kept: Box::new(()) }
    }

    /// Lets the locks grow old; where that cannot be done they go away, for nothing but age could break them.
    async fn outlive_locks(&self) {
        if let Some(age_locks) = &self.age_locks {
            return age_locks();
        }
        for name in locks(&self.storage).await {
            self.storage.remove(&key(&name)).await.unwrap();
        }
    }
}

/// Storage in memory.
pub fn in_memory() -> Ground {
    Arc::new(|| Box::pin(async { Plot::of(&MemoryStorage::new()) }))
}

/// Storage in memory that has no renames, and whose creates look first and write then.
pub fn in_lesser_memory() -> Ground {
    Arc::new(|| {
        Box::pin(async {
            let storage = MemoryStorage::new();
            let less = Guarantees { create_only: false, rename: false, ..Guarantees::all() };
            Plot { storage: Arc::new(storage.with_guarantees(less)), ..Plot::of(&storage) }
        })
    })
}

/// A folder on this machine.
pub fn in_a_folder() -> Ground {
    Arc::new(|| {
        Box::pin(async {
            let folder = scratch();
            let storage = location::folder(folder.path()).await.unwrap();
            let locks = folder.path().join("locks");
            let age_locks: Box<dyn Fn() + Send + Sync> = Box::new(move || age_files(&locks));
            Plot { storage, age_locks: Some(age_locks), memory: None, kept: Box::new(folder) }
        })
    })
}

/// Lets the files of the folder look as if nobody had touched them for as long as makes a lock stale.
pub fn age_files(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let file = std::fs::File::options().append(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(SystemTime::now() - stale()).unwrap();
    }
}

/// Returns the storage with what production has above every server: retries and the spool.
///
/// Pauses between attempts are the policy's; a test on a real server has no time for long ones.
pub fn spooled_line(
    storage: Arc<dyn Storage>,
    policy: RetryPolicy,
    watch: Arc<dyn RetryWatch>,
) -> Arc<dyn Storage> {
    let spool = Arc::new(Spool::new(std::env::temp_dir(), 64 << 20, 2));
    Arc::new(RetryStorage::new(storage, policy).watched_by(watch).through(spool))
}

/// Returns retries that are as many as in production, and follow each other at once.
pub fn quick_retries() -> RetryPolicy {
    let (pause_first, pause_max) = (Duration::from_millis(2), Duration::from_millis(20));
    RetryPolicy { pause_first, pause_max, ..RetryPolicy::default() }
}

/// Returns what a call does to which kind of object, without the names that differ from run to run.
pub fn class((operation, object): &(Operation, String)) -> String {
    let named = object.split(" -> ").map(|key| {
        let folder = key.split('/').next().unwrap_or_default();
        let lock = key.strip_prefix("locks/").and_then(|name| name.split(['-', '.']).next());
        format!("{folder}/{}", lock.unwrap_or_default())
    });
    format!("{operation} {}", named.collect::<Vec<_>>().join(" -> "))
}

/// The calls at which something goes wrong on a ground where not every call can be tried.
#[derive(Default)]
pub struct Picked {
    seen: BTreeSet<(&'static str, String)>,
}

impl Picked {
    /// Returns the numbers of all calls, or of the first of each class that the operation has not been seen
    /// to make yet.
    pub fn of(&mut self, act: Act, calls: &[(Operation, String)]) -> Vec<u64> {
        let mut is_due = |call| runs_everything() || self.seen.insert((act.operation(), class(call)));
        let numbered = calls.iter().zip(1..);
        numbered.filter(|(call, _)| is_due(call)).map(|(_, number)| number).collect()
    }
}

/// Returns every object that lies on the storage.
pub async fn objects(storage: &Arc<dyn Storage>) -> BTreeMap<Key, Bytes> {
    let listed: Vec<_> = storage.list(&Prefix::root()).try_collect().await.unwrap();
    let mut objects = BTreeMap::new();
    for object in listed {
        let bytes = storage.read(&object.key).await.unwrap();
        objects.insert(object.key, bytes);
    }
    objects
}

/// A repository before an act, its archive, and the snapshots there are.
pub struct Scene {
    pub act: Act,
    pub before: MemoryStorage,
    pub archive: Archive,
    pub made: Vec<Made>,
}

impl Scene {
    /// Makes what the act finds.
    pub async fn new(act: Act) -> Self {
        let (before, archive) = (MemoryStorage::new(), Archive::small());
        let made = match act {
            Act::Init => vec![],
            Act::FirstCreate => fill(&before, &archive, 0).await,
            _ => fill(&before, &archive, 2).await,
        };
        if matches!(act, Act::LaterCreate | Act::DryRun) {
            archive.change();
        }
        if act == Act::Unlock {
            LEFT.iter().for_each(|name| before.put_raw(&key(name), lock_of_the_dead(), SystemTime::now()));
        }
        Self { act, before, archive, made }
    }

    /// Puts the repository onto the storage.
    pub async fn sow(&self, storage: &Arc<dyn Storage>) {
        for (key, bytes) in self.before.objects() {
            storage.create(&key, bytes).await.unwrap();
        }
    }

    /// Does the act.
    pub async fn run(&self, storage: Arc<dyn Storage>) -> Result<()> {
        self.run_within(storage, &context()).await
    }

    /// Does the act in the surroundings; what it brings back is compared, what it refuses must be untouched.
    pub async fn run_within(&self, storage: Arc<dyn Storage>, context: &Context) -> Result<()> {
        self.run_and_listen(storage, context).await.map(drop)
    }

    /// The same; returns the warnings of the report.
    pub async fn run_and_listen(&self, storage: Arc<dyn Storage>, context: &Context) -> Result<Vec<String>> {
        match self.act {
            Act::Init => init::init(storage.as_ref()).await.map(|_| Vec::new()),
            Act::InitAgain => match init::init(storage.as_ref()).await {
                Err(error) if error.kind() == ErrorKind::Refused => Ok(Vec::new()),
                Err(error) => Err(error),
                Ok(_) => panic!("a second repository was made over the first"),
            },
            Act::FirstCreate | Act::LaterCreate | Act::UnchangedCreate => {
                self.create(storage, CreateOptions::default(), context).await
            }
            Act::DryRun => {
                let options = CreateOptions { dry_run: true, ..CreateOptions::default() };
                self.create(storage, options, context).await
            }
            Act::List => {
                let rows = list(&Repository::open(storage).await?).await?;
                told(rows.iter().filter_map(|row| row.problem.clone()).collect()).map(|()| Vec::new())
            }
            Act::Verify => self.verify(storage, false, context).await,
            Act::QuickVerify => self.verify(storage, true, context).await,
            Act::Restore => self.restore(storage, false, context).await,
            Act::RestoreOver => self.restore(storage, true, context).await,
            Act::Unlock => {
                let repository = Repository::open(storage).await?;
                let report = unlock(&repository, false, context).await?;
                told(report.left.into_iter().map(|lock| lock.detail).collect()).map(|()| Vec::new())
            }
        }
    }

    async fn create(
        &self,
        storage: Arc<dyn Storage>,
        options: CreateOptions,
        context: &Context,
    ) -> Result<Vec<String>> {
        let options = CreateOptions { writer_version: "test".into(), ..options };
        let repository = Repository::open(storage).await?;
        let paths = self.archive.paths();
        let created =
            packvault::engine::create::create(&repository, Arc::new(Msgvault), &paths, options, context);
        created.await.map(|report| report.warnings)
    }

    async fn verify(&self, storage: Arc<dyn Storage>, quick: bool, context: &Context) -> Result<Vec<String>> {
        let repository = Repository::open(storage).await?;
        let options = VerifyOptions { quick, paths: !quick, ..VerifyOptions::default() };
        let report = verify(&repository, Arc::new(Msgvault), Selection::All, options, context).await?;
        let problems: Vec<String> = report.problems.iter().map(|problem| format!("{problem:?}")).collect();
        assert_eq!(report.ok, problems.is_empty());
        told(problems).map(|()| report.warnings)
    }

    async fn restore(&self, storage: Arc<dyn Storage>, over: bool, context: &Context) -> Result<Vec<String>> {
        let folder = scratch();
        let target = folder.path().join("target");
        if over {
            std::fs::create_dir(&target).unwrap();
            std::fs::write(target.join("msgvault.db"), "an older one").unwrap();
            std::fs::write(target.join("letter.txt"), "mine").unwrap();
        }
        let before = files_below(folder.path());
        let made = &self.made[1];
        let mut whole = made.files.clone();
        if over {
            whole.insert("letter.txt".into(), b"mine".to_vec());
        }
        let options = RestoreOptions { target: target.clone(), overwrite: over, ..RestoreOptions::default() };
        let selection =
            Selection::One(packvault::format::SnapshotId::parse(&made.id).expect("a test names snapshots"));
        let restored = async {
            let repository = Repository::open(storage).await?;
            let profile = Arc::new(Msgvault);
            packvault::engine::restore::restore(&repository, profile, selection, options, context).await
        };
        let restored = restored.await;
        // After a failure the target is as it was, or whole: the lock may be all that could not be given back.
        let after = files_below(folder.path());
        if restored.is_ok() || after != before {
            assert_same_files(&files_below(&target), &whole, "restored");
        }
        if restored.is_err() && !over && after == before {
            assert!(!target.exists(), "an empty folder stays behind");
        }
        restored.map(|report| report.warnings)
    }

    /// Returns the storage calls of the act on such ground when all goes well, below what `line` puts above it.
    pub async fn calls_on(
        &self,
        ground: &Ground,
        line: impl Fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
    ) -> Vec<(Operation, String)> {
        let plot = ground().await;
        self.sow(&plot.storage).await;
        let faulty = FaultStorage::new(plot.storage.clone());
        self.run(line(Arc::new(faulty.clone()))).await.unwrap();
        faulty.calls()
    }

    /// Opens what lies on the storage as anybody would, makes a repository if the dead `init` made none, and
    /// returns every snapshot with what it must bring back: the old ones, and perhaps one more.
    pub async fn reopen(&self, plot: &Plot, case: &str) -> Vec<Made> {
        let storage = &plot.storage;
        let repository = match Repository::open(storage.clone()).await {
            Ok(repository) => repository,
            Err(error) => {
                let is_none = self.act == Act::Init && error.kind() == ErrorKind::NoRepository;
                assert!(is_none, "{case}: {error:?}");
                // Where only a lock tells whose repository it is, the dead one's keeps others out for a while.
                plot.outlive_locks().await;
                init::init(storage.as_ref()).await.unwrap();
                Repository::open(storage.clone()).await.unwrap()
            }
        };
        let rows = list(&repository).await.unwrap();
        assert!(rows.iter().all(|row| row.problem.is_none()), "{case}: {rows:#?}");
        assert!(self.made.iter().all(|made| rows.iter().any(|row| row.id == made.id)), "{case}");
        let new: Vec<&ListRow> =
            rows.iter().filter(|row| self.made.iter().all(|made| made.id != row.id)).collect();
        assert!(new.len() <= usize::from(self.act.creates()), "{case}: the old snapshots or one more");
        let new = new.into_iter().map(|row| Made { id: row.id.clone(), files: self.archive.expected() });
        self.made.iter().cloned().chain(new).collect()
    }

    /// Expects of an act that reported success that all of its work is there.
    pub async fn expect_whole(&self, plot: &Plot, case: &str) {
        let known = self.reopen(plot, case).await;
        let expected = self.made.len() + usize::from(self.act.creates());
        assert_eq!(known.len(), expected, "{case}: a snapshot was promised");
        if self.act == Act::Unlock {
            let left = locks(&plot.storage).await;
            assert!(left.is_empty(), "{case}: {left:?}");
        }
    }

    /// Expects everything to be in order on the plot, and the next create to need no repair.
    pub async fn expect_order(&self, plot: &Plot, case: &str) {
        let storage = &plot.storage;
        let mut known = self.reopen(plot, case).await;
        if let Some(age_locks) = &plot.age_locks {
            age_locks();
            expect_all(storage, &known, case).await;
        } else if locks(storage).await.iter().any(|name| name.starts_with("locks/exclusive")) {
            let refused = capture(storage.clone(), &self.archive).await;
            let kind = refused.as_ref().err().map(Error::kind);
            assert_eq!(kind, Some(ErrorKind::Locked), "{case}: a fresh lock keeps others out: {refused:?}");
        }
        let options = CreateOptions { force_unlock: plot.age_locks.is_none(), ..CreateOptions::default() };
        let created = capture_with(storage.clone(), &self.archive, options).await;
        let report = created.unwrap_or_else(|error| panic!("{case}: the next create: {error:?}"));
        known.push(Made { id: report.id.unwrap(), files: self.archive.expected() });
        let report = assert_sound(storage.clone(), case).await;
        assert_eq!(report.snapshots, known.len() as u64, "{case}");
        let newest = if plot.age_locks.is_some() { known.len() - 1 } else { 0 };
        for made in &known[newest..] {
            assert_comes_back(storage.clone(), made, case).await;
        }
        assert_eq!(storage.sweep(Duration::ZERO).await.unwrap().removed, 0, "{case}: staging is swept");
        let mut locks = locks(storage).await;
        if plot.age_locks.is_none() {
            // A claim of the dead process is nobody's lock; it is swept once it is old.
            locks.retain(|name| !name.starts_with("locks/releasing-"));
        }
        assert!(locks.is_empty(), "{case}: {locks:?}");
    }
}

/// Returns the lock of a process of this machine that has ended.
fn lock_of_the_dead() -> Vec<u8> {
    let here = Identity::of_this_process().expect("this system tells");
    let Identity { hostname, boot, pid_namespace, time_namespace, started } = here;
    let id = "of-the-dead".to_owned();
    let record = LockRecord {
        hostname,
        pid: NOBODY,
        operation: "create".into(),
        acquired_at: "2026-11-23T20:37:31Z".into(),
        holder: Some(Holder { id, boot, pid_namespace, time_namespace, started }),
    };
    record.encode()
}

/// Returns the lock files that lie on the storage.
pub async fn locks(storage: &Arc<dyn Storage>) -> Vec<String> {
    let folder = Prefix::folder("locks").unwrap();
    let listed: Vec<_> = storage.list(&folder).try_collect().await.unwrap();
    listed.into_iter().map(|object| object.key.to_string()).collect()
}

/// Every listed snapshot verifies in full and comes back.
pub async fn expect_all(storage: &Arc<dyn Storage>, known: &[Made], case: &str) {
    if known.is_empty() {
        return;
    }
    let report = assert_sound(storage.clone(), case).await;
    assert_eq!(report.snapshots, known.len() as u64, "{case}");
    for made in known {
        assert_comes_back(storage.clone(), made, case).await;
    }
}

/// What an operation found and went on after is a failure here: it must never be passed over.
fn told(problems: Vec<String>) -> Result<()> {
    match problems.is_empty() {
        true => Ok(()),
        false => {
            Err(Error::new(ErrorKind::Damaged, format!("cannot call it sound: {}", problems.join("; "))))
        }
    }
}
