//! The parent of a capture, and whether its chain goes on or a new one begins (section 4).

use std::path::Path;

use super::known::{KnownBlobs, is_unusable};
use super::pages::CapturedPages;
use super::sink::BlobSink;
use crate::archive::page_cache;
use crate::engine::chain::{self, ChainFailure, ChainLink, LoadedMap, Manifests};
use crate::engine::metadata::MetadataReader;
use crate::error::lift::format_error;
use crate::format::{
    BlobId, Geometry, Manifest, PageHash, PageHashDelta, PageHashes, PageMapKind, PageMapObject, RepoConfig,
};
use crate::progress::Progress;
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// A chain of this depth ends: at most 29 deltas follow a keyframe.
const DEPTH_MAX: i64 = 30;

/// The newest snapshot, and its page maps where a capture can build on them.
#[derive(Default)]
pub struct ParentState {
    manifest: Option<Manifest>,
    maps: Option<ParentMaps>,
}

struct ParentMaps {
    /// Until the scan takes them.
    hashes: Vec<PageHash>,
    page_size: u32,
    /// Deltas from its keyframe to the parent, as found; a manifest may claim anything.
    depth: i64,
    links: Vec<ChainLink>,
    loaded: LoadedMap,
    keyframe_stored_bytes: u64,
    deltas_stored_bytes: u64,
}

impl ParentState {
    /// Loads the state of the newest snapshot. A chain that is damaged, or that needs a blob whose pack is
    /// not sound, is not built upon: the capture then stores every page that is not stored elsewhere, and a
    /// pack in which a blob of the chain could not be read is relied on no more.
    pub async fn load(
        repository: &Repository,
        reader: &MetadataReader,
        known: &KnownBlobs,
        snapshots: Vec<Manifest>,
        cache: &Path,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let Some(parent) = snapshots.last().cloned() else { return Ok(Self::default()) };
        if parent.metadata.is_some() {
            return Ok(Self { manifest: Some(parent), maps: None });
        }
        let mut manifests = Manifests::new(repository, snapshots);
        let maps = match ParentMaps::load(repository, reader, known, &mut manifests, &parent, cache).await {
            Ok(maps) => Some(maps),
            Err(failure) if is_unusable(failure.kind()) => {
                if let ChainFailure::Blob(failure) = &failure {
                    known.distrust(failure);
                }
                let error = Error::from(failure);
                progress.remark(&format!(
                    "the page maps of snapshot {} cannot be built upon, the whole database is captured: {}",
                    parent.snapshot_id,
                    error.chain()
                ));
                None
            }
            Err(failure) => return Err(failure.into()),
        };
        Ok(Self { manifest: Some(parent), maps })
    }

    /// Tells the log what the capture builds on.
    pub fn tell(&self) {
        let parent = self.manifest.as_ref().map(|manifest| manifest.snapshot_id.as_str());
        match (&self.maps, parent) {
            (Some(maps), parent) => {
                let depth = maps.depth;
                tracing::info!(
                    target: "packvault::decision",
                    parent,
                    depth,
                    "the newest snapshot is built on"
                );
            }
            (None, Some(parent)) => {
                tracing::info!(
                    target: "packvault::decision",
                    parent,
                    "the newest snapshot is the parent, and its page maps are not built on"
                );
            }
            (None, None) => {
                tracing::info!(target: "packvault::decision", "there is no snapshot to build on");
            }
        }
    }

    /// Returns the parent's manifest.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Returns the snapshots that a chain built on the parent goes through.
    pub fn chain(&self) -> Vec<String> {
        let links = self.maps.iter().flat_map(|maps| &maps.links);
        links.map(|link| link.snapshot.clone()).collect()
    }

    /// Hands over the hashes that a scan with this page size is compared with.
    pub fn take_hashes(&mut self, page_size: u32) -> Vec<PageHash> {
        let maps = self.maps.as_mut().filter(|maps| maps.page_size == page_size);
        maps.map(|maps| std::mem::take(&mut maps.hashes)).unwrap_or_default()
    }

    /// Reads the hashes back that a scan was handed, for the next one. Without them it finds every page changed.
    pub async fn reload_hashes(&mut self, reader: &MetadataReader) {
        let Some(maps) = self.maps.as_mut().filter(|maps| maps.hashes.is_empty()) else { return };
        if let Ok(hashes) = chain::load_hashes(reader, &maps.links).await {
            maps.hashes = hashes.hashes;
        }
    }

    fn maps_for(&self, page_size: u32) -> Option<&ParentMaps> {
        self.maps.as_ref().filter(|maps| maps.page_size == page_size)
    }
}

impl ParentMaps {
    async fn load(
        repository: &Repository,
        reader: &MetadataReader,
        known: &KnownBlobs,
        manifests: &mut Manifests<'_>,
        parent: &Manifest,
        cache: &Path,
    ) -> std::result::Result<Self, ChainFailure> {
        let links = chain::links(manifests, parent).await?;
        let loaded = chain::load_map(reader, &links).await?;
        let hashes = match page_cache::read(cache, repository.config().repo_id.as_str(), parent) {
            Some(hashes) => hashes,
            None => chain::load_hashes(reader, &links).await?,
        };
        chain::check_geometry(parent, &loaded.map, &hashes).map_err(ChainFailure::Broken)?;
        let chain_objects = links.iter().flat_map(|link| [link.page_map, link.page_hashes]);
        let used = loaded.map.runs().map(|run| loaded.map.blob_of(run));
        if let Some(lost) = chain_objects.chain(used).find(|id| !known.contains(id)) {
            let message = format!("blob {lost} lies in no sound pack");
            return Err(ChainFailure::Broken(Error::new(ErrorKind::Damaged, message)));
        }
        let stored = |id: &BlobId| known.stored_bytes(id).unwrap_or_default();
        let keyframe_stored_bytes = loaded.objects.first().map(stored).unwrap_or_default();
        // An object that recurs in the chain counts each time.
        let deltas_stored_bytes = loaded.objects.iter().skip(1).map(stored).sum();
        Ok(Self {
            hashes: hashes.hashes,
            page_size: hashes.page_size,
            depth: links.len() as i64 - 1,
            links,
            loaded,
            keyframe_stored_bytes,
            deltas_stored_bytes,
        })
    }

    /// The rules for a keyframe, in their order; only page-map objects count.
    fn wants_keyframe(&self, depth: i64) -> Option<&'static str> {
        if depth >= DEPTH_MAX {
            Some("the chain is as long as it may be")
        } else if self.deltas_stored_bytes > self.keyframe_stored_bytes {
            Some("the deltas take more room than their keyframe")
        } else {
            None
        }
    }
}

/// The map objects of a new snapshot.
#[derive(Debug)]
pub struct StoredMaps {
    /// The page-map object.
    pub page_map: BlobId,
    /// The page-hash object.
    pub page_hashes: BlobId,
    /// How many steps back the keyframe lies.
    pub depth: i64,
    /// The page-hash keyframe, where one was stored.
    keyframe: Option<Vec<u8>>,
}

impl StoredMaps {
    /// Keeps the page hashes for the next capture; only those of a keyframe are ever used (section 9.3).
    /// A cache that cannot be written costs the next capture a few reads, so that is no failure.
    pub fn write_cache(&self, cache: &Path, config: &RepoConfig, manifest: &Manifest) {
        if let Some(keyframe) = &self.keyframe {
            let _ = page_cache::write(cache, config.repo_id.as_str(), &manifest.snapshot_id, keyframe);
        }
    }
}

fn tell_keyframe(why: &str) {
    tracing::info!(target: "packvault::decision", why, "the page map is a keyframe");
}

/// Stores the page map and the page hashes of a scan.
pub async fn store_maps(
    sink: &mut BlobSink,
    parent: &ParentState,
    geometry: Geometry,
    captured: CapturedPages,
) -> Result<StoredMaps> {
    let Geometry { page_size, page_count } = geometry;
    let scan = |kind, captured: &CapturedPages| PageMapObject {
        kind,
        page_size,
        page_count,
        blobs: captured.blobs.clone(),
        runs: captured.runs.clone(),
    };
    let (map, depth) = match parent.maps_for(page_size) {
        None => {
            tell_keyframe("no page map with pages of this size is there to build on");
            (scan(PageMapKind::Keyframe, &captured), 0)
        }
        Some(maps) if let Some(why) = maps.wants_keyframe(maps.depth + 1) => {
            tell_keyframe(why);
            let mut map = maps.loaded.map.clone();
            let unusable = |error| format_error("cannot build the page map of the new snapshot", error);
            map.apply(&scan(PageMapKind::Delta, &captured)).map_err(unusable)?;
            map.coverage().map_err(unusable)?;
            (map.to_keyframe(), 0)
        }
        Some(maps) => (scan(PageMapKind::Delta, &captured), maps.depth + 1),
    };
    let page_map = sink.store(map.encode()).await?;
    if depth > 0 {
        let changes = captured.changed().map(|page| (page, captured.hashes[page as usize])).collect();
        let delta = PageHashDelta { page_size, page_count, changes };
        let page_hashes = sink.store(delta.encode()).await?;
        return Ok(StoredMaps { page_map, page_hashes, depth, keyframe: None });
    }
    let keyframe = PageHashes { page_size, hashes: captured.hashes }.encode_keyframe();
    let page_hashes = sink.store(keyframe.clone()).await?;
    Ok(StoredMaps { page_map, page_hashes, depth, keyframe: Some(keyframe) })
}
