//! How far back a rule reaches: `1y6m`, `14d`, `36h`, as restic writes it.
//!
//! Years, months and days are counted on the calendar, hours by the clock. A month before the 31st of March is the
//! 31st of February, which is the 2nd or 3rd of March: the calendar of Go does that, restic uses it, and it is
//! done here by the same rule, so that the same policy keeps the same snapshots.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

use crate::{Error, ErrorKind};

/// The largest number before a unit.
const NUMBER_MAX: u32 = 100_000;

/// The units, the longest first.
const UNITS: [char; 4] = ['y', 'm', 'd', 'h'];

/// A duration in calendar units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration {
    /// A number for each of the units.
    numbers: [u32; UNITS.len()],
}

impl Duration {
    /// Returns the time that lies so long before another; `None` where no calendar reaches that far.
    pub fn before(self, time: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let [years, months, days, hours] = self.numbers.map(i64::from);
        let civil = zone.to_datetime(time);
        let date = civil.date();
        let month = i64::from(date.year()) * 12 + i64::from(date.month()) - 1 - years * 12 - months;
        let first =
            Date::new(month.div_euclid(12).try_into().ok()?, (month.rem_euclid(12) + 1) as i8, 1).ok()?;
        let day = i64::from(date.day()) - 1 - days;
        let date = first.checked_add(Span::new().try_days(day).ok()?).ok()?;
        let time = zone.to_timestamp(date.to_datetime(civil.time())).ok()?;
        time.checked_sub(SignedDuration::from_hours(hours)).ok()
    }
}

impl FromStr for Duration {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            let message = format!("{text:?} is no duration: {why}");
            Error::new(ErrorKind::Usage, message)
        };
        let mut numbers = [None; UNITS.len()];
        let mut rest = text;
        while !rest.is_empty() {
            let digits = rest.len() - rest.trim_start_matches(|sign: char| sign.is_ascii_digit()).len();
            let number = rest[..digits].parse().ok().filter(|number| *number <= NUMBER_MAX);
            let number = number.ok_or_else(|| wrong("a number up to 100000 stands before each unit"))?;
            let unit = rest[digits..].chars().next();
            let place = UNITS.iter().position(|known| Some(*known) == unit);
            let place = place.ok_or_else(|| wrong("its units are y, m, d and h, as in 1y6m or 14d"))?;
            if numbers[place].replace(number).is_some() {
                return Err(wrong("a unit stands in it twice"));
            }
            // Every unit is one byte.
            rest = &rest[digits + 1..];
        }
        let numbers = numbers.map(Option::unwrap_or_default);
        match numbers == [0; UNITS.len()] {
            true => Err(wrong("it has no length")),
            false => Ok(Self { numbers }),
        }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.numbers.iter().zip(UNITS).filter(|(number, _)| **number > 0);
        given.into_iter().try_for_each(|(number, unit)| write!(f, "{number}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(duration: &str, time: &str) -> String {
        let duration: Duration = duration.parse().unwrap();
        duration.before(time.parse().unwrap(), &TimeZone::UTC).unwrap().to_string()
    }

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["14d", "1y6m", "36h", "2y5m7d3h"] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), text);
        }
        assert_eq!("3h1y".parse::<Duration>().unwrap().to_string(), "1y3h");
    }

    #[test]
    fn what_is_no_duration_is_refused_with_what_one_looks_like() {
        for text in ["", "0d", "7", "d", "7w", "-7d", "7d7d", "100001d", "1.5d", "7 d", "99999999999d", "7ü"]
        {
            let error = text.parse::<Duration>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{text}");
            assert!(error.to_string().contains("is no duration"), "{error}");
        }
    }

    #[test]
    fn months_are_those_of_the_calendar_and_days_that_are_not_there_are_the_next_ones() {
        for (duration, time, expected) in [
            ("1d", "2024-03-01T12:00:00Z", "2024-02-29T12:00:00Z"),
            ("1m", "2024-03-31T12:00:00Z", "2024-03-02T12:00:00Z"),
            ("1m", "2023-03-31T12:00:00Z", "2023-03-03T12:00:00Z"),
            ("1y", "2024-02-29T00:00:00Z", "2023-03-01T00:00:00Z"),
            ("13m", "2024-01-15T00:00:00Z", "2022-12-15T00:00:00Z"),
            ("1y2m3d4h", "2024-01-15T02:00:00Z", "2022-11-11T22:00:00Z"),
        ] {
            assert_eq!(before(duration, time), expected, "{duration} before {time}");
        }
    }

    #[test]
    fn a_day_has_the_hours_that_its_place_gives_it() {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let time: Timestamp = "2024-03-31T10:00:00Z".parse().unwrap();
        let back = |text: &str| text.parse::<Duration>().unwrap().before(time, &zone).unwrap().to_string();
        assert_eq!(back("1d"), "2024-03-30T11:00:00Z");
        assert_eq!(back("24h"), "2024-03-30T10:00:00Z");
    }

    #[test]
    fn what_no_calendar_reaches_has_no_time() {
        let duration: Duration = "100000y100000m100000d100000h".parse().unwrap();
        assert_eq!(duration.before(Timestamp::UNIX_EPOCH, &TimeZone::UTC), None);
    }
}
