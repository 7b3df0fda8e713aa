//! Values of a database as text: for people, as comma-separated values, and as JSON.
//!
//! A value may have hundreds of megabytes, and written out several times as many. So text and bytes come in pieces.

use std::borrow::Cow;

use packvault::engine::inside::sql::Value;
use packvault::{Error, ErrorKind, Result};

/// Bytes of a value that become text at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Bytes of a character of UTF-8 after its first.
const FOLLOWING_MAX: usize = 3;

/// Returns the bytes that a value has, about.
pub fn bytes_of(value: &Value<'_>) -> usize {
    match value {
        Value::Text(bytes) | Value::Blob(bytes) => bytes.len(),
        Value::Null | Value::Integer(_) | Value::Real(_) => size_of::<f64>(),
    }
}

/// Returns a value as plain text, in pieces: nothing for `NULL`, hexadecimal digits for bytes.
pub fn plain<'a>(value: &Value<'a>) -> Box<dyn Iterator<Item = Cow<'a, str>> + 'a> {
    match *value {
        Value::Null => Box::new(std::iter::empty()),
        Value::Integer(number) => Box::new(std::iter::once(number.to_string().into())),
        Value::Real(number) => Box::new(std::iter::once(number.to_string().into())),
        Value::Text(text) => Box::new(pieces(text).map(String::from_utf8_lossy)),
        Value::Blob(bytes) => Box::new(bytes.chunks(PIECE_BYTES).map(|piece| hex::encode(piece).into())),
    }
}

/// Cuts a text into pieces, none in the middle of a character.
fn pieces(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let follows = |at: &usize| text.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
        let end = text.len().min(PIECE_BYTES);
        let begins = (end.saturating_sub(FOLLOWING_MAX)..=end).rev().find(|at| !follows(at));
        let (piece, rest) = text.split_at(begins.unwrap_or(end));
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Returns a field of comma-separated values, as RFC 4180 has it, in pieces.
pub fn quoted<'a>(value: &Value<'a>) -> Box<dyn Iterator<Item = Cow<'a, str>> + 'a> {
    let is_special = |byte: &u8| matches!(byte, b'"' | b',' | b'\r' | b'\n');
    let needs_quotes = matches!(value, Value::Text(text) if text.iter().any(is_special));
    if !needs_quotes {
        return plain(value);
    }
    let quote = || std::iter::once(Cow::from("\""));
    Box::new(quote().chain(plain(value).map(|piece| piece.replace('"', "\"\"").into())).chain(quote()))
}

/// Returns a value as JSON, in pieces: bytes as an object, and numbers that JSON does not have as `null`.
pub fn json_of<'a>(value: &Value<'a>) -> Box<dyn Iterator<Item = Result<Cow<'a, str>>> + 'a> {
    let around = |before: &'static str, after: &'static str| {
        let pieces = plain(value).map(|piece| inner(&piece).map(Cow::from));
        let (before, after) = (std::iter::once(Ok(before.into())), std::iter::once(Ok(after.into())));
        Box::new(before.chain(pieces).chain(after))
    };
    match *value {
        Value::Null => Box::new(std::iter::once(Ok("null".into()))),
        Value::Real(number) if !number.is_finite() => Box::new(std::iter::once(Ok("null".into()))),
        Value::Real(number) => Box::new(std::iter::once(json(&number).map(Cow::from))),
        Value::Integer(number) => Box::new(std::iter::once(Ok(number.to_string().into()))),
        Value::Text(_) => around("\"", "\""),
        Value::Blob(_) => around("{\"blob\":\"", "\"}"),
    }
}

/// Returns what stands between the quotes of a text in JSON.
fn inner(text: &str) -> Result<String> {
    let quoted = json(text)?;
    Ok(quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(&quoted).to_owned())
}

/// Returns something as JSON.
pub fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    let failed = |error| Error::caused(ErrorKind::Io, "cannot write the result as JSON", error);
    serde_json::to_string(value).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_each_format_can_hold() {
        let csv = |text: &str| quoted(&Value::Text(text.as_bytes())).collect::<String>();
        assert_eq!(csv("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv("plain"), "plain");
        for (value, text) in [
            (Value::Null, "null"),
            (Value::Integer(-7), "-7"),
            (Value::Real(0.5), "0.5"),
            (Value::Real(f64::NAN), "null"),
            (Value::Text(b"a\"\x1b"), "\"a\\\"\\u001b\""),
            (Value::Text(b""), "\"\""),
            (Value::Blob(&[0, 255]), "{\"blob\":\"00ff\"}"),
        ] {
            assert_eq!(json_of(&value).collect::<Result<String>>().unwrap(), text);
        }
    }

    #[test]
    fn a_long_text_comes_in_pieces_and_no_character_is_cut() {
        for character in ["a", "\u{e9}", "\u{20ac}", "\u{1f600}"] {
            for before in ["", "x", "xy", "xyz"] {
                let text = before.to_owned() + &character.repeat(PIECE_BYTES);
                let found: Vec<Cow<'_, str>> = plain(&Value::Text(text.as_bytes())).collect();
                assert!(
                    found.len() >= character.len() && found.iter().all(|piece| piece.len() <= PIECE_BYTES)
                );
                assert!(found.concat() == text, "{before}{character}");
            }
        }
    }

    #[test]
    fn what_is_no_text_is_not_read_for_ever() {
        let stray = vec![0x80; 3 * PIECE_BYTES];
        let found: String = plain(&Value::Text(&stray)).collect();
        assert_eq!(found.chars().count(), stray.len());
    }
}
