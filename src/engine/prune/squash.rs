//! Frees kept snapshots of the forgotten ones that they are built on.
//!
//! The page maps of a snapshot lie in a chain that goes through the manifests of its parents. Where some of these were
//! forgotten, the deltas between two snapshots that stay are composed into one, and the snapshot gets a manifest that
//! names it. Its id comes from its content, so it is a new one; the note keeps the former one. The order of what becomes
//! durable:
//!
//! 1. packs with the new maps, read back; an index that names them;
//! 2. a proof: every page of every new chain lies in the same blob, at the same place, with the same hash as in the old;
//! 3. for each snapshot, oldest first: note and attributes, then the manifest;
//! 4. the old manifests are removed, the youngest first, with the forgotten ones that nothing needs any more;
//! 5. marks of them, then their notes and attributes, and at last the marks.
//!
//! Killed before step 4, old and new manifests are there beside each other, and all of them restore; the next run
//! makes the same ones, finds them, and goes on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::join;

use super::repack;
use crate::engine::chain::{self, ChainFailure, ChainLink, Manifests};
use crate::engine::create::stored_blob;
use crate::engine::forget::Found;
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::Pipeline;
use crate::engine::report::SquashedSnapshot;
use crate::engine::retention::links;
use crate::error::lift::format_error;
use crate::format::{
    BlobId, IndexId, Manifest, PageHashDelta, PageHashObject, PageHashes, PageMap, PageMapKind,
    PageMapObject, SnapshotId,
};
use crate::repo::Repository;
use crate::repo::blobs::BlobStore;
use crate::repo::indexes::IndexUnion;
use crate::repo::locks::Lock;
use crate::repo::packs::PackWriter;
use crate::repo::removal::Remover;
use crate::{Error, ErrorKind, Result};

/// A chain of this depth ends: at most 29 deltas follow a keyframe (section 4).
const DEPTH_MAX: i64 = 30;

/// A snapshot that gets a new manifest.
#[derive(Debug)]
pub struct Rewrite<'a> {
    /// The manifest as it is.
    pub old: &'a Manifest,
    /// The snapshot that stays and that it is built on; `None` where there is none any more.
    pub base: Option<&'a Manifest>,
    /// The manifests after the base whose deltas become one, the oldest first; the last is the snapshot's own.
    pub through: Vec<&'a Manifest>,
}

/// Returns what has to be rewritten so that no snapshot that stays needs one of those given up. Manifests come oldest
/// first.
pub fn plan<'a>(manifests: &'a [Manifest], given_up: &HashSet<&str>) -> Result<Vec<Rewrite<'a>>> {
    let by_id: HashMap<&str, &Manifest> =
        manifests.iter().map(|manifest| (manifest.snapshot_id.as_str(), manifest)).collect();
    let is_given_up = |manifest: &Manifest| given_up.contains(manifest.snapshot_id.as_str());
    let mut rewritten: HashSet<&str> = HashSet::new();
    let mut rewrites = Vec::new();
    for old in manifests.iter().filter(|manifest| !is_given_up(manifest)) {
        let mut through = vec![old];
        let mut base = None;
        while let Some(last) = through.last().filter(|last| last.db.map_chain_depth != 0) {
            let parent = by_id.get(last.parent_id.as_str()).copied();
            let parent = parent.filter(|_| through.len() <= chain::STEPS_MAX).ok_or_else(|| {
                let message = format!("the chain of snapshot {} cannot be followed", old.snapshot_id);
                Error::new(ErrorKind::Damaged, message)
            })?;
            if !is_given_up(parent) {
                base = Some(parent);
                break;
            }
            through.push(parent);
        }
        let leans_on_rewritten = base.is_some_and(|base| rewritten.contains(base.snapshot_id.as_str()));
        if through.len() > 1 || leans_on_rewritten {
            through.reverse();
            rewritten.insert(&old.snapshot_id);
            rewrites.push(Rewrite { old, base, through });
        }
    }
    Ok(rewrites)
}

/// What the chain of a snapshot weighs, for the rules of keyframes.
#[derive(Debug, Clone, Copy)]
struct Weight {
    depth: i64,
    keyframe_bytes: u64,
    deltas_bytes: u64,
}

impl Weight {
    fn keyframe(bytes: u64) -> Self {
        Self { depth: 0, keyframe_bytes: bytes, deltas_bytes: 0 }
    }

    /// The rules of section 4, in their order; only page maps count, and not the new one.
    fn wants_keyframe(&self) -> bool {
        self.depth + 1 >= DEPTH_MAX || self.deltas_bytes > self.keyframe_bytes
    }

    fn with(self, delta_bytes: u64) -> Self {
        Self { depth: self.depth + 1, deltas_bytes: self.deltas_bytes + delta_bytes, ..self }
    }
}

/// Gives snapshots that stay new manifests where they need it, and removes those that nothing needs any more.
pub async fn squash(
    repository: &Repository,
    found: &Found,
    given_up: &HashSet<&str>,
    pipeline: &Pipeline,
    lock: &Lock,
) -> Result<(Vec<SquashedSnapshot>, u64)> {
    let rewrites = plan(&found.manifests, given_up)?;
    let new = match rewrites.is_empty() {
        true => Vec::new(),
        false => rewrite(repository, found, &rewrites, given_up, pipeline, lock).await?,
    };
    let removed = remove(repository, found, &rewrites, given_up, pipeline, lock).await?;
    let squashed = rewrites.iter().zip(new).map(|(rewrite, new)| SquashedSnapshot {
        from: rewrite.old.snapshot_id.clone(),
        to: Some(new.snapshot_id),
    });
    Ok((squashed.collect(), removed))
}

/// Writes the new maps and manifests; returns the manifests in the order of the rewrites.
async fn rewrite(
    repository: &Repository,
    found: &Found,
    rewrites: &[Rewrite<'_>],
    given_up: &HashSet<&str>,
    pipeline: &Pipeline,
    lock: &Lock,
) -> Result<Vec<Manifest>> {
    let (union, lengths) = join!(repository.load_indexes(), repository.pack_lengths());
    let (union, lengths) = (union?, lengths?);
    let union = Arc::new(union.settled(&lengths));
    let store = Arc::new(BlobStore::new(repository.clone(), union.clone(), lengths));
    let reader = MetadataReader::new(store, pipeline.clone());
    let mut maker = Maker {
        reader: &reader,
        given_up,
        manifests: Manifests::new(repository, found.manifests.iter().cloned()),
        sink: Sink::new(repository, union, pipeline),
        weights: HashMap::new(),
        ids: HashMap::new(),
    };
    let mut new = Vec::with_capacity(rewrites.len());
    for rewrite in rewrites {
        pipeline.context().cancel.check()?;
        match maker.make(rewrite, &found.manifests).await {
            Ok(manifest) => new.push(manifest),
            Err(error) => {
                maker.sink.writer.abandon().await;
                return Err(error);
            }
        }
    }
    let Maker { mut sink, .. } = maker;
    let written = match sink.writer.finish().await {
        Ok(written) => written,
        Err(error) => {
            sink.writer.abandon().await;
            return Err(error);
        }
    };
    if !written.entries.is_empty() {
        repack::read_back(repository, &written, pipeline).await?;
        lock.confirm().await?;
        let id = IndexId::from_ulid(repository.ulids().next());
        repository.publish_index(&id, written.entries).await?;
    }
    prove(repository, found, rewrites, &new, pipeline).await?;
    publish(repository, found, rewrites, &new, pipeline, lock).await?;
    Ok(new)
}

/// Makes new maps and manifests.
struct Maker<'a> {
    reader: &'a MetadataReader,
    given_up: &'a HashSet<&'a str>,
    manifests: Manifests<'a>,
    sink: Sink,
    /// Of the snapshots that others are built on, as they will be.
    weights: HashMap<String, Weight>,
    /// New ids by the old ones.
    ids: HashMap<String, String>,
}

impl Maker<'_> {
    async fn make(&mut self, rewrite: &Rewrite<'_>, all: &[Manifest]) -> Result<Manifest> {
        let base = match rewrite.base {
            None => None,
            Some(base) => Some(self.weight(base).await?),
        };
        let mut new = rewrite.old.clone();
        match base.filter(|base| !base.wants_keyframe()) {
            Some(base) => {
                let delta_bytes = self.delta(rewrite, &mut new).await?;
                self.weights.insert(rewrite.old.snapshot_id.clone(), base.with(delta_bytes));
                new.db.map_chain_depth = base.depth + 1;
            }
            None => {
                let bytes = self.keyframe(rewrite, &mut new).await?;
                self.weights.insert(rewrite.old.snapshot_id.clone(), Weight::keyframe(bytes));
                new.db.map_chain_depth = 0;
            }
        }
        let parent = match rewrite.base {
            Some(base) => Some(base.snapshot_id.as_str()),
            None => self.parent_of(rewrite, all),
        };
        let renamed = |id: &str| self.ids.get(id).cloned().unwrap_or_else(|| id.to_owned());
        new.parent_id = parent.map(renamed).unwrap_or_default();
        new.seal_id().map_err(|error| format_error("cannot name the squashed snapshot", error))?;
        self.ids.insert(rewrite.old.snapshot_id.clone(), new.snapshot_id.clone());
        let (from, to) = (rewrite.old.snapshot_id.as_str(), new.snapshot_id.as_str());
        tracing::info!(target: "packvault::decision", from, to, "is squashed");
        Ok(new)
    }

    /// Returns the newest snapshot before it that stays.
    fn parent_of<'m>(&self, rewrite: &Rewrite<'_>, all: &'m [Manifest]) -> Option<&'m str> {
        // What a run that died has made of the same snapshot is of the same second, and no parent of it.
        let second = second_of(&rewrite.old.snapshot_id);
        let ids = all.iter().map(|manifest| manifest.snapshot_id.as_str());
        ids.take_while(|id| second_of(id) < second).filter(|id| !self.given_up.contains(id)).last()
    }

    /// Returns what the chain of a snapshot weighs that others are built on.
    async fn weight(&mut self, manifest: &Manifest) -> Result<Weight> {
        if let Some(weight) = self.weights.get(&manifest.snapshot_id) {
            return Ok(*weight);
        }
        let links = chain::links(&mut self.manifests, manifest).await?;
        let loaded = chain::load_map(self.reader, &links).await?;
        let bytes = |id: &BlobId| self.sink.union.get(id).map_or(0, |location| location.stored_bytes);
        let weight = Weight {
            depth: links.len() as i64 - 1,
            keyframe_bytes: loaded.objects.first().map(bytes).unwrap_or_default(),
            deltas_bytes: loaded.objects.iter().skip(1).map(bytes).sum(),
        };
        self.weights.insert(manifest.snapshot_id.clone(), weight);
        Ok(weight)
    }

    /// Stores the maps as a keyframe; returns the stored length of the page map.
    async fn keyframe(&mut self, rewrite: &Rewrite<'_>, new: &mut Manifest) -> Result<u64> {
        let links = chain::links(&mut self.manifests, rewrite.old).await?;
        let (map, hashes) = chain::load_both(self.reader, &links).await?;
        chain::check_geometry(rewrite.old, &map, &hashes)?;
        let (id, bytes) = self.sink.store(map.to_keyframe().encode()).await?;
        new.db.page_map = id.to_string();
        new.db.page_hash_map = self.sink.store(hashes.encode_keyframe()).await?.0.to_string();
        Ok(bytes)
    }

    /// Stores the maps as one delta on the base; returns the stored length of that of the page map.
    async fn delta(&mut self, rewrite: &Rewrite<'_>, new: &mut Manifest) -> Result<u64> {
        if let [own] = rewrite.through.as_slice() {
            // What it is built on has another name now, and the same pages.
            let id = own.page_map().map_err(|error| format_error("it names no page map", error))?;
            return Ok(self.sink.union.get(&id).map_or(0, |location| location.stored_bytes));
        }
        let links = chain::links(&mut self.manifests, rewrite.old).await?;
        let mut maps = Vec::new();
        let mut hashes = Vec::new();
        for link in links[..rewrite.through.len()].iter().rev() {
            let (map, hash) =
                join!(chain::read_map(self.reader, link), chain::read_hashes(self.reader, link));
            maps.push(map?);
            match hash? {
                PageHashObject::Delta(delta) => hashes.push(delta),
                PageHashObject::Keyframe(_) => return Err(not_a_delta(link)),
            }
            if maps.last().is_some_and(|map| map.kind != PageMapKind::Delta) {
                return Err(not_a_delta(link));
            }
        }
        let unusable = |error| format_error("cannot compose the deltas of forgotten snapshots", error);
        let map = PageMapObject::composed(&maps).map_err(unusable)?;
        let hashes = PageHashDelta::composed(&hashes).map_err(unusable)?;
        let (id, bytes) = self.sink.store(map.encode()).await?;
        new.db.page_map = id.to_string();
        new.db.page_hash_map = self.sink.store(hashes.encode()).await?.0.to_string();
        Ok(bytes)
    }
}

/// Returns the second in which a snapshot was made, with which its id begins.
fn second_of(id: &str) -> &str {
    id.split('-').next().unwrap_or(id)
}

fn not_a_delta(link: &ChainLink) -> Error {
    let message =
        format!("snapshot {} says that it has a parent, and its page maps need none", link.snapshot);
    Error::new(ErrorKind::Damaged, message)
}

/// Stores blobs that are not stored yet.
struct Sink {
    pipeline: Pipeline,
    union: Arc<IndexUnion>,
    writer: PackWriter,
    added: HashMap<BlobId, u64>,
}

impl Sink {
    fn new(repository: &Repository, union: Arc<IndexUnion>, pipeline: &Pipeline) -> Self {
        let writer = PackWriter::new(repository.clone());
        Self { pipeline: pipeline.clone(), union, writer, added: HashMap::new() }
    }

    /// Stores a blob; returns its id and its stored length.
    async fn store(&mut self, raw: Vec<u8>) -> Result<(BlobId, u64)> {
        let sealing = self.union.sealing().clone();
        let blob = self.pipeline.run(move |worker| {
            let id = BlobId::of(&raw);
            stored_blob(worker, &sealing, id, raw)
        });
        let blob = blob.await?;
        let (id, bytes) = (blob.id, blob.stored.len() as u64);
        if self.union.is_relied_on(&id) {
            let known = self.union.get(&id).map_or(bytes, |location| location.stored_bytes);
            return Ok((id, known));
        }
        if self.added.insert(id, bytes).is_none() {
            self.writer.append(blob).await?;
        }
        Ok((id, bytes))
    }
}

/// Proves that every page of every new chain is what it was, by what the store holds now.
async fn prove(
    repository: &Repository,
    found: &Found,
    rewrites: &[Rewrite<'_>],
    new: &[Manifest],
    pipeline: &Pipeline,
) -> Result<()> {
    let (union, lengths) = join!(repository.load_indexes(), repository.pack_lengths());
    let (union, lengths) = (union?, lengths?);
    let union = Arc::new(union.settled(&lengths));
    let store = Arc::new(BlobStore::new(repository.clone(), union, lengths));
    let reader = MetadataReader::new(store, pipeline.clone());
    let all = found.manifests.iter().chain(new).cloned();
    let mut manifests = Manifests::new(repository, all);
    for (rewrite, new) in rewrites.iter().zip(new) {
        pipeline.context().cancel.check()?;
        let old = maps_of(&mut manifests, &reader, rewrite.old).await?;
        let now = maps_of(&mut manifests, &reader, new).await?;
        chain::check_geometry(new, &now.0, &now.1)?;
        let is_same = pipeline.run(move |_| Ok(is_same(&old.0, &now.0) && old.1 == now.1)).await?;
        if !is_same {
            let message = format!(
                "nothing was squashed: the new page maps of snapshot {} are not what the old ones are",
                rewrite.old.snapshot_id
            );
            return Err(Error::new(ErrorKind::Damaged, message));
        }
    }
    Ok(())
}

async fn maps_of(
    manifests: &mut Manifests<'_>,
    reader: &MetadataReader,
    manifest: &Manifest,
) -> Result<(PageMap, PageHashes)> {
    let links = chain::links(manifests, manifest).await?;
    chain::load_both(reader, &links).await.map_err(|failure: ChainFailure| failure.into())
}

/// Tells whether both maps place every page in the same blob, at the same offset.
fn is_same(one: &PageMap, other: &PageMap) -> bool {
    one.geometry() == other.geometry() && pages(one).eq(pages(other))
}

fn pages(map: &PageMap) -> impl Iterator<Item = (u64, BlobId, u64)> {
    let page_bytes = u64::from(map.page_size());
    map.runs().flat_map(move |run| {
        let (first, blob, offset) = (run.start_page, map.blob_of(run), run.blob_offset);
        (0..u64::from(run.pages)).map(move |page| (first + page, blob, offset + page * page_bytes))
    })
}

/// Makes the squashed snapshots exist, the oldest first.
async fn publish(
    repository: &Repository,
    found: &Found,
    rewrites: &[Rewrite<'_>],
    new: &[Manifest],
    pipeline: &Pipeline,
    lock: &Lock,
) -> Result<()> {
    for (rewrite, new) in rewrites.iter().zip(new) {
        let (from, to) = (rewrite.old.snapshot_id.as_str(), new.snapshot_id.as_str());
        // An earlier run may have died after this.
        if found.files.has(to) {
            continue;
        }
        pipeline.context().cancel.check()?;
        let mut note = repository.note_of(&found.files, from).await?.unwrap_or_default();
        note.formerly(from);
        lock.confirm().await?;
        repository.replace_note(to, &note).await?;
        match repository.read_attributes(&found.files, from).await {
            Ok(Some(attributes)) => repository.replace_attributes(to, &attributes).await?,
            Err(error) if error.is_no_finding() => return Err(error),
            // They can be read no more, and would be no better under another name.
            Ok(None) | Err(_) => {}
        }
        lock.confirm().await?;
        repository.publish_snapshot(new).await?;
    }
    Ok(())
}

/// Removes the manifests that were rewritten and those that were given up, as far as nothing needs them.
async fn remove(
    repository: &Repository,
    found: &Found,
    rewrites: &[Rewrite<'_>],
    given_up: &HashSet<&str>,
    pipeline: &Pipeline,
    lock: &Lock,
) -> Result<u64> {
    let old = rewrites.iter().map(|rewrite| rewrite.old.snapshot_id.as_str());
    let going: HashSet<&str> = old.chain(given_up.iter().copied()).collect();
    let remover = Remover::new(repository, lock, &pipeline.context().cancel);
    if going.is_empty() {
        return remover.remains(&found.files.gone()).await.map(|()| 0);
    }
    // By what the store shows now, the new ones among them.
    let manifests = repository.load_snapshots().await?;
    let staying = manifests.iter().map(|manifest| manifest.snapshot_id.as_str());
    let needed = links::needed(&manifests, staying.filter(|id| !going.contains(id)))?;
    let mut removed: Vec<SnapshotId> = Vec::new();
    for manifest in manifests.iter().rev() {
        let id = manifest.snapshot_id.as_str();
        if going.contains(id) && !needed.contains(id) {
            removed
                .push(SnapshotId::parse(id).map_err(|error| format_error("cannot name a snapshot", error))?);
        }
    }
    remover.manifests(&removed).await?;
    let shown = remover.still_shown(&removed).await?;
    removed.retain(|id| !shown.contains(id));
    // Not before: a snapshot that is marked and still there would be given up in the next run, and what is built on it
    // rewritten in another way. Now a mark says what else is to go.
    remover.mark_forgotten(&removed).await?;
    remover.remains(&[removed.clone(), found.files.gone()].concat()).await?;
    Ok(removed.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::Database;

    fn name(number: usize) -> String {
        format!("20260101T0000{number:02}Z-{number:032x}")
    }

    /// Makes manifests of these depths, each the parent of the next.
    fn chain(depths: &[i64]) -> Vec<Manifest> {
        let of = |(number, depth): (usize, &i64)| Manifest {
            snapshot_id: name(number),
            parent_id: number.checked_sub(1).map(name).unwrap_or_default(),
            db: Database { map_chain_depth: *depth, ..Database::default() },
            ..Manifest::default()
        };
        depths.iter().enumerate().map(of).collect()
    }

    /// Returns for each rewrite its snapshot, its base, and what becomes one.
    fn planned(depths: &[i64], given_up: &[usize]) -> Vec<(usize, Option<usize>, Vec<usize>)> {
        let manifests = chain(depths);
        let names: Vec<String> = given_up.iter().map(|number| name(*number)).collect();
        let given_up = names.iter().map(String::as_str).collect();
        let place =
            |of: &Manifest| manifests.iter().position(|one| one.snapshot_id == of.snapshot_id).unwrap();
        let rewrites = plan(&manifests, &given_up).unwrap();
        rewrites
            .iter()
            .map(|one| {
                let through = one.through.iter().map(|manifest| place(manifest)).collect();
                (place(one.old), one.base.map(&place), through)
            })
            .collect()
    }

    #[test]
    fn what_leans_on_a_forgotten_snapshot_is_rewritten_and_what_leans_on_that() {
        assert_eq!(planned(&[0, 1, 2, 3], &[]), []);
        assert_eq!(planned(&[0, 1, 2, 3], &[2]), [(3, Some(1), vec![2, 3])]);
        let cascade = [(2, Some(0), vec![1, 2]), (3, Some(2), vec![3])];
        assert_eq!(planned(&[0, 1, 2, 3], &[1]), cascade);
        let no_base = [(2, None, vec![0, 1, 2]), (3, Some(2), vec![3])];
        assert_eq!(planned(&[0, 1, 2, 3], &[0, 1]), no_base);
        assert_eq!(planned(&[0, 1, 0, 1], &[0, 1]), [], "a keyframe needs no other");
        assert_eq!(planned(&[0, 1, 2, 0, 1], &[1, 3]), [(2, Some(0), vec![1, 2]), (4, None, vec![3, 4])]);
    }

    #[test]
    fn a_chain_that_cannot_be_followed_is_an_error() {
        let manifests = chain(&[1, 2]);
        assert_eq!(plan(&manifests, &HashSet::new()).unwrap_err().kind(), ErrorKind::Damaged);
    }
}
