//! Numbers for a monitor, in the text format of Prometheus.
//!
//! ```text
//! # HELP packvault_fault Whether this is wrong: 1 if so.
//! # TYPE packvault_fault gauge
//! packvault_fault{archive="mail",place="",fault="stale"} 0
//! ```
//!
//! What is not known has no line: an alert on an old or missing number is the honest one. Names of archives and places
//! come from the configuration and are escaped.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::health::Fault;
use super::status::{ArchiveStatus, PlaceStatus, StatusReport};

/// A number: its name, what it means, and a line for each of its labels.
struct Family {
    name: &'static str,
    help: &'static str,
    lines: Vec<(String, f64)>,
}

/// Tells by its beginning whether a text is such numbers.
pub fn are_numbers(beginning: &str) -> bool {
    beginning.starts_with("# HELP packvault_")
}

/// Returns the numbers of a report.
pub fn text(report: &StatusReport) -> String {
    let asked_at = seconds(&report.asked_at).into_iter().map(|time| (String::new(), time)).collect();
    let mut families = vec![
        Family {
            name: "packvault_status_timestamp_seconds",
            help: "When these numbers were made.",
            lines: asked_at,
        },
        of_archives(
            report,
            "packvault_ok",
            "Whether all is as the configuration says: 1 if so.",
            |archive| Some(f64::from(u8::from(archive.ok))),
        ),
        of_archives(report, "packvault_last_run_timestamp_seconds", "When the last run began.", |archive| {
            seconds(&archive.last_run.as_ref()?.began_at)
        }),
        of_archives(
            report,
            "packvault_last_run_exit_code",
            "How the last run that ended did so.",
            |archive| Some(archive.last_run.as_ref()?.exit_code? as f64),
        ),
        faults(report),
    ];
    families.extend(of_places(report));
    families.into_iter().filter(|family| !family.lines.is_empty()).map(|family| family.text()).collect()
}

fn of_archives(
    report: &StatusReport,
    name: &'static str,
    help: &'static str,
    value: impl Fn(&ArchiveStatus) -> Option<f64>,
) -> Family {
    let line = |archive: &ArchiveStatus| Some((labels(&[("archive", &archive.archive)]), value(archive)?));
    Family { name, help, lines: report.archives.iter().filter_map(line).collect() }
}

fn faults(report: &StatusReport) -> Family {
    let mut lines = Vec::new();
    for archive in &report.archives {
        for place in &archive.places {
            for fault in [Fault::Stale, Fault::Unproved, Fault::CopyMissing] {
                // Only a copy can be missing, and only what copies are made of can be stale.
                if place.place.is_none() == (fault == Fault::CopyMissing)
                    || (fault == Fault::Stale && place.place.is_some())
                {
                    continue;
                }
                let is_here = archive
                    .findings
                    .iter()
                    .any(|finding| finding.place == place.place && finding.fault == fault.name());
                let own = place_labels(archive, place, &[("fault", fault.name())]);
                lines.push((own, f64::from(u8::from(is_here))));
            }
        }
    }
    Family { name: "packvault_fault", help: "Whether this is wrong: 1 if so.", lines }
}

/// Returns the number of a place.
type OfPlace = fn(&PlaceStatus) -> Option<f64>;

fn of_places(report: &StatusReport) -> Vec<Family> {
    let numbers: [(&'static str, &'static str, OfPlace); 11] = [
        ("packvault_place_asked", "Whether the place was asked, or what is remembered is told.", |place| {
            Some(f64::from(u8::from(place.asked)))
        }),
        ("packvault_snapshot_timestamp_seconds", "When the newest snapshot was made.", |place| {
            seconds(&place.newest.as_ref()?.created_at)
        }),
        ("packvault_proved_timestamp_seconds", "When the newest proved snapshot was proved.", |place| {
            seconds(&place.proved.as_ref()?.proved_at)
        }),
        ("packvault_verified_timestamp_seconds", "When stored bytes were read last.", |place| {
            seconds(place.verified_at.as_ref()?)
        }),
        ("packvault_read_ratio", "Which part of the stored bytes was read in the last days.", |place| {
            place.read_share
        }),
        ("packvault_stored_bytes", "How many bytes are stored.", |place| Some(place.stored_bytes? as f64)),
        ("packvault_damaged_packs", "Packs found damaged and not seen whole since.", |place| {
            Some(place.damaged_packs? as f64)
        }),
        ("packvault_restore_check_timestamp_seconds", "When a restore was tried last.", |place| {
            seconds(&place.restore_check.as_ref()?.at)
        }),
        ("packvault_restore_check_duration_seconds", "How long that restore took.", |place| {
            Some(place.restore_check.as_ref()?.seconds)
        }),
        ("packvault_restore_check_proved", "Whether that restore was proved: 1 if so.", |place| {
            Some(f64::from(u8::from(place.restore_check.as_ref()?.proved)))
        }),
        ("packvault_free_bytes", "How many bytes are free there.", |place| Some(place.free_bytes? as f64)),
    ];
    let family = |(name, help, value): (&'static str, &'static str, OfPlace)| {
        let places = report
            .archives
            .iter()
            .flat_map(|archive| archive.places.iter().map(move |place| (archive, place)));
        let lines = places
            .filter_map(|(archive, place)| Some((place_labels(archive, place, &[]), value(place)?)))
            .collect();
        Family { name, help, lines }
    };
    numbers.into_iter().map(family).collect()
}

impl Family {
    fn text(&self) -> String {
        let Self { name, help, lines } = self;
        let mut text = format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
        for (labels, value) in lines {
            // The shortest text that reads back as the same number.
            let _ = writeln!(text, "{name}{labels} {value}");
        }
        text
    }
}

fn place_labels(archive: &ArchiveStatus, place: &PlaceStatus, more: &[(&str, &str)]) -> String {
    let own = [("archive", archive.archive.as_str()), ("place", place.place.as_deref().unwrap_or_default())];
    labels(&[&own, more].concat())
}

/// Returns labels as the format has them.
fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn seconds(time: &str) -> Option<f64> {
    time.parse::<Timestamp>().ok().map(|time| time.as_second() as f64)
}

#[cfg(test)]
mod tests {
    use super::super::status::{LastRun, NewestSnapshot, StatusFinding, TriedRestore};
    use super::*;

    fn report() -> StatusReport {
        let own = PlaceStatus {
            asked: true,
            newest: Some(NewestSnapshot {
                id: "20261123T020000Z-0c1c7e1c".into(),
                created_at: "2026-11-23T02:00:00Z".into(),
                age_seconds: 60,
            }),
            read_share: Some(0.25),
            stored_bytes: Some(123_456_789_012),
            restore_check: Some(TriedRestore {
                at: "2026-11-20T02:00:00Z".into(),
                snapshot: "x".into(),
                seconds: 1.5,
                proved: true,
            }),
            ..PlaceStatus::default()
        };
        let copy = PlaceStatus { place: Some("b\\2 \"far\"\n".into()), ..PlaceStatus::default() };
        let archive = ArchiveStatus {
            archive: "mail".into(),
            max_age: Some("2d".into()),
            ok: false,
            findings: vec![StatusFinding {
                fault: "copy_missing",
                place: copy.place.clone(),
                text: "no snapshot is known there".into(),
            }],
            places: vec![own, copy],
            last_run: Some(LastRun {
                began_at: "2026-11-23T02:00:00Z".into(),
                ended_at: None,
                exit_code: Some(6),
            }),
            due: Vec::new(),
            error: None,
        };
        StatusReport { asked_at: "2026-11-23T02:01:00Z".into(), ok: false, archives: vec![archive] }
    }

    #[test]
    fn the_text_holds_what_is_known_and_nothing_else() {
        let text = text(&report());
        for line in [
            "packvault_status_timestamp_seconds 1795399260",
            "packvault_ok{archive=\"mail\"} 0",
            "packvault_last_run_exit_code{archive=\"mail\"} 6",
            "packvault_fault{archive=\"mail\",place=\"\",fault=\"stale\"} 0",
            "packvault_fault{archive=\"mail\",place=\"b\\\\2 \\\"far\\\"\\n\",fault=\"copy_missing\"} 1",
            "packvault_snapshot_timestamp_seconds{archive=\"mail\",place=\"\"} 1795399200",
            "packvault_read_ratio{archive=\"mail\",place=\"\"} 0.25",
            "packvault_stored_bytes{archive=\"mail\",place=\"\"} 123456789012",
            "packvault_restore_check_duration_seconds{archive=\"mail\",place=\"\"} 1.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
        }
        assert!(!text.contains("packvault_free_bytes") && !text.contains("null"), "{text}");
    }

    #[test]
    fn every_number_is_told_once_and_explained() {
        let text = text(&report());
        for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" gauge")) {
            assert_eq!(text.matches(&format!("# HELP {name} ")).count(), 1, "{name}");
            assert_eq!(text.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
        }
        assert!(text.ends_with('\n'));
    }
}
