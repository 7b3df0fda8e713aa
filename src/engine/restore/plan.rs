//! What a restore needs, read and checked before the target is touched.

use std::collections::HashMap;
use std::sync::Arc;

use super::part::{self, Part};
use crate::archive::profile::{Profile, database_files};
use crate::engine::Selection;
use crate::engine::chain::{self, Manifests};
use crate::engine::inside::pattern::Patterns;
use crate::engine::metadata::MetadataReader;
use crate::error::lift::format_error;
use crate::format::{BlobId, ExtrasEntry, Manifest, PageHash, PageHashes, PageMap, paths};
use crate::profiles;
use crate::repo::Repository;
use crate::repo::snapshots::SnapshotFiles;
use crate::{Error, ErrorKind, Result};

/// What a file takes on a disk beyond its length, at the most.
const BLOCK_BYTES: u64 = 4096;
/// The part of a database that its rollback journal may take.
const JOURNAL_SHARE: u64 = 8;
/// What is needed besides, and cannot be known.
const FREE_BYTES: u64 = 1 << 20;

/// Everything about one snapshot but the content of its blobs.
#[derive(Debug)]
pub struct Plan {
    /// The snapshot.
    pub manifest: Manifest,
    /// What is known of its application.
    pub profile: Arc<dyn Profile>,
    /// The pages of its database; none where no page is needed.
    pub pages: Option<PlannedPages>,
    /// Each attachment that is restored, with its size.
    pub listed: HashMap<BlobId, u64>,
    /// The extra files that are restored.
    pub extras: Vec<ExtrasEntry>,
    /// Artifacts that are left out.
    pub left_out: Vec<String>,
    /// What is not restored, where not all is.
    pub part: Option<Part>,
}

/// The pages of a database.
#[derive(Debug, Clone)]
pub struct PlannedPages {
    /// Where each lies.
    pub map: PageMap,
    /// What each must hash to.
    pub hashes: Arc<PageHashes>,
}

/// What of a snapshot is restored.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What matches is; without patterns all is.
    pub only: Option<&'a Patterns>,
    /// Whether artifacts that nobody here understands are left out.
    pub without_auxiliary: bool,
}

/// What an attachment takes in the tables of a restore: its entry in the plan, its path and place.
const ATTACHMENT_TABLE_BYTES: usize = 320;

impl Plan {
    /// Returns how many bytes come back, each attachment counted once.
    pub fn restored_bytes(&self) -> u64 {
        let files = self.listed.values().copied().chain(self.extras.iter().map(|entry| entry.size));
        files.fold(self.database_bytes(), u64::saturating_add)
    }

    /// Returns the pages of the database if it is restored.
    pub fn database(&self) -> Option<&PlannedPages> {
        self.pages.as_ref().filter(|_| self.part.as_ref().is_none_or(|part| part.has_database))
    }

    /// Returns the length of the database if it is restored.
    pub fn database_bytes(&self) -> u64 {
        self.database().map_or(0, |_| self.manifest.database_bytes())
    }

    /// Returns how much room a restore is expected to take: whole blocks for every file, and what SQLite keeps beside the
    /// database while it is settled.
    pub fn needed_bytes(&self) -> u64 {
        let files = (self.listed.len() + self.extras.len()) as u64;
        let beside = self.database_bytes() / JOURNAL_SHARE;
        let blocks = files.saturating_mul(BLOCK_BYTES);
        self.restored_bytes().saturating_add(beside).saturating_add(blocks).saturating_add(FREE_BYTES)
    }

    /// Returns about how many bytes of memory a restore keeps to carry the plan out.
    pub fn table_bytes(&self) -> u64 {
        let pages = self.pages.as_ref().map_or(0, |pages| pages.hashes.hashes.len());
        let hashes = pages * size_of::<PageHash>();
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
    asked: Asked<'_>,
) -> Result<Plan> {
    let manifest = select(repository, files, selection).await?;
    let profile = profiles::of_stats(&manifest.stats, profile)?;
    let plan = match asked.only {
        None => whole(repository, reader, files, (manifest, profile), asked.without_auxiliary).await?,
        Some(patterns) => part_of(repository, reader, files, (manifest, profile), patterns).await?,
    };
    let pages = plan.database().into_iter().flat_map(|pages| pages.map.blobs());
    let needed = pages.chain(plan.listed.keys()).chain(plan.extras.iter().map(|entry| &entry.blob));
    for id in needed {
        if reader.store().pack_of(id).is_none() {
            let id = format!("snapshot {} needs blob {id}", plan.manifest.snapshot_id);
            return Err(Error::new(ErrorKind::Damaged, format!("{id}, which no index names")));
        }
    }
    Ok(plan)
}

async fn whole(
    repository: &Repository,
    reader: &MetadataReader,
    files: &SnapshotFiles,
    (manifest, profile): (Manifest, Arc<dyn Profile>),
    without_auxiliary: bool,
) -> Result<Plan> {
    expect_pages(&manifest)?;
    let left_out = check_auxiliary(reader, profile.as_ref(), &manifest, without_auxiliary).await?;
    let pages = Some(pages(repository, reader, files, &manifest).await?);
    let listed = listed(reader, &manifest).await?;
    let extras = extras(reader, &manifest, &profile.database_name()).await?;
    Ok(Plan { manifest, profile, pages, listed, extras, left_out, part: None })
}

/// Plans what matches. What nobody asked for is not looked at, so that it may be damaged.
async fn part_of(
    repository: &Repository,
    reader: &MetadataReader,
    files: &SnapshotFiles,
    (manifest, profile): (Manifest, Arc<dyn Profile>),
    patterns: &Patterns,
) -> Result<Plan> {
    expect_contents(reader, &manifest);
    let mut listed = listed(reader, &manifest).await?;
    let mut extras = extras(reader, &manifest, &profile.database_name()).await?;
    let part = part::choose(patterns, (&manifest, &profile.database_name()), &mut listed, &mut extras)?;
    // Where attachments belong, the database says.
    let needs_pages = part.has_database || (!listed.is_empty() && manifest.metadata.is_none());
    let pages = match needs_pages {
        true => Some(pages(repository, reader, files, &manifest).await?),
        false => None,
    };
    let left_out = manifest.auxiliary.iter().map(|artifact| artifact.name.clone()).collect();
    Ok(Plan { manifest, profile, pages, listed, extras, left_out, part: Some(part) })
}

fn expect_pages(manifest: &Manifest) -> Result<()> {
    let Some(metadata) = &manifest.metadata else { return Ok(()) };
    let message = format!(
        "snapshot {} holds its database as portable metadata ({}), which only the application that wrote it can \
         rebuild",
        manifest.snapshot_id, metadata.format
    );
    Err(Error::new(ErrorKind::Unsupported, message))
}

async fn pages(
    repository: &Repository,
    reader: &MetadataReader,
    files: &SnapshotFiles,
    manifest: &Manifest,
) -> Result<PlannedPages> {
    let steps = usize::try_from(manifest.db.map_chain_depth).unwrap_or_default().min(chain::STEPS_MAX);
    let before = repository.load_snapshots_before(files, &manifest.snapshot_id, steps).await?;
    let mut manifests = Manifests::new(repository, before.into_iter().chain([manifest.clone()]));
    let links = chain::links(&mut manifests, manifest).await?;
    expect_contents(reader, manifest);
    let (map, hashes) = chain::load_both(reader, &links).await?;
    chain::check_geometry(manifest, &map, &hashes)?;
    Ok(PlannedPages { map, hashes: Arc::new(hashes) })
}

/// Finds the snapshot. The newest is the one whose name is the last of those that were not forgotten; no other
/// manifest needs to be read.
async fn select(repository: &Repository, files: &SnapshotFiles, selection: Selection) -> Result<Manifest> {
    let name = match &selection {
        Selection::One(id) => id.as_str(),
        Selection::Latest => files.listed().next_back().ok_or_else(|| {
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

/// Reads each attachment with its size, none twice.
pub async fn listed(reader: &MetadataReader, manifest: &Manifest) -> Result<HashMap<BlobId, u64>> {
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

/// Reads the extra files, whose paths are checked: each can lie where it says, beside the others and the database.
pub async fn extras(
    reader: &MetadataReader,
    manifest: &Manifest,
    database: &str,
) -> Result<Vec<ExtrasEntry>> {
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
