//! One pattern: what the user wrote, and the globs that say what he means.

use globset::{Glob, GlobBuilder};

use crate::archive::selected::{AskedPattern, PatternUse};
use crate::format::paths;
use crate::{Error, ErrorKind, Result};

/// Characters that make a text a pattern.
const SPECIAL: [char; 5] = ['*', '?', '[', '{', '\\'];

/// A pattern of `files`, `exclude` or `secrets`.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Which of the three it belongs to.
    pub kind: PatternUse,
    /// The pattern without what only says that a folder is meant.
    pub text: String,
    written: String,
    /// Whether it may match nothing.
    pub is_optional: bool,
    /// Whether a slash at the end says that it is a folder's name.
    is_folder: bool,
    /// The folders in front of the first component with a special character.
    fixed: String,
    /// The most components of a path it can match; `None` if it goes as deep as there are folders.
    components_max: Option<usize>,
}

impl Pattern {
    /// Reads a pattern, in any of the ways in which people name a folder.
    pub fn parse(written: &str, kind: PatternUse) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(ErrorKind::Usage, format!("{written:?} is no pattern for files of an archive: {why}"))
        };
        let (text, is_folder) = without_decoration(written);
        let cleaned = paths::clean(&text).map_err(|error| refuse(error.to_string()))?;
        if cleaned != text {
            return Err(refuse("it must be a plain path relative to the home".to_owned()));
        }
        glob(&text).map_err(|error| refuse(error.to_string()))?;
        let fixed: Vec<&str> = text.split('/').take_while(|part| !part.contains(SPECIAL)).collect();
        let fixed = fixed.join("/");
        let is_deep = is_folder || fixed == text || text.contains("**") || text.contains('{');
        let components_max = (!is_deep).then(|| text.split('/').count());
        let written = written.to_owned();
        Ok(Self { kind, written, is_optional: false, is_folder, fixed, components_max, text })
    }

    /// Tells whether this is how the user wrote it.
    pub fn is_written(&self, text: &str) -> bool {
        self.written == text
    }

    /// Returns the globs that match what is meant.
    pub fn globs(&self) -> Vec<String> {
        let mut globs = self.globs_where_it_points();
        if self.is_at_any_depth() {
            let deeper: Vec<String> = globs.iter().map(|glob| format!("**/{glob}")).collect();
            globs.extend(deeper);
        }
        globs
    }

    fn globs_where_it_points(&self) -> Vec<String> {
        let below = format!("{}/**", self.text);
        if self.is_folder {
            return vec![below];
        }
        let mut globs = vec![self.text.clone()];
        if !self.has_no_special() {
            globs.push(globset::escape(&self.text));
        }
        if self.has_no_special() || (self.kind != PatternUse::Files && self.names_folders()) {
            globs.push(below);
        }
        globs
    }

    /// `*.pem` in `secrets` is every such file: who writes it thinks of the keys, not of the folder they are in.
    fn is_at_any_depth(&self) -> bool {
        self.kind == PatternUse::Secrets && !self.text.contains('/')
    }

    /// Returns the globs of the folders of which nothing is left when the pattern excludes.
    pub fn folder_globs(&self) -> Vec<String> {
        let whole = self.text.strip_suffix("/*").filter(|rest| rest.ends_with("/**")).unwrap_or(&self.text);
        match whole.strip_suffix("/**") {
            Some(folder) => vec![folder.to_owned(), self.text.clone()],
            None if self.is_folder || self.names_folders() => vec![self.text.clone()],
            None => Vec::new(),
        }
    }

    /// A bare star in `exclude` stays in its folder, as it does in `files`.
    fn names_folders(&self) -> bool {
        self.kind == PatternUse::Secrets || self.text.rsplit('/').next() != Some("*")
    }

    fn has_no_special(&self) -> bool {
        self.fixed == self.text
    }

    /// Tells whether it is the full name of a file or folder.
    pub fn is_full_name(&self) -> bool {
        self.has_no_special() && !self.is_folder
    }

    /// Tells whether something below the folder could match.
    pub fn leads_below(&self, folder: &str) -> bool {
        let is_above = self.fixed.is_empty() || is_at_or_below(folder, &self.fixed);
        let reaches = self.components_max.is_none_or(|components| folder.split('/').count() < components);
        self.lies_below(folder) || (is_above && reaches)
    }

    /// Tells whether all that it matches is at the path or below it.
    pub fn lies_below(&self, path: &str) -> bool {
        is_at_or_below(&self.fixed, path)
    }

    /// Returns what is told of it when it was of no use.
    pub fn asked(&self) -> AskedPattern {
        AskedPattern {
            kind: self.kind,
            written: self.written.clone(),
            fixed: self.fixed.clone(),
            is_full_name: self.is_full_name(),
            is_folder: self.is_folder,
            // "Wherever there is one" does not say that there is one.
            is_anywhere: self.text.starts_with("**/"),
            is_optional: self.is_optional,
        }
    }
}

/// Compiles a glob.
pub fn glob(text: &str) -> Result<Glob> {
    let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
    glob.map_err(|error| Error::new(ErrorKind::Usage, error.kind().to_string()))
}

/// Takes `./` in front and `/` or `/.` behind away; the home itself is everything in it.
fn without_decoration(written: &str) -> (String, bool) {
    let mut text = written;
    while let Some(rest) = text.strip_prefix("./") {
        text = rest;
    }
    if matches!(text, "." | "") && !written.is_empty() {
        return ("**".to_owned(), false);
    }
    let bare = text.strip_suffix("/.").unwrap_or(text);
    match bare.strip_suffix('/') {
        Some(bare) => (bare.to_owned(), true),
        None => (bare.to_owned(), bare != text),
    }
}

fn is_at_or_below(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
