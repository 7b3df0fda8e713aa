//! One SFTP session over one pair of pipes: many requests in flight, answers matched by their ids.
//!
//! What is in flight is bounded: data by [`WINDOW_BYTES`], other requests by [`REQUESTS_MAX`]. A channel
//! that broke stays broken, every waiter hears why, and a new one takes its place.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use packvault_storage::ErrorKind;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::answers::{OpenHandle, Shared, Waiting};
use crate::codec::{Limits, Reply, Request, VERSION, extension};
use crate::error::{Breakage, Failure};
use crate::line::{Line, Patience, Reading, write_all};

/// The data that may be under way on one channel, in both directions together.
pub(crate) const WINDOW_BYTES: usize = 4 << 20;

/// The requests without data that may be under way on one channel.
pub(crate) const REQUESTS_MAX: usize = 256;

/// The largest piece of data per request; small beside any usual limit of the line.
const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// The piece every server takes.
const PIECE_BYTES_MIN: u64 = 32 * 1024;

/// How many extensions a server may name.
const EXTENSIONS_MAX: usize = 256;

/// What a server says of itself when a session begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct Greeting {
    pub version: u32,
    pub extensions: Vec<String>,
    /// Present where the server tells its limits.
    pub limits: Option<Limits>,
}

impl Greeting {
    pub(crate) fn offers(&self, name: &str) -> bool {
        self.extensions.iter().any(|offered| offered == name)
    }

    /// Tells whether requests are carried out in the order in which they were sent: only OpenSSH has this
    /// extension, and it serves one request after the other.
    pub(crate) fn is_in_order(&self) -> bool {
        self.offers(extension::LIMITS)
    }

    /// Returns how much to ask for in one read, and to send in one write.
    pub(crate) fn piece_bytes(&self) -> usize {
        let told = self.limits.map_or(PIECE_BYTES_MIN, |limits| {
            let least = limits.read_bytes.min(limits.write_bytes);
            if least == 0 { PIECE_BYTES_MIN } else { least }
        });
        told.clamp(1024, PIECE_BYTES_MAX) as usize
    }
}

/// An open session.
pub(crate) struct Channel {
    shared: Arc<Shared>,
    greeting: OnceLock<Greeting>,
    /// How much work is on it, for the choice between channels.
    pub(crate) load: AtomicUsize,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("broken", &self.breakage()).finish_non_exhaustive()
    }
}

impl Channel {
    /// Greets the server on a fresh line.
    pub(crate) async fn open(line: Line, patience: Patience) -> Result<Arc<Self>, Arc<Breakage>> {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let shared = Shared::new(queue);
        let (greeted, greeting) = oneshot::channel();
        tokio::spawn(write_all(line.writer, outgoing, Arc::clone(&shared)));
        let reading = Reading::new(line.reader, Arc::clone(&shared), greeted, patience.answer);
        tokio::spawn(reading.run(line.peer));
        let channel = Arc::new(Self { shared, greeting: OnceLock::new(), load: AtomicUsize::new(0) });
        let greeting = channel.greet(greeting, patience.greeting).await?;
        let _ = channel.greeting.set(greeting);
        Ok(channel)
    }

    async fn greet(
        &self,
        greeting: oneshot::Receiver<Reply>,
        greeting_max: Duration,
    ) -> Result<Greeting, Arc<Breakage>> {
        self.shared.queue_packet(Request::Init.encode(0), Bytes::new());
        let reply = match tokio::time::timeout(greeting_max, greeting).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => return Err(self.shared.broken()),
            Err(_) => {
                let text = format!("no SFTP session began within {} s", greeting_max.as_secs());
                let breakage = Breakage::new(ErrorKind::Timeout, text);
                self.shared.give_up(Arc::clone(&breakage));
                return Err(breakage);
            }
        };
        let Reply::Version { version, extensions } = reply else {
            return Err(Breakage::protocol("the first packet is no greeting"));
        };
        if version < VERSION || extensions.len() > EXTENSIONS_MAX {
            let text = format!("the server speaks version {version} of SFTP; version 3 is needed");
            return Err(Breakage::new(ErrorKind::Config, text));
        }
        let extensions: Vec<_> =
            extensions.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect();
        let mut greeting = Greeting { version, extensions, limits: None };
        if greeting.offers(extension::LIMITS) {
            greeting.limits = self.limits().await?;
        }
        Ok(greeting)
    }

    async fn limits(&self) -> Result<Option<Limits>, Arc<Breakage>> {
        let answer = async { self.begin(Request::Limits).await?.extended().await };
        match answer.await {
            Ok(bytes) => Ok(Limits::decode(bytes).ok()),
            Err(Failure::Status(_)) => Ok(None),
            Err(Failure::Broken(breakage)) => Err(breakage),
        }
    }

    pub(crate) fn greeting(&self) -> &Greeting {
        static NOTHING: Greeting = Greeting { version: VERSION, extensions: Vec::new(), limits: None };
        self.greeting.get().unwrap_or(&NOTHING)
    }

    /// Returns why the channel is of no more use, if it is so.
    pub(crate) fn breakage(&self) -> Option<Arc<Breakage>> {
        self.shared.breakage()
    }

    /// Ends the channel; whoever waits on it hears the reason.
    pub(crate) fn give_up(&self, breakage: Arc<Breakage>) {
        self.shared.give_up(breakage);
    }

    /// Sends a request without data.
    pub(crate) async fn begin(&self, request: Request<'_>) -> Result<Waiting, Failure> {
        let permit = self.shared.permit(&self.shared.requests, 1).await?;
        self.shared.send(&request, Bytes::new(), Some(permit))
    }

    /// Waits until the window has room for a piece.
    pub(crate) async fn room(&self, len: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let len = u32::try_from(len.clamp(1, WINDOW_BYTES)).unwrap_or(u32::MAX);
        Ok(self.shared.permit(&self.shared.window, len).await?)
    }

    /// Asks for a piece, for which there is room.
    pub(crate) fn read(
        &self,
        handle: &OpenHandle,
        offset: u64,
        len: u32,
        room: OwnedSemaphorePermit,
    ) -> Result<Waiting, Failure> {
        self.shared.send(&Request::Read { handle: handle.raw(), offset, len }, Bytes::new(), Some(room))
    }

    /// Sends a piece, for which there is room.
    pub(crate) fn write(
        &self,
        handle: &OpenHandle,
        offset: u64,
        payload: Bytes,
        room: OwnedSemaphorePermit,
    ) -> Result<Waiting, Failure> {
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.shared.send(&Request::Write { handle: handle.raw(), offset, len }, payload, Some(room))
    }

    /// Closes a handle of this channel.
    pub(crate) async fn close(&self, mut handle: OpenHandle) -> Result<Waiting, Failure> {
        let closing = self.begin(Request::Close { handle: handle.raw() }).await;
        if closing.is_ok() {
            handle.mark_closed();
        }
        closing
    }

    /// Sends a request whose answer nobody waits for.
    pub(crate) fn post(&self, request: &Request<'_>) {
        self.shared.post(request);
    }

    /// Tells whether the handle is of this channel.
    pub(crate) fn owns(&self, handle: &OpenHandle) -> bool {
        Arc::ptr_eq(&self.shared, &handle.shared)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // What is queued is still written; the reader ends with the server's own end.
        self.shared.end();
    }
}

/// A counted use of a channel.
pub(crate) struct Lease {
    channel: Arc<Channel>,
    weight: usize,
}

impl Lease {
    pub(crate) fn new(channel: Arc<Channel>, weight: usize) -> Self {
        channel.load.fetch_add(weight, Ordering::Relaxed);
        Self { channel, weight }
    }
}

impl std::ops::Deref for Lease {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.channel.load.fetch_sub(self.weight, Ordering::Relaxed);
    }
}
