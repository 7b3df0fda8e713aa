//! Which files of an application are captured: patterns, matched against paths relative to its home.
//!
//! `*` and `?` stay within one component, `**` goes across, `[ab]` and `{a,b}` choose; a pattern without any
//! of them is the full name of a file that must be there. `exclude` wins over `files`.

use globset::{GlobBuilder, GlobMatcher};

use crate::archive::extras::Selection;
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// Characters that make a text a pattern.
const SPECIAL: [char; 6] = ['*', '?', '[', '{', '\\', '!'];

/// The files of an archive.
#[derive(Debug, Clone, Default)]
pub struct FileSelection {
    files: Vec<Pattern>,
    exclude: Vec<Pattern>,
    secrets: Vec<Pattern>,
    /// The database and what SQLite keeps beside it, never taken.
    database: Vec<String>,
}

#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    matcher: GlobMatcher,
    /// The folders in front of the first component with a special character.
    fixed: String,
}

impl FileSelection {
    /// Makes a selection of patterns; `secrets` are those of the files that may hold secrets.
    pub fn new(files: &[String], exclude: &[String], secrets: &[String]) -> Result<Self> {
        let compiled = |patterns: &[String]| -> Result<Vec<Pattern>> {
            patterns.iter().map(|text| Pattern::parse(text)).collect()
        };
        let (files, exclude, secrets) = (compiled(files)?, compiled(exclude)?, compiled(secrets)?);
        Ok(Self { files, exclude, secrets, database: Vec::new() })
    }

    /// Keeps the paths of the database out.
    pub fn without(self, database: Vec<String>) -> Self {
        Self { database, ..self }
    }

    /// Tells whether no file is ever taken.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Tells whether a file may hold secrets.
    pub fn is_secret(&self, path: &str) -> bool {
        any(&self.secrets, path)
    }

    fn is_excluded(&self, path: &str) -> bool {
        any(&self.exclude, path) || self.database.iter().any(|own| own == path)
    }
}

impl Selection for FileSelection {
    fn takes(&self, path: &str) -> bool {
        any(&self.files, path) && !self.is_excluded(path)
    }

    fn enters(&self, folder: &str) -> bool {
        // `cache/**` excludes everything below `cache`: nothing there needs to be looked at.
        let excluded = |pattern: &Pattern| {
            pattern.text.strip_suffix("/**").is_some_and(|above| {
                above == folder || Pattern::parse(above).is_ok_and(|above| above.matcher.is_match(folder))
            })
        };
        !self.exclude.iter().any(excluded) && self.files.iter().any(|pattern| pattern.leads_below(folder))
    }

    fn required(&self) -> Vec<String> {
        let literal = self.files.iter().filter(|pattern| pattern.is_literal());
        literal.map(|pattern| pattern.text.clone()).filter(|path| !self.is_excluded(path)).collect()
    }
}

fn any(patterns: &[Pattern], path: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matcher.is_match(path))
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let text = text.strip_prefix("./").unwrap_or(text);
        let refuse = |why: String| {
            Error::new(ErrorKind::Usage, format!("{text:?} is no pattern for files of an archive: {why}"))
        };
        let cleaned = paths::clean(text).map_err(|error| refuse(error.to_string()))?;
        if cleaned != text {
            return Err(refuse("it must be a plain path relative to the home".to_owned()));
        }
        let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
        let matcher = glob.map_err(|error| refuse(error.kind().to_string()))?.compile_matcher();
        let fixed: Vec<&str> = text.split('/').take_while(|part| !part.contains(SPECIAL)).collect();
        Ok(Self { text: text.to_owned(), matcher, fixed: fixed.join("/") })
    }

    fn is_literal(&self) -> bool {
        self.fixed == self.text
    }

    /// Tells whether something below the folder could match.
    fn leads_below(&self, folder: &str) -> bool {
        let (one, other) = (format!("{}/", self.fixed), format!("{folder}/"));
        if self.fixed.is_empty() {
            return self.reaches(folder);
        }
        one.starts_with(&other) || (other.starts_with(&one) && !self.is_literal() && self.reaches(folder))
    }

    /// Without `**` a pattern reaches no deeper than its own components.
    fn reaches(&self, folder: &str) -> bool {
        self.text.contains("**")
            || self.text.contains('{')
            || folder.split('/').count() < self.text.split('/').count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(files: &[&str], exclude: &[&str]) -> FileSelection {
        let owned = |texts: &[&str]| texts.iter().map(|text| text.to_string()).collect::<Vec<_>>();
        FileSelection::new(&owned(files), &owned(exclude), &[]).unwrap()
    }

    #[test]
    fn a_star_stays_in_its_folder_and_two_go_deeper() {
        let shallow = selection(&["media/*.jpg"], &[]);
        assert!(shallow.takes("media/a.jpg") && !shallow.takes("media/b/a.jpg"));
        assert!(shallow.enters("media") && !shallow.enters("media/b") && !shallow.enters("other"));
        let deep = selection(&["media/**"], &["media/cache/**"]);
        assert!(deep.takes("media/a/b/c") && deep.takes("media/.hidden") && !deep.takes("media/cache/x"));
        assert!(deep.enters("media/a/b") && !deep.enters("media/cache") && !deep.enters("mediaeval"));
        assert!(selection(&["**/*.pem"], &[]).enters("a/b/c"));
        assert!(selection(&["*"], &[]).takes("x") && !selection(&["*"], &[]).enters("folder"));
    }

    #[test]
    fn a_full_name_is_required_and_a_pattern_is_not() {
        let selection = selection(&["config.yml", "keys/*.pem", "a/b.txt"], &["a/*"]);
        assert_eq!(selection.required(), ["config.yml"]);
        assert!(selection.enters("keys") && selection.takes("keys/x.pem"));
    }

    #[test]
    fn the_database_and_its_sidecars_are_never_taken() {
        let selection = selection(&["**"], &[]).without(vec!["app.db".into(), "app.db-wal".into()]);
        assert!(!selection.takes("app.db") && !selection.takes("app.db-wal") && selection.takes("app.dbx"));
    }

    #[test]
    fn a_pattern_that_leaves_the_home_is_refused() {
        for text in ["/etc/passwd", "../x", "a/../b", "", "a[", "a//b", "media/"] {
            let error = FileSelection::new(&[text.to_owned()], &[], &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
    }
}
