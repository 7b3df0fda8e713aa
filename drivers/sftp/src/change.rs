//! The small changes to a published object: touch, rename, remove, and the look that tells its size and time.

use futures::future;
use futures::stream::{self, StreamExt};
use packvault_storage::{ErrorKind, Key, NotRemoved, ObjectMeta, Operation, Result, Step, numbered};

use crate::channel::{Channel, Lease};
use crate::client::{Client, Found, STAGING, folder_of, meta_of, refuse_scratch};
use crate::codec::{Attrs, Request};
use crate::error::{Failure, ServerErrors};
use crate::publish::explain_taken;
use crate::read::{look_at, open, read_exactly};
use crate::server_time;

/// Removals under way at once: each is two or three short round trips.
const REMOVALS_AT_ONCE: usize = 32;

/// Returns the size and the time of the object.
pub(crate) async fn stat(client: &Client, key: &Key) -> Result<ObjectMeta> {
    let step = Step::new(Operation::Stat, key.as_str());
    let channel = client.light(step).await?;
    meta_of(step, client.require_object(&channel, step, key).await?)
}

/// Moves the object's time to the server's now through the handle its bytes were compared by, so that an
/// object which takes its place meanwhile keeps its own time.
pub(crate) async fn touch(client: &Client, key: &Key, expected: &[u8]) -> Result<()> {
    let step = Step::new(Operation::Touch, key.as_str());
    let now = server_time::now(client, step).await?;
    let channel = client.light(step).await?;
    let (handle, _) = open(client, &channel, step, key).await?;
    let reading = read_exactly(client, &channel, step, &handle, 0, expected.len());
    let (attrs, bytes) = future::join(look_at(&channel, step, &handle), reading).await;
    match bytes {
        Ok(bytes) if attrs?.size == Some(expected.len() as u64) && bytes == expected => {}
        Err(error) if error.kind() != ErrorKind::Short => return Err(error),
        Ok(_) | Err(_) => return Err(step.changed()),
    }
    let seconds = now.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds =
        u32::try_from(seconds).map_err(|_| step.error(ErrorKind::Io, "no file can bear that time"))?;
    let attrs = Attrs::time(seconds);
    let touching =
        async { channel.begin(Request::Fsetstat { handle: handle.raw(), attrs }).await?.done().await };
    touching.await.map_err(|failure| step.failed("set the time of its file", failure))?;
    // Only a look at the name tells whether what was touched is still the object.
    let after = meta_of(step, client.require_object(&channel, step, key).await?)?;
    match after.modified == crate::client::time_of(seconds) && after.size_bytes == expected.len() as u64 {
        true => Ok(()),
        false => Err(step.changed()),
    }
}

/// Removes the object and makes its absence durable where the server can.
pub(crate) async fn remove(client: &Client, key: &Key) -> Result<()> {
    let step = Step::new(Operation::Remove, key.as_str());
    let channel = client.light(step).await?;
    client.require_object(&channel, step, key).await?;
    client.handles.forget(key);
    match unlink(client, &channel, key.as_str()).await {
        Ok(()) => client.sync_folder(&channel, step, folder_of(key.as_str())).await,
        Err(failure) if failure.is_no_such_file() => Err(step.not_found()),
        Err(failure) => match client.look(&channel, step, key.as_str()).await? {
            // Some servers look before they remove, and fail without a word when they are too late.
            Found::Nothing => Err(step.not_found()),
            _ => Err(step.failed("remove its file", failure)),
        },
    }
}

/// Removes the objects, several at a time, and returns those that are not known to be gone. Removals from one folder
/// share their syncs.
pub(crate) async fn remove_all(client: &Client, keys: &[Key]) -> Vec<NotRemoved> {
    let removals = stream::iter(keys.to_vec()).map(|key| async move {
        match remove(client, &key).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Some(NotRemoved { key, error }),
            Ok(()) | Err(_) => None,
        }
    });
    removals.buffer_unordered(REMOVALS_AT_ONCE).filter_map(|left| async { left }).collect().await
}

/// Moves the object to a name that must be absent, by way of `staging/`.
///
/// A rename to a name nobody else can know claims the object: one mover wins. A link then gives it the
/// new name only if that is absent; if it is not, the object goes back. Linking the old name to the new
/// and removing the old would look simpler, but could remove an object that took the old name meanwhile.
/// A process killed between the two steps leaves the object in `staging/`, where a sweep may remove it.
pub(crate) async fn rename(client: &Client, from: &Key, to: &Key) -> Result<()> {
    let step = Step::new(Operation::Rename, from.as_str());
    let to_step = Step::new(Operation::Rename, to.as_str());
    if !client.features.can_move() {
        let detail = "the server has no hard links that refuse a taken name, or no rename in one step";
        return Err(step.error(ErrorKind::Unsupported, detail));
    }
    refuse_scratch(to_step, to)?;
    let channel = client.light(step).await?;
    let object = client.require_object(&channel, step, from);
    let (object, target) = future::join(object, async {
        client.make_folder(&channel, to_step, folder_of(to.as_str())).await?;
        client.make_folder(&channel, step, STAGING).await?;
        client.look(&channel, to_step, to.as_str()).await
    })
    .await;
    object?;
    match target? {
        Found::Nothing => {}
        Found::Object(_) => return Err(to_step.already_exists()),
        Found::Folder => return Err(to_step.refused(to.as_str(), "a folder")),
        Found::Other(what) => return Err(to_step.refused(to.as_str(), what)),
    }
    client.handles.forget(from);
    let claim = format!("{STAGING}/{}", numbered(from.name()));
    match posix_rename(client, &channel, from.as_str(), &claim).await {
        Ok(()) => {}
        Err(failure) if failure.is_no_such_file() => return Err(step.not_found()),
        Err(failure) => return Err(step.failed("claim it", failure)),
    }
    let refusal = match link(client, &channel, &claim, to.as_str()).await {
        Ok(()) => None,
        Err(failure) => {
            let refusal = explain_taken(client, &channel, to_step, to, failure).await;
            put_back(client, &channel, step, &claim, from).await?;
            Some(refusal)
        }
    };
    settle(client, &channel, step, &claim, [from, to]).await?;
    refusal.map_or(Ok(()), Err)
}

async fn put_back(client: &Client, channel: &Lease, step: Step<'_>, claim: &str, from: &Key) -> Result<()> {
    match link(client, channel, claim, from.as_str()).await {
        Ok(()) => Ok(()),
        Err(failure) => Err(step.failed(format!("put it back from {claim}"), failure)),
    }
}

/// Removes the claim and syncs the folders. A claim that stays is one more name of the object, for the
/// sweep to remove.
async fn settle(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    claim: &str,
    keys: [&Key; 2],
) -> Result<()> {
    let [from, to] = keys.map(|key| folder_of(key.as_str()));
    let sync = |folder| client.sync_folder(channel, step, folder);
    let (_, from_synced) = future::join(unlink(client, channel, claim), sync(from)).await;
    from_synced?;
    if from == to { Ok(()) } else { sync(to).await }
}

async fn unlink(client: &Client, channel: &Channel, below: &str) -> std::result::Result<(), Failure> {
    channel.begin(Request::Remove { path: &client.path(below) }).await?.done().await
}

async fn link(client: &Client, channel: &Channel, from: &str, to: &str) -> std::result::Result<(), Failure> {
    let (from, to) = (client.path(from), client.path(to));
    channel.begin(Request::Hardlink { from: &from, to: &to }).await?.done().await
}

async fn posix_rename(
    client: &Client,
    channel: &Channel,
    from: &str,
    to: &str,
) -> std::result::Result<(), Failure> {
    let (from, to) = (client.path(from), client.path(to));
    channel.begin(Request::PosixRename { from: &from, to: &to }).await?.done().await
}
