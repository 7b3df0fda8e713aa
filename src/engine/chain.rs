//! Chains: from a snapshot back to its keyframes, and forward to its page map and page hashes
//! (section 3.5).
//!
//! Objects hold no links; the chain is walked through manifests. Both maps share one depth.

mod halves;
mod known;

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;

use futures::{StreamExt, stream};

pub use self::halves::{RollingHashes, RollingMap};
pub use self::known::{Half, KnownMaps};
use super::metadata::MetadataReader;
use crate::error::lift::format_error;
use crate::format::{
    BlobId, Geometry, Manifest, PageHashObject, PageHashes, PageMap, PageMapKind, PageMapObject, Run,
    SnapshotId,
};
use crate::repo::Repository;
use crate::repo::blobs::BlobFailure;
use crate::{Error, ErrorKind, Result};

/// Steps with a non-zero depth after which a chain is given up.
pub(super) const STEPS_MAX: usize = 30;

/// Objects of one chain read at once.
const READS_IN_FLIGHT: usize = 8;

/// The page sizes of SQLite lie in here; all are powers of two.
const PAGE_SIZES: RangeInclusive<u32> = 512..=65536;

/// Why a chain cannot be followed.
#[derive(Debug)]
pub enum ChainFailure {
    /// A blob of the chain cannot be read or decoded.
    Blob(BlobFailure),
    /// The links or the objects contradict each other.
    Broken(Error),
}

impl ChainFailure {
    /// Returns what callers may match on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Blob(failure) => failure.error.kind(),
            Self::Broken(error) => error.kind(),
        }
    }
}

impl From<ChainFailure> for Error {
    fn from(failure: ChainFailure) -> Self {
        match failure {
            ChainFailure::Blob(failure) => failure.into(),
            ChainFailure::Broken(error) => error,
        }
    }
}

type ChainResult<T> = std::result::Result<T, ChainFailure>;

/// Manifests by id: those loaded before, and the repository for the rest.
pub struct Manifests<'a> {
    repository: &'a Repository,
    loaded: HashMap<String, Manifest>,
    /// Those that cannot be used, and why.
    failed: HashMap<String, Error>,
}

impl<'a> Manifests<'a> {
    /// Makes a lookup over manifests that are loaded already.
    pub fn new(repository: &'a Repository, loaded: impl IntoIterator<Item = Manifest>) -> Self {
        let loaded = loaded.into_iter().map(|manifest| (manifest.snapshot_id.clone(), manifest)).collect();
        Self { repository, loaded, failed: HashMap::new() }
    }

    async fn get(&mut self, id: &SnapshotId) -> Result<&Manifest> {
        if let Some(error) = self.failed.get(id.as_str()) {
            return Err(error.repeated());
        }
        if !self.loaded.contains_key(id.as_str()) {
            let manifest = self.repository.load_snapshot(id).await.inspect_err(|error| {
                if !error.is_no_finding() {
                    self.failed.insert(id.to_string(), error.repeated());
                }
            })?;
            self.loaded.insert(id.to_string(), manifest);
        }
        Ok(&self.loaded[id.as_str()])
    }
}

/// One snapshot of a chain, newest first.
#[derive(Debug, Clone)]
pub struct ChainLink {
    /// The snapshot.
    pub snapshot: String,
    /// Its page-map object.
    pub page_map: BlobId,
    /// Its page-hash object.
    pub page_hashes: BlobId,
    /// Pages of its database, as its manifest says.
    page_count: u64,
}

/// Walks from a snapshot to the one at depth 0.
pub async fn links(manifests: &mut Manifests<'_>, newest: &Manifest) -> ChainResult<Vec<ChainLink>> {
    let broken = |why: String| {
        let message = format!("the chain of snapshot {} cannot be followed: {why}", newest.snapshot_id);
        ChainFailure::Broken(Error::new(ErrorKind::Damaged, message))
    };
    let mut seen = HashSet::new();
    let mut links = Vec::new();
    let mut current = newest.clone();
    loop {
        if !seen.insert(current.snapshot_id.clone()) {
            return Err(broken(format!("snapshot {} is its own ancestor", current.snapshot_id)));
        }
        links.push(link(&current).map_err(&broken)?);
        if current.db.map_chain_depth == 0 {
            return Ok(links);
        }
        if links.len() > STEPS_MAX {
            return Err(broken(format!("it has more than {STEPS_MAX} steps")));
        }
        let parent = SnapshotId::parse(&current.parent_id)
            .map_err(|_| broken(format!("snapshot {} names no parent", current.snapshot_id)))?;
        current = manifests
            .get(&parent)
            .await
            .map_err(|error| {
                let message = format!(
                    "the chain of snapshot {} needs snapshot {parent}, which cannot be read",
                    newest.snapshot_id
                );
                ChainFailure::Broken(Error::caused(error.kind(), message, error))
            })?
            .clone();
    }
}

fn link(manifest: &Manifest) -> std::result::Result<ChainLink, String> {
    let id = |text: &str, what: &str| {
        BlobId::parse(text).map_err(|_| format!("snapshot {} has no {what}", manifest.snapshot_id))
    };
    Ok(ChainLink {
        snapshot: manifest.snapshot_id.clone(),
        page_map: id(&manifest.db.page_map, "page map")?,
        page_hashes: id(&manifest.db.page_hash_map, "page-hash map")?,
        page_count: manifest.db.page_count,
    })
}

/// Reads the page-map object of one snapshot.
pub async fn read_map(reader: &MetadataReader, link: &ChainLink) -> ChainResult<PageMapObject> {
    let (half, id, known) = (Half::Map, &link.page_map, reader.known_maps());
    if let Some(failure) = known.failure(half, id) {
        return Err(ChainFailure::Blob(failure));
    }
    let object = reader.map(id, link.page_count, half.word(), PageMapObject::decode).await;
    known.learn(half, id, object.as_ref().map(|object| object.kind != PageMapKind::Delta));
    object.map_err(ChainFailure::Blob)
}

/// Reads the page-hash object of one snapshot.
pub async fn read_hashes(reader: &MetadataReader, link: &ChainLink) -> ChainResult<PageHashObject> {
    let (half, id, known) = (Half::Hashes, &link.page_hashes, reader.known_maps());
    if let Some(failure) = known.failure(half, id) {
        return Err(ChainFailure::Blob(failure));
    }
    let object = reader.map(id, link.page_count, half.word(), PageHashObject::decode).await;
    known.learn(half, id, object.as_ref().map(|object| matches!(object, PageHashObject::Keyframe(_))));
    object.map_err(ChainFailure::Blob)
}

/// Fails where it is known that the chain cannot be followed, without reading all that is sound in it once more.
async fn look_ahead(reader: &MetadataReader, half: Half, links: &[ChainLink]) -> ChainResult<()> {
    let known = reader.known_maps();
    let Some(bad) = links.iter().position(|link| known.is_bad(half, link)) else { return Ok(()) };
    for link in &links[..=bad] {
        if let Some(error) = known.misfit(half, link) {
            return Err(ChainFailure::Broken(error));
        }
        let is_keyframe = match (known.is_keyframe(half, half.object_of(link)), half) {
            (Some(is_keyframe), _) => is_keyframe,
            (None, Half::Map) => read_map(reader, link).await?.kind != PageMapKind::Delta,
            (None, Half::Hashes) => {
                matches!(read_hashes(reader, link).await?, PageHashObject::Keyframe(_))
            }
        };
        if is_keyframe {
            // The bad one lies before it, and is not needed.
            return Ok(());
        }
    }
    Ok(())
}

/// A materialised page map, and what its chain weighs.
#[derive(Debug)]
pub struct LoadedMap {
    /// The map.
    pub map: PageMap,
    /// Every page-map object of the chain, keyframe first.
    pub objects: Vec<BlobId>,
}

/// Reads the objects of a chain newest first until a keyframe, and applies them oldest first.
pub async fn load_map(reader: &MetadataReader, links: &[ChainLink]) -> ChainResult<LoadedMap> {
    look_ahead(reader, Half::Map, links).await?;
    let mut deltas = Vec::new();
    let objects: Vec<_> = links.iter().map(async |link| (link, read_map(reader, link).await)).collect();
    let mut objects = pin!(stream::iter(objects).buffered(READS_IN_FLIGHT));
    while let Some((link, object)) = objects.next().await {
        let object = object?;
        if object.kind == PageMapKind::Delta {
            deltas.push((link, object));
            continue;
        }
        let broken = |link, error| misfit(reader, Half::Map, link, error);
        let mut map = PageMap::from_keyframe(&object).map_err(|error| broken(link, error))?;
        let mut objects = vec![link.page_map];
        for (link, delta) in deltas.into_iter().rev() {
            map.apply(&delta).map_err(|error| broken(link, error))?;
            objects.push(link.page_map);
        }
        return Ok(LoadedMap { map, objects });
    }
    Err(no_keyframe("page-map"))
}

/// The same for page hashes.
pub async fn load_hashes(reader: &MetadataReader, links: &[ChainLink]) -> ChainResult<PageHashes> {
    look_ahead(reader, Half::Hashes, links).await?;
    let mut deltas = Vec::new();
    let objects: Vec<_> = links.iter().map(async |link| (link, read_hashes(reader, link).await)).collect();
    let mut objects = pin!(stream::iter(objects).buffered(READS_IN_FLIGHT));
    while let Some((link, object)) = objects.next().await {
        match object? {
            PageHashObject::Delta(delta) => deltas.push((link, delta)),
            PageHashObject::Keyframe(mut hashes) => {
                for (link, delta) in deltas.into_iter().rev() {
                    hashes.apply(&delta).map_err(|error| misfit(reader, Half::Hashes, link, error))?;
                }
                return Ok(hashes);
            }
        }
    }
    Err(no_keyframe("page-hash"))
}

/// Reads both chains of a snapshot.
pub async fn load_both(reader: &MetadataReader, links: &[ChainLink]) -> ChainResult<(PageMap, PageHashes)> {
    // One that is known to be of no use spares the reading of the other.
    look_ahead(reader, Half::Map, links).await?;
    look_ahead(reader, Half::Hashes, links).await?;
    let (map, hashes) = tokio::join!(load_map(reader, links), load_hashes(reader, links));
    Ok((map?.map, hashes?))
}

/// Makes, and remembers, the failure of an object that does not fit what it builds on.
fn misfit(
    reader: &MetadataReader,
    half: Half,
    link: &ChainLink,
    error: crate::format::FormatError,
) -> ChainFailure {
    let message = format!("{} {} does not fit its chain", half.word(), half.object_of(link));
    let error = format_error(message, error);
    reader.known_maps().learn_misfit(half, link, &error);
    ChainFailure::Broken(error)
}

fn no_keyframe(what: &str) -> ChainFailure {
    let message = format!("the {what} chain ends without a keyframe");
    ChainFailure::Broken(Error::new(ErrorKind::Damaged, message))
}

/// The materialised maps of one snapshot.
#[derive(Debug)]
pub struct Maps {
    /// Where each page lies.
    pub map: PageMap,
    /// What each page must hash to.
    pub hashes: Arc<PageHashes>,
    /// The objects that were read for this snapshot.
    pub objects: Vec<BlobId>,
    /// The runs that its parent's maps did not have; `None` for all of them.
    pub changed: Option<Vec<Run>>,
}

/// Maps of snapshot after snapshot, each built on the one before where that is its parent, so that the
/// work grows with what snapshots add and not with their number.
#[derive(Debug, Default)]
pub struct RollingMaps {
    current: Option<(String, Maps)>,
}

impl RollingMaps {
    /// Returns the maps of the snapshot, which need not fit its manifest yet.
    pub async fn advance(
        &mut self,
        manifests: &mut Manifests<'_>,
        reader: &MetadataReader,
        manifest: &Manifest,
    ) -> ChainResult<&Maps> {
        let before = self.current.take();
        let links = links(manifests, manifest).await?;
        let on_top = before.filter(|(parent, _)| links.len() > 1 && *parent == manifest.parent_id);
        let applied = match on_top {
            Some((_, maps)) => apply(reader, manifest, &links[0], maps).await?,
            None => None,
        };
        let maps = match applied {
            Some(maps) => maps,
            None => {
                let (map, hashes) = load_both(reader, &links).await?;
                let hashes = Arc::new(hashes);
                let objects = links.iter().flat_map(|link| [link.page_map, link.page_hashes]).collect();
                Maps { map, hashes, objects, changed: None }
            }
        };
        Ok(&self.current.insert((manifest.snapshot_id.clone(), maps)).1)
    }

    /// Forgets the maps at hand; the next snapshot is read from its keyframe on.
    pub fn reset(&mut self) {
        self.current = None;
    }
}

/// Applies one link to its parent's maps, if both of its objects are deltas.
async fn apply(
    reader: &MetadataReader,
    manifest: &Manifest,
    link: &ChainLink,
    mut maps: Maps,
) -> ChainResult<Option<Maps>> {
    let (map, hashes) = tokio::join!(read_map(reader, link), read_hashes(reader, link));
    let (map, hashes) = (map?, hashes?);
    let (PageMapKind::Delta, PageHashObject::Delta(hashes)) = (map.kind, hashes) else { return Ok(None) };
    maps.map.apply(&map).map_err(|error| misfit(reader, Half::Map, link, error))?;
    Arc::make_mut(&mut maps.hashes)
        .apply(&hashes)
        .map_err(|error| misfit(reader, Half::Hashes, link, error))?;
    // Before the pages of its runs are counted one by one: a few bytes of a run can claim any number.
    check_geometry(manifest, &maps.map, &maps.hashes).map_err(ChainFailure::Broken)?;
    let mut pages: Vec<u64> = hashes.changes.iter().map(|(page, _)| *page).collect();
    pages.extend(map.runs.iter().flat_map(|run| run.start_page..run.end_page()));
    pages.sort_unstable();
    pages.dedup();
    maps.changed = Some(pages.into_iter().filter_map(|page| maps.map.page(page)).collect());
    maps.objects = vec![link.page_map, link.page_hashes];
    Ok(Some(maps))
}

/// Checks that the maps are of a database that SQLite can have, that both have the geometry of the manifest
/// and that every page is mapped.
pub fn check_geometry(manifest: &Manifest, map: &PageMap, hashes: &PageHashes) -> Result<()> {
    let page_size = manifest.db.page_size;
    if !PAGE_SIZES.contains(&page_size) || !page_size.is_power_of_two() {
        let message = format!("the page size is {page_size}, which no SQLite database has");
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    let expected = Geometry { page_size, page_count: manifest.db.page_count };
    let of_hashes = Geometry { page_size: hashes.page_size, page_count: hashes.page_count() };
    for (what, found) in [("page map", map.geometry()), ("page-hash map", of_hashes)] {
        if found != expected {
            let message = format!("the {what} has {found}, the manifest says {expected}");
            return Err(Error::new(ErrorKind::Damaged, message));
        }
    }
    map.coverage().map_err(|error| format_error("the page map has a gap", error))
}
