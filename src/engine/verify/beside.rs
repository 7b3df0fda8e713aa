//! What packvault keeps beside manifests: whether it is still what was written, and what is lost where it is not.
//!
//! None of it is needed to bring a snapshot back, so no problem here is a reason to give one up.

use std::collections::HashSet;
use std::pin::pin;

use futures::StreamExt;

use crate::engine::Context;
use crate::engine::report::{ProblemKind, VerifyProblem};
use crate::format::Manifest;
use crate::repo::Repository;
use crate::repo::beside::{Beside, ReadBeside};
use crate::repo::snapshots::SnapshotFiles;
use crate::{Error, Result};

/// What a problem calls a note.
pub const NOTE: &str = "note";
/// What a problem calls attributes.
pub const ATTRIBUTES: &str = "attributes";

/// Reads what lies beside the manifests of these snapshots, and returns what is wrong with it.
pub async fn check(
    context: &Context,
    repository: &Repository,
    files: &SnapshotFiles,
    selected: &[Manifest],
) -> Result<Vec<VerifyProblem>> {
    let snapshots: HashSet<&str> = selected.iter().map(|manifest| manifest.snapshot_id.as_str()).collect();
    let mut reads = pin!(repository.read_beside(files, &snapshots));
    let mut problems = Vec::new();
    while let Some(read) = reads.next().await {
        context.cancel.check()?;
        let ReadBeside { snapshot, what, name, usable } = read;
        match usable {
            Ok(()) => {}
            Err(error) if super::is_fatal(&error) => return Err(error),
            Err(error) => problems.push(problem(snapshot, what, &name, &error)),
        }
    }
    Ok(problems)
}

fn problem(snapshot: String, what: Beside, name: &str, error: &Error) -> VerifyProblem {
    let (object, lost) = match what {
        Beside::Note => {
            (NOTE, "what was said when it was made is lost: whose it is, what was wrong, what was left out")
        }
        Beside::Attributes => (ATTRIBUTES, "owners, modes and times of its files are lost"),
    };
    VerifyProblem {
        snapshot: Some(snapshot),
        object: Some(object.to_owned()),
        detail: format!("{name}: {}; the snapshot itself does not need it: {lost}", error.chain()),
        kind: ProblemKind::of(error),
        ..VerifyProblem::default()
    }
}
