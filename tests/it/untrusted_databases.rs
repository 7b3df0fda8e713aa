//! The danger: a database that nobody here knows is taken for one that we know. What only its application has
//! makes its backup fail; what its schema or the statistics of its snapshot run has no end; what is built of it
//! aside stays on the disk; a check passes that SQLite's own would not.
//!
//! (`malice.rs` has the lies of the repository's own objects; the lowest floor of all this is tested in
//! `src/archive/health.rs`, `src/archive/bounds.rs` and `src/profiles/sqlite/stats.rs`.)

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::hostile::LOOKS;
use crate::support::operations::{block_on, open};
use crate::support::{Scratch, names, stderr};

/// A search that SQLite makes for longer than anybody waits, in one call of one function.
const DEAF: &str = "SELECT instr(zeroblob(30000000), CAST(zeroblob(15000000) || x'01' AS BLOB))";
const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
const CREATE: [&str; 6] = ["create", "--database", "app.db", "--repo", "./repo", "--json"];
const RESTORE: [&str; 6] = ["restore", "--repo", "./repo", "--target", "back", "--json"];

/// Makes a repository, and the database of an application that has more than SQLite.
fn application(sql: &str) -> Scratch {
    let scratch = Scratch::new();
    scratch.run(&["init", "--repo", "./repo"]);
    let connection = Connection::open(scratch.path("app.db")).unwrap();
    connection.create_collation("icu_root", |a, b| b.cmp(a)).unwrap();
    let flags = FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("sortkey", 1, flags, |context| context.get::<String>(0)).unwrap();
    connection.execute_batch(sql).unwrap();
    scratch
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(output)))
}

/// Publishes the newest snapshot once more, with other statistics; returns its id.
fn forge(scratch: &Scratch, version: i64, stats: &Value) -> String {
    let repository = open(&scratch.path("repo"));
    let mut forged = block_on(repository.load_snapshots()).unwrap().pop().unwrap();
    forged.stats = stats.to_string();
    (forged.format_version, forged.min_reader_version) = (version, version);
    forged.created_at = "2031-01-01T00:00:00Z".into();
    forged.seal_id().unwrap();
    block_on(repository.publish_snapshot(&forged)).unwrap();
    forged.snapshot_id
}

/// Looks at the newest snapshot in every way, which must end by itself: what needs no word of the database succeeds, what
/// asks it may also be refused, in a sentence. Of `sql` the exit code is returned.
fn assert_looks(scratch: &Scratch, question: &str, case: &str) -> i32 {
    let mut asked = 0;
    for look in &LOOKS {
        let words = look.words.iter().map(|word| match *word {
            "ID" | "HONEST" => "latest",
            "msgvault.db" => "app.db",
            word if word.starts_with("SELECT ") => question,
            word => word,
        });
        let words: Vec<&str> = words.chain(["--repo", "./repo"]).collect();
        let output = scratch.run(&words);
        let said = stderr(&output);
        assert!(!said.contains("panicked"), "{case}: {words:?}: {said}");
        match look.name() {
            "sql" => asked = code(&output),
            // No application has that table.
            "history" => assert!(matches!(code(&output), 1 | 3), "{case}: {said}"),
            _ => assert_eq!(code(&output), 0, "{case}: {words:?}: {said}"),
        }
        let is_named = said.starts_with("error: ") || output.stdout.starts_with(b"problem: ");
        assert!(code(&output) == 0 || is_named, "{case}: {said}");
        if look.name() == "dump" {
            assert!(output.stdout == fs::read(scratch.path("app.db")).unwrap(), "{case}");
        }
    }
    asked
}

/// The statistics of an application with one question.
fn asking(sql: &str, value: i64) -> Value {
    let query = json!({ "name": "mails", "sql": sql, "value": value });
    json!({ "profile": "sqlite", "database": "app.db", "attachment_blobs": 0, "queries": [query] })
}

/// The statistics of a msgvault archive, whose database is asked where attachments belong.
fn of_msgvault() -> Value {
    json!({ "messages": 0, "conversations": 0, "sources": 0, "accounts": 0, "attachment_rows": 0,
        "attachment_blobs": 0, "labels": 0, "date_range": ["", ""] })
}

/// Starts the program, and returns it when it says all of the words in one line of its progress.
fn started(scratch: &Scratch, arguments: &[&str], words: &[&str]) -> Child {
    let mut command = scratch.packvault(&[arguments, &["--progress", "json"]].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let said = lines.find(|line| words.iter().all(|word| line.contains(word)));
    assert!(said.is_some(), "{words:?} was never told");
    // Somebody must go on to read what it says.
    std::thread::spawn(move || lines.count());
    child
}

fn cache(scratch: &Scratch) -> std::path::PathBuf {
    scratch.path(".cache/packvault")
}

/// Tells whether the program has a file open that holds mail and has no name.
fn holds_mail(child: &Child) -> bool {
    let Ok(open) = fs::read_dir(format!("/proc/{}/fd", child.id())) else { return false };
    open.flatten().any(|entry| {
        let nameless =
            fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().ends_with("(deleted)"));
        nameless && fs::read(entry.path()).is_ok_and(|bytes| holds(&bytes, "my private mail"))
    })
}

fn holds(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

fn files_below(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn what_only_its_application_has_keeps_no_database_from_its_backup_and_is_named() {
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100) \
                INSERT INTO m SELECT i, 't' || i FROM n;";
    for (sql, words) in [
        ("CREATE TABLE m (id, title); CREATE INDEX i ON m (title COLLATE icu_root);", "icu_root"),
        ("CREATE TABLE m (id, title); CREATE INDEX i ON m (sortkey(title));", "sortkey"),
        ("CREATE TABLE m (id, title CHECK (sortkey(title) <> ''));", "sortkey"),
        (
            // A schema may not call it; SQLite says so where it reads constraints, and gives up the whole schema.
            "CREATE TABLE m (id, title CHECK (title <> '')); PRAGMA writable_schema = ON; UPDATE sqlite_schema \
             SET sql = 'CREATE TABLE m (id, title CHECK (load_extension(title) IS NULL))' WHERE name = 'm';",
            "not authorized",
        ),
        (
            "CREATE TABLE m (id, title); CREATE VIRTUAL TABLE f USING fts5 (x); PRAGMA writable_schema = ON; \
             UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE f USING vec0 (x)' WHERE name = 'f';",
            "vec0",
        ),
        (
            "CREATE TABLE m (id, title); CREATE VIRTUAL TABLE f USING fts4 (x); PRAGMA writable_schema = ON; \
             UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE f USING fts4 (x, tokenize=collating)' \
             WHERE name = 'f';",
            "collating",
        ),
    ] {
        let scratch = application(&format!("{sql} {rows}"));
        for output in [scratch.run(&CREATE), scratch.run(&RESTORE)] {
            assert_eq!(code(&output), 0, "{sql}: {}", stderr(&output));
            assert!(stderr(&output).contains(words), "{sql}: {}", stderr(&output));
            let report = report(&output);
            let warnings = report["warnings"].as_array().unwrap();
            assert!(warnings.iter().any(|warning| warning.as_str().unwrap().contains(words)), "{report}");
            if report["proof"].is_object() {
                assert_eq!(report["proof"]["integrity_check"], "partial", "{report}");
            }
        }
        assert_eq!(fs::read(scratch.path("back/app.db")).unwrap(), fs::read(scratch.path("app.db")).unwrap());
        let verified = scratch.run(&["verify", "--all", "--paths", "--repo", "./repo"]);
        assert_eq!(code(&verified), 0, "{sql}: {}", stderr(&verified));
        let asked = assert_looks(&scratch, "SELECT count(*) FROM m", sql);
        assert!(matches!(asked, 0..=2), "{sql}");
        fs::remove_dir_all(scratch.path("back")).unwrap();
        let told = scratch.run(&RESTORE[..5]);
        assert!(String::from_utf8_lossy(&told.stdout).contains("not possible in full"), "{sql}");
    }
}

#[test]
fn a_broken_constraint_is_seen_by_a_create_and_by_a_restore_as_sqlite_sees_it() {
    for mode in ["delete", "wal"] {
        let scratch = application(&format!(
            "PRAGMA journal_mode = {mode}; PRAGMA ignore_check_constraints = ON; \
             CREATE TABLE t (a CHECK (a > 0)); INSERT INTO t VALUES (-1)"
        ));
        let created = scratch.run(&CREATE);
        assert_eq!(code(&created), 4, "{}", stderr(&created));
        assert!(stderr(&created).contains("CHECK constraint failed in t"), "{}", stderr(&created));
        let restored = scratch.run(&RESTORE);
        assert_eq!(code(&restored), 1);
        let said = stderr(&restored);
        assert!(
            said.contains("CHECK constraint failed in t") && said.contains("--skip-integrity-check"),
            "{said}"
        );
        assert!(!said.contains("verify --all"), "verify has nothing to say of this: {said}");
        assert!(!scratch.path("back").exists());
        assert_eq!(code(&scratch.run(&[&RESTORE[..], &["--skip-integrity-check"]].concat())), 0);
        let bytes = [scratch.path("back/app.db"), scratch.path("app.db")].map(|path| fs::read(path).unwrap());
        assert!(bytes[0] == bytes[1], "{mode}");
        assert_eq!(names(&scratch.path("back")), ["app.db"], "{mode}");
    }
}

#[test]
fn a_sound_database_is_the_same_after_the_check_in_either_journal_mode() {
    for mode in ["delete", "wal"] {
        let scratch = application(&format!(
            "PRAGMA journal_mode = {mode}; CREATE TABLE t (a CHECK (a > 0), b UNIQUE); INSERT INTO t VALUES (1, 2)"
        ));
        assert_eq!(code(&scratch.run(&CREATE)), 0);
        let restored = report(&scratch.run(&RESTORE));
        assert_eq!(restored["proof"]["integrity_check"], "ok", "{restored}");
        assert_eq!(names(&scratch.path("back")), ["app.db"], "{mode}");
        let bytes = [scratch.path("back/app.db"), scratch.path("app.db")].map(|path| fs::read(path).unwrap());
        assert!(bytes[0] == bytes[1], "{mode}");
    }
}

#[test]
fn an_expression_that_asks_for_all_memory_ends_the_check_and_not_the_machine() {
    for expression in
        ["0 * length(hex(zeroblob(499000000 + 0 * a)))", "0 * length(printf('%.*c', 900000000 + 0 * a, 'x'))"]
    {
        let scratch = application(&format!(
            "CREATE TABLE t (a); INSERT INTO t VALUES (1), (2), (3); CREATE INDEX i ON t (a); \
             PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t ({})' WHERE name = 'i'",
            expression.replace('\'', "''")
        ));
        let created = scratch.run(&CREATE);
        assert_eq!(code(&created), 0, "{}", stderr(&created));
        assert!(stderr(&created).contains("could not be checked"), "{}", stderr(&created));
        let restored = scratch.run(&RESTORE);
        let said = stderr(&restored);
        assert_eq!(code(&restored), 1, "{said}");
        assert!(said.contains("MiB of memory") && said.contains("--skip-integrity-check"), "{said}");
        assert!(!scratch.path("back").exists());
        assert_eq!(assert_looks(&scratch, "PRAGMA integrity_check", expression), 1, "{expression}");
    }
}

#[test]
fn a_view_without_end_and_a_search_that_hears_nothing_end_when_they_are_told_to() {
    let scratch = application(&format!(
        "CREATE TABLE t (a); INSERT INTO t VALUES (1); CREATE VIEW endless AS {ENDLESS}; CREATE VIEW deaf AS {DEAF}"
    ));
    scratch.run(&CREATE);
    assert_eq!(assert_looks(&scratch, "SELECT a FROM t", "views"), 0);
    let asked = scratch.run(&["sql", "SELECT * FROM endless", "--timeout", "1", "--repo", "./repo"]);
    assert_eq!(code(&asked), 1, "{}", stderr(&asked));
    assert!(stderr(&asked).contains("did not end within"), "{}", stderr(&asked));
    for view in ["endless", "deaf"] {
        let question = format!("SELECT * FROM {view}");
        let words = ["sql", &question, "--repo", "./repo", "--log-file", "log", "-vv"];
        let mut command = scratch.packvault(&words);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Once its pages are read, it is busy with nothing else.
        let reads_pages = || fs::read_to_string(scratch.path("log")).is_ok_and(|log| log.contains("packs/"));
        while !reads_pages() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{view}");
        assert!(names(&scratch.path("repo/locks")).is_empty(), "{view}");
        fs::remove_file(scratch.path("log")).unwrap();
    }
}

#[test]
fn statistics_that_take_too_much_are_refused_by_name_and_can_be_left_out() {
    let scratch = application("CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    scratch.run(&CREATE);
    let sorted = "WITH RECURSIVE n(i, b) AS (SELECT 1, zeroblob(60000000) UNION SELECT i + 1, zeroblob(60000000) \
                  FROM n LIMIT 60) SELECT count(*) FROM n";
    forge(&scratch, 1, &asking(sorted, 60));
    let restored = scratch.run(&RESTORE);
    let said = stderr(&restored);
    assert_eq!(code(&restored), 1, "{said}");
    for words in ["\"mails\"", "more memory", "--skip-stats"] {
        assert!(said.contains(words), "{said}");
    }
    let restored = report(&scratch.run(&[&RESTORE[..], &["--skip-stats"]].concat()));
    assert_eq!(restored["proof"]["stats"], "skipped", "{restored}");
}

#[test]
fn another_answer_is_named_and_accepted_as_a_last_resort() {
    let scratch = application("CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    scratch.run(&CREATE);
    forge(&scratch, 1, &asking("SELECT count(*) FROM t", 7));
    let restored = scratch.run(&RESTORE);
    let said = stderr(&restored);
    assert_eq!(code(&restored), 1, "{said}");
    assert!(said.contains("\"mails\" is recorded as 7, found 1") && said.contains("--skip-stats"), "{said}");
    assert!(!said.contains("verify --all"), "verify has nothing to say of this: {said}");
    assert!(!scratch.path("back").exists());
    assert_eq!(code(&scratch.run(&[&RESTORE[..], &["--skip-stats"]].concat())), 0);
}

#[test]
fn ctrl_c_is_heard_while_a_database_is_asked_that_hears_nothing() {
    let scratch = application("CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    scratch.run(&CREATE);
    for question in [DEAF, ENDLESS] {
        let id = forge(&scratch, 1, &asking(question, 0));
        let arguments = ["restore", &id, "--repo", "./repo", "--target", "back"];
        let mut child = started(&scratch, &arguments, &["step", "statistics"]);
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{question}");
        assert!(!scratch.path("back").exists(), "{question}");
        assert!(names(&scratch.path("repo/locks")).is_empty(), "{question}");
        fs::remove_file(scratch.path(&format!("repo/snapshots/{id}.mvmanifest"))).unwrap();
    }
}

#[test]
fn nothing_of_a_database_that_is_built_aside_has_a_name_on_the_disk() {
    let mails = "my private mail ".repeat(20);
    let scratch = application(&format!(
        "CREATE TABLE mail (body); INSERT INTO mail VALUES ('{mails}'); \
         CREATE VIEW attachments AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) \
         SELECT i AS id, 'x' || i AS content_hash, CASE WHEN i < 0 THEN 'x' END AS storage_path, \
         NULL AS thumbnail_hash, NULL AS thumbnail_path, 1 AS size FROM n"
    ));
    scratch.run(&CREATE);
    let id = forge(&scratch, 2, &of_msgvault());
    let left = || {
        let files = files_below(&cache(&scratch));
        files.into_iter().find(|file| holds(&fs::read(file).unwrap(), "my private mail"))
    };
    for signal in [Signal::INT, Signal::KILL] {
        let arguments = ["verify", &id, "--repo", "./repo"];
        let mut child = started(&scratch, &arguments, &["begin", "\"paths\""]);
        // It is asked without end once it is there.
        while !holds_mail(&child) {
            assert!(child.try_wait().unwrap().is_none(), "it has not ended");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), signal).unwrap();
        let ended = child.wait().unwrap().code();
        assert_eq!(ended, (signal == Signal::INT).then_some(130));
        assert_eq!(left(), None, "{signal:?}");
    }
    fs::remove_dir_all(scratch.path("repo/locks")).unwrap();
    fs::create_dir(scratch.path("repo/locks")).unwrap();
    let arguments = ["restore", &id, "--repo", "./repo", "--target", "back"];
    let mut child = started(&scratch, &arguments, &["end", "\"database\""]);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!scratch.path("back").exists());
}

#[test]
fn what_an_earlier_version_left_in_the_cache_goes_with_the_next_command() {
    let scratch = application("CREATE TABLE t (a)");
    scratch.run(&CREATE);
    for arguments in [
        &["create", "--database", "app.db", "--repo", "./repo"][..],
        &["verify", "--repo", "./repo", "--quick"],
        &["restore", "--repo", "./repo", "--target", "back"],
    ] {
        let folder = cache(&scratch).join(".tmpA1b2C3");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
        fs::write(folder.join("archive.db"), "my private mail").unwrap();
        assert_eq!(code(&scratch.run(arguments)), 0);
        assert!(!folder.exists(), "{arguments:?}");
    }
}

#[test]
fn a_question_whose_answer_is_not_in_the_data_is_refused_when_it_is_asked() {
    let scratch = application(
        "CREATE TABLE t (a); INSERT INTO t VALUES ('now'); CREATE VIEW late AS SELECT a FROM t WHERE a < date('now')",
    );
    let home = scratch.path("app.db").parent().unwrap().to_owned();
    for (sql, expected) in [
        ("SELECT count(*) FROM late", 2),
        ("SELECT sqlite_version()", 2),
        ("SELECT datetime('2026-01-01', 'localtime')", 2),
        ("SELECT count(*) FROM t WHERE a = 'now'", 0),
    ] {
        let config = format!(
            "[archive.app]\nprofile = \"sqlite\"\nhome = {home:?}\ndatabase = \"app.db\"\n\
             [archive.app.stats]\nmails = \"{sql}\"\n"
        );
        fs::write(scratch.path("packvault.toml"), config).unwrap();
        let mut command = scratch.packvault(&["create", "app", "--repo", "./repo"]);
        let created = command.env("PACKVAULT_CONFIG", scratch.path("packvault.toml")).output().unwrap();
        assert_eq!(code(&created), expected, "{sql}: {}", stderr(&created));
        assert!(expected == 0 || stderr(&created).contains("mails"), "{sql}: {}", stderr(&created));
    }
}
