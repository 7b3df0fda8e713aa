//! The danger: a ledger that is in the way of the backup it records, forgets what it promised to keep, grows without
//! end, or calls something read or proved that was not.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use rusqlite::Connection;

use super::file::{ASIDE, NAME};
use super::writing::{End, Recorded};
use super::*;

const DAY: i64 = 24 * 3600 * 1000;
const KEEP: i64 = 400 * DAY;
/// A time in 2026.
const NOW: i64 = 1_790_000_000_000;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn key() -> PlaceKey {
    PlaceKey { place: "/mnt/nas".into(), repository: Some("5d61e8af".into()) }
}

/// A run at that time that ended so.
fn run(kind: &str, at_ms: i64, exit_code: u8) -> Run {
    let seen = PlaceSeen { key: key(), location: "/mnt/nas".into(), ..PlaceSeen::default() };
    Run {
        kind: kind.into(),
        machine: "here".into(),
        archive: Some("mail".into()),
        began_ms: at_ms - 5_000,
        end: Some(End { at_ms, milliseconds: 5_000, exit_code, error: None }),
        places: vec![seen],
        ..Run::default()
    }
}

fn record(folder: &Path, run: &Run) -> RunId {
    let Recorded { id, warning } = Ledger::record(folder, None, run, KEEP);
    assert_eq!(warning, None);
    id.unwrap()
}

fn ledger(folder: &Path) -> Ledger {
    let Opened { ledger, warning } = Ledger::open(folder, Access::Read);
    assert_eq!(warning, None);
    ledger.unwrap()
}

fn all(folder: &Path) -> Vec<RunRow> {
    ledger(folder).runs(&RunFilter::default()).unwrap()
}

fn pack_read(pack: &str, bytes: u64, is_whole: bool, damaged: u64) -> PackRead {
    PackRead { pack: pack.into(), bytes, is_whole, is_looked_at: false, damaged }
}

/// A verify that found these packs there, and read so much of them.
fn reading(at_ms: i64, listed: &[(&str, u64)], reads: Vec<PackRead>) -> Run {
    let mut run = run("verify", at_ms, 0);
    run.places[0].listed = Some(listed.iter().map(|(pack, bytes)| ((*pack).into(), *bytes)).collect());
    run.places[0].reads = reads;
    run
}

#[test]
fn a_run_is_seen_while_it_works_and_whole_when_it_has_ended() {
    let folder = folder();
    let place = folder.path().join("deep/state");
    let ended = Run { snapshot: Some("s1".into()), bytes_stored: Some(7), ..run("create", NOW, 0) };
    let begun = Run { end: None, places: Vec::new(), snapshot: None, ..ended.clone() };
    let id = record(&place, &begun);
    let row = all(&place).remove(0);
    assert_eq!((row.id, row.ended_ms, row.exit_code, row.place), (id, None, None, None));
    let again = Ledger::record(&place, Some(id), &ended, KEEP);
    assert_eq!(again.id, Some(id));
    let rows = all(&place);
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!((row.ended_ms, row.exit_code, row.milliseconds), (Some(NOW), Some(0), Some(5_000)));
    assert_eq!((row.snapshot.as_deref(), row.bytes_stored), (Some("s1"), Some(7)));
    assert_eq!((row.location.as_deref(), row.repository.as_deref()), (Some("/mnt/nas"), Some("5d61e8af")));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&place), mode(&place.join(NAME))), (0o700, 0o600));
    assert_eq!(mode(&place.join(format!("{NAME}-wal"))), 0o600);
}

#[test]
fn a_ledger_that_was_deleted_meanwhile_gets_the_whole_run_and_takes_no_other_for_it() {
    let folder = folder();
    let ended = run("create", NOW, 0);
    let id = record(folder.path(), &Run { end: None, ..ended.clone() });
    for part in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(folder.path().join(format!("{NAME}{part}")));
    }
    let other = record(folder.path(), &Run { end: None, ..run("verify", NOW + 1, 0) });
    assert_eq!(other, id, "the numbers begin anew");
    assert_ne!(Ledger::record(folder.path(), Some(id), &ended, KEEP).id, Some(id));
    let kinds: Vec<(String, Option<i64>)> =
        all(folder.path()).into_iter().map(|row| (row.kind, row.exit_code)).collect();
    assert_eq!(kinds, [("create".to_owned(), Some(0)), ("verify".to_owned(), None)]);
}

#[test]
fn a_damaged_ledger_is_set_aside_once_and_a_newer_one_left_alone() {
    let folder = folder();
    let path = folder.path().join(NAME);
    for damage in 0..5 {
        record(folder.path(), &run("create", NOW, 0));
        // What is in the log goes into the file, so that the damage is not hidden by it.
        Connection::open(&path).unwrap().pragma_update(None, "wal_checkpoint", "TRUNCATE").unwrap();
        let bytes = fs::read(&path).unwrap();
        match damage {
            0 => fs::write(&path, "no database, but a text that is long enough").unwrap(),
            1 => fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
            2 => fs::write(&path, [&bytes[..4096], &vec![0x5a; bytes.len() - 4096][..]].concat()).unwrap(),
            3 => Connection::open(&path)
                .unwrap()
                .execute_batch("CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END")
                .unwrap(),
            _ => Connection::open(&path).unwrap().pragma_update(None, "application_id", 7).unwrap(),
        }
        let recorded = Ledger::record(folder.path(), None, &run("verify", NOW, 0), KEEP);
        let warning = recorded.warning.unwrap_or_else(|| panic!("damage {damage} is not said"));
        assert!(warning.contains("was damaged") && warning.contains(ASIDE), "{damage}: {warning}");
        assert!(recorded.id.is_some(), "{damage}");
        let kinds: Vec<String> = all(folder.path()).into_iter().map(|row| row.kind).collect();
        assert_eq!(kinds, ["verify"], "damage {damage}");
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.retain(|name| {
            !name.to_string_lossy().ends_with("-wal") && !name.to_string_lossy().ends_with("-shm")
        });
        left.sort();
        assert_eq!(left, [ASIDE, NAME]);
    }
    let newer = Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", schema::VERSION + 1).unwrap();
    drop(newer);
    let recorded = Ledger::record(folder.path(), None, &run("create", NOW, 0), KEEP);
    assert_eq!(recorded.id, None);
    assert!(recorded.warning.unwrap().contains("a newer packvault wrote it"));
    let rows: i64 = Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM runs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 1, "nothing was written to it");
}

#[test]
fn what_is_no_plain_file_of_ones_own_is_neither_used_nor_waited_for() {
    let folder = folder();
    let path = folder.path().join(NAME);
    let elsewhere = folder.path().join("elsewhere");
    let expect_none = |says: &str| {
        let opened = Ledger::open(folder.path(), Access::Write);
        assert!(opened.ledger.is_none(), "{says}");
        let warning = opened.warning.unwrap_or_default();
        assert!(warning.contains(says), "{says}: {warning}");
    };
    symlink(&elsewhere, &path).unwrap();
    expect_none("no plain file");
    assert!(!elsewhere.exists(), "no link was followed");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    expect_none("no plain file");
    fs::remove_dir(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    expect_none("no plain file");
    fs::remove_file(&path).unwrap();
    fs::write(&elsewhere, "").unwrap();
    fs::hard_link(&elsewhere, &path).unwrap();
    expect_none("no plain file");
    fs::remove_file(&path).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    expect_none("others can write");
}

#[test]
fn where_no_ledger_can_lie_there_is_none_and_nothing_to_say() {
    let folder = folder();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for place in [file.join("deeper"), file.clone(), "/proc/no/such/folder".into()] {
        let opened = Ledger::open(&place, Access::Write);
        assert!(
            opened.ledger.is_none() && opened.warning.is_none(),
            "{}: {:?}",
            place.display(),
            opened.warning
        );
        assert!(Ledger::open(&place, Access::Read).ledger.is_none());
    }
    assert!(Ledger::open(&folder.path().join("none"), Access::Read).ledger.is_none());
    assert!(!folder.path().join("none").exists(), "who asks makes nothing");
}

#[test]
fn a_ledger_that_another_program_holds_is_not_waited_for_long_and_then_said() {
    let folder = folder();
    record(folder.path(), &run("create", NOW, 0));
    let other = Connection::open(folder.path().join(NAME)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE; DELETE FROM runs").unwrap();
    let recorded = Ledger::record(folder.path(), None, &run("verify", NOW, 0), KEEP);
    assert!(recorded.id.is_none() && recorded.warning.unwrap().contains("cannot be written"));
    assert_eq!(all(folder.path()).len(), 1, "who asks is not held up");
}

#[test]
fn a_file_without_room_for_more_costs_the_row_and_says_so() {
    let folder = folder();
    record(folder.path(), &run("create", NOW, 0));
    let mut opened = Ledger::open(folder.path(), Access::Write).ledger.unwrap();
    let pages: i64 = opened.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    opened.connection.pragma_update(None, "max_page_count", pages).unwrap();
    let many: Vec<(String, u64)> = (0..5_000).map(|number| (format!("{number:026}"), 1)).collect();
    let mut large = run("verify", NOW, 0);
    large.places[0].listed = Some(many);
    let error = opened.write(None, &large, KEEP).unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull));
    drop(opened);
    assert_eq!(all(folder.path()).len(), 1, "a run is recorded whole or not at all");
}

#[test]
fn every_earlier_version_is_brought_to_the_present_one() {
    for version in 0..schema::STEPS.len() {
        let mut connection = Connection::open_in_memory().unwrap();
        schema::STEPS[..version].iter().for_each(|step| connection.execute_batch(step).unwrap());
        if version > 0 {
            connection.pragma_update(None, "application_id", schema::APPLICATION_ID).unwrap();
            connection.pragma_update(None, "user_version", version as i64).unwrap();
        }
        schema::migrate(&mut connection).unwrap();
        assert_eq!(schema::look(&connection).unwrap(), schema::Found::Known(schema::VERSION));
        schema::migrate(&mut connection).unwrap();
    }
}

#[test]
fn old_runs_go_and_the_newest_of_each_kind_that_was_done_stays() {
    let folder = folder();
    let old = NOW - 500 * DAY;
    let mut proved = run("restore_check", old, 0);
    proved.drills.push(Drill {
        snapshot: "s1".into(),
        archive: None,
        kind: "restore_check",
        at_ms: old,
        milliseconds: 1,
        bytes: 2,
        problem: None,
    });
    for (kind, at_ms, exit_code) in
        [("create", old, 0), ("create", old + 1, 0), ("create", old + 2, 1), ("prune", old + 3, 0)]
    {
        record(folder.path(), &run(kind, at_ms, exit_code));
    }
    record(folder.path(), &proved);
    record(folder.path(), &run("list", NOW, 0));
    let kept: Vec<(String, Option<i64>)> =
        all(folder.path()).into_iter().map(|row| (row.kind, row.ended_ms)).collect();
    let expected = [("list", NOW), ("restore_check", old), ("prune", old + 3), ("create", old + 1)];
    assert_eq!(kept, expected.map(|(kind, at_ms)| (kind.to_owned(), Some(at_ms))));
    let ledger = ledger(folder.path());
    let place = ledger.place(&key()).unwrap().unwrap().id;
    assert_eq!(ledger.newest_proved(Some("mail"), place).unwrap().unwrap().snapshot, "s1");
    assert_eq!(ledger.newest_proved(Some("other"), place).unwrap(), None);
}

#[test]
fn the_questions_of_a_status_are_answered_for_an_archive_at_a_place() {
    let folder = folder();
    for (at_ms, exit_code, snapshot) in [
        (NOW, 0, Some("s1")),
        (NOW + DAY, 4, Some("s2")),
        (NOW + 2 * DAY, 1, None),
        (NOW + 3 * DAY, 11, None),
    ] {
        let snapshot = snapshot.map(str::to_owned);
        record(folder.path(), &Run { snapshot, ..run("create", at_ms, exit_code) });
    }
    record(folder.path(), &Run { archive: Some("other".into()), ..run("create", NOW + 4 * DAY, 1) });
    let killed = Run { end: None, ..run("create", NOW + 5 * DAY, 0) };
    record(folder.path(), &killed);
    let ledger = ledger(folder.path());
    let anywhere = PlaceKey { repository: None, ..key() };
    let place = ledger.place(&anywhere).unwrap().unwrap();
    assert_eq!(place.repository, "5d61e8af");
    let made = ledger.newest_made(Some("mail"), place.id).unwrap().unwrap();
    assert_eq!((made.snapshot.as_deref(), made.is_done()), (Some("s2"), true));
    let since = made.ended_ms.unwrap();
    let failed = ledger.failures_since(Some("create"), Some("mail"), Some(place.id), since).unwrap();
    let codes: Vec<Option<i64>> = failed.into_iter().map(|row| row.exit_code).collect();
    assert_eq!(codes, [None, Some(11), Some(1)], "one that was killed counts");
    assert_eq!(ledger.last_begun("create", Some("mail"), None).unwrap().unwrap().exit_code, None);
    assert_eq!(ledger.last_done("create", None, None).unwrap().unwrap().snapshot.as_deref(), Some("s2"));
    assert_eq!(ledger.last_done("prune", None, None).unwrap(), None);
}

#[test]
fn a_copy_is_found_at_the_place_it_was_copied_to() {
    let folder = folder();
    record(folder.path(), &Run { snapshot: Some("s1".into()), ..run("create", NOW, 0) });
    let mut copy = run("copy", NOW, 0);
    copy.places[0].key.place = "b2".into();
    for snapshot in ["s1", "s0"] {
        copy.copies.push(Copied { from: Some(key()), snapshot: snapshot.into() });
    }
    record(folder.path(), &copy);
    let ledger = ledger(folder.path());
    let at = |place: &str| ledger.place(&PlaceKey { place: place.into(), ..key() }).unwrap().unwrap().id;
    let newest = ledger.newest_copied(Some("mail"), at("b2")).unwrap().unwrap();
    assert_eq!((newest.snapshot.as_str(), newest.from), ("s1", Some(at("/mnt/nas"))));
    assert_eq!(ledger.newest_copied(None, at("/mnt/nas")).unwrap(), None);
}

#[test]
fn coverage_is_what_was_read_in_that_time_and_never_more() {
    let folder = folder();
    let packs = [("a", 100), ("b", 200), ("c", 50)];
    let coverage = |since_ms, now_ms| {
        let ledger = ledger(folder.path());
        let place = ledger.place(&key()).unwrap().unwrap().id;
        ledger.coverage(place, since_ms, now_ms).unwrap()
    };
    record(
        folder.path(),
        &reading(NOW, &packs, vec![pack_read("a", 100, true, 0), pack_read("b", 30, false, 0)]),
    );
    let first = coverage(NOW, NOW);
    assert_eq!((first.packs, first.bytes, first.read_packs, first.read_bytes), (3, 350, 1, 130));
    assert_eq!((first.never_read_packs, first.known_since_ms), (2, Some(NOW)));
    // Another part of the same pack may be the same part: the larger counts, and not their sum.
    record(folder.path(), &reading(NOW + DAY, &packs, vec![pack_read("b", 40, false, 0)]));
    assert_eq!(coverage(NOW, NOW + DAY).read_bytes, 140);
    assert_eq!(coverage(NOW + DAY, NOW + DAY).read_bytes, 40);
    // A reading that the clock says lies in the future is none.
    record(folder.path(), &reading(NOW + 900 * DAY, &packs, vec![pack_read("c", 50, true, 0)]));
    assert_eq!(coverage(NOW, NOW + 2 * DAY).read_bytes, 140);
    // A pack of another length is another pack; one that is gone counts nowhere.
    let packs = [("a", 101), ("b", 200)];
    record(folder.path(), &reading(NOW + 2 * DAY, &packs, Vec::new()));
    let last = coverage(NOW, NOW + 2 * DAY);
    assert_eq!((last.packs, last.bytes, last.read_packs, last.read_bytes), (2, 301, 0, 40));
    assert_eq!(last.known_since_ms, Some(NOW));
}

#[test]
fn damage_stays_until_all_of_the_pack_was_read_and_found_sound() {
    let folder = folder();
    let packs = [("a", 100)];
    let seen = |run: Run| {
        let id = record(folder.path(), &run);
        let ledger = ledger(folder.path());
        let place = ledger.place(&key()).unwrap().unwrap().id;
        let coverage = ledger.coverage(place, NOW, NOW + DAY).unwrap();
        let rank = ledger.pack_ranks(place).unwrap()["a"];
        (coverage.damaged_packs, coverage.read_bytes, rank.is_damaged, rank.order / 2 == id)
    };
    assert_eq!(seen(reading(NOW, &packs, Vec::new())), (0, 0, false, true), "it was first seen");
    assert_eq!(seen(reading(NOW, &packs, vec![pack_read("a", 90, true, 2)])), (1, 90, true, true));
    assert_eq!(seen(reading(NOW, &packs, vec![pack_read("a", 50, false, 0)])), (1, 90, true, false));
    assert_eq!(seen(reading(NOW, &packs, vec![pack_read("a", 100, true, 0)])), (0, 100, false, true));
}

#[test]
fn an_error_is_kept_as_far_as_a_line_reaches_and_numbers_beyond_sqlites_are_its_largest() {
    let folder = folder();
    let mut failed = run("create", NOW, 1);
    failed.end.as_mut().unwrap().error = Some("ä".repeat(5_000));
    failed.bytes_stored = Some(u64::MAX);
    record(folder.path(), &failed);
    let row = all(folder.path()).remove(0);
    assert_eq!(row.error.unwrap().chars().count(), 1_001);
    assert_eq!(row.bytes_stored, Some(i64::MAX));
}
