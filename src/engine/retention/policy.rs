//! Which snapshots a policy keeps, and why: a pure function of the snapshots, the rules, and the present time.
//!
//! The rules mean what they mean in restic 0.14, and `tests/retention/restic_answers.txt` holds its answers. A rule
//! that counts looks at the snapshots from the newest to the oldest, and keeps the last one of every hour, day, ... in
//! which there is one, until it has kept as many as it says. A rule that says `within` does so without counting, back
//! to a time before the newest.
//!
//! Three snapshots are kept whatever the rules say: the last, the newest whose source was healthy, and the newest
//! whose restore was proved. And a snapshot whose time cannot be right, because it lies in the future or before
//! that of its parent, is kept and has no part in the rest: it pushes nothing out, and nothing is kept for it. The
//! future begins an hour from now: clocks differ by some minutes, and of snapshots that are made within one second
//! each gets the second after the one before.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::duration::Duration;

/// How far ahead of the present a time may lie and still be right.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(1);

/// What a policy has to know of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// The id of the snapshot that was the newest when it was made; empty for the first.
    pub parent: String,
    /// When it was made; `None` where that cannot be read.
    pub created_at: Option<Timestamp>,
    /// The tag given to it; empty without one.
    pub tag: String,
    /// Whether nothing is known to have been wrong with its source, and nothing is missing in it.
    pub is_healthy: bool,
    /// Whether a restore of it was proved. Nobody records that yet.
    pub is_proved: bool,
}

/// The stretch of time of which a rule keeps one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Every {
    /// Every snapshot counts.
    Snapshot,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week, from Monday on.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

/// The rules of a policy. Without any, everything is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Of how many stretches one snapshot is kept; `u32::MAX` for all.
    pub counts: BTreeMap<Every, u32>,
    /// How far back from the newest one of each stretch is kept.
    pub within: BTreeMap<Every, Duration>,
    /// Tags whose snapshots are kept.
    pub tags: BTreeSet<String>,
    /// Snapshots that are kept.
    pub ids: BTreeSet<String>,
}

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A rule that counts.
    Counted(Every),
    /// A rule that looks back.
    Within(Every, Duration),
    /// Its tag.
    Tag(String),
    /// It was named.
    Named,
    /// It is the last.
    Last,
    /// It is the newest whose source was healthy.
    NewestHealthy,
    /// It is the newest whose restore was proved.
    NewestProved,
    /// Its time lies in the future.
    Future,
    /// Its time lies before its parent's.
    Backwards,
    /// Its time cannot be read.
    Timeless,
}

impl Rules {
    /// Tells whether no rule keeps anything.
    pub fn is_empty(&self) -> bool {
        let counts_nothing = self.counts.values().all(|count| *count == 0);
        counts_nothing && self.within.is_empty() && self.tags.is_empty() && self.ids.is_empty()
    }
}

/// Returns for each snapshot why it is kept; without a reason it is not.
pub fn decide(snapshots: &[Candidate], rules: &Rules, now: Timestamp, zone: &TimeZone) -> Vec<Vec<Reason>> {
    let mut reasons: Vec<Vec<Reason>> = oddities(snapshots, now).into_iter().map(Vec::from_iter).collect();
    let mut dated: Vec<Dated> = (0..snapshots.len())
        .filter(|place| reasons[*place].is_empty())
        .filter_map(|place| Dated::new(place, &snapshots[place], zone))
        .collect();
    dated.sort_by_key(|dated| Reverse((dated.time, &snapshots[dated.place].id)));

    for (place, snapshot) in snapshots.iter().enumerate() {
        if rules.ids.contains(&snapshot.id) {
            reasons[place].push(Reason::Named);
        }
        if !snapshot.tag.is_empty() && rules.tags.contains(&snapshot.tag) {
            reasons[place].push(Reason::Tag(snapshot.tag.clone()));
        }
    }
    for (every, count) in &rules.counts {
        keep_counted(&dated, *every, *count, &mut reasons);
    }
    for (every, duration) in &rules.within {
        keep_within(&dated, *every, *duration, zone, &mut reasons);
    }
    protect(snapshots, &dated, &mut reasons);
    reasons
}

/// A snapshot with a time to go by.
struct Dated {
    place: usize,
    time: Timestamp,
    civil: DateTime,
}

impl Dated {
    fn new(place: usize, snapshot: &Candidate, zone: &TimeZone) -> Option<Self> {
        let time = snapshot.created_at?;
        Some(Self { place, time, civil: zone.to_datetime(time) })
    }
}

/// Finds the snapshots whose times cannot be right.
fn oddities(snapshots: &[Candidate], now: Timestamp) -> Vec<Option<Reason>> {
    let times: HashMap<&str, Timestamp> =
        snapshots.iter().filter_map(|snapshot| Some((snapshot.id.as_str(), snapshot.created_at?))).collect();
    let future = now.checked_add(AHEAD_MAX).unwrap_or(Timestamp::MAX);
    let oddity = |snapshot: &Candidate| {
        let Some(time) = snapshot.created_at else { return Some(Reason::Timeless) };
        let parent = times.get(snapshot.parent.as_str());
        if time > future {
            return Some(Reason::Future);
        }
        parent.is_some_and(|parent| time < *parent).then_some(Reason::Backwards)
    };
    snapshots.iter().map(oddity).collect()
}

/// Keeps the newest of each stretch until so many are kept.
fn keep_counted(dated: &[Dated], every: Every, count: u32, reasons: &mut [Vec<Reason>]) {
    let mut left = count;
    let mut last = None;
    for (number, dated_one) in dated.iter().enumerate() {
        if left == 0 {
            return;
        }
        let stretch = Some(every.stretch(number, &dated_one.civil));
        if stretch != last {
            reasons[dated_one.place].push(Reason::Counted(every));
            left = if count == u32::MAX { count } else { left - 1 };
        }
        last = stretch;
    }
}

/// Keeps the newest of each stretch of what is not older than so long before the newest.
fn keep_within(
    dated: &[Dated],
    every: Every,
    duration: Duration,
    zone: &TimeZone,
    reasons: &mut [Vec<Reason>],
) {
    let Some(newest) = dated.first() else { return };
    // Where no calendar reaches that far, everything is within.
    let limit = duration.before(newest.time, zone).unwrap_or(Timestamp::MIN);
    let mut last = None;
    for (number, dated_one) in dated.iter().enumerate() {
        if dated_one.time <= limit {
            return;
        }
        let stretch = Some(every.stretch(number, &dated_one.civil));
        if stretch != last {
            reasons[dated_one.place].push(Reason::Within(every, duration));
        }
        last = stretch;
    }
}

/// Keeps what no rule may drop.
fn protect(snapshots: &[Candidate], dated: &[Dated], reasons: &mut [Vec<Reason>]) {
    let newest = (0..snapshots.len()).max_by_key(|place| &snapshots[*place].id);
    let newest_dated = dated.first().map(|dated| dated.place);
    let of_all = BTreeSet::from_iter(newest.into_iter().chain(newest_dated));
    of_all.into_iter().for_each(|place| reasons[place].push(Reason::Last));
    // One whose time is odd may be healthy as well, and says nothing about how new it is.
    let mut keep_first = |is_meant: fn(&Candidate) -> bool, reason: Reason| {
        let first = dated.iter().find(|dated| is_meant(&snapshots[dated.place]));
        if let Some(first) = first {
            reasons[first.place].push(reason);
        }
    };
    keep_first(|snapshot| snapshot.is_healthy, Reason::NewestHealthy);
    keep_first(|snapshot| snapshot.is_proved, Reason::NewestProved);
}

impl Every {
    /// All of them, from the shortest to the longest.
    pub const ALL: [Self; 6] = [Self::Snapshot, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// Returns a number and a year that are the same for all snapshots of one stretch and no others.
    fn stretch(self, number: usize, civil: &DateTime) -> (i16, usize) {
        let date = civil.date();
        let day = date.day_of_year() as usize;
        match self {
            Self::Snapshot => (0, number),
            Self::Hour => (date.year(), day * 24 + civil.hour() as usize),
            Self::Day => (date.year(), day),
            Self::Week => (date.iso_week_date().year(), date.iso_week_date().week() as usize),
            Self::Month => (date.year(), date.month() as usize),
            Self::Year => (date.year(), 0),
        }
    }

    /// Returns the word of a rule that keeps one of each.
    pub fn word(self) -> &'static str {
        match self {
            Self::Snapshot => "last",
            Self::Hour => "hourly",
            Self::Day => "daily",
            Self::Week => "weekly",
            Self::Month => "monthly",
            Self::Year => "yearly",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counted(every) => f.write_str(every.word()),
            Self::Within(Every::Snapshot, duration) => write!(f, "within {duration}"),
            Self::Within(every, duration) => write!(f, "{} within {duration}", every.word()),
            Self::Tag(tag) => write!(f, "tag {tag}"),
            Self::Named => f.write_str("named"),
            Self::Last => f.write_str("the last"),
            Self::NewestHealthy => f.write_str("the newest with a healthy source"),
            Self::NewestProved => f.write_str("the newest that was proved"),
            Self::Future => f.write_str("its time lies in the future"),
            Self::Backwards => f.write_str("its time lies before its parent's"),
            Self::Timeless => f.write_str("its time cannot be read"),
        }
    }
}
