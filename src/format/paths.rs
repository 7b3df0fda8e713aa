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

/// Returns the path with `//`, `.` and `..` resolved; refuses one that is empty, absolute or leaves its root.
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

/// The simple mapping differs from the full one for a single character, which becomes two in the full one.
fn lower(character: char) -> char {
    match character {
        '\u{130}' => 'i',
        _ => character.to_lowercase().next().unwrap_or(character),
    }
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
        match by_key.entry(collision_key(path)) {
            std::collections::btree_map::Entry::Vacant(slot) => drop(slot.insert(path)),
            std::collections::btree_map::Entry::Occupied(slot) => {
                conflicts.push(conflict(slot.get(), path, ConflictKind::SameName));
            }
        }
    }
    for (key, path) in &by_key {
        let folders = key.match_indices('/').map(|(end, _)| &key[..end]);
        if let Some(file) = folders.filter_map(|folder| by_key.get(folder)).next() {
            conflicts.push(conflict(file, path, ConflictKind::FileAndFolder));
        }
    }
    conflicts
}

fn conflict(first: &str, second: &str, kind: ConflictKind) -> Conflict {
    Conflict { first: first.to_owned(), second: second.to_owned(), kind }
}

fn refuse(path: &str, fault: &str) -> FormatError {
    FormatError::invalid(format!("path {path:?} {fault}"))
}
