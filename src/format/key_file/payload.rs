//! What a key file wraps: which repository the key is of, and the key.
//!
//! ```text
//! packvault repository key 1 LF
//! <id of the repository> LF
//! <the key, 64 lower-case hex digits> LF
//! ```
//!
//! The id keeps a key file from being laid into another repository: whoever opens it there is told, and does
//! not seal anything under a key that others know.

use zeroize::Zeroizing;

use crate::format::error::{FormatError, FormatErrorKind, Result};
use crate::format::ids::RepoId;
use crate::format::repository_key::RepositoryKey;

const FIRST_LINE: &str = "packvault repository key 1";
/// What every version's payload begins with.
const FAMILY: &str = "packvault repository key ";

/// The bytes of a payload, all of the same length.
pub const PAYLOAD_BYTES: usize = FIRST_LINE.len() + 1 + 36 + 1 + 64 + 1;

/// Returns the payload; it is wiped when it is dropped.
pub fn encode(repository: &RepoId, key: &RepositoryKey) -> Zeroizing<Vec<u8>> {
    // Room for all of it: a buffer that grows leaves copies behind.
    let mut payload = Zeroizing::new(Vec::with_capacity(PAYLOAD_BYTES));
    payload.extend_from_slice(FIRST_LINE.as_bytes());
    payload.push(b'\n');
    payload.extend_from_slice(repository.as_str().as_bytes());
    payload.push(b'\n');
    let mut digits = Zeroizing::new([0; 2 * RepositoryKey::BYTES]);
    hex::encode_to_slice(key.expose(), digits.as_mut()).expect("two digits for each byte");
    payload.extend_from_slice(digits.as_ref());
    payload.push(b'\n');
    payload
}

/// Reads a payload. Nothing of it is in an error.
pub fn parse(payload: &[u8]) -> Result<(RepoId, RepositoryKey)> {
    let text = std::str::from_utf8(payload).map_err(|_| no_key())?;
    let mut lines = text.split('\n');
    let first = lines.next().unwrap_or_default();
    if first != FIRST_LINE {
        return Err(match first.starts_with(FAMILY) {
            true => FormatError::new(
                FormatErrorKind::UnsupportedVersion,
                "it wraps a repository key of a newer kind: upgrade packvault",
            ),
            false => no_key(),
        });
    }
    let (Some(id), Some(digits), Some(""), None) = (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(no_key());
    };
    let repository = RepoId::parse(id).map_err(|_| no_key())?;
    Ok((repository, key(digits)?))
}

/// Reads the hex digits of a key.
pub(crate) fn key(digits: &str) -> Result<RepositoryKey> {
    let is_lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let mut bytes = Zeroizing::new([0; RepositoryKey::BYTES]);
    if !digits.bytes().all(is_lower) || hex::decode_to_slice(digits, bytes.as_mut()).is_err() {
        return Err(no_key());
    }
    Ok(RepositoryKey::from_bytes(*bytes))
}

fn no_key() -> FormatError {
    FormatError::corrupt("what it wraps is no key of a repository")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5d61e8af-fa85-4c85-a408-d2e53ac0ed20";

    fn written() -> String {
        let key = RepositoryKey::from_bytes([0xa7; 32]);
        String::from_utf8(encode(&RepoId::parse(ID).unwrap(), &key).to_vec()).unwrap()
    }

    #[test]
    fn a_payload_is_three_lines_and_reads_back() {
        let digits = "a7".repeat(32);
        assert_eq!(written(), format!("packvault repository key 1\n{ID}\n{digits}\n"));
        assert_eq!(written().len(), PAYLOAD_BYTES);
        let (repository, key) = parse(written().as_bytes()).unwrap();
        assert_eq!((repository.as_str(), *key.expose()), (ID, [0xa7; 32]));
    }

    #[test]
    fn anything_else_is_refused_and_not_repeated() {
        let digits = "a7".repeat(32);
        for bad in [
            String::new(),
            written().replace("key 1", "key"),
            written().replace(ID, &ID.to_uppercase()),
            written().replace(ID, ""),
            written().replace(&digits, &digits.to_uppercase()),
            written().replace(&digits, &digits[2..]),
            written().replace(&digits, &format!("{digits}00")),
            written().replace('\n', "\r\n"),
            written().trim_end().to_owned(),
            format!("{}\n", written()),
            format!("\n{}", written()),
        ] {
            let error = parse(bad.as_bytes()).unwrap_err().to_string();
            assert!(!error.contains("a7a7") && !error.contains("A7A7"), "{error}");
        }
        assert!(parse(b"\xff").is_err());
    }

    #[test]
    fn a_newer_payload_asks_for_a_newer_program() {
        let error = parse(written().replace("key 1", "key 2").as_bytes()).unwrap_err();
        assert_eq!(error.kind(), FormatErrorKind::UnsupportedVersion);
    }
}
