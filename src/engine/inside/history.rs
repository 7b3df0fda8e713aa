//! history: what a row was in each snapshot, found by its key.
//!
//! The snapshots are gone through from the oldest on. In one in which no page has changed that the row was found by, the
//! row is what it was, and nothing is read. Otherwise it is looked up again: of the pages on the way to it those are read
//! that lie in blobs which are not at hand.

use std::collections::HashMap;

use super::kept::SharedKept;
use super::pages::PageReader;
use super::report::Unsearched;
use super::row::{Found, Row, look_up};
use super::sql::{READINGS, ask_noting};
use super::{Inside, Reach, look};
use crate::archive::bounds::Bounds;
use crate::engine::chain::{self, Manifests, Maps, RollingMaps};
use crate::engine::{Context, ReadLocking};
use crate::format::{BlobId, Manifest, PageHash};
use crate::repo::Repository;
use crate::{Error, ErrorKind, Result};

pub use super::row::OwnedValue;

/// Pages of which it is noted that a row was found by them.
const NOTED_PAGES_MAX: usize = 10_000;

/// What `history` of a row is asked for.
#[derive(Debug, Clone, Default)]
pub struct HistoryOptions {
    /// The table.
    pub table: String,
    /// The values of its primary key, or its rowid.
    pub key: Vec<String>,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// What a row was from some snapshot on.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    /// The first snapshot in which it was so.
    pub snapshot: &'a str,
    /// When that was made.
    pub created_at: &'a str,
    /// Its columns; `None` where it is not there any more.
    pub row: Option<&'a Row>,
    /// The columns that differ from those of the version before.
    pub changed: &'a [String],
}

/// Takes the versions of a row, the oldest first.
pub trait Versions: Send {
    /// Takes a version.
    fn version(&mut self, version: &Version<'_>) -> Result<()>;
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowHistory {
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Versions that were told.
    pub versions: u64,
    /// Snapshots in which the row could not be looked up.
    pub problems: Vec<Unsearched>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// Tells what a row was in each snapshot. One that cannot be read keeps no other from being looked at.
pub async fn history(
    repository: &Repository,
    options: &HistoryOptions,
    versions: &mut dyn Versions,
    context: &Context,
) -> Result<RowHistory> {
    let mut told = Told { versions, last: None, has_table: false, report: RowHistory::default() };
    let work = async |inside: &Inside| through_all(inside, options, &mut told, context).await;
    let ((), warnings) = look(repository, "history", (Reach::Many, options.locking), context, work).await?;
    let Told { has_table, mut report, .. } = told;
    report.warnings.extend(warnings);
    if report.versions == 0 && report.problems.is_empty() {
        let HistoryOptions { table, key, .. } = options;
        let message = match has_table {
            true => format!("no snapshot has a row of the key {} in {table:?}", key.join(", ")),
            false => format!("no snapshot has a table {table:?}"),
        };
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    Ok(report)
}

async fn through_all(
    inside: &Inside,
    options: &HistoryOptions,
    told: &mut Told<'_>,
    context: &Context,
) -> Result<()> {
    let found = inside.repository.read_snapshots(&inside.files).await?;
    let mut manifests = HashMap::new();
    let mut unusable = HashMap::new();
    for found in found {
        match found.manifest {
            Ok(manifest) => _ = manifests.insert(found.name, manifest),
            Err(error) => _ = unusable.insert(found.name, error),
        }
    }
    let known = Manifests::new(&inside.repository, manifests.values().cloned());
    let mut walk = Walk {
        inside,
        options,
        context,
        known,
        maps: RollingMaps::default(),
        kept: SharedKept::default(),
        found_by: None,
    };
    for name in inside.snapshots() {
        context.cancel.check()?;
        let looked_up = match manifests.get(&name) {
            Some(manifest) => walk.look_up(manifest).await.map(|found| (manifest, found)),
            None => Err(unusable.remove(&name).unwrap_or_else(|| gone(&name))),
        };
        match looked_up {
            Ok((manifest, found)) => told.take(manifest, found)?,
            Err(error) if ends_all(&error) => return Err(error),
            Err(error) => {
                walk.maps.reset();
                walk.found_by = None;
                told.report.problems.push(Unsearched { snapshot: name, problem: error.chain() });
            }
        }
    }
    Ok(())
}

/// Tells whether an error is no word about one snapshot.
fn ends_all(error: &Error) -> bool {
    error.is_inconclusive() || matches!(error.kind(), ErrorKind::Usage | ErrorKind::Interrupted)
}

fn gone(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("snapshot {name} is gone"))
}

/// The pages that a row was found by, and what they were.
struct FoundBy {
    page_size: u32,
    page_count: u64,
    pages: Vec<(u64, PageHash)>,
}

impl FoundBy {
    fn is_same(&self, maps: &Maps) -> bool {
        let geometry = (maps.map.page_size(), maps.map.page_count());
        geometry == (self.page_size, self.page_count)
            && self.pages.iter().all(|(page, hash)| maps.hashes.get(*page) == Some(hash))
    }
}

/// Goes from snapshot to snapshot.
struct Walk<'a> {
    inside: &'a Inside,
    options: &'a HistoryOptions,
    context: &'a Context,
    known: Manifests<'a>,
    maps: RollingMaps,
    kept: SharedKept,
    found_by: Option<FoundBy>,
}

impl Walk<'_> {
    /// Returns what is there of the row in a snapshot; `None` if it is what it was in the one before.
    async fn look_up(&mut self, manifest: &Manifest) -> Result<Option<Found>> {
        if manifest.metadata.is_some() {
            let message =
                "its database is portable metadata, which only the application that wrote it can rebuild";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let Inside { pipeline, reader, .. } = self.inside;
        let maps = self.maps.advance(&mut self.known, reader, manifest).await?;
        chain::check_geometry(manifest, &maps.map, &maps.hashes)?;
        if self.found_by.as_ref().is_some_and(|found_by| found_by.is_same(maps)) {
            return Ok(None);
        }
        let place = (maps.map.clone(), maps.hashes.clone());
        let pages = PageReader::sharing(self.kept.clone(), pipeline.clone(), reader.store().clone(), place)?;
        let bounds = Bounds::of_questions(&self.context.cancel, pages.bytes(), READINGS);
        let HistoryOptions { table, key, .. } = self.options.clone();
        let asked =
            ask_noting(pages, &bounds, NOTED_PAGES_MAX, move |connection| look_up(connection, &table, &key));
        let (found, noted) = asked.await?;
        let hash = |page: u64| maps.hashes.get(page).map(|hash| (page, *hash));
        self.found_by = noted.map(|pages| FoundBy {
            page_size: maps.map.page_size(),
            page_count: maps.map.page_count(),
            pages: pages.into_iter().filter_map(hash).collect(),
        });
        Ok(Some(found))
    }
}

/// What was told so far.
struct Told<'a> {
    versions: &'a mut dyn Versions,
    /// The columns of the last version, by what tells their values apart; `None` before the first.
    last: Option<Vec<(String, BlobId)>>,
    /// Whether any snapshot has the table.
    has_table: bool,
    report: RowHistory,
}

impl Told<'_> {
    /// Takes what was found in a snapshot, and tells it if it is another version.
    fn take(&mut self, manifest: &Manifest, found: Option<Found>) -> Result<()> {
        self.report.snapshots += 1;
        let Some(found) = found else { return Ok(()) };
        self.has_table |= found != Found::NoTable;
        let row = match &found {
            Found::Row(row) => Some(row),
            Found::NoTable | Found::NoRow => None,
        };
        let prints = row.map(|row| row.iter().map(|(name, value)| (name.clone(), value.print())).collect());
        if prints == self.last {
            return Ok(());
        }
        let changed = changed(self.last.as_deref(), prints.as_deref());
        self.last = prints;
        self.report.versions += 1;
        let (snapshot, created_at) = (manifest.snapshot_id.as_str(), manifest.created_at.as_str());
        self.versions.version(&Version { snapshot, created_at, row, changed: &changed })
    }
}

/// Returns the columns that differ, also those that only one has; none where there is only one version.
fn changed(before: Option<&[(String, BlobId)]>, after: Option<&[(String, BlobId)]>) -> Vec<String> {
    let (Some(before), Some(after)) = (before, after) else { return Vec::new() };
    let is_new = |column: &&(String, BlobId)| !before.contains(column);
    let is_gone = |column: &&(String, BlobId)| after.iter().all(|(name, _)| *name != column.0);
    let columns = after.iter().filter(is_new).chain(before.iter().filter(is_gone));
    columns.map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_differ_come_or_go_are_named() {
        let column = |name: &str, value: i64| (name.to_owned(), OwnedValue::Integer(value).print());
        let before = [column("a", 1), column("b", 1), column("c", 1)];
        let after = [column("a", 1), column("b", 2), column("d", 1)];
        assert_eq!(changed(Some(&before), Some(&after)), ["b", "d", "c"]);
        assert!(changed(None, Some(&after)).is_empty() && changed(Some(&before), None).is_empty());
    }
}
