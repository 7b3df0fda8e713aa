//! The project's own source, read as text: which names a file uses, comments, texts and unit tests apart.

use std::collections::BTreeSet;
use std::path::Path;

/// One file of source.
pub struct SourceFile {
    /// Its path in the project.
    pub path: String,
    /// The whole text.
    pub text: String,
    /// The module it is, from the root of its crate.
    pub module: Vec<String>,
    /// The text without comments, texts and unit tests.
    code: String,
}

/// Returns every file below the folder, unit tests that are files of their own apart.
pub fn files(folder: &str) -> Vec<SourceFile> {
    let mut found = vec![];
    collect(Path::new(folder), &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn collect(folder: &Path, found: &mut Vec<SourceFile>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(SourceFile::new(path.to_str().unwrap(), std::fs::read_to_string(&path).unwrap()));
        }
    }
}

impl SourceFile {
    /// Takes a file apart.
    pub fn new(path: &str, text: String) -> Self {
        let code = plain_code(&text);
        let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned();
        let inner = path.split_once("src/").map_or(path, |(_, inner)| inner).trim_end_matches(".rs");
        let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|name| matches!(name.as_str(), "mod" | "lib" | "main")) {
            module.pop();
        }
        Self { path: path.to_owned(), text, module, code }
    }

    /// Tells whether the code holds the word as a whole.
    pub fn has(&self, word: &str) -> bool {
        positions(&self.code, word).any(|at| {
            let after = self.code[at + word.len()..].chars().next();
            word.ends_with('!') || !after.is_some_and(is_of_name)
        })
    }

    /// Returns the names directly below the crate's root that the code uses.
    pub fn names_from_root(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for at in positions(&self.code, "crate::") {
            names_at(&self.code[at + "crate::".len()..], &mut names);
        }
        for at in positions(&self.code, "super::") {
            let mut rest = &self.code[at..];
            let mut ups = 0;
            while let Some(further) = rest.strip_prefix("super::") {
                (rest, ups) = (further, ups + 1);
            }
            let within_a_chain = self.code[..at].ends_with("super::");
            if ups == self.module.len() && !within_a_chain {
                names_at(rest, &mut names);
            }
        }
        names
    }
}

/// Returns where the word begins, not in the middle of another.
fn positions<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let begins = |at: &usize| !code[..*at].chars().next_back().is_some_and(is_of_name);
    code.match_indices(word).map(|(at, _)| at).filter(begins)
}

fn is_of_name(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Adds the name at the beginning of the text, or each one of a braced list.
fn names_at(text: &str, names: &mut BTreeSet<String>) {
    let Some(list) = text.strip_prefix('{') else {
        names.extend(name_at(text));
        return;
    };
    let mut depth = 0;
    let mut item = 0;
    for (at, character) in list.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.extend(name_at(list[item..at].trim_start()));
                return;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(name_at(list[item..at].trim_start()));
                item = at + 1;
            }
            _ => {}
        }
    }
}

fn name_at(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|character| is_of_name(*character)).collect();
    (!name.is_empty()).then_some(name)
}

/// Blanks comments and texts.
fn plain_code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment_length(rest).or_else(|| text_length(rest, &code));
        let length = skipped.unwrap_or(first.len_utf8());
        match skipped {
            Some(_) => code.push(' '),
            None => code.push(first),
        }
        rest = &rest[length..];
    }
    code
}

fn comment_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    rest.starts_with("/*").then(|| rest.find("*/").map_or(rest.len(), |end| end + 2))
}

/// Returns the length of the text or character that begins here.
fn text_length(rest: &str, before: &str) -> Option<usize> {
    let within_a_name = before.chars().next_back().is_some_and(is_of_name);
    if rest.starts_with('r') && !within_a_name {
        let hashes = rest[1..].chars().take_while(|character| *character == '#').count();
        if rest[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = 2 + hashes;
            return Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()));
        }
    }
    if rest.starts_with('"') {
        return Some(escaped_length(rest, '"'));
    }
    // 'x' or '\x', but not a lifetime.
    let mut characters = rest.chars();
    if characters.next() != Some('\'') {
        return None;
    }
    match (characters.next()?, characters.next()?) {
        ('\\', _) => Some(escaped_length(rest, '\'')),
        (character, '\'') => Some(2 + character.len_utf8()),
        _ => None,
    }
}

fn escaped_length(rest: &str, quote: char) -> usize {
    let mut escaped = true;
    for (at, character) in rest.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    rest.len()
}
