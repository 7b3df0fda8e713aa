//! Recording: one run is one row, written when it begins, when its place is known, and when it ends; what it read,
//! proved and copied comes with its end, in one transaction.
//!
//! A ledger that was deleted or set aside while a command ran gets the whole row all the same. Rows are bounded in
//! number and in age; the newest of a kind that succeeded stays, however old it is.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use rusqlite::{ErrorCode, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::{Access, Ledger, file};

/// Runs that are kept, whatever their age.
const RUNS_MAX: i64 = 100_000;
/// Places that are kept; of more, those used last.
const PLACES_MAX: i64 = 1_000;
/// Facts of one run that are kept.
const FACTS_MAX: usize = 10_000;
/// Characters of a sentence that are kept.
const SENTENCE_CHARACTERS_MAX: usize = 1_000;
/// A day.
const DAY_MS: i64 = 24 * 3600 * 1000;

/// The number of a run.
pub type RunId = i64;

/// A place, as it is looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct PlaceKey {
    /// What tells it from others, wherever a command is run from.
    pub place: String,
    /// The repository's id; empty or `None` where it is not known.
    pub repository: Option<String>,
}

/// What a run saw of a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaceSeen {
    /// Which place.
    pub key: PlaceKey,
    /// The location for people, without secrets.
    pub location: String,
    /// Every pack with its length, where they were listed.
    pub listed: Option<Vec<(String, u64)>>,
    /// What was read of packs.
    pub reads: Vec<PackRead>,
}

/// What was read of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRead {
    /// The pack.
    pub pack: String,
    /// Bytes that were read and found sound, each counted once.
    pub bytes: u64,
    /// Whether every byte of it was looked at.
    pub is_whole: bool,
    /// Whether all was looked at that is to be read from it, which may be less.
    pub is_looked_at: bool,
    /// Places in it that are damaged.
    pub damaged: u64,
}

/// A restore that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// The snapshot.
    pub snapshot: String,
    /// Its archive, where another is known than that of the run.
    pub archive: Option<String>,
    /// `restore_check` or `restore`.
    pub kind: &'static str,
    /// When it ended.
    pub at_ms: i64,
    /// How long it took.
    pub milliseconds: u64,
    /// Bytes that were restored.
    pub bytes: u64,
    /// What was wrong; `None` if everything was proved.
    pub problem: Option<String>,
}

/// A snapshot that is in a copy now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// From where.
    pub from: Option<PlaceKey>,
    /// The snapshot.
    pub snapshot: String,
}

/// How large a snapshot is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Length of its database.
    pub database_bytes: u64,
    /// Length of its attachments.
    pub attachment_bytes: u64,
    /// Bytes that were stored for it.
    pub added_bytes: u64,
}

/// All that is known of a run so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// What is done.
    pub kind: String,
    /// The run that it is a step of.
    pub parent: Option<RunId>,
    /// The version of packvault.
    pub version: String,
    /// The machine.
    pub machine: String,
    /// The archive.
    pub archive: Option<String>,
    /// When it began.
    pub began_ms: i64,
    /// How it ended, if it has.
    pub end: Option<End>,
    /// The snapshot.
    pub snapshot: Option<String>,
    /// Problems that were found.
    pub problems: Option<u64>,
    /// Bytes that were stored.
    pub bytes_stored: Option<u64>,
    /// Bytes sent to servers and received from them.
    pub transferred: Option<(u64, u64)>,
    /// The places that were opened; the first is the run's.
    pub places: Vec<PlaceSeen>,
    /// Restores that were tried, from the first place.
    pub drills: Vec<Drill>,
    /// What was copied to the first place.
    pub copies: Vec<Copied>,
    /// How large the snapshot is.
    pub sizes: Option<Sizes>,
    /// Since when nothing more is read, where that is known before the end.
    pub read_ms: Option<i64>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at_ms: i64,
    /// How long it took.
    pub milliseconds: u64,
    /// The exit code.
    pub exit_code: u8,
    /// Why it failed.
    pub error: Option<String>,
}

/// What came of recording.
#[derive(Debug, Default)]
pub struct Recorded {
    /// The number of the run, if it is in the ledger.
    pub id: Option<RunId>,
    /// What the user should know.
    pub warning: Option<String>,
}

impl Ledger {
    /// Records what is known of a run: a new one, or more of the one with that number. Rows older than `keep_ms` go when
    /// it has ended. Never fails: a ledger that turns out to be damaged is set aside and begun anew.
    pub fn record(folder: &Path, id: Option<RunId>, run: &Run, keep_ms: i64) -> Recorded {
        let mut warning = None;
        for _ in 0..2 {
            let opened = Self::open(folder, Access::Write);
            warning = warning.or(opened.warning);
            let Some(mut ledger) = opened.ledger else { return Recorded { id, warning } };
            let error = match ledger.write(id, run, keep_ms) {
                Ok(id) => return Recorded { id: Some(id), warning },
                Err(error) => error,
            };
            drop(ledger);
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    warning = warning.or(file::renew(folder, &error));
                }
                Some(ErrorCode::ReadOnly) => return Recorded { id, warning },
                _ => {
                    let why = format!("the ledger in {} cannot be written: {error}", folder.display());
                    return Recorded { id, warning: warning.or(Some(why)) };
                }
            }
        }
        Recorded { id, warning }
    }

    pub(super) fn write(&mut self, id: Option<RunId>, run: &Run, keep_ms: i64) -> rusqlite::Result<RunId> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let places: Vec<i64> = run
            .places
            .iter()
            .map(|seen| place(&transaction, seen, run.now_ms()))
            .collect::<rusqlite::Result<_>>()?;
        let id = row(&transaction, id, run, places.first().copied())?;
        if let Some(at_ms) = run.read_ms.or(run.end.as_ref().map(|end| end.at_ms)) {
            for (place, seen) in places.iter().zip(&run.places) {
                packs(&transaction, id, *place, seen, at_ms)?;
            }
        }
        if let Some(end) = &run.end {
            if let Some(place) = places.first() {
                facts(&transaction, id, *place, run)?;
            }
            thin(&transaction, end.at_ms, keep_ms)?;
        }
        transaction.commit()?;
        Ok(id)
    }
}

impl Run {
    fn now_ms(&self) -> i64 {
        self.end.as_ref().map_or(self.began_ms, |end| end.at_ms)
    }

    fn bytes_read(&self) -> Option<i64> {
        let reads = || self.places.iter().flat_map(|seen| &seen.reads);
        reads().next().is_some().then(|| reads().map(|read| integer(read.bytes)).fold(0, i64::saturating_add))
    }
}

/// Writes the row of a run, and returns its number.
fn row(
    transaction: &Transaction<'_>,
    id: Option<RunId>,
    run: &Run,
    place: Option<i64>,
) -> rusqlite::Result<RunId> {
    // A number may be another run's if the file was deleted meanwhile and filled anew.
    let is_ours = "SELECT 1 FROM runs WHERE id = ?1 AND began_ms = ?2 AND machine = ?3 AND ended_ms IS NULL";
    let known = match id {
        Some(id) => transaction
            .query_row(is_ours, params![id, run.began_ms, run.machine], |_| Ok(()))
            .optional()?
            .map(|()| id),
        None => None,
    };
    let text = "INSERT INTO runs (id, parent, kind, version, machine, archive, place, location, began_ms, ended_ms, \
         milliseconds, exit_code, snapshot, error, problems, bytes_read, bytes_stored, bytes_sent, bytes_received) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19) \
         ON CONFLICT (id) DO UPDATE SET kind = ?3, archive = ?6, place = ?7, location = ?8, ended_ms = ?10, \
         milliseconds = ?11, exit_code = ?12, snapshot = ?13, error = ?14, problems = ?15, bytes_read = ?16, \
         bytes_stored = ?17, bytes_sent = ?18, bytes_received = ?19";
    let end = run.end.as_ref();
    transaction.execute(
        text,
        params![
            known,
            run.parent,
            run.kind,
            run.version,
            run.machine,
            run.archive,
            place,
            run.places.first().map(|seen| &seen.location),
            run.began_ms,
            end.map(|end| end.at_ms),
            end.map(|end| integer(end.milliseconds)),
            end.map(|end| end.exit_code),
            run.snapshot,
            end.and_then(|end| end.error.as_deref()).map(sentence),
            run.problems.map(integer),
            end.and_then(|_| run.bytes_read()),
            run.bytes_stored.map(integer),
            run.transferred.map(|(sent, _)| integer(sent)),
            run.transferred.map(|(_, received)| integer(received)),
        ],
    )?;
    Ok(known.unwrap_or_else(|| transaction.last_insert_rowid()))
}

/// Returns the number of a place, which is made if it is new.
fn place(transaction: &Transaction<'_>, seen: &PlaceSeen, now_ms: i64) -> rusqlite::Result<i64> {
    let text = "INSERT INTO places (repository, place, location, seen_ms) VALUES (?1, ?2, ?3, ?4) \
                ON CONFLICT (place, repository) DO UPDATE SET location = ?3, seen_ms = ?4 RETURNING id";
    let repository = seen.key.repository.as_deref().unwrap_or_default();
    transaction.query_row(text, params![repository, seen.key.place, seen.location, now_ms], |row| row.get(0))
}

/// Brings what is known of the packs of a place up to date, and adds what was read.
fn packs(
    transaction: &Transaction<'_>,
    run: RunId,
    place: i64,
    seen: &PlaceSeen,
    at_ms: i64,
) -> rusqlite::Result<()> {
    if let Some(listed) = &seen.listed {
        listing(transaction, run, place, listed, at_ms)?;
    }
    if seen.reads.is_empty() {
        return Ok(());
    }
    // A pack with damage stays damaged until all of it was read and found sound.
    let text = "UPDATE packs SET looked_run = CASE WHEN ?9 OR ?5 > 0 THEN ?3 ELSE looked_run END, \
        read_ms = CASE WHEN ?4 AND ?5 = 0 THEN ?6 ELSE read_ms END, \
        part_ms = CASE WHEN ?4 AND ?5 = 0 THEN NULL WHEN part_ms IS NULL OR ?7 >= part_bytes OR part_ms < ?8 THEN ?6 \
            ELSE part_ms END, \
        part_bytes = CASE WHEN ?4 AND ?5 = 0 THEN 0 WHEN part_ms IS NULL OR ?7 >= part_bytes OR part_ms < ?8 THEN ?7 \
            ELSE part_bytes END, \
        damaged = CASE WHEN ?9 THEN ?5 ELSE max(damaged, ?5) END \
        WHERE place = ?1 AND pack = ?2";
    let mut statement = transaction.prepare(text)?;
    for read in &seen.reads {
        statement.execute(params![
            place,
            read.pack,
            run,
            read.is_whole,
            integer(read.damaged),
            at_ms,
            integer(read.bytes),
            at_ms.saturating_sub(30 * DAY_MS),
            read.is_whole || read.is_looked_at
        ])?;
    }
    let sum = |of: fn(&PackRead) -> u64| seen.reads.iter().map(of).map(integer).fold(0, i64::saturating_add);
    let listed = seen.listed.as_ref();
    let listed_bytes =
        listed.map(|listed| listed.iter().map(|(_, bytes)| integer(*bytes)).fold(0, i64::saturating_add));
    transaction.execute(
        "INSERT OR REPLACE INTO readings VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            run,
            place,
            at_ms,
            seen.reads.len() as i64,
            sum(|read| u64::from(read.is_whole)),
            sum(|read| read.bytes),
            sum(|read| u64::from(read.damaged > 0)),
            listed.map(|listed| listed.len() as i64),
            listed_bytes,
        ],
    )?;
    Ok(())
}

/// Compares a listing with what is known, and writes the differences alone.
fn listing(
    transaction: &Transaction<'_>,
    run: RunId,
    place: i64,
    listed: &[(String, u64)],
    at_ms: i64,
) -> rusqlite::Result<()> {
    let known: HashMap<String, i64> = {
        let mut statement = transaction.prepare("SELECT pack, bytes FROM packs WHERE place = ?1")?;
        let rows = statement.query_map([place], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    // A pack of another length is another pack: nothing that was read of the one before counts.
    let mut add = transaction
        .prepare("INSERT OR REPLACE INTO packs (place, pack, bytes, listed_run) VALUES (?1, ?2, ?3, ?4)")?;
    for (pack, bytes) in listed.iter().filter(|(pack, bytes)| known.get(pack) != Some(&integer(*bytes))) {
        add.execute(params![place, pack, integer(*bytes), run])?;
    }
    let listed_names: HashSet<&String> = listed.iter().map(|(pack, _)| pack).collect();
    let mut remove = transaction.prepare("DELETE FROM packs WHERE place = ?1 AND pack = ?2")?;
    for pack in known.keys().filter(|pack| !listed_names.contains(pack)) {
        remove.execute(params![place, pack])?;
    }
    let bytes = listed.iter().map(|(_, bytes)| integer(*bytes)).fold(0, i64::saturating_add);
    let text = "UPDATE places SET packs = ?2, stored_bytes = ?3, first_listed_ms = coalesce(first_listed_ms, ?4) \
                WHERE id = ?1";
    transaction.execute(text, params![place, listed.len() as i64, bytes, at_ms])?;
    Ok(())
}

/// Writes what a run proved, copied and measured.
fn facts(transaction: &Transaction<'_>, run: RunId, place: i64, all: &Run) -> rusqlite::Result<()> {
    let drill = "INSERT OR REPLACE INTO drills (run, place, snapshot, archive, kind, at_ms, milliseconds, bytes, \
                 proved, problem) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
    for note in all.drills.iter().take(FACTS_MAX) {
        let archive = note.archive.as_ref().or(all.archive.as_ref());
        let (milliseconds, bytes) = (integer(note.milliseconds), integer(note.bytes));
        let problem = note.problem.as_deref().map(sentence);
        let is_proved = note.problem.is_none();
        transaction.execute(
            drill,
            params![
                run,
                place,
                note.snapshot,
                archive,
                note.kind,
                note.at_ms,
                milliseconds,
                bytes,
                is_proved,
                problem
            ],
        )?;
    }
    let copy = "INSERT OR REPLACE INTO copies (run, to_place, snapshot, from_place, archive, at_ms) \
                VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    for note in all.copies.iter().take(FACTS_MAX) {
        let from = match &note.from {
            Some(key) => transaction
                .query_row(
                    "SELECT id FROM places WHERE place = ?1 AND repository = ?2",
                    params![key.place, key.repository.as_deref().unwrap_or_default()],
                    |row| row.get::<_, i64>(0),
                )
                .optional()?,
            None => None,
        };
        transaction.execute(copy, params![run, place, note.snapshot, from, all.archive, all.now_ms()])?;
    }
    if let (Some(sizes), Some(snapshot)) = (all.sizes, &all.snapshot) {
        let text = "INSERT OR REPLACE INTO sizes (run, place, archive, snapshot, at_ms, database_bytes, \
                    attachment_bytes, added_bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        let [database, attachments, added] =
            [sizes.database_bytes, sizes.attachment_bytes, sizes.added_bytes].map(integer);
        let now = all.now_ms();
        transaction
            .execute(text, params![run, place, all.archive, snapshot, now, database, attachments, added])?;
    }
    Ok(())
}

/// Removes rows that are older than `keep_ms`, and those above the bounds. The newest run of each kind that was done
/// stays, and the newest drill and copy of each place: they say how long ago that was.
fn thin(transaction: &Transaction<'_>, now_ms: i64, keep_ms: i64) -> rusqlite::Result<()> {
    let cutoff = now_ms.saturating_sub(keep_ms);
    // A day of slack, so that this is not done at every run.
    let oldest: Option<i64> =
        transaction.query_row("SELECT min(began_ms) FROM runs", [], |row| row.get(0))?;
    let is_old = oldest.is_some_and(|oldest| oldest < cutoff.saturating_sub(DAY_MS));
    let (newest, lowest): (Option<i64>, Option<i64>) =
        transaction
            .query_row("SELECT max(id), min(id) FROM runs", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let is_long = newest.zip(lowest).is_some_and(|(newest, lowest)| newest - lowest > RUNS_MAX);
    if is_old || is_long {
        let lowest_kept = newest.unwrap_or_default() - RUNS_MAX;
        let keep = "SELECT max(id) FROM runs WHERE exit_code IN (0, 4, 5, 6) GROUP BY kind, archive, place";
        transaction.execute(
            &format!("DELETE FROM runs WHERE (began_ms < ?1 OR id < ?2) AND id NOT IN ({keep})"),
            [cutoff, lowest_kept],
        )?;
        for (table, newest) in [
            ("drills", "SELECT max(run) FROM drills WHERE proved GROUP BY archive, place"),
            ("copies", "SELECT max(run) FROM copies GROUP BY archive, to_place"),
            ("sizes", "SELECT max(run) FROM sizes GROUP BY archive, place"),
            ("readings", "SELECT max(run) FROM readings GROUP BY place"),
        ] {
            let text = format!(
                "DELETE FROM {table} WHERE (at_ms < ?1 OR run < ?2) AND run NOT IN ({newest}) \
                 AND run NOT IN (SELECT id FROM runs)"
            );
            transaction.execute(&text, [cutoff, lowest_kept])?;
        }
    }
    let places: i64 = transaction.query_row("SELECT count(*) FROM places", [], |row| row.get(0))?;
    if places > PLACES_MAX {
        let gone = "SELECT id FROM places ORDER BY seen_ms DESC, id DESC LIMIT -1 OFFSET ?1";
        for table in ["packs", "readings", "drills", "sizes"] {
            transaction.execute(&format!("DELETE FROM {table} WHERE place IN ({gone})"), [PLACES_MAX])?;
        }
        transaction.execute(&format!("DELETE FROM copies WHERE to_place IN ({gone})"), [PLACES_MAX])?;
        transaction.execute(&format!("DELETE FROM places WHERE id IN ({gone})"), [PLACES_MAX])?;
    }
    Ok(())
}

/// Returns the number as SQLite keeps numbers; one that is too large for it is the largest.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn sentence(text: &str) -> String {
    match text.char_indices().nth(SENTENCE_CHARACTERS_MAX) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
