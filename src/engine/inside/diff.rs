//! diff: what differs between two snapshots: files, attachments, and the pages of the database by table.
//!
//! Which pages differ, the page hashes say; whose they are, `owners.rs` finds out.

use serde::Serialize;

use super::ls::expect_few;
use super::owners::{Changed, attributed};
use super::report::{Entry, EntryKind};
use super::tree::{Content, Tree};
use super::{Inside, Reach, Snapshot, Wanted, look};
use crate::engine::{Context, ReadLocking, Selection};
use crate::repo::Repository;
use crate::{ErrorKind, Result};

/// How a path differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only the later snapshot has it.
    Added,
    /// Only the earlier one has it.
    Removed,
    /// Its content is another.
    Changed,
}

/// A path that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedFile {
    /// The path.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// How it differs.
    pub change: Change,
    /// Its length before; `null` where it was not there.
    pub bytes_before: Option<u64>,
    /// Its length after; `null` where it is not there any more.
    pub bytes_after: Option<u64>,
}

/// The pages of one table or index that differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedTree {
    /// Its name; `null` for pages that belong to none: free pages, and overflow pages whose rows stayed as they were.
    pub name: Option<String>,
    /// The table that an index is of; its own name for a table.
    pub table: Option<String>,
    /// `table` or `index`.
    pub kind: Option<String>,
    /// Its pages that differ or are new.
    pub pages_changed: u64,
}

/// How the database differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedDatabase {
    /// Bytes of a page of the later snapshot.
    pub page_size: u64,
    /// Pages before.
    pub pages_before: u64,
    /// Pages after.
    pub pages_after: u64,
    /// Pages of the later snapshot that differ from those of the earlier one, or are new.
    pub pages_changed: u64,
    /// Whose they are, the most first; `null` where that was not asked for.
    pub trees: Option<Vec<ChangedTree>>,
}

/// What differs between two snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffReport {
    /// The earlier snapshot, or the one that was named first.
    pub before: String,
    /// The other.
    pub after: String,
    /// Files that differ, attachments among them, in the order of the paths.
    pub files: Vec<ChangedFile>,
    /// The database; `null` where one of the two has none of pages.
    pub database: Option<ChangedDatabase>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What `diff` is asked for.
#[derive(Debug, Clone, Default)]
pub struct DiffOptions {
    /// Whether it is not worked out whose pages differ.
    pub without_tables: bool,
    /// How others are kept from removing what is read.
    pub locking: ReadLocking,
}

/// Compares two snapshots.
pub async fn diff(
    repository: &Repository,
    (before, after): (Selection, Selection),
    options: &DiffOptions,
    context: &Context,
) -> Result<DiffReport> {
    let work = async |inside: &Inside| {
        let (before, after) = (inside.snapshot(&before).await?, inside.snapshot(&after).await?);
        let mut warnings = Vec::new();
        let wanted = Wanted { attachments: true, extras: true, attributes: false };
        let trees = (before.tree(wanted, &mut warnings).await?, after.tree(wanted, &mut warnings).await?);
        let files = changed_files(&trees.0, &trees.1)?;
        drop(trees);
        let has_pages = |snapshot: &Snapshot| snapshot.manifest.metadata.is_none();
        let database = match has_pages(&before) && has_pages(&after) {
            true => Some(changed_database(&before, &after, options, context, &mut warnings).await?),
            false => None,
        };
        let (before, after) = (before.id().to_owned(), after.id().to_owned());
        Ok(DiffReport { before, after, files, database, warnings })
    };
    let (mut report, warnings) =
        look(repository, "diff", (Reach::Many, options.locking), context, work).await?;
    report.warnings.extend(warnings);
    Ok(report)
}

/// Compares two lists of files that are in the order of their paths.
fn changed_files(before: &Tree, after: &Tree) -> Result<Vec<ChangedFile>> {
    let is_file = |(entry, _): &(Entry, Content)| entry.kind != EntryKind::Database;
    let mut before = before.files().filter(is_file).peekable();
    let mut after = after.files().filter(is_file).peekable();
    let mut found = Vec::new();
    let removed = |entry: Entry| ChangedFile {
        path: entry.path,
        kind: entry.kind,
        change: Change::Removed,
        bytes_before: Some(entry.bytes),
        bytes_after: None,
    };
    let added = |entry: Entry| ChangedFile {
        path: entry.path,
        kind: entry.kind,
        change: Change::Added,
        bytes_before: None,
        bytes_after: Some(entry.bytes),
    };
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => return Ok(found),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((one, _)), Some((other, _))) => one.path.cmp(&other.path),
        };
        match order {
            std::cmp::Ordering::Less => found.extend(before.next().map(|(entry, _)| removed(entry))),
            std::cmp::Ordering::Greater => found.extend(after.next().map(|(entry, _)| added(entry))),
            std::cmp::Ordering::Equal => {
                let (Some((one, is)), Some((other, becomes))) = (before.next(), after.next()) else {
                    continue;
                };
                if is != becomes {
                    let change = Change::Changed;
                    let (bytes_before, bytes_after) = (Some(one.bytes), Some(other.bytes));
                    found.push(ChangedFile {
                        path: one.path,
                        kind: one.kind,
                        change,
                        bytes_before,
                        bytes_after,
                    });
                }
            }
        }
        expect_few(found.len())?;
    }
}

async fn changed_database(
    before: &Snapshot,
    after: &Snapshot,
    options: &DiffOptions,
    context: &Context,
    warnings: &mut Vec<String>,
) -> Result<ChangedDatabase> {
    let (earlier, later) = (before.pages().await?, after.pages().await?);
    let same_size = earlier.page_size() == later.page_size();
    let differs = |page: u64| !same_size || earlier.hashes().get(page) != later.hashes().get(page);
    let changed = Changed::of(later.page_count(), differs);
    let mut database = ChangedDatabase {
        page_size: later.page_size(),
        pages_before: earlier.page_count(),
        pages_after: later.page_count(),
        pages_changed: changed.count(),
        trees: None,
    };
    drop(earlier);
    if options.without_tables {
        return Ok(database);
    }
    match attributed(&later, changed, context).await {
        Ok(trees) => database.trees = Some(trees),
        // What SQLite makes of a schema says nothing of the pages.
        Err(error) if matches!(error.kind(), ErrorKind::Source | ErrorKind::Usage | ErrorKind::Refused) => {
            warnings.push(format!("whose the changed pages are cannot be told: {}", error.chain()));
        }
        Err(error) => return Err(error),
    }
    Ok(database)
}
