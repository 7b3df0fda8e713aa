//! A streamed object: in memory while it is small, an upload in parts from then on.
//!
//! Memory is bounded by the larger of two: what goes in one request ([`crate::ONE_PUT_BYTES_MAX`] unless
//! configured) and [`PARTS_AT_ONCE`] parts under way plus one being gathered; each plus one part. The bytes
//! are copied into pieces of the wire, so that small ones cost no more than their length.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use packvault_storage::{Error, ErrorKind, Key, Operation, Result, Staged, Step};
use tokio::task::JoinSet;

use crate::body::{PIECE_BYTES, Payload};
use crate::client::Client;
use crate::features::{Condition, Ways};
use crate::upload::{PART_BYTES, PARTS_MAX, Upload};
use crate::write;

/// How many parts of one upload are under way at a time.
pub(crate) const PARTS_AT_ONCE: usize = 4;

/// An object that is not yet published.
#[derive(Debug)]
pub(crate) struct S3Staged {
    client: Arc<Client>,
    ways: Ways,
    key: Key,
    one_put_bytes_max: u64,
    gathered: Gathered,
    sending: Option<Sending>,
    /// A write failed or was abandoned half-way: some bytes may be missing.
    is_broken: bool,
}

/// An upload and its parts under way.
#[derive(Debug)]
struct Sending {
    parts: JoinSet<Result<(u32, String)>>,
    tags: Vec<(u32, String)>,
    parts_begun: u32,
    upload: Upload,
}

impl S3Staged {
    pub(crate) fn new(client: Arc<Client>, ways: Ways, key: Key, one_put_bytes_max: u64) -> Self {
        let gathered = Gathered::default();
        Self { client, ways, key, one_put_bytes_max, gathered, sending: None, is_broken: false }
    }

    async fn write_all(&mut self, operation: Operation, mut bytes: Bytes) -> Result<()> {
        if std::mem::replace(&mut self.is_broken, true) {
            return Err(self.broken(operation));
        }
        while !bytes.is_empty() {
            self.gathered.push(&bytes.split_to(bytes.len().min(PART_BYTES)));
            if self.sending.is_some() || self.gathered.size_bytes > self.one_put_bytes_max {
                self.send_full_parts(operation).await?;
            }
        }
        self.is_broken = false;
        Ok(())
    }

    fn broken(&self, operation: Operation) -> Error {
        let step = Step::new(operation, self.key.as_str());
        step.error(ErrorKind::Io, "an earlier write of it failed or was abandoned")
    }

    async fn send_full_parts(&mut self, operation: Operation) -> Result<()> {
        let key = self.key.clone();
        let step = Step::new(operation, key.as_str());
        if self.sending.is_none() {
            let full_key = self.client.place.full_key(&self.key);
            let upload = Upload::begin(&self.client, step, &full_key).await?;
            self.sending = Some(Sending { parts: JoinSet::new(), tags: Vec::new(), parts_begun: 0, upload });
        }
        let Some(sending) = &mut self.sending else { return Ok(()) };
        while self.gathered.size_bytes >= PART_BYTES as u64 {
            sending.begin_part(operation, &key, self.gathered.take(PART_BYTES)).await?;
        }
        Ok(())
    }

    /// Publishes what was written.
    pub(crate) async fn publish(mut self, operation: Operation) -> Result<()> {
        if self.is_broken {
            return Err(self.broken(operation));
        }
        let rest = self.gathered.take(usize::MAX);
        let Self { client, ways, key, sending, .. } = &mut self;
        let step = Step::new(operation, key.as_str());
        let Some(mut sending) = sending.take() else {
            return write::create(client, *ways, step, key, rest).await;
        };
        if rest.size_bytes > 0 {
            sending.begin_part(operation, key, rest).await?;
        }
        let (mut upload, tags) = sending.finish(step).await?;
        if ways.create_only_streamed != Condition::Kept
            && let Err(error) = write::refuse_taken(client, step, key).await
        {
            // What cannot be aborted now, the sweep finds.
            let _ = upload.abort(step).await;
            return Err(error);
        }
        upload.complete(step, &tags, ways.create_only_streamed).await
    }

    pub(crate) async fn write_whole(mut self, operation: Operation, bytes: Bytes) -> Result<()> {
        self.write_all(operation, bytes).await?;
        self.publish(operation).await
    }
}

impl Sending {
    /// Sends a part in the background, as soon as few enough are under way.
    async fn begin_part(&mut self, operation: Operation, key: &Key, payload: Payload) -> Result<()> {
        let step = Step::new(operation, key.as_str());
        if self.parts_begun == PARTS_MAX {
            let bytes_max = u64::from(PARTS_MAX) * PART_BYTES as u64;
            let detail = format!("it is larger than the {bytes_max} bytes that one upload holds");
            return Err(step.error(ErrorKind::Unsupported, detail));
        }
        while self.parts.len() >= PARTS_AT_ONCE {
            self.join_part(step).await?;
        }
        self.parts_begun += 1;
        let (sender, number, key) = (self.upload.sender(), self.parts_begun, key.clone());
        self.parts.spawn(async move {
            let step = Step::new(operation, key.as_str());
            Ok((number, sender.send(step, number, payload).await?))
        });
        Ok(())
    }

    async fn join_part(&mut self, step: Step<'_>) -> Result<()> {
        match self.parts.join_next().await {
            Some(Ok(part)) => self.tags.push(part?),
            Some(Err(panic)) => {
                return Err(step.error(ErrorKind::Io, "a part was given up").with_source(panic));
            }
            None => {}
        }
        Ok(())
    }

    /// Waits for the parts and returns their tags in order.
    async fn finish(mut self, step: Step<'_>) -> Result<(Upload, Vec<String>)> {
        while !self.parts.is_empty() {
            self.join_part(step).await?;
        }
        self.tags.sort_by_key(|(number, _)| *number);
        Ok((self.upload, self.tags.into_iter().map(|(_, tag)| tag).collect()))
    }
}

#[async_trait]
impl Staged for S3Staged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.write_all(Operation::Write, bytes).await
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        self.publish(Operation::Seal).await
    }

    async fn discard(mut self: Box<Self>) -> Result<()> {
        let Some(mut sending) = self.sending.take() else { return Ok(()) };
        // A part that arrives after the abort would stay behind.
        sending.parts.shutdown().await;
        sending.upload.abort(Step::new(Operation::Discard, self.key.as_str())).await.map(drop)
    }
}

/// Bytes in pieces as large as the wire takes them.
#[derive(Debug, Default)]
struct Gathered {
    full: VecDeque<Bytes>,
    tail: BytesMut,
    size_bytes: u64,
}

impl Gathered {
    fn push(&mut self, mut bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.tail.capacity() == 0 {
                self.tail = BytesMut::with_capacity(PIECE_BYTES);
            }
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.tail.len()));
            self.tail.extend_from_slice(now);
            bytes = later;
            if self.tail.len() == PIECE_BYTES {
                self.full.push_back(std::mem::take(&mut self.tail).freeze());
            }
        }
    }

    /// Takes so many bytes from the front, a multiple of a piece, or everything.
    fn take(&mut self, bytes: usize) -> Payload {
        let whole = self.full.len().min(bytes / PIECE_BYTES);
        let mut pieces: Vec<_> = self.full.drain(..whole).collect();
        if bytes == usize::MAX && !self.tail.is_empty() {
            pieces.push(std::mem::take(&mut self.tail).freeze());
        }
        let payload = Payload::from(pieces);
        self.size_bytes -= payload.size_bytes;
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gathered_bytes_come_out_as_they_went_in() {
        let whole: Bytes = (0..3 * PIECE_BYTES + 17).map(|number| (number % 251) as u8).collect();
        let mut gathered = Gathered::default();
        let mut rest = whole.clone();
        for size in [1, 0, 100, PIECE_BYTES, 3, usize::MAX] {
            gathered.push(&rest.split_to(size.min(rest.len())));
        }
        assert_eq!(gathered.size_bytes, whole.len() as u64);
        let first = gathered.take(PIECE_BYTES);
        assert_eq!(first.digest().await, Payload::from(whole.slice(..PIECE_BYTES)).digest().await);
        let last = gathered.take(usize::MAX);
        assert_eq!(last.digest().await, Payload::from(whole.slice(PIECE_BYTES..)).digest().await);
        assert_eq!(gathered.size_bytes, 0);
    }
}
