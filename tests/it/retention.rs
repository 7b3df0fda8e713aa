//! The danger: a snapshot is given up that somebody wanted kept, or one that is kept loses what it is built on.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use packvault::engine::forget::{ForgetOptions, forget};
use packvault::engine::list::list;
use packvault::engine::report::ForgetReport;
use packvault::engine::retention::policy::{Every, Rules};
use packvault::engine::{Selection, restore};
use packvault::profiles::msgvault::Msgvault;
use packvault::repo::Repository;
use packvault::{ErrorKind, Result, location};
use packvault_storage::{Fault, FaultStorage, MemoryStorage, Operation};
use serde_json::Value;

use crate::support::fixture::{Fixture, REPOSITORIES, assert_restored, id};
use crate::support::memory_repo::*;
use crate::support::operations::{self, assert_sound, block_on, one, open, try_restore};
use crate::support::{Scratch, anatomy, names, stderr};

/// Snapshots of a case: enough for more than one keyframe.
const SNAPSHOTS: usize = 8;

fn keep(ids: &[&str]) -> ForgetOptions {
    let rules = Rules { ids: ids.iter().map(|id| (*id).to_owned()).collect(), ..Rules::default() };
    ForgetOptions { rules, zone: jiff::tz::TimeZone::UTC, dry_run: false, force_unlock: false }
}

fn keep_last(count: u32) -> ForgetOptions {
    let rules = Rules { counts: [(Every::Snapshot, count)].into(), ..Rules::default() };
    ForgetOptions { rules, ..keep(&[]) }
}

async fn run(storage: &MemoryStorage, options: &ForgetOptions) -> Result<ForgetReport> {
    forget(&Repository::open(shared(storage)).await?, options, &context()).await
}

/// Returns the ids for which some object of this kind lies beside the manifests.
fn beside(storage: &MemoryStorage, suffix: &str) -> BTreeSet<String> {
    let names = storage.objects().into_iter().map(|(key, _)| key.to_string());
    let of = |name: String| Some(name.strip_prefix("snapshots/")?.strip_suffix(suffix)?.to_owned());
    names.filter_map(of).collect()
}

async fn listed(storage: &MemoryStorage) -> Vec<String> {
    let rows = list(&Repository::open(shared(storage)).await.unwrap()).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

#[test]
fn whatever_is_kept_restores_and_manifests_stay_just_as_long_as_they_are_needed() {
    runtime().block_on(async {
        let (whole, _, made) = repository_of(SNAPSHOTS).await;
        let repo = anatomy::dissect(&whole);
        // The last is always kept; each of the others alone, and a pair.
        for named in (0..SNAPSHOTS - 1).map(|one| vec![one]).chain([vec![1, 4]]) {
            let storage = copy_of(&whole);
            let ids: Vec<&str> = named.iter().map(|place| made[*place].id.as_str()).collect();
            let report = run(&storage, &keep(&ids)).await.unwrap();
            let case = format!("{named:?} of {SNAPSHOTS}");
            let kept: BTreeSet<String> =
                ids.iter().copied().chain([made[SNAPSHOTS - 1].id.as_str()]).map(str::to_owned).collect();
            let chains = repo.snapshots.iter().filter(|one| kept.contains(&one.manifest.snapshot_id));
            let needed: BTreeSet<String> = chains.flat_map(|one| one.chain.clone()).collect();
            assert_eq!(beside(&storage, ".mvmanifest"), needed, "{case}");
            let links: BTreeSet<String> = needed.difference(&kept).cloned().collect();
            assert_eq!(beside(&storage, ".packvault-forgotten"), links, "{case}");
            assert_eq!(beside(&storage, ".packvault-attributes"), needed, "{case}");
            assert_eq!(report.links as usize, links.len(), "{case}");
            assert_eq!(report.manifests_removed as usize, SNAPSHOTS - needed.len(), "{case}");
            assert_eq!(listed(&storage).await, kept.iter().cloned().collect::<Vec<_>>(), "{case}");
            let verified = crate::support::memory_repo::assert_sound(shared(&storage), &case).await;
            assert_eq!(verified.snapshots as usize, kept.len(), "{case}");
            for made in made.iter().filter(|made| needed.contains(&made.id)) {
                // A link can still be brought back by its id.
                assert_comes_back(shared(&storage), made, &case).await;
            }
        }
    });
}

#[test]
fn a_link_goes_when_nothing_is_built_on_it_any_more_and_the_next_create_builds_on_the_last() {
    runtime().block_on(async {
        let (storage, archive, mut made) = repository_of(3).await;
        run(&storage, &keep_last(1)).await.unwrap();
        assert!(!beside(&storage, ".packvault-forgotten").is_empty(), "some are links");
        for _ in 0..6 {
            archive.change();
            let report = capture(shared(&storage), &archive).await.unwrap();
            assert_eq!(report.parent.as_ref(), Some(&made.last().unwrap().id));
            made.push(Made { id: report.id.unwrap(), files: archive.expected() });
            run(&storage, &keep_last(1)).await.unwrap();
            assert_comes_back(shared(&storage), made.last().unwrap(), "after each").await;
        }
        let manifests = beside(&storage, ".mvmanifest");
        assert!(!manifests.contains(&made[0].id), "the first is in no chain any more");
        let repo = anatomy::dissect(&storage);
        assert_eq!(repo.snapshots.last().unwrap().chain, manifests, "and nothing else is left");
        for suffix in [".packvault-forgotten", ".packvault-attributes"] {
            assert!(beside(&storage, suffix).is_subset(&manifests), "{suffix}");
        }
    });
}

#[test]
fn a_dry_run_says_the_same_and_writes_nothing() {
    runtime().block_on(async {
        let (storage, _, _) = repository_of(4).await;
        let before = storage.objects();
        let dry = run(&storage, &ForgetOptions { dry_run: true, ..keep_last(2) }).await.unwrap();
        assert_eq!(storage.objects(), before);
        let done = run(&storage, &keep_last(2)).await.unwrap();
        assert_eq!(ForgetReport { dry_run: false, ..dry }, done);
    });
}

#[test]
fn without_a_rule_or_with_a_name_that_is_not_there_nothing_is_forgotten() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(2).await;
        let before = storage.objects();
        for (options, kind) in [
            (keep(&[]), ErrorKind::Usage),
            (keep_last(0), ErrorKind::Usage),
            (keep(&["20200101T000000Z-00000000000000000000000000000000"]), ErrorKind::NotFound),
        ] {
            assert_eq!(run(&storage, &options).await.unwrap_err().kind(), kind);
        }
        assert_eq!(storage.objects(), before);
        run(&storage, &keep_last(1)).await.unwrap();
        let error = run(&storage, &keep(&[&made[0].id])).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "a forgotten one cannot be kept");
    });
}

#[test]
fn marks_that_somebody_planted_hide_snapshots_and_remove_none() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(5).await;
        // Who may add objects and remove none marks everything but the last, and waits for the owner.
        for made in &made[..4] {
            let name = key(&format!("snapshots/{}.packvault-forgotten", made.id));
            storage.put_raw(&name, "", SystemTime::now());
        }
        assert_eq!(listed(&storage).await.len(), 1);
        let report = run(&storage, &keep_last(10)).await.unwrap();
        assert_eq!((report.manifests_removed, report.links), (0, 4));
        for made in &made {
            assert_comes_back(shared(&storage), made, "it is all there").await;
        }
    });
}

#[test]
fn a_chain_that_nobody_can_follow_has_nothing_removed() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(6).await;
        let repo = anatomy::dissect(&storage);
        let is_built_on_it = |one: &anatomy::Anatomy| one.chain.contains(&made[0].id);
        let built = repo.snapshots.iter().filter(|one| is_built_on_it(one)).count();
        assert!(built >= 2);
        let lost = key(&format!("snapshots/{}.mvmanifest", made[0].id));
        let bytes = storage.objects().into_iter().find(|(key, _)| *key == lost).unwrap().1;
        packvault_storage::Storage::remove(&storage, &lost).await.unwrap();
        let report = run(&storage, &keep(&[&made[1].id])).await.unwrap();
        assert_eq!(report.manifests_removed, 0);
        assert!(report.warnings[0].contains("cannot be followed"), "{:?}", report.warnings);
        // It comes back from a copy, and everything is whole.
        storage.put_raw(&lost, bytes, SystemTime::now());
        for made in &made {
            assert_comes_back(shared(&storage), made, "it is all there").await;
        }
    });
}

#[test]
fn while_a_manifest_cannot_be_read_nothing_is_forgotten() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(3).await;
        let damaged = key(&format!("snapshots/{}.mvmanifest", made[1].id));
        storage.put_raw(&damaged, "{", SystemTime::now());
        let before = storage.objects();
        assert_eq!(run(&storage, &keep_last(1)).await.unwrap_err().kind(), ErrorKind::Damaged);
        assert_eq!(storage.objects(), before);
    });
}

#[test]
fn the_newest_snapshot_of_a_healthy_source_is_kept() {
    runtime().block_on(async {
        let (storage, archive, mut made) = repository_of(1).await;
        for _ in 0..3 {
            archive.change();
            let report = capture(shared(&storage), &archive).await.unwrap();
            made.push(Made { id: report.id.unwrap(), files: archive.expected() });
        }
        for made in &made[1..] {
            let note = key(&format!("snapshots/{}.packvault.json", made.id));
            storage.put_raw(
                &note,
                r#"{"version":1,"source_problems":["page 7 is damaged"]}"#,
                SystemTime::now(),
            );
        }
        let report = run(&storage, &keep_last(1)).await.unwrap();
        let kept: Vec<(&str, &[String])> =
            report.kept.iter().map(|one| (one.id.as_str(), one.reasons.as_slice())).collect();
        assert_eq!(kept[0], (made[0].id.as_str(), &["the newest with a healthy source".to_owned()][..]));
        assert_eq!(kept[1].0, made[3].id);
        assert_eq!(kept.len(), 2);
    });
}

#[test]
fn a_process_that_slept_past_its_lock_removes_nothing() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(4).await;
        let faulty = FaultStorage::new(shared(&storage));
        // While it marks the last of those it gives up, somebody reaps its lock and takes his own.
        let thief = storage.clone();
        faulty.at_match(0, Fault::Delay(Duration::ZERO), move |operation, object| {
            let is_first_mark = operation == Operation::Create && object.ends_with(".packvault-forgotten");
            if is_first_mark {
                thief.put_raw(&key("locks/exclusive.json"), "another's", SystemTime::now());
            }
            is_first_mark
        });
        let repository = Repository::open(Arc::new(faulty)).await.unwrap();
        let error = forget(&repository, &keep_last(1), &context()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
        assert_eq!(beside(&storage, ".mvmanifest").len(), 4, "no manifest is gone");
        packvault_storage::Storage::remove(&storage, &key("locks/exclusive.json")).await.unwrap();
        assert_comes_back(shared(&storage), made.last().unwrap(), "the last").await;
    });
}

#[test]
fn a_forgotten_snapshot_is_restored_by_its_id_alone_and_says_so() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(2).await;
        run(&storage, &keep_last(1)).await.unwrap();
        assert!(beside(&storage, ".mvmanifest").contains(&made[0].id), "a link");
        let repository = Repository::open(shared(&storage)).await.unwrap();
        let folder = scratch();
        let (options, context) =
            (restore::RestoreOptions { target: folder.path().join("x"), ..Default::default() }, context());
        let selection = Selection::One(packvault::format::SnapshotId::parse(&made[0].id).unwrap());
        let report = restore::restore(&repository, Arc::new(Msgvault), selection, options, &context);
        let report = report.await.unwrap();
        assert!(report.warnings.iter().any(|text| text.contains("was forgotten")), "{:?}", report.warnings);
        let options = restore::RestoreOptions { target: folder.path().join("y"), ..Default::default() };
        let report = restore::restore(&repository, Arc::new(Msgvault), Selection::Latest, options, &context);
        let report = report.await.unwrap();
        assert_eq!(report.id, made[1].id);
        assert!(report.warnings.iter().all(|text| !text.contains("was forgotten")), "{:?}", report.warnings);
    });
}

#[test]
fn the_newest_is_the_newest_of_those_that_were_not_forgotten() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(3).await;
        let newest = key(&format!("snapshots/{}.packvault-forgotten", made[2].id));
        storage.put_raw(&newest, "", SystemTime::now());
        let folder = scratch();
        let (options, context) =
            (restore::RestoreOptions { target: folder.path().join("x"), ..Default::default() }, context());
        let repository = Repository::open(shared(&storage)).await.unwrap();
        let report = restore::restore(&repository, Arc::new(Msgvault), Selection::Latest, options, &context);
        assert_eq!(report.await.unwrap().id, made[1].id);
        assert_same_files(&files_below(&folder.path().join("x")), &made[1].files, "the second");
        let report = check(shared(&storage), Selection::Latest, false).await.unwrap();
        assert!(report.ok && report.snapshots == 1);
    });
}

#[test]
fn manifests_go_one_after_the_other_and_the_youngest_first() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(SNAPSHOTS).await;
        let recorded = FaultStorage::new(shared(&storage));
        let repository = Repository::open(Arc::new(recorded.clone())).await.unwrap();
        let report = forget(&repository, &keep_last(1), &context()).await.unwrap();
        assert!(report.manifests_removed >= 2, "{report:?}");
        let calls = recorded.calls().into_iter();
        let removed =
            calls.filter(|(operation, _)| *operation == Operation::Remove).map(|(_, object)| object);
        let removed: Vec<String> = removed.filter(|object| object.ends_with(".mvmanifest")).collect();
        let expected: Vec<String> = made[..removed.len()]
            .iter()
            .rev()
            .map(|made| format!("snapshots/{}.mvmanifest", made.id))
            .collect();
        assert_eq!(removed, expected, "a program that knows no marks sees no snapshot without its parents");
    });
}

#[test]
fn a_list_beside_a_forget_does_not_call_what_was_just_removed_damaged() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(2).await;
        let faulty = FaultStorage::new(shared(&storage));
        let gone = key(&format!("snapshots/{}.mvmanifest", made[0].id));
        let (remover, name) = (storage.clone(), gone.to_string());
        // The first is removed after it was listed, and before it is read.
        faulty.at_match(0, Fault::Delay(Duration::ZERO), move |operation, object| {
            let is_read = operation == Operation::Read && object == name;
            if is_read {
                let removed = packvault_storage::Storage::remove(&remover, &gone);
                removed.now_or_never().expect("memory answers at once").unwrap();
            }
            is_read
        });
        let rows = list(&Repository::open(Arc::new(faulty)).await.unwrap()).await.unwrap();
        let shown: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(shown, [&made[1].id]);
        assert!(rows[0].problem.is_none());
    });
}

/// Forgets on a folder, as the program does.
fn forget_in(repository: &Path, options: &ForgetOptions) -> ForgetReport {
    block_on(forget(&open(repository), options, &operations::context(2))).unwrap()
}

#[test]
fn what_is_kept_of_the_other_engines_repositories_restores_as_before() {
    let scratch = Scratch::new();
    for name in REPOSITORIES {
        let fixture = Fixture::copied(name, &scratch);
        let all = fixture.snapshots();
        // First one in the middle and the last, then the last alone.
        let middle = id(&all[all.len() / 2]).to_owned();
        for options in [keep(&[&middle]), keep_last(1)] {
            let report = forget_in(&fixture.repository, &options);
            let kept: BTreeSet<&str> = report.kept.iter().map(|one| one.id.as_str()).collect();
            assert!(kept.contains(id(all.last().unwrap())), "{name}");
            assert_eq!(assert_sound(&fixture.repository).snapshots as usize, kept.len(), "{name}");
            for snapshot in all.iter().filter(|one| kept.contains(id(one)) && one["metadata"].is_null()) {
                let target = scratch.path(&format!("restored {name}"));
                let options = restore::RestoreOptions {
                    target: target.clone(),
                    without_auxiliary: true,
                    ..Default::default()
                };
                try_restore(&fixture.repository, one(id(snapshot)), options).unwrap();
                assert_restored(snapshot, &target);
                std::fs::remove_dir_all(&target).unwrap();
            }
        }
    }
}

/// A folder with a repository `repo` of so many snapshots.
fn folder_with(snapshots: usize) -> (Scratch, Vec<Made>) {
    let scratch = Scratch::new();
    let made = runtime().block_on(async {
        let (storage, _, made) = repository_of(snapshots).await;
        let folder = location::folder(&scratch.path("repo")).await.unwrap();
        for (key, bytes) in storage.objects() {
            folder.create(&key, bytes).await.unwrap();
        }
        made
    });
    (scratch, made)
}

fn ids(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect()
}

#[test]
fn the_program_forgets_by_options_and_shows_why() {
    let (scratch, made) = folder_with(4);
    let repo = ["--repo", "./repo"];
    let run = |words: &[&str]| scratch.run(&[words, &repo].concat());
    let refused = run(&["forget"]);
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("no rule says what is kept"), "{}", stderr(&refused));
    assert_eq!(run(&["forget", "--keep-within", "2w"]).status.code(), Some(2));
    assert_eq!(run(&["forget", "--keep-last", "1", "--time-zone", "Atlantis"]).status.code(), Some(2));

    let before = names(&scratch.path("repo"));
    let dry = run(&["forget", "--keep-last", "1", "--dry-run"]);
    let text = String::from_utf8(dry.stdout).unwrap();
    assert!(text.contains("  keep    last, the last, the newest with a healthy source\n"), "{text}");
    assert!(text.ends_with("1 snapshot would be kept, 3 forgotten\n"), "{text}");
    assert_eq!(names(&scratch.path("repo")), before);

    let report = scratch.json(&[&["forget", "--keep-last", "1"][..], &repo].concat());
    assert_eq!(ids(&report["kept"]), [&made[3].id]);
    assert_eq!(report["forgotten"].as_array().unwrap().len(), 3);
    assert_eq!(report["dry_run"], Value::Bool(false));
    let rows = scratch.json(&[&["list"][..], &repo].concat());
    assert_eq!(ids(&rows), [&made[3].id]);
    let all = scratch.json(&[&["list", "--forgotten"][..], &repo].concat());
    let links = report["links"].as_u64().unwrap();
    assert_eq!(all.as_array().unwrap().len() as u64, 1 + links);
    let verified = scratch.json(&[&["verify", "--all"][..], &repo].concat());
    assert_eq!(verified["snapshots"].as_u64(), Some(1));
    let missing = run(&["restore", "latest~1", "--target", "x"]);
    assert_eq!(missing.status.code(), Some(1), "{}", stderr(&missing));
    let restored = scratch.json(&[&["restore", "latest", "--target", "y"][..], &repo].concat());
    assert_eq!(restored["id"], made[3].id.as_str());
}

#[test]
fn the_configuration_says_what_is_kept_and_where_nothing_is_removed() {
    let (scratch, made) = folder_with(4);
    let repo = scratch.path("repo");
    let config = |more: &str| {
        let text = format!(
            "[repository.disk]\nlocation = '{}'\n{more}\n[archive.mail]\nhome = '/srv/mail'\n\
             repository = 'disk'\n[archive.mail.keep]\nlast = 2\n",
            repo.display()
        );
        std::fs::write(scratch.path("config.toml"), text).unwrap();
    };
    let run = |words: &[&str]| {
        scratch.packvault(words).env("PACKVAULT_CONFIG", scratch.path("config.toml")).output().unwrap()
    };
    config("append_only = true");
    let before = names(&repo);
    for words in [&["forget", "mail"][..], &["forget", "--keep-last", "1", "--repo", "./repo"]] {
        let path = repo.display().to_string();
        let words: Vec<&str> =
            words.iter().map(|word| if *word == "./repo" { &path } else { *word }).collect();
        let output = run(&words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains("append_only"), "{}", stderr(&output));
    }
    assert_eq!(names(&repo), before);
    assert_eq!(run(&["forget", "mail", "--dry-run"]).status.code(), Some(0));

    config("");
    let output = run(&["forget", "mail", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ids(&report["kept"]), [&made[2].id, &made[3].id]);
    let output = run(&["forget", "mail", "--keep-last", "1", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(ids(&report["kept"]), [&made[3].id], "an option comes before the configuration");
}
