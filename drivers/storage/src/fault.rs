//! A storage that fails on command, for tests: the same way each time, at the call that was chosen.
//!
//! Every call counts, from one on, those of uploads included (a listing is one call, when it is asked
//! for). A test runs an operation once to learn its number of calls, then once for each of them with a
//! [`Fault`] there. [`Fault::StopBefore`] and [`Fault::StopAfter`] stand for a process that died: every
//! later call fails, and what was being uploaded is left as a killed process leaves it.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};

use crate::removal::remove_each;
use crate::{
    Error, ErrorKind, Guarantees, Key, ListedObject, NotRemoved, ObjectMeta, Operation, Prefix, Result,
    Staged, Storage, SweepReport,
};

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call fails with this kind, and nothing was done. With `NotFound` it is a lie about what is there.
    Before(ErrorKind),
    /// The step is done, and its answer is lost: the call fails with this kind.
    After(ErrorKind),
    /// A read returns only the first half of its bytes, against the contract. Others are unharmed.
    Truncate,
    /// One bit in the middle of what a read returns is flipped. Others are unharmed.
    Flip,
    /// The call takes this much longer.
    Delay(Duration),
    /// The call never returns, and nothing was done.
    Hang,
    /// The store says nothing until the call is given up after so long: it fails with `Timeout`, undone.
    Silence(Duration),
    /// The process dies before the step: it and everything after it fails, undone.
    StopBefore,
    /// The process dies after the step: it is done, and everything after it fails, undone.
    StopAfter,
}

/// Tells for which calls a fault is meant.
type Matches = Box<dyn Fn(Operation, &str) -> bool + Send + Sync>;

/// A storage that fails where it is told to. A clone shares the plan and the count.
#[derive(Debug, Clone)]
pub struct FaultStorage {
    inner: Arc<dyn Storage>,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
struct Plan {
    calls: Vec<(Operation, String)>,
    at_call: Vec<(u64, Fault)>,
    from_call: Option<(u64, Fault)>,
    matching: Vec<(Matches, Skip, Fault)>,
    is_stopped: bool,
}

/// How many matching calls go well before the one that fails.
struct Skip(u64);

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("calls", &self.calls.len())
            .field("at_call", &self.at_call)
            .field("is_stopped", &self.is_stopped)
            .finish_non_exhaustive()
    }
}

impl FaultStorage {
    /// Wraps the storage; nothing fails yet.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, plan: Arc::default() }
    }

    /// Lets the call with this number fail, the first call being 1.
    pub fn at_call(&self, number: u64, fault: Fault) {
        self.plan().at_call.push((number, fault));
    }

    /// Lets every call from the one with this number on fail, for good.
    pub fn from_call(&self, number: u64, fault: Fault) {
        self.plan().from_call = Some((number, fault));
    }

    /// Lets the next call of this operation fail, once.
    pub fn at_next(&self, operation: Operation, fault: Fault) {
        self.at_match(0, fault, move |asked, _| asked == operation);
    }

    /// Lets one call fail that matches operation and object, after so many matching ones went well.
    ///
    /// The object is the key, the prefix of a list, `from -> to` for a rename, or empty.
    pub fn at_match(
        &self,
        skipped: u64,
        fault: Fault,
        matches: impl Fn(Operation, &str) -> bool + Send + Sync + 'static,
    ) {
        self.plan().matching.push((Box::new(matches), Skip(skipped), fault));
    }

    /// Returns how many calls there were.
    pub fn call_count(&self) -> u64 {
        self.plan().calls.len() as u64
    }

    /// Returns the calls in their order: what was asked, of which object.
    pub fn calls(&self) -> Vec<(Operation, String)> {
        self.plan().calls.clone()
    }

    /// Tells whether the process has died.
    pub fn is_stopped(&self) -> bool {
        self.plan().is_stopped
    }

    /// A panic while the plan is held leaves it whole: every change is one push or one assignment.
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call and tells what goes wrong with it.
    fn next_fault(&self, operation: Operation, object: &str) -> Option<Fault> {
        let mut plan = self.plan();
        plan.calls.push((operation, object.to_owned()));
        if plan.is_stopped {
            return Some(Fault::StopBefore);
        }
        let number = plan.calls.len() as u64;
        let fault = plan.take_fault(number, operation, object);
        plan.is_stopped = matches!(fault, Some(Fault::StopBefore | Fault::StopAfter));
        fault
    }

    async fn call<'a, T: Damage>(
        &'a self,
        operation: Operation,
        object: String,
        step: impl FnOnce() -> BoxFuture<'a, Result<T>> + Send,
    ) -> Result<T> {
        let fault = self.next_fault(operation, &object);
        apply(fault, operation, &object, step).await
    }
}

impl Plan {
    fn take_fault(&mut self, number: u64, operation: Operation, object: &str) -> Option<Fault> {
        if let Some(found) = self.at_call.iter().position(|(at, _)| *at == number) {
            return Some(self.at_call.swap_remove(found).1);
        }
        if let Some((_, fault)) = self.from_call.filter(|(from, _)| number >= *from) {
            return Some(fault);
        }
        let mut due = None;
        for (index, (matches, skip, _)) in self.matching.iter_mut().enumerate() {
            if matches(operation, object) {
                match skip.0.checked_sub(1) {
                    Some(left) => skip.0 = left,
                    None => due = due.or(Some(index)),
                }
            }
        }
        due.map(|index| self.matching.remove(index).2)
    }
}

async fn apply<'a, T: Damage>(
    fault: Option<Fault>,
    operation: Operation,
    object: &str,
    step: impl FnOnce() -> BoxFuture<'a, Result<T>> + Send,
) -> Result<T> {
    match fault {
        None => step().await,
        Some(Fault::Before(kind)) => Err(planned(kind, operation, object)),
        Some(Fault::After(kind)) => step().await.and(Err(planned(kind, operation, object))),
        Some(Fault::Truncate) => step().await.map(Damage::truncated),
        Some(Fault::Flip) => step().await.map(Damage::flipped),
        Some(Fault::Delay(time)) => {
            tokio::time::sleep(time).await;
            step().await
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Silence(time)) => {
            tokio::time::sleep(time).await;
            Err(planned(ErrorKind::Timeout, operation, object))
        }
        Some(Fault::StopBefore) => Err(stopped(operation, object)),
        Some(Fault::StopAfter) => step().await.and(Err(stopped(operation, object))),
    }
}

fn planned(kind: ErrorKind, operation: Operation, object: &str) -> Error {
    Error::new(kind, operation, object, "a test lets it fail")
}

fn stopped(operation: Operation, object: &str) -> Error {
    Error::new(ErrorKind::Io, operation, object, "a test stopped the process")
}

/// What a lying store makes of an answer; only bytes suffer.
trait Damage: Sized {
    fn truncated(self) -> Self {
        self
    }

    fn flipped(self) -> Self {
        self
    }
}

impl Damage for Bytes {
    fn truncated(self) -> Self {
        self.slice(..self.len() / 2)
    }

    fn flipped(self) -> Self {
        let mut bytes = self.to_vec();
        let middle = bytes.len() / 2;
        if let Some(byte) = bytes.get_mut(middle) {
            *byte ^= 1;
        }
        bytes.into()
    }
}

impl Damage for Vec<Bytes> {
    fn truncated(mut self) -> Self {
        if let Some(last) = self.pop() {
            self.push(last.truncated());
        }
        self
    }

    fn flipped(mut self) -> Self {
        if let Some(last) = self.pop() {
            self.push(last.flipped());
        }
        self
    }
}

impl Damage for () {}
impl Damage for ObjectMeta {}
impl Damage for SystemTime {}
impl Damage for SweepReport {}
impl Damage for Box<dyn Staged> {}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Storage for FaultStorage {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn is_spooled(&self) -> bool {
        self.inner.is_spooled()
    }

    async fn read(&self, key: &Key) -> Result<Bytes> {
        self.call(Operation::Read, key.to_string(), || self.inner.read(key)).await
    }

    async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        self.call(Operation::Read, key.to_string(), || self.inner.read_range(key, range)).await
    }

    async fn read_start(&self, key: &Key, bytes_max: u64) -> Result<Bytes> {
        self.call(Operation::Read, key.to_string(), || self.inner.read_start(key, bytes_max)).await
    }

    async fn read_ranges(&self, key: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.call(Operation::Read, key.to_string(), || self.inner.read_ranges(key, ranges)).await
    }

    async fn stat(&self, key: &Key) -> Result<ObjectMeta> {
        self.call(Operation::Stat, key.to_string(), || self.inner.stat(key)).await
    }

    /// Faults after the step come after the last object; a process that died sees no further one.
    fn list(&self, prefix: &Prefix) -> BoxStream<'_, Result<ListedObject>> {
        let object = prefix.to_string();
        let fault = self.next_fault(Operation::List, &object);
        let error = |kind| Err(planned(kind, Operation::List, &object));
        let inner = self.inner.list(prefix);
        match fault {
            None | Some(Fault::Truncate | Fault::Flip) => self.until_stopped(inner, object),
            Some(Fault::Before(kind)) => stream::iter([error(kind)]).boxed(),
            Some(Fault::After(kind)) => inner.chain(stream::iter([error(kind)])).boxed(),
            Some(Fault::Delay(time)) => {
                let delay = stream::once(tokio::time::sleep(time)).filter_map(|()| async { None });
                delay.chain(inner).boxed()
            }
            Some(Fault::Hang) => stream::pending().boxed(),
            Some(Fault::Silence(time)) => {
                let wait = async move {
                    tokio::time::sleep(time).await;
                    Err(planned(ErrorKind::Timeout, Operation::List, &object))
                };
                stream::once(wait).boxed()
            }
            Some(Fault::StopBefore) => stream::iter([Err(stopped(Operation::List, &object))]).boxed(),
            Some(Fault::StopAfter) => {
                inner.chain(stream::iter([Err(stopped(Operation::List, &object))])).boxed()
            }
        }
    }

    async fn create(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.call(Operation::Create, key.to_string(), || self.inner.create(key, bytes)).await
    }

    async fn stage(&self, key: &Key) -> Result<Box<dyn Staged>> {
        let inner = self.call(Operation::Stage, key.to_string(), || self.inner.stage(key)).await?;
        Ok(Box::new(FaultStaged { inner: Some(inner), key: key.clone(), storage: self.clone() }))
    }

    async fn replace(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.call(Operation::Replace, key.to_string(), || self.inner.replace(key, bytes)).await
    }

    async fn touch(&self, key: &Key, expected: &[u8]) -> Result<()> {
        self.call(Operation::Touch, key.to_string(), || self.inner.touch(key, expected)).await
    }

    async fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        self.call(Operation::Rename, format!("{from} -> {to}"), || self.inner.rename(from, to)).await
    }

    async fn remove(&self, key: &Key) -> Result<()> {
        self.call(Operation::Remove, key.to_string(), || self.inner.remove(key)).await
    }

    /// Is a call for each key, so that a process can die, or a step fail, between any two.
    async fn remove_all(&self, keys: &[Key]) -> Result<Vec<NotRemoved>> {
        Ok(remove_each(self, keys).await)
    }

    async fn sweep(&self, older_than: Duration) -> Result<SweepReport> {
        self.call(Operation::Sweep, String::new(), || self.inner.sweep(older_than)).await
    }

    async fn make_folder(&self, folder: &Prefix) -> Result<()> {
        self.call(Operation::MakeFolder, folder.to_string(), || self.inner.make_folder(folder)).await
    }

    async fn now(&self) -> Result<SystemTime> {
        self.call(Operation::Now, String::new(), || self.inner.now()).await
    }
}

impl FaultStorage {
    fn until_stopped<'a>(
        &'a self,
        inner: BoxStream<'a, Result<ListedObject>>,
        prefix: String,
    ) -> BoxStream<'a, Result<ListedObject>> {
        inner
            .map(move |object| match self.is_stopped() {
                true => Err(stopped(Operation::List, &prefix)),
                false => object,
            })
            .boxed()
    }
}

/// An upload under faults; once the process has died, its remains stay where they are.
#[derive(Debug)]
struct FaultStaged {
    inner: Option<Box<dyn Staged>>,
    key: Key,
    storage: FaultStorage,
}

impl FaultStaged {
    fn fault(&self, operation: Operation) -> Option<Fault> {
        self.storage.next_fault(operation, self.key.as_str())
    }

    /// Ends the upload by the step, unless a fault keeps the step from being tried at all.
    async fn end(
        mut self: Box<Self>,
        operation: Operation,
        step: impl FnOnce(Box<dyn Staged>) -> BoxFuture<'static, Result<()>> + Send,
    ) -> Result<()> {
        let fault = self.fault(operation);
        let key = self.key.clone();
        let inner = &mut self.inner;
        let step = move || match inner.take() {
            Some(staged) => step(staged),
            None => Box::pin(std::future::ready(Err(planned(ErrorKind::Io, operation, "an ended upload")))),
        };
        apply(fault, operation, key.as_str(), step).await
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Staged for FaultStaged {
    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let fault = self.fault(Operation::Write);
        let Some(inner) = &mut self.inner else {
            return Err(planned(ErrorKind::Io, Operation::Write, self.key.as_str()));
        };
        apply(fault, Operation::Write, self.key.as_str(), || inner.write(bytes)).await
    }

    async fn seal(self: Box<Self>) -> Result<()> {
        self.end(Operation::Seal, |inner| inner.seal()).await
    }

    async fn discard(self: Box<Self>) -> Result<()> {
        self.end(Operation::Discard, |inner| inner.discard()).await
    }
}

impl Drop for FaultStaged {
    fn drop(&mut self) {
        if self.storage.is_stopped() {
            // A killed process runs no destructor.
            std::mem::forget(self.inner.take());
        }
    }
}
