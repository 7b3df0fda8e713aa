//! The rules of paths, against a second reading of them. Input: paths, one per line.

use std::collections::{BTreeMap, BTreeSet};

use packvault::format::paths::{
    ConflictKind, check_attachment_path, check_extras_path, clean, collision_key, find_conflicts,
    is_reserved_first_component,
};
use unicode_normalization::UnicodeNormalization;

use super::input::valid_text;

/// Lines that are compared with each other.
const PATHS_MAX: usize = 40;

/// Checks every line, and the lines together.
pub fn run(data: &[u8]) {
    let paths: Vec<&str> = valid_text(data).split('\n').take(PATHS_MAX).collect();
    for path in &paths {
        check(path);
    }
    let cleaned: Vec<String> = paths.iter().filter_map(|path| clean(path).ok()).collect();
    check_conflicts(&cleaned);
    let _ = find_conflicts(paths.iter().copied());
}

fn check(path: &str) {
    let cleaned = clean(path);
    assert_eq!(cleaned.as_ref().ok(), naively_cleaned(path).as_ref(), "{path:?}");
    let extras = check_extras_path(path);
    let Ok(cleaned) = cleaned else {
        assert!(extras.is_err() && check_attachment_path(path).is_err());
        return;
    };
    assert_eq!(clean(&cleaned).as_ref(), Ok(&cleaned), "cleaning is done once");
    assert_eq!(collision_key(path), collision_key(&cleaned));
    assert_eq!(collision_key(&cleaned), naive_key(&cleaned));
    let ends_badly = |text: &str| text.split('/').any(|part| part.ends_with('.') || part.ends_with(' '));
    let first = cleaned.split('/').next().unwrap_or_default();
    let is_ours = is_reserved_first_component(first);
    assert_eq!(extras.is_ok(), !ends_badly(&cleaned) && !is_ours, "{path:?}");
    assert_eq!(check_attachment_path(path).is_ok(), !ends_badly(path), "{path:?}");
    let own = ["attachments", "msgvault.db", "msgvault.db-wal", "msgvault.db-shm", "msgvault.db-journal"];
    let folded: String = first.to_lowercase().replace('\u{17f}', "s");
    assert_eq!(is_ours, own.contains(&folded.as_str()), "{path:?}");
}

/// Walks the components with a stack of what is kept.
fn naively_cleaned(path: &str) -> Option<String> {
    let mut kept: Vec<String> = Vec::new();
    let mut name = String::new();
    for character in path.chars().chain(['/']) {
        match character {
            '\0' => return None,
            '/' if name == ".." => drop(kept.pop()?),
            '/' if name.is_empty() && kept.is_empty() && path.starts_with('/') => return None,
            '/' if name.is_empty() || name == "." => {}
            '/' => kept.push(name.clone()),
            _ => {
                name.push(character);
                continue;
            }
        }
        name.clear();
    }
    (!kept.is_empty()).then(|| kept.join("/"))
}

fn naive_key(cleaned: &str) -> String {
    let composed: String = cleaned.nfc().collect();
    composed.chars().map(|character| character.to_lowercase().next().unwrap_or(character)).collect()
}

/// Compares every path with every other.
fn check_conflicts(paths: &[String]) {
    let mut first_of: BTreeMap<String, &String> = BTreeMap::new();
    let mut same = 0;
    for path in paths {
        if first_of.insert(naive_key(path), path).is_some() {
            same += 1;
        }
    }
    let keys: BTreeSet<&String> = first_of.keys().collect();
    let is_below = |key: &&&String| keys.iter().any(|other| key.starts_with(&format!("{other}/")));
    let below = keys.iter().filter(is_below).count();
    let found = find_conflicts(paths.iter().map(String::as_str));
    let count = |kind| found.iter().filter(|conflict| conflict.kind == kind).count();
    assert_eq!(count(ConflictKind::SameName), same, "{paths:?}");
    assert_eq!(count(ConflictKind::FileAndFolder), below, "{paths:?}");
}
