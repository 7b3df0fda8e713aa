//! Which snapshot a user means: `latest`, `latest~2`, a day, the whole id, its beginning, the beginning of its
//! second part, or a tag; the first of these that fits. A forgotten one is meant only where nothing else is, and
//! only by its id.
//!
//! An id is `<time>-<hash>`; tables show only as much of the hash as tells the snapshots apart, and what a
//! table shows must be enough to name one.

use std::collections::{BTreeSet, HashSet};

use packvault::format::SnapshotId;
use packvault::repo::Repository;
use packvault::repo::snapshots::{FoundSnapshot, SnapshotFiles};
use packvault::{Error, ErrorKind, Result};

use super::settings::given;
use super::text::escape;

/// Fewest characters of the hash that a table shows.
const SHORT_CHARACTERS_MIN: usize = 8;

/// Fewest characters that may stand for an id.
const GIVEN_CHARACTERS_MIN: usize = 4;

/// Finds the one snapshot of the repository that the text stands for.
pub async fn snapshot(repository: &Repository, text: &str) -> Result<SnapshotId> {
    let files = repository.list_snapshots().await?;
    if let Ok(id) = SnapshotId::parse(text) {
        let now = match files.has(text) {
            true => None,
            false => repository.formerly(&files, text).await?,
        };
        return now.map_or(Ok(id), |now| parsed(&now));
    }
    let listed: Vec<String> = files.listed().map(str::to_owned).collect();
    let forgotten: Vec<String> = files.forgotten().into_iter().map(str::to_owned).collect();
    let id: String = match resolve(text, &listed) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // Tags stand inside the manifests, which are read only where nothing else fits.
            let found = repository.read_snapshots(&files).await?;
            let tagged = found.iter().filter(|found| has_tag(found, text)).map(|found| &found.name);
            let tagged = one_of(text, tagged.filter(|name| !forgotten.contains(name)).collect())?;
            let tagged = match tagged {
                Some(tagged) => Some(tagged),
                None => named_by_id(text, &forgotten)?,
            };
            match tagged {
                Some(tagged) => tagged.to_owned(),
                None => formerly(repository, &files, text).await?.ok_or(error)?,
            }
        }
        resolved => resolved?.to_owned(),
    };
    parsed(&id)
}

fn parsed(id: &str) -> Result<SnapshotId> {
    SnapshotId::parse(id)
        .map_err(|error| Error::caused(ErrorKind::Usage, "cannot use the name of the manifest", error))
}

/// Returns the one snapshot that had an id like this before it was squashed.
async fn formerly(repository: &Repository, files: &SnapshotFiles, text: &str) -> Result<Option<String>> {
    let notes = repository.read_notes(files).await?;
    let listed: HashSet<&str> = files.listed().collect();
    let mut now: BTreeSet<&String> = BTreeSet::new();
    for (name, note) in notes.iter().filter(|(name, _)| listed.contains(name.as_str())) {
        if named_by_id(text, &note.former_ids).is_ok_and(|former| former.is_some()) {
            now.insert(name);
        }
    }
    Ok(one_of(text, now.into_iter().collect())?.map(str::to_owned))
}

fn has_tag(found: &FoundSnapshot, tag: &str) -> bool {
    found.manifest.as_ref().is_ok_and(|manifest| !tag.is_empty() && manifest.options.tag == tag)
}

/// Returns the one id that the text stands for.
fn resolve<'a>(text: &str, ids: &'a [String]) -> Result<&'a str> {
    if let Some(exact) = ids.iter().find(|id| *id == text) {
        return Ok(exact);
    }
    if let Some(back) = steps_back(text) {
        return from_the_end(ids, back);
    }
    if let Some(day) = day(text) {
        return last_of_day(ids, text, &day);
    }
    let none = || Error::new(ErrorKind::NotFound, format!("no snapshot {}", given::shown(text)));
    named_by_id(text, ids)?.ok_or_else(none)
}

/// Returns the one id that begins with the text, or whose second part does.
fn named_by_id<'a>(text: &str, ids: &'a [String]) -> Result<Option<&'a str>> {
    let means = |id: &&String| {
        text.len() >= GIVEN_CHARACTERS_MIN && (id.starts_with(text) || hash(id).starts_with(text))
    };
    one_of(text, ids.iter().filter(means).collect())
}

/// Returns the only one there is; more than one is a question and no answer.
fn one_of<'a>(text: &str, matches: Vec<&'a String>) -> Result<Option<&'a str>> {
    match matches.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        many => {
            let names: Vec<String> = many.iter().map(|id| escape(id)).collect();
            let message = format!("{} may mean any of {}", given::shown(text), names.join(", "));
            Err(Error::new(ErrorKind::Usage, message))
        }
    }
}

/// Returns how many snapshots before the newest are meant by `latest`, `latest~1`, ...
fn steps_back(text: &str) -> Option<usize> {
    match text.strip_prefix("latest")? {
        "" => Some(0),
        rest => rest.strip_prefix('~')?.parse().ok(),
    }
}

fn from_the_end(ids: &[String], back: usize) -> Result<&str> {
    let place = ids.len().checked_sub(1).and_then(|last| last.checked_sub(back));
    let missing = || {
        let message =
            format!("there is no snapshot {back} before the newest: the repository holds {}", ids.len());
        Error::new(ErrorKind::NotFound, message)
    };
    place.map(|place| ids[place].as_str()).ok_or_else(missing)
}

/// Returns how the ids of a day begin, if the text is one: `2026-11-23`.
fn day(text: &str) -> Option<String> {
    let is_day = text.len() == 10
        && text.bytes().enumerate().all(|(place, byte)| match place {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    is_day.then(|| format!("{}T", text.replace('-', "")))
}

/// Returns the last snapshot of a day, in UTC. Where that day has none, others are named and none is taken.
fn last_of_day<'a>(ids: &'a [String], text: &str, day: &str) -> Result<&'a str> {
    if let Some(last) = ids.iter().rfind(|id| id.starts_with(day)) {
        return Ok(last);
    }
    let before =
        ids.iter().rfind(|id| id.as_str() < day).map(|id| format!("the last before it is {}", escape(id)));
    let after =
        ids.iter().find(|id| id.as_str() > day).map(|id| format!("the first after it is {}", escape(id)));
    let near: Vec<String> = before.into_iter().chain(after).collect();
    let near = if near.is_empty() { String::new() } else { format!(": {}", near.join(", ")) };
    Err(Error::new(ErrorKind::NotFound, format!("no snapshot was made on {text} (UTC){near}")))
}

/// Returns, in the order of the ids, the shortest beginnings of their hashes that tell them all apart.
///
/// Where hashes do not (a damaged repository may hold any name), the whole ids.
pub fn short(ids: &[&str]) -> Vec<String> {
    let longest = ids.iter().map(|id| hash(id).chars().count()).max().unwrap_or(0);
    for length in SHORT_CHARACTERS_MIN..=longest.max(SHORT_CHARACTERS_MIN) {
        let names: Vec<String> = ids.iter().map(|id| hash(id).chars().take(length).collect()).collect();
        let mut distinct = names.clone();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() == names.len() {
            return names;
        }
    }
    ids.iter().map(|id| (*id).to_owned()).collect()
}

fn hash(id: &str) -> &str {
    id.split_once('-').map_or(id, |(_, hash)| hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Vec<String> {
        ["20261123T204517Z-a3d383f81785", "20261124T080000Z-a3d399990000", "20261124T090000Z-b0000000ffff"]
            .map(String::from)
            .to_vec()
    }

    #[test]
    fn an_id_may_be_given_whole_or_by_its_beginning_or_by_its_hash() {
        let ids = ids();
        for text in ["20261123T204517Z-a3d383f81785", "20261123", "a3d383f8", "a3d383f81785"] {
            assert_eq!(resolve(text, &ids).unwrap(), ids[0], "{text}");
        }
    }

    #[test]
    fn the_newest_those_before_it_and_the_last_of_a_day_have_names() {
        let ids = ids();
        for (text, place) in
            [("latest", 2), ("latest~0", 2), ("latest~2", 0), ("2026-11-23", 0), ("2026-11-24", 2)]
        {
            assert_eq!(resolve(text, &ids).unwrap(), ids[place], "{text}");
        }
        for text in ["latest~3", "2026-11-22", "2026-11-25", "latest~", "latest~-1", "latestx"] {
            assert_eq!(resolve(text, &ids).unwrap_err().kind(), ErrorKind::NotFound, "{text}");
        }
        let error = resolve("2026-11-25", &ids).unwrap_err();
        assert!(error.to_string().contains(&ids[2]), "{error}");
        assert_eq!(resolve("latest", &[]).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn an_ambiguous_beginning_is_refused_with_what_it_may_mean() {
        let error = resolve("a3d3", &ids()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(error.to_string().contains(&ids()[0]) && error.to_string().contains(&ids()[1]), "{error}");
    }

    #[test]
    fn unknown_and_very_short_texts_are_not_found() {
        for text in ["", "b00", "ffff", "\x1b[2J"] {
            let error = resolve(text, &ids()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{text}");
            assert!(!error.to_string().contains('\x1b'));
        }
    }

    #[test]
    fn short_ids_are_as_long_as_telling_them_apart_takes() {
        let ids = ["t-a3d383f81785", "t-b0000000ffff"];
        assert_eq!(short(&ids), ["a3d383f8", "b0000000"]);
        let close = ["t-a3d383f81785", "t-a3d383f81700"];
        assert_eq!(short(&close), ["a3d383f8178", "a3d383f8170"]);
        let same = ["t-a3d383f81785", "u-a3d383f81785"];
        assert_eq!(short(&same), same);
        assert!(short(&[]).is_empty());
    }

    #[test]
    fn every_short_id_names_its_snapshot() {
        let ids = ids();
        let all: Vec<&str> = ids.iter().map(String::as_str).collect();
        for (name, id) in short(&all).iter().zip(&ids) {
            assert_eq!(resolve(name, &ids).unwrap(), id);
        }
    }
}
