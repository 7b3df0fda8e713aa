//! verify: checks that snapshots can be restored, and collects every problem (section 11).
//!
//! The structure of the chosen snapshots is walked first, and every blob that they need is noted with what
//! its content must be. Then each blob is read once, in the order in which blobs lie in packs. Only if
//! something is wrong are the snapshots walked again, to say whose problem it is.

mod advice;
pub(super) mod attribution;
mod beside;
pub(super) mod checks;
mod footers;
mod pages;
mod restorable;
pub mod sample;
pub(super) mod survey;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures::join;

use self::attribution::Attribution;
use self::checks::{Checker, Checks};
use self::sample::Sample;
use self::survey::Survey;
use super::bulk::BlobVisitor as _;
use super::chain::Manifests;
use super::metadata::MetadataReader;
use super::pipeline::Pipeline;
use super::report::{ProblemKind, VerifyProblem, VerifyReport};
use super::{Context, ReadLocking, Selection, bulk, logged};
use crate::archive::profile::Profile;
use crate::format::{BlobId, Manifest, PackId, pack};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::snapshots::{FoundSnapshot, SnapshotFiles};
use crate::{Error, ErrorKind, Result};

/// How far a verify looks into packs, beyond what describes the snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Depth {
    /// Every blob is read.
    #[default]
    Content,
    /// The footer of each pack is read, which must say of each blob what the index says.
    Footers,
    /// Each pack must be there, as long as the index implies.
    Presence,
}

/// What a verify is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions {
    /// How far it looks.
    pub depth: Depth,
    /// Whether the paths of attachments are checked in every snapshot, not only where they may be unusual.
    pub paths: bool,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// Verifies the chosen snapshots. Problems are part of the report; an error means that nothing is known.
pub async fn verify(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    selection: Selection,
    options: VerifyOptions,
    context: &Context,
) -> Result<VerifyReport> {
    verify_sample(repository, profile, selection, options, None, context).await
}

/// The same; with a sample, of blobs those alone are read that lie in the packs which it chooses, whether a snapshot
/// needs them or not.
pub async fn verify_sample(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    selection: Selection,
    options: VerifyOptions,
    sample: Option<Sample>,
    context: &Context,
) -> Result<VerifyReport> {
    let context = &context.logged();
    let span = tracing::info_span!(target: "packvault::operation", "verify");
    // What is judged is what the store holds, not what was copied from it.
    let repository = &repository.uncached();
    let options = &Asked { options, sample };
    let work = |is_locked| run(repository, profile, selection, options, context, is_locked);
    let work = options.options.locking.around(repository, "verify", context, work);
    let (mut report, warnings) = logged::operation(span, repository.storage().location(), work).await?;
    report.warnings.extend(warnings);
    Ok(report)
}

/// What a verify is asked for, with its sample.
#[derive(Debug, Default)]
struct Asked {
    options: VerifyOptions,
    sample: Option<Sample>,
}

async fn run(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    selection: Selection,
    options: &Asked,
    context: &Context,
    is_locked: bool,
) -> Result<VerifyReport> {
    let (found, indexes, lengths) = match is_locked {
        // Side by side, for on a long line each costs several times there and back.
        true => join!(snapshots_of(repository), repository.find_indexes(), repository.pack_lengths()),
        // What names others is read first, so that all it names is there already.
        false => {
            (snapshots_of(repository).await, repository.find_indexes().await, repository.pack_lengths().await)
        }
    };
    let ((files, found), (union, damaged_indexes), lengths) = (found?, indexes?, lengths?);
    if let Some(index) = damaged_indexes.iter().position(|index| is_fatal(&index.error)) {
        return Err(damaged_indexes.into_iter().nth(index).expect("its position was found").error);
    }
    let mut problems = damaged_manifests(&found, &selection)?;
    problems.extend(damaged_indexes.into_iter().map(|damaged| VerifyProblem {
        object: Some(format!("index {}", damaged.name)),
        detail: damaged.error.chain(),
        kind: ProblemKind::of(&damaged.error),
        ..VerifyProblem::default()
    }));
    let (manifests, selected) = select(found, &files.forgotten(), &selection)?;
    if options.options.depth == Depth::Content {
        problems.extend(beside::check(context, repository, &files, &selected).await?);
    }
    tracing::info!(
        target: "packvault::decision",
        snapshots = manifests.len(),
        selected = selected.len(),
        packs = lengths.len(),
        "what is verified is known"
    );
    let union = Arc::new(union.settled(&lengths));
    let store = Arc::new(BlobStore::new(repository.clone(), union, lengths));
    judge(repository, profile, (manifests, selected), store, problems, options, context).await
}

/// Returns what the folder of snapshots holds, and its manifests.
async fn snapshots_of(repository: &Repository) -> Result<(SnapshotFiles, Vec<FoundSnapshot>)> {
    let files = repository.list_snapshots().await?;
    let found = repository.read_snapshots(&files).await?;
    Ok((files, found))
}

/// Reads everything that a snapshot reaches which is not published yet, past all copies, and returns what is wrong.
pub(super) async fn read_back(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    manifest: &Manifest,
    context: &Context,
) -> Result<Vec<VerifyProblem>> {
    let repository = repository.uncached();
    let (found, union, lengths) =
        join!(repository.find_snapshots(), repository.load_indexes(), repository.pack_lengths());
    let (found, union, lengths) = (found?, union?, lengths?);
    let before = found.into_iter().filter_map(|snapshot| snapshot.manifest.ok());
    let manifests = before.chain([manifest.clone()]).collect();
    let union = Arc::new(union.settled(&lengths));
    let store = Arc::new(BlobStore::new(repository.clone(), union, lengths));
    let (selected, options) = (vec![manifest.clone()], Asked::default());
    let report =
        judge(&repository, profile, (manifests, selected), store, Vec::new(), &options, context).await?;
    Ok(report.problems)
}

/// Checks the chosen snapshots, on top of the problems that are known already.
async fn judge(
    repository: &Repository,
    profile: Arc<dyn Profile>,
    (manifests, selected): (Vec<Manifest>, Vec<Manifest>),
    store: Arc<BlobStore>,
    mut problems: Vec<VerifyProblem>,
    Asked { options, sample }: &Asked,
    context: &Context,
) -> Result<VerifyReport> {
    let pipeline = Pipeline::new(context, 0);
    let reader = MetadataReader::new(store.clone(), pipeline.clone());

    context.progress.begin(Stage::Structure, Unit::Items, Some(selected.len() as u64));
    let mut survey = Survey::new(Manifests::new(repository, manifests), &reader, profile.clone());
    reader.expect(survey::order_of_reading(&selected));
    for manifest in &selected {
        context.cancel.check()?;
        survey.snapshot(manifest).await?;
        context.progress.advance(Stage::Structure, 1);
    }
    context.progress.end(Stage::Structure);

    // What the walk kept for the next snapshot goes before the reading begins.
    let (checks, mut found, mut manifests) = survey.finish();
    problems.append(&mut found);
    pipeline.set_aside(checks.table_bytes().saturating_add(store.union().table_bytes())).await;
    let checker = Arc::new(Checker::new(checks, context.progress.clone()));
    let blobs = checker.checks().blobs().count() as u64;
    let sampled = sample.as_ref().map(|sample| sample::choose(sample, &packs_of(&store)));
    if let Some((chosen, _)) = &sampled {
        let wanted = in_packs(&store, checker.checks(), chosen);
        let elsewhere = checker
            .checks()
            .blobs()
            .filter(|id| store.pack_of(id).is_none_or(|pack| !chosen.contains(&pack)));
        let items = wanted.len() + elsewhere.count();
        context.progress.begin(Stage::Blobs, Unit::Items, Some(items as u64));
        bulk::read(&pipeline, &store, wanted, &checker).await?;
        chosen.iter().for_each(|pack| store.reads().looked_at(*pack));
        // Of the others it is seen that they are there.
        resolve_all(context, &store, &checker, |pack| !chosen.contains(&pack)).await?;
    } else {
        context.progress.begin(Stage::Blobs, Unit::Items, Some(blobs));
        look(&pipeline, &store, &checker, options.depth).await?;
    }
    context.progress.end(Stage::Blobs);
    problems.extend(crowded_packs(&store, &checker));

    let findings = checker.take_findings();
    if !findings.is_empty() {
        let mut attribution = Attribution::new(&mut manifests, &reader, findings);
        for manifest in &selected {
            context.cancel.check()?;
            problems.extend(attribution.of(manifest).await?);
        }
        problems.extend(attribution.nobodys(&problems));
    }
    // The databases of snapshots are built for this, which takes more than a sample.
    if options.depth == Depth::Content && sampled.is_none() {
        // A snapshot with problems cannot be built; its paths are checked once it is whole again.
        let sound: Vec<Manifest> = selected
            .iter()
            .filter(|manifest| {
                problems.iter().all(|problem| problem.snapshot.as_ref() != Some(&manifest.snapshot_id))
            })
            .cloned()
            .collect();
        let paths = options.paths;
        problems.extend(restorable::check(&pipeline, manifests, &reader, &profile, &sound, paths).await?);
    }
    problems.extend(outranked(&store, &checker));
    advice::advise(&mut problems, &store);
    problems.sort_by(|one, other| sort_key(one).cmp(&sort_key(other)));
    problems.dedup();
    let bytes = checker.stored_bytes();
    let (ok, snapshots, warnings) = (problems.is_empty(), selected.len() as u64, Vec::new());
    let sample = sampled.map(|(_, report)| report);
    Ok(VerifyReport { ok, snapshots, blobs, bytes, problems, warnings, sample })
}

/// Returns every pack that holds anything, with its length; a lost one with none.
fn packs_of(store: &BlobStore) -> Vec<(PackId, u64)> {
    let mut packs: Vec<(PackId, u64)> =
        store.union().packs().map(|pack| (pack, store.pack_bytes(&pack))).collect();
    packs.sort();
    packs
}

/// Returns the blobs that the indexes place in these packs, but for those that were read for the structure.
fn in_packs(store: &BlobStore, checks: &Checks, packs: &HashSet<PackId>) -> Vec<BlobId> {
    let unread: HashSet<BlobId> = checks.unread().into_iter().collect();
    let wanted = store.union().blobs_in(packs);
    wanted.filter(|id| unread.contains(id) || !checks.has(id)).collect()
}

/// Tells what ends the operation from what it reports: what says nothing about the repository does. A server
/// that does not answer is no damage, and would be waited for again at every blob; nor is what this user may not read.
fn is_fatal(error: &Error) -> bool {
    error.is_no_finding()
}

fn problem(snapshot: &str, object: &str, detail: &str) -> VerifyProblem {
    VerifyProblem {
        snapshot: Some(snapshot.to_owned()),
        object: Some(object.to_owned()),
        detail: detail.to_owned(),
        ..VerifyProblem::default()
    }
}

/// Returns the problem of an object that cannot be used because of this error.
pub(super) fn unusable(snapshot: &str, object: &str, error: &Error) -> VerifyProblem {
    VerifyProblem { kind: ProblemKind::of(error), ..problem(snapshot, object, &error.chain()) }
}

/// Returns a problem for each manifest that cannot be used, unless a single other one was asked for.
fn damaged_manifests(found: &[FoundSnapshot], selection: &Selection) -> Result<Vec<VerifyProblem>> {
    let concerns = |name: &str| match selection {
        Selection::One(id) => id.as_str() == name,
        Selection::Latest | Selection::All => true,
    };
    let damaged = found.iter().filter(|snapshot| concerns(&snapshot.name));
    damaged
        .filter_map(|snapshot| Some((snapshot, snapshot.manifest.as_ref().err()?)))
        .map(|(snapshot, error)| match is_fatal(error) {
            true => Err(error.repeated()),
            false => Ok(unusable(&snapshot.name, "manifest", error)),
        })
        .collect()
}

/// Returns every sound manifest, and those that were asked for, oldest first. A forgotten one is asked for by its
/// id alone.
fn select(
    found: Vec<FoundSnapshot>,
    forgotten: &HashSet<&str>,
    selection: &Selection,
) -> Result<(Vec<Manifest>, Vec<Manifest>)> {
    if found.iter().all(|snapshot| forgotten.contains(snapshot.name.as_str())) {
        return Err(Error::new(ErrorKind::NotFound, "the repository holds no snapshot to verify"));
    }
    let is_there = |id: &str| found.iter().any(|snapshot| snapshot.name == id);
    if let Selection::One(id) = selection
        && !is_there(id.as_str())
    {
        return Err(Error::new(ErrorKind::NotFound, format!("no snapshot {id} in the repository")));
    }
    let sound: Vec<Manifest> = found.into_iter().filter_map(|snapshot| snapshot.manifest.ok()).collect();
    let listed = || sound.iter().filter(|manifest| !forgotten.contains(manifest.snapshot_id.as_str()));
    let selected = match selection {
        Selection::All => listed().cloned().collect(),
        Selection::Latest => listed().next_back().cloned().into_iter().collect(),
        Selection::One(id) => {
            sound.iter().filter(|manifest| manifest.snapshot_id == id.as_str()).cloned().collect()
        }
    };
    Ok((sound, selected))
}

/// Looks at every blob, as far as is asked.
async fn look(
    pipeline: &Pipeline,
    store: &Arc<BlobStore>,
    checker: &Arc<Checker>,
    depth: Depth,
) -> Result<()> {
    match depth {
        Depth::Content => bulk::read(pipeline, store, unread(checker), checker).await,
        Depth::Footers => footers::compare(pipeline, store, unread(checker), checker).await,
        Depth::Presence => resolve_all(pipeline.context(), store, checker, |_| true).await,
    }
}

/// Returns the blobs that were not read for the structure. The others are done with.
fn unread(checker: &Checker) -> Vec<BlobId> {
    let unread = checker.checks().unread();
    checker.advance((checker.checks().blobs().count() - unread.len()) as u64);
    unread
}

/// Sees that every blob can be found: in an index, and in a pack that is there with the very length that the
/// index implies. Where it has another, the pack is opened to see whether the blob is in it all the same.
async fn resolve_all(
    context: &Context,
    store: &Arc<BlobStore>,
    checker: &Checker,
    is_meant: impl Fn(PackId) -> bool,
) -> Result<()> {
    let blobs = checker.checks().blobs().map(|id| (store.pack_of(&id), id));
    let mut blobs: Vec<_> = blobs.filter(|(pack, _)| pack.is_none_or(&is_meant)).collect();
    // By pack, so that each footer is read once.
    blobs.sort();
    for (_, id) in blobs {
        context.cancel.check()?;
        if !store.union().is_sound(&id)
            && let Err(failure) = store.locate(&id).await
        {
            checker.failed(failure)?;
        }
        context.progress.advance(Stage::Blobs, 1);
    }
    Ok(())
}

/// Returns a problem for each pack with more entries than msgvault's restore takes (T1).
fn crowded_packs(store: &Arc<BlobStore>, checker: &Checker) -> Vec<VerifyProblem> {
    let packs: BTreeSet<PackId> = checker.checks().blobs().filter_map(|id| store.pack_of(&id)).collect();
    let crowded = packs.into_iter().filter(|id| store.union().pack_entries(id) > pack::ENTRIES_MAX as u64);
    crowded
        .map(|id| VerifyProblem {
            object: Some("pack".to_owned()),
            pack: Some(id.to_string()),
            detail: format!(
                "it has {} entries: packvault restores from it, msgvault takes at most {}",
                store.union().pack_entries(&id),
                pack::ENTRIES_MAX
            ),
            ..VerifyProblem::default()
        })
        .collect()
}

/// Returns a problem for each index that is wrong about blobs which another one places rightly: packvault finds
/// them, and programs that take the last index at its word do not.
fn outranked(store: &BlobStore, checker: &Checker) -> Vec<VerifyProblem> {
    let mut found: BTreeMap<(&str, PackId), u64> = BTreeMap::new();
    for id in checker.checks().blobs() {
        if let Some((file, pack)) = store.outranking(&id) {
            *found.entry((file.name.as_str(), pack)).or_default() += 1;
        }
    }
    let problem = |((name, pack), blobs): ((&str, PackId), u64)| VerifyProblem {
        object: Some(format!("index {name}")),
        pack: Some(pack.to_string()),
        detail: format!(
            "it places {blobs} blobs where they are not; packvault finds them by another index, msgvault would not"
        ),
        kind: ProblemKind::Outranked,
        ..VerifyProblem::default()
    };
    found.into_iter().map(problem).collect()
}

fn sort_key(problem: &VerifyProblem) -> (&Option<String>, &Option<String>, &Option<String>, &str) {
    (&problem.snapshot, &problem.object, &problem.blob, &problem.detail)
}
