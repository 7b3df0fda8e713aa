//! Every operation, as something that can be interrupted anywhere, and every place a repository can lie.
//!
//! [`ACTS`] is the one table of operations: crashes, faults and kills all run it. A test compares it with the
//! engine's modules and with the program's commands, so an operation that is not in it fails the build. A
//! place is a [`Ground`]: one function that opens a fresh storage.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use packvault::engine::copy::{CopyOptions, copy};
use packvault::engine::create::CreateOptions;
use packvault::engine::forget::{ForgetOptions, forget};
use packvault::engine::heal::{HealOptions, heal};
use packvault::engine::list::list;
use packvault::engine::prune::{Policy, PruneOptions, prune};
use packvault::engine::repair::{RepairOptions, repair_index};
use packvault::engine::report::ListRow;
use packvault::engine::restore::RestoreOptions;
use packvault::engine::retention::policy::{Every, Rules};
use packvault::engine::unlock::unlock;
use packvault::engine::verify::{VerifyOptions, verify};
use packvault::engine::{Context, Selection};
use packvault::format::{Holder, LockRecord};
use packvault::process::Identity;
use packvault::profiles::msgvault::Msgvault;
use packvault::repo::locks::STALE_AFTER;
use packvault::{Error, ErrorKind, Result, location};
use packvault_storage::{
    FaultStorage, Guarantees, Key, MemoryStorage, Operation, Prefix, RetryPolicy, RetryStorage, RetryWatch,
    Spool, Storage,
};

use crate::support::memory_repo::*;

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
    /// Gives up every snapshot but the last.
    Forget,
    /// Says what that would give up.
    ForgetDryRun,
    /// Frees what only forgotten snapshots needed.
    Prune,
    /// Says what that would free.
    PruneDryRun,
    /// Frees snapshots of forgotten ones that they are built on, and then the rest.
    Squash,
    /// Brings a second snapshot here from a repository that is sealed in the other way.
    Copy,
    /// The same from here to another place.
    CopyAway,
    /// Brings back from another place what is damaged here.
    Heal,
    /// Makes an index anew that is damaged.
    Repair,
}

/// Everything that is done with a repository.
pub const ACTS: [Act; 21] = [
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
    Act::Forget,
    Act::ForgetDryRun,
    Act::Prune,
    Act::PruneDryRun,
    Act::Squash,
    Act::Copy,
    Act::CopyAway,
    Act::Heal,
    Act::Repair,
];

/// Returns the acts that are a `create`, or all others.
pub fn acts(are_creates: bool) -> Vec<Act> {
    ACTS.into_iter().filter(|act| (act.operation() == "create") == are_creates).collect()
}

/// Public modules of the engine that are no operations: who an archive is, how work is spread, what is reported,
/// what a policy keeps. What looks inside only reads, and its tests are in `inside.rs`.
pub const NO_OPERATIONS: [&str; 7] =
    ["identity", "inside", "pipeline", "report", "restore_check", "retention", "schedule"];

/// Commands that do nothing with a user's repository: four print text, one reads the ledger, one runs the operations
/// above in a folder of its own, one asks a server on scratch objects.
pub const NO_REPOSITORY: [&str; 7] = ["archive", "completions", "demo", "man", "probe", "report", "schedule"];

/// Commands that look inside snapshots (one of them if it is asked about a row), and write nothing: their tests are in `inside.rs`, and all of them meet every
/// hostile repository of `malice.rs`.
pub const LOOKS: [&str; 7] = ["diff", "dump", "find", "history", "ls", "sql", "stats"];

/// Commands whose table is another one: a change of keys dies at any call in the tests of `src/repo/keys`, runs of
/// several operations in `schedules.rs`, creates one after the other in `watched.rs`, and a mount, which writes nothing,
/// ends in many ways in `mounted.rs`.
pub const OTHER_TABLES: [&str; 5] = ["key", "mount", "run", "status", "watch"];

/// Snapshots that a forget finds.
const FORGOTTEN_AND_KEPT: usize = 5;
/// Snapshots of which a prune finds the last: enough for all that becomes of packs.
const PRUNED: usize = 6;

/// The locks that an unlock finds: of a backup, and of a reader.
const LEFT: [&str; 2] = ["locks/exclusive.json", "locks/shared-01arz3ndektsv4rrffq69g5fav.json"];

/// No process has this number.
const NOBODY: i64 = i32::MAX as i64;

impl Act {
    /// Tells whether it makes so many calls that a table of them takes minutes.
    pub fn is_long(self) -> bool {
        use Act::{Copy, CopyAway, Heal, Prune, PruneDryRun, Repair, Squash};
        matches!(self, Copy | CopyAway | Heal | Prune | PruneDryRun | Repair | Squash)
    }

    /// Returns the operation's name: its module in the engine, and its command.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Init | Self::InitAgain => "init",
            Self::FirstCreate | Self::LaterCreate | Self::UnchangedCreate | Self::DryRun => "create",
            Self::List => "list",
            Self::Verify | Self::QuickVerify => "verify",
            Self::Restore | Self::RestoreOver => "restore",
            Self::Unlock => "unlock",
            Self::Forget | Self::ForgetDryRun => "forget",
            Self::Prune | Self::PruneDryRun | Self::Squash => "prune",
            Self::Copy | Self::CopyAway => "copy",
            Self::Heal => "heal",
            Self::Repair => "repair",
        }
    }

    /// Tells whether the act removes packs and indexes.
    pub fn prunes(self) -> bool {
        matches!(self, Self::Prune | Self::Squash)
    }

    /// Tells whether the act gives snapshots new ids.
    pub fn squashes(self) -> bool {
        self == Self::Squash
    }

    /// Tells whether the act gives snapshots up.
    pub fn forgets(self) -> bool {
        self == Self::Forget
    }

    /// Tells whether the act may add a snapshot.
    pub fn creates(self) -> bool {
        matches!(self, Self::FirstCreate | Self::LaterCreate | Self::UnchangedCreate | Self::Copy)
    }

    /// Tells whether the act finds damage, and mends it.
    pub fn mends(self) -> bool {
        matches!(self, Self::Heal | Self::Repair)
    }
}

/// An act, in a repository of one kind; one that is not said to be encrypted is plain.
#[derive(Debug, Clone, Copy)]
pub struct Play {
    pub act: Act,
    pub kind: Kind,
}

impl From<Act> for Play {
    fn from(act: Act) -> Self {
        Self { act, kind: Kind::Plain }
    }
}

impl Act {
    /// Returns the act in an encrypted repository.
    pub fn encrypted(self) -> Play {
        Play { act: self, kind: Kind::Encrypted }
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
    #[expect(dead_code, reason = "it is held, not asked")]
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
    pub kind: Kind,
    pub before: MemoryStorage,
    pub archive: Archive,
    pub made: Vec<Made>,
    /// The other place of acts that have two.
    pub other: MemoryStorage,
}

impl Scene {
    /// Makes what the act finds.
    pub async fn new(play: impl Into<Play>) -> Self {
        let Play { act, kind } = play.into();
        let (before, archive) = (MemoryStorage::new(), Archive::small());
        let mut other = MemoryStorage::new();
        let mut made = match act {
            Act::Init => vec![],
            Act::FirstCreate => fill_kind(kind, &before, &archive, 0).await,
            // Some of their manifests must go, and some must stay for the last.
            Act::Forget | Act::ForgetDryRun => fill_kind(kind, &before, &archive, FORGOTTEN_AND_KEPT).await,
            Act::Prune | Act::PruneDryRun | Act::Squash => fill_kind(kind, &before, &archive, PRUNED).await,
            Act::Copy => {
                let made = fill_kind(kind.opposite(), &other, &archive, 2).await;
                make_repository(&before, kind).await.unwrap();
                let first = vec![packvault::format::SnapshotId::parse(&made[0].id).unwrap()];
                let options = CopyOptions { snapshots: first, ..CopyOptions::default() };
                copied(shared(&other), shared(&before), &options, &context()).await.unwrap();
                made[..1].to_vec()
            }
            _ => fill_kind(kind, &before, &archive, 2).await,
        };
        match act {
            Act::CopyAway => _ = make_repository(&other, kind.opposite()).await.unwrap(),
            Act::Heal => {
                other = copy_of(&before);
                damage(&before, "packs/");
            }
            Act::Repair => damage(&before, "indexes/"),
            _ => {}
        }
        if matches!(act, Act::LaterCreate | Act::DryRun) {
            archive.change();
        }
        if act.operation() == "prune" {
            // The last is built on links, and one of them on a snapshot that stays.
            let ids = [made[1].id.clone()].into();
            let rules = Rules { ids, counts: [(Every::Snapshot, 1)].into(), ..Rules::default() };
            let zone = jiff::tz::TimeZone::UTC;
            let options = ForgetOptions { rules, zone, dry_run: false, force_unlock: false };
            forget(&opened(shared(&before)).await.unwrap(), &options, &context()).await.unwrap();
            made = vec![made[1].clone(), made[PRUNED - 1].clone()];
        }
        if act == Act::Unlock {
            LEFT.iter().for_each(|name| before.put_raw(&key(name), lock_of_the_dead(), SystemTime::now()));
        }
        Self { act, kind, before, archive, made, other }
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
            Act::Init => make_repository(storage.as_ref(), self.kind).await.map(|_| Vec::new()),
            Act::InitAgain => match make_repository(storage.as_ref(), self.kind).await {
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
                let rows = list(&opened(storage).await?).await?;
                told(rows.iter().filter_map(|row| row.problem.clone()).collect()).map(|()| Vec::new())
            }
            Act::Verify => self.verify(storage, false, context).await,
            Act::QuickVerify => self.verify(storage, true, context).await,
            Act::Restore => self.restore(storage, false, context).await,
            Act::RestoreOver => self.restore(storage, true, context).await,
            Act::Unlock => {
                let repository = opened(storage).await?;
                let report = unlock(&repository, false, context).await?;
                told(report.left.into_iter().map(|lock| lock.detail).collect()).map(|()| Vec::new())
            }
            Act::Forget => forget_all_but_the_last(storage, false, context).await,
            Act::ForgetDryRun => forget_all_but_the_last(storage, true, context).await,
            Act::Prune => prune_at_once(storage, false, None, context).await,
            Act::PruneDryRun => prune_at_once(storage, true, None, context).await,
            Act::Squash => prune_at_once(storage, false, Some(keep_one()), context).await,
            Act::Copy => copied(shared(&self.other), storage, &CopyOptions::default(), context).await,
            Act::CopyAway => {
                let target = copy_of(&self.other);
                copied(storage, shared(&target), &CopyOptions::default(), context).await
            }
            Act::Heal | Act::Repair => self.mend(storage, context).await,
        }
    }

    async fn mend(&self, storage: Arc<dyn Storage>, context: &Context) -> Result<Vec<String>> {
        let repository = opened(storage).await?;
        if self.act == Act::Repair {
            let report = repair_index(&repository, RepairOptions::default(), context).await?;
            let problems = report.problems.iter().map(|problem| format!("{problem:?}")).collect();
            return told(problems).map(|()| report.warnings);
        }
        let other = opened(shared(&self.other)).await?;
        let report =
            heal(&repository, Some(&other), Arc::new(Msgvault), &HealOptions::default(), context).await?;
        let left = report.left.iter().map(|problem| format!("{problem:?}")).collect();
        told(left).map(|()| report.warnings)
    }

    async fn create(
        &self,
        storage: Arc<dyn Storage>,
        options: CreateOptions,
        context: &Context,
    ) -> Result<Vec<String>> {
        let options = CreateOptions { writer_version: "test".into(), ..options };
        let repository = opened(storage).await?;
        let paths = self.archive.paths();
        let created =
            packvault::engine::create::create(&repository, Arc::new(Msgvault), &paths, options, context);
        created.await.map(|report| report.warnings)
    }

    async fn verify(&self, storage: Arc<dyn Storage>, quick: bool, context: &Context) -> Result<Vec<String>> {
        let repository = opened(storage).await?;
        let options = VerifyOptions { depth: depth(quick), paths: !quick, ..VerifyOptions::default() };
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
            let repository = opened(storage).await?;
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
        let repository = match opened(storage.clone()).await {
            Ok(repository) => repository,
            Err(error) => {
                let is_none = self.act == Act::Init && error.kind() == ErrorKind::NoRepository;
                assert!(is_none, "{case}: {error:?}");
                // Where only a lock tells whose repository it is, the dead one's keeps others out for a while.
                plot.outlive_locks().await;
                make_repository(storage.as_ref(), self.kind).await.unwrap();
                opened(storage.clone()).await.unwrap()
            }
        };
        let rows = list(&repository).await.unwrap();
        assert!(rows.iter().all(|row| row.problem.is_none()), "{case}: {rows:#?}");
        // What is squashed has another id of the same second; for a while both are there.
        let is_same = |made: &Made, row: &ListRow| match self.act.squashes() {
            true => made.id.split('-').next() == row.id.split('-').next(),
            false => made.id == row.id,
        };
        let is_listed = |made: &Made| rows.iter().any(|row| is_same(made, row));
        assert!(self.staying().iter().all(is_listed), "{case}");
        if self.act.squashes() {
            let mut known = Vec::new();
            for row in &rows {
                let made = self.made.iter().find(|made| is_same(made, row));
                let made = made.unwrap_or_else(|| panic!("{case}: {row:?} was never made"));
                known.push(Made { id: row.id.clone(), files: made.files.clone() });
            }
            return known;
        }
        let new: Vec<&ListRow> =
            rows.iter().filter(|row| self.made.iter().all(|made| made.id != row.id)).collect();
        assert!(new.len() <= usize::from(self.act.creates()), "{case}: the old snapshots or one more");
        let new = new.into_iter().map(|row| Made { id: row.id.clone(), files: self.archive.expected() });
        // Of those that are given up some may be there still, and then they are whole.
        self.made.iter().filter(|made| is_listed(made)).cloned().chain(new).collect()
    }

    /// Returns the snapshots that the act must leave.
    pub fn staying(&self) -> &[Made] {
        let forgotten = if self.act.forgets() { self.made.len() - 1 } else { 0 };
        &self.made[forgotten..]
    }

    /// Expects of an act that reported success that all of its work is there.
    pub async fn expect_whole(&self, plot: &Plot, case: &str) {
        let known = self.reopen(plot, case).await;
        let expected = self.staying().len() + usize::from(self.act.creates());
        assert_eq!(known.len(), expected, "{case}: a snapshot was promised, or given up");
        if self.act.forgets() {
            expect_no_remains(&plot.storage, case).await;
        }
        if self.act.prunes() {
            expect_pruned(&plot.storage, case).await;
        }
        if self.act == Act::Unlock {
            let left = locks(&plot.storage).await;
            assert!(left.is_empty(), "{case}: {left:?}");
        }
    }

    /// Expects everything to be in order on the plot, and the next create to need no repair.
    pub async fn expect_order(&self, plot: &Plot, case: &str) {
        let storage = &plot.storage;
        let mut known = self.reopen(plot, case).await;
        if self.act == Act::Copy {
            plot.outlive_locks().await;
            let again =
                copied(shared(&self.other), storage.clone(), &CopyOptions::default(), &context()).await;
            assert!(again.is_ok(), "{case}: the next one goes on: {again:?}");
            known = self.reopen(plot, case).await;
            assert_eq!(known.len(), self.made.len() + 1, "{case}");
        }
        if self.act.mends() {
            plot.outlive_locks().await;
            let again = self.mend(storage.clone(), &context()).await;
            assert!(again.is_ok(), "{case}: the next one goes on: {again:?}");
        }
        if let Some(age_locks) = &plot.age_locks {
            age_locks();
            expect_all(storage, &known, case).await;
            if self.act.forgets() {
                let again = forget_all_but_the_last(storage.clone(), false, &context()).await;
                assert!(again.is_ok(), "{case}: the next one goes on: {again:?}");
                self.expect_whole(plot, case).await;
                known = self.staying().to_vec();
            }
            if self.act.prunes() {
                let policy = self.act.squashes().then(keep_one);
                let again = prune_at_once(storage.clone(), false, policy, &context()).await;
                assert!(again.is_ok(), "{case}: the next one goes on: {again:?}");
                self.expect_whole(plot, case).await;
                known = self.reopen(plot, case).await;
            }
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

/// Gives up every snapshot but the last, or says so; returns the warnings.
pub async fn forget_all_but_the_last(
    storage: Arc<dyn Storage>,
    dry_run: bool,
    context: &Context,
) -> Result<Vec<String>> {
    let repository = opened(storage).await?;
    let rules = Rules { counts: [(Every::Snapshot, 1)].into(), ..Rules::default() };
    let options = ForgetOptions { rules, zone: jiff::tz::TimeZone::UTC, dry_run, force_unlock: false };
    forget(&repository, &options, context).await.map(|report| report.warnings)
}

/// The rules by which the forgotten snapshots that a prune finds may go.
pub fn keep_one() -> Policy {
    let rules = Rules { counts: [(Every::Snapshot, 1)].into(), ..Rules::default() };
    Policy { rules, zone: jiff::tz::TimeZone::UTC }
}

/// Frees what no snapshot needs, or says so; returns the warnings.
pub async fn prune_at_once(
    storage: Arc<dyn Storage>,
    dry_run: bool,
    policy: Option<Policy>,
    context: &Context,
) -> Result<Vec<String>> {
    let repository = opened(storage).await?;
    let options = PruneOptions { now: true, dry_run, policy, ..PruneOptions::default() };
    prune(&repository, &options, context).await.map(|report| report.warnings)
}

/// Expects that nothing is left to free.
pub async fn expect_pruned(storage: &Arc<dyn Storage>, case: &str) {
    let repository = opened(storage.clone()).await.unwrap();
    let options = PruneOptions { dry_run: true, ..PruneOptions::default() };
    let report = prune(&repository, &options, &context()).await.unwrap();
    let left = (report.packs.unneeded, report.packs.repacked, report.indexes.removed);
    assert_eq!(left, (0, 0, 0), "{case}: {report:?}");
}

/// Copies, and takes what is left out for a failure; returns the warnings.
pub async fn copied(
    from: Arc<dyn Storage>,
    to: Arc<dyn Storage>,
    options: &CopyOptions,
    context: &Context,
) -> Result<Vec<String>> {
    let (source, target) = (opened(from).await?, opened(to).await?);
    let report = copy(&source, &target, packvault::profiles::unnamed(), options, context).await?;
    let problems = report.problems.iter().map(|found| format!("{found:?}"));
    told(problems.chain(report.not_copied).collect()).map(|()| report.warnings)
}

/// Cuts the first object of the folder in half.
fn damage(storage: &MemoryStorage, folder: &str) {
    let objects = storage.objects().into_iter();
    let (key, bytes) = objects.filter(|(key, _)| key.as_str().starts_with(folder)).min().unwrap();
    storage.put_raw(&key, bytes.slice(..bytes.len() / 2), SystemTime::now());
}

/// Expects that of manifests that are gone nothing else is left.
pub async fn expect_no_remains(storage: &Arc<dyn Storage>, case: &str) {
    let folder = Prefix::folder("snapshots").unwrap();
    let listed: Vec<_> = storage.list(&folder).try_collect().await.unwrap();
    let names: Vec<String> = listed.into_iter().map(|object| object.key.to_string()).collect();
    for name in &names {
        let (id, _) = name.split_once('.').unwrap();
        assert!(names.contains(&format!("{id}.mvmanifest")), "{case}: {name} stays behind");
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
