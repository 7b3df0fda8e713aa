//! In which rows of a table two databases can differ at all, found without reading those that cannot.
//!
//! The inner pages of the table's b-tree are read in both. A leaf that is in both b-trees, with the same content, has the
//! same rows; so what differs lies within the rowids of the other leaves. Values that did not fit into their leaf are the
//! exception: they may change while the leaf stays. That is ruled out if every changed page is known to be something
//! else; where it cannot be, every row may differ. Nothing is believed of a page: what is odd proves nothing.

use std::time::{Duration, Instant};

use super::btree::{TablePage, table_page, u32_at};
use super::owners::{Changed, of_nobody};
use super::pages::PageReader;
use super::sql::READINGS;
use crate::archive::bounds::{Bounds, shown};
use crate::engine::Context;
use crate::{Error, ErrorKind, Result};

/// Inner levels of a b-tree; SQLite itself gives up at 20.
const LEVELS_MAX: usize = 20;
/// Spans that are told apart; where there are more, neighbours become one.
const SPANS_MAX: usize = 100_000;
/// Where SQLite locks its files; that page is never used.
const LOCK_BYTE: u64 = 1 << 30;

/// The rows that may differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Any.
    All,
    /// Those whose rowids are within these, which are in order and apart; none at all where there are no spans.
    Spans(Vec<(i64, i64)>),
}

/// Finds in which rows a table differs whose definition is the same in both, from its roots.
pub async fn scope(
    (before, after): (&PageReader, &PageReader),
    roots: (u64, u64),
    context: &Context,
) -> Result<Scope> {
    if before.page_size() != after.page_size() {
        return Ok(Scope::All);
    }
    let differs = |place: u64| before.hashes().get(place) != after.hashes().get(place);
    let changed = Changed::of(after.page_count(), differs);
    if changed.count() == 0 && before.page_count() == after.page_count() {
        return Ok(Scope::Spans(Vec::new()));
    }
    let time =
        Bounds::of_questions(&context.cancel, before.bytes().saturating_add(after.bytes()), READINGS).time();
    let walk = |pages| Walk { pages, context, time, begun: Instant::now() };
    let (earlier, later) = (walk(before), walk(after));
    let (Some(of_before), Some(of_after)) = (earlier.leaves(roots.0).await?, later.leaves(roots.1).await?)
    else {
        return Ok(Scope::All);
    };
    let is_same = |number: u64| of_before.has(number) && of_after.has(number) && !differs(number - 1);
    let mut spans = Spans::default();
    for (walk, root) in [(&earlier, roots.0), (&later, roots.1)] {
        let noted = walk.each_leaf(root, |number, span| {
            if !is_same(number) {
                spans.add(span);
            }
        });
        if noted.await?.is_none() {
            return Ok(Scope::All);
        }
    }
    Ok(match spans.is_sound && rest_is_known(after, changed, context).await? {
        true => Scope::Spans(spans.ended()),
        false => Scope::All,
    })
}

/// Tells whether no changed page can be one on which a value of an unchanged leaf goes on.
async fn rest_is_known(pages: &PageReader, changed: Changed, context: &Context) -> Result<bool> {
    let mut rest = match of_nobody(pages, changed, context).await {
        Ok(rest) => rest,
        // What SQLite makes of a schema says nothing of the pages, and proves nothing.
        Err(error) if matches!(error.kind(), ErrorKind::Source | ErrorKind::Usage | ErrorKind::Refused) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    rest.settle(LOCK_BYTE / pages.page_size());
    let first = page(pages, 1, context).await?;
    // Databases that vacuum themselves have pages that say where others belong.
    if u32_at(&first, 52).is_some_and(|largest_root| largest_root > 0) {
        return Ok(rest.nobodys().next().is_none());
    }
    let mut seen = vec![false; usize::try_from(pages.page_count()).unwrap_or(0)];
    let mut trunk = u32_at(&first, 32).unwrap_or(0);
    while rest.nobodys().next().is_some() && trunk > 0 {
        let place = trunk as usize - 1;
        if seen.get_mut(place).is_none_or(|seen| std::mem::replace(seen, true)) {
            return Ok(false);
        }
        let bytes = page(pages, u64::from(trunk), context).await?;
        let count = u32_at(&bytes, 4).unwrap_or(0) as usize;
        let free = (0..count.min(bytes.len() / 4)).filter_map(|index| u32_at(&bytes, 8 + 4 * index));
        free.chain([trunk]).for_each(|number| rest.settle(u64::from(number).wrapping_sub(1)));
        trunk = u32_at(&bytes, 0).unwrap_or(0);
    }
    Ok(rest.nobodys().next().is_none())
}

async fn page(pages: &PageReader, number: u64, context: &Context) -> Result<Vec<u8>> {
    context.cancel.check()?;
    Ok(pages.pages(number.wrapping_sub(1), 1).await?.as_ref().to_vec())
}

/// Which pages are leaves of a table, by their numbers.
struct Leaves(Vec<bool>);

impl Leaves {
    fn has(&self, number: u64) -> bool {
        let place = number.checked_sub(1).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.0.get(place)).copied().unwrap_or(false)
    }

    /// Notes a page; tells whether it is one, and was not noted yet.
    fn note(&mut self, number: u64) -> bool {
        let place = number.checked_sub(1).and_then(|place| usize::try_from(place).ok());
        let known = place.and_then(|place| self.0.get_mut(place));
        known.is_some_and(|known| !std::mem::replace(known, true))
    }
}

/// Goes through the inner pages of a table.
struct Walk<'a> {
    pages: &'a PageReader,
    context: &'a Context,
    time: Duration,
    begun: Instant,
}

impl Walk<'_> {
    async fn parsed(&self, number: u64) -> Result<Option<TablePage>> {
        if self.begun.elapsed() >= self.time {
            let message = format!("following the table did not end within {}", shown(self.time));
            return Err(Error::new(ErrorKind::Refused, message));
        }
        if number == 0 || number > self.pages.page_count() {
            return Ok(None);
        }
        Ok(table_page(&page(self.pages, number, self.context).await?, number))
    }

    /// Returns the leaves; `None` where it is no sound b-tree of a table.
    async fn leaves(&self, root: u64) -> Result<Option<Leaves>> {
        let mut leaves = Leaves(vec![false; usize::try_from(self.pages.page_count()).unwrap_or(0)]);
        let mut are_apart = true;
        let walked = self.each_leaf(root, |number, _| are_apart &= leaves.note(number)).await?;
        Ok(walked.filter(|()| are_apart).map(|()| leaves))
    }

    /// Calls for each leaf, with the rowids that may be in it. Leaves are not read: all of them are on one level.
    async fn each_leaf(&self, root: u64, mut found: impl FnMut(u64, (i64, i64))) -> Result<Option<()>> {
        let Some(levels) = self.levels(root).await? else { return Ok(None) };
        let whole = (root, (i64::MIN, i64::MAX));
        if levels == 0 {
            found(root, whole.1);
            return Ok(Some(()));
        }
        let mut level = vec![whole];
        let mut seen = Leaves(vec![false; usize::try_from(self.pages.page_count()).unwrap_or(0)]);
        for left in (1..=levels).rev() {
            // Pages that lie together are read together.
            level.sort_unstable();
            let mut next = Vec::new();
            for (number, (from, to)) in level {
                let parsed = if seen.note(number) { self.parsed(number).await? } else { None };
                let Some(TablePage::Inner(children)) = parsed else { return Ok(None) };
                let mut begin = from;
                for (child, largest) in children {
                    let span = (begin, largest.unwrap_or(to));
                    begin = span.1.saturating_add(1);
                    match left {
                        1 => found(child, span),
                        _ => next.push((child, span)),
                    }
                }
            }
            level = next;
        }
        Ok(Some(()))
    }

    /// Returns how many levels of inner pages there are, by the first page of each.
    async fn levels(&self, root: u64) -> Result<Option<usize>> {
        let mut number = root;
        for levels in 0..LEVELS_MAX {
            number = match self.parsed(number).await? {
                Some(TablePage::Leaf) => return Ok(Some(levels)),
                Some(TablePage::Inner(children)) => children.first().map_or(0, |(child, _)| *child),
                None => return Ok(None),
            };
        }
        Ok(None)
    }
}

/// Spans of rowids, not too many of them.
struct Spans {
    spans: Vec<(i64, i64)>,
    /// Whether none of them is the wrong way round.
    is_sound: bool,
}

impl Default for Spans {
    fn default() -> Self {
        Self { spans: Vec::new(), is_sound: true }
    }
}

impl Spans {
    fn add(&mut self, span: (i64, i64)) {
        self.is_sound &= span.0 <= span.1;
        self.spans.push(span);
        if self.spans.len() > SPANS_MAX {
            self.unite();
            if self.spans.len() > SPANS_MAX / 2 {
                let coarse = self.spans.chunks(4).filter_map(|some| Some((some.first()?.0, some.last()?.1)));
                self.spans = coarse.collect();
            }
        }
    }

    /// Puts them in order, and makes one of those that meet.
    fn unite(&mut self) {
        self.spans.sort_unstable();
        let mut united: Vec<(i64, i64)> = Vec::new();
        for (from, to) in std::mem::take(&mut self.spans) {
            match united.last_mut() {
                Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
                _ => united.push((from, to)),
            }
        }
        self.spans = united;
    }

    fn ended(mut self) -> Vec<(i64, i64)> {
        self.unite();
        self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_in_order_and_apart_and_not_too_many() {
        let mut spans = Spans::default();
        for span in [(5, 9), (1, 2), (3, 3), (7, 20), (30, 40), (i64::MAX - 1, i64::MAX), (i64::MIN, -5)] {
            spans.add(span);
        }
        assert!(spans.is_sound);
        assert_eq!(spans.ended(), [(i64::MIN, -5), (1, 3), (5, 20), (30, 40), (i64::MAX - 1, i64::MAX)]);
        let mut spans = Spans::default();
        for number in 0..3 * SPANS_MAX as i64 {
            spans.add((number * 10, number * 10 + 1));
        }
        let spans = spans.ended();
        assert!(spans.len() <= SPANS_MAX);
        assert!(spans.windows(2).all(|pair| pair[0].1 < pair[1].0));
        let within = |rowid: i64| spans.iter().any(|(from, to)| (*from..=*to).contains(&rowid));
        assert!((0..3 * SPANS_MAX as i64).step_by(9_973).all(|number| within(number * 10)));
    }
}
