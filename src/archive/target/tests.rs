//! Targets on a real file system: staged, put in place, given up, found again.

use std::cell::RefCell;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use rusqlite::Connection;
use rustix::fs::fstat;

use super::entry::Entry;
use super::journal::{Journal, MERGED, OLD};
use super::leftovers::{find_unfinished, is_temporary_database};
use super::*;
use crate::archive::beneath::open_folder;

const ULID: &str = "01arz3ndektsv4rrffq69g5fav";

thread_local! {
    /// The folders that were synced, each with what it held then.
    static SYNCED: RefCell<Vec<(u64, Vec<String>)>> = const { RefCell::new(Vec::new()) };
}

/// Notes that a folder, or everything below it, was made durable.
pub(super) fn note(folder: &OwnedFd) {
    let held = (fstat(folder).unwrap().st_ino, names(folder, Path::new("synced")).unwrap());
    SYNCED.with_borrow_mut(|synced| synced.push(held));
}

fn policy(overwrite: bool) -> TargetPolicy {
    let ownership_names = vec!["daemon.lock".to_owned()];
    TargetPolicy { overwrite, database_name: "a.db".to_owned(), ownership_names, ..TargetPolicy::default() }
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_refused_home_gets_no_lock_files() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("a.db"), "live").unwrap();
    let policy = TargetPolicy { live_homes: vec![home.path().to_owned().into()], ..policy(false) };
    let error = Target::open(home.path(), &policy, ULID).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(names_in(home.path()), ["a.db"]);
}

#[test]
fn a_folder_in_the_place_of_a_sidecar_is_refused_before_anything_moves() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.db"), "old").unwrap();
    std::fs::create_dir(folder.path().join("a.db-wal")).unwrap();
    let target = Target::open(folder.path(), &policy(true), ULID).unwrap();
    target.stage_file("a.db", 0o600).unwrap().write_all(b"new").unwrap();
    let error = target.check_merge().unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("a.db-wal"), "{error}");
    target.discard();
    assert_eq!(names_in(folder.path()), ["a.db", "a.db-wal"]);
    assert_eq!(std::fs::read(folder.path().join("a.db")).unwrap(), b"old");
}

#[test]
fn folders_that_were_made_go_with_a_restore_that_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one/two/three/");
    let target = Target::open(&path, &policy(false), ULID).unwrap();
    target.stage_file("attachments/ab/cd", 0o600).unwrap();
    target.discard();
    assert!(names_in(folder.path()).is_empty());
    target.stage_file("attachments/ab/ef", 0o600).expect_err("a late worker makes nothing");
    drop(target);
    assert!(names_in(folder.path()).is_empty());
    let target = Target::open(&path, &policy(false), ULID).unwrap();
    target.stage_file("a.db", 0o600).unwrap().write_all(b"new").unwrap();
    target.stage_file("deletions/x", 0o400).unwrap();
    target.check_merge().unwrap();
    target.publish().unwrap();
    assert_eq!(names_in(&path), ["a.db", "deletions"]);
}

#[test]
fn what_a_killed_restore_left_behind_is_removed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join(".packvault-restore-01arz3ndektsv4rrffq69g5faw/attachments");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("half"), "x").unwrap();
    std::os::unix::fs::symlink("/", left.join("link")).unwrap();
    let target = Target::open(folder.path(), &policy(false), ULID).unwrap();
    target.discard();
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn what_is_put_in_place_is_durable_with_the_folders_that_were_made_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("one/two");
    let synced = |folder: &Path| (std::fs::metadata(folder).unwrap().ino(), names_in(folder));
    let target = Target::open(&path, &policy(false), ULID).unwrap();
    target.stage_file("a.db", 0o600).unwrap().write_all(b"new").unwrap();
    target.stage_file("deletions/x", 0o400).unwrap();
    let staging = (target.path().join(&target.staging_name), [MERGED, NEW, OLD].map(String::from).to_vec());
    let staging = (std::fs::metadata(&staging.0).unwrap().ino(), staging.1);
    target.sync_staged().unwrap();
    assert_eq!(SYNCED.take(), std::slice::from_ref(&staging));
    target.check_merge().unwrap();
    let (inode, staging_name) = (std::fs::metadata(&path).unwrap().ino(), target.staging_name.clone());
    target.publish().unwrap();
    let with_staging = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned());
        (inode, std::iter::once(staging_name.clone()).chain(names).collect::<Vec<_>>())
    };
    assert_eq!(
        SYNCED.take(),
        [
            staging,
            with_staging(&["deletions"]),
            with_staging(&["a.db", "deletions"]),
            with_staging(&["a.db", "deletions"]),
            synced(folder.path()),
            synced(&folder.path().join("one"))
        ],
        "what was kept, the files, the database, everything, and the folders that were made, in their parents"
    );
    assert_eq!(names_in(&path), ["a.db", "deletions"]);
}

#[test]
fn a_target_that_another_folder_has_replaced_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("target"), folder.path().join("moved"));
    let target = Target::open(&path, &policy(false), ULID).unwrap();
    target.stage_file("a.db", 0o600).unwrap();
    std::fs::rename(&path, &moved).unwrap();
    std::fs::create_dir(&path).unwrap();
    for refused in [target.check_merge(), target.publish().map(drop)] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Refused);
    }
    assert!(names_in(&path).is_empty());
    assert!(!moved.join("a.db").exists());
}

#[test]
fn what_another_mount_shows_is_not_merged_into() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("attachments")).unwrap();
    let held = open_folder(folder.path()).unwrap();
    let shown = folder.path().join("attachments");
    let (of_folder, found) = (Entry::of(&held, folder.path()), Entry::find(&held, "attachments", &shown));
    let (of_folder, found) = (of_folder.unwrap(), found.unwrap().unwrap());
    obstacles::check_mount(&of_folder, &found, &shown).unwrap();
    let error =
        obstacles::check_mount(&of_folder, &Entry { mount: found.mount + 1, ..found }, &shown).unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("attachments"), "{error}");
}

#[test]
fn only_what_the_other_engine_names_its_temporary_databases_is_removed_as_one() {
    let left = format!("a.db.restore-{ULID}");
    assert!(is_temporary_database(&left, "a.db"));
    assert!(is_temporary_database(&format!("a.db-wal.restore-{ULID}"), "a.db"));
    for kept in [
        "a.db",
        "a.db-wal",
        "a.db.restore-yesterday",
        "a.db.restore-01arz3ndektsv4rrffq69g5fa",
        "a.db.restore-01arz3ndektsv4rrffq69g5favv",
        "a.db.restore-01arz3ndektsv4rrffq69g5f.v",
        "b.db.restore-01arz3ndektsv4rrffq69g5fav",
    ] {
        assert!(!is_temporary_database(kept, "a.db"), "{kept}");
    }
}

/// How the databases of these tests are made: they need not outlive a power cut.
fn scratch_database(path: &Path, settings: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    connection.execute_batch(settings).unwrap();
    connection
}

/// Adds rows in one transaction.
fn add_rows(connection: &Connection, tag: &str, count: u32) {
    let numbers = format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) \
         INSERT INTO t SELECT ?1 FROM n"
    );
    connection.execute(&numbers, [tag]).unwrap();
}

/// Makes a database of two hundred rows that say `tag`; half of them lie in its log, as after a crash.
fn crashed(path: &Path, tag: &str) {
    let settings = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (v TEXT)";
    let connection = scratch_database(path, settings);
    add_rows(&connection, tag, 100);
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    add_rows(&connection, tag, 100);
    keep_sidecars(path, &["-wal"], connection);
}

/// Closes a connection as a crash would: the files stay as they are.
fn keep_sidecars(path: &Path, sidecars: &[&str], connection: Connection) {
    let with = |ending: &str| PathBuf::from(format!("{}{ending}", path.display()));
    for ending in sidecars.iter().chain(&[""]) {
        std::fs::copy(with(ending), with(&format!("{ending}.kept"))).unwrap();
    }
    drop(connection);
    for ending in sidecars.iter().chain(&[""]) {
        std::fs::rename(with(&format!("{ending}.kept")), with(ending)).unwrap();
    }
    let _ = std::fs::remove_file(with("-shm"));
}

/// Makes a database that was killed in the middle of a transaction: half of it is on the disk.
fn killed_in_transaction(path: &Path, tag: &str) {
    let settings = "CREATE TABLE t (v TEXT); PRAGMA cache_size = 1; PRAGMA cache_spill = 1";
    let connection = scratch_database(path, settings);
    add_rows(&connection, tag, 200);
    connection.execute_batch("BEGIN; UPDATE t SET v = hex(zeroblob(2000))").unwrap();
    keep_sidecars(path, &["-journal"], connection);
}

/// Makes a database at rest.
fn at_rest(path: &Path, tag: &str) {
    add_rows(&scratch_database(path, "CREATE TABLE t (v TEXT)"), tag, 200);
}

/// Returns what an application would find there, looking at a copy.
fn rows(path: &Path) -> Vec<(String, i64)> {
    let copy = tempfile::tempdir().unwrap();
    for ending in ["", "-wal", "-journal"] {
        let from = PathBuf::from(format!("{}{ending}", path.display()));
        if from.exists() {
            std::fs::copy(from, copy.path().join(format!("db{ending}"))).unwrap();
        }
    }
    let connection = Connection::open(copy.path().join("db")).unwrap();
    let mut statement = connection.prepare("SELECT v, count(*) FROM t GROUP BY v").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

/// Returns every file below a folder with its bytes, without what restores stage.
fn files(folder: &Path) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), std::fs::read(path).unwrap());
            }
        }
    }
    found
}

/// The databases of a target: that of the application, in a folder, and one among the files.
const DATABASES: [&str; 2] = ["data/a.db", "side.db"];

fn nested(overwrite: bool) -> TargetPolicy {
    TargetPolicy { overwrite, database_name: DATABASES[0].to_owned(), ..TargetPolicy::default() }
}

/// Makes an old archive in a folder.
fn old_archive(folder: &Path, database: fn(&Path, &str)) {
    std::fs::create_dir_all(folder.join("data")).unwrap();
    std::fs::create_dir_all(folder.join("f")).unwrap();
    DATABASES.iter().for_each(|name| database(&folder.join(name), "old"));
    for file in ["f/1", "f/2", "mine"] {
        std::fs::write(folder.join(file), "old").unwrap();
    }
}

/// Stages a new archive; `g` is a folder that the old one has not.
fn stage_new(path: &Path) -> Target {
    let target = Target::open(path, &nested(true), ULID).unwrap();
    let new = tempfile::tempdir().unwrap();
    for name in DATABASES {
        at_rest(&new.path().join("db"), "new");
        let bytes = std::fs::read(new.path().join("db")).unwrap();
        target.stage_file(name, 0o600).unwrap().write_all(&bytes).unwrap();
        std::fs::remove_file(new.path().join("db")).unwrap();
    }
    for file in ["f/1", "f/2", "g/1", "g/h/2"] {
        target.stage_file(file, 0o600).unwrap().write_all(b"new").unwrap();
    }
    target
}

/// Takes the first steps of what is staged, as a restore that is killed then; tells how many there are.
fn take(target: &Target, count: usize) -> usize {
    let mut plan = target.plan().unwrap();
    let reached = target.real_path.join(&target.staging_name);
    target.grounds.prepare(&mut plan, &reached).unwrap();
    let journal = Journal::new(plan);
    journal.write(&target.grounds.staging, &target.grounds.staging_path).unwrap();
    for (number, step) in journal.steps.iter().enumerate().take(count) {
        target.grounds.take(number, step).unwrap();
    }
    journal.steps.len()
}

#[test]
fn killed_after_any_step_an_application_finds_the_old_database_with_its_log_or_the_new_and_the_next_command_too()
 {
    for database in [crashed as fn(&Path, &str), killed_in_transaction, at_rest] {
        let mut count = 0;
        loop {
            let folder = tempfile::tempdir().unwrap();
            old_archive(folder.path(), database);
            let before = files(folder.path());
            let names = names_in(folder.path());
            let target = stage_new(folder.path());
            let steps = take(&target, count);
            drop(target);
            let committed = count >= steps;
            for name in DATABASES {
                let found = rows(&folder.path().join(name));
                let (old, new) = (("old".to_owned(), 200), ("new".to_owned(), 200));
                assert!(
                    found == [old.clone()] || found == [new],
                    "{name} after {count} of {steps}: {found:?}"
                );
                let is_main = name == DATABASES[0];
                assert!(!is_main || (found == [old]) != committed, "{count} of {steps}: {found:?}");
            }
            let unfinished = find_unfinished(folder.path()).unwrap();
            // What is complete is an archive like any other, although its staging is still there.
            assert_eq!(unfinished.is_some(), !committed, "{count} of {steps}");
            // A restore that comes to nothing.
            Target::open(folder.path(), &nested(true), ULID).unwrap().discard();
            if committed {
                let new = DATABASES.map(|name| rows(&folder.path().join(name)));
                assert!(new.iter().all(|rows| *rows == [("new".to_owned(), 200)]), "{new:?}");
                assert_eq!(std::fs::read(folder.path().join("g/h/2")).unwrap(), b"new");
                assert_eq!(names_in(&folder.path().join("data")), ["a.db"]);
                break;
            }
            assert!(
                files(folder.path()) == before,
                "after {count} of {steps} steps: {:?}",
                names_in(folder.path())
            );
            assert_eq!(names_in(folder.path()), names);
            count += 1;
        }
        assert!(count > 8);
    }
}

/// Stages files of which none is the application's database; one is a database of its own.
fn stage_part(path: &Path) -> Target {
    let policy = TargetPolicy { without_database: true, ..nested(true) };
    let target = Target::open(path, &policy, ULID).unwrap();
    let new = tempfile::tempdir().unwrap();
    at_rest(&new.path().join("db"), "new");
    let bytes = std::fs::read(new.path().join("db")).unwrap();
    target.stage_file("side.db", 0o600).unwrap().write_all(&bytes).unwrap();
    for file in ["f/1", "g/1"] {
        target.stage_file(file, 0o600).unwrap().write_all(b"new").unwrap();
    }
    target
}

#[test]
fn a_part_without_the_database_is_in_place_as_a_whole_or_not_at_all() {
    let mut count = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        old_archive(folder.path(), crashed);
        let before = files(folder.path());
        let target = stage_part(folder.path());
        let steps = take(&target, count);
        drop(target);
        assert_eq!(rows(&folder.path().join(DATABASES[0])), [("old".to_owned(), 200)]);
        let is_unfinished = find_unfinished(folder.path()).unwrap().is_some();
        assert_eq!(is_unfinished, count < steps, "{count} of {steps}");
        Target::open(folder.path(), &nested(true), ULID).unwrap().discard();
        if count >= steps {
            assert_eq!(rows(&folder.path().join("side.db")), [("new".to_owned(), 200)]);
            let read = |file: &str| std::fs::read(folder.path().join(file)).unwrap();
            assert_eq!([read("f/1"), read("g/1"), read("f/2")], [&b"new"[..], b"new", b"old"]);
            break;
        }
        assert!(files(folder.path()) == before, "after {count} of {steps} steps");
        count += 1;
    }
    assert!(count > 4);
}

#[test]
fn a_part_is_published_beside_a_database_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    old_archive(folder.path(), crashed);
    let target = stage_part(folder.path());
    target.check_merge().unwrap();
    target.publish().unwrap();
    assert_eq!(rows(&folder.path().join(DATABASES[0])), [("old".to_owned(), 200)]);
    assert!(folder.path().join("data/a.db-wal").exists(), "its log is nobody's business");
    assert_eq!(rows(&folder.path().join("side.db")), [("new".to_owned(), 200)]);
    let empty = tempfile::tempdir().unwrap();
    let policy = TargetPolicy { without_database: true, ..nested(false) };
    let target = Target::open(empty.path(), &policy, ULID).unwrap();
    assert_eq!(target.check_merge().unwrap_err().kind(), ErrorKind::Io, "nothing is no part");
    target.discard();
}

#[test]
fn a_step_that_fails_has_all_before_it_undone() {
    let folder = tempfile::tempdir().unwrap();
    old_archive(folder.path(), crashed);
    let before = files(folder.path());
    let target = stage_new(folder.path());
    let mut plan = target.plan().unwrap();
    let reached = target.real_path.join(&target.staging_name);
    target.grounds.prepare(&mut plan, &reached).unwrap();
    // The very last: what is to be replaced is no longer what it was.
    let last = plan.steps.last_mut().unwrap();
    last.was = last.was.map(|was| entry::Seen { bytes: was.bytes + 1, ..was });
    let journal = Journal::new(plan);
    journal.write(&target.grounds.staging, &target.grounds.staging_path).unwrap();
    let error = target.grounds.take_all(&journal).unwrap_err();
    assert!(error.to_string().contains("it changed while it was restored over"), "{error}");
    assert_eq!(target.put_back(&journal, error).kind(), ErrorKind::Refused);
    target.discard();
    assert!(files(folder.path()) == before);
    assert!(!names_in(folder.path()).iter().any(|name| name.starts_with('.')));
}

#[test]
fn what_an_application_wrote_after_the_kill_is_kept() {
    let add = |path: &Path| {
        let connection = Connection::open(path).unwrap();
        connection.execute("INSERT INTO t VALUES ('later')", []).unwrap();
    };
    let mut count = 0;
    loop {
        let folder = tempfile::tempdir().unwrap();
        old_archive(folder.path(), crashed);
        let target = stage_new(folder.path());
        let steps = take(&target, count);
        drop(target);
        let side_was_new = rows(&folder.path().join("side.db"))[0].0 == "new";
        DATABASES.iter().for_each(|name| add(&folder.path().join(name)));
        let has_new_file = folder.path().join("g").exists();
        if has_new_file {
            std::fs::write(folder.path().join("g/h/later"), "later").unwrap();
        }
        std::fs::write(folder.path().join("f/1"), "later").unwrap();
        let mut target = Target::open(folder.path(), &nested(true), ULID).unwrap();
        let remarks = std::mem::take(&mut target.remarks);
        target.discard();
        let case = format!("{count} of {steps}: {remarks:?}");
        for name in DATABASES {
            let found = rows(&folder.path().join(name));
            assert!(found.contains(&("later".to_owned(), 1)), "{name}, {case}: {found:?}");
            let word = if count >= steps || name == "side.db" && side_was_new { "new" } else { "old" };
            assert!(found.contains(&(word.to_owned(), 200)), "{name}, {case}: {found:?}");
        }
        assert_eq!(std::fs::read(folder.path().join("f/1")).unwrap(), b"later", "{case}");
        assert_eq!(has_new_file, folder.path().join("g/h/later").exists(), "{case}");
        let beside = folder.path().join(format!("side.db.before-restore-{ULID}"));
        if side_was_new && count < steps {
            assert_eq!(rows(&beside), [("old".to_owned(), 200)], "{case}");
        }
        count += 1;
        if count > steps {
            break;
        }
    }
}

#[test]
fn a_log_that_an_earlier_version_had_set_aside_is_put_back_before_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    old_archive(folder.path(), crashed);
    let before = files(folder.path());
    let log = folder.path().join("data/a.db-wal");
    std::fs::rename(&log, folder.path().join(format!("data/a.db-wal.restore-{ULID}"))).unwrap();
    let left = folder.path().join(format!("{STAGING_PREFIX}{ULID}/data"));
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("a.db"), "staged").unwrap();
    Target::open(folder.path(), &nested(true), "01arz3ndektsv4rrffq69g5faw").unwrap().discard();
    assert!(files(folder.path()) == before);
}

#[test]
fn a_log_of_no_database_is_not_left_for_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    crashed(&folder.path().join("a.db"), "old");
    std::fs::remove_file(folder.path().join("a.db")).unwrap();
    let target = Target::open(folder.path(), &policy(true), ULID).unwrap();
    let new = tempfile::tempdir().unwrap();
    at_rest(&new.path().join("db"), "new");
    let bytes = std::fs::read(new.path().join("db")).unwrap();
    target.stage_file("a.db", 0o600).unwrap().write_all(&bytes).unwrap();
    target.publish().unwrap();
    assert_eq!(names_in(folder.path()), ["a.db"]);
    assert_eq!(rows(&folder.path().join("a.db")), [("new".to_owned(), 200)]);
}

#[test]
fn a_database_that_another_program_has_open_is_not_restored_over_unless_that_is_forced() {
    let folder = tempfile::tempdir().unwrap();
    old_archive(folder.path(), at_rest);
    let open = std::fs::OpenOptions::new().append(true).open(folder.path().join(DATABASES[0])).unwrap();
    let mut child =
        std::process::Command::new("cat").stdin(std::process::Stdio::piped()).stdout(open).spawn().unwrap();
    let error = Target::open(folder.path(), &nested(true), ULID).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains(&format!("process {}, cat", child.id())), "{error}");
    let forced = TargetPolicy { force: true, ..nested(true) };
    Target::open(folder.path(), &forced, ULID).unwrap().discard();
    drop(child.stdin.take());
    child.wait().unwrap();
    Target::open(folder.path(), &nested(true), ULID).unwrap().discard();
}

#[test]
fn a_journal_that_somebody_else_may_have_written_is_not_followed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    old_archive(folder.path(), at_rest);
    let target = stage_new(folder.path());
    take(&target, 3);
    let staging = target.path().join(&target.staging_name);
    drop(target);
    std::fs::set_permissions(&staging, PermissionsExt::from_mode(0o777)).unwrap();
    let before = files(folder.path());
    let error = Target::open(folder.path(), &nested(true), ULID).unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains(STAGING_PREFIX), "{error}");
    assert!(files(folder.path()) == before);
}

#[test]
fn a_deep_tree_is_removed_with_few_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    let mut deep = folder.path().join("top");
    for _ in 0..200 {
        deep.push("d");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "x").unwrap();
    }
    let held = open_folder(folder.path()).unwrap();
    remove_tree(&held, "top", &deep).unwrap();
    assert!(names_in(folder.path()).is_empty());
}

#[test]
fn a_target_that_is_the_repository_or_lies_in_it_or_holds_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let repository = folder.path().join("backup/repository");
    for name in ["packs/00", "indexes", "snapshots", "locks"] {
        std::fs::create_dir_all(repository.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&repository, folder.path().join("link")).unwrap();
    let check = |target: &str| apart::check_apart(&folder.path().join(target), Some(&repository));
    for target in ["backup/repository", "backup/repository/new/deep", "link/packs", "link/new", "backup", ""]
    {
        let error = check(target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{target}: {error}");
    }
    for target in ["backup/other", "elsewhere", "backup/repository2"] {
        check(target).unwrap();
    }
    // Another repository is one as well.
    let config = "repo_id = \"5d61e8af-fa85-4c85-a408-d2e53ac0ed20\"\n";
    std::fs::write(repository.join("config.toml"), config).unwrap();
    let error = apart::check_apart(&repository.join("packs/x"), None).unwrap_err();
    assert!(error.to_string().contains("is a repository"), "{error}");
}
