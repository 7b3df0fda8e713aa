//! The danger: a prune removes what a snapshot needs, or calls done what it has not done; or a writer that slept
//! publishes a snapshot over what was removed meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::engine::forget::{ForgetOptions, forget};
use packvault::engine::list::list;
use packvault::engine::prune::{Limits, Policy, PruneOptions, Unused, prune, reach};
use packvault::engine::report::PruneReport;
use packvault::engine::retention::policy::{Every, Rules};
use packvault::repo::condemned::GRACE;
use packvault::repo::locks::STALE_AFTER;
use packvault::{ErrorKind, Result};
use packvault_storage::{Fault, FaultStorage, MemoryStorage, Storage};

use crate::support::anatomy;
use crate::support::memory_repo::*;

/// Snapshots of a case: enough for more than one keyframe.
const SNAPSHOTS: usize = 8;

fn at_once() -> PruneOptions {
    PruneOptions { now: true, ..PruneOptions::default() }
}

async fn run(storage: &MemoryStorage, options: &PruneOptions) -> Result<PruneReport> {
    prune(&opened(shared(storage)).await?, options, &context()).await
}

/// Gives up all snapshots but these and the last.
async fn keep(storage: &MemoryStorage, ids: &[&str]) {
    let ids: BTreeSet<String> = ids.iter().map(|id| (*id).to_owned()).collect();
    let rules = Rules { ids, counts: [(Every::Snapshot, 1)].into(), ..Rules::default() };
    let options = ForgetOptions { rules, zone: jiff::tz::TimeZone::UTC, dry_run: false, force_unlock: false };
    forget(&opened(shared(storage)).await.unwrap(), &options, &context()).await.unwrap();
}

/// Everything that lies there, locks apart, with its length.
fn objects(storage: &MemoryStorage) -> BTreeSet<(String, usize)> {
    let objects = storage.objects().into_iter().map(|(key, bytes)| (key.to_string(), bytes.len()));
    objects.filter(|(name, _)| !name.starts_with("locks/")).collect()
}

fn count(storage: &MemoryStorage, suffix: &str) -> usize {
    objects(storage).iter().filter(|(name, _)| name.ends_with(suffix)).count()
}

/// Expects every listed snapshot to be among those made, and to come back.
async fn expect_listed(storage: &MemoryStorage, made: &[Made], ids: &[&str], case: &str) {
    let rows = list(&opened(shared(storage)).await.unwrap()).await.unwrap();
    let listed: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(listed, ids, "{case}");
    assert_sound(shared(storage), case).await;
    for made in made.iter().filter(|made| ids.contains(&made.id.as_str())) {
        assert_comes_back(shared(storage), made, case).await;
    }
}

#[test]
fn whatever_is_kept_restores_and_what_nobody_needs_is_gone() {
    runtime().block_on(async {
        for kind in KINDS {
            let (whole, _, made) = repository_of_kind(kind, SNAPSHOTS).await;
            let last = made[SNAPSHOTS - 1].id.as_str();
            for named in [vec![], vec![0], vec![2], vec![5], vec![1, 4]] {
                let case = format!("{kind:?}: {named:?} of {SNAPSHOTS}");
                let storage = copy_of(&whole);
                let mut ids: Vec<&str> = named.iter().map(|place| made[*place].id.as_str()).collect();
                keep(&storage, &ids).await;
                let before = objects(&storage);
                let dry = run(&storage, &PruneOptions { dry_run: true, ..at_once() }).await.unwrap();
                assert_eq!(objects(&storage), before, "{case}: a dry run writes nothing");
                let report = run(&storage, &at_once()).await.unwrap();
                assert_eq!(
                    (dry.packs.unneeded, dry.packs.repacked),
                    (report.packs.unneeded, report.packs.repacked)
                );
                assert!(report.warnings.is_empty(), "{case}: {report:?}");
                ids.push(last);
                expect_listed(&storage, &made, &ids, &case).await;
                // Nothing is left that nobody needs, but in packs of which most is needed.
                let after = run(&storage, &PruneOptions { dry_run: true, ..at_once() }).await.unwrap();
                assert_eq!(
                    (after.packs.unneeded, after.packs.repacked, after.packs.merged),
                    (0, 0, 0),
                    "{case}"
                );
                let pruned = objects(&storage);
                let again = run(&storage, &at_once()).await.unwrap();
                assert_eq!(objects(&storage), pruned, "{case}: there is nothing more to do: {again:?}");
                assert_eq!(count(&storage, ".packvault-condemned"), 0, "{case}");
            }
        }
    });
}

#[test]
fn with_no_room_for_unused_bytes_everything_that_is_not_needed_goes() {
    runtime().block_on(async {
        let (storage, archive, made) = repository_of(SNAPSHOTS).await;
        keep(&storage, &[]).await;
        let options = PruneOptions {
            limits: Limits { unused_max: Some(Unused::Bytes(0)), repack_bytes_max: None },
            ..at_once()
        };
        run(&storage, &options).await.unwrap();
        let repo = anatomy::dissect(&storage);
        let after = run(&storage, &PruneOptions { dry_run: true, ..options }).await.unwrap();
        // Headers and trailers are all that is not counted as needed.
        let overhead = after.packs.before * 64;
        assert!(after.bytes.before - after.bytes.needed <= overhead, "{after:?}");
        assert_eq!(repo.snapshots.last().unwrap().manifest.snapshot_id, made[SNAPSHOTS - 1].id);
        // A create goes on from there.
        archive.change();
        let next = capture(shared(&storage), &archive).await.unwrap();
        assert_eq!(next.parent.as_ref(), Some(&made[SNAPSHOTS - 1].id));
        let made = [made[SNAPSHOTS - 1].clone(), Made { id: next.id.unwrap(), files: archive.expected() }];
        let ids: Vec<&str> = made.iter().map(|made| made.id.as_str()).collect();
        expect_listed(&storage, &made, &ids, "the next one").await;
    });
}

#[test]
fn limits_leave_the_rest_to_later_runs() {
    runtime().block_on(async {
        let (whole, _, _) = repository_of(SNAPSHOTS).await;
        keep(&whole, &[]).await;
        let all = run(&copy_of(&whole), &PruneOptions { dry_run: true, ..at_once() }).await.unwrap();
        let with = async |unused_max, repack_bytes_max| {
            let limits = Limits { unused_max, repack_bytes_max };
            run(&copy_of(&whole), &PruneOptions { limits, ..at_once() }).await.unwrap()
        };
        let nothing = with(None, Some(0)).await;
        assert_eq!((nothing.packs.repacked, nothing.packs.merged, nothing.bytes.written), (0, 0, 0));
        assert_eq!(nothing.packs.unneeded, all.packs.unneeded, "dead packs cost nothing");
        assert_eq!(with(Some(Unused::Unlimited), None).await.packs.repacked, 0);
        let strict = with(Some(Unused::Share(0.0)), None).await;
        assert!(strict.packs.repacked >= all.packs.repacked, "{strict:?} {all:?}");
    });
}

#[test]
fn packs_are_condemned_first_and_removed_an_hour_later() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(SNAPSHOTS).await;
        storage.set_clock(SystemTime::now());
        keep(&storage, &[]).await;
        let packs = count(&storage, ".mvpack");
        let first = run(&storage, &PruneOptions::default()).await.unwrap();
        assert!(first.packs.condemned > 0 && first.packs.removed == 0, "{first:?}");
        assert!(first.removable_at.is_some() && first.bytes.condemned > 0);
        assert_eq!(count(&storage, ".mvpack") as u64, packs as u64 + first.packs.written);
        assert_eq!(count(&storage, ".packvault-condemned"), 1);
        let soon = run(&storage, &PruneOptions::default()).await.unwrap();
        assert_eq!((soon.packs.removed, soon.packs.condemned), (0, first.packs.condemned));
        assert_eq!(count(&storage, ".packvault-condemned"), 1, "no second note of the same packs");
        storage.advance_clock(GRACE);
        let later = run(&storage, &PruneOptions::default()).await.unwrap();
        assert_eq!((later.packs.removed, later.packs.condemned), (first.packs.condemned, 0));
        assert_eq!((later.bytes.removed, later.removable_at), (first.bytes.condemned, None));
        assert_eq!(count(&storage, ".packvault-condemned"), 0);
        expect_listed(&storage, &made, &[&made[SNAPSHOTS - 1].id], "an hour later").await;
    });
}

#[test]
fn a_clock_that_jumps_back_has_packs_condemned_anew() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(4).await;
        storage.set_clock(SystemTime::now() + 1000 * GRACE);
        keep(&storage, &[]).await;
        let first = run(&storage, &PruneOptions::default()).await.unwrap();
        storage.set_clock(SystemTime::now());
        let second = run(&storage, &PruneOptions::default()).await.unwrap();
        assert_eq!((second.packs.removed, second.packs.condemned), (0, first.packs.condemned));
        assert_eq!(count(&storage, ".packvault-condemned"), 1, "the note of the future is replaced");
        storage.advance_clock(GRACE);
        let third = run(&storage, &PruneOptions::default()).await.unwrap();
        assert_eq!(third.packs.removed, first.packs.condemned);
        expect_listed(&storage, &made, &[&made[3].id], "at last").await;
    });
}

/// What of a repository is damaged, and whether a prune may go on if it is told to.
#[test]
fn nothing_is_removed_while_anything_is_damaged() {
    runtime().block_on(async {
        let (whole, _, made) = repository_of(5).await;
        keep(&whole, &[]).await;
        let repo = anatomy::dissect(&whole);
        let needed_pack = repo.snapshots.last().unwrap().manifest.new_packs().unwrap()[0];
        let pack = format!("packs/{}/{needed_pack}.mvpack", needed_pack.shard());
        for (name, what) in objects(&whole).into_iter().filter_map(|(name, _)| {
            let ends = |suffix| name.ends_with(suffix);
            match () {
                () if ends(".mvmanifest") || ends(".mvidx") => Some((name.clone(), "cut")),
                () if name == pack => Some((name.clone(), "gone")),
                () => None,
            }
        }) {
            let storage = copy_of(&whole);
            match what {
                "cut" => storage.put_raw(&key(&name), "MVIX and no more", SystemTime::now()),
                _ => storage.remove(&key(&name)).await.unwrap(),
            }
            let before = objects(&storage);
            for dry_run in [true, false] {
                let error = run(&storage, &PruneOptions { dry_run, ..at_once() }).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Damaged, "{name} {what}: {error:?}");
                assert_eq!(objects(&storage), before, "{name} {what}");
            }
        }
        assert_eq!(made.len(), 5);
    });
}

/// Whoever sees no snapshot where packs lie has lost sight of them.
#[test]
fn nothing_is_removed_while_no_snapshot_is_to_be_seen() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(2).await;
        let hidden: Vec<_> =
            storage.objects().into_iter().filter(|(key, _)| key.as_str().starts_with("snapshots/")).collect();
        for (key, _) in &hidden {
            storage.remove(key).await.unwrap();
        }
        let before = objects(&storage);
        for despite_damage in [false, true] {
            for dry_run in [true, false] {
                let options = PruneOptions { dry_run, despite_damage, ..at_once() };
                let error = run(&storage, &options).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Refused, "{error:?}");
                assert!(error.chain().contains("no snapshot that needs them"), "{}", error.chain());
                assert_eq!(objects(&storage), before);
            }
        }
        for (key, bytes) in hidden {
            storage.put_raw(&key, bytes, SystemTime::now());
        }
        run(&storage, &at_once()).await.unwrap();
        let ids: Vec<&str> = made.iter().map(|made| made.id.as_str()).collect();
        expect_listed(&storage, &made, &ids, "seen again").await;
        // Nothing at all is no loss.
        let empty = MemoryStorage::new();
        make_repository(&empty, Kind::Plain).await.unwrap();
        run(&empty, &at_once()).await.unwrap();
    });
}

#[test]
fn what_is_lost_keeps_no_one_from_pruning_who_says_so() {
    runtime().block_on(async {
        let (storage, archive, made) = repository_of(6).await;
        keep(&storage, &[&made[0].id]).await;
        // An attachment of the first snapshot is in a pack that is cut short.
        let repo = anatomy::dissect(&storage);
        let first = &repo.snapshots[0];
        let lost = first.manifest.new_packs().unwrap()[0];
        let name = key(&format!("packs/{}/{lost}.mvpack", lost.shard()));
        let bytes = storage.read(&name).await.unwrap();
        // Page maps and lists lie at the end of the last pack; there is one here.
        let longer = [&bytes[..], b"x"].concat();
        storage.put_raw(&name, longer, SystemTime::now());
        let error = run(&storage, &at_once()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error:?}");
        let told = PruneOptions { despite_damage: true, ..at_once() };
        let outcome = run(&storage, &told).await;
        // Its maps cannot be read either, and then no word helps.
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Damaged);
        storage.put_raw(&name, bytes, SystemTime::now());
        run(&storage, &told).await.unwrap();
        expect_listed(&storage, &made, &[&made[0].id, &made[5].id], "brought back").await;
        archive.change();
    });
}

#[test]
fn packs_that_no_index_names_go_unless_a_snapshot_needs_them() {
    runtime().block_on(async {
        let (storage, _, made) = repository_of(3).await;
        // An index is lost, and with it the way to what the second and the third snapshot are made of.
        let indexes: Vec<String> = objects(&storage)
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| name.ends_with(".mvidx"))
            .collect();
        for lost in &indexes {
            let storage = copy_of(&storage);
            storage.remove(&key(lost)).await.unwrap();
            let report = run(&storage, &at_once()).await.unwrap();
            assert_eq!(report.warnings.len(), 1, "{report:?}");
            let ids: Vec<&str> = made.iter().map(|made| made.id.as_str()).collect();
            expect_listed(&storage, &made, &ids, lost).await;
        }
        // The same of a snapshot that nobody has any more.
        let given_up: Vec<_> =
            objects(&storage).into_iter().filter(|(name, _)| name.contains(&made[2].id)).collect();
        for (name, _) in given_up {
            storage.remove(&key(&name)).await.unwrap();
        }
        storage.remove(&key(indexes.last().unwrap())).await.unwrap();
        let report = run(&storage, &at_once()).await.unwrap();
        assert!(report.packs.removed > 0 && report.warnings.is_empty(), "{report:?}");
        let ids: Vec<&str> = made[..2].iter().map(|made| made.id.as_str()).collect();
        expect_listed(&storage, &made, &ids, "the last is gone").await;
    });
}

#[test]
fn what_is_given_up_is_shown_to_be_gone() {
    runtime().block_on(async {
        let (storage, _, _) = repository_of(4).await;
        let repo = anatomy::dissect(&storage);
        let needs = |place: usize| repo.snapshots[place].needs.keys().copied().collect::<BTreeSet<_>>();
        let of_the_first = needs(0);
        let of_others: BTreeSet<_> = (1..4).flat_map(needs).collect();
        let who =
            async |blob| reach(&opened(shared(&storage)).await.unwrap(), blob, &context()).await.unwrap();
        for blob in of_the_first.iter().chain(&of_others) {
            let found = who(*blob).await;
            // Of what a chain goes through, the snapshot is named that made it.
            assert!(!found.snapshots.is_empty() && !found.packs.is_empty(), "{found:?}");
        }
        let keep_last = Rules { counts: [(Every::Snapshot, 1)].into(), ..Rules::default() };
        keep(&storage, &[]).await;
        let policy = Some(Policy { rules: keep_last, zone: jiff::tz::TimeZone::UTC });
        let limits = Limits { unused_max: Some(Unused::Bytes(0)), repack_bytes_max: None };
        run(&storage, &PruneOptions { policy, limits, ..at_once() }).await.unwrap();
        let left = anatomy::dissect(&storage);
        let needed: BTreeSet<_> = left.snapshots[0].needs.keys().copied().collect();
        for blob in of_the_first.iter().chain(&of_others) {
            let found = who(*blob).await;
            let is_needed = needed.contains(blob);
            assert_eq!(
                (found.snapshots.len(), found.packs.len()),
                (is_needed.into(), is_needed.into()),
                "{blob}"
            );
        }
    });
}

#[test]
fn many_small_packs_and_indexes_become_few() {
    runtime().block_on(async {
        let (storage, archive, mut made) = repository_of(1).await;
        for _ in 0..12 {
            archive.change();
            let report = capture(shared(&storage), &archive).await.unwrap();
            made.push(Made { id: report.id.unwrap(), files: archive.expected() });
        }
        let before = count(&storage, ".mvidx");
        assert!(before > 8);
        let report = run(&storage, &at_once()).await.unwrap();
        assert!(report.packs.merged > 0, "{report:?}");
        assert!(count(&storage, ".mvidx") <= 2 && count(&storage, ".mvpack") <= 3, "{:?}", objects(&storage));
        let ids: Vec<&str> = made.iter().map(|made| made.id.as_str()).collect();
        expect_listed(&storage, &made, &ids, "merged").await;
    });
}

/// Lets a create sleep at each of its calls past its lock, while all it may lean on is forgotten and pruned.
async fn sleep_everywhere(options: PruneOptions) {
    let (before, archive, made) = repository_of(4).await;
    archive.change();
    // The archive is what it was for the second snapshot: the create finds much of what only that one needs.
    let clean = FaultStorage::new(shared(&copy_of(&before)));
    let counted = capture(Arc::new(clean.clone()), &archive).await.unwrap();
    assert!(counted.id.is_some());
    let calls = clean.calls();
    for (number, call) in (1u64..).zip(&calls) {
        let case = format!("asleep at call {number} of {}: {call:?}", calls.len());
        let storage = copy_of(&before);
        storage.set_clock(SystemTime::now());
        let faulty = FaultStorage::new(shared(&storage));
        faulty.at_call(number, Fault::Delay(Duration::from_secs(2 * 60 * 60)));
        let others = async {
            while faulty.call_count() < number {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            storage.advance_clock(STALE_AFTER + Duration::from_secs(60));
            keep(&storage, &[]).await;
            run(&storage, &options).await.unwrap();
        };
        let (outcome, ()) = futures::join!(capture(Arc::new(faulty.clone()), &archive), others);
        let rows = list(&opened(shared(&storage)).await.unwrap()).await.unwrap();
        let is_new = rows.iter().any(|row| made.iter().all(|made| made.id != row.id));
        assert_eq!(outcome.is_ok(), is_new, "{case}: {outcome:?}");
        storage.advance_clock(STALE_AFTER + Duration::from_secs(60));
        run(&storage, &options).await.unwrap_or_else(|error| panic!("{case}: the next prune: {error:?}"));
        assert_sound(shared(&storage), &case).await;
        if is_new {
            let new = Made { id: outcome.unwrap().id.unwrap(), files: archive.expected() };
            assert_comes_back(shared(&storage), &new, &case).await;
        }
    }
}

#[test]
fn a_create_that_slept_past_its_lock_publishes_nothing_over_a_hole() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        for options in [PruneOptions::default(), at_once()] {
            sleep_everywhere(options).await;
        }
    });
}
