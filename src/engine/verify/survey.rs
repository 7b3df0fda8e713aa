//! The structure of snapshots: chains, lists, trees, and everything they refer to.
//!
//! Snapshots are walked oldest first, each on top of the one before where it is its parent, so that the
//! work grows with what the snapshots add and not with their number. An object shared by many is read
//! once; if it is damaged, each snapshot that needs it is told.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::checks::Checks;
use super::{problem, unusable};
use crate::archive::profile::{Profile, database_files};
use crate::engine::chain::{self, ChainFailure, Manifests, RollingHashes, RollingMap, RollingMaps};
use crate::engine::metadata::{BlobResult, MetadataReader};
use crate::engine::report::{ProblemKind, VerifyProblem};
use crate::format::{BlobId, Manifest, paths};
use crate::profiles;
use crate::repo::blobs::BlobFailure;
use crate::{Error, Result};

/// Attachments of one snapshot that are named one by one when they are listed twice; the rest is counted.
const TWICE_NAMED_MAX: u64 = 1000;

/// What is left of an object once it has been looked at.
#[derive(Clone)]
enum Seen<T> {
    Sound(T),
    Damaged(Arc<VerifyProblem>),
}

/// Walks snapshots and collects what must be checked.
pub struct Survey<'a> {
    reader: &'a MetadataReader,
    manifests: Manifests<'a>,
    maps: RollingMaps,
    /// Where one of the two chains is damaged, the other.
    halves: (RollingMap, RollingHashes),
    /// The lists of the snapshot walked last, and all they hold.
    population: (Vec<BlobId>, HashSet<BlobId>),
    lists: HashMap<BlobId, Seen<(u64, u64)>>,
    /// How many attachments of the snapshot walked now are listed twice.
    listed_twice: u64,
    /// By tree and database name: the files of a tree must leave the database's place alone.
    trees: HashMap<(BlobId, String), Seen<()>>,
    profile: Arc<dyn Profile>,
    /// What the content of blobs must be.
    checks: Checks,
    /// What was found so far.
    problems: Vec<VerifyProblem>,
}

impl<'a> Survey<'a> {
    /// Makes a survey that has seen nothing.
    pub fn new(manifests: Manifests<'a>, reader: &'a MetadataReader, profile: Arc<dyn Profile>) -> Self {
        Self {
            reader,
            profile,
            manifests,
            maps: RollingMaps::default(),
            halves: Default::default(),
            population: Default::default(),
            lists: HashMap::new(),
            listed_twice: 0,
            trees: HashMap::new(),
            checks: Checks::default(),
            problems: Vec::new(),
        }
    }

    /// Returns what the content of blobs must be, what was found, and the manifests that were needed for it.
    pub fn finish(self) -> (Checks, Vec<VerifyProblem>, Manifests<'a>) {
        (self.checks, self.problems, self.manifests)
    }

    /// Looks at one snapshot. Only a failure that says nothing about the repository's content is an error.
    pub async fn snapshot(&mut self, manifest: &Manifest) -> Result<()> {
        let id = &manifest.snapshot_id;
        if let Some(metadata) = &manifest.metadata {
            match metadata.blob() {
                Ok(blob) => self.checks.expect_bytes(blob, metadata.bytes, "the manifest", None),
                Err(error) => self.problems.push(problem(id, "portable metadata", &error.to_string())),
            }
        } else {
            self.chains(manifest).await?;
        }
        for artifact in &manifest.auxiliary {
            match artifact.blob() {
                Ok(blob) => self.checks.expect_bytes(blob, artifact.bytes, "the manifest", None),
                Err(error) => self.problems.push(problem(id, &artifact.name, &error.to_string())),
            }
        }
        self.attachments(manifest).await?;
        self.extras(manifest).await?;
        self.stats(manifest);
        Ok(())
    }

    async fn chains(&mut self, manifest: &Manifest) -> Result<()> {
        let id = &manifest.snapshot_id;
        let maps = match self.maps.advance(&mut self.manifests, self.reader, manifest).await {
            Ok(maps) => maps,
            Err(failure) => {
                self.problems.push(chain_problem(id, failure)?);
                return self.sound_chains(manifest).await;
            }
        };
        maps.objects.iter().for_each(|object| self.checks.was_read(*object));
        maps.map.blobs().for_each(|blob| self.checks.expect(*blob));
        // A map that contradicts its manifest is a finding, and its pages cannot be compared.
        if let Err(error) = chain::check_geometry(manifest, &maps.map, &maps.hashes) {
            self.problems.push(problem(id, "page maps", &error.chain()));
            self.maps.reset();
            return Ok(());
        }
        match &maps.changed {
            Some(changed) => changed.iter().for_each(|run| self.checks.expect_pages(maps, run)),
            None => maps.map.runs().for_each(|run| self.checks.expect_pages(maps, run)),
        }
        Ok(())
    }

    /// Looks at each chain of a snapshot for itself, one of them being damaged: the other may be damaged as well,
    /// and without hashes to compare its pages with, a page blob must still be what its id says.
    async fn sound_chains(&mut self, manifest: &Manifest) -> Result<()> {
        let id = &manifest.snapshot_id;
        let links = match chain::links(&mut self.manifests, manifest).await {
            Ok(links) => links,
            Err(failure) => {
                self.problems.push(chain_problem(id, failure)?);
                return Ok(());
            }
        };
        match self.halves.0.advance(self.reader, manifest, &links).await {
            Ok(map) => map.blobs().for_each(|blob| self.checks.expect(*blob)),
            Err(failure) => self.problems.push(chain_problem(id, failure)?),
        }
        if let Err(failure) = self.halves.1.advance(self.reader, manifest, &links).await {
            self.problems.push(chain_problem(id, failure)?);
        }
        Ok(())
    }

    async fn attachments(&mut self, manifest: &Manifest) -> Result<()> {
        let id = &manifest.snapshot_id;
        let lists = match manifest.lists() {
            Ok(lists) => lists,
            Err(error) => {
                self.problems.push(problem(id, "attachment lists", &error.to_string()));
                return Ok(());
            }
        };
        let inherited = lists.starts_with(&self.population.0);
        if !inherited {
            self.population = Default::default();
        }
        let known = self.population.0.len();
        let mut whole = true;
        self.listed_twice = 0;
        for list in &lists[..known] {
            self.damaged_before(manifest, list);
        }
        for list in &lists[known..] {
            whole &= self.list(manifest, list).await?;
        }
        if let Some(more) = self.listed_twice.checked_sub(TWICE_NAMED_MAX).filter(|more| *more > 0) {
            let detail = format!("{more} more attachments are listed twice");
            self.problems.push(problem(id, "attachment lists", &detail));
        }
        let mut totals = (0u64, 0u64);
        for list in &lists {
            match self.lists.get(list) {
                Some(Seen::Sound((count, bytes))) => {
                    totals = (totals.0 + count, totals.1.saturating_add(*bytes));
                }
                Some(Seen::Damaged(_)) | None => whole = false,
            }
        }
        // A list that is damaged adds nothing to what they hold, and is not read again.
        self.population.0 = lists;
        if !whole {
            return Ok(());
        }
        let said = (manifest.attachments.blobs, manifest.attachments.blob_bytes);
        if (i64::try_from(totals.0), i64::try_from(totals.1)) != (Ok(said.0), Ok(said.1)) {
            let detail = format!(
                "the lists have {} attachments of {} bytes, the manifest says {} of {}",
                totals.0, totals.1, said.0, said.1
            );
            self.problems.push(problem(id, "attachment lists", &detail));
        }
        Ok(())
    }

    /// Tells whether the list is known to be damaged, which is then this snapshot's problem too.
    fn damaged_before(&mut self, manifest: &Manifest, list: &BlobId) -> bool {
        let Some(Seen::Damaged(found)) = self.lists.get(list) else { return false };
        let snapshot = Some(manifest.snapshot_id.clone());
        self.problems.push(VerifyProblem { snapshot, ..(**found).clone() });
        true
    }

    /// Reads one list on top of those before it; tells whether that went well.
    async fn list(&mut self, manifest: &Manifest, list: &BlobId) -> Result<bool> {
        let id = &manifest.snapshot_id;
        if self.damaged_before(manifest, list) {
            return Ok(false);
        }
        let entries = match keep_going(self.reader.attachment_list(list).await)? {
            Ok(entries) => entries,
            Err(failure) => {
                let found = blob_problem(id, "attachment list", failure)?;
                self.lists.insert(*list, Seen::Damaged(Arc::new(found.clone())));
                self.problems.push(found);
                return Ok(false);
            }
        };
        let first_time = !self.lists.contains_key(list);
        self.checks.was_read(*list);
        for entry in &entries {
            let is_new = self.population.1.insert(entry.id);
            self.listed_twice += u64::from(!is_new);
            if !is_new && self.listed_twice <= TWICE_NAMED_MAX {
                let detail = format!("attachment {} is listed twice", entry.id);
                let found = problem(id, "attachment lists", &detail);
                self.problems.push(VerifyProblem { blob: Some(entry.id.to_string()), ..found });
            }
            if first_time {
                let bytes = i64::try_from(entry.bytes).unwrap_or(i64::MAX);
                self.checks.expect_bytes(entry.id, bytes, "an attachment list", Some(*list));
            }
        }
        let total = entries.iter().fold(0u64, |sum, entry| sum.saturating_add(entry.bytes));
        self.lists.insert(*list, Seen::Sound((entries.len() as u64, total)));
        Ok(true)
    }

    async fn extras(&mut self, manifest: &Manifest) -> Result<()> {
        let id = &manifest.snapshot_id;
        let tree = match manifest.extras_tree() {
            Ok(None) => return Ok(()),
            Ok(Some(tree)) => tree,
            Err(error) => {
                self.problems.push(problem(id, "extras tree", &error.to_string()));
                return Ok(());
            }
        };
        // Statistics that cannot be read are a finding of their own.
        let database = profiles::of_stats(&manifest.stats, &self.profile)
            .map_or_else(|_| self.profile.database_name(), |profile| profile.database_name());
        let named = (tree, database);
        let seen = match self.trees.get(&named) {
            Some(seen) => seen.clone(),
            None => {
                let seen = self.tree(manifest, &tree, &named.1).await?;
                self.trees.insert(named, seen.clone());
                seen
            }
        };
        if let Seen::Damaged(found) = seen {
            self.problems.push(VerifyProblem { snapshot: Some(id.clone()), ..(*found).clone() });
        }
        Ok(())
    }

    async fn tree(&mut self, manifest: &Manifest, tree: &BlobId, database: &str) -> Result<Seen<()>> {
        let id = &manifest.snapshot_id;
        let entries = match keep_going(self.reader.extras_tree(tree).await)? {
            Ok(entries) => entries,
            Err(failure) => return Ok(Seen::Damaged(Arc::new(blob_problem(id, "extras tree", failure)?))),
        };
        self.checks.was_read(*tree);
        for entry in &entries {
            let bytes = i64::try_from(entry.size).unwrap_or(i64::MAX);
            self.checks.expect_bytes(entry.blob, bytes, "the extras tree", Some(*tree));
        }
        let refused = entries.iter().find_map(|entry| paths::check_extras_path(&entry.path).err());
        let conflict = || {
            let database = database_files(database);
            let restored = entries.iter().map(|entry| entry.path.as_str());
            let conflicts = paths::find_conflicts(restored.chain(database.iter().map(String::as_str)));
            conflicts.first().map(ToString::to_string)
        };
        let detail = refused.map(|error| error.to_string()).or_else(conflict);
        Ok(match detail {
            None => Seen::Sound(()),
            Some(detail) => {
                let detail = format!("no restore could put the extra files back: {detail}");
                let found = problem(id, "extras tree", &detail);
                Seen::Damaged(Arc::new(VerifyProblem { blob: Some(tree.to_string()), ..found }))
            }
        })
    }

    fn stats(&mut self, manifest: &Manifest) {
        let read = serde_json::from_str::<serde_json::Value>(&manifest.stats);
        let detail = match (read, profiles::of_stats(&manifest.stats, &self.profile)) {
            (Err(error), _) => Some(format!("the statistics cannot be read: {error}")),
            (Ok(_), Err(error)) => Some(error.chain()),
            // They are the application's own: only its profile knows what is in them.
            (Ok(_), Ok(profile)) => profile.contradiction(&manifest.stats, manifest.attachments.blobs),
        };
        self.problems.extend(detail.map(|detail| problem(&manifest.snapshot_id, "statistics", &detail)));
    }
}

/// Returns the objects of the snapshots in the order in which a survey of sound ones reads them.
pub fn order_of_reading(selected: &[Manifest]) -> Vec<BlobId> {
    let mut seen = HashSet::new();
    let mut order = Vec::new();
    for manifest in selected {
        if manifest.metadata.is_none() {
            order.extend(manifest.page_map().ok());
            order.extend(manifest.page_hash_map().ok());
        }
        let contents = manifest.lists().unwrap_or_default().into_iter();
        let contents = contents.chain(manifest.extras_tree().ok().flatten());
        order.extend(contents.filter(|object| seen.insert(*object)));
    }
    order
}

/// Tells damage, which is a finding, from a failure to read at all, which ends the operation.
fn keep_going<T>(read: BlobResult<T>) -> Result<BlobResult<T>> {
    match read {
        Err(failure) if super::is_fatal(&failure.error) => Err(Error::from(failure)),
        read => Ok(read),
    }
}

fn chain_problem(snapshot: &str, failure: ChainFailure) -> Result<VerifyProblem> {
    match failure {
        ChainFailure::Blob(failure) => blob_problem(snapshot, "page maps", failure),
        ChainFailure::Broken(error) if super::is_fatal(&error) => Err(error),
        ChainFailure::Broken(error) => Ok(unusable(snapshot, "page maps", &error)),
    }
}

fn blob_problem(snapshot: &str, object: &str, failure: BlobFailure) -> Result<VerifyProblem> {
    if super::is_fatal(&failure.error) {
        return Err(failure.into());
    }
    Ok(VerifyProblem {
        snapshot: Some(snapshot.to_owned()),
        object: Some(object.to_owned()),
        blob: Some(failure.blob.to_string()),
        pack: failure.pack.map(|pack| pack.to_string()),
        detail: failure.error.chain(),
        kind: ProblemKind::of(&failure.error),
    })
}
