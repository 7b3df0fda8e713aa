//! The channels of one storage: opened when they are wanted, replaced when they broke.
//!
//! Work goes to the channel with the least of it. A further one is opened, up to the configured number,
//! when all have enough to do; if the server does not let us have it, the ones that are there serve for a
//! while. The first is opened alone, for ssh may ask a person; further ones side by side, and whoever finds as
//! many on their way as there may be does not wait for them, which over a slow line would be long. Each step
//! that finds no channel opens one, so a broken connection is mended by the next step.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::channel::{Channel, Lease};
use crate::error::Breakage;
use crate::line::Patience;
use crate::ssh::Dial;

/// What a small step weighs.
const LIGHT: usize = 1;

/// What a transfer weighs; as many small steps share a channel before another is opened.
const HEAVY: usize = 16;

/// How long after a refusal no further channel is asked for.
const REFUSED_FOR: Duration = Duration::from_secs(300);

/// All channels of one storage.
pub(crate) struct Pool {
    dialer: Box<dyn Dial>,
    patience: Patience,
    channels_max: usize,
    state: Mutex<State>,
    first: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    channels: Vec<Arc<Channel>>,
    /// How many further ones are being opened.
    opening: usize,
    refused_until: Option<Instant>,
}

/// Where a step finds its channel.
enum Choice<'a> {
    Open(Lease),
    Further(Opening<'a>),
    Nowhere,
}

/// A further channel that is being opened.
struct Opening<'a>(&'a Pool);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.state().opening -= 1;
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("channels", &self.state().channels).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(dialer: Box<dyn Dial>, patience: Patience, channels_max: usize) -> Self {
        Self { dialer, patience, channels_max, state: Mutex::default(), first: tokio::sync::Mutex::default() }
    }

    /// Returns a channel for a small step.
    pub(crate) async fn light(&self) -> Result<Lease, Arc<Breakage>> {
        self.lease(LIGHT, HEAVY - 1).await
    }

    /// Returns a channel for a transfer, one of its own if there can be one.
    pub(crate) async fn heavy(&self) -> Result<Lease, Arc<Breakage>> {
        self.lease(HEAVY, LIGHT - 1).await
    }

    /// Returns how many channels are open.
    #[cfg(test)]
    pub(crate) fn open_channels(&self) -> usize {
        self.state().channels.iter().filter(|channel| channel.breakage().is_none()).count()
    }

    async fn lease(&self, weight: usize, load_max: usize) -> Result<Lease, Arc<Breakage>> {
        let mut alone = None;
        loop {
            match self.choose(weight, load_max) {
                Choice::Open(lease) => return Ok(lease),
                Choice::Further(_opening) => {
                    // Others need not wait until this one is open.
                    drop(alone);
                    return self.open_further(weight).await;
                }
                Choice::Nowhere if alone.is_some() => return Ok(Lease::new(self.open().await?, weight)),
                // Others may open it while we wait for our turn.
                Choice::Nowhere => alone = Some(self.first.lock().await),
            }
        }
    }

    async fn open_further(&self, weight: usize) -> Result<Lease, Arc<Breakage>> {
        match self.open().await {
            Ok(channel) => Ok(Lease::new(channel, weight)),
            Err(breakage) => {
                let mut state = self.state();
                let lease = state.least().map(|channel| Lease::new(channel, weight)).ok_or(breakage)?;
                state.refused_until = Some(Instant::now() + REFUSED_FOR);
                Ok(lease)
            }
        }
    }

    async fn open(&self) -> Result<Arc<Channel>, Arc<Breakage>> {
        let line = self.dialer.dial().await?;
        let channel = Channel::open(line, self.patience).await?;
        self.state().channels.push(Arc::clone(&channel));
        Ok(channel)
    }

    /// Chooses the channel with the least load, unless that has enough to do and a further one may be opened.
    fn choose(&self, weight: usize, load_max: usize) -> Choice<'_> {
        let mut state = self.state();
        let Some(least) = state.least() else { return Choice::Nowhere };
        let is_full = state.channels.len() + state.opening >= self.channels_max
            || state.refused_until.is_some_and(|until| Instant::now() < until);
        if is_full || least.load.load(Ordering::Relaxed) <= load_max {
            return Choice::Open(Lease::new(least, weight));
        }
        state.opening += 1;
        Choice::Further(Opening(self))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the channel with the least load, of those that are not broken.
    fn least(&mut self) -> Option<Arc<Channel>> {
        self.channels.retain(|channel| channel.breakage().is_none());
        self.channels.iter().min_by_key(|channel| channel.load.load(Ordering::Relaxed)).cloned()
    }
}
