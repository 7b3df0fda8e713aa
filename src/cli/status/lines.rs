//! What `status` says to people: a few lines for each archive, what is wrong first.
//!
//! Colour underlines words that stand there in any case. Names and texts may come from elsewhere, and are escaped.

use std::time::Duration;

use jiff::SignedDuration;
use packvault::engine::schedule::due::roughly;
use packvault::engine::schedule::status::{ArchiveStatus, PlaceStatus, StatusReport};

use super::super::text::{self, escape, size};

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// Returns the report as lines.
pub fn text(report: &StatusReport, is_coloured: bool) -> String {
    let paint = |colour: &str, word: &str| match is_coloured {
        true => format!("{colour}{word}{PLAIN}"),
        false => word.to_owned(),
    };
    let mut lines = String::new();
    for archive in &report.archives {
        let verdict = if archive.ok { paint(GREEN, "ok") } else { paint(RED, "needs a look") };
        lines.push_str(&format!("{}: {verdict}\n", escape(&archive.archive)));
        if let Some(error) = &archive.error {
            lines.push_str(&format!("  {} {}\n", paint(RED, "problem:"), escape(error)));
        }
        for finding in &archive.findings {
            let place =
                finding.place.as_deref().map(|place| format!("{}: ", escape(place))).unwrap_or_default();
            let word = finding.fault.replace('_', " ");
            lines.push_str(&format!(
                "  {} {place}{}\n",
                paint(RED, &format!("{word}:")),
                escape(&finding.text)
            ));
        }
        let parts =
            archive.places.iter().flat_map(|place| of_place(archive, place)).chain(of_archive(archive));
        for (name, value) in parts {
            lines.push_str(&format!("  {name:<9}  {}\n", escape(&value)));
        }
    }
    lines
}

fn of_place(archive: &ArchiveStatus, place: &PlaceStatus) -> Vec<(&'static str, String)> {
    let location = place.location.as_deref().unwrap_or("a place that is not known");
    let place_name = match &place.place {
        Some(name) if name != location => format!("{name}, {location}"),
        _ => location.to_owned(),
    };
    let mut parts = vec![(if place.place.is_some() { "copy" } else { "place" }, place_name)];
    if let Some(why) = &place.not_asked {
        parts.push(("", format!("not asked: {why}; from memory:")));
    }
    let max_age = archive.max_age.as_deref().filter(|_| place.place.is_none());
    let newest = place.newest.as_ref().map(|newest| {
        let limit = max_age.map(|max| format!(", max_age {max}")).unwrap_or_default();
        format!("{}, {}{limit}", newest.id, old(newest.age_seconds))
    });
    parts.push(("newest", newest.unwrap_or_else(|| "no snapshot is known".to_owned())));
    parts.extend(
        place.proved.as_ref().map(|proved| ("proved", format!("{}, at {}", proved.id, proved.proved_at))),
    );
    parts.extend(read(place).map(|read| ("read", read)));
    parts.extend(place.restore_check.as_ref().map(|tried| {
        let took = text::duration(Duration::try_from_secs_f64(tried.seconds).unwrap_or_default());
        let how = if tried.proved { "all proved" } else { "FAILED" };
        ("restored", format!("tried at {}, took {took}, {how}", tried.at))
    }));
    parts.extend(place.free_bytes.map(|free| ("free", size(free))));
    parts
}

fn read(place: &PlaceStatus) -> Option<String> {
    let share = place.read_share.zip(place.read_days).map(|(share, days)| {
        // Rounded down: all is said of nothing less.
        let percent = (share * 100.0).floor();
        let stored = place.stored_bytes.map(|bytes| format!(" of {}", size(bytes))).unwrap_or_default();
        format!("{percent}%{stored} in the last {}", text::counted(days, "day"))
    });
    let last = place.verified_at.as_ref().map(|at| format!("last at {at}"));
    let said: Vec<String> = share.into_iter().chain(last).collect();
    (!said.is_empty()).then(|| said.join(", "))
}

fn of_archive(archive: &ArchiveStatus) -> Vec<(&'static str, String)> {
    let mut parts = Vec::new();
    if let Some(run) = &archive.last_run {
        let ended = match (run.exit_code, &run.ended_at) {
            (Some(0), _) => "all done".to_owned(),
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(_)) => "ended".to_owned(),
            (None, None) => "at work, or killed".to_owned(),
        };
        parts.push(("last run", format!("{}, {ended}", run.began_at)));
    }
    let due: Vec<String> = archive
        .due
        .iter()
        .filter(|step| step.reason != "in every run")
        .map(|step| {
            let place = step.place.as_deref().map(|place| format!(" of {place}")).unwrap_or_default();
            format!("{}{place} {}", step.work.replace('_', " "), step.reason)
        })
        .collect();
    if !due.is_empty() {
        parts.push(("next", due.join("; ")));
    }
    if archive.max_age.is_none() {
        parts.push(("note", "no max_age is set: the age is not judged".to_owned()));
    }
    parts
}

fn old(age_seconds: i64) -> String {
    let said = roughly(SignedDuration::from_secs(age_seconds));
    if age_seconds < 0 { format!("{said} ahead of this clock") } else { format!("{said} old") }
}
