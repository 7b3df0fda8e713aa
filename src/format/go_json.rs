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
    plain_form(value)
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
    if value != 0.0 && !(-4..6).contains(&exponent) { exponent_form(value, 2) } else { plain_form(value) }
}

/// Returns mantissa and decimal exponent of the shortest text that reads back; of two such texts that are as
/// near, the one whose last digit is even.
fn shortest(value: f64) -> (String, i32) {
    let text = format!("{value:e}");
    let digits = text.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit).count();
    // The standard shortest form rounds a half up; the form of given precision rounds it to even.
    let rounded = format!("{value:.precision$e}", precision = digits.saturating_sub(1));
    let text = if rounded.parse() == Ok(value) { rounded } else { text };
    let (mantissa, exponent) = text.split_once('e').expect("the exponent form has an exponent");
    (mantissa.to_owned(), exponent.parse().expect("the exponent is an integer"))
}

/// Returns the shortest text without an exponent, and without a point where nothing follows it.
fn plain_form(value: f64) -> String {
    let (mantissa, exponent) = shortest(value);
    let sign = if mantissa.starts_with('-') { "-" } else { "" };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    match usize::try_from(exponent) {
        Ok(exponent) if exponent < digits.len() - 1 => {
            let (whole, fraction) = digits.split_at(exponent + 1);
            format!("{sign}{whole}.{fraction}")
        }
        Ok(exponent) => format!("{sign}{digits:0<width$}", width = exponent + 1),
        Err(_) => {
            let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
            format!("{sign}0.{zeros}{digits}")
        }
    }
}

fn exponent_form(value: f64, exponent_digits_min: usize) -> String {
    let (mantissa, exponent) = shortest(value);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:0width$}", exponent.unsigned_abs(), width = exponent_digits_min)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn floats_are_spelled_as_in_the_table() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (3600.0, "3600"),
            (12.0, "12"),
            (0.043863, "0.043863"),
            (1.0 / 3.0, "0.3333333333333333"),
            (1e-6, "0.000001"),
            (1.5e-6, "0.0000015"),
            (1e-7, "1e-7"),
            (9.99e-7, "9.99e-7"),
            (-2.5e-10, "-2.5e-10"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.25e300, "1.25e+300"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn reals_of_a_date_range_are_spelled_as_in_the_table() {
        for (value, text) in [
            (0.0, "0"),
            (1.5, "1.5"),
            (-1.5, "-1.5"),
            (123456.5, "123456.5"),
            (100000.0, "100000"),
            (1e6, "1e+06"),
            (1234567.5, "1.2345675e+06"),
            (1e-9, "1e-09"),
            (0.0001, "0.0001"),
            (0.00012345, "0.00012345"),
            (0.00001, "1e-05"),
            (2e30, "2e+30"),
            (1e100, "1e+100"),
            (f64::INFINITY, "+Inf"),
            (f64::NEG_INFINITY, "-Inf"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(go_g_float(value), text);
        }
    }

    #[test]
    fn of_two_shortest_texts_that_are_as_near_the_even_one_is_written() {
        for (whole, fraction, text, shown) in [
            (563e12, 0.25, "563000000000000.2", "5.630000000000002e+14"),
            (563e12, 0.75, "563000000000000.8", "5.630000000000008e+14"),
            (-17e14, -0.25, "-1700000000000000.2", "-1.7000000000000002e+15"),
            (0.0, f64::powi(2.0, -44), "5.684341886080802e-14", "5.684341886080802e-14"),
        ] {
            let value: f64 = whole + fraction;
            assert_eq!((float(value).as_str(), go_g_float(value).as_str()), (text, shown));
        }
    }

    #[test]
    fn strings_are_escaped_as_in_the_table() {
        let mut text = String::new();
        push_string(&mut text, "\"\\/\u{8}\u{c}\n\r\t\0\u{1f}<>&\u{2028}\u{2029}\u{7f}\u{fffd}é😀");
        let expected =
            concat!(r#""\"\\/\b\f\n\r\t\u0000\u001f\u003c\u003e\u0026\u2028\u2029"#, "\u{7f}\u{fffd}é😀\"");
        assert_eq!(text, expected);
    }

    #[test]
    fn empty_arrays_and_objects_stay_on_their_line() {
        let compact = r#"{"a":[],"b":{},"c":[[],{"d":null}],"e":"[{,:\"}"}"#;
        let indented = r#"{
  "a": [],
  "b": {},
  "c": [
    [],
    {
      "d": null
    }
  ],
  "e": "[{,:\"}"
}"#;
        assert_eq!(indent(compact), indented);
        assert_eq!(compact_raw(indented), compact);
        assert_eq!((indent("[]"), indent("{}"), indent("1")), ("[]".into(), "{}".into(), "1".into()));
    }

    #[test]
    fn raw_text_loses_only_whitespace_and_html_characters() {
        let raw = "{ \"n\" : 1.50e+2,\r\n\t\"s\": \"a b\\u003c<\\\" \u{2028}\" , \"b\": 1, \"a\": 2 }";
        assert_eq!(compact_raw(raw), r#"{"n":1.50e+2,"s":"a b\u003c\u003c\" \u2028","b":1,"a":2}"#);
    }

    #[test]
    #[should_panic(expected = "no text")]
    fn a_float_without_text_is_not_written() {
        float(f64::NAN);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "\\PC*|[<>&\"\\\\\u{2028}\n ]*".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map(".*", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn indenting_changes_no_value_and_is_undone_by_compacting(value in json()) {
            let compact = compact_raw(&value.to_string());
            let indented = indent(&compact);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&indented).unwrap(), value);
            prop_assert_eq!(compact_raw(&indented), compact);
        }

        #[test]
        fn every_float_reads_back(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            prop_assume!(value.is_finite());
            prop_assert_eq!(float(value).parse::<f64>().unwrap().to_bits(), bits);
            prop_assert_eq!(go_g_float(value).parse::<f64>().unwrap().to_bits(), bits);
        }

        #[test]
        fn every_string_reads_back(value in any::<String>()) {
            let mut text = String::new();
            push_string(&mut text, &value);
            prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
        }
    }
}
