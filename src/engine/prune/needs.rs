//! What the snapshots need: every blob that a manifest reaches, forgotten ones included.
//!
//! The blobs are marked in the union of the indexes, so that knowing them takes no further memory. Each object that
//! describes snapshots (maps, lists, trees) is read once. One that cannot be read ends it all: nobody can say what
//! else it would have named.

use std::collections::HashSet;
use std::sync::Arc;

use crate::engine::Context;
use crate::engine::chain::{self, ChainFailure, Manifests, RollingMaps};
use crate::engine::metadata::{BlobResult, MetadataReader};
use crate::engine::pipeline::Pipeline;
use crate::error::lift::format_error;
use crate::format::{BlobId, Manifest};
use crate::progress::{Stage, Unit};
use crate::repo::Repository;
use crate::repo::blobs::{BlobFailure, BlobStore};
use crate::repo::indexes::IndexUnion;
use crate::{Error, ErrorKind, Result};

/// What the snapshots need and what of it is not there.
#[derive(Debug, Default)]
pub struct Needs {
    /// Blobs that no index names.
    pub unnamed: u64,
    /// Blobs that an index names, and that are not where it says.
    pub lost: u64,
    /// The first of either, with what is wrong.
    pub first: Option<Error>,
}

impl Needs {
    /// Tells whether all is there.
    pub fn are_met(&self) -> bool {
        self.unnamed + self.lost == 0
    }

    fn missed(&mut self, error: impl FnOnce() -> Error) {
        self.first.get_or_insert_with(error);
    }
}

/// Marks what the snapshots need, and sees whether it is there.
pub async fn mark(
    repository: &Repository,
    manifests: &[Manifest],
    store: &Arc<BlobStore>,
    pipeline: &Pipeline,
) -> Result<Needs> {
    let (mut needs, _) = walk(repository, manifests, store, pipeline, None).await?;
    find(store, pipeline.context(), &mut needs).await?;
    Ok(needs)
}

/// Returns the snapshots that need the blob, oldest first.
pub async fn of_blob(
    repository: &Repository,
    manifests: &[Manifest],
    store: &Arc<BlobStore>,
    pipeline: &Pipeline,
    blob: BlobId,
) -> Result<Vec<String>> {
    walk(repository, manifests, store, pipeline, Some(blob)).await.map(|(_, reaching)| reaching)
}

/// Goes from every manifest to all that it reaches; returns also which of them reach the wanted blob.
async fn walk(
    repository: &Repository,
    manifests: &[Manifest],
    store: &Arc<BlobStore>,
    pipeline: &Pipeline,
    wanted: Option<BlobId>,
) -> Result<(Needs, Vec<String>)> {
    let context = pipeline.context();
    context.progress.begin(Stage::Structure, Unit::Items, Some(manifests.len() as u64));
    let reader = MetadataReader::new(store.clone(), pipeline.clone());
    let mut walk = Walk {
        reader: &reader,
        union: store.union(),
        manifests: Manifests::new(repository, manifests.iter().cloned()),
        maps: RollingMaps::default(),
        read: HashSet::new(),
        wanted,
        holders: HashSet::new(),
        is_reached: false,
        needs: Needs::default(),
    };
    let mut reaching = Vec::new();
    for manifest in manifests {
        context.cancel.check()?;
        walk.snapshot(manifest).await.map_err(|error| unknown(manifest, error))?;
        if std::mem::take(&mut walk.is_reached) {
            reaching.push(manifest.snapshot_id.clone());
        }
        context.progress.advance(Stage::Structure, 1);
    }
    context.progress.end(Stage::Structure);
    Ok((walk.needs, reaching))
}

/// Sees whether every needed blob lies where an index says: by the length of its pack, or else by the pack's footer.
async fn find(store: &Arc<BlobStore>, context: &Context, needs: &mut Needs) -> Result<()> {
    let union = store.union();
    expect_right_places(store, context).await?;
    for placed in union.places().filter(|placed| placed.is_needed) {
        if union.is_sound_claim(placed.claim) {
            continue;
        }
        context.cancel.check()?;
        match store.locate(&placed.id).await {
            Ok(_) => {}
            Err(failure) if failure.error.is_no_finding() => return Err(failure.into()),
            Err(failure) => {
                needs.lost += 1;
                needs.missed(|| failure.into());
            }
        }
    }
    Ok(())
}

/// Refuses where an index is wrong about a needed blob that lies twice: it is read from the place that the index says,
/// and so the other one, which is right, would be removed. Lengths cannot tell, so the footers are asked.
async fn expect_right_places(store: &Arc<BlobStore>, context: &Context) -> Result<()> {
    let union = store.union();
    let twice = union.placed_twice().map(|(id, _)| (store.pack_of(id), *id));
    let mut twice: Vec<_> = twice.filter(|(_, id)| union.is_needed(id) && union.is_sound(id)).collect();
    // By pack, so that each footer is read once.
    twice.sort_unstable();
    for (_, id) in twice {
        context.cancel.check()?;
        let is_wrong = match store.locate(&id).await {
            Ok(_) => store.outranking(&id).is_some(),
            Err(failure) if failure.error.is_no_finding() => return Err(failure.into()),
            Err(_) => true,
        };
        if is_wrong {
            let message = format!(
                "nothing was pruned: an index is wrong about where blob {id} lies; run `packvault repair index`, and \
                 prune again"
            );
            return Err(Error::new(ErrorKind::Damaged, message));
        }
    }
    Ok(())
}

fn unknown(manifest: &Manifest, error: Error) -> Error {
    if error.is_no_finding() {
        return error;
    }
    let message =
        format!("nothing was pruned, for nobody can say what snapshot {} needs", manifest.snapshot_id);
    Error::caused(error.kind(), message, error)
}

struct Walk<'a> {
    reader: &'a MetadataReader,
    union: &'a IndexUnion,
    manifests: Manifests<'a>,
    maps: RollingMaps,
    /// The lists and trees that were read.
    read: HashSet<BlobId>,
    /// A blob of which somebody asks who needs it.
    wanted: Option<BlobId>,
    /// The lists and trees that name it.
    holders: HashSet<BlobId>,
    /// Whether the snapshot that is walked now needs it.
    is_reached: bool,
    needs: Needs,
}

impl Walk<'_> {
    async fn snapshot(&mut self, manifest: &Manifest) -> Result<()> {
        let format = |error| format_error("it names no blob", error);
        match &manifest.metadata {
            Some(metadata) => self.need(&metadata.blob().map_err(format)?),
            None => self.maps(manifest).await?,
        }
        for artifact in &manifest.auxiliary {
            self.need(&artifact.blob().map_err(format)?);
        }
        for list in manifest.lists().map_err(format)? {
            if self.is_new(list) {
                let entries = known(self.reader.attachment_list(&list).await)?;
                entries.iter().for_each(|entry| self.need(&entry.id));
                self.hold(list, entries.iter().map(|entry| entry.id));
            }
            self.is_reached |= self.holders.contains(&list);
        }
        if let Some(tree) = manifest.extras_tree().map_err(format)? {
            if self.is_new(tree) {
                let entries = known(self.reader.extras_tree(&tree).await)?;
                entries.iter().for_each(|entry| self.need(&entry.blob));
                self.hold(tree, entries.iter().map(|entry| entry.blob));
            }
            self.is_reached |= self.holders.contains(&tree);
        }
        Ok(())
    }

    /// Remembers that a list or a tree names the wanted blob, if it does.
    fn hold(&mut self, object: BlobId, mut named: impl Iterator<Item = BlobId>) {
        if self.wanted.is_some_and(|wanted| named.any(|id| id == wanted)) {
            self.holders.insert(object);
        }
    }

    async fn maps(&mut self, manifest: &Manifest) -> Result<()> {
        // Both halves are read whole: what cannot be restored is found before anything is removed.
        let mut maps = std::mem::take(&mut self.maps);
        let advanced = maps.advance(&mut self.manifests, self.reader, manifest).await;
        let now = advanced.map_err(|failure: ChainFailure| Error::from(failure))?;
        chain::check_geometry(manifest, &now.map, &now.hashes)?;
        let own = [manifest.page_map(), manifest.page_hash_map()];
        for id in own {
            self.need(&id.map_err(|error| format_error("it names no map", error))?);
        }
        now.objects.iter().for_each(|id| self.need(id));
        now.map.blobs().for_each(|id| self.need(id));
        self.maps = maps;
        Ok(())
    }

    fn is_new(&mut self, object: BlobId) -> bool {
        self.need(&object);
        self.read.insert(object)
    }

    fn need(&mut self, id: &BlobId) {
        self.is_reached |= self.wanted.as_ref() == Some(id);
        if !self.union.need(id) {
            self.needs.unnamed += 1;
            let unnamed = || Error::new(ErrorKind::Damaged, format!("no index names blob {id}"));
            self.needs.missed(unnamed);
        }
    }
}

fn known<T>(read: BlobResult<T>) -> Result<T> {
    read.map_err(|failure: BlobFailure| failure.into())
}
