//! Which manifests the snapshots that stay are built on: they may not go, whatever became of their own snapshots.
//!
//! The page maps of a snapshot lie in a chain that goes through the manifests of its parents, back to one of depth
//! 0 (section 3.5). A chain that cannot be followed to its end is an error here: nobody can say what it needs, and
//! what is missing may come back from a copy.

use std::collections::{HashMap, HashSet};

use crate::engine::chain::STEPS_MAX;
use crate::format::Manifest;
use crate::{Error, ErrorKind, Result};

/// Returns the snapshots that these need, themselves among them.
pub fn needed<'a>(
    manifests: &'a [Manifest],
    kept: impl IntoIterator<Item = &'a str>,
) -> Result<HashSet<&'a str>> {
    let by_id: HashMap<&str, &Manifest> =
        manifests.iter().map(|manifest| (manifest.snapshot_id.as_str(), manifest)).collect();
    let mut needed = HashSet::new();
    for snapshot in kept {
        walk(&by_id, snapshot, &mut needed)?;
    }
    Ok(needed)
}

fn walk<'a>(
    by_id: &HashMap<&'a str, &'a Manifest>,
    snapshot: &'a str,
    needed: &mut HashSet<&'a str>,
) -> Result<()> {
    let broken = |why: String| {
        let message = format!("the chain of snapshot {snapshot} cannot be followed: {why}");
        Err(Error::new(ErrorKind::Damaged, message))
    };
    let mut current = snapshot;
    for _ in 0..=STEPS_MAX {
        let Some(manifest) = by_id.get(current) else {
            return broken(format!("snapshot {current} is not there"));
        };
        let is_new = needed.insert(manifest.snapshot_id.as_str());
        // The rest of a chain that another snapshot goes through was followed for that one.
        if !is_new || manifest.db.map_chain_depth == 0 {
            return Ok(());
        }
        current = &manifest.parent_id;
    }
    broken(format!("it has more than {STEPS_MAX} steps"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::Database;

    /// Makes manifests from pairs of a depth and the position of the parent.
    fn manifests(chain: &[(i64, usize)]) -> Vec<Manifest> {
        let name = |number: usize| format!("20260101T0000{number:02}Z-{number:032x}");
        let of = |(number, (depth, parent)): (usize, &(i64, usize))| Manifest {
            snapshot_id: name(number),
            parent_id: name(*parent),
            db: Database { map_chain_depth: *depth, ..Database::default() },
            ..Manifest::default()
        };
        chain.iter().enumerate().map(of).collect()
    }

    fn numbers(manifests: &[Manifest], kept: &[usize]) -> Result<Vec<usize>> {
        let ids: Vec<&str> = manifests.iter().map(|manifest| manifest.snapshot_id.as_str()).collect();
        let needed = needed(manifests, kept.iter().map(|number| ids[*number]))?;
        Ok((0..ids.len()).filter(|number| needed.contains(ids[*number])).collect())
    }

    #[test]
    fn a_snapshot_needs_its_parents_back_to_the_one_that_stands_alone() {
        let chain = manifests(&[(0, 0), (1, 0), (2, 1), (0, 2), (1, 3), (2, 4)]);
        assert_eq!(numbers(&chain, &[2]).unwrap(), [0, 1, 2]);
        assert_eq!(numbers(&chain, &[5]).unwrap(), [3, 4, 5]);
        assert_eq!(numbers(&chain, &[3]).unwrap(), [3], "a parent alone is no need");
        assert_eq!(numbers(&chain, &[1, 4]).unwrap(), [0, 1, 3, 4]);
        assert!(numbers(&chain, &[]).unwrap().is_empty());
    }

    #[test]
    fn a_chain_that_is_broken_is_an_error_and_no_answer() {
        for (chain, why) in [
            (manifests(&[(0, 0), (1, 7)]), "is not there"),
            (
                manifests(
                    &(0..=33).map(|depth| (depth, (depth as usize).saturating_sub(1))).collect::<Vec<_>>(),
                ),
                "more than",
            ),
        ] {
            let error = numbers(&chain, &[chain.len() - 1]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged);
            assert!(error.to_string().contains(why), "{error}");
        }
        // Of a circle all is kept, which is all that can be done for it here.
        let circle = manifests(&[(1, 1), (1, 0), (0, 0)]);
        assert_eq!(numbers(&circle, &[0]).unwrap(), [0, 1]);
    }
}
