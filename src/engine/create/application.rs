//! The application whose archive is captured, as far as somebody can hold it still meanwhile.

use std::fmt::Debug;

use super::CreateOptions;
use crate::archive::freeze;
use crate::archive::profile::ArchivePaths;
use crate::engine::pipeline::Pipeline;
use crate::{ErrorKind, Result};

/// Holds an application still while its archive is captured.
///
/// A create asks once for it to be held, when it has the repository's lock and nothing that can be known
/// beforehand speaks against the capture, and says once when all of the archive has been read. It does not
/// promise the latter: a create that fails, is stopped or is dropped says nothing, so whoever called it lets
/// the application go on afterwards, whatever happened. A dry run holds nobody.
pub trait Application: Debug + Send + Sync {
    /// Holds the application still; called where it may block. A failure ends the create.
    fn pause(&self) -> Result<()>;

    /// The database, the attachments and the files have been read: the application is no longer needed to
    /// be still. Called where it may block.
    fn captured(&self);
}

/// Has the application held still, if somebody can, unless it can be seen already that its database cannot be
/// captured.
pub(super) async fn pause(pipeline: &Pipeline, paths: &ArchivePaths, options: &CreateOptions) -> Result<()> {
    let Some(application) = options.application.clone().filter(|_| !options.dry_run) else { return Ok(()) };
    let database = paths.database.clone();
    let looked = pipeline.run(move |_| freeze::look(&database)).await;
    unless_made_later(looked, options)?;
    pipeline.run(move |_| application.pause()).await
}

/// Passes a refusal on, but not that something is missing where whoever holds the application still may make
/// it: a dump, a copy of the database.
pub(super) fn unless_made_later(looked: Result<()>, options: &CreateOptions) -> Result<()> {
    match looked {
        Err(error) if error.kind() == ErrorKind::NotFound && options.application.is_some() => Ok(()),
        looked => looked,
    }
}

/// Says that the application is no longer needed to be still.
pub(super) async fn let_go(pipeline: &Pipeline, options: &CreateOptions) -> Result<()> {
    match options.application.clone().filter(|_| !options.dry_run) {
        // Where this was stopped meanwhile, who called the create waits for it, and others may have the repository.
        Some(application) => pipeline.run_while_wanted(move || application.captured()).await,
        None => Ok(()),
    }
}
