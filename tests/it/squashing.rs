//! The danger: a snapshot that stays loses what it is built on when forgotten ones are taken out of its chain, or cannot
//! be found any more under the id that somebody wrote down.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use packvault::engine::forget::{ForgetOptions, forget};
use packvault::engine::list::list;
use packvault::engine::prune::{Policy, PruneOptions, prune};
use packvault::engine::report::PruneReport;
use packvault::engine::retention::policy::{Every, Rules};
use packvault_sample::{Change, mutate};
use packvault_storage::MemoryStorage;

use crate::support::memory_repo::*;
use crate::support::{Scratch, anatomy, archives, contents, stderr};

/// Snapshots of a case: enough for more than one keyframe.
const SNAPSHOTS: usize = 8;

fn rules(ids: &[&str]) -> Rules {
    let ids: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    Rules { ids, counts: [(Every::Snapshot, 1)].into(), ..Rules::default() }
}

async fn keep(storage: &MemoryStorage, ids: &[&str]) {
    let zone = jiff::tz::TimeZone::UTC;
    let options = ForgetOptions { rules: rules(ids), zone, dry_run: false, force_unlock: false };
    forget(&opened(shared(storage)).await.unwrap(), &options, &context()).await.unwrap();
}

async fn squash(storage: &MemoryStorage, rules: Rules, dry_run: bool) -> PruneReport {
    let policy = Some(Policy { rules, zone: jiff::tz::TimeZone::UTC });
    let options = PruneOptions { policy, now: true, dry_run, ..PruneOptions::default() };
    prune(&opened(shared(storage)).await.unwrap(), &options, &context()).await.unwrap()
}

fn objects(storage: &MemoryStorage) -> BTreeMap<String, usize> {
    let objects = storage.objects().into_iter().map(|(key, bytes)| (key.to_string(), bytes.len()));
    objects.filter(|(name, _)| !name.starts_with("locks/")).collect()
}

fn count(storage: &MemoryStorage, suffix: &str) -> usize {
    objects(storage).keys().filter(|name| name.ends_with(suffix)).count()
}

/// Returns the second in which a snapshot was made, which its id keeps.
fn second(id: &str) -> &str {
    id.split('-').next().unwrap()
}

/// Expects these snapshots to be listed, under whatever ids, and to come back; returns their ids.
async fn expect_kept(storage: &MemoryStorage, kept: &[&Made], case: &str) -> Vec<String> {
    let repository = opened(shared(storage)).await.unwrap();
    let ids: Vec<String> = list(&repository).await.unwrap().into_iter().map(|row| row.id).collect();
    let seconds = |ids: &[&str]| ids.iter().map(|id| second(id).to_owned()).collect::<Vec<_>>();
    let listed: Vec<&str> = ids.iter().map(String::as_str).collect();
    let before: Vec<&str> = kept.iter().map(|made| made.id.as_str()).collect();
    assert_eq!(seconds(&listed), seconds(&before), "{case}");
    assert_sound(shared(storage), case).await;
    let files = repository.list_snapshots().await.unwrap();
    for (made, id) in kept.iter().zip(&ids) {
        let now = Made { id: id.clone(), files: made.files.clone() };
        assert_comes_back(shared(storage), &now, case).await;
        let formerly = repository.formerly(&files, &made.id).await.unwrap();
        assert_eq!(
            formerly.as_ref(),
            (made.id != *id).then_some(id),
            "{case}: the old id leads to the new one"
        );
    }
    ids
}

#[test]
fn what_stays_is_freed_of_what_was_forgotten_and_comes_back_byte_for_byte() {
    runtime().block_on(async {
        for kind in KINDS {
            let (whole, archive, made) = repository_of_kind(kind, SNAPSHOTS).await;
            let cases: &[&[usize]] = match kind {
                Kind::Plain => &[&[], &[0], &[1, 4], &[2, 3, 5], &[6]],
                Kind::Encrypted => &[&[1, 4]],
            };
            for named in cases {
                let case = format!("{kind:?}: {named:?} of {SNAPSHOTS}");
                let storage = copy_of(&whole);
                let ids: Vec<&str> = named.iter().map(|place| made[*place].id.as_str()).collect();
                keep(&storage, &ids).await;
                let before = objects(&storage);
                let dry = squash(&storage, rules(&ids), true).await;
                assert_eq!(objects(&storage), before, "{case}: a dry run writes nothing");
                let report = squash(&storage, rules(&ids), false).await;
                let from = |report: &PruneReport| {
                    report.squashed.iter().map(|one| one.from.clone()).collect::<Vec<_>>()
                };
                assert_eq!(from(&dry), from(&report), "{case}");
                assert_eq!(dry.manifests_removed, report.manifests_removed, "{case}");
                let kept: Vec<&Made> =
                    named.iter().map(|place| &made[*place]).chain([&made[SNAPSHOTS - 1]]).collect();
                expect_kept(&storage, &kept, &case).await;
                // Nothing of the forgotten ones is left.
                assert_eq!(count(&storage, ".packvault-forgotten"), 0, "{case}");
                for suffix in [".mvmanifest", ".packvault-attributes"] {
                    assert_eq!(count(&storage, suffix), kept.len(), "{case}: {suffix}");
                }
                let repo = anatomy::dissect(&storage);
                for snapshot in &repo.snapshots {
                    let db = &snapshot.manifest.db;
                    assert_eq!(db.map_chain_depth as usize + 1, snapshot.chain.len(), "{case}");
                    assert!(db.map_chain_depth < 30, "{case}");
                }
                let squashed = objects(&storage);
                let again = squash(&storage, rules(&ids), false).await;
                assert!(again.squashed.is_empty() && again.manifests_removed == 0, "{case}: {again:?}");
                assert_eq!(objects(&storage), squashed, "{case}");
                // The next create builds on the last one.
                let last = repo.snapshots.last().unwrap().manifest.snapshot_id.clone();
                let next = capture(shared(&storage), &archive).await.unwrap();
                assert_eq!(next.parent, Some(last), "{case}");
                assert_eq!(next.database.pages_changed, 0, "{case}: nothing is captured anew");
            }
        }
    });
}

#[test]
fn a_snapshot_that_is_squashed_again_and_again_answers_to_all_its_ids() {
    runtime().block_on(async {
        let (storage, archive, mut made) = repository_of(3).await;
        let mut last_ids = Vec::new();
        for _ in 0..4 {
            archive.change();
            let report = capture(shared(&storage), &archive).await.unwrap();
            made.push(Made { id: report.id.unwrap(), files: archive.expected() });
            // The first stays, and the last; what lies between is given up.
            let first = list(&opened(shared(&storage)).await.unwrap()).await.unwrap()[0].id.clone();
            keep(&storage, &[&first]).await;
            squash(&storage, rules(&[&first]), false).await;
            let kept = [&made[0], made.last().unwrap()];
            let ids = expect_kept(&storage, &kept, "again").await;
            last_ids.push((made.last().unwrap().id.clone(), ids[1].clone()));
        }
        assert!(last_ids.iter().any(|(old, new)| old != new), "{last_ids:?}");
    });
}

#[test]
fn without_rules_or_against_them_no_manifest_is_removed() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(5).await;
        // Who may add objects and remove none marks everything but the last, and waits for the owner.
        for made in &made[..4] {
            let name = key(&format!("snapshots/{}.packvault-forgotten", made.id));
            storage.put_raw(&name, "", SystemTime::now());
        }
        let keep_all = Rules { counts: [(Every::Snapshot, 10)].into(), ..Rules::default() };
        for rules in [Rules::default(), keep_all] {
            let report = squash(&storage, rules, false).await;
            assert!(report.squashed.is_empty() && report.manifests_removed == 0, "{report:?}");
            for made in &made {
                assert_comes_back(shared(&storage), made, "it is all there").await;
            }
        }
    });
}

#[test]
fn an_old_id_names_the_snapshot_in_every_command_and_no_machine_is_alarmed() {
    let scratch = Scratch::new();
    let home = scratch.path("home");
    archives::make(&home, &archives::tiny());
    scratch.run(&["init", "--repo", "./repo"]);
    for _ in 0..4 {
        mutate(&home, &Change::default()).unwrap();
        let made = scratch.run(&["create", "home", "--repo", "./repo"]);
        assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    }
    let ids = |scratch: &Scratch| {
        let rows = scratch.json(&["list", "--repo", "./repo"]);
        let ids = rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<_>>()
    };
    let old = ids(&scratch).pop().unwrap();
    // Another machine prunes.
    for arguments in [["forget", "--keep-last", "1"], ["prune", "--keep-last", "1"]] {
        let mut command = scratch.packvault(&arguments);
        let other = scratch.path("other-machine");
        let done = command.args(["--repo", "./repo"]).env("XDG_STATE_HOME", other).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{}", stderr(&done));
    }
    let listed = scratch.run(&["list", "--repo", "./repo"]);
    assert_eq!((listed.status.code(), stderr(&listed).as_str()), (Some(0), ""), "nobody is alarmed");
    let new = ids(&scratch).pop().unwrap();
    assert_ne!(new, old, "it was built on forgotten ones");
    let short = old.split_once('-').unwrap().1[..8].to_owned();
    for (number, name) in [old.clone(), short].iter().enumerate() {
        let target = format!("restored-{number}");
        let restored = scratch.run(&["restore", name, "--repo", "./repo", "--target", &target]);
        assert_eq!(restored.status.code(), Some(0), "{name}: {}", stderr(&restored));
        let database = &contents(&scratch.path(&target))["msgvault.db"];
        assert_eq!(*database, contents(&home)["msgvault.db"]);
        let verified = scratch.run(&["verify", name, "--repo", "./repo"]);
        assert_eq!(verified.status.code(), Some(0), "{name}: {}", stderr(&verified));
    }
    let unknown = scratch.run(&["verify", &old.replace(&old[..4], "1999"), "--repo", "./repo"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", stderr(&unknown));
}
