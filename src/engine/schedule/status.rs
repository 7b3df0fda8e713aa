//! What `status` and `run` answer, exactly as `--json` prints it.
//!
//! The names and the order of the fields are a promise to programs: fields may be added at the end, none may change or
//! go. What is not known, or does not apply, is `null`.

use serde::Serialize;

/// How all archives stand.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusReport {
    /// When it was asked.
    pub asked_at: String,
    /// Whether all is as the configuration says.
    pub ok: bool,
    /// The archives.
    pub archives: Vec<ArchiveStatus>,
}

/// How one archive stands.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ArchiveStatus {
    /// Its name in the configuration.
    pub archive: String,
    /// How old its newest snapshot may be, as the configuration says it.
    pub max_age: Option<String>,
    /// Whether all is as the configuration says.
    pub ok: bool,
    /// What is not, the gravest first.
    pub findings: Vec<StatusFinding>,
    /// Where its snapshots lie: its own repository, and then the copies.
    pub places: Vec<PlaceStatus>,
    /// The last run.
    pub last_run: Option<LastRun>,
    /// The steps of a run, and when each is due.
    pub due: Vec<PlannedStep>,
    /// Why this archive could not be looked at.
    pub error: Option<String>,
}

/// Something that is not as the configuration says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusFinding {
    /// `stale`, `unproved` or `copy_missing`.
    pub fault: &'static str,
    /// The place of a copy; `null` is the archive's own repository.
    pub place: Option<String>,
    /// What is wrong, in a sentence.
    pub text: String,
}

/// One place where snapshots of an archive lie.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PlaceStatus {
    /// The place of a copy, as the configuration calls it; `null` is the archive's own repository.
    pub place: Option<String>,
    /// Where it lies; never with a secret.
    pub location: Option<String>,
    /// Whether the place itself was asked just now; if not, what is told of it is what this machine remembers.
    pub asked: bool,
    /// Why it was not asked.
    pub not_asked: Option<String>,
    /// The newest snapshot there.
    pub newest: Option<NewestSnapshot>,
    /// The newest snapshot whose restore was proved there.
    pub proved: Option<ProvedSnapshot>,
    /// When stored bytes were read last by a sample or a whole check.
    pub verified_at: Option<String>,
    /// For how many days `read_share` counts.
    pub read_days: Option<u64>,
    /// Which part of the stored bytes was read in that time, from 0 to 1.
    pub read_share: Option<f64>,
    /// How many bytes are stored there, as far as this machine knows.
    pub stored_bytes: Option<u64>,
    /// Packs that were found damaged and not seen whole since.
    pub damaged_packs: Option<u64>,
    /// The last restore that was tried.
    pub restore_check: Option<TriedRestore>,
    /// How many bytes are free there.
    pub free_bytes: Option<u64>,
}

/// The newest snapshot of a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewestSnapshot {
    /// Its id.
    pub id: String,
    /// Its time.
    pub created_at: String,
    /// How old it is; below zero if this clock has not reached its time.
    pub age_seconds: i64,
}

/// A snapshot whose restore was proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProvedSnapshot {
    /// Its id.
    pub id: String,
    /// When it was proved.
    pub proved_at: String,
}

/// A restore that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TriedRestore {
    /// When.
    pub at: String,
    /// The snapshot.
    pub snapshot: String,
    /// How long it took.
    pub seconds: f64,
    /// Whether everything was proved.
    pub proved: bool,
}

/// The last run of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastRun {
    /// When it began.
    pub began_at: String,
    /// When it ended; `null` while it goes on, or if it was killed.
    pub ended_at: Option<String>,
    /// How it ended.
    pub exit_code: Option<i64>,
}

/// A step, and when it is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// `create`, `copy`, `forget`, `prune`, `verify` or `restore_check`.
    pub work: &'static str,
    /// The place of a copy; `null` is the archive's own repository.
    pub place: Option<String>,
    /// Whether it is due.
    pub is_due: bool,
    /// Why it is due, or when it will be, in words.
    pub reason: String,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunReport {
    /// Whether nothing was done but planning.
    pub dry_run: bool,
    /// When it began.
    pub began_at: String,
    /// How long it took.
    pub seconds: f64,
    /// The worst of all exit codes.
    pub exit_code: u8,
    /// The archives, in the order of the run.
    pub archives: Vec<ArchiveRun>,
    /// What could not be told: messages and pings that failed, and files that could not be written.
    pub warnings: Vec<String>,
}

/// What a run did for one archive.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArchiveRun {
    /// Its name in the configuration.
    pub archive: String,
    /// The worst exit code of its steps.
    pub exit_code: u8,
    /// The snapshot that was made.
    pub snapshot: Option<String>,
    /// The steps, in their order.
    pub steps: Vec<StepRun>,
    /// Why nothing could be done for it.
    pub error: Option<String>,
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepRun {
    /// What it is, and why it is due.
    #[serde(flatten)]
    pub step: PlannedStep,
    /// `planned`, `not_due`, `held_back`, `done` or `failed`.
    pub outcome: &'static str,
    /// How it ended; `null` if it was not begun.
    pub exit_code: Option<u8>,
    /// How long it took; `null` if it was not begun.
    pub seconds: Option<f64>,
    /// What it did, or why it failed or was held back, in words.
    pub text: Option<String>,
    /// The snapshot it made.
    pub snapshot: Option<String>,
}
