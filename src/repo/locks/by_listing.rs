//! Locks under unique names, found by listing: for stores without renames.
//!
//! ```text
//! locks/exclusive-<ulid>.json    locks/shared-<ulid>.json    the same records as everywhere
//! ```
//!
//! The storage has to do three things: show in a listing whatever was published before the listing began,
//! stamp objects with one clock, and remove a name. Nothing rests on create-only writes.
//!
//! **Why two never hold at once.** A program that wants the exclusive lock plants a name (P), lists (L), and holds
//! only after a listing, begun when its planting had returned, in which it was alone. Let A and B both hold.
//! Had A's last listing begun after B's planting returned, it would have shown B's name; so it began before
//! that: L(A) < P(B). Likewise L(B) < P(A). But each lists after it planted: P(A) < L(A) < P(B) < L(B) < P(A),
//! which cannot be. The same holds between an exclusive and a shared lock, since the shared side too plants,
//! then lists, and holds only if no exclusive name is there. This needs both names to stay from the planting
//! to the release, and they do: only the owner removes a name, or somebody who found it stale by the store's
//! clock, when its owner has long counted it as lost (see [`super::heartbeat`]); or somebody who was told to
//! break locks by force.
//!
//! **Why somebody gets through.** Of contenders that see each other all but the one with the lowest name
//! withdraw, and it waits for them. The order decides who withdraws and nothing else: clocks that differ, or
//! equal ones, cost at most a refusal.
//!
//! Names are never used twice, so a removal that comes late hits nobody's successor.

use std::time::{Duration, SystemTime};

use futures::TryStreamExt;
use packvault_storage::{ErrorKind as StorageErrorKind, Key, ListedObject, ObjectMeta, Prefix, Storage};
use tokio::time::Instant;

use super::holder::{is_stale, locked, look_at};
use super::{LockRequest, POLL, Planted, Planting, Side, UlidSource, WAIT_MAX, lock_error, lower_ulid};
use crate::process::Identity;
use crate::repo::storage_error;
use crate::{Error, ErrorKind, Result};

/// How long the contender with the lowest name waits for the others to withdraw. One that stays holds the
/// lock, or died.
const CONTEST_MAX: Duration = Duration::from_secs(20);
/// How long a holder waits, before it publishes, for a contender that is about to withdraw; longer than one
/// contends.
const CONFIRM_WAIT_MAX: Duration = Duration::from_secs(60);
/// At most so much is added to a pause, so that those who wait do not march in step.
const JITTER_MAX_MILLIS: u64 = 200;
/// A repository has a handful of locks. So many are not from programs that keep the protocol.
const LOCKS_MAX: usize = 10_000;

/// The protocol on one storage.
pub(super) struct ByListing<'a> {
    storage: &'a dyn Storage,
    /// Where we are, to see who of this machine is gone.
    here: Option<&'a Identity>,
}

/// The locks of others that one listing has shown, those in front that sort first.
#[derive(Default)]
struct Look {
    exclusive: Vec<Seen>,
    shared: Vec<Seen>,
    /// What a repository brought along that lay on a store with renames before.
    claims: Vec<Seen>,
}

/// How the name of a lock begins that somebody has claimed by a rename, to remove it.
const CLAIM: &str = "releasing-";

struct Seen {
    key: Key,
    meta: ObjectMeta,
    /// When the store was asked for the time.
    now: SystemTime,
    is_stale: bool,
}

impl<'a> ByListing<'a> {
    pub(super) fn new(storage: &'a dyn Storage, here: Option<&'a Identity>) -> Self {
        Self { storage, here }
    }

    /// The first look: nobody plants beside an exclusive lock that is fresh, unless it is broken by force.
    pub(super) async fn refuse_or_reap(&self, force: bool) -> Result<()> {
        let exclusive = self.look(None, Side::Shared).await?.exclusive;
        match self.reap(exclusive, force).await?.first() {
            Some(held) => Err(self.locked_by(held).await),
            None => Ok(()),
        }
    }

    /// Writes a lock under a name of its own. It is not held before a look that comes after.
    pub(super) async fn plant(
        &self,
        side: Side,
        ulids: &UlidSource,
        request: &LockRequest,
    ) -> Result<Planted> {
        let side = if side == Side::Exclusive { "exclusive" } else { "shared" };
        let key = super::key(format!("locks/{side}-{}.json", lower_ulid(ulids)));
        match super::plant(self.storage, key.clone(), request).await {
            Planting::Done(planted) => Ok(planted),
            // It may be there all the same, and would keep others out until it is stale.
            Planting::Unsure(_, error) => {
                super::give_back(Err(lock_error(&key, error)), self.remove(&key)).await
            }
            Planting::Failed(error) => Err(lock_error(&key, error)),
        }
    }

    /// The last look of the exclusive side, taken until it shows nobody else.
    pub(super) async fn wait_until_alone(&self, own: &Planted, request: &LockRequest) -> Result<()> {
        let begun = Instant::now();
        let (mut contested_since, mut told) = (None, false);
        loop {
            let look = self.look(Some(own), Side::Exclusive).await?;
            let rivals = self.reap(look.exclusive, false).await?;
            let shared = self.reap(look.shared, request.force).await?;
            if let Some(lower) = rivals.first().filter(|rival| rival.key < own.key) {
                return Err(self.locked_by(lower).await);
            }
            if let Some(rival) = rivals.first() {
                let since = *contested_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= CONTEST_MAX {
                    return Err(self.locked_by(rival).await);
                }
            } else if let Some(held) = shared.first() {
                contested_since = None;
                if begun.elapsed() >= WAIT_MAX {
                    return Err(self.locked_by(held).await);
                }
                if !told {
                    let holder = self.describe(held).await;
                    request.progress.remark(&format!("waiting: {holder}"));
                    told = true;
                }
            } else {
                // Nobody claims here, so one that is old is nobody's; it keeps nobody out meanwhile.
                self.reap(look.claims, false).await?;
                return own.expect_fresh();
            }
            tokio::select! {
                () = pause() => {}
                () = request.cancel.cancelled() => request.cancel.check()?,
            }
        }
    }

    /// The second look of the shared side: an exclusive holder that planted after the first look has not
    /// seen our file unless we see its.
    pub(super) async fn refuse_beside_exclusive(&self, own: &Planted) -> Result<()> {
        let exclusive = self.look(Some(own), Side::Shared).await?.exclusive;
        match exclusive.iter().find(|seen| !seen.is_stale) {
            Some(held) => Err(self.locked_by(held).await),
            None => own.expect_fresh(),
        }
    }

    /// The look of an exclusive holder before it publishes: it must be there, and alone. A contender that
    /// planted late is given the time to see us and withdraw.
    pub(super) async fn confirm_alone(&self, own: &Planted) -> Result<()> {
        let begun = Instant::now();
        loop {
            let look = self.look(Some(own), Side::Shared).await?;
            let Some(rival) = look.exclusive.iter().find(|seen| !seen.is_stale) else { return Ok(()) };
            if begun.elapsed() >= CONFIRM_WAIT_MAX {
                return Err(self.locked_by(rival).await);
            }
            pause().await;
        }
    }

    /// Removes a lock that is ours or stale; one that is gone already is none the worse.
    pub(super) async fn remove(&self, key: &Key) -> Result<()> {
        match self.storage.remove(key).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == StorageErrorKind::NotFound => Ok(()),
            Err(error) => Err(lock_error(key, error)),
        }
    }

    /// Removes what is stale, or all if forced; returns the rest.
    async fn reap(&self, seen: Vec<Seen>, force: bool) -> Result<Vec<Seen>> {
        let mut left = Vec::new();
        for seen in seen {
            match force || seen.is_stale {
                true => {
                    let lock = seen.key.name();
                    tracing::info!(
                        target: "packvault::lock",
                        lock,
                        forced = force,
                        "of somebody else is removed"
                    );
                    self.remove(&seen.key).await?;
                }
                false => left.push(seen),
            }
        }
        Ok(left)
    }

    /// Lists what stands in the way of a lock of this side; our own must be there, if we have one.
    async fn look(&self, own: Option<&Planted>, side: Side) -> Result<Look> {
        let is_other = |listed: &ListedObject| own.is_none_or(|own| listed.key != own.key);
        let mut listed = self.list(side, own).await?;
        if !listed.iter().any(is_other) {
            return self.expect_own(own, &listed).await.map(|()| Look::default());
        }
        // The time is asked for before the listing whose times it judges. The other way round, a lock that
        // was renewed after the listing would look as old as we have slept in between.
        let now = self.storage.now().await;
        let now = now.map_err(|error| storage_error("cannot tell the age of the locks", error))?;
        listed = self.list(side, own).await?;
        self.expect_own(own, &listed).await?;
        let mut look = Look::default();
        for ListedObject { key, meta } in listed.into_iter().filter(is_other) {
            let is_stale = is_stale(self.storage, (&key, &meta), now, self.here).await;
            let seen = match side_of(&key) {
                Some(Side::Shared) => &mut look.shared,
                Some(Side::Exclusive) => &mut look.exclusive,
                None => &mut look.claims,
            };
            seen.push(Seen { key, meta, now, is_stale });
        }
        Ok(look)
    }

    /// Lists the locks in the order of their names. The shared side has no interest in other shared ones.
    async fn list(&self, side: Side, own: Option<&Planted>) -> Result<Vec<ListedObject>> {
        let folder = Prefix::folder("locks").expect("a plain word is a key");
        let failed = |error| storage_error("cannot list the locks of the repository", error);
        let mut objects = self.storage.list(&folder);
        let mut listed = Vec::new();
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            let is_wanted = match side_of(&object.key) {
                Some(Side::Exclusive) => true,
                Some(Side::Shared) => side == Side::Exclusive || own.is_some_and(|own| own.key == object.key),
                None => side == Side::Exclusive && is_claim(&object.key),
            };
            if is_wanted {
                listed.push(object);
            }
            if listed.len() > LOCKS_MAX {
                let message =
                    format!("the repository has more than {LOCKS_MAX} locks; remove the folder locks");
                return Err(Error::new(ErrorKind::Refused, message));
            }
        }
        listed.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(listed)
    }

    async fn locked_by(&self, held: &Seen) -> Error {
        locked(&self.describe(held).await)
    }

    async fn describe(&self, held: &Seen) -> String {
        look_at(self.storage, (&held.key, &held.meta), held.now, self.here).await.describe()
    }

    /// Without our own name in it, a listing proves nothing about others' either.
    async fn expect_own(&self, own: Option<&Planted>, listed: &[ListedObject]) -> Result<()> {
        let Some(own) = own else { return Ok(()) };
        if listed.iter().any(|object| object.key == own.key) {
            return Ok(());
        }
        match self.storage.stat(&own.key).await {
            Ok(_) => {
                let message = format!(
                    "the storage at {} does not list the lock {} that was just written there: where listings \
                     lag behind, programs cannot keep out of each other's way; keep the repository elsewhere",
                    self.storage.location(),
                    own.key.name()
                );
                Err(Error::new(ErrorKind::Unsupported, message))
            }
            Err(error) if error.kind() == StorageErrorKind::NotFound => Err(own.taken_over()),
            Err(error) => Err(lock_error(&own.key, error)),
        }
    }
}

fn is_claim(key: &Key) -> bool {
    key.parts().count() == 2 && key.name().starts_with(CLAIM)
}

/// Tells whose lock lies under a name. The format's own exclusive name may have come with a copy.
pub(super) fn side_of(key: &Key) -> Option<Side> {
    let name = key.name();
    if key.parts().count() != 2 {
        None
    } else if name == "exclusive.json" || name.starts_with("exclusive-") {
        Some(Side::Exclusive)
    } else {
        name.starts_with("shared-").then_some(Side::Shared)
    }
}

/// Waits before another look.
pub(in crate::repo) async fn pause() {
    let random = uuid::Uuid::new_v4().as_u64_pair().1;
    tokio::time::sleep(POLL + Duration::from_millis(random % JITTER_MAX_MILLIS)).await;
}
