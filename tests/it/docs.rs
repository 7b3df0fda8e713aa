//! The danger: a page describes a command, an option or a file that is not there, and nobody notices until a
//! reader follows it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Flags of every command, described once and not on each page.
const COMMON: [&str; 17] = [
    "--accept-change",
    "--help",
    "--identity",
    "--json",
    "--key",
    "--limit-download",
    "--limit-upload",
    "--log-file",
    "--log-format",
    "--no-cache",
    "--passphrase-command",
    "--passphrase-file",
    "--progress",
    "--quiet",
    "--repo",
    "--spool",
    "--verbose",
];

/// Folders of tests that hold what several tests use.
const SHARED: [&str; 2] = ["fake", "support"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn packvault<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_packvault"));
    command.env_clear().args(arguments).output().expect("the program can be run")
}

fn help(arguments: &[&str]) -> String {
    String::from_utf8(packvault(arguments.iter().chain(&["--help"])).stdout).unwrap()
}

/// Returns the names of the commands, as the program's help lists them.
fn commands() -> BTreeSet<String> {
    let help = help(&[]);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    // A line that goes on with a description, or with other words for the command, is indented deeper.
    let begins = |line: &&str| line.strip_prefix("  ").is_some_and(|rest| !rest.starts_with(' '));
    let lines = listed.take_while(|line| !line.is_empty()).filter(begins);
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(String::from).collect()
}

/// Returns every file below the folder whose name has the ending.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs"), "md");
    pages.extend(["README.md", "CHANGELOG.md", "SECURITY.md"].map(|name| root().join(name)));
    pages
}

/// Returns the lines of a page that are in code blocks, or those that are not.
fn lines(page: &str, wants_code: bool) -> Vec<&str> {
    let mut in_code = false;
    let wanted = |line: &&str| {
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        !is_fence && in_code == wants_code
    };
    page.lines().filter(wanted).collect()
}

/// Returns the targets of all links of a page, `[text](target)`.
fn links(page: &str) -> Vec<String> {
    let prose = lines(page, false).join("\n");
    let parts = prose.split("](").skip(1);
    parts.filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// Returns the anchor of a heading, as it is made where the pages are shown.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn has_anchor(page: &str, wanted: &str) -> bool {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim()).any(|heading| anchor(heading) == wanted)
}

#[test]
fn every_command_has_a_page_and_every_page_a_command() {
    let folder = files(&root().join("docs/commands"), "md");
    let pages: BTreeSet<String> =
        folder.iter().map(|page| page.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(commands().contains("create"), "{:?}", commands());
    assert_eq!(pages, commands());
}

#[test]
fn every_page_of_a_command_names_all_its_options() {
    for command in commands() {
        let page = read(format!("docs/commands/{command}.md"));
        let help = help(&[&command]);
        let first_words = help.lines().filter_map(|line| {
            let line = line.trim_start();
            line.split([' ', ',']).find(|word| word.starts_with("--")).filter(|_| line.starts_with('-'))
        });
        // An option that may be repeated is shown with dots.
        let options = first_words.map(|option| option.trim_end_matches('.'));
        for option in options.filter(|option| !COMMON.contains(option)) {
            assert!(page.contains(option), "docs/commands/{command}.md lacks {option}");
        }
    }
}

#[test]
fn every_link_within_the_documentation_leads_somewhere() {
    for page in pages() {
        let text = read(&page);
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (file, wanted) = link.split_once('#').unwrap_or((&link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: {link} leads nowhere", page.display());
            let found = wanted.is_empty() || has_anchor(&read(&target), wanted);
            assert!(found, "{}: {link} names no heading", page.display());
        }
    }
}

/// Takes the prompt and the variables before a command away.
fn without_variables(line: &str) -> &str {
    let line = line.trim_start_matches("$ ");
    match line.split_once(' ') {
        Some((first, rest)) if first.contains('=') && first.starts_with(char::is_uppercase) => {
            without_variables(rest)
        }
        _ => line,
    }
}

#[test]
fn every_command_that_is_shown_is_understood() {
    let mut seen = 0;
    // The page on the format shows no commands, and the key of a repository begins like one.
    for page in pages().into_iter().filter(|page| !page.ends_with("docs/format.md")) {
        for line in lines(&read(&page), true) {
            let Some(shown) = without_variables(line).strip_prefix("packvault ") else { continue };
            // A synopsis names what may be given; an example with a pipe or a file for its output ends there.
            if shown.contains('[') || shown.contains("LOCATION") {
                continue;
            }
            let words = shown.split(['|', '>']).next().unwrap_or_default().split_whitespace();
            let output = packvault(words.chain(["--help"]));
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {line}\n{said}", page.display());
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} commands were found in the pages");
}

/// Returns what stands between backticks in the text.
fn code_words(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Returns the rows of the tables below the heading, as their cells.
fn rows_below<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = page.lines().skip_while(|line| *line != heading).skip(1);
    let section = section.take_while(|line| !line.starts_with("## "));
    let rows = section.filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.split(" | ").collect()).filter(|row: &Vec<&str>| !row[0].starts_with("---")).collect()
}

/// Expects the file to have the test.
fn assert_test(page: &str, file: &str, name: &str) {
    assert!(root().join(file).exists(), "{page}: {file} is not there");
    assert!(read(file).contains(&format!("fn {name}(")), "{page}: {file} has no test {name}");
}

#[test]
fn every_test_that_the_page_on_what_goes_wrong_names_exists() {
    let page = "docs/when-things-go-wrong.md";
    let text = read(page);
    let rows = text.lines().filter(|line| line.starts_with("| "));
    let named = rows.flat_map(code_words).filter_map(|word| word.split_once(".rs: "));
    let named: Vec<_> = named.collect();
    assert!(named.len() > 100, "only {} tests are named", named.len());
    for (file, name) in named {
        assert_test(page, &format!("{file}.rs"), name);
    }
}

#[test]
fn every_test_that_the_page_on_testing_names_exists() {
    let mut seen = 0;
    for line in read("docs/testing.md").lines().filter(|line| line.starts_with("| ")) {
        let mut file = None;
        for word in code_words(line) {
            if ["tests/", "drivers/", "src/"].iter().any(|folder| word.starts_with(folder)) {
                assert!(root().join(word).exists(), "docs/testing.md: {word} is not there");
                file = Some(word);
            } else if word.matches('_').count() >= 3 && !word.contains(char::is_uppercase) {
                let file = file.unwrap_or_else(|| panic!("docs/testing.md: {word} has no file before it"));
                assert_test("docs/testing.md", file, word);
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "only {seen} tests are named");
}

#[test]
fn every_promise_of_the_readme_has_a_row_that_names_tests() {
    let (readme, testing) = (read("README.md"), read("docs/testing.md"));
    let section = readme.lines().skip_while(|line| *line != "## What is promised, and what is not").skip(1);
    let section: Vec<&str> = section.take_while(|line| !line.starts_with("## ")).collect();
    let items = section.iter().filter_map(|line| line.strip_prefix("- **")?.split("**").next());
    let promises: Vec<&str> = items.map(|promise| promise.trim_end_matches('.')).collect();
    assert!(promises.len() >= 7, "{promises:?}");
    let rows = rows_below(&testing, "## What the README promises");
    for promise in promises {
        let row = rows.iter().find(|row| row[0] == promise);
        let row = row.unwrap_or_else(|| panic!("docs/testing.md lacks the promise {promise:?}"));
        assert!(code_words(row[1]).any(|word| word.ends_with(".rs")), "{promise:?} names no test");
    }
}

#[test]
fn no_test_file_is_missing_from_the_page_on_testing() {
    let testing = read("docs/testing.md");
    let mut folders = vec![root().join("tests/it")];
    folders.extend(
        fs::read_dir(root().join("drivers")).unwrap().map(|entry| entry.unwrap().path().join("tests")),
    );
    for folder in folders {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let is_test = path.extension().is_some_and(|extension| extension == "rs");
            // A folder is one test too, but for what others share.
            let is_shared = SHARED.iter().any(|name| path.ends_with(name));
            let is_folder = path.join("mod.rs").exists() && !is_shared;
            let file = if is_folder { path.join("mod.rs") } else { path };
            let name = file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            let is_named = testing.contains(&format!("`{name}`")) || name == "tests/it/main.rs";
            assert!(is_named || !(is_test || is_folder), "docs/testing.md does not name {name}");
        }
    }
}

#[test]
fn every_test_file_is_a_module_of_the_one_program() {
    let main = read("tests/it/main.rs");
    for entry in fs::read_dir(root().join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        let is_there = module == "main" || main.contains(&format!("\nmod {module};\n"));
        assert!(is_there, "tests/it/main.rs does not name {module}: its tests are never run");
    }
    let beside = files(&root().join("tests"), "rs");
    let beside: Vec<_> = beside.iter().filter(|path| path.parent() == Some(&root().join("tests"))).collect();
    assert_eq!(beside, Vec::<&PathBuf>::new(), "a test file belongs in tests/it");
}

#[test]
fn every_section_that_the_source_refers_to_is_in_the_format_page() {
    let format = read("docs/format.md");
    let has_section = |number: &str| {
        let heading = |line: &str| {
            let text = line.strip_prefix("## ").or(line.strip_prefix("### "))?;
            text.split(' ').next().map(|first| first.trim_end_matches('.') == number)
        };
        format.lines().any(|line| heading(line) == Some(true))
    };
    for file in files(&root().join("src"), "rs") {
        let source = read(&file);
        for rest in source.split("(section ").skip(1) {
            let number: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
            let number = number.trim_end_matches('.');
            assert!(has_section(number), "{}: no section {number} in docs/format.md", file.display());
        }
        for rest in source.split("(T").skip(1) {
            let Some((trap, _)) = rest.split_once(')') else { continue };
            if !trap.is_empty() && trap.chars().all(|c| c.is_ascii_digit()) {
                let row = format!("| T{trap} |");
                assert!(format.contains(&row), "{}: no trap T{trap} in docs/format.md", file.display());
            }
        }
    }
}
