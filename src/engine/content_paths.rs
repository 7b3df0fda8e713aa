//! Whether the attachments of a snapshot can be put where its database expects them (section 12.3).

use std::collections::{HashMap, HashSet};

use crate::archive::bounds::MEMORY_BYTES_MAX;
use crate::archive::profile::ContentPath;
use crate::format::{BlobId, Manifest, paths};

/// What SQLite may take to list one attachment: its hash, its path, and what surrounds them in a tree.
const LISTED_BYTES: u64 = 1024;

/// Returns how many paths the database of a snapshot can have: a row has an attachment and a thumbnail.
pub fn most(manifest: &Manifest) -> u64 {
    u64::try_from(manifest.attachments.rows).unwrap_or_default().saturating_mul(2)
}

/// Returns how much memory SQLite is granted to list the attachments of a snapshot.
pub fn memory_for(attachments: u64) -> u64 {
    MEMORY_BYTES_MAX.saturating_add(attachments.saturating_mul(LISTED_BYTES))
}

/// Returns what stands in the way, one sentence each; nothing if the attachments can be restored.
///
/// `listed` are the attachments of the snapshot's lists; `expected` what its database refers to.
pub fn check(listed: &HashMap<BlobId, u64>, expected: &[ContentPath]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut owners: HashMap<String, (BlobId, &str)> = HashMap::new();
    let mut found = HashSet::new();
    for ContentPath { id, path } in expected {
        found.insert(*id);
        if !listed.contains_key(id) {
            problems
                .push(format!("the database refers to attachment {id}, which no list of the snapshot has"));
        }
        if let Err(error) = paths::check_attachment_path(path) {
            problems.push(format!("attachment {id} cannot be restored: {error}"));
            continue;
        }
        // The same content under two spellings of one name is one file; two contents are a loss.
        let (owner, spelled) = *owners.entry(paths::collision_key(path)).or_insert((*id, path));
        if owner != *id {
            problems
                .push(format!("attachments {owner} at {spelled:?} and {id} at {path:?} are one file name"));
        }
    }
    let spelled = owners.values().map(|(_, path)| *path);
    problems.extend(paths::find_conflicts(spelled).iter().map(ToString::to_string));
    let mut unexpected: Vec<&BlobId> = listed.keys().filter(|id| !found.contains(id)).collect();
    unexpected.sort();
    problems
        .extend(unexpected.iter().map(|id| format!("the database has no path for listed attachment {id}")));
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_pairs(listed: &[&str], expected: &[(&str, &str)]) -> Vec<String> {
        let id = |name: &str| BlobId::of(name.as_bytes());
        let listed = listed.iter().map(|name| (id(name), 1)).collect();
        let expected: Vec<ContentPath> =
            expected.iter().map(|(name, path)| ContentPath { id: id(name), path: (*path).into() }).collect();
        check(&listed, &expected)
    }

    #[test]
    fn one_content_at_several_paths_can_be_restored() {
        assert!(
            check_pairs(&["a", "b"], &[("a", "x/1"), ("a", "y/1"), ("a", "X/1"), ("b", "x/2")]).is_empty()
        );
    }

    #[test]
    fn what_cannot_be_restored_is_named() {
        for (expected, words) in [
            (vec![("a", "x"), ("b", "X")], "one file name"),
            (vec![("a", "x"), ("b", "x/y")], "needs it as a folder"),
            (vec![("a", "x"), ("b", "../y")], "cannot be restored"),
            (vec![("a", "x"), ("b", "./y")], "cannot be restored"),
            (vec![("a", "x")], "no path for listed"),
            (vec![("a", "x"), ("b", "y"), ("c", "z")], "no list of the snapshot"),
        ] {
            let problems = check_pairs(&["a", "b"], &expected);
            assert_eq!(problems.len(), 1, "{expected:?}: {problems:?}");
            assert!(problems[0].contains(words), "{problems:?}");
        }
    }
}
