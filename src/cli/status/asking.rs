//! Asking a place which snapshots it has, within a bounded time. It needs no key, takes no lock and changes nothing.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use packvault::engine::schedule::status::{NewestSnapshot, PlaceStatus};
use packvault::format::{SnapshotId, timestamp};
use packvault::location::Purpose;
use packvault::{Error, ErrorKind, Location, Result};
use tokio::sync::oneshot;

use super::super::session::Session;
use super::super::settings::Archive;

/// How long a place may take to answer.
const ASK_MAX: Duration = Duration::from_secs(20);

/// What a place answered.
struct Answer {
    newest: Option<String>,
    free_bytes: Option<u64>,
}

/// Asks a place of an archive; `place` is the name of a copy. What is not answered is left to be told from memory.
pub async fn ask(place: Option<&str>, archive: &Archive, now: Timestamp, session: &Session) -> PlaceStatus {
    let own = session.at(place);
    let mut status = PlaceStatus { place: place.map(str::to_owned), ..PlaceStatus::default() };
    let location = own.location(Some(archive), Purpose::Look).map(|(location, _)| location);
    status.location = location.as_ref().ok().map(Location::to_string);
    let answer = match location {
        Ok(location) => within(answer(archive, &location, &own)).await,
        Err(error) => Err(error),
    };
    own.close();
    match answer {
        Ok(answer) => {
            status.asked = true;
            status.newest = answer.newest.and_then(|id| newest(&id, now));
            status.free_bytes = answer.free_bytes;
        }
        Err(error) => status.not_asked = Some(error.chain()),
    }
    status
}

/// Returns what is told of a place that nobody asks.
pub fn unasked(place: Option<&str>, archive: &Archive, session: &Session) -> PlaceStatus {
    let location = session.at(place).location(Some(archive), Purpose::Look);
    PlaceStatus {
        place: place.map(str::to_owned),
        location: location.ok().map(|(location, _)| location.to_string()),
        not_asked: Some("--offline was given".to_owned()),
        ..PlaceStatus::default()
    }
}

/// Returns a snapshot by its id, which begins with its time.
pub fn newest(id: &str, now: Timestamp) -> Option<NewestSnapshot> {
    let created_at = SnapshotId::parse(id).ok()?.time().ok()?;
    Some(NewestSnapshot {
        id: id.to_owned(),
        created_at: timestamp::format(created_at),
        age_seconds: now.duration_since(created_at).as_secs(),
    })
}

async fn within<T>(asking: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(ASK_MAX, asking).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Io, format!("no answer within {} s", ASK_MAX.as_secs())))
    })
}

async fn answer(archive: &Archive, location: &Location, session: &Session) -> Result<Answer> {
    let names = session.snapshot_names(archive).await?;
    let newest = names.into_iter().rfind(|name| SnapshotId::parse(name).is_ok());
    let free_bytes = match location {
        Location::Local(folder) => {
            // A disk that is gone may never answer; its thread is given up.
            let (folder, (tell, told)) = (folder.clone(), oneshot::channel());
            let asking = std::thread::Builder::new().name("free".to_owned());
            let asked = asking.spawn(move || tell.send(free(&folder)));
            asked.ok().map(|_| told)
        }
        _ => None,
    };
    let free_bytes = match free_bytes {
        Some(told) => told.await.ok().flatten(),
        None => None,
    };
    Ok(Answer { newest, free_bytes })
}

fn free(folder: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(folder).ok()?;
    space.f_bavail.checked_mul(space.f_frsize)
}
