//! What a user can do about a problem, the gentlest first.
//!
//! A copy of the repository brings back everything, an index that is still somewhere finds what is there, and what
//! the archive still has can be stored again. Only where none of these is left may a snapshot be given up. What
//! is merely not for this program to read is never called damaged, and nothing is moved for it.

use super::beside;
use crate::engine::report::{ProblemKind, VerifyProblem};
use crate::format::PackId;
use crate::repo::blobs::{BlobStore, DISAGREES};

const COPY: &str = "bring it back from another copy of the repository";
const AGAIN: &str = "run `packvault create`: what the archive still has is stored again";
const INDEX: &str = "run `packvault repair index`: it names anew what the packs hold";

/// Adds what can be done to each problem.
pub fn advise(problems: &mut [VerifyProblem], store: &BlobStore) {
    let unusable: Vec<String> =
        problems.iter().filter_map(|problem| index_of(problem).map(str::to_owned)).collect();
    for problem in problems {
        if let Some(advice) = advice(problem, store, &unusable) {
            problem.detail = format!("{}; {advice}", problem.detail);
        }
    }
}

/// Returns the index that cannot be used, if that is the problem.
fn index_of(problem: &VerifyProblem) -> Option<&str> {
    let name = problem.object.as_deref()?.strip_prefix("index ")?;
    (problem.blob.is_none() && problem.kind != ProblemKind::Outranked).then_some(name)
}

fn advice(problem: &VerifyProblem, store: &BlobStore, unusable_indexes: &[String]) -> Option<String> {
    let object = problem.object.as_deref().unwrap_or_default();
    match problem.kind {
        ProblemKind::Damaged => {}
        ProblemKind::Newer => {
            return Some(format!(
                "upgrade packvault; if nothing newer ever wrote here, it has rotted: {COPY}"
            ));
        }
        ProblemKind::Encrypted => {
            return Some(format!("if nothing here was ever encrypted, it has rotted: {COPY}"));
        }
        ProblemKind::NotPermitted => return None,
        ProblemKind::Outranked => return Some(INDEX.to_owned()),
    }
    if problem.detail.ends_with(DISAGREES) {
        return Some(INDEX.to_owned());
    }
    if object == "pack" && problem.blob.is_none() {
        return None;
    }
    if object == "manifest" {
        return Some(format!(
            "{COPY}; only if there is none, move it aside, out of `snapshots/`: this snapshot, and those that \
             build on it, are then given up"
        ));
    }
    if object == beside::NOTE || object == beside::ATTRIBUTES {
        return Some(format!(
            "{COPY}; if there is none, move it aside, out of `snapshots/`: nothing else is lost"
        ));
    }
    if index_of(problem).is_some() {
        return Some(format!("{COPY}; if there is none, move it aside, out of `indexes/`, and {AGAIN}"));
    }
    match &problem.pack {
        Some(pack) if PackId::parse(pack).is_ok_and(|pack| !store.is_there(&pack)) => {
            Some(format!("bring the pack back from another copy of the repository, or {AGAIN}"))
        }
        Some(_) => Some(format!(
            "bring the pack back from another copy of the repository; if there is none, move it aside, out of \
             `packs/`, and {AGAIN}"
        )),
        None if problem.blob.is_some() && !unusable_indexes.is_empty() => {
            Some(format!("index {} may name it: see what is said of that", unusable_indexes.join(", ")))
        }
        None if problem.blob.is_some() => Some(format!(
            "run `packvault repair index`, which names it if a pack holds it; else look for an index that names it in \
             another copy of the repository and copy that into `indexes/`, or {AGAIN}"
        )),
        None => Some("restore another snapshot, or run `packvault create` for a new one".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use packvault_storage::MemoryStorage;

    use super::*;
    use crate::repo::Repository;

    const PACK: &str = "01kwvve8k3wz72j3vhy0dphk55";

    async fn store(packs: &[&str]) -> BlobStore {
        let storage = Arc::new(MemoryStorage::new());
        crate::engine::init::init(storage.as_ref()).await.unwrap();
        let lengths: HashMap<PackId, u64> =
            packs.iter().map(|pack| (PackId::parse(pack).unwrap(), 9)).collect();
        BlobStore::new(Repository::open(storage).await.unwrap(), Arc::default(), lengths)
    }

    fn problem(object: Option<&str>, blob: bool, pack: bool, kind: ProblemKind) -> VerifyProblem {
        VerifyProblem {
            object: object.map(str::to_owned),
            blob: blob.then(|| "b".to_owned()),
            pack: pack.then(|| PACK.to_owned()),
            detail: "wrong".to_owned(),
            kind,
            ..VerifyProblem::default()
        }
    }

    #[tokio::test]
    async fn nothing_is_given_up_while_something_else_is_left() {
        let (with, without) = (store(&[PACK]).await, store(&[]).await);
        use ProblemKind::{Damaged, Encrypted, Newer, NotPermitted, Outranked};
        for (object, blob, pack, kind, store, says, never) in [
            (Some("manifest"), false, false, Damaged, &with, "copy of the repository; only if", ""),
            (Some("manifest"), false, false, Newer, &with, "upgrade packvault", "aside"),
            (Some("manifest"), false, false, NotPermitted, &with, "wrong", "aside"),
            (Some("note"), false, false, Damaged, &with, "another copy", "given up"),
            (Some("note"), false, false, Newer, &with, "upgrade packvault", "aside"),
            (Some("attributes"), false, false, Damaged, &with, "nothing else is lost", "given up"),
            (Some("index x"), false, false, Damaged, &with, "another copy", "given up"),
            (Some("index x"), false, false, Newer, &with, "upgrade packvault", "aside"),
            (Some("index x"), false, true, Outranked, &with, "packvault repair index", "aside"),
            (Some("page blob"), true, true, Damaged, &with, "out of `packs/`", "given up"),
            (Some("page blob"), true, true, Damaged, &without, "bring the pack back", "aside"),
            (Some("page blob"), true, true, Newer, &with, "upgrade packvault", "aside"),
            (Some("page blob"), true, true, Encrypted, &with, "was ever encrypted", "aside"),
            (Some("attachment"), true, false, Damaged, &with, "an index that names it", "given up"),
        ] {
            let mut problems = [problem(object, blob, pack, kind)];
            advise(&mut problems, store);
            let detail = &problems[0].detail;
            assert!(detail.contains(says), "{detail}");
            assert!(never.is_empty() || !detail.contains(never), "{detail}");
        }
    }

    #[tokio::test]
    async fn no_pack_is_moved_where_an_index_is_wrong_about_it() {
        let store = store(&[PACK]).await;
        let mut problems = [problem(Some("page blob"), true, true, ProblemKind::Damaged)];
        problems[0].detail = DISAGREES.to_owned();
        advise(&mut problems, &store);
        assert_eq!(problems[0].detail, format!("{DISAGREES}; {INDEX}"));
    }

    #[tokio::test]
    async fn what_no_index_names_is_laid_to_the_index_that_cannot_be_used() {
        let store = store(&[]).await;
        let mut problems = [
            problem(Some("index x.mvidx"), false, false, ProblemKind::Newer),
            problem(Some("list"), true, false, ProblemKind::Damaged),
        ];
        advise(&mut problems, &store);
        assert!(problems[1].detail.ends_with("index x.mvidx may name it: see what is said of that"));
    }
}
