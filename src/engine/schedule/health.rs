//! Whether all is as the configuration says: a pure function of the schedule, the facts and the time to what is wrong.
//!
//! What is not configured is not judged. What is not known counts as not done: a backup that nobody can tell of is
//! none. A snapshot from the future keeps nothing fresh, for the clock that gave it its time was wrong.

use jiff::{SignedDuration, Timestamp};

use super::due::roughly;
use super::{AHEAD_MAX, Schedule, Span, length};

/// How long work may be overdue before it counts as missing: half of its interval, and never more than this. A machine
/// that sleeps for a night is no alarm.
const OVERDUE_MAX: SignedDuration = SignedDuration::from_hours(48);

/// What is wrong, the gravest first: without a new snapshot each day loses data, and what was never read may be no
/// backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The newest snapshot is too old, or there is none.
    Stale,
    /// What is stored was not read, or not restored, when it should have been; or it is damaged.
    Unproved,
    /// A copy lacks the newest snapshot.
    CopyMissing,
}

impl Fault {
    /// Returns its name in JSON and in numbers for a monitor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stale => "stale",
            Self::Unproved => "unproved",
            Self::CopyMissing => "copy_missing",
        }
    }
}

/// Something that is not as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What kind of fault it is.
    pub fault: Fault,
    /// The place of a copy; `None` is the archive's own repository.
    pub place: Option<String>,
    /// What is wrong, in a sentence.
    pub text: String,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its id, which sorts by time.
    pub id: String,
    /// Its time.
    pub created_at: Timestamp,
}

/// A restore that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// When.
    pub at: Timestamp,
    /// Whether everything was proved.
    pub is_proved: bool,
}

/// What is known of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlaceFacts {
    /// The place of a copy; `None` is the archive's own repository.
    pub place: Option<String>,
    /// The newest snapshot there.
    pub newest: Option<Snapshot>,
    /// When a share of the stored bytes was read last.
    pub verified: Option<Timestamp>,
    /// Packs that were found damaged and not seen whole since.
    pub damaged_packs: u64,
    /// The last restore that was tried.
    pub tried: Option<Tried>,
}

/// Returns what is wrong, the gravest first.
pub fn judge(schedule: &Schedule, places: &[PlaceFacts], now: Timestamp) -> Vec<Finding> {
    let own = places.iter().find(|facts| facts.place.is_none());
    let newest = own.and_then(|facts| facts.newest.as_ref());
    let stale = stale(schedule.max_age, newest, now);
    let mut findings: Vec<Finding> =
        stale.into_iter().map(|text| Finding { fault: Fault::Stale, place: None, text }).collect();
    for facts in places {
        let finding = |fault, text| Finding { fault, place: facts.place.clone(), text };
        findings
            .extend(unproved(schedule, facts, now).into_iter().map(|text| finding(Fault::Unproved, text)));
        if facts.place.is_some() {
            let missing = newest.and_then(|newest| missing(newest, facts.newest.as_ref(), now));
            findings.extend(missing.map(|text| finding(Fault::CopyMissing, text)));
        }
    }
    findings.sort_by_key(|finding| finding.fault);
    findings
}

fn stale(max_age: Option<Span>, newest: Option<&Snapshot>, now: Timestamp) -> Option<String> {
    let Some(newest) = newest else { return Some("no snapshot is known".to_owned()) };
    let age = now.duration_since(newest.created_at);
    let max_age = max_age?;
    if -age > AHEAD_MAX {
        return Some(format!(
            "the newest snapshot is of {}, which this clock has not reached: its age cannot be told",
            newest.created_at
        ));
    }
    let is_old = length(max_age, now).is_some_and(|max| age > max);
    is_old.then(|| format!("the newest snapshot is {} old, and max_age is {max_age}", roughly(age)))
}

fn unproved(schedule: &Schedule, facts: &PlaceFacts, now: Timestamp) -> Vec<String> {
    let mut texts = Vec::new();
    if facts.damaged_packs > 0 {
        let packs = if facts.damaged_packs == 1 { "pack" } else { "packs" };
        texts.push(format!("{} damaged {packs} found, and not seen whole since", facts.damaged_packs));
    }
    if facts.tried.is_some_and(|tried| !tried.is_proved) {
        texts.push("the last restore that was tried failed".to_owned());
    }
    let late = |every: Option<Span>, last, what: &str| {
        let every = every?;
        match overdue(every, last, now) {
            Late::No => None,
            Late::Never => Some(format!("{what} so far, and the configuration says every {every}")),
            Late::Ahead(last) => Some(format!("{what} since {last}, which this clock has not reached")),
            Late::Since(time) => {
                Some(format!("{what} for {}, and the configuration says every {every}", roughly(time)))
            }
        }
    };
    texts.extend(late(schedule.verify, facts.verified, "what is stored was not read"));
    let tried = facts.tried.filter(|tried| tried.is_proved).map(|tried| tried.at);
    if facts.tried.is_none_or(|tried| tried.is_proved) {
        texts.extend(late(schedule.restore_check, tried, "no restore was tried"));
    }
    texts
}

/// How late work is.
enum Late {
    No,
    Never,
    Ahead(Timestamp),
    Since(SignedDuration),
}

fn overdue(every: Span, last: Option<Timestamp>, now: Timestamp) -> Late {
    let Some(last) = last else { return Late::Never };
    let passed = now.duration_since(last);
    if -passed > AHEAD_MAX {
        return Late::Ahead(last);
    }
    match length(every, now) {
        Some(every) if passed.saturating_sub(every) > (every / 2).min(OVERDUE_MAX) => Late::Since(passed),
        _ => Late::No,
    }
}

fn missing(newest: &Snapshot, copied: Option<&Snapshot>, now: Timestamp) -> Option<String> {
    let Some(copied) = copied else { return Some("no snapshot is known there".to_owned()) };
    if copied.id >= newest.id {
        return None;
    }
    let behind = newest.created_at.duration_since(copied.created_at);
    let made = roughly(now.duration_since(newest.created_at));
    Some(format!(
        "the newest snapshot, made {made} ago, is not there; the newest there is {} older",
        roughly(behind)
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn snapshot(created_at: &str) -> Option<Snapshot> {
        let id = created_at.replace(['-', ':'], "") + "-0c1c7e1c";
        Some(Snapshot { id, created_at: at(created_at) })
    }

    fn schedule() -> Schedule {
        let span = |text: &str| Some(text.parse().unwrap());
        Schedule {
            max_age: span("2d"),
            verify: span("1d"),
            restore_check: span("30d"),
            copies: vec!["b2".to_owned()],
            ..Schedule::default()
        }
    }

    /// An archive and its copy, a quarter of a day after all was done.
    fn healthy() -> [PlaceFacts; 2] {
        let facts = |place: Option<&str>| PlaceFacts {
            place: place.map(str::to_owned),
            newest: snapshot("2026-11-23T02:00:00Z"),
            verified: Some(at("2026-11-23T02:10:00Z")),
            damaged_packs: 0,
            tried: Some(Tried { at: at("2026-11-10T02:20:00Z"), is_proved: true }),
        };
        [facts(None), facts(Some("b2"))]
    }

    fn said(places: &[PlaceFacts], now: &str) -> Vec<String> {
        let shown = |finding: Finding| {
            let place = finding.place.map(|place| format!(" {place}")).unwrap_or_default();
            format!("{}{place}: {}", finding.fault.name(), finding.text)
        };
        judge(&schedule(), places, at(now)).into_iter().map(shown).collect()
    }

    #[test]
    fn where_all_was_done_nothing_is_wrong() {
        assert_eq!(said(&healthy(), "2026-11-23T08:00:00Z"), [""; 0]);
    }

    #[test]
    fn a_schedule_that_stopped_is_told_first_as_unread_and_then_as_stale() {
        assert_eq!(said(&healthy(), "2026-11-24T13:00:00Z"), [""; 0], "a night that was slept through");
        let one_and_a_half = said(&healthy(), "2026-11-24T15:00:00Z");
        assert!(one_and_a_half.iter().all(|text| text.starts_with("unproved")), "{one_and_a_half:?}");
        assert_eq!(
            said(&healthy(), "2026-11-25T03:00:00Z")[0],
            "stale: the newest snapshot is 2 days old, and max_age is 2d"
        );
    }

    #[test]
    fn nothing_known_is_nothing_done() {
        let places =
            [PlaceFacts::default(), PlaceFacts { place: Some("b2".to_owned()), ..PlaceFacts::default() }];
        let said = said(&places, "2026-11-23T08:00:00Z");
        assert_eq!(said[0], "stale: no snapshot is known");
        assert_eq!(
            said[1],
            "unproved: what is stored was not read so far, and the configuration says every 1d"
        );
        assert_eq!(said.len(), 5, "{said:?}");
    }

    #[test]
    fn what_is_damaged_or_failed_is_unproved_whenever_it_was_read() {
        let mut places = healthy();
        places[0].damaged_packs = 1;
        places[1].tried = Some(Tried { at: at("2026-11-23T02:30:00Z"), is_proved: false });
        assert_eq!(
            said(&places, "2026-11-23T08:00:00Z"),
            [
                "unproved: 1 damaged pack found, and not seen whole since",
                "unproved b2: the last restore that was tried failed"
            ]
        );
    }

    #[test]
    fn a_copy_without_the_newest_snapshot_is_told_on_the_same_day() {
        let mut places = healthy();
        places[1].newest = snapshot("2026-11-22T02:00:00Z");
        assert_eq!(
            said(&places, "2026-11-23T08:00:00Z"),
            [
                "copy_missing b2: the newest snapshot, made 6 hours ago, is not there; the newest there is 24 hours older"
            ]
        );
    }

    #[test]
    fn a_snapshot_from_the_future_keeps_nothing_fresh() {
        let mut places = healthy();
        places[0].newest = snapshot("2030-01-01T00:00:00Z");
        places[1].newest = snapshot("2030-01-01T00:00:00Z");
        let said = said(&places, "2026-11-23T08:00:00Z");
        assert!(said[0].starts_with("stale: the newest snapshot is of 2030-01-01T00:00:00Z"), "{said:?}");
    }

    #[test]
    fn what_is_not_configured_is_not_judged() {
        let places = [PlaceFacts { newest: snapshot("2001-01-01T00:00:00Z"), ..PlaceFacts::default() }];
        assert_eq!(judge(&Schedule::default(), &places, at("2026-11-23T08:00:00Z")), []);
    }

    proptest! {
        /// Time that passes heals nothing: what is wrong now is wrong later too, and no time makes it panic.
        #[test]
        fn what_is_wrong_stays_wrong_until_something_is_done(
            now in 1_700_000_000i64..4_000_000_000,
            later in 0i64..400_000_000,
            made in 1_700_000_000i64..4_000_000_000,
            verified in 1_700_000_000i64..4_000_000_000,
        ) {
            let time = |second| Timestamp::from_second(second).unwrap();
            let places = [PlaceFacts {
                newest: Some(Snapshot { id: "x".to_owned(), created_at: time(made) }),
                verified: Some(time(verified)),
                ..PlaceFacts::default()
            }];
            let faults = |now| {
                let findings = judge(&schedule(), &places, time(now));
                findings.into_iter().map(|finding| finding.fault).collect::<Vec<_>>()
            };
            // A time from the future becomes one of the past: that alone gets better by itself.
            if now >= made && now >= verified {
                let (before, after) = (faults(now), faults(now + later));
                prop_assert!(before.iter().all(|fault| after.contains(fault)), "{before:?} {after:?}");
            }
        }
    }
}
