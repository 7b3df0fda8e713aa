//! The danger: an application whose database has a rollback journal cannot write for as long as its backup
//! compresses and sends, and what waits for it takes a disk or a backup down.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use packvault::ErrorKind;
use packvault::archive::profile::ArchivePaths;
use packvault::engine::Context;
use packvault::engine::create::{Application, CreateOptions, create};
use packvault::engine::report::CreateReport;
use packvault::profiles::sqlite::{FileSelection, Sqlite};
use packvault::progress::{Progress, Stage, Unit};
use rusqlite::Connection;
use serde_json::Value;

use crate::support::operations::{assert_sound, block_on, context, init, open};
use crate::support::small_disk::SmallDisk;
use crate::support::{Scratch, assert_no_remains, stderr};

/// Makes a database of so many MB that nothing compresses.
fn database(path: &Path, megabytes: u32, mode: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let database = Connection::open(path).unwrap();
    database.execute_batch(&format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (a);")).unwrap();
    let fill = format!(
        "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < {megabytes})
         INSERT INTO t SELECT randomblob(1000000) FROM n"
    );
    database.execute_batch(&fill).unwrap();
}

fn sha256(path: &Path) -> String {
    crate::support::sha256(&fs::read(path).unwrap())
}

/// Captures the database with the library, as no program can be looked into.
fn try_create(
    scratch: &Scratch,
    database: &Path,
    options: CreateOptions,
    context: &Context,
) -> packvault::Result<CreateReport> {
    let cache = scratch.path("cache");
    let name = database.file_name().unwrap().to_str().unwrap();
    let profile = Sqlite::new(name, FileSelection::default(), Vec::new(), cache).unwrap();
    let home = database.parent().unwrap().to_owned();
    let paths =
        ArchivePaths { content: home.clone(), config: home.clone(), home, database: database.to_owned() };
    let repository = open(&scratch.path("repo"));
    block_on(create(&repository, Arc::new(profile), &paths, options, context))
}

fn create_json(scratch: &Scratch, arguments: &[&str]) -> Value {
    scratch.json(&[&["create", "--repo", "./repo", "--database", "app/a.db"], arguments].concat())
}

/// Tries to write to the database, without waiting, when the first changed pages are stored.
struct Writer {
    database: PathBuf,
    wrote: Mutex<Option<rusqlite::Result<()>>>,
    packed_bytes: AtomicU64,
}

impl Progress for Writer {
    fn begin(&self, _: Stage, _: Unit, _: Option<u64>) {}
    fn advance(&self, stage: Stage, amount: u64) {
        if stage != Stage::Pack {
            return;
        }
        self.packed_bytes.fetch_add(amount, Ordering::Relaxed);
        self.wrote.lock().unwrap().get_or_insert_with(|| {
            let database = Connection::open(&self.database)?;
            database.busy_timeout(Duration::ZERO)?;
            database.execute_batch("CREATE TABLE IF NOT EXISTS meanwhile (a)")
        });
    }
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, _: &str) {}
}

#[test]
fn writers_go_on_before_anything_is_compressed_or_stored() {
    let scratch = Scratch::new();
    let path = scratch.path("app/a.db");
    database(&path, 60, "DELETE");
    let repository = init(&scratch.path("repo"));
    let writer = Arc::new(Writer {
        database: path.clone(),
        wrote: Mutex::default(),
        packed_bytes: AtomicU64::default(),
    });
    let context = Context { progress: writer.clone(), spool: scratch.path("spool"), ..context(1) };
    let before = sha256(&path);
    let report = try_create(&scratch, &path, CreateOptions::default(), &context).unwrap();
    writer.wrote.lock().unwrap().take().unwrap().expect("the database can be written to");
    assert!(report.database.held_seconds.is_some());
    assert!(writer.packed_bytes.load(Ordering::Relaxed) >= 60_000_000);
    assert_ne!(sha256(&path), before);
    // What was captured is what was there before the write.
    let target = scratch.path("back");
    scratch.json(&["restore", "--repo", "./repo", "--target", target.to_str().unwrap()]);
    assert_eq!(sha256(&target.join("a.db")), before);
    assert_sound(&repository);
}

/// Writes to the database when the first of its pages were read.
struct WriterBesideTheScan(Writer);

impl Progress for WriterBesideTheScan {
    fn begin(&self, _: Stage, _: Unit, _: Option<u64>) {}
    fn advance(&self, stage: Stage, amount: u64) {
        if stage == Stage::Scan {
            self.0.advance(Stage::Pack, amount);
        }
    }
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, _: &str) {}
}

#[test]
fn where_the_file_system_can_copy_at_once_writers_wait_for_no_reading() {
    let Some(disk) = SmallDisk::mount_sharing() else { return };
    let scratch = Scratch::new();
    let path = disk.path("app/a.db");
    database(&path, 60, "DELETE");
    let repository = init(&scratch.path("repo"));
    let before = sha256(&path);
    let mut held = Vec::new();
    // First with a spool on another file system, where no copy can be had.
    for spool in [scratch.path("spool"), disk.path("spool")] {
        let writer =
            Writer { database: path.clone(), wrote: Mutex::default(), packed_bytes: AtomicU64::default() };
        let writer = Arc::new(WriterBesideTheScan(writer));
        let context = Context { progress: writer.clone(), spool: spool.clone(), ..context(1) };
        let report = try_create(&scratch, &path, CreateOptions::default(), &context).unwrap();
        let wrote = writer.0.wrote.lock().unwrap().take().unwrap();
        assert_eq!(wrote.is_ok(), spool.starts_with(disk.root()), "{wrote:?}");
        held.push(report.database.held_seconds.unwrap());
        // Neither beside the database nor in the spool anything is left.
        let names = |folder: &Path| fs::read_dir(folder).map_or(0, Iterator::count);
        assert_eq!((names(&disk.path("app")), names(&spool)), (1, 0));
        // What was captured is what was there before the write.
        let target = scratch.path("back");
        let _ = fs::remove_dir_all(&target);
        scratch.json(&["restore", "--repo", "./repo", "--target", target.to_str().unwrap()]);
        assert_eq!(sha256(&target.join("a.db")), before);
    }
    assert_ne!(sha256(&path), before);
    let _ = writeln!(std::io::stderr(), "writers were held off for {held:?} s");
    assert!(held[1] < held[0] && held[1] < 1.0, "{held:?}");
    assert_sound(&repository);
}

#[test]
fn a_database_among_the_files_is_copied_at_once_where_the_file_system_can_do_that() {
    let Some(disk) = SmallDisk::mount_sharing() else { return };
    let scratch = Scratch::new();
    assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    database(&disk.path("app/a.db"), 1, "DELETE");
    let other = Connection::open(disk.path("app/other.db")).unwrap();
    other.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(60000000))").unwrap();
    drop(other);
    // There is no room for a copy that takes any.
    disk.leave_bytes(20_000_000);
    let database = disk.path("app/a.db");
    let spool = disk.path("spool");
    let report = scratch.json(&[
        "create",
        "--repo",
        "./repo",
        "--database",
        database.to_str().unwrap(),
        "--files",
        "*.db",
        "--spool",
        spool.to_str().unwrap(),
    ]);
    assert_eq!(report["databases"][0]["path"], "other.db", "{report}");
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert_eq!(sha256(&scratch.path("back/other.db")), sha256(&disk.path("app/other.db")));
    assert_eq!(fs::read_dir(spool).unwrap().count(), 0);
}

#[test]
fn the_summary_says_for_how_long_writers_were_held_off() {
    let scratch = Scratch::new();
    scratch.run(&["init", "--repo", "./repo"]);
    database(&scratch.path("app/a.db"), 1, "DELETE");
    let output = scratch.run(&["create", "--repo", "./repo", "--database", "app/a.db"]);
    assert!(String::from_utf8(output.stdout).unwrap().contains("its writers were held off for 0."));
    assert!(create_json(&scratch, &[])["database"]["held_seconds"].is_f64());
    fs::remove_file(scratch.path("app/a.db")).unwrap();
    database(&scratch.path("app/a.db"), 1, "WAL");
    assert!(create_json(&scratch, &[])["database"]["held_seconds"].is_null());
}

#[test]
fn a_spool_that_cannot_be_used_costs_the_writers_time_and_nothing_else() {
    let scratch = Scratch::new();
    let path = scratch.path("app/a.db");
    database(&path, 60, "DELETE");
    let repository = init(&scratch.path("repo"));
    fs::write(scratch.path("file"), "no folder").unwrap();
    let report = create_json(&scratch, &["--spool", "file/spool", "--jobs", "2"]);
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("its writers were held off until some of it was stored"), "{warnings}");
    assert_eq!(report["complete"], true);
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert_eq!(sha256(&scratch.path("back/a.db")), sha256(&path));
    assert_sound(&repository);
}

#[test]
fn any_number_of_jobs_and_any_spool_store_the_same_blobs() {
    let scratch = Scratch::new();
    database(&scratch.path("app/a.db"), 60, "DELETE");
    fs::write(scratch.path("file"), "no folder").unwrap();
    let mut packs = Vec::new();
    for (number, (jobs, spool)) in [("1", "spool"), ("4", "spool"), ("4", "file/spool")].iter().enumerate() {
        let repository = format!("./repo{number}");
        scratch.run(&["init", "--repo", &repository]);
        let arguments =
            ["create", "--repo", &repository, "--database", "app/a.db", "--jobs", jobs, "--spool", spool];
        let report = scratch.json(&arguments);
        packs.push((
            report["bytes_added"].clone(),
            report["blobs_added"].clone(),
            report["packs_added"].clone(),
        ));
    }
    assert!(packs.iter().all(|one| one == &packs[0]), "{packs:?}");
}

#[test]
fn a_capture_that_holds_writers_off_for_too_long_gives_up() {
    let scratch = Scratch::new();
    let path = scratch.path("app/a.db");
    database(&path, 1, "DELETE");
    let repository = init(&scratch.path("repo"));
    let options = CreateOptions { hold_max: Some(Duration::from_nanos(1)), ..CreateOptions::default() };
    let error = try_create(&scratch, &path, options, &context(2)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.to_string().contains("--max-hold"), "{error}");
    assert_no_remains(&repository);
}

#[test]
fn a_question_that_takes_too_long_is_stopped_by_the_limit() {
    let scratch = Scratch::new();
    database(&scratch.path("app/a.db"), 1, "DELETE");
    let repository = init(&scratch.path("repo"));
    let home = scratch.path("app");
    let config = format!(
        "[archive.app]\nprofile = 'sqlite'\nhome = '{}'\ndatabase = 'a.db'\nmax_hold = 1\n[archive.app.stats]\n\
         slow = 'WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 9000000000) \
         SELECT count(*) FROM n'\n",
        home.display()
    );
    fs::write(scratch.path("c.toml"), config).unwrap();
    let mut command = scratch.packvault(&["create", "app", "--repo", "./repo"]);
    let output = command.env("PACKVAULT_CONFIG", scratch.path("c.toml")).output().unwrap();
    assert_eq!(output.status.code(), Some(11), "{}", stderr(&output));
    assert!(stderr(&output).contains("held off for 1 s"), "{}", stderr(&output));
    assert_no_remains(&repository);
}

/// Breaks when pages begin to be stored, as a defect would.
struct Defect;

impl Progress for Defect {
    fn begin(&self, stage: Stage, _: Unit, _: Option<u64>) {
        assert!(stage != Stage::Pack, "a defect");
    }
    fn advance(&self, _: Stage, _: u64) {}
    fn step(&self, _: Stage, _: &str) {}
    fn end(&self, _: Stage) {}
    fn remark(&self, _: &str) {}
}

/// Counts how often it is stopped.
#[derive(Debug, Default)]
struct Counting(AtomicU64);

impl Application for Counting {
    fn pause(&self) -> packvault::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn captured(&self) {}
}

#[test]
fn a_panic_in_the_middle_gives_the_lock_back_and_reaches_the_caller() {
    let scratch = Scratch::new();
    let path = scratch.path("app/a.db");
    database(&path, 1, "DELETE");
    let repository = init(&scratch.path("repo"));
    let context = Context { progress: Arc::new(Defect), ..context(1) };
    let application = Arc::new(Counting::default());
    let options = CreateOptions { application: Some(application.clone()), ..CreateOptions::default() };
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        try_create(&scratch, &path, options, &context)
    }));
    assert!(panicked.is_err());
    assert_eq!(application.0.load(Ordering::Relaxed), 1);
    assert_no_remains(&repository);
}
