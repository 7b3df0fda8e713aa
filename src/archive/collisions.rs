//! Which of the files found can be in one snapshot together (section 5.2).
//!
//! Two paths that are one path on some file system cannot both be restored everywhere, and no reader accepts both.
//! Only the first by its bytes is taken, so that the other files can still be backed up. If a file has the name of a
//! folder that other files need, the file is left out. The names of the database are for the database alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};

use super::extras::{FoundExtra, FoundExtras, LeftFile};
use crate::format::paths;

/// Takes out what cannot be in the snapshot together with the rest, and names it. The files are in the order
/// of their paths.
pub fn separate(found: &mut FoundExtras, database: &[String]) {
    let losers = losers(&found.extras, database);
    if losers.is_empty() {
        return;
    }
    let mut index = 0;
    found.extras.retain(|_| {
        index += 1;
        !losers.contains_key(&(index - 1))
    });
    let mut named: Vec<(usize, LeftFile)> = losers.into_iter().collect();
    named.sort_by_key(|(index, _)| *index);
    found.left_out.extend(named.into_iter().map(|(_, left)| left));
}

fn losers(extras: &[FoundExtra], database: &[String]) -> HashMap<usize, LeftFile> {
    let mut names =
        Names { extras, database, hasher: RandomState::new(), by_hash: HashMap::new(), rest: vec![] };
    let mut losers = HashMap::new();
    for index in 0..database.len() {
        names.add(Owner::Database(index as u32));
    }
    for (index, extra) in extras.iter().enumerate() {
        match names.find(extra.recorded()) {
            Some(owner) => drop(losers.insert(index, same_name(extra.recorded(), names.of(owner)))),
            None => names.add(Owner::Extra(index as u32)),
        }
    }
    for path in database {
        names.files_on_the_way(path, &mut losers);
    }
    // Neighbours share their folder, so most need not be looked up.
    let (mut last, mut below_database) = (None, false);
    for (index, extra) in extras.iter().enumerate() {
        let folder = extra.recorded().rsplit_once('/').map(|(folder, _)| folder);
        if folder != last {
            below_database = names.files_on_the_way(extra.recorded(), &mut losers);
            last = folder;
        }
        if below_database {
            let reason = "a snapshot has its folder's name for the database".to_owned();
            let path = extra.recorded().to_owned();
            losers.entry(index).or_insert(LeftFile { path, reason, asked: true });
        }
    }
    losers
}

#[derive(Clone, Copy)]
enum Owner {
    Database(u32),
    Extra(u32),
}

/// The names that are taken. Keys are kept as hashes, for there may be a million; what seems to be equal is
/// compared.
struct Names<'a> {
    extras: &'a [FoundExtra],
    database: &'a [String],
    hasher: RandomState,
    by_hash: HashMap<u64, Owner>,
    /// Those whose hash another has already.
    rest: Vec<Owner>,
}

impl<'a> Names<'a> {
    fn of(&self, owner: Owner) -> &'a str {
        match owner {
            Owner::Database(index) => &self.database[index as usize],
            Owner::Extra(index) => self.extras[index as usize].recorded(),
        }
    }

    fn add(&mut self, owner: Owner) {
        let hash = self.hasher.hash_one(paths::collision_key(self.of(owner)));
        match self.by_hash.entry(hash) {
            Entry::Vacant(slot) => drop(slot.insert(owner)),
            Entry::Occupied(_) => self.rest.push(owner),
        }
    }

    fn find(&self, path: &str) -> Option<Owner> {
        let key = paths::collision_key(path);
        let owner = self.by_hash.get(&self.hasher.hash_one(&key))?;
        std::iter::once(owner)
            .chain(&self.rest)
            .copied()
            .find(|owner| paths::collision_key(self.of(*owner)) == key)
    }

    /// Has every file that stands where the path needs a folder give way; tells whether the database does.
    fn files_on_the_way(&self, path: &str, losers: &mut HashMap<usize, LeftFile>) -> bool {
        let mut below_database = false;
        for (end, _) in path.match_indices('/') {
            match self.find(&path[..end]) {
                Some(Owner::Extra(file)) => {
                    let file = file as usize;
                    let left = || file_and_folder(self.extras[file].recorded(), path);
                    losers.entry(file).or_insert_with(left);
                }
                Some(Owner::Database(_)) => below_database = true,
                None => {}
            }
        }
        below_database
    }
}

fn same_name(path: &str, taken: &str) -> LeftFile {
    let reason = format!(
        "on some file systems its name is that of {taken:?}, which is in the snapshot; rename one of them"
    );
    LeftFile { path: path.to_owned(), reason, asked: true }
}

fn file_and_folder(file: &str, below: &str) -> LeftFile {
    let reason =
        format!("on some file systems its name is that of the folder of {below:?}; rename one of them");
    LeftFile { path: file.to_owned(), reason, asked: true }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::archive::beneath::open_folder;
    use crate::archive::extras::Root;
    use crate::archive::profile::database_files;

    /// Returns which of the paths are taken and which are left out.
    fn separated(paths: &[&str], database: &str) -> (Vec<String>, Vec<String>) {
        let root = Arc::new(Root { held: open_folder("/".as_ref()).unwrap(), path: "/".into() });
        let mut paths = paths.to_vec();
        paths.sort_unstable();
        let extra = |path: &&str| FoundExtra::new(root.clone(), (*path).to_owned(), 0, false);
        let mut found = FoundExtras { extras: paths.iter().map(extra).collect(), ..FoundExtras::default() };
        separate(&mut found, &database_files(database));
        assert!(found.left_out.iter().all(|left| left.asked));
        let left = found.left_out.iter().map(|left| left.path.clone()).collect();
        (found.extras.iter().map(|extra| extra.recorded().to_owned()).collect(), left)
    }

    #[test]
    fn of_names_that_are_one_somewhere_the_first_is_taken() {
        let (taken, left) = separated(&["m/a.JPG", "m/a.jpg", "m/A.jpg", "m/b", "M/b"], "app.db");
        assert_eq!(
            (taken, left),
            (vec!["M/b".into(), "m/A.jpg".into()], vec!["m/a.JPG".into(), "m/a.jpg".into(), "m/b".into()])
        );
        let (taken, left) = separated(&["caf\u{e9}", "cafe\u{301}", "x"], "app.db");
        assert_eq!((taken, left), (vec!["cafe\u{301}".into(), "x".into()], vec!["caf\u{e9}".to_owned()]));
    }

    #[test]
    fn a_file_gives_way_to_a_folder_of_its_name() {
        let (taken, left) = separated(&["A", "a/b", "a/c", "a/d/e", "b"], "app.db");
        assert_eq!(
            (taken, left),
            (vec!["a/b".into(), "a/c".into(), "a/d/e".into(), "b".into()], vec!["A".to_owned()])
        );
    }

    #[test]
    fn the_database_has_its_names_for_itself() {
        let (taken, left) = separated(&["APP.db", "App.DB-wal", "x", "APP.DB/y", "APP.DB/z"], "app.db");
        assert_eq!(taken, ["x"]);
        assert_eq!(left.len(), 4);
        let (taken, left) = separated(&["Data", "data/x"], "data/app.db");
        assert_eq!((taken, left), (vec!["data/x".into()], vec!["Data".to_owned()]));
    }

    #[test]
    fn what_is_left_is_what_every_reader_accepts() {
        let mut paths: Vec<String> = Vec::new();
        for index in 0..2_000 {
            let name =
                format!("f{}/{}{}", index % 7, ["a", "A", "\u{e9}", "e\u{301}"][index % 4], index % 100 / 4);
            paths.push(if index % 3 == 0 { name.to_uppercase() } else { name });
            paths.push(format!("F{}", index % 9));
        }
        paths.sort_unstable();
        paths.dedup();
        let borrowed: Vec<&str> = paths.iter().map(String::as_str).collect();
        let (taken, left) = separated(&borrowed, "f3/app.db");
        let database = database_files("f3/app.db");
        let all = taken.iter().chain(&database).map(String::as_str);
        assert_eq!(paths::find_conflicts(all), []);
        assert_eq!(taken.len() + left.len(), paths.len());
    }
}
