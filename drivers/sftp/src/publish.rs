//! From a staging file to an object: create-only in one step, or replacing, durable both ways.
//!
//! The order is always the same: every piece acknowledged and synced, the final name given, the folder
//! synced. A process killed in between leaves a file in `staging/` and either no object or the whole
//! object. The name is given by a hard link, which both servers that have it decide in one step. The
//! protocol's own rename is never trusted with that: OpenSSH's is a look and a rename on file systems
//! without links, ProFTPD's always, and some servers overwrite. Without links a claim decides who may
//! rename ([`crate::claim`]); a lock, which is small and which other programs make so too, is then opened
//! exclusively under its final name: killed half-way it is an empty lock, which counts by its age alone.

use bytes::Bytes;
use futures::future;
use packvault_storage::{Error, ErrorKind, Key, Operation, Result, Step};

use crate::channel::Channel;
use crate::claim::Claim;
use crate::client::{Client, Found, folder_of, refuse_scratch};
use crate::codec::Request;
use crate::error::{Failure, ServerErrors};
use crate::features::Publishing;
use crate::upload::Upload;

/// How often an object whose staging file another process swept away is written anew.
const SWEPT_MAX: u32 = 8;

/// How often a name is tried that the server refuses although nothing has it.
const REFUSED_MAX: u32 = 8;

/// A larger object is sent over a channel of its own, if there can be one.
const LIGHT_BYTES_MAX: usize = 256 * 1024;

/// How a publication ended, errors apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// The object is there, whole and as durable as the server can.
    Done,
    /// The staging file, or a folder, vanished before the object had its final name.
    Swept,
}

/// Writes the bytes and publishes them under a key that must be absent.
pub(crate) async fn create(client: &Client, key: &Key, bytes: &Bytes) -> Result<()> {
    let step = Step::new(Operation::Create, key.as_str());
    let is_lock = key.parts().next() == Some("locks") && key.parts().count() == 2;
    if is_lock && client.features.publishing() == Publishing::Claim {
        return create_in_place(client, step, key, bytes).await;
    }
    for _ in 0..SWEPT_MAX {
        let upload = written(client, step, key, bytes).await?;
        if publish_new(client, step, key, upload).await? == Published::Done {
            return Ok(());
        }
    }
    Err(swept(step))
}

/// Writes the bytes and publishes them under the key, whatever object lies there.
pub(crate) async fn replace(client: &Client, key: &Key, bytes: &Bytes) -> Result<()> {
    let step = Step::new(Operation::Replace, key.as_str());
    if !client.features.posix_rename {
        let detail = "the server has no honest rename that replaces (posix-rename@openssh.com), \
                      and without it the object would be missing for an instant";
        return Err(step.error(ErrorKind::Unsupported, detail));
    }
    for _ in 0..SWEPT_MAX {
        let upload = written(client, step, key, bytes).await?;
        if publish_over(client, step, key, upload).await? == Published::Done {
            return Ok(());
        }
    }
    Err(swept(step))
}

/// Makes the staging file the object, if the key is absent.
pub(crate) async fn publish_new(
    client: &Client,
    step: Step<'_>,
    key: &Key,
    mut upload: Upload,
) -> Result<Published> {
    let published = give_name(client, step, key, &mut upload).await;
    if matches!(published, Ok(Published::Done)) {
        client.remember_plain(key);
    }
    settle(step, upload, published).await
}

async fn publish_over(client: &Client, step: Step<'_>, key: &Key, mut upload: Upload) -> Result<Published> {
    let published = take_name(client, step, key, &mut upload).await;
    settle(step, upload, published).await
}

/// Removes the staging file of what was not published; the reason for that comes first.
async fn settle(step: Step<'_>, mut upload: Upload, published: Result<Published>) -> Result<Published> {
    match published {
        Ok(Published::Done) => upload.moved_away(),
        Ok(Published::Swept) | Err(_) => {
            let _ = upload.discard(step).await;
        }
    }
    published
}

async fn give_name(client: &Client, step: Step<'_>, key: &Key, upload: &mut Upload) -> Result<Published> {
    // The folder is made while the last pieces are on their way; the name waits for both.
    let folder = async {
        let channel = client.light(step).await?;
        client.make_folder(&channel, step, folder_of(key.as_str())).await
    };
    let (finished, made) = future::join(upload.finish(step), folder).await;
    finished?;
    made?;
    upload.close(step).await?;
    match client.features.publishing() {
        Publishing::Link => link(client, step, key, upload).await,
        Publishing::Claim => rename_claimed(client, step, key, upload).await,
        Publishing::Look => {
            require_absent(client, upload.channel(), step, key).await?;
            rename(client, step, key, upload).await?;
            // rclone was seen to lose an object on which several renames met; mostly one of them notices.
            match client.look(upload.channel(), step, key.as_str()).await? {
                Found::Nothing => Ok(Published::Swept),
                _ => Ok(Published::Done),
            }
        }
    }
}

async fn link(client: &Client, step: Step<'_>, key: &Key, upload: &Upload) -> Result<Published> {
    let (from, to) = (client.path(upload.name()), client.path(key.as_str()));
    let channel = upload.channel();
    let linking = async || channel.begin(Request::Hardlink { from: &from, to: &to }).await?.done().await;
    let mut refused = 0;
    while let Err(failure) = linking().await {
        if failure.is_no_such_file() {
            client.forget_folders();
            return Ok(Published::Swept);
        }
        let was_answered = failure.is_status();
        let error = explain_taken(client, channel, step, key, failure).await;
        refused += 1;
        // What had the name may be gone by the time it is looked for: a lock that was given back.
        if !was_answered || error.kind() != ErrorKind::Io || refused >= REFUSED_MAX {
            return Err(error);
        }
    }
    // The staging name goes while the folder is synced; should that fail, a sweep finds the name.
    let removing = async { channel.begin(Request::Remove { path: &from }).await?.done().await };
    let syncing = client.sync_folder(channel, step, folder_of(key.as_str()));
    let (_, synced) = future::join(removing, syncing).await;
    synced?;
    Ok(Published::Done)
}

/// Renames while no other writer may: each crash leaves a claim, which others outlive, and no object or
/// the whole one. A writer that was stopped for so long that its claim counts as abandoned does not
/// rename any more, and would be refused by the server if it did.
async fn rename_claimed(client: &Client, step: Step<'_>, key: &Key, upload: &Upload) -> Result<Published> {
    require_absent(client, upload.channel(), step, key).await?;
    let claim = Claim::take(client, upload.channel(), step, key).await?;
    // The holder of the claim before us may have published.
    let published = match require_absent(client, upload.channel(), step, key).await {
        Ok(()) if claim.is_fresh() => rename(client, step, key, upload).await,
        Ok(()) => Err(step.error(ErrorKind::Conflict, "this process was stopped for too long")),
        Err(error) => Err(error),
    };
    claim.release().await;
    published
}

async fn rename(client: &Client, step: Step<'_>, key: &Key, upload: &Upload) -> Result<Published> {
    let (from, to) = (client.path(upload.name()), client.path(key.as_str()));
    let channel = upload.channel();
    let renaming = async { channel.begin(Request::Rename { from: &from, to: &to }).await?.done().await };
    match renaming.await {
        Ok(()) => {}
        Err(failure) if failure.is_no_such_file() => {
            client.forget_folders();
            return Ok(Published::Swept);
        }
        Err(failure) => return Err(explain_taken(client, channel, step, key, failure).await),
    }
    client.sync_folder(channel, step, folder_of(key.as_str())).await?;
    Ok(Published::Done)
}

async fn take_name(client: &Client, step: Step<'_>, key: &Key, upload: &mut Upload) -> Result<Published> {
    upload.finish(step).await?;
    upload.close(step).await?;
    let channel = upload.channel();
    client.make_folder(channel, step, folder_of(key.as_str())).await?;
    // The rename would not follow a link, but it would hide that somebody had put one there.
    match client.look(channel, step, key.as_str()).await? {
        Found::Nothing | Found::Object(_) => {}
        Found::Folder => return Err(step.refused(key.as_str(), "a folder")),
        Found::Other(what) => return Err(step.refused(key.as_str(), what)),
    }
    client.handles.forget(key);
    let (from, to) = (client.path(upload.name()), client.path(key.as_str()));
    let renaming = async { channel.begin(Request::PosixRename { from: &from, to: &to }).await?.done().await };
    match renaming.await {
        Ok(()) => {}
        Err(failure) if failure.is_no_such_file() => {
            client.forget_folders();
            return Ok(Published::Swept);
        }
        Err(failure) => return Err(step.failed("give its file the final name", failure)),
    }
    client.sync_folder(channel, step, folder_of(key.as_str())).await?;
    Ok(Published::Done)
}

/// Opens the object exclusively under its final name and writes it there.
async fn create_in_place(client: &Client, step: Step<'_>, key: &Key, bytes: &Bytes) -> Result<()> {
    let mut refused = 0;
    for _ in 0..SWEPT_MAX + REFUSED_MAX {
        let channel = client.light(step).await?;
        client.make_folder(&channel, step, folder_of(key.as_str())).await?;
        let mut upload = match Upload::begin_in_place(client.clone(), channel, key).await {
            Ok(upload) => upload,
            Err(failure) if failure.is_no_such_file() => {
                client.forget_folders();
                continue;
            }
            Err(failure) => {
                let channel = client.light(step).await?;
                let was_answered = failure.is_status();
                let error = explain_taken(client, &channel, step, key, failure).await;
                refused += 1;
                // As above: it may be gone by the time it is looked for.
                if !was_answered || error.kind() != ErrorKind::Io || refused >= REFUSED_MAX {
                    return Err(error);
                }
                continue;
            }
        };
        // Up to here a failure removes the file, by the drop of the upload.
        upload.write(step, bytes.clone()).await?;
        upload.finish(step).await?;
        upload.close(step).await?;
        upload.moved_away();
        return client.sync_folder(upload.channel(), step, folder_of(key.as_str())).await;
    }
    Err(swept(step))
}

async fn written(client: &Client, step: Step<'_>, key: &Key, bytes: &Bytes) -> Result<Upload> {
    refuse_scratch(step, key)?;
    let channel = match bytes.len() <= LIGHT_BYTES_MAX {
        true => client.light(step).await?,
        false => client.heavy(step).await?,
    };
    let mut upload = Upload::begin(client.clone(), channel, step, key).await?;
    upload.write(step, bytes.clone()).await?;
    Ok(upload)
}

async fn require_absent(client: &Client, channel: &Channel, step: Step<'_>, key: &Key) -> Result<()> {
    match client.look(channel, step, key.as_str()).await? {
        Found::Nothing => Ok(()),
        found => Err(taken(step, key, found)),
    }
}

/// Finds out what a failure means that may be "exists": the protocol has no word for it.
pub(crate) async fn explain_taken(
    client: &Client,
    channel: &Channel,
    step: Step<'_>,
    key: &Key,
    failure: Failure,
) -> Error {
    if !failure.is_status() {
        return step.failed("give its file the final name", failure);
    }
    match client.look(channel, step, key.as_str()).await {
        Ok(Found::Nothing) => step.failed("give its file the final name", failure),
        Ok(found) => taken(step, key, found),
        Err(error) => error,
    }
}

fn taken(step: Step<'_>, key: &Key, found: Found) -> Error {
    match found {
        Found::Folder => step.refused(key.as_str(), "a folder"),
        Found::Other(what) => step.refused(key.as_str(), what),
        Found::Object(_) | Found::Nothing => step.already_exists(),
    }
}

/// Makes the error of a staging file that another process took away.
pub(crate) fn swept(step: Step<'_>) -> Error {
    step.error(ErrorKind::Conflict, "another process removed its file from staging, or its folder")
}
