//! The danger: two applications share a repository, each the parent of the other's snapshots, and a restore
//! brings the one the data of the other. And: a summary that could not be written is taken for a backup that
//! was not made.

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Scratch, mode, stderr};

/// Makes the database of an application, with these tables.
fn application(scratch: &Scratch, folder: &str, tables: &[&str]) {
    fs::create_dir_all(scratch.path(folder)).unwrap();
    let database = Connection::open(scratch.path(folder).join("db.sqlite3")).unwrap();
    for table in tables {
        database
            .execute_batch(&format!("CREATE TABLE {table} (x); INSERT INTO {table} VALUES (1);"))
            .unwrap();
    }
}

const VAULT: [&str; 3] = ["ciphers", "users", "folders"];
const PAPER: [&str; 3] = ["documents", "tags", "correspondents"];

/// Two applications whose databases have the same name, and a repository with a snapshot of the first.
fn scene() -> Scratch {
    let scratch = Scratch::new();
    application(&scratch, "vault", &VAULT);
    application(&scratch, "paper", &PAPER);
    succeed(&scratch.run(&["init", "--repo", "./repo"]));
    succeed(&create(&scratch, "vault", &[]));
    scratch
}

fn create(scratch: &Scratch, folder: &str, flags: &[&str]) -> Output {
    let database = format!("{folder}/db.sqlite3");
    scratch.run(&[&["create", "--repo", "./repo", "--database", &database], flags].concat())
}

fn succeed(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

fn refused(output: &Output, parts: &[&str]) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?}: {said}");
}

fn rows(scratch: &Scratch) -> Vec<Value> {
    scratch.json(&["list", "--repo", "./repo"]).as_array().unwrap().clone()
}

fn table_names(database: &Path) -> Vec<String> {
    let database = Connection::open(database).unwrap();
    let mut statement = database.prepare("SELECT name FROM sqlite_master ORDER BY name").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_second_application_in_one_repository_is_refused_before_anything_is_stored() {
    let scratch = scene();
    let before = rows(&scratch);
    for flags in [&[][..], &["--dry-run"]] {
        let said = ["/vault/db.sqlite3", "/paper/db.sqlite3", "--adopt", "a repository of its own"];
        refused(&create(&scratch, "paper", flags), &said);
    }
    assert_eq!(rows(&scratch).len(), before.len());
    succeed(&create(&scratch, "vault", &[]));
    let listed = rows(&scratch);
    let database = scratch.path("vault/db.sqlite3").canonicalize().unwrap();
    assert_eq!(listed[1]["archive"]["database"], database.to_str().unwrap());
    assert_eq!(listed[1]["archive"]["profile"], "sqlite");
    let table = String::from_utf8(scratch.run(&["list", "--repo", "./repo"]).stdout).unwrap();
    assert!(table.contains(&format!("archive: {} (sqlite)", database.display())), "{table}");
}

#[test]
fn an_application_that_moved_goes_on_when_that_is_said() {
    let scratch = scene();
    fs::rename(scratch.path("vault"), scratch.path("moved")).unwrap();
    refused(&create(&scratch, "moved", &[]), &["/vault/db.sqlite3", "/moved/db.sqlite3", "--adopt"]);
    succeed(&create(&scratch, "moved", &["--adopt"]));
    succeed(&create(&scratch, "moved", &[]));
    assert_eq!(rows(&scratch).len(), 3);
    let table = String::from_utf8(scratch.run(&["list", "--repo", "./repo"]).stdout).unwrap();
    assert!(table.contains("vault/db.sqlite3") && table.contains("moved/db.sqlite3"), "{table}");
}

#[test]
fn two_containers_that_see_the_same_path_are_told_apart_and_a_fresh_start_is_the_same_application() {
    let scratch = scene();
    fs::remove_dir_all(scratch.path("vault")).unwrap();
    application(&scratch, "vault", &PAPER);
    refused(&create(&scratch, "vault", &[]), &["with other tables", "--adopt"]);
    fs::remove_dir_all(scratch.path("vault")).unwrap();
    application(&scratch, "vault", &[]);
    Connection::open(scratch.path("vault/db.sqlite3"))
        .unwrap()
        .execute_batch("CREATE TABLE ciphers (x)")
        .unwrap();
    succeed(&create(&scratch, "vault", &[]));
}

#[test]
fn a_repository_without_notes_or_with_a_damaged_one_goes_on() {
    let scratch = scene();
    succeed(&create(&scratch, "vault", &[]));
    let folder = scratch.path("repo/snapshots");
    let mut notes: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    notes.retain(|path| path.to_str().unwrap().ends_with(".packvault.json"));
    notes.sort();
    assert_eq!(notes.len(), 2);
    assert_eq!(mode(&notes[0]) & 0o111, 0);
    // The older note still says whose the repository is.
    fs::write(&notes[1], "{").unwrap();
    refused(&create(&scratch, "paper", &[]), &["/vault/db.sqlite3"]);
    succeed(&create(&scratch, "vault", &[]));
    // An older packvault wrote none: then nobody knows, and the profile alone is compared.
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(rows(&scratch).iter().all(|row| row["archive"].is_null()));
    succeed(&create(&scratch, "vault", &[]));
    refused(&create(&scratch, "paper", &[]), &["/vault/db.sqlite3"]);
}

#[test]
fn an_application_of_another_kind_is_refused_whoever_wrote_the_newest_snapshot() {
    let scratch = scene();
    crate::support::archives::make(&scratch.path("mail"), &crate::support::archives::tiny());
    let said = ["of the profile sqlite", "msgvault", "--adopt"];
    refused(&scratch.run(&["create", "mail", "--repo", "./repo"]), &said);
    succeed(&scratch.run(&["init", "--repo", "./mails"]));
    succeed(&scratch.run(&["create", "mail", "--repo", "./mails"]));
    for entry in fs::read_dir(scratch.path("mails/snapshots")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "json") {
            fs::remove_file(path).unwrap();
        }
    }
    let arguments = ["create", "--repo", "./mails", "--database", "vault/db.sqlite3"];
    refused(&scratch.run(&arguments), &["of the profile msgvault", "vault/db.sqlite3", "--adopt"]);
}

#[test]
fn no_application_is_restored_over_another_by_mistake() {
    let scratch = scene();
    let restore = |flags: &[&str]| {
        scratch.run(&[&["restore", "--repo", "./repo", "--overwrite", "--target"], flags].concat())
    };
    refused(&restore(&["paper"]), &["of another application", "--adopt"]);
    assert!(table_names(&scratch.path("paper/db.sqlite3")).contains(&"documents".to_owned()));
    succeed(&restore(&["vault"]));
    // The same by the configuration, where nothing is left of what lay there.
    let config = format!(
        "[archive.paper]\nprofile = 'sqlite'\nhome = '{0}/empty'\ndatabase = 'db.sqlite3'\n\
         [archive.vault]\nprofile = 'sqlite'\nhome = '{0}/vault'\ndatabase = 'db.sqlite3'\nrepository = '{0}/repo'\n",
        scratch.path("").display()
    );
    fs::write(scratch.path("config.toml"), config).unwrap();
    fs::create_dir(scratch.path("empty")).unwrap();
    let configured = |arguments: &[&str]| {
        scratch.packvault(arguments).env("PACKVAULT_CONFIG", scratch.path("config.toml")).output().unwrap()
    };
    succeed(&configured(&["create", "vault"]));
    refused(&configured(&["restore", "vault", "--target", "empty"]), &["is the home of paper", "vault"]);
    succeed(&configured(&["restore", "vault", "--target", "empty", "--adopt"]));
    // A new machine, another folder, an empty one: where it came from does not matter.
    succeed(&configured(&["restore", "vault", "--target", "elsewhere"]));
    succeed(&configured(&["restore", "vault", "--target", "elsewhere", "--overwrite"]));
}

#[test]
fn the_name_of_an_archive_leads_to_its_repository() {
    let scratch = scene();
    let config = format!(
        "[archive.vault]\nprofile = 'sqlite'\nhome = '{0}/vault'\ndatabase = 'db.sqlite3'\nrepository = '{0}/repo'\n\
         [archive.paper]\nprofile = 'sqlite'\nhome = '{0}/paper'\ndatabase = 'db.sqlite3'\nrepository = '{0}/repo'\n",
        scratch.path("").display()
    );
    fs::write(scratch.path("config.toml"), config).unwrap();
    let configured = |arguments: &[&str]| {
        scratch.packvault(arguments).env("PACKVAULT_CONFIG", scratch.path("config.toml")).output().unwrap()
    };
    succeed(&configured(&["create", "vault"]));
    let id = rows(&scratch)[0]["id"].as_str().unwrap().to_owned();
    // The application is gone: just then its backup is wanted.
    fs::remove_dir_all(scratch.path("vault")).unwrap();
    for arguments in [
        &["list", "vault"][..],
        &["verify", "vault"],
        &["verify", "vault", "--all"],
        &["verify", "vault", &id],
        &["restore", "vault", "--target", "one"],
        &["restore", "vault", &id[17..25], "--target", "two"],
    ] {
        succeed(&configured(arguments));
    }
    assert_eq!(table_names(&scratch.path("one/db.sqlite3")).len(), 3);
    // The configuration says that this repository is the paper's, and it is the vault's.
    refused(&configured(&["restore", "paper", "--target", "three"]), &["is of vault", "and not of paper"]);
    assert!(!scratch.path("three").exists());
    for (arguments, code) in [
        (&["list", "valut"][..], 2),
        (&["verify", "valut"], 2),
        (&["restore", "valut", "--target", "x"], 2),
        (&["restore", "valut", &id, "--target", "x"], 2),
        (&["create", "valut"], 1),
    ] {
        let output = configured(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains("no archive is called valut; did you mean vault?"), "{arguments:?}: {said}");
    }
}

#[test]
fn a_summary_that_cannot_be_written_leaves_the_snapshot_and_says_so() {
    let scratch = scene();
    for (arguments, done) in [
        (
            &["create", "--repo", "./repo", "--database", "vault/db.sqlite3"][..],
            "was made and is in the repository",
        ),
        (&["create", "--repo", "./repo", "--database", "vault/db.sqlite3", "--json"], "was made"),
        (&["restore", "--repo", "./repo", "--target", "one"], "was restored and is in place"),
        (&["restore", "--repo", "./repo", "--target", "two", "--json"], "was restored"),
        (&["init", "--repo", "./another"], "the repository at ./another was made"),
        (&["unlock", "--repo", "./repo"], "none is left"),
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = scratch.packvault(arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let output = child.wait_with_output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(6), "{arguments:?}: {said}");
        assert!(said.contains(done) && said.contains("only its summary could not be written"), "{said}");
    }
    assert_eq!(rows(&scratch).len(), 3);
    assert!(scratch.path("one/db.sqlite3").exists() && scratch.path("two/db.sqlite3").exists());
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let listed = scratch.packvault(&["list", "--repo", "./repo"]).stdout(full).output().unwrap();
    assert_eq!(listed.status.code(), Some(1), "what was asked for was not given");
}

#[test]
fn secrets_may_be_allowed_by_a_setting() {
    let scratch = scene();
    fs::write(scratch.path("vault/key.pem"), "secret").unwrap();
    let config = |setting: &str| {
        let text = format!(
            "[archive.vault]\nprofile = 'sqlite'\nhome = '{0}/vault'\ndatabase = 'db.sqlite3'\n\
             repository = '{0}/repo'\nfiles = ['*.pem']\nsecrets = ['*.pem']\n{setting}\n",
            scratch.path("").display()
        );
        fs::write(scratch.path("config.toml"), text).unwrap();
        scratch
            .packvault(&["create", "vault"])
            .env("PACKVAULT_CONFIG", scratch.path("config.toml"))
            .output()
            .unwrap()
    };
    assert_ne!(config("").status.code(), Some(0));
    assert_ne!(config("allow_plaintext_secrets = false").status.code(), Some(0));
    succeed(&config("allow_plaintext_secrets = true"));
}
