//! Of which table or index the pages are that differ.
//!
//! The inner pages of the b-trees say it: these are read, and of the leaves only those that differ, for the chains of
//! overflow pages that begin there. The database may be hostile: no page is followed twice, what is noted of each takes a
//! few bytes, and there is an end to the time.

use std::time::{Duration, Instant};

use super::btree::{Parsed, parsed, u32_at};
use super::diff::ChangedTree;
use super::pages::PageReader;
use super::sql::{READINGS, ask, sql_error};
use crate::archive::bounds::{Bounds, shown};
use crate::engine::Context;
use crate::{Error, ErrorKind, Result};

/// Tables and indexes that are told apart.
const TREES_MAX: usize = 100_000;
/// What their names may have together.
const NAMES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Inner levels of a b-tree; SQLite itself gives up at 20.
const LEVELS_MAX: usize = 20;
/// How long the schema may take to be read.
const SCHEMA_TIME: Duration = Duration::from_secs(120);

/// What is noted of a page that is the same in both databases.
const SAME: u32 = 0;
/// What is noted of a page that differs and is nobody's yet; the numbers of owners follow.
const NOBODYS: u32 = 1;

/// Which pages differ, and whose they are, by their places in the file.
pub struct Changed(Vec<u32>);

impl Changed {
    /// Notes which of so many pages differ.
    pub fn of(pages: u64, differs: impl Fn(u64) -> bool) -> Self {
        Self((0..pages).map(|page| if differs(page) { NOBODYS } else { SAME }).collect())
    }

    /// Returns how many differ.
    pub fn count(&self) -> u64 {
        self.0.iter().filter(|mark| **mark != SAME).count() as u64
    }

    /// Returns the places of those that differ and are nobody's.
    pub fn nobodys(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().zip(0..).filter(|(mark, _)| **mark == NOBODYS).map(|(_, place)| place)
    }

    /// Takes out a page that is accounted for.
    pub fn settle(&mut self, place: u64) {
        if let Some(mark) = usize::try_from(place).ok().and_then(|place| self.0.get_mut(place)) {
            *mark = SAME;
        }
    }

    /// Gives a page to an owner if it differs, which is told, and is nobody's yet.
    fn own(&mut self, number: u64, owner: u32) -> bool {
        let Some(mark) = place(number).and_then(|place| self.0.get_mut(place)) else { return false };
        if *mark == NOBODYS {
            *mark = NOBODYS + 1 + owner;
        }
        *mark != SAME
    }
}

/// Returns the place of a page whose number is SQLite's, which begins with 1.
fn place(number: u64) -> Option<usize> {
    usize::try_from(number.checked_sub(1)?).ok()
}

/// A table or an index.
#[derive(Debug, Clone)]
struct Root {
    name: String,
    table: String,
    kind: String,
    page: u64,
}

/// Counts the changed pages of each table and index.
pub async fn attributed(pages: &PageReader, changed: Changed, context: &Context) -> Result<Vec<ChangedTree>> {
    if changed.count() == 0 {
        return Ok(Vec::new());
    }
    let (changed, roots) = owned(pages, changed, context).await?;
    Ok(counted(&changed, roots))
}

/// Gives each changed page to its owner; returns these in the order of their numbers.
async fn owned(pages: &PageReader, changed: Changed, context: &Context) -> Result<(Changed, Vec<Root>)> {
    let mut roots = ask(pages.clone(), &Bounds::new(&context.cancel, SCHEMA_TIME), roots).await?;
    let (schema, kind) = ("sqlite_schema".to_owned(), "table".to_owned());
    roots.insert(0, Root { name: schema.clone(), table: schema, kind, page: 1 });
    let time = Bounds::of_questions(&context.cancel, pages.bytes(), READINGS).time();
    let queued = vec![false; changed.0.len()];
    let mut walk = Walk { pages, changed, queued, time, begun: Instant::now(), context };
    for (number, root) in (0..).zip(&roots) {
        walk.tree(root.page, number).await?;
    }
    Ok((walk.changed, roots))
}

/// Tells which changed pages belong to no table or index, as far as their b-trees say: free pages, and overflow pages
/// whose rows stayed as they were.
pub async fn of_nobody(pages: &PageReader, changed: Changed, context: &Context) -> Result<Changed> {
    owned(pages, changed, context).await.map(|(changed, _)| changed)
}

/// Returns the owners of the pages, the one with the most first, and those of nobody last.
fn counted(changed: &Changed, roots: Vec<Root>) -> Vec<ChangedTree> {
    let mut counts = vec![0_u64; roots.len() + NOBODYS as usize + 1];
    changed.0.iter().for_each(|mark| counts[*mark as usize] += 1);
    let owned = roots.into_iter().zip(counts.iter().skip(NOBODYS as usize + 1));
    let tree = |(Root { name, table, kind, .. }, pages_changed): (Root, &u64)| ChangedTree {
        name: Some(name),
        table: Some(table),
        kind: Some(kind),
        pages_changed: *pages_changed,
    };
    let mut trees: Vec<ChangedTree> = owned.filter(|(_, count)| **count > 0).map(tree).collect();
    trees.sort_by_key(|tree| std::cmp::Reverse(tree.pages_changed));
    let rest = counts[NOBODYS as usize];
    if rest > 0 {
        trees.push(ChangedTree { name: None, table: None, kind: None, pages_changed: rest });
    }
    trees
}

fn roots(connection: &rusqlite::Connection) -> Result<Vec<Root>> {
    let failed = |error| sql_error("read the schema for", error);
    // In the order in which they lie.
    let sql = "SELECT name, tbl_name, type, rootpage FROM sqlite_schema \
               WHERE rootpage > 0 AND type IN ('table', 'index') ORDER BY rootpage";
    let mut statement = connection.prepare(sql).map_err(failed)?;
    let mut rows = statement.query([]).map_err(failed)?;
    let (mut roots, mut names_bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next().map_err(failed)? {
        let page = row.get::<_, i64>(3).map_err(failed)?;
        let text = |column| row.get::<_, String>(column).map_err(failed);
        let (name, table, kind) = (text(0)?, text(1)?, text(2)?);
        names_bytes += name.len() + table.len();
        roots.push(Root { name, table, kind, page: u64::try_from(page).unwrap_or(0) });
        if roots.len() > TREES_MAX || names_bytes > NAMES_BYTES_MAX {
            let message =
                format!("the database has more than {TREES_MAX} tables and indexes, or too long names");
            return Err(Error::new(ErrorKind::Refused, message));
        }
    }
    Ok(roots)
}

/// Goes through the inner pages of b-trees.
struct Walk<'a> {
    pages: &'a PageReader,
    changed: Changed,
    /// The pages that were followed or will be: a hostile database may lead in circles.
    queued: Vec<bool>,
    time: Duration,
    begun: Instant,
    context: &'a Context,
}

impl Walk<'_> {
    /// Tells whether a page is there and was not followed yet; from now on it was.
    fn queue(&mut self, number: u64) -> bool {
        let known = place(number).and_then(|place| self.queued.get_mut(place));
        known.is_some_and(|known| !std::mem::replace(known, true))
    }

    /// Reads a page that was queued.
    async fn page(&self, number: u64) -> Result<Vec<u8>> {
        self.context.cancel.check()?;
        if self.begun.elapsed() >= self.time {
            let message = format!("following its tables did not end within {}", shown(self.time));
            return Err(Error::new(ErrorKind::Refused, message));
        }
        let page = self.pages.pages(number.saturating_sub(1), 1).await?;
        Ok(page.as_ref().to_vec())
    }

    async fn parsed(&self, number: u64) -> Result<Parsed> {
        Ok(parsed(&self.page(number).await?, number, self.pages.page_size()))
    }

    /// Attributes the changed pages of one b-tree, level by level. All leaves of a b-tree are on one level, so the first
    /// page of a level says what the others are; leaves are not read unless they differ.
    async fn tree(&mut self, root: u64, owner: u32) -> Result<()> {
        let mut level = if self.queue(root) { vec![root] } else { Vec::new() };
        for _ in 0..LEVELS_MAX {
            // Pages that lie together are read together.
            level.sort_unstable();
            let Some(first) = level.first() else { return Ok(()) };
            let is_leaf = self.parsed(*first).await?.is_leaf;
            let mut next = Vec::new();
            for number in level {
                let differs = self.changed.own(number, owner);
                if is_leaf && !differs {
                    continue;
                }
                let parsed = self.parsed(number).await?;
                if differs {
                    for overflow in parsed.overflows {
                        self.chain(overflow, owner).await?;
                    }
                }
                next.extend(parsed.children.into_iter().filter(|child| self.queue(*child)));
            }
            level = next;
        }
        Ok(())
    }

    /// Attributes a chain of overflow pages as far as it differs.
    async fn chain(&mut self, first: u64, owner: u32) -> Result<()> {
        let mut number = first;
        while self.changed.own(number, owner) && self.queue(number) {
            number = u64::from(u32_at(&self.page(number).await?, 0).unwrap_or(0));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_of_long_names_is_refused_before_it_fills_the_memory() {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        for number in 0..40 {
            let sql = format!("CREATE TABLE t{number}{} (a)", "x".repeat(900_000));
            connection.execute_batch(&sql).unwrap();
        }
        assert_eq!(roots(&connection).unwrap_err().kind(), ErrorKind::Refused);
        connection
            .execute_batch("PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE rowid > 9")
            .unwrap();
        assert_eq!(roots(&connection).unwrap().len(), 9);
    }
}
