//! A picture of what a policy keeps: a line for each month that has snapshots, a column for each day.

use std::collections::BTreeMap;

use packvault::engine::report::ForgetReport;

use super::text;

/// Columns of a line.
const DAYS: usize = 31;

/// What is drawn for a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Day {
    Nothing,
    Forgotten,
    Kept,
}

impl Day {
    fn character(self) -> char {
        match self {
            Self::Nothing => ' ',
            Self::Forgotten => '.',
            Self::Kept => '#',
        }
    }
}

/// Returns the picture. A snapshot whose time cannot be read has no place in it.
pub fn of(report: &ForgetReport) -> String {
    let kept = report.kept.iter().map(|snapshot| (&snapshot.created_at, Day::Kept));
    let forgotten = report.forgotten.iter().map(|snapshot| (&snapshot.created_at, Day::Forgotten));
    let mut months: BTreeMap<&str, [Day; DAYS]> = BTreeMap::new();
    for (created_at, what) in kept.chain(forgotten) {
        let Some((month, day)) = month_and_day(created_at) else { continue };
        let drawn = &mut months.entry(month).or_insert([Day::Nothing; DAYS])[day - 1];
        *drawn = what.max(*drawn);
    }
    let mut chart = format!("{:7}  1   5    10   15   20   25   30\n", "");
    for (month, days) in months {
        let line: String = days.into_iter().map(Day::character).collect();
        chart.push_str(format!("{month}  {line}").trim_end());
        chart.push('\n');
    }
    let (kept, forgotten) = (report.kept.len() as u64, report.forgotten.len() as u64);
    chart.push_str(&format!(
        "#: days of {} that would be kept; .: of {} that would be forgotten (UTC)\n",
        text::counted(kept, "snapshot"),
        text::count(forgotten)
    ));
    chart
}

/// Returns the month and the day of a manifest's time, `2026-11-23T20:45:17Z`.
fn month_and_day(time: &str) -> Option<(&str, usize)> {
    let is_time = time.len() == 20
        && time.bytes().enumerate().all(|(place, byte)| match place {
            4 | 7 => byte == b'-',
            0..10 => byte.is_ascii_digit(),
            _ => byte.is_ascii(),
        });
    let day = time.get(8..10).filter(|_| is_time)?.parse().ok()?;
    (1..=DAYS).contains(&day).then(|| (&time[..7], day))
}

#[cfg(test)]
mod tests {
    use packvault::engine::report::{ForgottenSnapshot, KeptSnapshot};

    use super::*;

    #[test]
    fn a_day_on_which_something_is_kept_is_drawn_as_kept() {
        let kept = |time: &str| KeptSnapshot {
            id: String::new(),
            created_at: time.into(),
            tag: String::new(),
            reasons: vec!["daily".into()],
        };
        let forgotten = |time: &str| ForgottenSnapshot {
            id: String::new(),
            created_at: time.into(),
            tag: String::new(),
            removed: false,
        };
        let report = ForgetReport {
            dry_run: true,
            kept: vec![kept("2026-10-31T20:45:17Z"), kept("2026-11-02T20:45:17Z"), kept("\x1b[2J")],
            forgotten: vec![forgotten("2026-11-02T08:00:00Z"), forgotten("2026-11-03T08:00:00Z")],
            manifests_removed: 0,
            links: 0,
            warnings: Vec::new(),
        };
        let expected = "         \
1   5    10   15   20   25   30
2026-10                                #
2026-11   #.
#: days of 3 snapshots that would be kept; .: of 2 that would be forgotten (UTC)
";
        assert_eq!(of(&report), expected);
    }
}
