//! What looks find, exactly as `--json` prints it. The promise of `engine::report` holds here too: fields may be added
//! at the end, none may change or go; what is not known, or does not apply, is `null`.

use serde::Serialize;

/// What a path of a snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// The database.
    Database,
    /// An attachment, at the path that its hash gives.
    Attachment,
    /// An extra file.
    Extra,
    /// A folder; it is not stored, but follows from the paths of files.
    Folder,
}

/// One path of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where a restore puts it, below the target; no slash at its end.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its length; of a folder, that of everything in it.
    pub bytes: u64,
    /// How many files a folder holds, at any depth; `null` for a file.
    pub files: Option<u64>,
    /// Permission bits, as a number.
    pub mode: Option<u32>,
    /// The number of its user.
    pub user: Option<u32>,
    /// The number of its group.
    pub group: Option<u32>,
    /// When its content changed, in UTC.
    pub modified: Option<String>,
    /// The SHA-256 of its content; `null` for the database, which is stored by pages, and for folders.
    pub hash: Option<String>,
}

/// What `ls` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LsReport {
    /// The snapshot.
    pub snapshot: String,
    /// When it was made.
    pub created_at: String,
    /// What was asked for; empty for the whole.
    pub path: String,
    /// What is there, in the order of the paths.
    pub entries: Vec<Entry>,
    /// What could not be known.
    pub warnings: Vec<String>,
}

/// One match of `find`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The snapshot it is in.
    pub snapshot: String,
    /// What was found.
    #[serde(flatten)]
    pub entry: Entry,
}

/// A snapshot that could not be searched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unsearched {
    /// The snapshot.
    pub snapshot: String,
    /// Why.
    pub problem: String,
}

/// What `find` shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FindReport {
    /// How many snapshots were searched.
    pub snapshots: u64,
    /// What matches, snapshot by snapshot, in the order of the paths.
    pub found: Vec<Found>,
    /// Snapshots that could not be searched.
    pub problems: Vec<Unsearched>,
    /// What could not be known.
    pub warnings: Vec<String>,
}
