//! What is said of a new snapshot: its manifest, and the report of its create.

use std::time::Instant;

use jiff::Timestamp;

use super::CreateOptions;
use super::captured::Capture;
use super::sink::Added;
use crate::archive::pinned::Reading;
use crate::archive::profile::Profile;
use crate::engine::report::{CreateReport, CreatedAttachments, CreatedDatabase, CreatedFiles, PagesRead};
use crate::error::lift::format_error;
use crate::format::{Geometry, Manifest, manifest};
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

/// What the manifest of one snapshot is made of.
pub(super) struct Description<'a> {
    pub(super) options: &'a CreateOptions,
    pub(super) profile: &'a dyn Profile,
    pub(super) parent: Option<&'a Manifest>,
    pub(super) captured: &'a Capture,
    pub(super) added: &'a Added,
}

impl Description<'_> {
    /// Returns the manifest; `level` is the one that was compressed at.
    pub(super) fn manifest(&self, repository: &Repository, level: i32, started: Instant) -> Result<Manifest> {
        let Self { options, profile, parent, captured, added } = self;
        let version = match (&captured.facts.unusual_paths, captured.artifacts.is_empty()) {
            (_, false) => 4,
            (Some(_), true) => 2,
            (None, true) => 1,
        };
        let packs: Vec<String> = added.written.packs.iter().map(ToString::to_string).collect();
        let has_index = !added.written.entries.is_empty();
        let mut manifest = Manifest {
            format_version: version,
            min_reader_version: version,
            app_version: options.writer_version.clone(),
            snapshot_id: String::new(),
            parent_id: parent.map(|parent| parent.snapshot_id.clone()).unwrap_or_default(),
            created_at: created_at(*parent)?,
            options: manifest::Options {
                include_config: options.extras.include_config,
                include_tokens: options.extras.include_tokens,
                zstd_level: i64::from(level),
                tag: options.tag.clone(),
            },
            db: manifest::Database {
                engine: "sqlite".to_owned(),
                page_size: captured.geometry.page_size,
                page_count: captured.geometry.page_count,
                page_map: captured.maps.page_map.to_string(),
                page_hash_map: captured.maps.page_hashes.to_string(),
                map_chain_depth: captured.maps.depth,
            },
            metadata: None,
            auxiliary: captured.artifacts.clone(),
            attachments: manifest::Attachments {
                layout: Some(vec!["loose".to_owned()]),
                rows: captured.facts.attachment_rows as i64,
                blobs: captured.attachments.listed.len() as i64,
                blob_bytes: captured.attachments.total_bytes() as i64,
                recipes: Some(Vec::new()),
                lists: captured.lists.clone(),
            },
            extras_tree: captured.extras.tree.clone().unwrap_or_default(),
            excluded: Some(profile.excluded().iter().map(ToString::to_string).collect()),
            stats: captured.facts.stats.clone(),
            new_packs: if packs.is_empty() { None } else { Some(packs) },
            new_index: if has_index {
                repository.ulids().next().to_string().to_lowercase()
            } else {
                String::new()
            },
            duration_seconds: (started.elapsed().as_secs_f64() * 1e6).round() / 1e6,
            bytes_added: added.bytes as i64,
        };
        manifest.seal_id().map_err(|error| format_error("cannot name the snapshot", error))?;
        Ok(manifest)
    }
}

/// Returns what the user is told of the snapshot.
pub(super) fn report(
    options: &CreateOptions,
    manifest: Manifest,
    captured: &Capture,
    added: &Added,
) -> CreateReport {
    let Geometry { page_size, page_count: pages } = captured.geometry;
    CreateReport {
        id: (!options.dry_run).then(|| manifest.snapshot_id.clone()),
        parent: Some(manifest.parent_id).filter(|parent| !parent.is_empty()),
        created_at: manifest.created_at,
        tag: manifest.options.tag,
        bytes_added: manifest.bytes_added as u64,
        blobs_added: added.blobs,
        packs_added: added.written.packs.len() as u64,
        database: CreatedDatabase {
            bytes: pages * u64::from(page_size),
            pages,
            pages_changed: captured.pages_changed,
            read: match captured.source.reading {
                Reading::File => PagesRead::File,
                Reading::Transaction => PagesRead::Transaction,
            },
            wal_grew_bytes: captured.source.wal_grew_bytes,
            held_seconds: captured.source.held_seconds,
        },
        attachments: CreatedAttachments {
            blobs: captured.attachments.listed.len() as u64,
            bytes: captured.attachments.total_bytes(),
            blobs_added: captured.attachments.blobs_added,
        },
        extras: captured.extras.count,
        seconds: manifest.duration_seconds,
        left_out: captured.extras.left_out.clone(),
        source_problems: captured.source.problems.clone(),
        warnings: captured.findings.sentences(),
        complete: captured.findings.is_complete(),
        databases: captured.extras.databases.clone(),
        files: CreatedFiles {
            attachments_read: captured.attachments.read,
            attachments_unread: captured.attachments.listed.len() as u64 - captured.attachments.read,
            extras_read: captured.extras.read,
            extras_unread: captured.extras.count - captured.extras.read,
        },
        unchanged: false,
    }
}

/// Returns now in whole seconds, or the second after the parent's if the clock is not past it
/// (section 6.6).
fn created_at(parent: Option<&Manifest>) -> Result<String> {
    let now = crate::clock::now()?;
    let second = match parent {
        None => now.as_second(),
        Some(parent) => {
            let time = parent.created_at.parse::<Timestamp>();
            let time = time.map_err(|error| none_after(parent, error))?.as_second();
            now.as_second().max(time + 1)
        }
    };
    let time = Timestamp::from_second(second);
    let time = time.map_err(|error| match parent {
        Some(parent) => none_after(parent, error),
        None => Error::caused(ErrorKind::Refused, "cannot name the time of the snapshot", error),
    })?;
    Ok(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The newest snapshot is the one whose name sorts last, and no later one can be made.
fn none_after(parent: &Manifest, error: jiff::Error) -> Error {
    let message = format!(
        "no snapshot can follow {}, which says that it was made at {}: some clock was wrong; restore it first if \
         you need it, move its manifest aside, out of `snapshots/`, and run the command again",
        parent.snapshot_id, parent.created_at
    );
    Error::caused(ErrorKind::Refused, message, error)
}
