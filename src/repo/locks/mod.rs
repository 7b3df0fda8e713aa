//! `locks/`: who may work on the repository.
//!
//! Two protocols keep one promise: nobody holds the exclusive lock beside anybody else. Where the storage
//! can rename, it is the format's own (`by_rename`, section 8), so that packvault and msgvault can share a
//! repository. Everywhere else locks lie under names that nobody else can choose, and are found by listing
//! (`by_listing`). That one rests on nothing but listings, on every such store, also where create-only
//! writes are honest: two clients whose probes of one server answered differently must still exclude each
//! other, so what a probe found must not choose between protocols that do not see each other.
//!
//! In both, age is measured by the store's clock, and a holder that could not renew its lock in time counts
//! it as lost, whatever lies there (`heartbeat`).

mod by_listing;
mod by_rename;
mod heartbeat;
mod holder;
mod reading;
mod unlock;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use packvault_storage::{Error as StorageError, ErrorKind as StorageErrorKind, Guarantees, Key, Storage};

use self::by_listing::ByListing;
pub(super) use self::by_listing::pause;
use self::heartbeat::{Freshness, Heartbeat, Moment};
use self::holder::record;
pub use self::holder::{Age, DEAD_AFTER, Found};
pub use self::reading::{Pulse, ReadingLock};
pub use self::unlock::Unlocked;
use super::{Repository, UlidSource, key};
use crate::error::Obstacle;
use crate::process::Identity;
use crate::progress::Progress;
use crate::repo::storage_error;
use crate::{Cancel, Error, ErrorKind, Result};

/// A lock not touched for this long is stale.
pub const STALE_AFTER: Duration = Duration::from_secs(30 * 60);
/// A step that takes this long may end when the lock is lost; by far less than what lies between the time when a holder
/// gives its lock up and the one when others may take it.
const LONG_STEP: Duration = Duration::from_secs(60);
/// How often somebody who waits looks again.
const POLL: Duration = Duration::from_millis(200);
/// How long the exclusive side waits for shared locks.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long is tried to give a lock back. What is left then is stale half an hour later.
const GIVE_BACK_MAX: Duration = Duration::from_secs(180);
/// The same where the store has just left the work without an answer, and will hardly have one now.
const GIVE_BACK_UNANSWERED_MAX: Duration = Duration::from_secs(60);

/// How long is waited for a descriptor before a lock is tried to be given back once more.
const GIVE_UP_PAUSES: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(400)];

/// What the lock is taken for, and how.
#[derive(Clone)]
pub struct LockRequest {
    /// `create`, `verify` or `restore`; `init` where a repository cannot be made without a lock.
    pub operation: &'static str,
    /// This machine's name.
    pub hostname: String,
    /// What tells this process from others, where the system tells.
    pub process: Option<Identity>,
    /// Whether even fresh locks of others are broken.
    pub force: bool,
    /// Told whom we wait for.
    pub progress: Arc<dyn Progress>,
    /// Ends the wait for others.
    pub cancel: Cancel,
}

/// A held lock. Release it; a dropped one stays behind until it is stale.
#[derive(Debug)]
pub struct Lock {
    repository: Repository,
    planted: Planted,
    side: Side,
    heartbeat: Heartbeat,
    here: Option<Identity>,
}

/// Which other holders a lock allows beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Exclusive,
    Shared,
}

/// A lock object of ours, and since when we know that it is fresh.
#[derive(Debug, Clone)]
struct Planted {
    key: Key,
    body: Bytes,
    freshness: Arc<Freshness>,
}

/// Returns, for people, by what the programs on such a store keep out of each other's way.
pub fn exclusion(guarantees: Guarantees) -> &'static str {
    match guarantees.rename {
        true => "the format's lock files, claimed by a rename",
        false => "locks under unique names, found by listing",
    }
}

impl Repository {
    /// Takes the exclusive lock: alone in the repository.
    pub async fn lock_exclusive(&self, request: &LockRequest) -> Result<Lock> {
        let taken = match self.storage.guarantees().rename {
            true => self.exclusive_by_rename(request).await,
            false => self.exclusive_by_listing(request).await,
        };
        self.tell_taken(taken, request)
    }

    /// Takes a shared lock: no create runs while it is held.
    pub async fn lock_shared(&self, request: &LockRequest) -> Result<Lock> {
        let taken = match self.storage.guarantees().rename {
            true => self.shared_by_rename(request).await,
            false => self.shared_by_listing(request).await,
        };
        self.tell_taken(taken, request)
    }

    fn tell_taken(&self, taken: Result<Lock>, request: &LockRequest) -> Result<Lock> {
        let (operation, by) = (request.operation, self.exclusion());
        match &taken {
            Ok(lock) => {
                let (lock, side) = (lock.planted.key.name(), lock.side);
                tracing::info!(target: "packvault::lock", lock, ?side, operation, by, "is held");
            }
            Err(error) => {
                let why = error.chain();
                tracing::info!(target: "packvault::lock", operation, by, why, "cannot be taken");
            }
        }
        taken
    }

    /// Returns, for people, by what the programs that use this repository exclude each other.
    pub fn exclusion(&self) -> &'static str {
        exclusion(self.storage.guarantees())
    }

    async fn exclusive_by_listing(&self, request: &LockRequest) -> Result<Lock> {
        let protocol = ByListing::new(self.storage.as_ref(), request.process.as_ref());
        protocol.refuse_or_reap(request.force).await?;
        let planted = protocol.plant(Side::Exclusive, self.ulids(), request).await?;
        let lock = self.hold(planted, Side::Exclusive, request);
        match protocol.wait_until_alone(&lock.planted, request).await {
            Ok(()) => Ok(lock),
            Err(error) => lock.withdraw(error).await,
        }
    }

    async fn shared_by_listing(&self, request: &LockRequest) -> Result<Lock> {
        let protocol = ByListing::new(self.storage.as_ref(), request.process.as_ref());
        protocol.refuse_or_reap(request.force).await?;
        let planted = protocol.plant(Side::Shared, self.ulids(), request).await?;
        let lock = self.hold(planted, Side::Shared, request);
        match protocol.refuse_beside_exclusive(&lock.planted).await {
            Ok(()) => Ok(lock),
            Err(error) => lock.withdraw(error).await,
        }
    }

    /// Keeps what was planted fresh from now on.
    fn hold(&self, planted: Planted, side: Side, request: &LockRequest) -> Lock {
        tracing::debug!(
            target: "packvault::lock",
            lock = planted.key.name(),
            ?side,
            "is planted; others are looked for"
        );
        let heartbeat = Heartbeat::start(self.storage.clone(), planted.clone());
        Lock { repository: self.clone(), planted, side, heartbeat, here: request.process.clone() }
    }
}

/// Does short work alone in a place that need not be a repository yet: by listing on every store, for whoever else
/// does such work there does the same. What a dead one leaves is removed once it is old, under either protocol.
///
/// There is no heartbeat: the work must end long before a lock is stale.
pub(super) async fn alone<T>(
    storage: &dyn Storage,
    request: &LockRequest,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let protocol = ByListing::new(storage, request.process.as_ref());
    protocol.refuse_or_reap(request.force).await?;
    let planted = protocol.plant(Side::Exclusive, &UlidSource::default(), request).await?;
    let result = match protocol.wait_until_alone(&planted, request).await {
        Ok(()) => work.await,
        Err(error) => Err(error),
    };
    give_back(result, protocol.remove(&planted.key)).await
}

/// Gives a lock back after the work, whose own error comes first; that the lock stays behind is said with it.
async fn give_back<T>(result: Result<T>, release: impl Future<Output = Result<()>>) -> Result<T> {
    let time_max = match &result {
        Err(error) if error.is_inconclusive() => GIVE_BACK_UNANSWERED_MAX,
        _ => GIVE_BACK_MAX,
    };
    let released = tokio::select! {
        biased;
        released = release => released,
        () = awake_for(time_max) => {
            let message = "cannot give the lock back: the store does not answer; in half an hour it is stale";
            Err(Error::new(ErrorKind::Io, message).unanswered())
        }
    };
    match (result, released) {
        (Err(error), Err(why)) => Err(error.leaving(stays_behind(&why))),
        (result, released) => result.and_then(|done| released.map(|()| done)),
    }
}

/// Returns the sentence about a lock that could not be given back.
fn stays_behind(why: &Error) -> String {
    let ends = "it ends by itself in half an hour, and keeps others waiting until then";
    format!("the lock of this command stays behind; {ends} ({})", why.chain())
}

/// Waits so long; time in which the process was stopped does not count, for no store was asked then.
async fn awake_for(time: Duration) {
    for _ in 0..time.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

impl Lock {
    /// Tells whether nobody else may be in the repository.
    pub(super) fn is_exclusive(&self) -> bool {
        self.side == Side::Exclusive
    }

    /// Returns the repository that is locked.
    pub(super) fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Makes sure that the lock is still ours: a holder that was stopped for longer than the staleness
    /// may have a successor, and must not publish over it.
    ///
    /// On stores without renames it may wait a minute for a contender that is about to withdraw.
    pub async fn confirm(&self) -> Result<()> {
        self.planted.expect_fresh()?;
        if !self.is_by_rename() && self.side == Side::Exclusive {
            ByListing::new(self.storage(), self.here.as_ref()).confirm_alone(&self.planted).await?;
        }
        let ours = match self.storage().read(&self.planted.key).await {
            Ok(found) => found == self.planted.body,
            Err(error) if error.kind() == StorageErrorKind::NotFound => false,
            Err(error) => return Err(lock_error(&self.planted.key, error)),
        };
        if !ours {
            return Err(self.planted.taken_over());
        }
        // The looks may have taken as long as they liked.
        self.planted.expect_fresh()?;
        tracing::debug!(target: "packvault::lock", lock = self.planted.key.name(), "is still ours");
        Ok(())
    }

    /// Does a step; tells whether it took so long that the lock may be somebody else's by its end.
    pub async fn timed<T>(&self, step: impl Future<Output = T>) -> (T, bool) {
        let begun = Moment::now();
        let done = step.await;
        (done, begun.elapsed() >= LONG_STEP)
    }

    /// Begins to look at the lock again and again; a look is good for so long.
    pub fn watch(&self, good_for: Duration) -> Watch<'_> {
        Watch { lock: self, good_for, looked: tokio::sync::Mutex::new(None) }
    }

    /// Waits for the work and then gives the lock up, however the work ended; its own error comes first.
    pub async fn during<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let result = work.await;
        self.end(result).await
    }

    /// Gives the lock up after the work, whose own error comes first.
    pub async fn end<T>(self, result: Result<T>) -> Result<T> {
        give_back(result, self.release()).await
    }

    /// Gives the lock up after work that ends in a report. What was done is done, whatever becomes of the lock: that it
    /// stays behind is added to the report's warnings.
    pub async fn settle<T>(
        self,
        result: Result<T>,
        warnings: impl FnOnce(&mut T) -> &mut Vec<String>,
    ) -> Result<T> {
        match result {
            Ok(mut report) => {
                warnings(&mut report).extend(self.leave().await);
                Ok(report)
            }
            Err(error) => self.end(Err(error)).await,
        }
    }

    /// Gives the lock up after work that is done. That it stays behind undoes nothing, and is told in a sentence.
    pub async fn leave(self) -> Option<String> {
        self.end(Ok(())).await.err().map(|why| stays_behind(&why))
    }

    /// Gives the lock up. A lock that is provably someone else's stays.
    pub async fn release(mut self) -> Result<()> {
        let released = self.give_up().await;
        let lock = self.planted.key.name();
        match &released {
            Ok(()) => tracing::info!(target: "packvault::lock", lock, "is given back"),
            Err(error) => {
                let why = error.chain();
                tracing::info!(target: "packvault::lock", lock, why, "cannot be given back");
            }
        }
        released
    }

    /// Where there was no descriptor for it, it is tried again: nothing has happened yet, and one may be free at once.
    /// Whatever else fails the storage itself tries again, where that does no harm.
    async fn give_up(&mut self) -> Result<()> {
        match self.is_by_rename() {
            true => self.heartbeat.abort(),
            // A touch under way might make the object anew after it was removed.
            false => self.heartbeat.finish().await,
        }
        let mut pauses = GIVE_UP_PAUSES.into_iter();
        loop {
            let Err(error) = self.try_to_give_up().await else { return Ok(()) };
            let pause = pauses.next().filter(|_| error.obstacle() == Some(Obstacle::OpenFiles));
            let Some(pause) = pause else { return Err(error) };
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_to_give_up(&self) -> Result<()> {
        if self.is_by_rename() {
            return self.repository.release_by_rename(&self.planted, self.side).await;
        }
        ByListing::new(self.storage(), None).remove(&self.planted.key).await
    }

    /// Gives up what was planted but is not held; the reason comes first.
    async fn withdraw(self, reason: Error) -> Result<Self> {
        self.end(Err(reason)).await
    }

    fn storage(&self) -> &dyn Storage {
        self.repository.storage.as_ref()
    }

    fn is_by_rename(&self) -> bool {
        self.storage().guarantees().rename
    }
}

/// Looks whether a lock is still ours, and remembers for a while that it was.
#[derive(Debug)]
pub struct Watch<'a> {
    lock: &'a Lock,
    good_for: Duration,
    /// When the last look began.
    looked: tokio::sync::Mutex<Option<Moment>>,
}

impl Watch<'_> {
    /// Makes sure that the lock is still ours, as [`Lock::confirm`] does, or was so a moment ago.
    pub async fn confirm(&self) -> Result<()> {
        self.lock.planted.expect_fresh()?;
        let mut looked = self.looked.lock().await;
        match looked.is_none_or(|looked| looked.elapsed() >= self.good_for) {
            true => self.look(&mut looked).await,
            false => Ok(()),
        }
    }

    /// The same, and looks whenever the last look was.
    pub async fn confirm_now(&self) -> Result<()> {
        self.look(&mut *self.looked.lock().await).await
    }

    async fn look(&self, looked: &mut Option<Moment>) -> Result<()> {
        let begun = Moment::now();
        self.lock.confirm().await?;
        *looked = Some(begun);
        Ok(())
    }
}

/// What a plant that failed has left.
enum Planting {
    /// The lock is there, and ours: only the answer was lost.
    Done(Planted),
    /// It failed; the lock may be there all the same, and then keeps others out.
    Unsure(Planted, StorageError),
    /// It failed, and nothing of ours is there.
    Failed(StorageError),
}

/// Writes a lock of ours.
async fn plant(storage: &dyn Storage, key: Key, request: &LockRequest) -> Planting {
    use StorageErrorKind::{AlreadyExists, Config, Denied, Full, Unsafe, Unsupported};
    let (body, began) = (record(request), Moment::now());
    let planted = Planted { key, body, freshness: Arc::new(Freshness::since(began)) };
    let Err(error) = storage.create(&planted.key, planted.body.clone()).await else {
        return Planting::Done(planted);
    };
    match error.kind() {
        // A name that is found taken by our own record is ours: no two records are the same.
        AlreadyExists => match storage.read(&planted.key).await {
            Ok(found) if found == planted.body => Planting::Done(planted),
            _ => Planting::Failed(error),
        },
        Denied | Full | Unsupported | Unsafe | Config => Planting::Failed(error),
        _ => Planting::Unsure(planted, error),
    }
}

impl Planted {
    /// Fails once the lock has not been renewed for so long that somebody may have reaped it.
    fn expect_fresh(&self) -> Result<()> {
        match self.freshness.is_lost() {
            false => Ok(()),
            true => Err(self.taken_over()),
        }
    }

    fn taken_over(&self) -> Error {
        self.freshness.lose();
        let name = self.key.name();
        tracing::info!(target: "packvault::lock", lock = name, "is lost");
        let message = format!("the lock {name} was taken over by another process, or not renewed in time");
        Error::new(ErrorKind::Locked, message)
    }
}

fn lower_ulid(ulids: &UlidSource) -> String {
    ulids.next().to_string().to_lowercase()
}

fn lock_error(key: &Key, error: StorageError) -> Error {
    storage_error(format!("cannot work with the lock {}", key.name()), error)
}
