//! What is due: a pure function of the schedule, what was done, and the time.
//!
//! Every step says why it is due, or when it will be. A time in the future is one of a clock that was wrong: nothing is
//! known of it, and the step is due. So no jump of a clock keeps a step from being done for longer than its
//! interval.

use std::collections::BTreeMap;
use std::fmt;

use jiff::{SignedDuration, Timestamp};

use super::{AHEAD_MAX, Done, Schedule, Span, length};

/// Work that is due every day is done by a timer that does not start at the same second each day, after steps that do not
/// take the same time: so much earlier than its interval it is due. An eighth of the interval, and never more than this.
const EARLY_MAX: SignedDuration = SignedDuration::from_hours(6);

/// The part of an interval by which work may be early.
const EARLY_PART: i32 = 8;

/// A kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// A snapshot is made.
    Create,
    /// What a copy lacks is copied.
    Copy,
    /// Snapshots that no rule keeps are given up.
    Forget,
    /// Space is given back.
    Prune,
    /// A share of the stored bytes is read.
    Verify,
    /// A restore is tried.
    RestoreCheck,
}

impl Work {
    /// Every kind, in the order in which a run does them.
    pub const ALL: [Self; 6] =
        [Self::Create, Self::Copy, Self::Forget, Self::Prune, Self::Verify, Self::RestoreCheck];

    /// Returns its name, as the configuration and JSON have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Copy => "copy",
            Self::Forget => "forget",
            Self::Prune => "prune",
            Self::Verify => "verify",
            Self::RestoreCheck => "restore_check",
        }
    }
}

/// Why a step is due, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It belongs to every run.
    EveryRun,
    /// It was never done.
    Never,
    /// It was done last at a time that this clock has not reached.
    Ahead(Timestamp),
    /// It was to be done again since then.
    Since(Timestamp),
    /// It will be due then.
    From(Timestamp),
}

/// One step of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is done.
    pub work: Work,
    /// The place of a copy; `None` is the archive's own repository.
    pub place: Option<String>,
    /// Why it is due, or is not.
    pub reason: Reason,
}

impl Step {
    /// Tells whether it is to be done now.
    pub fn is_due(&self) -> bool {
        !matches!(self.reason, Reason::From(_))
    }
}

/// Returns the steps of a run, in their order, those too that are not due. `done` says what was done at each place.
pub fn plan(schedule: &Schedule, done: &BTreeMap<Option<String>, Done>, now: Timestamp) -> Vec<Step> {
    let own = std::iter::once(None);
    let copies = || schedule.copies.iter().cloned().map(Some);
    let places: Vec<Option<String>> = own.chain(copies()).collect();
    let done = |place: &Option<String>| done.get(place).copied().unwrap_or_default();
    let every_run = |work, place| Step { work, place, reason: Reason::EveryRun };
    let timed = |work, place: &Option<String>, every, last| Step {
        work,
        place: place.clone(),
        reason: reason(every, last, now),
    };
    let mut steps = vec![every_run(Work::Create, None)];
    steps.extend(copies().map(|place| every_run(Work::Copy, place)));
    if schedule.forgets {
        steps.push(every_run(Work::Forget, None));
    }
    if let Some(every) = schedule.prune {
        steps.push(timed(Work::Prune, &None, every, done(&None).prune));
    }
    if let Some(every) = schedule.verify {
        steps.extend(places.iter().map(|place| timed(Work::Verify, place, every, done(place).verify)));
    }
    if let Some(every) = schedule.restore_check {
        let last = |place: &Option<String>| done(place).restore_check;
        steps.extend(places.iter().map(|place| timed(Work::RestoreCheck, place, every, last(place))));
    }
    steps
}

/// Returns whether work with this interval, done last then, is due now.
fn reason(every: Span, last: Option<Timestamp>, now: Timestamp) -> Reason {
    let Some(last) = last else { return Reason::Never };
    if last.duration_since(now) > AHEAD_MAX {
        return Reason::Ahead(last);
    }
    // An interval longer than any calendar is over at no time.
    let Some(every) = length(every, now) else { return Reason::From(Timestamp::MAX) };
    let early = (every / EARLY_PART).min(EARLY_MAX);
    match last.checked_add(every) {
        Ok(due) if now.duration_since(last) >= every - early => Reason::Since(due.min(now)),
        Ok(due) => Reason::From(due),
        Err(_) => Reason::From(Timestamp::MAX),
    }
}

/// Returns how long ago, or how far ahead, in the largest unit that says it well: `3 days`, `5 hours`.
pub fn roughly(time: SignedDuration) -> String {
    let seconds = time.as_secs().unsigned_abs();
    let (number, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds / 60, "minute"),
        7_200..172_800 => (seconds / 3_600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {unit}{plural}")
}

/// A reason in words, at a time.
pub struct Said(pub Reason, pub Timestamp);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(reason, now) = self;
        let to = |time: Timestamp| roughly(time.duration_since(*now));
        match reason {
            Reason::EveryRun => write!(f, "in every run"),
            Reason::Never => write!(f, "never done so far"),
            Reason::Ahead(last) => {
                write!(
                    f,
                    "done last at {last}, which this clock has not reached; the clock was wrong then or is now"
                )
            }
            Reason::Since(due) if now.duration_since(*due) < SignedDuration::from_mins(1) => {
                write!(f, "due now")
            }
            Reason::Since(due) => write!(f, "due since {}", to(*due)),
            Reason::From(due) if *due == Timestamp::MAX => {
                write!(f, "not due in any year that a calendar has")
            }
            Reason::From(due) => write!(f, "due in {}", to(*due)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn schedule() -> Schedule {
        let span = |text: &str| Some(text.parse().unwrap());
        Schedule {
            max_age: span("2d"),
            verify: span("1d"),
            restore_check: span("30d"),
            prune: span("7d"),
            forgets: true,
            copies: vec!["b2".to_owned()],
        }
    }

    fn due(done: &BTreeMap<Option<String>, Done>, now: &str) -> Vec<String> {
        let now = at(now);
        let shown = |step: Step| {
            let place = step.place.map(|place| format!(" {place}")).unwrap_or_default();
            format!("{}{place}: {}", step.work.name(), Said(step.reason, now))
        };
        plan(&schedule(), done, now).into_iter().map(shown).collect()
    }

    #[test]
    fn a_first_run_does_everything_in_the_order_that_is_documented() {
        assert_eq!(
            due(&BTreeMap::new(), "2026-11-23T02:00:00Z"),
            [
                "create: in every run",
                "copy b2: in every run",
                "forget: in every run",
                "prune: never done so far",
                "verify: never done so far",
                "verify b2: never done so far",
                "restore_check: never done so far",
                "restore_check b2: never done so far",
            ]
        );
    }

    #[test]
    fn each_step_says_since_when_it_is_due_or_when_it_will_be() {
        let own = Done {
            verify: Some(at("2026-11-22T02:00:00Z")),
            restore_check: Some(at("2026-11-12T02:00:00Z")),
            prune: Some(at("2026-11-14T02:00:00Z")),
        };
        let copy = Done { verify: Some(at("2030-01-01T00:00:00Z")), ..own };
        let done = [(None, own), (Some("b2".to_owned()), copy)].into();
        assert_eq!(
            due(&done, "2026-11-23T02:00:00Z")[3..],
            [
                "prune: due since 2 days",
                "verify: due now",
                "verify b2: done last at 2030-01-01T00:00:00Z, which this clock has not reached; the clock was \
                 wrong then or is now",
                "restore_check: due in 19 days",
                "restore_check b2: due in 19 days",
            ]
        );
    }

    #[test]
    fn a_timer_that_is_an_hour_early_does_not_miss_a_day() {
        let day = "1d".parse().unwrap();
        let last = Some(at("2026-11-22T02:45:00Z"));
        let early = reason(day, last, at("2026-11-23T01:50:00Z"));
        assert!(matches!(early, Reason::Since(_)), "{early:?}");
        let too_early = reason(day, last, at("2026-11-22T20:00:00Z"));
        assert!(matches!(too_early, Reason::From(_)), "{too_early:?}");
    }

    #[test]
    fn an_interval_that_no_calendar_reaches_is_due_once() {
        let long = "99999y".parse().unwrap();
        let now = at("2026-11-23T02:00:00Z");
        assert_eq!(reason(long, None, now), Reason::Never);
        assert_eq!(reason(long, Some(now), now), Reason::From(Timestamp::MAX));
    }

    /// Seconds from before the first computers to the end of four-digit years.
    fn times() -> impl Strategy<Value = Timestamp> {
        (-60_000_000_000i64..=250_000_000_000).prop_map(|second| Timestamp::from_second(second).unwrap())
    }

    fn spans() -> impl Strategy<Value = Span> {
        (1u32..=100_000, prop::sample::select(vec!["h", "d", "m", "y"]))
            .prop_map(|(number, unit)| format!("{number}{unit}").parse().unwrap())
    }

    proptest! {
        /// Whatever the clock does, what was not done for its whole interval is due, and what was never done too.
        #[test]
        fn what_is_older_than_its_interval_is_due(every in spans(), last in times(), now in times()) {
            let found = reason(every, Some(last), now);
            let is_due = !matches!(found, Reason::From(_));
            let ahead = last.duration_since(now);
            match length(every, now) {
                _ if ahead > AHEAD_MAX => prop_assert!(matches!(found, Reason::Ahead(_))),
                Some(length) if now.duration_since(last) >= length => prop_assert!(is_due, "{found:?}"),
                Some(length) if now.duration_since(last) < length - length / 8 => prop_assert!(!is_due, "{found:?}"),
                _ => {}
            }
            // Its words are made whatever the times are.
            prop_assert!(!Said(found, now).to_string().is_empty());
        }

        /// Runs at any intervals, with a clock that jumps to and fro: no step is left undone for longer than its
        /// interval by any clock that shows it, as long as runs are made.
        #[test]
        fn no_jump_of_the_clock_silences_a_step(
            every in 2i64..=60,
            jumps in prop::collection::vec(-200_000_000i64..=200_000_000, 0..4),
            start in 1_000_000_000i64..=2_000_000_000,
        ) {
            let span: Span = format!("{every}d").parse().unwrap();
            let mut clock = start;
            let mut last = None;
            // After each jump the clock is right for two intervals, with a run each day.
            for jump in std::iter::once(0).chain(jumps) {
                clock += jump;
                let mut since_done = 0;
                for _ in 0..=2 * every {
                    let now = Timestamp::from_second(clock).unwrap();
                    if !matches!(reason(span, last, now), Reason::From(_)) {
                        last = Some(now);
                        since_done = 0;
                    }
                    prop_assert!(since_done <= every, "not done for {since_done} days");
                    since_done += 1;
                    clock += 86_400;
                }
            }
        }
    }
}
