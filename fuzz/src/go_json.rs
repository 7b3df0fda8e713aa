//! JSON text, against a second writing of its rules. Input: eight bytes of a float, then text.

use packvault::format::go_json::{compact_raw, float, go_g_float, indent, push_string};
use serde_json::Value;
use serde_json::value::RawValue;

use super::input::Input;

/// What is nested deeper is not indented: each level indents every line below it.
const BRACKETS_MAX: usize = 200;

/// Writes a float and a string, and reshapes the text if it is JSON.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    check_float(f64::from_bits(input.u64()));
    let text = input.rest_text();
    let mut written = String::new();
    push_string(&mut written, text);
    assert_eq!(written, naively_escaped(text));
    assert_eq!(serde_json::from_str::<String>(&written).ok().as_deref(), Some(text));
    if let Ok(raw) = serde_json::from_str::<Box<RawValue>>(text) {
        check_reshaped(raw.get());
    }
}

fn check_float(value: f64) {
    let shown = go_g_float(value);
    if !value.is_finite() {
        assert!(["NaN", "+Inf", "-Inf"].contains(&shown.as_str()));
        return;
    }
    assert_eq!(float(value), naive_float(value, 1e-6, 1e21, 1));
    assert_eq!(shown, naive_g(value));
}

/// Finds the shortest digits by trying, and writes them by hand.
fn naive_float(value: f64, plain_min: f64, plain_end: f64, exponent_digits_min: usize) -> String {
    let is_plain = value == 0.0 || (plain_min..plain_end).contains(&value.abs());
    let (digits, exponent) = shortest(value);
    let sign = if value.is_sign_negative() { "-" } else { "" };
    if !is_plain {
        return format!("{sign}{}", with_exponent(&digits, exponent, exponent_digits_min));
    }
    if exponent < 0 {
        let zeros = "0".repeat((-exponent - 1) as usize);
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole_digits = exponent as usize + 1;
    if digits.len() <= whole_digits {
        let zeros = "0".repeat(whole_digits - digits.len());
        return format!("{sign}{digits}{zeros}");
    }
    format!("{sign}{}.{}", &digits[..whole_digits], &digits[whole_digits..])
}

fn with_exponent(digits: &str, exponent: i32, exponent_digits_min: usize) -> String {
    let point = if digits.len() > 1 { "." } else { "" };
    let sign = if exponent < 0 { '-' } else { '+' };
    let mut text = exponent.unsigned_abs().to_string();
    while text.len() < exponent_digits_min {
        text.insert(0, '0');
    }
    format!("{}{point}{}e{sign}{text}", &digits[..1], &digits[1..])
}

fn naive_g(value: f64) -> String {
    naive_float(value, 1e-4, 1e6, 2)
}

/// Returns the fewest significant digits that read back, without trailing zeros, and the decimal exponent.
///
/// Of as many digits the nearest are tried first, then those on either side: below a power of two the doubles
/// lie closer together, so what reads back may be the second nearest.
fn shortest(value: f64) -> (String, i32) {
    for precision in 0..17 {
        let text = format!("{:.precision$e}", value.abs());
        let (mantissa, exponent) = text.split_once('e').expect("the exponent form has an exponent");
        let nearest: u64 = mantissa.replace('.', "").parse().expect("the digits are a number");
        let exponent: i32 = exponent.parse().expect("the exponent is a number");
        for digits in [nearest, nearest + 1, nearest.saturating_sub(1)] {
            let scale = exponent - precision as i32;
            if format!("{digits}e{scale}").parse() == Ok(value.abs()) {
                let digits = digits.to_string();
                let kept = digits.trim_end_matches('0');
                let exponent = if kept.is_empty() { 0 } else { scale + digits.len() as i32 - 1 };
                return (if kept.is_empty() { "0" } else { kept }.to_owned(), exponent);
            }
        }
    }
    panic!("17 digits are enough for {value:e}")
}

fn naively_escaped(text: &str) -> String {
    let mut escaped = String::from("\"");
    for character in text.chars() {
        let code = u32::from(character);
        let short = [(8, 'b'), (9, 't'), (10, 'n'), (12, 'f'), (13, 'r'), (34, '"'), (92, '\\')];
        if let Some((_, letter)) = short.iter().find(|(known, _)| *known == code) {
            escaped.extend(['\\', *letter]);
        } else if code < 32 || [38, 60, 62, 0x2028, 0x2029].contains(&code) {
            escaped.push_str("\\u");
            for shift in [12, 8, 4, 0] {
                escaped.push(char::from(b"0123456789abcdef"[(code >> shift & 15) as usize]));
            }
        } else {
            escaped.push(character);
        }
    }
    escaped + "\""
}

fn check_reshaped(json: &str) {
    let compact = compact_raw(json);
    assert_eq!(compact_raw(&compact), compact);
    if json.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count() > BRACKETS_MAX {
        return;
    }
    let indented = indent(&compact);
    assert_eq!(compact_raw(&indented), compact);
    assert_eq!(indent(&compact_raw(&indented)), indented);
    let value = |text: &str| serde_json::from_str::<Value>(text).ok();
    assert_eq!(value(json), value(&compact));
    assert_eq!(value(json), value(&indented));
}
