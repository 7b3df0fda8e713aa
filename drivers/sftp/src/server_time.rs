//! The time on the server: asked now and then, and carried on by our clock in between.
//!
//! The time of a file just written is the server's now, to the whole second below: the estimate is up to a second and
//! an answer's way behind the server, and never before it.

use std::time::SystemTime;

use packvault_storage::{ErrorKind, Result, Step};

use crate::client::{Client, time_of};
use crate::clock::Reading;
use crate::codec::Request;
use crate::error::ServerErrors;
use crate::upload::Upload;

/// Returns the present time on the server.
pub(crate) async fn now(client: &Client, step: Step<'_>) -> Result<SystemTime> {
    match client.clock.now() {
        Some(now) => Ok(now),
        None => Ok(reading(client, step).await?.server),
    }
}

/// Returns how far the server's clock is ahead of ours, in seconds, and asks it for that.
pub(crate) async fn offset_seconds(client: &Client, step: Step<'_>) -> Result<i64> {
    Ok(reading(client, step).await?.ahead_seconds())
}

async fn reading(client: &Client, step: Step<'_>) -> Result<Reading> {
    let reading = ask(client, step).await?;
    client.clock.note(reading);
    Ok(reading)
}

async fn ask(client: &Client, step: Step<'_>) -> Result<Reading> {
    let channel = client.light(step).await?;
    let upload = Upload::begin_scratch(client.clone(), channel, step, "clock").await?;
    let attrs = async {
        let request = Request::Fstat { handle: upload.handle().raw() };
        upload.channel().begin(request).await?.attrs().await
    };
    let attrs = attrs.await.map_err(|failure| step.failed("look at a new file", failure))?;
    let at = attrs.times.map(|(_, seconds)| Reading::of(time_of(seconds)));
    upload.discard(step).await?;
    at.ok_or_else(|| step.error(ErrorKind::Unsupported, "the server tells no times of files"))
}
