//! The danger: an example that a reader types in does not do what the page says, because the program has
//! moved on and the page has not.

use std::collections::BTreeSet;
use std::fs;
use std::process::Output;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Scratch, contents, stderr, write_program};

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
        let text = format!("#!/bin/sh\necho {hook} >> '{}'\n", scratch.path("hooks").display());
        write_program(&program, &text);
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

/// Returns the paths of all fields: `database.bytes`, `problems[].detail`; of an array at the top, those of its items.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                // The application's own; what is in it is not packvault's to promise.
                if path != "stats" {
                    fields(value, &path, found);
                }
                if !value.is_object() || path == "stats" {
                    found.insert(path);
                }
            }
        }
        Value::Array(items) => {
            let path = if path.is_empty() { String::new() } else { format!("{path}[]") };
            items.iter().for_each(|item| fields(item, &path, found));
        }
        _ => {}
    }
}

/// Returns a section of the page on JSON.
fn json_section(command: &str) -> String {
    let page = fs::read_to_string("docs/json.md").unwrap();
    let heading = format!("\n## {command}\n");
    let section = page.split(&heading).nth(1).unwrap_or_else(|| panic!("docs/json.md has no {command}"));
    section.split("\n## ").next().unwrap().to_owned()
}

#[test]
fn every_field_of_every_result_is_described_and_every_example_has_them_all() {
    let scratch = Scratch::new();
    drop(recipes(&scratch));
    let init = scratch.json(&["init", "--repo", "./repo"]);
    let database = "srv/recipes/recipes.db";
    let create = ["create", "--repo", "./repo", "--database", database, "--files", "media/**"];
    let results = [
        ("init", init),
        ("create", scratch.json(&create)),
        ("list", scratch.json(&["list", "--repo", "./repo"])),
        ("verify", scratch.json(&["verify", "--repo", "./repo"])),
        ("restore", scratch.json(&["restore", "--repo", "./repo", "--target", "back"])),
        ("demo", scratch.json(&["demo"])),
    ];
    for (command, result) in results {
        let section = json_section(command);
        let mut expected = BTreeSet::new();
        fields(&result, "", &mut expected);
        assert!(!expected.is_empty(), "{command}");
        for field in &expected {
            // What the items of an array have is told in words where it is short: `path`, and `reason`.
            let last = field.rsplit(['.', ']']).next().unwrap();
            let is_described =
                section.contains(&format!("`{field}`")) || section.contains(&format!("`{last}`"));
            assert!(is_described, "docs/json.md: {command} lacks {field}");
        }
        let examples: Vec<&str> =
            section.split("```json\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        for text in &examples {
            let mut shown = BTreeSet::new();
            fields(
                &serde_json::from_str(text).unwrap_or_else(|error| panic!("{command}: {error}")),
                "",
                &mut shown,
            );
            // Items and objects that this result lacks may be in the example, and the other way round.
            let top = |fields: &BTreeSet<String>| -> BTreeSet<String> {
                fields.iter().map(|field| field.split(['.', '[']).next().unwrap().to_owned()).collect()
            };
            assert_eq!(top(&shown), top(&expected), "docs/json.md: an example of {command}");
        }
        assert!(!examples.is_empty(), "docs/json.md has no example of {command}");
    }
}

#[test]
fn the_page_on_json_names_every_stage() {
    let source = fs::read_to_string("src/progress.rs").unwrap();
    let names = source.split("pub fn name(self)").nth(1).unwrap().split("\n    }\n").next().unwrap();
    let names: Vec<&str> = names.split('"').skip(1).step_by(2).collect();
    assert!(names.len() > 10, "{names:?}");
    let section = json_section("Progress");
    for name in names {
        assert!(section.contains(&format!("`{name}`")), "docs/json.md does not name the stage {name}");
    }
}

/// Leaves out what differs from run to run: numbers, ids, the temporary folder, and how wide columns are.
fn without_chance(line: &str) -> String {
    let words = line.split_whitespace().map(|word| {
        let word = match word.split_once("packvault-demo-") {
            Some((_, rest)) => format!("FOLDER/{}", rest.split_once('/').map_or("", |(_, rest)| rest)),
            None => word.to_owned(),
        };
        let mut shown = String::new();
        for part in word.split_inclusive(|c: char| !c.is_ascii_alphanumeric()) {
            let name = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let is_chance = name.chars().any(|c| c.is_ascii_digit());
            shown.push_str(if is_chance { "N" } else { name });
            shown.push_str(&part[name.len()..]);
        }
        // One pack, two packs; seconds of a slow machine.
        shown
    });
    words.collect::<Vec<_>>().join(" ").replace("packs", "pack").replace("MiB", "KiB")
}

#[test]
fn the_picture_shows_what_the_demo_prints_today() {
    let scratch = Scratch::new();
    let demo = scratch.run(&["demo"]);
    succeed(&demo);
    let printed = String::from_utf8(demo.stdout).unwrap();
    let picture = fs::read_to_string("docs/demo.svg").unwrap();
    let drawn = picture.lines().filter(|line| line.starts_with("<text ")).map(|line| {
        let text = line.split_once('>').unwrap().1.trim_end_matches("</text>");
        text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    });
    let drawn: Vec<String> = drawn.map(|line| without_chance(&line)).collect();
    let printed: Vec<String> = printed.lines().map(without_chance).filter(|line| !line.is_empty()).collect();
    assert_eq!(drawn, printed, "run `just picture`");
}
