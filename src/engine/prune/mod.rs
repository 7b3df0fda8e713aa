//! prune: frees what no snapshot needs, in packs and in indexes.
//!
//! What every manifest reaches is needed, those of forgotten snapshots included. A plan says what becomes of each pack
//! and index (`plan`); then, under the exclusive lock, in this order, each step durable before the next:
//!
//! Before that, where the policy is known, snapshots that stay are freed of the forgotten ones that they are built on
//! (`squash`).
//!
//! 1. new packs with what is needed of those that go, read back; an index that names them (`repack`);
//! 2. new indexes in place of those that go (`merge`);
//! 3. a proof: without the indexes that go, everything that is needed is found in packs that are whole;
//! 4. the old indexes are removed;
//! 5. packs that no index names are condemned, and removed by a later run (`condemned`), or at once where that is asked
//!    for, after another look that no index names them.
//!
//! Killed anywhere, every snapshot restores: until step 4 all that was there is there, and from then on the new indexes
//! lead to all that is needed. The next run finds what is left: blobs that are there twice, and packs that no index
//! names.
//!
//! Should a snapshot need something that no index names while there are packs that none names, a writer that slept past
//! its lock has published it after all, or an index was lost. Then these packs are indexed anew before anything else.

mod facts;
mod merge;
mod needs;
mod plan;
mod repack;
mod squash;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::{join, try_join};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use self::needs::Needs;
use self::plan::{Decision, Fate, PackFacts};
pub use self::plan::{Limits, Unused};
use self::repack::Repacked;
use super::forget::Found;
use super::pipeline::Pipeline;
use super::report::{
    HoldingPack, PruneReport, PrunedBytes, PrunedIndexes, PrunedPacks, ReachReport, ReachingSnapshot,
    SquashedSnapshot,
};
use super::retention::policy::Rules;
use super::{Context, logged};
use crate::format::{BlobId, IndexEntry, IndexId, Manifest, PackId, pack};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::condemned::GRACE;
use crate::repo::indexes::IndexUnion;
use crate::repo::locks::Lock;
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// How a repository is pruned.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// What is kept. A manifest that was marked as forgotten is removed only if these rules would not keep its snapshot
    /// either, and without any rule none is: whoever can add an object, but remove none, must not be able to have its
    /// owner remove snapshots.
    pub policy: Option<Policy>,
    /// How far it goes.
    pub limits: Limits,
    /// Whether packs are removed at once, and not condemned first.
    pub now: bool,
    /// Whether it goes on although something that snapshots need is lost.
    pub despite_damage: bool,
    /// Only says what would be done, and takes no lock.
    pub dry_run: bool,
    /// Breaks the locks of others.
    pub force_unlock: bool,
}

/// What is kept.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The rules.
    pub rules: Rules,
    /// Where days, weeks, months and years begin.
    pub zone: TimeZone,
}

/// Frees what no snapshot needs.
pub async fn prune(
    repository: &Repository,
    options: &PruneOptions,
    context: &Context,
) -> Result<PruneReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "prune");
    let work = Box::pin(locked(repository, options, context));
    logged::operation(span, repository.storage().location(), work).await
}

/// Tells who needs a blob, and which packs hold it. It only reads, and takes no lock.
pub async fn reach(repository: &Repository, blob: BlobId, context: &Context) -> Result<ReachReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "prune");
    let work = Box::pin(reached(repository, blob, context));
    logged::operation(span, repository.storage().location(), work).await
}

async fn reached(repository: &Repository, blob: BlobId, context: &Context) -> Result<ReachReport> {
    let repository = &repository.uncached();
    let pipeline = Pipeline::new(context, 0);
    let stock = Stock::read(repository, false).await?;
    let reaching = needs::of_blob(repository, &stock.manifests, &stock.store, &pipeline, blob).await?;
    let files = repository.list_snapshots().await?;
    let forgotten = files.forgotten();
    let snapshots =
        reaching.into_iter().map(|id| ReachingSnapshot { forgotten: forgotten.contains(id.as_str()), id });
    let snapshots = snapshots.collect();
    let places = stock.union().places().filter(|placed| placed.id == blob);
    let named: BTreeSet<PackId> = places.map(|placed| placed.location.pack).collect();
    let is_there = |pack: &&PackId| stock.lengths.contains_key(*pack);
    let mut packs: Vec<HoldingPack> = named
        .iter()
        .filter(is_there)
        .map(|pack| HoldingPack { id: pack.to_string(), indexed: true })
        .collect();
    // A pack that no index names holds what it holds until it is removed.
    for pack in facts::unnamed(stock.union(), &stock.lengths) {
        context.cancel.check()?;
        let entries = stock.store.entries_of(&pack).await?;
        if entries.iter().any(|entry| entry.id == blob) {
            packs.push(HoldingPack { id: pack.to_string(), indexed: false });
        }
    }
    Ok(ReachReport { blob: blob.to_string(), snapshots, packs })
}

async fn locked(repository: &Repository, options: &PruneOptions, context: &Context) -> Result<PruneReport> {
    // What is removed is decided by what the store holds, not by what was copied from it.
    let repository = &repository.uncached();
    let pipeline = Pipeline::new(context, 0);
    if options.dry_run {
        let stock = Stock::read(repository, false).await?;
        stock.expect_snapshots()?;
        let needs = stock.needs(repository, &pipeline).await?;
        expect_met(&needs, options)?;
        let mut report = Plan::new(&stock, options).report(true);
        let found = Found::read(repository).await?;
        let given_up = given_up(&found, options)?;
        let rewrites = squash::plan(&found.manifests, &given_up)?;
        let squashed = rewrites.iter().map(|rewrite| rewrite.old.snapshot_id.clone());
        report.squashed = squashed.map(|from| SquashedSnapshot { from, to: None }).collect();
        report.manifests_removed = (given_up.len() + rewrites.len()) as u64;
        return Ok(report);
    }
    let lock = repository.lock_exclusive(&context.lock_request("prune", options.force_unlock)).await?;
    let work = Box::pin(run(repository, options, &pipeline, &lock)).await;
    pipeline.quiesce().await;
    lock.settle(work, |report| &mut report.warnings).await
}

async fn run(
    repository: &Repository,
    options: &PruneOptions,
    pipeline: &Pipeline,
    lock: &Lock,
) -> Result<PruneReport> {
    repository.clean_staging().await?;
    let (mut stock, mut needs, mut rescued) = stocktaking(repository, options, pipeline, lock).await?;
    let found = Found::read(repository).await?;
    let given_up = given_up(&found, options)?;
    let (squashed, manifests_removed) = squash::squash(repository, &found, &given_up, pipeline, lock).await?;
    if manifests_removed > 0 || !squashed.is_empty() {
        drop(stock);
        let more;
        (stock, needs, more) = stocktaking(repository, options, pipeline, lock).await?;
        rescued += more;
    }
    let plan = Plan::new(&stock, options);
    plan.tell();
    let mut report = PruneReport { squashed, manifests_removed, ..plan.report(false) };
    if rescued > 0 {
        report.warnings.push(format!(
            "snapshots need what lies in packs that no index named; {rescued} packs were indexed anew"
        ));
    }
    let mut held = replace(repository, stock, &plan, pipeline, lock, &mut report).await?;
    if !needs.are_met() {
        // What is lost may be in a pack that cannot be opened today.
        held.extend(plan.unnamed);
    }
    remove_packs(repository, options, &held, pipeline.context(), lock, &mut report).await?;
    Ok(report)
}

/// Returns the snapshots whose manifests may go: those that were marked, and that the rules of today do not keep.
fn given_up<'a>(found: &'a Found, options: &PruneOptions) -> Result<HashSet<&'a str>> {
    match options.policy.as_ref().filter(|policy| !policy.rules.is_empty()) {
        Some(policy) => found.given_up(&policy.rules, &policy.zone),
        None => Ok(HashSet::new()),
    }
}

/// What lies in the repository.
struct Stock {
    /// Oldest first, forgotten ones included.
    manifests: Vec<Manifest>,
    lengths: HashMap<PackId, u64>,
    store: Arc<BlobStore>,
}

impl Stock {
    /// Reads every manifest and every index. While one cannot be read, nobody knows what is needed, or where it lies.
    async fn read(repository: &Repository, is_locked: bool) -> Result<Self> {
        let (manifests, union, lengths) = match is_locked {
            true => {
                try_join!(repository.load_snapshots(), repository.load_indexes(), repository.pack_lengths())?
            }
            // What names others is read first, so that all it names is there already.
            false => (
                repository.load_snapshots().await?,
                repository.load_indexes().await?,
                repository.pack_lengths().await?,
            ),
        };
        let union = Arc::new(union.settled(&lengths));
        let store = Arc::new(BlobStore::new(repository.clone(), union, lengths.clone()));
        Ok(Self { manifests, lengths, store })
    }

    /// Nobody forgets every snapshot, for the last one is always kept. Where none is to be seen, their manifests are lost
    /// or out of sight, and what they need would be removed.
    fn expect_snapshots(&self) -> Result<()> {
        if self.lengths.is_empty() || !self.manifests.is_empty() {
            return Ok(());
        }
        let message = format!(
            "nothing was pruned: {} packs lie there, and no snapshot that needs them; if manifests were lost, bring them \
             back into `snapshots/`; if a first backup was cut short, make a snapshot, and prune then",
            self.lengths.len()
        );
        Err(Error::new(ErrorKind::Refused, message))
    }

    fn union(&self) -> &IndexUnion {
        self.store.union()
    }

    async fn needs(&self, repository: &Repository, pipeline: &Pipeline) -> Result<Needs> {
        needs::mark(repository, &self.manifests, &self.store, pipeline).await
    }
}

/// Takes stock, and marks what is needed. Where something is needed that no index names, packs that none names are
/// indexed first; returns how many.
async fn stocktaking(
    repository: &Repository,
    options: &PruneOptions,
    pipeline: &Pipeline,
    lock: &Lock,
) -> Result<(Stock, Needs, u64)> {
    let mut rescued = 0;
    loop {
        let stock = Stock::read(repository, true).await?;
        stock.expect_snapshots()?;
        let needs = stock.needs(repository, pipeline).await;
        let may_lie_elsewhere = match &needs {
            Ok(needs) => needs.unnamed > 0,
            Err(error) => !error.is_no_finding(),
        };
        if rescued == 0 && may_lie_elsewhere {
            rescued = rescue(repository, &stock, lock).await?;
            if rescued > 0 {
                continue;
            }
        }
        let needs = needs?;
        expect_met(&needs, options)?;
        pipeline.set_aside(stock.union().table_bytes()).await;
        return Ok((stock, needs, rescued));
    }
}

/// Publishes an index of each pack that no index names and that can be opened.
async fn rescue(repository: &Repository, stock: &Stock, lock: &Lock) -> Result<u64> {
    let mut rescued = 0;
    for pack in facts::unnamed(stock.union(), &stock.lengths) {
        let entries = match stock.store.entries_of(&pack).await {
            Ok(entries) => entries,
            Err(error) if error.is_no_finding() => return Err(error),
            Err(_) => continue,
        };
        let entry = |entry: &crate::format::pack::Entry| IndexEntry {
            id: entry.id,
            pack,
            offset: entry.offset,
            stored_bytes: entry.stored_bytes,
            flags: entry.flags,
        };
        let entries: Vec<IndexEntry> = entries.iter().map(entry).collect();
        if entries.is_empty() {
            continue;
        }
        lock.confirm().await?;
        tracing::info!(target: "packvault::decision", %pack, "no index names it, and it is indexed anew");
        let id = IndexId::from_ulid(repository.ulids().next());
        repository.publish_index(&id, entries).await?;
        rescued += 1;
    }
    Ok(rescued)
}

fn expect_met(needs: &Needs, options: &PruneOptions) -> Result<()> {
    let Some(first) = &needs.first else { return Ok(()) };
    if needs.are_met() || options.despite_damage {
        return Ok(());
    }
    let message = format!(
        "nothing was pruned: {} blobs that snapshots need are not there; run `packvault verify --all` to see which, \
         or allow it with --despite-damage",
        needs.unnamed + needs.lost
    );
    Err(Error::caused(ErrorKind::Damaged, message, first.repeated()))
}

/// What is done.
struct Plan {
    facts: HashMap<PackId, PackFacts>,
    decision: Decision,
    /// The indexes that go.
    old_indexes: Vec<IndexId>,
    /// Packs that no index names.
    unnamed: Vec<PackId>,
    /// What is there before.
    before: PruneReport,
}

impl Plan {
    fn new(stock: &Stock, options: &PruneOptions) -> Self {
        let union = stock.union();
        let facts = facts::of_packs(union, &stock.lengths);
        let decision = plan::decide(&facts, &facts::of_indexes(union), &options.limits);
        let name = |place: &usize| {
            let name = union.files()[*place].name.strip_suffix(".mvidx")?;
            IndexId::parse(name).ok()
        };
        let old_indexes = decision.old_indexes.iter().filter_map(name).collect();
        let before = PruneReport {
            snapshots: stock.manifests.len() as u64,
            packs: PrunedPacks { before: stock.lengths.len() as u64, ..PrunedPacks::default() },
            bytes: PrunedBytes { before: stock.lengths.values().sum(), ..PrunedBytes::default() },
            indexes: PrunedIndexes { before: union.files().len() as u64, ..PrunedIndexes::default() },
            ..PruneReport::default()
        };
        Self { unnamed: facts::unnamed(union, &stock.lengths), facts, decision, old_indexes, before }
    }

    /// Returns what is known before anything is done.
    fn report(&self, dry_run: bool) -> PruneReport {
        let mut report = PruneReport { dry_run, ..self.before.clone() };
        let count = |fate| self.decision.packs_of(&[fate]).len() as u64;
        let is_there = |pack: &&PackId| self.facts[*pack].bytes.is_some();
        let dead = self.decision.packs_of(&[Fate::Dead]);
        report.packs.unneeded = dead.iter().filter(is_there).count() as u64 + self.unnamed.len() as u64;
        (report.packs.repacked, report.packs.merged) = (count(Fate::Repack), count(Fate::Merge));
        let copied = self.decision.packs_of(&[Fate::Repack, Fate::Merge]);
        let length = |pack: &PackId| self.facts[pack].bytes.unwrap_or_default();
        report.bytes.needed = self.facts.values().map(|facts| facts.needed_bytes).sum();
        report.bytes.repacked = copied.iter().map(|pack| self.facts[pack].needed_bytes).sum();
        let named: u64 = self.facts.values().filter_map(|facts| facts.bytes).sum();
        let unnamed = report.bytes.before.saturating_sub(named);
        let going: u64 = dead.iter().chain(&copied).map(length).sum::<u64>() + unnamed;
        report.bytes.freed = going.saturating_sub(report.bytes.repacked);
        report.indexes.removed = self.old_indexes.len() as u64;
        report.requests = self.requests(&copied);
        report
    }

    /// Returns about how many requests the rest takes: packs are read in pieces and read back, objects written, and
    /// removed in batches.
    fn requests(&self, copied: &[PackId]) -> u64 {
        let pieces = |bytes: u64| bytes.div_ceil(repack::BATCH_BYTES);
        let bytes: u64 = copied.iter().map(|pack| self.facts[pack].needed_bytes).sum();
        let reads: u64 = copied.iter().map(|pack| 1 + pieces(self.facts[pack].needed_bytes)).sum();
        let packs = bytes.div_ceil(pack::TARGET_STORED_BYTES);
        let indexes = match self.old_indexes.len() as u64 {
            0 => 0,
            // Those that stay are read to prove it, and again before packs are removed.
            old => 2 * (1 + self.before.indexes.before.saturating_sub(old)) + 1,
        };
        let listings_and_removals = 6;
        reads + packs + pieces(bytes) + packs + indexes + listings_and_removals
    }

    fn tell(&self) {
        for (pack, fate) in &self.decision.fates {
            let facts = &self.facts[pack];
            let (blobs, needed) = (facts.blobs, facts.needed_blobs);
            tracing::debug!(target: "packvault::decision", %pack, ?fate, blobs, needed, "what becomes of it");
        }
        tracing::info!(
            target: "packvault::decision",
            packs = self.facts.len(),
            repacked = self.decision.packs_of(&[Fate::Repack, Fate::Merge]).len(),
            unneeded = self.decision.packs_of(&[Fate::Dead]).len(),
            unnamed = self.unnamed.len(),
            indexes = self.old_indexes.len(),
            "what is pruned is known"
        );
    }
}

/// Writes new packs and indexes in place of those that go, and removes the old indexes. Returns the packs that indexes
/// name afterwards.
async fn replace(
    repository: &Repository,
    stock: Stock,
    plan: &Plan,
    pipeline: &Pipeline,
    lock: &Lock,
    report: &mut PruneReport,
) -> Result<HashSet<PackId>> {
    let Plan { decision, facts, old_indexes, .. } = plan;
    let copied = decision.packs_of(&[Fate::Repack, Fate::Merge]);
    if old_indexes.is_empty() && copied.is_empty() {
        return Ok(stock.union().packs().collect());
    }
    let progress = &pipeline.context().progress;
    let bytes = repack::wanted_bytes(facts, &copied);
    // Each byte is written, and read back.
    progress.begin(Stage::Repack, Unit::Bytes, Some(bytes.saturating_mul(2)));
    let mut repacked = Repacked::default();
    let wanted = copied.iter().map(|pack| (*pack, facts[pack].needed_blobs, facts[pack].needed_bytes));
    for round in repack::rounds(wanted) {
        repack::round(repository, &stock.store, &round, pipeline, lock, &mut repacked).await?;
    }
    progress.end(Stage::Repack);
    let union = stock.union();
    let merged = merge::publish(repository, union, &stock.lengths, facts, &decision.carried, lock).await?;
    report.packs.written = repacked.packs;
    report.bytes.written = repacked.bytes;
    report.indexes.written = repacked.indexes + merged;
    let needed = Prints::of(union);
    // Two tables of all blobs would take twice the memory.
    drop(stock);
    let old: HashSet<String> = old_indexes.iter().map(|id| format!("{id}.mvidx")).collect();
    let lengths = repository.pack_lengths().await?;
    let union = repository.load_indexes_without(&old).await?.settled(&lengths);
    needed.expect_found(&union)?;
    let named = union.packs().collect();
    drop(union);
    lock.pruning()?.indexes(old_indexes).await?;
    Ok(named)
}

/// The needed blobs that were found whole, as the first eight bytes of each.
///
/// That two ids begin with the same eight bytes costs nothing here: a blob that is lost is passed over only if another
/// one that is needed as well begins like it, and of a hundred million the odds are one to a thousand.
struct Prints(Vec<u64>);

impl Prints {
    fn of(union: &IndexUnion) -> Self {
        let needed = union.places().filter(|placed| placed.is_needed && union.is_sound_claim(placed.claim));
        let mut prints: Vec<u64> = needed.map(|placed| print(&placed.id)).collect();
        prints.sort_unstable();
        prints.dedup();
        Self(prints)
    }

    /// Fails unless the union finds every one in a pack that is whole.
    fn expect_found(&self, union: &IndexUnion) -> Result<()> {
        let mut is_found = vec![false; self.0.len()];
        for placed in union.places().filter(|placed| union.is_sound_claim(placed.claim)) {
            if let Ok(place) = self.0.binary_search(&print(&placed.id)) {
                is_found[place] = true;
            }
        }
        match is_found.iter().filter(|found| !**found).count() {
            0 => Ok(()),
            lost => Err(Error::new(
                ErrorKind::Damaged,
                format!(
                    "nothing more was pruned, and nothing removed: without the old indexes the store does not show \
                     {lost} blobs that are needed; run `packvault verify --all`, and prune again"
                ),
            )),
        }
    }
}

fn print(id: &BlobId) -> u64 {
    let bytes = id.as_bytes();
    u64::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]])
}

/// Condemns the packs that no index names, and removes those that have waited long enough, or all of them at once.
async fn remove_packs(
    repository: &Repository,
    options: &PruneOptions,
    held: &HashSet<PackId>,
    context: &Context,
    lock: &Lock,
    report: &mut PruneReport,
) -> Result<()> {
    let (lengths, notes) = join!(repository.pack_lengths(), repository.condemned());
    let (lengths, notes) = (lengths?, notes?);
    let mut unnamed: Vec<PackId> = lengths.keys().filter(|pack| !held.contains(pack)).copied().collect();
    unnamed.sort_unstable();
    let is_noted = |pack: &PackId, due: bool| {
        notes.iter().any(|note| !note.is_void() && (note.is_due() || !due) && note.packs.contains(pack))
    };
    let (due, waiting): (Vec<PackId>, Vec<PackId>) =
        unnamed.into_iter().partition(|pack| options.now || is_noted(pack, true));
    let new: Vec<PackId> = waiting.iter().filter(|pack| !is_noted(pack, false)).copied().collect();
    let bytes_of = |packs: &[PackId]| packs.iter().map(|pack| lengths[pack]).sum::<u64>();
    context.progress.begin(Stage::Remove, Unit::Items, Some(due.len() as u64));
    if !new.is_empty() {
        context.cancel.check()?;
        lock.confirm().await?;
        repository.condemn(&new).await?;
    }
    if !due.is_empty() {
        context.cancel.check()?;
        lock.pruning()?.packs(&due).await?;
    }
    (report.packs.removed, report.bytes.removed) = (due.len() as u64, bytes_of(&due));
    (report.packs.condemned, report.bytes.condemned) = (waiting.len() as u64, bytes_of(&waiting));
    let waiting: HashSet<PackId> = waiting.into_iter().collect();
    // The last word on packs that are gone, or that an index names again.
    let over: Vec<_> =
        notes.iter().filter(|note| note.is_void() || note.packs.is_disjoint(&waiting)).collect();
    lock.pruning()?.notes(&over).await?;
    if !waiting.is_empty() {
        let now = repository.storage().now().await;
        let now = now.map_err(|error| storage_error("cannot ask the store for the time", error))?;
        let youngest = notes.iter().filter(|note| !note.is_void()).filter_map(|note| note.age).min();
        let waited = if new.is_empty() { youngest.unwrap_or_default() } else { std::time::Duration::ZERO };
        let due_at = Timestamp::try_from(now + GRACE.saturating_sub(waited)).ok();
        report.removable_at = due_at.map(|time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    }
    context.progress.advance(Stage::Remove, due.len() as u64);
    context.progress.end(Stage::Remove);
    Ok(())
}
