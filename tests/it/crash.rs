//! The danger: a process, a machine or a connection dies at the wrong instant, and afterwards a listed
//! snapshot does not restore, or the next run needs somebody to repair something.
//!
//! Pass one counts the storage calls of an operation. Pass two runs it once for each of them and lets the
//! process die there, before the step or after it with the answer lost, then opens the same storage again.
//! On real servers each class of call is tried once; `PACKVAULT_FIRE=all` tries every call in every way.

#![allow(clippy::print_stdout, reason = "how many cases there were is told to who asks with --nocapture")]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;

use packvault::ErrorKind;
use packvault::engine::list::list;
use packvault_storage::retry::Unwatched;
use packvault_storage::{ErrorKind as StorageErrorKind, Fault, FaultStorage, Operation, Storage};

use crate::support::memory_repo::*;
use crate::support::scenes::*;

/// How a process ends at a call: before it, after it, or alive but without the answer, for good.
const DEATHS: [Fault; 3] = [Fault::StopBefore, Fault::StopAfter, Fault::After(StorageErrorKind::Connection)];

#[test]
fn every_operation_and_every_command_is_in_the_table() {
    let in_table: BTreeSet<&str> = ACTS.iter().map(|act| act.operation()).collect();
    let engine = include_str!("../../src/engine/mod.rs");
    let modules = engine.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let operations: BTreeSet<&str> = modules.filter(|name| !NO_OPERATIONS.contains(name)).collect();
    assert_eq!(operations, in_table, "the engine's operations and tests/it/support/scenes.rs");

    let help = Command::new(env!("CARGO_BIN_EXE_packvault")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands = commands.take_while(|line| !line.is_empty());
    // Deeper lines go on with the words of the one before.
    let names = commands.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let named: BTreeSet<&str> = names.filter_map(|line| line.split_whitespace().next()).collect();
    let without: BTreeSet<&str> =
        NO_REPOSITORY.into_iter().chain(OTHER_TABLES).chain(LOOKS).chain(["help"]).collect();
    assert!(without.is_subset(&named), "{named:?}");
    let commands: BTreeSet<&str> = named.difference(&without).copied().collect();
    assert_eq!(commands, in_table, "the program's commands and tests/it/support/scenes.rs");
}

/// Lets the process die at every `stride`th call of the act, in every way, then opens the storage again.
async fn die_everywhere(ground: Ground, play: impl Into<Play>, stride: u64) {
    let scene = Scene::new(play).await;
    let act = scene.act;
    let as_it_is = |storage| storage;
    let calls = scene.calls_on(&ground, as_it_is).await.len() as u64;
    assert!(calls > 0, "{act:?}");
    let mut cases = 0;
    for number in 1..=calls {
        for death in DEATHS {
            cases += 1;
            // The last calls are those of the commit, and of giving the lock back.
            if cases % stride == 0 || number + 2 >= calls {
                die_at(&scene, &ground, as_it_is, (number, calls), death).await;
            }
        }
    }
}

/// Lets the process die there, below what `line` puts above the ground, then opens the storage again.
async fn die_at(
    scene: &Scene,
    ground: &Ground,
    line: impl Fn(Arc<dyn Storage>) -> Arc<dyn Storage>,
    (number, calls): (u64, u64),
    death: Fault,
) {
    let plot = ground().await;
    scene.sow(&plot.storage).await;
    let faulty = FaultStorage::new(plot.storage.clone());
    faulty.at_call(number, death);
    let outcome = scene.run_and_listen(line(Arc::new(faulty.clone())), &context()).await;
    let died_at = faulty.calls().get(number as usize - 1).cloned();
    let case = format!("{:?}: {death:?} at call {number} of {calls}, {died_at:?}", scene.act);
    if let Ok(warnings) = outcome {
        if faulty.is_stopped() {
            expect_told_of_the_lock(&faulty.calls(), number, &warnings, &case);
        }
        scene.expect_whole(&plot, &case).await;
    }
    scene.expect_order(&plot, &case).await;
}

/// Expects that nothing but giving the lock back has failed, from that call on, and that a warning says so.
fn expect_told_of_the_lock(calls: &[(Operation, String)], number: u64, warnings: &[String], case: &str) {
    let (done, failed) = calls.split_at(number as usize - 1);
    let is_of_a_lock = |(_, object): &(Operation, String)| object.starts_with("locks/");
    // The lock is taken at calls on locks as well, but before the work.
    let is_of_the_work = |(_, object): &(Operation, String)| {
        ["snapshots/", "packs/"].iter().any(|folder| object.starts_with(folder))
    };
    let has_worked = done.iter().any(is_of_a_lock) && done.iter().any(is_of_the_work);
    assert!(has_worked && failed.iter().all(is_of_a_lock), "{case}: nobody is told: {failed:?}");
    let is_told = warnings.iter().any(|text| text.starts_with("the lock of this command stays behind; "));
    assert!(is_told, "{case}: nobody is told of the lock: {warnings:?}");
}

/// The same on a real server, below the retries and the spool that production has: one way to die at each
/// class of call of each operation, or every way at every call.
async fn die_on_a_server(ground: Ground, acts: &[Act]) {
    let line = |storage| spooled_line(storage, quick_retries(), Arc::new(Unwatched));
    let (mut picked, mut cases) = (Picked::default(), 0);
    for act in acts {
        let scene = Scene::new(*act).await;
        let calls = scene.calls_on(&ground, line).await;
        for number in picked.of(*act, &calls) {
            for (turn, death) in DEATHS.into_iter().enumerate() {
                if runs_everything() || turn == cases % DEATHS.len() {
                    die_at(&scene, &ground, line, (number, calls.len() as u64), death).await;
                }
            }
            cases += 1;
        }
        println!("{act:?}: {} calls, died at {cases} since the beginning", calls.len());
    }
    assert!(cases > 0, "no call was found to die at");
}

/// Tells how far apart the deaths are of an act that makes very many calls.
fn one_of(stride: u64) -> u64 {
    if runs_everything() { 1 } else { stride }
}

#[test]
fn a_death_at_any_call_of_init_leaves_a_repository_or_none() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Init, 1).await;
        die_everywhere(in_memory(), Act::InitAgain, 1).await;
    });
}

#[test]
fn a_death_at_any_call_of_the_first_create_leaves_no_snapshot_or_a_whole_one() {
    runtime().block_on(die_everywhere(in_memory(), Act::FirstCreate, 1));
}

#[test]
fn a_death_at_any_call_of_a_later_create_leaves_the_old_snapshots_or_one_more() {
    runtime().block_on(die_everywhere(in_memory(), Act::LaterCreate, 1));
}

#[test]
fn a_death_at_any_call_of_a_create_that_finds_nothing_new_leaves_the_old_snapshots_or_one_more() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::UnchangedCreate, 1).await;
        die_everywhere(in_memory(), Act::DryRun, 2).await;
    });
}

#[test]
fn a_death_at_any_call_of_a_list_or_a_verify_changes_nothing() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::List, 1).await;
        die_everywhere(in_memory(), Act::Verify, 1).await;
        die_everywhere(in_memory(), Act::QuickVerify, 2).await;
    });
}

#[test]
fn a_death_at_any_call_of_a_restore_leaves_the_target_untouched_or_whole() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Restore, 1).await;
        die_everywhere(in_memory(), Act::RestoreOver, 2).await;
    });
}

#[test]
fn a_death_at_any_call_of_an_unlock_leaves_locks_that_the_next_one_can_do_without() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Unlock, 1).await;
        die_everywhere(in_lesser_memory(), Act::Unlock, 1).await;
    });
}

#[test]
fn a_death_at_any_call_of_a_forget_leaves_what_is_shown_whole_and_the_next_one_goes_on() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Forget, one_of(3)).await;
        die_everywhere(in_lesser_memory(), Act::Forget, one_of(7)).await;
        die_everywhere(in_memory(), Act::Forget.encrypted(), one_of(11)).await;
        die_everywhere(in_memory(), Act::ForgetDryRun, one_of(3)).await;
    });
}

#[test]
fn a_death_at_any_call_of_a_prune_leaves_every_snapshot_whole_and_the_next_one_goes_on() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Prune, one_of(9)).await;
        die_everywhere(in_lesser_memory(), Act::Prune, one_of(23)).await;
        die_everywhere(in_memory(), Act::Prune.encrypted(), one_of(23)).await;
        die_everywhere(in_memory(), Act::PruneDryRun, one_of(7)).await;
    });
}

#[test]
fn a_death_at_any_call_of_a_squash_leaves_every_snapshot_whole_and_the_next_one_goes_on() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Squash, one_of(17)).await;
        die_everywhere(in_lesser_memory(), Act::Squash, one_of(41)).await;
        die_everywhere(in_memory(), Act::Squash.encrypted(), one_of(41)).await;
    });
}

#[test]
fn a_death_at_any_call_of_a_copy_leaves_whole_snapshots_and_the_next_one_goes_on() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Copy, one_of(7)).await;
        die_everywhere(in_memory(), Act::Copy.encrypted(), one_of(17)).await;
        die_everywhere(in_lesser_memory(), Act::Copy, one_of(17)).await;
        die_everywhere(in_memory(), Act::CopyAway, one_of(11)).await;
    });
}

#[test]
fn a_death_at_any_call_of_a_heal_or_a_repair_loses_nothing_and_the_next_one_goes_on() {
    runtime().block_on(async {
        for act in [Act::Heal, Act::Repair] {
            die_everywhere(in_memory(), act, one_of(7)).await;
            die_everywhere(in_memory(), act.encrypted(), one_of(17)).await;
            die_everywhere(in_lesser_memory(), act, one_of(13)).await;
        }
    });
}

#[test]
fn a_death_at_any_call_leaves_order_on_a_store_without_renames_too() {
    runtime().block_on(async {
        die_everywhere(in_lesser_memory(), Act::Init, 1).await;
        die_everywhere(in_lesser_memory(), Act::FirstCreate, one_of(3)).await;
        die_everywhere(in_lesser_memory(), Act::Verify, one_of(3)).await;
        die_everywhere(in_lesser_memory(), Act::LaterCreate, one_of(5)).await;
        die_everywhere(in_lesser_memory(), Act::Restore, one_of(5)).await;
    });
}

#[test]
fn a_death_at_any_call_leaves_order_in_an_encrypted_repository_too() {
    runtime().block_on(async {
        die_everywhere(in_memory(), Act::Init.encrypted(), 1).await;
        die_everywhere(in_lesser_memory(), Act::Init.encrypted(), 1).await;
        die_everywhere(in_a_folder(), Act::Init.encrypted(), 2).await;
        die_everywhere(in_memory(), Act::InitAgain.encrypted(), 1).await;
        die_everywhere(in_memory(), Act::FirstCreate.encrypted(), one_of(5)).await;
        for act in [Act::LaterCreate, Act::UnchangedCreate, Act::DryRun, Act::Forget] {
            die_everywhere(in_memory(), act.encrypted(), one_of(13)).await;
        }
        for act in [Act::List, Act::Verify, Act::QuickVerify, Act::Restore, Act::RestoreOver, Act::Unlock] {
            die_everywhere(in_memory(), act.encrypted(), one_of(13)).await;
        }
    });
}

#[test]
fn a_death_during_any_operation_on_a_folder_leaves_what_the_next_create_clears_away() {
    runtime().block_on(async {
        for act in ACTS {
            let stride = one_of(if act.is_long() { 97 } else { 29 });
            die_everywhere(in_a_folder(), act, stride).await;
        }
    });
}

/// Runs the cases on the ground, unless its server is missing.
fn on_a_server(ground: Option<Ground>, acts: &[Act]) {
    if let Some(ground) = ground {
        runtime().block_on(die_on_a_server(ground, acts));
    }
}

#[test]
fn a_death_during_a_create_on_a_real_s3_server_leaves_whole_snapshots() {
    on_a_server(crate::support::server_grounds::on_s3(), &acts(true));
}

#[test]
fn a_death_during_anything_else_on_a_real_s3_server_leaves_order() {
    on_a_server(crate::support::server_grounds::on_s3(), &acts(false));
}

#[test]
fn a_death_during_a_create_on_a_real_sftp_server_leaves_whole_snapshots() {
    on_a_server(crate::support::server_grounds::on_sftp(), &acts(true));
}

#[test]
fn a_death_during_anything_else_on_a_real_sftp_server_leaves_order() {
    on_a_server(crate::support::server_grounds::on_sftp(), &acts(false));
}

/// Lets every write, or every call, fail from some point on, for good.
async fn fail_for_good(play: impl Into<Play>, kind: StorageErrorKind) {
    let scene = Scene::new(play).await;
    let act = scene.act;
    let calls = scene.calls_on(&in_memory(), |storage| storage).await.len() as u64;
    // Whoever may not do something is told so, and not that the storage is broken.
    let told = if kind == StorageErrorKind::Denied { ErrorKind::NotPermitted } else { ErrorKind::Io };
    let is_write = |asked: Operation| {
        use Operation::{Create, Replace, Seal, Stage, Write};
        matches!(asked, Create | Stage | Write | Seal | Replace)
    };
    for skipped in 0..calls {
        let storage = copy_of(&scene.before);
        let faulty = FaultStorage::new(shared(&storage));
        for _ in 0..200 {
            faulty.at_match(skipped, Fault::Before(kind), move |asked, _| {
                kind != StorageErrorKind::Full || is_write(asked)
            });
        }
        let outcome = scene.run_and_listen(Arc::new(faulty.clone()), &context()).await;
        let case = format!("{act:?}: {kind:?} after {skipped} calls that went well");
        match outcome {
            Ok(_) if kind == StorageErrorKind::Full => break,
            Ok(warnings) => {
                expect_told_of_the_lock(&faulty.calls(), skipped + 1, &warnings, &case);
                scene.expect_whole(&Plot::of(&storage), &case).await;
            }
            Err(error) => {
                let text = error.chain();
                assert_eq!(error.kind(), told, "{case}: {text}");
                assert!(text.contains("a test lets it fail") && !text.contains('\n'), "{case}: {text}");
            }
        }
        let repository = opened(shared(&storage)).await.unwrap();
        let rows = list(&repository).await.unwrap();
        assert!(rows.len() - scene.made.len() <= 1, "{case}");
        assert!(rows.iter().all(|row| row.problem.is_none()), "{case}");
        if kind == StorageErrorKind::Full {
            // Without room nothing can be added, but everything that was begun can be taken away.
            assert_eq!(rows.len(), scene.made.len(), "{case}");
            assert_eq!(storage.unfinished_uploads(), 0, "{case}");
            let left = storage.objects().into_iter().map(|(key, _)| key.to_string());
            assert!(left.into_iter().all(|key| !key.starts_with("locks/")), "{case}: a lock stays behind");
        }
        if skipped % 3 == 0 {
            scene.expect_order(&Plot::of(&storage), &case).await;
        }
    }
}

#[test]
fn a_full_storage_is_one_clear_error_and_leaves_nothing_behind() {
    runtime().block_on(async {
        fail_for_good(Act::FirstCreate, StorageErrorKind::Full).await;
        fail_for_good(Act::LaterCreate, StorageErrorKind::Full).await;
        fail_for_good(Act::LaterCreate.encrypted(), StorageErrorKind::Full).await;
    });
}

#[test]
fn a_storage_that_denies_everything_is_one_clear_error() {
    runtime().block_on(async {
        for act in [Act::FirstCreate, Act::LaterCreate, Act::Verify, Act::Restore] {
            fail_for_good(act, StorageErrorKind::Denied).await;
        }
        fail_for_good(Act::LaterCreate.encrypted(), StorageErrorKind::Denied).await;
    });
}
