//! JSON as the format's first program writes it, byte for byte, because names are hashes of this text.
//!
//! Objects are written compact: no whitespace, keys in the order they are given. The indented form of files
//! is made from the compact one (`indent`). Strings escape `"`, `\`, control characters (short forms where
//! there are any, else `\u00xx`), `< > &`, U+2028 and U+2029; everything else is raw UTF-8. Floats are the
//! shortest text that reads back, plain from 1e-6 up to 1e21, with an exponent outside.

use std::fmt::Write as _;

/// Builds compact JSON. The caller keeps begin and end in balance.
#[derive(Debug, Default)]
pub struct JsonWriter {
    text: String,
    /// Whether a value stands before the next one in the innermost array or object.
    needs_comma: bool,
}

impl JsonWriter {
    /// Starts with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens an object.
    pub fn begin_object(&mut self) {
        self.open('{');
    }

    /// Closes an object.
    pub fn end_object(&mut self) {
        self.close('}');
    }

    /// Opens an array.
    pub fn begin_array(&mut self) {
        self.open('[');
    }

    /// Closes an array.
    pub fn end_array(&mut self) {
        self.close(']');
    }

    /// Writes the key of the value that follows.
    pub fn key(&mut self, key: &str) {
        self.string(key);
        self.text.push(':');
        self.needs_comma = false;
    }

    /// Writes a string.
    pub fn string(&mut self, value: &str) {
        self.separate();
        push_string(&mut self.text, value);
    }

    /// Writes an integer.
    pub fn integer(&mut self, value: impl Into<i128>) {
        self.separate();
        let _ = write!(self.text, "{}", value.into());
    }

    /// Writes a float.
    pub fn float(&mut self, value: f64) {
        self.separate();
        self.text.push_str(&float(value));
    }

    /// Writes a boolean.
    pub fn boolean(&mut self, value: bool) {
        self.raw(if value { "true" } else { "false" });
    }

    /// Writes `null`.
    pub fn null(&mut self) {
        self.raw("null");
    }

    /// Writes text that is compact JSON already.
    pub fn raw(&mut self, compact: &str) {
        self.separate();
        self.text.push_str(compact);
    }

    /// Writes an array of strings; `null` if there is none, which is not the same as an empty one.
    pub fn strings(&mut self, values: Option<&[String]>) {
        let Some(values) = values else { return self.null() };
        self.begin_array();
        for value in values {
            self.string(value);
        }
        self.end_array();
    }

    /// Returns the text.
    pub fn finish(self) -> String {
        self.text
    }

    fn separate(&mut self) {
        if std::mem::replace(&mut self.needs_comma, true) {
            self.text.push(',');
        }
    }

    fn open(&mut self, bracket: char) {
        self.separate();
        self.text.push(bracket);
        self.needs_comma = false;
    }

    fn close(&mut self, bracket: char) {
        self.text.push(bracket);
        self.needs_comma = true;
    }
}

/// Appends a string with its quotes, escaped.
pub fn push_string(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '\0'..'\x20' => push_escape(text, character),
            _ if is_html(character) => push_escape(text, character),
            _ => text.push(character),
        }
    }
    text.push('"');
}

fn is_html(character: char) -> bool {
    matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

fn push_escape(text: &mut String, character: char) {
    let _ = write!(text, "\\u{:04x}", character as u32);
}

/// Returns valid JSON without the whitespace outside its strings, and with `< > &` U+2028 U+2029 escaped;
/// numbers, escapes and the order of keys stay as they are.
pub fn compact_raw(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut inside = Inside::default();
    for character in json.chars() {
        if is_html(character) {
            push_escape(&mut text, character);
        } else if inside.string || !matches!(character, ' ' | '\t' | '\n' | '\r') {
            text.push(character);
        }
        inside.step(character);
    }
    text
}

/// Returns compact JSON as files hold it: two spaces per level, `": "` after keys, no newline at the end.
pub fn indent(compact: &str) -> String {
    let mut text = String::with_capacity(compact.len() * 2);
    let mut inside = Inside::default();
    let mut level = 0usize;
    let mut just_opened = false;
    for character in compact.chars() {
        if inside.string {
            text.push(character);
        } else {
            let closes = matches!(character, '}' | ']');
            level = level.saturating_sub(closes.into());
            // A bracket closed at once stays on its line.
            if just_opened != closes {
                push_line(&mut text, level);
            }
            just_opened = matches!(character, '{' | '[');
            level += usize::from(just_opened);
            text.push(character);
            match character {
                ':' => text.push(' '),
                ',' => push_line(&mut text, level),
                _ => {}
            }
        }
        inside.step(character);
    }
    text
}

fn push_line(text: &mut String, level: usize) {
    text.push('\n');
    text.extend(std::iter::repeat_n("  ", level));
}

/// Follows whether the text is inside a string.
#[derive(Default)]
struct Inside {
    string: bool,
    escape: bool,
}

impl Inside {
    fn step(&mut self, character: char) {
        match character {
            _ if std::mem::take(&mut self.escape) => {}
            '\\' => self.escape = self.string,
            '"' => self.string = !self.string,
            _ => {}
        }
    }
}

/// Returns a float as JSON text.
///
/// # Panics
///
/// If the value is not finite; JSON has no text for it.
pub fn float(value: f64) -> String {
    assert!(value.is_finite(), "JSON has no text for {value}");
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) {
        return exponent_form(value, 1);
    }
    // The standard form is the shortest that reads back, never with an exponent, never with `.0`.
    format!("{value}")
}

/// Returns a float as the format shows REAL values of a date range: the shortest digits, with an exponent of
/// at least two digits below 1e-4 and from 1e6 on.
pub fn go_g_float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let exponent = shortest(value).1;
    // 21 is where the shortest digits of an integer would need zeros of their own.
    if value != 0.0 && !(-4..6).contains(&exponent) { exponent_form(value, 2) } else { format!("{value}") }
}

/// Returns mantissa and decimal exponent of the shortest text that reads back.
fn shortest(value: f64) -> (String, i32) {
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("the exponent form has an exponent");
    (mantissa.to_owned(), exponent.parse().expect("the exponent is an integer"))
}

fn exponent_form(value: f64, exponent_digits_min: usize) -> String {
    let (mantissa, exponent) = shortest(value);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:0width$}", exponent.unsigned_abs(), width = exponent_digits_min)
}
