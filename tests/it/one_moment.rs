//! The danger: a snapshot of two moments that nobody notices, or of an old one because the newest changes lie in
//! a log that was not looked at; and an application that cannot write to its own database after a backup.
//!
//! Somebody writes while pages are read, in ways that SQLite's locks do not stop. The database holds one number
//! in every row, changed by one transaction: a snapshot with two of them is of two moments.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use packvault::archive::freeze::FrozenDatabase;
use packvault::archive::ownership::LockFiles;
use packvault::archive::pinned::{PinnedDatabase, Reading};
use packvault::archive::profile::ArchivePaths;
use packvault::engine::create::{CreateOptions, create};
use packvault::engine::report::{CreateReport, PagesRead};
use packvault::profiles::sqlite::{FileSelection, Sqlite};
use packvault::progress::{Progress, Silent, Stage, Unit};
use packvault::{Cancel, ErrorKind};
use rusqlite::{Connection, OpenFlags};

use crate::support::operations::{block_on, context, init, open};
use crate::support::{Scratch, names, stderr};

/// Rows of a database whose scan has several pieces.
const ROWS: i64 = 6000;
/// Changes rows all over the database.
const CHANGE: &str = "UPDATE t SET number = number + 1";

/// Enough for several pieces of a scan, for tests that act in the middle of one.
fn database(path: &Path, mode: &str) -> Connection {
    database_of(ROWS, path, mode)
}

/// Returns the connection of the application that made it.
fn database_of(rows: i64, path: &Path, mode: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0; BEGIN;
             CREATE TABLE t (id INTEGER PRIMARY KEY, number INTEGER, note BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
             INSERT INTO t SELECT i, 1000, randomblob(3000) FROM n; COMMIT; PRAGMA wal_checkpoint(TRUNCATE)"
        ))
        .unwrap();
    connection
}

/// Returns the numbers in the database: one, if it is of one moment.
fn numbers(path: &Path) -> Vec<i64> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare("SELECT DISTINCT number FROM t ORDER BY 1").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

/// Acts after the first piece of a scan: pages before it are read, those behind it are not.
struct MidScan {
    advanced: AtomicU64,
    act: Box<dyn Fn(u64) + Send + Sync>,
    scans: AtomicU64,
    remarks: Mutex<Vec<String>>,
}

impl Progress for MidScan {
    fn begin(&self, stage: Stage, _: Unit, _: Option<u64>) {
        if stage == Stage::Scan {
            self.advanced.store(0, Ordering::Relaxed);
            self.scans.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn advance(&self, stage: Stage, _: u64) {
        if stage == Stage::Scan && self.advanced.fetch_add(1, Ordering::Relaxed) == 0 {
            (self.act)(self.scans.load(Ordering::Relaxed));
        }
    }
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, text: &str) {
        self.remarks.lock().unwrap().push(text.to_owned());
    }
}

/// Captures `a.db` of the scratch folder; `act` is called in the middle of each scan with its number.
fn capture(
    scratch: &Scratch,
    reading: Option<Reading>,
    act: impl Fn(u64) + Send + Sync + 'static,
) -> packvault::Result<CreateReport> {
    let repo = scratch.path("repo");
    let repository = open(&if repo.exists() { repo } else { init(&repo) });
    let profile = Sqlite::new("a.db", FileSelection::default(), vec![], scratch.path("cache")).unwrap();
    let home = scratch.path("");
    let paths =
        ArchivePaths { home: home.clone(), database: home.join("a.db"), content: home.clone(), config: home };
    let mut surroundings = context(1);
    surroundings.progress = Arc::new(MidScan {
        advanced: AtomicU64::default(),
        act: Box::new(act),
        scans: AtomicU64::default(),
        remarks: Mutex::default(),
    });
    let options = CreateOptions { reading, ..CreateOptions::default() };
    let created = block_on(create(&repository, Arc::new(profile), &paths, options, &surroundings));
    crate::support::assert_no_remains(&scratch.path("repo"));
    created
}

/// Restores the newest snapshot, with its proof, and returns the numbers in it.
fn restored_numbers(scratch: &Scratch) -> Vec<i64> {
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    let found = numbers(&scratch.path("back/a.db"));
    fs::remove_dir_all(scratch.path("back")).unwrap();
    assert_eq!(scratch.json(&["verify", "--all", "--repo", "./repo"])["ok"], true);
    found
}

fn without_locks(path: &Path, vfs: &std::ffi::CStr) {
    let connection = Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs).unwrap();
    connection.execute_batch("PRAGMA synchronous = OFF").unwrap();
    connection.execute_batch(CHANGE).unwrap();
}

#[test]
fn a_writer_without_locks_is_noticed_and_the_database_is_read_again() {
    for vfs in [c"unix-none", c"unix-dotfile"] {
        let scratch = Scratch::new();
        let path = scratch.path("a.db");
        drop(database(&path, "DELETE"));
        // Of an archive with a parent, whose hashes a second attempt needs again.
        capture(&scratch, None, |_| {}).unwrap();
        let written = path.clone();
        let report = capture(&scratch, None, move |scan| {
            if scan == 1 {
                without_locks(&written, vfs);
            }
        })
        .unwrap();
        assert!(report.warnings.iter().any(|warning| warning.contains("without them")), "{report:?}");
        assert!(report.complete);
        assert_eq!(restored_numbers(&scratch), [1001], "{vfs:?}");
    }
}

#[test]
fn a_writer_without_locks_that_goes_on_is_refused_and_no_snapshot_is_made() {
    let scratch = Scratch::new();
    let path = scratch.path("a.db");
    drop(database(&path, "DELETE"));
    let scans = Arc::new(AtomicU64::default());
    let (written, counted) = (path.clone(), scans.clone());
    let error = capture(&scratch, None, move |scan| {
        counted.store(scan, Ordering::Relaxed);
        without_locks(&written, c"unix-none");
    })
    .unwrap_err();
    assert_eq!((error.kind(), scans.load(Ordering::Relaxed)), (ErrorKind::Source, 4));
    assert!(error.chain().contains("somebody writes to it without SQLite's locks"), "{}", error.chain());
    assert!(crate::support::snapshot_files(&scratch.path("repo")).is_empty());
}

#[test]
fn a_database_that_a_copy_overwrites_in_the_middle_is_not_mixed_with_it() {
    for (mode, statements, reading) in [
        ("DELETE", "SELECT 1", PagesRead::File),
        ("WAL", "PRAGMA wal_checkpoint(TRUNCATE)", PagesRead::File),
        ("WAL", "UPDATE t SET note = 'x' WHERE id = 3000", PagesRead::Transaction),
    ] {
        let scratch = Scratch::new();
        let (path, old) = (scratch.path("a.db"), scratch.path("old.db"));
        let application = database(&path, mode);
        application
            .execute_batch("UPDATE t SET note = randomblob(2999); PRAGMA wal_checkpoint(TRUNCATE)")
            .unwrap();
        let copied = Command::new("cp").arg(&path).arg(&old).status().unwrap();
        assert!(copied.success());
        application.execute_batch(CHANGE).unwrap();
        application.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        application.execute_batch(statements).unwrap();
        let over = path.clone();
        let scans = Arc::new(AtomicU64::default());
        let counted = scans.clone();
        let created = capture(&scratch, None, move |scan| {
            counted.store(scan, Ordering::Relaxed);
            if scan == 1 {
                assert!(Command::new("cp").arg(&old).arg(&over).status().unwrap().success());
            }
        });
        assert!(scans.load(Ordering::Relaxed) > 1, "{mode} {reading:?}: {created:?}");
        if let Ok(report) = created {
            assert_eq!(report.database.read, reading, "{mode}");
            // With a log over it, what lies there now is two moments; it is captured as it is.
            let expected = if reading == PagesRead::File { vec![1000] } else { numbers(&path) };
            assert_eq!(restored_numbers(&scratch), expected, "{mode} {reading:?}");
        }
        drop(application);
    }
}

#[test]
fn checkpoints_of_an_application_at_work_are_no_reason_to_read_again() {
    let scratch = Scratch::new();
    let path = scratch.path("a.db");
    let application = database(&path, "WAL");
    application.execute_batch(CHANGE).unwrap();
    let application = Mutex::new(application);
    let report = capture(&scratch, None, move |scan| {
        assert_eq!(scan, 1);
        let application = application.lock().unwrap();
        application.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        application.execute_batch(CHANGE).unwrap();
        application.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
    })
    .unwrap();
    assert_eq!((report.database.read, report.warnings.len()), (PagesRead::Transaction, 0));
    assert_eq!(restored_numbers(&scratch), [1001]);
}

#[test]
fn a_database_without_a_log_is_read_again_if_its_application_comes_and_writes() {
    let scratch = Scratch::new();
    let path = scratch.path("a.db");
    drop(database(&path, "WAL"));
    assert_eq!(names(&scratch.path("")), ["a.db"]);
    let written = path.clone();
    let report = capture(&scratch, None, move |scan| {
        if scan == 1 {
            let application = Connection::open(&written).unwrap();
            application.execute_batch(CHANGE).unwrap();
            application.execute_batch("PRAGMA wal_checkpoint(PASSIVE)").unwrap();
        }
    })
    .unwrap();
    assert_eq!(report.warnings, Vec::<String>::new(), "that is no writer without locks");
    assert_eq!(restored_numbers(&scratch), [1001]);
}

#[test]
fn a_journal_that_is_kept_for_later_is_no_unfinished_write_and_another_one_is() {
    let scratch = Scratch::new();
    drop(database_of(100, &scratch.path("a.db"), "WAL"));
    fs::write(scratch.path("a.db-journal"), [0; 512]).unwrap();
    assert_eq!(created(&scratch, "a.db").status.code(), Some(0));
    fs::write(scratch.path("a.db-journal"), b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7 pages").unwrap();
    let refused = created(&scratch, "a.db");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("left in the middle of a write"), "{}", stderr(&refused));
}

const APPLICATION: &str = "PACKVAULT_TEST_APPLICATION";

/// Not a test of its own: an application in another process. Runs each line of its input and answers.
#[test]
#[ignore = "run by other tests in a process of its own"]
fn an_application_runs() {
    let Some(path) = std::env::var_os(APPLICATION) else { return };
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0; SELECT count(*) FROM sqlite_master").unwrap();
    println!("\nruns");
    for line in std::io::stdin().lines() {
        match connection.execute_batch(&line.unwrap()) {
            Ok(()) => println!("\ndone"),
            Err(error) => println!("\nfailed {error}"),
        }
    }
}

/// An application in another process, of another user perhaps.
struct Application {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Application {
    fn start(path: &Path, user: Option<u32>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "one_moment::an_application_runs", "--ignored", "--nocapture"])
            .env(APPLICATION, path);
        if let Some(user) = user {
            command.uid(user).gid(GROUP);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut started = Self { child, lines };
        assert_eq!(started.answer(), "runs");
        started
    }

    fn answer(&mut self) -> String {
        let said = |line: &String| ["runs", "done", "failed"].iter().any(|word| line.starts_with(word));
        self.lines.by_ref().map(std::io::Result::unwrap).find(said).unwrap()
    }

    fn run(&mut self, statements: &str) -> String {
        use std::io::Write;
        writeln!(self.child.stdin.as_ref().unwrap(), "{statements}").unwrap();
        self.answer()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.lines.by_ref().for_each(drop);
        let _ = self.child.wait();
    }
}

fn created(scratch: &Scratch, database: &str) -> Output {
    // The ledger is a database too, and lies apart from what is looked at.
    let state = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        scratch.packvault(arguments).env("XDG_STATE_HOME", state.path()).output().unwrap()
    };
    if !scratch.path("repo").exists() {
        assert_eq!(run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    }
    run(&["create", "--repo", "./repo", "--database", database])
}

#[test]
fn a_database_whose_log_lies_beside_another_of_its_names_is_refused_with_that_name() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("app")).unwrap();
    let (live, other) = (scratch.path("app/live.db"), scratch.path("other.db"));
    drop(database_of(100, &live, "WAL"));
    fs::hard_link(&live, &other).unwrap();
    let mut application = Application::start(&live, None);
    assert_eq!(application.run(CHANGE), "done");
    let refused = created(&scratch, "other.db");
    assert_eq!(refused.status.code(), Some(1), "{}", stderr(&refused));
    let text = stderr(&refused);
    let live = live.canonicalize().unwrap();
    assert!(text.contains("the log of the database") && text.contains(live.to_str().unwrap()), "{text}");
    assert_eq!(names(&scratch.path("")).iter().filter(|name| name.starts_with("other.db")).count(), 1);

    // By the name that its application uses it is captured, log included.
    let taken = created(&scratch, "app/live.db");
    assert_eq!(taken.status.code(), Some(0), "{}", stderr(&taken));
    drop(application);
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert_eq!(numbers(&scratch.path("back/live.db")), [1001]);
}

#[test]
fn a_database_with_a_name_in_another_folder_is_refused_while_its_log_cannot_be_seen() {
    for mode in ["WAL", "DELETE"] {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("app")).unwrap();
        drop(database_of(100, &scratch.path("app/live.db"), mode));
        fs::hard_link(scratch.path("app/live.db"), scratch.path("other.db")).unwrap();
        let refused = created(&scratch, "other.db");
        assert_eq!(refused.status.code(), Some(1), "{mode}");
        assert!(stderr(&refused).contains("has 2 names (hard links)"), "{}", stderr(&refused));
        fs::remove_file(scratch.path("app/live.db")).unwrap();
        assert_eq!(created(&scratch, "other.db").status.code(), Some(0), "{mode}");
    }
}

#[test]
fn a_database_with_a_second_name_beside_it_is_captured_unless_a_log_lies_there() {
    let scratch = Scratch::new();
    drop(database_of(100, &scratch.path("a.db"), "WAL"));
    fs::hard_link(scratch.path("a.db"), scratch.path("b.db")).unwrap();
    assert_eq!(created(&scratch, "a.db").status.code(), Some(0));
    fs::write(scratch.path("b.db-wal"), "frames").unwrap();
    let refused = created(&scratch, "a.db");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("b.db, beside which its log lies"), "{}", stderr(&refused));
}

#[test]
fn a_symbolic_link_leads_to_the_database_and_its_log() {
    let scratch = Scratch::new();
    fs::create_dir(scratch.path("app")).unwrap();
    drop(database_of(100, &scratch.path("app/live.db"), "WAL"));
    std::os::unix::fs::symlink("app/live.db", scratch.path("link.db")).unwrap();
    let mut application = Application::start(&scratch.path("link.db"), None);
    assert_eq!(application.run(CHANGE), "done");
    let taken = created(&scratch, "link.db");
    assert_eq!(taken.status.code(), Some(0), "{}", stderr(&taken));
    drop(application);
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert_eq!(numbers(&scratch.path("back/app/live.db")), [1001]);
}

#[test]
fn a_log_that_was_removed_from_under_its_application_is_missed() {
    let scratch = Scratch::new();
    drop(database_of(100, &scratch.path("a.db"), "WAL"));
    let mut application = Application::start(&scratch.path("a.db"), None);
    assert_eq!(application.run(CHANGE), "done");
    fs::remove_file(scratch.path("a.db-wal")).unwrap();
    let refused = created(&scratch, "a.db");
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("its log is not beside it"), "{}", stderr(&refused));
    assert_eq!(names(&scratch.path("")).iter().filter(|name| name.ends_with("-wal")).count(), 0);
}

/// The user of the application, the user of the backup, and the group of both.
const OWNER: u32 = 4001;
const BACKUP: u32 = 4002;
const GROUP: u32 = 4000;

/// Tells whether the test may be two users and mount file systems; says so aloud where it may not.
fn is_root(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        let required = std::env::var("PACKVAULT_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name.trim() == "root"),
            "PACKVAULT_REQUIRE demands root: {what}"
        );
        let notice = format!("NOT RUN, root: {what}\n");
        let _ = rustix::io::write(rustix::stdio::stderr(), notice.as_bytes());
    }
    is_root
}

/// A folder of the application's that its group may write to, with a database that only the application may.
fn shared_folder(scratch: &Scratch, mode: u32) -> PathBuf {
    let folder = scratch.path("app");
    fs::create_dir(&folder).unwrap();
    chown(&folder, Some(OWNER), Some(GROUP)).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o2775)).unwrap();
    let path = folder.join("a.db");
    drop(database_of(100, &path, "WAL"));
    chown(&path, Some(OWNER), Some(GROUP)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    path
}

fn created_by(scratch: &Scratch, user: u32) -> Output {
    let as_user = |arguments: &[&str]| {
        let mut command = scratch.packvault(arguments);
        command.uid(user).gid(GROUP).output().unwrap()
    };
    if !scratch.path("repo").exists() {
        assert_eq!(as_user(&["init", "--repo", "./repo"]).status.code(), Some(0));
    }
    as_user(&["create", "--repo", "./repo", "--database", "app/a.db"])
}

/// Returns the names in the folder that do not belong to the application.
fn foreign_names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let foreign = entries.filter(|entry| entry.metadata().unwrap().uid() != OWNER);
    foreign.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn an_application_writes_on_after_a_backup_by_another_user() {
    if !is_root("a backup by another user") {
        return;
    }
    for mode in [0o644, 0o660] {
        for user in [BACKUP, 0] {
            // Without a log; with an application at work; with the log that a killed one left, and its index or not.
            for situation in ["closed", "open", "left", "left without index"] {
                let scratch = Scratch::new();
                let path = shared_folder(&scratch, mode);
                let mut application = Application::start(&path, Some(OWNER));
                assert_eq!(application.run(CHANGE), "done");
                match situation {
                    "open" => {}
                    "closed" => drop(application),
                    _ => {
                        application.child.kill().unwrap();
                        application.child.wait().unwrap();
                        if situation != "left" {
                            fs::remove_file(scratch.path("app/a.db-shm")).unwrap();
                        }
                    }
                }
                let what = format!("{mode:o} {user} {situation}");
                let taken = created_by(&scratch, user);
                assert_eq!(taken.status.code(), Some(0), "{what}: {}", stderr(&taken));
                assert_eq!(foreign_names(&scratch.path("app")), Vec::<String>::new(), "{what}");
                let mut application = Application::start(&path, Some(OWNER));
                assert_eq!(application.run(CHANGE), "done", "{what}");
                drop(application);
                assert_eq!(restored_numbers(&scratch), [1001], "{what}");
                assert_eq!(numbers(&path), [1002], "{what}");
            }
        }
    }
}

const FREEZES: &str = "PACKVAULT_TEST_FREEZES";

/// Not a test of its own: brings a database to rest as another user, and says how that went.
#[test]
#[ignore = "run by another test in a process of its own"]
fn another_user_freezes() {
    let Some(path) = std::env::var_os(FREEZES) else { return };
    let frozen = FrozenDatabase::freeze(Path::new(&path), &LockFiles::default(), &Cancel::new(), &Silent)
        .and_then(FrozenDatabase::pinned)
        .and_then(PinnedDatabase::release);
    println!("\nended {}", frozen.map_or_else(|error| error.chain(), |()| "well".to_owned()));
}

#[test]
fn another_user_brings_a_database_to_rest_only_where_that_makes_no_file() {
    if !is_root("a backup by another user") {
        return;
    }
    let scratch = Scratch::new();
    let path = shared_folder(&scratch, 0o664);
    let freeze = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "one_moment::another_user_freezes", "--ignored", "--nocapture"])
            .env(FREEZES, &path);
        let output = command.uid(BACKUP).gid(GROUP).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let refused = freeze();
    assert!(refused.contains("belongs to another user") && refused.contains("as user 4001"), "{refused}");
    assert_eq!(names(&scratch.path("app")), ["a.db"]);
    let mut application = Application::start(&path, Some(OWNER));
    assert_eq!(application.run(CHANGE), "done");
    let frozen = freeze();
    assert!(frozen.contains("ended well"), "{frozen}");
    assert_eq!(foreign_names(&scratch.path("app")), Vec::<String>::new());
    assert_eq!(application.run(CHANGE), "done");
}

#[test]
fn a_killed_backup_by_another_user_leaves_nothing_beside_the_database() {
    if !is_root("a backup by another user") {
        return;
    }
    let scratch = Scratch::new();
    let path = shared_folder(&scratch, 0o644);
    assert_eq!(created_by(&scratch, BACKUP).status.code(), Some(0));
    for milliseconds in [1, 5, 10, 20, 40, 80] {
        let arguments = ["create", "--repo", "./repo", "--database", "app/a.db", "--force-unlock"];
        let mut command = scratch.packvault(&arguments);
        let mut child = command.uid(BACKUP).gid(GROUP).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(names(&scratch.path("app")), ["a.db"], "{milliseconds} ms");
    }
    let mut application = Application::start(&path, Some(OWNER));
    assert_eq!(application.run(CHANGE), "done");
}

/// A mount, taken away with this value.
struct Mount(PathBuf);

impl Mount {
    fn bind(from: &Path, to: &Path, read_only: bool) -> Self {
        let mount = |arguments: &[&str], paths: &[&Path]| {
            assert!(Command::new("mount").args(arguments).args(paths).status().unwrap().success());
        };
        mount(&["--bind"], &[from, to]);
        if read_only {
            mount(&["-o", "remount,bind,ro"], &[to]);
        }
        Self(to.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_single_file_that_is_bound_to_its_place_is_refused() {
    if !is_root("a bound file") {
        return;
    }
    for (mode, is_open) in [("WAL", true), ("WAL", false), ("DELETE", false)] {
        let scratch = Scratch::new();
        fs::create_dir(scratch.path("app")).unwrap();
        drop(database_of(100, &scratch.path("app/live.db"), mode));
        fs::write(scratch.path("a.db"), "").unwrap();
        let _mount = Mount::bind(&scratch.path("app/live.db"), &scratch.path("a.db"), false);
        let application = is_open.then(|| Application::start(&scratch.path("app/live.db"), None));
        let refused = created(&scratch, "a.db");
        assert_eq!(refused.status.code(), Some(1), "{mode} {is_open}: {}", stderr(&refused));
        let words =
            if is_open { "is not beside it: process" } else { "bound into its place as a single file" };
        assert!(stderr(&refused).contains(words), "{mode} {is_open}: {}", stderr(&refused));
        drop(application);
        // From the other side it is a file like any other, and the log of a container is not beside it.
        let application = is_open.then(|| Application::start(&scratch.path("a.db"), None));
        let other_side = created(&scratch, "app/live.db");
        let expected = if is_open { 1 } else { 0 };
        assert_eq!(other_side.status.code(), Some(expected), "{mode} {is_open}: {}", stderr(&other_side));
        drop(application);
    }
}

#[test]
fn a_folder_that_is_mounted_read_only_is_captured_while_its_application_writes_elsewhere() {
    if !is_root("a read-only mount") {
        return;
    }
    let scratch = Scratch::new();
    for folder in ["live", "app"] {
        fs::create_dir(scratch.path(folder)).unwrap();
    }
    drop(database_of(100, &scratch.path("live/a.db"), "WAL"));
    let _mount = Mount::bind(&scratch.path("live"), &scratch.path("app"), true);
    // Nobody has it open; then somebody has, with a log and without one.
    let mut number = 1000;
    let expect = |number: i64| {
        let taken = created(&scratch, "app/a.db");
        assert_eq!(taken.status.code(), Some(0), "{number}: {}", stderr(&taken));
        assert_eq!(restored_numbers(&scratch), [number]);
    };
    expect(number);
    let mut application = Application::start(&scratch.path("live/a.db"), None);
    expect(number);
    for statements in [CHANGE, "PRAGMA wal_checkpoint(PASSIVE)", CHANGE, "PRAGMA wal_checkpoint(TRUNCATE)"] {
        assert_eq!(application.run(statements), "done");
        number += i64::from(statements == CHANGE);
        expect(number);
    }
}

#[test]
fn a_file_system_that_nobody_can_write_to_is_captured_with_its_log() {
    let Some(disk) = crate::support::small_disk::SmallDisk::mount("size=100m") else { return };
    let scratch = Scratch::new();
    let path = disk.path("a.db");
    let application = database_of(100, &scratch.path("a.db"), "WAL");
    application.execute_batch(CHANGE).unwrap();
    for name in ["a.db", "a.db-wal"] {
        fs::copy(scratch.path(name), disk.path(name)).unwrap();
    }
    drop(application);
    let remount = |how: &str| {
        let mut mount = Command::new("mount");
        mount.args(["-o", how]).arg(disk.path("")).status().unwrap()
    };
    assert!(remount("remount,ro").success());
    let taken = created(&scratch, path.to_str().unwrap());
    assert_eq!(taken.status.code(), Some(0), "{}", stderr(&taken));
    assert_eq!(restored_numbers(&scratch), [1001]);
}
