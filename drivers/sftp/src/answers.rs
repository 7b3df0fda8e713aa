//! What is waited for on a channel: each answer finds its waiter by its id, and each handle its end.
//!
//! The right to send is given back when the answer arrives, whether or not anybody still waits for it. A
//! handle that nobody wants any longer is closed on its way in.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use packvault_storage::ErrorKind;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::channel::{REQUESTS_MAX, WINDOW_BYTES};
use crate::codec::{Attrs, Entry, Reply, Request, code};
use crate::error::{Breakage, Failure, Status};

/// What the tasks, the waiters and the handles of one channel share.
pub(crate) struct Shared {
    queue: mpsc::UnboundedSender<Outgoing>,
    state: Mutex<State>,
    pub(crate) window: Arc<Semaphore>,
    pub(crate) requests: Arc<Semaphore>,
    /// Tells the reader to end.
    stop: Notify,
}

/// The queue needs no bound of its own: each entry holds a right to send, or closes what once held one.
pub(crate) enum Outgoing {
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
    pub(crate) shared: Arc<Shared>,
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

    /// Records that it is being closed, and not by its drop.
    pub(crate) fn mark_closed(&mut self) {
        self.is_closed = true;
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

impl Shared {
    pub(crate) fn new(queue: mpsc::UnboundedSender<Outgoing>) -> Arc<Self> {
        Arc::new(Self {
            queue,
            state: Mutex::default(),
            window: Arc::new(Semaphore::new(WINDOW_BYTES)),
            requests: Arc::new(Semaphore::new(REQUESTS_MAX)),
            stop: Notify::new(),
        })
    }

    /// Returns why the channel is of no more use, if it is so.
    pub(crate) fn breakage(&self) -> Option<Arc<Breakage>> {
        self.state().breakage.clone()
    }

    /// Returns since when something has been waited for.
    pub(crate) fn busy_since(&self) -> Option<Instant> {
        self.state().busy_since
    }

    /// Lets the writer end once it has written what is queued.
    pub(crate) fn end(&self) {
        let _ = self.queue.send(Outgoing::End);
    }

    pub(crate) fn stop(&self) {
        self.stop.notify_one();
    }

    pub(crate) async fn stopped(&self) {
        self.stop.notified().await;
    }

    /// Nothing that holds the state panics half-way through a change.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn permit(
        &self,
        semaphore: &Arc<Semaphore>,
        count: u32,
    ) -> Result<OwnedSemaphorePermit, Arc<Breakage>> {
        Arc::clone(semaphore).acquire_many_owned(count).await.map_err(|_| self.broken())
    }

    pub(crate) fn send(
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

    pub(crate) fn post(self: &Arc<Self>, request: &Request<'_>) {
        // Nobody is left to hear of a failure.
        let _ = self.send(request, Bytes::new(), None);
    }

    pub(crate) fn queue_packet(&self, head: Bytes, payload: Bytes) {
        // Fails only when the writer has ended, which the reader tells all waiters.
        let _ = self.queue.send(Outgoing::Packet { head, payload });
    }

    pub(crate) fn broken(&self) -> Arc<Breakage> {
        let gone = || Breakage::new(ErrorKind::Connection, "the connection was given up");
        self.state().breakage.clone().unwrap_or_else(gone)
    }

    /// Records the first reason and wakes everybody.
    pub(crate) fn give_up(&self, breakage: Arc<Breakage>) {
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
    pub(crate) fn deliver(self: &Arc<Self>, id: u32, reply: Reply) -> Result<(), Arc<Breakage>> {
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
