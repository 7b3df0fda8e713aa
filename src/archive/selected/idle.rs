//! Patterns that were of no use: a typing error, a folder that is not mounted today, a secret that has moved.
//!
//! Each is reported, with what is found where it points. A pattern that cannot be a mistake is not reported: an
//! `exclude` for names in any folder (`**/cache`), and a pattern for a place that is there and that the selection does
//! not enter.

use std::path::Path;

use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use super::{AskedPattern, PatternUse, SelectedWalk};
use crate::archive::beneath::folder_at;
use crate::{Error, ErrorKind, Result};

impl SelectedWalk<'_> {
    /// Says which patterns were of no use; a file that was asked for by its full name must be there.
    pub(super) fn say_what_is_idle(mut self) -> Result<()> {
        for (index, pattern) in self.rule.patterns().into_iter().enumerate() {
            let is_excluded = self.seen.is_excluded(index);
            if self.seen.is_noted(index) || (pattern.is_optional && !is_excluded) {
                continue;
            }
            let why = match pattern.kind {
                PatternUse::Files if is_excluded => "`exclude` leaves all of it out".to_owned(),
                PatternUse::Files => self.why_no_file(&pattern)?,
                _ if self.may_be_idle(&pattern) => continue,
                _ => self.why(&pattern),
            };
            let text = &pattern.written;
            let sentence = match pattern.kind {
                PatternUse::Files => format!("nothing is taken for the pattern {text:?} of `files`: {why}"),
                PatternUse::Exclude => format!("the pattern {text:?} of `exclude` matches nothing: {why}"),
                PatternUse::Secrets => {
                    format!(
                        "the pattern {text:?} of `secrets` matches nothing, so it protects nothing: {why}"
                    )
                }
            };
            self.found.idle.push(sentence);
        }
        Ok(())
    }

    fn why_no_file(&mut self, pattern: &AskedPattern) -> Result<String> {
        if pattern.is_full_name && self.kind_of(&pattern.fixed).is_none() {
            let path = self.root.path.join(&pattern.fixed);
            return Err(Error::new(ErrorKind::NotFound, format!("{} does not exist", path.display())));
        }
        Ok(self.why(pattern))
    }

    /// Tells whether the pattern does no harm although nothing answered to it.
    fn may_be_idle(&self, pattern: &AskedPattern) -> bool {
        let wherever = pattern.is_anywhere && pattern.kind == PatternUse::Exclude;
        let is_name = pattern.is_full_name || pattern.is_folder;
        let place = self.kind_of(&pattern.fixed);
        let unentered = !pattern.fixed.is_empty()
            && place == Some(FileType::Directory)
            && !self.rule.enters(&pattern.fixed, &mut self.seen.clone());
        wherever || unentered || (is_name && place.is_some())
    }

    /// Returns what is found where the pattern points.
    fn why(&self, pattern: &AskedPattern) -> String {
        let mut known = String::new();
        for part in pattern.fixed.split('/').filter(|part| !part.is_empty()) {
            let next = if known.is_empty() { part.to_owned() } else { format!("{known}/{part}") };
            match self.kind_of(&next) {
                None => return format!("there is no {}", self.root.path.join(&next).display()),
                Some(FileType::Directory) => {}
                Some(FileType::Symlink) => return format!("{next} is a symbolic link"),
                Some(_) if pattern.is_full_name && next == pattern.fixed => {}
                Some(_) => return format!("{next} is no folder"),
            }
            known = next;
        }
        if let Some(left) = self.left_out_at(&known) {
            return left;
        }
        let folder = self.root.path.join(&known);
        let is_empty = folder.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        match is_empty {
            true => format!("the folder {} is empty (is a disk to be mounted there?)", folder.display()),
            false => format!("nothing in {} is a file that it could take", folder.display()),
        }
    }

    /// Returns what was left out whole at the path, above it, or as the first thing below it.
    fn left_out_at(&self, path: &str) -> Option<String> {
        let reaches = |one: &str, other: &str| {
            other.strip_prefix(one).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let mut left_out = self.found.left_out.iter();
        let left = left_out.find(|left| reaches(&left.path, path) || reaches(path, &left.path));
        left.filter(|_| !path.is_empty()).map(|left| format!("{} is left out: {}", left.path, left.reason))
    }

    /// Returns what lies at a path below the folder; no link on the way is followed.
    fn kind_of(&self, relative: &str) -> Option<FileType> {
        if relative.is_empty() {
            return Some(FileType::Directory);
        }
        let (parent, name) = relative.rsplit_once('/').unwrap_or(("", relative));
        let parent = match folder_at(&self.root.held, parent, Path::new(parent)) {
            Ok(parent) => parent?,
            Err(_) => return Some(FileType::Unknown),
        };
        match statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(FileType::from_raw_mode(stat.st_mode)),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(_) => Some(FileType::Unknown),
        }
    }
}
