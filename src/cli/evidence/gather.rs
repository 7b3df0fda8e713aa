//! The evidence: what the ledger knows, by place.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use packvault::Result;
use packvault::engine;
use packvault::ledger::{Ledger, PlaceRow, RunFilter, RunRow};
use serde::Serialize;

use super::super::history::time;

/// A time without a backup counts as a gap if it is so many times as long as the usual time between two.
const GAP_FACTOR: i64 = 2;
/// The shortest gap.
const GAP_MS_MIN: i64 = 3600 * 1000;
/// Failures of a place that are named; the last ones.
const FAILURES_MAX: usize = 20;

/// What is known of a time.
#[derive(Debug, Serialize)]
pub struct Evidence {
    /// From when.
    pub since: String,
    /// Until when: the present.
    pub until: String,
    /// The machine whose ledger was asked.
    pub machine: String,
    /// Every repository at its place.
    pub places: Vec<PlaceEvidence>,
    /// Runs that failed before it was known where.
    pub elsewhere: Vec<Failure>,
    #[serde(skip)]
    pub since_ms: i64,
    #[serde(skip)]
    pub until_ms: i64,
}

/// What is known of a place.
#[derive(Debug, Serialize)]
pub struct PlaceEvidence {
    /// The location, without secrets.
    pub location: String,
    /// The repository's id; `null` where it could never be opened.
    pub repository: Option<String>,
    /// The archives that were backed up to it.
    pub archives: Vec<String>,
    /// Its backups.
    pub backups: Backups,
    /// What was restored from it.
    pub proof: Restores,
    /// What was read of it.
    pub reading: Reading,
    /// Every backup that was made, oldest first.
    pub made: Vec<MadePoint>,
    /// Every restore that was tried, oldest first.
    pub restored: Vec<RestorePoint>,
    /// Bytes of packs that each run read, oldest first.
    pub read: Vec<ReadPoint>,
    /// The last runs that failed, oldest first.
    pub failures: Vec<Failure>,
}

/// The backups of a place.
#[derive(Debug, Default, Serialize)]
pub struct Backups {
    /// Those that were made.
    pub done: u64,
    /// Those that failed, or did not end.
    pub failed: u64,
    /// The newest snapshot, however old.
    pub newest_snapshot: Option<String>,
    /// When it was made.
    pub newest_at: Option<String>,
    /// The usual time between two, in seconds; `null` with fewer than three.
    pub usual_seconds: Option<i64>,
    /// Times without a backup that are much longer than that.
    pub gaps: Vec<Gap>,
}

/// A time without a backup.
#[derive(Debug, Serialize)]
pub struct Gap {
    /// From when.
    pub from: String,
    /// Until when.
    pub to: String,
    #[serde(skip)]
    pub from_ms: i64,
    #[serde(skip)]
    pub to_ms: i64,
}

/// The restores from a place.
#[derive(Debug, Default, Serialize)]
pub struct Restores {
    /// Those that were proved.
    pub proved: u64,
    /// Those that were not.
    pub failed: u64,
    /// The newest snapshot that was ever proved.
    pub newest_snapshot: Option<String>,
    /// When that was.
    pub newest_at: Option<String>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// What was wrong with the last one; `null` if nothing was.
    pub last_problem: Option<String>,
}

/// What was read of a place.
#[derive(Debug, Default, Serialize)]
pub struct Reading {
    /// Bytes of its packs.
    pub bytes_total: u64,
    /// Bytes that were read in the time of this report, at the least.
    pub bytes_read: u64,
    /// Its packs.
    pub packs_total: u64,
    /// Packs of which every byte was read in that time.
    pub packs_read: u64,
    /// Packs that were never read as a whole.
    pub packs_unread: u64,
    /// Packs in which damage was found, and not seen gone since.
    pub damaged_packs: u64,
    /// Since when it is recorded.
    pub recorded_since: Option<String>,
}

/// A backup.
#[derive(Debug, Serialize)]
pub struct MadePoint {
    /// When it ended.
    pub at: String,
    /// How long it took.
    pub seconds: f64,
    /// Length of database and attachments; `null` where it is not known.
    pub bytes: Option<i64>,
    /// Bytes that were stored for it.
    pub added: Option<i64>,
    #[serde(skip)]
    pub at_ms: i64,
}

/// A restore.
#[derive(Debug, Serialize)]
pub struct RestorePoint {
    /// When it ended.
    pub at: String,
    /// How long it took.
    pub seconds: f64,
    /// The snapshot.
    pub snapshot: String,
    /// Whether it was proved.
    pub proved: bool,
    #[serde(skip)]
    pub at_ms: i64,
}

/// A reading.
#[derive(Debug, Serialize)]
pub struct ReadPoint {
    /// When.
    pub at: String,
    /// Bytes that were read.
    pub bytes: i64,
    #[serde(skip)]
    pub at_ms: i64,
}

/// A run that failed.
#[derive(Debug, Serialize)]
pub struct Failure {
    /// When it began.
    pub at: String,
    /// What was done.
    pub kind: String,
    /// Its exit code; `null` if it did not end.
    pub exit_code: Option<i64>,
    /// Why.
    pub error: Option<String>,
}

impl Evidence {
    /// Makes one that knows nothing.
    pub fn empty(since_ms: i64, until_ms: i64) -> Self {
        Self {
            since: time(since_ms),
            until: time(until_ms),
            machine: engine::hostname(),
            places: Vec::new(),
            elsewhere: Vec::new(),
            since_ms,
            until_ms,
        }
    }
}

/// Asks the ledger.
pub fn gather(ledger: &Ledger, archive: Option<&str>, since_ms: i64, until_ms: i64) -> Result<Evidence> {
    let mut evidence = Evidence::empty(since_ms, until_ms);
    let mut runs = ledger.runs(&RunFilter { since_ms: Some(since_ms), ..RunFilter::default() })?;
    runs.reverse();
    let rows = ledger.places()?;
    let owner = owners(&rows);
    let mut by_place: BTreeMap<i64, Vec<RunRow>> = BTreeMap::new();
    for run in runs {
        match run.place.map(|place| owner.get(&place).copied().unwrap_or(place)) {
            Some(place) => by_place.entry(place).or_default().push(run),
            None if !run.is_done() && run.exit_code != Some(3) => evidence.elsewhere.push(failure(&run)),
            None => {}
        }
    }
    let first = evidence.elsewhere.len().saturating_sub(FAILURES_MAX);
    evidence.elsewhere.drain(..first);
    for row in rows.iter().filter(|row| !owner.contains_key(&row.id)) {
        let runs = by_place.remove(&row.id).unwrap_or_default();
        let found = place(ledger, row, &runs, (since_ms, until_ms))?;
        let is_meant = archive.is_none_or(|archive| found.archives.iter().any(|own| own == archive));
        if is_meant && (!runs.is_empty() || found.backups.newest_at.is_some()) {
            evidence.places.push(found);
        }
    }
    evidence.places.sort_by(|one, other| one.location.cmp(&other.location));
    Ok(evidence)
}

/// Returns, for each row of a place that could not be opened at some time, the row of the repository that was seen there
/// last.
fn owners(rows: &[PlaceRow]) -> HashMap<i64, i64> {
    let unopened = rows.iter().filter(|row| row.repository.is_empty());
    let owner = |row: &PlaceRow| {
        rows.iter()
            .find(|other| other.place == row.place && !other.repository.is_empty())
            .map(|other| other.id)
    };
    unopened.filter_map(|row| Some((row.id, owner(row)?))).collect()
}

fn place(
    ledger: &Ledger,
    row: &PlaceRow,
    runs: &[RunRow],
    (since_ms, until_ms): (i64, i64),
) -> Result<PlaceEvidence> {
    let creates = || runs.iter().filter(|run| run.kind == "create");
    let made: Vec<&RunRow> = creates().filter(|run| run.is_done() && run.snapshot.is_some()).collect();
    let newest = ledger.newest_made(None, row.id)?;
    let mut archives: BTreeSet<String> = creates().filter_map(|run| run.archive.clone()).collect();
    archives.extend(newest.as_ref().and_then(|run| run.archive.clone()));
    let ends: Vec<i64> = made.iter().filter_map(|run| run.ended_ms).collect();
    let usual_ms = usual(&ends);
    let backups = Backups {
        done: made.len() as u64,
        failed: creates().filter(|run| !run.is_done()).count() as u64,
        newest_snapshot: newest.as_ref().and_then(|run| run.snapshot.clone()),
        newest_at: newest.as_ref().and_then(|run| run.ended_ms).map(time),
        usual_seconds: usual_ms.map(|usual| usual / 1000),
        gaps: usual_ms.map(|usual| gaps(&ends, usual, until_ms)).unwrap_or_default(),
    };
    let sizes: HashMap<i64, (i64, i64)> = ledger
        .sizes(since_ms)?
        .into_iter()
        .filter(|size| size.place == row.id)
        .map(|size| (size.run, (size.database_bytes.saturating_add(size.attachment_bytes), size.added_bytes)))
        .collect();
    let made = made.iter().map(|run| MadePoint {
        at: time(run.ended_ms.unwrap_or(run.began_ms)),
        seconds: seconds(run.milliseconds.unwrap_or_default()),
        bytes: sizes.get(&run.id).map(|(bytes, _)| *bytes),
        added: sizes.get(&run.id).map(|(_, added)| *added),
        at_ms: run.ended_ms.unwrap_or(run.began_ms),
    });
    let drills: Vec<_> = ledger.drills(since_ms)?.into_iter().filter(|drill| drill.place == row.id).collect();
    let proved = ledger.newest_proved(None, row.id)?;
    let proof = Restores {
        proved: drills.iter().filter(|drill| drill.proved).count() as u64,
        failed: drills.iter().filter(|drill| !drill.proved).count() as u64,
        newest_snapshot: proved.as_ref().map(|drill| drill.snapshot.clone()),
        newest_at: proved.as_ref().map(|drill| time(drill.at_ms)),
        seconds: proved.as_ref().map(|drill| seconds(drill.milliseconds)),
        last_problem: ledger.last_drill(None, row.id)?.and_then(|drill| drill.problem),
    };
    let coverage = ledger.coverage(row.id, since_ms, until_ms)?;
    let mut failures: Vec<Failure> = runs.iter().filter(|run| !run.is_done()).map(failure).collect();
    let first = failures.len().saturating_sub(FAILURES_MAX);
    failures.drain(..first);
    Ok(PlaceEvidence {
        location: row.location.clone(),
        repository: Some(row.repository.clone()).filter(|id| !id.is_empty()),
        archives: archives.into_iter().collect(),
        backups,
        proof,
        reading: Reading {
            bytes_total: coverage.bytes,
            bytes_read: coverage.read_bytes,
            packs_total: coverage.packs,
            packs_read: coverage.read_packs,
            packs_unread: coverage.never_read_packs,
            damaged_packs: coverage.damaged_packs,
            recorded_since: coverage.known_since_ms.map(time),
        },
        made: made.collect(),
        restored: drills
            .into_iter()
            .map(|drill| RestorePoint {
                at: time(drill.at_ms),
                seconds: seconds(drill.milliseconds),
                snapshot: drill.snapshot,
                proved: drill.proved,
                at_ms: drill.at_ms,
            })
            .collect(),
        read: ledger
            .readings(since_ms)?
            .into_iter()
            .filter(|reading| reading.place == row.id)
            .map(|reading| ReadPoint { at: time(reading.at_ms), bytes: reading.bytes, at_ms: reading.at_ms })
            .collect(),
        failures,
    })
}

fn failure(run: &RunRow) -> Failure {
    Failure {
        at: time(run.began_ms),
        kind: run.kind.clone(),
        exit_code: run.exit_code,
        error: run.error.clone(),
    }
}

fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

/// Returns the time that usually lies between two backups: the median.
fn usual(ends: &[i64]) -> Option<i64> {
    let mut between: Vec<i64> = ends.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).max(0)).collect();
    between.sort_unstable();
    (between.len() >= 2).then(|| between[between.len() / 2])
}

/// Returns the times without a backup that are much longer than usual, the present one included.
fn gaps(ends: &[i64], usual_ms: i64, until_ms: i64) -> Vec<Gap> {
    let limit = usual_ms.saturating_mul(GAP_FACTOR).max(GAP_MS_MIN);
    let later = ends.iter().skip(1).chain([&until_ms]);
    let pairs = ends.iter().zip(later).filter(|(from, to)| to.saturating_sub(**from) > limit);
    pairs.map(|(from, to)| Gap { from: time(*from), to: time(*to), from_ms: *from, to_ms: *to }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;

    #[test]
    fn a_gap_is_a_time_much_longer_than_usual_and_the_present_one_counts() {
        let ends: Vec<i64> = [0, 1, 2, 3, 8, 9].map(|day| day * DAY).to_vec();
        let usual_ms = usual(&ends).unwrap();
        assert_eq!(usual_ms, DAY);
        let found: Vec<(i64, i64)> =
            gaps(&ends, usual_ms, 10 * DAY).iter().map(|gap| (gap.from_ms / DAY, gap.to_ms / DAY)).collect();
        assert_eq!(found, [(3, 8)]);
        let found = gaps(&ends, usual_ms, 12 * DAY);
        assert_eq!(found.last().map(|gap| gap.from_ms / DAY), Some(9));
        assert_eq!(usual(&ends[..2]), None, "of one interval nothing is usual");
        assert!(gaps(&[5 * DAY, DAY], DAY, 2 * DAY).is_empty(), "a clock that was set back is no gap");
    }
}
