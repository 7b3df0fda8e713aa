//! What one capture has put into packs, and what is known of its source.

use super::attachments::CapturedAttachments;
use super::beliefs::Seen;
use super::extras::CapturedExtras;
use super::keyframe::StoredMaps;
use super::sink::BlobSink;
use crate::archive::attributes::attributes_at;
use crate::archive::findings::Findings;
use crate::archive::pinned::{PinnedDatabase, Reading};
use crate::archive::profile::{ArchivePaths, Artifact, CapturedFacts};
use crate::engine::content_paths;
use crate::format::manifest::Auxiliary;
use crate::format::{ArchiveAttributes, Geometry, Manifest};
use crate::repo::notes::{ArchiveIdentity, Note};
use crate::{Error, ErrorKind, Result};

/// How the source was found and left.
pub(super) struct SourceState {
    pub(super) reading: Reading,
    pub(super) wal_grew_bytes: u64,
    pub(super) held_seconds: Option<f64>,
    pub(super) problems: Vec<String>,
    pub(super) findings: Findings,
}

/// What a capture has put into packs, and what the manifest says of it.
pub(super) struct Capture {
    pub(super) facts: CapturedFacts,
    /// Which archive it is of.
    pub(super) identity: Option<ArchiveIdentity>,
    pub(super) geometry: Geometry,
    pub(super) pages_changed: u64,
    pub(super) maps: StoredMaps,
    pub(super) attachments: CapturedAttachments,
    pub(super) lists: Option<Vec<String>>,
    pub(super) artifacts: Vec<Auxiliary>,
    pub(super) extras: CapturedExtras,
    pub(super) source: SourceState,
    pub(super) findings: Findings,
}

impl Capture {
    /// Returns whose everything is, with modes and times.
    pub(super) fn attributes(&self, paths: &ArchivePaths) -> ArchiveAttributes {
        ArchiveAttributes {
            home: attributes_at(&paths.home),
            database: attributes_at(&paths.database),
            ..self.extras.attributes.clone()
        }
    }

    /// Tells whether all that a restore would put back is as it is in a snapshot, and nothing is to be said of it.
    pub(super) fn is_as_in(&self, snapshot: &Manifest) -> bool {
        let Geometry { page_size, page_count } = self.geometry;
        self.pages_changed == 0
            && (snapshot.db.page_size, snapshot.db.page_count) == (page_size, page_count)
            && self.lists == snapshot.attachments.lists
            && self.extras.tree.as_deref().unwrap_or_default() == snapshot.extras_tree
            && (self.artifacts.is_empty() && snapshot.auxiliary.is_empty() && snapshot.metadata.is_none())
            && (self.source.problems.is_empty() && self.findings.sentences().is_empty())
    }

    /// Hands over what was seen of the files.
    pub(super) fn seen(&mut self) -> Seen {
        Seen {
            attachments: std::mem::take(&mut self.attachments.prints),
            extras: std::mem::take(&mut self.extras.prints),
            tree: std::mem::take(&mut self.extras.tree_text),
        }
    }

    /// Returns what the note of the snapshot says.
    pub(super) fn note(&self) -> Note {
        Note {
            source_problems: self.source.problems.clone(),
            archive: self.identity.clone(),
            warnings: self.findings.sentences(),
            complete: self.findings.is_complete(),
            former_ids: Vec::new(),
        }
    }
}

pub(super) fn source_of(pinned: &PinnedDatabase, facts: &CapturedFacts) -> SourceState {
    let problems = pinned.problems().iter().chain(&facts.problems).cloned().collect();
    SourceState {
        reading: pinned.reading(),
        wal_grew_bytes: 0,
        held_seconds: None,
        problems,
        findings: Findings::default(),
    }
}

/// Stores what the snapshot carries beside the database.
pub(super) async fn store_artifacts(sink: &mut BlobSink, artifacts: &[Artifact]) -> Result<Vec<Auxiliary>> {
    let mut stored = Vec::new();
    for Artifact { name, format, body } in artifacts {
        let blob = sink.store(body.clone()).await?.to_string();
        let (name, format) = ((*name).to_owned(), (*format).to_owned());
        stored.push(Auxiliary { name, format, sha256: blob.clone(), blob, bytes: body.len() as i64 });
    }
    Ok(stored)
}

/// Refuses at capture what no restore could put back (section 12.3).
pub(super) fn check_paths(facts: &CapturedFacts, attachments: &CapturedAttachments) -> Result<()> {
    let Some(paths) = &facts.unusual_paths else { return Ok(()) };
    let listed = attachments.listed.iter().map(|attachment| (attachment.id, attachment.bytes)).collect();
    match content_paths::check(&listed, paths).into_iter().next() {
        None => Ok(()),
        Some(problem) => {
            let message = format!("the archive could not be restored from a snapshot: {problem}");
            Err(Error::new(ErrorKind::Source, message))
        }
    }
}
