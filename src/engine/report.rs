//! The results of the commands, exactly as `--json` prints them.
//!
//! The names and the order of the fields are a promise to programs: fields may be added at the end, none may
//! change or go. What is not known, or does not apply, is `null`.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Error, ErrorKind};

/// What `init` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InitReport {
    /// The id of the repository.
    pub id: String,
    /// Where it lies.
    pub location: String,
}

/// What `create` stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CreateReport {
    /// The id of the snapshot; `null` for a dry run, which makes none.
    pub id: Option<String>,
    /// The snapshot this one builds on; `null` for the first.
    pub parent: Option<String>,
    /// When it was made, in UTC.
    pub created_at: String,
    /// The tag given to it; empty without one.
    pub tag: String,
    /// Bytes that blobs not stored before take in packs.
    pub bytes_added: u64,
    /// Blobs that were not stored before.
    pub blobs_added: u64,
    /// Packs that were written.
    pub packs_added: u64,
    /// The captured database.
    pub database: CreatedDatabase,
    /// The captured attachments.
    pub attachments: CreatedAttachments,
    /// Extra files: configuration, tokens, audit records.
    pub extras: u64,
    /// How long it took.
    pub seconds: f64,
    /// Extra files that were found and not taken.
    pub left_out: Vec<LeftOut>,
    /// What is wrong with the source although the snapshot was made.
    pub source_problems: Vec<String>,
    /// What the user should know; what was asked for and is not in the snapshot comes first.
    pub warnings: Vec<String>,
    /// Whether everything that was asked for is in the snapshot.
    pub complete: bool,
    /// The databases among the extra files.
    pub databases: Vec<CapturedDatabase>,
}

/// A database among the extra files of a [`CreateReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CapturedDatabase {
    /// Its path in the snapshot.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// How its pages were read.
    pub read: PagesRead,
}

/// An extra file of a [`CreateReport`] that was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Its path below the archive's home, as far as it can be shown.
    pub path: String,
    /// Why: what it is instead of a plain file.
    pub reason: String,
}

/// The database of a [`CreateReport`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CreatedDatabase {
    /// Length of the database.
    pub bytes: u64,
    /// Pages of the database.
    pub pages: u64,
    /// Pages that differ from the parent's.
    pub pages_changed: u64,
    /// How its pages were read.
    pub read: PagesRead,
    /// How far its write-ahead log grew while the capture held it.
    pub wal_grew_bytes: u64,
    /// How many seconds its writers were held off; `null` where they were not, as with a write-ahead log.
    pub held_seconds: Option<f64>,
}

/// How the pages of a database were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PagesRead {
    /// From the main file.
    File,
    /// Through SQLite, inside a read transaction.
    Transaction,
}

/// The attachments of a [`CreateReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CreatedAttachments {
    /// Distinct attachments of the snapshot.
    pub blobs: u64,
    /// Their length, each counted once.
    pub bytes: u64,
    /// Those that were not stored before.
    pub blobs_added: u64,
}

/// One snapshot of `list`; a damaged one has its id and its problem, and what could be read.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ListRow {
    /// The id of the snapshot.
    pub id: String,
    /// The snapshot it builds on; `null` for the first.
    pub parent: Option<String>,
    /// When it was made, in UTC.
    pub created_at: Option<String>,
    /// The tag given to it; empty without one.
    pub tag: Option<String>,
    /// The version of its manifest.
    pub version: Option<u64>,
    /// Length of the database.
    pub database_bytes: Option<u64>,
    /// Distinct attachments.
    pub attachments: Option<u64>,
    /// Bytes that blobs not stored before took in packs.
    pub bytes_added: Option<u64>,
    /// The application's statistics, as recorded.
    pub stats: Option<Box<RawValue>>,
    /// What is wrong with the manifest; `null` when it is sound.
    pub problem: Option<String>,
    /// What was wrong with the source when it was captured.
    pub source_problems: Vec<String>,
    /// Which archive it is of; `null` where nobody recorded it.
    pub archive: Option<ListedArchive>,
    /// What kind of problem it is; `null` without one.
    pub problem_kind: Option<ProblemKind>,
}

/// The archive of a [`ListRow`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListedArchive {
    /// The kind of application.
    pub profile: String,
    /// Its name in the configuration it was captured by, if it had one.
    pub name: Option<String>,
    /// Its home folder, where it was captured.
    pub home: String,
    /// Its database, where it was captured.
    pub database: String,
}

/// What `unlock` found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnlockReport {
    /// Locks that were removed.
    pub removed: Vec<LockReport>,
    /// Locks that somebody may hold.
    pub left: Vec<LockReport>,
}

/// One lock of an [`UnlockReport`]; what a lock does not say is `null`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockReport {
    /// Its file in `locks/`.
    pub name: String,
    /// The machine it was taken on.
    pub hostname: Option<String>,
    /// The process that took it.
    pub pid: Option<i64>,
    /// What for.
    pub operation: Option<String>,
    /// When it was taken, in UTC.
    pub since: Option<String>,
    /// Whether that process lives; `null` where it cannot be seen from here.
    pub process_lives: Option<bool>,
    /// In how many minutes it ends by itself unless it is touched again.
    pub ends_in_minutes: Option<u64>,
    /// The same in a sentence.
    pub detail: String,
}

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// Whether there are no problems.
    pub ok: bool,
    /// Snapshots checked.
    pub snapshots: u64,
    /// Distinct blobs checked.
    pub blobs: u64,
    /// Bytes read from packs.
    pub bytes: u64,
    /// Everything that is wrong.
    pub problems: Vec<VerifyProblem>,
    /// What the user should know of the check itself.
    pub warnings: Vec<String>,
}

/// What kind of thing keeps an object from being used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// It is gone, or not what it must be.
    #[default]
    Damaged,
    /// A newer program wrote it.
    Newer,
    /// It takes a key.
    Encrypted,
    /// This user may not read it; nothing is known of it.
    NotPermitted,
    /// It is sound, and msgvault would not find it.
    Outranked,
}

impl ProblemKind {
    /// Returns what an error says about the object that it was met in.
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Unsupported => Self::Newer,
            ErrorKind::WrongKey => Self::Encrypted,
            ErrorKind::NotPermitted => Self::NotPermitted,
            _ => Self::Damaged,
        }
    }
}

/// One thing that is wrong with a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VerifyProblem {
    /// The snapshot that suffers from it; `null` where it is none's alone.
    pub snapshot: Option<String>,
    /// The object it lies in: a manifest, an index, a list, a path.
    pub object: Option<String>,
    /// The blob.
    pub blob: Option<String>,
    /// The pack the blob should be in.
    pub pack: Option<String>,
    /// What is wrong and what to do.
    pub detail: String,
    /// What kind of problem it is.
    pub kind: ProblemKind,
}

/// What `restore` brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreReport {
    /// The id of the snapshot.
    pub id: String,
    /// The folder it was restored into.
    pub target: String,
    /// The restored database.
    pub database: RestoredDatabase,
    /// The restored attachments.
    pub attachments: RestoredAttachments,
    /// Extra files restored.
    pub extras: u64,
    /// What was proved before the result was put in place.
    pub proof: Proof,
    /// Parts of the snapshot that were left out on request, by name.
    pub left_out: Vec<String>,
    /// What the user should know although everything is in place.
    pub warnings: Vec<String>,
    /// The user and group that the database belongs to now, as `4001:5000`; `null` if to whoever ran the restore.
    pub owner: Option<String>,
}

/// The database of a [`RestoreReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RestoredDatabase {
    /// Length of the database.
    pub bytes: u64,
    /// Pages of the database.
    pub pages: u64,
    /// Whether it is the captured database byte for byte; not so when its pack tables had to be emptied.
    pub identical: bool,
}

/// The attachments of a [`RestoreReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RestoredAttachments {
    /// Files written; an attachment kept under two paths counts twice.
    pub files: u64,
    /// Their length.
    pub bytes: u64,
}

/// What a restore proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// Pages checked against the page-hash map.
    pub pages: u64,
    /// Blobs checked against their ids.
    pub blobs: u64,
    /// SQLite's own check of the restored database.
    pub integrity_check: Check,
    /// The recorded statistics, recomputed from the restored database.
    pub stats: Check,
}

/// How a check ended; a check that fails ends the restore with an error instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// It was made and passed.
    Ok,
    /// It was left out on request.
    Skipped,
    /// It passed as far as it could be made; the warnings name what could not be checked.
    Partial,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &impl Serialize) -> String {
        serde_json::to_string(value).unwrap()
    }

    #[test]
    fn init_and_create_keep_their_json() {
        let init = InitReport { id: "r".into(), location: "/b".into() };
        assert_eq!(json(&init), r#"{"id":"r","location":"/b"}"#);
        let create = CreateReport {
            id: Some("s".into()),
            parent: None,
            created_at: "2026-11-23T20:45:17Z".into(),
            tag: String::new(),
            bytes_added: 1,
            blobs_added: 2,
            packs_added: 3,
            database: CreatedDatabase {
                bytes: 4,
                pages: 5,
                pages_changed: 6,
                read: PagesRead::File,
                wal_grew_bytes: 0,
                held_seconds: Some(0.125),
            },
            attachments: CreatedAttachments { blobs: 7, bytes: 8, blobs_added: 9 },
            extras: 10,
            seconds: 0.5,
            left_out: vec![LeftOut { path: "a".into(), reason: "a socket".into() }],
            source_problems: vec!["torn".into()],
            warnings: vec!["odd".into()],
            complete: false,
            databases: vec![CapturedDatabase { path: "b".into(), bytes: 11, read: PagesRead::Transaction }],
        };
        assert_eq!(
            json(&create),
            concat!(
                r#"{"id":"s","parent":null,"created_at":"2026-11-23T20:45:17Z","tag":"","bytes_added":1,"#,
                r#""blobs_added":2,"packs_added":3,"database":{"bytes":4,"pages":5,"pages_changed":6,"#,
                r#""read":"file","wal_grew_bytes":0,"held_seconds":0.125},"#,
                r#""attachments":{"blobs":7,"bytes":8,"blobs_added":9},"extras":10,"seconds":0.5,"#,
                r#""left_out":[{"path":"a","reason":"a socket"}],"source_problems":["torn"],"#,
                r#""warnings":["odd"],"complete":false,"#,
                r#""databases":[{"path":"b","bytes":11,"read":"transaction"}]}"#
            )
        );
    }

    #[test]
    fn list_keeps_its_json_and_the_statistics_verbatim() {
        let row = ListRow {
            id: "s".into(),
            version: Some(1),
            stats: Some(RawValue::from_string(r#"{"messages":1e0}"#.into()).unwrap()),
            ..ListRow::default()
        };
        assert_eq!(
            json(&row),
            concat!(
                r#"{"id":"s","parent":null,"created_at":null,"tag":null,"version":1,"database_bytes":null,"#,
                r#""attachments":null,"bytes_added":null,"stats":{"messages":1e0},"problem":null,"source_problems":[],"archive":null,"#,
                r#""problem_kind":null}"#
            )
        );
    }

    #[test]
    fn verify_and_restore_keep_their_json() {
        let problem = VerifyProblem { detail: "gone".into(), ..VerifyProblem::default() };
        let verify = VerifyReport { problems: vec![problem], ..VerifyReport::default() };
        assert_eq!(
            json(&verify),
            concat!(
                r#"{"ok":false,"snapshots":0,"blobs":0,"bytes":0,"problems":[{"snapshot":null,"#,
                r#""object":null,"blob":null,"pack":null,"detail":"gone","kind":"damaged"}],"warnings":[]}"#
            )
        );
        let restore = RestoreReport {
            id: "s".into(),
            target: "/t".into(),
            database: RestoredDatabase { bytes: 1, pages: 2, identical: true },
            attachments: RestoredAttachments { files: 3, bytes: 4 },
            extras: 5,
            proof: Proof { pages: 6, blobs: 7, integrity_check: Check::Skipped, stats: Check::Ok },
            left_out: vec![],
            warnings: vec![],
            owner: None,
        };
        assert_eq!(
            json(&restore),
            concat!(
                r#"{"id":"s","target":"/t","database":{"bytes":1,"pages":2,"identical":true},"#,
                r#""attachments":{"files":3,"bytes":4},"extras":5,"proof":{"pages":6,"blobs":7,"#,
                r#""integrity_check":"skipped","stats":"ok"},"left_out":[],"warnings":[],"owner":null}"#
            )
        );
    }
}
