//! Which paths a snapshot may restore to, and which of them get into each other's way.
//!
//! The same rules hold at capture, verify and restore. They are applied to the path after lexical cleaning,
//! on every system alike: what is stored on one may be restored on another. Two paths collide if they are
//! one path on a file system that ignores case or normalises Unicode; a file also collides with a file that
//! would have to be its folder.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization;

use super::error::{FormatError, Result};

/// First components that belong to the database and the attachments.
const RESERVED: [&str; 5] =
    ["attachments", "msgvault.db", "msgvault.db-wal", "msgvault.db-shm", "msgvault.db-journal"];

/// The longest path, cleaned: what systems take in one piece.
const PATH_BYTES_MAX: usize = 4096;
/// The most parts of a path. A restore keeps a folder open for each of them.
const COMPONENTS_MAX: usize = 256;
/// What a message shows of a path.
const SHOWN_BYTES_MAX: usize = 256;

/// Returns the path with `//`, `.` and `..` resolved; refuses one that is empty, absolute, leaves its
/// root, or is longer or deeper than can be put back everywhere.
pub fn clean(path: &str) -> Result<String> {
    if path.starts_with('/') || path.contains('\0') {
        return Err(refuse(path, "is not a relative path"));
    }
    let mut kept: Vec<&str> = Vec::new();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." if kept.pop().is_none() => return Err(refuse(path, "leaves the folder it belongs to")),
            ".." => {}
            _ => kept.push(component),
        }
    }
    if kept.is_empty() {
        return Err(refuse(path, "names nothing"));
    }
    let cleaned_bytes = kept.iter().map(|component| component.len() + 1).sum::<usize>() - 1;
    if cleaned_bytes > PATH_BYTES_MAX || kept.len() > COMPONENTS_MAX {
        return Err(refuse(path, "is longer than 4096 bytes or deeper than 256 folders"));
    }
    Ok(kept.join("/"))
}

/// Returns the cleaned path of an extras file, if one may be stored and restored there.
pub fn check_extras_path(path: &str) -> Result<String> {
    let cleaned = clean(path)?;
    check_component_ends(path, &cleaned)?;
    let first = cleaned.split('/').next().unwrap_or_default();
    if is_reserved_first_component(first) {
        return Err(refuse(path, "belongs to the database or the attachments"));
    }
    Ok(cleaned)
}

/// Returns the cleaned path of an attachment, if one may be restored there.
///
/// Components are looked at before cleaning: `./x` is refused.
pub fn check_attachment_path(path: &str) -> Result<String> {
    let cleaned = clean(path)?;
    check_component_ends(path, path)?;
    Ok(cleaned)
}

fn check_component_ends(path: &str, components: &str) -> Result<()> {
    if components.split('/').any(|component| component.ends_with(['.', ' '])) {
        return Err(refuse(path, "has a component that ends in a dot or a space"));
    }
    Ok(())
}

/// Returns whether a first component is one of the archive's own, however its case is folded.
pub fn is_reserved_first_component(component: &str) -> bool {
    RESERVED.iter().any(|reserved| component.chars().map(fold).eq(reserved.chars()))
}

/// Folds whatever is a case of an ASCII letter; the reserved names have no others.
fn fold(character: char) -> char {
    match character {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        _ => character.to_ascii_lowercase(),
    }
}

/// Returns what two paths share if and only if they cannot both be restored: the cleaned path, composed
/// (NFC), each character in lower case by the simple mapping.
///
/// A path that cannot be cleaned is its own key; it is refused elsewhere.
pub fn collision_key(path: &str) -> String {
    let cleaned = clean(path).unwrap_or_else(|_| path.to_owned());
    cleaned.nfc().map(lower).collect()
}

/// The full mapping of a character begins with the simple one.
fn lower(character: char) -> char {
    character.to_lowercase().next().unwrap_or(character)
}

/// Two paths that cannot both be restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// One of the paths; for a prefix conflict the one that would have to be a folder.
    pub first: String,
    /// The other path.
    pub second: String,
    /// Why they conflict.
    pub kind: ConflictKind,
}

/// Why two paths conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictKind {
    /// They are one path to some file system.
    SameName,
    /// One is a file where the other needs a folder.
    FileAndFolder,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, second) = (&self.first, &self.second);
        match self.kind {
            ConflictKind::SameName => write!(f, "{first:?} and {second:?} are one name"),
            ConflictKind::FileAndFolder => write!(f, "{first:?} is a file, {second:?} needs it as a folder"),
        }
    }
}

/// Returns every conflict among the paths, each path taking part at most once per kind.
pub fn find_conflicts<'a>(paths: impl IntoIterator<Item = &'a str>) -> Vec<Conflict> {
    let mut by_key: BTreeMap<String, &str> = BTreeMap::new();
    let mut conflicts = Vec::new();
    for path in paths {
        match by_key.entry(sort_key(path)) {
            std::collections::btree_map::Entry::Vacant(slot) => drop(slot.insert(path)),
            std::collections::btree_map::Entry::Occupied(slot) => {
                conflicts.push(conflict(slot.get(), path, ConflictKind::SameName));
            }
        }
    }
    let mut file: Option<(&str, &str)> = None;
    for (key, path) in &by_key {
        match file {
            Some((file_key, file_path)) if lies_below(key, file_key) => {
                conflicts.push(conflict(file_path, path, ConflictKind::FileAndFolder));
            }
            _ => file = Some((key, path)),
        }
    }
    conflicts
}

/// Returns a key that sorts a file right before everything that lies below it.
fn sort_key(path: &str) -> String {
    collision_key(path).replace('/', "\0")
}

fn lies_below(key: &str, folder: &str) -> bool {
    key.strip_prefix(folder).is_some_and(|rest| rest.starts_with('\0'))
}

fn conflict(first: &str, second: &str, kind: ConflictKind) -> Conflict {
    Conflict { first: first.to_owned(), second: second.to_owned(), kind }
}

fn refuse(path: &str, fault: &str) -> FormatError {
    let shown = &path[..path.floor_char_boundary(SHOWN_BYTES_MAX)];
    let rest = if shown.len() < path.len() { "..." } else { "" };
    FormatError::invalid(format!("path {shown:?}{rest} {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_resolves_dots_and_doubled_slashes() {
        for (path, cleaned) in [
            ("a/b", "a/b"),
            ("a//b/", "a/b"),
            ("./a/./b", "a/b"),
            ("a/x/../b", "a/b"),
            ("a/..b/...c", "a/..b/...c"),
            ("a\\b:CON\n", "a\\b:CON\n"),
        ] {
            assert_eq!(clean(path).unwrap(), cleaned);
        }
    }

    #[test]
    fn paths_that_name_nothing_or_leave_their_folder_are_refused() {
        for path in ["", ".", "./", "a/..", "/", "/a", "//a", "..", "../a", "a/../../b", "a/../..", "a\0b"] {
            assert!(clean(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_put_back_everywhere_is_refused_in_a_short_sentence() {
        assert!(clean(&("d/".repeat(255) + "x")).is_ok());
        assert!(clean(&"n".repeat(4096)).is_ok());
        assert!(clean(&("d/../".repeat(10_000) + "x")).is_ok());
        for path in ["d/".repeat(256) + "x", "n".repeat(4097), "ü/".repeat(1_000_000) + "x"] {
            let told = clean(&path).unwrap_err().to_string();
            assert!(told.len() < 1000 && told.contains("... is longer"), "{told}");
        }
    }

    #[test]
    fn extras_may_not_take_the_place_of_database_or_attachments() {
        for path in [
            "msgvault.db",
            "safe/../msgvault.db",
            "./MsgVault.DB-wal",
            "msgvault.db-shm",
            "msgvault.db-journal/x",
            "attachments/x",
            "ATTACHMENTS",
            "attachment\u{17f}/x",
            "m\u{17f}gvault.db",
        ] {
            assert!(check_extras_path(path).is_err(), "{path:?}");
        }
        for path in ["tokens/msgvault.db", "msgvault.db2", "attachment", "config.toml", "attachmentß"] {
            assert_eq!(check_extras_path(path).unwrap(), path);
        }
    }

    #[test]
    fn components_that_end_in_a_dot_or_a_space_are_refused() {
        for path in ["a.", "a /b", "a/...", "a/b. ", "x/../a."] {
            assert!(check_extras_path(path).is_err(), "{path:?}");
            assert!(check_attachment_path(path).is_err(), "{path:?}");
        }
        assert_eq!(check_extras_path("./a").unwrap(), "a");
        assert!(check_attachment_path("./a").is_err());
        assert!(check_attachment_path("x/../a").is_err());
        assert_eq!(check_attachment_path("ab//cd").unwrap(), "ab/cd");
        assert_eq!(check_attachment_path("attachments/.x").unwrap(), "attachments/.x");
    }

    #[test]
    fn names_collide_by_simple_folding_of_composed_characters() {
        for (left, right) in [
            ("A/B", "a/./b"),
            ("İ", "i"),
            ("\u{212a}", "k"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("Σ", "σ"),
            ("x", "x"),
        ] {
            assert_eq!(collision_key(left), collision_key(right), "{left} {right}");
        }
        for (left, right) in [("ß", "SS"), ("ß", "ss"), ("σ", "ς"), ("a", "a/b"), ("ı", "i")] {
            assert_ne!(collision_key(left), collision_key(right), "{left} {right}");
        }
    }

    #[test]
    fn conflicts_are_found_across_case_form_and_depth() {
        let kinds = |paths: &[&str]| -> Vec<_> {
            find_conflicts(paths.iter().copied()).into_iter().map(|conflict| conflict.kind).collect()
        };
        assert_eq!(kinds(&["a", "b", "a-b", "a.b/c", "ab/c"]), []);
        assert_eq!(kinds(&["a/b", "a-b", "A"]), [ConflictKind::FileAndFolder]);
        assert_eq!(kinds(&["a", "a/b/c/d"]), [ConflictKind::FileAndFolder]);
        assert_eq!(kinds(&["a/b/c", "x", "a/b", "a/b/d"]), [ConflictKind::FileAndFolder; 2]);
        assert_eq!(kinds(&["a", "a"]), [ConflictKind::SameName]);
        assert_eq!(kinds(&["É/x", "e\u{301}/X"]), [ConflictKind::SameName]);
        let found = find_conflicts(["A/b", "a"]);
        assert_eq!((found[0].first.as_str(), found[0].second.as_str()), ("a", "A/b"));
        assert_eq!(found[0].to_string(), r#""a" is a file, "A/b" needs it as a folder"#);
    }

    #[test]
    fn a_path_of_a_million_components_is_compared_quickly() {
        let deep = "a/".repeat(1_000_000) + "b";
        assert_eq!(find_conflicts([deep.as_str(), "b"]), []);
    }
}
