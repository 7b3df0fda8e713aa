//! The names of snapshots in a mounted folder: the time at which each was made, in UTC, as a name that sorts by time and
//! that no shell and no copying program takes for something else.

use std::collections::HashMap;

use jiff::Timestamp;

/// As many digits at the end of an id, which begins with a time, tell snapshots of the same second apart.
const ID_DIGITS: usize = 8;

/// Returns the name of each snapshot, of which the id and the time are given; no two are the same.
pub fn of_snapshots(snapshots: &[(String, String)]) -> Vec<String> {
    let times: Vec<String> =
        snapshots.iter().map(|(id, time)| of_time(time).unwrap_or_else(|| id.clone())).collect();
    let mut counts: HashMap<&str, usize> = HashMap::new();
    times.iter().for_each(|time| *counts.entry(time).or_default() += 1);
    let mut names: Vec<String> = Vec::with_capacity(times.len());
    let mut taken: HashMap<String, ()> = HashMap::new();
    for ((id, _), time) in snapshots.iter().zip(&times) {
        let short = id.get(id.len().saturating_sub(ID_DIGITS)..).unwrap_or(id);
        let name = match counts.get(time.as_str()) {
            Some(1) => time.clone(),
            _ => format!("{time}-{short}"),
        };
        // The end of an id may be that of another; the whole is not.
        let name = if taken.contains_key(&name) { format!("{time}-{id}") } else { name };
        taken.insert(name.clone(), ());
        names.push(name);
    }
    names
}

/// Returns a time as a name; nothing where it cannot be one.
fn of_time(text: &str) -> Option<String> {
    let time: Timestamp = text.parse().ok()?;
    Some(time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_time_and_within_one_second_the_id_too() {
        let of = |rows: &[(&str, &str)]| {
            let rows: Vec<_> = rows.iter().map(|(id, time)| ((*id).to_owned(), (*time).to_owned())).collect();
            of_snapshots(&rows)
        };
        let found = of(&[
            ("T1-aaaaaaaa", "2026-03-01T04:05:06.25Z"),
            ("T1-bbbbbbbb", "2026-03-02T04:05:06Z"),
            ("T2-bbbbbbbb", "2026-03-02T04:05:06.9Z"),
            ("T3-cccccccc", "2026-03-02T04:05:06Z"),
            ("T4-dddddddd", "../../etc"),
        ]);
        let expected = [
            "2026-03-01T04-05-06Z",
            "2026-03-02T04-05-06Z-bbbbbbbb",
            "2026-03-02T04-05-06Z-T2-bbbbbbbb",
            "2026-03-02T04-05-06Z-cccccccc",
            "T4-dddddddd",
        ];
        assert_eq!(found, expected);
    }
}
