//! The server's clock, asked now and then and carried on by ours in between.
//!
//! The time of a file just written is the server's now, to the whole second below: the estimate is up to
//! a second and an answer's way behind the server, and never before it. Our monotonic clock may stand
//! still while the machine sleeps, which shows against our wall clock; then the server is asked anew.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use packvault_storage::{ErrorKind, Result, Step};
use tokio::time::Instant;

use crate::client::{Client, time_of};
use crate::codec::Request;
use crate::error::ServerErrors;
use crate::upload::Upload;

/// How long an answer of the server's is carried on.
const REFRESH: Duration = Duration::from_secs(600);

/// How far our two clocks may part before the server is asked anew.
const DRIFT_MAX: Duration = Duration::from_secs(2);

/// What the server's clock last showed.
#[derive(Debug, Default)]
pub(crate) struct Clock(Mutex<Option<Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    server: SystemTime,
    at: Instant,
    wall: SystemTime,
}

impl Clock {
    /// Returns the present time on the server.
    pub(crate) async fn now(&self, client: &Client, step: Step<'_>) -> Result<SystemTime> {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(now) = known.and_then(|reading| reading.carried_on()) {
            return Ok(now);
        }
        let reading = ask(client, step).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        Ok(reading.server)
    }

    /// Returns how far the server's clock is ahead of ours, in seconds, and asks it for that.
    pub(crate) async fn offset_seconds(&self, client: &Client, step: Step<'_>) -> Result<i64> {
        let reading = ask(client, step).await?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reading);
        let seconds = |from: SystemTime, to: SystemTime| to.duration_since(from).map(|apart| apart.as_secs());
        let ahead = seconds(reading.wall, reading.server).map(|ahead| ahead as i64);
        Ok(ahead
            .or_else(|_| seconds(reading.server, reading.wall).map(|behind| -(behind as i64)))
            .unwrap_or(0))
    }
}

impl Reading {
    fn carried_on(&self) -> Option<SystemTime> {
        let elapsed = self.at.elapsed();
        let by_wall = self.wall.elapsed().ok()?;
        let drift = by_wall.abs_diff(elapsed);
        (elapsed < REFRESH && drift < DRIFT_MAX).then(|| self.server + elapsed)
    }
}

async fn ask(client: &Client, step: Step<'_>) -> Result<Reading> {
    let channel = client.light(step).await?;
    let upload = Upload::begin_scratch(client.clone(), channel, step, "clock").await?;
    let attrs = async {
        let request = Request::Fstat { handle: upload.handle().raw() };
        upload.channel().begin(request).await?.attrs().await
    };
    let attrs = attrs.await.map_err(|failure| step.failed("look at a new file", failure))?;
    let (at, wall) = (Instant::now(), SystemTime::now());
    upload.discard(step).await?;
    let (_, seconds) = attrs
        .times
        .ok_or_else(|| step.error(ErrorKind::Unsupported, "the server tells no times of files"))?;
    Ok(Reading { server: time_of(seconds), at, wall })
}
