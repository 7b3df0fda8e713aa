//! Which snapshot a user means: the whole id, its beginning, or the beginning of its second part.
//!
//! An id is `<time>-<hash>`; tables show only as much of the hash as tells the snapshots apart, and what a
//! table shows must be enough to name one.

use packvault::format::SnapshotId;
use packvault::repo::Repository;
use packvault::{Error, ErrorKind, Result};

use super::settings::given;
use super::text::escape;

/// Fewest characters of the hash that a table shows.
const SHORT_CHARACTERS_MIN: usize = 8;

/// Fewest characters that may stand for an id.
const GIVEN_CHARACTERS_MIN: usize = 4;

/// Finds the one snapshot of the repository that the text stands for.
pub async fn snapshot(repository: &Repository, text: &str) -> Result<SnapshotId> {
    if let Ok(id) = SnapshotId::parse(text) {
        return Ok(id);
    }
    let ids: Vec<String> = repository.list_snapshots().await?.names().map(str::to_owned).collect();
    let id = resolve(text, &ids)?;
    SnapshotId::parse(id)
        .map_err(|error| Error::caused(ErrorKind::Usage, "cannot use the name of the manifest", error))
}

/// Returns the one id that the text stands for.
fn resolve<'a>(text: &str, ids: &'a [String]) -> Result<&'a str> {
    if let Some(exact) = ids.iter().find(|id| *id == text) {
        return Ok(exact);
    }
    let means = |id: &&String| {
        text.len() >= GIVEN_CHARACTERS_MIN && (id.starts_with(text) || hash(id).starts_with(text))
    };
    let matches: Vec<&String> = ids.iter().filter(means).collect();
    match matches.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::new(ErrorKind::NotFound, format!("no snapshot {}", given::shown(text)))),
        many => {
            let names: Vec<String> = many.iter().map(|id| escape(id)).collect();
            let message = format!("{} may mean any of {}", given::shown(text), names.join(", "));
            Err(Error::new(ErrorKind::Usage, message))
        }
    }
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
