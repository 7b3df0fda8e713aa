//! The danger: an example that a reader types in does not do what the page says, because the program has
//! moved on and the page has not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use rusqlite::Connection;
use support::{Scratch, contents, stderr};

/// Returns the first block of the page in this language, with its paths moved into the scratch folder.
fn example(scratch: &Scratch, page: &str, language: &str) -> String {
    let text = fs::read_to_string(page).unwrap();
    let block = text.split(&format!("```{language}\n")).nth(1).unwrap().split("```").next().unwrap();
    let own = scratch.path("");
    let own = own.to_str().unwrap().trim_end_matches('/');
    ["/mnt/", "/srv/", "/usr/bin/"].iter().fold(block.to_owned(), |moved, root| {
        let to = format!("{own}{root}");
        fs::create_dir_all(&to).unwrap();
        // A path stands at the beginning of a word or of a quoted text.
        moved
            .replace(&format!(" {root}"), &format!(" {to}"))
            .replace(&format!("\"{root}"), &format!("\"{to}"))
    })
}

/// The application of the examples, at work: its log is not empty.
fn recipes(scratch: &Scratch) -> Connection {
    let home = scratch.path("srv/recipes");
    fs::create_dir_all(home.join("media/cache")).unwrap();
    for (name, text) in [("media/soup.jpg", "soup"), ("media/cache/small", "x"), ("config.yml", "key: 1")] {
        fs::write(home.join(name), text).unwrap();
    }
    let database = Connection::open(home.join("recipes.db")).unwrap();
    let sql = "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
               CREATE TABLE recipes (name TEXT); INSERT INTO recipes VALUES ('soup'), ('bread');";
    database.execute_batch(sql).unwrap();
    database
}

fn succeed(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
}

fn restored_recipes(scratch: &Scratch) -> i64 {
    let restored = Connection::open(scratch.path("srv/back/recipes.db")).unwrap();
    restored.query_row("SELECT count(*) FROM recipes", [], |row| row.get(0)).unwrap()
}

#[test]
fn the_quick_start_for_a_live_application_works_as_typed() {
    let scratch = Scratch::new();
    let lines = example(&scratch, "docs/live-sqlite.md", "sh");
    let _at_work = recipes(&scratch);
    for line in lines.lines() {
        let arguments: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('\'')).collect();
        assert_eq!(arguments[0], "packvault");
        succeed(&scratch.run(&arguments[1..]));
    }
    assert_eq!(restored_recipes(&scratch), 2);
    let files = contents(&scratch.path("srv/back"));
    assert!(files.contains_key("media/soup.jpg") && !files.contains_key("config.yml"), "{files:?}");
}

#[test]
fn the_configuration_for_a_live_application_works_as_written() {
    let scratch = Scratch::new();
    let config = scratch.path("packvault.toml");
    fs::write(&config, example(&scratch, "docs/live-sqlite.md", "toml")).unwrap();
    let _at_work = recipes(&scratch);
    for hook in ["recipes-pause", "recipes-resume"] {
        let program = scratch.path("usr/bin").join(hook);
        fs::write(&program, format!("#!/bin/sh\necho {hook} >> '{}'\n", scratch.path("hooks").display()))
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let run = |arguments: &[&str]| {
        let mut command = scratch.packvault(arguments);
        command.args(["--repo", "./repo"]).env("PACKVAULT_CONFIG", &config).output().unwrap()
    };
    succeed(&run(&["init"]));
    succeed(&run(&["create", "recipes", "--allow-plaintext-secrets"]));
    assert_eq!(fs::read_to_string(scratch.path("hooks")).unwrap(), "recipes-pause\nrecipes-resume\n");
    succeed(&run(&["restore", "--target", "srv/back"]));
    assert_eq!(restored_recipes(&scratch), 2);
    let files = contents(&scratch.path("srv/back"));
    assert!(files.contains_key("config.yml") && !files.contains_key("media/cache/small"), "{files:?}");
}
