//! The rules of what is kept: the options of `forget`, and `[archive.NAME.keep]` in the configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use jiff::tz::TimeZone;
use packvault::engine::retention::duration::Duration;
use packvault::engine::retention::policy::{Every, Rules};
use packvault::{Error, ErrorKind, Result};
use serde::Deserialize;

/// The word for all there are.
const UNLIMITED: &str = "unlimited";

/// Of how many hours, days, ... a snapshot is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "CountText")]
pub struct Count(u32);

/// How far back a rule reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(Duration);

/// A count in a configuration file.
#[derive(Deserialize)]
#[serde(untagged)]
enum CountText {
    Number(u32),
    Word(String),
}

/// What is kept.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "What is kept")]
pub struct Keep {
    /// Keep the last N snapshots
    #[arg(long = "keep-last", value_name = "N")]
    last: Option<Count>,
    /// Keep the last snapshot of each of the last N hours that have one
    #[arg(long = "keep-hourly", value_name = "N")]
    hourly: Option<Count>,
    /// The same of days
    #[arg(long = "keep-daily", value_name = "N")]
    daily: Option<Count>,
    /// The same of weeks, which begin on Monday
    #[arg(long = "keep-weekly", value_name = "N")]
    weekly: Option<Count>,
    /// The same of months
    #[arg(long = "keep-monthly", value_name = "N")]
    monthly: Option<Count>,
    /// The same of years
    #[arg(long = "keep-yearly", value_name = "N")]
    yearly: Option<Count>,
    /// Keep every snapshot that is not older than this before the newest: 14d, 36h, 1y6m
    #[arg(long = "keep-within", value_name = "DURATION")]
    within: Option<Span>,
    /// Within that time, keep the last snapshot of each hour
    #[arg(long = "keep-within-hourly", value_name = "DURATION")]
    within_hourly: Option<Span>,
    /// The same of days
    #[arg(long = "keep-within-daily", value_name = "DURATION")]
    within_daily: Option<Span>,
    /// The same of weeks
    #[arg(long = "keep-within-weekly", value_name = "DURATION")]
    within_weekly: Option<Span>,
    /// The same of months
    #[arg(long = "keep-within-monthly", value_name = "DURATION")]
    within_monthly: Option<Span>,
    /// The same of years
    #[arg(long = "keep-within-yearly", value_name = "DURATION")]
    within_yearly: Option<Span>,
    /// Keep the snapshots with this tag; may be given several times
    #[arg(long = "keep-tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Keep this snapshot; may be given several times
    #[arg(long = "keep-id", value_name = "SNAPSHOT")]
    ids: Vec<String>,
    /// Where days, weeks, months and years begin: UTC by default, or Europe/Berlin
    #[arg(long, value_name = "NAME")]
    time_zone: Option<String>,
}

impl Span {
    /// Returns the duration itself.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl Keep {
    /// Tells whether nothing is said of what is kept.
    pub fn is_empty(&self) -> bool {
        let rules = self.rules(BTreeSet::new());
        rules.counts.is_empty() && rules.within.is_empty() && rules.tags.is_empty() && self.ids.is_empty()
    }

    /// Returns these rules, and of the others those that these do not have.
    #[must_use]
    pub fn over(self, other: Self) -> Self {
        let of = |one: Vec<String>, other| if one.is_empty() { other } else { one };
        Self {
            last: self.last.or(other.last),
            hourly: self.hourly.or(other.hourly),
            daily: self.daily.or(other.daily),
            weekly: self.weekly.or(other.weekly),
            monthly: self.monthly.or(other.monthly),
            yearly: self.yearly.or(other.yearly),
            within: self.within.or(other.within),
            within_hourly: self.within_hourly.or(other.within_hourly),
            within_daily: self.within_daily.or(other.within_daily),
            within_weekly: self.within_weekly.or(other.within_weekly),
            within_monthly: self.within_monthly.or(other.within_monthly),
            within_yearly: self.within_yearly.or(other.within_yearly),
            tags: of(self.tags, other.tags),
            ids: of(self.ids, other.ids),
            time_zone: self.time_zone.or(other.time_zone),
        }
    }

    /// Returns what the user calls the snapshots that are kept.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Returns the rules; `ids` are those of the snapshots that were named.
    pub fn rules(&self, ids: BTreeSet<String>) -> Rules {
        let counts = [self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly];
        let within = [
            self.within,
            self.within_hourly,
            self.within_daily,
            self.within_weekly,
            self.within_monthly,
            self.within_yearly,
        ];
        let counts = Every::ALL.into_iter().zip(counts);
        let within = Every::ALL.into_iter().zip(within);
        Rules {
            counts: counts.filter_map(|(every, count)| Some((every, count?.0))).collect::<BTreeMap<_, _>>(),
            within: within.filter_map(|(every, span)| Some((every, span?.0))).collect::<BTreeMap<_, _>>(),
            tags: self.tags.iter().cloned().collect(),
            ids,
        }
    }

    /// Returns where days begin.
    pub fn zone(&self) -> Result<TimeZone> {
        let Some(name) = self.time_zone.as_deref().filter(|name| *name != "UTC") else {
            return Ok(TimeZone::UTC);
        };
        TimeZone::get(name).map_err(|error| {
            let message = format!("no time zone {name:?} is known here; one is called Europe/Berlin, or UTC");
            Error::caused(ErrorKind::Usage, message, error)
        })
    }
}

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.parse() {
            _ if text == UNLIMITED => Ok(Self(u32::MAX)),
            Ok(number) => Ok(Self(number)),
            Err(_) => Err(format!("a number, or {UNLIMITED}")),
        }
    }
}

impl TryFrom<CountText> for Count {
    type Error = String;

    fn try_from(text: CountText) -> std::result::Result<Self, String> {
        match text {
            CountText::Number(number) => Ok(Self(number)),
            CountText::Word(word) => word.parse(),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        text.parse().map(Self).map_err(|error: Error| error.to_string())
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_says_what_options_say_and_options_come_first() {
        let text = "last = 3\ndaily = 'unlimited'\nwithin = '14d'\nwithin_monthly = '1y6m'\ntags = ['a']";
        let section: Keep = toml::from_str(text).unwrap();
        let rules = section.rules(BTreeSet::new());
        assert_eq!(rules.counts, [(Every::Snapshot, 3), (Every::Day, u32::MAX)].into());
        assert_eq!(rules.within[&Every::Month].to_string(), "1y6m");
        assert_eq!(rules.tags, ["a".to_owned()].into());
        let flags = Keep { last: Some(Count(9)), tags: vec!["b".to_owned()], ..Keep::default() };
        let rules = flags.over(section).rules(BTreeSet::new());
        assert_eq!((rules.counts[&Every::Snapshot], rules.counts[&Every::Day]), (9, u32::MAX));
        assert_eq!(rules.tags, ["b".to_owned()].into());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in ["daily = -1", "daily = 'many'", "within = '2w'", "within = 14", "weakly = 4"] {
            assert!(toml::from_str::<Keep>(text).is_err(), "{text}");
        }
        let keep = |name: &str| Keep { time_zone: Some(name.to_owned()), ..Keep::default() };
        assert_eq!(keep("Nowhere/At all").zone().unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(keep("UTC").zone().unwrap(), TimeZone::UTC);
    }
}
