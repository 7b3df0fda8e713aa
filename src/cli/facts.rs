//! What the ledger tells of an archive: what was done at each of its places, and how it ended.
//!
//! A ledger that is not there or cannot be read answers nothing: then nothing is known to be done, so everything is due,
//! and `status` says that nothing is proved.

use std::collections::BTreeMap;

use jiff::Timestamp;
use packvault::engine::schedule::status::{LastRun, PlaceStatus, ProvedSnapshot, TriedRestore};
use packvault::engine::schedule::{Done, Schedule};
use packvault::format::timestamp;
use packvault::ledger::{Access, Ended, Ledger, PlaceKey, RunFilter, RunRow};
use packvault::location::Purpose;

use super::record::DAY_MS;
use super::session::Session;
use super::settings::Archive;
use super::status::asking::newest;

/// How many runs are looked through for one that was done.
const RUNS_MAX: u64 = 50;

/// What the ledger tells of one archive.
pub struct Facts<'a> {
    ledger: Option<Ledger>,
    archive: &'a Archive,
    name: &'a str,
}

impl<'a> Facts<'a> {
    /// Opens the ledger; returns also what the user should know of it.
    pub fn of(archive: &'a Archive, session: &Session) -> (Self, Option<String>) {
        let opened = session.settings().state().map(|state| Ledger::open(&state, Access::Read));
        let (ledger, warning) = opened.map_or((None, None), |opened| (opened.ledger, opened.warning));
        let name = archive.name.as_deref().unwrap_or_default();
        (Self { ledger, archive, name }, warning)
    }

    /// Returns when what was done last, at each place.
    pub fn done(&self, schedule: &Schedule, session: &Session) -> BTreeMap<Option<String>, Done> {
        let copies = schedule.copies.iter().cloned().map(Some);
        let places = std::iter::once(None).chain(copies);
        let done = |place: Option<String>| {
            let number = self.place(place.as_deref(), session);
            let done = number.map(|number| self.done_at(number)).unwrap_or_default();
            (place, done)
        };
        places.map(done).collect()
    }

    fn done_at(&self, place: i64) -> Done {
        let tried = self.ask(|ledger| ledger.last_drill(Some(self.name), place).ok().flatten());
        Done {
            verify: self.last_read(place).and_then(|run| time(run.began_ms)),
            // One that failed is tried again in every run.
            restore_check: tried.filter(|tried| tried.proved).and_then(|tried| time(tried.at_ms)),
            prune: self
                .ask(|ledger| ledger.last_done("prune", Some(self.name), Some(place)).ok().flatten())
                .and_then(|run| time(run.began_ms)),
        }
    }

    /// Returns the last sample that was read to its end, whatever it found.
    fn last_read(&self, place: i64) -> Option<RunRow> {
        let filter = RunFilter {
            kind: Some("sample".to_owned()),
            archive: Some(self.name.to_owned()),
            place: Some(place),
            ended: Ended::Any,
            limit: Some(RUNS_MAX),
            ..RunFilter::default()
        };
        let runs = self.ask(|ledger| ledger.runs(&filter).ok())?;
        runs.into_iter().find(|run| run.is_done() || run.exit_code == Some(3))
    }

    /// Returns the last run of the archive.
    pub fn last_run(&self) -> Option<LastRun> {
        let run = self.ask(|ledger| ledger.last_begun("run", Some(self.name), None).ok().flatten())?;
        Some(LastRun {
            began_at: text(run.began_ms)?,
            ended_at: run.ended_ms.and_then(text),
            exit_code: run.exit_code,
        })
    }

    /// Adds what is remembered of a place to what was asked of it.
    pub fn add_to(&self, status: &mut PlaceStatus, now: Timestamp, session: &Session) {
        let Some(place) = self.place(status.place.as_deref(), session) else { return };
        if status.newest.is_none() && !status.asked {
            status.newest = self.remembered(place).and_then(|id| newest(&id, now));
        }
        let proved = self.ask(|ledger| ledger.newest_proved(Some(self.name), place).ok().flatten());
        status.proved = proved
            .and_then(|drill| Some(ProvedSnapshot { id: drill.snapshot, proved_at: text(drill.at_ms)? }));
        status.verified_at = self.last_read(place).and_then(|run| text(run.began_ms));
        let tried = self.ask(|ledger| ledger.last_drill(Some(self.name), place).ok().flatten());
        status.restore_check = tried.and_then(|drill| {
            let seconds = drill.milliseconds as f64 / 1000.0;
            Some(TriedRestore {
                at: text(drill.at_ms)?,
                snapshot: drill.snapshot,
                seconds,
                proved: drill.proved,
            })
        });
        let now_ms = now.as_millisecond();
        let since =
            now_ms.saturating_sub(status.read_days.unwrap_or_default().cast_signed().saturating_mul(DAY_MS));
        let coverage = self.ask(|ledger| ledger.coverage(place, since, now_ms).ok());
        if let Some(coverage) = coverage.filter(|coverage| coverage.packs > 0) {
            status.stored_bytes = Some(coverage.bytes);
            status.damaged_packs = Some(coverage.damaged_packs);
            let share = coverage.read_bytes as f64 / coverage.bytes.max(1) as f64;
            status.read_share = status.read_days.map(|_| share.min(1.0));
        }
    }

    /// Returns the newest snapshot that this machine made or copied there.
    fn remembered(&self, place: i64) -> Option<String> {
        let made = self.ask(|ledger| ledger.newest_made(Some(self.name), place).ok().flatten());
        let copied = self.ask(|ledger| ledger.newest_copied(Some(self.name), place).ok().flatten());
        made.and_then(|run| run.snapshot).max(copied.map(|copy| copy.snapshot))
    }

    /// Returns the number of a place in the ledger.
    fn place(&self, place: Option<&str>, session: &Session) -> Option<i64> {
        let (location, _) = session.at(place).location(Some(self.archive), Purpose::Look).ok()?;
        let key = PlaceKey { place: location.settled_place(), repository: None };
        self.ask(|ledger| ledger.place(&key).ok().flatten()).map(|row| row.id)
    }

    fn ask<T>(&self, question: impl FnOnce(&Ledger) -> Option<T>) -> Option<T> {
        self.ledger.as_ref().and_then(question)
    }
}

fn time(milliseconds: i64) -> Option<Timestamp> {
    Timestamp::from_millisecond(milliseconds).ok()
}

fn text(milliseconds: i64) -> Option<String> {
    time(milliseconds).map(timestamp::format)
}
