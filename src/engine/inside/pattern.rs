//! Patterns of paths, as `find` and `restore --only` take them.
//!
//! A pattern without a slash is about names, at any depth; one with a slash is about whole paths. `*` and `?` stop at a
//! slash, `**` does not. What matches a folder matches all that is in it. A name that has `[` or `{` in it may be written
//! as it is.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::{Error, ErrorKind, Result};

/// The longest pattern that is read: the longest path there can be, and some more.
const CHARACTERS_MAX: usize = 8192;

/// Several patterns, of which one must match.
#[derive(Debug, Clone)]
pub struct Patterns {
    texts: Vec<String>,
    globs: GlobSet,
    /// The pattern that each glob is of.
    owners: Vec<usize>,
}

impl Patterns {
    /// Reads patterns.
    pub fn parse(texts: &[String], ignores_case: bool) -> Result<Self> {
        let (mut globs, mut owners) = (GlobSetBuilder::new(), Vec::new());
        for (number, text) in texts.iter().enumerate() {
            for glob in globs_of(text)? {
                let refuse = |error: globset::Error| {
                    let message = format!("{text:?} is no pattern: {}", error.kind());
                    Error::new(ErrorKind::Usage, message)
                };
                let glob =
                    GlobBuilder::new(&glob).literal_separator(true).case_insensitive(ignores_case).build();
                globs.add(glob.map_err(refuse)?);
                owners.push(number);
            }
        }
        let globs = globs.build();
        let globs =
            globs.map_err(|error| Error::caused(ErrorKind::Usage, "cannot use the patterns", error))?;
        Ok(Self { texts: texts.to_vec(), globs, owners })
    }

    /// Returns the patterns as they were written.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Returns the numbers of the patterns that match a path, or a folder on the way to it.
    pub fn matching(&self, path: &str) -> impl Iterator<Item = usize> + '_ {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        let found: Vec<usize> = ends.flat_map(|end| self.globs.matches(&path[..end])).collect();
        found.into_iter().filter_map(|glob| self.owners.get(glob).copied())
    }

    /// Tells whether a path, or a folder on the way to it, matches.
    pub fn matches(&self, path: &str) -> bool {
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        ends.into_iter().any(|end| self.globs.is_match(&path[..end]))
    }
}

/// Returns the globs that say what is meant.
fn globs_of(text: &str) -> Result<Vec<String>> {
    let trimmed = text.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/');
    if trimmed.is_empty() || text.len() > CHARACTERS_MAX {
        return Err(Error::new(
            ErrorKind::Usage,
            "an empty pattern, or one that is too long, matches nothing",
        ));
    }
    let mut globs = vec![trimmed.to_owned()];
    let as_it_is = globset::escape(trimmed);
    if as_it_is != trimmed {
        globs.push(as_it_is);
    }
    let is_anchored = text.starts_with('/') || trimmed.contains('/');
    if !is_anchored {
        let deeper: Vec<String> = globs.iter().map(|glob| format!("**/{glob}")).collect();
        globs.extend(deeper);
    }
    Ok(globs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_at_any_depth_and_a_path_as_a_whole() {
        for (pattern, path, matches) in [
            ("*.json", "deletions/a.json", true),
            ("*.json", "a.json", true),
            ("*.JSON", "a.json", false),
            ("deletions", "deletions/a.json", true),
            ("deletions/*", "deletions/a/b.json", true),
            ("/a.json", "deletions/a.json", false),
            ("*/a.json", "deletions/x/a.json", false),
            ("**/a.json", "deletions/x/a.json", true),
            ("attachments/ab", "attachments/ab/abcd", true),
            ("attachments/a", "attachments/ab/abcd", false),
            ("msgvault.db", "msgvault.db", true),
            ("a [1].txt", "x/a [1].txt", true),
            ("./a/", "a/b", true),
        ] {
            let patterns = Patterns::parse(&[pattern.to_owned()], false).unwrap();
            assert_eq!(patterns.matches(path), matches, "{pattern} on {path}");
        }
        assert!(Patterns::parse(&["*.JSON".to_owned()], true).unwrap().matches("a.json"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "/", "a[", "{a", &"x".repeat(CHARACTERS_MAX + 1)] {
            assert_eq!(Patterns::parse(&[text.to_owned()], false).unwrap_err().kind(), ErrorKind::Usage);
        }
    }
}
