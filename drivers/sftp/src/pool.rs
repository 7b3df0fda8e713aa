//! The channels of one storage: opened when they are wanted, replaced when they broke.
//!
//! Work goes to the channel with the least of it. A further one is opened, up to the configured number,
//! when all have enough to do; if the server does not let us have it, the ones that are there serve for a
//! while. Each step that finds no channel opens one, so a broken connection is mended by the next step.

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
    opening: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    channels: Vec<Arc<Channel>>,
    refused_until: Option<Instant>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("channels", &self.state().channels).finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(dialer: Box<dyn Dial>, patience: Patience, channels_max: usize) -> Self {
        Self {
            dialer,
            patience,
            channels_max,
            state: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
        }
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
        if let Some(lease) = self.idle(weight, load_max) {
            return Ok(lease);
        }
        let _opening = self.opening.lock().await;
        // Others may have opened one, or finished, while we waited for our turn.
        if let Some(lease) = self.idle(weight, load_max) {
            return Ok(lease);
        }
        match self.open().await {
            Ok(channel) => Ok(Lease::new(channel, weight)),
            Err(breakage) => {
                let lease = self.idle(weight, usize::MAX).ok_or(breakage)?;
                self.state().refused_until = Some(Instant::now() + REFUSED_FOR);
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

    /// Returns the channel with the least load, if that is small enough or no further one may be opened.
    fn idle(&self, weight: usize, load_max: usize) -> Option<Lease> {
        let mut state = self.state();
        state.channels.retain(|channel| channel.breakage().is_none());
        let is_full = state.channels.len() >= self.channels_max
            || state.refused_until.is_some_and(|until| Instant::now() < until);
        let load = |channel: &Arc<Channel>| channel.load.load(Ordering::Relaxed);
        let least = state.channels.iter().min_by_key(|channel| load(channel))?;
        (is_full || load(least) <= load_max).then(|| Lease::new(Arc::clone(least), weight))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
