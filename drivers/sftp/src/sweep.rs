//! The sweep of `staging/`: what is older than an age goes, and nothing outside is ever reached.
//!
//! Each folder is looked at before it is read, so a link is removed as a link. An entry's age is judged by
//! the server's clock. A folder goes only if all in it was old enough, and it was itself. The scratch names of
//! a probe are no uploads: somebody may be asking the server right now, and would hear wrong answers.

use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use packvault_storage::{ErrorKind, Operation, Result, Step, SweepReport};

use crate::channel::Lease;
use crate::client::{Client, Found, STAGING, meta_of};
use crate::codec::{Attrs, Request};
use crate::error::ServerErrors;
use crate::probe::SCRATCH;
use crate::server_time;
use crate::tree::read_folder;

/// How deep folders in `staging/` may lie in each other.
const DEPTH_MAX: u32 = 64;

/// How long the scratch names of a probe are left alone; it takes seconds.
const PROBE_MAX: Duration = Duration::from_secs(15 * 60);

/// Removes what lies in `staging/` and is at least as old as the age.
pub(crate) async fn sweep(client: &Client, older_than: Duration) -> Result<SweepReport> {
    let step = Step::new(Operation::Sweep, STAGING);
    let channel = client.light(step).await?;
    // The memory of folders may be old; this one is looked at now.
    match client.look(&channel, step, STAGING).await? {
        Found::Nothing => client.forget_folders(),
        Found::Folder => {}
        Found::Object(_) => return Err(step.refused(STAGING, "an object, not a folder")),
        Found::Other(what) => return Err(step.refused(STAGING, what)),
    }
    client.make_folder(&channel, step, STAGING).await?;
    let now = server_time::now(client, step).await?;
    let sweep = Sweep { client, channel: &channel, step, now, older_than };
    let (removed, _) = sweep.empty(STAGING.to_owned(), 0).await?;
    Ok(SweepReport { removed })
}

struct Sweep<'a> {
    client: &'a Client,
    channel: &'a Lease,
    step: Step<'a>,
    now: SystemTime,
    older_than: Duration,
}

impl Sweep<'_> {
    /// Removes the old entries of the folder; returns how many went and how many stay.
    fn empty(&self, path: String, depth: u32) -> BoxFuture<'_, Result<(u64, u64)>> {
        Box::pin(async move {
            if depth > DEPTH_MAX {
                let detail = format!("the folders below {path} are too deep");
                return Err(self.step.error(ErrorKind::Io, detail));
            }
            let (mut removed, mut kept) = (0, 0);
            for entry in read_folder(self.client, self.channel, self.step, &path).await? {
                // A name with a slash would lead elsewhere; one that is no text cannot be told to the server.
                let name = std::str::from_utf8(&entry.name).ok().filter(|name| !name.contains('/'));
                let gone = match name {
                    Some(name) => self.remove_if_old(format!("{path}/{name}"), depth).await?,
                    None => false,
                };
                if gone { removed += 1 } else { kept += 1 }
            }
            Ok((removed, kept))
        })
    }

    async fn remove_if_old(&self, path: String, depth: u32) -> Result<bool> {
        let server_path = self.client.path(&path);
        let looking =
            async { self.channel.begin(Request::Lstat { path: &server_path }).await?.attrs().await };
        let attrs = match looking.await {
            Ok(attrs) => attrs,
            Err(failure) if failure.is_no_such_file() => return Ok(false),
            Err(failure) => return Err(self.step.failed(format!("look at {path}"), failure)),
        };
        let is_folder = crate::client::classify(attrs) == Found::Folder;
        let is_probe = depth == 0 && path.starts_with(&format!("{STAGING}/{SCRATCH}."));
        if is_folder && is_probe && !self.is_older(attrs, PROBE_MAX)? {
            return Ok(false);
        }
        if is_folder && self.empty(path.clone(), depth + 1).await?.1 > 0 {
            return Ok(false);
        }
        if !self.is_older(attrs, self.older_than)? {
            return Ok(false);
        }
        let request = match is_folder {
            true => Request::RemoveFolder { path: &server_path },
            false => Request::Remove { path: &server_path },
        };
        let removing = async { self.channel.begin(request).await?.done().await };
        match removing.await {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_no_such_file() => Ok(false),
            // Somebody may have put something into the folder: it is in use.
            Err(failure) if is_folder && failure.is_status() => Ok(false),
            Err(failure) => Err(self.step.failed(format!("remove {path}"), failure)),
        }
    }

    /// A time in the future is young; an age of zero takes everything.
    fn is_older(&self, attrs: Attrs, age: Duration) -> Result<bool> {
        let size = attrs.size.or(Some(0));
        let modified = meta_of(self.step, Attrs { size, ..attrs })?.modified;
        Ok(self.now.duration_since(modified).unwrap_or_default() >= age)
    }
}
