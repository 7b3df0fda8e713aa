//! The danger: a page tells a number, a package says what it is made of, or an example shows an output, and the source
//! has moved on.
//!
//! Tables with a column for constants are read and compared row by row. What stands in running text is listed below:
//! whoever changes a constant there changes its sentence too.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Scratch, archives, stderr};

/// Sentences that tell the value of a constant: the page, the words, the file, the constant.
const TOLD: [(&str, &str, &str, &str); 37] = [
    ("docs/locking.md", "90 s without a touch", "src/repo/locks/holder.rs", "DEAD_AFTER"),
    ("docs/locking.md", "the 30 min count", "src/repo/locks/mod.rs", "STALE_AFTER"),
    ("docs/locking.md", "After 60 s give the lock back", "src/repo/locks/mod.rs", "WAIT_MAX"),
    ("docs/locking.md", "after 20 s one that stays", "src/repo/locks/by_listing.rs", "CONTEST_MAX"),
    ("docs/locking.md", "it waits, 60 s at most", "src/repo/locks/by_listing.rs", "CONFIRM_WAIT_MAX"),
    ("docs/commands/create.md", "waiting up to 60 s", "src/repo/locks/mod.rs", "WAIT_MAX"),
    ("docs/commands/create.md", "it is given up after 30 s", "src/archive/freeze.rs", "WINDOW_MAX"),
    ("docs/msgvault-freeze.md", "given up 30 s after the beginning", "src/archive/freeze.rs", "WINDOW_MAX"),
    (
        "docs/msgvault-freeze.md",
        "and waited for, 120 s",
        "src/profiles/msgvault/daemon/gate.rs",
        "STARTING_MAX",
    ),
    (
        "docs/msgvault-freeze.md",
        "waited for, 30 s at the most",
        "src/profiles/msgvault/daemon/gate.rs",
        "LOCKED_MAX",
    ),
    ("docs/commands/unlock.md", "90 s after its last touch", "src/repo/locks/holder.rs", "DEAD_AFTER"),
    ("docs/commands/unlock.md", "30 min after its last touch", "src/repo/locks/mod.rs", "STALE_AFTER"),
    ("docs/commands/verify.md", "not more than 100,000 entries", "src/format/pack.rs", "ENTRIES_MAX"),
    ("docs/commands/restore.md", "| 256 MiB, and", "src/archive/bounds.rs", "MEMORY_BYTES_MAX"),
    (
        "docs/commands/restore.md",
        "and 1 KiB for each attachment",
        "src/engine/content_paths.rs",
        "LISTED_BYTES",
    ),
    ("docs/commands/restore.md", "| 2 minutes, and 10 seconds", "src/archive/bounds.rs", "TIME_MIN"),
    ("docs/commands/restore.md", "| 2 minutes, and half a second", "src/archive/bounds.rs", "TIME_MIN"),
    ("docs/commands/restore.md", "Runs of zeros of 64 KiB", "src/archive/sparse.rs", "HOLE_BYTES_MIN"),
    ("docs/commands/create.md", "smaller than 1 GB", "src/archive/profile.rs", "CHECKED_BYTES_MAX"),
    ("docs/configuration.md", "4 GiB without it", "src/cli/settings/choice.rs", "SPOOL_BYTES_MAX"),
    ("docs/configuration.md", "at once; 4 without it", "drivers/sftp/src/config.rs", "CONNECTIONS_MAX"),
    ("docs/remote.md", "up to 128 MiB for the manifests", "src/repo/cache.rs", "FOLDER_BYTES_MAX"),
    ("docs/remote.md", "A pack of up to 256 KiB", "src/repo/opened.rs", "SMALL_PACK_BYTES_MAX"),
    ("docs/remote.md", "the last 64 KiB at least", "src/repo/opened.rs", "TAIL_BYTES_MIN"),
    ("docs/remote.md", "only up to 16 KiB", "src/repo/opened.rs", "FOOTER_PACK_BYTES_MAX"),
    ("docs/remote.md", "batches of up to 4 MiB", "src/engine/bulk/batches.rs", "BATCH_BYTES"),
    ("docs/remote.md", "gaps of up to 64 KiB", "src/engine/bulk/batches.rs", "GAP_BYTES_MAX"),
    ("docs/remote.md", "A blob above 8 MiB", "src/engine/bulk/batches.rs", "WHOLE_BYTES_MAX"),
    ("docs/remote.md", "pieces of 2 MiB", "src/engine/bulk/pieces.rs", "PIECE_BYTES"),
    ("docs/remote.md", "The last 64 packs", "src/repo/blobs.rs", "OPEN_PACKS_MAX"),
    ("docs/storage.md", "of at most 512 bytes", "drivers/storage/src/key.rs", "KEY_BYTES_MAX"),
    ("SECURITY.md", "objects at 256 MiB", "src/engine/metadata.rs", "OBJECT_BYTES_MAX"),
    ("SECURITY.md", "page maps at 1 GiB", "src/engine/metadata.rs", "MAP_BYTES_MAX"),
    ("SECURITY.md", "manifests at 64 MiB", "src/repo/snapshots.rs", "MANIFEST_BYTES_MAX"),
    ("SECURITY.md", "indexes at 1 GiB", "src/repo/indexes.rs", "INDEX_BYTES_MAX"),
    ("SECURITY.md", "a zstd window at 512 MiB", "src/format/frame.rs", "WINDOW_BYTES_MAX"),
    ("SECURITY.md", "may have 256 parts", "src/format/paths.rs", "COMPONENTS_MAX"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// The value of a constant.
#[derive(Debug, Clone, Copy)]
struct Value {
    number: u64,
    is_duration: bool,
}

/// Returns what a constant of the source is.
fn constant(file: &str, name: &str) -> Value {
    let source = read(file);
    let declared = source.split(&format!("const {name}: ")).nth(1);
    let declared = declared.unwrap_or_else(|| panic!("{file} has no constant {name}"));
    let text = declared.split_once("= ").unwrap().1.split(';').next().unwrap();
    let seconds = text.strip_prefix("Duration::from_secs(").and_then(|rest| rest.strip_suffix(')'));
    Value { number: evaluate(file, seconds.unwrap_or(text)), is_duration: seconds.is_some() }
}

/// Evaluates a product, a shift, or the name of another constant.
fn evaluate(file: &str, text: &str) -> u64 {
    if let Some((left, right)) = text.split_once(" << ") {
        return evaluate(file, left) << evaluate(file, right);
    }
    let factor = |part: &str| match part.trim().replace('_', "").parse() {
        Ok(number) => number,
        Err(_) => constant(file, part.trim()).number,
    };
    text.split(" * ").map(factor).product()
}

impl Value {
    /// Returns the ways in which a page may write it.
    fn written(self) -> Vec<String> {
        let number = self.number;
        if self.is_duration {
            let mut ways = vec![format!("{number} s"), format!("{number} seconds")];
            if number.is_multiple_of(60) {
                ways.extend([format!("{} min", number / 60), format!("{} minutes", number / 60)]);
            }
            return ways;
        }
        let mut ways = vec![number.to_string(), with_commas(number)];
        let units =
            [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("MB", 1_000_000), ("GB", 1_000_000_000)];
        let whole = units.iter().filter(|(_, size)| number > 0 && number.is_multiple_of(*size));
        ways.extend(whole.map(|(unit, size)| format!("{} {unit}", number / size)));
        ways
    }

    /// Tells whether the text has it, not as part of a longer number.
    fn is_told_in(self, text: &str) -> bool {
        let is_apart = |place: usize, way: &str| {
            let before = text[..place].chars().next_back();
            let after = text[place + way.len()..].chars().next();
            !before.is_some_and(|c| c.is_ascii_digit() || c == ',')
                && !after.is_some_and(char::is_alphanumeric)
        };
        self.written()
            .iter()
            .any(|way| text.match_indices(way.as_str()).any(|(place, _)| is_apart(place, way)))
    }
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns the rows of the tables whose last column is `constant`.
fn rows_with_constants(page: &str) -> Vec<Vec<String>> {
    let mut is_inside = false;
    let mut rows = Vec::new();
    for line in page.lines() {
        let cells: Vec<String> =
            line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
        let is_row = line.starts_with('|');
        let is_head = is_row && cells.last().is_some_and(|cell| cell == "constant");
        if is_inside && is_row && !line.starts_with("| ---") {
            rows.push(cells);
        }
        is_inside = is_head || (is_inside && is_row);
    }
    rows
}

/// Returns the constants that a cell names, each with its file: `` `A`, `B` in `engine/x.rs` ``.
fn constants_of(cell: &str) -> Vec<(String, String)> {
    let mut names = Vec::new();
    let mut found = Vec::new();
    for word in cell.split('`').skip(1).step_by(2) {
        if word.ends_with(".rs") {
            found.extend(names.drain(..).map(|name| (name, format!("src/{word}"))));
        } else {
            names.push(word.to_owned());
        }
    }
    assert!(names.is_empty(), "{cell}: {names:?} have no file behind them");
    found
}

#[test]
fn every_bound_in_a_table_is_the_one_in_the_source() {
    let mut seen = 0;
    for page in ["docs/architecture.md", "docs/remote.md"] {
        for row in rows_with_constants(&read(page)) {
            let constants = constants_of(row.last().unwrap());
            assert!(!constants.is_empty(), "{page}: no constant is named for {:?}", row[0]);
            for (name, file) in constants {
                let value = constant(&file, &name);
                let told = row[..row.len() - 1].join(" ");
                assert!(
                    value.is_told_in(&told),
                    "{page}: {name} is {:?}, and {told:?} is told",
                    value.written()
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "only {seen} constants are named");
}

#[test]
fn every_number_in_running_text_is_the_one_in_the_source() {
    for (page, words, file, name) in TOLD {
        // A sentence may be broken anywhere.
        let text = read(page).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(words), "{page} does not say {words:?} any more: say where {name} is told now");
        let value = constant(file, name);
        assert!(value.is_told_in(words), "{page} says {words:?}, and {name} is {:?}", value.written());
    }
}

/// Returns every manifest of a package in this repository.
fn manifests() -> Vec<PathBuf> {
    fn add(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                add(&path, found);
            } else if name == "Cargo.toml" {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    add(root(), &mut found);
    found
}

fn table(path: &Path) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn every_package_has_the_licence_the_edition_and_the_lints_of_the_house() {
    let manifests = manifests();
    assert!(manifests.len() >= 8, "{manifests:?}");
    let house = table(&root().join("Cargo.toml"))["workspace"].clone();
    for path in manifests {
        let shown = path.display();
        let manifest = table(&path);
        for key in ["license", "edition", "rust-version", "publish"] {
            let own = manifest["package"].get(key).unwrap_or_else(|| panic!("{shown} has no {key}"));
            let is_inherited =
                own.get("workspace").is_some_and(|inherited| inherited.as_bool() == Some(true));
            assert!(is_inherited || *own == house["package"][key], "{shown}: {key} is {own}");
        }
        let lints = manifest.get("lints").unwrap_or_else(|| panic!("{shown} has no lints"));
        let is_inherited = lints.get("workspace").is_some_and(|inherited| inherited.as_bool() == Some(true));
        for (kind, wanted) in house["lints"].as_table().unwrap() {
            for (lint, level) in wanted.as_table().unwrap() {
                let own = lints.get(kind).and_then(|own| own.get(lint));
                assert!(is_inherited || own == Some(level), "{shown}: {lint} is {own:?}, and not {level}");
            }
        }
    }
}

#[test]
fn every_dependency_of_every_package_says_why_it_is_here() {
    let architecture = read("docs/architecture.md");
    let rows: Vec<&str> = architecture.lines().filter(|line| line.starts_with("| ")).collect();
    let is_told = |name: &str| {
        rows.iter().any(|row| {
            row.split("| ").nth(1).is_some_and(|cell| cell.split([' ', ',', '(']).any(|word| word == name))
        })
    };
    for path in manifests() {
        let manifest = table(&path);
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = manifest.get(kind).and_then(toml::Value::as_table).into_iter().flatten();
            for (name, _) in names.filter(|(name, _)| !name.starts_with("packvault")) {
                assert!(
                    is_told(name),
                    "docs/architecture.md does not say why {} needs {name}",
                    path.display()
                );
            }
        }
    }
}

/// Returns the code blocks of the page in this language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    page.split(&begin).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn every_configuration_that_is_shown_is_understood() {
    let scratch = Scratch::new();
    assert_eq!(scratch.run(&["init", "--repo", "./repo"]).status.code(), Some(0));
    let mut seen = 0;
    for page in
        ["README.md", "docs/configuration.md", "docs/live-sqlite.md", "docs/schedule.md", "docs/servers.md"]
    {
        for block in blocks(&read(page), "toml") {
            fs::write(scratch.path("config.toml"), block).unwrap();
            let mut list = scratch.packvault(&["list", "--repo", "./repo"]);
            let output = list.env("PACKVAULT_CONFIG", scratch.path("config.toml")).output().unwrap();
            // A mistake anywhere in it would be a warning.
            assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{page}:\n{block}");
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} configurations are shown");
}

/// Leaves out what differs from run to run: numbers, ids, units and how wide columns are.
fn shape(text: &str, own: &Path) -> Vec<String> {
    let text = text.replace(own.to_str().unwrap(), "");
    let is_chance = |word: &str| word.chars().any(|c| c.is_ascii_digit());
    let unit = |word: &str| ["B", "KiB", "MiB", "GiB", "B,", "KiB,", "MiB,", "pack", "packs"].contains(&word);
    let words = |line: &str| {
        let kept = line.split_whitespace().filter(|word| !unit(word));
        kept.map(|word| if is_chance(word) { "N" } else { word }).collect::<Vec<_>>().join(" ")
    };
    text.lines().map(words).filter(|line| !line.is_empty()).collect()
}

/// Returns what the page shows below the first example that begins like this.
fn shown(page: &str, command: &str) -> String {
    let page = read(page);
    let block = blocks(&page, "console").into_iter().find(|block| block.starts_with(&format!("$ {command}")));
    let block = block.unwrap_or_else(|| panic!("no example begins with {command}"));
    let lines = block.lines().skip(1).take_while(|line| !line.starts_with("$ "));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_examples_of_commands_show_what_the_commands_print() {
    let scratch = Scratch::new();
    let home = scratch.path("home/ann/.msgvault");
    fs::create_dir_all(home.parent().unwrap()).unwrap();
    archives::make(&home, &archives::tiny());
    fs::create_dir_all(scratch.path("mnt/backup")).unwrap();
    fs::create_dir_all(scratch.path("srv")).unwrap();
    let repo = scratch.path("mnt/backup/mail").to_str().unwrap().to_owned();
    let target = scratch.path("srv/restored").to_str().unwrap().to_owned();
    let create = ["create", home.to_str().unwrap(), "--repo", &repo, "--tag"];
    let first = [&create[..], &["first"]].concat();
    let second = [&create[..], &["second"]].concat();
    let list = ["list", "--repo", &repo];
    let verify = ["verify", "--all", "--repo", &repo];
    let restore = ["restore", "--repo", &repo, "--target", &target];
    let steps: [(&str, &str, &[&str]); 6] = [
        ("docs/commands/init.md", "packvault init", &["init", "--repo", &repo]),
        ("docs/commands/create.md", "packvault create", &first),
        ("", "", &second),
        ("docs/commands/list.md", "packvault list", &list),
        ("docs/commands/verify.md", "packvault verify", &verify),
        ("docs/commands/restore.md", "packvault restore", &restore),
    ];
    for (page, command, arguments) in steps {
        let output = scratch.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        let printed = String::from_utf8(output.stdout).unwrap();
        if !page.is_empty() {
            let (expected, own) = (shown(page, command), scratch.path(""));
            let own = PathBuf::from(own.to_str().unwrap().trim_end_matches('/'));
            assert_eq!(shape(&expected, &own), shape(&printed, &own), "{page}: {command}\n{printed}");
        }
    }
    let again = scratch.run(&restore);
    let expected = read("docs/commands/restore.md");
    let said = stderr(&again).replace(scratch.path("").to_str().unwrap(), "/");
    assert!(
        expected.contains(said.lines().next().unwrap()),
        "docs/commands/restore.md does not show:\n{said}"
    );
}
