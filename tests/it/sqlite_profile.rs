//! The danger: an application that packvault knows nothing of is backed up with something missing, is
//! changed by its backup, or cannot be brought back where nobody has its configuration.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use packvault::engine::{self, Selection};
use packvault::profiles::msgvault::Msgvault;
use rusqlite::Connection;
use serde_json::Value;

use crate::support::operations::{block_on, context, open};
use crate::support::{Scratch, contents, names, sha256, stderr, write_program};

const CONFIG: &str = r#"
[archive.recipes]
profile = "sqlite"
home = "HOME/app"
database = "data/recipes.db"
files = ["media/**", "config.yml"]
exclude = ["media/cache/**"]
secrets = ["config.yml"]
[archive.recipes.stats]
recipes = "SELECT count(*) FROM recipes"
longest = "SELECT max(length(name)) * 1.5 FROM recipes"
"#;

/// An application's home with a database in WAL mode, whose connection is returned: the application runs.
fn application(scratch: &Scratch) -> Connection {
    let home = scratch.path("app");
    for folder in ["data", "media/cache", "media/deep/er"] {
        fs::create_dir_all(home.join(folder)).unwrap();
    }
    for (file, text) in [("config.yml", "key: 1"), ("media/a.jpg", "a"), ("media/deep/er/b", "b")] {
        fs::write(home.join(file), text).unwrap();
    }
    fs::write(home.join("media/cache/x"), "x").unwrap();
    fs::write(home.join("notes.txt"), "not asked for").unwrap();
    let database = Connection::open(home.join("data/recipes.db")).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE recipes (id INTEGER PRIMARY KEY, name TEXT);
             INSERT INTO recipes (name) VALUES ('soup'), ('bread'), ('pancakes');",
        )
        .unwrap();
    database
}

/// Writes the configuration; returns a function that runs packvault with it.
fn configured<'a>(scratch: &'a Scratch, config: &str) -> impl Fn(&[&str]) -> Output + 'a {
    let home = scratch.path("").to_str().unwrap().trim_end_matches('/').to_owned();
    let file = scratch.path("packvault.toml");
    fs::write(&file, config.replace("HOME", &home)).unwrap();
    move |arguments| {
        let mut command = scratch.packvault(arguments);
        command.env("PACKVAULT_CONFIG", &file).output().unwrap()
    }
}

fn json(output: &Output) -> Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

const CREATE: [&str; 5] = ["create", "recipes", "--repo", "./repo", "--json"];
const CREATE_ALL: [&str; 6] =
    ["create", "recipes", "--repo", "./repo", "--json", "--allow-plaintext-secrets"];

#[test]
fn an_application_is_backed_up_while_it_runs_and_restored_without_its_configuration() {
    let scratch = Scratch::new();
    let database = application(&scratch);
    let run = configured(&scratch, CONFIG);
    run(&["init", "--repo", "./repo"]);
    let data = contents(&scratch.path("app/data"));
    let created = json(&run(&CREATE_ALL));
    assert_eq!((&created["database"]["read"], &created["extras"]), (&"transaction".into(), &3.into()));
    let after = contents(&scratch.path("app/data"));
    for file in ["recipes.db", "recipes.db-wal"] {
        assert_eq!(data[file], after[file], "{file} stays as it was");
    }
    database.execute("INSERT INTO recipes (name) VALUES ('salad')", []).unwrap();
    fs::write(scratch.path("app/media/c"), "c").unwrap();
    let second = json(&run(&CREATE_ALL));
    assert_eq!(second["parent"], created["id"]);
    drop(database);

    // From here on nobody knows of the application.
    let restored = scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert_eq!(restored["proof"]["stats"], "ok");
    let back = contents(&scratch.path("back"));
    let expected = ["config.yml", "data/recipes.db", "media/a.jpg", "media/c", "media/deep/er/b"];
    assert_eq!(back.keys().collect::<Vec<_>>(), expected);
    let count = |path: &str| -> i64 {
        let database = Connection::open(scratch.path(path)).unwrap();
        database.query_row("SELECT count(*) FROM recipes", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(count("back/data/recipes.db"), 4);
    let first = created["id"].as_str().unwrap();
    scratch.json(&["restore", first, "--repo", "./repo", "--target", "first"]);
    assert_eq!(count("first/data/recipes.db"), 3);
    let again = scratch.json(&["restore", "--repo", "./repo", "--target", "first", "--overwrite"]);
    assert_eq!((count("first/data/recipes.db"), &again["database"]["identical"]), (4, &true.into()));

    let verified = scratch.json(&["verify", "--all", "--paths", "--repo", "./repo"]);
    assert_eq!((&verified["ok"], &verified["snapshots"]), (&true.into(), &2.into()));
    let rows = scratch.json(&["list", "--repo", "./repo"]);
    let stats = &rows[1]["stats"];
    assert_eq!((&stats["profile"], &stats["database"]), (&"sqlite".into(), &"data/recipes.db".into()));
    assert_eq!(
        (&stats["queries"][0]["name"], &stats["queries"][0]["value"]),
        (&"longest".into(), &"12".into())
    );
    assert_eq!((&stats["queries"][1]["name"], &stats["queries"][1]["value"]), (&"recipes".into(), &4.into()));
}

#[test]
fn files_are_stored_once_and_large_ones_too() {
    let scratch = Scratch::new();
    drop(application(&scratch));
    let run = configured(&scratch, CONFIG);
    run(&["init", "--repo", "./repo"]);
    let noise: Vec<u8> = (0..9_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(scratch.path("app/media/large"), &noise).unwrap();
    json(&run(&CREATE_ALL));
    fs::write(scratch.path("app/media/copy of large"), &noise).unwrap();
    let second = json(&run(&CREATE_ALL));
    assert!(second["bytes_added"].as_u64().unwrap() < 10_000, "{second}");
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert_eq!(contents(&scratch.path("back"))["media/copy of large"], sha256(&noise));
}

#[test]
fn secrets_are_refused_before_anything_is_captured() {
    let scratch = Scratch::new();
    let _database = application(&scratch);
    let run = configured(&scratch, CONFIG);
    run(&["init", "--repo", "./repo"]);
    let before = names(&scratch.path("repo"));
    let refused = run(&CREATE);
    assert_eq!(code(&refused), 2);
    assert!(stderr(&refused).contains("config.yml holds secrets"), "{}", stderr(&refused));
    assert_eq!(names(&scratch.path("repo")), before);
}

#[test]
fn what_a_snapshot_cannot_hold_is_left_out_and_said() {
    let scratch = Scratch::new();
    let _database = application(&scratch);
    let run = configured(&scratch, CONFIG);
    run(&["init", "--repo", "./repo"]);
    symlink("/etc/passwd", scratch.path("app/media/link")).unwrap();
    symlink("/etc", scratch.path("app/media/folder link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(scratch.path("app/media/socket")).unwrap();
    fs::write(scratch.path("app/media/ends in a dot."), "x").unwrap();
    let odd = std::ffi::OsStr::new("app/media/odd ").to_owned();
    fs::write(scratch.path("").join(odd), "x").unwrap();
    let output = run(&CREATE_ALL);
    assert_eq!(code(&output), 5, "what was asked for is missing: {}", stderr(&output));
    let created: Value = serde_json::from_slice(&output.stdout).unwrap();
    let left: Vec<(&str, &str)> = created["left_out"]
        .as_array()
        .unwrap()
        .iter()
        .map(|left| (left["path"].as_str().unwrap(), left["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(left.len(), 5, "{left:?}");
    let link = "it is a symbolic link to the file /etc/passwd; links are not followed";
    assert!(left.contains(&("media/link", link)), "{left:?}");
    assert!(left.contains(&("media/socket", "it is a socket")));
    let human = run(&["create", "recipes", "--repo", "./repo", "--allow-plaintext-secrets"]);
    let text = String::from_utf8(human.stdout).unwrap();
    assert!(
        text.contains("left out     media/link: it is a symbolic link to the file /etc/passwd"),
        "{text}"
    );

    fs::remove_file(scratch.path("app/config.yml")).unwrap();
    symlink("/etc/passwd", scratch.path("app/config.yml")).unwrap();
    let refused = run(&CREATE_ALL);
    assert!(stderr(&refused).contains("config.yml cannot be part of a snapshot"), "{}", stderr(&refused));
    fs::remove_file(scratch.path("app/config.yml")).unwrap();
    assert!(stderr(&run(&CREATE_ALL)).contains("config.yml does not exist"));
}

#[test]
fn a_folder_whose_name_the_format_keeps_is_refused_not_lost() {
    let scratch = Scratch::new();
    let _database = application(&scratch);
    let config = CONFIG.replace("\"media/**\"", "\"media/**\", \"attachments/**\"");
    let run = configured(&scratch, &config);
    run(&["init", "--repo", "./repo"]);
    fs::create_dir(scratch.path("app/attachments")).unwrap();
    fs::write(scratch.path("app/attachments/x"), "x").unwrap();
    let refused = run(&CREATE_ALL);
    assert_eq!(code(&refused), 1);
    assert!(stderr(&refused).contains("make the folder above it the archive's home"), "{}", stderr(&refused));
}

#[test]
fn flags_are_enough_for_a_start() {
    let scratch = Scratch::new();
    let _database = application(&scratch);
    scratch.run(&["init", "--repo", "./repo"]);
    let flags = ["--database", "app/data/recipes.db", "--repo", "./repo"];
    let alone = scratch.json(&[&["create"], &flags[..]].concat());
    assert_eq!(alone["extras"], 0);
    let files = ["--files", "**", "--exclude", "media/cache/**"];
    let whole = scratch.json(&[&["create", "app"], &flags[..], &files[..]].concat());
    assert_eq!(whole["extras"], 4, "the database is not among the files: {whole}");
    scratch.json(&["restore", "--repo", "./repo", "--target", "back"]);
    assert!(scratch.path("back/data/recipes.db").exists() && scratch.path("back/notes.txt").exists());
}

#[test]
fn hooks_surround_the_backup_whatever_happens() {
    let scratch = Scratch::new();
    let _database = application(&scratch);
    let script = scratch.path("hook");
    write_program(&script, "#!/bin/sh\necho \"$1\" >> \"$2\"\necho said\nexit $3\n");
    let hooked = |code: &str, extra: &str| {
        let hooks = format!(
            "{extra}before = [\"HOME/hook\", \"before; $(x)\", \"HOME/log\", \"{code}\"]\n\
             after = [\"HOME/hook\", \"after\", \"HOME/log\", \"0\"]\n[archive.recipes.stats]"
        );
        CONFIG.replace("[archive.recipes.stats]", &hooks)
    };
    let log = || fs::read_to_string(scratch.path("log")).unwrap_or_default();
    let run = configured(&scratch, &hooked("0", ""));
    run(&["init", "--repo", "./repo"]);
    let created = run(&CREATE_ALL);
    json(&created);
    assert!(stderr(&created).contains("said"), "what a hook prints goes to standard error");
    assert_eq!(log(), "before; $(x)\nafter\n");
    fs::remove_file(scratch.path("app/config.yml")).unwrap();
    assert_eq!(code(&run(&CREATE_ALL)), 1);
    assert_eq!(log(), "before; $(x)\nafter\n".repeat(2), "after runs when the backup fails");
    fs::write(scratch.path("app/config.yml"), "back").unwrap();
    let run = configured(&scratch, &hooked("3", ""));
    let snapshots = names(&scratch.path("repo/snapshots"));
    let failed = run(&CREATE_ALL);
    assert!(stderr(&failed).contains("failed with exit code 3"), "{}", stderr(&failed));
    assert_eq!(log(), "before; $(x)\nafter\n".repeat(3));
    assert_eq!(names(&scratch.path("repo/snapshots")), snapshots);
}

#[test]
fn an_interrupted_backup_still_lets_the_application_go_on() {
    let scratch = Scratch::new();
    let _database = application(&scratch);
    let hooks = "before = [\"sh\", \"-c\", \"touch HOME/paused; sleep 600\"]\n\
                 after = [\"touch\", \"HOME/resumed\"]\n[archive.recipes.stats]";
    let run = configured(&scratch, &CONFIG.replace("[archive.recipes.stats]", hooks));
    run(&["init", "--repo", "./repo"]);
    let mut command = scratch.packvault(&CREATE_ALL);
    let path = std::env::var_os("PATH").unwrap();
    command.env("PACKVAULT_CONFIG", scratch.path("packvault.toml")).env("PATH", path);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !scratch.path("paused").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it waits for its hook");
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(scratch.path("resumed").exists());
    assert_eq!(names(&scratch.path("repo/snapshots")), Vec::<String>::new());
    crate::support::assert_no_remains(&scratch.path("repo"));
}

#[test]
fn a_damaged_source_is_captured_loudly() {
    let scratch = Scratch::new();
    let database = application(&scratch);
    let filler = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
         INSERT INTO recipes (name) SELECT 'recipe number ' || i FROM n;
         CREATE INDEX by_name ON recipes (name); PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE";
    database.execute_batch(filler).unwrap();
    drop(database);
    let file = scratch.path("app/data/recipes.db");
    let mut bytes = fs::read(&file).unwrap();
    let page = bytes.len() / 4096 - 3;
    bytes[page * 4096..page * 4096 + 200].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    let run = configured(&scratch, CONFIG);
    run(&["init", "--repo", "./repo"]);
    let created = run(&CREATE_ALL);
    assert_eq!(code(&created), 4, "{}", stderr(&created));
    let report: Value = serde_json::from_slice(&created.stdout).unwrap();
    assert!(!report["source_problems"].as_array().unwrap().is_empty(), "{report}");
    assert_eq!(report["database"]["read"], "file");
    let rows = scratch.json(&["list", "--repo", "./repo"]);
    assert_eq!(rows[0]["source_problems"], report["source_problems"]);
    let table = String::from_utf8(scratch.run(&["list", "--repo", "./repo"]).stdout).unwrap();
    assert!(table.contains("the source was damaged"), "{table}");
    assert_eq!(scratch.json(&["verify", "--all", "--repo", "./repo"])["ok"], true);
    let arguments = ["restore", "--repo", "./repo", "--target", "back"];
    assert_eq!(code(&scratch.run(&arguments)), 1, "it does not pass for sound");
    let forced = [&arguments[..], &["--skip-integrity-check"]].concat();
    scratch.json(&forced);
    assert_eq!(fs::read(scratch.path("back/data/recipes.db")).unwrap(), bytes);
    let unchecked = run(&[&CREATE_ALL[..], &["--no-check-source"]].concat());
    assert_eq!(code(&unchecked), 0, "{}", stderr(&unchecked));
}

#[test]
fn a_database_whose_index_contradicts_its_table_fails_the_integrity_check_of_a_restore() {
    let scratch = Scratch::new();
    let database = application(&scratch);
    let contradict =
        "CREATE TABLE pairs (one TEXT, other TEXT); INSERT INTO pairs VALUES ('a', 'b'), ('c', 'd');
         CREATE INDEX by_one ON pairs (one); PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX by_one ON pairs (other)' WHERE name = 'by_one'";
    database.execute_batch(contradict).unwrap();
    drop(database);
    let run = configured(&scratch, CONFIG);
    run(&["init", "--repo", "./repo"]);
    // A small source is checked as a restore will check it.
    let created = run(&CREATE_ALL);
    assert_eq!(code(&created), 4, "{}", stderr(&created));
    assert!(stderr(&created).contains("by_one"), "{}", stderr(&created));
    let arguments = ["restore", "--repo", "./repo", "--target", "back"];
    let restored = scratch.run(&arguments);
    assert_eq!(code(&restored), 1);
    let said = stderr(&restored);
    for words in ["fails SQLite's integrity check", "by_one", "--skip-integrity-check"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!scratch.path("back").exists());
    let report = scratch.json(&[&arguments[..], &["--skip-integrity-check"]].concat());
    assert_eq!(report["proof"]["integrity_check"], "skipped");
}

#[test]
fn a_forged_snapshot_cannot_make_a_restore_run_more_than_questions() {
    let scratch = Scratch::new();
    drop(application(&scratch));
    let run = configured(&scratch, CONFIG);
    run(&["init", "--repo", "./repo"]);
    json(&run(&CREATE_ALL));
    let repository = open(&scratch.path("repo"));
    let genuine = block_on(repository.load_snapshots()).unwrap().remove(0);
    let evil = scratch.path("evil.db");
    for (number, (sql, database)) in [
        (format!("ATTACH '{}' AS evil", evil.display()), "data/recipes.db"),
        ("DELETE FROM recipes".to_owned(), "data/recipes.db"),
        ("PRAGMA journal_mode = WAL".to_owned(), "data/recipes.db"),
        ("SELECT load_extension('/tmp/evil.so')".to_owned(), "data/recipes.db"),
        ("SELECT 1".to_owned(), "../evil.db"),
        ("SELECT 1".to_owned(), "config.yml"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut forged = genuine.clone();
        let query = serde_json::json!({ "name": "x", "sql": sql, "value": 1 });
        forged.stats = serde_json::json!({
            "profile": "sqlite", "database": database, "attachment_blobs": 0, "queries": [query],
        })
        .to_string();
        forged.created_at = format!("2030-01-01T00:00:{number:02}Z");
        forged.seal_id().unwrap();
        block_on(repository.publish_snapshot(&forged)).unwrap();
        let target = format!("target{number}");
        let arguments = ["restore", &forged.snapshot_id, "--repo", "./repo", "--target", &target];
        let refused = scratch.run(&arguments);
        assert_eq!(code(&refused), 1, "{sql}: {}", stderr(&refused));
        assert!(!scratch.path(&target).exists() && !evil.exists(), "{sql}");
        let path_is_evil = database != "data/recipes.db";
        let surroundings = context(2);
        let profile = Arc::new(Msgvault);
        let verify = engine::verify::verify(
            &repository,
            profile,
            Selection::Latest,
            Default::default(),
            &surroundings,
        );
        let report = block_on(verify).unwrap();
        assert_eq!(report.ok, !path_is_evil, "{sql} {database}: {:?}", report.problems);
    }
}

#[test]
fn a_configuration_that_cannot_be_meant_is_refused() {
    let scratch = Scratch::new();
    drop(application(&scratch));
    scratch.run(&["init", "--repo", "./repo"]);
    for (from, to, words) in [
        ("\"media/**\"", "\"../media/**\"", "no pattern for files"),
        ("\"media/**\"", "\"/media/**\"", "no pattern for files"),
        ("database = \"data/recipes.db\"", "", "archive.recipes.database is missing"),
        ("profile = \"sqlite\"", "profile = \"msgvault\"", "belongs to archives with `profile = \"sqlite\"`"),
        ("SELECT count(*) FROM recipes", "DELETE FROM recipes", "cannot use the statistic \"recipes\""),
        ("SELECT count(*) FROM recipes", "SELECT random()", "cannot use the statistic \"recipes\""),
        ("SELECT count(*) FROM recipes", "SELECT datetime('now')", "cannot use the statistic \"recipes\""),
        ("SELECT count(*) FROM recipes", "SELECT id FROM recipes", "more than one row"),
    ] {
        let run = configured(&scratch, &CONFIG.replace(from, to));
        let refused = run(&CREATE_ALL);
        assert_eq!(code(&refused), 2, "{to}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(words), "{to}: {}", stderr(&refused));
    }
}

#[test]
fn presets_are_sections_that_packvault_takes() {
    let scratch = Scratch::new();
    let presets = scratch.run(&["archive", "presets"]);
    assert_eq!(code(&presets), 0, "{}", stderr(&presets));
    let text = String::from_utf8(presets.stdout).unwrap();
    let run = configured(&scratch, &text);
    for name in ["vaultwarden", "paperless", "home-assistant", "mealie", "calibre-web", "actual"] {
        // The section is understood; the application is not there.
        let output = run(&["create", name, "--repo", "./none"]);
        assert_eq!(code(&output), 10, "{name}: {}", stderr(&output));
    }
    assert_eq!(code(&scratch.run(&["archive", "presets", "immich"])), 1);
    assert_eq!(text.matches("Not tried").count(), 3);
}

/// Makes the files of an application as its first start does, with nothing optional.
fn first_start(scratch: &Scratch, home: &str, database: &str, tables: &[&str], files: &[&str]) {
    for file in files.iter().chain([&database]) {
        fs::create_dir_all(scratch.path(home).join(file).parent().unwrap()).unwrap();
    }
    for file in files {
        fs::write(scratch.path(home).join(file), "x").unwrap();
    }
    let database = Connection::open(scratch.path(home).join(database)).unwrap();
    tables.iter().for_each(|table| database.execute_batch(&format!("CREATE TABLE {table} (x)")).unwrap());
}

#[test]
fn presets_work_as_pasted_on_a_fresh_installation_without_anything_optional() {
    let scratch = Scratch::new();
    first_start(&scratch, "srv/vaultwarden", "data/db.sqlite3", &["users", "ciphers"], &["data/rsa_key.pem"]);
    first_start(
        &scratch,
        "srv/paperless",
        "data/db.sqlite3",
        &["documents_document"],
        &["media/documents/originals/1.pdf"],
    );
    first_start(
        &scratch,
        "srv/homeassistant",
        "home-assistant_v2.db",
        &["states"],
        &["configuration.yaml", ".storage/auth"],
    );
    first_start(&scratch, "srv/mealie", "mealie.db", &["recipes"], &[]);
    first_start(&scratch, "srv/calibre-web", "books/metadata.db", &["books"], &["config/app.db"]);
    first_start(&scratch, "srv/actual", "server-files/account.sqlite", &["files"], &[]);
    let text = String::from_utf8(scratch.run(&["archive", "presets"]).stdout).unwrap();
    let text = text.replace("\"/srv/", &format!("\"{}/srv/", scratch.path("").display()));
    let run = configured(&scratch, &text);
    for (name, extras) in [
        ("vaultwarden", 1),
        ("paperless", 1),
        ("home-assistant", 2),
        ("mealie", 0),
        ("calibre-web", 1),
        ("actual", 0),
    ] {
        let repository = format!("./of-{name}");
        run(&["init", "--repo", &repository]);
        let output = run(&["create", name, "--repo", &repository, "--json"]);
        assert_eq!(code(&output), 0, "{name}: {}", stderr(&output));
        assert_eq!(json(&output)["extras"], extras, "{name}");
        scratch.json(&["restore", "--repo", &repository, "--target", &format!("back-{name}")]);
    }
}

#[test]
fn what_is_optional_may_be_missing_and_a_slip_in_it_is_refused() {
    let scratch = Scratch::new();
    drop(application(&scratch));
    scratch.run(&["init", "--repo", "./repo"]);
    let section = |optional: &str| {
        let text = format!(
            "[archive.recipes]\nprofile = 'sqlite'\nhome = '{}'\ndatabase = 'data/recipes.db'\n\
             files = ['nothing.yml', 'none/**']\nexclude = ['nowhere/**']\nsecrets = ['no.key']\n{optional}\n",
            scratch.path("app").display()
        );
        configured(&scratch, &text)(&["create", "recipes", "--repo", "./repo"])
    };
    assert_eq!(code(&section("")), 1, "a full name must be there");
    assert_eq!(code(&section("optional = ['nothing.yml']")), 5);
    let all = "optional = ['nothing.yml', 'none/**', 'nowhere/**', 'no.key']";
    let output = section(all);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let output = section("optional = ['nothing.yaml']");
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("\"nothing.yaml\" of `optional`"), "{}", stderr(&output));
}

#[test]
fn a_database_that_only_another_user_may_read_is_named() {
    let scratch = Scratch::new();
    drop(application(&scratch));
    scratch.run(&["init", "--repo", "./repo"]);
    let database = scratch.path("app/data/recipes.db");
    fs::set_permissions(&database, fs::Permissions::from_mode(0o000)).unwrap();
    let refused = as_nobody(&scratch, &["create", "--database", "app/data/recipes.db", "--repo", "./repo"]);
    assert_eq!(code(&refused), 1);
    let text = stderr(&refused);
    assert!(text.contains("cannot open the database") && text.contains("ermission denied"), "{text}");
}

#[test]
fn a_wal_database_in_a_folder_that_cannot_be_written_to_is_captured_and_nothing_is_made_there() {
    let scratch = Scratch::new();
    let database = application(&scratch);
    database.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(database);
    scratch.run(&["init", "--repo", "./repo"]);
    let folder = scratch.path("app/data");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let arguments = ["create", "--dry-run", "--database", "app/data/recipes.db", "--repo", "./repo"];
    let created = as_nobody(&scratch, &arguments);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(code(&created), 0, "{}", stderr(&created));
    assert_eq!(names(&folder), ["recipes.db"]);
}

/// Runs packvault as somebody whom permissions bind, as the superuser is not.
fn as_nobody(scratch: &Scratch, arguments: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let mut command = scratch.packvault(arguments);
    if rustix::process::geteuid().is_root() {
        open_to_all(&scratch.path(""));
        command.uid(65534).gid(65534);
    }
    command.output().unwrap()
}

/// Lets everybody into the folder and its repository; the application's own files stay as they are.
fn open_to_all(folder: &Path) {
    let repository = folder.join("repo");
    let set = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    set(folder);
    set(&repository);
    for name in crate::support::tree(&repository).into_keys() {
        set(&repository.join(name));
    }
}
