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
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// The names of the ways in; none for one that is not encrypted.
    pub keys: Vec<String>,
    /// The passphrase, if one was made by chance: it is nowhere else.
    pub passphrase: Option<String>,
}

/// What `create` stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CreateReport {
    /// The id of the snapshot; `null` where none was made, for a dry run or because nothing changed.
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
    /// Which files were read.
    pub files: CreatedFiles,
    /// Whether no snapshot was made because the archive is as it is in the newest one, and that was asked for.
    pub unchanged: bool,
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

/// How many files of a [`CreateReport`] were read, and how many were not because they have not changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct CreatedFiles {
    /// Attachments that were read.
    pub attachments_read: u64,
    /// Attachments that lie there as they did when they were read last.
    pub attachments_unread: u64,
    /// Extra files that were read.
    pub extras_read: u64,
    /// Extra files that lie there as they did when they were read last.
    pub extras_unread: u64,
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
    /// Whether it was forgotten: its manifest is there because later snapshots are built on it.
    pub forgotten: bool,
    /// What it carries beside the database, by name.
    pub artifacts: Vec<String>,
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

/// What `forget` kept and gave up, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForgetReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The snapshots that stay, oldest first.
    pub kept: Vec<KeptSnapshot>,
    /// The snapshots that were given up, oldest first.
    pub forgotten: Vec<ForgottenSnapshot>,
    /// Manifests that were removed, of snapshots that were forgotten now or earlier.
    pub manifests_removed: u64,
    /// Manifests of forgotten snapshots that stay because later ones are built on them.
    pub links: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A snapshot of a [`ForgetReport`] that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptSnapshot {
    /// Its id.
    pub id: String,
    /// When it was made, in UTC.
    pub created_at: String,
    /// The tag given to it; empty without one.
    pub tag: String,
    /// Why it stays, at least one reason.
    pub reasons: Vec<String>,
}

/// A snapshot of a [`ForgetReport`] that was given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForgottenSnapshot {
    /// Its id.
    pub id: String,
    /// When it was made, in UTC.
    pub created_at: String,
    /// The tag given to it; empty without one.
    pub tag: String,
    /// Whether its manifest is gone; `false` where later snapshots are built on it.
    pub removed: bool,
}

/// What `prune` freed, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PruneReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Manifests whose needs were looked at, those of forgotten snapshots included.
    pub snapshots: u64,
    /// Snapshots that got a new id, for they were built on forgotten ones, oldest first.
    pub squashed: Vec<SquashedSnapshot>,
    /// Manifests that were removed.
    pub manifests_removed: u64,
    /// Packs.
    pub packs: PrunedPacks,
    /// Bytes in packs.
    pub bytes: PrunedBytes,
    /// Indexes.
    pub indexes: PrunedIndexes,
    /// When packs that are condemned may be removed, in UTC; `null` without any.
    pub removable_at: Option<String>,
    /// About how many requests to the store it takes.
    pub requests: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A snapshot of a [`PruneReport`] that got a new id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SquashedSnapshot {
    /// The id that it had.
    pub from: String,
    /// The id that it has; `null` in a dry run.
    pub to: Option<String>,
}

/// The packs of a [`PruneReport`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PrunedPacks {
    /// Those that were there.
    pub before: u64,
    /// Those of which nothing is needed.
    pub unneeded: u64,
    /// Those that go because little of them is needed.
    pub repacked: u64,
    /// Those that go because they are small.
    pub merged: u64,
    /// New ones.
    pub written: u64,
    /// Those that were removed.
    pub removed: u64,
    /// Those that no index names, and that a later run removes.
    pub condemned: u64,
}

/// The bytes of a [`PruneReport`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PrunedBytes {
    /// The length of all packs that were there.
    pub before: u64,
    /// What of it snapshots need.
    pub needed: u64,
    /// What has to be copied into new packs.
    pub repacked: u64,
    /// What was copied.
    pub written: u64,
    /// What is free at last, when all that goes is gone.
    pub freed: u64,
    /// The length of the packs that were removed.
    pub removed: u64,
    /// The length of those that a later run removes.
    pub condemned: u64,
}

/// The indexes of a [`PruneReport`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PrunedIndexes {
    /// Those that were there.
    pub before: u64,
    /// Those that were removed.
    pub removed: u64,
    /// New ones.
    pub written: u64,
}

/// What `copy` copied, or would.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CopyReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Where the source lies.
    pub from: String,
    /// Where the target lies.
    pub to: String,
    /// The snapshots that are in the target now and were not before, oldest first.
    pub copied: Vec<CopiedSnapshot>,
    /// How many of those that were asked for, with those they are built on, were there already.
    pub there: u64,
    /// The ids of those that could not be copied.
    pub not_copied: Vec<String>,
    /// Packs that were written.
    pub packs_written: u64,
    /// Blobs in them.
    pub blobs_written: u64,
    /// Bytes of these blobs as they are stored; in a dry run, bytes of the packs that would be read.
    pub bytes_written: u64,
    /// The snapshots that were forgotten in the target.
    pub forgotten: Vec<String>,
    /// What is damaged, in the source or in the target.
    pub problems: Vec<CopyProblem>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl CopyReport {
    /// Tells whether everything that was asked for is in the target, and nothing was found to be damaged.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty() && self.not_copied.is_empty()
    }
}

/// A snapshot of a [`CopyReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopiedSnapshot {
    /// Its id, which is the same in both places.
    pub id: String,
    /// When it was made, in UTC.
    pub created_at: String,
    /// The tag given to it; empty without one.
    pub tag: String,
    /// Whether it was forgotten in the source, and is there as a link.
    pub forgotten: bool,
}

/// One thing that is wrong with one of the two repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyProblem {
    /// The repository, by its location.
    pub place: String,
    /// What is wrong.
    #[serde(flatten)]
    pub problem: VerifyProblem,
}

impl CopyProblem {
    pub(super) fn sort_key(&self) -> impl Ord + '_ {
        let VerifyProblem { snapshot, object, blob, detail, .. } = &self.problem;
        (&self.place, snapshot, object, blob, detail)
    }
}

/// What `heal` healed, and what it could not.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct HealReport {
    /// Whether nothing was done: `healed` is then what could be, and only manifests, notes and indexes are in it.
    pub dry_run: bool,
    /// What is whole again.
    pub healed: Vec<Healed>,
    /// What is still damaged or lost: no place has it whole, or this was a dry run.
    pub left: Vec<VerifyProblem>,
    /// Distinct blobs that were read and are sound.
    pub blobs_read: u64,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl HealReport {
    /// Tells whether nothing is left to be healed.
    pub fn is_whole(&self) -> bool {
        self.left.is_empty() && (self.healed.is_empty() || !self.dry_run)
    }

    /// Takes in what became of the indexes.
    pub(super) fn take_repair(&mut self, repair: RepairReport) {
        let from = || "the packs".to_owned();
        self.healed.extend(repair.moved.into_iter().map(|moved| Healed {
            object: moved.object,
            from: from(),
            kept: moved.kept,
        }));
        if repair.blobs > 0 {
            let object = format!("the places of {} blobs that no index named", repair.blobs);
            self.healed.push(Healed { object, from: from(), kept: None });
        }
        // A pack that cannot be opened is damage if a snapshot needs it, which is found out later.
        let of_indexes = |problem: &VerifyProblem| problem.pack.is_none();
        self.left.extend(repair.problems.into_iter().filter(of_indexes));
    }
}

/// One object of a [`HealReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Healed {
    /// What it is: `pack 01k…`, `manifest of snapshot 2026…`.
    pub object: String,
    /// Where it was found whole.
    pub from: String,
    /// The name under which the damaged object is kept; `null` where there was none.
    pub kept: Option<String>,
}

/// What `repair index` did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RepairReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Packs whose footers were read.
    pub packs: u64,
    /// Blobs that no index named rightly, and a new one names now.
    pub blobs: u64,
    /// Indexes that were written.
    pub indexes_written: u64,
    /// Indexes that were moved out of the way.
    pub moved: Vec<MovedAside>,
    /// What could not be repaired.
    pub problems: Vec<VerifyProblem>,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// What `repair config` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The repository's id: the old one, if it could be found out.
    pub id: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Whether `config.toml` was, or would be, made anew; `false` if the one that is there can be read.
    pub made: bool,
    /// The name under which a damaged one is kept.
    pub kept: Option<String>,
}

/// A damaged object of a [`RepairReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MovedAside {
    /// What it is.
    pub object: String,
    /// The name under which it is kept; `null` in a dry run.
    pub kept: Option<String>,
}

/// Who needs a blob, and which packs hold it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReachReport {
    /// The blob, which for an attachment is the hash of its content.
    pub blob: String,
    /// The snapshots that need it, oldest first.
    pub snapshots: Vec<ReachingSnapshot>,
    /// The packs that hold it.
    pub packs: Vec<HoldingPack>,
}

/// A snapshot of a [`ReachReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReachingSnapshot {
    /// Its id.
    pub id: String,
    /// Whether it was forgotten, and its manifest is there because others are built on it.
    pub forgotten: bool,
}

/// A pack of a [`ReachReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HoldingPack {
    /// Its id.
    pub id: String,
    /// Whether an index names it; if not, a later prune removes it.
    pub indexed: bool,
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
    /// What of the packs was read; `null` without `--sample`.
    pub sample: Option<SampleReport>,
}

/// The sample of a [`VerifyReport`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SampleReport {
    /// Packs that were chosen.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs of these that were read again because damage had been found in them.
    pub packs_again: u64,
    /// Packs with damage that were left out this time, for there are too many of them.
    pub damaged_packs_left: u64,
    /// Packs of the repository that hold anything.
    pub packs_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
    /// In how many runs every pack is read, if nothing is added and no damage is found.
    pub runs: u64,
    /// What was read so far, this time included; `null` where it is not recorded.
    pub coverage: Option<SampleCoverage>,
}

/// What was read of a repository, as far as it is recorded on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SampleCoverage {
    /// Since when it is recorded.
    pub since: String,
    /// Packs of which every byte was read since then.
    pub packs: u64,
    /// Bytes that were read since then, at the least.
    pub bytes: u64,
    /// When the pack was read that was read longest ago; `null` if none was.
    pub oldest_at: Option<String>,
    /// Packs that were never read as a whole.
    pub packs_unread: u64,
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
            ErrorKind::NoKey | ErrorKind::WrongKey => Self::Encrypted,
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
    /// The restored database; `null` if it is not in the part that was restored.
    pub database: Option<RestoredDatabase>,
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
    /// Which part of the snapshot it is; `null` for all of it.
    pub part: Option<RestoredPart>,
    /// Bytes of all that was restored, each attachment counted once.
    #[serde(skip)]
    pub bytes: u64,
}

/// What `verify --restore-check` showed.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct RestoreCheckReport {
    /// Whether every snapshot was restored and proved.
    pub ok: bool,
    /// The snapshots, in the order in which they were restored.
    pub snapshots: Vec<CheckedRestore>,
    /// Bytes that were restored.
    pub bytes: u64,
    /// How long all of it took.
    pub seconds: f64,
    /// The folder below which the restored files lay.
    pub scratch: String,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// A snapshot of a [`RestoreCheckReport`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CheckedRestore {
    /// Its id.
    pub id: String,
    /// How long its restore took, with its proof.
    pub seconds: f64,
    /// Bytes that were restored.
    pub bytes: u64,
    /// Length of its database.
    pub database_bytes: u64,
    /// Attachments that were restored.
    pub attachments: u64,
    /// Extra files that were restored.
    pub extras: u64,
    /// What was proved; `null` with a problem.
    pub proof: Option<Proof>,
    /// What is wrong; `null` if it can be restored.
    pub problem: Option<String>,
    /// What kind of problem it is; `null` without one.
    pub problem_kind: Option<ProblemKind>,
}

/// The part of a snapshot that was restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoredPart {
    /// The patterns of what was to be restored.
    pub only: Vec<String>,
    /// What was not.
    pub left_out: NotRestored,
}

/// What of a snapshot was not restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct NotRestored {
    /// Whether that is the database.
    pub database: bool,
    /// Distinct attachments.
    pub attachments: u64,
    /// Their size.
    pub attachment_bytes: u64,
    /// Extra files.
    pub extras: u64,
}

/// The database of a [`RestoreReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RestoredDatabase {
    /// Length of the database.
    pub bytes: u64,
    /// Pages of the database.
    pub pages: u64,
    /// Whether it is the captured database byte for byte; not so when what describes the live store had to be emptied.
    pub identical: bool,
    /// What was changed, for people.
    #[serde(skip)]
    pub changed: Option<&'static str>,
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
        let init = InitReport {
            id: "r".into(),
            location: "/b".into(),
            encrypted: true,
            keys: vec!["k".into()],
            passphrase: None,
        };
        let expected = r#"{"id":"r","location":"/b","encrypted":true,"keys":["k"],"passphrase":null}"#;
        assert_eq!(json(&init), expected);
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
            files: CreatedFiles {
                attachments_read: 12,
                attachments_unread: 13,
                extras_read: 14,
                extras_unread: 15,
            },
            unchanged: false,
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
                r#""databases":[{"path":"b","bytes":11,"read":"transaction"}],"#,
                r#""files":{"attachments_read":12,"attachments_unread":13,"extras_read":14,"extras_unread":15},"#,
                r#""unchanged":false}"#
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
                r#""problem_kind":null,"forgotten":false,"artifacts":[]}"#
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
                r#""object":null,"blob":null,"pack":null,"detail":"gone","kind":"damaged"}],"warnings":[],"sample":null}"#
            )
        );
        let restore = RestoreReport {
            id: "s".into(),
            target: "/t".into(),
            database: Some(RestoredDatabase { bytes: 1, pages: 2, identical: true, changed: None }),
            attachments: RestoredAttachments { files: 3, bytes: 4 },
            extras: 5,
            proof: Proof { pages: 6, blobs: 7, integrity_check: Check::Skipped, stats: Check::Ok },
            left_out: vec![],
            warnings: vec![],
            owner: None,
            part: None,
            bytes: 8,
        };
        assert_eq!(
            json(&restore),
            concat!(
                r#"{"id":"s","target":"/t","database":{"bytes":1,"pages":2,"identical":true},"#,
                r#""attachments":{"files":3,"bytes":4},"extras":5,"proof":{"pages":6,"blobs":7,"#,
                r#""integrity_check":"skipped","stats":"ok"},"left_out":[],"warnings":[],"owner":null,"part":null}"#
            )
        );
        let left_out = NotRestored { database: true, attachments: 1, attachment_bytes: 2, extras: 3 };
        let part = Some(RestoredPart { only: vec!["x".into()], left_out });
        assert!(json(&RestoreReport { database: None, part, ..restore }).ends_with(
            r#""part":{"only":["x"],"left_out":{"database":true,"attachments":1,"attachment_bytes":2,"extras":3}}}"#
        ));
    }
}
