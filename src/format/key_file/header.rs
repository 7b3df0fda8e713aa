//! By which kinds of key an age file opens, read from its header.
//!
//! ```text
//! age-encryption.org/v1 LF
//! -> kind argument argument LF       one stanza for each recipient
//! base64 LF                          its body, in lines of 64 characters, the last one shorter
//! --- mac LF
//! nonce and sealed payload
//! ```
//!
//! Only what chooses a key is read here, so that scrypt is not paid for files that a key cannot open, nor for
//! those that ask for more work than anybody's passphrase needs. Nothing of it is authenticated; the crate
//! `age` checks the whole when the file is opened.

use std::fmt;

use crate::format::error::{FormatError, FormatErrorKind, Result};

const FIRST_LINE: &str = "age-encryption.org/v1";

/// Recipients of one file; ours have one.
const STANZAS_MAX: usize = 32;
/// The longest line of a header; the crate's own bound is wider.
const LINE_BYTES_MAX: usize = 1024;
/// The longest kind that is repeated in messages.
const SHOWN_BYTES_MAX: usize = 32;
/// Lines of a stanza's body: an RSA key of 16,384 bits needs 43.
const BODY_LINES_MAX: usize = 64;

/// A kind of key by which a file opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayIn {
    /// A passphrase, stretched by scrypt with N = 2^`work_factor`.
    Passphrase {
        /// The exponent of scrypt's cost.
        work_factor: u8,
    },
    /// The identity of an age recipient, `age1…`.
    X25519,
    /// An SSH key of the kind ed25519, told by the first bytes of its hash, in base64.
    SshEd25519 {
        /// What tells it from others.
        tag: String,
    },
    /// An SSH key of the kind RSA, told likewise.
    SshRsa {
        /// What tells it from others.
        tag: String,
    },
    /// A kind that this version does not know.
    Other(String),
}

impl fmt::Display for WayIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase { .. } => f.write_str("passphrase"),
            Self::X25519 => f.write_str("x25519"),
            Self::SshEd25519 { .. } => f.write_str("ssh-ed25519"),
            Self::SshRsa { .. } => f.write_str("ssh-rsa"),
            Self::Other(kind) => write!(f, "unknown ({kind})"),
        }
    }
}

/// The readable part of a key file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHeader {
    /// The kinds of key that open it, in the order of the file.
    pub ways: Vec<WayIn>,
}

impl KeyHeader {
    /// Reads the header of a file.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let mut lines = Lines { rest: file };
        if lines.next()? != FIRST_LINE {
            return Err(FormatError::new(FormatErrorKind::BadMagic, "this is no age file"));
        }
        let mut ways = Vec::new();
        for _ in 0..=STANZAS_MAX {
            let line = lines.next()?;
            if line.strip_prefix("---").is_some() {
                return Self::of(ways);
            }
            let stanza = line.strip_prefix("-> ").ok_or_else(|| corrupt("a stanza begins with an arrow"))?;
            ways.extend(way_in(stanza)?);
            lines.skip_body()?;
        }
        Err(corrupt("has more than 32 recipients"))
    }

    fn of(ways: Vec<WayIn>) -> Result<Self> {
        let is_passphrase = |way: &WayIn| matches!(way, WayIn::Passphrase { .. });
        match ways.as_slice() {
            [] => Err(corrupt("names no recipient")),
            [_, _, ..] if ways.iter().any(is_passphrase) => {
                Err(corrupt("a passphrase is the only recipient of an age file"))
            }
            _ => Ok(Self { ways }),
        }
    }

    /// Returns how costly its passphrase is to try, if a passphrase opens it.
    pub fn work_factor(&self) -> Option<u8> {
        match self.ways.as_slice() {
            [WayIn::Passphrase { work_factor }] => Some(*work_factor),
            _ => None,
        }
    }

    /// Returns the kinds for people, joined by commas.
    pub fn kinds(&self) -> String {
        let kinds: Vec<String> = self.ways.iter().map(WayIn::to_string).collect();
        kinds.join(", ")
    }
}

/// Returns the kind that the line of a stanza names; `None` for one that was put in to keep readers honest.
fn way_in(stanza: &str) -> Result<Option<WayIn>> {
    let mut words = stanza.split(' ');
    let kind = words.next().unwrap_or_default();
    let mut argument = || words.next().ok_or_else(|| corrupt("a stanza lacks an argument"));
    Ok(Some(match kind {
        "scrypt" => {
            argument()?;
            let text = argument()?;
            let is_canonical = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
            let work_factor = text.parse().ok().filter(|_| is_canonical);
            WayIn::Passphrase {
                work_factor: work_factor.ok_or_else(|| corrupt("scrypt's cost is no number"))?,
            }
        }
        "X25519" => WayIn::X25519,
        "ssh-ed25519" => WayIn::SshEd25519 { tag: argument()?.to_owned() },
        "ssh-rsa" => WayIn::SshRsa { tag: argument()?.to_owned() },
        grease if grease.ends_with("-grease") => return Ok(None),
        other => WayIn::Other(shown(other)),
    }))
}

fn shown(kind: &str) -> String {
    let legal = kind.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    legal.take(SHOWN_BYTES_MAX).collect()
}

/// The lines of a header: printable ASCII, each ended by a line feed.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<&'a str> {
        let end = self.rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n');
        let Some(end) = end else {
            return Err(match self.rest.len() < LINE_BYTES_MAX {
                true => FormatError::truncated("the header ends within a line"),
                false => corrupt("a line of the header has more than 1,024 bytes"),
            });
        };
        let (line, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        match line.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            true => std::str::from_utf8(line).map_err(|_| corrupt("the header is no text")),
            false => Err(corrupt("the header is no text")),
        }
    }

    /// A body ends with the first line that is shorter than 64 characters.
    fn skip_body(&mut self) -> Result<()> {
        for _ in 0..BODY_LINES_MAX {
            let line = self.next()?;
            match line.len() {
                0..64 => return Ok(()),
                64 => {}
                _ => return Err(corrupt("a line of a stanza has more than 64 characters")),
            }
        }
        Err(corrupt("a stanza is longer than any key needs"))
    }
}

fn corrupt(message: &str) -> FormatError {
    FormatError::corrupt(message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(stanzas: &str) -> Vec<u8> {
        let mut file = format!("{FIRST_LINE}\n{stanzas}--- m4c\n").into_bytes();
        file.extend([0xff; 48]);
        file
    }

    fn ways(stanzas: &str) -> Vec<WayIn> {
        KeyHeader::parse(&file(stanzas)).unwrap().ways
    }

    const BODY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";

    #[test]
    fn the_kinds_of_key_are_told_without_one() {
        assert_eq!(ways(&format!("-> scrypt c2FsdA 17\n{BODY}")), [WayIn::Passphrase { work_factor: 17 }]);
        assert_eq!(ways(&format!("-> X25519 share\n{BODY}-> x8-grease\n\n")), [WayIn::X25519]);
        let tag = "Xyg06A".to_owned();
        let ed25519 = WayIn::SshEd25519 { tag: tag.clone() };
        assert_eq!(ways(&format!("-> ssh-ed25519 {tag} share\n{BODY}")), [ed25519]);
        let long = format!("{}\n", "A".repeat(64));
        let rsa = format!("-> ssh-rsa {tag}\n{}\n", long.repeat(6));
        assert_eq!(ways(&rsa), [WayIn::SshRsa { tag }]);
        assert_eq!(ways(&format!("-> piv-p256 a b\n{BODY}")), [WayIn::Other("piv-p256".to_owned())]);
        let two = KeyHeader::parse(&file(&format!("-> X25519 share\n{BODY}{rsa}"))).unwrap();
        assert_eq!((two.kinds().as_str(), two.work_factor()), ("x25519, ssh-rsa", None));
    }

    #[test]
    fn a_header_that_is_none_is_refused() {
        let scrypt = format!("-> scrypt c2FsdA 17\n{BODY}");
        for stanzas in [
            String::new(),
            format!("{scrypt}{scrypt}"),
            format!("{scrypt}-> X25519 share\n{BODY}"),
            format!("-> scrypt c2FsdA\n{BODY}"),
            format!("-> scrypt c2FsdA 017\n{BODY}"),
            format!("-> scrypt c2FsdA +7\n{BODY}"),
            format!("-> scrypt c2FsdA 256\n{BODY}"),
            "X25519 share\n".to_owned(),
            format!("-> X25519 \x07\n{BODY}"),
            format!("-> X25519 share\n{}\n", "A".repeat(65)),
            format!("-> X25519 share\n{BODY}").repeat(33),
            format!("-> X25519 {}\n{BODY}", "x".repeat(2000)),
            format!("-> X25519 share\n{}", format!("{}\n", "A".repeat(64)).repeat(100)),
        ] {
            assert!(KeyHeader::parse(&file(&stanzas)).is_err(), "{stanzas}");
        }
        assert_eq!(KeyHeader::parse(b"PK\n").unwrap_err().kind(), FormatErrorKind::BadMagic);
        assert_eq!(KeyHeader::parse(b"").unwrap_err().kind(), FormatErrorKind::Truncated);
    }

    #[test]
    fn a_header_that_is_cut_anywhere_is_refused() {
        let whole = file(&format!("-> X25519 share\n{BODY}"));
        let header = whole.len() - 48;
        for end in 0..header {
            assert!(KeyHeader::parse(&whole[..end]).is_err(), "{end}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = KeyHeader::parse(&bytes);
            let mut led = format!("{FIRST_LINE}\n-> ").into_bytes();
            led.extend(bytes);
            let _ = KeyHeader::parse(&led);
        }
    }
}
