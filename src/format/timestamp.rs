//! Points in time as the format writes them: UTC, whole seconds.
//!
//! ```text
//! in objects       2026-07-06T13:56:16Z      (readers tolerate fractions and offsets)
//! in snapshot ids  20260706T135616Z
//! ```
//!
//! Values come from the caller: nothing here asks a clock.

use jiff::Timestamp;

use super::error::{FormatError, Result};

/// Parses an RFC 3339 time; fractions of a second and offsets are tolerated.
pub fn parse(text: &str) -> Result<Timestamp> {
    let refuse = || FormatError::invalid(format!("{text:?} is not an RFC 3339 time"));
    if !has_rfc3339_shape(text.as_bytes()) {
        return Err(refuse());
    }
    text.parse().map_err(|_| refuse())
}

/// Returns the time as objects record it, fractions dropped.
pub fn format(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns the time as snapshot ids begin, fractions dropped.
pub fn format_compact(time: Timestamp) -> String {
    time.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Accepts less than the general parser does, which also reads other ISO 8601 forms and leap seconds.
fn has_rfc3339_shape(text: &[u8]) -> bool {
    const SHAPE: &[u8] = b"dddd-dd-ddTdd:dd:dd";
    let Some((head, tail)) = text.split_at_checked(SHAPE.len()) else { return false };
    let tail = match tail {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            &fraction[digits..]
        }
        _ => tail,
    };
    matches_shape(head, SHAPE)
        && &head[17..] != b"60"
        && (tail == b"Z" || matches_shape(tail, b"+dd:dd") || matches_shape(tail, b"-dd:dd"))
}

fn matches_shape(text: &[u8], shape: &[u8]) -> bool {
    text.len() == shape.len()
        && text.iter().zip(shape).all(|(byte, rule)| match rule {
            b'd' => byte.is_ascii_digit(),
            literal => byte == literal,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_time_is_written_in_whole_seconds_and_read_with_fractions_and_offsets() {
        let time = parse("2026-07-06T15:56:16.999999999+02:00").unwrap();
        assert_eq!(format(time), "2026-07-06T13:56:16Z");
        assert_eq!(format_compact(time), "20260706T135616Z");
        let early = parse("0001-01-01T00:00:00Z").unwrap();
        assert_eq!(format(early), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for bad in [
            "",
            "2026-07-06",
            "2026-07-06 13:56:16Z",
            "2026-07-06t13:56:16Z",
            "2026-07-06T13:56:16z",
            "2026-07-06T13:56:16",
            "2026-07-06T13:56Z",
            "2026-07-06T13:56:16.Z",
            "2026-07-06T13:56:16+0200",
            "2026-07-06T13:56:60Z",
            "2026-02-30T13:56:16Z",
            "2026-07-06T24:00:00Z",
            "2026-07-06T13:56:16Z[Europe/Berlin]",
            "+002026-07-06T13:56:16Z",
            "2026-07-06T13:56:16Z\n",
            "２026-07-06T13:56:16Z",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Years 0000 to 9999: what four digits can hold.
        #[test]
        fn every_second_of_a_four_digit_year_reads_back(second in -62_167_219_200i64..=253_402_207_200) {
            let time = Timestamp::from_second(second).unwrap();
            prop_assert_eq!(parse(&format(time)).unwrap(), time);
            prop_assert_eq!(format_compact(time), format(time).replace(['-', ':'], ""));
        }
    }
}
