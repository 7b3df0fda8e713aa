//! The operations: one module each. The only floor that knows both repositories and live archives.
//!
//! An operation takes what it works on, its options and a [`Context`], and returns a report. It stops at
//! the first error, except for `verify` and `list`, which collect problems and go on.

mod aside;
mod bulk;
mod chain;
mod content_paths;
pub mod copy;
pub mod create;
pub mod forget;
pub mod heal;
pub mod identity;
pub mod init;
pub mod inside;
pub mod list;
mod logged;
mod metadata;
mod page_writer;
pub mod pipeline;
pub mod prune;
mod read_ahead;
pub mod repair;
pub mod report;
pub mod restore;
pub mod restore_check;
pub mod retention;
pub mod schedule;
pub mod unlock;
pub mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use crate::cancel::Cancel;
use crate::error::Result;
use crate::format::SnapshotId;
use crate::process::Identity;
use crate::progress::Progress;
use crate::repo::Repository;
use crate::repo::locks::{LockRequest, Pulse};

/// What surrounds an operation.
#[derive(Clone)]
pub struct Context {
    /// Stops the operation at its next safe point.
    pub cancel: Cancel,
    /// Told how far it is.
    pub progress: Arc<dyn Progress>,
    /// Pieces of CPU work done at once; 1 or more.
    pub jobs: usize,
    /// This machine's name, for lock records.
    pub hostname: String,
    /// Where bytes wait that do not fit in memory; files there have no name.
    pub spool: PathBuf,
}

impl Context {
    /// Returns what a lock for this operation is taken for.
    pub fn lock_request(&self, operation: &'static str, force: bool) -> LockRequest {
        let (hostname, progress, cancel) =
            (self.hostname.clone(), self.progress.clone(), self.cancel.clone());
        let process = Identity::of_this_process();
        LockRequest { operation, hostname, process, force, progress, cancel }
    }
}

/// How an operation that only reads keeps out of the way of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadLocking {
    /// Whether the exclusive lock of somebody else is broken.
    pub force_unlock: bool,
    /// Whether no lock is taken.
    pub without_lock: bool,
}

impl ReadLocking {
    /// Does the work under a lock, or without one where that is asked for or cannot be helped; the work is told
    /// which. Returns what came of it, and what the user should know of the lock.
    async fn around<T, W: Future<Output = Result<T>>>(
        self,
        repository: &Repository,
        operation: &'static str,
        context: &Context,
        work: impl FnOnce(bool) -> W,
    ) -> Result<(T, Vec<String>)> {
        self.around_with(repository, operation, context, |pulse| work(pulse.is_some())).await
    }

    /// The same for work that wants to know whether the lock is still ours.
    async fn around_with<T, W: Future<Output = Result<T>>>(
        self,
        repository: &Repository,
        operation: &'static str,
        context: &Context,
        work: impl FnOnce(Option<Pulse>) -> W,
    ) -> Result<(T, Vec<String>)> {
        sweep(context);
        let request = context.lock_request(operation, self.force_unlock);
        let lock = match self.without_lock {
            true => repository.read_without_lock(&request).await,
            false => repository.lock_for_reading(&request).await?,
        };
        // On the heap: what an operation keeps would fill much of a small stack.
        let work = Box::pin(work(lock.pulse()));
        lock.during(work).await
    }
}

/// Which snapshots an operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// The newest.
    Latest,
    /// The one with this id.
    One(SnapshotId),
    /// Every one.
    All,
}

/// Removes what killed programs have left of databases that were built aside, before anything else is done:
/// whatever becomes of the operation, plain text does not stay.
fn sweep(context: &Context) {
    crate::archive::unnamed::sweep(&context.spool);
}

/// Returns this machine's name for lock records.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
