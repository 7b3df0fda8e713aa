//! A restore of part of a snapshot: what is chosen of it, and where the attachments among that belong.
//!
//! Files have the names that `ls` shows. An attachment is put where the database of the snapshot expects it, as in a
//! restore of all. Where the database cannot say it, the attachment lies where `ls` shows it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::plan::{Plan, PlannedPages};
use super::proof;
use crate::archive::bounds::{self, Bounds};
use crate::archive::profile::{CONTENT_NAME, ContentPath};
use crate::engine::content_paths;
use crate::engine::inside::pages::PageReader;
use crate::engine::inside::pattern::Patterns;
use crate::engine::inside::sql::ask;
use crate::engine::inside::tree::path_of_attachment;
use crate::engine::metadata::MetadataReader;
use crate::engine::pipeline::Pipeline;
use crate::engine::report::{NotRestored, RestoredPart};
use crate::format::{BlobId, ExtrasEntry, Manifest};
use crate::{Error, ErrorKind, Result};

/// What of a snapshot is restored, and what is not.
#[derive(Debug, Clone)]
pub struct Part {
    /// Whether the database is among it.
    pub has_database: bool,
    /// How it is told.
    pub told: RestoredPart,
}

impl Part {
    /// Tells whether every attachment is restored.
    pub fn has_all_attachments(&self) -> bool {
        self.told.left_out.attachments == 0
    }
}

/// Leaves of the files of a snapshot those that match; fails where a pattern matches none.
pub fn choose(
    patterns: &Patterns,
    (manifest, database): (&Manifest, &str),
    listed: &mut HashMap<BlobId, u64>,
    extras: &mut Vec<ExtrasEntry>,
) -> Result<Part> {
    let mut used = vec![false; patterns.texts().len()];
    let mut left_out = NotRestored::default();
    let mut is_chosen = |path: &str| {
        let mut matches = false;
        patterns.matching(path).for_each(|number| (matches, used[number]) = (true, true));
        matches
    };
    let has_database = manifest.metadata.is_none() && is_chosen(database);
    left_out.database = !has_database;
    listed.retain(|id, bytes| {
        let is_chosen = is_chosen(&path_of_attachment(id));
        if !is_chosen {
            left_out.attachments += 1;
            left_out.attachment_bytes = left_out.attachment_bytes.saturating_add(*bytes);
        }
        is_chosen
    });
    extras.retain(|entry| {
        let is_chosen = is_chosen(&entry.path);
        left_out.extras += u64::from(!is_chosen);
        is_chosen
    });
    if let Some(unused) = used.iter().position(|used| !used) {
        let (id, text) = (&manifest.snapshot_id, &patterns.texts()[unused]);
        let message =
            format!("snapshot {id} has nothing that matches {text:?}; ls and find show what it has");
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    Ok(Part { has_database, told: RestoredPart { only: patterns.texts().to_vec(), left_out } })
}

/// Returns where the chosen attachments belong, and what the user should know of it.
pub async fn paths(
    (pipeline, reader): (&Pipeline, &MetadataReader),
    plan: &Plan,
    staged: Option<PathBuf>,
) -> Result<(Vec<ContentPath>, Option<String>)> {
    if plan.listed.is_empty() {
        return Ok((Vec::new(), None));
    }
    let (mut expected, mut warning) = match told_by_database(pipeline, reader, plan, staged).await {
        Ok(told) => (told, None),
        Err(error) if error.is_no_finding() || error.kind() == ErrorKind::Io => return Err(error),
        Err(error) => (Vec::new(), Some(unknown(plan.listed.len(), &error.chain()))),
    };
    expected.retain(|known| plan.listed.contains_key(&known.id));
    let known: HashSet<BlobId> = expected.iter().map(|known| known.id).collect();
    let missing = plan.listed.keys().filter(|id| !known.contains(*id));
    let missing: Vec<ContentPath> =
        missing.map(|id| ContentPath { id: *id, path: below_content(id) }).collect();
    if warning.is_none() && !missing.is_empty() {
        warning = Some(unknown(missing.len(), "it does not name them"));
    }
    expected.extend(missing);
    match content_paths::check(&plan.listed, &expected).into_iter().next() {
        None => Ok((expected, warning)),
        Some(problem) => {
            let message = format!("cannot restore part of snapshot {}: {problem}", plan.manifest.snapshot_id);
            Err(Error::new(ErrorKind::Damaged, message))
        }
    }
}

async fn told_by_database(
    pipeline: &Pipeline,
    reader: &MetadataReader,
    plan: &Plan,
    staged: Option<PathBuf>,
) -> Result<Vec<ContentPath>> {
    let cancel = &pipeline.context().cancel;
    if let Some(staged) = staged {
        return proof::told_paths(plan, staged, cancel).await;
    }
    let Some(PlannedPages { map, hashes }) = plan.pages.clone() else {
        return Err(Error::new(ErrorKind::Unsupported, "the snapshot has no database of pages"));
    };
    let attachments = u64::try_from(plan.manifest.attachments.blobs).unwrap_or_default();
    bounds::grant_memory(content_paths::memory_for(attachments));
    let pages = PageReader::new(pipeline.clone(), reader.store().clone(), map, hashes)?;
    let bounds = Bounds::of_scan(cancel, pages.bytes());
    let (profile, paths_max) = (plan.profile.clone(), content_paths::most(&plan.manifest));
    let name = profile.database_name();
    ask(pages, &bounds, move |connection| profile.content_paths(connection, Path::new(&name), paths_max))
        .await
}

/// Returns the path of an attachment, below the folder of attachments, that its hash gives.
fn below_content(id: &BlobId) -> String {
    let path = path_of_attachment(id);
    path.strip_prefix(&format!("{CONTENT_NAME}/")).unwrap_or(&path).to_owned()
}

fn unknown(attachments: usize, why: &str) -> String {
    format!(
        "where the database expects {attachments} of the attachments is not known, and they lie where ls shows them: \
         {why}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_of(patterns: &[&str]) -> Result<(Part, usize, Vec<String>)> {
        let texts: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
        let patterns = Patterns::parse(&texts, false).unwrap();
        let mut listed = HashMap::from([(BlobId::of(b"a"), 5), (BlobId::of(b"b"), 7)]);
        let extra =
            |path: &str| ExtrasEntry { path: path.into(), mode: 0o600, size: 1, blob: BlobId::of(b"x") };
        let mut extras = vec![extra("deletions/1.json"), extra("deletions/2.json"), extra("odd [1].txt")];
        let part = choose(&patterns, (&Manifest::default(), "app.db"), &mut listed, &mut extras)?;
        Ok((part, listed.len(), extras.into_iter().map(|extra| extra.path).collect()))
    }

    #[test]
    fn what_matches_is_chosen_and_the_rest_is_counted() {
        let hash = BlobId::of(b"a").to_string();
        for (patterns, has_database, attachments, extras) in [
            (&["app.db"][..], true, 0, &[][..]),
            (&["deletions"], false, 0, &["deletions/1.json", "deletions/2.json"]),
            (&["/deletions/1*", &hash], false, 1, &["deletions/1.json"]),
            (&["attachments"], false, 2, &[]),
            (&["odd [1].txt"], false, 0, &["odd [1].txt"]),
            (&["**"], true, 2, &["deletions/1.json", "deletions/2.json", "odd [1].txt"]),
        ] {
            let (part, listed, chosen) = choose_of(patterns).unwrap();
            assert_eq!((part.has_database, listed), (has_database, attachments), "{patterns:?}");
            assert_eq!(chosen, extras, "{patterns:?}");
            let NotRestored { database, attachments: left, attachment_bytes, extras: others } =
                part.told.left_out;
            assert_eq!(database, !has_database, "{patterns:?}");
            assert_eq!((left, others), (2 - attachments as u64, 3 - extras.len() as u64), "{patterns:?}");
            assert_eq!(attachment_bytes, [12, 7, 0][attachments], "{patterns:?}");
        }
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_refused_whatever_the_others_match() {
        for patterns in [&["nothing"][..], &["app.db", "deletion"], &["APP.DB"], &["attachments/x"]] {
            let error = choose_of(patterns).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{patterns:?}");
            assert!(error.to_string().contains(patterns.last().unwrap()), "{error}");
        }
    }
}
