//! Where CPU work meets I/O: the only module that puts work on blocking threads. It holds what surrounds the
//! operation, so that whoever has it needs nothing else.
//!
//! At most `jobs` pieces of work run at once, each with a [`Worker`] whose zstd contexts and buffers are
//! used again and again. Work starts when it is handed in, not when its result is asked for, so that
//! reading, computing and writing overlap. What is in flight is bounded by callers through
//! [`Pipeline::reserve`]: bytes of a budget that are given back when the reservation is dropped. A piece
//! larger than the budget is admitted alone. What an operation keeps in tables is set aside from the same
//! budget, so that a larger archive does not take more memory. What a blob takes while it is decoded has room of its
//! own, [`Pipeline::room_to_decode`]: kept from the budget while its bytes are on their way, it would leave the line
//! idle.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tracing::{Instrument as _, Span};

use super::Context;
use crate::format::pack::Entry;
use crate::format::{Compressor, Decompressor, FormatError, crc32c};
use crate::repo::Sealing;
use crate::repo::packs::StoredBlob;
use crate::{Error, ErrorKind, Result};

/// Bytes that may be kept in tables and be in flight between reading and writing.
const BUDGET_BYTES: u64 = 32 * 1024 * 1024;
/// What stays for the bytes in flight, however large the tables are.
const IN_FLIGHT_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// What blobs that are being decoded may take beside their stored bytes, for every piece of work that runs at once: a
/// page blob of 4 KiB pages, opened and decoded. A larger one is decoded alone.
const DECODING_BYTES_PER_JOB: u64 = 8 * 1024 * 1024;
/// The budget is counted in pieces of this size, for the counter has 32 bits.
const BUDGET_UNIT_BYTES: u64 = 1024;
/// Buffers kept for use again.
const BUFFERS_MAX: usize = 8;

/// What one thread works with; made once, used for many pieces.
pub struct Worker {
    /// Compresses blobs at the level of the run.
    pub compressor: Compressor,
    /// Decodes blobs.
    decompressor: Decompressor,
    /// Holds a frame until its length is known.
    pub frame: Vec<u8>,
    /// Holds a frame that was sealed, while it is decoded.
    opened: Vec<u8>,
    /// Where bytes wait that do not fit in memory.
    pub spool: PathBuf,
    /// The level of the compressor, for blobs that are streamed.
    pub zstd_level: i32,
}

impl Worker {
    /// Returns the blob of an entry, given its stored bytes; nothing before it was proved to be what its id says.
    pub fn decode<'a>(
        &'a mut self,
        sealing: &Sealing,
        entry: &Entry,
        stored: &'a [u8],
    ) -> std::result::Result<&'a [u8], FormatError> {
        let (entry, frame) = sealing.open_frame(entry, stored, &mut self.opened)?;
        self.decompressor.decode(&entry, frame)
    }

    /// The same of a frame that is stored elsewhere: also returns it as it is stored there. Its compression stays.
    pub fn carry<'a>(
        &'a mut self,
        from: &Sealing,
        to: &Sealing,
        entry: &Entry,
        stored: &'a Bytes,
    ) -> Result<std::result::Result<(StoredBlob, &'a [u8]), FormatError>> {
        let (inner, frame) = match from.open_frame(entry, stored, &mut self.opened) {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        let raw = match self.decompressor.decode(&inner, frame) {
            Ok(raw) => raw,
            Err(error) => return Ok(Err(error)),
        };
        let Entry { id, raw_bytes, .. } = *entry;
        if to.seals_like(from) {
            let blob = StoredBlob {
                id,
                raw_bytes,
                flags: entry.flags,
                crc32c: entry.crc32c,
                stored: stored.clone(),
            };
            return Ok(Ok((blob, raw)));
        }
        let sealed = to.seal_frame(&id, frame)?;
        let stored = sealed.map_or_else(|| Bytes::copy_from_slice(frame), Bytes::from);
        let (flags, crc32c) = (to.flags(inner.flags), crc32c(&stored));
        Ok(Ok((StoredBlob { id, raw_bytes, flags, crc32c, stored }, raw)))
    }

    /// The same into a buffer of the caller's, replacing what it held; on failure its content is of no use.
    pub fn decode_into(
        &mut self,
        sealing: &Sealing,
        entry: &Entry,
        stored: &[u8],
        raw: &mut Vec<u8>,
    ) -> std::result::Result<(), FormatError> {
        let (entry, frame) = sealing.open_frame(entry, stored, &mut self.opened)?;
        self.decompressor.decode_into(&entry, frame, raw)
    }
}

/// Bytes of the budget, given back when dropped.
#[derive(Debug)]
pub struct Reservation(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

struct Shared {
    context: Context,
    zstd_level: i32,
    running: Arc<Semaphore>,
    budget: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
    /// The whole of the budget: what is free and what is reserved.
    budget_bytes: AtomicU64,
    workers: Mutex<Vec<Worker>>,
    buffers: Mutex<Vec<Vec<u8>>>,
}

/// Runs CPU work beside I/O; clones share their workers.
#[derive(Clone)]
pub struct Pipeline(Arc<Shared>);

impl Pipeline {
    /// Makes a pipeline for one operation.
    pub fn new(context: &Context, zstd_level: i32) -> Self {
        let context = Context { jobs: context.jobs.max(1), ..context.clone() };
        let decoding_bytes = context.jobs as u64 * DECODING_BYTES_PER_JOB;
        Self(Arc::new(Shared {
            running: Arc::new(Semaphore::new(context.jobs)),
            context,
            zstd_level,
            budget: Arc::new(Semaphore::new((BUDGET_BYTES / BUDGET_UNIT_BYTES) as usize)),
            decoding: Arc::new(Semaphore::new((decoding_bytes / BUDGET_UNIT_BYTES) as usize)),
            budget_bytes: AtomicU64::new(BUDGET_BYTES),
            workers: Mutex::default(),
            buffers: Mutex::default(),
        }))
    }

    /// Returns what surrounds the operation.
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// Returns how many pieces run at once.
    pub fn jobs(&self) -> usize {
        self.0.context.jobs
    }

    /// Starts a piece of work; it runs as soon as a thread is free, asked for or not.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T> + Send + 'static,
    ) -> Task<T> {
        let shared = self.0.clone();
        // Work belongs to the operation that starts it, in the log too.
        let span = Span::current();
        Task(tokio::spawn(async move {
            let permit = shared.running.clone().acquire_owned().await.expect("the semaphore is never closed");
            shared.context.cancel.check()?;
            let finished = tokio::task::spawn_blocking(move || {
                let mut worker = shared.worker()?;
                let result = span.in_scope(|| work(&mut worker));
                shared.workers.lock().expect("no holder of the workers panics").push(worker);
                // Held until the last step of the work, so that `quiesce` waits for it.
                drop(permit);
                result
            });
            finished.await.unwrap_or_else(|error| Err(ended_early(error)))
        }))
    }

    /// Runs a piece of work and returns its result.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Worker) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.start(work).await
    }

    /// Runs work of which nobody knows how long it takes. Once the operation is cancelled it is not waited for, by
    /// `quiesce` neither; it goes on.
    pub async fn run_while_wanted(&self, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let permit = self.0.running.acquire().await;
        let _permit = permit.expect("the semaphore is never closed");
        self.0.context.cancel.check()?;
        let work = tokio::task::spawn_blocking(work);
        tokio::select! {
            done = work => done.map_err(ended_early),
            () = self.0.context.cancel.cancelled() => self.0.context.cancel.check(),
        }
    }

    /// Starts reading; it goes on whether or not its result is asked for.
    pub fn fetch<T: Send + 'static>(
        &self,
        read: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Task<T> {
        Task(tokio::spawn(read.in_current_span()))
    }

    /// Waits until so many bytes of the budget are free, and takes them.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        let units = self.units_of(bytes);
        let permit = self.0.budget.clone().acquire_many_owned(units).await;
        Reservation(permit.expect("the semaphore is never closed"))
    }

    /// Waits until so many bytes may be taken for decoding what was read, and takes them. Whoever has them asks for
    /// nothing else: readers hold their reservations while they wait here.
    pub async fn room_to_decode(&self, bytes: u64) -> Reservation {
        let all = self.jobs() as u64 * DECODING_BYTES_PER_JOB;
        let units = bytes.min(all).div_ceil(BUDGET_UNIT_BYTES) as u32;
        let permit = self.0.decoding.clone().acquire_many_owned(units).await;
        Reservation(permit.expect("the semaphore is never closed"))
    }

    /// Takes bytes off the budget for good: what the operation keeps in tables. A quarter of the budget
    /// stays, whatever the tables take.
    pub async fn set_aside(&self, bytes: u64) {
        let unit = |bytes: u64| bytes / BUDGET_UNIT_BYTES * BUDGET_UNIT_BYTES;
        let whole = &self.0.budget_bytes;
        let keep = |whole: u64| whole - unit(bytes.min(whole - IN_FLIGHT_BYTES_MIN));
        let before = whole.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |whole| Some(keep(whole)));
        let before = before.expect("the update always has a value");
        // Work that has reserved more than is left now waits before us in the queue, and gets its share first.
        let units = (before - keep(before)) / BUDGET_UNIT_BYTES;
        let taken = self.0.budget.acquire_many(units as u32).await;
        taken.expect("the semaphore is never closed").forget();
    }

    /// Tells whether a reservation of so many bytes would not have to wait.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.0.budget.available_permits() as u64 >= u64::from(self.units_of(bytes))
    }

    fn units_of(&self, bytes: u64) -> u32 {
        bytes.min(self.0.budget_bytes.load(Ordering::Relaxed)).div_ceil(BUDGET_UNIT_BYTES) as u32
    }

    /// Waits until no work runs. Work that was started and not asked for has ended or never begins, once
    /// its [`Task`] is dropped.
    pub async fn quiesce(&self) {
        let all = self.0.running.acquire_many(self.jobs() as u32).await;
        drop(all.expect("the semaphore is never closed"));
    }

    /// Returns an empty buffer, one used before where there is one.
    pub fn buffer(&self) -> Vec<u8> {
        let mut buffers = self.0.buffers.lock().expect("no holder of the buffers panics");
        buffers.pop().unwrap_or_default()
    }

    /// Gives a buffer back for use again.
    pub fn recycle(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut buffers = self.0.buffers.lock().expect("no holder of the buffers panics");
        if buffers.len() < BUFFERS_MAX {
            buffers.push(buffer);
        }
    }
}

impl Shared {
    fn worker(&self) -> Result<Worker> {
        if let Some(worker) = self.workers.lock().expect("no holder of the workers panics").pop() {
            return Ok(worker);
        }
        let compressor = Compressor::new(self.zstd_level)
            .map_err(|error| Error::caused(ErrorKind::Usage, "cannot prepare the compression", error))?;
        Ok(Worker {
            compressor,
            decompressor: Decompressor::new(),
            frame: Vec::new(),
            opened: Vec::new(),
            spool: self.context.spool.clone(),
            zstd_level: self.zstd_level,
        })
    }
}

/// Work under way. Dropped before it has begun, it never does.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<Result<T>>);

impl<T> Task<T> {
    /// Tells whether it has ended, one way or the other.
    pub fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|joined| joined.unwrap_or_else(|error| Err(ended_early(error))))
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn ended_early(error: tokio::task::JoinError) -> Error {
    Error::caused(ErrorKind::Io, "a worker ended early", error)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cancel::Cancel;
    use crate::progress::Silent;

    fn pipeline() -> Pipeline {
        let context = Context {
            cancel: Cancel::new(),
            progress: Arc::new(Silent),
            jobs: 2,
            hostname: String::new(),
            spool: PathBuf::new(),
        };
        Pipeline::new(&context, 0)
    }

    fn free(pipeline: &Pipeline) -> u64 {
        pipeline.0.budget.available_permits() as u64 * BUDGET_UNIT_BYTES
    }

    #[tokio::test]
    async fn tables_leave_less_for_what_is_in_flight_and_never_less_than_a_quarter() {
        let pipeline = pipeline();
        pipeline.set_aside(10 * 1024 * 1024).await;
        assert_eq!(free(&pipeline), BUDGET_BYTES - 10 * 1024 * 1024);
        pipeline.set_aside(u64::MAX).await;
        assert_eq!(free(&pipeline), IN_FLIGHT_BYTES_MIN);
        pipeline.set_aside(1).await;
        assert_eq!(free(&pipeline), IN_FLIGHT_BYTES_MIN);
    }

    #[tokio::test]
    async fn a_piece_larger_than_what_tables_have_left_is_admitted_alone() {
        let pipeline = pipeline();
        pipeline.set_aside(BUDGET_BYTES).await;
        assert!(pipeline.has_room(BUDGET_BYTES));
        let alone = pipeline.reserve(BUDGET_BYTES).await;
        assert!(!pipeline.has_room(1));
        drop(alone);
        assert_eq!(free(&pipeline), IN_FLIGHT_BYTES_MIN);
    }

    #[tokio::test]
    async fn what_is_decoded_takes_room_of_its_own_and_a_larger_blob_all_of_it() {
        let pipeline = pipeline();
        let whole = pipeline.reserve(BUDGET_BYTES).await;
        let one = pipeline.room_to_decode(DECODING_BYTES_PER_JOB).await;
        let other = pipeline.room_to_decode(DECODING_BYTES_PER_JOB).await;
        assert_eq!(pipeline.0.decoding.available_permits(), 0);
        drop((one, other, whole));
        let alone = pipeline.room_to_decode(u64::MAX).await;
        assert_eq!(pipeline.0.decoding.available_permits(), 0);
        drop(alone);
    }

    #[tokio::test]
    async fn what_was_reserved_before_the_tables_came_is_waited_for() {
        let pipeline = pipeline();
        let before = pipeline.reserve(BUDGET_BYTES).await;
        // Asked for while all of the budget was still there to be had.
        let queued = tokio::spawn({
            let pipeline = pipeline.clone();
            async move { drop(pipeline.reserve(BUDGET_BYTES).await) }
        });
        tokio::task::yield_now().await;
        let aside = tokio::spawn({
            let pipeline = pipeline.clone();
            async move { pipeline.set_aside(BUDGET_BYTES).await }
        });
        tokio::task::yield_now().await;
        drop(before);
        let both = async { (queued.await, aside.await) };
        let (queued, aside) = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap();
        queued.unwrap();
        aside.unwrap();
        assert_eq!(free(&pipeline), IN_FLIGHT_BYTES_MIN);
    }
}
