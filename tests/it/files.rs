//! The danger: a file that the user believes to be in his backup is not, or is there torn, and nobody says so;
//! or one odd file keeps everything else from being backed up.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Scratch, contents, names, sha256, stderr};

/// An application at `app` with a database, two files in `media`, and an empty repository.
fn application(scratch: &Scratch) {
    fs::create_dir_all(scratch.path("app/media/deep")).unwrap();
    fs::write(scratch.path("app/media/photo"), "photo").unwrap();
    fs::write(scratch.path("app/media/deep/er"), "deeper").unwrap();
    let database = Connection::open(scratch.path("app/app.db")).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (1)").unwrap();
    assert!(scratch.run(&["init", "--repo", "./repo"]).status.success());
}

fn create(scratch: &Scratch, flags: &[&str]) -> Output {
    let fixed = ["create", "--repo", "./repo", "--database", "app/app.db", "--json"];
    scratch.run(&[&fixed[..], flags].concat())
}

/// Runs a create that must end so; returns its result.
fn created(scratch: &Scratch, code: i32, flags: &[&str]) -> Value {
    let output = create(scratch, flags);
    assert_eq!(output.status.code(), Some(code), "{flags:?}: {}", stderr(&output));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["complete"], code != 5, "{result}");
    result
}

/// Bytes that no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Lets everybody into the scratch folder and its repository; the application's files stay as they are.
fn let_everybody_in(scratch: &Scratch) {
    let set = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    set(&scratch.path(""));
    set(&scratch.path("repo"));
    for name in crate::support::tree(&scratch.path("repo")).into_keys() {
        set(&scratch.path("repo").join(name));
    }
}

/// Runs packvault as somebody whom permissions bind, as the superuser is not.
fn as_nobody(scratch: &Scratch, arguments: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let mut command = scratch.packvault(arguments);
    if rustix::process::geteuid().is_root() {
        command.uid(65534).gid(65534);
    }
    command.output().unwrap()
}

/// Restores the newest snapshot and returns the names of the files that came back, but for the database.
fn restored(scratch: &Scratch) -> Vec<String> {
    let target = scratch.path("back");
    let _ = fs::remove_dir_all(&target);
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    let names = contents(&target).into_keys();
    names.filter(|name| name != "app.db").collect()
}

fn warned(result: &Value, text: &str) -> bool {
    result["warnings"].as_array().unwrap().iter().any(|said| said.as_str().unwrap().contains(text))
}

fn left_out(result: &Value) -> Vec<String> {
    let left = result["left_out"].as_array().unwrap().iter();
    left.map(|left| left["path"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pattern_that_nothing_answers_to_is_said_in_every_way() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::create_dir(scratch.path("app/unmounted")).unwrap();
    for (flags, said) in [
        (vec!["--files", "medai/**"], "there is no "),
        (vec!["--files", "unmounted/**"], "is empty (is a disk to be mounted there?)"),
        (vec!["--files", "unmounted"], "is empty"),
        (vec!["--files", "media/*.raw"], "nothing in "),
        (vec!["--files", "media/photo/"], "media/photo is no folder"),
        (vec!["--files", "media/**", "--exclude", "media"], "`exclude` leaves all of it out"),
        (vec!["--files", "media/**", "--exclude", "media/cahce/**"], "of `exclude` matches nothing"),
        (vec!["--files", "media/**", "--exclude", "nothing"], "of `exclude` matches nothing"),
    ] {
        let result = created(&scratch, 5, &flags);
        assert!(warned(&result, said), "{flags:?}: {result}");
        let quiet = create(&scratch, &[&flags[..], &["-q"]].concat());
        assert_eq!(quiet.status.code(), Some(5));
        assert!(stderr(&quiet).contains(said), "{}", stderr(&quiet));
    }
    // A file that is asked for by its full name must be there.
    let output = create(&scratch, &["--files", "media/**", "--files", "config.yml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("config.yml does not exist"));
    // Nothing to complain of: what may lie anywhere, and what is there but not asked for.
    fs::create_dir(scratch.path("app/cache")).unwrap();
    fs::write(scratch.path("app/cache/x"), "x").unwrap();
    let flags = [
        "--files",
        "media/**",
        "--exclude",
        "**/__pycache__/**",
        "--exclude",
        "cache",
        "--exclude",
        "cache/*",
    ];
    created(&scratch, 0, &flags);
}

#[test]
fn a_folder_may_be_named_as_people_name_it() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::create_dir(scratch.path("app/media/cache")).unwrap();
    fs::write(scratch.path("app/media/cache/x"), "x").unwrap();
    for (name, excluded) in [
        ("media", "media/cache"),
        ("media/", "./media/cache/"),
        ("./media", "**/cache"),
        (".", "media/cache/**"),
    ] {
        created(&scratch, 0, &["--files", name, "--exclude", excluded]);
        assert_eq!(restored(&scratch), ["media/deep/er", "media/photo"], "{name} {excluded}");
    }
}

#[test]
fn no_secret_reaches_a_plain_repository_however_its_folder_is_named() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::create_dir_all(scratch.path("app/keys/old")).unwrap();
    fs::write(scratch.path("app/keys/server.pem"), "hush").unwrap();
    fs::write(scratch.path("app/keys/old/server.pem"), "hush").unwrap();
    let config = scratch.path("packvault.toml");
    let run = |secrets: &str| {
        let home = scratch.path("app");
        let text = format!(
            "[archive.a]\nprofile = \"sqlite\"\nhome = {home:?}\ndatabase = \"app.db\"\nfiles = [\"**\"]\n\
             secrets = [{secrets:?}]\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = scratch.packvault(&["create", "a", "--repo", "./repo", "--json"]);
        command.env("PACKVAULT_CONFIG", &config).output().unwrap()
    };
    let before = names(&scratch.path("repo"));
    for secrets in [
        "keys", "keys/", "./keys", "./keys/", "keys/*", "keys/**", "**/keys", "**/*.pem", "k*", "*.pem",
        "old",
    ] {
        let refused = run(secrets);
        assert_eq!(refused.status.code(), Some(2), "{secrets}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("server.pem holds secrets"), "{secrets}: {}", stderr(&refused));
        assert_eq!(names(&scratch.path("repo")), before, "{secrets}");
    }
    for secrets in ["app.db", "./app.db", "*.db"] {
        let refused = run(secrets);
        assert_eq!(refused.status.code(), Some(2), "{secrets}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("the database \"app.db\" holds secrets"), "{}", stderr(&refused));
        assert_eq!(names(&scratch.path("repo")), before, "{secrets}");
    }
    let said = run("Keys/**");
    assert_eq!(said.status.code(), Some(5));
    assert!(
        stderr(&said).contains("of `secrets` matches nothing, so it protects nothing"),
        "{}",
        stderr(&said)
    );
}

#[test]
fn a_link_is_not_followed_and_what_lies_behind_it_is_said_to_be_missing() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::create_dir(scratch.path("disk")).unwrap();
    fs::write(scratch.path("disk/film"), "film").unwrap();
    symlink(scratch.path("disk"), scratch.path("app/films")).unwrap();
    for pattern in ["films/**", "films", "films/", "**"] {
        let result = created(&scratch, 5, &["--files", pattern]);
        assert!(
            warned(&result, "\"films\" is not in the snapshot: it is a symbolic link to the folder"),
            "{result}"
        );
        assert_eq!(result["warnings"].as_array().unwrap().len(), 1, "said once: {result}");
    }
    fs::remove_dir_all(scratch.path("disk")).unwrap();
    let result = created(&scratch, 5, &["--files", "**"]);
    assert!(warned(&result, "which is not there"), "a disk may be missing: {result}");
    fs::remove_file(scratch.path("app/films")).unwrap();
    // What has its own place in the snapshot loses nothing, and a link to nothing has nothing.
    symlink("media", scratch.path("app/to a folder")).unwrap();
    symlink("deep/er", scratch.path("app/media/to a file")).unwrap();
    symlink("app.db", scratch.path("app/to the database")).unwrap();
    symlink("nowhere", scratch.path("app/dangling")).unwrap();
    symlink("loop", scratch.path("app/loop")).unwrap();
    symlink("/dev/null", scratch.path("app/device")).unwrap();
    let result = created(&scratch, 0, &["--files", "**"]);
    assert_eq!(
        left_out(&result),
        ["dangling", "device", "loop", "media/to a file", "to a folder", "to the database"]
    );
    let result = created(&scratch, 5, &["--files", "**", "--exclude", "media/deep"]);
    assert!(warned(&result, "\"media/to a file\" is not in the snapshot"), "{result}");
}

#[test]
fn what_cannot_be_read_keeps_nothing_else_from_being_backed_up() {
    let scratch = Scratch::new();
    application(&scratch);
    for closed in ["app/media/closed", "app/media/listed"] {
        fs::create_dir(scratch.path(closed)).unwrap();
        fs::write(scratch.path(closed).join("x"), "x").unwrap();
    }
    fs::write(scratch.path("app/media/private"), "x").unwrap();
    let mode = |name: &str, mode| {
        fs::set_permissions(scratch.path(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let_everybody_in(&scratch);
    mode("app/media/closed", 0o000);
    mode("app/media/listed", 0o444);
    mode("app/media/private", 0o000);
    let flags = ["create", "--repo", "./repo", "--database", "app/app.db", "--json", "--files"];
    let output = as_nobody(&scratch, &[&flags[..], &["media/**"]].concat());
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    for name in ["media/closed", "media/listed", "media/private"] {
        let said = format!("{name:?} is not in the snapshot");
        assert!(stderr(&output).contains(&said), "{name}: {}", stderr(&output));
    }
    let output = as_nobody(&scratch, &[&flags[..], &["media/private"]].concat());
    assert_eq!(output.status.code(), Some(1), "it was asked for by its full name");
    mode("app/media/closed", 0o755);
    assert_eq!(restored(&scratch), ["media/deep/er", "media/photo"]);
}

#[test]
fn of_names_that_meet_one_is_taken_and_the_others_are_named() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::create_dir(scratch.path("app/Media")).unwrap();
    for name in
        ["media/IMG.JPG", "media/IMG.jpg", "media/caf\u{e9}", "media/cafe\u{301}", "Media/photo", "App.db"]
    {
        fs::write(scratch.path("app").join(name), name).unwrap();
    }
    let result = created(&scratch, 5, &["--files", "**"]);
    assert_eq!(left_out(&result), ["App.db", "media/IMG.jpg", "media/caf\u{e9}", "media/photo"]);
    assert!(warned(&result, "\"media/IMG.jpg\" is not in the snapshot: on some file systems"), "{result}");
    assert_eq!(restored(&scratch), ["Media/photo", "media/IMG.JPG", "media/cafe\u{301}", "media/deep/er"]);
}

#[test]
fn odd_names_are_taken_or_named() {
    let scratch = Scratch::new();
    application(&scratch);
    let media = scratch.path("app/media");
    fs::write(media.join(OsStr::from_bytes(b"latin \xe9")), "x").unwrap();
    fs::create_dir(media.join(OsStr::from_bytes(b"folder \xe9"))).unwrap();
    for name in ["ends in a dot.", "ends in a space ", "line\nbreak\u{7}", "back\\slash:", "-rf"] {
        fs::write(media.join(name), "x").unwrap();
    }
    fs::write(media.join("n".repeat(255)), "x").unwrap();
    let result = created(&scratch, 5, &["--files", "media"]);
    let missing =
        ["media/ends in a dot.", "media/ends in a space ", "media/folder \u{fffd}", "media/latin \u{fffd}"];
    assert_eq!(left_out(&result), missing);
    for name in missing {
        assert!(warned(&result, &format!("{name:?} is not in the snapshot")), "{result}");
    }
    let long = format!("media/{}", "n".repeat(255));
    let expected =
        ["media/-rf", "media/back\\slash:", "media/deep/er", "media/line\nbreak\u{7}", &long, "media/photo"];
    assert_eq!(restored(&scratch), expected);
}

#[test]
fn a_repository_is_left_out_whole_and_named() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::write(scratch.path("app/media/noise"), noise(1_000_000)).unwrap();
    fs::rename(scratch.path("repo"), scratch.path("app/backups")).unwrap();
    let restic = scratch.path("app/media/restic");
    for folder in ["data", "index", "keys", "locks", "snapshots"] {
        fs::create_dir_all(restic.join(folder)).unwrap();
    }
    fs::write(restic.join("config"), "x").unwrap();
    // An application's own: not a repository, whatever its folders are called.
    fs::create_dir_all(scratch.path("app/snapshots")).unwrap();
    fs::write(scratch.path("app/snapshots/one"), "x").unwrap();
    fs::write(scratch.path("app/config.toml"), "port = 80").unwrap();
    let flags =
        ["create", "--repo", "app/backups", "--database", "app/app.db", "--files", "**", "-q", "--json"];
    let run = |more: &[&str]| {
        let output = scratch.run(&[&flags, more].concat());
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), result, stderr(&output))
    };
    let (code, first, said) = run(&[]);
    assert_eq!(left_out(&first), ["backups", "media/restic"]);
    assert_eq!(first["extras"], 5);
    // That of another program was asked for, and is missing.
    assert_eq!((code, &first["complete"]), (Some(5), &Value::Bool(false)), "{said}");
    let sentence = "\"media/restic\" is not in the snapshot: it is a repository of restic or rustic, and a repository \
                    is no part of a snapshot; \"media/restic\" in `exclude` says that this is meant";
    assert_eq!(first["warnings"], serde_json::json!([sentence]), "{said}");
    assert!(said.contains(sentence), "{said}");
    // Its own lies there on purpose: the summary names it, and nobody is warned of it night after night.
    for _ in 0..3 {
        let (code, result, said) = run(&["--exclude", "media/restic"]);
        assert_eq!((code, said.as_str()), (Some(0), ""));
        assert_eq!(result["bytes_added"].as_u64().unwrap() / 100_000, 0, "nothing is new");
        let left = serde_json::json!([{"path": "backups", "reason": "it is the repository of this backup"}]);
        assert_eq!((&result["left_out"], &result["warnings"]), (&left, &serde_json::json!([])));
    }
    // Another one of the same kind is not it.
    assert_eq!(scratch.run(&["init", "--repo", "app/other"]).status.code(), Some(0));
    let (code, result, said) = run(&["--exclude", "media/restic"]);
    assert_eq!((code, left_out(&result)), (Some(5), vec!["backups".to_owned(), "other".to_owned()]));
    assert!(
        said.contains("\"other\" is not in the snapshot: it is a repository of packvault or msgvault"),
        "{said}"
    );
    fs::remove_dir_all(scratch.path("app/other")).unwrap();
    for (asked, why) in [
        ("backups/**", "backups is left out: it is a repository of packvault"),
        ("backups/config.toml", "backups is left out: it is a repository of packvault"),
        ("media/restic", "media/restic is left out: it is a repository of restic"),
    ] {
        let flags = ["create", "--repo", "app/backups", "--database", "app/app.db", "-q", "--files", asked];
        let output = scratch.run(&flags);
        assert_eq!(output.status.code(), Some(5), "{asked} was asked for");
        assert!(stderr(&output).contains(why), "{asked}: {}", stderr(&output));
    }
}

#[test]
fn a_repository_that_is_itself_the_home_does_not_store_itself() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::copy(scratch.path("app/app.db"), scratch.path("repo/app.db")).unwrap();
    let flags = ["create", "--repo", "./repo", "--database", "repo/app.db", "--files", "**", "--json"];
    for _ in 0..2 {
        let output = scratch.run(&flags);
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        let said = "\".\" is not in the snapshot: it is a repository of packvault";
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["extras"], 0);
    }
    assert!(restored(&scratch).is_empty(), "the database is there, and nothing else");
}

#[test]
fn what_packvault_keeps_for_itself_is_left_out() {
    let scratch = Scratch::new();
    application(&scratch);
    // The home of this program's user is the home of the archive.
    let flags = ["create", ".", "--repo", "./repo", "--database", "app/app.db", "--files", "**"];
    scratch.json(&flags);
    let second = scratch.json(&flags);
    assert!(left_out(&second).contains(&"repo".to_owned()), "{second}");
    assert!(left_out(&second).iter().any(|path| path.starts_with(".cache")), "{second}");
}

#[test]
fn another_file_of_the_databases_name_is_named() {
    let scratch = Scratch::new();
    application(&scratch);
    fs::create_dir(scratch.path("data")).unwrap();
    Connection::open(scratch.path("data/photo.db")).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    fs::write(scratch.path("app/photo.db"), "another").unwrap();
    for pattern in ["**", "photo.db"] {
        let flags = [
            "create",
            "app",
            "--database",
            "data/photo.db",
            "--repo",
            "./repo",
            "--files",
            pattern,
            "--json",
        ];
        let output = scratch.run(&flags);
        assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        let said = "\"photo.db\" is not in the snapshot: the snapshot has this name for the database";
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
    // The database itself is no file, and no loss.
    created(&scratch, 0, &["--files", "**", "--files", "app.db", "--adopt"]);
}

/// A thread that works until it is dropped.
struct Working {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Working {
    fn start(mut work: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                work();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

#[test]
fn a_second_database_is_of_one_moment_whatever_its_application_does() {
    for mode in ["wal", "delete"] {
        let scratch = Scratch::new();
        application(&scratch);
        let path = scratch.path("app/media/second.db");
        let writer = Connection::open(&path).unwrap();
        writer.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        let sql = format!(
            "PRAGMA journal_mode = {mode}; PRAGMA wal_autocheckpoint = 20;
             CREATE TABLE accounts (id INTEGER PRIMARY KEY, amount INTEGER, more BLOB);
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO accounts SELECT i, 100, zeroblob(2000) FROM n"
        );
        writer.execute_batch(&sql).unwrap();
        // Money moves, and none comes or goes.
        let mut turn = 0;
        let working = Working::start(move || {
            turn = turn % 499 + 1;
            let sql = format!(
                "BEGIN IMMEDIATE; UPDATE accounts SET amount = amount - 7 WHERE id = {turn};
                 UPDATE accounts SET amount = amount + 7 WHERE id = 501 - {turn}; COMMIT"
            );
            writer.execute_batch(&sql).unwrap();
        });
        for _ in 0..3 {
            let result = created(&scratch, 0, &["--files", "**"]);
            assert_eq!(result["databases"][0]["path"], "media/second.db");
            assert_eq!(result["source_problems"], Value::Array(vec![]));
            assert_eq!(
                restored(&scratch),
                ["media/deep/er", "media/photo", "media/second.db"],
                "no log, no journal"
            );
            let copy = Connection::open(scratch.path("back/media/second.db")).unwrap();
            let whole: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            let sum: i64 = copy.query_row("SELECT sum(amount) FROM accounts", [], |row| row.get(0)).unwrap();
            assert_eq!((whole.as_str(), sum), ("ok", 50_000), "{mode}");
        }
        drop(working);
    }
}

#[test]
fn a_second_database_that_cannot_be_captured_is_never_copied_as_it_lies() {
    let scratch = Scratch::new();
    application(&scratch);
    let media = scratch.path("app/media");
    let mut garbage = b"SQLite format 3\0".to_vec();
    garbage.extend([0xa5; 9000]);
    fs::write(media.join("encrypted.db"), &garbage).unwrap();
    fs::write(media.join("encrypted.db-wal"), "not without its database").unwrap();
    // In the middle of a write when its application was killed: a hot journal beside it.
    let crashed = Connection::open(media.join("live.db")).unwrap();
    crashed
        .execute_batch(
            "PRAGMA cache_size = 1; CREATE TABLE t (a); INSERT INTO t VALUES (randomblob(200000));
             BEGIN; UPDATE t SET a = randomblob(200000)",
        )
        .unwrap();
    for ending in ["", "-journal"] {
        fs::copy(media.join(format!("live.db{ending}")), media.join(format!("crashed.db{ending}"))).unwrap();
    }
    drop(crashed);
    fs::remove_file(media.join("live.db")).unwrap();
    fs::write(media.join("empty.db"), "").unwrap();
    fs::write(media.join("notes-journal"), "dear diary").unwrap();
    let result = created(&scratch, 5, &["--files", "**"]);
    for name in ["media/crashed.db", "media/encrypted.db"] {
        let said = format!("{name:?} is not in the snapshot: as a SQLite database");
        assert!(warned(&result, &said), "{result}");
    }
    assert_eq!(restored(&scratch), ["media/deep/er", "media/empty.db", "media/notes-journal", "media/photo"]);
    let output = create(&scratch, &["--files", "media/encrypted.db"]);
    assert_eq!(output.status.code(), Some(1), "it was asked for by its full name");
}

#[test]
fn a_damaged_second_database_is_captured_loudly() {
    let scratch = Scratch::new();
    application(&scratch);
    let path = scratch.path("app/media/second.db");
    let database = Connection::open(&path).unwrap();
    database.execute_batch("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(20000))").unwrap();
    drop(database);
    use std::os::unix::fs::FileExt;
    fs::File::options().write(true).open(&path).unwrap().write_all_at(&[0xff; 64], 4096).unwrap();
    let output = create(&scratch, &["--files", "**"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("media/second.db"), "{}", stderr(&output));
    assert_eq!(contents(&scratch.path("app"))["media/second.db"], {
        restored(&scratch);
        contents(&scratch.path("back"))["media/second.db"].clone()
    });
    let _ = restored(&scratch);
    created(&scratch, 0, &["--files", "**", "--no-check-source"]);
}

#[test]
fn many_databases_are_all_captured() {
    let scratch = Scratch::new();
    application(&scratch);
    for number in 0..100 {
        let database = Connection::open(scratch.path(&format!("app/media/{number}.db"))).unwrap();
        let mode = ["wal", "delete"][number % 2];
        let sql =
            format!("PRAGMA journal_mode = {mode}; CREATE TABLE t (a); INSERT INTO t VALUES ({number})");
        database.execute_batch(&sql).unwrap();
    }
    let before = names(&scratch.path("app/media"));
    for _ in 0..2 {
        let result = created(&scratch, 0, &["--files", "media"]);
        assert_eq!(result["databases"].as_array().unwrap().len(), 100);
        assert_eq!(result["extras"], 102);
    }
    assert_eq!(names(&scratch.path("app/media")), before, "nothing was made beside them");
    let human = scratch.run(&["create", "--repo", "./repo", "--database", "app/app.db", "--files", "media"]);
    let text = String::from_utf8(human.stdout).unwrap();
    assert!(
        text.contains("media/0.db: a database of 8.0 KiB") && text.contains("and 90 more databases"),
        "{text}"
    );
}

#[test]
fn a_file_that_never_holds_still_is_named_and_the_rest_is_taken() {
    let scratch = Scratch::new();
    application(&scratch);
    let path = scratch.path("app/media/log");
    let growing = path.clone();
    let working = Working::start(move || {
        let mut file = fs::File::options().append(true).create(true).open(&growing).unwrap();
        file.write_all(&[b'x'; 40_000]).unwrap();
        if !(40_000_000..120_000_000).contains(&file.metadata().unwrap().len()) {
            file.set_len(40_000_000).unwrap();
        }
    });
    while fs::metadata(&path).map_or(0, |found| found.len()) < 40_000_000 {
        std::thread::yield_now();
    }
    // On a busy machine the writer may sleep for as long as two readings take: then the file does hold still.
    let moved = |flags: &[&str]| {
        let mut outputs = (0..10).map(|_| create(&scratch, flags));
        outputs.find(|output| output.status.code() != Some(0)).expect("it is never seen to move")
    };
    let output = moved(&["--files", "**"]);
    assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
    let said = "\"media/log\" is not in the snapshot: it changed each of the 3 times";
    assert!(stderr(&output).contains(said), "{}", stderr(&output));
    let back = restored(&scratch);
    assert_eq!(back, ["media/deep/er", "media/photo"]);
    let output = moved(&["--files", "media/log"]);
    assert_eq!(output.status.code(), Some(1), "it was asked for by its full name");
    drop(working);
    created(&scratch, 0, &["--files", "**"]);
}

/// Writes the file over and over in place, from its beginning: every byte of it is the same at rest, and in
/// any moment it is the new letter up to some place, and from there on the one before.
fn writing(path: &Path, times_back: bool, bytes: usize) -> Working {
    let file = fs::File::options().write(true).create(true).truncate(false).open(path).unwrap();
    use std::os::unix::fs::FileExt;
    let mut letter = 0_u8;
    file.write_all_at(&vec![letter; bytes], 0).unwrap();
    Working::start(move || {
        let times = file.metadata().unwrap().modified().unwrap();
        letter = letter.wrapping_add(1);
        file.write_all_at(&vec![letter; bytes], 0).unwrap();
        if times_back {
            file.set_times(fs::FileTimes::new().set_modified(times)).unwrap();
        }
    })
}

#[test]
fn no_file_is_stored_torn_whoever_puts_its_times_back() {
    for bytes in [3_000_000, 9_000_000] {
        let scratch = Scratch::new();
        application(&scratch);
        let path = scratch.path("app/media/rewritten");
        let working = writing(&path, true, bytes);
        for _ in 0..3 {
            let output = create(&scratch, &["--files", "**"]);
            match output.status.code() {
                Some(5) => assert!(stderr(&output).contains("media/rewritten"), "{}", stderr(&output)),
                Some(0) => {
                    restored(&scratch);
                    // As far as the writer had come in one moment, and no further anywhere.
                    let found = fs::read(scratch.path("back/media/rewritten")).unwrap();
                    let steps: Vec<u8> = found.chunk_by(PartialEq::eq).map(|run| run[0]).collect();
                    assert!(
                        steps.len() <= 2 && steps[0].wrapping_sub(steps[steps.len() - 1]) <= 1,
                        "{steps:?}"
                    );
                }
                code => panic!("{code:?}: {}", stderr(&output)),
            }
        }
        drop(working);
        created(&scratch, 0, &["--files", "**"]);
        restored(&scratch);
        assert_eq!(contents(&scratch.path("back"))["media/rewritten"], sha256(&fs::read(&path).unwrap()));
    }
}

#[test]
fn a_file_that_is_replaced_by_renames_is_one_of_its_versions() {
    let scratch = Scratch::new();
    application(&scratch);
    let media = scratch.path("app/media");
    let mut letter = 0_u8;
    fs::write(media.join("saved"), vec![letter; 3_000_000]).unwrap();
    let folder = scratch.path("app");
    let working = Working::start(move || {
        letter = letter.wrapping_add(1);
        fs::write(folder.join("new"), vec![letter; 3_000_000]).unwrap();
        fs::rename(folder.join("new"), folder.join("media/saved")).unwrap();
    });
    for _ in 0..3 {
        let output = create(&scratch, &["--files", "media/**"]);
        if output.status.code() == Some(0) {
            restored(&scratch);
            let found = fs::read(scratch.path("back/media/saved")).unwrap();
            assert!(found.len() == 3_000_000 && found.iter().all(|letter| *letter == found[0]), "it is torn");
        } else {
            assert_eq!(output.status.code(), Some(5), "{}", stderr(&output));
        }
    }
    drop(working);
}
