//! The danger: the floors of the house grow into each other, until nothing can be understood, tested or
//! replaced alone. The rules of `docs/architecture.md` are checked against the source itself.
//!
//! Imports point one way: `cli -> engine -> {repo, profiles -> archive} -> format`, `repo -> storage`, and
//! only `location` names drivers. What a comment, a text or a unit test says does not count.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::source::{SourceFile, files};

/// The floors of the library, and what each may name.
const FLOORS: [(&str, &[&str]); 13] = [
    ("clock", &["error"]),
    ("process", &[]),
    ("plain_file", &[]),
    ("error", &["format"]),
    ("progress", &[]),
    ("cancel", &["error"]),
    ("format", &[]),
    ("repo", &["clock", "format", "process", "cancel", "error", "progress"]),
    ("archive", &["clock", "format", "cancel", "error", "progress"]),
    ("profiles", &["clock", "archive", "format", "process", "plain_file", "cancel", "error", "progress"]),
    ("engine", &["clock", "repo", "profiles", "archive", "format", "process", "cancel", "error", "progress"]),
    ("location", &["plain_file", "cancel", "error", "progress"]),
    ("ledger", &["error"]),
];

/// What the root of the library exports under another name than that of its module.
const EXPORTED: [(&str, &str); 5] = [
    ("Cancel", "cancel"),
    ("Error", "error"),
    ("ErrorKind", "error"),
    ("Result", "error"),
    ("Location", "location"),
];

/// The library: everything in `src` but the program.
fn library() -> Vec<SourceFile> {
    let mut found = files("src");
    found.retain(|file| !is_program(file));
    assert!(found.len() > 60, "the library was found");
    found
}

fn is_program(file: &SourceFile) -> bool {
    file.path.starts_with("src/cli/") || file.path == "src/main.rs"
}

fn program() -> Vec<SourceFile> {
    let mut found = files("src");
    found.retain(is_program);
    assert!(found.len() > 10, "the program was found");
    found
}

fn module_of(name: &str) -> &str {
    EXPORTED.iter().find(|(exported, _)| *exported == name).map_or(name, |(_, module)| module)
}

/// Expects no file to hold any of the words.
fn assert_without(files: &[SourceFile], words: &[&str], rule: &str) {
    let mut found = vec![];
    for file in files {
        found.extend(words.iter().filter(|word| file.has(word)).map(|word| (file.path.clone(), *word)));
    }
    assert!(found.is_empty(), "{rule}: {found:#?}");
}

#[test]
fn imports_between_the_floors_point_down() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        FLOORS.iter().map(|(floor, below)| (*floor, below.iter().copied().collect())).collect();
    let mut broken = vec![];
    for file in library() {
        if file.path == "src/lib.rs" {
            continue;
        }
        let floor = file.module[0].clone();
        let below = allowed.get(floor.as_str()).unwrap_or_else(|| panic!("{floor} is no known floor"));
        for name in file.names_from_root() {
            let named = module_of(&name);
            if named != floor && !below.contains(named) {
                broken.push(format!("{}: {floor} names {name}", file.path));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn storage_is_named_by_the_repository_and_drivers_by_the_location_alone() {
    let not_below = |floors: &'static [&'static str]| {
        let mut found = library();
        found.extend(program());
        found.retain(|file| !floors.iter().any(|floor| file.module.first().is_some_and(|own| own == floor)));
        found
    };
    assert_without(&not_below(&["repo", "location"]), &["packvault_storage"], "only repo stores anything");
    let drivers = ["packvault_local", "packvault_opendal", "packvault_s3", "packvault_sftp"];
    assert_without(&not_below(&["location"]), &drivers, "only location names drivers");
}

#[test]
fn drivers_know_the_contract_and_nothing_else_of_the_house() {
    for folder in std::fs::read_dir("drivers").unwrap() {
        let folder = folder.unwrap().file_name().into_string().unwrap();
        let manifest = std::fs::read_to_string(format!("drivers/{folder}/Cargo.toml")).unwrap();
        let ours = manifest.lines().filter(|line| line.starts_with("packvault"));
        let known = ["packvault-storage", "packvault-test-servers"];
        let other: Vec<&str> =
            ours.filter(|line| !known.iter().any(|known| line.starts_with(known))).collect();
        assert!(other.is_empty(), "drivers/{folder}: {other:?}");
        // Its own tests need what it has for tests.
        let named = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        let names_itself = folder == "storage" && named.contains("\npackvault-storage");
        assert!(!names_itself, "the contract depends on nothing of ours");
        let found = files(&format!("drivers/{folder}/src"));
        assert_without(&found, &["packvault"], "a driver knows keys and bytes, nothing of backups");
    }
}

#[test]
fn samples_are_invented_for_the_demonstration_without_our_codecs() {
    assert_without(
        &files("sample/src"),
        &["packvault"],
        "no error of ours may hide in what tests are made of",
    );
    let mut found = library();
    found.extend(program());
    found.retain(|file| !file.path.starts_with("src/cli/demo"));
    assert_without(&found, &["packvault_sample"], "nothing but the demonstration invents an archive");
}

#[test]
fn the_format_is_pure() {
    let mut found = library();
    found.retain(|file| file.module.first().is_some_and(|floor| floor == "format"));
    let impure = [
        "std::fs",
        "std::env",
        "std::net",
        "std::io",
        "std::process",
        "std::thread",
        "std::time",
        "SystemTime",
        "Instant",
        "Timestamp::now",
        "async",
        "await",
        "tokio",
        "futures",
        "fastrand",
        "rusqlite",
        "rustix",
    ];
    assert_without(&found, &impure, "codecs take bytes and give values");
}

#[test]
fn the_library_neither_prints_nor_reads_the_environment() {
    let words = [
        "print!",
        "println!",
        "eprint!",
        "eprintln!",
        "dbg!",
        "io::stdout",
        "io::stderr",
        "env::var",
        "env::vars",
        "env::var_os",
        "env::current_dir",
        "env::temp_dir",
        "env::home_dir",
        "env::args",
        "process::exit",
    ];
    let mut found = library();
    for entry in std::fs::read_dir("drivers").unwrap() {
        found.extend(files(entry.unwrap().path().join("src").to_str().unwrap()));
    }
    assert_without(&found, &words, "printing and the environment belong to the command line");
}

#[test]
fn one_module_alone_puts_work_on_threads() {
    let words =
        ["spawn_blocking", "block_in_place", "rayon", "thread::spawn", "thread::scope", "thread::Builder"];
    let mut found = library();
    // The thread beside a call into SQLite works on nothing: it interrupts the call in time. And work that may
    // never come back must hold no thread of the pipeline.
    let others = ["src/engine/pipeline.rs", "src/engine/aside.rs", "src/archive/deadline.rs"];
    found.retain(|file| !others.contains(&file.path.as_str()));
    assert_without(&found, &words, "the pipeline joins CPU work and I/O");
    let mut program = program();
    // It has the runtime start its threads before there is work for them.
    program.retain(|file| file.path != "src/cli/threads.rs");
    assert_without(&program, &["spawn_blocking", "block_in_place", "rayon"], "the program computes nothing");
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let mut folders = ["src", "tests", "benches", "sample"].map(String::from).to_vec();
    for entry in std::fs::read_dir("drivers").unwrap() {
        let folder = entry.unwrap().path();
        folders.extend(["src", "tests"].map(|part| folder.join(part).to_str().unwrap().to_owned()));
    }
    let all = folders.iter().flat_map(|folder| files(folder));
    let silent: Vec<String> =
        all.filter(|file| !file.text.starts_with("//! ")).map(|file| file.path).collect();
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn an_import_that_points_up_would_be_seen() {
    for (path, text, named) in [
        ("src/repo/packs.rs", "use crate::archive::content::Content;", "archive"),
        ("src/repo/packs.rs", "use crate::{\n    format::{A, B},\n    engine::Context,\n};", "engine"),
        ("src/format/pack/footer.rs", "fn f() -> super::super::super::repo::Repository {}", "repo"),
        ("src/repo/mod.rs", "fn f(x: super::engine::Context) {}", "engine"),
        ("src/archive/freeze.rs", "let x = crate::repo::locks::STALE;", "repo"),
    ] {
        let file = SourceFile::new(path, text.to_owned());
        assert!(file.names_from_root().contains(named), "{text}: {:?}", file.names_from_root());
    }
    for text in [
        "// crate::engine\nuse crate::format::A;",
        "/// See [`crate::engine`].\nfn f() {}",
        "let x = \"crate::engine\"; let y = '\"'; let z = r#\"crate::\"engine\"#;",
        "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::engine::X;\n}\n",
        "let x = mycrate::engine::X;",
        "let x = '\"'; let y: &'a str = \"crate::engine\";",
        "let x = '\\''; let y = \"crate::engine\";",
    ] {
        let file = SourceFile::new("src/repo/packs.rs", text.to_owned());
        assert!(!file.names_from_root().contains("engine"), "{text}: {:?}", file.names_from_root());
    }
}
