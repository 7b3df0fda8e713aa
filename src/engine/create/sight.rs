//! Whether anything of an archive changed, as far as the file system tells without reading: what `watch` asks before it
//! makes a snapshot.
//!
//! The database, its log and journal, and every extra file with the log that may lie beside it. Attachments are not
//! looked at: a new one has a row in the database.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Result;
use crate::archive::extras::{ExtrasSource, find};
use crate::archive::profile::{ArchivePaths, ExtrasChoice, Profile, database_files};
use crate::archive::sighting::Sighting;
use crate::engine::Context;
use crate::engine::pipeline::Pipeline;
use crate::format::{BlobId, Hasher};

/// Where the header of a database says how often it was changed, with its page count.
const CHANGE_COUNTER: (u64, usize) = (24, 8);
/// The header of a write-ahead log, which is another after each reset.
const LOG_HEADER_BYTES: usize = 32;

/// What was seen of an archive. Of two that are equal, and settled, nothing changed between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sight {
    print: BlobId,
    is_settled: bool,
}

impl Sight {
    /// Tells whether everything was at rest when it was seen: otherwise a change behind it could look the same.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }
}

/// Looks at an archive. What cannot be looked at is seen as that: a create then says what it is.
pub async fn look(
    profile: &Arc<dyn Profile>,
    paths: &ArchivePaths,
    choice: ExtrasChoice,
    rest: Duration,
    context: &Context,
) -> Result<Sight> {
    let (sources, name) = (profile.extras(paths, choice), profile.database_name());
    let database = paths.database.clone();
    Pipeline::new(context, 0).run(move |_| Ok(look_at(&database, &name, &sources, rest))).await
}

fn look_at(database: &Path, name: &str, sources: &[ExtrasSource], rest: Duration) -> Sight {
    let mut looking = Looking { hasher: Hasher::new(), now: SystemTime::now(), rest, is_settled: true };
    looking.file(database, CHANGE_COUNTER);
    for (ending, part) in [("-wal", (0, LOG_HEADER_BYTES)), ("-journal", (0, 0))] {
        let mut path = database.as_os_str().to_owned();
        path.push(ending);
        looking.file(&PathBuf::from(path), part);
    }
    match find(sources, &database_files(name)) {
        Ok(found) => {
            for extra in &found.extras {
                looking.text(extra.recorded());
                looking.stat(extra.look().ok().flatten().as_ref());
                // It may be a database itself, and its log none of the files that are asked for.
                looking.stat(extra.beside("-wal").look().ok().flatten().as_ref());
            }
            found.left_out.iter().for_each(|left| looking.text(&format!("{}: {}", left.path, left.reason)));
        }
        Err(error) => looking.text(&error.chain()),
    }
    Sight { print: looking.hasher.finish(), is_settled: looking.is_settled }
}

struct Looking {
    hasher: Hasher,
    now: SystemTime,
    rest: Duration,
    is_settled: bool,
}

impl Looking {
    /// Sees a file of the database; a link is followed, as SQLite does.
    fn file(&mut self, path: &Path, (offset, length): (u64, usize)) {
        let stat = rustix::fs::stat(path).ok();
        let is_file = stat.as_ref().is_some_and(|stat| {
            rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
        });
        self.stat(stat.as_ref());
        let mut part = vec![0; length];
        // No create of this program is at work meanwhile, whose locks a close would drop.
        if is_file
            && length > 0
            && File::open(path).and_then(|file| file.read_exact_at(&mut part, offset)).is_ok()
        {
            self.hasher.update(&part);
        }
    }

    fn stat(&mut self, stat: Option<&rustix::fs::Stat>) {
        let Some(sighting) = stat.map(Sighting::of) else { return self.text("nothing") };
        self.is_settled &= sighting.is_at_rest(self.now, self.rest);
        self.hasher.update(&sighting.print("watched", b"", b"").0);
    }

    fn text(&mut self, text: &str) {
        self.hasher.update(&(text.len() as u64).to_le_bytes());
        self.hasher.update(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const REST: Duration = Duration::from_millis(25);

    fn see(folder: &Path) -> Sight {
        let sources = [ExtrasSource::Folder { parent: folder.to_owned(), name: "files" }];
        look_at(&folder.join("a.db"), "a.db", &sources, REST)
    }

    #[test]
    fn each_change_is_seen_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("files")).unwrap();
        for name in ["a.db", "files/one", "files/b.db"] {
            fs::write(path(name), [0; 200]).unwrap();
        }
        assert!(!see(folder.path()).is_settled(), "all of it was made just now");
        std::thread::sleep(2 * REST);
        let mut before = see(folder.path());
        assert!(before.is_settled());
        assert_eq!(see(folder.path()), before, "to look changes nothing");
        let changes: [&dyn Fn(); 7] = [
            &|| fs::write(path("a.db"), [1; 200]).unwrap(),
            &|| fs::write(path("a.db-wal"), [1; 64]).unwrap(),
            &|| fs::write(path("a.db-wal"), [2; 64]).unwrap(),
            &|| fs::write(path("files/two"), "two").unwrap(),
            &|| fs::rename(path("files/two"), path("files/three")).unwrap(),
            &|| fs::write(path("files/b.db-wal"), "a commit").unwrap(),
            &|| fs::remove_dir_all(path("files")).unwrap(),
        ];
        for (number, change) in changes.iter().enumerate() {
            change();
            let after = see(folder.path());
            assert_ne!(after.print, before.print, "change {number}");
            before = after;
        }
        fs::remove_file(path("a.db")).unwrap();
        assert_ne!(see(folder.path()).print, before.print);
    }
}
