//! Rows of the ledger as they are read.

use rusqlite::Row;
use serde::Serialize;

/// A repository at a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlaceRow {
    /// Its number here.
    pub id: i64,
    /// The repository's id; empty where it could never be opened.
    pub repository: String,
    /// What tells the place from others; not for people.
    #[serde(skip)]
    pub place: String,
    /// The location, without secrets.
    pub location: String,
    /// When it was last used.
    pub seen_ms: i64,
    /// Packs, when they were last listed.
    pub packs: Option<i64>,
    /// Their bytes.
    pub stored_bytes: Option<i64>,
    /// Since when it is recorded what is read of them.
    pub first_listed_ms: Option<i64>,
}

impl PlaceRow {
    pub(super) const COLUMNS: &str =
        "id, repository, place, location, seen_ms, packs, stored_bytes, first_listed_ms";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            repository: row.get(1)?,
            place: row.get(2)?,
            location: row.get(3)?,
            seen_ms: row.get(4)?,
            packs: row.get(5)?,
            stored_bytes: row.get(6)?,
            first_listed_ms: row.get(7)?,
        })
    }
}

/// One run of a command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunRow {
    /// Its number; later runs have larger ones.
    pub id: i64,
    /// The run that it was a step of.
    pub parent: Option<i64>,
    /// What was done: a command, or `sample` and `restore_check` of `verify`.
    pub kind: String,
    /// The version of packvault.
    pub version: String,
    /// The machine it ran on.
    pub machine: String,
    /// The archive, by its name in the configuration or its home.
    pub archive: Option<String>,
    /// The place, by its number.
    pub place: Option<i64>,
    /// The location, without secrets.
    pub location: Option<String>,
    /// The repository's id, where it could be opened.
    pub repository: Option<String>,
    /// When it began.
    pub began_ms: i64,
    /// When it ended; `None` if it still runs, or was killed.
    pub ended_ms: Option<i64>,
    /// How long it took, by a clock that nobody sets.
    pub milliseconds: Option<i64>,
    /// How it ended.
    pub exit_code: Option<i64>,
    /// The snapshot that was made, checked or restored.
    pub snapshot: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Problems that were found.
    pub problems: Option<i64>,
    /// Bytes of packs that were read and checked.
    pub bytes_read: Option<i64>,
    /// Bytes that were stored.
    pub bytes_stored: Option<i64>,
    /// Bytes sent to servers.
    pub bytes_sent: Option<i64>,
    /// Bytes received from servers.
    pub bytes_received: Option<i64>,
}

impl RunRow {
    pub(super) const COLUMNS: &str = "runs.id, parent, kind, version, machine, archive, runs.place, \
        coalesce(places.location, runs.location), nullif(places.repository, ''), began_ms, ended_ms, milliseconds, \
        exit_code, snapshot, error, problems, bytes_read, bytes_stored, bytes_sent, bytes_received";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            parent: row.get(1)?,
            kind: row.get(2)?,
            version: row.get(3)?,
            machine: row.get(4)?,
            archive: row.get(5)?,
            place: row.get(6)?,
            location: row.get(7)?,
            repository: row.get(8)?,
            began_ms: row.get(9)?,
            ended_ms: row.get(10)?,
            milliseconds: row.get(11)?,
            exit_code: row.get(12)?,
            snapshot: row.get(13)?,
            error: row.get(14)?,
            problems: row.get(15)?,
            bytes_read: row.get(16)?,
            bytes_stored: row.get(17)?,
            bytes_sent: row.get(18)?,
            bytes_received: row.get(19)?,
        })
    }

    /// Tells whether it did what it was asked for, even if something is to be said of it.
    pub fn is_done(&self) -> bool {
        matches!(self.exit_code, Some(0 | 4 | 5 | 6))
    }
}

/// A restore that was tried, with or without a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DrillRow {
    /// The run.
    pub run: i64,
    /// The place that was restored from.
    pub place: i64,
    /// The snapshot.
    pub snapshot: String,
    /// The archive, as the run knew it.
    pub archive: Option<String>,
    /// `restore_check`, or `restore` into a target.
    pub kind: String,
    /// When it ended.
    pub at_ms: i64,
    /// How long it took.
    pub milliseconds: i64,
    /// Bytes that were restored.
    pub bytes: i64,
    /// Whether everything was proved.
    pub proved: bool,
    /// What was wrong.
    pub problem: Option<String>,
}

impl DrillRow {
    pub(super) const COLUMNS: &str =
        "run, place, snapshot, archive, kind, at_ms, milliseconds, bytes, proved, problem";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: row.get(0)?,
            place: row.get(1)?,
            snapshot: row.get(2)?,
            archive: row.get(3)?,
            kind: row.get(4)?,
            at_ms: row.get(5)?,
            milliseconds: row.get(6)?,
            bytes: row.get(7)?,
            proved: row.get(8)?,
            problem: row.get(9)?,
        })
    }
}

/// A snapshot that was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyRow {
    /// The run.
    pub run: i64,
    /// The place it was copied from.
    pub from: Option<i64>,
    /// The place it was copied to.
    pub to: i64,
    /// The snapshot.
    pub snapshot: String,
    /// The archive, as the run knew it.
    pub archive: Option<String>,
    /// When it was there.
    pub at_ms: i64,
}

impl CopyRow {
    pub(super) const COLUMNS: &str = "run, from_place, to_place, snapshot, archive, at_ms";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: row.get(0)?,
            from: row.get(1)?,
            to: row.get(2)?,
            snapshot: row.get(3)?,
            archive: row.get(4)?,
            at_ms: row.get(5)?,
        })
    }
}

/// How large a snapshot was when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SizeRow {
    /// The run.
    pub run: i64,
    /// The place it lies in.
    pub place: i64,
    /// The archive, as the run knew it.
    pub archive: Option<String>,
    /// The snapshot.
    pub snapshot: String,
    /// When it was made.
    pub at_ms: i64,
    /// Length of its database.
    pub database_bytes: i64,
    /// Length of its attachments.
    pub attachment_bytes: i64,
    /// Bytes that were stored for it.
    pub added_bytes: i64,
}

impl SizeRow {
    pub(super) const COLUMNS: &str =
        "run, place, archive, snapshot, at_ms, database_bytes, attachment_bytes, added_bytes";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: row.get(0)?,
            place: row.get(1)?,
            archive: row.get(2)?,
            snapshot: row.get(3)?,
            at_ms: row.get(4)?,
            database_bytes: row.get(5)?,
            attachment_bytes: row.get(6)?,
            added_bytes: row.get(7)?,
        })
    }
}

/// How much of a repository one run read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReadingRow {
    /// The run.
    pub run: i64,
    /// The place.
    pub place: i64,
    /// When.
    pub at_ms: i64,
    /// Packs that were read at all.
    pub packs: i64,
    /// Packs of which every byte was read.
    pub whole_packs: i64,
    /// Bytes of packs that were read and found sound.
    pub bytes: i64,
    /// Packs in which damage was found.
    pub damaged_packs: i64,
    /// Packs of the repository at that time, where they were listed.
    pub repository_packs: Option<i64>,
    /// Their bytes.
    pub repository_bytes: Option<i64>,
}

impl ReadingRow {
    pub(super) const COLUMNS: &str = "run, place, at_ms, packs, whole_packs, bytes, damaged_packs, repository_packs, \
        repository_bytes";

    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            run: row.get(0)?,
            place: row.get(1)?,
            at_ms: row.get(2)?,
            packs: row.get(3)?,
            whole_packs: row.get(4)?,
            bytes: row.get(5)?,
            damaged_packs: row.get(6)?,
            repository_packs: row.get(7)?,
            repository_bytes: row.get(8)?,
        })
    }
}
