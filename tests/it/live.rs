//! The danger: a backup of a busy application that will not open, that mixes two points in time, or that
//! stops the application from working.
//!
//! A writer moves money between accounts; the sum never changes. `PACKVAULT_LIVE_CAPTURES` sets how many
//! captures are made beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use packvault::archive::database_file::Moved;
use packvault::archive::foreign;
use packvault::archive::freeze::FrozenDatabase;
use packvault::archive::ownership::LockFiles;
use packvault::archive::pinned::{PinnedDatabase, Reading};
use packvault::archive::profile::ArchivePaths;
use packvault::engine::create::{CreateOptions, create};
use packvault::engine::report::{CreateReport, PagesRead};
use packvault::profiles::sqlite::{FileSelection, Query, Sqlite};
use packvault::progress::{Progress, Silent, Stage, Unit};
use packvault::{Cancel, ErrorKind};
use rusqlite::Connection;

use crate::support::operations::{block_on, context, init, open};
use crate::support::{Scratch, sha256, stderr};

/// How long the application waits for a lock; it must never wait longer.
const APPLICATION_PATIENCE: Duration = Duration::from_secs(30);
const ACCOUNTS: i64 = 500;
const TOTAL: i64 = ACCOUNTS * 100;

fn bank(path: &Path, mode: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(APPLICATION_PATIENCE).unwrap();
    connection.execute_batch(&format!("PRAGMA journal_mode = {mode}; PRAGMA synchronous = OFF")).unwrap();
    connection
        .execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS accounts (id INTEGER PRIMARY KEY, money INTEGER, note TEXT);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ACCOUNTS})
             INSERT OR IGNORE INTO accounts SELECT i, 100, hex(randomblob(200)) FROM n;
             CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, note TEXT)"
        ))
        .unwrap();
    connection
}

/// An application at full speed: one thread writes, another reads; both see the sum they expect.
struct Application {
    stop: Arc<AtomicBool>,
    transfers: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Application {
    fn start(path: &Path, mode: &'static str) -> Self {
        drop(bank(path, mode));
        let (stop, transfers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let spawn = |work: fn(&Connection, u64)| {
            let (path, stop, transfers) = (path.to_owned(), stop.clone(), transfers.clone());
            thread::spawn(move || {
                let connection = Connection::open(path).unwrap();
                connection.busy_timeout(APPLICATION_PATIENCE).unwrap();
                connection.execute_batch("PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 50").unwrap();
                while !stop.load(Ordering::Relaxed) {
                    work(&connection, transfers.fetch_add(1, Ordering::Relaxed));
                }
            })
        };
        let threads = vec![spawn(transfer), spawn(read)];
        // By then something is in the WAL, if there is one.
        while transfers.load(Ordering::Relaxed) < 50 {
            thread::sleep(Duration::from_millis(1));
        }
        Self { stop, transfers, threads }
    }

    /// Stops it; a failed write or a wrong sum has ended its thread with a panic.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        self.transfers.load(Ordering::Relaxed)
    }
}

fn transfer(connection: &Connection, turn: u64) {
    let (from, to) = (turn as i64 * 7 % ACCOUNTS + 1, turn as i64 * 13 % ACCOUNTS + 1);
    let statements = format!(
        "BEGIN IMMEDIATE;
         UPDATE accounts SET money = money - 1, note = hex(randomblob(200)) WHERE id = {from};
         UPDATE accounts SET money = money + 1 WHERE id = {to};
         INSERT INTO log (note) VALUES (hex(randomblob(100)));
         DELETE FROM log WHERE id < (SELECT max(id) FROM log) - 2000;
         COMMIT"
    );
    connection.execute_batch(&statements).unwrap();
    if turn % 3000 == 2999 {
        connection.execute_batch("VACUUM").unwrap();
    }
    // Half the time of a core is the backup's.
    thread::sleep(Duration::from_micros(200));
}

fn read(connection: &Connection, _: u64) {
    assert_eq!(sum(connection), TOTAL);
    thread::sleep(Duration::from_millis(1));
}

fn sum(connection: &Connection) -> i64 {
    connection.query_row("SELECT sum(money) FROM accounts", [], |row| row.get(0)).unwrap()
}

fn captures() -> usize {
    std::env::var("PACKVAULT_LIVE_CAPTURES").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

/// Captures and restores a bank at work, by the program itself: it is another process than the bank.
fn capture_while_it_works(mode: &'static str, expected: &str) {
    let scratch = Scratch::new();
    let database = scratch.path("bank.db");
    let application = Application::start(&database, mode);
    scratch.run(&["init", "--repo", "./repo"]);
    for number in 0..captures() {
        let created = scratch.json(&["create", "--database", "bank.db", "--repo", "./repo"]);
        assert_eq!(created["database"]["read"], expected, "{created}");
        let target = format!("back{number}");
        // The restore's own proof includes SQLite's integrity check.
        scratch.json(&["restore", "--repo", "./repo", "--target", &target]);
        let back = Connection::open(scratch.path(&target).join("bank.db")).unwrap();
        assert_eq!(sum(&back), TOTAL, "capture {number}");
        drop(back);
        fs::remove_dir_all(scratch.path(&target)).unwrap();
    }
    assert!(application.stop() > captures() as u64);
    assert_eq!(sum(&Connection::open(&database).unwrap()), TOTAL);
    assert_eq!(scratch.json(&["verify", "--all", "--repo", "./repo"])["ok"], true);
}

#[test]
fn a_bank_with_a_wal_is_captured_at_work_through_a_transaction() {
    capture_while_it_works("WAL", "transaction");
}

#[test]
fn a_bank_with_a_rollback_journal_is_captured_at_work_from_its_file() {
    capture_while_it_works("DELETE", "file");
}

#[test]
fn a_backup_that_is_killed_at_any_moment_leaves_the_bank_at_work() {
    let scratch = Scratch::new();
    let database = scratch.path("bank.db");
    let application = Application::start(&database, "WAL");
    scratch.run(&["init", "--repo", "./repo"]);
    let arguments = ["create", "--database", "bank.db", "--repo", "./repo", "--force-unlock"];
    for milliseconds in [2, 5, 10, 20, 40, 80] {
        let mut child = scratch.packvault(&arguments).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        let transfers = application.transfers.load(Ordering::Relaxed);
        while application.transfers.load(Ordering::Relaxed) < transfers + 10 {
            assert!(application.threads.iter().all(|thread| !thread.is_finished()), "the bank has stopped");
            thread::sleep(Duration::from_millis(1));
        }
    }
    scratch.json(&arguments);
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert_eq!(sum(&Connection::open(scratch.path("back/bank.db")).unwrap()), TOTAL);
    assert_eq!(scratch.json(&["verify", "--all", "--repo", "./repo"])["ok"], true);
    application.stop();
}

#[test]
fn the_bundled_sqlite_reads_pages_and_has_the_fixes_it_needs() {
    assert!(rusqlite::version_number() >= 3_051_003, "{}", rusqlite::version());
    let memory = Connection::open_in_memory().unwrap();
    memory.execute_batch("CREATE TABLE t (a)").unwrap();
    let pages: i64 = memory.query_row("SELECT count(*) FROM sqlite_dbpage", [], |row| row.get(0)).unwrap();
    assert_eq!(pages, 2);
}

fn pin(path: &Path, forced: Option<Reading>) -> PinnedDatabase {
    foreign::pin_reading(path, &Cancel::new(), forced).unwrap()
}

/// Reads the pinned pages; `meanwhile` runs when half of them are read.
fn image(pinned: &PinnedDatabase, mut meanwhile: impl FnMut()) -> Vec<u8> {
    let (size, count) = (pinned.page_size() as usize, pinned.page_count());
    let mut bytes = vec![0; size * count as usize];
    for (page, buffer) in (0..).zip(bytes.chunks_exact_mut(size)) {
        if page == count / 2 {
            meanwhile();
        }
        pinned.source().read(page, size, buffer).unwrap();
    }
    bytes
}

/// Returns what the database is now, WAL included: its copy, brought to rest by SQLite.
fn settled_copy(path: &Path, scratch: &Scratch) -> Vec<u8> {
    let copy = scratch.path("copy.db");
    let wal = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    fs::copy(path, &copy).unwrap();
    if wal(path).exists() {
        fs::copy(wal(path), wal(&copy)).unwrap();
    }
    let connection = Connection::open(&copy).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    fs::read(&copy).unwrap()
}

#[test]
fn both_ways_of_reading_give_the_same_pages() {
    for page_size in [512, 1024, 4096, 8192, 65536] {
        for (mode, vacuum) in [("DELETE", 0), ("DELETE", 1), ("WAL", 0), ("WAL", 2)] {
            let scratch = Scratch::new();
            let path = scratch.path("bank.db");
            let setup = Connection::open(&path).unwrap();
            let pragmas = format!("PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum}; VACUUM");
            setup.execute_batch(&pragmas).unwrap();
            drop(setup);
            let writer = bank(&path, mode);
            writer
                .execute_batch("PRAGMA wal_checkpoint(TRUNCATE); DELETE FROM accounts WHERE id % 3 = 0")
                .unwrap();
            let images: Vec<Vec<u8>> = [None, Some(Reading::Transaction)]
                .into_iter()
                .map(|forced| {
                    writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
                    let pinned = pin(&path, forced);
                    assert_eq!(pinned.reading(), forced.unwrap_or(Reading::File), "{mode} {page_size}");
                    assert_eq!(pinned.page_size(), page_size);
                    let image = image(&pinned, || {});
                    pinned.release().unwrap();
                    image
                })
                .collect();
            assert!(images[0] == images[1], "{mode} {page_size} {vacuum}");
            assert!(images[0] == fs::read(&path).unwrap(), "{mode} {page_size} {vacuum}");
        }
    }
}

#[test]
fn a_leftover_wal_is_part_of_the_capture_and_nothing_is_written() {
    let scratch = Scratch::new();
    let live = scratch.path("bank.db");
    let writer = bank(&live, "WAL");
    writer.execute_batch("PRAGMA wal_autocheckpoint = 0; INSERT INTO log (note) VALUES ('last')").unwrap();
    let crashed = scratch.path("crashed.db");
    fs::copy(&live, &crashed).unwrap();
    fs::copy(scratch.path("bank.db-wal"), scratch.path("crashed.db-wal")).unwrap();
    let expected = settled_copy(&live, &scratch);
    let files = |name: &str| sha256(&fs::read(scratch.path(name)).unwrap());
    let before = (files("crashed.db"), files("crashed.db-wal"));
    let pinned = pin(&crashed, None);
    assert_eq!(pinned.reading(), Reading::Transaction);
    assert!(image(&pinned, || {}) == expected);
    pinned.release().unwrap();
    assert_eq!((files("crashed.db"), files("crashed.db-wal")), before);
}

/// What an application may do while it is being read.
const INTERFERENCE: [&str; 3] = [
    "UPDATE accounts SET money = money + 1, note = hex(randomblob(200)); PRAGMA wal_checkpoint(PASSIVE);
     UPDATE accounts SET money = money - 1; PRAGMA wal_checkpoint(FULL); PRAGMA wal_checkpoint(TRUNCATE)",
    "INSERT INTO log (note) SELECT hex(randomblob(3000)) FROM accounts; PRAGMA wal_checkpoint(PASSIVE)",
    "DELETE FROM accounts WHERE id > 10; VACUUM; PRAGMA wal_checkpoint(TRUNCATE)",
];

#[test]
fn checkpoints_growth_and_shrinking_during_the_scan_change_nothing() {
    for statements in INTERFERENCE {
        for leftover in [true, false] {
            let scratch = Scratch::new();
            let path = scratch.path("bank.db");
            let writer = bank(&path, "WAL");
            writer.busy_timeout(Duration::from_millis(20)).unwrap();
            writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
            if leftover {
                writer.execute_batch("UPDATE accounts SET note = hex(randomblob(200))").unwrap();
            }
            let expected = settled_copy(&path, &scratch);
            let pinned = pin(&path, None);
            let reading = if leftover { Reading::Transaction } else { Reading::File };
            assert_eq!(pinned.reading(), reading);
            let found = image(&pinned, || writer.execute_batch(statements).unwrap());
            assert!(found == expected, "{reading:?}: {statements}");
            assert!(pinned.wal_grew_bytes().unwrap() > 0);
            pinned.release().unwrap();
            writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        }
    }
}

#[test]
fn a_commit_between_checkpoint_and_pin_is_noticed() {
    let scratch = Scratch::new();
    let path = scratch.path("bank.db");
    let application = Application::start(&path, "WAL");
    // Closing a handle would take the bank's own locks along, for it is the same process: so all are held
    // until the bank has stopped, in the order of the captures.
    let mut held = Vec::new();
    for _ in 0..3 {
        let pinned = FrozenDatabase::freeze(&path, &LockFiles::default(), &Cancel::new(), &Silent)
            .unwrap()
            .pinned()
            .unwrap();
        let image = image(&pinned, || thread::sleep(Duration::from_millis(5)));
        let copy = scratch.path("copy.db");
        fs::write(&copy, image).unwrap();
        let at_rest = Connection::open(&copy).unwrap();
        assert_eq!(sum(&at_rest), TOTAL);
        let check: String = at_rest.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(check, "ok");
        drop(at_rest);
        held.push(pinned);
        end_transaction(&held);
    }
    application.stop();
}

/// A pin that stands keeps the WAL from being emptied, and so the next one from being made.
fn end_transaction(held: &[PinnedDatabase]) {
    held.last().unwrap().connection().execute_batch("ROLLBACK").unwrap();
}

#[test]
fn a_file_swapped_while_it_is_opened_is_refused_or_read_whole() {
    let scratch = Scratch::new();
    let (path, spare) = (scratch.path("bank.db"), scratch.path("spare.db"));
    drop(bank(&path, "DELETE"));
    let other = bank(&spare, "DELETE");
    other.execute_batch("DELETE FROM accounts WHERE id > 20").unwrap();
    drop(other);
    let wanted = [fs::read(&path).unwrap(), fs::read(&spare).unwrap()];
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, path, spare, third) = (stop.clone(), path.clone(), spare, scratch.path("third.db"));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                fs::hard_link(&path, &third).unwrap();
                fs::rename(&spare, &path).unwrap();
                fs::rename(&third, &spare).unwrap();
            }
        })
    };
    let (mut refused, mut moved) = (0, 0);
    for _ in 0..200 {
        match foreign::pin(&path, &Cancel::new()) {
            Ok(pinned) => {
                let image = image(&pinned, || {});
                assert!(wanted.contains(&image));
                // Another file has taken its place meanwhile, or it has got and lost a name.
                moved += usize::from(pinned.release().is_err_and(|error| Moved::of(&error).is_some()));
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Source, "{}", error.chain());
                refused += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert!(refused < 200 && moved > 0, "{refused} {moved}");
}

/// Acts once when a stage begins.
struct Interloper(Stage, Box<dyn Fn() + Send + Sync>);

impl Progress for Interloper {
    fn begin(&self, stage: Stage, _: Unit, _: Option<u64>) {
        if stage == self.0 {
            self.1();
        }
    }
    fn advance(&self, _: Stage, _: u64) {}
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, _: &str) {}
}

fn create_with_growth(limit: Option<u64>) -> packvault::Result<CreateReport> {
    let scratch = Scratch::new();
    let path = scratch.path("bank.db");
    drop(bank(&path, "WAL"));
    let writer = std::sync::Mutex::new(Connection::open(&path).unwrap());
    let grow = move || {
        let writer = writer.lock().unwrap();
        writer.execute_batch("UPDATE accounts SET note = hex(randomblob(200))").unwrap();
    };
    let repository = open(&init(&scratch.path("repo")));
    let query = Query { name: "sum".into(), sql: "SELECT sum(money) FROM accounts".into() };
    let cache = scratch.path("cache");
    let profile = Sqlite::new("bank.db", FileSelection::default(), vec![query], cache).unwrap();
    let home = scratch.path("");
    let paths = ArchivePaths { home: home.clone(), database: path, content: home.clone(), config: home };
    let mut surroundings = context(2);
    surroundings.progress = Arc::new(Interloper(Stage::Scan, Box::new(grow)));
    let options = CreateOptions { wal_growth_bytes_max: limit, ..CreateOptions::default() };
    let created = block_on(create(&repository, Arc::new(profile), &paths, options, &surroundings));
    crate::support::assert_no_remains(&scratch.path("repo"));
    assert_eq!(crate::support::snapshot_files(&scratch.path("repo")).len(), usize::from(created.is_ok()));
    created
}

#[test]
fn the_growth_of_the_wal_is_reported_and_limited() {
    let report = create_with_growth(None).unwrap();
    assert_eq!(report.database.read, PagesRead::File);
    assert!(report.database.wal_grew_bytes > 100_000, "{report:?}");
    create_with_growth(Some(100_000_000)).unwrap();
    let stopped = create_with_growth(Some(1000)).unwrap_err();
    assert_eq!(stopped.kind(), ErrorKind::Refused);
    assert!(stopped.to_string().contains("the write-ahead log of"), "{stopped}");
}

const OTHER_PROCESS: &str = "PACKVAULT_TEST_WRITES_TO";

/// Not a test of its own: what the next one runs as another process. Writes without any patience.
#[test]
#[ignore = "run by another test in a process of its own"]
fn another_process_writes() {
    let Some(path) = std::env::var_os(OTHER_PROCESS) else { return };
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection.execute_batch("INSERT INTO log (note) VALUES ('from elsewhere')").unwrap();
}

fn another_process_can_write(path: &Path) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "live::another_process_writes", "--ignored"]).env(OTHER_PROCESS, path);
    command.output().unwrap().status.success()
}

#[test]
fn no_short_lived_handle_drops_the_locks_of_a_pin() {
    let scratch = Scratch::new();
    let path = scratch.path("bank.db");
    drop(bank(&path, "DELETE"));
    assert!(another_process_can_write(&path));

    // The trap: this process closes another handle of the file, and SQLite's lock is gone.
    let reader = Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM log").unwrap();
    assert!(!another_process_can_write(&path), "a reader holds writers off");
    drop(fs::File::open(&path).unwrap());
    assert!(another_process_can_write(&path), "the trap is real on this system");
    drop(reader);

    // Our way: no handle of the file is closed while the pin stands, whichever way pages are read, and
    // however many readers come and go.
    for forced in [None, Some(Reading::Transaction)] {
        let pinned = pin(&path, forced);
        let pages = image(&pinned, || assert!(!another_process_can_write(&path), "{forced:?}"));
        let sources: Vec<_> = (0..4).map(|_| pinned.source()).collect();
        drop(sources);
        assert!(!pages.is_empty() && !another_process_can_write(&path), "{forced:?}");
        pinned.release().unwrap();
        assert!(another_process_can_write(&path), "the pin is over");
    }
}

#[test]
fn a_database_left_in_the_middle_of_a_write_is_not_touched() {
    let scratch = Scratch::new();
    let path = scratch.path("bank.db");
    let writer = bank(&path, "DELETE");
    writer
        .execute_batch("PRAGMA cache_size = 5; BEGIN; UPDATE accounts SET note = hex(randomblob(200))")
        .unwrap();
    let crashed = scratch.path("crashed.db");
    fs::copy(&path, &crashed).unwrap();
    fs::copy(scratch.path("bank.db-journal"), scratch.path("crashed.db-journal")).unwrap();
    writer.execute_batch("ROLLBACK").unwrap();
    scratch.run(&["init", "--repo", "./repo"]);
    let before = crate::support::contents(&scratch.path(""));
    let refused = scratch.run(&["create", "--dry-run", "--database", "crashed.db", "--repo", "./repo"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("left in the middle of a write"), "{}", stderr(&refused));
    let after = crate::support::contents(&scratch.path(""));
    assert_eq!(before["crashed.db"], after["crashed.db"]);
    assert_eq!(before["crashed.db-journal"], after["crashed.db-journal"]);
}
