//! The two tasks that serve a channel: one writes what is queued, one reads and hands answers out.
//!
//! A packet's length is checked before any of it is kept. A line is given up when something is waited for
//! and nothing at all arrives, however long the thing itself takes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use packvault_storage::ErrorKind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::answers::{Outgoing, Shared};
use crate::codec::{PACKET_BYTES_MAX, Reply, extension};
use crate::error::Breakage;

/// How much room is made for what comes in.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long a channel that was given up may take to write what is queued.
const GOODBYE: Duration = Duration::from_secs(5);

/// The other end of the pipes. Dropped, it is ended.
#[async_trait]
pub(crate) trait Peer: Send {
    /// Hears that a session began, and whether others may ride on its connection.
    fn greeted(&mut self, can_share: bool);

    /// Waits, not for long, until the other end has ended, and tells why it did.
    async fn explain(&mut self, was_greeted: bool) -> Arc<Breakage>;
}

/// A connection on which SFTP is spoken.
pub(crate) struct Line {
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    pub peer: Box<dyn Peer>,
}

/// How long answers are waited for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub greeting: Duration,
    pub answer: Duration,
}

/// Writes what is queued, and then says goodbye.
pub(crate) async fn write_all(
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    mut outgoing: mpsc::UnboundedReceiver<Outgoing>,
    shared: Arc<Shared>,
) {
    while let Some(Outgoing::Packet { head, payload }) = outgoing.recv().await {
        // The reader finds out why the line broke, and tells.
        if writer.write_all_buf(&mut head.chain(payload)).await.is_err() {
            break;
        }
    }
    let _ = tokio::time::timeout(GOODBYE, writer.shutdown()).await;
    drop(writer);
    tokio::time::sleep(GOODBYE).await;
    shared.stop();
}

/// The reading side of a line.
pub(crate) struct Reading {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    shared: Arc<Shared>,
    greeted: Option<oneshot::Sender<Reply>>,
    answer_max: Duration,
    last_arrival: Instant,
}

impl Reading {
    pub(crate) fn new(
        reader: Box<dyn AsyncRead + Send + Unpin>,
        shared: Arc<Shared>,
        greeted: oneshot::Sender<Reply>,
        answer_max: Duration,
    ) -> Self {
        let last_arrival = Instant::now();
        Self { reader, buffer: BytesMut::new(), shared, greeted: Some(greeted), answer_max, last_arrival }
    }

    /// Reads until the line ends or is given up, and tells all waiters why.
    pub(crate) async fn run(mut self, mut peer: Box<dyn Peer>) {
        let shared = Arc::clone(&self.shared);
        let breakage = tokio::select! {
            breakage = self.read_all(&mut *peer) => breakage,
            () = shared.stopped() => shared.broken(),
        };
        shared.give_up(breakage);
    }

    async fn read_all(&mut self, peer: &mut dyn Peer) -> Arc<Breakage> {
        loop {
            match self.next_packet().await {
                Ok(Some(packet)) => {
                    if let Err(breakage) = self.take(packet, peer) {
                        return breakage;
                    }
                }
                Ok(None) => return peer.explain(self.greeted.is_none()).await,
                Err(breakage) => return breakage,
            }
        }
    }

    fn take(&mut self, packet: Bytes, peer: &mut dyn Peer) -> Result<(), Arc<Breakage>> {
        let (id, reply) = Reply::decode(packet).map_err(|malformed| Breakage::protocol(malformed.0))?;
        match (&reply, self.greeted.is_some()) {
            (Reply::Version { extensions, .. }, true) => {
                // Only OpenSSH has this extension. ProFTPD allows several channels and forgets to answer.
                peer.greeted(extensions.iter().any(|(name, _)| name == extension::LIMITS));
                if let Some(greeted) = self.greeted.take() {
                    let _ = greeted.send(reply);
                }
                Ok(())
            }
            (Reply::Version { .. }, false) | (_, true) => {
                Err(Breakage::protocol("a greeting out of its turn"))
            }
            _ => self.shared.deliver(id, reply),
        }
    }

    /// Returns the next packet without its length; `None` at the end of the line.
    async fn next_packet(&mut self) -> Result<Option<Bytes>, Arc<Breakage>> {
        loop {
            if let Some(packet) = self.split_packet()? {
                return Ok(Some(packet));
            }
            self.buffer.reserve(BUFFER_BYTES);
            if !self.read_some().await? {
                return Ok(None);
            }
        }
    }

    fn split_packet(&mut self) -> Result<Option<Bytes>, Arc<Breakage>> {
        let Some(len) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len) as usize;
        if len == 0 || len > PACKET_BYTES_MAX {
            return Err(self.oversized(len));
        }
        if self.buffer.len() < 4 + len {
            return Ok(None);
        }
        self.buffer.advance(4);
        Ok(Some(self.buffer.split_to(len).freeze()))
    }

    /// Text of a login script in place of the first packet is a mistake in a setup, and a frequent one.
    fn oversized(&self, len: usize) -> Arc<Breakage> {
        if self.greeted.is_some() {
            let text = "what the server sent is no SFTP: does a login script print something there? \
                        `ssh HOST true` must print nothing";
            return Breakage::new(ErrorKind::Config, text);
        }
        Breakage::protocol(&format!("a packet of {len} bytes"))
    }

    /// Reads what has come in; false at the end. Times out only when something is waited for and nothing
    /// at all arrives.
    async fn read_some(&mut self) -> Result<bool, Arc<Breakage>> {
        loop {
            let quiet_left = self.quiet_left();
            match tokio::time::timeout(quiet_left, self.reader.read_buf(&mut self.buffer)).await {
                Ok(Ok(bytes)) => {
                    self.last_arrival = Instant::now();
                    return Ok(bytes > 0);
                }
                Ok(Err(_)) => return Ok(false),
                Err(_) if self.quiet_left().is_zero() => {
                    let text = format!("the server answered nothing for {} s", self.answer_max.as_secs());
                    return Err(Breakage::new(ErrorKind::Timeout, text));
                }
                Err(_) => {}
            }
        }
    }

    fn quiet_left(&self) -> Duration {
        let Some(busy_since) = self.shared.busy_since() else { return self.answer_max };
        let quiet_since = busy_since.max(self.last_arrival);
        self.answer_max.saturating_sub(quiet_since.elapsed())
    }
}
