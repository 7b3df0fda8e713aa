//! What the ledger gets to know of a run: the one place where commands are recorded.
//!
//! [`recorded`] stands around a command and its session. It begins the row, so that a run that is killed is seen, and
//! ends it with all that was noted on the way. Sessions note by themselves which repositories were opened, what was read
//! of their packs and what passed to and from servers; commands note what they alone know. Whatever becomes of the
//! ledger, the command ends as it would have ended without it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use packvault::ledger::{Copied, Drill, End, Ledger, PackRead, PlaceKey, PlaceSeen, Run, RunId, Sizes};
use packvault::location::Wire;
use packvault::repo::Repository;
use packvault::repo::reads::Reads;
use packvault::{Error, Location, Result, engine};

use super::report::Exit;
use super::session::Session;

/// How long rows are kept where the configuration does not say.
pub const HISTORY_DAYS_DEFAULT: u32 = 400;
/// A day in milliseconds.
pub const DAY_MS: i64 = 24 * 3600 * 1000;

/// What is noted of one run.
#[derive(Default)]
pub struct Record(Mutex<Notes>);

#[derive(Default)]
struct Notes {
    /// Whether a run is being recorded at all.
    is_on: bool,
    id: Option<RunId>,
    run: Run,
    places: Vec<OpenedPlace>,
    wires: Vec<Arc<Wire>>,
    warning: Option<String>,
}

/// A storage that was opened, and what is read of the repository there.
struct OpenedPlace {
    seen: PlaceSeen,
    reads: Option<Arc<Reads>>,
}

/// Does the work of a command, and records it as a run of that kind. `exit` says how the program ends on what the work
/// returns.
pub async fn recorded<T>(
    session: &Session,
    kind: &'static str,
    work: impl Future<Output = Result<T>>,
    exit: impl FnOnce(&T) -> Exit,
) -> Result<T> {
    let begun = Instant::now();
    session.record().begin(session, kind);
    let result = work.await;
    let (exit, error) = match &result {
        Ok(done) => (exit(done), None),
        Err(error) => (Exit::from(error), Some(sentence(error))),
    };
    let milliseconds = begun.elapsed().as_millis() as u64;
    let end = End { at_ms: now_ms(), milliseconds, exit_code: exit.code(), error };
    if let Some(warning) = session.record().end(session, end) {
        session.warn_once(&warning);
    }
    result
}

/// Returns the time in milliseconds since 1970, by this machine's clock.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Returns the error in one line, without words that may hold a password: what a user typed may be quoted in it.
fn sentence(error: &Error) -> String {
    let chain = error.chain();
    let words = chain.split(' ');
    let safe = words.map(|word| if Location::may_hold_secret(word) { "…" } else { word });
    safe.collect::<Vec<_>>().join(" ")
}

impl Record {
    fn begin(&self, session: &Session, kind: &'static str) {
        let mut notes = self.notes();
        let parent = notes.run.parent;
        *notes = Notes { is_on: true, ..Notes::default() };
        notes.run = Run {
            kind: kind.to_owned(),
            parent,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: engine::hostname(),
            began_ms: now_ms(),
            ..Run::default()
        };
        notes.write(session);
    }

    fn end(&self, session: &Session, end: End) -> Option<String> {
        let mut notes = self.notes();
        notes.run.end = Some(end);
        notes.write(session);
        notes.is_on = false;
        notes.warning.take()
    }

    /// Writes down what was read so far, so that what is read in all can be asked for before the run ends. Returns
    /// whether that is in the ledger now.
    pub fn reading_is_over(&self, session: &Session) -> bool {
        let mut notes = self.notes();
        notes.run.read_ms = Some(now_ms());
        notes.write(session);
        notes.id.is_some() && notes.warning.is_none()
    }

    /// Returns the place that was opened first.
    pub fn place(&self) -> Option<PlaceKey> {
        self.notes().places.first().map(|opened| opened.seen.key.clone())
    }

    /// Returns the number of the run, once it has begun.
    pub fn id(&self) -> Option<RunId> {
        self.notes().id
    }

    /// Makes what is recorded next a step of that run.
    pub fn under(&self, parent: Option<RunId>) {
        self.notes().run.parent = parent;
    }

    /// Says more closely what is done.
    pub fn kind(&self, kind: &'static str) {
        self.notes().run.kind = kind.to_owned();
    }

    /// Notes the archive, by its name or its home.
    pub fn archive(&self, name: &str) {
        self.notes().run.archive = Some(name.to_owned());
    }

    /// Notes the snapshot that the run is about.
    pub fn snapshot(&self, id: &str) {
        self.notes().run.snapshot = Some(id.to_owned());
    }

    /// Notes how many problems were found.
    pub fn problems(&self, count: u64) {
        self.notes().run.problems = Some(count);
    }

    /// Notes how many bytes were stored.
    pub fn stored(&self, bytes: u64) {
        self.notes().run.bytes_stored = Some(bytes);
    }

    /// Notes how large the snapshot is.
    pub fn sizes(&self, sizes: Sizes) {
        self.notes().run.sizes = Some(sizes);
    }

    /// Notes a restore that was tried.
    pub fn drill(&self, drill: Drill) {
        self.notes().run.drills.push(drill);
    }

    /// Notes a snapshot that lies in the first place now, and where it was copied from. The first place is the one that
    /// was opened first; [`Self::place_is`] says otherwise.
    pub fn copied(&self, from: Option<PlaceKey>, snapshot: &str) {
        self.notes().run.copies.push(Copied { from, snapshot: snapshot.to_owned() });
    }

    /// Makes a place that was opened the run's own.
    pub fn place_is(&self, location: &Location) {
        let place = location.settled_place();
        self.notes().places.sort_by_key(|opened| opened.seen.key.place != place);
    }

    /// Notes a place that is being opened, and the line to it. Written down at once: a server that does not answer, or a
    /// kill, is seen at its place.
    pub fn opening(&self, session: &Session, location: &Location) {
        let mut notes = self.notes();
        if !notes.is_on {
            return;
        }
        let key = PlaceKey { place: location.settled_place(), repository: None };
        if notes.places.iter().any(|opened| opened.seen.key.place == key.place) {
            return;
        }
        // A path must mean the same from wherever the ledger is read.
        let shown = if location.is_local() { key.place.clone() } else { location.to_string() };
        let seen = PlaceSeen { key, location: shown, ..PlaceSeen::default() };
        notes.places.push(OpenedPlace { seen, reads: None });
        notes.write(session);
    }

    /// Notes what passes to and from a server.
    pub fn wire(&self, wire: &Arc<Wire>) {
        self.notes().wires.push(Arc::clone(wire));
    }

    /// Notes which repository lies at a place that was opened.
    pub fn opened(&self, location: &Location, repository: &Repository) {
        let place = location.settled_place();
        let mut notes = self.notes();
        let found = notes.places.iter_mut().find(|opened| opened.seen.key.place == place);
        if let Some(opened) = found {
            opened.seen.key.repository = Some(repository.config().repo_id.to_string());
            opened.reads = Some(Arc::clone(repository.reads()));
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// Writes down what is known so far.
    fn write(&mut self, session: &Session) {
        let Some(folder) = session.settings().state().filter(|_| self.is_on) else { return };
        let is_over = self.run.end.is_some() || self.run.read_ms.is_some();
        self.run.places = self.places.iter().map(|opened| opened.place(is_over)).collect();
        if is_over && !self.wires.is_empty() {
            let passed = self.wires.iter().map(|wire| wire.passed());
            let sum = passed.fold((0u64, 0u64), |(sent, received), passed| {
                (sent.saturating_add(passed.sent), received.saturating_add(passed.received))
            });
            self.run.transferred = Some(sum);
        }
        let keep_ms = i64::from(session.settings().history_days().unwrap_or(HISTORY_DAYS_DEFAULT)) * DAY_MS;
        let recorded = Ledger::record(&folder, self.id, &self.run, keep_ms);
        self.id = recorded.id;
        self.warning = self.warning.take().or(recorded.warning);
    }
}

impl OpenedPlace {
    fn place(&self, is_over: bool) -> PlaceSeen {
        let mut seen = self.seen.clone();
        if let Some(reads) = self.reads.as_ref().filter(|_| is_over) {
            let packs = reads.packs();
            let is_whole = |pack, looked: u64| {
                packs.as_ref().and_then(|packs| packs.get(pack)).is_some_and(|bytes| looked >= *bytes)
            };
            let of_packs = reads.of_packs();
            seen.reads = of_packs
                .iter()
                .map(|(pack, read)| PackRead {
                    pack: pack.to_string(),
                    bytes: read.sound_bytes,
                    is_whole: is_whole(pack, read.looked_bytes),
                    is_looked_at: read.is_looked_at,
                    damaged: read.damaged,
                })
                .collect();
            seen.listed =
                packs.map(|packs| packs.iter().map(|(pack, bytes)| (pack.to_string(), *bytes)).collect());
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use packvault::ErrorKind;

    use super::*;

    #[test]
    fn no_word_that_may_hold_a_password_reaches_the_ledger() {
        let cause = std::io::Error::other("GET https://ann:hush@nas/?token=hush was refused");
        let error = Error::caused(ErrorKind::Io, "cannot open s3://AK:hush@mail/a today", cause);
        assert_eq!(sentence(&error), "cannot open … today: GET … was refused");
    }
}
