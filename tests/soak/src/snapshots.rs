//! The snapshots of one repository that must be there, and the comparison of a listing with them.
//!
//! Pure bookkeeping: what it finds is told by whoever asked.

use std::ops::RangeInclusive;

use serde_json::Value;

/// A snapshot that must be there.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: String,
    /// The transactions at the beginning and the end of its create.
    pub window: RangeInclusive<u64>,
    /// Whether it was restored and compared, or found to be lost: it is not looked at again.
    pub is_settled: bool,
    is_missing: bool,
}

/// What a listing shows.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Snapshots that were not there before.
    pub new: u64,
    /// What is lost.
    pub losses: Vec<String>,
    /// What else must not be.
    pub failures: Vec<String>,
}

/// The snapshots of a repository, oldest first.
#[derive(Debug, Default)]
pub struct Snapshots {
    known: Vec<Snapshot>,
}

impl Snapshots {
    /// Returns how many there must be.
    pub fn count(&self) -> usize {
        self.known.iter().filter(|snapshot| !snapshot.is_missing).count()
    }

    /// Returns the id of the newest, on which the next builds.
    pub fn newest(&self) -> Option<&str> {
        let mut newest_first = self.known.iter().rev();
        newest_first.find(|snapshot| !snapshot.is_missing).map(|snapshot| snapshot.id.as_str())
    }

    /// Returns the snapshot at an index.
    pub fn get(&self, index: usize) -> &Snapshot {
        &self.known[index]
    }

    /// Returns the indexes of those that are there.
    pub fn present(&self) -> Vec<usize> {
        (0..self.known.len()).filter(|index| !self.known[*index].is_missing).collect()
    }

    /// Returns the newest that is not settled.
    pub fn unsettled(&self) -> Option<usize> {
        self.known.iter().rposition(|snapshot| !snapshot.is_settled)
    }

    /// Returns how many are not settled.
    pub fn unsettled_count(&self) -> usize {
        self.known.iter().filter(|snapshot| !snapshot.is_settled).count()
    }

    /// Notes that a snapshot need not be looked at again; tells whether that is news.
    pub fn settle(&mut self, index: usize) -> bool {
        !std::mem::replace(&mut self.known[index].is_settled, true)
    }

    /// Compares the result of `list --json` after a create, which took so many transactions and may have
    /// reported a snapshot, with what must be there. New snapshots count from now on.
    pub fn compare(
        &mut self,
        listed: &Value,
        window: &RangeInclusive<u64>,
        reported: Option<&str>,
    ) -> Comparison {
        let mut found = Comparison::default();
        let rows: Vec<(&str, &Value)> = listed
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|row| Some((row["id"].as_str()?, row)))
            .collect();
        self.miss(&rows, &mut found);
        let is_new = |id: &str| !self.known.iter().any(|snapshot| snapshot.id == id);
        let new: Vec<(&str, &Value)> = rows.into_iter().filter(|(id, _)| is_new(id)).collect();
        let ids: Vec<&str> = new.iter().map(|(id, _)| *id).collect();
        match reported {
            Some(id) if ids != [id] => {
                found.losses.push(format!("{id} was made, and {ids:?} are listed as new"));
            }
            None if ids.len() > 1 => found.failures.push(format!("one create made {ids:?}")),
            _ => {}
        }
        for (id, row) in new {
            let is_of_its_time = transactions(row).is_some_and(|transaction| window.contains(&transaction));
            if !row["problem"].is_null() || !is_of_its_time {
                found.losses.push(format!("{id} was captured during {window:?}, and is listed as {row}"));
            }
            let (id, window) = (id.to_owned(), window.clone());
            self.known.push(Snapshot { id, window, is_settled: false, is_missing: false });
            found.new += 1;
        }
        found
    }

    /// Finds those that are not listed any longer; each is told once.
    fn miss(&mut self, rows: &[(&str, &Value)], found: &mut Comparison) {
        for snapshot in self.known.iter_mut().filter(|snapshot| !snapshot.is_missing) {
            let Some((_, row)) = rows.iter().find(|(id, _)| *id == snapshot.id) else {
                (snapshot.is_missing, snapshot.is_settled) = (true, true);
                found.losses.push(format!("{} is not listed any longer", snapshot.id));
                continue;
            };
            if let Some(problem) = row["problem"].as_str() {
                found.losses.push(format!("{} has a problem: {problem}", snapshot.id));
            }
        }
    }
}

/// Returns the counter of the application, as the statistics of a listed snapshot have it.
fn transactions(row: &Value) -> Option<u64> {
    let queries = row["stats"]["queries"].as_array()?;
    queries.iter().find(|query| query["name"] == "transactions")?["value"].as_u64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(id: &str, transaction: u64) -> Value {
        let queries = json!([{"name": "transactions", "value": transaction}]);
        json!({"id": id, "problem": null, "stats": {"queries": queries}})
    }

    #[test]
    fn a_listing_that_is_as_it_must_be_is_without_findings() {
        let mut snapshots = Snapshots::default();
        let steps = [(json!([row("a", 5)]), Some("a"), 1), (json!([row("a", 5), row("b", 6)]), None, 1)];
        for (listed, reported, new) in steps {
            let found = snapshots.compare(&listed, &(5..=6), reported);
            assert!(found.losses.is_empty() && found.failures.is_empty(), "{found:?}");
            assert_eq!(found.new, new);
        }
        assert_eq!((snapshots.newest(), snapshots.count()), (Some("b"), 2));
        assert!(snapshots.settle(1) && !snapshots.settle(1));
        assert_eq!((snapshots.unsettled(), snapshots.unsettled_count()), (Some(0), 1));
    }

    #[test]
    fn each_kind_of_loss_is_found_and_told_once() {
        let known = json!([row("a", 5), row("b", 5)]);
        let compare = |listed: Value, reported| {
            let mut snapshots = Snapshots::default();
            snapshots.compare(&json!([row("a", 5)]), &(5..=5), Some("a"));
            snapshots.compare(&known, &(5..=5), Some("b"));
            let found = snapshots.compare(&listed, &(6..=7), reported);
            let again = snapshots.compare(&listed, &(6..=7), None);
            assert!(again.losses.iter().all(|text| text.contains("problem")), "{again:?}");
            (found.losses.len(), found.failures.len())
        };
        assert_eq!(compare(json!([row("b", 5)]), None), (1, 0), "one is gone");
        assert_eq!(compare(json!([]), None), (2, 0), "all are gone");
        assert_eq!(compare(known.clone(), Some("c")), (1, 0), "what was reported is not there");
        let with = |rows: &[Value]| json!([&known.as_array().unwrap()[..], rows].concat());
        assert_eq!(compare(with(&[row("c", 5)]), Some("c")), (1, 0), "it is too old");
        assert_eq!(compare(with(&[row("c", 8)]), None), (1, 0), "it is too new");
        assert_eq!(compare(with(&[row("c", 6), row("d", 6)]), None), (0, 1), "two at once");
        let mut damaged = row("b", 5);
        damaged["problem"] = json!("cut short");
        assert_eq!(compare(json!([row("a", 5), damaged]), None), (1, 0), "one is damaged");
    }
}
