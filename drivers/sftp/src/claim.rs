//! A claim: the right to give an object its name, on a server that guarantees nothing but that one of two programs
//! makes a folder.
//!
//! A claim is a folder `staging/claim-<hash>-<generation>` for the object's key; of several that make it
//! one succeeds. A claim left by a dead process blocks nobody for long: when it is older than
//! [`ABANDONED_AFTER`] by the server's clock, the next generation is made, beside it. Nobody removes
//! another's claim - two that did might remove each other's - but the sweep, which is told an age.
//!
//! A slow owner may remove its old claim while another takes the next generation, and a third may then take
//! the freed one. So after making a claim, a program looks at its neighbours: the one below must still be there and
//! abandoned, the one above must be absent or abandoned. Both sides make before they look, so at least one
//! of two sees the other, and gives way.

use std::time::{Duration, SystemTime};

use packvault_storage::{ErrorKind, Key, Result, Step};
use tokio::time::Instant;

use crate::channel::Channel;
use crate::client::{Client, STAGING, time_of};
use crate::codec::{Attrs, Request};
use crate::error::ServerErrors;
use crate::server_time;

/// A claim of this age belongs to nobody.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// An owner that took longer than this does not act on its claim any more.
const HELD_MAX: Duration = Duration::from_secs(120);

/// How many abandoned claims of one object may lie side by side.
const GENERATIONS_MAX: u32 = 16;

/// How often a claim that another holds is looked at again, and how long apart.
const LOOKS_MAX: u32 = 50;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

const MODE: u32 = 0o700;

/// The right to give one object its name.
pub(crate) struct Claim<'a> {
    channel: &'a Channel,
    path: String,
    taken_at: Instant,
}

/// What is known of a claim's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Held,
    Abandoned,
}

impl<'a> Claim<'a> {
    /// Waits, not for long, until the claim is ours; `ErrorKind::Conflict` otherwise.
    pub(crate) async fn take(
        client: &Client,
        channel: &'a Channel,
        step: Step<'_>,
        key: &Key,
    ) -> Result<Self> {
        client.make_folder(channel, step, STAGING).await?;
        let now = server_time::now(client, step).await?;
        let begun = Instant::now();
        let names = Names { client, channel, step, stem: stem(key), now };
        for _ in 0..LOOKS_MAX {
            if let Some(path) = names.try_take().await? {
                return Ok(Self { channel, path, taken_at: begun });
            }
            // An object that has appeared meanwhile ends the wait.
            if client.look(channel, step, key.as_str()).await? != crate::client::Found::Nothing {
                return Err(step.already_exists());
            }
            // Jitter, so that two that give way to each other do not do so for ever.
            tokio::time::sleep(LOOK_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
        Err(step.error(ErrorKind::Conflict, "another process has been publishing it for a while"))
    }

    /// Tells whether the claim is young enough to act on.
    pub(crate) fn is_fresh(&self) -> bool {
        self.taken_at.elapsed() < HELD_MAX
    }

    /// Gives the claim up. One that stays is abandoned in time.
    pub(crate) async fn release(self) {
        if self.is_fresh() {
            let removing = self.channel.begin(Request::RemoveFolder { path: &self.path });
            if let Ok(removing) = removing.await {
                let _ = removing.done().await;
            }
        }
    }
}

/// The claims of one object.
struct Names<'a> {
    client: &'a Client,
    channel: &'a Channel,
    step: Step<'a>,
    stem: String,
    now: SystemTime,
}

impl Names<'_> {
    /// Makes the first claim that is not taken, if all before it are abandoned.
    async fn try_take(&self) -> Result<Option<String>> {
        for generation in 0..GENERATIONS_MAX {
            let path = self.path(generation);
            let attrs = Attrs::mode(MODE);
            let making =
                async { self.channel.begin(Request::MakeFolder { path: &path, attrs }).await?.done().await };
            match making.await {
                Ok(()) if self.is_alone(generation).await? => return Ok(Some(path)),
                Ok(()) => {
                    self.channel.post(&Request::RemoveFolder { path: &path });
                    return Ok(None);
                }
                Err(failure) if failure.is_status() => match self.state(generation).await? {
                    State::Abandoned => {}
                    State::Held => return Ok(None),
                    // Released an instant ago; or it cannot be made at all, and the waiting ends.
                    State::Absent => return Ok(None),
                },
                Err(failure) => return Err(self.step.failed("claim its name", failure)),
            }
        }
        Ok(None)
    }

    async fn is_alone(&self, generation: u32) -> Result<bool> {
        let below = match generation.checked_sub(1) {
            Some(below) => self.state(below).await? == State::Abandoned,
            None => true,
        };
        Ok(below && self.state(generation + 1).await? != State::Held)
    }

    async fn state(&self, generation: u32) -> Result<State> {
        let path = self.path(generation);
        let looking = async { self.channel.begin(Request::Lstat { path: &path }).await?.attrs().await };
        let attrs = match looking.await {
            Ok(attrs) => attrs,
            Err(failure) if failure.is_no_such_file() => return Ok(State::Absent),
            Err(failure) => return Err(self.step.failed("look at a claim of its name", failure)),
        };
        let made = attrs.times.map_or(self.now, |(_, seconds)| time_of(seconds));
        let is_abandoned = self.now.duration_since(made).is_ok_and(|age| age >= ABANDONED_AFTER);
        Ok(if is_abandoned { State::Abandoned } else { State::Held })
    }

    fn path(&self, generation: u32) -> String {
        self.client.path(&format!("{STAGING}/{}-{generation}", self.stem))
    }
}

/// Returns a name for the key's claims: keys may be longer than a file's name, so they are hashed (FNV-1a).
/// Two keys of one hash would only wait for each other.
fn stem(key: &Key) -> String {
    let hash = key.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("claim-{hash:016x}")
}
