//! How numbers, sizes, times and foreign texts look to a person.
//!
//! Texts from a repository or an archive are hostile: [`escape`] makes every character that could move the
//! cursor, recolour the terminal or turn the writing direction visible instead of effective.

use std::time::Duration;

use unicode_width::UnicodeWidthStr;

const KIB: f64 = 1024.0;

/// Most characters kept per column when a text is cut.
const CHARACTERS_PER_COLUMN_MAX: usize = 4;

/// Returns the number with a comma between every three digits.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns the number with its noun, which gets an `s` unless the number is one.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// Returns the size in the largest binary unit in which it is at least one.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / KIB;
    let mut units = ["KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // 1023.5 would be shown as 1024, which belongs to the next unit.
    while amount >= 1023.5 {
        let Some(next) = units.next() else { break };
        amount /= KIB;
        unit = next;
    }
    let decimals = usize::from(amount < 99.95);
    format!("{amount:.decimals$} {unit}")
}

/// Returns the time in seconds, minutes and seconds, or hours and minutes.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{:.1} s", time.as_secs_f64()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Returns the text with every control and direction character written out, so that it stays one harmless
/// line.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmless(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_default());
        }
    }
    escaped
}

fn is_harmless(character: char) -> bool {
    let turns_or_hides = matches!(character,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !character.is_control() && !turns_or_hides
}

/// Returns how many columns the text takes on a terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Returns the text, cut to the number of columns, with `…` where something is missing.
///
/// Characters without a width (accents, of which one letter may carry thousands) are bounded too.
pub fn cut(text: &str, columns: usize) -> String {
    let characters_max = columns * CHARACTERS_PER_COLUMN_MAX;
    let mut kept = String::new();
    for (index, character) in text.chars().enumerate() {
        kept.push(character);
        // Characters side by side may be wider than their sum: an emoji and the mark that makes it one.
        if width(&kept) > columns || index >= characters_max {
            kept.pop();
            return make_room(kept, columns.saturating_sub(1)) + "…";
        }
    }
    kept
}

fn make_room(mut text: String, columns: usize) -> String {
    while width(&text) > columns {
        text.pop();
    }
    text
}

/// Returns a manifest's time without the parts a table need not show: `2026-11-23 20:45`.
pub fn minute(time: &str) -> String {
    let is_time = time.len() == 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T';
    match (is_time, time.get(..10), time.get(11..16)) {
        (true, Some(date), Some(clock)) => escape(&format!("{date} {clock}")),
        _ => escape(time),
    }
}

/// Returns the word as a shell takes it: quoted where it must be.
pub fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:@%,~".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A number of bytes as people write it: `64MiB`, `1.5 GB`, `4096`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("{text:?} is no size; write 4096, 64MiB or 1.5GB");
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: f64 = number.parse().map_err(|_| refused())?;
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "kb" => 1e3,
            "m" | "mib" => 1024.0 * 1024.0,
            "mb" => 1e6,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "gb" => 1e9,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            "tb" => 1e12,
            _ => return Err(refused()),
        };
        Ok(Self((number * factor) as u64))
    }
}

/// Parses bytes per second, of which there is at least one: with none, nothing would ever be sent.
pub fn rate(text: &str) -> Result<ByteSize, String> {
    match text.parse()? {
        ByteSize(0) => Err("is at least 1 byte per second; leave it out for no limit".to_owned()),
        rate => Ok(rate),
    }
}

impl<'de> serde::Deserialize<'de> for ByteSize {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <String as serde::Deserialize>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_at_least_one_byte_per_second() {
        for none in ["0", "0 MiB", "0.5"] {
            assert!(rate(none).unwrap_err().contains("at least 1"), "{none}");
        }
        assert_eq!(rate("1").unwrap(), ByteSize(1));
    }

    #[test]
    fn numbers_have_a_comma_between_every_three_digits() {
        for (number, text) in
            [(0, "0"), (999, "999"), (1000, "1,000"), (152_345, "152,345"), (1_000_000, "1,000,000")]
        {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "pack"), "1 pack");
        assert_eq!(counted(0, "pack"), "0 packs");
    }

    #[test]
    fn sizes_are_short_in_every_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (102_348, "99.9 KiB"),
            (102_400, "100 KiB"),
            (1_048_500, "1.0 MiB"),
            (600 << 20, "600 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn times_name_two_units_at_most() {
        for (milliseconds, text) in [
            (0, "0.0 s"),
            (340, "0.3 s"),
            (1000, "1 s"),
            (59_999, "59 s"),
            (65_000, "1 min 05 s"),
            (3_720_000, "1 h 02 min"),
        ] {
            assert_eq!(duration(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn hostile_characters_become_visible() {
        assert_eq!(escape("größe, 日本"), "größe, 日本");
        assert_eq!(escape("a\x1b[2Jb\r\n\tc\u{7f}\u{9b}"), "a\\u{1b}[2Jb\\r\\n\\tc\\u{7f}\\u{9b}");
        assert_eq!(escape("gpj.\u{202e}exe\u{200b}"), "gpj.\\u{202e}exe\\u{200b}");
    }

    #[test]
    fn a_cut_text_is_never_wider_than_asked_for() {
        assert_eq!(cut("nightly", 7), "nightly");
        assert_eq!(cut("nightly-2026", 7), "nightl…");
        assert_eq!(cut("日本日本", 5), "日本…");
        assert!(width(&cut("日本日本", 4)) <= 4);
        assert!(width(&cut(&"❤\u{fe0f}".repeat(20), 16)) <= 16);
        let flood = format!("a{}", "\u{301}".repeat(1_000_000));
        assert!(cut(&flood, 16).chars().count() <= 16 * CHARACTERS_PER_COLUMN_MAX + 1);
    }

    #[test]
    fn a_time_loses_its_seconds_and_anything_else_stays() {
        assert_eq!(minute("2026-11-23T20:45:17Z"), "2026-11-23 20:45");
        assert_eq!(minute("yesterday\x07"), "yesterday\\u{7}");
    }

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        assert_eq!(shell_word("/mnt/nas/backup"), "/mnt/nas/backup");
        assert_eq!(shell_word("my nas"), "'my nas'");
        assert_eq!(shell_word("it's"), "'it'\\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
