//! One SFTP session over one pair of pipes: many requests in flight, answers matched by their ids.
//!
//! Two tasks serve a channel: one writes what is queued, one reads and hands each answer to whoever waits.
//! What is in flight is bounded: data by [`WINDOW_BYTES`], other requests by [`REQUESTS_MAX`]; the right to
//! send is given back when the answer arrives, whether or not anybody still waits for it. A channel that
//! broke stays broken, every waiter hears why, and a new one takes its place. A handle that nobody wants
//! any longer is closed on its way in.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use packvault_storage::ErrorKind;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::codec::{Attrs, Entry, Limits, PACKET_BYTES_MAX, Reply, Request, VERSION, code, extension};
use crate::error::{Breakage, Failure, Status};

/// The data that may be under way on one channel, in both directions together.
pub(crate) const WINDOW_BYTES: usize = 4 << 20;

/// The requests without data that may be under way on one channel.
const REQUESTS_MAX: usize = 256;

/// The largest piece of data per request; small beside any usual limit of the line.
const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// The piece every server takes.
const PIECE_BYTES_MIN: u64 = 32 * 1024;

/// How many extensions a server may name.
const EXTENSIONS_MAX: usize = 256;

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

struct Shared {
    queue: mpsc::UnboundedSender<Outgoing>,
    state: Mutex<State>,
    window: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    /// Tells the reader to end.
    stop: Notify,
}

/// The queue needs no bound of its own: each entry holds a right to send, or closes what once held one.
enum Outgoing {
    Packet { head: Bytes, payload: Bytes },
    End,
}

#[derive(Default)]
struct State {
    waiters: HashMap<u32, Waiter>,
    next_id: u32,
    /// When something was first waited for after nothing was.
    busy_since: Option<Instant>,
    breakage: Option<Arc<Breakage>>,
}

struct Waiter {
    answer: oneshot::Sender<Answer>,
    _permit: Option<OwnedSemaphorePermit>,
}

enum Answer {
    Reply(Reply),
    Handle(OpenHandle),
}

/// A handle of the server's; dropped, it is closed without waiting.
pub(crate) struct OpenHandle {
    shared: Arc<Shared>,
    raw: Bytes,
    is_closed: bool,
}

impl fmt::Debug for OpenHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenHandle").finish_non_exhaustive()
    }
}

impl OpenHandle {
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Tells whether the handle's channel still works.
    pub(crate) fn is_usable(&self) -> bool {
        self.shared.state().breakage.is_none()
    }

    /// Asks the server to make what lies behind the handle durable.
    pub(crate) async fn begin_sync(&self) -> Result<Waiting, Failure> {
        let permit = self.shared.permit(&self.shared.requests, 1).await?;
        self.shared.send(&Request::Fsync { handle: &self.raw }, Bytes::new(), Some(permit))
    }
}

impl Drop for OpenHandle {
    fn drop(&mut self) {
        if !self.is_closed {
            self.shared.post(&Request::Close { handle: &self.raw });
        }
    }
}

/// An answer that is under way.
pub(crate) struct Waiting {
    answer: oneshot::Receiver<Answer>,
    shared: Arc<Shared>,
}

impl Waiting {
    async fn answer(self) -> Result<Answer, Failure> {
        let answer = match self.answer.await {
            Ok(answer) => answer,
            Err(_) => return Err(self.shared.broken().into()),
        };
        match answer {
            Answer::Reply(Reply::Status { code, message }) if code != code::OK => {
                Err(Failure::Status(Status::new(code, &message)))
            }
            answer => Ok(answer),
        }
    }

    fn surprised(shared: &Shared) -> Failure {
        let breakage = Breakage::protocol("an answer of the wrong kind");
        shared.give_up(Arc::clone(&breakage));
        breakage.into()
    }

    /// Waits for "ok".
    pub(crate) async fn done(self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        match self.answer().await? {
            Answer::Reply(Reply::Status { .. }) => Ok(()),
            _ => Err(Self::surprised(&shared)),
        }
    }

    pub(crate) async fn handle(self) -> Result<OpenHandle, Failure> {
        let shared = Arc::clone(&self.shared);
        match self.answer().await? {
            Answer::Handle(handle) => Ok(handle),
            _ => Err(Self::surprised(&shared)),
        }
    }

    pub(crate) async fn attrs(self) -> Result<Attrs, Failure> {
        let shared = Arc::clone(&self.shared);
        match self.answer().await? {
            Answer::Reply(Reply::Attrs(attrs)) => Ok(attrs),
            _ => Err(Self::surprised(&shared)),
        }
    }

    pub(crate) async fn extended(self) -> Result<Bytes, Failure> {
        let shared = Arc::clone(&self.shared);
        match self.answer().await? {
            Answer::Reply(Reply::Extended(bytes)) => Ok(bytes),
            _ => Err(Self::surprised(&shared)),
        }
    }

    /// Waits for at most `len` bytes; none at the end of the file.
    pub(crate) async fn data(self, len: usize) -> Result<Bytes, Failure> {
        let shared = Arc::clone(&self.shared);
        match self.answer().await {
            Ok(Answer::Reply(Reply::Data(bytes))) if !bytes.is_empty() && bytes.len() <= len => Ok(bytes),
            Err(failure) if failure.is_code(code::EOF) => Ok(Bytes::new()),
            Err(failure) => Err(failure),
            Ok(_) => Err(Self::surprised(&shared)),
        }
    }

    /// Waits for entries of a folder; `None` at its end.
    pub(crate) async fn entries(self) -> Result<Option<Vec<Entry>>, Failure> {
        let shared = Arc::clone(&self.shared);
        match self.answer().await {
            Ok(Answer::Reply(Reply::Names(entries))) => Ok(Some(entries)),
            Err(failure) if failure.is_code(code::EOF) => Ok(None),
            Err(failure) => Err(failure),
            Ok(_) => Err(Self::surprised(&shared)),
        }
    }

    /// Tells without waiting how the request ended, if it has.
    pub(crate) fn try_done(&mut self) -> Option<Result<(), Failure>> {
        match self.answer.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(self.shared.broken().into())),
            Ok(Answer::Reply(Reply::Status { code: code::OK, .. })) => Some(Ok(())),
            Ok(Answer::Reply(Reply::Status { code, message })) => {
                Some(Err(Failure::Status(Status::new(code, &message))))
            }
            Ok(_) => Some(Err(Self::surprised(&self.shared))),
        }
    }
}

impl Channel {
    /// Greets the server on a fresh line.
    pub(crate) async fn open(line: Line, patience: Patience) -> Result<Arc<Self>, Arc<Breakage>> {
        let (queue, outgoing) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            queue,
            state: Mutex::default(),
            window: Arc::new(Semaphore::new(WINDOW_BYTES)),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            stop: Notify::new(),
        });
        let (greeted, greeting) = oneshot::channel();
        tokio::spawn(write_all(line.writer, outgoing, Arc::clone(&shared)));
        let reading = Reading {
            reader: line.reader,
            buffer: BytesMut::new(),
            shared: Arc::clone(&shared),
            greeted: Some(greeted),
            answer_max: patience.answer,
            last_arrival: Instant::now(),
        };
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
        self.shared.state().breakage.clone()
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
        self.shared.send(&Request::Read { handle: &handle.raw, offset, len }, Bytes::new(), Some(room))
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
        self.shared.send(&Request::Write { handle: &handle.raw, offset, len }, payload, Some(room))
    }

    /// Closes a handle of this channel.
    pub(crate) async fn close(&self, mut handle: OpenHandle) -> Result<Waiting, Failure> {
        let closing = self.begin(Request::Close { handle: &handle.raw }).await;
        handle.is_closed = closing.is_ok();
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
        let _ = self.shared.queue.send(Outgoing::End);
    }
}

impl Shared {
    /// Nothing that holds the state panics half-way through a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn permit(
        &self,
        semaphore: &Arc<Semaphore>,
        count: u32,
    ) -> Result<OwnedSemaphorePermit, Arc<Breakage>> {
        Arc::clone(semaphore).acquire_many_owned(count).await.map_err(|_| self.broken())
    }

    fn send(
        self: &Arc<Self>,
        request: &Request<'_>,
        payload: Bytes,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Waiting, Failure> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state();
        if let Some(breakage) = &state.breakage {
            return Err(Arc::clone(breakage).into());
        }
        let id = state.free_id();
        state.busy_since.get_or_insert_with(Instant::now);
        state.waiters.insert(id, Waiter { answer: sender, _permit: permit });
        // Queued under the lock, so that the order of the ids is the order on the line.
        self.queue_packet(request.encode(id), payload);
        drop(state);
        Ok(Waiting { answer, shared: Arc::clone(self) })
    }

    fn post(self: &Arc<Self>, request: &Request<'_>) {
        // Nobody is left to hear of a failure.
        let _ = self.send(request, Bytes::new(), None);
    }

    fn queue_packet(&self, head: Bytes, payload: Bytes) {
        // Fails only when the writer has ended, which the reader tells all waiters.
        let _ = self.queue.send(Outgoing::Packet { head, payload });
    }

    fn broken(&self) -> Arc<Breakage> {
        let gone = || Breakage::new(ErrorKind::Connection, "the connection was given up");
        self.state().breakage.clone().unwrap_or_else(gone)
    }

    /// Records the first reason and wakes everybody.
    fn give_up(&self, breakage: Arc<Breakage>) {
        let waiters = {
            let mut state = self.state();
            state.breakage.get_or_insert(breakage);
            state.busy_since = None;
            std::mem::take(&mut state.waiters)
        };
        self.window.close();
        self.requests.close();
        let _ = self.queue.send(Outgoing::End);
        self.stop.notify_one();
        drop(waiters);
    }

    /// Hands the reply to whoever waits for it.
    fn deliver(self: &Arc<Self>, id: u32, reply: Reply) -> Result<(), Arc<Breakage>> {
        let waiter = {
            let mut state = self.state();
            let waiter = state.waiters.remove(&id);
            state.busy_since = (!state.waiters.is_empty()).then(Instant::now);
            waiter
        };
        let waiter = waiter.ok_or_else(|| Breakage::protocol("an answer that nobody asked for"))?;
        let answer = match reply {
            Reply::Handle(raw) => {
                Answer::Handle(OpenHandle { shared: Arc::clone(self), raw, is_closed: false })
            }
            reply => Answer::Reply(reply),
        };
        // Where nobody waits any longer, a handle is closed by its drop.
        let _ = waiter.answer.send(answer);
        Ok(())
    }
}

impl State {
    /// Returns an id under which nothing is waited for; the bounds leave plenty.
    fn free_id(&mut self) -> u32 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if !self.waiters.contains_key(&self.next_id) {
                return self.next_id;
            }
        }
    }
}

async fn write_all(
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
    shared.stop.notify_one();
}

struct Reading {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    shared: Arc<Shared>,
    greeted: Option<oneshot::Sender<Reply>>,
    answer_max: Duration,
    last_arrival: Instant,
}

impl Reading {
    async fn run(mut self, mut peer: Box<dyn Peer>) {
        let shared = Arc::clone(&self.shared);
        let breakage = tokio::select! {
            breakage = self.read_all(&mut *peer) => breakage,
            () = shared.stop.notified() => shared.broken(),
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
            self.buffer.reserve(PIECE_BYTES_MAX as usize);
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
                    let text =
                        format!("the server answered nothing for {} s", self.answer_max.as_secs());
                    return Err(Breakage::new(ErrorKind::Timeout, text));
                }
                Err(_) => {}
            }
        }
    }

    fn quiet_left(&self) -> Duration {
        let Some(busy_since) = self.shared.state().busy_since else { return self.answer_max };
        let quiet_since = busy_since.max(self.last_arrival);
        self.answer_max.saturating_sub(quiet_since.elapsed())
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
