//! What a user gave as the name or the place of something: refused, where it is not what it was taken for, with
//! what may have been meant.
//!
//! A text that was meant as a location may hold a password, so such a text is never repeated.

use std::path::{Path, PathBuf};

use packvault::archive::repositories;
use packvault::{Error, ErrorKind, Location, Result};

use super::super::text::escape;
use super::home::expand_home;

/// How many names are listed that were not given.
const NAMES_MAX: usize = 20;

/// Returns the location that the user gave in `place`: `--repo`, or a variable.
///
/// `names` are those of the configuration, of which the text is none.
pub fn location(text: &str, place: &str, home: Option<&Path>, names: &[&str]) -> Result<Location> {
    let wrong = |why: String| Error::new(ErrorKind::Usage, format!("{place}: {why}"));
    if let Some(meant) = expanded(text, home) {
        return Err(wrong(format!("a `~` stands for no folder here: did you mean {}?", meant.display())));
    }
    if Location::is_bare_word(text) {
        return Err(wrong(unknown_name("repository", text, names)));
    }
    Location::parse(text).map_err(|error| wrong(error.to_string()))
}

/// Refuses a path whose `~` no shell has expanded, with what it would have become.
pub fn refuse_tilde(path: &Path, place: &str, home: Option<&Path>) -> Result<()> {
    let Some(meant) = path.to_str().and_then(|text| expanded(text, home)) else { return Ok(()) };
    let message = format!(
        "{place}: a `~` stands for no folder here: did you mean {}? A folder of that very name is ./{}",
        meant.display(),
        path.display()
    );
    Err(Error::new(ErrorKind::Usage, message))
}

/// Refuses a folder in a repository, where nothing may be made that is no part of it.
pub fn refuse_in_repository(folder: &Path, place: &str) -> Result<()> {
    let Some(repository) = repositories::around(folder) else { return Ok(()) };
    let message = format!(
        "{place}: {} lies in the repository {}; name another folder",
        folder.display(),
        repository.display()
    );
    Err(Error::new(ErrorKind::Usage, message))
}

/// Returns what a leading `~` stands for, if the text has one.
fn expanded(text: &str, home: Option<&Path>) -> Option<PathBuf> {
    expand_home(text, home).ok().filter(|meant| meant != Path::new(text) && !Location::may_hold_secret(text))
}

/// Says that nothing of this kind has the name, and what there is.
pub fn unknown_name(kind: &str, text: &str, names: &[&str]) -> String {
    let shown = shown(text);
    let near = names.iter().find(|name| is_near(name, text));
    let meant = match (near, kind) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, "repository") if Location::may_hold_secret(text) || text.contains(' ') => {
            "a folder is named with a slash in it, such as ./folder".to_owned()
        }
        (None, "repository") => format!("a folder is named with a slash in it: did you mean ./{shown}?"),
        (None, _) => String::new(),
    };
    let listed: Vec<&str> = names.iter().copied().take(NAMES_MAX).collect();
    let listed = match listed.as_slice() {
        [] => format!("the configuration names no {kind}"),
        names => format!("the configuration has {}", escape(&names.join(", "))),
    };
    let parts = [format!("no {kind} is called {shown}"), meant, listed];
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join("; ").replace("?;", "?")
}

/// Returns what was given as it may be shown: a text that may hold a secret is not.
pub fn shown(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    if Location::may_hold_secret(text) || text.contains(':') { "that".to_owned() } else { escape(text) }
}

/// Tells whether one is the other with a letter wrong, missing, too many, or two of them exchanged.
fn is_near(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    if one.len().abs_diff(other.len()) > 1 || one.len().max(other.len()) < 3 {
        return false;
    }
    let same = one.iter().zip(&other).take_while(|(one, other)| one == other).count();
    let (one, other) = (&one[same..], &other[same..]);
    let tail = |from: &[char], skip: usize| from.get(skip..).unwrap_or_default().to_vec();
    let exchanged = one.len() > 1 && other.len() > 1 && one[0] == other[1] && one[1] == other[0];
    tail(one, 1) == tail(other, 1)
        || tail(one, 1) == *other
        || *one == tail(other, 1)
        || (exchanged && tail(one, 2) == tail(other, 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let home = Path::new("/home/ann");
        let error = location(text, "--repo", Some(home), &["nas", "offsite"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        error.to_string()
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_those_there_are() {
        for (text, said) in [
            (
                "nass",
                "--repo: no repository is called nass; did you mean nas? the configuration has nas, offsite",
            ),
            ("ofsfite", "did you mean offsite?"),
            ("usb", "a folder is named with a slash in it: did you mean ./usb? the configuration has nas"),
            ("~/backup", "did you mean /home/ann/backup?"),
            ("~", "did you mean /home/ann/"),
        ] {
            assert!(refused(text).contains(said), "{}", refused(text));
        }
        assert!(unknown_name("repository", "x", &[]).ends_with("the configuration names no repository"));
    }

    #[test]
    fn near_is_one_slip_of_a_finger() {
        for (one, other) in [("nas", "nsa"), ("nas", "nass"), ("nas", "na"), ("nas", "nax"), ("mail", "mial")]
        {
            assert!(is_near(one, other) && is_near(other, one), "{one} {other}");
        }
        for (one, other) in [("nas", "usb"), ("a", "b"), ("mail", "liam"), ("mail", "mails2")] {
            assert!(!is_near(one, other) && !is_near(other, one), "{one} {other}");
        }
    }

    #[test]
    fn what_may_be_a_password_is_not_repeated() {
        for text in ["~/x?p=hunter2", "~ann:hunter2@nas:/x", "ann:hunter2@nas:/x", "hunter2=x"] {
            assert!(!refused(text).contains("hunter2"), "{}", refused(text));
        }
        assert_eq!(shown("sftp://ann:hunter2@nas/x"), "that");
    }

    #[test]
    fn a_tilde_of_a_path_is_refused_and_one_further_in_is_not() {
        let home = Some(Path::new("/home/ann"));
        let error = refuse_tilde(Path::new("~/x"), "--target", home).unwrap_err().to_string();
        assert!(error.contains("--target") && error.contains("/home/ann/x"), "{error}");
        for path in ["./~/x", "/~", "x~", "~ann"] {
            refuse_tilde(Path::new(path), "--target", home).unwrap();
        }
    }
}
