//! The key of a repository as text for a sheet of paper, and back.
//!
//! ```text
//! packvault recovery key 1
//! repository 5d61e8af-fa85-4c85-a408-d2e53ac0ed20
//! 1  a7a7 a7a7 a7a7 a7a7  1c5e
//! 2  …                             four lines: its number, 8 bytes of the key, 2 bytes of a checksum
//! ```
//!
//! A line's checksum is the beginning of the SHA-256 of the first line, the id, the line's number and its 16
//! digits, each ended by a line feed: what is typed from paper is wrong in one place, and the line with the
//! mistake is named. Reading minds neither case nor white space, passes over empty lines, and over those that
//! begin with `#`.

use std::fmt::Write as _;

use zeroize::Zeroizing;

use super::error::{FormatError, FormatErrorKind, Result};
use super::hash::sha256;
use super::ids::RepoId;
use super::repository_key::RepositoryKey;

const FIRST_LINE: &str = "packvault recovery key 1";
const FAMILY: &str = "packvault recovery key";
const LINES: usize = 4;
const LINE_DIGITS: usize = 16;
const CHECK_DIGITS: usize = 4;
/// The longest text that is read; a page has about 200 characters, and people write notes on it.
pub const PAGE_BYTES_MAX: usize = 64 * 1024;

/// Tells whether a text is meant to be such a page.
pub fn is_one(text: &str) -> bool {
    meaningful(text).next().is_some_and(|line| line.to_ascii_lowercase().starts_with(FAMILY))
}

/// Returns the page.
pub fn encode(repository: &RepoId, key: &RepositoryKey) -> Zeroizing<String> {
    // Room for all of it: a text that grows leaves copies behind.
    let mut page = Zeroizing::new(String::with_capacity(512));
    let mut digits = Zeroizing::new([0; 2 * RepositoryKey::BYTES]);
    hex::encode_to_slice(key.expose(), digits.as_mut()).expect("two digits for each byte");
    let _ = writeln!(*page, "{FIRST_LINE}\nrepository {repository}");
    for (line, digits) in digits.chunks(LINE_DIGITS).enumerate() {
        let digits = std::str::from_utf8(digits).expect("hex digits are text");
        let _ = write!(*page, "{}  ", line + 1);
        for group in 0..LINE_DIGITS / 4 {
            let _ = write!(*page, "{} ", &digits[4 * group..4 * group + 4]);
        }
        let _ = writeln!(*page, " {}", check(repository, line + 1, digits));
    }
    page
}

/// Reads a page. Nothing of the key is in an error.
pub fn parse(text: &str) -> Result<(RepoId, RepositoryKey)> {
    if text.len() > PAGE_BYTES_MAX {
        return Err(FormatError::corrupt("the recovery key is longer than any"));
    }
    let mut lines = meaningful(text);
    let first = lines.next().unwrap_or_default();
    if !words(first).eq(words(FIRST_LINE)) {
        return Err(match is_one(text) {
            true => FormatError::new(
                FormatErrorKind::UnsupportedVersion,
                "the recovery key is of a newer kind: upgrade packvault",
            ),
            false => FormatError::corrupt("this is no recovery key"),
        });
    }
    let repository = lines.next().and_then(repository);
    let repository = repository.ok_or_else(|| wrong("the line that names the repository"))?;
    let mut digits = Zeroizing::new(String::with_capacity(2 * RepositoryKey::BYTES));
    for number in 1..=LINES {
        let line =
            lines.next().ok_or_else(|| wrong(&format!("line {number} of the key, which is missing,")))?;
        let read = of_key(&repository, number, line);
        digits.push_str(&read.ok_or_else(|| wrong(&format!("line {number} of the key")))?);
    }
    match lines.next() {
        None => Ok((repository, super::key_file::payload::key(&digits)?)),
        Some(_) => Err(wrong("what stands below the key")),
    }
}

/// Returns the lines that count.
fn meaningful(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Returns the words of a line, in lower case.
fn words(line: &str) -> impl Iterator<Item = String> {
    line.split_whitespace().map(str::to_ascii_lowercase)
}

fn repository(line: &str) -> Option<RepoId> {
    let mut words = words(line);
    match (words.next().as_deref(), words.next(), words.next()) {
        (Some("repository"), Some(id), None) => RepoId::parse(&id).ok(),
        _ => None,
    }
}

/// Returns the digits of a line of the key, if its number and its checksum are right.
fn of_key(repository: &RepoId, number: usize, line: &str) -> Option<Zeroizing<String>> {
    let line = line.strip_prefix(char::from_digit(number as u32, 10)?)?;
    let mut digits = Zeroizing::new(String::with_capacity(line.len()));
    digits.extend(line.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()));
    if digits.len() != LINE_DIGITS + CHECK_DIGITS || !digits.is_ascii() {
        return None;
    }
    let is_right = check(repository, number, &digits[..LINE_DIGITS]) == digits[LINE_DIGITS..];
    digits.truncate(LINE_DIGITS);
    is_right.then_some(digits)
}

fn check(repository: &RepoId, number: usize, digits: &str) -> String {
    let text = Zeroizing::new(format!("{FIRST_LINE}\n{repository}\n{number}\n{digits}\n"));
    hex::encode(&sha256(text.as_bytes())[..CHECK_DIGITS / 2])
}

fn wrong(what: &str) -> FormatError {
    FormatError::corrupt(format!("{what} is not as it was printed: compare it with the page"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "5d61e8af-fa85-4c85-a408-d2e53ac0ed20";

    fn page() -> String {
        let bytes: Vec<u8> = (0..32).collect();
        let key = RepositoryKey::from_bytes(bytes.try_into().unwrap());
        encode(&RepoId::parse(ID).unwrap(), &key).to_string()
    }

    #[test]
    fn a_page_is_what_every_later_version_reads() {
        let expected = "\
packvault recovery key 1
repository 5d61e8af-fa85-4c85-a408-d2e53ac0ed20
1  0001 0203 0405 0607  5351
2  0809 0a0b 0c0d 0e0f  c12b
3  1011 1213 1415 1617  370f
4  1819 1a1b 1c1d 1e1f  ec70
";
        assert_eq!(page(), expected);
    }

    #[test]
    fn a_page_reads_back_however_it_was_typed() {
        let typed = page().to_uppercase().replace("  ", "\t").replace('\n', "\r\n\r\n  ");
        let noted = format!("# in the safe since 2026\n\n{}", page());
        let close = page().lines().map(|line| format!("{}\n", line.replace("  ", " "))).collect::<String>();
        for text in [page(), typed, noted, close] {
            let (repository, key) = parse(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert_eq!((repository.as_str(), key.expose()[31]), (ID, 31));
            assert!(is_one(&text));
        }
        assert!(!is_one("AGE-SECRET-KEY-1") && !is_one(""));
    }

    #[test]
    fn the_line_with_the_mistake_is_named_and_nothing_is_repeated() {
        for (from, to, named) in [
            ("0001", "0010", "line 1"),
            ("0a0b", "0b0a", "line 2"),
            ("1617", "161", "line 3"),
            ("4  1819", "5  1819", "line 4"),
            ("1c1d", "1c1é", "line 4"),
            (ID, "5d61e8af-fa85-4c85-a408-d2e53ac0ed21", "line 1"),
            ("repository", "repo", "the repository"),
        ] {
            let error = parse(&page().replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("0405"), "{from}: {error}");
        }
        let three: String = page().lines().take(5).map(|line| format!("{line}\n")).collect();
        assert!(parse(&three).unwrap_err().to_string().contains("line 4"));
        assert!(parse(&format!("{}more\n", page())).unwrap_err().to_string().contains("below"));
        let newer = parse(&page().replace("key 1", "key 2")).unwrap_err();
        assert_eq!(newer.kind(), FormatErrorKind::UnsupportedVersion);
    }

    proptest! {
        #[test]
        fn one_wrong_character_is_always_seen(at in 0_usize..64, other in 0_usize..16) {
            let page = page();
            let digits: Vec<usize> = page
                .match_indices(|c: char| c.is_ascii_hexdigit())
                .map(|(at, _)| at)
                .filter(|at| *at > page.find("\n1  ").unwrap() + 3)
                .collect();
            let other = char::from_digit(other as u32, 16).unwrap();
            let at = digits[at];
            let mut changed = page.clone();
            changed.replace_range(at..=at, &other.to_string());
            prop_assert!(changed == page || parse(&changed).is_err());
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = parse(&text);
            let _ = parse(&format!("{FIRST_LINE}\nrepository {ID}\n1{text}"));
        }
    }
}
