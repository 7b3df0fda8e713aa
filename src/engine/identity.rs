//! Whose a repository is: one holds the snapshots of one archive.
//!
//! Two applications in one repository would each be the parent of the other's snapshots, and "the newest" would
//! be whichever was backed up last: a restore of the one brings the other. So the note of a snapshot records
//! the archive it is of, a create compares itself with the newest that does, and a restore with what lies at
//! its target.
//!
//! An archive is the same if its database lies at the same place, or has the same name and the same file name,
//! for a container sees other paths than its host. Since every container may see `/data/db.sqlite3`, the names
//! of the tables have a say as well: of the smaller number, another application shares less than a quarter.
//! What those have in common that are built alike (`django_migrations`, `auth_user`) is less; what an upgrade
//! leaves of an application's tables is more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::join;
use rusqlite::Connection;

use crate::archive::bounds::Bounds;
use crate::archive::sqlite;
use crate::cancel::Cancel;
use crate::engine::aside;
use crate::format::{BlobId, Manifest};
use crate::profiles::{self, ProfileKind};
use crate::repo::Repository;
use crate::repo::notes::ArchiveIdentity;
use crate::{Error, ErrorKind, Result};

/// Tables whose names are looked at.
const TABLES_MAX: u32 = 4096;
/// Hashes that are kept: the smallest, so that of two large sets the same ones are.
const HASHES_MAX: usize = 128;
/// Characters of a hash.
const HASH_CHARACTERS: usize = 8;
/// Another application shares less than one in so many.
const SHARE: usize = 4;

/// How long the database in a target is looked at, which may be anybody's.
const LOOK_MAX: Duration = Duration::from_secs(120);

/// Whose the snapshots of a repository are, as far as it was recorded.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// The snapshot that says so.
    pub snapshot: String,
    /// The archive.
    pub archive: ArchiveIdentity,
}

/// Reads the manifests, and whose they are unless nobody asks.
pub async fn load_snapshots(
    repository: &Repository,
    asks: bool,
) -> Result<(Vec<Manifest>, Option<Recorded>)> {
    let files = repository.list_snapshots().await?;
    let recorded = async {
        match asks {
            true => repository.recorded_archive(&files).await,
            false => Ok(None),
        }
    };
    let (found, recorded) = join!(repository.read_snapshots(&files), recorded);
    let manifests: Vec<Manifest> = found?.into_iter().map(|found| found.manifest).collect::<Result<_>>()?;
    let recorded = recorded?.map(|(snapshot, archive)| Recorded { snapshot, archive });
    Ok((manifests, recorded))
}

/// Refuses to store another archive than the repository's.
pub fn check_place(
    recorded: Option<&Recorded>,
    newest: Option<&Manifest>,
    ours: &ArchiveIdentity,
) -> Result<()> {
    if let Some(newest) = newest {
        let profile = profiles::name_of_stats(&newest.stats);
        if profile != ours.profile {
            let message = format!(
                "the repository holds another archive: its newest snapshot {} is of the profile {profile}, and \
                 this is {}",
                newest.snapshot_id,
                shown(ours)
            );
            return Err(Error::new(ErrorKind::OtherArchive, message));
        }
    }
    let Some(recorded) = recorded.filter(|recorded| !is_same_place(&recorded.archive, ours)) else {
        return Ok(());
    };
    Err(another(recorded, ours, ""))
}

/// Refuses to store what lies at the place of the repository's archive, or has its name, and is another.
pub fn check_tables(recorded: Option<&Recorded>, ours: &ArchiveIdentity, tables: &[String]) -> Result<()> {
    match recorded.filter(|recorded| are_of_others(&recorded.archive.tables, tables)) {
        Some(recorded) => Err(another(recorded, ours, ", with other tables")),
        None => Ok(()),
    }
}

fn another(recorded: &Recorded, ours: &ArchiveIdentity, how: &str) -> Error {
    let message = format!(
        "the repository holds another archive: its snapshot {} is of {}, and this is {}{how}",
        recorded.snapshot,
        shown(&recorded.archive),
        shown(ours)
    );
    Error::new(ErrorKind::OtherArchive, message)
}

/// Returns the archive as it is named in messages.
pub fn shown(archive: &ArchiveIdentity) -> String {
    match &archive.name {
        Some(name) => format!("{name} ({}, {})", archive.profile, archive.database),
        None => format!("{} ({})", archive.database, archive.profile),
    }
}

fn is_same_place(one: &ArchiveIdentity, other: &ArchiveIdentity) -> bool {
    let is_named_alike = one.name.is_some() && one.name == other.name && file_name(one) == file_name(other);
    one.profile == other.profile && (one.database == other.database || is_named_alike)
}

fn file_name(archive: &ArchiveIdentity) -> Option<&str> {
    Path::new(&archive.database).file_name()?.to_str()
}

/// Tells whether what a snapshot is of is another application than what lies at the target of its restore.
/// Where it came from does not matter: it is restored elsewhere just when that is gone.
pub fn is_another_application(snapshot: &ArchiveIdentity, target: &ArchiveIdentity) -> bool {
    let differ =
        |one: &Option<String>, other: &Option<String>| one.is_some() && other.is_some() && one != other;
    let is_known_by_its_file =
        ProfileKind::named(&snapshot.profile).is_some_and(ProfileKind::is_known_by_its_file);
    let is_foreign_file = is_known_by_its_file && file_name(snapshot) != file_name(target);
    snapshot.profile != target.profile
        || is_foreign_file
        || (differ(&snapshot.name, &target.name) && snapshot.database != target.database)
        || are_of_others(&snapshot.tables, &target.tables)
}

/// Tells whether two databases share so few tables that they are of two applications. One without any says
/// nothing.
pub fn are_of_others(one: &[String], other: &[String]) -> bool {
    let smaller = one.len().min(other.len());
    // Of two sets that were cut, only what is below both cuts can be in both.
    let cut = [one, other].iter().filter(|set| set.len() >= HASHES_MAX).filter_map(|set| set.last()).min();
    let below = |set: &[String]| -> BTreeSet<String> {
        set.iter().filter(|hash| cut.is_none_or(|cut| *hash <= cut)).cloned().collect()
    };
    let (one, other) = (below(one), below(other));
    let smaller = smaller.min(one.len()).min(other.len());
    one.intersection(&other).count() * SHARE < smaller
}

/// Returns the hashes of the names of a database's tables, the smallest of them in order.
///
/// Names alone are compared; they are in the snapshot anyway, and need not be in its note.
pub fn tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' LIMIT ?1",
    )?;
    let names = statement.query_map([TABLES_MAX], |row| {
        row.get_ref(0).map(|name| hash(name.as_bytes().unwrap_or_default()))
    })?;
    let hashes = names.collect::<rusqlite::Result<BTreeSet<String>>>()?;
    Ok(hashes.into_iter().take(HASHES_MAX).collect())
}

fn hash(name: &[u8]) -> String {
    let mut text = BlobId::of(name).to_string();
    text.truncate(HASH_CHARACTERS);
    text
}

/// Returns the same of a database file, of which nothing is changed and no lock is taken; empty where it is none, or
/// does not say so in time.
pub async fn tables_of_file(path: PathBuf, cancel: &Cancel) -> Result<Vec<String>> {
    let bounds = Bounds::new(cancel, LOOK_MAX);
    let look = move |bounds: &Bounds| {
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let mut connection = sqlite::open_at_rest(&path)?;
        bounds.within(&mut connection, |connection| Ok(tables(connection).unwrap_or_default()))
    };
    let found = aside::run(&bounds, "look at the database in the target", look).await;
    cancel.check()?;
    match found {
        Err(error) if matches!(error.kind(), ErrorKind::Source | ErrorKind::Refused) => Ok(Vec::new()),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn identity(name: Option<&str>, database: &str, tables: &[&str]) -> ArchiveIdentity {
        let mut hashes: Vec<String> = tables.iter().map(|name| hash(name.as_bytes())).collect();
        hashes.sort();
        ArchiveIdentity {
            profile: "sqlite".into(),
            name: name.map(str::to_owned),
            home: Path::new(database).parent().unwrap().to_str().unwrap().into(),
            database: database.into(),
            tables: hashes,
        }
    }

    fn recorded(archive: ArchiveIdentity) -> Recorded {
        Recorded { snapshot: "20261129T000000Z-aa".into(), archive }
    }

    #[test]
    fn an_archive_is_known_by_the_place_of_its_database_or_by_its_name() {
        let vault = recorded(identity(Some("vault"), "/srv/vault/db.sqlite3", &[]));
        for (name, database, is_same) in [
            (Some("vault"), "/srv/vault/db.sqlite3", true),
            (None, "/srv/vault/db.sqlite3", true),
            (Some("renamed"), "/srv/vault/db.sqlite3", true),
            (Some("vault"), "/data/db.sqlite3", true),
            (Some("vault"), "/srv/vault/other.db", false),
            (None, "/data/db.sqlite3", false),
            (Some("paper"), "/srv/paper/db.sqlite3", false),
        ] {
            let ours = identity(name, database, &[]);
            let checked = check_place(Some(&vault), None, &ours);
            assert_eq!(checked.is_ok(), is_same, "{name:?} {database}");
            if let Err(error) = checked {
                assert_eq!(error.kind(), ErrorKind::OtherArchive);
                let said = error.to_string();
                assert!(
                    said.contains("vault (sqlite, /srv/vault/db.sqlite3)") && said.contains(database),
                    "{said}"
                );
            }
        }
        let unnamed = recorded(identity(None, "/a/db", &[]));
        assert!(check_place(Some(&unnamed), None, &identity(None, "/b/db", &[])).is_err());
        let other = ArchiveIdentity { profile: "msgvault".into(), ..vault.archive.clone() };
        assert!(check_place(Some(&vault), None, &other).is_err());
        assert!(check_place(None, None, &other).is_ok());
    }

    #[test]
    fn containers_with_the_same_paths_are_told_apart_by_their_tables() {
        let django = ["auth_user", "django_migrations", "django_session"];
        let paper: Vec<&str> = django.into_iter().chain((0..20).map(|n| PAPER[n % 20])).collect();
        let meals: Vec<&str> = django.into_iter().chain((0..20).map(|n| MEALS[n % 20])).collect();
        let here = recorded(identity(None, "/data/db.sqlite3", &paper));
        let ours = identity(None, "/data/db.sqlite3", &meals);
        assert!(check_place(Some(&here), None, &ours).is_ok());
        assert_eq!(
            check_tables(Some(&here), &ours, &ours.tables).unwrap_err().kind(),
            ErrorKind::OtherArchive
        );
        // An upgrade that renames half, one that adds as many again, a fresh start, and an empty database.
        let of = |names: &[&str]| identity(None, "/x", names).tables;
        let half: Vec<&str> = paper.iter().take(11).copied().chain(meals.iter().skip(11).copied()).collect();
        let twice: Vec<&str> = paper.iter().chain(&meals).copied().collect();
        for same in [of(&half), of(&twice), of(&paper[..4]), of(&[])] {
            assert!(check_tables(Some(&here), &ours, &same).is_ok(), "{same:?}");
        }
    }

    const PAPER: [&str; 20] = [
        "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11", "p12", "p13", "p14", "p15",
        "p16", "p17", "p18", "p19", "p20",
    ];
    const MEALS: [&str; 20] = [
        "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "m9", "m10", "m11", "m12", "m13", "m14", "m15",
        "m16", "m17", "m18", "m19", "m20",
    ];

    #[test]
    fn sets_that_were_cut_are_compared_below_the_cut() {
        let all: BTreeSet<String> = (0..1000).map(|n| hash(format!("t{n}").as_bytes())).collect();
        let first: Vec<String> = all.iter().take(HASHES_MAX).cloned().collect();
        // The same application without a third of its tables has other smallest ones, and most of them.
        let fewer: BTreeSet<String> = (0..666).map(|n| hash(format!("t{n}").as_bytes())).collect();
        let second: Vec<String> = fewer.iter().take(HASHES_MAX).cloned().collect();
        assert!(!are_of_others(&first, &second) && !are_of_others(&second, &first));
        let small: Vec<String> = all.iter().rev().take(5).cloned().collect();
        assert!(!are_of_others(&first, &small), "nothing of it is below the cut: it says nothing");
    }

    #[test]
    fn a_restore_minds_what_lies_there_and_not_where_the_snapshot_came_from() {
        let snapshot = identity(Some("vault"), "/old/vault/db.sqlite3", &["ciphers", "users"]);
        let target = |name, database, tables| identity(name, database, tables);
        for (there, is_another) in [
            (target(Some("vault"), "/srv/vault/db.sqlite3", &["ciphers"][..]), false),
            (target(None, "/srv/vault/db.sqlite3", &["ciphers", "users", "sends"]), false),
            (target(None, "/srv/vault/db.sqlite3", &[]), false),
            (target(Some("paper"), "/srv/paper/db.sqlite3", &[]), true),
            (target(None, "/srv/paper/db.sqlite3", &["documents", "tags"]), true),
            (target(None, "/srv/paper/other.db", &[]), true),
        ] {
            assert_eq!(is_another_application(&snapshot, &there), is_another, "{there:?}");
        }
    }

    #[tokio::test]
    async fn a_database_in_a_target_that_takes_long_to_look_at_is_given_up_when_the_user_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        sqlite::make_crowded(&path);
        let cancel = Cancel::new();
        let stop = cancel.clone();
        let user = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            stop.cancel();
            Instant::now()
        });
        let error = tables_of_file(path, &cancel).await.unwrap_err();
        let stopped = user.join().unwrap();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
        assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
        let none = tables_of_file(folder.path().join("none"), &Cancel::new()).await.unwrap();
        assert_eq!(none, Vec::<String>::new());
    }
}
