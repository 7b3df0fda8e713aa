//! A streamed object: in memory while it is small, sent in parts from then on.
//!
//! Memory is bounded by the larger of two: what goes in one request, and the parts under way plus one being
//! gathered and one that opendal holds back.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use opendal::Buffer;
use opendal::raw::oio;
use packvault_storage::{Error, ErrorKind, Key, Operation, Result, Staged, Step};

use crate::error::TheirErrors;
use crate::features::Ways;
use crate::store::{Store, When};

/// How large a part is; Azure takes 50 000 of them, which is 390 GiB.
const PART_BYTES: usize = 8 << 20;

/// How many parts there may be.
const PARTS_MAX: u32 = 50_000;

/// How many are under way at a time.
const PARTS_AT_ONCE: usize = 4;

/// An object that is not yet published.
pub(crate) struct OpendalStaged {
    store: Arc<Store>,
    ways: Ways,
    key: Key,
    one_put_bytes_max: u64,
    gathered: VecDeque<Bytes>,
    gathered_bytes: u64,
    sending: Option<oio::Writer>,
    parts: u32,
    /// A write failed or was abandoned half-way: some bytes may be missing.
    is_broken: bool,
}

impl std::fmt::Debug for OpendalStaged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpendalStaged").field("key", &self.key).finish_non_exhaustive()
    }
}

impl OpendalStaged {
    pub(crate) fn new(store: Arc<Store>, ways: Ways, key: Key, one_put_bytes_max: u64) -> Self {
        Self {
            store,
            ways,
            key,
            one_put_bytes_max,
            gathered: VecDeque::new(),
            gathered_bytes: 0,
            sending: None,
            parts: 0,
            is_broken: false,
        }
    }

    pub(crate) async fn write_all(&mut self, operation: Operation, bytes: Bytes) -> Result<()> {
        if std::mem::replace(&mut self.is_broken, true) {
            return Err(self.broken(operation));
        }
        if !bytes.is_empty() {
            self.gathered_bytes += bytes.len() as u64;
            self.gathered.push_back(bytes);
        }
        if self.sending.is_some() || self.gathered_bytes > self.one_put_bytes_max {
            while self.gathered_bytes >= PART_BYTES as u64 {
                self.send_part(operation, PART_BYTES).await?;
            }
        }
        self.is_broken = false;
        Ok(())
    }

    fn broken(&self, operation: Operation) -> Error {
        let step = Step::new(operation, self.key.as_str());
        step.error(ErrorKind::Io, "an earlier write of it failed or was abandoned")
    }

    async fn send_part(&mut self, operation: Operation, bytes: usize) -> Result<()> {
        let part = self.take(bytes);
        let key = self.key.clone();
        let step = Step::new(operation, key.as_str());
        if self.parts == PARTS_MAX {
            return Err(step.error(ErrorKind::Unsupported, "it is larger than one upload can be"));
        }
        self.parts += 1;
        let writer = match &mut self.sending {
            Some(writer) => writer,
            None => {
                let writer = self.store.writer(&key, When::Absent, PARTS_AT_ONCE);
                self.sending.insert(writer.map_err(|error| step.lift(&error))?)
            }
        };
        writer.write_dyn(part).await.map_err(|error| step.lift_create(&error))
    }

    /// Takes so many bytes from the front, or all there are.
    fn take(&mut self, bytes: usize) -> Buffer {
        let mut pieces = Vec::new();
        let mut wanted = bytes;
        while wanted > 0 {
            let Some(mut piece) = self.gathered.pop_front() else { break };
            if piece.len() > wanted {
                self.gathered.push_front(piece.split_off(wanted));
            }
            wanted -= piece.len();
            self.gathered_bytes -= piece.len() as u64;
            pieces.push(piece);
        }
        Buffer::from(pieces)
    }

    /// Publishes what was written.
    pub(crate) async fn publish(mut self, operation: Operation) -> Result<()> {
        if self.is_broken {
            return Err(self.broken(operation));
        }
        let key = self.key.clone();
        let step = Step::new(operation, key.as_str());
        if self.sending.is_none() {
            let rest = self.take(usize::MAX);
            if !self.ways.create_only {
                self.store.refuse_taken(step, &key).await?;
            }
            let written = self.store.write(&key, rest, When::Absent).await;
            return written.map_err(|error| step.lift_create(&error));
        }
        if self.gathered_bytes > 0 {
            self.send_part(operation, usize::MAX).await?;
        }
        if !self.ways.create_only_streamed {
            self.store.refuse_taken(step, &key).await?;
        }
        let Some(mut writer) = self.sending.take() else { return Ok(()) };
        let Err(error) = writer.close_dyn().await else { return Ok(()) };
        let error = step.lift_create(&error);
        if error.kind() == ErrorKind::Io {
            // Where another writer was first, Azure has thrown our parts away and says that they are unknown.
            self.store.refuse_taken(step, &key).await?;
        }
        Err(error)
    }
}

#[async_trait]
impl Staged for OpendalStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.write_all(Operation::Write, bytes).await
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        self.publish(Operation::Seal).await
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        let Some(mut writer) = self.sending.take() else { return Ok(()) };
        let step = Step::new(Operation::Discard, self.key.as_str());
        writer.abort_dyn().await.map_err(|error| step.lift(&error))
    }
}
