//! Which files of an application are captured: patterns, matched against paths relative to its home.
//!
//! `*` and `?` stay within one component, `**` goes across, `[ab]` and `{a,b}` choose. A pattern without any
//! of them is a full name: of a file, which must be there, or of a folder, and then of everything below it.
//! A slash at the end says that a folder is meant. `exclude` wins over `files`; in `exclude` and `secrets`
//! any pattern that names a folder names what is below it, but for an `exclude` that ends in a bare `*`; in
//! `secrets` one without a slash protects every file and folder of that name, wherever it lies.

mod pattern;

use globset::{GlobSet, GlobSetBuilder};

use self::pattern::Pattern;
use crate::archive::selected::{AskedPattern, PatternUse, Seen, Selection};
use crate::{Error, ErrorKind, Result};

/// The files of an archive.
#[derive(Debug, Clone, Default)]
pub struct FileSelection {
    /// All patterns: `files`, then `exclude`, then `secrets`.
    patterns: Vec<Pattern>,
    files: Matcher,
    exclude: Matcher,
    /// The folders of which `exclude` leaves nothing.
    excluded_folders: Matcher,
    secrets: Matcher,
    /// The database and what SQLite keeps beside it: names that a snapshot has for itself.
    database: Vec<String>,
}

/// Globs matched in one pass, each with the pattern it belongs to.
#[derive(Debug, Clone)]
struct Matcher {
    globs: GlobSet,
    owners: Vec<usize>,
}

impl FileSelection {
    /// Makes a selection of patterns; `secrets` are those of the files that may hold secrets.
    pub fn new(files: &[String], exclude: &[String], secrets: &[String]) -> Result<Self> {
        let kinds =
            [(PatternUse::Files, files), (PatternUse::Exclude, exclude), (PatternUse::Secrets, secrets)];
        let mut patterns = Vec::new();
        for (kind, texts) in kinds {
            for text in texts {
                patterns.push(Pattern::parse(text, kind)?);
            }
        }
        let matcher = |kind: PatternUse, globs: fn(&Pattern) -> Vec<String>| {
            let of_kind = patterns.iter().enumerate().filter(move |(_, pattern)| pattern.kind == kind);
            Matcher::new(of_kind.map(|(index, pattern)| (index, globs(pattern))))
        };
        let (files, exclude) =
            (matcher(PatternUse::Files, Pattern::globs)?, matcher(PatternUse::Exclude, Pattern::globs)?);
        let excluded_folders = matcher(PatternUse::Exclude, Pattern::folder_globs)?;
        let secrets = matcher(PatternUse::Secrets, Pattern::globs)?;
        Ok(Self { patterns, files, exclude, excluded_folders, secrets, database: Vec::new() })
    }

    /// Lets patterns match nothing, full names of files too. Each must be one that was given, as it was written:
    /// a slip here would be the silence that it is to prevent.
    pub fn with_optional(mut self, optional: &[String]) -> Result<Self> {
        for text in optional {
            let mut is_known = false;
            for pattern in self.patterns.iter_mut().filter(|pattern| pattern.is_written(text)) {
                (pattern.is_optional, is_known) = (true, true);
            }
            if !is_known {
                let message =
                    format!("{text:?} of `optional` is no pattern of `files`, `exclude` or `secrets`");
                return Err(Error::new(ErrorKind::Usage, message));
            }
        }
        Ok(self)
    }

    /// Keeps the names of the database for it.
    pub fn without(self, database: Vec<String>) -> Self {
        Self { database, ..self }
    }

    /// Tells whether no file is ever taken.
    pub fn is_empty(&self) -> bool {
        self.files.owners.is_empty()
    }

    /// Tells whether a file may hold secrets.
    pub fn is_secret(&self, path: &str) -> bool {
        self.secrets.globs.is_match(path)
    }

    fn files_patterns(&self) -> impl Iterator<Item = (usize, &Pattern)> {
        self.patterns.iter().enumerate().filter(|(_, pattern)| pattern.kind == PatternUse::Files)
    }
}

impl Selection for FileSelection {
    fn takes(&self, path: &str, seen: &mut Seen) -> bool {
        self.secrets.note(path, seen);
        let excluded = self.exclude.note(path, seen);
        if excluded {
            self.files.each(path, |pattern| seen.note_excluded(pattern));
            return false;
        }
        self.files.note(path, seen)
    }

    fn enters(&self, folder: &str, seen: &mut Seen) -> bool {
        self.secrets.note(folder, seen);
        // What is below an excluded folder needs not to be looked at.
        let excluded = self.excluded_folders.note(folder, seen);
        for (index, pattern) in self.files_patterns().filter(|(_, pattern)| pattern.leads_below(folder)) {
            if !excluded {
                return true;
            }
            if pattern.lies_below(folder) {
                seen.note_excluded(index);
            }
        }
        false
    }

    fn names(&self, path: &str) -> bool {
        let excluded = self.exclude.globs.is_match(path) || self.excluded_folders.globs.is_match(path);
        self.files.globs.is_match(path) && !excluded
    }

    fn asks_below(&self, path: &str) -> bool {
        self.files_patterns().any(|(_, pattern)| pattern.lies_below(path))
    }

    fn is_required(&self, path: &str) -> bool {
        let asks = |pattern: &Pattern| pattern.is_full_name() && pattern.text == path && !pattern.is_optional;
        self.files_patterns().any(|(_, pattern)| asks(pattern)) && !self.exclude.globs.is_match(path)
    }

    fn is_database(&self, path: &str) -> bool {
        self.database.iter().any(|own| own == path)
    }

    fn explain(&self, path: &str, seen: &mut Seen) {
        for (index, pattern) in self.files_patterns() {
            if pattern.lies_below(path) || self.files.owners_of(path).contains(&index) {
                seen.note(index);
            }
        }
    }

    fn patterns(&self) -> Vec<AskedPattern> {
        self.patterns.iter().map(Pattern::asked).collect()
    }
}

impl Default for Matcher {
    fn default() -> Self {
        Self { globs: GlobSet::empty(), owners: Vec::new() }
    }
}

impl Matcher {
    fn new(patterns: impl Iterator<Item = (usize, Vec<String>)>) -> Result<Self> {
        let mut builder = GlobSetBuilder::new();
        let mut owners = Vec::new();
        for (owner, globs) in patterns {
            for text in globs {
                builder.add(pattern::glob(&text)?);
                owners.push(owner);
            }
        }
        let globs = builder.build().map_err(|error| {
            Error::caused(ErrorKind::Usage, "the patterns for files are too large together", error)
        })?;
        Ok(Self { globs, owners })
    }

    /// Tells whether a glob matches, and notes the patterns of those that do.
    fn note(&self, path: &str, seen: &mut Seen) -> bool {
        // Once every pattern was seen to match something, which it was does not matter any more.
        if self.owners.iter().all(|owner| seen.is_noted(*owner)) {
            return self.globs.is_match(path);
        }
        let mut matches = false;
        self.each(path, |pattern| {
            seen.note(pattern);
            matches = true;
        });
        matches
    }

    fn each(&self, path: &str, mut note: impl FnMut(usize)) {
        self.globs.matches(path).into_iter().for_each(|glob| note(self.owners[glob]));
    }

    fn owners_of(&self, path: &str) -> Vec<usize> {
        self.globs.matches(path).into_iter().map(|glob| self.owners[glob]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| text.to_string()).collect()
    }

    fn selection(files: &[&str], exclude: &[&str]) -> FileSelection {
        FileSelection::new(&owned(files), &owned(exclude), &[]).unwrap()
    }

    fn takes(selection: &FileSelection, path: &str) -> bool {
        selection.takes(path, &mut Seen::new(selection.patterns().len()))
    }

    fn enters(selection: &FileSelection, folder: &str) -> bool {
        selection.enters(folder, &mut Seen::new(selection.patterns().len()))
    }

    #[test]
    fn a_star_stays_in_its_folder_and_two_go_deeper() {
        let shallow = selection(&["media/*.jpg"], &[]);
        assert!(takes(&shallow, "media/a.jpg") && !takes(&shallow, "media/b/a.jpg"));
        assert!(enters(&shallow, "media") && !enters(&shallow, "media/b") && !enters(&shallow, "other"));
        let deep = selection(&["media/**"], &["media/cache/**"]);
        assert!(takes(&deep, "media/a/b/c") && takes(&deep, "media/.hidden"));
        assert!(!takes(&deep, "media/cache/x") && !takes(&deep, "media/cache/x/y"));
        assert!(enters(&deep, "media/a/b") && !enters(&deep, "media/cache") && !enters(&deep, "mediaeval"));
        assert!(enters(&selection(&["**/*.pem"], &[]), "a/b/c"));
        assert!(takes(&selection(&["*"], &[]), "x") && !enters(&selection(&["*"], &[]), "folder"));
    }

    #[test]
    fn a_folder_is_named_in_any_way_people_name_it() {
        for text in
            ["media", "media/", "./media", "./media/", "media/.", "media/**", "media/**/*", "././media"]
        {
            let files = selection(&[text], &[]);
            assert!(takes(&files, "media/a") && takes(&files, "media/a/b/c"), "{text}");
            assert!(enters(&files, "media") && enters(&files, "media/a/b"), "{text}");
            assert!(!takes(&files, "mediaeval") && !enters(&files, "mediaeval"), "{text}");
            let exclude = selection(&["**"], &[text]);
            assert!(!takes(&exclude, "media/a") && !takes(&exclude, "media/a/b/c"), "{text}");
            assert!(!enters(&exclude, "media") && takes(&exclude, "mediaeval/x"), "{text}");
            let secrets = FileSelection::new(&owned(&["**"]), &[], &owned(&[text])).unwrap();
            assert!(secrets.is_secret("media/a") && secrets.is_secret("media/a/b/c"), "{text}");
            assert!(!secrets.is_secret("mediaeval"), "{text}");
        }
        for text in [".", "./", "**"] {
            let all = selection(&[text], &[]);
            assert!(takes(&all, "a") && takes(&all, "a/b/c") && enters(&all, "a"), "{text}");
        }
    }

    #[test]
    fn a_pattern_that_names_folders_protects_and_excludes_what_is_below_them() {
        let secrets =
            FileSelection::new(&owned(&["**"]), &[], &owned(&["keys/*", "**/private", "k?y"])).unwrap();
        for path in ["keys/a", "keys/deep/b", "private/x", "a/b/private/c/d", "private", "key/x"] {
            assert!(secrets.is_secret(path), "{path}");
        }
        let names = FileSelection::new(&owned(&["**"]), &[], &owned(&["*.pem", "id_rsa", "tls/"])).unwrap();
        for path in ["a.pem", "x/y/a.pem", "id_rsa", "home/ann/id_rsa", "id_rsa/x", "tls/a", "etc/tls/a/b"] {
            assert!(names.is_secret(path), "{path}");
        }
        assert!(!names.is_secret("x/a.pem.txt") && !names.is_secret("x/tls"));
        let exclude = selection(&["**"], &["**/node_modules", "media/*", "*.tmp/"]);
        for path in ["node_modules/a/b", "x/node_modules/c", "media/a", "a.tmp/x"] {
            assert!(!takes(&exclude, path), "{path}");
        }
        assert!(!enters(&exclude, "x/node_modules") && !enters(&exclude, "a.tmp"));
        // A bare star stays in its folder, and a slash at the end is for folders only.
        assert!(
            takes(&exclude, "media/deep/a") && enters(&exclude, "media/deep") && takes(&exclude, "a.tmp")
        );
    }

    #[test]
    fn a_full_name_is_required_and_a_pattern_is_not() {
        let selection = selection(&["config.yml", "keys/*.pem", "a/b.txt", "media/", "./x"], &["a/*"]);
        for (path, required) in
            [("config.yml", true), ("keys/x.pem", false), ("a/b.txt", false), ("media", false), ("x", true)]
        {
            assert_eq!(selection.is_required(path), required, "{path}");
        }
        assert!(enters(&selection, "keys") && takes(&selection, "keys/x.pem"));
    }

    #[test]
    fn a_pattern_also_means_the_file_of_exactly_its_name() {
        let odd = selection(&["a[1].txt", "{b}"], &[]);
        assert!(takes(&odd, "a[1].txt") && takes(&odd, "a1.txt") && takes(&odd, "{b}") && takes(&odd, "b"));
        assert!(selection(&["wow!.txt"], &[]).is_required("wow!.txt"));
    }

    #[test]
    fn which_patterns_were_of_use_is_known() {
        let files = owned(&["media/**", "medai/**", "only/excluded/**"]);
        let selection =
            FileSelection::new(&files, &owned(&["cache", "only/**"]), &owned(&["keys", "kyes"])).unwrap();
        let mut seen = Seen::new(selection.patterns().len());
        selection.takes("media/a", &mut seen);
        selection.enters("cache", &mut seen);
        selection.enters("only", &mut seen);
        selection.takes("keys", &mut seen);
        let noted: Vec<bool> = (0..7).map(|pattern| seen.is_noted(pattern)).collect();
        assert_eq!(noted, [true, false, false, true, true, true, false]);
        assert!(seen.is_excluded(2) && !seen.is_excluded(1));
        selection.explain("medai", &mut seen);
        assert!(seen.is_noted(1), "what lies in its way was named");
    }

    #[test]
    fn a_pattern_that_leaves_the_home_is_refused() {
        for text in ["/etc/passwd", "../x", "a/../b", "", "a[", "a//b", "/", "a/../"] {
            let error = FileSelection::new(&[text.to_owned()], &[], &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
        }
    }
}
