//! Whether attachments can be put where the database of each snapshot expects them (section 12.3).
//!
//! The reference engine finds that out at restore only. Here the database is built aside, in a nameless
//! file that moves from snapshot to snapshot by the pages that change, and asked within bounds. A writer gives a snapshot
//! version 1 only if every attachment has its usual path, which nothing stands in the way of; so those
//! snapshots are built only on request.

use std::collections::HashMap;
use std::sync::Arc;

use super::problem;
use crate::archive::bounds::{self, Bounds};
use crate::archive::profile::Profile;
use crate::archive::scratch::Scratch;
use crate::engine::chain::{self, Manifests, RollingMaps};
use crate::engine::metadata::MetadataReader;
use crate::engine::page_writer::{PageWriter, into_file};
use crate::engine::pipeline::Pipeline;
use crate::engine::report::VerifyProblem;
use crate::engine::{aside, bulk, content_paths};
use crate::error::lift::io_error;
use crate::format::{BlobId, Manifest, Run};
use crate::profiles;
use crate::progress::{Stage, Unit};
use crate::{Error, ErrorKind, Result};

/// The version from which on attachments may have other paths than usual.
const NAMESPACED_VERSION: i64 = 2;

/// Checks every chosen snapshot that needs it and has maps.
pub async fn check(
    pipeline: &Pipeline,
    manifests: Manifests<'_>,
    reader: &MetadataReader,
    profile: &Arc<dyn Profile>,
    selected: &[Manifest],
    every_version: bool,
) -> Result<Vec<VerifyProblem>> {
    let context = pipeline.context();
    let wanted: Vec<&Manifest> = selected
        .iter()
        .filter(|manifest| manifest.metadata.is_none())
        .filter(|manifest| every_version || manifest.format_version >= NAMESPACED_VERSION)
        .collect();
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    context.progress.begin(Stage::Paths, Unit::Items, Some(wanted.len() as u64));
    let mut rolling = Rolling { pipeline, reader, manifests, maps: RollingMaps::default(), scratch: None };
    let mut problems = Vec::new();
    for manifest in wanted {
        context.cancel.check()?;
        match rolling.problems_of(manifest, profile).await {
            Ok(found) => {
                let id = &manifest.snapshot_id;
                problems.extend(found.iter().map(|detail| problem(id, "attachment paths", detail)));
            }
            // A disk of ours without room, or one that cannot be written to, says nothing about the snapshot.
            Err(error) if super::is_fatal(&error) || error.obstacle().is_some() => {
                return Err(error);
            }
            // Damage was reported by the passes before; a database that cannot be built or asked is new.
            Err(error) => {
                problems.push(problem(&manifest.snapshot_id, "attachment paths", &error.chain()));
                rolling.maps.reset();
            }
        }
        context.progress.advance(Stage::Paths, 1);
    }
    context.progress.end(Stage::Paths);
    Ok(problems)
}

struct Rolling<'a> {
    pipeline: &'a Pipeline,
    reader: &'a MetadataReader,
    manifests: Manifests<'a>,
    maps: RollingMaps,
    /// The file, from the first snapshot on; gone where a question was given up.
    scratch: Option<Scratch>,
}

impl Rolling<'_> {
    async fn problems_of(&mut self, manifest: &Manifest, profile: &Arc<dyn Profile>) -> Result<Vec<String>> {
        let listed = self.listed(manifest).await?;
        let scratch = self.scratch().await?;
        self.build(manifest, &scratch).await?;
        let profile = profiles::of_stats(&manifest.stats, profile)?;
        bounds::grant_memory(content_paths::memory_for(listed.len() as u64));
        let bounds = Bounds::of_scan(&self.pipeline.context().cancel, manifest.database_bytes());
        let paths_max = content_paths::most(manifest);
        let asked = aside::run(&bounds, "read the paths of attachments", move |bounds| {
            let mut scratch = scratch;
            let (connection, shown) = (scratch.connection(), scratch.shown());
            let mut connection = connection.map_err(Error::unanswered)?;
            let expected = bounds
                .within(&mut connection, |connection| profile.content_paths(connection, &shown, paths_max));
            Ok((scratch, expected))
        });
        let (scratch, expected) = asked.await?;
        self.scratch = Some(scratch);
        let expected = expected?;
        Ok(content_paths::check(&listed, &expected))
    }

    /// Returns the file; another where the last one was given up with a question.
    async fn scratch(&mut self) -> Result<Scratch> {
        if let Some(scratch) = self.scratch.take() {
            return Ok(scratch);
        }
        self.maps.reset();
        let place = self.pipeline.context().spool.clone();
        self.pipeline.run(move |_| Scratch::new(&place).map_err(Error::unanswered)).await
    }

    async fn listed(&self, manifest: &Manifest) -> Result<HashMap<BlobId, u64>> {
        let lists = manifest.lists().map_err(|error| {
            Error::caused(ErrorKind::Damaged, "cannot read the names of the attachment lists", error)
        })?;
        let mut listed = HashMap::new();
        self.reader.expect(lists.iter().copied());
        for list in lists {
            let entries = self.reader.attachment_list(&list).await?;
            listed.extend(entries.into_iter().map(|entry| (entry.id, entry.bytes)));
        }
        Ok(listed)
    }

    /// Turns the temporary database into that of the snapshot.
    async fn build(&mut self, manifest: &Manifest, scratch: &Scratch) -> Result<()> {
        let maps = self.maps.advance(&mut self.manifests, self.reader, manifest).await?;
        chain::check_geometry(manifest, &maps.map, &maps.hashes)?;
        let failed = |error| io_error("write", &scratch.shown(), error).unanswered();
        let file = scratch.writer()?;
        file.set_len(manifest.database_bytes()).map_err(failed)?;
        let every_run: Vec<Run>;
        let runs = match &maps.changed {
            Some(changed) => changed,
            None => {
                every_run = maps.map.runs().copied().collect();
                &every_run
            }
        };
        let put = into_file(file, scratch.shown());
        let watched = (self.pipeline.context().progress.clone(), Stage::Database);
        let writer = PageWriter::new(&maps.map, runs, maps.hashes.clone(), put, watched);
        let blobs = writer.blobs();
        bulk::read(self.pipeline, self.reader.store(), blobs, &Arc::new(writer)).await
    }
}
