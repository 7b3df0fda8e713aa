//! What can be asked of the ledger. Answers are bounded in number; an error is an answer that is not there.

use rusqlite::{OptionalExtension as _, Row, ToSql};

use super::rows::{CopyRow, DrillRow, PlaceRow, ReadingRow, RunRow, SizeRow};
use super::{Ledger, PlaceKey, answered};
use crate::error::Result;

/// Rows of an answer, where nobody asks for fewer.
const ROWS_MAX: u64 = 100_000;

/// How runs must have ended that are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ended {
    /// In any way, or not yet.
    #[default]
    Any,
    /// Done, even if something is to be said of it: exit code 0, 4, 5 or 6.
    Done,
    /// In any other way, or not at all and later ones have begun.
    Failed,
}

/// Which runs are asked for.
#[derive(Debug, Clone, Default)]
pub struct RunFilter {
    /// Of this kind.
    pub kind: Option<String>,
    /// Of this archive.
    pub archive: Option<String>,
    /// At this place.
    pub place: Option<i64>,
    /// That began at this time or later.
    pub since_ms: Option<i64>,
    /// That ended so.
    pub ended: Ended,
    /// So many at most.
    pub limit: Option<u64>,
}

impl Ledger {
    /// Returns every place, the one used last first.
    pub fn places(&self) -> Result<Vec<PlaceRow>> {
        let text = format!("SELECT {} FROM places ORDER BY seen_ms DESC, id DESC", PlaceRow::COLUMNS);
        self.rows(&text, &[], PlaceRow::read)
    }

    /// Returns a place: of that repository, or else the one seen there last.
    pub fn place(&self, key: &PlaceKey) -> Result<Option<PlaceRow>> {
        let repository = key.repository.as_deref();
        let text = format!(
            "SELECT {} FROM places WHERE place = ?1 AND (?2 IS NULL OR repository = ?2) \
             ORDER BY repository = '', seen_ms DESC, id DESC LIMIT 1",
            PlaceRow::COLUMNS
        );
        self.row(&text, &[&key.place, &repository], PlaceRow::read)
    }

    /// Returns runs, the newest first.
    pub fn runs(&self, filter: &RunFilter) -> Result<Vec<RunRow>> {
        let ended = match filter.ended {
            Ended::Any => "1",
            Ended::Done => "exit_code IN (0, 4, 5, 6)",
            Ended::Failed => "coalesce(exit_code, 1) NOT IN (0, 4, 5, 6)",
        };
        let text = format!(
            "SELECT {} FROM runs LEFT JOIN places ON places.id = runs.place \
             WHERE (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR archive = ?2) AND (?3 IS NULL OR runs.place = ?3) \
             AND (?4 IS NULL OR began_ms >= ?4) AND {ended} ORDER BY runs.id DESC LIMIT ?5",
            RunRow::COLUMNS
        );
        let limit = filter.limit.unwrap_or(ROWS_MAX).min(ROWS_MAX) as i64;
        let parameters: [&dyn ToSql; 5] =
            [&filter.kind, &filter.archive, &filter.place, &filter.since_ms, &limit];
        self.rows(&text, &parameters, RunRow::read)
    }

    /// Returns the last run that began, however it ended.
    pub fn last_begun(
        &self,
        kind: &str,
        archive: Option<&str>,
        place: Option<i64>,
    ) -> Result<Option<RunRow>> {
        self.last(kind, archive, place, Ended::Any)
    }

    /// Returns the last run that was done.
    pub fn last_done(&self, kind: &str, archive: Option<&str>, place: Option<i64>) -> Result<Option<RunRow>> {
        self.last(kind, archive, place, Ended::Done)
    }

    fn last(
        &self,
        kind: &str,
        archive: Option<&str>,
        place: Option<i64>,
        ended: Ended,
    ) -> Result<Option<RunRow>> {
        let (kind, archive) = (Some(kind.to_owned()), archive.map(str::to_owned));
        let filter = RunFilter { kind, archive, place, ended, limit: Some(1), ..RunFilter::default() };
        Ok(self.runs(&filter)?.into_iter().next())
    }

    /// Returns the run that made the newest snapshot.
    pub fn newest_made(&self, archive: Option<&str>, place: i64) -> Result<Option<RunRow>> {
        let text = format!(
            "SELECT {} FROM runs LEFT JOIN places ON places.id = runs.place WHERE kind = 'create' \
             AND exit_code IN (0, 4, 5, 6) AND snapshot IS NOT NULL AND runs.place = ?1 AND (?2 IS NULL OR archive = ?2) \
             ORDER BY runs.id DESC LIMIT 1",
            RunRow::COLUMNS
        );
        self.row(&text, &[&place, &archive], RunRow::read)
    }

    /// Returns the newest snapshot that was copied to a place.
    pub fn newest_copied(&self, archive: Option<&str>, to: i64) -> Result<Option<CopyRow>> {
        let text = format!(
            "SELECT {} FROM copies WHERE to_place = ?1 AND (?2 IS NULL OR archive = ?2) \
             ORDER BY snapshot DESC, run DESC LIMIT 1",
            CopyRow::COLUMNS
        );
        self.row(&text, &[&to, &archive], CopyRow::read)
    }

    /// Returns the drill that proved the newest snapshot of those that were proved.
    pub fn newest_proved(&self, archive: Option<&str>, place: i64) -> Result<Option<DrillRow>> {
        let text = format!(
            "SELECT {} FROM drills WHERE proved AND place = ?1 AND (?2 IS NULL OR archive = ?2) \
             ORDER BY snapshot DESC, run DESC LIMIT 1",
            DrillRow::COLUMNS
        );
        self.row(&text, &[&place, &archive], DrillRow::read)
    }

    /// Returns the last drill, whatever came of it.
    pub fn last_drill(&self, archive: Option<&str>, place: i64) -> Result<Option<DrillRow>> {
        let text = format!(
            "SELECT {} FROM drills WHERE place = ?1 AND (?2 IS NULL OR archive = ?2) \
             ORDER BY run DESC, snapshot DESC LIMIT 1",
            DrillRow::COLUMNS
        );
        self.row(&text, &[&place, &archive], DrillRow::read)
    }

    /// Returns the runs that failed, the newest first.
    pub fn failures_since(
        &self,
        kind: Option<&str>,
        archive: Option<&str>,
        place: Option<i64>,
        since_ms: i64,
    ) -> Result<Vec<RunRow>> {
        self.runs(&RunFilter {
            kind: kind.map(str::to_owned),
            archive: archive.map(str::to_owned),
            place,
            since_ms: Some(since_ms),
            ended: Ended::Failed,
            limit: Some(1_000),
        })
    }

    /// Returns every drill since then, oldest first.
    pub fn drills(&self, since_ms: i64) -> Result<Vec<DrillRow>> {
        self.since("drills", DrillRow::COLUMNS, since_ms, DrillRow::read)
    }

    /// Returns what was copied since then, oldest first.
    pub fn copies(&self, since_ms: i64) -> Result<Vec<CopyRow>> {
        self.since("copies", CopyRow::COLUMNS, since_ms, CopyRow::read)
    }

    /// Returns how large snapshots were that were made since then, oldest first.
    pub fn sizes(&self, since_ms: i64) -> Result<Vec<SizeRow>> {
        self.since("sizes", SizeRow::COLUMNS, since_ms, SizeRow::read)
    }

    /// Returns what runs read since then, oldest first.
    pub fn readings(&self, since_ms: i64) -> Result<Vec<ReadingRow>> {
        self.since("readings", ReadingRow::COLUMNS, since_ms, ReadingRow::read)
    }

    fn since<T>(
        &self,
        table: &str,
        columns: &str,
        since_ms: i64,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let text = format!("SELECT {columns} FROM {table} WHERE at_ms >= ?1 ORDER BY run LIMIT {ROWS_MAX}");
        self.rows(&text, &[&since_ms], read)
    }

    fn rows<T>(
        &self,
        text: &str,
        parameters: &[&dyn ToSql],
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        answered(self.connection.prepare(text).and_then(|mut statement| {
            let rows = statement.query_map(parameters, read)?;
            rows.collect()
        }))
    }

    fn row<T>(
        &self,
        text: &str,
        parameters: &[&dyn ToSql],
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        answered(self.connection.query_row(text, parameters, read).optional())
    }
}
