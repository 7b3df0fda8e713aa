//! The danger: a new driver costs more than `docs/architecture.md` says, and nobody notices until somebody writes one.
//!
//! The list there is held against a driver that exists: all code that names SFTP stands in a place of the list, and
//! in each place SFTP is named.

use crate::support::source::{SourceFile, files};

/// The driver that the list is held against, as its places and its code spell it.
const NAME: &str = "sftp";
const WORDS: [&str; 5] = ["sftp", "Sftp", "packvault_sftp", "SftpLocation", "SftpOptions"];

/// Returns the places of the list, of this driver.
fn places() -> Vec<String> {
    let page = std::fs::read_to_string("docs/architecture.md").unwrap();
    let section = page.split("### What a new driver touches").nth(1).expect("the page has the list");
    let rows =
        section.split("\n## ").next().unwrap_or_default().lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let paths = cells.flat_map(|cell| cell.split('`')).filter(|path| path.contains(['/', '.']));
    paths.map(|path| path.replace("NAME", NAME)).collect()
}

fn names_it(file: &SourceFile) -> bool {
    WORDS.iter().any(|word| file.has(word))
}

#[test]
fn a_new_driver_touches_what_the_architecture_page_lists() {
    let places = places();
    assert!(places.len() > 8, "the list was read: {places:?}");
    let is_listed = |path: &str| {
        places.iter().any(|place| path == place || (place.ends_with('/') && path.starts_with(place.as_str())))
    };
    let mut code = files("src");
    code.extend(files("drivers"));
    let beside: Vec<&str> =
        code.iter().filter(|file| names_it(file) && !is_listed(&file.path)).map(|file| &*file.path).collect();
    assert!(beside.is_empty(), "code names {NAME} in places that the page does not list: {beside:?}");
}

#[test]
fn in_every_place_of_the_list_the_driver_that_exists_is_named() {
    for place in places() {
        let is_named = match place.strip_suffix('/') {
            Some(folder) => files(folder).iter().any(|file| file.text.to_lowercase().contains(NAME)),
            None => std::fs::read_to_string(&place).is_ok_and(|text| text.to_lowercase().contains(NAME)),
        };
        assert!(is_named, "{place} is in the list, and nothing there is about {NAME}");
    }
}
