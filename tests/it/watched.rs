//! The danger: a watch misses a change, fills the repository with snapshots of nothing, gives up for good after one failure, or
//! leaves a lock when it is ended.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use packvault::archive::profile::{ExtrasChoice, Profile};
use packvault::engine::create::{CreateOptions, look};
use packvault::profiles::msgvault::Msgvault;
use packvault_storage::{Guarantees, RecordStorage, Storage};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::memory_repo::{capture_with, context, repository_of, runtime};
use crate::support::{Scratch, snapshot_files, stderr};

/// An application with a repository that is not made yet, and a watch of it.
struct Watch {
    scratch: Scratch,
    child: Child,
    out: BufReader<ChildStdout>,
    log: BufReader<ChildStderr>,
}

impl Watch {
    fn new(prepare: impl FnOnce(&Scratch)) -> Self {
        let scratch = Scratch::new();
        fs::create_dir_all(scratch.path("app")).unwrap();
        fs::write(scratch.path("app/file"), "one").unwrap();
        let home = scratch.path("app").display().to_string();
        let repository = scratch.path("repo").display().to_string();
        let configuration = format!(
            "[archive.app]\nprofile = 'sqlite'\nhome = '{home}'\ndatabase = 'app.db'\nfiles = ['file']\nrepository = \
             '{repository}'\n"
        );
        fs::write(scratch.path("c.toml"), configuration).unwrap();
        change(&scratch);
        prepare(&scratch);
        let mut child = command(&scratch, &["watch", "app", "--every", "1s", "--json"])
            .env("PACKVAULT_LOG", "packvault::decision=info")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let log = BufReader::new(child.stderr.take().unwrap());
        Self { scratch, child, out, log }
    }

    /// Waits for the next line of its output.
    fn next(&mut self) -> Value {
        let mut line = String::new();
        assert_ne!(self.out.read_line(&mut line).unwrap(), 0, "it has ended: {:?}", self.child.wait());
        serde_json::from_str(&line).unwrap()
    }

    /// Waits until it has said this on standard error.
    fn says(&mut self, text: &str) {
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "it has ended, and said {said}");
            if line.contains(text) {
                return;
            }
            said += &line;
        }
    }

    fn snapshots(&self) -> usize {
        snapshot_files(&self.scratch.path("repo")).len()
    }

    /// Ends it, as a service is ended.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        // What it still says must not keep it waiting.
        std::io::copy(&mut self.log, &mut std::io::sink()).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(130));
        let locks = fs::read_dir(self.scratch.path("repo/locks")).map_or(0, Iterator::count);
        assert_eq!(locks, 0, "no lock is left");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // A test that failed leaves none behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(scratch: &Scratch, arguments: &[&str]) -> std::process::Command {
    let mut command = scratch.packvault(arguments);
    command.env("PACKVAULT_CONFIG", scratch.path("c.toml"));
    command
}

fn init(scratch: &Scratch) {
    assert!(scratch.run(&["init", "--repo", "./repo"]).status.success());
}

/// Writes to the database of the application.
fn change(scratch: &Scratch) {
    let database = rusqlite::Connection::open(scratch.path("app/app.db")).unwrap();
    database.busy_timeout(Duration::from_secs(60)).unwrap();
    let statements = "CREATE TABLE IF NOT EXISTS notes (text TEXT); INSERT INTO notes VALUES ('x')";
    database.execute_batch(statements).unwrap();
}

#[test]
fn what_changes_is_captured_and_what_does_not_makes_no_snapshot() {
    let mut watch = Watch::new(init);
    let first = watch.next();
    assert_eq!(
        (&first["outcome"], &first["archive"], &first["exit_code"]),
        (&"made".into(), &"app".into(), &0.into())
    );
    for _ in 0..3 {
        watch.says("nothing changed");
    }
    assert_eq!(watch.snapshots(), 1, "it has looked three times, and found nothing");
    change(&watch.scratch);
    assert_eq!(watch.next()["outcome"], "made");
    assert_eq!(watch.snapshots(), 2);
    // It looks changed, and is not.
    let file = File::options().write(true).open(watch.scratch.path("app/file")).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let unchanged = watch.next();
    assert_eq!((&unchanged["outcome"], &unchanged["snapshot"]), (&"unchanged".into(), &Value::Null));
    assert_eq!(watch.snapshots(), 2);
    fs::write(watch.scratch.path("app/file"), "two").unwrap();
    let third = watch.next();
    assert_eq!(third["outcome"], "made");
    let history = command(&watch.scratch, &["history", "--json"]).output().unwrap();
    let history = String::from_utf8(history.stdout).unwrap();
    assert!(history.matches("\"create\"").count() >= 4, "each is a run in the ledger: {history}");
    let (restored, id) = (watch.scratch.path("back/file"), third["snapshot"].as_str().unwrap().to_owned());
    let restore = ["restore", &id, "--target", "./back", "--repo", "./repo"];
    let output = command(&watch.scratch, &restore).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(restored).unwrap(), "two");
    watch.end();
}

#[test]
fn a_second_watch_is_refused_and_a_run_is_waited_for() {
    let mut watch = Watch::new(init);
    // The first is at work by then; whichever is second is refused.
    assert_eq!(watch.next()["outcome"], "made");
    let second = command(&watch.scratch, &["watch", "--all"]).output().unwrap();
    assert_eq!(second.status.code(), Some(11), "{}", stderr(&second));
    assert!(stderr(&second).contains("another watch of app is at work"), "{}", stderr(&second));
    let run = command(&watch.scratch, &["run", "app", "--wait"]).output().unwrap();
    assert_eq!(run.status.code(), Some(0), "{}", stderr(&run));
    let before = watch.snapshots();
    change(&watch.scratch);
    assert_eq!(watch.next()["outcome"], "made");
    assert_eq!(watch.snapshots(), before + 1);
    watch.end();
    let scratch = Scratch::new();
    for (words, text) in [(&["watch"][..], "required"), (&["watch", "--all"], "no archive to watch")] {
        let output = scratch.run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(text), "{words:?}: {}", stderr(&output));
    }
}

#[test]
fn what_fails_is_said_and_tried_again() {
    // There is no repository yet.
    let mut watch = Watch::new(|_| {});
    let failed = watch.next();
    assert_eq!((&failed["outcome"], &failed["exit_code"]), (&"failed".into(), &10.into()));
    assert!(failed["next_seconds"].as_f64().unwrap() > 1.0, "after a longer pause: {failed}");
    watch.says("no snapshot: ");
    init(&watch.scratch);
    let made = loop {
        // It may have looked once more before there was one.
        let next = watch.next();
        if next["outcome"] != "failed" {
            break next;
        }
    };
    assert_eq!(made["outcome"], "made");
    watch.end();
}

#[test]
fn requests_of_a_watch_are_those_of_its_snapshots_and_of_nothing_else() {
    runtime().block_on(async {
        let (storage, archive, _) = repository_of(2).await;
        // As in a bucket: locks are found by listing.
        let bucket = storage.with_guarantees(Guarantees { rename: false, ..Guarantees::all() });
        let record = RecordStorage::new(Arc::new(bucket));
        let shared = || Arc::new(record.clone()) as Arc<dyn Storage>;
        let profile: Arc<dyn Profile> = Arc::new(Msgvault);
        let see = async || {
            let (paths, rest) = (archive.paths(), Duration::ZERO);
            look(&profile, &paths, ExtrasChoice::default(), rest, &context()).await.unwrap()
        };
        let before = see().await;
        assert_eq!(see().await, before);
        assert_eq!(record.take_calls().len(), 0, "to look asks for nothing");
        let options = || CreateOptions { only_if_changed: true, ..CreateOptions::default() };
        archive.write("deletions/more.json", b"{}");
        assert_ne!(see().await, before);
        let made = capture_with(shared(), &archive, options()).await.unwrap();
        assert!(made.id.is_some() && !made.unchanged);
        let of_a_snapshot = record.take_calls().len();
        let objects = storage.objects().len();
        let unchanged = capture_with(shared(), &archive, options()).await.unwrap();
        assert_eq!((unchanged.id, unchanged.unchanged), (None, true));
        assert_eq!(storage.objects().len(), objects, "nothing is written");
        let of_none = record.take_calls().len();
        let told = fs::read_to_string("docs/remote.md").unwrap();
        let sentence = format!(
            "{of_a_snapshot} requests for a snapshot, and {of_none} where nothing turns out to have changed"
        );
        assert!(told.contains(&sentence), "docs/remote.md does not say: {sentence}");
    });
}
