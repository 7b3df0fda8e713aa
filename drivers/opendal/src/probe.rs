//! The probe: what a server does is found out by having it do it, on scratch keys that are removed.
//!
//! It costs about a hundred small requests. A race of a few writers over a few rounds shows a server that
//! looks first and writes then; one that was lucky in all of them would pass, so this is evidence and no
//! proof.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::join_all;
use packvault_storage::probe::{Answer, ProbeReport};
use packvault_storage::{ErrorKind, Key, Operation, Prefix, Result, Step, clean_scratch, scratch_folder};

use crate::error::TheirErrors;
use crate::features::OpendalFeatures;
use crate::store::{Store, When, meta};

/// The size of a scratch object.
const SCRATCH_BYTES: usize = 4 << 10;

/// How often writers meet, and how many of them.
const RACE_ROUNDS: u64 = 5;
const RACERS: u64 = 8;

/// The same for uploads in parts, each of which takes three requests.
const STREAMED_RACE_ROUNDS: u64 = 2;
const STREAMED_RACERS: u64 = 4;

/// How long is waited before an object is written over: Google lets each change once a second.
const OVERWRITE_PAUSE: Duration = Duration::from_millis(1100);

/// How many scratch objects are removed at most.
const REMOVED_MAX: usize = 100;

/// How far a written object's time may lie from the `Date` of the answer.
const STAMPS_APART_MAX: Duration = Duration::from_secs(5);

/// Asks the server everything; see [`crate::OpendalStorage::probe`].
pub(crate) async fn probe(store: &Arc<Store>) -> Result<(OpendalFeatures, ProbeReport)> {
    let name = scratch_folder();
    let step = Step::new(Operation::Open, &store.location);
    let illegal = |error| step.error(ErrorKind::Config, "no scratch name can be made").with_source(error);
    let probe = Probe { store, folder: Prefix::folder(name.as_str()).map_err(illegal)?, name };
    let asked = probe.ask().await;
    let cleaned = clean_scratch(asked.as_ref().err(), || probe.clean()).await;
    asked.and_then(|found| cleaned.map(|()| found))
}

struct Probe<'s> {
    store: &'s Arc<Store>,
    folder: Prefix,
    name: String,
}

impl<'s> Probe<'s> {
    fn step(&self) -> Step<'s> {
        Step::new(Operation::Open, &self.store.location)
    }

    fn refused(&self, detail: &str) -> packvault_storage::Error {
        let detail = format!("{detail}; no repository can lie there");
        self.step().error(ErrorKind::Unsupported, detail)
    }

    fn key(&self, name: &str) -> Result<Key> {
        let key = Key::parse(format!("{}/{name}", self.name));
        key.map_err(|error| {
            self.step().error(ErrorKind::Config, "no scratch key can be made").with_source(error)
        })
    }

    async fn ask(&self) -> Result<(OpendalFeatures, ProbeReport)> {
        let mut report = ProbeReport::default();
        self.container().await?;
        self.read_after_write(&mut report).await?;
        self.create_only(&mut report).await?;
        let features = OpendalFeatures {
            create_only: true,
            create_only_streamed: self.create_only_streamed(&mut report).await?,
            overwrite_if_unchanged: self.overwrite_if_unchanged(&mut report).await?,
            clock_offset_seconds: self.clock(&mut report).await?,
        };
        report.add("unfinished uploads can be found", Answer::No, "what a killed one leaves is the server's");
        Ok((features, report))
    }

    /// The first request: a wrong container, account or key shows here.
    async fn container(&self) -> Result<()> {
        match self.listed(1).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let detail = "there is no such container; make it with the provider's own tools first";
                Err(self.step().error(ErrorKind::NotFound, detail))
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    async fn listed(&self, count_max: usize) -> Result<Vec<Key>> {
        let mut lister = self.store.lister(self.step(), &self.folder)?;
        let mut keys = Vec::new();
        while keys.len() < count_max {
            let Some((key, _)) = self.store.next(self.step(), &mut lister).await? else { break };
            keys.push(key);
        }
        Ok(keys)
    }

    async fn read_after_write(&self, report: &mut ProbeReport) -> Result<()> {
        let key = self.key("written")?;
        self.put(&key, scratch(1)).await?;
        if self.store.read(self.step(), &key).await? != scratch(1) {
            return Err(self.refused("an object is read back as other bytes than were written"));
        }
        if self.store.read_range(&key, 100..200).await? != scratch(1).slice(100..200) {
            return Err(self.refused("a range is answered with other bytes"));
        }
        report.add("a range is answered with the range", Answer::Yes, "");
        if !self.listed(REMOVED_MAX).await?.contains(&key) {
            return Err(self.refused("a listing does not show what was just written"));
        }
        report.add("a listing shows what was just written", Answer::Yes, "");
        Ok(())
    }

    async fn create_only(&self, report: &mut ProbeReport) -> Result<()> {
        let key = self.key("created")?;
        let first = self.create(&key, scratch(1)).await?;
        let second = self.create(&key, scratch(2)).await?;
        if !first || second || self.store.read(self.step(), &key).await? != scratch(1) {
            return Err(self.refused("a taken name is written over though the writer forbade it"));
        }
        for round in 0..RACE_ROUNDS {
            let key = self.key(&format!("race-{round}"))?;
            let racers = (0..RACERS).map(|racer| self.create(&key, scratch(100 + racer)));
            if !self.is_one_winner(&key, join_all(racers).await).await? {
                return Err(self.refused("several writers of one name were all told that they won"));
            }
        }
        report.add("create-only writing", Answer::Yes, "");
        Ok(())
    }

    async fn create_only_streamed(&self, report: &mut ProbeReport) -> Result<bool> {
        let mut is_kept = !self.create_streamed(&self.key("created")?, scratch(8)).await?;
        let mut round = 0;
        while is_kept && round < STREAMED_RACE_ROUNDS {
            let key = self.key(&format!("streamed-{round}"))?;
            let racers = (0..STREAMED_RACERS).map(|racer| self.create_streamed(&key, scratch(100 + racer)));
            is_kept = self.is_one_winner(&key, join_all(racers).await).await?;
            round += 1;
        }
        let note = if is_kept { "" } else { "large objects look first and complete then" };
        let answer = if is_kept { Answer::Yes } else { Answer::No };
        report.add("create-only completion of an upload in parts", answer, note);
        Ok(is_kept)
    }

    async fn overwrite_if_unchanged(&self, report: &mut ProbeReport) -> Result<bool> {
        let key = self.key("matched")?;
        self.put(&key, scratch(1)).await?;
        let stale = self.store.stat(self.step(), &key).await?;
        tokio::time::sleep(OVERWRITE_PAUSE).await;
        self.put(&key, scratch(2)).await?;
        tokio::time::sleep(OVERWRITE_PAUSE).await;
        let fresh = self.store.stat(self.step(), &key).await?;
        let with_stale = self.store.write(&key, scratch(3).into(), When::Unchanged(stale)).await;
        let with_fresh = self.store.write(&key, scratch(4).into(), When::Unchanged(fresh)).await;
        for failed in [&with_stale, &with_fresh].into_iter().filter_map(|written| written.as_ref().err()) {
            let lifted = self.step().lift(failed);
            if lifted.kind().is_passing() {
                return Err(lifted);
            }
        }
        let is_kept = with_stale.is_err()
            && with_fresh.is_ok()
            && self.store.read(self.step(), &key).await? == scratch(4);
        let note = if is_kept { "" } else { "touch looks first and writes then" };
        report.add("overwrite only if unchanged", if is_kept { Answer::Yes } else { Answer::No }, note);
        Ok(is_kept)
    }

    async fn clock(&self, report: &mut ProbeReport) -> Result<i64> {
        let key = self.key("clock")?;
        self.put(&key, scratch(7)).await?;
        let modified = meta(self.step(), &self.store.stat(self.step(), &key).await?)?.modified;
        let (Some(now), Some(offset)) = (self.store.clock.now(), self.store.clock.offset_seconds()) else {
            return Err(self.refused("the server tells no time, and the age of locks cannot be known"));
        };
        let apart = apart(now, modified);
        if apart > STAMPS_APART_MAX {
            let detail = format!("an object is stamped {} s apart from the server's date", apart.as_secs());
            return Err(self.refused(&detail));
        }
        report.add("seconds the server's clock is ahead of ours", Answer::Told, offset.to_string());
        Ok(offset)
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<()> {
        let written = self.store.write(key, bytes.into(), When::Always).await;
        written.map_err(|error| self.step().lift(&error))
    }

    /// Writes if absent; tells whether it was written.
    async fn create(&self, key: &Key, bytes: Bytes) -> Result<bool> {
        match self.store.write(key, bytes.into(), When::Absent).await {
            Ok(()) => Ok(true),
            Err(error) => self.refusal(&error),
        }
    }

    /// Does so in two parts.
    async fn create_streamed(&self, key: &Key, bytes: Bytes) -> Result<bool> {
        let write = async {
            let mut writer = self.store.writer(key, When::Absent, 1)?;
            writer.write_dyn(bytes.slice(..SCRATCH_BYTES / 2).into()).await?;
            writer.write_dyn(bytes.slice(SCRATCH_BYTES / 2..).into()).await?;
            writer.close_dyn().await
        };
        match write.await {
            Ok(_) => Ok(true),
            Err(error) => self.refusal(&error),
        }
    }

    /// Tells a write that the server refused from one that failed.
    fn refusal(&self, error: &opendal::Error) -> Result<bool> {
        let lifted = self.step().lift_create(error);
        match lifted.kind() {
            ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::Io => Ok(false),
            _ => Err(lifted),
        }
    }

    /// Tells whether no more than one racer was told that it won, and its bytes are there. All may have
    /// lost where they met too closely; a racer without an answer says nothing.
    async fn is_one_winner(&self, key: &Key, outcomes: Vec<Result<bool>>) -> Result<bool> {
        let is_sure = outcomes.iter().all(Result::is_ok);
        let winners = (0..).zip(&outcomes).filter(|(_, outcome)| matches!(outcome, Ok(true)));
        match winners.map(|(racer, _)| racer).collect::<Vec<u64>>()[..] {
            [] => Ok(true),
            [winner] if is_sure => Ok(self.store.read(self.step(), key).await? == scratch(100 + winner)),
            [_] => Ok(true),
            _ => Ok(false),
        }
    }

    /// Removes the scratch keys, as far as the server lets us.
    async fn clean(&self) -> Result<()> {
        for key in self.listed(REMOVED_MAX).await? {
            self.store.delete(self.step(), &key).await?;
        }
        Ok(())
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).unwrap_or_else(|reversed| reversed.duration())
}

/// Returns bytes that differ between numbers.
fn scratch(number: u64) -> Bytes {
    let mut bytes = number.to_le_bytes().repeat(SCRATCH_BYTES / 8);
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte ^= (place % 253) as u8;
    }
    bytes.into()
}
