//! Folders made durable, several names at a time.
//!
//! A sync that begins after a name was given makes that name durable, whoever asked for it. So of many
//! that wait for one folder, one syncs for all. The folder's handle stays open between two syncs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::answers::OpenHandle;
use crate::channel::Channel;
use crate::codec::{Attrs, OPEN_READ, Request};
use crate::error::Failure;

/// How many folders are held open for their syncs.
const FOLDERS_MAX: usize = 32;

/// The folders that were synced lately.
#[derive(Debug, Default)]
pub(crate) struct Syncs(Mutex<HashMap<String, Arc<Gate>>>);

#[derive(Debug, Default)]
struct Gate {
    wanted: AtomicU64,
    done: AtomicU64,
    turn: tokio::sync::Mutex<Option<OpenHandle>>,
}

impl Syncs {
    /// Makes the names in the folder durable; `path` is what the server calls it.
    pub(crate) async fn sync(
        &self,
        channel: &Channel,
        folder: &str,
        path: &str,
    ) -> std::result::Result<(), Failure> {
        self.gate(folder).sync(channel, path).await
    }

    /// Lets go of all folders.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn gate(&self, folder: &str) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if gates.len() >= FOLDERS_MAX && !gates.contains_key(folder) {
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        }
        Arc::clone(gates.entry(folder.to_owned()).or_default())
    }
}

/// Makes the names in a folder durable that is not asked for again.
pub(crate) async fn sync_once(channel: &Channel, path: &str) -> std::result::Result<(), Failure> {
    Gate::default().sync(channel, path).await
}

impl Gate {
    async fn sync(&self, channel: &Channel, path: &str) -> std::result::Result<(), Failure> {
        let ticket = self.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        let mut held = self.turn.lock().await;
        if self.done.load(Ordering::Acquire) >= ticket {
            return Ok(());
        }
        let covered = self.wanted.load(Ordering::Acquire);
        let handle = match held.take().filter(OpenHandle::is_usable) {
            Some(handle) => handle,
            None => open(channel, path).await?,
        };
        handle.begin_sync().await?.done().await?;
        self.done.fetch_max(covered, Ordering::AcqRel);
        *held = Some(handle);
        Ok(())
    }
}

async fn open(channel: &Channel, path: &str) -> std::result::Result<OpenHandle, Failure> {
    channel.begin(Request::Open { path, flags: OPEN_READ, attrs: Attrs::default() }).await?.handle().await
}
