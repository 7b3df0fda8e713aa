//! What is copied: the snapshots that are missing in the target, and the blobs that they need and it lacks.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures::join;

use super::packs::Written;
use super::{CopyOptions, Places, problem_at};
use crate::archive::profile::Profile;
use crate::engine::Context;
use crate::engine::chain::Manifests;
use crate::engine::identity;
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::Pipeline;
use crate::engine::report::{CopiedSnapshot, CopyProblem, CopyReport, VerifyProblem};
use crate::engine::retention::links;
use crate::engine::verify::attribution::Attribution;
use crate::engine::verify::checks::{Checker, Checks};
use crate::engine::verify::survey::{self, Survey};
use crate::engine::verify::unusable;
use crate::format::{BlobId, Manifest, PackId};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::repo::snapshots::{FoundSnapshot, SnapshotFiles};
use crate::{Error, ErrorKind, Result};

/// What lies in one of the repositories.
pub(in crate::engine) struct Side {
    pub(in crate::engine) files: SnapshotFiles,
    /// Those that can be used, oldest first.
    pub(in crate::engine) manifests: Vec<Manifest>,
    /// Those that cannot.
    pub(in crate::engine) unusable: Vec<(String, Error)>,
    pub(in crate::engine) store: Arc<BlobStore>,
}

impl Side {
    /// Reads it; under a lock, side by side.
    pub(in crate::engine) async fn read(repository: &Repository, is_locked: bool) -> Result<Self> {
        let (found, indexes, lengths) = match is_locked {
            true => join!(snapshots(repository), repository.find_indexes(), repository.pack_lengths()),
            // What names others is read first, so that all it names is there already.
            false => (
                snapshots(repository).await,
                repository.find_indexes().await,
                repository.pack_lengths().await,
            ),
        };
        let ((files, found), (union, damaged), lengths) = (found?, indexes?, lengths?);
        if let Some(index) = damaged.into_iter().find(|index| index.error.is_no_finding()) {
            return Err(index.error);
        }
        let (mut manifests, mut unusable) = (Vec::new(), Vec::new());
        for FoundSnapshot { name, manifest, .. } in found {
            match manifest {
                Ok(manifest) => manifests.push(manifest),
                Err(error) if error.is_no_finding() => return Err(error),
                Err(error) => unusable.push((name, error)),
            }
        }
        let union = Arc::new(union.settled(&lengths));
        let store = Arc::new(BlobStore::new(repository.clone(), union, lengths));
        Ok(Self { files, manifests, unusable, store })
    }
}

async fn snapshots(repository: &Repository) -> Result<(SnapshotFiles, Vec<FoundSnapshot>)> {
    let files = repository.list_snapshots().await?;
    let found = repository.read_snapshots(&files).await?;
    Ok((files, found))
}

/// What is to be copied, and what has become of it.
pub(super) struct Plan<'a> {
    dry_run: bool,
    places: (String, String),
    pub(super) source: Side,
    pub(super) target: Side,
    /// The snapshots to be copied, oldest first.
    pub(super) snapshots: Vec<Manifest>,
    /// Those that were asked for, or are needed, and lie in the target already.
    there: u64,
    pub(super) checker: Arc<Checker>,
    pub(super) pipeline: Pipeline,
    reader: MetadataReader,
    source_place: &'a Repository,
    pub(super) problems: Vec<CopyProblem>,
    pub(super) copied: Vec<CopiedSnapshot>,
    pub(super) forgotten: Vec<String>,
    pub(super) warnings: Vec<String>,
    written: Written,
}

impl<'a> Plan<'a> {
    /// Reads both places and finds out what is missing in the target.
    pub(super) async fn make(
        places: &Places<'a>,
        profile: Arc<dyn Profile>,
        options: &CopyOptions,
        context: &Context,
    ) -> Result<Self> {
        let (source, target) = join!(
            Side::read(places.source, places.is_locked),
            // Nobody else works in it, unless this is a dry run, which has no need to be exact.
            Side::read(places.target, !options.dry_run)
        );
        let (source, target) = (source?, target?);
        expect_same_archive(places, &source, &target, options).await?;
        let mut problems = Vec::new();
        let chosen = chosen(&source, options)?;
        for (name, error) in source.unusable.iter().filter(|(name, _)| chosen.contains(name.as_str())) {
            problems.push(problem_at(places.source, unusable(name, "manifest", error)));
        }
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        for id in source.manifests.iter().map(|manifest| manifest.snapshot_id.as_str()) {
            if chosen.contains(id) {
                // A chain that is broken is found by the survey.
                wanted.extend(links::needed(&source.manifests, [id]).unwrap_or_else(|_| [id].into()));
            }
        }
        let there = wanted.iter().filter(|id| target.files.has(id)).count() as u64;
        let is_missing = |id: &str| wanted.contains(id) && !target.files.has(id);
        let snapshots: Vec<Manifest> =
            source.manifests.iter().filter(|manifest| is_missing(&manifest.snapshot_id)).cloned().collect();

        let pipeline = Pipeline::new(context, 0);
        let reader = MetadataReader::new(source.store.clone(), pipeline.clone());
        let manifests = Manifests::new(places.source, source.manifests.iter().cloned());
        context.progress.begin(Stage::Structure, Unit::Items, Some(snapshots.len() as u64));
        let mut survey = Survey::new(manifests, &reader, profile);
        reader.expect(survey::order_of_reading(&snapshots));
        for manifest in &snapshots {
            context.cancel.check()?;
            survey.snapshot(manifest).await?;
            context.progress.advance(Stage::Structure, 1);
        }
        context.progress.end(Stage::Structure);
        let (checks, found, _) = survey.finish();
        problems.extend(found.into_iter().map(|problem| problem_at(places.source, problem)));
        set_aside(&pipeline, &checks, [&source, &target]).await;
        tracing::info!(
            target: "packvault::decision",
            snapshots = snapshots.len(),
            there,
            problems = problems.len(),
            "what is copied is known"
        );
        Ok(Self {
            dry_run: options.dry_run,
            places: (places.source.storage().location(), places.target.storage().location()),
            source,
            target,
            snapshots,
            there,
            checker: Arc::new(Checker::new(checks, context.progress.clone())),
            pipeline,
            reader,
            source_place: places.source,
            problems,
            copied: Vec::new(),
            forgotten: Vec::new(),
            warnings: Vec::new(),
            written: Written::default(),
        })
    }

    /// Returns the blobs that the target lacks, by the packs of the source in which they lie.
    pub(super) fn missing(&self) -> Missing {
        let mut missing = Missing::default();
        for blob in self.checker.checks().blobs() {
            if self.target.store.union().is_relied_on(&blob) {
                continue;
            }
            match self.source.store.pack_of(&blob) {
                Some(pack) => missing.by_pack.entry(pack).or_default().push(blob),
                None => missing.unnamed.push(blob),
            }
        }
        missing
    }

    /// Takes in what was written.
    pub(super) fn count(&mut self, written: &Written) {
        self.written = written.clone();
        self.warnings.extend(written.remarks.iter().cloned());
    }

    /// Finds out which snapshots need what turned out to be damaged.
    pub(super) async fn lay_findings(&mut self, context: &Context) -> Result<()> {
        let findings = self.checker.take_findings();
        if findings.is_empty() {
            return Ok(());
        }
        let mut manifests = Manifests::new(self.source_place, self.source.manifests.iter().cloned());
        let mut attribution = Attribution::new(&mut manifests, &self.reader, findings);
        let mut problems: Vec<VerifyProblem> = Vec::new();
        for manifest in &self.snapshots {
            context.cancel.check()?;
            problems.extend(attribution.of(manifest).await?);
        }
        problems.extend(attribution.nobodys(&problems));
        problems.dedup();
        self.problems.extend(problems.into_iter().map(|problem| problem_at(self.source_place, problem)));
        Ok(())
    }

    /// Tells whether the snapshot needs something of the source that is damaged.
    pub(super) fn suffers(&self, snapshot: &str) -> bool {
        self.problems.iter().any(|found| found.problem.snapshot.as_deref() == Some(snapshot))
    }

    /// Returns the snapshots of the target that can be used, by their names.
    pub(super) fn usable_in_target(&self) -> HashSet<String> {
        self.target.manifests.iter().map(|manifest| manifest.snapshot_id.clone()).collect()
    }

    pub(super) fn report(mut self) -> CopyReport {
        let (from, to) = self.places.clone();
        if self.dry_run {
            let missing = self.missing();
            let lengths = missing.by_pack.keys().filter_map(|pack| self.source.store.length_of(pack));
            self.written.bytes = lengths.sum();
            self.written.packs = missing.by_pack.len() as u64;
            self.written.blobs = missing.by_pack.values().map(Vec::len).sum::<usize>() as u64;
            let forgotten = self.source.files.forgotten();
            let whole = self.snapshots.iter().filter(|manifest| !self.suffers(&manifest.snapshot_id));
            self.copied = whole.map(|manifest| copied(manifest, &forgotten)).collect();
        }
        let done: HashSet<&str> = self.copied.iter().map(|copied| copied.id.as_str()).collect();
        let left = self.snapshots.iter().map(|manifest| manifest.snapshot_id.as_str());
        let left = left.filter(|id| !done.contains(id)).map(str::to_owned).collect();
        let mut problems = self.problems;
        problems.sort_by(|one, other| one.sort_key().cmp(&other.sort_key()));
        problems.dedup();
        CopyReport {
            dry_run: self.dry_run,
            from,
            to,
            copied: self.copied,
            there: self.there,
            not_copied: left,
            packs_written: self.written.packs,
            blobs_written: self.written.blobs,
            bytes_written: self.written.bytes,
            forgotten: self.forgotten,
            problems,
            warnings: self.warnings,
            seconds: 0.0,
        }
    }
}

/// Returns what a report says of a snapshot that was copied.
pub(super) fn copied(manifest: &Manifest, forgotten: &HashSet<&str>) -> CopiedSnapshot {
    CopiedSnapshot {
        id: manifest.snapshot_id.clone(),
        created_at: manifest.created_at.clone(),
        tag: manifest.options.tag.clone(),
        forgotten: forgotten.contains(manifest.snapshot_id.as_str()),
    }
}

/// Blobs that the target lacks.
#[derive(Debug, Default)]
pub(super) struct Missing {
    pub(super) by_pack: BTreeMap<PackId, Vec<BlobId>>,
    /// Those that no index of the source names.
    pub(super) unnamed: Vec<BlobId>,
}

impl Missing {
    /// Returns the failure of a blob that no index names.
    pub(super) fn failure(blob: BlobId) -> BlobFailure {
        BlobFailure { blob, pack: None, error: Error::new(ErrorKind::Damaged, "no index names it") }
    }
}

/// Returns the snapshots that are meant.
fn chosen<'a>(source: &'a Side, options: &'a CopyOptions) -> Result<HashSet<&'a str>> {
    if options.snapshots.is_empty() {
        return Ok(source.files.listed().collect());
    }
    let names = options.snapshots.iter().map(|id| id.as_str());
    match names.clone().find(|id| !source.files.has(id)) {
        Some(id) => Err(Error::new(
            ErrorKind::NotFound,
            format!("nothing was copied: no snapshot {id} in the source"),
        )),
        None => Ok(names.collect()),
    }
}

/// Refuses to bring the snapshots of one archive to those of another.
async fn expect_same_archive(
    places: &Places<'_>,
    source: &Side,
    target: &Side,
    options: &CopyOptions,
) -> Result<()> {
    let newest = target.manifests.last();
    let shares_a_snapshot = target.files.names().any(|id| source.files.has(id));
    if options.adopt || shares_a_snapshot || newest.is_none() {
        return Ok(());
    }
    let (ours, recorded) =
        join!(places.source.recorded_archive(&source.files), places.target.recorded_archive(&target.files));
    let Some((_, ours)) = ours? else { return Ok(()) };
    let recorded = recorded?.map(|(snapshot, archive)| identity::Recorded { snapshot, archive });
    identity::check_place(recorded.as_ref(), newest, &ours)
}

async fn set_aside(pipeline: &Pipeline, checks: &Checks, sides: [&Side; 2]) {
    let unions: u64 = sides.iter().map(|side| side.store.union().table_bytes()).sum();
    pipeline.set_aside(checks.table_bytes().saturating_add(unions)).await;
}
