//! A file in `staging/`, and the pieces on their way into it.
//!
//! Pieces are sent without waiting for the ones before, as far as the window of the channel goes. Nothing
//! is published before every piece was acknowledged and, where the server can, synced. Dropped, an upload
//! removes its file without waiting; what a killed process leaves is found by the sweep. Names follow the
//! repository format.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use packvault_storage::{Error, ErrorKind, Key, Result, Step, numbered, pack_staging_name};

use crate::answers::{OpenHandle, Waiting};
use crate::channel::Lease;
use crate::client::{Client, FILE_MODE, Found, STAGING, refuse_scratch};
use crate::codec::{
    Attrs, OPEN_CREATE, OPEN_EXCLUSIVE, OPEN_WRITE, Request, code, decode_free_bytes, extension,
};
use crate::error::{Failure, ServerErrors};

/// How many names are tried for one file before the folder is called unusable.
const NAMES_MAX: u32 = 16;

/// A disk with less room than this is called full when a write fails without a reason.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// An unfinished file.
pub(crate) struct Upload {
    client: Client,
    channel: Lease,
    handle: Option<OpenHandle>,
    /// Below the root.
    name: String,
    sent_bytes: u64,
    gathered: BytesMut,
    under_way: VecDeque<Waiting>,
    is_gone: bool,
}

impl Upload {
    /// Makes a new, empty file for the object, and the scratch folder if it is missing.
    pub(crate) async fn begin(client: Client, channel: Lease, step: Step<'_>, key: &Key) -> Result<Self> {
        refuse_scratch(step, key)?;
        // Two writers of one pack must not share a file where opening is not exclusive.
        let format_name = pack_staging_name(key).filter(|_| client.features.exclusive_open);
        Self::begin_named(client, channel, step, |attempt| match &format_name {
            Some(name) if attempt == 0 => name.clone(),
            _ => numbered(key.name()),
        })
        .await
    }

    /// Makes a new, empty file for a purpose of the driver's own.
    pub(crate) async fn begin_scratch(
        client: Client,
        channel: Lease,
        step: Step<'_>,
        purpose: &str,
    ) -> Result<Self> {
        Self::begin_named(client, channel, step, |_| numbered(purpose)).await
    }

    async fn begin_named(
        client: Client,
        channel: Lease,
        step: Step<'_>,
        name: impl Fn(u32) -> String,
    ) -> Result<Self> {
        let mut refusal = None;
        for attempt in 0..NAMES_MAX {
            client.make_scratch_folder(&channel, step).await?;
            let name = format!("{STAGING}/{}", name(attempt));
            match open_new(&client, &channel, &name).await {
                Ok(handle) => return Ok(Self::new(client, channel, Some(handle), name)),
                Err(failure) if failure.is_no_such_file() => client.forget_folders(),
                Err(failure @ Failure::Status(_)) => {
                    // "Exists" is a failure like any other in this version of the protocol; and what existed
                    // may be published and gone by now.
                    let is_final = failure.is_code(code::PERMISSION_DENIED) || refusal.is_some();
                    if client.look(&channel, step, &name).await? == Found::Nothing {
                        refusal = Some(failure);
                        if is_final {
                            break;
                        }
                    }
                }
                Err(failure) => return Err(step.failed("make a file in staging", failure)),
            }
        }
        match refusal {
            Some(failure) => Err(step.failed("make a file in staging", failure)),
            None => Err(step.error(
                ErrorKind::Io,
                "no file can be made in staging: its names are taken, or the folder is removed again and again",
            )),
        }
    }

    /// Makes a file directly under an object's name, if that is absent.
    pub(crate) async fn begin_in_place(
        client: Client,
        channel: Lease,
        key: &Key,
    ) -> std::result::Result<Self, Failure> {
        let handle = open_new(&client, &channel, key.as_str()).await?;
        Ok(Self::new(client, channel, Some(handle), key.as_str().to_owned()))
    }

    fn new(client: Client, channel: Lease, handle: Option<OpenHandle>, name: String) -> Self {
        Self {
            client,
            channel,
            handle,
            name,
            sent_bytes: 0,
            gathered: BytesMut::new(),
            under_way: VecDeque::new(),
            is_gone: false,
        }
    }

    pub(crate) fn channel(&self) -> &Lease {
        &self.channel
    }

    pub(crate) fn handle(&self) -> &OpenHandle {
        self.handle.as_ref().expect("the handle is there until the upload is finished")
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Appends bytes; small pieces are gathered, large ones sent as they are.
    pub(crate) async fn write(&mut self, step: Step<'_>, mut bytes: Bytes) -> Result<()> {
        let piece_bytes = self.channel.greeting().piece_bytes();
        while !bytes.is_empty() {
            if self.gathered.is_empty() && bytes.len() >= piece_bytes {
                let piece = bytes.split_to(piece_bytes);
                self.send(step, piece).await?;
                continue;
            }
            let missing = piece_bytes - self.gathered.len();
            self.gathered.extend_from_slice(&bytes.split_to(missing.min(bytes.len())));
            if self.gathered.len() == piece_bytes {
                let piece = self.gathered.split().freeze();
                self.send(step, piece).await?;
            }
        }
        Ok(())
    }

    /// Sends one piece as soon as there is room, and hears of those that are through.
    async fn send(&mut self, step: Step<'_>, piece: Bytes) -> Result<()> {
        let len = piece.len() as u64;
        self.client.wire.send(len).await;
        let sent = match self.channel.room(piece.len()).await {
            Ok(room) => self.channel.write(self.handle(), self.sent_bytes, piece, room),
            Err(failure) => Err(failure),
        };
        self.under_way.push_back(sent.map_err(|failure| step.failed("write its file", failure))?);
        self.sent_bytes += len;
        while let Some(ended) = self.under_way.front_mut().and_then(Waiting::try_done) {
            self.under_way.pop_front();
            if let Err(failure) = ended {
                return Err(self.explain(step, failure).await);
            }
        }
        Ok(())
    }

    /// Waits until every piece is there, and durable where the server can.
    pub(crate) async fn finish(&mut self, step: Step<'_>) -> Result<()> {
        if !self.gathered.is_empty() {
            let piece = self.gathered.split().freeze();
            self.send(step, piece).await?;
        }
        let syncs = self.client.features.sync_file;
        // A server that works in order may be told at once; another might sync before it writes.
        let mut syncing = None;
        if syncs && self.channel.greeting().is_in_order() {
            syncing = Some(self.begin_sync(step).await?);
        }
        while let Some(waiting) = self.under_way.pop_front() {
            if let Err(failure) = waiting.done().await {
                return Err(self.explain(step, failure).await);
            }
        }
        if syncs {
            let syncing = match syncing {
                Some(syncing) => syncing,
                None => self.begin_sync(step).await?,
            };
            syncing.done().await.map_err(|failure| step.failed("sync its file", failure))?;
        }
        Ok(())
    }

    async fn begin_sync(&self, step: Step<'_>) -> Result<Waiting> {
        self.handle().begin_sync().await.map_err(|failure| step.failed("sync its file", failure))
    }

    /// Closes the file. What was synced may be given its name before the answer is there.
    pub(crate) async fn close(&mut self, step: Step<'_>) -> Result<()> {
        let Some(handle) = self.handle.take() else { return Ok(()) };
        if self.client.features.sync_file {
            drop(handle);
            return Ok(());
        }
        let closing = async { self.channel.close(handle).await?.done().await };
        closing.await.map_err(|failure| step.failed("close its file", failure))
    }

    /// Records that the name is no longer ours.
    pub(crate) fn moved_away(&mut self) {
        self.is_gone = true;
    }

    /// Removes the file; one that another process swept away is removed already.
    pub(crate) async fn discard(mut self, step: Step<'_>) -> Result<()> {
        self.handle = None;
        self.is_gone = true;
        let path = self.client.path(&self.name);
        let removing = async { self.channel.begin(Request::Remove { path: &path }).await?.done().await };
        match removing.await {
            Err(failure) if !failure.is_no_such_file() => {
                Err(step.failed("remove its staging file", failure))
            }
            _ => Ok(()),
        }
    }

    /// Asks why a write failed, where the server gave no reason.
    async fn explain(&self, step: Step<'_>, failure: Failure) -> Error {
        let error = |failure| step.failed("write its file", failure);
        let is_mute = matches!(&failure, Failure::Status(status) if status.code != code::PERMISSION_DENIED);
        if !is_mute || !self.channel.greeting().offers(extension::STATVFS) {
            return error(failure);
        }
        match free_bytes(&self.client, &self.channel).await {
            Some(free) if free < ROOM_BYTES_MIN => {
                step.error(ErrorKind::Full, format!("the server has {free} bytes of room left"))
            }
            _ => error(failure),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.handle = None;
        if !self.is_gone {
            // Nobody is left to hear of a failure; what remains is for the sweep.
            self.channel.post(&Request::Remove { path: &self.client.path(&self.name) });
        }
    }
}

/// Returns the server's free bytes under the root, as far as it tells.
pub(crate) async fn free_bytes(client: &Client, channel: &Lease) -> Option<u64> {
    let path = client.path("");
    let answer = channel.begin(Request::Statvfs { path: &path }).await.ok()?.extended().await.ok()?;
    decode_free_bytes(answer).ok()
}

async fn open_new(client: &Client, channel: &Lease, name: &str) -> std::result::Result<OpenHandle, Failure> {
    let path = client.path(name);
    let flags = OPEN_WRITE | OPEN_CREATE | OPEN_EXCLUSIVE;
    channel.begin(Request::Open { path: &path, flags, attrs: Attrs::mode(FILE_MODE) }).await?.handle().await
}
