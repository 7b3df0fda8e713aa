//! What is said of a mistake in the configuration file: the line, the key, and what belongs there.
//!
//! The parser's own messages quote what they found. A secret that stands in the file by mistake would be in
//! the message then, and with it in the mail of the nightly job. So a message keeps the name of a key where it
//! can be one, and what was expected, and nothing of what was found.

/// The longest name of a key that is shown.
const KEY_BYTES_MAX: usize = 40;

/// A mistake, in the words of the parser.
#[derive(Debug)]
pub struct Mistake {
    /// Where it begins in the text.
    pub offset: usize,
    /// What is wrong, and what was found.
    pub message: String,
}

impl From<toml::de::Error> for Mistake {
    fn from(error: toml::de::Error) -> Self {
        Self { offset: error.span().map_or(0, |span| span.start), message: error.message().to_owned() }
    }
}

/// Returns the line, counted from one, and what is wrong there.
pub fn of(text: &str, mistake: &Mistake) -> (usize, String) {
    let before = &text.as_bytes()[..mistake.offset.min(text.len())];
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    if text.parse::<toml::Table>().is_err() {
        return (line, "this is no valid TOML; a text stands in quotes, and each key once".to_owned());
    }
    (line, meaning(&mistake.message, key_at(text, line)))
}

/// Returns what the message says, without what was found.
fn meaning(message: &str, key: Option<&str>) -> String {
    let quoted = |beginning: &str| {
        let (name, _) = message.strip_prefix(beginning)?.split_once('`')?;
        Some(if is_key(name) { format!("{beginning}{name}`") } else { format!("{beginning}…`") })
    };
    if let Some(said) = quoted("unknown field `").or_else(|| quoted("missing field `")) {
        return match expected(message) {
            Some(expected) => format!("{said}, expected {expected}"),
            None => said,
        };
    }
    let key = key.map_or_else(|| "a value".to_owned(), |key| format!("the value of `{key}`"));
    match expected(message) {
        Some(expected) => format!("{key} cannot be used here, expected {expected}"),
        None => format!("{key} cannot be used here"),
    }
}

/// Returns what was expected, which a message ends with. The names of our own types are none that a reader
/// would know.
fn expected(message: &str) -> Option<String> {
    if message.contains("is no size") {
        return Some("a size: 4096, 64MiB or 1.5GB".to_owned());
    }
    if message.contains("is no sample") {
        return Some("a share or a size: 4% or 10GiB".to_owned());
    }
    if message.contains("is no duration") {
        return Some("a duration: 14d, 6m or 1y6m".to_owned());
    }
    // Other messages are not the parser's, and may quote the value last.
    if !message.starts_with("invalid ") && !message.starts_with("unknown ") {
        return None;
    }
    let (_, expected) = message.rsplit_once(", expected ")?;
    match expected {
        _ if expected.contains("SecretSource") => Some(
            "a reference: { env = \"NAME\" }, { file = \"PATH\" } or { command = [\"PROGRAM\"] }".to_owned(),
        ),
        _ if expected.contains("struct") || expected.contains("enum") => None,
        expected => Some(expected.to_owned()),
    }
}

/// Returns the key whose value begins in the line.
fn key_at(text: &str, line: usize) -> Option<&str> {
    let (key, _) = text.lines().nth(line - 1)?.split_once('=')?;
    let key = key.trim();
    is_key(key).then_some(key)
}

/// A secret has digits or is long; a key of ours, and a slip in one, is neither.
fn is_key(name: &str) -> bool {
    let is_legal = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | '-');
    !name.is_empty() && name.len() <= KEY_BYTES_MAX && name.chars().all(is_legal)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::sections;
    use super::*;

    fn said(text: &str) -> (usize, String) {
        of(text, &sections::read(text).1.expect(text))
    }

    #[test]
    fn a_mistake_is_named_by_its_key_and_by_what_belongs_there() {
        for (text, line, words) in [
            ("defualt_repository = 'x'", 1, "unknown field `defualt_repository`, expected one of"),
            ("[archive.mail]", 1, "missing field `home`"),
            ("[archive.mail]\nhome = 1", 2, "the value of `home` cannot be used here, expected a string"),
            ("[archive.mail]\nhome = '/x'\nprofile = 'other'", 3, "expected `msgvault` or `sqlite`"),
            ("[archive.mail]\nhome = '/x'\nfiles = 'a'", 3, "expected a sequence"),
            ("[repository.x]\nlocation = '/x'\nlimit_upload = 'fast'", 3, "the value of `limit_upload`"),
            (
                "[repository.x]\nlocation = 's3://b'\nsecret_access_key = 'x'",
                3,
                "expected a reference: { env",
            ),
            ("[repository.x]\nlocation = /x", 2, "no valid TOML"),
            ("a = 'x'\na = 'y'", 2, "no valid TOML"),
        ] {
            let (found, message) = said(text);
            assert_eq!(found, line, "{text}: {message}");
            assert!(message.contains(words), "{text}: {message}");
            assert!(!message.contains("struct"), "{message}");
        }
    }

    #[test]
    fn nothing_of_a_value_is_repeated() {
        for value in [
            "'hunter2'",
            "\"hunter2\"",
            "hunter2",
            "[ 'hunter2' ]",
            "[ { env = 'hunter2' } ]",
            "{ value = 'hunter2' }",
            "{ hunter2 = 'x' }",
            "{ env = [ 'hunter2' ] }",
            "{ env = 'A', value = 'hunter2' }",
            "'''hunter2",
            "\"hunter2\\q\"",
            "'x, expected hunter2'",
            "\"\"\"\nhunter2\"\"\"",
            "'hunter2' hunter2",
        ] {
            for key in [
                "secret_access_key",
                "session_token",
                "access_key_id",
                "secret_acess_key",
                "limit_upload",
                "timeout_seconds",
                "anonymous",
                "ssh_options",
                "connections",
                "proxy",
            ] {
                let text = format!("[repository.x]\nlocation = 's3://b'\n{key} = {value}\n");
                let Some(error) = sections::read(&text).1 else { continue };
                let (_, message) = of(&text, &error);
                assert!(!message.contains("hunter2"), "{text}: {message}");
            }
            for text in [format!("x = {value}"), format!("[archive.a]\nhome = '/x'\nprofile = {value}")] {
                if let Some(error) = sections::read(&text).1 {
                    assert!(!of(&text, &error).1.contains("hunter2"), "{text}");
                }
            }
        }
    }

    /// The parser ends its messages with what it expected; that is relied upon.
    #[test]
    fn what_was_expected_stands_at_the_end_of_a_message() {
        #[derive(Debug, Deserialize)]
        struct Number {
            #[allow(dead_code, reason = "read by nobody: it is the kind of value that counts")]
            number: u64,
        }
        let error = toml::from_str::<Number>("number = ', expected hunter2'").unwrap_err();
        assert_eq!(expected(error.message()).as_deref(), Some("u64"), "{}", error.message());
    }
}
