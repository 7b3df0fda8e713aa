//! What a restore needs, read and checked before the target is touched.

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::profile::{Profile, database_files};
use crate::engine::Selection;
use crate::engine::chain::{self, Manifests};
use crate::engine::metadata::MetadataReader;
use crate::format::{BlobId, ExtrasEntry, Manifest, PageHash, PageHashes, PageMap, paths};
use crate::profiles;
use crate::repo::Repository;
use crate::repo::indexes::format_error;
use crate::repo::snapshots::SnapshotFiles;
use crate::{Error, ErrorKind, Result};

/// Everything about one snapshot but the content of its blobs.
#[derive(Debug)]
pub struct Plan {
    /// The snapshot.
    pub manifest: Manifest,
    /// What is known of its application.
    pub profile: Arc<dyn Profile>,
    /// Where each page lies.
    pub map: PageMap,
    /// What each page must hash to.
    pub hashes: Arc<PageHashes>,
    /// Each attachment with its size.
    pub listed: HashMap<BlobId, u64>,
    /// The extra files.
    pub extras: Vec<ExtrasEntry>,
    /// Artifacts that are left out on request.
    pub left_out: Vec<String>,
}

/// What an attachment takes in the tables of a restore: its entry in the plan, its path and place.
const ATTACHMENT_TABLE_BYTES: usize = 320;

impl Plan {
    /// Returns about how many bytes of memory a restore keeps to carry the plan out.
    pub fn table_bytes(&self) -> u64 {
        let hashes = self.hashes.hashes.len() * size_of::<PageHash>();
        (hashes + self.listed.len() * ATTACHMENT_TABLE_BYTES) as u64
    }
}

/// Makes the plan, or says why the snapshot cannot be restored.
pub async fn make(
    repository: &Repository,
    reader: &MetadataReader,
    profile: &Arc<dyn Profile>,
    files: &SnapshotFiles,
    selection: Selection,
    without_auxiliary: bool,
) -> Result<Plan> {
    let manifest = select(repository, files, selection).await?;
    if let Some(metadata) = &manifest.metadata {
        let message = format!(
            "snapshot {} holds its database as portable metadata ({}), which only the application that \
             wrote it can rebuild",
            manifest.snapshot_id, metadata.format
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let profile = profiles::of_stats(&manifest.stats, profile)?;
    let left_out = check_auxiliary(reader, profile.as_ref(), &manifest, without_auxiliary).await?;
    let steps = usize::try_from(manifest.db.map_chain_depth).unwrap_or_default().min(chain::STEPS_MAX);
    let before = repository.load_snapshots_before(files, &manifest.snapshot_id, steps).await?;
    let mut manifests = Manifests::new(repository, before.into_iter().chain([manifest.clone()]));
    let links = chain::links(&mut manifests, &manifest).await?;
    expect_contents(reader, &manifest);
    let (map, hashes) = chain::load_both(reader, &links).await?;
    chain::check_geometry(&manifest, &map, &hashes)?;
    let listed = listed(reader, &manifest).await?;
    let extras = extras(reader, &manifest, &profile.database_name()).await?;
    let needed = map.blobs().chain(listed.keys()).chain(extras.iter().map(|entry| &entry.blob));
    for id in needed {
        if reader.store().pack_of(id).is_none() {
            let message = format!("snapshot {} needs blob {id}, which no index names", manifest.snapshot_id);
            return Err(Error::new(ErrorKind::Damaged, message));
        }
    }
    Ok(Plan { manifest, profile, map, hashes: Arc::new(hashes), listed, extras, left_out })
}

/// Finds the snapshot. The newest is the one whose name is the last; no other manifest needs to be read.
async fn select(repository: &Repository, files: &SnapshotFiles, selection: Selection) -> Result<Manifest> {
    let name = match &selection {
        Selection::One(id) => id.as_str(),
        Selection::Latest => files.names().next_back().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the repository holds no snapshot; there is nothing to restore")
        })?,
        Selection::All => {
            return Err(Error::new(ErrorKind::Usage, "a restore brings one snapshot back, not all"));
        }
    };
    repository.load_listed_snapshot(files, name).await
}

/// Has lists and tree fetched while the chains are read; what is wrong with their names is told later.
fn expect_contents(reader: &MetadataReader, manifest: &Manifest) {
    let tree = manifest.extras_tree().ok().flatten();
    reader.expect(manifest.lists().unwrap_or_default().into_iter().chain(tree));
}

/// Verifies the bytes of every artifact; returns the names of those that are left out.
async fn check_auxiliary(
    reader: &MetadataReader,
    profile: &dyn Profile,
    manifest: &Manifest,
    without_auxiliary: bool,
) -> Result<Vec<String>> {
    let mut left_out = Vec::new();
    for artifact in &manifest.auxiliary {
        let unusable =
            |error| format_error(format!("cannot use the auxiliary artifact {:?}", artifact.name), error);
        let body = reader.read(&artifact.blob().map_err(unusable)?).await?;
        if i64::try_from(body.len()) != Ok(artifact.bytes) {
            let message = format!(
                "the auxiliary artifact {:?} has {} bytes, the manifest says {}",
                artifact.name,
                body.len(),
                artifact.bytes
            );
            return Err(Error::new(ErrorKind::Damaged, message));
        }
        match profile.check_auxiliary(&artifact.name, &artifact.format, &body) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Unsupported && without_auxiliary => {
                left_out.push(artifact.name.clone());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(left_out)
}

async fn listed(reader: &MetadataReader, manifest: &Manifest) -> Result<HashMap<BlobId, u64>> {
    let id = &manifest.snapshot_id;
    let lists = manifest
        .lists()
        .map_err(|error| format_error(format!("cannot read the lists of snapshot {id}"), error))?;
    let mut listed = HashMap::new();
    for list in lists {
        for attachment in reader.attachment_list(&list).await? {
            if listed.insert(attachment.id, attachment.bytes).is_some() {
                let message = format!("attachment {} is listed twice in snapshot {id}", attachment.id);
                return Err(Error::new(ErrorKind::Damaged, message));
            }
        }
    }
    if i64::try_from(listed.len()) != Ok(manifest.attachments.blobs) {
        let message = format!(
            "the lists of snapshot {id} have {} attachments, the manifest says {}",
            listed.len(),
            manifest.attachments.blobs
        );
        return Err(Error::new(ErrorKind::Damaged, message));
    }
    Ok(listed)
}

async fn extras(reader: &MetadataReader, manifest: &Manifest, database: &str) -> Result<Vec<ExtrasEntry>> {
    let unusable = |error| {
        format_error(format!("cannot use the extra files of snapshot {}", manifest.snapshot_id), error)
    };
    let Some(tree) = manifest.extras_tree().map_err(unusable)? else { return Ok(Vec::new()) };
    let mut entries = reader.extras_tree(&tree).await?;
    for entry in &mut entries {
        entry.path = paths::check_extras_path(&entry.path).map_err(unusable)?;
    }
    let database = database_files(database);
    let restored = entries.iter().map(|entry| entry.path.as_str()).chain(database.iter().map(String::as_str));
    match paths::find_conflicts(restored).first() {
        None => Ok(entries),
        Some(conflict) => {
            let message =
                format!("cannot restore the extra files of snapshot {}: {conflict}", manifest.snapshot_id);
            Err(Error::new(ErrorKind::Damaged, message))
        }
    }
}
