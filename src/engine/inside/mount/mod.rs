//! mount: all snapshots as a folder that can only be read, until it is unmounted or stopped.
//!
//! `snapshots/<time>/` holds what a restore of a snapshot would put into its target, and `latest` leads to the newest.
//! What is handed out was checked as in every other look; what cannot be had is an I/O error to whoever reads it, and one
//! line to whoever has mounted it. The snapshots are those that were there at the beginning.

mod folder;
#[cfg(target_os = "linux")]
mod kernel;
mod names;
mod places;
mod served;
mod shelf;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use self::places::SNAPSHOTS_MAX;
use self::served::Served;
use super::{Inside, Reach, look};
use crate::engine::{Context, ReadLocking};
use crate::format::Manifest;
use crate::repo::Repository;
use crate::repo::locks::Pulse;
use crate::{Error, ErrorKind, Result};

/// How often it is looked whether the lock is still ours.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// What `mount` is asked for.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// An empty folder of this machine.
    pub folder: PathBuf,
    /// The folder of the repository, if it is one of this machine.
    pub repository: Option<PathBuf>,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// A mount that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mounted {
    /// The folder.
    pub folder: String,
    /// How many snapshots are in it.
    pub snapshots: u64,
    /// The name of the newest in `snapshots`.
    pub latest: String,
}

/// Hears of a mount while it lasts.
pub trait Witness: Send + Sync {
    /// From now on the snapshots are there.
    fn mounted(&self, mounted: &Mounted) -> Result<()>;
    /// Something could not be had, and is an error to whoever wanted it.
    fn problem(&self, text: &str);
}

/// How a mount ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The user has stopped it.
    Stopped,
    /// Somebody has unmounted it.
    Unmounted,
}

/// Mounts all snapshots, and returns when they are not mounted any more, with what the user should know of the lock.
///
/// The end that the user asks for is no error: there is no other one.
pub async fn mount(
    repository: &Repository,
    options: &MountOptions,
    witness: Arc<dyn Witness>,
    context: &Context,
) -> Result<(End, Vec<String>)> {
    let own = folder::expect_usable(&options.folder, options.repository.as_deref(), &context.spool)?;
    folder::expect_device()?;
    let work = async |inside: &Inside| {
        let manifests = manifests(inside, witness.as_ref()).await?;
        let served = Arc::new(Served::new(inside, &manifests, Arc::clone(&witness)));
        drop(manifests);
        let mounted = Mounted {
            folder: own.to_string_lossy().into_owned(),
            snapshots: served.count() as u64,
            latest: served.latest().unwrap_or_default().to_owned(),
        };
        serve(inside, (&own, served), |()| witness.mounted(&mounted), context).await
    };
    look(repository, "mount", (Reach::Many, options.locking), context, work).await
}

/// Reads the manifests of the snapshots, oldest first; what cannot be read is left out, and told.
async fn manifests(inside: &Inside, witness: &dyn Witness) -> Result<Vec<Manifest>> {
    let mut found = inside.repository.read_snapshots(&inside.files).await?;
    let names = inside.snapshots();
    found.retain(|found| names.contains(&found.name));
    let mut manifests = Vec::with_capacity(found.len());
    for found in found {
        match found.manifest {
            Ok(manifest) => manifests.push(manifest),
            Err(error) if error.is_inconclusive() || error.kind() == ErrorKind::Interrupted => {
                return Err(error);
            }
            Err(error) => witness.problem(&format!("snapshot {} is left out: {}", found.name, error.chain())),
        }
    }
    match manifests.len() {
        0 => Err(Error::new(
            ErrorKind::NotFound,
            "the repository holds no snapshot; there is nothing to mount",
        )),
        count if count > SNAPSHOTS_MAX => {
            let message = format!("{count} snapshots are more than can be mounted; {SNAPSHOTS_MAX} can be");
            Err(Error::new(ErrorKind::Refused, message))
        }
        _ => Ok(manifests),
    }
}

#[cfg(target_os = "linux")]
async fn serve(
    inside: &Inside,
    (folder, served): (&Path, Arc<Served>),
    begun: impl FnOnce(()) -> Result<()>,
    context: &Context,
) -> Result<End> {
    let (runtime, own, asked) = (tokio::runtime::Handle::current(), folder.to_owned(), Arc::clone(&served));
    let starting = inside.pipeline.run(move |_| {
        kernel::Serving::start(&own, asked, runtime).map_err(|error| folder::not_mounted(&own, error))
    });
    let mut serving = starting.await?;
    let ended = match begun(()) {
        Err(error) => Err(error),
        Ok(()) => tokio::select! {
            () = context.cancel.cancelled() => Ok(End::Stopped),
            () = serving.ended() => Ok(End::Unmounted),
            error = lost(inside.pulse.as_ref()) => Err(error),
        },
    };
    served.stop();
    serving.end().await;
    ended
}

/// Elsewhere the kernel asks in other ways.
#[cfg(not(target_os = "linux"))]
async fn serve(
    _: &Inside,
    _: (&Path, Arc<Served>),
    _: impl FnOnce(()) -> Result<()>,
    _: &Context,
) -> Result<End> {
    Err(Error::new(ErrorKind::Unsupported, "snapshots can be mounted on Linux alone"))
}

/// Returns when the lock may be somebody else's, and what is read may be removed.
async fn lost(pulse: Option<&Pulse>) -> Error {
    loop {
        if let Some(Err(error)) = pulse.map(Pulse::expect) {
            return Error::caused(error.kind(), "cannot keep the snapshots mounted", error);
        }
        tokio::time::sleep(PULSE_EVERY).await;
    }
}
