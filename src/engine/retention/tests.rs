//! The policy against restic's own answers, and against what must hold for any history.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::policy::{Candidate, Every, Reason, Rules, decide};

/// Made by `tests/retention/restic_answers.py`, which says what its lines mean.
const ANSWERS: &str = include_str!("../../../tests/retention/restic_answers.txt");

fn candidate(number: usize, time: Timestamp, tag: &str) -> Candidate {
    Candidate {
        id: format!("{}-{number:04}", time.strftime("%Y%m%dT%H%M%SZ")),
        parent: String::new(),
        created_at: Some(time),
        tag: tag.to_owned(),
        is_healthy: true,
        is_proved: false,
    }
}

fn seconds(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

/// Returns the positions of the bits that are set in a hexadecimal number.
fn bits(text: &str) -> Vec<usize> {
    let digits = text.chars().rev().enumerate();
    let set = digits.flat_map(|(place, digit)| {
        let value = digit.to_digit(16).unwrap();
        (0..4).filter(move |bit| value >> bit & 1 == 1).map(move |bit| place * 4 + bit)
    });
    set.collect()
}

/// Reads rules as the table writes them: options of restic without their dashes.
fn rules(text: &str) -> Rules {
    let mut rules = Rules::default();
    let every = |word: &str| Every::ALL.into_iter().find(|every| every.word() == word).unwrap();
    for rule in text.split(',') {
        let (name, value) = rule.strip_prefix("keep-").unwrap().split_once('=').unwrap();
        match name.strip_prefix("within") {
            Some("") => drop(rules.within.insert(Every::Snapshot, value.parse().unwrap())),
            Some(word) => drop(rules.within.insert(every(&word[1..]), value.parse().unwrap())),
            None if name == "tag" => drop(rules.tags.insert(value.to_owned())),
            None => drop(rules.counts.insert(every(name), value.parse().unwrap())),
        }
    }
    rules
}

fn is_protection(reason: &Reason) -> bool {
    matches!(reason, Reason::Last | Reason::NewestHealthy | Reason::NewestProved)
}

#[test]
fn the_same_rules_on_the_same_times_keep_what_restic_keeps() {
    let words: Vec<Vec<&str>> = ANSWERS.lines().map(|line| line.split(' ').collect()).collect();
    let pool = words.iter().filter(|words| words[0] == "pool");
    let pool: Vec<(Timestamp, &str)> =
        pool.map(|words| (seconds(words[1].parse().unwrap()), words[2].trim_matches('-'))).collect();
    let cases: Vec<&Vec<&str>> = words.iter().filter(|words| words[0] == "case").collect();
    assert!(cases.len() >= 300 && pool.len() >= 300, "the table is whole");
    for case in cases {
        let of_pool = bits(case[2]);
        let snapshots: Vec<Candidate> =
            of_pool.iter().map(|place| candidate(*place, pool[*place].0, pool[*place].1)).collect();
        let reasons = decide(&snapshots, &rules(case[1]), Timestamp::now(), &TimeZone::UTC);
        let kept: Vec<usize> = (0..snapshots.len())
            // What is protected on top is ours.
            .filter(|place| reasons[*place].iter().any(|reason| !is_protection(reason)))
            .collect();
        assert_eq!(kept, bits(case[3]), "{} of {of_pool:?}: {reasons:?}", case[1]);
    }
}

#[test]
fn a_rule_of_nothing_is_none() {
    assert!(Rules::default().is_empty());
    assert!(rules("keep-daily=0").is_empty());
    assert!(!rules("keep-daily=1").is_empty());
    assert!(!rules("keep-within=1h").is_empty());
    assert!(!rules("keep-tag=red").is_empty());
}

#[test]
fn the_last_the_newest_healthy_and_the_newest_proved_are_kept_whatever_the_rules_say() {
    let mut history: Vec<Candidate> =
        (0..8).map(|day| candidate(day, seconds(day as i64 * 86_400), "")).collect();
    for (place, snapshot) in history.iter_mut().enumerate() {
        snapshot.is_healthy = place < 5;
        snapshot.is_proved = place < 3;
    }
    let reasons = decide(&history, &rules("keep-tag=none"), seconds(9 * 86_400), &TimeZone::UTC);
    let expected = [(2, Reason::NewestProved), (4, Reason::NewestHealthy), (7, Reason::Last)];
    for (place, found) in reasons.iter().enumerate() {
        let expected = expected.iter().find(|(kept, _)| *kept == place);
        assert_eq!(found.as_slice(), expected.map(|(_, reason)| reason.clone()).as_slice(), "{place}");
    }
}

#[test]
fn a_snapshot_of_the_future_or_before_its_parent_is_kept_and_pushes_nothing_out() {
    let now = seconds(10 * 86_400);
    let mut history: Vec<Candidate> =
        (0..6).map(|day| candidate(day, seconds(day as i64 * 86_400), "")).collect();
    history.push(candidate(7, seconds(400 * 86_400), ""));
    history[3].parent = history[4].id.clone();
    history.push(Candidate { created_at: None, ..candidate(8, now, "") });
    let reasons = decide(&history, &rules("keep-last=2"), now, &TimeZone::UTC);
    assert_eq!(reasons[6], [Reason::Future, Reason::Last]);
    assert_eq!(reasons[3], [Reason::Backwards]);
    assert_eq!(reasons[7], [Reason::Timeless]);
    assert_eq!(reasons[5], [Reason::Counted(Every::Snapshot), Reason::Last, Reason::NewestHealthy]);
    assert_eq!(reasons[4], [Reason::Counted(Every::Snapshot)]);
    assert!(reasons[..3].iter().all(Vec::is_empty), "{reasons:?}");
}

#[test]
fn clocks_that_differ_by_minutes_and_snapshots_of_one_second_are_nothing_odd() {
    let now = seconds(86_400);
    for (ahead, is_odd) in [(0, false), (3600, false), (3601, true)] {
        let history = [candidate(0, now, ""), candidate(1, seconds(86_400 + ahead), "")];
        let reasons = decide(&history, &rules("keep-last=1"), now, &TimeZone::UTC);
        assert_eq!(reasons[1].contains(&Reason::Future), is_odd, "{ahead}");
        assert_eq!(reasons[0].is_empty(), !is_odd, "{ahead}");
    }
}

#[test]
fn days_are_those_of_the_place_that_is_said() {
    let zone = TimeZone::posix("EST5").unwrap();
    // One day in New York, two in UTC.
    let history = [candidate(0, seconds(86_400 - 3600), ""), candidate(1, seconds(86_400 + 3600), "")];
    let kept = |zone: &TimeZone| {
        let reasons = decide(&history, &rules("keep-daily=1"), seconds(200_000), zone);
        reasons.iter().filter(|reasons| reasons.contains(&Reason::Counted(Every::Day))).count()
    };
    assert_eq!((kept(&TimeZone::UTC), kept(&zone)), (1, 1));
    let two = |zone: &TimeZone| {
        let older = [candidate(2, seconds(0), "")].into_iter().chain(history.clone()).collect::<Vec<_>>();
        let reasons = decide(&older, &rules("keep-daily=2"), seconds(200_000), zone);
        reasons.iter().map(|reasons| !reasons.is_empty()).collect::<Vec<_>>()
    };
    assert_eq!(two(&TimeZone::UTC), [false, true, true]);
    assert_eq!(two(&zone), [true, false, true]);
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let every = || prop::sample::select(Every::ALL.to_vec());
    let duration = prop::sample::select(vec!["1h", "3d", "2m", "1y", "1y2m3d4h"]);
    let duration = duration.prop_map(|text| text.parse().unwrap());
    (
        prop::collection::btree_map(every(), 0..9_u32, 0..4),
        prop::collection::btree_map(every(), duration, 0..3),
        prop::collection::btree_set(prop::sample::select(vec!["red".to_owned(), "blue".to_owned()]), 0..2),
    )
        .prop_map(|(counts, within, tags)| Rules { counts, within, tags, ids: BTreeSet::new() })
}

fn any_history() -> impl Strategy<Value = Vec<Candidate>> {
    let snapshot = (1..40_000_000_u32, prop::sample::select(vec!["", "red", "blue"]), any::<(bool, bool)>());
    prop::collection::vec(snapshot, 1..40).prop_map(|mut drawn| {
        drawn.sort_unstable();
        let drawn = drawn.into_iter().enumerate();
        let history = drawn.map(|(number, (minute, tag, (is_healthy, is_proved)))| Candidate {
            is_healthy,
            is_proved,
            ..candidate(number, seconds(i64::from(minute) * 60), tag)
        });
        history.collect()
    })
}

/// All histories lie before this.
fn later() -> Timestamp {
    seconds(40_000_000 * 60)
}

fn is_kept(reasons: &[Vec<Reason>]) -> Vec<bool> {
    reasons.iter().map(|reasons| !reasons.is_empty()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_the_rules_the_last_and_the_newest_healthy_and_proved_stay(
        history in any_history(), rules in any_rules()
    ) {
        let kept = is_kept(&decide(&history, &rules, later(), &TimeZone::UTC));
        prop_assert!(kept[history.len() - 1]);
        for is_meant in [|one: &Candidate| one.is_healthy, |one: &Candidate| one.is_proved] {
            prop_assert!(history.iter().rposition(is_meant).is_none_or(|place| kept[place]));
        }
    }

    #[test]
    fn a_rule_keeps_no_more_stretches_than_it_counts_and_the_newest_ones(
        history in any_history(), count in 1..9_u32, every in prop::sample::select(Every::ALL.to_vec())
    ) {
        let rules = Rules { counts: [(every, count)].into(), ..Rules::default() };
        let reasons = decide(&history, &rules, later(), &TimeZone::UTC);
        let kept: Vec<usize> = (0..history.len())
            .filter(|place| reasons[*place].iter().any(|reason| !is_protection(reason)))
            .collect();
        prop_assert!(kept.len() <= count as usize);
        prop_assert!(kept.contains(&(history.len() - 1)));
    }

    #[test]
    fn another_rule_never_drops_what_was_kept(
        history in any_history(), one in any_rules(), other in any_rules()
    ) {
        let mut both = one.clone();
        for (every, count) in other.counts {
            both.counts.entry(every).and_modify(|known| *known = count.max(*known)).or_insert(count);
        }
        both.tags.extend(other.tags);
        let fewer = is_kept(&decide(&history, &one, later(), &TimeZone::UTC));
        let more = is_kept(&decide(&history, &both, later(), &TimeZone::UTC));
        prop_assert!(fewer.iter().zip(&more).all(|(fewer, more)| *more || !*fewer));
    }

    #[test]
    fn forgetting_twice_forgets_no_more_by_rules_that_only_look_back(
        history in any_history(), rules in any_rules()
    ) {
        let counted = Rules { within: Default::default(), ..rules };
        let reasons = decide(&history, &counted, later(), &TimeZone::UTC);
        let kept: Vec<Candidate> = history
            .iter()
            .zip(&reasons)
            .filter(|(_, reasons)| !reasons.is_empty())
            .map(|(snapshot, _)| snapshot.clone())
            .collect();
        let again = decide(&kept, &counted, later(), &TimeZone::UTC);
        prop_assert!(is_kept(&again).into_iter().all(|kept| kept), "{reasons:?} then {again:?}");
    }

    #[test]
    fn odd_snapshots_change_nothing_for_the_others(
        history in any_history(), odd in any_history(), rules in any_rules()
    ) {
        let without = decide(&history, &rules, later(), &TimeZone::UTC);
        let mut with_odd = history.clone();
        with_odd.extend(odd.iter().enumerate().map(|(number, snapshot)| {
            let time = later() + SignedDuration::from_secs(3601 + number as i64);
            Candidate { created_at: Some(time), id: format!("9{}", snapshot.id), ..snapshot.clone() }
        }));
        let found = decide(&with_odd, &rules, later(), &TimeZone::UTC);
        prop_assert_eq!(is_kept(&found[..history.len()]), is_kept(&without));
        prop_assert!(is_kept(&found[history.len()..]).into_iter().all(|kept| kept));
    }
}
